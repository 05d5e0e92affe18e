"""Who a client is.

A client is a secret that the server issues: random bits and a MAC over them, so that nobody can make up a weak one. A
guest's user id is a keyed hash of the client. So it is the same on every node and after a restart, and nobody can find
the client from it. Nothing is stored for either.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable
from hashlib import blake2b

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import User, check_name

_RANDOM = 18
_MAC = 6
_AT_ONCE = 64
_CLIENT = re.compile(f"[A-Za-z0-9_-]{{{(_RANDOM + _MAC) * 4 // 3}}}")
"""All bits of the characters are used, so that each client has one spelling."""


class Identities:
    """Issues clients, verifies them, and derives their users.

    :param secret: gives the key that all nodes share. It is called at each use, as a store has the key only
        once it is started.
    :param random_bytes: gives as many random bytes as it is asked for.
    """

    def __init__(self, secret: Callable[[], bytes], random_bytes: Callable[[int], bytes]) -> None:
        self._secret = secret
        self._random_bytes = random_bytes
        self._spare = b""

    def issue(self) -> str:
        """A new client: 144 random bits and their MAC, as 32 URL-safe characters."""
        if len(self._spare) < _RANDOM:  # the kernel is asked for many at once
            self._spare = self._random_bytes(_RANDOM * _AT_ONCE)
        random, self._spare = self._spare[:_RANDOM], self._spare[_RANDOM:]
        return base64.urlsafe_b64encode(random + self._mac(random)).decode()

    def verify(self, client: str) -> bool:
        """Whether ``client`` was issued with our key."""
        if not _CLIENT.fullmatch(client):  # b64decode takes other spellings of the same bits, too
            return False
        raw = base64.urlsafe_b64decode(client)
        return hmac.compare_digest(raw[_RANDOM:], self._mac(raw[:_RANDOM]))

    def check(self, client: str) -> str:
        """Give back a client that :meth:`verify` accepts.

        :raises RealtimeError: ``unauthorized``: it was not issued here.
        """
        if not self.verify(client):
            raise RealtimeError("unauthorized", "this client was not issued here; leave it out to get a new one")
        return client

    def guest(self, client: str, name: str | None = None) -> User:
        """The user behind a client.

        :raises RealtimeError: ``bad_request``: the name can't be one.
        """
        digest = blake2b(client.encode(), digest_size=10, key=self._secret()[:64], person=b"user").digest()
        id = "u" + base64.b32encode(digest).decode().lower()
        return User(id, check_name(name) if name else f"Guest {id[1:5]}")

    def client_hash(self, client: str) -> str:
        """The hash that names a client between nodes: 16 hexadecimal characters, the same on every node.

        Nobody can find the client from it.
        """
        return blake2b(client.encode(), digest_size=8, key=self._secret()[:64], person=b"mark").hexdigest()

    def _mac(self, random: bytes) -> bytes:
        return blake2b(random, digest_size=_MAC, key=self._secret()[:64], person=b"client").digest()
