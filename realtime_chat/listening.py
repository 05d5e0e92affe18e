"""Endpoints: how they are checked, how the daemon listens on them, and the addresses that they have then."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet import endpoints
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from realtime_chat.proxy_protocol import ProxiedConnections

DEFAULT_LISTEN = "tcp:8080:interface=127.0.0.1"
_LISTEN_BY_ADDRESS = r"tcp6:8080:interface=\:\:1 (a backslash before each colon of an address)"
_SOCKET_EXAMPLE = "unix:/run/chat.sock"
_PROXIED = "haproxy:"
"""How the description of an endpoint begins on which proxies send the PROXY protocol."""

_BACKLOG = 1024
_INTERFACE_AT = {"tcp": 1, "tcp4": 1, "tcp6": 2, "ssl": 4}
"""The place of the interface among an endpoint's positional arguments, by kind."""

_LOCK_TIMEOUT = 2.0
"""Seconds that another daemon which starts in the same directory may take to listen."""

_REASONS = {
    errno.EADDRINUSE: "it is in use by another program; right would be another endpoint, or to end that program first",
    errno.EACCES: "this user may not; right would be a port from 1024 on, with a proxy before it",
    errno.EADDRNOTAVAIL: "this machine hasn't that address; right would be one of its own, or interface=127.0.0.1",
}
_NO_PLACE = "this user may not; right would be a directory that this user may write"


class ListenRefused(Exception):
    """The daemon can't listen on an endpoint, and a person has to act. The message says how."""


class Endpoint(NamedTuple):
    """The parsed description of an endpoint.

    :ivar kind: its first word, after a ``haproxy:``.
    :ivar words: its positional arguments.
    :ivar named: its named arguments.
    """

    kind: str
    words: tuple[str, ...]
    named: dict[str, str]

    @classmethod
    def parse(cls, description: str) -> Endpoint:
        """Parse a description as Twisted does, escapes included.

        :raises ValueError: it is not the description of an endpoint.
        """
        words, named = endpoints._parse(description)
        if words[:1] == ["haproxy"]:
            words = words[1:]
        if not words:
            raise ValueError("it has no kind, such as tcp")
        if words[0] == "haproxy":
            raise ValueError("haproxy stands there twice, and a connection has one header of the PROXY protocol")
        return cls(words[0], tuple(words[1:]), named)

    @property
    def is_tcp(self) -> bool:
        """Whether it is a TCP port that Twisted opens."""
        return self.kind in ("tcp", "tcp4", "tcp6", "ssl")

    @property
    def port(self) -> str | None:
        """The TCP port as it is written; None if it is no TCP endpoint."""
        return self._first("port") if self.is_tcp else None

    @property
    def interface(self) -> str:
        """The address or name that it listens on, without an IPv6 zone; ``""`` if none is given."""
        place = _INTERFACE_AT.get(self.kind, len(self.words))
        given = self.named.get("interface") or next(iter(self.words[place:]), "")
        return given.partition("%")[0]

    @property
    def path(self) -> str | None:
        """The path of a Unix socket that Twisted creates; None if it is another kind."""
        return self._first("address") if self.kind == "unix" else None

    @property
    def handed_over(self) -> socket.AddressFamily | None:
        """The address family that a ``systemd:`` endpoint declares; None if it is another kind."""
        domain = self._first("domain") if self.kind == "systemd" else None
        return None if domain is None else socket.AddressFamily[f"AF_{domain}"]

    def _first(self, name: str) -> str | None:
        return next(iter((*self.words, *filter(None, [self.named.get(name)]))), None)


# What is given on the command line


