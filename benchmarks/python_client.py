"""What a program gets that uses ``realtime_chat.client``: one that reads a room while another fills it."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import DeferredSemaphore, ensureDeferred, gatherResults

from benchmarks.wires import ROOM, text_of
from realtime_chat.client import Message, Room, connect

__all__ = ["measure_client"]

_IN_FLIGHT = 64


def measure_client(job: dict[str, Any]) -> dict[str, Any]:
    """Read ``messages`` messages by ``transport`` as they are published; every one is counted, and their order."""
    figures: dict[str, Any] = {}

    async def main() -> None:
        url = f"http://127.0.0.1:{job['ports'][0]}/"
        async with connect(reactor, url) as writer, connect(reactor, url, transports=(job["transport"],)) as reader:
            room = await reader.join(ROOM, last=0)
            begun, busy = time.monotonic(), time.process_time()
            publishing = ensureDeferred(_fill(writer, job["messages"]))
            figures.update(await _read(room, job["messages"]))
            await publishing
            figures["rate"] = job["messages"] / (time.monotonic() - begun)
            figures["client_us"] = (time.process_time() - busy) * 1e6 / job["messages"]

    def run(_: Any) -> Any:
        return ensureDeferred(main())

    try:
        task.react(run)
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError("the Python client failed") from ended
    return figures


async def _fill(writer: Any, messages: int) -> None:
    turns = DeferredSemaphore(_IN_FLIGHT)
    data = {"text": text_of()}
    await gatherResults([turns.run(writer.publish, ROOM, data) for _ in range(messages)])


async def _read(room: Room, messages: int) -> dict[str, int]:
    read, disordered, last = 0, 0, 0
    async for event in room:
        if isinstance(event, Message):
            read += 1
            disordered += event.position.offset != last + 1 and last != 0
            last = event.position.offset
            if read == messages:
                break
    return {"delivered": read, "lost": messages - read, "disordered": disordered}
