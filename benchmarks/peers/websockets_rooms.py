"""websockets on uvloop: its documentation's ``broadcast`` to all connections of a path. websockets_rooms.py PORT"""

import asyncio
import sys
from collections import defaultdict

import uvloop
from websockets.asyncio.server import broadcast, serve

rooms = defaultdict(set)


async def chat(websocket):
    room = rooms[websocket.request.path]
    room.add(websocket)
    try:
        async for message in websocket:
            broadcast(room, message)
    finally:
        room.discard(websocket)


async def main():
    async with serve(chat, "127.0.0.1", int(sys.argv[1]), backlog=1024):
        await asyncio.Event().wait()


uvloop.run(main())
