"""A connection to Redis with TLS."""

from __future__ import annotations

import random

import attrs
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from realtime_chat.redis.address import RedisAddress, parse_address
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.values.errors import StoreRefused
from tests.certificates import write_self_signed
from tests.deadlines import TEST_TIMEOUT
from tests.redis.test_connection import until
from tests.redis_server import RedisServer


class SecureTests(TestCase):
    """``rediss``: encrypted, and the server's certificate verified."""

    def serve_securely(self, host: str) -> RedisAddress:
        """The address of a server whose certificate for ``host`` nobody vouches for yet but itself."""
        key, certificate = write_self_signed(self.mktemp(), host)
        self.server = RedisServer(certificate.parent, tls=(str(certificate), str(key))).start()
        self.addCleanup(self.server.kill)
        self.certificate = str(certificate)
        return parse_address(f"rediss://localhost:{self.server.tls_port}/0")

    async def refused(self, address: RedisAddress) -> str:
        """What the operator is told."""
        link = RedisConnection(reactor, address, "test", random.random)
        return str(await self.assertFailure(link.start(patience=0.3), StoreRefused))

    timeout = TEST_TIMEOUT

    async def test_verified(self) -> None:
        """A server whose certificate is vouched for is used, again after its connections were cut."""
        address = self.serve_securely("localhost").with_authorities(self.certificate)
        link = RedisConnection(reactor, address, "test", random.random)
        self.addCleanup(link.stop)
        await link.start()
        large = b"x" * 3_000_000
        await link.command("SET", "a", large)
        self.assertEqual(await link.command("GET", "a"), large)
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: link.counters.connects == 2)

    async def test_nobody_vouches(self) -> None:
        """A certificate that nobody vouches for is refused at once, with what to do."""
        message = await self.refused(self.serve_securely("localhost"))
        self.assertRegex(
            message, "^rediss://localhost:[0-9]+/0: no secure connection: certificate verify failed; .*--store-ca"
        )

    async def test_another_host(self) -> None:
        """A certificate for another host is refused."""
        message = await self.refused(self.serve_securely("elsewhere").with_authorities(self.certificate))
        self.assertIn("no secure connection: the certificate is for another host", message)

    async def test_plain_server(self) -> None:
        """A server that doesn't speak TLS is refused."""
        address = self.serve_securely("localhost")
        await self.refused(attrs.evolve(address, port=self.server.port))

    async def test_plain_client(self) -> None:
        """A connection without TLS to a port with it is not made."""
        self.serve_securely("localhost")
        link = RedisConnection(
            reactor, parse_address(f"redis://localhost:{self.server.tls_port}/0"), "test", random.random
        )
        await self.assertFailure(link.start(patience=0.3), StoreRefused)
