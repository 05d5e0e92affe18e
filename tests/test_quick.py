"""Tests for :mod:`tests.quick`: what needs more than an interpreter is known."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.daemon import CHECKOUT
from tests.quick import more_needed
from tests.shuffled import places_of


@cache
def _started() -> Any:
    return subprocess.Popen(["true"])


class _Served:
    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def start(self) -> None:
        self._reactor.listenTCP(0, None)


class _Base:
    """No real test case, or trial would run the examples."""

    service: Any

    def __init__(self, method: str) -> None:
        self._testMethodName = method

    def setUp(self) -> None:
        pass

    def serve(self) -> None:
        self.service.startService()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        self.serve()
        yield


class _Examples(_Base):
    def test_nothing(self) -> None:
        assert "subprocess"

    def test_function(self) -> None:
        assert _started()

    def test_class(self) -> None:
        _Served(None)

    def test_method(self) -> None:
        self.serve()

    def test_inside(self) -> None:
        def inner() -> None:
            with self.serving():
                pass

        inner()


class _ServedExamples(_Examples):
    def setUp(self) -> None:
        super().setUp()
        self.serve()


class _MoreExamples(_ServedExamples):
    def setUp(self) -> None:
        super().setUp()


class _PlacedExamples(_Examples):
    places = (0.2, 0.3)


class NeededTests(SynchronousTestCase):
    """What a test needs."""

    def test_found(self) -> None:
        """It is found in the test itself, and in the functions, the classes and the methods that it uses."""
        needed = {"nothing": None, "function": "subprocess", "class": "listenTCP"}
        needed |= {"method": "startService", "inside": "startService"}
        self.assertEqual(needed, {name: more_needed(_Examples(f"test_{name}")) for name in needed})

    def test_before(self) -> None:
        """It is found in what runs before the test, also in that of a class above."""
        for case in (_ServedExamples, _MoreExamples):
            self.assertEqual("startService", more_needed(case("test_nothing")))


class PlacesTests(SynchronousTestCase):
    """Where a test stands in the order of all tests."""

    def test_found(self) -> None:
        """What needs more stands before the last ones, and where its class says so, between other places."""
        self.assertEqual((0.0, 1.0), places_of(_Examples("test_nothing")))
        self.assertEqual((0.0, 0.7), places_of(_Examples("test_function")))
        self.assertEqual((0.2, 0.3), places_of(_PlacedExamples("test_function")))


class RefusedTests(SynchronousTestCase):
    """What is not found."""

    def test_refused(self) -> None:
        """A test of ``make check`` that starts a process or opens a port all the same fails, and is told why."""
        for code in ("__import__('os').system('true')", "__import__('socket').socket().bind(('127.0.0.1', 0))"):
            program = f"from tests.quick import refuse_more; refuse_more(); {code}"
            done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
            self.assertIn("tests/quick.py should have known that", done.stderr, code)
