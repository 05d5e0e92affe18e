"""One key that verifies tokens. It is pinned to one algorithm, whatever a token says."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import attrs
import jwt


@attrs.frozen
class TokenKey:
    """A key, as :mod:`jwt` takes it for the key's algorithm.

    :ivar algorithm: ``HS256``, ``RS256``, ``ES256`` or ``EdDSA``.
    :ivar fingerprint: 8 hexadecimal digits of a hash; the same for the same key.
    :ivar kid: the id that the key's file gives it; None if it gives none.
    """

    algorithm: str
    material: Any = attrs.field(repr=False, eq=False)
    fingerprint: str
    kid: str | None = None

    def verify(self, signed: bytes, signature: bytes) -> bool:
        """Whether a signature is this key's. It is compared in constant time."""
        return jwt.get_algorithm_by_name(self.algorithm).verify(signed, self.material, signature)


def fingerprint_of(algorithm: str, encoded: bytes) -> str:
    """The fingerprint of a key.

    :param encoded: the text of a secret, or a public key in DER.
    """
    return blake2b(algorithm.encode() + b"\0" + encoded, digest_size=4, person=b"token key").hexdigest()
