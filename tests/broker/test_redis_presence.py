"""Tests for :mod:`realtime_chat.broker.redis_presence`: who is in a room, over a real Redis."""

from __future__ import annotations

import time
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater

from realtime_chat.broker.presence_messages import Missed, encode_notice
from realtime_chat.values.bounded import BoundedByUser
from realtime_chat.values.model import ForwardedCommand
from tests.clients import EventClient, PollClient, SocketClient
from tests.deadlines import Stopwatch
from tests.redis_nodes import NodesTestCase, RovingPollClient

KINDS = (SocketClient, EventClient, PollClient)


class TogetherTests(NodesTestCase):
    """Nodes that are well."""

    async def test_everywhere(self) -> None:
        """Clients of each transport on each node see the members of all nodes, and their joins and leaves."""
        one, two = self.nodes
        clients = [await self.client(kind, one, f"a{number}") for number, kind in enumerate(KINDS)]
        clients += [await self.client(kind, two, f"b{number}") for number, kind in enumerate(KINDS)]
        names = ["a0", "a1", "a2", "b0", "b1", "b2"]
        for client in clients:
            await client.sees(*names)
        await clients[0].stop()
        for client in clients[1:]:
            await client.sees(*names[1:])
        self.assertEqual([1] * 5, [len(client.view.left) for client in clients[1:]])

    async def test_states(self) -> None:
        """A state that a client says to one node, by a request, is seen on the other, whichever it is with."""
        one, two = self.nodes
        poller, watcher = await self.client(PollClient, one, "Ann"), await self.client(SocketClient, two, "Bob")
        await watcher.sees("Ann", "Bob")
        other = EventClient(reactor, two.port)
        other.client = poller.client
        self.clients.append(other)
        await other.tell(type="state", state={"mood": "fine"})

        def moods() -> list[Any]:
            return [member["state"] for member in (watcher.view.members or {}).values() if member["name"] == "Ann"]

        await watcher.until(lambda: moods() == [{"mood": "fine"}])
        self.assertEqual([], watcher.view.left)

    async def test_roving_poll(self) -> None:
        """A client whose every poll goes to another node gets everything, causes no events, and leaves once."""
        watcher = await self.client(SocketClient, self.nodes[0], "Ann")
        rover = RovingPollClient(reactor, self.nodes[1].port)
        rover.rove(self.nodes)
        self.clients.append(rover)
        await rover.start(name="Bob")
        await self.agree("Ann", "Bob")
        await watcher.sees("Ann", "Bob")
        events = len(watcher.of_type("presence"))
        writer = await self.client(SocketClient, self.nodes[1], "Cid")
        for number in range(40):
            await writer.publish(number)
            await rover.count(number + 1)
        self.assertEqual(list(range(40)), rover.data)
        await rover.sees("Ann", "Bob", "Cid")
        self.assertEqual(1, len(watcher.of_type("presence")) - events)
        other = EventClient(reactor, self.nodes[0].port)
        other.client = rover.client
        self.clients.append(other)
        await rover.stop()
        self.assertEqual("left", (await other.tell(type="leave", room="lobby"))["type"])
        await watcher.sees("Ann", "Cid")
        self.assertEqual(1, len(watcher.view.left))

    async def test_asked(self) -> None:
        """A node without readers in the room finds out its members before it replies."""
        one, two = self.nodes
        await (await self.client(SocketClient, one, "Ann")).publish("there is a room")
        await self.until(lambda: self.fields())
        for path, key in (("rooms/lobby/members", "members"), ("rooms", "rooms")):
            answer = await treq.get(f"http://127.0.0.1:{two.port}/{path}", persistent=False)
            (found,) = (await answer.json())[key]
            self.assertEqual("Ann" if key == "members" else 1, found["name" if key == "members" else "count"])

    async def test_listed(self) -> None:
        """A list of rooms says of each how many users are in it, and its node hears of none of them afterwards."""
        one, two = self.nodes
        ann = await self.client(SocketClient, one, "Ann")
        await ann.who()
        for number in range(50):
            await ann.tell(type="publish", room=f"r{number}", data=number)
        await ann.publish("here")
        await self.client(EventClient, one, "Ann again", ann.client)
        await self.client(SocketClient, two, "Bob")
        third = await self.node()
        await self.until(lambda: len(self.fields()) == 2)
        before = len(third.broker.subscriptions)
        answer = await treq.get(f"http://127.0.0.1:{third.port}/rooms", persistent=False)
        counts = {room["room"]: room["count"] for room in (await answer.json())["rooms"]}
        self.assertEqual({"lobby": 2, **{f"r{number}": 0 for number in range(50)}}, counts)
        self.assertEqual((before, 0), (len(third.broker.subscriptions), len(third.hub.rooms)))
        self.assertEqual([2], await third.broker.count(["lobby"]))

    async def test_counted(self) -> None:
        """A user counts once, by however many nodes; of nodes that are gone nobody counts."""
        members = "realtime:0:members:lobby"
        one, two = (node.name for node in self.nodes)
        for field, row in (
            (f"{one}:aa", '["aa","u1","Ann",true,{},1]'),
            (f"{two}:aa", '["aa","u1","Ann",true,{},1]'),
            (f"{two}:bb", '["bb","u2","Bob",true,{},1]'),
            ("dead:cc", '["cc","u3","Cid",true,{},1]'),
            (f"{one}:dd", "damaged"),
            ("v", "4"),
            ("id", "0a"),
        ):
            self.server.command("HSET", members, field, row)
        self.assertEqual([0, 2], await self.nodes[0].broker.count(["other", "lobby"]))

    async def test_storm(self) -> None:
        """Hundreds of joins at once reach the other nodes in a few changes."""
        await self.write()
        one, two = self.nodes
        watcher = await self.client(SocketClient, two, "Ann")
        before = self.version()
        crowd = SocketClient(reactor, one.port)
        self.clients.append(crowd)
        begun = time.monotonic()
        sessions = [await self.client(SocketClient, one, f"n{number:03}") for number in range(150)]
        taken = time.monotonic() - begun
        await self.until(lambda: watcher.view.count == 151)
        self.assertLessEqual(self.version() - before, taken / 0.25 + 4)
        self.assertEqual(151, len(sessions) + 1)

    async def test_nothing_left(self) -> None:
        """When all clients have gone there are no rows, and the hash expires."""
        await self.write()
        clients = [await self.client(SocketClient, node, "Ann") for node in self.nodes]
        await self.until(lambda: len(self.fields()) == 2)
        for client in clients:
            await client.stop()
        await self.until(lambda: not self.fields())
        self.assertGreater(self.server.command("TTL", "realtime:0:members:lobby"), 0)
        self.assertEqual(({}, {}), (self.nodes[0].presence.publisher.rows, self.nodes[0].presence.publisher.lost))

    async def test_apart(self) -> None:
        """Another prefix, another database, and a room of a strange name are other rooms."""
        await self.write()
        others = [await self.node(prefix="other"), await self.node(database=1)]
        await self.client(SocketClient, self.nodes[0], "Ann")
        for other in others:
            await self.client(SocketClient, other, "Bob")
        await self.until(lambda: len(self.fields()) == 1)
        await deferLater(reactor, 0.3, lambda: None)  # type: ignore[arg-type]
        self.assertEqual([["Ann"], ["Bob"], ["Bob"]], [node.members for node in (self.nodes[0], *others)])

    def fields(self) -> list[bytes]:
        """The rows of the lobby."""
        return [field for field in self.server.command("HKEYS", "realtime:0:members:lobby") if b":" in field]

    def version(self) -> int:
        return int(self.server.command("HGET", "realtime:0:members:lobby", "v") or 0)


