"""The versions that polls carry: which members a poll's client has been sent.

A version is ``NODE.NUMBER``, then ``.DIGEST`` where there are other nodes, and then ``.SIGNALS`` if the client had
signals in the last seconds.

* NODE and NUMBER are the node that answered and the members' version there.
* DIGEST is a hash of the members at that version, by which other nodes understand it.
* SIGNALS are for each signal a hash and the seconds since 1970, in eight hexadecimal digits each; see
  :class:`~realtime_chat.presence.signals.SignalDelivery`.

If a poll came with a digest that this node didn't know, and was answered before it did, NODE is ``0``. Then NUMBER says
since when the digest is unknown, in milliseconds since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from realtime_chat.core.node import Node
from realtime_chat.core.room import Subscription
from realtime_chat.presence.leases import UNKNOWN, UNSEEING, Lease
from realtime_chat.presence.membership import DIGEST_OF_EMPTY, AwaitingDigest, Membership
from realtime_chat.presence.membership_table import MembershipTable
from realtime_chat.presence.remote_members import RemoteMembers
from realtime_chat.presence.signals import MOST_HASHES, SignalDelivery

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_VERSION = re.compile(
    rf"([0-9a-f]{{1,16}})\.({_NUMBER.pattern})(?:\.([0-9a-f]{{16}})?(?:\.((?:[0-9a-f]{{16}}){{1,{MOST_HASHES}}}))?)?(?<!\.)"
)
_SIGNAL = re.compile("([0-9a-f]{8})([0-9a-f]{8})")
_NO_NODE = "0"


class PollVersion(NamedTuple):
    """A version, taken apart. See the module."""

    node: str
    number: int
    digest: str | None
    signals: Mapping[str, int] = MappingProxyType({})

    @classmethod
    def parse(cls, text: str) -> PollVersion | None:
        """Read a version; None if it isn't one."""
        match = _VERSION.fullmatch(text)
        if match is None:
            return None
        signals = {known: int(at, 16) for known, at in _SIGNAL.findall(match[4] or "")}
        return cls(match[1], int(match[2]), match[3], signals)

    def __str__(self) -> str:
        text = f"{self.node}.{self.number}"
        if self.signals:
            signals = "".join(f"{known}{at:08x}" for known, at in self.signals.items())
            return f"{text}.{self.digest or ''}.{signals}"
        return text if self.digest is None else f"{text}.{self.digest}"