def check_endpoint(text: str) -> str:
    """Return the description of an endpoint if the daemon can listen on it.

    :raises ValueError: it can't. The message says why, and what would be right.
    """
    example = _example_for(text)
    try:
        made = endpoints.serverFromString(None, text)
        endpoint = Endpoint.parse(text)
        _check_socket(endpoint, made)
    except OSError as error:  # such as a key
        raise ValueError(f"{text!r}: {error.filename} can't be read ({error.strerror}); {example}") from error
    except Exception as error:
        raise ValueError(f"{text!r} is no endpoint ({_why_invalid(text, error)}); {example}") from error
    _check_interface(endpoint.interface, text)
    if endpoint.path is not None:
        _check_socket_path(endpoint.path, text)
    if endpoint.port is not None and not 0 <= int(endpoint.port) <= 65535:
        raise ValueError(f"{text!r} has a port that isn't from 0 to 65535; {example}")
    return text


def is_loopback(description: str) -> bool:
    """Whether only programs of this machine reach an endpoint, and no proxy stands before it by its kind."""
    endpoint = Endpoint.parse(description)
    if not endpoint.is_tcp or description.startswith(_PROXIED):
        return False
    try:
        return endpoint.interface == "localhost" or ip_address(endpoint.interface).is_loopback
    except ValueError:
        return False


def _check_interface(interface: str, text: str) -> None:
    try:
        if ":" in interface or "[" in interface:
            IPv6Address(interface)
    except ValueError:
        raise ValueError(
            f"{text!r} has an interface that is no IPv6 address; right would be {_LISTEN_BY_ADDRESS}"
        ) from None


_ENDPOINT_EXAMPLES = {
    "ssl": "ssl:8443:privateKey=key.pem:certKey=cert.pem, with both files in PEM",
    "systemd": "systemd:domain=INET:index=0, started by a .socket unit of systemd",
}


def _example_for(text: str) -> str:
    kind = text.removeprefix(_PROXIED).partition(":")[0]
    if kind not in _ENDPOINT_EXAMPLES and ("::" in text or "[" in text):
        return f"right would be {_LISTEN_BY_ADDRESS}"
    return "right would be " + _ENDPOINT_EXAMPLES.get(kind, f"{DEFAULT_LISTEN} or {_SOCKET_EXAMPLE}")


def _why_invalid(text: str, error: Exception) -> str:
    if text.removeprefix(_PROXIED).startswith("systemd:") and isinstance(error, LookupError):
        return "no such socket was handed over, see LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID"
    return " ".join(str(error).split())[:200]


def _check_socket(endpoint: Endpoint, made: Any) -> None:
    """Check that a socket that systemd handed over has the declared family, and listens.

    :param made: Twisted's endpoint.
    :raises ValueError: it is no socket, or a different one.
    """
    if endpoint.handed_over is None:
        return
    made = getattr(made, "_wrappedEndpoint", made)
    try:
        with socket.socket(fileno=os.dup(made.fileno)) as handed:
            family, listens = handed.family, handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ValueError(f"descriptor {made.fileno} is no socket") from error
    if family != endpoint.handed_over or not listens:
        what = "listens" if listens else "doesn't listen"
        raise ValueError(f"the socket is of domain {family.name.removeprefix('AF_')}, and {what}")


_MAX_SOCKET_PATH = 107
"""The longest path of a Unix socket on Linux, in bytes."""


def _check_socket_path(path: str, text: str) -> None:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"{text!r} has a path above {_MAX_SOCKET_PATH} bytes; right would be {_SOCKET_EXAMPLE}")
    check_parent_directory(path, text, _SOCKET_EXAMPLE)


