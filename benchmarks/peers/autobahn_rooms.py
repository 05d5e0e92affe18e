"""Autobahn on Twisted: its broadcast example with ``sendPreparedMessage``, and an echo. autobahn_rooms.py PORT"""

import sys
from collections import defaultdict

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor


class BroadcastServerProtocol(WebSocketServerProtocol):
    room = frozenset()

    def onConnect(self, request):
        self.echoes = request.path == "/echo"
        self.path = request.path

    def onOpen(self):
        self.room = self.factory.rooms[self.path]
        self.room.add(self)

    def onMessage(self, payload, isBinary):
        if self.echoes:
            self.sendMessage(payload, isBinary)
            return
        prepared = self.factory.prepareMessage(payload, isBinary)
        for client in self.room:
            client.sendPreparedMessage(prepared)

    def onClose(self, wasClean, code, reason):
        self.room -= {self}


factory = WebSocketServerFactory()
factory.protocol = BroadcastServerProtocol
factory.rooms = defaultdict(set)
reactor.listenTCP(int(sys.argv[1]), factory, backlog=1024, interface="127.0.0.1")
reactor.run()
