"""A signed token as it is written (RFC 7515): read strictly, so that a token has one meaning."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NoReturn

import attrs

from realtime_chat.values.errors import RealtimeError, UnreadableCommand
from realtime_chat.values.json import decode_body

MAX_TOKEN = 16_384
"""Bytes of the longest token."""

_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_SHOWN = 64


def refuse(what: str) -> NoReturn:
    """Refuse a token.

    :param what: what was wrong and what would be right. It repeats nothing of the token but names.
    :raises RealtimeError: ``unauthorized``.
    """
    raise RealtimeError("unauthorized", f"this token is refused: {what}")


def shown(name: str) -> str:
    """A name that a token gives to something, for a message."""
    return ascii(name[:_SHOWN])


@attrs.frozen
class SignedToken:
    """A token whose signature isn't verified yet.

    :ivar algorithm: what the header says.
    :ivar kid: the id of its key; None if the header gives none.
    :ivar signed: the bytes that the signature is of.
    """

    algorithm: str
    kid: str | None
    signed: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)
    _payload: bytes = attrs.field(repr=False)

    @classmethod
    def parse(cls, text: str) -> SignedToken:
        """Parse a header, a payload and a signature, with dots between them.

        :raises RealtimeError: ``unauthorized``.
        """
        if len(text) > MAX_TOKEN:
            refuse(f"it has more than {MAX_TOKEN:,} bytes; right would be fewer rooms, or patterns such as help-*")
        match = _PARTS.fullmatch(text)
        if match is None:
            refuse("it has another form; right would be HEADER.PAYLOAD.SIGNATURE, three parts in base64url")
        header = _read_object(_decode(match[1], "header"), "header")
        _check_header(header)
        return cls(
            _text(header, "alg") or refuse('its header has no alg; right would be "HS256"'),
            _text(header, "kid"),
            text[: match.end(2)].encode(),
            _decode(match[3], "signature"),
            _decode(match[2], "payload"),
        )

    def claims(self) -> dict[str, Any]:
        """The claims. Only a token whose signature is verified should be asked.

        :raises RealtimeError: ``unauthorized``: they are no JSON object, or one of them is there twice.
        """
        return _read_object(self._payload, "payload")


def _check_header(header: dict[str, Any]) -> None:
    """Refuse what gives a token another meaning."""
    for name in ("crit", "zip", "b64"):
        if name in header:
            refuse(f"its header has {name}; right would be a header without it")
    if "cty" in header:
        refuse("its header has cty, as for a token in a token; right would be claims alone")
    if str(header.get("typ", "JWT")).upper() not in ("JWT", "AT+JWT"):
        refuse('its typ is another one; right would be "JWT"')


def _text(header: dict[str, Any], name: str) -> str | None:
    value = header.get(name)
    if name in header and not isinstance(value, str):
        refuse(f"{name} in its header is no string; right would be one")
    return value


def _decode(part: str, what: str) -> bytes:
    """Decode base64url. Each value has one spelling."""
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        refuse(f"its {what} is no base64url; right would be base64url without padding")
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        refuse(f"its {what} is base64url with bits that mean nothing; right would be zeros there")
    return raw


def _read_object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        value = decode_body(raw)
    except UnreadableCommand as error:
        refuse(f"its {what}: {error.message}; right would be a JSON object")
    if not isinstance(value, dict):
        refuse(f"its {what} is no JSON object; right would be one, such as {{}}")
    # The JSON that is decoded above takes the last of two values. Another program may have checked the first.
    found: dict[str, Any] = json.loads(raw, object_pairs_hook=_once)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        refuse(f"{shown(twice)} is there twice; right would be once")
    return found
