"""The keys that verify tokens, as they stand in files.

A file is one of three kinds:

* one secret for HS256 a line: the text as it stands, without white space around it. Blank lines and lines that begin
  with ``#`` are skipped.
* public keys in PEM.
* public keys in a JWKS (RFC 7517).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

import attrs
import jwt

from realtime_chat.text_files import FileRefused, read_text_file
from realtime_chat.tokens.token_key import TokenKey, fingerprint_of

MIN_SECRET = 32
"""Bytes of the shortest secret for HS256, as RFC 7518 wants."""

_SECRET = "realtime-chat key prints one"
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_SEQUENCE = b"\x30"


@attrs.frozen
class TokenKeys:
    """All keys of a daemon. Any of them verifies tokens.

    :ivar fingerprints: those of all keys.
    :raises ValueError: two keys for one algorithm have the same ``kid``.
    """

    keys: tuple[TokenKey, ...] = attrs.field(default=())
    fingerprints: frozenset[str] = attrs.field(init=False, eq=False, repr=False)

    @keys.validator
    def _check_kids(self, attribute: object, keys: tuple[TokenKey, ...]) -> None:
        seen: set[tuple[str, str]] = set()
        for key in keys:
            if key.kid is not None and (key.algorithm, key.kid) in seen:
                raise ValueError(
                    f"two keys for {key.algorithm} have the kid {key.kid[:64]!a}; right would be a kid for each"
                )
            seen.add((key.algorithm, key.kid or ""))

    @fingerprints.default
    def _fingerprints(self) -> frozenset[str]:
        return frozenset(key.fingerprint for key in self.keys)

    @classmethod
    def read(cls, paths: Iterable[str]) -> TokenKeys:
        """Read the keys of some files. A key that stands there twice counts once.

        :raises FileRefused: a file can't be used; the message names it, and the line if it is about one.
        """
        found: dict[tuple[str, str | None], TokenKey] = {}
        path = ""
        for path in paths:
            for key in _read_file(path):
                found.setdefault((key.fingerprint, key.kid), key)
        try:
            return cls(tuple(found.values()))
        except ValueError as error:
            raise FileRefused(path, None, str(error)) from None

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms that there are keys for, each once."""
        return tuple(dict.fromkeys(key.algorithm for key in self.keys))

    def matching(self, algorithm: str, kid: str | None) -> list[TokenKey]:
        """The keys that may have signed a token.

        :param kid: what the token says; None if it says nothing. A key without a ``kid`` may be any.
        """
        keys = [key for key in self.keys if key.algorithm == algorithm]
        if kid is None:
            return keys
        return [key for key in keys if key.kid == kid] or [key for key in keys if key.kid is None]


def _read_file(path: str) -> list[TokenKey]:
    text = read_text_file(path, f"a file of keys; {_SECRET}")
    lines = [line.strip() for line in text.split("\n")]
    first = next((line for line in lines if line and line[0] != "#"), "")
    if first.startswith(("-----BEGIN", "{")):
        keys = _read_public_keys(path, text, is_json=first[0] == "{")
    else:
        keys = [*_read_secrets(path, lines)]
    if not keys:
        raise FileRefused(path, None, f"there is no key for signatures in it; {_SECRET}")
    return keys


def _read_public_keys(path: str, text: str, is_json: bool) -> list[TokenKey]:
    try:
        from realtime_chat.tokens.public_keys import read_jwks, read_pem
    except ImportError:
        raise FileRefused(
            path,
            None,
            "public keys need the package cryptography, which is not installed; right would be "
            "pip install 'realtime_chat[public-keys]'",
        ) from None
    return [*(read_jwks if is_json else read_pem)(path, text)]


def _read_secrets(path: str, lines: list[str]) -> Iterator[TokenKey]:
    for number, line in enumerate(lines, 1):
        if line and line[0] != "#":
            try:
                yield secret_key(line)
            except ValueError as error:
                raise FileRefused(path, number, str(error)) from None


def secret_key(text: str) -> TokenKey:
    """The key for HS256 with a secret.

    :raises ValueError: it is too short, or a key of another kind that somebody took for a secret. Everybody may know a
        public key, so anybody could sign with it.
    """
    secret = text.encode()
    if not text.isprintable():
        raise ValueError(f"the secret has a character that can't be seen; {_SECRET}")
    if text.startswith("-----") or _is_der(text) or _is_public(secret):
        raise ValueError(
            f"a public key, a JWK or a certificate is no secret; right would be a file of its own for it. {_SECRET}"
        )
    if len(secret) < MIN_SECRET:
        raise ValueError(f"the secret has {len(secret)} bytes; right would be {MIN_SECRET} or more: {_SECRET}")
    return TokenKey("HS256", secret, fingerprint_of("HS256", secret))


def _is_public(secret: bytes) -> bool:
    """Whether PyJWT takes a text for a key of another kind."""
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        return True
    return False


def _is_der(text: str) -> bool:
    """Whether a text is a key or a certificate in DER, in base64: one sequence that begins with another value."""
    if not _BASE64.fullmatch(text):
        return False
    try:
        raw = base64.b64decode(text.translate(_STANDARD) + "==")  # more padding than is needed does no harm
    except binascii.Error:
        return False
    if len(raw) < 4 or raw[:1] != _SEQUENCE:
        return False
    size = raw[1] & 0x7F if raw[1] > 0x80 else 0
    length = int.from_bytes(raw[2 : 2 + size], "big") if size else raw[1]
    return length == len(raw) - 2 - size and raw[2 + size] in (0x30, 0x02)


_STANDARD = str.maketrans("-_", "+/")