class PollVersions:
    """Finds out what a poll's client was sent before, and says what it is sent now.

    :param node: its versions begin with its name.
    :param shared: whether there may be other nodes.
    """

    def __init__(
        self, node: Node, table: MembershipTable, remote: RemoteMembers, signals: SignalDelivery, shared: bool
    ) -> None:
        self._table = table
        self._remote = remote
        self._signals = signals
        self._node = node.name
        self._shared = shared
        self._hearing_ms = 2000 * node.limits.presence_interval  # in which nodes hear of each other's changes
        self._time_ms = node.time_ms
        table.on_awaiting_digest = self._look_at_awaiting

    # What a poll says

    def was_here(self, version: str | None) -> bool:
        """Whether this node answered a client's last poll."""
        return not self._shared or (version is not None and version.partition(".")[0] == self._node)

    def read(self, reader: Subscription, lease: Lease | None, text: str | None, fresh: bool) -> int:
        """The members' version, as this node counts, that a poll's client was sent.

        :param text: the version that the poll carries; None if its client doesn't keep one.
        :param fresh: whether the client knows nothing of the room yet.
        :returns: UNKNOWN if the client has to be sent a full list.
        """
        if text is None:
            return self._read_kept(reader, lease, fresh)
        version = PollVersion.parse(text)
        if version is None:
            return UNKNOWN
        if version.signals and self._shared:
            self._signals.has_had(reader, version.signals)
        if version.node == self._node:
            return self._read_own(reader, version)
        if not self._shared:
            return UNKNOWN
        if version.digest is None:
            return UNKNOWN
        since = self._time_ms()
        if version.node == _NO_NODE:
            since = min(since, version.number)
        return self._read_digest(reader, version.digest, since)

    def _read_kept(self, reader: Subscription, lease: Lease | None, fresh: bool) -> int:
        """The version that this node has kept for a client.

        If the client is with another node as well, that node may have answered it since. A full list would answer each
        of its polls at once, over and over. So it counts as current.
        """
        if lease is None:
            return reader.room.members_version_sent
        if fresh:
            return UNKNOWN
        kept = lease.members_version_sent
        if kept == UNKNOWN and self._remote.is_in(reader.room.name, lease.client.client_hash):
            return self._table.by_room[reader.room.name].version
        return kept

    def _read_own(self, reader: Subscription, version: PollVersion) -> int:
        room = reader.room
        membership = self._table.by_room.get(room.name)
        newest = room.members_version_sent if membership is None else membership.version
        sent = version.number if version.number <= newest else UNKNOWN
        if sent < room.members_version_sent and membership is not None and version.digest is not None:
            sent = max(sent, membership.version_of(version.digest))
        return sent

    def _read_digest(self, reader: Subscription, digest: str, since: int) -> int:
        """Find the version that has another node's digest. If there is none yet, the poll waits for it as if it were
        current, as one of the nodes may not have heard yet what the other one knows.

        :param since: when the client got the digest, in milliseconds since 1970.
        """
        membership = self._table.by_room.get(reader.room.name)
        if membership is None:
            return reader.room.members_version_sent if digest == DIGEST_OF_EMPTY else UNKNOWN
        version = membership.version_of(digest)
        if version != UNKNOWN or self._have_all_heard(since):
            return version
        self._await_digest(membership, reader, since, digest)
        return reader.room.members_version_sent

    # Readers that wait for this node to know the members of a digest

    def _await_digest(self, membership: Membership, reader: Subscription, since: int, digest: str) -> None:
        if membership.awaiting_digest is None:
            membership.awaiting_digest = {}
        membership.awaiting_digest[reader] = since, digest
        self._table.schedule(membership)

    def _have_all_heard(self, since: int) -> bool:
        """Whether all nodes have heard by now what one of them knew at a moment."""
        return self._time_ms() >= since + self._hearing_ms

    def _look_at_awaiting(self, membership: Membership, awaiting: AwaitingDigest) -> None:
        for reader, (since, digest) in awaiting.items():
            version = membership.version_of(digest)
            if version != UNKNOWN:
                reader.members_version_sent = version
            elif not self._have_all_heard(since):
                self._await_digest(membership, reader, since, digest)
            elif reader.live:
                self._table.send_list(reader)
                reader.subscriber.pump()
            else:
                reader.members_version_sent = UNKNOWN

    # What a poll is told

    def text_for(self, reader: Subscription, lease: Lease | None) -> str:
        """The version of a poll's answer.

        :param lease: keeps the version for a client that doesn't keep it itself; None for one that does.
        :returns: empty if the client may not see who is in the room.
        """
        room = reader.room
        sent = reader.members_version_sent
        if sent == UNSEEING:
            return ""
        if reader.live:
            sent = max(sent, room.members_version_sent)
        if lease is not None:
            lease.members_version_sent = sent
        if not self._shared:
            return f"{self._node}.{max(sent, 0)}"
        membership = self._table.by_room.get(room.name)
        node, number, digest = self._node, max(sent, 0), None
        if membership is None:
            digest = DIGEST_OF_EMPTY
        elif membership.awaiting_digest and reader in membership.awaiting_digest:
            node = _NO_NODE
            number, digest = membership.awaiting_digest[reader]
        else:
            digest = membership.digest_at(sent)
        return str(PollVersion(node, number, digest, self._signals.had_by(reader)))
