"""Chats over each transport, and over one after another."""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from realtime_chat.client import Chat, Closed, Message, Refused, Reset, connect
from realtime_chat.values.errors import RealtimeError
from tests.client.served import ChatTestCase

KINDS = ("poll", "websocket", "sse")


class ChatContract:
    """What holds for a chat on each transport."""

    async def test_joins_with_the_last_messages(self: Any) -> None:
        """A room that is joined without a position starts with ``last`` messages."""
        writer = await self.chat("websocket")
        for number in range(5):
            await writer.publish("lobby", number)
        room = await (await self.chat()).join("lobby", last=2)
        self.assertEqual([3, 4], await self.data(room, 2))

    async def test_joins_without_history(self: Any) -> None:
        """``last=0`` starts at the log's end."""
        writer = await self.chat("websocket")
        await writer.publish("lobby", "before")
        room = await (await self.chat()).join("lobby", last=0)
        await writer.publish("lobby", "after")
        self.assertEqual(["after"], await self.data(room, 1))

    async def test_order(self: Any) -> None:
        """Messages that are published without waiting are stored, acknowledged and read in order."""
        chat = await self.chat()
        room = await chat.join("lobby")
        positions = await gatherResults([room.publish(number) for number in range(300)])
        self.assertEqual(list(range(1, 301)), [position.offset for position in positions])
        messages = await self.messages(room, 300)
        self.assertEqual(list(range(300)), [message.data for message in messages])
        self.assertEqual(positions, [message.position for message in messages])
        self.assertTrue(all(message.own for message in messages))

    async def test_what_cannot_be_sent(self: Any) -> None:
        """Data that the server can't accept is refused before it is sent; nothing else is affected."""
        chat = await self.chat(name="Ann")
        room = await chat.join("lobby")
        nested: Any = []
        for _ in range(40):
            nested = [nested]
        halves = "abc\ud83d", {"a": ["\ude00"]}, {"\ud83d": 1}
        for value in (*halves, float("nan"), [float("inf")], nested, 10**400, 10**4000):
            error = self.assertRaises(RealtimeError, room.publish, {"text": value})
            self.assertEqual("bad_request", error.code)
            self.assertRaises(RealtimeError, chat.set_state, {"x": value})
            with self.assertRaises(RealtimeError):
                await room.signal("x", value)
        for wrong in ({"event": "\ud83d"}, {"key": "\ud83d"}):
            self.assertRaises(RealtimeError, room.publish, 1, **wrong)
        with self.assertRaises(RealtimeError):
            await chat.join("\ud83d")
        self.assertRaises(RealtimeError, connect, reactor, self.url, name="\ud83d")
        self.assertRaises(ValueError, connect, reactor, self.url, client="\ud83d")
        await room.publish({"text": "😀", "none": None})
        self.assertEqual([{"text": "😀", "none": None}], await self.data(room, 1))
        self.assert_never_lost(chat)

    async def test_two_rooms(self: Any) -> None:
        """Several rooms can be read at once, and joined at any time."""
        chat = await self.chat()
        first = await chat.join("a")
        await first.publish("a1")
        second = await chat.join("b")
        await chat.publish("b", "b1")
        await first.publish("a2")
        self.assertEqual(["a1", "a2"], await self.data(first, 2))
        self.assertEqual(["b1"], await self.data(second, 1))
        self.assert_never_lost(chat)

    async def test_since(self: Any) -> None:
        """With a position, of a message or of a room, a new chat goes on where another one stopped."""
        writer = await self.chat("websocket")
        positions = [await writer.publish("lobby", number) for number in range(250)]
        room = await (await self.chat()).join("lobby", since=str(positions[9]))
        self.assertEqual(list(range(10, 250)), await self.data(room, 240))
        position = room.position
        await writer.publish("lobby", 250)
        again = await (await self.chat()).join("lobby", since=position)
        self.assertEqual([250], await self.data(again, 1))

    async def test_reset(self: Any) -> None:
        """A position that the log no longer covers gives a reset before the messages that are left."""
        self.history = 50
        await self.serve_anew()
        writer = await self.chat("websocket")
        first = await writer.publish("lobby", "old")
        await gatherResults([writer.publish("lobby", number) for number in range(25)])
        await gatherResults([writer.publish("lobby", number) for number in range(50)])
        room = await (await self.chat()).join("lobby", since=first, last=3)
        reset = await self.event(room)
        self.assertIsInstance(reset, Reset)
        messages = await self.messages(room, 3)
        self.assertEqual([47, 48, 49], [message.data for message in messages])
        self.assertEqual(reset.position.offset + 1, messages[0].position.offset)

    async def test_key(self: Any) -> None:
        """Publishing the same data under the same key is one message; other data is refused."""
        chat = await self.chat()
        first = await chat.publish("lobby", {"a": 1}, key="k")
        self.assertEqual(first, await chat.publish("lobby", {"a": 1}, key="k"))
        error = await self.assertFailure(chat.publish("lobby", {"a": 2}, key="k"), Refused)
        self.assertEqual(("key_reused", False), (error.code, error.temporary))

    async def test_history(self: Any) -> None:
        """History pages back to the beginning."""
        chat = await self.chat()
        room = await chat.join("lobby", last=0)
        await gatherResults([room.publish(number) for number in range(5)])
        page = await room.history(limit=2)
        self.assertEqual([3, 4], [message.data for message in page.messages])
        page = await room.history(before=page.messages[0].position, limit=10)
        self.assertEqual([0, 1, 2], [message.data for message in page.messages])

    async def test_refused_room(self: Any) -> None:
        """A private room of another user is refused, and the chat goes on."""
        chat = await self.chat()
        error = await self.assertFailure(Deferred.fromCoroutine(chat.join("@somebody")), Refused)
        self.assertEqual("forbidden", error.code)
        room = await chat.join("lobby")
        await room.publish("hi")
        self.assertEqual(["hi"], await self.data(room, 1))

    async def test_private_room(self: Any) -> None:
        """A user's own private room can be read, and others can publish to it."""
        chat = await self.chat()
        room = await chat.join(f"@{chat.user.id}")
        await (await self.chat("poll")).publish(room.name, "psst")
        self.assertEqual(["psst"], await self.data(room, 1))

    async def test_leave(self: Any) -> None:
        """A room that was left ends, and can be joined again."""
        chat = await self.chat()
        room = await chat.join("lobby")
        await room.publish(1)
        await self.data(room, 1)
        await room.leave()
        self.assertEqual([], [event async for event in room])
        again = await chat.join("lobby", last=1)
        self.assertEqual([1], await self.data(again, 1))

    async def test_closing_ends_everything(self: Any) -> None:
        """When the chat is closed, iterations end and publishing fails."""
        chat = await self.chat()
        room = await chat.join("lobby")
        reading = Deferred.fromCoroutine(_all(room))
        await chat.close()
        self.assertEqual([], [event for event in await reading if isinstance(event, Message)])
        await self.assertFailure(chat.publish("lobby", 1), Closed)

    async def test_restart(self: Any) -> None:
        """After a restart of the daemon, rooms are read on from their positions, and waiting messages are published."""
        await self.keep_on_disk()
        chat = await self.chat()
        room = await chat.join("lobby")
        await room.publish(0)
        self.assertEqual([0], await self.data(room, 1))
        await self.service.stopService()
        await self.until(lambda: chat.state.kind == "waiting")
        waiting = gatherResults([room.publish(number) for number in range(1, 60)])
        await self.start_again()
        self.assertEqual(list(range(2, 61)), [position.offset for position in await waiting])
        self.assertEqual(list(range(1, 60)), await self.data(room, 59))

    async def test_slow_reader(self: Any) -> None:
        """A room that isn't iterated over blocks neither publishing nor other rooms, and gives everything later."""
        chat = await self.chat(buffer=20)
        slow = await chat.join("slow")
        quick = await chat.join("quick")
        writer = await self.chat("websocket")
        await gatherResults([writer.publish("slow", number) for number in range(500)])
        await quick.publish("still here")
        self.assertEqual(["still here"], await self.data(quick, 1))
        await slow.publish(500)
        await quick.leave()
        self.assertEqual(list(range(501)), await self.data(slow, 501))
        self.assert_never_lost(chat)

    async def test_slow_reader_pauses(self: Any) -> None:
        """A chat whose only room isn't iterated over reads no more than its buffer, and goes on later."""
        chat = await self.chat(buffer=20)
        room = await chat.join("lobby")
        writer = await self.chat("websocket")
        for start in range(0, 900, 100):
            await gatherResults([writer.publish("lobby", number) for number in range(start, start + 100)])
        self.assertLessEqual(len(room._subscription._events), 20)
        self.assertEqual(list(range(900)), await self.data(room, 900))
        self.assert_never_lost(chat)

    async def test_large_messages(self: Any) -> None:
        """Messages of sixty kilobytes arrive whole, also many at once."""
        chat = await self.chat()
        room = await chat.join("lobby")
        texts = [f"{number}" + "x" * 60_000 for number in range(40)]
        await gatherResults([room.publish(text) for text in texts])
        self.assertEqual(texts, await self.data(room, 40))

    async def test_too_large(self: Any) -> None:
        """One message that is too large fails, and the others are stored."""
        chat = await self.chat()
        room = await chat.join("lobby")
        promises = [room.publish(text) for text in ("before", "x" * 70_000, "after")]
        error = await self.assertFailure(promises[1], Refused)
        self.assertEqual("too_large", error.code)
        self.assertEqual([1, 2], [(await promise).offset for promise in promises[::2]])
        self.assertEqual(["before", "after"], await self.data(room, 2))


