"""The table of retry cases, which both client libraries have to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.errors import FateUnknown, Refused
from realtime_chat.values.model import Position
from tests.client.test_core import World

_CASES = Path(__file__).parents[1] / "retries.json"


class _Case(msgspec.Struct):
    """The steps, the log in the end, and the result of each message."""

    about: str
    steps: list[list[Any]]
    log: list[str]
    fates: dict[str, str]


class _RetryCase(World):
    """A world that takes the steps of the table, as ``tests/browser/retries.test.js`` does."""

    def __init__(self) -> None:
        super().__init__(patient=True)
        self.keys: dict[str, str] = {}
        self.join()
        self.settle()

    def do(self, name: str, *values: Any) -> None:
        getattr(self, f"do_{name}")(*values)

    def do_publish(self, text: str) -> None:
        self.published.append(text)
        results = self.results[text] = []
        self.keys[text] = f"key-{text}"
        promise = self.core.outbox.publish("lobby", msgspec.json.encode(text), "message", self.keys[text])
        promise.addCallbacks(results.append, lambda failure: results.append(failure.value))

    def do_arrive(self) -> None:
        self.link.deliver_command()

    def do_answer(self) -> None:
        while self.link.deliver_event() or self.link.deliver_reply():
            pass

    def do_lose(self) -> None:
        self.link.cut()

    def do_renew(self) -> None:
        self.server.renew()

    def do_forget(self) -> None:
        self.server.forget_clients()

    def do_trim(self, keep: int) -> None:
        self.server.trim(keep)

    def do_wait(self, seconds: int) -> None:
        for _ in range(seconds):
            while self.step():
                pass
            self.clock.advance(1)

    def do_offline(self, seconds: int) -> None:
        self.server.offline = True
        self.clock.pump([1.0] * seconds)
        self.server.offline = False

    def do_room(self, whether: str) -> None:
        self.server.room_away = whether == "away"

    def do_strangers(self, count: int) -> None:
        for number in range(count):
            self._say_as_stranger(f"s{number}")

    def do_stranger(self, text: str) -> None:
        self._say_as_stranger(self.keys[text])

    def _say_as_stranger(self, key: str) -> None:
        self.server.publish("stranger", {"key": key, "id": 0, "event": "message", "data": b"null"})

    def do_unreadable(self) -> None:
        """The server can't read the first command on its way."""
        self.link.commands.popleft()
        while self.link.deliver_command():
            pass
        self.link.replies.clear()
        self.link.events.clear()
        self.link.events.append({"type": "error", "code": "bad_request", "message": "?", "temporary": False})

    def do_trouble(self, kind: str) -> None:
        if kind in ("away", "over"):
            self.server.away = kind == "away"
        else:
            self.server.publish_errors.append(kind)

    def end(self) -> None:
        """Deliver everything until each message has a result."""
        while not all(self.results.values()):
            self.settle()
        self.settle()

    @property
    def stored(self) -> list[str]:
        return [message["data"] for log in self.server.logs for message in log.messages if message["data"] is not None]

    @property
    def fates(self) -> dict[str, str]:
        return {text: _fate(result) for text, (result,) in self.results.items()}


def _fate(result: Any) -> str:
    kinds = {Position: "stored", FateUnknown: "unknown", Refused: "failed"}
    return kinds.get(type(result), repr(result))


class TableTests(SynchronousTestCase):
    """The table of cases."""

    def test_cases(self) -> None:
        """In each case the log is as expected, and each message has the expected result."""
        cases = msgspec.json.decode(_CASES.read_bytes(), type=list[_Case])
        self.assertGreater(len(cases), 10)
        for case in cases:
            story = _RetryCase()
            for step in case.steps:
                story.do(*step)
            story.end()
            self.assertEqual((case.log, case.fates), (story.stored, story.fates), case.about)
