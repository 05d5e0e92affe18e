"""Tests for :mod:`realtime_chat.http.channel`: deadlines, turns, and the end of connections."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from typing import Any

from twisted.internet.error import ConnectionLost

from realtime_chat.core.turns import ALONE, Turns
from realtime_chat.http.site import RealtimeSite
from tests.core.test_turns import next_turn
from tests.http.site_case import (
    CHUNK,
    CHUNKED,
    SiteTestCase,
    SocketLike,
    get,
    post,
    read_answers,
)


class DeadlineTests(SiteTestCase):
    """A client can't keep a connection by sending slowly, or nothing."""

    def drip(self, transport: SocketLike, data: bytes, seconds: float) -> None:
        """Send ``data`` again and again, every half second."""
        for _ in range(int(seconds / 0.5)):
            if not transport.half_closed:
                transport.protocol.dataReceived(data)
            self.wait(0.5)

    def test_slow_headers(self) -> None:
        """Headers that aren't complete after 10 seconds are refused, however steadily they come."""
        transport = self.send(b"GET / HTTP/1.1\r\n")
        self.drip(transport, b"X-A: b\r\n", 9.5)
        self.assertEqual(transport.value(), b"")
        self.drip(transport, b"X-A: b\r\n", 1)
        (said,) = read_answers(transport.value())
        self.assertEqual((said.status, said.code, said.headers["connection"]), (408, "bad_request", "close"))
        self.assertTrue(transport.half_closed)

    def test_one_byte(self) -> None:
        """A single byte is an incomplete request."""
        transport = self.send(b"G")
        self.wait(10.5)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 408 "))

    def test_silence(self) -> None:
        """A connection without a request is closed without an answer."""
        transport = self.connect()
        self.wait(9.5)
        self.assertFalse(transport.disconnecting)
        self.wait(1)
        self.assertEqual((transport.disconnecting, transport.value()), (True, b""))

    def test_slow_body(self) -> None:
        """A body that isn't complete 30 seconds after its headers is refused."""
        transport = self.send(post(b"a" * 90)[:-90])
        self.drip(transport, b"a", 29.5)
        self.assertEqual(transport.value(), b"")
        self.drip(transport, b"a", 1)
        self.assertEqual(read_answers(transport.value())[0].status, 408)

    def test_slow_chunks(self) -> None:
        """A chunked body that isn't complete in time is refused."""
        transport = self.send(CHUNKED)
        self.drip(transport, b"0", 30.5)
        self.assertEqual(read_answers(transport.value())[0].status, 408)

    def test_steady_body(self) -> None:
        """A body that comes at 500 bytes a second or faster is waited for; one that comes to a stop is refused."""
        self.site.max_body = 200_000
        for late, status in ((0, 201), (90_000, 408)):
            transport = self.send(post(b"a" * 90_000)[:-90_000])
            self.drip(transport, b"a" * 300, 149)
            self.assertEqual((transport.value(), transport.half_closed), (b"", False))
            if not late:
                transport.protocol.dataReceived(b"a" * (90_000 - 298 * 300))
            self.wait(61)
            self.assertEqual(read_answers(transport.value())[0].status, status)

    def test_headers_then_body(self) -> None:
        """The body has its own time, however long the headers took."""
        transport = self.send(b"POST / HTTP/1.1\r\nHost: localhost\r\n")
        self.wait(9)
        transport.protocol.dataReceived(b"Content-Length: 3\r\n\r\n")
        self.wait(29)
        transport.protocol.dataReceived(b"abc")
        self.assertEqual(self.root.index.bodies, [b"abc"])

    def test_idle(self) -> None:
        """A connection is kept for a next request for 60 seconds."""
        transport = self.send(get())
        self.wait(59)
        transport.protocol.dataReceived(get())
        self.wait(59.5)
        self.assertFalse(transport.disconnecting)
        self.wait(1)
        self.assertEqual((transport.disconnecting, len(read_answers(transport.value()))), (True, 2))

    def test_next_headers(self) -> None:
        """The headers of a next request have 10 seconds from its first byte."""
        transport = self.send(get())
        self.wait(50)
        transport.protocol.dataReceived(b"GET")
        self.wait(9.5)
        self.assertFalse(transport.half_closed)
        self.wait(1)
        self.assertEqual(read_answers(transport.value())[1].status, 408)

    def test_next_headers_in_the_same_segment(self) -> None:
        """A client that completes one request and begins the next in one segment isn't slow."""
        transport = self.send(get()[:10])
        for _ in range(5):
            self.wait(9)
            transport.protocol.dataReceived(get()[10:] + get()[:10])
        self.assertEqual([said.status for said in read_answers(transport.value())], [200] * 5)

    def test_waiting(self) -> None:
        """A request may wait for its answer for any time; then the connection is idle."""
        transport = self.send(get(b"/later"))
        self.wait(1000)
        self.assertEqual(len(self.wheel), 0)
        self.root.waiting[0].callback(b"1")
        self.wait(60.5)
        self.assertTrue(transport.disconnecting)

    def test_unread_answer(self) -> None:
        """A client that doesn't read what is written last is cut off in the end."""
        transport = self.send(get(b"/", b"Connection: close"))
        self.wait(59)
        self.assertFalse(transport.closed)
        self.wait(2)
        self.assertTrue(transport.closed)

    def test_nothing_logged(self) -> None:
        """A missed deadline isn't logged."""
        self.send(b"G")
        self.wait(20)
        self.assertEqual(self.flushLoggedErrors(), [])


