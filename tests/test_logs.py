"""Tests for :mod:`realtime_chat.logs`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import (
    FilteringLogObserver,
    LegacyLogObserverWrapper,
    Logger,
    LogLevelFilterPredicate,
    LogPublisher,
    formatEvent,
    textFileLogObserver,
)
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.logs import ThrottledLog, log_files, plain_lines, reopen, throttle


def failed(error: BaseException) -> Failure:
    """A failure as where something was raised."""
    try:
        raise error
    except BaseException:
        return Failure()


class ThrottledLogTests(SynchronousTestCase):
    """What is written, and what is only counted."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[Any] = []
        self.throttled = ThrottledLog(self.events.append, self.clock.seconds, self.clock.callLater, ("ours",))
        self.log = Logger("here", observer=self.throttled)

    def written(self) -> list[str]:
        """What was written since the last time."""
        lines = [formatEvent(event) for event in self.events]
        self.events.clear()
        return lines

    def test_rare_lines(self) -> None:
        """What doesn't repeat is written as it is."""
        self.log.info("listening on {port}", port=8080)
        self.log.warn("no {what}", what="disk")
        self.assertEqual(["listening on 8080", "no disk"], self.written())

    def test_same(self) -> None:
        """A line that repeats is written twice a minute, with a count of the others when the minute is over."""
        for _ in range(1000):
            self.log.warn("bad {what}", what="frame")
        self.assertEqual(["bad frame"] * 2, self.written())
        self.clock.advance(60)
        self.assertEqual(["998 more like this were left out within 60 s: bad frame"], self.written())
        self.log.warn("bad {what}", what="frame")
        self.assertEqual(["bad frame"], self.written())
        self.clock.advance(60)
        self.assertEqual([], self.written())

    def test_hour(self) -> None:
        """An hour of one line every second is three lines a minute."""
        for _ in range(3600):
            self.log.warn("bad")
            self.clock.advance(1)
        self.assertLessEqual(len(self.written()), 3 * 60)

    def test_alike(self) -> None:
        """Of lines that differ by what a client chooses, four are written."""
        for number in range(1000):
            self.log.warn("bad {what}", what=f"frame {number}")
        self.assertEqual(4, len(self.written()))

    def test_others_are_not_hidden(self) -> None:
        """A flood hides neither another line, nor the same place with another trouble, nor another level."""
        for _ in range(1000):
            self.log.warn("{path}: {trouble}", path="a", trouble="moved")
        self.written()
        self.log.warn("{path}: {trouble}", path="a", trouble="full")
        self.log.warn("{path}: all is lost", path="a")
        self.log.error("{path}: {trouble}", path="a", trouble="moved")
        Logger("elsewhere", observer=self.throttled).warn("{path}: {trouble}", path="a", trouble="moved")
        self.assertEqual(["a: full", "a: all is lost", "a: moved", "a: moved"], self.written())

    def test_invented_formats(self) -> None:
        """Who formats lines himself, with a client's words in them, is bounded too."""
        for number in range(5000):
            self.log.warn(f"{number}: {chr(ord('a') + number % 26)}{chr(ord('a') + number // 26 % 26)} is bad")
        self.assertLessEqual(len(self.written()), 150)
        self.assertLessEqual(sum(map(len, self.throttled._windows.values())), 33)

    def test_memory(self) -> None:
        """What has been quiet for a minute is forgotten, and no timer is left."""
        for number in range(100):
            Logger(f"part {number}", observer=self.throttled).warn("bad")
        self.clock.advance(60)
        self.assertEqual(({}, []), (self.throttled._windows, self.clock.getDelayedCalls()))

    def test_failures(self) -> None:
        """Exceptions are told apart by their kind and by where they were raised, and have their tracebacks."""
        for _ in range(100):
            self.log.failure("it failed", failed(ValueError("x")))
        same = self.written()
        self.assertEqual(2, len(same))
        self.assertIn("ValueError: x", same[0])
        self.assertIn("Traceback", same[0])
        self.log.failure("it failed", failed(KeyError("x")))
        try:
            int("x")
        except ValueError:
            self.log.failure("it failed")
        self.assertEqual(2, len(self.written()))

    def test_failures_of_a_client(self) -> None:
        """An exception that quotes what a client sent is neither long nor repeated."""
        for number in range(1000):
            self.log.failure("it failed", failed(ValueError(f"{number} \x1b[2J\n" + "x" * 100_000)))
        lines = self.written()
        self.assertLessEqual(len(lines), 4)
        self.assertLess(sum(map(len, lines)), 20_000)
        self.assertNotIn("\x1b", "".join(lines))

    def test_older_functions(self) -> None:
        """What Twisted logs by its older functions is told apart by its text and its failure."""
        publisher = legacy.LogPublisher(publishPublisher=LogPublisher(self.throttled))
        for number in range(100):
            publisher.msg(f"(TCP Port {number} Closed)")
        publisher.msg("Server Shut Down.")
        lines = self.written()
        self.assertEqual(5, len(lines), lines)
        self.assertEqual(["(TCP Port 0 Closed)", "Server Shut Down."], [lines[0], lines[-1]])
        for _ in range(100):
            publisher.msg(failure=failed(ValueError("x")), why="bad", isError=1)
        publisher.msg(failure=failed(KeyError("y")), why="bad", isError=1)
        lines = self.written()
        self.assertEqual(3, len(lines), lines)
        self.assertIn("KeyError", lines[-1])

    def test_late_timers(self) -> None:
        """Where timers come late, as the time of day was put back, a minute is still a minute."""
        seconds = [0.0]
        throttled = ThrottledLog(self.events.append, lambda: seconds[0], lambda *_: None)
        log = Logger("here", observer=throttled)
        for seconds[0] in (0.0, 1.0, 2.0, 61.0):
            log.warn("bad")
        self.assertEqual(["bad", "bad", "1 more like this were left out within 60 s: bad", "bad"], self.written())

    def test_spared(self) -> None:
        """The lines of who is spared are all written."""
        ours = Logger("ours", observer=self.throttled)
        for _ in range(100):
            ours.info("stopped")
        self.assertEqual(100, len(self.written()))

    def test_end(self) -> None:
        """At the end counts are told at once."""
        for _ in range(10):
            self.log.warn("bad")
        self.throttled.write_all_counts()
        self.assertEqual("8 more like this were left out within 60 s: bad", self.written()[-1])
        self.clock.advance(60)
        self.assertEqual([], self.written())

    def test_between(self) -> None:
        """It stands between a publisher and its observers, old ones too, until it is taken away."""
        told: list[Any] = []
        publisher = LogPublisher(self.events.append, LegacyLogObserverWrapper(told.append))
        undo = throttle(publisher, self.clock.seconds, self.clock.callLater)
        log = Logger("here", observer=publisher)
        for _ in range(9):
            log.warn("bad {what}", what="frame")
        self.assertEqual(2, len(told))
        self.assertEqual("bad frame", legacy.textFromEventDict(told[0]))
        undo()
        log.warn("bad")
        self.assertEqual(["bad frame"] * 2, self.written()[:2])
        self.assertEqual((4, []), (len(told), [event for event in told if event["isError"]]))


