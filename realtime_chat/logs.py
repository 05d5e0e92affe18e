"""Logs that stay short and readable, whatever clients do.

All log events go through one observer: those of this package, of Twisted and of Autobahn. Repeated events are left out
and counted. What is written consists of short lines of printable characters.
"""

from __future__ import annotations

import math
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from functools import lru_cache
from typing import Any

import attrs
from twisted.logger import ILogObserver, LogEvent, LogPublisher, eventAsText
from twisted.python.failure import Failure
from zope.interface import implementer

_SECONDS = 60.0
"""How long a window is."""

_MAX_EQUAL = 2
"""How many equal lines are written in one window."""

_MAX_FROM_PLACE = 4
"""How many lines from the same place in a program are written in one window."""

_MAX_PLACES = 32
"""How many places in one log namespace are told apart. Further places count as one."""

_PATTERN_LENGTH = 60
_LINE_LENGTH = 1000
_FIRST_LINES = 20
_LAST_LINES = 40
_ELLIPSIS = "…"
_KEPT = ("log_level", "log_namespace", "log_system", "log_time", "system", "time")
"""The keys of an event that are kept besides its text. Other values could keep large objects alive."""
_TEXTS = ("log_text", "log_io")
"""The keys under which Twisted puts a line without a format: from its older functions, and what is printed."""
_DIGITS = re.compile(r"\d+")


@attrs.define
class _Window:
    """The events from one place in a program, within a minute.

    :ivar ends: when the window ends.
    :ivar written: the contents of the events that were written.
    :ivar left_out: how many events were not written.
    :ivar last: the last event that was not written.
    :ivar shown: the first line that was written.
    """

    ends: float
    written: list[Hashable] = attrs.Factory(list)
    left_out: int = 0
    last: LogEvent = attrs.Factory(dict)
    shown: str = ""

    def admits(self, event: LogEvent) -> bool:
        """Whether an event may be written. If not, it is counted."""
        content = _content(event)
        if len(self.written) >= _MAX_FROM_PLACE or self.written.count(content) >= _MAX_EQUAL:
            self.left_out += 1
            self.last = _without_text(event)
            return False
        self.written.append(content)
        return True

    def summary(self) -> LogEvent:
        """An event that says how many events were left out."""
        text = f"{self.left_out} more like this were left out within {_SECONDS:g} s: {self.shown}"
        return _written(self.last, text)


@implementer(ILogObserver)
class ThrottledLog:
    """A log observer that limits repeated events, and writes how many it left out.

    In a minute it writes two equal lines, and four lines from the same place in a program. So a repeated line hides no
    line from another place, and no different line from its own place. It may be called from any thread.

    :param observer: receives the events that are written.
    :param seconds: a monotonic clock.
    :param later: calls a function after so many seconds. It must be callable from any thread.
    :param spared: namespaces that are not limited, as no client can cause their events.
    """

    def __init__(
        self,
        observer: ILogObserver,
        seconds: Callable[[], float],
        later: Callable[[float, Callable[[], object]], object],
        spared: Collection[str] = (),
    ) -> None:
        self._observer = observer
        self._seconds = seconds
        self._later = later
        self._spared = spared
        self._lock = threading.Lock()
        self._windows: dict[tuple[Any, Any], dict[Hashable, _Window]] = {}
        self._due = math.inf
        self._waits = False

    def __call__(self, event: LogEvent) -> None:
        """Write an event, or leave it out and count it."""
        if event.get("log_namespace") in self._spared:
            self._observer(_written(event, plain_lines(_text(event))))
            return
        with self._lock:
            now = self._seconds()
            # The reactor's timer may come late.
            over = self._take_ended(now) if now >= self._due else ()
            admitted = (window := self._window_of(event, now + _SECONDS)).admits(event)
            waits, self._waits = self._waits, True
        self._write_counts(over)
        if admitted:
            text = plain_lines(_text(event))
            window.shown = window.shown or text.partition("\n")[0]
            self._observer(_written(event, text))
        if not waits:
            self._later(_SECONDS, self._end_windows)

    def _window_of(self, event: LogEvent, ends: float) -> _Window:
        part = event.get("log_namespace"), event.get("log_level")
        windows = self._windows.setdefault(part, {})
        name = _place(event)
        if name not in windows and len(windows) >= _MAX_PLACES:
            name = None
        window = windows.get(name)
        if window is None:
            window = windows[name] = _Window(ends)
            self._due = min(self._due, ends)
        return window

    def _end_windows(self) -> None:
        """Write the counts of the windows that have ended, and come back when the next window ends."""
        with self._lock:
            now = self._seconds()
            over, due = self._take_ended(now), self._due
            self._waits = due < math.inf
        self._write_counts(over)
        if due < math.inf:
            self._later(max(0.0, due - now), self._end_windows)

    def _take_ended(self, until: float) -> list[_Window]:
        over: list[_Window] = []
        for part, windows in list(self._windows.items()):
            over += [window for window in windows.values() if window.ends <= until]
            rest = self._windows[part] = {name: window for name, window in windows.items() if window.ends > until}
            if not rest:
                del self._windows[part]
        self._due = min((one.ends for windows in self._windows.values() for one in windows.values()), default=math.inf)
        return over

    def _write_counts(self, over: Collection[_Window]) -> None:
        for window in over:
            if window.left_out:
                self._observer(window.summary())

    def write_all_counts(self) -> None:
        """Write all counts now, before the process ends."""
        with self._lock:
            over = self._take_ended(math.inf)
        self._write_counts(over)


