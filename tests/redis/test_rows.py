"""Messages as they stand in Redis."""

from __future__ import annotations

import itertools

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.redis.rows import DAMAGED, MessageRow, encode_row, read_announcement, read_messages, read_rows

ROW = b'[1700000000000,"message","u7","Bob",null,{"a": [1.50]}]'


class RowsTests(SynchronousTestCase):
    """Rows and announcements."""

    def test_row(self) -> None:
        """A row's data stays as it was sent, byte for byte."""
        (row,) = read_rows([ROW])
        self.assertEqual((row.at, row.event, row.sender_id, row.key), (1700000000000, "message", "u7", None))
        self.assertEqual(bytes(row.data), b'{"a": [1.50]}')

    def test_damaged(self) -> None:
        """What is no row keeps its place, and takes none of the others with it."""
        self.assertEqual([DAMAGED, read_rows([ROW])[0], DAMAGED, DAMAGED], read_rows([b"[1", ROW, b"", b"[1,2]"]))
        for row in (b"1],[2", ROW + b"," + ROW, ROW.replace(b"1.50", b'"\xff"')):
            self.assertEqual(read_rows([row]), [DAMAGED])

    def test_messages(self) -> None:
        """Rows that follow each other are messages from the first offset on, also where one is damaged."""
        messages = read_messages("lobby", "k3x9", itertools.count(41), [ROW, b"", ROW])
        told = [(str(message.position), message.event) for message in messages]
        self.assertEqual([("k3x9:41", "message"), ("k3x9:42", "$damaged"), ("k3x9:43", "message")], told)

    def test_line_breaks(self) -> None:
        """A row is one line, whatever white space its data has."""
        row = MessageRow(1, "a\n", "u7", "Bob", "k", msgspec.Raw(b'{"a":\n[1]}'))
        self.assertEqual(encode_row(row), b'[1,"a\\n","u7","Bob","k",{"a": [1]}]')

    def test_announcement(self) -> None:
        """An announcement says where its rows belong."""
        announced = read_announcement(b"mk3x9:41 2\n" + ROW + b"\n" + ROW)
        self.assertEqual((announced.epoch, announced.first, announced.count), ("k3x9", 41, 2))
        self.assertEqual(len(read_rows(announced.rows.split(b"\n"))), 2)

    def test_no_announcement(self) -> None:
        """Whatever else was published is a ValueError."""
        for payload in (b"", b"m", b"x", b"mk3x9:1\n", b"mk3x9 1 1\n", b"mk3x9:a 1\n", b"sk3x9:1 1\n", b"m\xff:1 1\n"):
            with self.assertRaises(ValueError):
                read_announcement(payload)