class FilesTests(SynchronousTestCase):
    """Log files that are renamed while they are written to."""

    def path(self) -> Path:
        """Where one may be."""
        return Path(self.mktemp()).resolve()

    def test_found(self) -> None:
        """The file is found behind Twisted's observers, its older ones, and ours, and is given once."""
        publisher, path = LogPublisher(), self.path()
        file = LogFile.fromFullPath(str(path))
        self.addCleanup(file.close)
        now = textFileLogObserver(file)
        publisher.addObserver(FilteringLogObserver(now, [LogLevelFilterPredicate()]))
        publisher.addObserver(LegacyLogObserverWrapper(legacy.FileLogObserver(file).emit))
        publisher.addObserver(lambda event: None)
        self.assertEqual([file], list(log_files(publisher)))
        clock = Clock()
        throttle(publisher, clock.seconds, clock.callLater)
        self.assertEqual([file], list(log_files(publisher)))

    def test_twisted(self) -> None:
        """A log file of Twisted's goes on at its path, with its mode, and knows its size, by which it rotates."""
        path = self.path()
        file = LogFile.fromFullPath(str(path), rotateLength=100, defaultMode=0o640)
        self.addCleanup(file.close)
        file.write("x" * 90)
        old = path.rename(path.with_suffix(".old"))
        self.assertTrue(reopen(file))
        file.write("y" * 90)
        self.assertEqual(("x" * 90, "y" * 90), (old.read_text(), path.read_text()))
        self.assertEqual(0o640, path.stat().st_mode & 0o777)
        file.write("y" * 20)
        file.write("z")
        self.assertEqual("z", path.read_text())

    def test_of_python(self) -> None:
        """A file of Python's goes on at its path behind what is there."""
        path = self.path()
        with path.open("a") as file:
            file.write("one\n")
            old = path.rename(path.with_suffix(".old"))
            path.write_text("there\n")
            self.assertTrue(reopen(file))
            file.write("two\n")
        self.assertEqual(("one\n", "there\ntwo\n"), (old.read_text(), path.read_text()))

    def test_failed(self) -> None:
        """Where the path can't be opened, all goes on in the old file."""
        path = self.path()
        with path.open("a", 1) as file:
            old = path.rename(path.with_suffix(".old"))
            path.mkdir()
            self.assertRaises(OSError, reopen, file)
            file.write("one\n")
        self.assertEqual("one\n", old.read_text())

    def test_none(self) -> None:
        """What has no path, or is a device, stays what it is; no file is made."""
        path = self.path()
        self.addCleanup(os.chdir, os.getcwd())
        os.mkdir(empty := self.mktemp())
        os.chdir(empty)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT), "w") as numbered, open(os.devnull, "w") as device:
            self.assertEqual([False, False], [reopen(file) for file in (numbered, device)])
        self.assertEqual([path.name], os.listdir(path.parent))
        self.assertEqual([], os.listdir())


class PlainLinesTests(SynchronousTestCase):
    """What a line may hold."""

    @given(st.text(st.characters(), max_size=3000))
    def test_any(self, text: str) -> None:
        """Whatever comes, lines are printable, encodable, and bounded."""
        for line in plain_lines(text).split("\n"):
            self.assertTrue(line.isprintable(), repr(line))
            self.assertLessEqual(len(line.encode()), 4 * 1001)

    def test_escaped(self) -> None:
        """What isn't printable is escaped as in Python; what is, stays."""
        self.assertEqual("é \\x1b[2J \\u202e \\ud800 \\r", plain_lines("é \x1b[2J \u202e \ud800 \r"))

    def test_cut(self) -> None:
        """Long lines are cut, and of many lines the first and the last ones stay."""
        self.assertEqual("x" * 1000 + "…", plain_lines("x" * 5000))
        self.assertEqual("x" * 1000, plain_lines("x" * 1000))
        many = plain_lines("\n".join(map(str, range(1000)))).split("\n")
        self.assertEqual(["0", "… 940 lines …", "999"], [many[0], many[20], many[-1]])
