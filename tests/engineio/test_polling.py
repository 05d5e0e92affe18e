"""Tests for :mod:`realtime_chat.engineio.polling`."""

from __future__ import annotations

import json

from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.prepared import PreparedMessage
from tests.engineio.echo import Echo
from tests.engineio.site import EngineTestCase
from tests.http.site_case import get, read_answers

SCRIPT = "application/javascript; charset=utf-8"


class PollTests(EngineTestCase):
    """GETs."""

    settings = {"ping_interval": 25, "ping_timeout": 20, "max_queued": 1000}

    def connection(self) -> Connection:
        return self.echoes[-1].connection

    def test_a_waiting_poll_is_answered(self) -> None:
        """What is sent answers the poll that waits, and more waits for the next one."""
        sid = self.open_polling()
        waiting = self.poll(sid)
        self.assertFalse(waiting.is_answered)
        for text in (b"a", b"b", b"c"):
            self.connection().send(PreparedMessage([text]))
        self.assertEqual((b"4a", b"4b\x1e4c"), (waiting.body, self.poll(sid).body))
        self.assertEqual("text/plain; charset=utf-8", waiting.said.headers["content-type"])

    def test_pipelined_polls(self) -> None:
        """A poll that follows at once on the same connection gets no packet twice."""
        sid = self.open_polling()
        for text in (b"a", b"b"):
            self.connection().send(PreparedMessage([text]))
        request = get(self.path(sid=sid))
        transport = self.send(request + request)
        self.connection().send(PreparedMessage([b"c"]))
        self.assertEqual([b"4a\x1e4b", b"4c"], [said.body for said in read_answers(transport.value())])

    def test_slow(self) -> None:
        """A client that doesn't poll for too much is closed as slow."""
        sid = self.open_polling()
        for _ in range(3):
            self.connection().send(PreparedMessage([b"x" * 400]))
        self.assertEqual((400, "slow"), (self.poll(sid).said.status, self.echoes[0].reason))

    def test_the_rest_of_an_orderly_close(self) -> None:
        """A client that is between two polls when the server closes gets what was sent before, and a close packet."""
        sid = self.open_polling()
        self.connection().send(PreparedMessage([b"bye"]))
        self.connection().close("server namespace disconnect")
        self.assertEqual(400, self.post(sid, b"4a").status)
        self.assertEqual(b"4bye\x1e1", self.poll(sid).body)
        self.assertEqual(400, self.poll(sid).said.status)

    def test_the_rest_is_dropped_after_a_while(self) -> None:
        """A client that doesn't come for the rest is forgotten."""
        sid = self.open_polling()
        self.connection().send(PreparedMessage([b"bye"]))
        self.connection().close()
        self.wait(11)
        self.assertEqual((0, 400), (len(self.engine.connections), self.poll(sid).said.status))

    def test_server_closes_while_a_poll_waits(self) -> None:
        """The poll that waits ends with a close packet."""
        waiting = self.poll(self.open_polling())
        self.connection().close()
        self.assertEqual(b"1", waiting.body)

    def test_head_and_put(self) -> None:
        """A session is polled by GET and POST alone."""
        sid = self.open_polling()
        for method in (b"PUT", b"HEAD", b"OPTIONS"):
            asked = self.ask_for(self.path(sid=sid), method=method)
            self.assertIn(b"HTTP/1.1 400 ", asked.transport.value(), method)
        self.assertIsNone(self.echoes[0].reason)

    def test_another_version(self) -> None:
        """All requests of a session are of one version."""
        sid = self.open_polling()
        said = self.poll(sid, EIO="3").said
        self.assertEqual((400, 3), (said.status, json.loads(said.body)["code"]))