class GoneTests(NodesTestCase):
    """Nodes that go."""

    options = {"node_timeout": 1.5, "held": 3.0}
    has_messages = True

    async def test_dies(self) -> None:
        """When a node has died, the clients that were in the room through it leave in time, and no others."""
        third = await self.node()
        one, two, _ = self.nodes
        if self.has_messages:
            await self.write()
        await self.client(SocketClient, one, "Ann")
        watchers = [await self.client(SocketClient, node, name) for node, name in ((two, "Bob"), (third, "Cid"))]
        for watcher in watchers:
            await watcher.sees("Ann", "Bob", "Cid")
        watch, begun = Stopwatch(self.server.pid), time.monotonic()
        await one.die()
        for watcher in watchers:
            await watcher.sees("Bob", "Cid")
            self.assertEqual(1, len(watcher.view.left))
        self.assertGreater(time.monotonic() - begun, 0.5)
        self.assertLess(watch.seconds(), 4.0)
        await self.until(
            lambda: one.name.encode() not in b"".join(self.server.command("HKEYS", "realtime:0:members:lobby"))
        )

    async def test_stops(self) -> None:
        """When a node stops, clients that come to another node are not seen to leave; the others leave."""
        one, two = self.nodes
        await self.write()
        moving = await self.client(SocketClient, one, "Ann")
        await moving.who()
        staying = await self.client(SocketClient, one, "Bob")
        watcher = await self.client(SocketClient, two, "Cid")
        await watcher.sees("Ann", "Bob", "Cid")
        await one.stop()
        self.assertFalse(staying.open)
        await deferLater(reactor, 1.0, lambda: None)  # type: ignore[arg-type]
        await self.client(SocketClient, two, "Ann", moving.client)
        third = await self.node()
        late = await self.client(SocketClient, third, "Dan")
        self.assertEqual(["Ann", "Bob", "Cid", "Dan"], late.view.names)
        for one_of in (watcher, late):
            await one_of.sees("Ann", "Cid", "Dan")
            self.assertEqual(1, len(one_of.view.left))

    async def test_sleeps(self) -> None:
        """A node that was taken for dead is there again with all of its clients."""
        one, two = self.nodes
        await self.client(SocketClient, one, "Ann")
        watcher = await self.client(SocketClient, two, "Bob")
        await watcher.sees("Ann", "Bob")
        self.server.command("PUBLISH", "realtime:0:nodes", f'["gone","{one.name}"]')
        await watcher.sees("Bob")
        await watcher.sees("Ann", "Bob")