def check_parent_directory(path: str, text: str, example: str) -> None:
    """Check that a file can be created.

    :param text: what the option was given, for the message.
    :raises ValueError: its directory is missing, or can't be written to.
    """
    directory = Path(path).absolute().parent
    if not directory.is_dir():
        raise ValueError(f"{text!r} can't be made: there is no directory {directory}; right would be {example}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(f"{text!r} can't be made: {directory} can't be written to; right would be {example}")


# Listening


async def listen(reactor: Any, description: str, factory: IProtocolFactory, option: str) -> IListeningPort:
    """Listen on an endpoint.

    :param option: the option that gave the endpoint, for messages.
    :raises ListenRefused: the endpoint can't be listened on.
    """
    path = Endpoint.parse(description).path
    try:
        with _abandoned_socket_removed(path) if path else contextlib.nullcontext():
            below = description.removeprefix(_PROXIED)
            made = factory if below == description else ProxiedConnections(factory)
            endpoint = endpoints.serverFromString(reactor, _with_backlog(below))
            port: IListeningPort = await endpoint.listen(made)
    except (ListenRefused, CannotListenError, OSError) as error:
        why = _NO_PLACE if path and isinstance(error, PermissionError) else _explain(error)
        raise ListenRefused(f"--{option}: {description!r} can't be listened on: {why}") from error
    if isinstance(opened := getattr(port, "socket", None), socket.socket):
        opened.setblocking(False)  # systemd hands over blocking sockets
    return port


def _explain(error: Exception) -> str:
    cause = error.socketError if isinstance(error, CannotListenError) else error
    if isinstance(cause, socket.gaierror):
        return _REASONS[errno.EADDRNOTAVAIL]
    if not isinstance(cause, OSError):
        return str(cause)
    return _REASONS.get(cause.errno or 0, f"{cause.strerror or cause}; right would be another endpoint")


def _with_backlog(description: str) -> str:
    """Raise the backlog. With Twisted's 50, a burst of connects stalls for seconds."""
    if Endpoint.parse(description).kind in ("tcp", "tcp6", "ssl") and "backlog=" not in description:
        return f"{description}:backlog={_BACKLOG}"
    return description


# Unix sockets


@contextlib.contextmanager
def _abandoned_socket_removed(path: str) -> Iterator[None]:
    """Remove a Unix socket that a killed daemon left, and keep other daemons away from its path meanwhile.

    Twisted's lock file beside a socket names a process, and is respected while a process has that number. In a
    container the daemon itself always has it. So this tries to connect instead: nobody answers on an abandoned socket.

    :raises ListenRefused: a socket that is in use, or something else, is at the path.
    """
    with _directory_locked(Path(path).absolute().parent):
        result = _connect_result(path)
        if result not in (errno.ECONNREFUSED, errno.ENOENT):
            raise ListenRefused(_REASONS[errno.EADDRINUSE])
        for left in (path, f"{path}.lock"):
            if left == path or os.path.islink(left):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left)
        yield


def _connect_result(path: str) -> int:
    """Connect to a path; return 0 or the number of the error.

    :raises ListenRefused: the path is not a socket.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenRefused("a file is there that is no socket; right would be a path where nothing is")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path)


@contextlib.contextmanager
def _directory_locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory, so that two daemons that start don't remove each other's sockets."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + _LOCK_TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ListenRefused(f"{directory} is locked by a program; right would be another one") from None
                time.sleep(0.01)
            except OSError:  # the file system has no locks
                break
        yield
    finally:
        os.close(held)


# Where it listens now


def _host(port: IListeningPort) -> str | None:
    """The address of a port, without an IPv6 zone; None for a Unix socket."""
    host: str | None = getattr(port.getHost(), "host", None)
    return None if host is None else host.partition("%")[0]


def names(port: IListeningPort, description: str) -> set[str]:
    """The hosts by which clients call a port: its address, and the interface in its description."""
    return {name for name in (_host(port), Endpoint.parse(description).interface) if name}


def is_local(port: IListeningPort) -> bool:
    """Whether a port can only be reached from this machine."""
    host = _host(port)
    return host is None or ip_address(host).is_loopback


def url(port: IListeningPort, description: str) -> str:
    """The URL of a port for a browser on this machine; its description if it has no URL."""
    host, number = _host(port), getattr(port.getHost(), "port", None)
    if host is None or number is None:
        return description
    scheme = "https" if Endpoint.parse(description).kind == "ssl" else "http"
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{shown}]:{number}/" if ":" in shown else f"{scheme}://{shown}:{number}/"
