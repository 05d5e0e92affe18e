"""What keeps the log short and readable whatever strangers do.

Everything that is logged goes through one observer: what we log ourselves, and what Twisted and Autobahn do. What
repeats is left out and counted, and what is written is made of short lines of printable characters.
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

from twisted.logger import ILogObserver, LogEvent, LogPublisher, eventAsText
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["ThrottledLog", "log_files", "plain_lines", "reopen", "throttle"]

_SECONDS = 60.0
_SAME = 2
"""So many lines that say the same are written in that time."""
_ALIKE = 4
"""So many lines are written that come from the same place in a program, whatever they say."""
_KINDS = 32
"""So many places of one part of a program are told apart; all further ones are taken for one."""
_KIND_LENGTH = 60
_LINE_LENGTH = 1000
_FIRST_LINES = 20
_LAST_LINES = 40
_ENDED = "…"
_KEPT = ("log_level", "log_namespace", "log_system", "log_time", "system", "time")
"""What is kept of an event besides its text; not what it is about, which would live on with it."""
_TEXTS = ("log_text", "log_io")
"""Where Twisted puts a line that has no format of its own: what its older functions log, and what is printed."""
_DIGITS = re.compile(r"\d+")


class _Kind:
    """The lines from one place in a program.

    :ivar ends: when they may be written again.
    :ivar said: what those said that were written.
    :ivar left_out: how many were not.
    :ivar last: the last of the latter.
    :ivar shown: the first line that was written.
    """

    __slots__ = ("ends", "last", "left_out", "said", "shown")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.said: list[Hashable] = []
        self.left_out = 0
        self.last: LogEvent = {}
        self.shown = ""

    def admits(self, event: LogEvent) -> bool:
        """Whether one more line may be written; else it is counted."""
        said = _said(event)
        if len(self.said) >= _ALIKE or self.said.count(said) >= _SAME:
            self.left_out += 1
            self.last = _without_text(event)
            return False
        self.said.append(said)
        return True

    def summary(self) -> LogEvent:
        """An event that says how many were left out."""
        text = f"{self.left_out} more like this were left out within {_SECONDS:g} s: {self.shown}"
        return _written(self.last, text)


@implementer(ILogObserver)
class ThrottledLog:
    """An observer that passes on what doesn't repeat, and now and then a count of what it has left out.

    Two lines that say the same are written a minute, and four from the same place in a program. So a line that is
    repeated hides neither another place's nor, of its own place, one that says something else. It may be called from
    any thread.

    :param observer: gets what is written.
    :param seconds: monotonic seconds.
    :param later: has a function called after so many seconds; may be called from any thread.
    :param spared: namespaces whose lines are all written, as no client can repeat them.
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
        self._kinds: dict[tuple[Any, Any], dict[Hashable, _Kind]] = {}
        self._due = math.inf
        self._waits = False

    def __call__(self, event: LogEvent) -> None:
        """Write an event, or count it."""
        if event.get("log_namespace") in self._spared:
            self._observer(_written(event, plain_lines(_text(event))))
            return
        with self._lock:
            now = self._seconds()
            # The reactor's clock may have been put back, and its timers then come late.
            over = self._take(now) if now >= self._due else ()
            admitted = (kind := self._kind(event, now + _SECONDS)).admits(event)
            waits, self._waits = self._waits, True
        self._tell(over)
        if admitted:
            text = plain_lines(_text(event))
            kind.shown = kind.shown or text.partition("\n")[0]
            self._observer(_written(event, text))
        if not waits:
            self._later(_SECONDS, self._look)

    def _kind(self, event: LogEvent, ends: float) -> _Kind:
        part = event.get("log_namespace"), event.get("log_level")
        kinds = self._kinds.setdefault(part, {})
        name = _place(event)
        if name not in kinds and len(kinds) >= _KINDS:
            name = None
        kind = kinds.get(name)
        if kind is None:
            kind = kinds[name] = _Kind(ends)
            self._due = min(self._due, ends)
        return kind

    def _look(self) -> None:
        """Count what is over, and look again when the next one is."""
        with self._lock:
            now = self._seconds()
            over, due = self._take(now), self._due
            self._waits = due < math.inf
        self._tell(over)
        if due < math.inf:
            self._later(max(0.0, due - now), self._look)

    def _take(self, until: float) -> list[_Kind]:
        over: list[_Kind] = []
        for part, kinds in list(self._kinds.items()):
            over += [kind for kind in kinds.values() if kind.ends <= until]
            rest = self._kinds[part] = {name: kind for name, kind in kinds.items() if kind.ends > until}
            if not rest:
                del self._kinds[part]
        self._due = min((kind.ends for kinds in self._kinds.values() for kind in kinds.values()), default=math.inf)
        return over

    def _tell(self, over: Collection[_Kind]) -> None:
        for kind in over:
            if kind.left_out:
                self._observer(kind.summary())

    def tell_all(self) -> None:
        """Write all counts now, as the process ends."""
        with self._lock:
            over = self._take(math.inf)
        self._tell(over)


