"""Tests for :mod:`realtime_chat.values.errors`: the two catalogues are consistent."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values import errors
from realtime_chat.values.codec import encode_error
from realtime_chat.values.errors import ERRORS, GOODBYES, Goodbye, RealtimeError, StoreError

PACKAGE = Path(errors.__file__).parents[1]


class ErrorTests(SynchronousTestCase):
    """Errors."""

    def test_words(self) -> None:
        """A code is one word for programs."""
        self.assertEqual([], [code for code in ERRORS if not re.fullmatch(r"[a-z]+(_[a-z]+)*", code)])

    def test_statuses(self) -> None:
        """A status is one of an error; what is temporary has one that says so, and nothing else has."""
        for code, kind in ERRORS.items():
            self.assertTrue(400 <= kind.status < 600, code)
            self.assertEqual(kind.status in (429, 500, 503), kind.temporary, code)

    def test_closed(self) -> None:
        """The catalogue is closed: nobody can add to it, and no other code can be raised."""
        self.assertRaises(TypeError, operator.setitem, ERRORS, "new", ERRORS["internal"])
        self.assertRaises(KeyError, RealtimeError, "no_such_code", "")

    def test_error(self) -> None:
        """An error carries its code, its kind, what to say, and whose answer it is."""
        error = RealtimeError("bad_room", "a room is …", 7)
        self.assertEqual(
            ("bad_room", ERRORS["bad_room"], "a room is …", 7), (error.code, error.kind, error.message, error.id)
        )
        self.assertEqual("bad_room: a room is …", str(error))

    def test_store_error(self) -> None:
        """A store that can't is an error for a while."""
        error = StoreError("the disk is full")
        self.assertEqual(("store_unavailable", 503, True), (error.code, *error.kind))

    def test_detail(self) -> None:
        """What only the operator is told stands in the log's text of it, and not in what a client is told."""
        error = StoreError("the store can't be read", "/srv/db: permission denied")
        self.assertNotIn("/srv", encode_error(error).decode())
        self.assertIn("/srv/db: permission denied", str(error))
        self.assertEqual("the disk is full", StoreError("the disk is full").detail)


class MessageTests(SynchronousTestCase):
    """What clients are told is written down here, and not made of what something else says."""

    def test_store(self) -> None:
        """The message of a store's error is a fixed sentence, or that of another such error."""
        fixed = re.compile(r"'[^'{]*'|\"[^\"{]*\"|_[A-Z_]+|self\._closed|error\.message")
        for where, call in _calls("StoreError"):
            self.assertRegex(ast.unparse(call.args[0]), rf"^({fixed.pattern})$", where)

    def test_caught(self) -> None:
        """No error tells a client the text of an exception that was caught; what the JSON decoder says is tested."""
        for where, call in _calls("RealtimeError", "StoreError", "UnreadableCommand"):
            message = call.args[0 if _name(call) == "StoreError" else 1]
            fixed = {
                id(node.value)
                for node in ast.walk(message)
                if isinstance(node, ast.Attribute) and node.attr == "message"
            }
            names = {node.id for node in ast.walk(message) if isinstance(node, ast.Name) and id(node) not in fixed}
            self.assertEqual(set(), names & {"error", "failure", "refusal", "str", "repr", "path", "pid"}, where)


def _calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Where the server makes such errors."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place in ("values/commands.py", "values/json.py") or place.startswith(("client/", "console/")):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _name(node) in names:
                yield f"{path.name}:{node.lineno}", node


def _name(call: ast.Call) -> str | None:
    return getattr(call.func, "id", None)


class GoodbyeTests(SynchronousTestCase):
    """Reasons to close."""

    def test_unique(self) -> None:
        """Each reason has a code of its own, and is filed under its own name."""
        self.assertEqual(len(GOODBYES), len({goodbye.code for goodbye in GOODBYES.values()}))
        self.assertEqual(list(GOODBYES), [goodbye.reason for goodbye in GOODBYES.values()])

    def test_ranges(self) -> None:
        """Codes are of the range that is free for applications; below 4500 one comes back, from there on not."""
        for goodbye in GOODBYES.values():
            self.assertTrue(4000 <= goodbye.code <= 4999, goodbye)
            self.assertEqual(goodbye.code <= 4499, goodbye.reconnect, goodbye)
            self.assertGreaterEqual(goodbye.after, 0)
            self.assertTrue(goodbye.reconnect or not goodbye.after, goodbye)

    def test_edges(self) -> None:
        """4499 is the last code to come back after."""
        self.assertEqual((True, False), (Goodbye(4499, "a").reconnect, Goodbye(4500, "b").reconnect))

    def test_short(self) -> None:
        """A reason fits into a close frame."""
        self.assertEqual([], [reason for reason in GOODBYES if len(reason.encode()) > 123])

    def test_closed(self) -> None:
        """Nobody can add to it."""
        self.assertRaises(TypeError, operator.setitem, GOODBYES, "new", Goodbye(4002, "new"))

    def test_exported(self) -> None:
        """All that is public is named."""
        self.assertEqual([], [name for name in errors.__all__ if not hasattr(errors, name)])
