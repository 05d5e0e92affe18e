"""Tests for :mod:`realtime_chat.client.http_link`: commands by ``POST``, with answers that the test gives."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.http_client import JSONResponse
from realtime_chat.client.http_link import CommandQueue
from realtime_chat.client.link import ClientIdentity
from realtime_chat.client.poll import PollLink
from realtime_chat.client.server_url import ServerURL

WELCOME = {"type": "welcome", "client": "secret", "rooms": 50}


class Exchanges:
    """The requests of a link.

    :ivar waiting: the body of each that has no answer yet, and where its answer goes.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Deferred[JSONResponse]]] = []

    def exchange(self, path: str, query: Any, client: str | None, body: bytes = b"null", **_: Any) -> Any:
        self.waiting.append((json.loads(body), Deferred()))
        return self.waiting[-1][1]

    def close(self) -> Deferred[None]:
        return succeed(None)


class Listener:
    """Writes down what a link reports.

    :ivar told: the last argument of each report, by its kind.
    """

    def __init__(self) -> None:
        self.told: dict[str, list[Any]] = {kind: [] for kind in ("opened", "received", "refused", "closed")}
        for kind, reports in self.told.items():
            setattr(self, kind, lambda *arguments, reports=reports: reports.append(arguments[-1]))


class CommandsTests(SynchronousTestCase):
    """A link that is open, and reads no room."""

    def setUp(self) -> None:
        self.clock, self.listener, self.http = Clock(), Listener(), Exchanges()
        listener: Any = self.listener
        self.link = PollLink(ServerURL(self.clock, "http://localhost:8080/"), listener, ClientIdentity())
        self.link._http = self.http  # type: ignore[assignment]
        self.link.open()
        self.assertEqual("hello", self.answer(WELCOME)["type"])

    def answer(self, body: Any, status: int = 200) -> Any:
        """Answer the only request that waits; give its body."""
        self.clock.advance(0)
        ((asked, response),) = self.http.waiting
        self.http.waiting.clear()
        response.callback(JSONResponse(status, body))
        return asked

    def publish(self, *ids: int) -> None:
        for id in ids:
            self.link.send({"type": "publish", "id": id})

    def told(self, kind: str) -> list[Any]:
        """What the listener was told."""
        return self.listener.told[kind]

    def test_together(self) -> None:
        """Commands of one turn go together; those that come meanwhile go when the answer is there, one as it is."""
        self.publish(1, 2)
        self.clock.advance(0)
        self.publish(3)
        self.assertEqual([1, 2], [one["id"] for one in self.answer([{"type": "published"}, {"type": "published"}])])
        self.assertEqual({"type": "publish", "id": 3}, self.answer({"type": "published"}))
        self.assertEqual([1, 2, 3], [reply["id"] for reply in self.told("received")])

    def test_one_by_one(self) -> None:
        """Of commands that are too large together, each goes alone, and only that one fails which is too large."""
        too_large = {"type": "error", "code": "too_large", "message": "no", "temporary": False}
        self.publish(1, 2)
        self.answer(too_large, 413)
        self.assertEqual(1, self.answer(too_large, 413)["id"])
        self.assertEqual(2, self.answer({"type": "published"})["id"])
        self.publish(3, 4)
        self.assertEqual([3, 4], [self.answer({"type": "published"})["id"] for _ in "ab"])
        replies = [(reply["id"], reply.get("code")) for reply in self.told("received")]
        self.assertEqual([(1, "too_large"), (2, None), (3, None), (4, None)], replies)
        self.assertEqual([], self.told("closed"))

    def test_refused(self) -> None:
        """An error is the answer to one command; to several, or about all that could be sent, it ends the link."""
        for ids, code, ends in (((1,), "forbidden", False), ((1, 2), "forbidden", True), ((1,), "stopping", True)):
            self.setUp()
            self.publish(*ids)
            self.answer({"type": "error", "code": code, "message": "no", "temporary": True}, 503)
            self.assertEqual(ends, bool(self.told("closed")), code)
            self.assertEqual([] if ends else [code], [reply["code"] for reply in self.told("received")])

    def test_no_json(self) -> None:
        """An answer that is none of a daemon's ends the link, and says so."""
        self.publish(1)
        self.answer(None, 502)
        (disconnect,) = self.told("closed")
        self.assertIn("status 502", disconnect.reason)


class QueueTests(SynchronousTestCase):
    """Commands that wait."""

    def test_bytes(self) -> None:
        """As many go together as have at most 32 KiB; one that is larger goes alone."""
        for sizes, batches in (((16384, 16384, 10), [2, 1]), ((16384, 16385), [1, 1]), ((40000, 10), [1, 1])):
            queue = CommandQueue()
            for size in sizes:
                queue.add({"a": "x" * (size - len('{"a":""}'))})
            counts = []
            while queue:
                counts.append(len(queue.next_batch()))
            self.assertEqual(batches, counts, sizes)

    def test_count(self) -> None:
        """At most a hundred go together."""
        queue = CommandQueue()
        for number in range(150):
            queue.add({"id": number})
        self.assertEqual([100, 50], [len(queue.next_batch()) for _ in "ab"])
