"""Each valid URL works on each transport; an invalid one is an error that says what is wrong."""

from __future__ import annotations

import urllib.error
import urllib.request
from functools import partial

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate
from twisted.internet.threads import deferToThread

from realtime_chat.client import TRANSPORTS, State, Unreachable, connect
from tests.certificates import write_self_signed
from tests.client.served import ChatTestCase
from tests.deadlines import DEADLINE


class UrlTestCase(ChatTestCase):
    """Tests of URLs, with one transport after the other."""

    async def assert_works(self, url: str, trust_root: Certificate | None = None) -> None:
        """On each transport, a published message comes back."""
        for kind in TRANSPORTS:
            async with connect(reactor, url, transports=(kind,), trust_root=trust_root) as chat:
                room = await chat.join("lobby", last=0)
                await room.publish(kind)
                self.assertEqual([kind], await self.data(room, 1), url)

    async def assert_fails(self, url: str, words: str) -> None:
        """On each transport, connecting fails with an error that has these words, and no other attempt is made."""
        for kind in TRANSPORTS:
            states: list[State] = []
            chat = connect(reactor, url, transports=(kind,), on_state=states.append)
            opening = Deferred.fromCoroutine(chat.__aenter__()).addTimeout(DEADLINE, reactor)
            error = await self.assertFailure(opening, Unreachable)
            self.assertIn(words, error.message, f"{url} {kind}")
            self.assertNotIn("\n", error.message)
            self.assertEqual(["connecting", "closed"], [state.kind for state in states], f"{url} {kind}")

    async def assert_goes_on(self, url: str) -> None:
        """On each transport, a patient client reports each attempt and the delay after it."""
        for kind in TRANSPORTS:
            states: list[State] = []
            chat = connect(reactor, url, transports=(kind,), patient=True, on_state=states.append)
            opening = Deferred.fromCoroutine(chat.__aenter__())
            await self.until(partial(self._has_paused, states))
            self.assertEqual(["connecting", "waiting"] * 2, [state.kind for state in states], f"{url} {kind}")
            opening.cancel()
            await self.assertFailure(opening, Exception)

    def _has_paused(self, states: list[State]) -> bool:
        return len([state for state in states if state.kind == "waiting"]) == 2


class IPv6Tests(UrlTestCase):
    """A daemon that only listens on ``::1``."""

    listen = r"tcp6:0:interface=\:\:1"

    async def test_every_spelling(self) -> None:
        """Each way to write the address works: long or short, with a zone, with a slash and without."""
        for host in ("::1", "0:0:0:0:0:0:0:1", "0000::0001", "::1%251", "::1%1"):
            await self.assert_works(f"http://[{host}]:{self.port}/")
        await self.assert_works(f"HTTP://[::1]:{self.port}")

    async def test_origin(self) -> None:
        """Pages of the daemon's own address may use it, however they write it, and those of another may not."""
        for origin, status in (("[::1]", 200), ("[0:0::1]", 200), ("[::2]", 403)):
            page = {"Origin": f"http://{origin}:{self.port}"}
            request = urllib.request.Request(f"http://[::1]:{self.port}/rooms/lobby/messages", headers=page)
            self.assertEqual(status, await deferToThread(_status, request), origin)

    async def test_other_hosts(self) -> None:
        """Alone on one address, it answers to that and to loopback, and to no other."""
        for host, status in (("[::1]", 200), ("127.0.0.1", 200), ("[2001:db8::1]", 421), ("192.0.2.1", 421)):
            named = {"Host": f"{host}:{self.port}"}
            request = urllib.request.Request(f"http://[::1]:{self.port}/healthz", headers=named)
            self.assertEqual(status, await deferToThread(_status, request), host)

    async def test_nobody_there(self) -> None:
        """If nobody listens, the error says so, with the address."""
        await self.assert_fails("http://[::1]:1/", "nobody answers at ::1 port 1")
        await self.assert_goes_on("http://[::1]:1/")


