"""Tornado: its chat demo's loop over the waiting clients. tornado_rooms.py PORT"""

import asyncio
import sys
from collections import defaultdict

import tornado.web
import tornado.websocket


class ChatSocket(tornado.websocket.WebSocketHandler):
    rooms = defaultdict(set)

    def open(self, room):
        self.room = self.rooms[room]
        self.room.add(self)

    def on_close(self):
        self.room.discard(self)

    def on_message(self, message):
        for client in self.room:
            client.write_message(message)


async def main():
    application = tornado.web.Application([(r"/ws/(\w+)", ChatSocket)])
    application.listen(int(sys.argv[1]), "127.0.0.1", backlog=1024)
    await asyncio.Event().wait()


asyncio.run(main())
