"""The promises that every implementation of an interface keeps, as tests to mix in."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from zope.interface.verify import verifyObject

from realtime_chat.core.interfaces import SESSION_SECONDS, IBroker, IMessageStore, ISessionStore
from realtime_chat.store.retention import KEY_SECONDS, SECONDS_AT_ONCE, Retention
from realtime_chat.values.errors import RealtimeError, StoreError
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    ForwardedCommand,
    Message,
    Page,
    Position,
    RemoteClient,
    User,
)
from tests.deadlines import DEADLINE
from tests.fakes import Recorder
from tests.properties_contract import PropertiesContract

__all__ = [
    "AWKWARD_NAMES",
    "BrokerContract",
    "LastingStoreContract",
    "MessageStoreContract",
    "check_positions",
    "draft",
    "offsets",
    "texts",
    "whole_log",
]

BOB = User("u7", "Bob")
START = 1_795_228_664.5
"""Seconds since 1970 at which every test begins."""

AWKWARD_NAMES = [
    "*",
    "?",
    "{x}",
    "%s",
    "a:b",
    "a",
    "b",
    "[a-z]",
    "';--",
    '"',
    "\\",
    "..",
    "a/b",
    "0",
    "null",
    "é",
    "e\u0301",
]
"""What would be a pattern, a path or a part of a statement, if it weren't a name."""


def draft(
    text: Any = "hi", room: str = "lobby", key: str | None = None, sender: User = BOB, event: str = "message"
) -> Draft:
    """A draft whose data is ``text`` as JSON."""
    return Draft(room, event, json.dumps(text, ensure_ascii=False, separators=(",", ":")).encode(), sender, key)


def offsets(page: Page) -> list[int]:
    """The offsets of a page's messages."""
    return [message.position.offset for message in page.messages]


async def whole_log(store: Any, room: str) -> Page:
    """All that is kept of a room, as one page."""
    page: Page = await store.read_after(room, 0, 1000)
    messages = list(page.messages)
    while messages and messages[-1].position.offset < page.top:
        page = await store.read_after(room, messages[-1].position.offset, 1000)
        messages += page.messages
    return Page(page.epoch, page.oldest, page.top, tuple(messages))


