"""Somebody's own site around the daemon's resources."""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes
from io import BytesIO

from twisted.web.http import parse_qs
from twisted.web.resource import IResource, getChildForRequest

from realtime_chat.http.answers import JSONResource
from realtime_chat.http.commands import media_type
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
        request.args = _arguments(request)
        request.postpath.insert(0, request.prepath.pop())
        resource: IResource = getChildForRequest(self._site, request)
        return resource


def _arguments(request: RealtimeRequest) -> dict[bytes, list[bytes]]:
    """Return the parameters of the query and those of a form in the body, as Twisted's own requests have them."""
    arguments: dict[bytes, list[bytes]] = parse_qs(request.uri.partition(b"?")[2], keep_blank_values=True)
    assert request.content is not None
    if request.method == b"POST" and media_type(request) == b"application/x-www-form-urlencoded":
        arguments |= parse_qs(request.content.read(), keep_blank_values=True)
    elif request.method == b"POST" and media_type(request) == b"multipart/form-data":
        for name, value in _parts(request.getHeader(b"content-type") or b"", request.content.read()):
            arguments.setdefault(name, []).append(value)
    request.content.seek(0)
    return arguments


def _parts(content_type: bytes, body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Return the names and values of a form in parts (RFC 7578)."""
    form = message_from_bytes(b"MIME-Version: 1.0\r\nContent-Type: %b\r\n\r\n%b" % (content_type, body))
    for part in form.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str) and not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            yield name.encode(), payload
