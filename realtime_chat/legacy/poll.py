"""``/`` of the old pages: a poll by JSONP that is held for a moment, and a form that publishes.

The page asks again as soon as it has an answer, or after a second without one. It doesn't cancel the request that it
gives up, and a late answer still runs: it calls the same function as the live one. So an answer is one message, which
the live answer replaces. A poll without a message ends with a comment, which calls nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.rate_limiter import Usage
from realtime_chat.core.room import Room
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.http.answers import Answer, JSONResource
from realtime_chat.http.clients import address_of, asks_for_script, callback_of, costs_of, take
from realtime_chat.http.commands import body_of, media_type
from realtime_chat.http.rooms import FORM, publish
from realtime_chat.http.subscribe_params import SubscribeParams, one, read_query
from realtime_chat.legacy.html_text import html_text
from realtime_chat.transports.waiting_poll import EventBatch, PollFanout, WaitingPoll, open_poll
from realtime_chat.values.access import READ, WRITE
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, RealtimeError, stopping
from realtime_chat.values.json import encode_value, json_in_script
from realtime_chat.values.model import ANONYMOUS, Draft, Position, check_room

_HOLD = 1.25
"""Seconds for which a poll waits; the wheel adds half a second at most. After less than 1.1 s a poll may be the live
one, and the page takes an empty answer to that for an error. Held for longer, polls use up the six connections of a
browser."""

_SCRIPT = b"text/javascript; charset=utf-8"
_NOTHING = Answer(b"/**/", 200, _SCRIPT)
_CONNECTED = "connected..."
_NEGATIVE = re.compile(rb"-[0-9]+")


class FirstText:
    """The first of some messages that is shown, as the answer to every poll that waits.

    :ivar count: how many messages it stands for: those before it are not shown.
    :ivar json: the answer; empty if none is shown.
    """

    __slots__ = ("count", "json")

    def __init__(self, room: str, epoch: str, entries: Sequence[Entry]) -> None:
        self.count = len(entries)
        self.json = b""
        for count, entry in enumerate(entries, 1):
            text = html_text(entry)
            if text is not None:
                self.count, self.json = count, _encode(Position(epoch, entry.offset), text)
                return


def _encode(position: Position, text: str) -> bytes:
    return encode_value({"status": 1, "timestamp": str(position), "data": text})


class LegacyPollFanout(PollFanout):
    """The same message for every poll of the old pages."""

    name = "legacy_poll"
    encode = FirstText  # type: ignore[assignment]


class LegacyPoll(WaitingPoll):
    """One poll of an old page. Its answer is one message, or where it goes on if messages are missing.

    :param from_oldest: whether a poll without a position begins with the oldest message that is kept.
    """

    __slots__ = ("_from_oldest", "_goes_on_at")

    fanout = LegacyPollFanout()

    def __init__(
        self, request: Request, callback: bytes | None, hub: Hub, usage: Usage | None, from_oldest: bool
    ) -> None:
        super().__init__(request, partial(_wrap, callback), hub, NOBODY, SubscribeParams(), usage)
        self._from_oldest = from_oldest
        self._goes_on_at: Position | None = None

    async def find_start(
        self, name: str, since: Position | None, last: int, properties: bool | Position
    ) -> tuple[Room, StartPosition, None]:
        room = await self.session.hub.cache.load(name)
        if not self._from_oldest:
            return room, await room.start(since, last), None
        page = await room.find_after(room.oldest - 1)
        return room, StartPosition(Position(page.epoch, page.start), True, page), None

    def start_at(self, room: Room, start: StartPosition, is_first: bool, version: str | None) -> None:
        room.used = self.session.hub.clock.seconds()
        self.session.subscribe(room, start)
        if not start.recovered or (is_first and not self._from_oldest):
            self.reset(room.name, start.position)

    def send_event(self, kind: str, data: bytes) -> None:
        """Send nothing: the page shows messages alone."""

    def send_batch(self, batch: FirstText | EventBatch) -> int:  # type: ignore[override]
        """Answer with a message, unless the page is told already that messages are missing."""
        if self._goes_on_at is not None:
            return 0
        if isinstance(batch, FirstText) and batch.json:
            self._add(batch.json)
            self.write_paused = True
            if not self._is_reading:
                self.answer()
        return batch.count

    def reset(self, room: str, position: Position) -> None:
        """Answer that the page is connected, and goes on after ``position``."""
        self._goes_on_at = position
        self._answers_at_once = self.write_paused = True

    def goodbye(self, goodbye: Goodbye) -> None:
        """Answer with an error: the page asks again after its second."""
        self.fail(Failure(stopping()))

    def encode(self) -> bytes:
        """The one message, or where the page goes on; empty if there is nothing to say."""
        if self._goes_on_at is not None:
            return _encode(self._goes_on_at, _CONNECTED)
        return self._events[0] if self._events else b""


def _wrap(callback: bytes | None, given: Answer) -> Answer:
    """The answer as the page takes it. An error stays what it is, as a browser runs no script of another status."""
    if given.status != 200 or (callback is None and given.body):
        return given
    if callback is None or not given.body:
        return _NOTHING
    text = json_in_script(given.body).replace(b"<", b"\\u003c")
    # A page that has gone on has no such function any more. The comment is there for the reason of clients._script().
    return Answer(b"/**/typeof %b==='function'&&%b(%b);" % (callback, callback, text), 200, _SCRIPT)


class LegacyResource(JSONResource):
    """``/``: GET asks for the next message, POST publishes one.

    :param room: the room of pages that name none.
    """

    isLeaf = True

    def __init__(self, hub: Hub, room: str) -> None:
        super().__init__()
        self._hub = hub
        self._room = room
        wheel = hub.wheel
        self._deadlines: DeadlineQueue[WaitingPoll] = DeadlineQueue(wheel, _HOLD, WaitingPoll.answer)

    def is_guarded(self, request: Request) -> bool:
        return request.method == b"POST" or not asks_for_script(request, True)

    def render_GET(self, request: Request) -> int:
        """Answer with the first message after ``lastupdate``, or with nothing after the hold."""
        hub = self._hub
        hub.check_open()
        callback = callback_of(request)
        room = room_of(request, hub, self._room, READ)
        since, from_oldest, last = _read_last_update(request.args.get(b"lastupdate", ()))
        params = SubscribeParams(((room, since),), last)
        take(request, hub, NOBODY, costs_of(since is None))
        poll = LegacyPoll(request, callback, hub, open_poll(hub, address_of(request)), from_oldest)
        poll.begin(params, self._deadlines)
        return NOT_DONE_YET

    async def render_POST(self, request: Request) -> Answer:
        """Publish ``new_message`` of a form."""
        room = room_of(request, self._hub, self._room, WRITE)
        if media_type(request) not in (FORM, b""):
            raise RealtimeError("unsupported_media", f"send a form with new_message=…, as {FORM.decode()}")
        text = one(read_query(body_of(request)), b"new_message")
        if text is not None:
            draft = Draft(room, "message", encode_value({"text": text}), ANONYMOUS)
            await publish(request, self._hub, NOBODY, draft)
        return Answer(b"", 200, b"text/plain; charset=utf-8")


def room_of(request: Request, hub: Hub, default: str, right: int) -> str:
    """Return the room that an old page asks for.

    :param default: the room of pages that name none.
    :raises RealtimeError: ``bad_request``, ``bad_room``, or ``forbidden``: guests don't have the right there.
    """
    name = one(request.args, b"room")
    return hub.access.check(NOBODY, check_room(default if name is None else name), right)


def _read_last_update(values: Sequence[bytes]) -> tuple[Position | None, bool, int | None]:
    """Return the position that a page gives, whether it asks for the oldest message, and how many it is given again.

    A negative number is a new page, which gets the newest messages. What is neither, such as the time that the old
    server has given, is of a page that goes on: nothing is shown to it twice.
    """
    if not values or values == [b"0"]:
        return None, True, None
    try:
        return Position.parse(values[0].decode("ascii", "replace")), False, None
    except RealtimeError:
        return None, False, None if _NEGATIVE.fullmatch(values[0]) else 0