def _status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


class SecureIPv6Tests(UrlTestCase):
    """The same behind TLS, with a certificate for the address."""

    def serve(self) -> None:
        key, certificate = write_self_signed(self.mktemp(), "::1")
        self.certificate = certificate.read_bytes()
        files = f"privateKey={key}:certKey={certificate}"
        self.listen = rf"ssl:0:{files}:interface=\:\:"
        super().serve()

    async def test_its_address(self) -> None:
        """The address in the certificate works."""
        await self.assert_works(f"https://[::1]:{self.port}/", Certificate.loadPEM(self.certificate))

    async def test_other_trouble(self) -> None:
        """Another address, an unknown authority and plain HTTP give different errors."""
        unknown = f"https://[::1]:{self.port}/"
        await self.assert_fails(unknown, "no secure connection")
        await self.assert_fails(f"http://[::1]:{self.port}/", f"::1 port {self.port}")
        for kind in TRANSPORTS:
            trusted = Certificate.loadPEM(self.certificate)
            url = f"https://127.0.0.1:{self.port}/"
            chat = connect(reactor, url, transports=(kind,), trust_root=trusted)
            error = await self.assertFailure(Deferred.fromCoroutine(chat.__aenter__()), Unreachable)
            self.assertIn("the certificate is for another host", error.message)


class UrlTests(UrlTestCase):
    """A daemon on IPv4."""

    async def test_works(self) -> None:
        """The usual URLs work, and so do unusual ones of the same meaning."""
        for url in ("http://127.0.0.1:{}/", "http://127.0.0.1:{}", "HTTP://LOCALHOST:{}//", "http://127.0.0.1:{}\n"):
            await self.assert_works(url.format(self.port))
        await self.assert_works(f"http://\uff11\uff12\uff17.0.0.1:{self.port}/")

    async def test_fails_at_once(self) -> None:
        """An attempt that fails at once raises one error without a delay."""
        for url, words in (
            ("http://127.0.0.1:1/", "nobody answers at 127.0.0.1 port 1"),
            ("https://127.0.0.1:1/", "nobody answers at 127.0.0.1 port 1"),
            ("http://nobody.invalid/", "there is no host nobody.invalid"),
            ("https://nobody.invalid/", "there is no host nobody.invalid"),
            ("http://no_body.invalid/", "there is no host no_body.invalid"),
            ("http://r3---sn.invalid/", "there is no host r3---sn.invalid"),
            ("http://m\u00fcnchen.invalid/", "there is no host xn--mnchen-3ya.invalid"),
            ("http://unix.invalid:8080/", "there is no host unix.invalid"),
            ("http://unix:8080/", "there is no host unix"),
            ("http://[fe80::1%25nowhere0]:8080/", "fe80::1%nowhere0"),
            ("http://256.1.1.1/", "there is no host 256.1.1.1"),
            ("http://255.255.255.255:1/", "nobody answers at 255.255.255.255 port 1"),
            ("http://127.0.0.1:/", "nobody answers at 127.0.0.1 port 80"),
        ):
            await self.assert_fails(url, words)

    async def test_goes_on(self) -> None:
        """A patient client keeps trying after immediate errors, with delays."""
        for url in ("http://127.0.0.1:1/", "http://nobody.invalid/", "http://no_body.invalid/"):
            await self.assert_goes_on(url)

    async def test_another_server(self) -> None:
        """A path without a daemon, and TLS on a plain port, give clear errors."""
        await self.assert_fails(f"https://127.0.0.1:{self.port}/", "no secure connection")
        for path in ("nowhere/", "no where", "n\u00f6where", "%zz"):
            for kind in TRANSPORTS:
                chat = connect(reactor, f"http://127.0.0.1:{self.port}/{path}", transports=(kind,))
                error = await self.assertFailure(Deferred.fromCoroutine(chat.__aenter__()), Exception)
                self.assertIn("404" if kind == "websocket" else "not_found", str(error), path)