async def check_positions(store: Any, steps: bytes, pass_time: Callable[[int], Awaitable[None]]) -> None:
    """Publish, read, and let rooms be forgotten; and resume with every position that was ever given.

    :param steps: what happens, a byte for each step.
    :param pass_time: lets so many seconds pass; for 60 and more, till all rooms are forgotten.
    """
    published: dict[str, dict[int, int]] = {room: {} for room in "abc"}
    young: dict[str, set[int]] = {room: set() for room in "abc"}
    given: dict[str, set[int]] = {room: set() for room in "abc"}
    for number, byte in enumerate(steps):
        room = "abc"[byte // 8 % 3]
        if byte % 8 == 7:
            await pass_time(60)
            for kept in young.values():
                kept.clear()
        elif byte % 8 == 6:
            given[room].add((await store.read_before(room, None, 9)).top)
        else:
            offset = (await store.append(draft(number, room))).message.position.offset
            assert offset > max(published[room], default=0), (room, offset)
            assert offset == 1 + max(given[room] | {0}) or not young[room], (room, offset)
            published[room][offset] = number
            young[room].add(offset)
            given[room].add(offset)
        for each in "abc":
            for position in given[each]:
                page = await store.read_after(each, position, 1000)
                if page.oldest - 1 <= position <= page.top:  # then nothing is missing
                    following = {offset: data for offset, data in published[each].items() if offset > position}
                    assert following == dict(zip(offsets(page), texts(page), strict=True)), (each, position, page)


def texts(page: Page) -> list[Any]:
    """The data of a page's messages."""
    return [json.loads(message.data) for message in page.messages]


class MessageStoreContract(PropertiesContract):
    """What :class:`~realtime_chat.core.interfaces.IMessageStore` promises.

    Mix it into a ``TestCase`` whose ``build_store`` gives a store that is not started; its
    monotonic clock is ``self.clock.seconds``, and its wall clock ``self.wall``.

    :cvar keys_kept: seconds for which it knows keys whose messages are gone; KEY_SECONDS or a little more.
    :cvar room_rate: the most new rooms a second in the test of that rate.
    """

    keys_kept = KEY_SECONDS
    room_rate: float = 2

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.ahead = 0.0

    def wall(self) -> float:
        """The wall clock, which may be set."""
        return self.clock.seconds() + self.ahead

    def build_store(self, retention: Retention) -> Any:
        """A store that is not started and starts empty; it looks often after what is too old."""
        raise NotImplementedError

    async def open_store(self, count: int = 1000, age: float | None = None, **bounds: Any) -> Any:
        """A started store that is stopped when the test ends."""
        store = self.build_store(Retention(count, age, **bounds))
        await store.start()
        self.addCleanup(store.stop)
        return store

    async def filled_store(self, messages: int, count: int = 1000, age: float | None = None) -> Any:
        """A started store whose lobby was sent the numbers 1, 2, 3, …"""
        store = await self.open_store(count, age)
        await append_all(store, [draft(number) for number in range(1, messages + 1)])
        return store

    async def assert_raises(self, code: str, answer: Deferred[Any]) -> RealtimeError:
        """Await the error with this code."""
        try:
            result = await answer
        except RealtimeError as error:
            self.assertEqual(error.code, code)
            return error
        raise AssertionError(f"{result!r} instead of {code}")

    async def pass_room_time(self) -> None:
        """Let time pass for one more room, by the clock that counts for how fast rooms are made."""
        self.clock.advance(1 / self.room_rate)

    async def read_room(self, store: Any, room: str) -> None:
        """Let somebody on this node read a room till the test ends."""
        store.watch(lambda: None, lambda name: name == room)

    async def forgotten(self, store: Any, *rooms: str, step: float) -> None:
        """Let time pass, so many seconds at a time, till rooms are not listed any more."""
        deadline = time.monotonic() + DEADLINE
        while listed := set(rooms) & set(await store.rooms("", 1000)):
            assert time.monotonic() < deadline, f"{listed} are still there"
            self.clock.advance(step)
            await deferLater(reactor, 0.01)

    async def test_interface(self) -> None:
        """It has what the interface names, in the same shape."""
        store = await self.open_store()
        self.assertTrue(verifyObject(IMessageStore, store))

    async def test_describe(self) -> None:
        """It describes itself in one line that says how much it keeps."""
        store = await self.open_store(count=77)
        self.assertIn("77 messages", store.describe())
        self.assertNotIn("\n", store.describe())

    async def test_secret(self) -> None:
        """Once started it has a secret of at least 32 bytes."""
        store = await self.open_store()
        self.assertGreaterEqual(len(store.secret), 32)

    async def test_epoch(self) -> None:
        """The epoch can be part of a position, and is the same in every room."""
        store = await self.open_store()
        epoch = (await store.read_after("lobby", 0, 1)).epoch
        self.assertEqual(Position.parse(f"{epoch}:0"), Position(epoch, 0))
        self.assertEqual((await store.append(draft(room="news"))).message.position, Position(epoch, 1))

    async def test_stored_message(self) -> None:
        """The answer is the message with its place and the server's time in milliseconds."""
        store = await self.open_store()
        stored = await store.append(draft({"a": [1, 2.5, None]}, key="k1", event="note"))
        place = Position((await store.read_after("lobby", 0, 1)).epoch, 1)
        expected = Message("lobby", place, "note", b'{"a":[1,2.5,null]}', "u7", "Bob", int(START * 1000), "k1")
        self.assertEqual(stored, AppendResult(expected, duplicate=False))

    async def test_read_what_was_stored(self) -> None:
        """A read gives exactly the messages that the appends answered."""
        store = await self.open_store()
        answers = await append_all(store, [draft("a"), draft("b", key="k"), draft(None, event="x")])
        page = await store.read_after("lobby", 0, 10)
        self.assertEqual(list(page.messages), [stored.message for stored in answers])

    async def test_offsets(self) -> None:
        """Offsets start at 1 and have no holes."""
        store = await self.filled_store(25)
        page = await store.read_after("lobby", 0, 100)
        self.assertEqual(offsets(page), list(range(1, 26)))
        self.assertEqual(texts(page), list(range(1, 26)))
        self.assertEqual((page.oldest, page.top), (1, 25))

    async def test_independent_rooms(self) -> None:
        """Every room counts for itself, and no message is in the wrong one."""
        store = await self.open_store()
        rooms = ["lobby", "lobby2", "Lobby", "lobb", "@u7", "a:b", "a.b", "~", "-", "_"]
        await append_all(store, [draft([room, number], room) for number in range(1, 4) for room in rooms])
        for room in rooms:
            page = await store.read_after(room, 0, 10)
            self.assertEqual((texts(page), page.top), ([[room, 1], [room, 2], [room, 3]], 3))

    async def test_awkward_names(self) -> None:
        """Rooms and keys are never patterns, paths or parts of a statement."""
        store = await self.open_store()
        names = AWKWARD_NAMES
        await append_all(store, [draft(name, name, key=name) for name in names])
        for name in names:
            self.assertEqual(texts(await store.read_after(name, 0, 10)), [name])
            self.assertTrue((await store.append(draft(name, name, key=name))).duplicate)
        self.assertEqual(list(await store.rooms("", 1000)), sorted(names))

    async def test_unicode(self) -> None:
        """Any text comes back as it was."""
        store = await self.open_store()
        text = 'é e\u0301 \U0001f600 \u202e \u2028 \ufffe \uffff \x00 \x7f " \\ </script> \U0010ffff'
        sender = User("u\u00fc", "n\U0001f600\u0000\u2028'\"")
        stored = await store.append(draft({text: text}, event=text[:30], key=text, sender=sender))
        page = await store.read_after("lobby", 0, 1)
        self.assertEqual(page.messages, (stored.message,))
        self.assertEqual(texts(page), [{text: text}])
        self.assertEqual((page.messages[0].sender_name, page.messages[0].key), (sender.name, text))

    async def test_extreme_data(self) -> None:
        """Data comes back byte for byte: nothing is rounded, ordered or shortened."""
        store = await self.open_store()
        values = [
            b"0",
            b"-0.0",
            b"1.0",
            b"1e400",
            b"18446744073709551615",
            b"123456789012345678901234567890",
            b'""',
            b"{}",
            b"[]",
            b'{"b":1,"a":2}',
            b'"\\ud83d\\ude00"',
            b'"\\u0000"',
            b"true",
            b"null",
            b'"' + b"x" * 200_000 + b'"',
            b"[" * 30 + b"]" * 30,
        ]
        await append_all(store, [Draft("lobby", "message", value, BOB) for value in values])
        self.assertEqual([message.data for message in (await store.read_after("lobby", 0, 99)).messages], values)

    async def test_empty_room(self) -> None:
        """A room that never had a message has an epoch, nothing kept and the top 0."""
        store = await self.open_store()
        epoch = (await store.append(draft(room="other"))).message.position.epoch
        for page in (
            await store.read_after("lobby", 0, 10),
            await store.read_before("lobby", None, 10),
            await store.read_after("lobby", 99, 10),
            await store.read_before("lobby", 99, 10),
        ):
            self.assertEqual(page, Page(epoch, 1, 0, ()))

    async def test_read_after(self) -> None:
        """A read after an offset gives the next ones, at most as many as asked for."""
        store = await self.filled_store(10)
        for after, limit, expected in [
            (0, 3, [1, 2, 3]),
            (3, 3, [4, 5, 6]),
            (8, 3, [9, 10]),
            (9, 1, [10]),
            (10, 3, []),
            (11, 3, []),
            (10**15, 3, []),
            (0, 0, []),
            (4, 0, []),
            (0, 1000, list(range(1, 11))),
        ]:
            page = await store.read_after("lobby", after, limit)
            self.assertEqual((offsets(page), page.oldest, page.top), (expected, 1, 10), (after, limit))

    async def test_read_before(self) -> None:
        """A read before an offset gives the last ones below it, ascending."""
        store = await self.filled_store(10)
        for before, limit, expected in [
            (None, 3, [8, 9, 10]),
            (11, 3, [8, 9, 10]),
            (10**15, 2, [9, 10]),
            (10, 3, [7, 8, 9]),
            (3, 5, [1, 2]),
            (2, 1, [1]),
            (1, 3, []),
            (0, 3, []),
            (None, 0, []),
            (5, 0, []),
            (None, 1000, list(range(1, 11))),
        ]:
            page = await store.read_before("lobby", before, limit)
            self.assertEqual((offsets(page), page.oldest, page.top), (expected, 1, 10), (before, limit))

    async def test_large_messages(self) -> None:
        """A page of large messages is shorter than asked for, from the right end, and never without any."""
        store = await self.open_store()
        await append_all(store, [draft("x" * 400_000) for _ in range(6)] + [draft("y" * 3_000_000)])
        after = await store.read_after("lobby", 1, 100)
        before = await store.read_before("lobby", 7, 100)
        last = await store.read_before("lobby", None, 100)
        offsets = [[message.position.offset for message in page.messages] for page in (after, before, last)]
        self.assertEqual([[2, 3, 4], [4, 5, 6], [7]], offsets)
        self.assertEqual([(1, 7)] * 3, [(page.oldest, page.top) for page in (after, before, last)])

    async def test_paging_back(self) -> None:
        """Paging back from the top shows every message once."""
        store = await self.filled_store(23)
        seen: list[int] = []
        before = None
        while page := offsets(await store.read_before("lobby", before, 5)):
            seen = page + seen
            before = page[0]
        self.assertEqual(seen, list(range(1, 24)))

    async def test_trim_by_count(self) -> None:
        """Never more than the last ``count`` messages can be read, however little was trimmed yet."""
        store = await self.open_store(count=3)
        for top in range(1, 150):
            await store.append(draft(top))
            page = await store.read_after("lobby", 0, 100)
            kept = list(range(max(1, top - 2), top + 1))
            self.assertEqual((offsets(page), page.oldest, page.top), (kept, kept[0], top))
        self.assertEqual(offsets(await store.read_before("lobby", None, 100)), kept)
        self.assertEqual(offsets(await store.read_before("lobby", kept[1], 100)), kept[:1])
        self.assertEqual(offsets(await store.read_after("lobby", kept[0], 100)), kept[1:])
        self.assertEqual(offsets(await store.read_before("lobby", 5, 100)), [])

    async def test_limit_counts_what_is_kept(self) -> None:
        """A limit counts from the oldest kept message, not from those that were trimmed."""
        store = await self.filled_store(20, count=5)
        self.assertEqual(offsets(await store.read_after("lobby", 0, 2)), [16, 17])
        self.assertEqual(offsets(await store.read_after("lobby", 7, 3)), [16, 17, 18])

    async def test_trim_by_age(self) -> None:
        """Nothing older than ``age`` can be read, also in a room that gets no more messages."""
        store = await self.filled_store(3, age=60)
        self.clock.advance(40)
        await append_all(store, [draft(4), draft(5)])
        self.clock.advance(20)
        self.assertEqual(offsets(await store.read_after("lobby", 0, 9)), [1, 2, 3, 4, 5])
        self.clock.advance(0.002)
        for page in (await store.read_after("lobby", 0, 9), await store.read_before("lobby", None, 9)):
            self.assertEqual((offsets(page), page.oldest, page.top), ([4, 5], 4, 5))

    async def test_top_outlives_messages(self) -> None:
        """A room whose messages are all too old still has its top, and goes on from there."""
        store = await self.filled_store(5, age=60)
        self.clock.advance(61)
        for page in (await store.read_after("lobby", 0, 9), await store.read_before("lobby", None, 9)):
            self.assertEqual((offsets(page), page.oldest, page.top), ([], 6, 5))
        self.assertEqual((await store.append(draft())).message.position.offset, 6)
        page = await store.read_after("lobby", 0, 9)
        self.assertEqual((offsets(page), page.oldest, page.top), ([6], 6, 6))

    async def test_namespace_logs(self) -> None:
        """The log of a Socket.IO namespace has a length of its own; it is called by the namespace's name."""
        store = await self.open_store(count=3, namespace_count=5)
        names = ["/", "/chat", "/chat/x", "/tenant-\u00e9"]
        await append_all(store, [draft(number, name) for number in range(1, 151) for name in (*names, "chat")])
        for name in names:
            self.assertEqual([146, 147, 148, 149, 150], texts(await store.read_after(name, 0, 9)))
            self.assertEqual([149, 150], texts(await store.read_before(name, None, 2)))
        self.assertEqual([148, 149, 150], texts(await store.read_after("chat", 0, 9)))

    async def pass_session_time(self, seconds: float) -> None:
        """Let seconds pass for the records of sockets."""
        self.clock.advance(seconds)

    async def test_sessions(self) -> None:
        """A record is there until it is removed or replaced, byte for byte."""
        sessions = (await self.open_store()).sessions
        self.assertTrue(verifyObject(ISessionStore, sessions))
        self.assertIsNone(await sessions.get("a"))
        sessions.put("a", b"1", connected=True)
        sessions.put("b", b'\0\xff"', connected=False)
        await sessions.put("a", b"2", connected=False)
        self.assertEqual([b"2", b'\0\xff"'], [await sessions.get(key) for key in "ab"])
        sessions.remove("c")
        await sessions.remove("a")
        self.assertEqual([None, b'\0\xff"'], [await sessions.get(key) for key in "ab"])

    async def test_sessions_expire(self) -> None:
        """The record of a socket expires some time after its disconnect, and that of a connected one does not."""
        sessions = (await self.open_store()).sessions
        await sessions.put("connected", b"1", connected=True)
        await sessions.put("away", b"2", connected=True)
        await self.pass_session_time(SESSION_SECONDS / 2)
        await sessions.put("away", b"3", connected=False)
        await self.pass_session_time(SESSION_SECONDS - 1)
        self.assertEqual([b"1", b"3"], [await sessions.get(key) for key in ("connected", "away")])
        await self.pass_session_time(2)
        self.assertEqual([b"1", None], [await sessions.get(key) for key in ("connected", "away")])

    async def test_clock_stepping_back(self) -> None:
        """A wall clock that steps back changes neither order nor offsets, and nothing too old is shown."""
        store = await self.filled_store(2, age=60)
        self.ahead = -3600.0
        await append_all(store, [draft(3), draft(4)])
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [1, 2, 3, 4])
        self.clock.advance(61)
        await store.append(draft(5))
        page = await store.read_after("lobby", 0, 9)
        self.assertEqual((texts(page), page.oldest), ([5], 5))

    async def test_frozen_clock(self) -> None:
        """While the clock stands still the order is that of the appends."""
        store = await self.filled_store(300)
        self.assertEqual(texts(await store.read_after("lobby", 0, 300)), list(range(1, 301)))

    async def test_duplicate(self) -> None:
        """The same content under the same key answers the first message again and stores nothing."""
        store = await self.open_store()
        first = await store.append(draft("a", key="k1"))
        self.clock.advance(10)
        again = await store.append(draft("a", key="k1"))
        self.assertEqual(again, AppendResult(first.message, duplicate=True))
        self.assertEqual((await store.read_after("lobby", 0, 9)).top, 1)

    async def test_duplicate_after_renaming(self) -> None:
        """Whoever took another name in between still gets the first message."""
        store = await self.open_store()
        first = await store.append(draft("a", key="k1"))
        again = await store.append(draft("a", key="k1", sender=User("u7", "Robert")))
        self.assertEqual(again, AppendResult(first.message, duplicate=True))

    async def test_equal_as_json(self) -> None:
        """Data that is equal as JSON is the same content, and the first wording stays."""
        store = await self.open_store()
        first = await store.append(Draft("lobby", "message", b'{"a":1,"b":[{"c":2,"d":3}]}', BOB, "k"))
        again = await store.append(Draft("lobby", "message", b'{ "b":[{"d":3,"c":2}], "a":1 }', BOB, "k"))
        self.assertEqual(again, AppendResult(first.message, duplicate=True))

    async def test_key_reused(self) -> None:
        """Other data, or another event, under a key that is kept is refused and stores nothing."""
        store = await self.open_store()
        await store.append(draft("a", key="k1"))
        await self.assert_raises("key_reused", store.append(draft("b", key="k1")))
        await self.assert_raises("key_reused", store.append(draft("a", key="k1", event="other")))
        page = await store.read_after("lobby", 0, 9)
        self.assertEqual((texts(page), page.top), (["a"], 1))

    async def test_after(self) -> None:
        """What follows a message that isn't stored is not stored either, and is when that one is; so in any commit."""
        store = await self.open_store()
        second, third = (replace(draft(key, key=key), after=after) for key, after in (("k2", "k1"), ("k3", "k2")))
        for answer in [store.append(second), store.append(third)]:
            await self.assert_raises("out_of_order", answer)
        await append_all(store, [draft("k1", key="k1"), second, third])
        stranger = replace(draft("x", key="k4", sender=User("u9", "Eve")), after="k1")
        await self.assert_raises("out_of_order", store.append(stranger))
        await self.assert_raises("out_of_order", store.append(replace(draft("x", "news", "k5"), after="k1")))
        await append_all(store, [replace(draft("k6", key="k6"), after="k3")])
        self.assertTrue((await store.append(replace(third, after="k9"))).duplicate)
        self.assertEqual(["k1", "k2", "k3", "k6"], texts(await store.read_after("lobby", 0, 9)))

    async def test_keys_at_once(self) -> None:
        """Appends that wait together know each other's keys."""
        store = await self.open_store()
        drafts = [
            draft("a", key="k"),
            draft("b"),
            draft("a", key="k"),
            draft("c", key="k"),
            draft("d", key="k2"),
            draft("a", key="k"),
        ]
        answers = [store.append(each) for each in drafts]
        error = await self.assert_raises("key_reused", answers.pop(3))
        self.assertFalse(error.kind.temporary)
        stored = await gatherResults(answers)
        self.assertEqual([each.duplicate for each in stored], [False, False, True, False, True])
        self.assertEqual([each.message.position.offset for each in stored], [1, 2, 1, 3, 1])
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), ["a", "b", "d"])

    async def test_key_per_room_and_user(self) -> None:
        """A key belongs to one room and one user."""
        store = await self.open_store()
        eve = User("u8", "Bob")
        drafts = [draft("a", key="k"), draft("b", key="k", room="news"), draft("c", key="k", sender=eve)]
        drafts.append(draft("d", key="b:k", sender=User("a", "A")))
        drafts.append(draft("e", key="k", sender=User("a:b", "A")))
        self.assertEqual([stored.duplicate for stored in await append_all(store, drafts)], [False] * 5)
        self.assertEqual([stored.duplicate for stored in await append_all(store, drafts)], [True] * 5)

    async def test_key_of_trimmed_message(self) -> None:
        """A key is kept at least 300 seconds, even when its message is long gone."""
        store = await self.open_store(count=3)
        first = await store.append(draft("a", key="k1"))
        await append_all(store, [draft(number, key=f"n{number}") for number in range(300)])
        self.clock.advance(KEY_SECONDS)
        self.assertEqual(await store.append(draft("a", key="k1")), AppendResult(first.message, duplicate=True))
        await self.assert_raises("key_reused", store.append(draft("b", key="k1")))
        self.assertEqual((await store.read_after("lobby", 0, 9)).top, 301)

    async def test_key_expires(self) -> None:
        """After 300 seconds the key of a message that is no longer kept is free, and then kept anew."""
        store = await self.open_store(count=3)
        await store.append(draft("a", key="k1"))
        await append_all(store, [draft(number) for number in range(3)])
        self.clock.advance(self.keys_kept + 0.002)
        self.assertEqual((await store.append(draft("b", key="k1"))).message.position.offset, 5)
        await append_all(store, [draft(number) for number in range(300)])
        self.assertTrue((await store.append(draft("b", key="k1"))).duplicate)

    async def test_key_and_steps(self) -> None:
        """A key is known for 300 seconds whatever the wall clock shows meanwhile, its message being gone or not."""
        store = await self.open_store(count=3)
        for number, (more, *steps) in enumerate(itertools.product((3, 150), *3 * [(-3600.0, 0.0, 3600.0)])):
            self.clock.advance(86400)
            room = f"r{number}"
            self.ahead += steps[0]
            first = await store.append(draft("a", room, key="k"))
            self.ahead += steps[1]
            await append_all(store, [draft(other, room, key=f"n{other}") for other in range(more)])
            self.clock.advance(KEY_SECONDS / 2)
            self.ahead += steps[2]
            self.assertEqual(
                await store.append(draft("a", room, key="k")), AppendResult(first.message, duplicate=True), steps
            )
            self.clock.advance(KEY_SECONDS / 2)
            self.assertTrue((await store.append(draft("a", room, key="k"))).duplicate, steps)
            self.clock.advance(86400)
            self.assertFalse((await store.append(draft("b", room, key="k"))).duplicate, steps)

    async def test_age_and_steps(self) -> None:
        """What is young can be read whatever the wall clock shows, and what is too old can't for ever."""
        store = await self.open_store(age=60)
        for combination, steps in enumerate(itertools.product((-3600.0, 0.0, 3600.0), repeat=3)):
            room = f"r{combination}"
            for number, step in enumerate(steps):
                self.ahead += step
                await store.append(draft(number, room))
                self.clock.advance(15)
                self.assertEqual(texts(await store.read_after(room, 0, 9)), list(range(number + 1)), steps)
            self.clock.advance(86400)
            self.assertEqual(offsets(await store.read_after(room, 0, 9)), [], steps)

    async def test_key_stays_with_message(self) -> None:
        """However old it is, a message that is kept keeps its key."""
        store = await self.open_store(count=3)
        await store.append(draft("a", key="k1"))
        self.clock.advance(1_000_000)
        self.assertTrue((await store.append(draft("a", key="k1"))).duplicate)
        await self.assert_raises("key_reused", store.append(draft("b", key="k1")))

    async def test_key_expires_with_age(self) -> None:
        """A message that is too old to be read and older than 300 seconds gives its key free."""
        store = await self.open_store(age=60)
        await store.append(draft("a", key="k1"))
        self.clock.advance(61)
        self.assertTrue((await store.append(draft("a", key="k1"))).duplicate)
        self.clock.advance(self.keys_kept)
        self.assertEqual((await store.append(draft("b", key="k1"))).message.position.offset, 2)

    async def test_appends_without_waiting(self) -> None:
        """Appends that nobody waited for get consecutive offsets and are answered in that order."""
        store = await self.open_store()
        answered: list[int] = []
        answers = [store.append(draft(number)) for number in range(200)]
        for answer in answers:
            answer.addCallback(lambda stored: answered.append(stored.message.position.offset))
        await gatherResults(answers)
        self.assertEqual(answered, list(range(1, 201)))
        self.assertEqual(texts(await store.read_after("lobby", 0, 200)), list(range(200)))

    async def test_read_sees_acknowledged(self) -> None:
        """A read that is asked for in the callback of an append sees its message."""
        store = await self.open_store()
        for number in range(1, 20):
            page = await store.append(draft(number)).addCallback(lambda _: store.read_before("lobby", None, 1))
            self.assertEqual(texts(page), [number])

    async def test_rooms(self) -> None:
        """The rooms are those that ever had a message, sorted; reading one makes none."""
        store = await self.open_store(age=60)
        self.assertEqual(list(await store.rooms("", 1000)), [])
        await append_all(store, [draft(room=room) for room in ["b", "a", "B", "@u7", "b"]])
        await store.read_after("never", 0, 10)
        self.clock.advance(61)
        self.assertEqual(list(await store.rooms("", 1000)), ["@u7", "B", "a", "b"])

    async def test_pages_of_rooms(self) -> None:
        """Rooms come page by page, sorted, each once, wherever a page begins."""
        store = await self.open_store()
        rooms = [f"{begin}{number}" for begin in ("-", "@", "A", "a", "~") for number in range(5)]
        await append_all(store, [draft(room=room) for room in random.Random(1).sample(rooms, len(rooms))])
        for limit in (1, 7, 25, 26):
            pages = [list(await store.rooms("", limit))]
            while pages[-1]:
                pages.append(list(await store.rooms(pages[-1][-1], limit)))
            self.assertEqual(sorted(rooms), [room for page in pages for room in page])
            self.assertEqual({limit}, {len(page) for page in pages[:-2]} or {limit})
        self.assertEqual(["A3", "A4"], list(await store.rooms("A25", 2)))
        self.assertEqual([], list(await store.rooms("~~", 9)))
        self.assertEqual([], list(await store.rooms("", 0)))

    async def test_too_many_rooms(self) -> None:
        """Where there are as many rooms as there may be none is made, and those that exist take messages."""
        store = await self.open_store(rooms=3)
        answers = [store.append(draft(room, room, key=room)) for room in ("a", "b", "c", "d", "a")]
        error = await self.assert_raises("too_many", answers.pop(3))
        self.assertIn("there are 3 rooms", error.message)
        self.assertTrue(error.temporary)
        self.assertEqual([1, 1, 1, 1], [(await answer).message.position.offset for answer in answers])
        await self.assert_raises("too_many", store.append(draft("d", "d")))
        self.assertEqual(["a", "b", "c"], list(await store.rooms("", 9)))
        self.assertEqual((0, ()), ((page := await store.read_after("d", 0, 9)).top, page.messages))
        self.assertEqual(2, (await store.append(draft("more", "a"))).message.position.offset)

    async def test_forgotten_rooms_make_room(self) -> None:
        """Rooms that are forgotten don't count any more."""
        store = await self.open_store(age=60, rooms=2)
        await append_all(store, [draft(room="a"), draft(room="b")])
        await self.assert_raises("too_many", store.append(draft(room="c")))
        await self.forgotten(store, "a", "b", step=31)
        await append_all(store, [draft(room="c"), draft(room="d")])
        await self.assert_raises("too_many", store.append(draft(room="a")))

    async def test_room_rate(self) -> None:
        """Rooms are made at a rate, some at once; those that exist take messages."""
        store = await self.open_store(room_rate=self.room_rate)
        at_once = int(self.room_rate * SECONDS_AT_ONCE)
        await append_all(store, [draft(room=f"r{number}") for number in range(at_once)])
        error = await self.assert_raises("rate_limited", store.append(draft(room="new", key="k")))
        self.assertIn(f"at most {self.room_rate} rooms a second", error.message)
        self.assertTrue(error.temporary)
        self.assertEqual(2, (await store.append(draft(room="r0"))).message.position.offset)
        for self.ahead in (-3600.0, 3600.0):
            await self.assert_raises("rate_limited", store.append(draft(room="new")))
        await self.pass_room_time()
        answers = [store.append(draft(room=room)) for room in ("new", "newer", "new")]
        await self.assert_raises("rate_limited", answers.pop(1))
        self.assertEqual([1, 2], [(await answer).message.position.offset for answer in answers])
        self.assertEqual(at_once + 1, len(await store.rooms("", 1000)))

    async def test_forgotten(self) -> None:
        """An unused room leaves the highest top of all: rooms that aren't there stand at it, and begin after it."""
        store = await self.open_store(age=60)
        await append_all(store, [draft(n, room) for room, top in (("a", 3), ("b", 5), ("c", 2)) for n in range(top)])
        await self.forgotten(store, "a", "b", "c", step=31)
        for room in ("a", "b", "never"):
            for page in (await store.read_after(room, 3, 9), await store.read_before(room, None, 9)):
                self.assertEqual((6, 5, ()), (page.oldest, page.top, page.messages), room)
            self.assertEqual(6, (await store.append(draft("new", room))).message.position.offset)
            page = await store.read_after(room, 5, 9)
            self.assertEqual((6, 6, ["new"]), (page.oldest, page.top, texts(page)), room)
        self.assertEqual(["a", "b", "never"], list(await store.rooms("", 9)))

    async def test_forgotten_again(self) -> None:
        """What is left of rooms only grows, and a room that exists goes on from its own top."""
        store = await self.open_store(age=60)
        await append_all(store, [draft(n, "a") for n in range(9)] + [draft(n, "b") for n in range(2)])
        await self.read_room(store, "b")
        await self.forgotten(store, "a", step=31)
        await append_all(store, [draft(room="c")])
        await self.forgotten(store, "c", step=31)
        self.assertEqual(10, (await store.read_after("a", 0, 9)).top)
        self.assertEqual(3, (await store.append(draft(room="b"))).message.position.offset)

    async def test_read_rooms_stay(self) -> None:
        """A room that somebody reads is not forgotten, however long nobody has said anything there."""
        store = await self.open_store(age=60)
        await append_all(store, [draft(room="read"), draft(room="unused")])
        await self.read_room(store, "read")
        await self.forgotten(store, "unused", step=31)
        for _ in range(5):
            await append_all(store, [draft(room="again")])
            await self.forgotten(store, "again", step=31)
        self.assertEqual(["read"], list(await store.rooms("", 9)))
        self.assertEqual(2, (await store.append(draft(room="read"))).message.position.offset)

    async def test_used_rooms_stay(self) -> None:
        """Rooms with messages are kept, also where others are forgotten around them."""
        store = await self.open_store(age=60)
        await append_all(store, [draft(room="unused"), draft(1, room="used")])
        while "unused" in await store.rooms("", 9):
            await append_all(store, [draft(2, room="used")])
            await self.forgotten_or_later(store)
        self.assertEqual(["used"], list(await store.rooms("", 9)))

    async def forgotten_or_later(self, store: Any) -> None:
        """Let a little time pass, here and by the store's clock."""
        self.clock.advance(31)
        await deferLater(reactor, 0.01)

    async def test_keys_of_forgotten(self) -> None:
        """A key is known for 300 seconds, whatever becomes of its room; then it is free."""
        store = await self.open_store(age=20)
        first = await store.append(draft("a", key="k"))
        for _ in range(14):
            self.clock.advance(21)
            await append_all(store, [draft(room="other")])
            await deferLater(reactor, 0.01)
        again = await store.append(draft("a", key="k"))
        self.assertEqual((first.message.position, True), (again.message.position, again.duplicate))
        self.clock.advance(KEY_SECONDS)
        await self.forgotten(store, "lobby", step=21)
        self.assertFalse((await store.append(draft("b", key="k"))).duplicate)

    async def test_no_position_twice(self) -> None:
        """Rooms that are made, used, forgotten and made anew never give a position to another message."""
        for seed in range(3):
            store = await self.open_store(age=60)

            async def pass_time(seconds: int, store: Any = store) -> None:
                if seconds < 60:
                    self.clock.advance(seconds)
                else:
                    await self.forgotten(store, *"abc", step=31)

            await check_positions(store, random.Random(seed).randbytes(60), pass_time)
            await store.stop()

    async def test_check(self) -> None:
        """A store that works says so, and shows no trace of having been asked."""
        store = await self.open_store()
        self.assertIsNone(await store.check())
        self.assertEqual(list(await store.rooms("", 1000)), [])

    async def test_stop_finishes(self) -> None:
        """Stopping answers what was accepted before."""
        store = await self.open_store()
        answers = [store.append(draft(number)) for number in range(50)]
        await store.stop()
        self.assertEqual([(await answer).message.position.offset for answer in answers], list(range(1, 51)))

    async def test_stopped(self) -> None:
        """A stopped store answers everything with a temporary error, and can be stopped again."""
        store = await self.open_store()
        await store.stop()
        await store.stop()
        for answer in (
            store.append(draft()),
            store.append(draft(key="k")),
            store.read_after("lobby", 0, 1),
            store.read_before("lobby", None, 1),
            store.rooms("", 1000),
            store.check(),
        ):
            error = await self.assert_raises("store_unavailable", answer)
            self.assertIsInstance(error, StoreError)
            self.assertTrue(error.kind.temporary)


