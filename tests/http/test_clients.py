"""Tests for :mod:`realtime_chat.http.clients`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import parse_qs
from twisted.web.http_headers import Headers

from realtime_chat.core.identity import Identity
from realtime_chat.http.answers import Answer
from realtime_chat.http.clients import client_of, find_identity, identity_of, wrap_for
from realtime_chat.http.fast_channel import CachedHeaders
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import ANONYMOUS
from tests.exchange import Exchange, make_node
from tests.fakes import make_hub, tokens
from tests.http.test_commands import StubTestCase
from tests.site_tokens import SiteTokens


class FakeRequest:
    """What these functions see of a request."""

    def __init__(self, query: str = "", **headers: str) -> None:
        self.args = parse_qs(query.encode(), keep_blank_values=True)
        self.requestHeaders = Headers()
        for name, value in headers.items():
            self.requestHeaders.addRawHeader(name.replace("_", "-"), value)


def request(query: str = "", **headers: str) -> Any:
    return FakeRequest(query, **headers)


class ClientTests(SynchronousTestCase):
    """Which client, and which user."""

    def setUp(self) -> None:
        clock = Clock()
        self.hub = make_hub(MemoryStore(Retention(20), clock.seconds, tokens()), clock)
        self.identities = self.hub.identities
        self.issued = self.identities.issue()

    def assert_code(self, code: str, call: Any, *given: Any) -> None:
        self.assertEqual(code, self.assertRaises(RealtimeError, call, *given).code)

    def test_places(self) -> None:
        """A client stands in the header or in the URL; the header comes first."""
        self.assertIsNone(client_of(request()))
        self.assertEqual("a", client_of(request(Realtime_Client="a")))
        self.assertEqual("b", client_of(request("client=b")))
        self.assertEqual("a", client_of(request("client=b", Realtime_Client="a")))

    def test_twice(self) -> None:
        """Two clients in one URL are none."""
        self.assert_code("bad_request", client_of, request("client=a&client=b"))

    def test_user(self) -> None:
        """Who has no client is anonymous; who has one is its guest."""
        self.assertEqual(ANONYMOUS, identity_of(request(), self.hub).user)
        user = identity_of(request(f"client={self.issued}&name=Ann"), self.hub).user
        self.assertEqual((self.identities.check(self.issued).user.id, "Ann", True), (user.id, user.name, user.guest))

    def test_unknown(self) -> None:
        """A client that wasn't issued here is nobody."""
        for client in ("", "A" * 32, self.issued[:-1], self.issued + "A", self.issued.lower(), "ä" * 32):
            given = request(f"client={client}")
            self.assert_code("unauthorized", identity_of, given, self.hub)


