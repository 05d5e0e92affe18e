"""Our daemon with one thing done otherwise: ``variants.py NAME``, then what follows ``twistd`` on its command line."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable
from typing import Any


def asyncio_and_uvloop() -> None:
    """Twisted's reactor on asyncio, and that on libuv."""
    import uvloop
    from twisted.internet import asyncioreactor

    asyncioreactor.install(uvloop.new_event_loop())


def nothing_counted() -> None:
    """No histogram is filled; what is left of counting are additions to plain numbers."""
    from realtime_chat.values.counters import Histogram

    Histogram.observe = lambda self, value, times=1: None  # type: ignore[method-assign]


def python_garbage() -> None:
    """The garbage collector is left as Python sets it."""
    gc.freeze = lambda: None  # type: ignore[assignment]
    gc.set_threshold = lambda *thresholds: None  # type: ignore[assignment]


def corked() -> None:
    """Every socket is corked while it is sent to."""
    from realtime_chat.transports.fast import direct_send

    send_of = direct_send.direct_send_of

    def corked_send(transport: Any) -> Callable[[bytes], int] | None:
        send = send_of(transport)
        return None if send is None else _cork(transport.socket)

    direct_send.direct_send_of = corked_send


def _cork(connection: socket.socket) -> Callable[[bytes], int]:
    def send(data: bytes) -> int:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        sent = connection.send(data)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        return sent

    return send


def as_it_is() -> None:
    """Nothing is done otherwise: what the others are compared with, started in the same way."""


VARIANTS = {
    "plain": as_it_is,
    "uvloop": asyncio_and_uvloop,
    "uncounted": nothing_counted,
    "garbage": python_garbage,
    "corked": corked,
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    VARIANTS[name]()
    from twisted.scripts.twistd import run

    run()
