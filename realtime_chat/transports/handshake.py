"""The opening handshake of a WebSocket (RFC 6455, section 4.2)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from realtime_chat.http.request import RealtimeRequest
from realtime_chat.values.errors import RealtimeError

SUBPROTOCOL = "realtime.v1"

_VERSION = b"13"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_SINGLE = (b"Upgrade", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Sec-WebSocket-Protocol")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Upgrade(NamedTuple):
    """What a checked request says of the WebSocket that it wants.

    :param key: its ``Sec-WebSocket-Key``.
    :param offers_subprotocol: whether :data:`SUBPROTOCOL` is among its ``Sec-WebSocket-Protocol``.
    :param extensions: its ``Sec-WebSocket-Extensions``.
    """

    key: bytes
    offers_subprotocol: bool
    extensions: str


def check_upgrade(request: RealtimeRequest) -> Upgrade:
    """Check that a request is a WebSocket's handshake (RFC 6455, section 4.2.1).

    :raises RealtimeError: ``upgrade_required`` or ``bad_request``.
    """
    if b"websocket" not in _tokens(request, b"Upgrade"):
        raise RealtimeError("upgrade_required", "this is a WebSocket's address; plain HTTP has poll and rooms")
    if request.has_body:
        raise RealtimeError("bad_request", "an upgrade has no body")
    if request.clientproto != b"HTTP/1.1" or b"upgrade" not in _tokens(request, b"Connection"):
        raise RealtimeError("bad_request", "a WebSocket begins with HTTP/1.1 and Connection: Upgrade")
    for header in _SINGLE:
        if len(request.requestHeaders.getRawHeaders(header, ())) > 1:
            raise RealtimeError("bad_request", f"the header {header.decode()} is given at most once")
    if request.getHeader(b"Sec-WebSocket-Version") != _VERSION:
        request.setHeader(b"Sec-WebSocket-Version", _VERSION)
        raise RealtimeError("upgrade_required", "a WebSocket says Sec-WebSocket-Version: 13")
    key = request.getHeader(b"Sec-WebSocket-Key") or b""
    if not _KEY.fullmatch(key):
        raise RealtimeError("bad_request", "a Sec-WebSocket-Key is 16 bytes in base64")
    offered = (request.getHeader(b"Sec-WebSocket-Protocol") or b"").split(b",")
    offers_subprotocol = SUBPROTOCOL.encode() in [name.strip() for name in offered]
    extensions = (request.getHeader(b"Sec-WebSocket-Extensions") or b"").decode("ascii", "replace")
    return Upgrade(key, offers_subprotocol, extensions)


def _tokens(request: RealtimeRequest, header: bytes) -> set[bytes]:
    """The words of a header that is a list, in lower case."""
    values = b",".join(request.requestHeaders.getRawHeaders(header, ()))
    return {token.strip().lower() for token in values.split(b",")}


def accept_offer(offers: Sequence[PerMessageDeflateOffer]) -> PerMessageDeflateOfferAccept | None:
    """Accept the client's first offer of compression that doesn't ask for a smaller window on our side."""
    for offer in offers:
        if not offer.request_max_window_bits:
            return PerMessageDeflateOfferAccept(offer, offer.accept_no_context_takeover)
    return None


def encode_response(upgrade: Upgrade, extensions: str | None) -> bytes:
    """The answer to a handshake (RFC 6455, section 4.2.2).

    :param extensions: what is agreed on; None for nothing.
    """
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(upgrade.key + _GUID).digest()),
        *_optional(upgrade.offers_subprotocol, extensions or ""),
    ]
    return b"\r\n".join([*lines, b"", b""])


def encode_request(upgrade: Upgrade) -> bytes:
    """A request that says the same as the one that was checked."""
    lines = [
        b"GET / HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: " + _VERSION,
        b"Sec-WebSocket-Key: " + upgrade.key,
        *_optional(upgrade.offers_subprotocol, upgrade.extensions),
    ]
    return b"\r\n".join([*lines, b"", b""])


def _optional(subprotocol: bool, extensions: str) -> list[bytes]:
    lines = [b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode()] if subprotocol else []
    return [*lines, b"Sec-WebSocket-Extensions: " + extensions.encode()] if extensions else lines
