"""The cases of the official protocol suite, version 5, each named after what it stands for.

The suite is in ``docs/socket.io-protocol`` of ``socketio/socket.io``. It asks for an application that emits what a
client gave at its CONNECT, and sends back its messages. Version 4 has no suite.
"""

from __future__ import annotations

import json

from tests.engineio.session_cases import Version4Cases
from tests.engineio.site import BINARY
from tests.socketio.site import SocketIOTestCase

_PLACEHOLDERS = b'{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'


class ProtocolTestCase(SocketIOTestCase):
    """A site with the suite's application."""

    def check_connected(self, request: bytes, answer: bytes, event: bytes) -> None:
        """A CONNECT is answered with the socket's id, and the application gets what the client gave."""
        socket = self.websocket()
        socket.send(request)
        connected, auth = socket.messages[1:]
        self.assertEqual(answer, connected[: len(answer)])
        told = json.loads(connected[len(answer) :])
        self.assertEqual((["sid"], 20), (list(told), len(told["sid"])))
        self.assertEqual(event, auth)

    def check_answer(self, text: bytes, *answers: bytes, attachments: tuple[bytes, ...] = ()) -> None:
        """A packet is answered by packets."""
        socket = self.connected()
        socket.send(text)
        for attachment in attachments:
            socket.send(attachment, opcode=BINARY)
        self.assertEqual([*answers], socket.messages[3:])

    def check_closed(self, text: bytes) -> None:
        """A packet closes the connection."""
        socket = self.connected()
        socket.send(text)
        self.assertEqual(1002, socket.close_code)
        self.check_reason("parse error")


class SessionTests(Version4Cases, ProtocolTestCase):
    """The session below Socket.IO is one of Engine.IO 4."""

    question = b"40"
    answer = b'42["auth",{}]'


class ConnectTests(ProtocolTestCase):
    """Connecting to namespaces."""

    def test_main_namespace(self) -> None:
        """A client connects to the main namespace, and gives nothing."""
        self.check_connected(b"40", b"40", b'42["auth",{}]')

    def test_main_namespace_with_auth(self) -> None:
        """A client gives something when it connects to the main namespace."""
        self.check_connected(b'40{"token":"123"}', b"40", b'42["auth",{"token":"123"}]')

    def test_custom_namespace(self) -> None:
        """A client connects to a namespace by its name."""
        self.check_connected(b"40/custom,", b"40/custom,", b'42/custom,["auth",{}]')

    def test_custom_namespace_with_auth(self) -> None:
        """A client gives something when it connects to a namespace by its name."""
        self.check_connected(b'40/custom,{"token":"abc"}', b"40/custom,", b'42/custom,["auth",{"token":"abc"}]')

    def test_unknown_namespace(self) -> None:
        """A namespace that isn't there is refused, in the words of Socket.IO's server."""
        socket = self.websocket()
        socket.send(b"40/random")
        self.assertEqual([b'44/random,{"message":"Invalid namespace"}'], socket.messages[1:])

    def test_no_packet_before_the_connect(self) -> None:
        """A first message that is no packet closes the connection."""
        socket = self.websocket()
        socket.send(b"4abc")
        self.assertEqual(1002, socket.close_code)
        self.check_reason("parse error")

    def test_no_connect(self) -> None:
        """A connection that connects to no namespace is closed in time, though its client answers every ping."""
        socket = self.websocket()
        for _ in range(200):
            self.clock.advance(0.25)
            if socket.messages[-1] == b"2":
                socket.send(b"3")
        self.assertEqual(1000, socket.close_code)
        self.check_reason("forced close")


class DisconnectTests(ProtocolTestCase):
    """Leaving namespaces."""

    def test_main_namespace(self) -> None:
        """A client that leaves the main namespace keeps its connection: what it gets next is a ping."""
        socket = self.connected()
        socket.send(b"41")
        self.until(lambda: len(socket.messages) == 4, 0.6)
        self.assertEqual((b"2", None), (socket.messages[-1], socket.close_code))

    def test_custom_namespace(self) -> None:
        """A client that leaves one namespace stays in the others."""
        socket = self.connected()
        socket.send(b"40/custom", b"41/custom", b'42["message","message to main namespace"]')
        self.assertEqual(b'42["message-back","message to main namespace"]', socket.messages[-1])


class MessageTests(ProtocolTestCase):
    """Events and acknowledgements."""

    attachments = b"\1\2\3", b"\4\5\6"

    def test_event(self) -> None:
        """The arguments of an event come back as they were."""
        self.check_answer(b'42["message",1,"2",{"3":[true]}]', b'42["message-back",1,"2",{"3":[true]}]')

    def test_event_with_attachments(self) -> None:
        """Binary arguments come back right after the text that announces them."""
        answer = b'452-["message-back",%b]' % _PLACEHOLDERS
        sent = b'452-["message",%b]' % _PLACEHOLDERS
        self.check_answer(sent, answer, *self.attachments, attachments=self.attachments)

    def test_acknowledgement(self) -> None:
        """An event with an id is acknowledged with that id, and what its method returns."""
        self.check_answer(b'42456["message-with-ack",1,"2",{"3":[false]}]', b'43456[1,"2",{"3":[false]}]')

    def test_acknowledgement_with_attachments(self) -> None:
        """An acknowledgement may be binary."""
        answer = b"462-789[%b]" % _PLACEHOLDERS
        sent = b'452-789["message-with-ack",%b]' % _PLACEHOLDERS
        self.check_answer(sent, answer, *self.attachments, attachments=self.attachments)

    def test_unknown_packet_type(self) -> None:
        """A text that begins with no type closes the connection."""
        self.check_closed(b"4abc")

    def test_payload_that_is_no_array(self) -> None:
        """An event whose data is no array closes the connection."""
        self.check_closed(b"42{}")

    def test_id_that_is_no_number(self) -> None:
        """An event whose id is no number closes the connection."""
        self.check_closed(b'42abc["message-with-ack",1,"2",{"3":[false]}]')
