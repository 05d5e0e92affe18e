"""Somebody's own site around the daemon's resources."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource, getChildForRequest
from twisted.web.test.requesthelper import DummyRequest

from realtime_chat.http.embedding import EmbeddingResource


class EmbeddingResourceTests(SynchronousTestCase):
    """Who answers at which path."""

    def test_paths(self) -> None:
        """Children answer at their own paths, and the site at all others, with the whole path."""
        site, own = Resource(), Resource()
        site.isLeaf = True
        root = EmbeddingResource(site)
        root.putChild(b"ws", own)
        for path, resource in (([b"ws"], own), ([b""], site), ([b"shoes", b"red"], site)):
            request: Any = DummyRequest(path)
            request.content, request.uri = None, b"/"
            self.assertIs(resource, getChildForRequest(root, request))
            if resource is site:
                self.assertEqual(([], path, b""), (request.prepath, request.postpath, request.content.read()))

    def test_forms(self) -> None:
        """The site finds the parameters of the query and of a form where Twisted's own requests have them."""
        parts = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\x00\r\n--x--\r\n'
        for kind, body, found in (
            (b"application/x-www-form-urlencoded", b"a=%C3%A9+b&b=", [b"\xc3\xa9 b"]),
            (b"multipart/form-data; boundary=x", parts, [b"\x00"]),
            (b"text/plain", b"a=1", None),
        ):
            request: Any = DummyRequest([b"page"])
            request.method, request.uri, request.content = b"POST", b"/page?q=1&q=", BytesIO(body)
            request.requestHeaders.setRawHeaders(b"content-type", [kind])
            site = Resource()
            site.isLeaf = True
            getChildForRequest(EmbeddingResource(site), request)
            self.assertEqual(([b"1", b""], found), (request.args[b"q"], request.args.get(b"a")))
            self.assertEqual(body, request.content.read())
