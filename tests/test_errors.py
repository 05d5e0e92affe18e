"""Tests for :mod:`realtime_chat.errors`: the two catalogues are consistent."""

from __future__ import annotations

import operator
import re

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat import errors
from realtime_chat.errors import ERRORS, GOODBYES, Goodbye, RealtimeError, StoreError


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