class LastingStoreContract(MessageStoreContract):
    """What a store promises that outlives its process; ``rebuild_store`` gives another one, with what the last had."""

    async def back_up(self, store: Any) -> Any:
        """What :meth:`put_back` needs to bring this moment back."""
        raise NotImplementedError

    async def put_back(self, backup: Any) -> None:
        """Let the store's data, behind its back, be those of a former moment, with its epoch."""
        raise NotImplementedError

    async def test_older_data(self) -> None:
        """Where older data are put back under a running store, that is told, and the log is another one that begins
        behind what is there: also if the room has grown again by then."""
        store = await self.filled_store(5)
        before = await store.append(draft(room="other"))
        backup = await self.back_up(store)
        await append_all(store, [draft(number) for number in range(6, 11)])
        may_have_missed: Deferred[None] = Deferred()
        store.watch(lambda: may_have_missed.called or may_have_missed.callback(None))
        await self.put_back(backup)
        with contextlib.suppress(StoreError):
            await store.append(draft("new"))
        await may_have_missed
        stored = await store.append(draft("newer"))
        page = await store.read_after("lobby", 0, 100)
        self.assertNotEqual(page.epoch, before.message.position.epoch)
        self.assertEqual(page.epoch, stored.message.position.epoch)
        self.assertEqual(texts(page)[:5] + texts(page)[-1:], [1, 2, 3, 4, 5, "newer"])
        self.assertIn(page.epoch_start, (5, 6))
        self.assertEqual(offsets(page), list(range(1, page.top + 1)))
        self.assertEqual((await store.read_after("other", 0, 9)).epoch_start, 1)
        self.assertEqual((await store.read_after("never", 0, 9)).epoch_start, 0)

    def rebuild_store(self, retention: Retention) -> Any:
        """A store that is not started, and has what the last one has."""
        raise NotImplementedError

    async def test_sessions_after_restart(self) -> None:
        """Records outlive the process. Its end counts as the disconnect of all sockets that were connected."""
        store = await self.open_store()
        store.sessions.put("connected", b"1", connected=True)
        await store.sessions.put("away", b"2", connected=False)
        await store.stop()
        await self.pass_session_time(SESSION_SECONDS - 1)
        store = self.rebuild_store(Retention())
        await store.start()
        self.addCleanup(store.stop)
        self.assertEqual([b"1", b"2"], [await store.sessions.get(key) for key in ("connected", "away")])
        await self.pass_session_time(SESSION_SECONDS + 2)
        self.assertEqual([None, None], [await store.sessions.get(key) for key in ("connected", "away")])

    async def test_key_after_restart_and_step(self) -> None:
        """A key is known for 300 seconds also where the wall clock is set while nobody has the store."""
        store = await self.open_store(count=3)
        for step in (-3600.0, 400.0, 1e8):
            self.clock.advance(86400)
            await store.append(draft("a", key=f"k{step}"))
            await append_all(store, [draft(number) for number in range(150)])
            await store.stop()
            self.ahead += step
            store = self.rebuild_store(Retention(3))
            await store.start()
            self.addCleanup(store.stop)
            self.clock.advance(10)
            self.assertTrue((await store.append(draft("a", key=f"k{step}"))).duplicate, step)


