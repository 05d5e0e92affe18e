"""Public keys from a PEM file or a JWKS file. This needs the package ``cryptography``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from realtime_chat.text_files import FileRefused
from realtime_chat.tokens.token_key import TokenKey, fingerprint_of

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----")
_BEGIN = re.compile(r"-----BEGIN")
_MIN_RSA = 2048
_KINDS = "right would be a key for RS256 (RSA), ES256 (P-256) or EdDSA (Ed25519)"
_FAMILIES = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""The algorithms by JWK's ``kty``."""


class _Unusable(ValueError):
    """A key can't be used; the message says what would be right."""


def read_pem(path: str, text: str) -> Iterator[TokenKey]:
    """The public keys of a PEM file.

    :raises FileRefused: the file holds something else, such as a private key.
    """
    blocks = {match.start(): match for match in _BLOCK.finditer(text)}
    for begin in _BEGIN.finditer(text):
        line = text.count("\n", 0, begin.start()) + 1
        block = blocks.get(begin.start())
        try:
            if block is None:
                raise _Unusable("this block has no end; right would be a whole PEM file")
            yield _read_block(block[1], block[0])
        except _Unusable as error:
            raise FileRefused(path, line, str(error)) from None


_OTHER_LABELS = (
    (
        "PRIVATE",
        "this is a private key, which belongs to whoever makes tokens; right would be the public key alone, as "
        "openssl pkey -in FILE -pubout prints it",
    ),
    (
        "CERTIFICATE",
        "this is a certificate; right would be its public key, as openssl x509 -in FILE -noout -pubkey prints it",
    ),
)


def _read_block(label: str, block: str) -> TokenKey:
    for other, what in _OTHER_LABELS:
        if other in label:
            raise _Unusable(what)
    try:
        key = load_pem_public_key(block.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _Unusable(f"this is no public key; {_KINDS}, in PEM") from None
    return _pinned(key, None)


def _pinned(key: object, kid: str | None) -> TokenKey:
    """A key with the one algorithm that it is used for."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < _MIN_RSA:
            raise _Unusable(f"this RSA key has {key.key_size} bits; right would be {_MIN_RSA} or more")
        algorithm = "RS256"
    elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        algorithm = "ES256"
    elif isinstance(key, Ed25519PublicKey):
        algorithm = "EdDSA"
    else:
        raise _Unusable(f"keys of this kind aren't used here; {_KINDS}")
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TokenKey(algorithm, key, fingerprint_of(algorithm, encoded), kid)


def read_jwks(path: str, text: str) -> Iterator[TokenKey]:
    """The public keys of a JWKS file (RFC 7517), but for those that encrypt.

    :raises FileRefused: the file holds something else, such as a private key.
    """
    for number, jwk in enumerate(_read_set(path, text), 1):
        try:
            if not isinstance(jwk, dict):
                raise _Unusable('this is no object; right would be {"kty": …}, a JWK')
            if jwk.get("use", "sig") == "sig":
                yield _read_jwk(jwk)
        except _Unusable as error:
            raise FileRefused(path, None, f"key {number}: {error}") from None


def _read_set(path: str, text: str) -> list[Any]:
    right = 'right would be {"keys": […]}, a JWKS'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileRefused(path, getattr(error, "lineno", None), f"this is no JSON; {right}") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise FileRefused(path, None, f"this is no set of keys; {right}")
    return keys


def _read_jwk(jwk: dict[str, Any]) -> TokenKey:
    family, kid = _FAMILIES.get(str(jwk.get("kty"))), jwk.get("kid")
    if family is None:
        raise _Unusable(f"keys of this kty aren't used here; {_KINDS}. A secret for HS256 is a line of text")
    if "d" in jwk:
        raise _Unusable("this is a private key; right would be the public key alone, without d")
    if not (kid is None or isinstance(kid, str)):
        raise _Unusable("its kid is no text; right would be a string")
    if jwk.get("alg", family) != family:
        raise _Unusable(f"its alg is another one; right would be {family} for this kty")
    try:
        key = jwt.get_algorithm_by_name(family).from_jwk(jwk)
    except Exception:  # PyJWT lets several kinds of errors through
        raise _Unusable(f"this can't be read as a public key; {_KINDS}, as RFC 7518 writes them") from None
    return _pinned(key, kid)