class DisconnectTests(SiteTestCase):
    """Clients that go leave nothing behind."""

    def test_thousand_waiting(self) -> None:
        """A thousand waiting requests learn at once that their connections are lost, and leave no garbage cycles."""
        transports = [self.send(get(b"/later")) for _ in range(1000)]
        requests = [weakref.ref(transport.protocol.requests[0]) for transport in transports]
        self.assertEqual((self.site.connections, len(self.wheel)), (1000, 0))
        gc.disable()
        self.addCleanup(gc.enable)
        for transport in transports:
            transport.lose(ConnectionLost)
        self.assertEqual(len(self.root.cancelled), 1000)
        self.root.waiting.clear()
        self.root.cancelled.clear()
        self.assertEqual([request() for request in requests if request() is not None], [])
        self.assertEqual((self.site.connections, len(self.wheel), self.flushLoggedErrors()), (0, 0, []))

    def test_answer_after_loss(self) -> None:
        """An answer that comes when the client has gone is dropped."""
        transport = self.send(get(b"/later"))
        (waiting,) = self.root.waiting
        waiting.addErrback(lambda _: b"1")
        transport.lose()
        self.assertEqual((transport.value(), self.flushLoggedErrors()), (b"", []))

    def test_in_every_phase(self) -> None:
        """In every phase, a lost connection drops its deadline."""
        for data in (b"", b"G", get()[:-2], post(b"abc")[:-1], get(), get(b"/later"), get(host=b"evil.example")):
            self.send(data).lose()
            self.assertEqual((self.site.connections, len(self.wheel)), (0, 0))


class ConnectionLimitTests(SiteTestCase):
    """The number of open connections is limited."""

    def setUp(self) -> None:
        super().setUp()
        self.site = self.make_site(max_connections=2)

    def test_refused(self) -> None:
        """A connection too many is refused before it sends a request, with Retry-After."""
        kept = [self.connect(), self.connect()]
        said = self.ask()
        self.assertEqual((said.status, said.code), (503, "too_many"))
        self.assertEqual((said.headers["retry-after"], said.headers["connection"]), ("2", "close"))
        kept[0].protocol.dataReceived(get())
        self.assertEqual(read_answers(kept[0].value())[0].status, 200)

    def test_room_again(self) -> None:
        """When a connection closes, another is accepted."""
        first, refused, _ = self.connect(), self.connect(), self.connect()
        first.lose()
        refused.lose()
        self.transports[2].lose()
        self.assertEqual(self.ask(get()).status, 200)

    def test_refusals_are_bounded(self) -> None:
        """If very many connections are too many, they are cut off without an answer."""
        transports = [self.connect() for _ in range(2 + self.site.max_refusals + 1)]
        self.assertEqual([transport.closed for transport in transports[-2:]], [False, True])
        self.assertEqual(transports[-1].value(), b"")


HEAPS = (
    [get(b"/?n=%d" % number) for number in range(50)],
    [post(b"%d" % number) for number in range(50)],
    [get(b"/?n=%d" % number) if number % 2 else post(b"%d" % number) for number in range(50)],
)
"""Pipelined requests."""


