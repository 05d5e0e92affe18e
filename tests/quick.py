"""The tests that need no process, browser or server: ``make check`` runs them.

No list names them. A test needs more where its own code, or what that code uses of our test packages, has a name by
which a process starts or a port opens. A test could do that by way of another name: :func:`refuse_more` lets it fail.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from types import CodeType, FunctionType
from typing import Any

from twisted.trial.runner import TestSuite

__all__ = ["more_needed", "refuse_more", "testSuite"]

_NAMES = frozenset(
    (
        "subprocess",
        "fork",
        "spawnProcess",
        "listen",
        "listenTCP",
        "listenUNIX",
        "startListening",
        "bind",
        "startService",
    )
)
_EVENTS = frozenset(
    ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "socket.bind")
)
"""What Python calls the same (PEP 578)."""
_OURS = ("tests.", "tools.", "benchmarks.")


def testSuite() -> TestSuite:  # noqa: N802  (trial's name for it)
    """Load the tests that need no more, in the mixed order."""
    from tests.shuffled import all_tests  # which imports this module

    return TestSuite([test for test in all_tests() if more_needed(test) is None])


def more_needed(test: Any) -> str | None:
    """The name by which a test starts a process or opens a port; None where it does neither."""
    known = _attributes(type(test))
    todo = [
        part for name in ("setUp", "tearDown", getattr(test, "_testMethodName", "")) for part in known.get(name, ())
    ]
    seen: set[int] = set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, type):
            todo += chain.from_iterable(_attributes(part).values())
        elif (function := _function(part)) is not None:
            names = _used_names(function.__code__)
            if found := sorted(names & _NAMES):
                return found[0]
            todo += [function.__globals__[name] for name in names if name in function.__globals__]
            todo += chain.from_iterable(known[name] for name in names if name in known)
            with contextlib.suppress(ValueError):  # a cell may be empty
                todo += [cell.cell_contents for cell in function.__closure__ or ()]
    return None


def refuse_more() -> None:
    """From now on, let nothing in this interpreter start a process or open a port."""

    def refuse(event: str, arguments: Any) -> None:
        if event in _EVENTS:
            raise AssertionError(f"a test of `make check` needs {event}; tests/quick.py should have known that")

    sys.addaudithook(refuse)


@cache
def _attributes(case: type) -> Mapping[str, Sequence[Any]]:
    """What a class has of us, by its names: for each its own first, and then those that ``super()`` reaches."""
    found: dict[str, list[Any]] = defaultdict(list)
    for base in case.__mro__:
        if base.__module__.startswith(_OURS):
            for name, part in vars(base).items():
                found[name].append(part)
    return found


def _function(part: Any) -> FunctionType | None:
    """Our function in a part of a module or of a class."""
    if isinstance(part, (staticmethod, classmethod)):
        part = part.__func__
    elif isinstance(part, property):
        part = part.fget
    elif isinstance(part, cached_property):
        part = part.func
    elif hasattr(part, "is_hypothesis_test"):
        part = part.hypothesis.inner_test
    part = getattr(part, "__wrapped__", part)  # where it is cached
    return part if isinstance(part, FunctionType) and part.__module__.startswith(_OURS) else None


@cache
def _used_names(code: CodeType) -> frozenset[str]:
    """The names in a function, and in those inside it."""
    inner = (_used_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*inner)
