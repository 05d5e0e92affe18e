"""Verifies tokens (JWT, RFC 7519): who signed one, what it says, and whether it is in force now.

Each message is for the developer whose program made the token. It says which claim is wrong and what would be right.
The signature comes first, so nobody but the site learns anything about claims.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs

from realtime_chat.tokens.keys import TokenKeys
from realtime_chat.tokens.signed import SignedToken, refuse, shown
from realtime_chat.tokens.token_key import TokenKey
from realtime_chat.values.access import NO_GRANTS, Claims, Grants
from realtime_chat.values.errors import RealtimeError, no_keys
from realtime_chat.values.json import encode_value
from realtime_chat.values.model import check_name, is_guest_id, is_room, private_room

MAX_INFO = 512
"""Bytes of ``info``, as compact JSON."""

_MAX_REMEMBERED = 4096
"""How many verified tokens are remembered, so that a program that sends one with each request costs little."""

_SKEW = 10_000
"""Milliseconds that the clock of whoever made a token may be ahead. A token's end is exact."""

_LAST_YEAR = 253_402_300_800
"""Seconds from 1970 to the year 10000. A time beyond that is in another unit."""

_SUB = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,64}")


class _Verified(NamedTuple):
    """A token whose signature and claims are right.

    :ivar starts: milliseconds since 1970 before which it isn't in force.
    """

    claims: Claims
    starts: int


