"""Floods that limits hold back, and clients that keep what a refusal says, against real daemons.

With ``SOAK=1`` in the environment a flood lasts for thirty seconds instead of four tenths of one, and the limits are
the default ones; else they are lower, so that a short flood meets them, too.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import select
import urllib.request
from typing import Any, NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from realtime_chat.client import Message, Room, connect
from realtime_chat.limit_options import LIMIT_OPTIONS
from tests.deadlines import DEADLINE
from tests.functional.attackers import get, post, upgrade
from tests.functional.daemon import SOAK, Daemon, DaemonTestCase, free_port, wait_until
from tests.functional.raw_clients import RawWebSocket
from tests.functional.test_exhaustion import JOIN, LEAVE, MEMORY, PUBLISH, Attack, ExhaustionTestCase, Scene, attack
from tests.functional.test_realtime_js import BrowserTestCase, site

_ADDRESSES = ("--trusted-proxy", "192.0.2.1")
"""Once some proxy is trusted, limits by address are on for loopback, too."""
_LONG = (
    *(f"--{option.name}={option.default}" for option in LIMIT_OPTIONS),
    *("--address-publish-rate", "200/s+2000"),
)  # fmt: skip
"""The default limits, but for one that a single process on a busy machine may not meet."""
_LOW = (
    *("--client-command-rate", "200/s+200"),
    *("--client-publish-rate", "70/s+40"),
    *("--client-join-rate", "10/s+20"),
    *("--client-room-rate", "1/s+10"),
    *("--signal-rate", "10/s+20"),
    *("--address-publish-rate", "80/s+50"),
    *("--address-connect-rate", "10/s+20"),
    *("--address-guest-rate", "1/s+50"),
    *("--address-connections", "100"),
    *("--address-polls", "20"),
)  # fmt: skip
"""Lower limits, which the honest client with its 50 messages a second doesn't meet either."""


class Flood(NamedTuple):
    """What somebody does as fast as it can, and the limit that holds it back."""

    attack: Attack
    scope: str
    kind: str


def flood(name: str, way: str, *what: str, of: tuple[str, str], connections: int = 1, **more: Any) -> Flood:
    """A row of the table."""
    options = (*_ADDRESSES, *(_LONG if SOAK else _LOW))
    return Flood(attack(name, way, *what, connections=connections, options=options, stores=True, **more), *of)


_TO_ONE = PUBLISH.replace("{name}", "flood")
_POST = post("/rooms/flood/messages", '{"data":1}')
_MANY = 5000 if SOAK else 200
_SIGNAL = '{"type":"signal","room":"flood","event":"typing","data":1}'
FLOODS = (
    flood("publishes", "command", _TO_ONE, of=("client", "publishes")),
    flood("pings", "command", '{"type":"ping"}', of=("client", "commands")),
    flood("signals", "command", _SIGNAL, of=("client", "signals")),
    flood("joins", "command", JOIN, LEAVE, of=("client", "joins")),
    flood("histories", "command", '{"type":"history","room":"flood"}', of=("client", "joins")),
    flood("new rooms", "command", PUBLISH, of=("client", "rooms")),
    flood("messages over HTTP", "ask", _POST, connections=4, of=("address", "publishes")),
    flood("guests", "ask", post("/commands", '{"type":"hello"}'), connections=4, of=("address", "guests")),
    flood("connects", "open_and_drop", upgrade(), connections=4, of=("address", "connects")),
    flood("connections", "occupy", connections=_MANY, of=("address", "connections")),
)


class FloodTests(ExhaustionTestCase):
    """Somebody floods a daemon. Who talks there from another address gets everything, in order, and is never refused;
    the flood is refused, and takes neither memory nor descriptors.
    """

    source = "127.0.0.9"
    left = MEMORY  # the tables of limits are emptied in the course of a minute

    insists = False

    def scene(self, attack: Attack) -> Scene:
        scene = super().scene(attack)
        if self.insists:
            scene.attackers.ask("insist")
        return scene

    def hold_back(self, flood: Flood) -> None:
        """Withstand a flood; a limit has struck, and no other scope than that or an address."""
        self.insists = True
        scene, done = self.withstand(flood.attack)
        strikes = _strikes(scene.metrics())
        self.assertGreater(strikes[flood.scope, flood.kind], 0, f"{done}, {strikes}")

    def test_many_addresses(self) -> None:
        """New guests, each from an address of its own, don't make the tables of limits grow for ever."""
        hello = get("/commands", "X-Forwarded-For: {address}", "Content-Length: 16", method="POST") + '{"type":"hello"}'
        many = attack("guests everywhere", "ask", hello, connections=8, options=("--trusted-proxy", "127.0.0.0/8"))
        _, done = self.withstand(many)
        self.assertGreater(done["200"], 0)
        self.assertEqual({"200"}, set(done) - {"connections"})


