"""Who a client is.

A client is a secret that the server issues. Nothing is stored for it: the server recognises what it issued by a MAC.
There are two forms.

* A *classic* client is 18 random bytes and 6 bytes of MAC, as 32 characters. It is a guest's that gave no name.
* A *sealed* client says who its user is: the name of a guest, or what a token said. It is the bytes of :class:`_Seal`
  between a byte for its kind and 16 bytes of MAC, in base64url without padding. A *reader* is of the other kind: with
  it nobody can write, so it may stand in addresses.

Both have a *client hash*, which is the same on every node and survives renewal and renaming. A guest's user id is a
keyed hash of its first client. Nobody can find the client from either.
"""

from __future__ import annotations

import base64
import hmac
from binascii import a2b_base64
from collections.abc import Callable, Container
from hashlib import blake2b
from operator import attrgetter
from string import ascii_letters, digits
from weakref import KeyedRef

import msgspec
from msgspec.structs import replace

from realtime_chat.values.access import NO_GRANTS, Claims, Grants
from realtime_chat.values.bounded import MOST_RENEWALS, MOST_RENEWALS_OF_USER, BoundedByUser
from realtime_chat.values.errors import RealtimeError, token_expired
from realtime_chat.values.model import ANONYMOUS, User, check_name, is_guest_id

_RANDOM = 18
_HASH_BYTES = 8
_MAC = 6
_AT_ONCE = 64
_CLASSIC_LENGTH = (_RANDOM + _MAC) * 4 // 3
_MAX_SEALED = 2048
_SEAL_MAC = 16
_RANDOM_BITS = 22
_SEALED, _READER = b"\x01", b"\x02"
"""The first byte of a sealed client, and of a reader."""

_PERSONS = {_SEALED: b"sealed", _READER: b"reader"}
"""What the MAC of each is personalised with."""

_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_LAST = (ascii_letters + digits + "-_", "", "AQgw", "AEIMQUYcgkosw048")
"""What the last character of a base64url text is, whose unused bits are zeros, by the length modulo 4."""

_PADDING = (b"", b"", b"==", b"=")


class Identity(msgspec.Struct, frozen=True, weakref=True, eq=False):
    """A client that was verified, and its user. Times are milliseconds since 1970.

    :ivar client: the text that the client sends; empty for the anonymous user.
    :ivar client_hash: names the client between nodes and in presence: 16 hexadecimal digits.
    :ivar is_named: whether a client or a token gave the user's name; else it was made up.
    :ivar info: what the token's site vouches for besides, as a compact JSON object.
    :ivar expires: when the client's time is over; None for a guest, whose time is never over.
    :ivar issued: when its token was issued. Of two identities of one client, the one issued later counts.
    :ivar admitted: when its token was admitted, and random bits. It orders identities that were issued at one time.
    :ivar key: the fingerprint of the key that verified the token; None for a guest.
    :ivar is_reader: whether it may only read.
    """

    client: str
    client_hash: str
    user: User
    is_named: bool = False
    info: bytes | None = None
    grants: Grants = NO_GRANTS
    expires: int | None = None
    issued: int = 0
    key: str | None = None
    is_reader: bool = False
    admitted: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Of two identities of one client, that of the higher order counts, on every node."""
        return self.issued, self.admitted


NOBODY = Identity("", "", ANONYMOUS)
"""The sender of a plain HTTP request without a client or a token."""


class _Seal(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed in a client; see :class:`Identity`. It has the random part and not the client hash's digits.

    The access log knows clients by the number of these fields, as they begin with it.
    """

    client_hash: bytes
    id: str
    name: str
    info: bytes | None
    rooms: tuple[tuple[str, int], ...]
    expires: int | None
    order: tuple[int, int]
    key: str | None


_encode_seal = msgspec.msgpack.Encoder().encode
_decode_seal = msgspec.msgpack.Decoder(_Seal).decode


