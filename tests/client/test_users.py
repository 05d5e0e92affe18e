"""Chats of users with tokens, with a real daemon, over each transport."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.internet import reactor

from realtime_chat.broker.local import LocalBroker
from realtime_chat.client import Chat, Message, Presence, Refused, Reset, Rights
from realtime_chat.composition import make_service
from realtime_chat.core.access import AccessPolicy
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.values.access import Grants, RoomRule, RoomRules, parse_rights
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits
from tests.client.served import ChatTestCase
from tests.site_tokens import SiteTokens

_RULES = RoomRules((RoomRule("public*", guests=parse_rights("r")),))


class _Site:
    """A site that gives tokens for whoever has logged in.

    :ivar asked: how often it was asked.
    """

    def __init__(self, tokens: SiteTokens, sub: str | None, **rooms: str) -> None:
        self._tokens = tokens
        self.sub = sub
        self.rooms = rooms
        self.life = 600.0
        self.asked = 0

    def __call__(self) -> str | None:
        self.asked += 1
        if self.sub is None:
            return None
        return self._tokens.issue_for(self.sub, Grants.of(self.rooms), self.life, self.sub.title(), b'{"role":"staff"}')


class UserContract:
    """What holds for a user's chat on each transport."""

    async def test_user(self: Any) -> None:
        """A user is who its token says, in its own chat and for others, and its rights are known."""
        site = self.site("ann", lobby="rwsp")
        ann = await self.chat(token=site)
        bob = await self.chat("websocket", token=self.site("bob", lobby="rp"))
        self.assertEqual(("ann", "Ann", False, {"role": "staff"}), self.fields_of(ann))
        room = await ann.join("lobby")
        heard = await bob.join("lobby")
        await room.publish("hi")
        [message] = await self.messages(heard, 1)
        self.assertEqual(("ann", "Ann", False), (message.sender.id, message.sender.name, message.sender.guest))
        await self.until(lambda: (room.rights, heard.rights) == ("rwsp", "rp"))
        await self.until(lambda: {member.id: member.guest for member in room.present} == {"ann": False, "bob": False})
        with self.assertRaises(Refused) as refused:
            await heard.publish("may not")
        self.assertEqual("forbidden", refused.exception.code)

    async def test_guest(self: Any) -> None:
        """A guest has what the rules give it, and nobody takes its name for a user's."""
        ann = await self.chat(token=self.site("ann", public="rwsp"))
        await ann.publish("public", "hi")
        guest = await self.chat(name="Ann")
        self.assertTrue(guest.user.guest and guest.user.id.startswith("~"))
        room = await guest.join("public")
        self.assertEqual(["hi"], await self.data(room, 1))
        for refused in (room.publish("x"), guest.join("lobby"), guest.publish("lobby", 1)):
            with self.assertRaises(RealtimeError) as error:
                await refused
            self.assertEqual("forbidden", error.exception.code)

    async def test_reconnect(self: Any) -> None:
        """A chat comes back as the same user without a new token, and goes on where it was."""
        site = self.site("ann", lobby="rwsp")
        ann = await self.chat(token=site)
        room = await ann.join("lobby")
        await room.publish(1)
        for kind in ("poll", "websocket", "sse"):
            await ann.switch(kind)
            await room.publish(kind)
        self.assertEqual([1, "poll", "websocket", "sse"], await self.data(room, 4))
        self.assertEqual((1, "ann"), (site.asked, ann.user.id))

    async def test_renewal(self: Any) -> None:
        """A renewal takes effect on the connection: rights come and go, and others see nobody leave."""
        site = self.site("ann", lobby="rwsp", garden="rwp")
        ann = await self.chat(token=site)
        lobby, garden = await ann.join("lobby"), await ann.join("garden")
        bob = await (await self.chat("websocket", token=self.site("bob", garden="rwsp"))).join("garden")
        await self.until(lambda: [member.id for member in bob.present or ()] == ["ann", "bob"])
        await self.until(lambda: garden.rights == "rwp" and lobby.rights == "rwsp")
        site.rooms = {"garden": "rp"}
        before = ann.client
        ann.renew()
        change = await self.event(garden, Rights)
        self.assertEqual(Rights("garden", "rp"), change)
        with self.assertRaises(Refused) as refused:
            async for _ in lobby:
                pass
        self.assertEqual("forbidden", refused.exception.code)
        self.assertNotEqual(before, ann.client)
        await bob.publish("after")
        self.assertEqual(["after"], await self.data(garden, 1))
        self.assert_never_lost(ann)
        self.assertEqual(["ann", "bob"], [member.id for member in bob.present])
        events: list[Any] = []
        while not (events and isinstance(events[-1], Message)):
            events.append(await self.event(bob))
        self.assertEqual([], [event for event in events if isinstance(event, Presence) and event.left])

    async def test_expiry(self: Any) -> None:
        """A chat whose token's time is over comes back with a new one, and loses nothing."""
        site = self.site("ann", lobby="rwsp")
        site.life = 2
        ann = await self.chat(token=site)
        room = await ann.join("lobby")
        site.life = 600
        await self.until(lambda: site.asked == 2)
        await room.publish("after")
        self.assertEqual(["after"], await self.data(room, 1))
        self.assertEqual("ann", ann.user.id)

    async def test_another_user(self: Any) -> None:
        """When another user logs in, the room begins anew as that user's."""
        site = self.site("ann", lobby="rwsp")
        ann = await self.chat(token=site)
        room = await ann.join("lobby")
        await room.publish("of ann")
        self.assertEqual(["of ann"], await self.data(room, 1))
        site.sub = "bob"
        ann.renew()
        await self.until(lambda: ann.user is not None and ann.user.id == "bob" and ann.state.kind == "connected")
        self.assertIsInstance(await self.event(room, Reset), Reset)
        message = await self.event(room, Message)
        self.assertEqual(("of ann", False), (message.data, message.own))
        await room.publish("of bob")
        self.assertEqual("bob", (await self.event(room, Message)).sender.id)

    async def test_refused(self: Any) -> None:
        """A token that isn't of this server's keys is refused, and the error says so without the token."""
        token = SiteTokens().issue("ann") + "-of-another-site"
        with self.assertRaises(Refused) as refused:
            await self.chat(token=token)
        self.assertEqual("unauthorized", refused.exception.code)
        self.assertNotIn(token[:20], str(refused.exception))

    async def test_private(self: Any) -> None:
        """A user reads its own private room, and nobody else does."""
        ann = await self.chat(token=self.site("ann", **{"@*": "w"}))
        bob = await self.chat("websocket", token=self.site("bob", **{"@*": "w"}))
        room = await ann.join("@ann")
        await bob.publish("@ann", "psst")
        self.assertEqual(["psst"], await self.data(room, 1))
        with self.assertRaises(Refused):
            await bob.join("@ann")


class _UserTestCase(ChatTestCase):
    """A daemon with a site's key and a rule."""

    def make_service(self) -> RealtimeService:
        self.tokens = SiteTokens()
        configuration = Configuration(
            (self.listen,),
            limits=Limits(history=self.history, **self.limits),
            access=AccessPolicy(_RULES, False),
            verify=self.tokens.verify,
            token_keys=self.tokens.token_keys,
        )
        return make_service(reactor, self.store, LocalBroker(), configuration, time.time, os.urandom)

    def site(self, sub: str, **rooms: str) -> _Site:
        return _Site(self.tokens, sub, **rooms)

    def fields_of(self, chat: Chat) -> tuple[Any, ...]:
        assert chat.user is not None
        return chat.user.id, chat.user.name, chat.user.guest, dict(chat.user.info)


class WebSocketUserTests(UserContract, _UserTestCase):
    """Users over WebSocket."""

    transports = ("websocket",)


class SSEUserTests(UserContract, _UserTestCase):
    """Users over server-sent events."""

    transports = ("sse",)


class PollUserTests(UserContract, _UserTestCase):
    """Users over long polls."""

    transports = ("poll",)