class TurnTests(SiteTestCase):
    """One connection gets only its share of a turn."""

    def make_site(self, **changes: Any) -> RealtimeSite:
        seconds = itertools.count()  # each look takes longer than a share
        return super().make_site(turns=Turns(self.clock, lambda: next(seconds)), **changes)

    def test_pipelined(self) -> None:
        """Of many pipelined requests, each turn answers those that fit it; all are answered in order."""
        for heap in HEAPS:
            transport = self.send(b"".join(heap) + b"GET /?n=last HTT")
            counts = []
            while len(counts) < 49:
                counts.append(len(read_answers(transport.value())))
                self.assertEqual("paused", transport.producerState)
                next_turn(self.clock)
            self.assertEqual(list(range(1, 50)), counts)
            next_turn(self.clock)  # for what is no whole request yet
            self.assertEqual("producing", transport.producerState)
            transport.protocol.dataReceived(b"P/1.1\r\nHost: localhost\r\n\r\n")
            said = read_answers(transport.value())
            self.assertEqual((51, "last"), (len(said), json.loads(said[-1].body)["n"]))

    def test_short_requests(self) -> None:
        """However short each of many pipelined requests is, all together they get one share of the turn."""
        for heap in HEAPS:
            seconds = itertools.count(step=ALONE / 10)
            self.site.turns = Turns(self.clock, lambda seconds=seconds: next(seconds))  # type: ignore[misc]
            transport = self.send(b"".join(heap))
            self.assertIn(len(read_answers(transport.value())), range(5, 15))
            while len(read_answers(transport.value())) < len(heap):
                self.assertEqual("paused", transport.producerState)
                next_turn(self.clock)

    def test_chunks(self) -> None:
        """A body of many small chunks is read over several turns; the request behind it is answered after it."""
        chunk = b"1;" + b"e" * 50 + b"\r\nx\r\n"
        for size in (40, 60, 90):  # the last chunk ends in other places of what is read at once
            for headers, answers in (((), [201, 200]), ((b"Connection: close",), [201])):
                head = get(b"/", CHUNK, *headers, method=b"POST")
                transport = self.send(head + chunk * size + b"0\r\n\r\n" + get(b"/?n=last"))
                turns = 0
                while not transport.value():
                    self.assertEqual("paused", transport.producerState)
                    next_turn(self.clock)
                    turns += 1
                self.assertGreater(turns, 1)
                self.clock.advance(0)
                self.assertEqual(answers, [said.status for said in read_answers(transport.value())])
                self.assertEqual(b"x" * size, self.root.index.bodies[-1])

    def test_bad_chunks(self) -> None:
        """A body that turns out to be wrong or too large in a later turn is refused then, and nothing behind it is
        answered."""
        for bad, status in ((b"z\r\n" * 1000, 400), (b"1\r\nx\r\n" * 1000, 413)):
            transport = self.send(CHUNKED + (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 2 + bad + get(b"/?n=last"))
            self.assertEqual(b"", transport.value())
            self.clock.advance(0)
            self.assertEqual([status], [said.status for said in read_answers(transport.value())])

    def test_more_meanwhile(self) -> None:
        """Data that comes in spite of the pause, as over TLS, waits behind the rest."""
        transport = self.send(*[get(b"/?n=%d" % number) * 2 for number in range(5)])
        for _ in range(10):
            self.clock.advance(0)
        self.assertEqual(
            [str(number) for number in range(5) for _ in range(2)],
            [json.loads(said.body)["n"] for said in read_answers(transport.value())],
        )

    def test_lost_meanwhile(self) -> None:
        """A connection that is lost while it waits is forgotten."""
        transport = self.send(get() * 3)
        transport.lose()
        self.clock.advance(0)
        self.assertEqual(1, len(read_answers(transport.value())))

    def test_one_by_one(self) -> None:
        """Requests that come one by one are answered at once."""
        transport = self.connect()
        for number in range(5):
            transport.protocol.dataReceived(get(b"/?n=%d" % number))
            self.assertEqual(number + 1, len(read_answers(transport.value())))


class PlainDeadlineTests(DeadlineTests):
    """The same with Twisted's own parsing and answering."""

    fast = False


class PlainDisconnectTests(DisconnectTests):
    """The same with Twisted's own parsing and answering."""

    fast = False


class PlainConnectionLimitTests(ConnectionLimitTests):
    """The same with Twisted's own parsing and answering."""

    fast = False


class PlainTurnTests(TurnTests):
    """The same with Twisted's own parsing and answering."""

    fast = False