class PostTests(EngineTestCase):
    """POSTs."""

    settings = {"ping_interval": 25, "ping_timeout": 20}

    def test_paused_receiver(self) -> None:
        """While the receiver has enough to do, a POST isn't answered, and another one ends the session."""
        sid = self.open_polling()
        connection = self.echoes[0].connection
        connection.pause_reading()
        post = self.ask_for(self.path(sid=sid), body=b"4a\x1e4b")
        self.assertFalse(post.is_answered)
        connection.resume_reading()
        self.clock.advance(0)
        self.assertEqual((b"ok", b"4a\x1e4b"), (post.body, self.poll(sid).body))
        connection.pause_reading()
        first, second = (self.ask_for(self.path(sid=sid), body=b"4c") for _ in range(2))
        self.assertEqual([200, 400], self.statuses(first, second))
        self.assertEqual("transport error", self.echoes[0].reason)

    def test_paused_in_the_middle(self) -> None:
        """A receiver that pauses while it gets a packet gets the next one when it goes on."""
        received: list[bytes] = []

        class Pausing(Echo):
            def text_received(self, text: bytes) -> None:
                received.append(text)
                self.connection.pause_reading()

        self.accept = Pausing  # type: ignore[assignment, method-assign]
        self.engine._accept = Pausing
        sid = self.open_polling()
        post = self.ask_for(self.path(sid=sid), body=b"4a\x1e4b")
        (connection,) = self.engine.connections
        self.assertEqual([b"a"], received)
        connection.resume_reading()
        self.clock.advance(0)
        self.assertEqual(([b"a", b"b"], False), (received, post.is_answered))
        connection.resume_reading()
        self.clock.advance(0)
        self.assertEqual(b"ok", post.body)

    def test_fair_share(self) -> None:
        """A body with very many packets takes several turns, and all come in order."""
        sid = self.open_polling()
        times = iter(range(10**9))
        self.turns._seconds = lambda: next(times) / 1000  # each look at the clock is a millisecond later
        post = self.ask_for(self.path(sid=sid), body=b"\x1e".join(b"4%d" % number for number in range(100)))
        self.assertFalse(post.is_answered)
        self.until(lambda: post.is_answered)
        self.assertEqual(b"\x1e".join(b"4%d" % number for number in range(100)), self.poll(sid).body)

    def test_cancelled(self) -> None:
        """A client that breaks off a POST that isn't answered has ended the session."""
        sid = self.open_polling()
        self.echoes[0].connection.pause_reading()
        self.ask_for(self.path(sid=sid), body=b"4a").cancel()
        self.assertEqual("transport error", self.echoes[0].reason)

    def test_packets_before_the_fault(self) -> None:
        """Packets before the one that is none are taken."""
        sid = self.open_polling()
        waiting = self.poll(sid)
        self.assertEqual(400, self.post(sid, b"4a\x1e9\x1e4b").status)
        self.assertEqual((b"4a", "parse error"), (waiting.body, self.echoes[0].reason))


class JSONPTests(EngineTestCase):
    """Scripts for browsers without cross-origin requests."""

    settings = {"ping_interval": 25, "ping_timeout": 20}

    def test_poll(self) -> None:
        """The payload is the argument of a call, with the line ends of JavaScript escaped, and typed as a script."""
        sid = self.open_polling(j="0")
        self.echoes[0].connection.send(PreparedMessage(['"é\n\u2028</script>'.encode()]))
        said = self.poll(sid, j="17").said
        self.assertEqual('___eio[17]("4\\"é\\n\\u2028</script>");'.encode(), said.body)
        self.assertEqual((SCRIPT, "nosniff"), (said.headers["content-type"], said.headers["x-content-type-options"]))

    def test_post(self) -> None:
        """A form's field is the payload, with its newlines escaped."""
        sid = self.open_polling(j="0")
        said = self.post(sid, b"d=4a%5Cnb%5C%5Cn", b"Content-Type: application/x-www-form-urlencoded", j="0")
        self.assertEqual((b"ok", "text/html"), (said.body, said.headers["content-type"]))
        self.assertEqual(b"4a\nb\\n", self.poll(sid).body)

    def test_binary(self) -> None:
        """A script has binary data in base64, in both versions."""
        for version, posted, expected in ((4, b"d=bAQID", b'"bAQID"'), (3, b"d=6:b4AQID", b'"6:b4AQID"')):
            sid = self.open_polling(j="0", EIO=str(version))
            self.post(sid, posted, j="0", EIO=str(version))
            self.assertIn(expected, self.poll(sid, j="1", EIO=str(version)).body)

    def test_callback_is_a_number(self) -> None:
        """Nothing but digits gets into the script."""
        for index in ("a", "0);alert(1", "%3Cscript%3E", "-1", "1" * 17):
            said = self.ask_for(self.path(j=index)).said
            self.assertEqual((400, 3), (said.status, json.loads(said.body)["code"]), index)
        self.assertEqual([], [connection for connection in self.engine.connections if not connection.is_closed])


class NoJSONPTests(EngineTestCase):
    """Where scripts are not answered."""

    settings = {"jsonp": False}

    def test_refused(self) -> None:
        """A request for a script is refused, with the option that allows it."""
        said = self.ask_for(self.path(j="0")).said
        self.assertEqual(400, said.status)
        self.assertIn("--allow-jsonp", json.loads(said.body)["message"])