def _strikes(metrics: str) -> dict[tuple[str, str], float]:
    """How often each limit has struck, by scope and kind."""
    found = re.findall(r'^realtime_limited_total{kind="(\w+)",scope="(\w+)"} (\S+)$', metrics, re.MULTILINE)
    return {(scope, kind): float(count) for kind, scope, count in found}


def _add(flood: Flood) -> None:
    def test(self: FloodTests) -> None:
        self.hold_back(flood)

    name = flood.attack.name
    test.__name__ = f"test_{name.replace(' ', '_').lower()}"
    test.__doc__ = f"{name[0].upper()}{name[1:]}: the flood is held back, and nobody else notices it."
    setattr(FloodTests, test.__name__, test)


for _flood in FLOODS:
    _add(_flood)


class LimitedDaemon(NamedTuple):
    """A daemon whose limits are soon met.

    :ivar metrics: where its metrics are.
    """

    daemon: Daemon
    metrics: str

    def strikes(self) -> dict[tuple[str, str], float]:
        """How often each limit has struck, by scope and kind."""
        with urllib.request.urlopen(self.metrics, timeout=DEADLINE) as answer:
            return _strikes(answer.read().decode())


def limited(case: DaemonTestCase | BrowserTestCase, *options: str) -> LimitedDaemon:
    """Start a daemon with limits, till the end of a test."""
    port = free_port()
    daemon = Daemon(case.mktemp(), "--store=memory:", "--metrics-listen", f"tcp:{port}:interface=127.0.0.1", *options)
    case.addCleanup(daemon.kill)
    return LimitedDaemon(daemon.start(), f"http://127.0.0.1:{port}/metrics")


