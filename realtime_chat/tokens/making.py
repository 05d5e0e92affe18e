"""Makes keys and tokens, for trying things out. A site makes its tokens itself, with its own library for JWT."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from realtime_chat.tokens.keys import TokenKeys, secret_key

_RANDOM = 32


def make_secret(random_bytes: Callable[[int], bytes]) -> str:
    """A secret for HS256: 256 random bits as text that can stand in any file or environment.

    :param random_bytes: so many random bytes.
    """
    while True:
        secret = base64.urlsafe_b64encode(random_bytes(_RANDOM)).rstrip(b"=").decode()
        try:
            secret_key(secret)
        except ValueError:  # it looks like a key of another kind
            continue
        return secret


def make_token(keys: TokenKeys, claims: Mapping[str, Any]) -> str:
    """A token, signed with the first secret.

    :raises ValueError: there is no secret among the keys.
    """
    secrets = [key for key in keys.keys if key.algorithm == "HS256"]
    if not secrets:
        raise ValueError("there are public keys alone, and whoever has their private keys makes tokens")
    return jwt.encode(dict(claims), secrets[0].material, algorithm="HS256")
