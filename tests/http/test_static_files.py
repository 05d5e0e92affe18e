"""Tests for :mod:`realtime_chat.http.static_files`."""

from __future__ import annotations

import errno
from importlib.resources import files
from pathlib import Path
from typing import Any

from treq.testing import StubTreq
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.http.answers import JSONResource
from realtime_chat.http.static_files import (
    CONTENT_SECURITY_POLICY,
    LIBRARY,
    NO_PAGE,
    PageRefused,
    put_library,
    put_page,
)

FILES = {
    "index.html": "<!doctype html>",
    "chat.js": "1",
    "chat.css": "a{}",
    "logo.svg": "<svg/>",
    ".hidden.js": "secret",
    "notes.rst": "notes",
    "noending": "x",
}


def _deny(path: Path) -> bytes:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


class PagesTests(SynchronousTestCase):
    """The files of a directory, as they were at the start."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        for name, text in FILES.items():
            (self.directory / name).write_text(text)
        root = JSONResource()
        put_page(root, self.directory)
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
        """Pages may load what is the site's own, send no referrer, stand in frames of their own origin alone, and are
        asked for again."""
        headers = self.get("").headers
        for name, value in (
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY.decode()),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "SAMEORIGIN"),
            ("Cache-Control", "no-cache"),
        ):
            self.assertEqual(headers.getRawHeaders(name), [value])
        self.assertNotIn(b"unsafe", CONTENT_SECURITY_POLICY)
        self.assertIn(b"frame-ancestors 'self'", CONTENT_SECURITY_POLICY)

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
        put_page(root, self.directory, {"chat.js": "chat.1.js"})
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

    def test_directories(self) -> None:
        """Files in directories are there by their paths; a directory is its index, or nothing: it isn't listed."""
        for path in ("help", "help/empty", ".git"):
            (self.directory / path).mkdir()
        for path in ("help/index.html", "help/MANUAL.PNG", "help/.hidden.js", ".git/chat.js", "help/realtime.js"):
            (self.directory / path).write_text(path)
        (self.directory / "again").symlink_to(self.directory)
        self.put()
        for path, kind in (("help/", "text/html; charset=utf-8"), ("help/MANUAL.PNG", "image/png")):
            self.assertEqual(self.get(path).headers.getRawHeaders("Content-Type"), [kind])
        self.assertEqual(self.content(self.get("help/realtime.js")), b"help/realtime.js")
        for path in ("help", "help/empty/", "help/empty", "help/.hidden.js", ".git/chat.js", "again/chat.js"):
            self.assertEqual((path, self.get(path).code), (path, 404))
        for path in ("help/../chat.js", "help/%2e%2e/chat.js", "help%2fMANUAL.PNG", "help/..%2fchat.js"):
            self.assertEqual((path, self.get(path).code), (path, 404))

    def put(self) -> None:
        """Serve the directory as it is now."""
        root = JSONResource()
        put_page(root, self.directory, {"realtime.js": "realtime.1.js"})
        self.treq = StubTreq(root)

    def test_refused(self) -> None:
        """What can't be a page is refused: the message says where, what was wrong, and what would be right."""
        file = self.directory / "chat.js"
        for path, wrong, right in (
            (self.directory / "missing", "is not a directory", "right would be one that holds an index.html"),
            (file, "is not a directory", "right would be one that holds an index.html"),
        ):
            message = str(self.assertRaises(PageRefused, put_page, JSONResource(), path))
            for words in (repr(str(path)), wrong, right):
                self.assertIn(words, message)
        (self.directory / "index.html").unlink()
        message = str(self.assertRaises(PageRefused, put_page, JSONResource(), self.directory))
        self.assertIn("holds no index.html", message)

    def test_too_much(self) -> None:
        """A directory that holds more than a page can be meant to isn't read into memory."""
        for number in range(1001):
            (self.directory / f"{number}.txt").touch()
        message = str(self.assertRaises(PageRefused, put_page, JSONResource(), self.directory))
        self.assertIn("more than 1000 files", message)

    def test_unreadable(self) -> None:
        """A file that can't be read is named."""
        self.patch(Path, "read_bytes", _deny)
        message = str(self.assertRaises(PageRefused, put_page, JSONResource(), self.directory))
        self.assertIn("can't be read (Permission denied)", message)

    def test_no_page(self) -> None:
        """Without a page nothing is put anywhere."""
        root = JSONResource()
        put_page(root, NO_PAGE)
        self.assertEqual({}, root.children)

    def test_own_page(self) -> None:
        """The package brings its page."""
        root = JSONResource()
        put_page(root)
        response = self.successResultOf(StubTreq(root).get("http://localhost/"))
        self.assertIn(b"<!doctype html>", self.content(response).lower())

    def test_token_url(self) -> None:
        """The package's page says where tokens are, whatever that address holds, and may connect there; what a browser
        has of the page without it is old."""
        own = CONTENT_SECURITY_POLICY.decode()
        tags = set()
        for url, attribute, allowed in (
            (None, None, "'self'"),
            ("/token/", "/token/", "'self'"),
            ("/a?b&'=\"<>", "/a?b&amp;&#x27;=&quot;&lt;&gt;", "'self'"),
            ("https://a.example:8443/t?u=v", "https://a.example:8443/t?u=v", "'self' https://a.example:8443"),
        ):
            root = JSONResource()
            put_page(root, token_url=url)
            response = self.successResultOf(StubTreq(root).get("http://localhost/"))
            body = "<body>" if attribute is None else f'<body data-token-url="{attribute}">'
            self.assertIn(body.encode(), self.content(response))
            (policy,) = response.headers.getRawHeaders("Content-Security-Policy")
            self.assertEqual(own.replace("connect-src 'self'", f"connect-src {allowed}"), policy)
            tags.update(response.headers.getRawHeaders("ETag"))
        self.assertEqual(4, len(tags))


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
