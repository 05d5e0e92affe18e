"""The options for Socket.IO, and how an application is found."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

from twisted.python import usage

from realtime_chat.socketio import Application, Rooms
from realtime_chat.socketio.resource import DEFAULT_PATH, Mount

_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_RIGHT = "right would be shop:app, for app = Application({...}) in shop.py"


def load_application(reference: str, directory: str) -> Application:
    """Import an application.

    :param reference: ``MODULE:NAME``.
    :param directory: where modules are looked for before all other places.
    :raises ValueError: the message says what is wrong and what would be right.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference!r} is not MODULE:NAME; {_RIGHT}")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    application = getattr(_import(match[1], directory), match[2], None)
    if not isinstance(application, Application):
        raise ValueError(f"{match[1]} has no Application of the name {match[2]!r}; {_RIGHT}")
    return application


def _import(module: str, directory: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{module} can't be imported: {error}") from error
        raise ValueError(f"there is no module {module} in {directory}, nor installed; {_RIGHT}") from error
    except Exception as error:
        raise ValueError(f"{module} can't be imported: {type(error).__name__}: {error}") from error


def read_mount_path(text: str) -> str:
    """One part of a URL's path, which may have slashes around it.

    :raises ValueError: it is something else.
    """
    path = text.strip("/")
    if not _PATH.fullmatch(path) or not path.strip("."):
        raise ValueError(f"{text!r} is not one part of a path; right would be socketio, for /socketio/")
    return path


def read_script(path: str) -> str:
    """A file with the client for browsers.

    :raises ValueError: it can't be read.
    """
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise ValueError(
            f"{path!r} can't be read ({error.strerror}); right would be dist/socket.io.min.js of socket.io-client"
        ) from error


class SocketIOOptions(usage.Options):
    """These options, for the class of all options. ``socketio`` is None, or how Socket.IO is served."""

    optFlags = [
        [
            "socket-io",
            None,
            "Serve Socket.IO clients. Without --app they send the commands of the protocol as events: join, publish, "
            "history and so on.",
        ],
        [
            "socket-io-eio3",
            None,
            "Serve Socket.IO clients of versions 1 and 2, too. In their protocol, the ids of sockets are secrets that "
            "others see.",
        ],
    ]

    directory: str
    check_value: Callable[..., Any]
    _path: Callable[[str], str]
    refused: Callable[[str, str], usage.UsageError]
    defaults: dict[str, Any]
    _read_count: Callable[[str, str], None]

    def opt_app(self, reference: str) -> None:
        """MODULE:NAME of an application for Socket.IO clients, such as shop:app; the module is looked for in the
        directory in which the daemon is started, too. [default: none]"""
        self["app"] = reference

    def opt_socket_io_path(self, path: str) -> None:
        """Where Socket.IO clients connect: one part of a path. [default: /socket.io/]"""
        self["socket-io-path"] = self.check_value("socket-io-path", path, read_mount_path)

    def opt_socket_io_script(self, path: str) -> None:
        """A file with the Socket.IO client for browsers, which is served as /socket.io/socket.io.js. [default: none]"""
        self["socket-io-script"] = self.check_value("socket-io-script", self._path(path), read_script)

    def opt_socket_io_history(self, count: str) -> None:
        """How many events the log of each recovery namespace keeps, for clients that come back. [default: 10000]"""
        self._read_count("socket-io-history", count)

    def read_socketio(self) -> Mount | None:
        """How Socket.IO is served.

        :raises UsageError: the application can't be had, or an option is of no use.
        """
        given = self["app"], self["socket-io-path"], self["socket-io-script"]
        if self["app"] is None and not self["socket-io"]:
            self._refuse_without_socketio()
            return None
        application = Application({"/": Rooms})
        if given[0] is not None:
            application = self.check_value("app", given[0], lambda text: load_application(text, self.directory))
        if application.relay and self["redis"] is None:
            raise self.refused("app", "its relay is of channels in Redis; leave it out, or add --store redis://HOST/0")
        return Mount(application, given[1] or DEFAULT_PATH, bool(self["socket-io-eio3"]), given[2])

    def _refuse_without_socketio(self) -> None:
        for option in ("socket-io-path", "socket-io-script", "socket-io-eio3", "socket-io-history"):
            if self[option] and self[option] != self.defaults.get(option):
                raise self.refused(option, "this is for Socket.IO; add --socket-io or --app MODULE:NAME")
