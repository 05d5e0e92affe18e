"""Somebody's own site around the daemon's resources."""

from __future__ import annotations

from io import BytesIO

from twisted.web.resource import IResource, getChildForRequest

from realtime_chat.http.answers import JSONResource
from realtime_chat.http.request import RealtimeRequest


class EmbeddingResource(JSONResource):
    """A root that leaves all paths that are no children to another site.

    :param site: the root of that site.
    """

    def __init__(self, site: IResource) -> None:
        super().__init__()
        self._site = site

    def getChild(self, path: bytes, request: RealtimeRequest) -> IResource:  # type: ignore[override]
        """Return what the other site has at a path."""
        request.content = request.content or BytesIO()  # WSGI reads it also without a body
        request.postpath.insert(0, request.prepath.pop())
        resource: IResource = getChildForRequest(self._site, request)
        return resource
