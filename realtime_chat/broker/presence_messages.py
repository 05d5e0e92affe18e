"""What nodes write and publish about presence.

A row of a room's hash is the JSON array ``[client's hash, user's id, name, guest, state, changed]``; its field is
``NODE:CLIENT_HASH``.

On a room's channel a node publishes a *delta*: ``pID VERSION NODE``, a line break, and the JSON array ``[rows,
hashes]``. The rows are those of clients that came or changed, the hashes those of clients that went. ID and VERSION are
those of the room's hash. Where there is no hash, VERSION is 0, and ID is one of these:

* ``-``: a change;
* ``=``: all clients that are in the room through the node;
* ``?``: the same, and a question: all other nodes answer with ``=``.

On the channel of all nodes a node publishes one of these JSON arrays:

* ``["bye", NODE, SECONDS]``: the node stops; its clients are held for some seconds.
* ``["gone", NODE]``: that node has died.
* ``["said", NODE, CLIENT_HASH, STATE, ROOM, CLIENT, ORDER]``: a client has sent a command to the node. STATE, ROOM and
  CLIENT may be null. CLIENT is the client as it is sealed now, if its user has renewed it. ORDER is two numbers: of two
  renewals of one client, that of the higher order counts.
* ``["missed", NODE]``: the node has subscribed, perhaps again. All nodes say again what clients they have renewed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from realtime_chat.values.model import ForwardedCommand, RemoteClient, User

ALL, QUESTION = b"=", b"?"
"""What stands for the id of a hash where there is none; see above."""

_HEAD = re.compile(rb"p([0-9a-f]{1,32}|[-=?]) ([0-9]{1,16}) ([0-9a-f]{1,32})")
_FIELD = re.compile(rb"([0-9a-f]{1,32}):([0-9a-f]{1,32})")
_NULL = b"null"


class _Row(msgspec.Struct, array_like=True, frozen=True):
    """See :class:`~realtime_chat.values.model.RemoteClient`."""

    client_hash: str
    id: str
    name: str
    guest: bool
    state: msgspec.Raw
    changed: int

    def client(self) -> RemoteClient:
        """The client that it describes."""
        return RemoteClient(self.client_hash, User(self.id, self.name, self.guest), bytes(self.state), self.changed)


class Bye(msgspec.Struct, array_like=True, frozen=True, tag="bye"):
    """A node stops.

    :param held: seconds for which its clients are held.
    """

    node: str
    held: float


class Gone(msgspec.Struct, array_like=True, frozen=True, tag="gone"):
    """A node has died."""

    node: str


class Missed(msgspec.Struct, array_like=True, frozen=True, tag="missed"):
    """A node may have missed something."""

    node: str


class Said(msgspec.Struct, array_like=True, frozen=True, tag="said"):
    """A client has sent a command to a node."""

    node: str
    client_hash: str
    state: msgspec.Raw
    leaves: str | None
    renewed: str | None = None
    order: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, node: str, command: ForwardedCommand) -> Said:
        """Make it from the command, and the node to which the client has sent it."""
        state = _NULL if command.state is None else command.state
        return cls(node, command.client_hash, msgspec.Raw(state), command.leaves, command.renewed, command.order)

    def command(self) -> ForwardedCommand:
        """The command."""
        state = bytes(self.state)
        state_or_none = None if state == _NULL else state
        return ForwardedCommand(self.client_hash, state_or_none, self.leaves, self.renewed, order=self.order)


class Head(NamedTuple):
    """The first line of what is published on a room's channel, and the rest."""

    id: bytes
    version: int
    node: str
    body: bytes


class Delta(NamedTuple):
    """What is published on a room's channel, decoded."""

    id: bytes
    version: int
    node: str
    came: Sequence[RemoteClient]
    gone: Sequence[str]


class Snapshot(NamedTuple):
    """What a room's hash holds, or where there is none, what the other nodes have answered.

    :param own: the rows of this node, by client hash.
    :param others: the clients of other nodes, by node.
    :param complete: whether all nodes that were asked have answered.
    """

    id: bytes
    version: int
    own: Mapping[str, bytes]
    others: Mapping[str, Sequence[RemoteClient]]
    complete: bool = True


_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(_Row).decode
_decode_body = msgspec.json.Decoder(tuple[list[_Row], list[str]]).decode
_decode_notice = msgspec.json.Decoder(Bye | Gone | Missed | Said).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError)


def encode_row(client: RemoteClient) -> bytes:
    """Encode a client's row."""
    user = client.user
    row = _Row(client.client_hash, user.id, user.name, user.guest, msgspec.Raw(client.state), client.changed)
    return _encode(row)


def encode_body(rows: Iterable[bytes], gone: Sequence[str] = ()) -> bytes:
    """Encode the rows of clients that came, and the hashes of clients that went."""
    return b"[[%b],%b]" % (b",".join(rows), _encode(gone))


def encode_all(node: str, rows: Iterable[bytes]) -> bytes:
    """Encode the answer to a question: the rows of all clients that are in a room through a node."""
    return b"p%b 0 %b\n%b" % (ALL, node.encode(), encode_body(rows))


def encode_notice(notice: Bye | Gone | Missed | Said) -> bytes:
    """Encode what is published on the channel of all nodes."""
    return _encode(notice)


def decode_head(payload: bytes) -> Head | None:
    """Decode the first line of what was published on a room's channel; None if it is malformed."""
    head, _, body = payload.partition(b"\n")
    match = _HEAD.fullmatch(head)
    return None if match is None else Head(match[1], int(match[2]), match[3].decode(), body)


def decode_delta(head: Head) -> Delta | None:
    """Decode the rest of it; None if it is malformed."""
    try:
        came, gone = _decode_body(head.body)
    except _MALFORMED:
        return None
    return Delta(head.id, head.version, head.node, [row.client() for row in came], gone)


def decode_notice(payload: bytes) -> Bye | Gone | Missed | Said | None:
    """Decode what was published on the channel of all nodes; None if it is malformed."""
    try:
        notice: Bye | Gone | Missed | Said = _decode_notice(payload)
    except _MALFORMED:
        return None
    return notice


def decode_snapshot(node: str, fields: Sequence[bytes]) -> Snapshot:
    """Decode a room's hash. What isn't a row is skipped.

    :param node: this node.
    :param fields: fields and values in turn.
    """
    own: dict[str, bytes] = {}
    others: dict[str, list[RemoteClient]] = {}
    head = {b"id": b"", b"v": b"0"}
    for field, value in zip(fields[::2], fields[1::2], strict=True):
        match = _FIELD.fullmatch(field)
        if match is None:
            head[field] = value
        elif match[1].decode() == node:
            own[match[2].decode()] = value
        else:
            others.setdefault(match[1].decode(), []).extend(_clients_of(value))
    return Snapshot(head[b"id"], int(head[b"v"]), own, others)


def _clients_of(value: bytes) -> list[RemoteClient]:
    try:
        return [_decode_row(value).client()]
    except _MALFORMED:
        return []
