"""Publish three messages from asyncio, and read them: asyncio_bot.py URL ROOM"""

import asyncio
import sys

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)

from twisted.internet import task  # noqa: E402

from realtime_chat.client import Message, connect  # noqa: E402


async def talk(reactor, url, name):
    """Twisted's coroutine: it awaits Deferreds, and turns asyncio's awaitables into Deferreds."""
    async with connect(reactor, url) as chat:
        room = await chat.join(name, last=0)
        for number in range(3):
            await room.publish({"text": f"message {number}"})
            await Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0.01)))
        expected = 3
        async for event in room:
            if isinstance(event, Message):
                print(event.text, flush=True)
                expected -= 1
                if not expected:
                    return


async def main(reactor, url, name):
    """asyncio's coroutine: it awaits Twisted's coroutine as a future."""
    await Deferred.fromCoroutine(talk(reactor, url, name)).asFuture(loop)


task.react(lambda *arguments: Deferred.fromFuture(loop.create_task(main(*arguments))), sys.argv[1:])
