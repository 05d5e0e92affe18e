"""What every store promises of the logs of properties."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from realtime_chat.store.retention import KEY_SECONDS
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import AppendResult, Draft, Page, Position, User, properties_log

BOB = User("u7", "Bob")
REMOVED = object()
"""Stands for no data."""


def change(name: str, value: Any = REMOVED, key: str | None = None, room: str = "lobby", sender: User = BOB) -> Draft:
    """A draft that sets or removes a property."""
    data = b"" if value is REMOVED else json.dumps(value, separators=(",", ":")).encode()
    return Draft(properties_log(room), name, data, sender, key)


def values(page: Page) -> dict[str, Any]:
    """The properties of a page, in their order."""
    return {message.event: json.loads(message.data) for message in page.messages}


class PropertiesContract:
    """What :class:`~realtime_chat.core.interfaces.IMessageStore` promises of the logs of properties."""

    clock: Any

    async def open_store(self, count: int = 1000, age: float | None = None, **bounds: Any) -> Any:
        raise NotImplementedError

    async def assert_raises(self, code: str, answer: Deferred[Any]) -> RealtimeError:
        raise NotImplementedError

    async def read(self, store: Any, after: int = 0, room: str = "lobby") -> Page:
        """The properties of a room that were set after an offset."""
        page: Page = await store.read_after(properties_log(room), after, 2000)
        return page

    async def set_all(self, store: Any, *drafts: Draft) -> list[AppendResult]:
        """Set properties without waiting for one another."""
        return [await answer for answer in [store.append(draft) for draft in drafts]]

    async def test_last_value(self) -> None:
        """Of each property the last value is kept, in the order in which they were set; offsets have no holes."""
        store = await self.open_store()
        answers = await self.set_all(store, change("a", 1), change("b", None), change("a", {"x": 2}))
        self.assertEqual([1, 2, 3], [answer.message.position.offset for answer in answers])
        page = await self.read(store)
        self.assertEqual([("b", None), ("a", {"x": 2})], list(values(page).items()))
        self.assertEqual((3, (2, 3)), (page.top, tuple(one.position.offset for one in page.messages)))
        self.assertEqual([answers[1].message, answers[2].message], list(page.messages))
        self.assertLessEqual(page.oldest, 1)

    async def test_changes_after(self) -> None:
        """A read after an offset has what was set since, and nothing else."""
        store = await self.open_store()
        await self.set_all(store, change("a", 1), change("b", 2), change("c", 3), change("a", 4))
        self.assertEqual({"c": 3, "a": 4}, values(await self.read(store, 2)))
        self.assertEqual({}, values(await self.read(store, 4)))

    async def test_own_log(self) -> None:
        """Properties and messages of a room have offsets of their own under one epoch, and don't mix."""
        store = await self.open_store()
        message = Draft("lobby", "message", b"1", BOB)
        answers = await self.set_all(store, message, change("a", 1), message, change("b", 1))
        self.assertEqual([1, 1, 2, 2], [answer.message.position.offset for answer in answers])
        self.assertEqual(1, len({answer.message.position.epoch for answer in answers}))
        self.assertEqual(["message"] * 2, [one.event for one in (await store.read_after("lobby", 0, 9)).messages])
        self.assertEqual(["a", "b"], list(values(await self.read(store))))
        self.assertEqual({}, values(await self.read(store, room="other")))

    async def test_removed(self) -> None:
        """A removal takes an offset; a page tells from which offset on none is missing."""
        store = await self.open_store()
        await self.set_all(store, change("a", 1), change("b", 2))
        (removal,) = await self.set_all(store, change("a"))
        self.assertEqual((3, b""), (removal.message.position.offset, removal.message.data))
        page = await self.read(store)
        self.assertEqual(({"b": 2}, 3, 4), (values(page), page.top, page.oldest))
        await self.set_all(store, change("a", 5))
        page = await self.read(store, 3)
        self.assertEqual(({"a": 5}, 4, 4), (values(page), page.top, page.oldest))

    async def test_removed_at_once(self) -> None:
        """Setting, removing and setting again without waiting has the last effect."""
        store = await self.open_store()
        await self.set_all(store, change("a", 1), change("a"), change("b", 2), change("a", 3), change("b"))
        self.assertEqual({"a": 3}, values(await self.read(store)))

    async def test_nothing_to_remove(self) -> None:
        """Removing what isn't there stores nothing; the answer is where the log ends."""
        store = await self.open_store()
        for room, expected in (("lobby", 0), ("lobby", 0)):
            answer = await store.append(change("a", room=room))
            self.assertEqual((expected, True), (answer.message.position.offset, answer.duplicate))
        self.assertEqual([], list(await store.rooms("", 9)))
        await self.set_all(store, change("b", 1))
        answer = await store.append(change("a"))
        self.assertEqual((1, True), (answer.message.position.offset, answer.duplicate))
        self.assertEqual(1, (await self.read(store)).top)

    async def test_awkward_property_names(self) -> None:
        """Any name is a name."""
        store = await self.open_store()
        names = ["*", "%s", "a:b", "';--", "\\", "é", "e\u0301", "/properties", "0", "null", "a b"]
        await self.set_all(store, *(change(name, name) for name in names))
        self.assertEqual({name: name for name in names}, values(await self.read(store)))

    async def test_outlives_trimming(self) -> None:
        """However many changes there are, and however old they get, the last values stay."""
        store = await self.open_store(count=10, age=60)
        await self.set_all(store, change("old", 1))
        for turn in range(3):
            await self.set_all(store, *(change("a", 100 * turn + number) for number in range(100)))
            self.clock.advance(100)
            await store.rooms("", 9)
        page = await self.read(store)
        self.assertEqual(({"old": 1, "a": 299}, 301), (values(page), page.top))
        self.assertLessEqual(page.oldest, 1)

    async def test_too_many_properties(self) -> None:
        """Beyond the most properties of a room a new one is refused; those that are there can be set and removed."""
        store = await self.open_store(properties=2)
        await self.set_all(store, change("a", 1), change("b", 1))
        error = await self.assert_raises("too_many", store.append(change("c", 1)))
        self.assertIn("at most 2 properties", error.message)
        await self.set_all(store, change("a", 2), change("b"), change("c", 3), change("x", 1, room="other"))
        self.assertEqual({"a": 2, "c": 3}, values(await self.read(store)))
        self.assertEqual(5, (await self.read(store)).top)

    async def test_too_many_at_once(self) -> None:
        """The limit counts what is set at the same time."""
        store = await self.open_store(properties=2)
        answers = [store.append(change(name, 1)) for name in ("a", "b", "c", "a")]
        await self.assert_raises("too_many", answers.pop(2))
        self.assertEqual([1, 2, 3], [(await answer).message.position.offset for answer in answers])

    async def test_too_much(self) -> None:
        """All data of a room's properties together are bounded."""
        store = await self.open_store(property_bytes=100)
        await self.set_all(store, change("a", "x" * 60), change("a", "y" * 60))
        await self.assert_raises("too_many", store.append(change("b", "x" * 60)))
        await self.set_all(store, change("a", 1), change("b", "z" * 60))
        self.assertEqual({"a": 1, "b": "z" * 60}, values(await self.read(store)))

    async def test_set_again_under_a_key(self) -> None:
        """Under its key a change is made once, even if another one was made since; other content is refused."""
        store = await self.open_store()
        first, _ = await self.set_all(store, change("a", 1, "k"), change("a", 2))
        again = await store.append(change("a", 1, "k"))
        self.assertEqual((first.message.position, True), (again.message.position, again.duplicate))
        for other in (change("a", 3, "k"), change("b", 1, "k"), change("a", key="k")):
            await self.assert_raises("key_reused", store.append(other))
        self.assertEqual(({"a": 2}, 2), (values(page := await self.read(store)), page.top))
        message = Draft("lobby", "a", b"1", BOB, "k")
        self.assertFalse((await store.append(message)).duplicate)
        self.assertFalse((await store.append(change("a", 9, "k", sender=User("u8", "Ann")))).duplicate)

    async def test_removed_under_a_key(self) -> None:
        """A removal under a key is made once."""
        store = await self.open_store()
        await self.set_all(store, change("a", 1))
        first, _ = await self.set_all(store, change("a", key="k"), change("a", 2))
        again = await store.append(change("a", key="k"))
        self.assertEqual((first.message.position, True), (again.message.position, again.duplicate))
        self.assertEqual({"a": 2}, values(await self.read(store)))

    async def test_nothing_removed_under_a_key(self) -> None:
        """A removal of what isn't there is made once, too: repeated, it doesn't remove what was set meanwhile."""
        store = await self.open_store()
        await self.set_all(store, change("b", 1, "b"))
        first, second = await self.set_all(store, change("a", key="k"), change("a", key="k"))
        await self.set_all(store, change("a", 2))
        for answer in (second, await store.append(change("a", key="k"))):
            self.assertEqual((first.message.position, True), (answer.message.position, answer.duplicate))
        self.assertEqual(({"b": 1, "a": 2}, 2), (values(page := await self.read(store)), page.top))
        await self.assert_raises("key_reused", store.append(change("a", 3, "k")))
        self.assertTrue((await store.append(change("b", 1, "b"))).duplicate)

    async def test_key_of_overwritten(self) -> None:
        """The key of a change that was overwritten is known for 300 seconds."""
        store = await self.open_store(count=10)
        await self.set_all(store, change("a", 0, "k"), *(change("a", number) for number in range(1, 30)))
        self.clock.advance(KEY_SECONDS - 10)
        self.assertTrue((await store.append(change("a", 0, "k"))).duplicate)

    async def test_listed(self) -> None:
        """A room with properties is a room; its properties are none."""
        store = await self.open_store(age=60)
        await self.set_all(store, change("a", 1, room="b"), change("a", 1, room="a"), Draft("c", "x", b"1", BOB))
        self.assertEqual(["a", "b", "c"], list(await store.rooms("", 9)))
        self.assertEqual(["b"], list(await store.rooms("a", 1)))
        page = await store.read_after("a", 0, 9)
        self.assertEqual((0, ()), (page.top, page.messages))
        self.assertEqual(1, (await store.append(Draft("a", "x", b"1", BOB))).message.position.offset)

    async def test_rooms_with_properties_stay(self) -> None:
        """A room with a property is not forgotten; without one it is, and no position is given twice."""
        store = await self.open_store(age=60)
        await self.set_all(store, *(change("a", number) for number in range(5)), change("b", 1, room="other"))
        for _ in range(5):
            await store.append(Draft("unused", "x", b"1", BOB))
            await self.forgotten(store, "unused", step=31)
        self.assertEqual(["lobby", "other"], list(await store.rooms("", 9)))
        self.assertEqual({"a": 4}, values(await self.read(store)))
        await self.set_all(store, change("a"))
        await self.forgotten(store, "lobby", step=31)
        page = await self.read(store)
        self.assertEqual((), page.messages)
        self.assertGreaterEqual(page.top, 6)
        (answer,) = await self.set_all(store, change("a", 1))
        self.assertGreater(answer.message.position.offset, page.top)
        self.assertEqual(["lobby", "other"], list(await store.rooms("", 9)))

    async def test_room_limits_of_properties(self) -> None:
        """Where no more rooms may be made, a room can't be made by a property either."""
        store = await self.open_store(rooms=1)
        await self.set_all(store, change("a", 1))
        await self.assert_raises("too_many", store.append(change("a", 1, room="other")))
        self.assertEqual(["lobby"], list(await store.rooms("", 9)))
        self.assertEqual(Position, type((await store.append(change("b", 1))).message.position))