class EmptyRoomTests(NodesTestCase):
    """Rooms without messages, of which anybody can make up any number: Redis holds nothing of them."""

    options = {"node_timeout": 1.5, "held": 3.0}

    def keys(self) -> list[str]:
        """The keys in Redis that name the lobby or any other room."""
        keys = [key.decode() for key in self.server.command("KEYS", "*")]
        return [key for key in keys if key != "realtime:0:log" and ":alive:" not in key]

    def rooms(self) -> list[str]:
        """The rooms that the log knows, and those of which a node hears."""
        known = [
            field.decode() for field in self.server.command("HKEYS", "realtime:0:log") if field.startswith(b"room:")
        ]
        heard = [channel.decode() for channel in self.server.command("PUBSUB", "CHANNELS", "realtime:*:room:*")]
        return known + heard

    async def test_nothing_stored(self) -> None:
        """Whatever is done in a room without messages, over all transports on two nodes, makes no key in Redis; and a
        moment after the last reader no node knows the room or hears of it."""
        one, two = self.nodes
        clients = [
            await self.client(kind, node, f"n{number}") for number, kind in enumerate(KINDS) for node in (one, two)
        ]
        for client in clients:
            await client.sees("n0", "n0", "n1", "n1", "n2", "n2")
        for node in self.nodes:
            for path in ("rooms/made-up/members", "rooms/made-up/messages"):
                answer = await treq.get(f"http://127.0.0.1:{node.port}/{path}", persistent=False)
                self.assertEqual(200, answer.code)
                await answer.content()
        self.assertEqual([], self.keys())
        for client in clients:
            await client.stop()
        await self.until(lambda: not any(node.hub.rooms for node in self.nodes))
        await self.until(lambda: not self.rooms())
        self.assertEqual([], self.keys())
        for node in self.nodes:
            self.assertEqual(
                ({}, {}, {}),
                (node.presence.replica._rooms, node.presence.publisher.rows, node.presence.replica._incomplete),
            )

    async def test_nobody_answers(self) -> None:
        """A node that doesn't answer holds up a join for a moment only, and its clients aren't forgotten."""
        one, two = self.nodes
        await self.client(SocketClient, one, "Ann")
        self.patch(one.presence.publisher, "answer", lambda room: None)
        watch = Stopwatch(self.server.pid)
        watcher = await self.client(SocketClient, two, "Bob")
        self.assertLess(watch.seconds(), 2.0)
        await self.until(lambda: "Bob" in one.members)
        del one.presence.publisher.answer  # type: ignore[attr-defined]
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await watcher.sees("Ann", "Bob")
        self.assertEqual([], watcher.view.left)

    async def test_stops_while_asking(self) -> None:
        """A node that stops while it waits for another's answer leaves no call in the reactor."""
        one, two = self.nodes
        await self.client(SocketClient, one, "Ann")
        self.patch(one.presence.publisher, "answer", lambda room: None)
        joining = two.broker.follow("lobby")
        replica = two.presence.replica
        await self.until(lambda: "lobby" in replica._rooms and replica._rooms["lobby"].answered is not None)
        (asking,) = [call for call in reactor.getDelayedCalls() if "addTimeout" in str(call)]  # type: ignore[attr-defined]
        await two.stop()
        self.assertFalse(asking.active())
        await DeferredList([joining], consumeErrors=True)

    async def test_first_message(self) -> None:
        """When a room has its first message, who is there is kept in Redis from the next change on, and nobody is seen
        to leave."""
        third = await self.node()
        clients = [
            await self.client(SocketClient, node, name)
            for node, name in zip(self.nodes, ("Ann", "Bob", "Cid"), strict=True)
        ]
        for client in clients:
            await client.sees("Ann", "Bob", "Cid")
        await self.write()
        clients.append(await self.client(SocketClient, third, "Dan"))
        await self.until(lambda: len(self.server.command("HKEYS", "realtime:0:members:lobby")) == 2 + 4)
        for client in clients:
            await client.sees("Ann", "Bob", "Cid", "Dan")
            self.assertEqual([], client.view.left)