class CredentialsTests(SynchronousTestCase):
    """Tokens, clients and readers, each alone and several at once."""

    def setUp(self) -> None:
        clock, site = Clock(), SiteTokens(lambda: 1_795_000_000.0)
        store = MemoryStore(Retention(20), clock.seconds, tokens())
        self.hub, _ = make_node(Exchange(clock), store, 0, site)
        self.token = site.issue("ann", lobby="rw")

    def who(self, token: str, client: str, query: Mapping[str, str]) -> str | None:
        """Who has sent a request, or why it is refused.

        :param token: the header Authorization.
        :param client: the header Realtime-Client.
        """
        given = request(urlencode(query), **({"Realtime_Client": client} if client else {}))
        given.authorization = token.encode() or None
        try:
            identity = find_identity(given, self.hub)
        except RealtimeError as error:
            return error.code
        return None if identity is None else identity.user.id

    def test_who(self) -> None:
        """Each alone says who somebody is. Two at once are refused, and so is what stands where others can read it."""
        identities = self.hub.identities
        ann, bob = self.hub.admit(self.hub.verify(self.token), None), identities.new_guest("Bob")
        bearer, client, guest = f"Bearer {self.token}", ann.client, bob.client
        reader = identities.reader_of(ann).client
        for token, header, query, who in (
            ("", "", {}, None),
            (bearer, "", {}, "ann"),
            (f"bEARER  {self.token} ", "", {}, "ann"),
            ("Bearer nonsense", "", {}, "unauthorized"),
            ("Basic YTpi", "", {}, None),
            ("Basic YTpi", guest, {}, bob.user.id),
            ("", guest, {}, bob.user.id),
            ("", "", {"client": guest}, bob.user.id),
            ("", client, {}, "ann"),
            ("", "", {"client": client}, "unauthorized"),
            ("", "", {"reader": reader}, "ann"),
            ("", "", {"reader": client}, "unauthorized"),
            ("", "", {"reader": guest}, "unauthorized"),
            (bearer, client, {}, "ann"),
            (bearer, "", {"client": client}, "unauthorized"),
            (bearer, guest, {}, "forbidden"),
            (bearer, "", {"client": guest}, "forbidden"),
            (bearer, "", {"reader": reader}, "bad_request"),
            ("", client, {"client": client}, "unauthorized"),
            ("", client, {"client": guest}, "forbidden"),
            ("", client, {"reader": reader}, "bad_request"),
            ("", guest, {"reader": reader}, "bad_request"),
            ("", "", {"client": guest, "reader": reader}, "bad_request"),
        ):
            self.assertEqual(who, self.who(token, header, query), (token, header, query))


