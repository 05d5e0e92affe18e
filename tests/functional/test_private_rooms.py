"""Users with a room of their own: nobody else learns anything of it, and rights that are lost end within a second.

With ``SOAK=1`` in the environment there are 100 users and 10,000 messages, and not 24 and 480.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from tests.functional.cluster import ClusterTestCase
from tests.functional.daemon import SOAK, Daemon
from tests.functional.private_rooms import WAYS, Person, gather, until
from tests.functional.raw_clients import RawHTTP
from tests.tokens.made import OTHER_SECRET, SECRET, token

USERS = 100 if SOAK else 24
EACH = 100 if SOAK else 20
LIFETIME = 4.0
WITHIN = 1_000
"""Milliseconds after which lost rights give nothing any more."""


class PrivateRoomTests(ClusterTestCase):
    """A site on one node, and on three."""

    _log = Logger()
    timeout = 1200 if SOAK else 300

    async def test_one_node(self) -> None:
        """Each user reads only its own room, in every way at once, and no longer than its rights last."""
        await self._try_all(1, "memory:")

    async def test_three_nodes(self) -> None:
        """It is the same on three nodes, where each user reads on all of them."""
        redis = await self.redis_server()
        await self._try_all(3, f"redis://127.0.0.1:{redis.port}")

    async def _try_all(self, count: int, store: str) -> None:
        keys = Path(self.mktemp()).absolute()
        keys.write_text(f"{SECRET}\n{OTHER_SECRET}\n")
        nodes = await self.nodes(count, store, "--token-key", str(keys))
        await deferToThread(asyncio.run, _Site(self, nodes, keys).story())


class _Site:
    """The users, and what happens to them."""

    def __init__(self, case: PrivateRoomTests, nodes: Sequence[Daemon], keys: Path) -> None:
        self.case = case
        self.nodes = nodes
        self.keys = keys
        self.ports = [node.port for node in nodes]
        self.people = [Person(number, self.ports) for number in range(USERS)]

    async def story(self) -> None:
        """All of it, one after the other."""
        try:
            await gather([person.begin(key=self._key(person)) for person in self.people])
            await asyncio.gather(self._publish_all(), self._intrude())
            self._check_bytes()
            renewed = [person for person in self.people if person.number % 4 in (0, 1)]
            await self._lose(renewed, self._renew, ("left", "forbidden"))
            await self._lose(self._group(2), self._expire, ("goodbye", "token_expired"))
            await self._lose(self._group(3), self._remove_key, ("goodbye", "token_expired"))
            self._check_bytes()
        finally:
            for person in self.people:
                person.close()

    def _group(self, number: int) -> list[Person]:
        return [person for person in self.people if person.number % 4 == number]

    def _key(self, person: Person) -> str:
        return OTHER_SECRET if person.number % 4 == 3 else SECRET

    # Nobody hears of a foreign room

    async def _publish_all(self) -> None:
        for number in range(EACH):
            await gather([person.publish(number) for person in self.people])
        await gather([person.has_heard(EACH) for person in self.people], USERS)

    async def _intrude(self) -> None:
        """Everybody tries everything in a room that exists, and in one that doesn't."""
        words: dict[str, set[tuple[str, ...]]] = {"exists": set(), "doesn't exist": set()}
        for step, person in enumerate(self.people):
            victim = self.people[(step + 1) % len(self.people)]
            words["exists"].add(tuple(await person.intrude(victim.room)))
            words["doesn't exist"].add(tuple(await person.intrude(f"no-room-{step}")))
        self.case.assertEqual(words["exists"], words["doesn't exist"])
        (errors,) = words["exists"]
        self.case.assertEqual([], [error for error in errors if '"code": "forbidden"' not in error])

    def _check_bytes(self) -> None:
        self.case.assertEqual([], [way for person in self.people for way in person.foreign()])

    # Rights that are lost

    async def _lose(
        self,
        people: Sequence[Person],
        lose: Callable[[Sequence[Person]], Awaitable[dict[int, float]]],
        ends: tuple[str, str],
    ) -> None:
        """Let people lose their rights while somebody writes in their rooms all the time.

        :param lose: gives the time when it was done, by the number of each person, in seconds since 1970.
        :param ends: the type of the event that ends a connection, and its reason.
        """
        writer = asyncio.create_task(self._write_in([person.room for person in people]))
        for heard in [person.heard[way] for person in people for way in WAYS]:
            await until(lambda heard=heard: max(heard.numbers) >= _WRITERS, "a message of the writer")
        lost = await lose(people)
        for person in people:
            for way in WAYS:
                heard = person.heard[way]
                await until(lambda heard=heard: heard.ended, f"the end of {way} of {person.room}")
                self._check_end(person, way, ends)
        await asyncio.sleep(max(0.0, max(lost.values()) + 1.5 - time.time()))
        writer.cancel()
        late = {
            (person.room, way): person.heard[way].latest - lost[person.number] * 1000
            for person in people
            for way in WAYS
        }
        self._log_latest(ends[1], people, lost, late)
        self.case.assertEqual({}, {where: after for where, after in late.items() if after > WITHIN})
        await gather([self._stays_out(person) for person in people])

    def _check_end(self, person: Person, way: str, ends: tuple[str, str]) -> None:
        """Each way ends with the right words."""
        ended = person.heard[way].ended
        assert ended is not None
        if way == "history" or ended["type"] == "error":
            codes = ("forbidden",) if ends[0] == "left" else ("token_expired", "unauthorized")
            self.case.assertIn(ended["code"], codes, (way, ended))
        else:
            self.case.assertEqual(ends, (ended["type"], ended["reason"]), way)

    def _log_latest(self, why: str, people: Sequence[Person], lost: dict[int, float], late: dict[Any, float]) -> None:
        ends = [person.heard[way].ended_at - lost[person.number] for person in people for way in WAYS[:3]]
        PrivateRoomTests._log.info(
            "{why}: the last message came {last:.0f} ms after the rights, the last end {end:.0f} ms",
            why=why,
            last=max(late.values()),
            end=max(ends) * 1000,
        )

    async def _stays_out(self, person: Person) -> None:
        """With what it has now, and had before its renewal, it reads nothing of its room on any node any more."""
        clients = person.client, person.before[0] or person.client
        credentials = [f"Authorization: Bearer {person.token}", *(f"Realtime-Client: {client}" for client in clients)]
        addresses = [f"&reader={reader}" for reader in (person.reader, person.before[1]) if reader]
        for step in range(len(self.ports)):
            for path in (f"/poll?room={person.room}&wait=1", f"/rooms/{person.room}/messages?limit=5"):
                asked = [(path, header) for header in credentials] + [(path + address,) for address in addresses]
                for where, *headers in asked:
                    status, answer = await person.ask(step, "GET", where, None, *headers)
                    self.case.assertIn((status, answer.get("code")), _REFUSALS)

    async def _write_in(self, rooms: Sequence[str]) -> None:
        """Write in rooms all the time, as somebody who may."""
        now = time.time()
        text = token({"sub": "writer", "rooms": {"room-*": "w"}}, now=now)
        connections = [RawHTTP(port) for port in self.ports]
        number = _WRITERS
        while True:
            for connection in connections:
                number += 1
                commands = [
                    {"type": "publish", "room": room, "data": {"number": number, "text": f"a secret of {room}"}}
                    for room in rooms
                ]
                status, answer = await connection.ask(
                    "POST", "/commands", json.dumps(commands).encode(), f"Authorization: Bearer {text}"
                )
                assert status == 200, answer
                assert b'"error"' not in answer, answer
                await asyncio.sleep(0.1)

    async def _renew(self, people: Sequence[Person]) -> dict[int, float]:
        """Half of them renew by their WebSocket, the others by a request to a node."""

        async def renew(person: Person) -> tuple[int, float]:
            if person.number % 4:
                await person.renew_by_request(person.number, "w")
            else:
                await person.renew_by_socket("wsp")
            return person.number, time.time()

        return dict(await gather([renew(person) for person in people]))

    async def _expire(self, people: Sequence[Person]) -> dict[int, float]:
        await gather([person.renew_by_socket("rwsp", LIFETIME) for person in people])
        return {person.number: person.welcome["expires"] / 1000 for person in people}

    async def _remove_key(self, people: Sequence[Person]) -> dict[int, float]:
        before = [len(node.log) for node in self.nodes]
        self.keys.write_text(f"{SECRET}\n")
        for node in self.nodes:
            os.kill(node.pid, signal.SIGHUP)
        for node, start in zip(self.nodes, before, strict=True):
            await until(
                lambda node=node, start=start: "tokens are verified by the keys" in node.log[start:],
                "the keys are read again",
            )
        lost = time.time()
        return {person.number: lost for person in people}


_WRITERS = 10**6
"""The first number of the messages of those who write in rooms of others."""

_REFUSALS = ((403, "forbidden"), (401, "token_expired"), (401, "unauthorized"))
