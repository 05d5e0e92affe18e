"""Tests for :mod:`realtime_chat.http.pages`."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from treq.testing import StubTreq
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.http.answers import JSONResource
from realtime_chat.http.pages import LIBRARY, put_library


class LibraryTests(SynchronousTestCase):
    """The script, by its two names."""

    def setUp(self) -> None:
        root = JSONResource()
        self.hashed = put_library(root)
        self.treq = StubTreq(root)

    def get(self, name: str, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.successResultOf(self.treq.get(f"http://localhost/{name}", headers=named))

    def test_content(self) -> None:
        """Both names bring the built file, as a script that pages of all origins may load."""
        built = (files("realtime_chat") / "static" / "realtime.js").read_bytes()
        for name in (LIBRARY, self.hashed):
            response = self.get(name)
            self.assertEqual(self.successResultOf(response.content()), built)
            for header, value in (
                ("Content-Type", "text/javascript; charset=utf-8"),
                ("Cross-Origin-Resource-Policy", "cross-origin"),
                ("X-Content-Type-Options", "nosniff"),
            ):
                self.assertEqual(response.headers.getRawHeaders(header), [value])

    def test_types(self) -> None:
        """Its types for TypeScript are beside it."""
        response = self.get("realtime.d.ts")
        self.assertEqual(200, response.code)
        self.assertIn(b"namespace Realtime", self.successResultOf(response.content()))

    def test_kept_for_good(self) -> None:
        """The name that changes with the content may be kept; the plain one is asked for again, and costs a 304."""
        self.assertRegex(self.hashed, r"\Arealtime\.[0-9a-f]{16}\.js\Z")
        kept = self.get(self.hashed).headers.getRawHeaders("Cache-Control")
        self.assertEqual(kept, ["public, max-age=31536000, immutable"])
        response = self.get(LIBRARY)
        self.assertEqual(response.headers.getRawHeaders("Cache-Control"), ["no-cache"])
        (tag,) = response.headers.getRawHeaders("ETag")
        self.assertEqual(self.get(LIBRARY, If_None_Match=tag).code, 304)
