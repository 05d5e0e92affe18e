"""Tokens and keys for tests, right ones and wrong ones."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SECRET = "a secret of this test that has more than 32 bytes"
OTHER_SECRET = "another secret of this test, with more than 32 bytes"
NOW = 1_800_000_000
"""Seconds since 1970."""


@cache
def private_key(algorithm: str) -> Any:
    """A private key for an algorithm, the same each time."""
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> str:
    """The public key of a private one, in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: Any) -> str:
    """A private key in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_jwk(algorithm: str, **more: Any) -> dict[str, Any]:
    """The public key for an algorithm as a JWK."""
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(algorithm).public_key(), as_dict=True)
    return {**{name: value for name, value in jwk.items() if name != "key_ops"}, **more}


def base64url(raw: bytes) -> str:
    """Bytes in base64url, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(
    claims: dict[str, Any] | bytes | str | None = None,
    key: Any = SECRET,
    *,
    algorithm: str = "HS256",
    header: dict[str, Any] | bytes | None = None,
    now: float = NOW,
) -> str:
    """A token, signed with an algorithm, whatever its header and its payload are.

    :param claims: instead of, or besides, those that a token must have; or a payload as it stands.
    :param header: further fields of the header; or a header as it stands.
    :param now: when it is made, in seconds since 1970. It is valid for an hour.
    """
    if claims is None or isinstance(claims, dict):
        claims = json.dumps({"sub": "u7", "exp": int(now) + 3600, **(claims or {})})
    payload = claims.encode() if isinstance(claims, str) else claims
    if not isinstance(header, bytes):
        header = json.dumps({"alg": algorithm, "typ": "JWT", **(header or {})}).encode()
    signed = f"{base64url(header)}.{base64url(payload)}"
    key = key.encode() if isinstance(key, str) else key
    signature = b"" if algorithm == "none" else jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), key)
    return f"{signed}.{base64url(signature)}"
