"""``load.c`` for Python: compiles it, and names what it counts."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.wires import Publication

__all__ = ["BUILD", "EVENTS", "HERE", "POLL", "SINK", "WEBSOCKET", "HotLoop", "compile_c", "compile_hot_loop"]

HERE = Path(__file__).resolve().parent
BUILD = HERE / ".build"

WEBSOCKET, POLL, EVENTS, SINK = range(4)
_BUCKETS = 4096
_KINDS = 4
_CAPTURES = 4
_COUNTED = (
    "published",
    "delivered",
    "answers",
    "empty_answers",
    "disordered",
    "refused",
    "gone",
    "bytes",
    "begun",
    "last",
)


class _Counts(ctypes.Structure):
    """``struct counts`` of load.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _COUNTED),
        ("latency", ctypes.c_int64 * _BUCKETS * _KINDS),
    )


_INT, _SIZE, _DOUBLE, _BYTES = ctypes.c_int, ctypes.c_size_t, ctypes.c_double, ctypes.c_char_p
_SIGNATURES = {
    "load_new": (_INT, _INT),
    "load_capture": (_BYTES, _BYTES),
    "load_reader": (_INT, _INT, _INT, _BYTES, _SIZE),
    "load_ask": (_INT, _BYTES, _BYTES),
    "load_publisher": (_INT, _INT, _BYTES, _SIZE, _SIZE, _SIZE, _BYTES),
    "load_begin": (),
    "load_pump": (_INT,),
    "load_keep": (_INT, _DOUBLE, _DOUBLE),
    "load_pace": (_DOUBLE, _DOUBLE),
    "load_burst": (_INT,),
    "load_wait": (ctypes.c_int64, _DOUBLE),
    "load_alive": (_INT,),
    "load_free": (),
}


def compile_c(source: Path, target: Path, *options: str) -> Path:
    """Compile one C file, if it changed since.

    :raises FileNotFoundError: there is no gcc.
    :raises subprocess.CalledProcessError: it doesn't compile.
    """
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")  # somebody else may compile or use the file meanwhile
        subprocess.run(["gcc", "-O2", "-Wall", *options, "-o", str(part), str(source)], check=True)
        part.replace(target)
    return target


def compile_hot_loop() -> Path:
    """Compile ``load.c``; raises as :func:`compile_c`."""
    return compile_c(HERE / "load.c", BUILD / "load.so", "-shared", "-fPIC")


def _load_library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compile_hot_loop()))
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments if name == "load_new" else (ctypes.c_void_p, *arguments)
    library.load_new.restype = ctypes.c_void_p
    return library


class HotLoop:
    """Many readers, marked messages, every delivery counted.

    :param readers: how many sockets there will be at most.
    :param rooms: how many rooms; readers and publishers name theirs by its index.
    """

    def __init__(self, readers: int, rooms: int = 1) -> None:
        self._library = _load_library()
        self._load = self._library.load_new(readers, rooms)

    def __getattr__(self, name: str) -> Any:
        """``begin``, ``pump``, ``keep``, ``pace``, ``burst``, ``wait``, ``alive`` and ``free`` as in load.c."""
        function = getattr(self._library, f"load_{name}")
        return lambda *arguments: function(self._load, *arguments)

    def add_capture(self, before: str, end: str) -> None:
        """What follows ``before`` in a poll's answer, up to one of the characters in ``end``, goes into the next."""
        self._library.load_capture(self._load, before.encode(), end.encode())

    def add_reader(self, fd: int, room: int, kind: int, came: bytes = b"") -> int:
        """Read from a socket from now on; answer its index."""
        return int(self._library.load_reader(self._load, fd, room, kind, came, len(came)))

    def add_poll(self, fd: int, room: int, request: bytes, captured: Sequence[str]) -> int:
        """Poll on a socket from now on; bytes 1 to 4 in ``request`` stand for the captures."""
        index = self.add_reader(fd, room, POLL)
        self._library.load_ask(self._load, index, request, "\0".join(captured).encode() + b"\0" * _CAPTURES)
        return index

    def add_publisher(self, room: int, fd: int, publication: Publication) -> None:
        """Publish to a room by this socket."""
        self._library.load_publisher(
            self._load,
            room,
            fd,
            publication.data,
            len(publication.data),
            publication.mark_at,
            publication.payload_at,
            publication.mask,
        )

    @property
    def counts(self) -> Any:
        """What was counted since ``begin``."""
        return _Counts.from_address(self._load)

    def latency(self, kind: int, *shares: float) -> list[float]:
        """Percentiles of latency in milliseconds."""
        buckets = list(self.counts.latency[kind])
        return [_percentile(buckets, share) / 1e6 for share in shares]


def _percentile(buckets: list[int], share: float) -> float:
    wanted, seen = sum(buckets) * share, 0
    for index, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            return _nanoseconds(index)
    return 0.0


def _nanoseconds(bucket: int) -> float:
    """The middle of a bucket: the way back from load.c's bucket_of."""
    if bucket < 128:
        return float(bucket)
    shift = (bucket >> 6) - 1
    return (bucket - (shift << 6) + 0.5) * (1 << shift)