@attrs.define
class TokenVerifier:
    """Verifies tokens with some keys.

    :param audience: what ``aud`` of a token has to name; None if tokens may have none.
    :param issuer: what ``iss`` of a token has to be; None if it may be any or none.
    :param time: seconds since 1970.
    """

    _keys: TokenKeys
    _audience: str | None
    _issuer: str | None
    _time: Callable[[], float]
    _remembered: dict[bytes, _Verified] = attrs.field(init=False, factory=dict, repr=False)

    def replace(self, keys: TokenKeys, audience: str | None, issuer: str | None) -> None:
        """Verify with these from now on."""
        self._keys, self._audience, self._issuer = keys, audience, issuer
        self._remembered.clear()

    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of the keys that verify now."""
        return self._keys.fingerprints

    def verify(self, text: str) -> Claims:
        """Verify a token.

        :raises RealtimeError: ``token_expired``, or ``unauthorized``. The message says which claim is wrong and what
            would be right.
        """
        if not self._keys.keys:
            raise no_keys()
        digest = sha256(text.encode(errors="surrogatepass")).digest()
        verified = self._remembered.get(digest)
        if verified is None:
            verified = self._read(text)
            if len(self._remembered) >= _MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[digest] = verified
        self._check_times(verified)
        return verified.claims

    def _check_times(self, verified: _Verified) -> None:
        now = int(self._time() * 1000)
        if now >= verified.claims.expires:
            raise RealtimeError("token_expired", "exp of this token is over; right would be a new token from your site")
        if now + _SKEW < verified.starts:
            refuse("nbf or iat is in the future; right would be the time now, by a clock that is right")

    def _read(self, text: str) -> _Verified:
        token = SignedToken.parse(text)
        key = self._find_key(token)
        claims = token.claims()
        for name, check in _CHECKS.items():
            if name in claims:
                check(name, claims[name])
        self._check_parties(claims)
        for name, right in _REQUIRED.items():
            if name not in claims:
                refuse(f"there is no {name}; right would be {right}")
        return _read_claims(claims, key.fingerprint)

    def _find_key(self, token: SignedToken) -> TokenKey:
        algorithms = self._keys.algorithms
        if token.algorithm not in algorithms:
            refuse(f"no key here is for its alg; right would be {' or '.join(algorithms)}")
        keys = self._keys.matching(token.algorithm, token.kid)
        if not keys:
            refuse("no key here has its kid; right would be the kid of one, or none")
        for key in keys:
            if key.verify(token.signed, token.signature):
                return key
        return refuse("its signature is of no key here; right would be the key that --token-key names")

    def _check_parties(self, claims: Mapping[str, Any]) -> None:
        audience, issuer = claims.get("aud", []), claims.get("iss")
        audiences = [audience] if isinstance(audience, str) else audience
        if self._audience is None and audiences:
            refuse("it has an aud, and here is none; right would be a token without aud, or --token-audience")
        if self._audience is not None and self._audience not in audiences:
            refuse("aud doesn't name this daemon; right would be what --token-audience says")
        if self._issuer is not None and self._issuer != issuer:
            refuse("iss is another one; right would be what --token-issuer says")


# What each claim may be


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        refuse(f"{name} is no string; right would be one")


def _check_sub(name: str, value: Any) -> None:
    if not isinstance(value, (str, int)) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
        refuse(f'{name} is no string and no whole number; right would be the id of your user, such as "u7"')


def _check_time(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        refuse(f"{name} is no number; right would be seconds since 1970")
    if not 0 <= value < _LAST_YEAR:
        refuse(f"{name} is too large or below 0; right would be seconds since 1970, and not milliseconds")


def _check_audience(name: str, value: Any) -> None:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        refuse(f"{name} is no string and no array of strings; right would be one of them")


def _check_info(name: str, value: Any) -> None:
    if not (isinstance(value, dict) or value == []):  # PHP writes an empty array so
        refuse(f'{name} is no object; right would be one, such as {{"role": "staff"}}')


def _check_rooms(name: str, value: Any) -> None:
    if value == []:
        return
    if not isinstance(value, dict):
        refuse(f'{name} is no object; right would be patterns and rights, such as {{"lobby": "rw"}}')
    for pattern, rights in value.items():
        if not isinstance(rights, str):
            refuse(f'the rights for {shown(pattern)} in {name} are no string; right would be one, such as "rw"')


_CHECKS: Mapping[str, Callable[[str, Any], None]] = MappingProxyType(
    {
        "sub": _check_sub,
        "name": _check_text,
        "info": _check_info,
        "rooms": _check_rooms,
        "exp": _check_time,
        "nbf": _check_time,
        "iat": _check_time,
        "aud": _check_audience,
        "iss": _check_text,
        "jti": _check_text,
    }
)
"""The types of the claims that are known. Others are ignored."""


_REQUIRED = {
    "sub": 'the id of your user, such as "sub": "u7"',
    "exp": "seconds since 1970, such as the time now and an hour",
}
"""The claims that a token must have, and what would be right."""


def _read_claims(claims: Mapping[str, Any], key: str) -> _Verified:
    """What claims say, whose types are right.

    :param key: the fingerprint of the key that verified them.
    """
    times = {name: int(claims[name] * 1000) for name in ("exp", "nbf", "iat") if name in claims}
    return _Verified(
        Claims(
            sub=_read_sub(claims["sub"]),
            name=_read_name(claims.get("name")),
            info=_read_info(claims.get("info")),
            rooms=_read_rooms(claims.get("rooms")),
            expires=times["exp"],
            issued=times.get("iat"),
            key=key,
        ),
        max(times.get("nbf", 0), times.get("iat", 0)),
    )


def _read_sub(value: str | int) -> str:
    sub = str(value)
    if not _SUB.fullmatch(sub):
        refuse("sub is empty, too long or has control characters; right would be 1 to 64 other characters")
    if is_guest_id(sub):
        refuse("sub is what a guest is called here; right would be another id, such as one with a prefix of your own")
    if not is_room(private_room(sub)):
        refuse(
            "sub makes the name of the user's private room longer than 128 characters, as it takes three for each byte "
            "that no room's name has; right would be a shorter one"
        )
    return sub


def _read_name(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return check_name(value)
    except RealtimeError:
        refuse("name is empty, too long or has control characters; right would be 1 to 64 other characters")


def _read_info(value: dict[str, Any] | None) -> bytes | None:
    if not value:
        return None
    info = encode_value(value)
    if len(info) > MAX_INFO:
        refuse(f"info has {len(info)} bytes of JSON; right would be {MAX_INFO} or fewer")
    return info


def _read_rooms(value: dict[str, str] | None) -> Grants:
    try:
        return Grants.of(value) if value else NO_GRANTS
    except ValueError as error:
        refuse(f"rooms: {error}")
