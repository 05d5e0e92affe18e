"""Chats with a daemon behind TLS."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate

from realtime_chat.client import Unreachable, connect
from tests.certificates import write_self_signed
from tests.client.served import ChatTestCase


class SecureTests(ChatTestCase):
    """``https`` and ``wss``."""

    def serve(self) -> None:
        key, certificate = write_self_signed(self.mktemp(), "localhost")
        self.certificate = certificate.read_bytes()
        files = f"privateKey={key}:certKey={certificate}"
        self.listen = f"ssl:0:{files}:interface=127.0.0.1"
        super().serve()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def test_each_transport(self) -> None:
        """All transports work over TLS with a private authority, also when they are switched."""
        chat = await self.chat(trust_root=Certificate.loadPEM(self.certificate))
        room = await chat.join("lobby")
        for kind in ("poll", "sse", "websocket", "poll", "websocket"):
            await chat.switch(kind)
            await room.publish(kind)
            self.assertEqual([kind], await self.data(room, 1))

    async def test_a_server_that_nobody_vouches_for(self) -> None:
        """A certificate of an unknown authority is refused, on every transport."""
        for kind in ("websocket", "sse", "poll"):
            chat = connect(reactor, self.url, transports=(kind,))
            await self.assertFailure(Deferred.fromCoroutine(chat.__aenter__()), Unreachable)

    async def test_another_name(self) -> None:
        """A certificate for another host is refused."""
        root = Certificate.loadPEM(self.certificate)
        for kind in ("websocket", "poll"):
            chat = connect(reactor, f"https://127.0.0.1:{self.port}", transports=(kind,), trust_root=root)
            await self.assertFailure(Deferred.fromCoroutine(chat.__aenter__()), Unreachable)
