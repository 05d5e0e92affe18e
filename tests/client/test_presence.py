"""Presence and signals as chats see them on each transport."""

from __future__ import annotations

from typing import Any

from realtime_chat.client import Chat, Presence, Room, Signal
from tests.client.served import ChatTestCase


class PresenceContract:
    """Presence and signals of other chats."""

    async def told(self: Any, room: Room, condition: Any) -> dict[str, Any]:
        """Take events until a condition is true of the members, and return them."""
        while True:
            members = {member.id: member for member in room.present or ()}
            if condition(members):
                self.assertEqual(room.count, len(members))
                return members
            await self.event(room, Presence)

    async def test_join_and_leave(self: Any) -> None:
        """Joins and leaves are reported, with names."""
        ann = await self.chat(name="Ann")
        room = await ann.join("lobby")
        bob = await self.chat("websocket", name="Bob")
        there = await bob.join("lobby")
        members = await self.told(room, lambda members: len(members) == 2)
        self.assertEqual({"Ann", "Bob"}, {member.name for member in members.values()})
        await there.leave()
        members = await self.told(room, lambda members: len(members) == 1)
        self.assertEqual({ann.user.id}, set(members))

    async def test_is_told_of(self: Any) -> None:
        """Others see that a chat joins, its state, and that it leaves when it is closed."""
        there = await (await self.chat("websocket")).join("lobby")
        chat: Chat = await self.chat(name="Ann")
        await chat.join("lobby")
        await self.told(there, lambda members: len(members) == 2)
        chat.set_state({"away": True})
        members = await self.told(there, lambda members: any(member.state for member in members.values()))
        self.assertEqual({"away": True}, dict(members[chat.user.id].state))
        await chat.close()
        await self.told(there, lambda members: len(members) == 1)

    async def test_state_before_joining(self: Any) -> None:
        """A state that was set before a room is joined is seen in that room."""
        there = await (await self.chat("websocket")).join("lobby")
        chat: Chat = await self.chat()
        chat.set_state({"page": "/help"})
        await chat.join("lobby")
        await self.told(there, lambda members: any(member.state for member in members.values()))

    async def test_members(self: Any) -> None:
        """``members`` lists all members, page by page."""
        chat = await self.chat(name="Ann")
        room = await chat.join("lobby")
        await (await self.chat("websocket", name="Bob")).join("lobby")
        await self.told(room, lambda members: len(members) == 2)
        self.assertEqual({"Ann", "Bob"}, {member.name for member in await room.members()})
        self.assertEqual(2, room.count)

    async def test_signals(self: Any) -> None:
        """A signal reaches the others and not its sender; it has no position."""
        ann, bob = await self.chat(name="Ann"), await self.chat("websocket", name="Bob")
        here, there = await ann.join("lobby"), await bob.join("lobby")
        await self.told(here, lambda members: len(members) == 2)
        await here.signal("typing", {"far": 1})
        signal = await self.event(there, Signal)
        self.assertEqual(("typing", {"far": 1}, "Ann"), (signal.event, signal.data, signal.sender.name))
        await there.signal("typing")
        signal = await self.event(here, Signal)
        self.assertEqual(("Bob", None), (signal.sender.name, signal.data))

    async def test_switching_is_no_leaving(self: Any) -> None:
        """Others don't see a chat leave when it switches its transport."""
        there = await (await self.chat("websocket")).join("lobby")
        chat = await self.chat()
        room = await chat.join("lobby")
        await self.told(there, lambda members: len(members) == 2)
        for kind in ("poll", "sse", "websocket", "poll"):
            await chat.switch(kind)
            await room.publish(kind)
        seen = [event async for event in self.until_message(there, 4)]
        self.assertEqual([], [event for event in seen if isinstance(event, Presence) and event.left])

    async def until_message(self: Any, room: Room, count: int) -> Any:
        """All events until a number of messages have come."""
        async for event in room:
            yield event
            count -= not isinstance(event, Presence)
            if not count:
                return


class WebSocketPresenceTests(PresenceContract, ChatTestCase):
    """Over WebSocket."""

    transports = ("websocket",)


class SSEPresenceTests(PresenceContract, ChatTestCase):
    """Over server-sent events."""

    transports = ("sse",)


class PollPresenceTests(PresenceContract, ChatTestCase):
    """Over long poll."""

    transports = ("poll",)