def throttle(
    publisher: LogPublisher,
    seconds: Callable[[], float],
    later: Callable[[float, Callable[[], object]], object],
    spared: Collection[str] = (),
) -> Callable[[], None]:
    """Put a :class:`ThrottledLog` between a publisher and its present observers.

    :returns: a function that removes it again, after it has written its counts.
    """
    observers = list(publisher._observers)
    throttled = ThrottledLog(LogPublisher(*observers), seconds, later, spared)
    for observer in observers:
        publisher.removeObserver(observer)
    publisher.addObserver(throttled)

    def undo() -> None:
        publisher.removeObserver(throttled)
        throttled.write_all_counts()
        for observer in observers:
            publisher.addObserver(observer)

    return undo


# Log files that other programs rotate


_INSIDE = ("_observer", "_negativeObserver", "legacyObserver", "__self__", "_outFile", "write")
"""The attributes in which observers keep the next observer or a file: of Twisted's observers, old and new, and ours."""


def log_files(observer: Any) -> Iterator[Any]:
    """The files that an observer writes to, directly or through other observers; each file once."""
    waiting, seen = [observer], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if callable(getattr(one, "fileno", None)) or hasattr(one, "_file"):
            yield one
            continue
        waiting += getattr(one, "_observers", ())
        waiting += [getattr(one, name, None) for name in _INSIDE]


def reopen(file: Any) -> bool:
    """Open a log file's path again, after another program has renamed the file. A new file gets the old file's mode.

    The descriptor keeps its number, so that no thread loses a line. If the path can't be opened, writing continues to
    the old file.

    :param file: a Python file, or a log file of Twisted's.
    :returns: whether the file has a path.
    :raises OSError: the path can't be opened.
    """
    inner = getattr(file, "_file", file)
    path = getattr(file, "path", None) or getattr(file, "name", None)
    mode = os.fstat(inner.fileno()).st_mode
    if not isinstance(path, str) or path.startswith("<") or not stat.S_ISREG(mode):
        return False  # such as <stdout>
    file.flush()
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, stat.S_IMODE(mode))
    try:
        os.dup2(opened, inner.fileno(), inheritable=False)
    finally:
        os.close(opened)
    if hasattr(file, "rotateLength"):
        file.size = os.fstat(inner.fileno()).st_size  # Twisted's log files rotate by it
    return True


# Which events are equal


def _place(event: LogEvent) -> Hashable:
    """The place in a program that logged an event: its format, and the line that raised its exception."""
    text = next((event[key] for key in _TEXTS if key in event), event.get("log_format"))
    failure = event.get("log_failure") or event.get("failure")
    # A line from Twisted's older functions holds the traceback; the failure itself names the place better.
    words = "" if isinstance(failure, Failure) and "log_text" in event else _pattern(str(text)[: 4 * _PATTERN_LENGTH])
    return words, _raised(failure) if isinstance(failure, Failure) else None


@lru_cache(1024)
def _pattern(text: str) -> str:
    """The beginning of a line, with all numbers replaced."""
    return _DIGITS.sub("0", text)[:_PATTERN_LENGTH]


def _raised(failure: Failure) -> tuple[object, ...]:
    """The type of an exception, and the line that raised it."""
    trace = failure.getTracebackObject()
    while getattr(trace, "tb_next", None) is not None:
        trace = trace.tb_next
    if trace is None:
        return (failure.type,)
    code = trace.tb_frame.f_code if hasattr(trace, "tb_frame") else None
    return failure.type, getattr(code, "co_filename", None), getattr(trace, "tb_lineno", None)


def _content(event: LogEvent) -> Hashable:
    """What makes two events of one place equal: the words and numbers in them."""
    words = [value for key, value in event.items() if not key.startswith("log_") or key in _TEXTS]
    return hash(tuple(value for value in words if isinstance(value, (str, bytes, int))))


# The text of events


def _without_text(event: LogEvent) -> LogEvent:
    return {key: event[key] for key in _KEPT if key in event}


def _written(event: LogEvent, text: str) -> LogEvent:
    """A copy of an event with another text."""
    return {**_without_text(event), "log_format": "{text}", "text": text}


def _text(event: LogEvent) -> str:
    return eventAsText(event, includeTimestamp=False, includeSystem=False)


def plain_lines(text: str) -> str:
    """Make a text safe for a log: printable characters, in a limited number of limited lines.

    Other characters are escaped as in Python. Of many lines, the first and the last ones stay.
    """
    lines = text.rstrip("\n").split("\n")
    if len(lines) > _FIRST_LINES + _LAST_LINES:
        count = len(lines) - _FIRST_LINES - _LAST_LINES
        lines[_FIRST_LINES:-_LAST_LINES] = [f"{_ELLIPSIS} {count} lines {_ELLIPSIS}"]
    return "\n".join(map(_plain, lines))


def _plain(line: str) -> str:
    cut = line[:_LINE_LENGTH]
    if not cut.isprintable():
        signs = (sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in cut)
        cut = "".join(signs)
    return cut if max(len(line), len(cut)) <= _LINE_LENGTH else cut[:_LINE_LENGTH] + _ELLIPSIS
