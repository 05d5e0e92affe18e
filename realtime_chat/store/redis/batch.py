"""A batch of drafts, which one script appends, and its arguments."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from twisted.internet.defer import Deferred, succeed

from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import MessageRow, encode_row
from realtime_chat.redis.wire import Argument
from realtime_chat.store.append_queue import PendingAppend
from realtime_chat.store.idempotency import content_digest
from realtime_chat.values.model import Draft, User

__all__ = ["ScriptBatch", "encode_drafts"]


class ScriptBatch:
    """What one script appends.

    :param number: one more than that of the batch before.
    :param keys: the keys of Redis that it uses.
    :param arguments: the arguments of the script for the drafts.
    :param previous: the batch that was sent before, while it has no answer.
    :ivar in_doubt: whether it may be stored.
    """

    __slots__ = ("_waiting", "appends", "arguments", "in_doubt", "keys", "number", "previous")

    def __init__(
        self,
        number: int,
        appends: list[PendingAppend],
        keys: list[str],
        arguments: list[Argument],
        previous: ScriptBatch | None,
    ) -> None:
        self.number = number
        self.appends = appends
        self.keys = keys
        self.arguments = arguments
        self.previous = previous
        self.in_doubt = False
        self._waiting: list[Deferred[None]] | None = []

    @property
    def arrived(self) -> float:
        """When the first of its drafts came, by the reactor's clock."""
        return self.appends[0].arrived

    def finish(self) -> None:
        """Note that it will not be sent again."""
        waiting, self._waiting, self.previous = self._waiting or (), None, None
        for finished in waiting:
            finished.callback(None)

    @property
    def is_finished(self) -> bool:
        """Whether it will not be sent again."""
        return self._waiting is None

    def when_finished(self) -> Deferred[None]:
        """Fire when it will not be sent again."""
        if self._waiting is None:
            return succeed(None)
        self._waiting.append(Deferred())
        return self._waiting[-1]


def encode_drafts(appends: Sequence[PendingAppend], names: RedisNames) -> tuple[list[str], list[Argument]]:
    """Make the keys and the arguments of a script from drafts; see ``lua/append.lua``."""
    rooms: dict[str, int] = {}
    keys = [names.log]
    arguments: list[Argument] = []
    for pending in appends:
        draft = pending.draft
        assert draft is not None
        number = rooms.get(draft.room)
        if number is None:
            number = rooms[draft.room] = len(rooms) + 1
            keys += (names.stream(draft.room), names.keys(draft.room))
        at = pending.at
        arguments += (number, at, _row(draft, at), *_key(draft), _after(draft))
    return keys, arguments


def _row(draft: Draft, at: int) -> bytes:
    sender = draft.sender
    return encode_row(MessageRow(at, draft.event, sender.id, sender.name, draft.key, msgspec.Raw(draft.data)))


def _key(draft: Draft) -> tuple[str, str]:
    """Return the name of a draft's idempotency entry in its room, and the digest of its content."""
    if draft.key is None:
        return "", ""
    return _entry_name(draft.sender, draft.key), content_digest(draft).hex()


def _after(draft: Draft) -> str:
    """Return the name of the entry that has to exist, or nothing."""
    return "" if draft.after is None else _entry_name(draft.sender, draft.after)


def _entry_name(sender: User, key: str) -> str:
    return f"{len(sender.id.encode())}:{sender.id}:{key}"