class Identities:
    """Issues clients, verifies them, and derives their users.

    What was verified is remembered for as long as somebody holds it.

    :param secret: gives the key that all nodes share. It is called at each use, as a store has the key only
        once it is started.
    :param random_bytes: gives as many random bytes as it is asked for.
    :param time: seconds since 1970.
    :param token_keys: gives the fingerprints of the keys that verify tokens now.
    """

    def __init__(
        self,
        secret: Callable[[], bytes],
        random_bytes: Callable[[int], bytes],
        time: Callable[[], float] = lambda: 0.0,
        token_keys: Callable[[], Container[str]] = frozenset,
    ) -> None:
        self._secret = secret
        self._random_bytes = random_bytes
        self._time = time
        self._token_keys = token_keys
        self._spare = b""
        self._last_seal = "", b""  # a sealed client, and what it seals, as its reader is wanted next
        self._renewed: BoundedByUser[Identity] = BoundedByUser(MOST_RENEWALS, MOST_RENEWALS_OF_USER)  # by client hash
        self._known: dict[object, KeyedRef[object, Identity]] = {}
        self._on_gone = self._forget  # one for all, as each reference would keep one of its own otherwise

    @property
    def has_keys(self) -> bool:
        """Whether there are keys that verify tokens now."""
        return bool(self._token_keys())

    # Clients that are issued

    def _draw(self) -> bytes:
        if len(self._spare) < _RANDOM:  # the kernel is asked for many at once
            self._spare = self._random_bytes(_RANDOM * _AT_ONCE)
        random, self._spare = self._spare[:_RANDOM], self._spare[_RANDOM:]
        return random

    def issue(self) -> str:
        """A new classic client: 144 random bits and their MAC, as 32 URL-safe characters."""
        random = self._draw()
        return base64.urlsafe_b64encode(random + self._mac(random)).decode()

    def new_guest(self, name: str | None = None) -> Identity:
        """A guest with a new client, which is sealed if the guest gives a name.

        :raises RealtimeError: ``bad_request``: the name can't be one.
        """
        if not name:
            return self._guest(self.issue(), None)
        random = self._draw()
        user = User(_guest_id(random[_HASH_BYTES:]), check_name(name))
        return self._sealed(Identity("", random[:_HASH_BYTES].hex(), user, True))

    def rename(self, guest: Identity, name: str) -> Identity:
        """A guest under another name, in a sealed client with the same client hash.

        :raises RealtimeError: ``bad_request``: the name can't be one.
        """
        user = User(guest.user.id, check_name(name))
        return self._sealed(replace(guest, user=user, is_named=True))

    def admit(self, claims: Claims, before: Identity | None = None) -> Identity:
        """The user of a token, with a new client.

        :param before: the user's client before, whose hash it keeps; None for one that is drawn.
        :raises RealtimeError: ``unauthorized``: the user would be a guest; ``too_large``: the claims fit no client.
        """
        if is_guest_id(claims.sub):
            raise RealtimeError("unauthorized", "sub: this is the id of a guest; give the site's users other ids")
        identity = Identity(
            "",
            self._random_bytes(_HASH_BYTES).hex() if before is None else before.client_hash,
            User(claims.sub, claims.name or claims.sub, False),
            True,
            claims.info,
            claims.rooms,
            claims.expires,
            int(self._time() * 1000) if claims.issued is None else claims.issued,
            claims.key,
            admitted=self._admitted(before),
        )
        return self._sealed(identity)

    def _admitted(self, before: Identity | None) -> int:
        """The time with random bits, for what is admitted now. It is later than that of the client before."""
        earliest = 0 if before is None else (before.admitted >> _RANDOM_BITS) + 1
        random = int.from_bytes(self._random_bytes(4)) % (1 << _RANDOM_BITS)
        return (max(int(self._time() * 1000), earliest) << _RANDOM_BITS) + random

    def reader_of(self, identity: Identity) -> Identity:
        """The reader of a client: with the same client hash, for addresses."""
        return replace(identity, client=self.reader_client(identity), is_reader=True)

    def reader_client(self, identity: Identity) -> str:
        """What the reader of a client sends: the same seal, of the other kind."""
        if identity.is_reader:
            return identity.client
        client, seal = self._last_seal
        if client is not identity.client:
            seal = _decode_base64(identity.client)[1:-_SEAL_MAC]
        return self._with_mac(_READER, seal)

    # Clients that come back

    def find(self, client: str, name: str | None = None, may_be_over: bool = False) -> Identity | None:
        """Verify a client.

        :param name: the name that a guest gives itself with it.
        :param may_be_over: whether to accept a user whose time is over, or whose key is gone. Only a new token lets
            that user go on.
        :returns: None for a classic client that wasn't issued here, which is replaced by a new one.
        :raises RealtimeError: ``unauthorized``: a sealed client that wasn't issued here; ``token_expired``; or
            ``bad_request``: the name can't be one.
        """
        key = client if name is None else (client, name)
        known = self._known.get(key)
        identity = None if known is None else known()
        if identity is None:
            identity = self._verify(client, name)
            if identity is None:
                return None
            self._known[key] = KeyedRef(identity, self._on_gone, key)
        return identity if may_be_over else self.look_again(identity)

    def look_again(self, identity: Identity) -> Identity:
        """What an identity is by now, after something was waited for.

        :raises RealtimeError: ``token_expired`` or ``unauthorized``: its time is over.
        """
        expires = identity.expires
        if expires is None:
            return identity
        if self._time() * 1000 >= expires or identity.key not in self._token_keys():  # as is_over(), for each poll
            raise self._why_over(identity)
        return self._latest(identity) if identity.client_hash in self._renewed.keys else identity

    def renew(self, identity: Identity) -> None:
        """A user's client was renewed. Who comes with the client from before is that identity, too.

        So rights that are lost are over for a request that was under way meanwhile, or was sent to another node. Only
        the latest renewals are remembered.
        """
        self._renewed.put(identity.client_hash, identity.user.id, self.later(identity))

    def later(self, identity: Identity, before: Identity | None = None) -> Identity:
        """Of an identity, that from before and the last renewal of the client, the one that counts."""
        known = (identity, before, self._renewed.get(identity.client_hash))
        return max((one for one in known if one is not None), key=_order)

    def _latest(self, identity: Identity) -> Identity:
        """The identity that a client has after its last renewal.

        :raises RealtimeError: ``token_expired`` or ``unauthorized``: the time of that is over.
        """
        renewed = self._renewed.get(identity.client_hash)
        if renewed is None or renewed.order <= identity.order:
            return identity
        self.check_time(renewed)
        return self.reader_of(renewed) if identity.is_reader else renewed

    def remember(self, identity: Identity) -> Identity:
        """Give back an identity whose client was issued just now, and is expected back soon."""
        self._known[identity.client] = KeyedRef(identity, self._on_gone, identity.client)
        return identity

    def _forget(self, known: KeyedRef[object, Identity]) -> None:
        if self._known.get(known.key) is known:
            del self._known[known.key]

    def check(self, client: str, name: str | None = None) -> Identity:
        """Verify a client, as :meth:`find` does.

        :raises RealtimeError: ``unauthorized`` for a classic client, too.
        """
        identity = self.find(client, name)
        if identity is None:
            raise unknown_client()
        return identity

    def is_over(self, identity: Identity) -> bool:
        """Whether the time of a user is over, or the key of its token is gone."""
        expires = identity.expires
        return expires is not None and (self._time() * 1000 >= expires or identity.key not in self._token_keys())

    def check_time(self, identity: Identity) -> None:
        """Check that the time of a user isn't over.

        :raises RealtimeError: ``token_expired``, or ``unauthorized``: the key of its token is gone.
        """
        if self.is_over(identity):
            raise self._why_over(identity)

    def _why_over(self, identity: Identity) -> RealtimeError:
        if identity.key not in self._token_keys():
            return RealtimeError("unauthorized", "the key of this client's token is no longer in use; send a new token")
        return token_expired()

    def _verify(self, client: str, name: str | None) -> Identity | None:
        if len(client) <= _CLASSIC_LENGTH:
            return self._guest(client, name) if self._is_classic(client) else None
        identity = self._open(client)
        if name is None or not identity.user.guest or identity.user.name == name:
            return identity
        return replace(identity, user=User(identity.user.id, check_name(name)))

    # Classic clients

    def _is_classic(self, client: str) -> bool:
        """Whether a classic client was issued with our key."""
        raw = _decode_base64(client) if len(client) == _CLASSIC_LENGTH else b""
        return hmac.compare_digest(raw[_RANDOM:], self._mac(raw[:_RANDOM]))

    def _guest(self, client: str, name: str | None) -> Identity:
        text, key = client.encode(), self._secret()[:64]
        id = _guest_id(blake2b(text, digest_size=_RANDOM - _HASH_BYTES, key=key, person=b"user").digest())
        client_hash = blake2b(text, digest_size=_HASH_BYTES, key=key, person=b"mark").hexdigest()
        return Identity(client, client_hash, User(id, check_name(name) if name else f"Guest {id[2:6]}"), bool(name))

    # Sealed clients

    def _sealed(self, identity: Identity) -> Identity:
        """An identity with a client that seals it.

        :raises RealtimeError: ``too_large``.
        """
        user = identity.user
        seal = _Seal(
            bytes.fromhex(identity.client_hash),
            user.id,
            user.name,
            identity.info,
            identity.grants.rules,
            identity.expires,
            identity.order,
            identity.key,
        )
        encoded = _encode_seal(seal)
        client = self._with_mac(_READER if identity.is_reader else _SEALED, encoded)
        if len(client) > _MAX_SEALED:
            raise RealtimeError(
                "too_large",
                f"the client of this token would have {len(client)} bytes, and {_MAX_SEALED} are the most; "
                "give the token fewer patterns in rooms, or a smaller info",
            )
        self._last_seal = client, encoded
        return replace(identity, client=client)

    def _with_mac(self, kind: bytes, seal: bytes) -> str:
        """The text of a sealed client, or of a reader."""
        raw = kind + seal
        mac = self.keyed_hash(_PERSONS[kind], raw, _SEAL_MAC).digest()
        return base64.urlsafe_b64encode(raw + mac).rstrip(b"=").decode()

    def _open(self, client: str) -> Identity:
        """Verify a sealed client.

        :raises RealtimeError: ``unauthorized``.
        """
        raw = _decode_base64(client) if len(client) <= _MAX_SEALED else b""
        kind, sealed, mac = raw[:1], raw[:-_SEAL_MAC], raw[-_SEAL_MAC:]
        person = _PERSONS.get(kind)
        if person is None or not hmac.compare_digest(mac, self.keyed_hash(person, sealed, _SEAL_MAC).digest()):
            raise RealtimeError(
                "unauthorized", "this client was not issued here, or was changed; get a new one by hello"
            )
        encoded = sealed[1:]
        seal = _decode_seal(encoded)
        issued, admitted = seal.order
        self._last_seal = client, encoded
        return Identity(
            client,
            seal.client_hash.hex(),
            User(seal.id, seal.name, seal.expires is None),
            True,
            seal.info,
            Grants(seal.rooms),
            seal.expires,
            issued,
            seal.key,
            kind == _READER,
            admitted,
        )

    def keyed_hash(self, person: bytes, data: bytes, size: int) -> blake2b:
        """A hash under the secret that all nodes share.

        :param person: what it is for.
        :param size: its bytes.
        """
        return blake2b(data, digest_size=size, key=self._secret()[:64], person=person)

    def _mac(self, random: bytes) -> bytes:
        return self.keyed_hash(b"client", random, _MAC).digest()


_order = attrgetter("order")


def _guest_id(digest: bytes) -> str:
    """The id that is shown of a guest.

    :param digest: ten bytes, random or from a hash.
    """
    return "~u" + base64.b32encode(digest).decode().lower()


def unknown_client() -> RealtimeError:
    """The error for a classic client that wasn't issued here."""
    return RealtimeError("unauthorized", "this client was not issued here; leave it out to get a new one")


def _decode_base64(text: str) -> bytes:
    """Decode base64url without padding; empty if the text isn't the one spelling of its bytes."""
    rest = len(text) % 4
    if text[-1] not in _LAST[rest]:
        return b""
    try:
        return a2b_base64(text.encode().translate(_STANDARD) + _PADDING[rest], strict_mode=True)
    except ValueError:
        return b""