class RefusalTests(DaemonTestCase):
    """Who goes on too fast is told for how long to wait."""

    REQUESTS = (
        ("POST", "/commands", '{"type":"hello"}', {}),
        ("POST", "/commands", '{"type":"publish","room":"lobby","data":1}', {}),
        ("POST", "/rooms/lobby/messages", '{"data":1}', {}),
        ("GET", "/rooms/lobby/messages", None, {}),
        ("GET", "/rooms/lobby/members", None, {}),
        ("GET", "/rooms", None, {}),
        ("GET", "/poll?room=lobby&wait=0", None, {}),
        ("GET", "/sse?room=lobby", None, {"Accept": "text/event-stream"}),
        ("GET", "/ws", None, dict(line.split(": ") for line in upgrade().split("\r\n")[2:] if line)),
    )

    def refusal(self, port: int, method: str, path: str, body: str | None, headers: dict[str, str]) -> Any:
        """Send a request until it is refused; give the status, Retry-After and the error."""
        for _ in range(100):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                return answer.status, answer.getheader("Retry-After"), json.loads(answer.read())
            connection.close()
        raise AssertionError(f"{method} {path} is never refused")

    def test_http(self) -> None:
        """Each request below is answered by 429, with Retry-After and with ``after``, once its address was too fast."""
        rates = [f"--address-{kind}-rate=1/m+5" for kind in ("command", "connect", "guest")]
        for request in self.REQUESTS:
            daemon = limited(self, *_ADDRESSES, *rates).daemon
            status, retry_after, error = self.refusal(daemon.port, *request)
            self.assertEqual((429, "rate_limited", True), (status, error["code"], error["temporary"]), request)
            self.assertLess(0, error["after"], request)
            self.assertEqual(-(-error["after"] // 1), int(retry_after), request)
            self.assertEqual(200, http_status(daemon.port, "GET", "/healthz"), "only its own requests are refused")
            daemon.kill()

    def test_websocket(self) -> None:
        """A WebSocket gets ``rate_limited`` with ``after``, once for each command that isn't done; what is sent after
        that time is done, and a ping is answered meanwhile."""
        daemon = limited(self, "--client-publish-rate", "5/s+5").daemon
        asyncio.run(self._converse(daemon.port))

    async def _converse(self, port: int) -> None:
        got: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        socket = await RawWebSocket.connect(port, upgrade().encode(), lambda data: got.put_nowait(json.loads(data)))
        for number in range(7):
            socket.send(json.dumps({"type": "publish", "id": number, "room": "lobby", "data": number}).encode())
        replies = {reply["id"]: reply for reply in [await asyncio.wait_for(got.get(), DEADLINE) for _ in range(7)]}
        refused = [reply for reply in replies.values() if reply["type"] == "error"]
        self.assertEqual("rate_limited", refused[0]["code"], replies)
        await asyncio.sleep(refused[0]["after"])
        socket.send(b'{"type":"publish","id":"again","room":"lobby","data":1}')
        self.assertEqual("published", (await asyncio.wait_for(got.get(), DEADLINE))["type"])
        socket.close()

    def test_polls(self) -> None:
        """Polls that would be too many for an address are refused, and those that wait are answered as ever."""
        daemon = limited(self, *_ADDRESSES, "--address-polls", "20").daemon
        since = daemon.get("poll?room=lobby&last=0")["positions"]["lobby"]
        polls = [http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=DEADLINE) for _ in range(25)]
        for poll in polls:
            poll.request("GET", f"/poll?room=lobby&since={since}")
            self.addCleanup(poll.close)
        wait_until(lambda: len(_readable(polls)) == 5)
        refused = _readable(polls)
        answers = [poll.getresponse() for poll in refused]
        self.assertEqual([(429, "too_many")] * 5, [(one.status, json.loads(one.read())["code"]) for one in answers])
        self.assertEqual(201, http_status(daemon.port, "POST", "/rooms/lobby/messages", '{"data":1}'))
        waiting = [poll for poll in polls if poll not in refused]
        self.assertEqual([200] * 20, [poll.getresponse().status for poll in waiting])


def _readable(connections: list[http.client.HTTPConnection]) -> list[http.client.HTTPConnection]:
    """Those to which something has come."""
    return [one for one in connections if select.select([one.sock], [], [], 0)[0]]


def http_status(port: int, method: str, path: str, body: str | None = None) -> int:
    """The status of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request(method, path, body)
    return connection.getresponse().status


_SLOW = ("--client-publish-rate", "20/s+10", "--client-join-rate", "5/s+8")
_MESSAGES, _ROOMS = 60, 12


class PythonClientTests(DaemonTestCase):
    """The Python client keeps what a refusal says, and loses nothing."""

    async def check(self, transport: str) -> None:
        """Messages that are published all at once are all stored, once and in order; rooms are all joined.

        Over HTTP this client joins by its history and a position, which is no join.
        """
        server = await deferToThread(limited, self, *_SLOW)
        url, how = server.daemon.url, {"transports": (transport,)}
        async with connect(reactor, url, **how) as reader, connect(reactor, url, **how) as writer:
            room = await reader.join("lobby", last=0)
            for number in range(_ROOMS):
                await writer.join(f"room-{number}")
            sent = [writer.publish("lobby", {"text": str(number)}) for number in range(_MESSAGES)]
            positions = [position.offset for position in await gatherResults(sent)]
            self.assertEqual(list(range(1, _MESSAGES + 1)), positions)
            self.assertEqual([str(number) for number in range(_MESSAGES)], await self.texts(room))
        strikes = await deferToThread(server.strikes)
        for kind in ("publishes", "joins") if transport == "websocket" else ("publishes",):
            self.assertGreater(strikes["client", kind], 0, strikes)

    async def texts(self, room: Room) -> list[str]:
        """The texts of the messages that come."""
        texts: list[str] = []
        async for event in room:
            texts += [str(event.text)] if isinstance(event, Message) else []
            if len(texts) == _MESSAGES:
                break
        return texts

    async def test_websocket(self) -> None:
        """Over WebSocket."""
        await self.check("websocket")

    async def test_sse(self) -> None:
        """Over event streams and commands."""
        await self.check("sse")

    async def test_poll(self) -> None:
        """Over polls and commands."""
        await self.check("poll")


_PUBLISH_MANY = """
const options = {transports: [%s], storage: false}, begun = Date.now();
const reader = Realtime.connect('', options), writer = Realtime.connect('', options);
const got = [], sent = [], failed = [];
reader.room('lobby', {last: 0}).on('message', (data) => got.push(data));
const rooms = Array.from({length: %d}, (_, number) => writer.room('room-' + number));
const lobby = writer.room('lobby');
lobby.on('$failed', (message) => failed.push(message.error.code));
for (let number = 0; number < %d; number += 1) {
  lobby.publish(number).then(() => sent.push(number), () => {});
}
while ((got.length < %d || !rooms.every((room) => room.joined)) && Date.now() - begun < 120000) {
  await new Promise((resolve) => setTimeout(resolve, 50));
}
await new Promise((resolve) => setTimeout(resolve, 500));
const joined = rooms.filter((room) => room.joined).length;
reader.close();
writer.close();
return {got, sent, failed, joined};
"""


class BrowserClientTests(BrowserTestCase):
    """``realtime.js`` in Chromium keeps what a refusal says, and loses nothing."""

    def check(self, transport: str) -> None:
        """Messages that are published all at once are all stored, once and in order; rooms are all joined."""
        server = limited(self, *_SLOW, "--allow-origin", site().origin)
        tab = self.open(server.daemon.url)
        found = tab.run(_PUBLISH_MANY % (json.dumps(transport), _ROOMS, _MESSAGES, _MESSAGES))
        everything = list(range(_MESSAGES))
        self.assertEqual({"got": everything, "sent": everything, "failed": [], "joined": _ROOMS}, found)
        strikes = server.strikes()
        for kind in ("publishes", "joins"):
            self.assertGreater(strikes["client", kind], 0, strikes)

    def test_websocket(self) -> None:
        """Over WebSocket."""
        self.check("websocket")

    def test_sse(self) -> None:
        """Over event streams and commands."""
        self.check("sse")

    def test_poll(self) -> None:
        """Over polls and commands."""
        self.check("poll")
