"""A bot that repeats what others say: echo_bot.py URL ROOM"""

import sys

from twisted.internet import task

from realtime_chat.client import Message, Reset, connect


async def main(reactor, url, name):
    async with connect(reactor, url, name="Echo") as chat:
        room = await chat.join(name, last=0)
        async for event in room:
            if isinstance(event, Message) and event.text is not None and not event.own:
                await room.publish({"text": f"{event.sender.name} said: {event.text}"})
            elif isinstance(event, Reset):
                print("some messages were lost to this bot", file=sys.stderr)


task.react(lambda reactor, *arguments: task.ensureDeferred(main(reactor, *arguments)), sys.argv[1:])
