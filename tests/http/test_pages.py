"""Tests for :mod:`realtime_chat.http.pages`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from treq.testing import StubTreq
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.http.answers import JSONResource
from realtime_chat.http.pages import CONTENT_SECURITY_POLICY, put_pages

FILES = {
    "index.html": "<!doctype html>",
    "chat.js": "1",
    "chat.css": "a{}",
    "logo.svg": "<svg/>",
    ".hidden.js": "secret",
    "notes.rst": "notes",
    "noending": "x",
}


class PagesTests(SynchronousTestCase):
    """The files of a directory, as they were at the start."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        for name, text in FILES.items():
            (self.directory / name).write_text(text)
        root = JSONResource()
        put_pages(root, self.directory)
        self.treq = StubTreq(root)

    def get(self, path: str, method: str = "GET", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.successResultOf(self.treq.request(method, f"http://localhost/{path}", headers=named))

    def content(self, response: Any) -> bytes:
        return bytes(self.successResultOf(response.content()))

    def test_types(self) -> None:
        """Each file comes with its own content type, and the page at its address too."""
        for path, kind, text in (
            ("", "text/html; charset=utf-8", "<!doctype html>"),
            ("index.html", "text/html; charset=utf-8", "<!doctype html>"),
            ("chat.js", "text/javascript; charset=utf-8", "1"),
            ("chat.css", "text/css; charset=utf-8", "a{}"),
            ("logo.svg", "image/svg+xml", "<svg/>"),
        ):
            response = self.get(path)
            self.assertEqual(response.headers.getRawHeaders("Content-Type"), [kind])
            self.assertEqual(self.content(response), text.encode())

    def test_policy(self) -> None:
        """Pages may load what is the site's own, send no referrer, stand in no frame, and are asked for again."""
        headers = self.get("").headers
        for name, value in (
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY.decode()),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cache-Control", "no-cache"),
        ):
            self.assertEqual(headers.getRawHeaders(name), [value])
        self.assertNotIn(b"unsafe", CONTENT_SECURITY_POLICY)

    def test_unchanged(self) -> None:
        """A browser that has the file already is told so, also where a proxy weakened the tag."""
        (tag,) = self.get("chat.js").headers.getRawHeaders("ETag")
        for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            response = self.get("chat.js", If_None_Match=given)
            self.assertEqual((response.code, self.content(response)), (304, b""))
            self.assertEqual(response.headers.getRawHeaders("ETag"), [tag])

    def test_changed(self) -> None:
        """One that has something else gets the file."""
        (other,) = self.get("chat.css").headers.getRawHeaders("ETag")
        for given in (other, '""', "nonsense", other.strip('"')):
            self.assertEqual(self.get("chat.js", If_None_Match=given).code, 200)

    def test_nothing_else(self) -> None:
        """What has no content type, hidden files, and all other paths are not found."""
        for path in (
            "notes.rst",
            "noending",
            ".hidden.js",
            "x.js",
            "../setup.cfg",
            "%2e%2e/setup.cfg",
            "chat.js/x",
            "/chat.js",
        ):
            self.assertEqual((path, self.get(path).code), (path, 404))

    def test_other_names(self) -> None:
        """HTML refers to a file that is served by another name by that one, and the file isn't served here."""
        (self.directory / "index.html").write_text('<script src="chat.js"></script><a href="chat.js">')
        root = JSONResource()
        put_pages(root, self.directory, {"chat.js": "chat.1.js"})
        self.treq = StubTreq(root)
        self.assertEqual(self.content(self.get("")), b'<script src="chat.1.js"></script><a href="chat.js">')
        self.assertEqual(self.get("chat.js").code, 404)

    def test_methods(self) -> None:
        """Files can be read, and only that."""
        self.assertEqual(self.content(self.get("chat.js", "HEAD")), b"")
        self.assertEqual(self.get("chat.js", "POST").code, 405)

    def test_kept(self) -> None:
        """The files are read once."""
        (self.directory / "chat.js").write_text("2")
        self.assertEqual(self.content(self.get("chat.js")), b"1")

    def test_own_page(self) -> None:
        """The package brings its page."""
        root = JSONResource()
        put_pages(root)
        response = self.successResultOf(StubTreq(root).get("http://localhost/"))
        self.assertIn(b"<!doctype html>", self.content(response).lower())
