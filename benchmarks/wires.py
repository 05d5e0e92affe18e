"""What goes over the wire: how a client of each kind of server joins a room, publishes and polls.

Joining is a conversation, a generator: it yields what to send and what to wait for, and gets everything that came.
A conversation that ends has joined; what came after the last awaited bytes is read on by the hot loop.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator
from itertools import count
from typing import NamedTuple

__all__ = [
    "MARK",
    "ROOM",
    "SECRET",
    "WIRES",
    "Conversation",
    "Poll",
    "Publication",
    "Wire",
    "frame",
    "introduction",
    "join_ours",
    "posted",
    "publication",
    "text_of",
]

MARK = b"!" + b"0" * 19 + b"!"
"""Where the hot loop writes the time of sending."""

TEXT_SIZE = 64

Conversation = Generator[tuple[bytes, bytes], bytes, tuple[str, ...]]
"""Says, awaits; ends with what the hot loop shall put into polls."""

ROOM = "bench"
"""The one room, where there is one."""


class Publication(NamedTuple):
    """Bytes that publish one message, and where the hot loop writes its mark."""

    data: bytes
    mark_at: int
    payload_at: int
    mask: bytes


class Poll(NamedTuple):
    """How one client polls again and again.

    :ivar first: a conversation that ends when the client is in the room.
    :ivar request: the poll that is repeated; bytes 1 to 4 stand for what was captured.
    :ivar captures: what is found in each answer: what stands before it, and one of which characters ends it.
    """

    first: Callable[[str], Conversation]
    request: Callable[[str], bytes]
    captures: tuple[tuple[str, str], ...] = ()


class Wire(NamedTuple):
    """One way to talk to a server.

    :ivar join: a WebSocket client's conversation; its end is in the room.
    :ivar publish: a frame's payload that publishes a text to a room, from one who has joined.
    :ivar post: an HTTP request that does the same; used for polls, and where there is no ``publish``. Without one,
        polls get what is published by a WebSocket that is in no room.
    :ivar poll: how a client polls.
    :ivar connect: a WebSocket client's conversation; its end is connected, and in no room.
    :ivar ask: a frame's payload to which the server sends one answer with the same mark in it.
    :ivar resume: a WebSocket client's conversation that goes on after a position.
    :ivar enter: a WebSocket client's conversation that joins a room in which everybody is told who comes and goes.
    :ivar follow: the conversation of a client of server-sent events; its end is in the room.
    :ivar hello: the command by which a client with this number says for the first time who it is.
    :ivar come_back: a WebSocket client's conversation that says so again, by what it was given then; it joins a room.
    """

    join: Callable[[str], Conversation] | None = None
    publish: Callable[[str, str], str] | None = None
    post: Callable[[str, str], bytes] | None = None
    poll: Poll | None = None
    connect: Callable[[str], Conversation] | None = None
    ask: Callable[[str], str] | None = None
    resume: Callable[[str, str], Conversation] | None = None
    follow: Callable[[str], Conversation] | None = None
    enter: Callable[[str], Conversation] | None = None
    hello: Callable[[int], str] | None = None
    come_back: Callable[[str, str], Conversation] | None = None


def text_of(size: int = TEXT_SIZE) -> str:
    """A message's text, with a place for the mark."""
    return MARK.decode() + "x" * (size - len(MARK))


# WebSocket


def frame(payload: str, mask: bytes = b"\0\0\0\0") -> bytes:
    """A client's text frame."""
    data = payload.encode()
    masked = bytes(byte ^ mask[index & 3] for index, byte in enumerate(data))
    if len(data) < 126:
        return bytes((0x81, 0x80 | len(data))) + mask + masked
    return bytes((0x81, 0x80 | 126)) + len(data).to_bytes(2, "big") + mask + masked


def publication(payload: str) -> Publication:
    """A masked frame that publishes; its mask is drawn once."""
    mask = os.urandom(4)
    data = frame(payload, mask)
    payload_at = len(data) - len(payload)
    return Publication(data, payload_at + payload.index(MARK.decode()) + 1, payload_at, mask)


def posted(request: bytes) -> Publication:
    """An HTTP request that publishes."""
    return Publication(request, request.index(MARK) + 1, 0, b"\0\0\0\0")


