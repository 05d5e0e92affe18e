"""What all recovery namespaces of an application share: the hub, the records of sockets, and the clients' ``pid``.

A client that was away sends its ``pid`` and the offset of the last event that it got. The ``pid`` is a secret of the
client: whoever has it gets what was for its socket.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple, Protocol

import msgspec

from realtime_chat.core.hub import Hub
from realtime_chat.socketio.membership import Memberships
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position

RECOVERABLE = "~"
"""What the ids of sockets in recovery namespaces begin with. No room is called like one, or whoever enters it would get
what is sent to a socket that is away."""

_ID = re.compile(r"~[A-Za-z0-9_-]{20}")
_WORD_BYTES = 15
_SEAL_BYTES = 12
_MAX_PID = 256

OUTCOMES = ("recovered", "unknown", "trimmed", "other_log")
"""What becomes of a client that comes back. ``unknown``: it has no record, or comes too late. ``trimmed``: the log
lacks a part of what it has missed. ``other_log``: the log is another one than before."""

MAX_RECORD = 64 * 1024
"""The most bytes of a socket's record. A socket whose session is larger can't be recovered."""


class Record(msgspec.Struct):
    """What is kept of a socket.

    :param epoch: of the namespace's log, to which all offsets belong.
    :param session: what the application keeps of it.
    :param sent: the events up to this offset were sent to it, as far as they were for it.
    :param last: the offset of the last event that was sent to it.
    """

    epoch: str
    memberships: Memberships
    session: msgspec.Raw
    sent: int
    last: int


encode_record = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(Record).decode


def decode_record(data: bytes | None) -> Record | None:
    """Decode what is kept of a socket; None if that is nothing, or if another version of the daemon has written it."""
    try:
        return None if data is None else _decode_record(data)
    except msgspec.MsgspecError:
        return None


def is_recoverable_id(room: str) -> bool:
    """Whether a room's name has the form of a recoverable socket's id."""
    return _ID.fullmatch(room) is not None


class Pid(NamedTuple):
    """What a client's ``pid`` says.

    :param text: as the client has it.
    :param start: where the client's first connection began in the log.
    """

    text: str
    start: Position

    @property
    def key(self) -> str:
        """Under which the record is kept. It doesn't give the ``pid`` away."""
        return blake2b(self.text.encode(), digest_size=16).hexdigest()


class BusyLog(Protocol):
    """A log to which events are on their way."""

    def when_stored(self, call: Callable[[int], object]) -> None: ...


class Recovery:
    """What all recovery namespaces of an application share.

    :param random_bytes: so many random bytes.
    :ivar outcomes: how often clients came back, by what became of it: one of :data:`OUTCOMES`.
    """

    def __init__(self, hub: Hub, random_bytes: Callable[[int], bytes], outcomes: Counter[str]) -> None:
        self.hub = hub
        self.outcomes = outcomes
        self._random_bytes = random_bytes
        self._busy: dict[BusyLog, None] = {}

    def new_pid(self, namespace: str, start: Position) -> Pid:
        """Make a ``pid`` that nobody can guess."""
        word = urlsafe_b64encode(self._random_bytes(_WORD_BYTES)).decode()
        sealed = f"{word}.{start}"
        return Pid(f"{sealed}.{self._seal(namespace, sealed)}", start)

    def read_pid(self, namespace: str, text: str) -> Pid | None:
        """Read a ``pid``; None if it was not made here for this namespace."""
        sealed, _, seal = text.rpartition(".")
        if len(text) > _MAX_PID or not text.isascii() or not hmac.compare_digest(self._seal(namespace, sealed), seal):
            return None
        try:
            return Pid(text, Position.parse(sealed.partition(".")[2]))
        except RealtimeError:
            return None

    def _seal(self, namespace: str, sealed: str) -> str:
        data = f"{namespace}\0{sealed}".encode()
        return self.hub.identities.keyed_hash(b"pid", data, _SEAL_BYTES).hexdigest()

    def set_busy(self, log: BusyLog, is_busy: bool) -> None:
        """Note whether events are on their way to a log."""
        if is_busy:
            self._busy[log] = None
        else:
            self._busy.pop(log, None)

    def when_stored(self, call: Callable[[], object]) -> None:
        """Call ``call()`` when all events were stored, or refused, that are on their way now."""
        missing = len(self._busy)
        if not missing:
            call()
            return

        def stored(_: int) -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                call()

        for log in list(self._busy):
            log.when_stored(stored)
