"""Where the daemon listens: endpoints, what stands in their way, and the addresses that they turned out to have."""

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

__all__ = [
    "DEFAULT_LISTEN",
    "Endpoint",
    "ListenRefused",
    "check_endpoint",
    "check_parent_directory",
    "is_local",
    "listen",
    "names",
    "url",
]

DEFAULT_LISTEN = "tcp:8080:interface=127.0.0.1"
_LISTEN_BY_ADDRESS = r"tcp6:8080:interface=\:\:1 (a backslash before each colon of an address)"
_SOCKET_EXAMPLE = "unix:/run/chat.sock"
_BACKLOG = 1024
_INTERFACE_AT = {"tcp": 1, "tcp4": 1, "tcp6": 2, "ssl": 4}
"""Where an interface stands among the words that have no name."""

_PATIENCE = 2.0
"""Seconds in which another daemon that starts in the same directory has begun to listen."""

_REASONS = {
    errno.EADDRINUSE: "it is in use by another program; right would be another endpoint, or to end that program first",
    errno.EACCES: "this user may not; right would be a port from 1024 on, with a proxy before it",
    errno.EADDRNOTAVAIL: "this machine hasn't that address; right would be one of its own, or interface=127.0.0.1",
}
_NO_PLACE = "this user may not; right would be a directory that this user may write"


class ListenRefused(Exception):
    """An endpoint can't be listened on, and a person has to act; the message says how."""


class Endpoint(NamedTuple):
    """The description of an endpoint, taken apart.

    :ivar kind: its first word, behind a ``haproxy:``.
    :ivar words: what stands behind it without a name.
    :ivar named: what has a name.
    """

    kind: str
    words: tuple[str, ...]
    named: dict[str, str]

    @classmethod
    def parse(cls, description: str) -> Endpoint:
        """Take a description apart as Twisted does, escapes included.

        :raises ValueError: it is none.
        """
        words, named = endpoints._parse(description)
        if words[:1] == ["haproxy"]:
            words = words[1:]
        if not words:
            raise ValueError("it has no kind, such as tcp")
        return cls(words[0], tuple(words[1:]), named)

    @property
    def is_tcp(self) -> bool:
        """Whether Twisted opens a TCP port for it."""
        return self.kind in ("tcp", "tcp4", "tcp6", "ssl")

    @property
    def port(self) -> str | None:
        """The TCP port as it is written; None where there is none."""
        return self._first("port") if self.is_tcp else None

    @property
    def interface(self) -> str:
        """The address or name that it listens on, without the zone of a link; ``""`` where it has none."""
        place = _INTERFACE_AT.get(self.kind, len(self.words))
        given = self.named.get("interface") or next(iter(self.words[place:]), "")
        return given.partition("%")[0]

    @property
    def path(self) -> str | None:
        """The path of a Unix socket that Twisted makes; None where there is none."""
        return self._first("address") if self.kind == "unix" else None

    @property
    def handed_over(self) -> socket.AddressFamily | None:
        """Of which family the socket of a ``systemd:`` endpoint is said to be; None where it is none."""
        domain = self._first("domain") if self.kind == "systemd" else None
        return None if domain is None else socket.AddressFamily[f"AF_{domain}"]

    def _first(self, name: str) -> str | None:
        return next(iter((*self.words, *filter(None, [self.named.get(name)]))), None)


# What is given on the command line


def check_endpoint(text: str) -> str:
    """Give back the description of an endpoint that can be listened on.

    :raises ValueError: it can't; the message says why, and what would be right.
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
    kind = text.removeprefix("haproxy:").partition(":")[0]
    if kind not in _ENDPOINT_EXAMPLES and ("::" in text or "[" in text):
        return f"right would be {_LISTEN_BY_ADDRESS}"
    return "right would be " + _ENDPOINT_EXAMPLES.get(kind, f"{DEFAULT_LISTEN} or {_SOCKET_EXAMPLE}")


def _why_invalid(text: str, error: Exception) -> str:
    if text.removeprefix("haproxy:").startswith("systemd:") and isinstance(error, LookupError):
        return "no such socket was handed over, see LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID"
    return " ".join(str(error).split())[:200]


def _check_socket(endpoint: Endpoint, made: Any) -> None:
    """See that a socket that was handed over is what it is said to be.

    :param made: what Twisted has made of the endpoint.
    :raises ValueError: it is none, or another one.
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
"""Bytes of a Unix socket's path, on Linux."""


