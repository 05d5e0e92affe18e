"""Somebody's own site around the daemon's resources."""

from __future__ import annotations

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
            request.content = None
            self.assertIs(resource, getChildForRequest(root, request))
            if resource is site:
                self.assertEqual(([], path, b""), (request.prepath, request.postpath, request.content.read()))