def _upgrade(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


# HTTP


def _get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", "")).encode()


def _post(path: str, body: str, kind: str = "application/json") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


_EVENTS = "Accept: text/event-stream"


def _converse(*steps: bytes) -> Conversation:
    """Say and await in turn; nothing is captured."""
    for say, awaited in zip(steps[::2], steps[1::2], strict=True):  # noqa: UP028 - a zip takes no send()
        yield say, awaited
    return ()


def _found(pattern: bytes, answer: bytes) -> str:
    match = re.search(pattern, answer)
    if match is None:
        raise ValueError(f"there is no {pattern!r} in {answer!r}")
    return match[1].decode()


# This daemon


def join_ours(room: str, properties: bool = False) -> Conversation:
    """A WebSocket client joins a room of this daemon.

    :param properties: whether it reads the room's properties; the conversation ends when it has them.
    """
    if properties:
        return _converse(_upgrade(f"/ws?room={room}&last=0&properties=1"), b'"type":"joined"')
    return _converse(_upgrade(f"/ws?room={room}&last=0"), b'"type":"joined"')


def _resume_ours(room: str, position: str) -> Conversation:
    return _converse(_upgrade(f"/ws?room={room}&since={position}"), b'"type":"joined"')


def _publish_ours(room: str, text: str) -> str:
    return f'{{"type":"publish","room":"{room}","data":"{text}"}}'


def _ask_ours(room: str) -> str:
    """The mark is the command's id, which comes back when the message is durable."""
    return f'{{"type":"publish","id":"{MARK.decode()}","room":"{room}","data":"{"x" * TEXT_SIZE}"}}'


def _post_ours(room: str, text: str) -> bytes:
    return _post(f"/rooms/{room}/messages", f'{{"data":"{text}"}}')


def _first_poll_ours(room: str) -> Conversation:
    answer = yield _get(f"/poll?room={room}&last=0"), b"}}"
    return _found(rb'"positions":\{"[^"]*":"([^"]*)"', answer), _found(rb'"client":"([^"]*)"', answer)


_OUR_POLL = Poll(
    first=_first_poll_ours,
    request=lambda room: _get(f"/poll?room={room}&since=\1&wait=55", "Realtime-Client: \2"),
    captures=((f'"positions":{{"{ROOM}":"', '"'),),
)

_OURS = Wire(
    join=join_ours,
    publish=_publish_ours,
    post=_post_ours,
    poll=_OUR_POLL,
    connect=lambda room: _converse(_upgrade("/ws"), b"\r\n\r\n"),
    ask=_ask_ours,
    resume=_resume_ours,
    follow=lambda room: _converse(_get(f"/sse?room={room}&last=0", _EVENTS), b'"type":"joined"'),
    enter=join_ours,
)

# Its old pages


def _first_poll_legacy(room: str) -> Conversation:
    answer = yield _get(f"/?lastupdate=-1&room={room}"), b"}"
    return (_found(rb'"timestamp":"([^"]*)"', answer),)


_LEGACY = Wire(
    post=lambda room, text: _post(f"/?room={room}", f"new_message={text}", "application/x-www-form-urlencoded"),
    poll=Poll(
        first=_first_poll_legacy,
        request=lambda room: _get(f"/?lastupdate=\1&room={room}&callback=f"),
        captures=(('"timestamp":"', '"'),),
    ),
)

_OUR_SOCKETS = _OURS._replace(follow=None)


# This daemon's guests, and the users of a site, who say who they are

SECRET = "A secret of the benchmark alone, in which nobody trusts."
"""The key of the users' tokens: a line of the daemon's file of keys."""

_LIFETIME = 3600


def _token(number: int) -> str:
    """A token as sites issue them: with it a client is some 400 characters."""
    import jwt  # the peers' jobs have no need of it

    rooms = {f"{ROOM}*": "rwsp"} | {f"{kind}-{number:08}-*": "rwsp" for kind in ("team", "project", "order", "ticket")}
    info = {"avatar": f"https://example.com/avatars/{number:08}.png", "role": "member", "language": "en"}
    claims = {"sub": f"user-{number}", "name": f"User number {number}", "info": info, "rooms": rooms}
    return jwt.encode({**claims, "exp": int(time.time()) + _LIFETIME}, SECRET, "HS256")


def _come_back(room: str, client: str) -> Conversation:
    return _converse(
        _upgrade("/ws"),
        b"\r\n\r\n",
        frame(f'{{"type":"hello","id":1,"client":"{client}"}}')
        + frame(f'{{"type":"join","id":2,"room":"{room}","last":0}}'),
        b'"type":"joined"',
    )


def introduction(hello: str) -> Conversation:
    """Say who one is; it ends with the client that one is given."""
    answer = yield _post("/commands", hello), b'"type":"welcome"'
    return (_found(rb'"client":"([^"]*)"', answer),)


def _first_poll_of(hello: Callable[[int], str]) -> Callable[[str], Conversation]:
    numbers = count()

    def first(room: str) -> Conversation:
        (client,) = yield from introduction(hello(next(numbers)))
        answer = yield _get(f"/poll?room={room}&last=0", f"Realtime-Client: {client}"), b"}}"
        return _found(rb'"positions":\{"[^"]*":"([^"]*)"', answer), client

    return first


def _identified(hello: Callable[[int], str]) -> Wire:
    poll = _OUR_POLL._replace(first=_first_poll_of(hello))
    return _OURS._replace(hello=hello, come_back=_come_back, poll=poll)


_GUESTS = _identified(lambda number: '{"type":"hello"}')
_USERS = _identified(lambda number: f'{{"type":"hello","token":"{_token(number)}"}}')


# A path is a room, a frame is a message: ws, websockets, Tornado, Channels, Autobahn and the floor


def _join_plain(room: str) -> Conversation:
    return _converse(_upgrade(f"/ws/{room}"), b"\r\n\r\n")


_PLAIN = Wire(
    join=_join_plain,
    publish=lambda room, text: text,
    connect=lambda room: _converse(_upgrade("/echo"), b"\r\n\r\n"),
    ask=lambda room: text_of(),
)

_CHANNELS = _PLAIN._replace(enter=lambda room: _converse(_upgrade(f"/enter/{room}"), b'"entered"'))


# nchan


def _post_nchan(room: str, text: str) -> bytes:
    return _post(f"/pub/{room}", text, "text/plain")


_NCHAN_POLL = Poll(
    first=lambda room: _nothing("Thu, 01 Jan 1970 00:00:00 GMT", "0"),
    request=lambda room: _get(f"/poll/{room}", "If-Modified-Since: \1", "If-None-Match: \2"),
    captures=(("Last-Modified: ", "\r"), ("Etag: ", "\r")),
)


def _nothing(*captured: str) -> Conversation:
    """There is nothing to say before the first poll."""
    yield from ()
    return captured


_NCHAN = Wire(
    join=lambda room: _converse(_upgrade(f"/sub/{room}"), b"\r\n\r\n"),
    post=_post_nchan,
    poll=_NCHAN_POLL,
    follow=lambda room: _converse(_get(f"/events/{room}", _EVENTS), b": hi\n\n"),
)


# socket.io

_POLLING = "/socket.io/?EIO=4&transport=polling"


_SOCKET = (_upgrade("/socket.io/?EIO=4&transport=websocket"), b'0{"sid"', frame("40"), b'40{"sid"')


def _join_socket_io(room: str, event: str = "join", answer: bytes = b'42["joined"') -> Conversation:
    return _converse(*_SOCKET, frame(f'42["{event}","{room}"]'), answer)


def _first_poll_socket_io(room: str) -> Conversation:
    answer = yield _get(_POLLING), b"}"
    session = _found(rb'"sid":"([^"]*)"', answer)
    path = f"{_POLLING}&sid={session}"
    yield _post(path, "40", "text/plain"), b"\r\n\r\n"
    yield _get(path), b'"}'
    yield _post(path, f'42["join","{room}"]', "text/plain"), b"\r\n\r\n"
    yield _get(path), b'joined"]'
    return (session,)


_SOCKET_IO = Wire(
    join=_join_socket_io,
    publish=lambda room, text: f'42["message","{room}","{text}"]',
    connect=lambda room: _converse(*_SOCKET),
    poll=Poll(_first_poll_socket_io, lambda room: _get(f"{_POLLING}&sid=\1")),
    enter=lambda room: _join_socket_io(room, "enter", b'42["entered"'),
)


# The barest long poll

_BARE_POLL = Wire(
    post=lambda room, text: _post(f"/publish/{room}", text, "text/plain"),
    poll=Poll(
        first=lambda room: _nothing("0"),
        request=lambda room: _get("/poll?since=\1"),
        captures=(("Position: ", "\r"),),
    ),
)

WIRES = {
    "realtime": _OURS,
    "realtime sockets": _OUR_SOCKETS,
    "realtime guests": _GUESTS,
    "realtime users": _USERS,
    "realtime legacy": _LEGACY,
    "plain": _PLAIN,
    "channels": _CHANNELS,
    "nchan": _NCHAN,
    "socket.io": _SOCKET_IO,
    "bare poll": _BARE_POLL,
}