def _check_socket_path(path: str, text: str) -> None:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"{text!r} has a path above {_MAX_SOCKET_PATH} bytes; right would be {_SOCKET_EXAMPLE}")
    check_parent_directory(path, text, _SOCKET_EXAMPLE)


def check_parent_directory(path: str, text: str, example: str) -> None:
    """Refuse a file that nobody could make.

    :param text: what was given, in which the path stands.
    """
    directory = Path(path).absolute().parent
    if not directory.is_dir():
        raise ValueError(f"{text!r} can't be made: there is no directory {directory}; right would be {example}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(f"{text!r} can't be made: {directory} can't be written to; right would be {example}")


# Listening


async def listen(reactor: Any, description: str, factory: IProtocolFactory, option: str) -> IListeningPort:
    """Listen on an endpoint.

    :param option: the one that it was given with, for messages.
    :raises ListenRefused:
    """
    path = Endpoint.parse(description).path
    try:
        with _path_cleared(path) if path else contextlib.nullcontext():
            endpoint = endpoints.serverFromString(reactor, _with_backlog(description))
            port: IListeningPort = await endpoint.listen(factory)
    except (ListenRefused, CannotListenError, OSError) as error:
        why = _NO_PLACE if path and isinstance(error, PermissionError) else _explain(error)
        raise ListenRefused(f"--{option}: {description!r} can't be listened on: {why}") from error
    if isinstance(opened := getattr(port, "socket", None), socket.socket):
        opened.setblocking(False)  # as systemd hands over blocking ones
    return port


def _explain(error: Exception) -> str:
    cause = error.socketError if isinstance(error, CannotListenError) else error
    if isinstance(cause, socket.gaierror):
        return _REASONS[errno.EADDRNOTAVAIL]
    if not isinstance(cause, OSError):
        return str(cause)
    return _REASONS.get(cause.errno or 0, f"{cause.strerror or cause}; right would be another endpoint")


def _with_backlog(description: str) -> str:
    """Twisted listens with a backlog of 50, where a burst of connects stalls for seconds."""
    if Endpoint.parse(description).kind in ("tcp", "tcp6", "ssl") and "backlog=" not in description:
        return f"{description}:backlog={_BACKLOG}"
    return description


# Unix sockets


@contextlib.contextmanager
def _path_cleared(path: str) -> Iterator[None]:
    """Remove what a daemon that was killed left at a path, and keep others of this program away till one listens.

    Twisted's lock beside a socket names a process, and is kept where that number lives. In a container it always does:
    as the daemon itself. So the socket is asked: nobody else answers there.

    :raises ListenRefused: something is there that isn't ours to remove.
    """
    with _directory_held(Path(path).absolute().parent):
        state = _state(path)
        if state not in (errno.ECONNREFUSED, errno.ENOENT):
            raise ListenRefused(_REASONS[errno.EADDRINUSE])
        for left in (path, f"{path}.lock"):
            if left == path or os.path.islink(left):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left)
        yield


def _state(path: str) -> int:
    """What becomes of a connect to a path: 0, or the number of an error.

    :raises ListenRefused: there is something that is no socket.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenRefused("a file is there that is no socket; right would be a path where nothing is")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path)


@contextlib.contextmanager
def _directory_held(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory, which ends with the process: two that start don't remove each other's sockets."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ListenRefused(f"{directory} is locked by a program; right would be another one") from None
                time.sleep(0.01)
            except OSError:  # a file system that has no locks
                break
        yield
    finally:
        os.close(held)


# Where it listens now


def _host(port: IListeningPort) -> str | None:
    """The address that a port has, without the zone of one of a link; None for a Unix socket."""
    host: str | None = getattr(port.getHost(), "host", None)
    return None if host is None else host.partition("%")[0]


def names(port: IListeningPort, description: str) -> set[str]:
    """What a client calls a port: the address that it has, be it handed over, and the name it was given."""
    return {name for name in (_host(port), Endpoint.parse(description).interface) if name}


def is_local(port: IListeningPort) -> bool:
    """Whether only this machine can reach a port."""
    host = _host(port)
    return host is None or ip_address(host).is_loopback


def url(port: IListeningPort, description: str) -> str:
    """The address of a port for a browser on this machine, or its description where it has none."""
    host, number = _host(port), getattr(port.getHost(), "port", None)
    if host is None or number is None:
        return description
    scheme = "https" if Endpoint.parse(description).kind == "ssl" else "http"
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{shown}]:{number}/" if ":" in shown else f"{scheme}://{shown}:{number}/"