class BrokerContract:
    """What :class:`~realtime_chat.core.interfaces.IBroker` promises.

    Mix it into a ``TestCase`` whose ``build_broker`` gives a broker that is not started, and whose store is.
    """

    async def build_broker(self) -> Any:
        """A broker that is not started."""
        raise NotImplementedError

    async def start_broker(self) -> tuple[Any, Recorder]:
        """A started broker, and what it told; it is stopped when the test ends."""
        broker, listener = await self.build_broker(), Recorder()
        await broker.start(listener)
        self.addCleanup(broker.stop)
        return broker, listener

    async def test_interface(self) -> None:
        """It has what the interface names, in the same shape."""
        broker, _ = await self.start_broker()
        self.assertTrue(verifyObject(IBroker, broker))

    async def test_describe(self) -> None:
        """It describes itself in one line, started or not."""
        broker = await self.build_broker()
        self.assertRegex(broker.describe(), r"^\w.*$")

    async def test_follow(self) -> None:
        """Rooms can be followed and unfollowed, over and over, whatever they are called."""
        broker, listener = await self.start_broker()
        for _ in range(3):
            for room in AWKWARD_NAMES:
                await broker.follow(room)
            for room in AWKWARD_NAMES:
                broker.unfollow(room)
        self.assertEqual([], listener.of("announced", "may_have_missed", "signalled", "relayed"))

    async def test_count(self) -> None:
        """In rooms that nobody is in there are none, whatever they are called."""
        broker, _ = await self.start_broker()
        self.assertEqual([0] * len(AWKWARD_NAMES), list(await broker.count(AWKWARD_NAMES)))

    async def test_own(self) -> None:
        """What a node tells is not told to it."""
        broker, listener = await self.start_broker()
        await broker.follow("lobby")
        broker.signal("lobby", "0" * 16, b"{}")
        broker.publish_presence("lobby", [RemoteClient("0" * 16, BOB)], [])
        broker.publish_presence("lobby", [], ["0" * 16])
        broker.forward(ForwardedCommand("0" * 16, leaves="lobby"))
        await broker.stop()
        self.assertEqual([], listener.of("signalled", "presence_delta", "forwarded"))

    async def test_stopped(self) -> None:
        """It can be stopped twice, and tells nothing after that."""
        broker, listener = await self.start_broker()
        await broker.follow("lobby")
        await broker.stop()
        told = len(listener.told)
        broker.signal("lobby", "0" * 16, b"{}")
        broker.unfollow("lobby")
        await broker.stop()
        self.assertEqual(told, len(listener.told))


async def append_all(store: Any, drafts: list[Draft]) -> list[AppendResult]:
    """Append without waiting in between; await all answers."""
    return await gatherResults([store.append(each) for each in drafts], consumeErrors=True)