class WebSocketChatTests(ChatContract, ChatTestCase):
    """Over WebSocket."""

    transports = ("websocket",)


class PollChatTests(ChatContract, ChatTestCase):
    """Over long poll."""

    transports = ("poll",)


class SSEChatTests(ChatContract, ChatTestCase):
    """Over server-sent events."""

    transports = ("sse",)


class SwitchedChatTests(ChatContract, ChatTestCase):
    """With the transport switched by force."""

    def assert_never_lost(self, chat: Chat) -> None:
        """The transport is switched all the time."""

    async def chat(self, *transports: str, **options: Any) -> Chat:
        chat = await super().chat(*transports, **options)
        if not transports:
            self.switch_often(chat)
        return chat

    def switch_often(self, chat: Chat) -> None:
        """Switch the transport of a chat again and again while it is open.

        Each transport has 50 turns of the reactor at least. The server has the same reactor, so a busy machine leaves a
        transport as much to do as an idle one; otherwise it could be switched before anything has come.
        """

        async def switch() -> None:
            for kind in itertools.cycle(KINDS):
                await deferLater(reactor, 0.05)
                for _ in range(50):
                    await deferLater(reactor, 0)
                await chat.switch(kind)

        switching = Deferred.fromCoroutine(switch())
        switching.addErrback(lambda failure: failure.trap(Closed, CancelledError))
        self.addCleanup(switching.cancel)

    async def test_between_every_two_messages(self) -> None:
        """If each message uses another transport, every one comes once and in order."""
        chat = await ChatTestCase.chat(self)
        room = await chat.join("lobby")
        for number, kind in zip(range(24), itertools.cycle(KINDS)):
            await chat.switch(kind)
            self.assertEqual(kind, chat.state.transport)
            promise = room.publish(number)
            self.assertEqual([number], await self.data(room, 1))
            self.assertEqual(number + 1, (await promise).offset)

    async def test_in_the_middle_of_publishing(self) -> None:
        """If the transport is switched while publishes are pending, each is stored once, in order, and acknowledged."""
        chat = await ChatTestCase.chat(self)
        room = await chat.join("lobby")
        promises = []
        for number, kind in zip(range(0, 240, 10), itertools.cycle(KINDS)):
            promises += [room.publish(number + more) for more in range(10)]
            switched = chat.switch(kind)
            last = room.publish("between")
            promises.append(last)
            await switched
            await self.until(lambda: promises[-8].called)  # noqa: B023
        offsets = [position.offset for position in await gatherResults(promises)]
        self.assertEqual(list(range(1, 265)), offsets)
        said = [text for text in await self.data(room, 264) if text != "between"]
        self.assertEqual(list(range(240)), said)


async def _all(room: Any) -> list[Any]:
    return [event async for event in room]