class CachedTests(SynchronousTestCase):
    """Requests with the header lines of the request before, whose client isn't verified again."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = make_hub(MemoryStore(Retention(20), self.clock.seconds, tokens()), self.clock)
        self.site = SiteTokens(lambda: self.hub.time_ms() / 1000)
        self.hub.identities._token_keys = self.site.token_keys
        self.user = self.admit(lobby="rw")
        self.headers = self.lines_of(self.user)

    def admit(self, before: Identity | None = None, lifetime: float = 60.0, **rooms: str) -> Identity:
        claims = self.site.verify(self.site.issue("u7", lifetime, **rooms))
        return self.hub.identities.admit(claims, before)

    def lines_of(self, identity: Identity) -> CachedHeaders:
        return CachedHeaders(b"Host: localhost\r\nRealtime-Client: %b\r\n\r\n" % identity.client.encode())

    def find(self, headers: CachedHeaders, query: str = "", name: str | None = None) -> Identity | None:
        asked = request(query)
        asked.requestHeaders = headers
        return find_identity(asked, self.hub, name)

    def assert_ends(self, code: str) -> None:
        error = self.assertRaises(RealtimeError, self.find, self.headers)
        self.assertEqual(code, error.code)

    def test_verified_once(self) -> None:
        """The identity that was verified first is found again, of users and of guests; others have their own."""
        for identity in (self.user, self.hub.identities.new_guest(), self.hub.identities.new_guest("Bob")):
            headers = self.lines_of(identity)
            found = self.find(headers)
            assert found is not None
            self.assertEqual((identity.client, identity.user), (found.client, found.user))
            headers.lines = b""  # they aren't read again
            self.assertIs(found, self.find(headers))

    def test_other_places(self) -> None:
        """What the address says counts as ever, whatever the lines before said."""
        guest = self.hub.identities.new_guest()
        headers = self.lines_of(guest)
        for _ in range(2):
            self.assertEqual(guest.user, getattr(self.find(headers), "user", None))
            self.assertEqual("Ann", getattr(self.find(headers, name="Ann"), "user", guest.user).name)
            both = self.assertRaises(RealtimeError, self.find, headers, f"reader={self.user.client}")
            self.assertEqual("bad_request", both.code)
        self.find(self.headers)
        twice = self.assertRaises(RealtimeError, self.find, self.headers, f"client={self.user.client}")
        self.assertEqual("unauthorized", twice.code)

    def test_renewed(self) -> None:
        """After a renewal the next request has the rights of the new token, and no others."""
        self.find(self.headers)
        renewed = self.admit(self.user, 120.0, lobby="r")
        self.hub.identities.renew(renewed)
        self.assertIs(renewed, self.find(self.headers))
        reader = self.lines_of(self.hub.identities.reader_of(self.user))
        for _ in range(2):
            found = self.find(reader)
            assert found is not None
            self.assertEqual((True, renewed.grants), (found.is_reader, found.grants))

    def test_time_is_over(self) -> None:
        """When its time is over, a client is refused, though it was renewed and came after that."""
        self.hub.identities.renew(self.admit(self.user, 120.0, lobby="r"))
        for _ in range(2):
            self.find(self.headers)
        self.clock.advance(60)
        self.assert_ends("token_expired")

    def test_key_is_gone(self) -> None:
        """When the key of its token is gone, a client is refused."""
        self.find(self.headers)
        self.site.keys = frozenset()
        self.assert_ends("unauthorized")


class WrapTests(SynchronousTestCase):
    """JSON or a script."""

    def wrapped(self, callback: str, body: bytes = b"{}", status: int = 200) -> Answer:
        return wrap_for(request(f"callback={callback}"), True)(Answer(body, status))

    def test_json(self) -> None:
        """Without a callback an answer stays as it is, where scripts are allowed too."""
        answer = Answer(b"{}", 404)
        for jsonp in (False, True):
            self.assertIs(answer, wrap_for(request(), jsonp)(answer))

    def test_script(self) -> None:
        """A script calls the callback, behind a comment, with status 200."""
        answer = self.wrapped("app.received", b'{"a":1}', 404)
        self.assertEqual(Answer(b'/**/app.received({"a":1});', 200, b"application/javascript; charset=utf-8"), answer)

    def test_line_separators(self) -> None:
        """U+2028 and U+2029, which end a line in older scripts, are escaped, and mean the same."""
        text = "a\u2028b\u2029c😀"
        body = self.wrapped("f", json.dumps(text, ensure_ascii=False).encode()).body
        self.assertNotIn("\u2028".encode(), body)
        self.assertNotIn("\u2029".encode(), body)
        self.assertEqual(text, json.loads(body[6:-2]))

    def test_names(self) -> None:
        """A plain name is taken, up to 64 characters."""
        for name in ("f", "_", "$", "jQuery123_456", "a.b.c", "f" * 64):
            self.assertTrue(self.wrapped(name).body.startswith(b"/**/" + name.encode() + b"("))

    def test_other_names(self) -> None:
        """Nothing else is."""
        for name in (
            "",
            "alert(1)//",
            "f%3Bg",
            "a.",
            ".a",
            "a..b",
            "1a",
            "a b",
            "a%0a",
            "f" * 65,
            "a[0]",
            "%C3%BC",
            "<b>",
        ):
            error = self.assertRaises(RealtimeError, self.wrapped, name)
            self.assertEqual("bad_request", error.code, name)
        self.assertRaises(RealtimeError, wrap_for, request("callback=f&callback=g"), True)

    def test_off(self) -> None:
        """Scripts have to be allowed."""
        self.assertEqual("forbidden", self.assertRaises(RealtimeError, wrap_for, request("callback=f"), False).code)


class ScriptedPollTests(StubTestCase):
    """JSONP as a page sees it."""

    jsonp = True

    def test_poll(self) -> None:
        """A poll with a callback is answered as a script that old browsers can read."""
        self.publish("line\u2028separator")
        response, body = self.ask("GET", "poll", {"room": "lobby", "callback": "cb"})
        self.assertEqual(["nosniff"], response.headers.getRawHeaders("X-Content-Type-Options"))
        self.assertNotIn("\u2028".encode(), body)
        self.assertEqual("line\u2028separator", json.loads(body[7:-2])["events"][-1]["data"])
