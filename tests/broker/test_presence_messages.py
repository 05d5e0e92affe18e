"""Tests for :mod:`realtime_chat.broker.presence_messages`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.broker.presence_messages import (
    Said,
    decode_delta,
    decode_head,
    decode_notice,
    decode_snapshot,
    encode_all,
    encode_body,
    encode_notice,
    encode_row,
)
from realtime_chat.values.model import ForwardedCommand, RemoteClient, User

ANN = RemoteClient("a1", User("u1", "Ann", True), b'{"page":1}', 7)
BOB = RemoteClient("b2", User("u2", "Bob", False), b"{}", 8)


class MessagesTests(SynchronousTestCase):
    """What nodes tell each other."""

    def test_said(self) -> None:
        """A command that a client sent to another node comes as it was, with or without a state or a room."""
        for command in (ForwardedCommand("a1", b'{"page":1}'), ForwardedCommand("a1", leaves="lobby")):
            notice = decode_notice(encode_notice(Said.of("0abc", command)))
            assert isinstance(notice, Said)
            self.assertEqual(("0abc", command), (notice.node, notice.command()))

    def test_all(self) -> None:
        """An answer has all clients of a node, and nobody who went."""
        head = decode_head(encode_all("0abc", [encode_row(ANN), encode_row(BOB)]))
        assert head is not None
        delta = decode_delta(head)
        assert delta is not None
        self.assertEqual(("0abc", [ANN, BOB], []), (delta.node, delta.came, delta.gone))

    def test_gone(self) -> None:
        """A change has the hashes of those that went."""
        head = decode_head(b"p0abc 3 0def\n" + encode_body([encode_row(BOB)], ["a1"]))
        assert head is not None
        delta = decode_delta(head)
        assert delta is not None
        self.assertEqual((3, "0def", [BOB], ["a1"]), (delta.version, delta.node, delta.came, delta.gone))

    def test_snapshot(self) -> None:
        """A room's hash has its version, this node's rows, and each other node's clients; what is no row is skipped."""
        rows = (encode_row(ANN), encode_row(BOB))
        fields = [b"id", b"0abc", b"v", b"12", b"01:a1", rows[0], b"02:a1", rows[0], b"02:b2", rows[1], b"02:c3", b"no"]
        snapshot = decode_snapshot("01", fields)
        self.assertEqual((b"0abc", 12, {"a1": rows[0]}), (snapshot.id, snapshot.version, snapshot.own))
        self.assertEqual({"02": [ANN, BOB]}, snapshot.others)