def throttle(
    publisher: LogPublisher,
    seconds: Callable[[], float],
    later: Callable[[float, Callable[[], object]], object],
    spared: Collection[str] = (),
) -> Callable[[], None]:
    """Put a :class:`ThrottledLog` between a publisher and those who observe it now.

    :returns: takes it away again, after it has told its counts.
    """
    observers = list(publisher._observers)
    throttled = ThrottledLog(LogPublisher(*observers), seconds, later, spared)
    for observer in observers:
        publisher.removeObserver(observer)
    publisher.addObserver(throttled)

    def undo() -> None:
        publisher.removeObserver(throttled)
        throttled.tell_all()
        for observer in observers:
            publisher.addObserver(observer)

    return undo


# Files that are renamed while they are written to


_INSIDE = ("_observer", "_negativeObserver", "legacyObserver", "__self__", "_outFile", "write")
"""Where observers keep what they pass events on to, and in the end a file: Twisted's, its older ones, and ours."""


def log_files(observer: Any) -> Iterator[Any]:
    """The files in which an observer writes in the end, each once."""
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
    """Go on writing at a file's path, where another file may be by now, or none; it gets the old one's mode.

    The descriptor stays, so that no line is lost, from whatever thread it comes. If the path can't be opened, all goes
    on in the old file.

    :param file: one of Python's, or a log file of Twisted's.
    :returns: whether it is a file with a path.
    :raises OSError: the path can't be opened.
    """
    inner = getattr(file, "_file", file)
    path = getattr(file, "path", None) or getattr(file, "name", None)
    mode = os.fstat(inner.fileno()).st_mode
    if not isinstance(path, str) or path.startswith("<") or not stat.S_ISREG(mode):
        return False  # such as <stdout>, wherever that goes
    file.flush()
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, stat.S_IMODE(mode))
    try:
        os.dup2(opened, inner.fileno(), inheritable=False)
    finally:
        os.close(opened)
    if hasattr(file, "rotateLength"):
        file.size = os.fstat(inner.fileno()).st_size  # by which Twisted's rotate themselves
    return True


# What is the same


def _place(event: LogEvent) -> Hashable:
    """From which place in a program an event comes: by its format, and by where an exception was raised."""
    text = next((event[key] for key in _TEXTS if key in event), event.get("log_format"))
    failure = event.get("log_failure") or event.get("failure")
    # An older function's line holds the whole traceback, whose place says more.
    words = "" if isinstance(failure, Failure) and "log_text" in event else _pattern(str(text)[: 4 * _KIND_LENGTH])
    return words, _raised(failure) if isinstance(failure, Failure) else None


@lru_cache(1024)
def _pattern(text: str) -> str:
    """A line without the numbers in it, and without its end."""
    return _DIGITS.sub("0", text)[:_KIND_LENGTH]


def _raised(failure: Failure) -> tuple[object, ...]:
    """What was raised, and in which line of a program."""
    trace = failure.getTracebackObject()
    while getattr(trace, "tb_next", None) is not None:
        trace = trace.tb_next
    if trace is None:
        return (failure.type,)
    code = trace.tb_frame.f_code if hasattr(trace, "tb_frame") else None
    return failure.type, getattr(code, "co_filename", None), getattr(trace, "tb_lineno", None)


def _said(event: LogEvent) -> Hashable:
    """What tells an event from others of its place: the words and numbers in it."""
    words = [value for key, value in event.items() if not key.startswith("log_") or key in _TEXTS]
    return hash(tuple(value for value in words if isinstance(value, (str, bytes, int))))


# What is written


def _without_text(event: LogEvent) -> LogEvent:
    return {key: event[key] for key in _KEPT if key in event}


def _written(event: LogEvent, text: str) -> LogEvent:
    """An event that says ``text``, and otherwise what another one does."""
    return {**_without_text(event), "log_format": "{text}", "text": text}


def _text(event: LogEvent) -> str:
    return eventAsText(event, includeTimestamp=False, includeSystem=False)


def plain_lines(text: str) -> str:
    """Make any text one that may stand in a log: printable characters, in lines that are neither long nor many.

    Whatever else there is, is escaped as in Python. Of many lines the first and the last ones stay.
    """
    lines = text.rstrip("\n").split("\n")
    if len(lines) > _FIRST_LINES + _LAST_LINES:
        count = len(lines) - _FIRST_LINES - _LAST_LINES
        lines[_FIRST_LINES:-_LAST_LINES] = [f"{_ENDED} {count} lines {_ENDED}"]
    return "\n".join(map(_plain, lines))


def _plain(line: str) -> str:
    cut = line[:_LINE_LENGTH]
    if not cut.isprintable():
        signs = (sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in cut)
        cut = "".join(signs)
    return cut if max(len(line), len(cut)) <= _LINE_LENGTH else cut[:_LINE_LENGTH] + _ENDED
