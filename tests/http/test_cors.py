"""Tests for cross-origin requests, which :mod:`realtime_chat.http.origins` judges."""

from __future__ import annotations

from twisted.logger import capturedLogs, formatEvent

from realtime_chat.http.origins import OriginPolicy
from tests.http.site_case import (
    SiteTestCase,
    get,
    post,
)


class CORSTests(SiteTestCase):
    """Pages of other origins that are listed can use the site, and read its answers."""

    listed = b"Origin: https://other.example"

    def test_listed(self) -> None:
        """A listed origin's page may read the answer, without credentials."""
        said = self.ask(get(b"/", self.listed))
        self.assertEqual(said.headers["access-control-allow-origin"], "https://other.example")
        self.assertEqual(said.headers["access-control-expose-headers"], "retry-after")
        self.assertEqual(said.headers["vary"], "origin")
        self.assertNotIn("access-control-allow-credentials", said.headers)

    def test_errors_can_be_read(self) -> None:
        """A listed origin's page may read why it was refused, too."""
        for request in (get(b"/nowhere", self.listed), post(b"a" * 1000, self.listed)):
            self.assertEqual(self.ask(request).headers["access-control-allow-origin"], "https://other.example")

    def test_own(self) -> None:
        """The site's own pages need no CORS headers, but get Vary."""
        said = self.ask(get(b"/", b"Origin: http://localhost:8080", host=b"localhost:8080"))
        self.assertEqual((said.status, said.headers["vary"]), (200, "origin"))
        self.assertNotIn("access-control-allow-origin", said.headers)

    def test_nobody_listed(self) -> None:
        """Where no other origin is listed, answers don't vary."""
        self.site = self.make_site(origins=OriginPolicy())
        self.assertNotIn("vary", self.ask(get()).headers)

    def test_public(self) -> None:
        """Every page may read a public path, with any query, and no other path."""
        self.site = self.make_site(origins=OriginPolicy(public=frozenset([b"/"])))
        stranger = b"Origin: https://stranger.example"
        for path in (b"/", b"/?version=2"):
            said = self.ask(get(path, stranger))
            self.assertEqual((said.status, said.headers["access-control-allow-origin"]), (200, "*"))
        for path in (b"/later", b"//", b"/nowhere?/"):
            self.assertEqual(self.ask(get(path, stranger)).status, 403)

    def test_preflight(self) -> None:
        """A preflight is answered at every address."""
        said = self.ask(get(b"/commands", self.listed, b"Access-Control-Request-Method: POST", method=b"OPTIONS"))
        self.assertEqual((said.status, said.body), (204, b""))
        self.assertEqual(said.headers["access-control-allow-methods"], "get, post, put, delete")
        self.assertEqual(
            said.headers["access-control-allow-headers"], "content-type, realtime-client, last-event-id, authorization"
        )
        self.assertEqual(said.headers["access-control-max-age"], "600")
        self.assertNotIn("content-length", said.headers)

    def test_refused(self) -> None:
        """A page that isn't listed can read why, and the log names the option, and the proxy's setting."""
        with capturedLogs() as events:
            said = self.ask(get(b"/", b"Origin: https://Forgotten.example:443"))
            self.ask(get(b"/", b"Origin: <b>"))
        self.assertEqual(("bad_origin", "*"), (said.code, said.headers["access-control-allow-origin"]))
        first, second = map(formatEvent, events)
        self.assertIn("--allow-origin https://forgotten.example.", first)
        self.assertIn("proxy_set_header Host $http_host", first)
        self.assertIn("ProxyPreserveHost On", first)
        self.assertEqual("a page was refused: its origin is none that a browser sends", second)

    def test_refused_preflight(self) -> None:
        """Another site's preflight is refused. OPTIONS without a preflight is not allowed."""
        wish = b"Access-Control-Request-Method: POST"
        refused = self.ask(get(b"/", b"Origin: https://evil.example", wish, method=b"OPTIONS"))
        self.assertEqual(refused.code, "bad_origin")
        self.assertNotIn("access-control-allow-origin", refused.headers)
        self.assertEqual(self.ask(get(b"/", method=b"OPTIONS")).code, "method_not_allowed")


class PlainCORSTests(CORSTests):
    """The same with Twisted's own parsing and answering."""

    fast = False