class EmptyGoneTests(GoneTests):
    """Nodes that go, as to a room without messages."""

    has_messages = False


class LossTests(NodesTestCase):
    """A Redis that loses things."""

    options = {"node_timeout": 1.5}
    has_messages = True

    async def there(self) -> list[SocketClient]:
        """A client on each node; all see each other."""
        if self.has_messages:
            await self.write()
        clients = [
            await self.client(SocketClient, node, name) for node, name in zip(self.nodes, ("Ann", "Bob"), strict=True)
        ]
        for client in clients:
            await client.sees("Ann", "Bob")
        return clients

    async def known_anew(self) -> None:
        """A new node knows all members."""
        if self.has_messages:
            await self.write()
            await self.until(
                lambda: len([f for f in self.server.command("HKEYS", "realtime:0:members:lobby") if b":" in f]) == 2
            )
        else:
            await self.until(lambda: all(link.ready for node in self.nodes for link in node.broker.links))
        third = await self.node()
        await self.client(SocketClient, third, "Cid")
        await self.agree("Ann", "Bob", "Cid")

    async def test_flushed(self) -> None:
        """After a FLUSHALL each node restores its rows, and nobody is seen to leave."""
        clients = await self.there()
        self.server.command("FLUSHALL")
        await self.known_anew()
        self.assertEqual([[], []], [client.view.left for client in clients])

    async def test_restarted(self) -> None:
        """So it does after a restart that kept nothing."""
        clients = await self.there()
        self.server.restart()
        await self.known_anew()
        self.assertEqual([[], []], [client.view.left for client in clients])

    async def test_evicted(self) -> None:
        """So it does where one room's hash is gone, at the latest when the next one comes to it."""
        clients = await self.there()
        self.server.command("DEL", "realtime:0:members:lobby")
        await self.known_anew()
        self.assertEqual([[], []], [client.view.left for client in clients])

    async def test_connections_killed(self) -> None:
        """Changes while a node can't receive or publish are known when it can again."""
        _, bob = await self.there()
        for kind in ("pubsub", "normal"):
            self.server.command("CLIENT", "KILL", "TYPE", kind)
            await bob.stop()
            await self.agree("Ann")
            self.server.command("CLIENT", "KILL", "TYPE", kind)
            bob = await self.returned("Bob")
            await self.agree("Ann", "Bob")

    async def returned(self, name: str) -> Any:
        """A client that joins on the second node as soon as it is possible."""
        client = SocketClient(reactor, self.nodes[1].port)
        self.clients.append(client)
        await client.connect({"room": "lobby", "name": name})
        while True:
            await client.until(lambda: client.of_type("joined") or client.of_type("error"))
            if client.of_type("joined"):
                return client
            client.events.clear()
            await deferLater(reactor, 0.2, lambda: None)  # type: ignore[arg-type]
            client.send(type="join", room="lobby")

    async def test_lost_change(self) -> None:
        """A change that wasn't heard is found with the next one."""
        await self.write()
        await self.there()
        two = self.nodes[1]
        replica = two.presence.replica
        apply, replica._apply = replica._apply, lambda *_: None  # type: ignore[method-assign]
        third = await self.node()
        dan = await self.client(SocketClient, third, "Dan")
        await self.until(lambda: "Dan" in self.nodes[0].members)
        replica._apply = apply  # type: ignore[method-assign]
        self.assertNotIn("Dan", two.members)
        await self.client(SocketClient, third, "Eve")
        await self.agree("Ann", "Bob", "Dan", "Eve")
        self.assertEqual([], dan.view.left)

    async def test_garbage(self) -> None:
        """Rows and payloads that no node wrote are skipped."""
        clients = await self.there()
        members = "realtime:0:members:lobby"
        self.server.command("HSET", members, "abc", "x", "12ab:34cd", "[1", "12ab:56ef", "\xff")
        for payload in ("p", "p1 2", "pab 99 cd\n[", "pab 99 cd\n[[],[]]", "pab 1 cd\n[[[1]],[]]"):
            self.server.command("PUBLISH", "realtime:0:room:lobby", payload)
        for payload in (
            "",
            "{}",
            '["bye"]',
            '["gone","nobody"]',
            '["said","ab","cd",null,null]',
            '["said","ab","cd",{},7]',
        ):
            self.server.command("PUBLISH", "realtime:0:nodes", payload)
        third = await self.node()
        await self.client(SocketClient, third, "Cid")
        await self.agree("Ann", "Bob", "Cid")
        self.assertEqual([[], []], [client.view.left for client in clients])


class EmptyLossTests(LossTests):
    """A Redis that loses things, as to a room without messages."""

    has_messages = False


class RenewalTests(NodesTestCase):
    """A renewed client is told to every node, whatever gets lost."""

    async def setUp(self) -> None:
        await super().setUp()
        self.heard: list[str] = []
        for node in self.nodes[1:]:
            node.service.hub.presence.on_renewed = self.heard.append

    def renew(self, number: int) -> str:
        """Renew a client at the first node."""
        client = f"client {number}"
        self.nodes[0].presence.forward(ForwardedCommand(f"{number:016x}", renewed=client))
        return client

    async def test_connection_lost(self) -> None:
        """What is published while a node's subscription is lost is published again for it."""
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        client = self.renew(1)  # before anybody can subscribe again, as that takes more than one turn
        await self.until(lambda: client in self.heard)

    async def test_redis_lost(self) -> None:
        """What can't be published while Redis is down is published when it is back."""
        self.server.kill()
        clients = [self.renew(number) for number in range(3)]
        self.server.start()
        await self.until(lambda: set(clients) <= set(self.heard))

    async def test_node_begins(self) -> None:
        """A node that begins later hears of the last renewals, the latest of each client and the latest clients."""
        self.patch(self.nodes[0].presence._renewals, "_kept", BoundedByUser(2, 2))
        for number in (1, 2, 1, 3):
            self.renew(number)
        await self.until(lambda: len(self.heard) >= 4)
        self.heard.clear()
        node = await self.node()
        heard: list[str] = []
        node.service.hub.presence.on_renewed = heard.append
        self.server.command("PUBLISH", node.names.nodes, encode_notice(Missed(node.name)))
        await self.until(lambda: {"client 1", "client 3"} <= set(heard))
        self.assertNotIn("client 2", heard)

    async def test_renewed_on_two_nodes(self) -> None:
        """Of a client that was renewed on two nodes, one after the other, only the last renewal is said again."""
        one, two = self.nodes
        one.service.hub.presence.on_renewed = self.heard.append
        for node, client in ((one, "before"), (two, "after")):
            node.presence.forward(ForwardedCommand("1" * 16, renewed=client))
            await self.until(lambda client=client: client in self.heard)
        self.heard.clear()
        self.renew(2)
        self.server.command("PUBLISH", one.names.nodes, encode_notice(Missed(one.name)))
        await self.until(lambda: self.heard.count("client 2") == 2 and "after" in self.heard)
        self.assertNotIn("before", self.heard)

    async def test_renewed_on_two_nodes_at_once(self) -> None:
        """Of a client that was renewed on two nodes at once, the renewal that counts is said again by its node."""
        one, two = self.nodes
        one.service.hub.presence.on_renewed = self.heard.append
        for node, client, order in ((one, "counts", (7, 2)), (two, "counts not", (7, 1))):
            node.presence.forward(ForwardedCommand("1" * 16, renewed=client, order=order))
        await self.until(lambda: {"counts", "counts not"} <= set(self.heard))
        self.heard.clear()
        self.renew(2)
        self.server.command("PUBLISH", one.names.nodes, encode_notice(Missed(one.name)))
        await self.until(lambda: self.heard.count("client 2") == 2 and "counts" in self.heard)
        self.assertNotIn("counts not", self.heard)
