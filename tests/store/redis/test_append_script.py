"""Appending from other programs, with the script alone."""

from __future__ import annotations

import json
import time
from typing import Any

import hiredis

from realtime_chat.store.redis.shared_logs import load_store_script
from realtime_chat.store.retention import Retention
from realtime_chat.values.model import Message
from tests.contracts import texts
from tests.redis_server import shared_server
from tests.store.redis.fixtures import RedisTestCase


class PlainTests(RedisTestCase):
    """Appending from other programs: one EVALSHA with plain arguments."""

    def setUp(self) -> None:
        super().setUp()
        self.server = shared_server(self)

    def append(self, *arguments: str | bytes, room: str = "news") -> Any:
        """What the documentation says."""
        sha = self.server.command("HGET", "realtime:0:log", "append")
        keys = ("realtime:0:log", f"realtime:0:stream:{room}", f"realtime:0:keys:{room}")
        return self.server.command("EVALSHA", sha, 3, *keys, *arguments)

    async def test_stored(self) -> None:
        """A message is stored as if a client had sent it, and answered with its position."""
        store = await self.open_store()
        answer = self.append("message", "bot", "The böt", '{ "text":\n"hi/\\"\\u00e4",\t"n": 1.50}')
        page = await store.read_after("news", 0, 9)
        self.assertEqual(answer, [b"stored", f"{page.epoch}:1".encode()])
        (message,) = page.messages
        expected = Message(
            "news", message.position, "message", b'{ "text": "hi/\\"\\u00e4", "n": 1.50}', "bot", "The böt", message.at
        )
        self.assertEqual(message, expected)
        self.assertLess(abs(message.at - time.time() * 1000), 5000)

    async def test_once(self) -> None:
        """The same message under the same key is stored once; another under it is refused."""
        store = await self.open_store()
        first = self.append("message", "bot", "Bot", '"a"', "k")
        self.assertEqual(self.append("message", "bot", "Bot", '"a"', "k"), [b"duplicate", first[1]])
        with self.assertRaisesRegex(hiredis.ReplyError, "^KEYREUSED "):
            self.append("message", "bot", "Bot", '"b"', "k")
        self.assertEqual(texts(await store.read_after("news", 0, 9)), ["a"])
        self.assertEqual((await store.read_after("news", 0, 9)).messages[0].key, "k")

    async def test_refused(self) -> None:
        """An invalid message is refused, and not stored. The error says what would be right."""
        store = await self.open_store()
        good = ("message", "bot", "Bot", "1")
        wrong: list[tuple[tuple[str | bytes, ...], str, str]] = [
            (good[:3], "news", "arguments are"),
            (("$deleted", *good[1:]), "news", "event is"),
            (("", *good[1:]), "news", "event is"),
            (("a\n", *good[1:]), "news", "event is"),
            ((b"\xff", *good[1:]), "news", "event is"),
            (("message", "", "Bot", "1"), "news", "sender's id"),
            (("message", "bot", "x" * 65, "1"), "news", "sender's id"),
            ((*good, "k\x00"), "news", "key is"),
            ((*good[:3], '"' + "x" * 65535 + '"'), "news", "65536 bytes"),
            (good, "a b", "room's name"),
            (good, "", "room's name"),
            (good, "..", "room's name"),
            (good, "x" * 129, "room's name"),
        ]
        for data in (
            *(
                "",
                "{",
                "1 2",
                "1,2",
                "1],[2",
                "NaN",
                "Infinity",
                "-Infinity",
                "0x10",
                "01",
                "+1",
                ".5",
                "1.",
                "1e",
                "nan",
            ),
            *("'a'", '{"a":}', "{a:1}", "[1,]", "truefalse", "nulll", '"\x01"', "[" * 40 + "]" * 40, "1\x002", "{} //"),
        ):
            wrong += [((*good[:3], data), "news", "one JSON value")]
        for data in (b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82"'):
            wrong += [((*good[:3], data), "news", "one JSON value")]
        for arguments, room, reason in wrong:
            with self.assertRaisesRegex(hiredis.ReplyError, f"^BADMESSAGE .*{reason}", msg=repr(arguments)):
                self.append(*arguments, room=room)
        self.assertEqual(list(await store.rooms("", 1000)), [])

    async def test_accepted(self) -> None:
        """All JSON is accepted, and not changed."""
        store = await self.open_store()
        values = [
            "null",
            "true",
            "-0",
            "0",
            "-1.5e+10",
            "1E5",
            "0.5",
            '""',
            '"\\\\"',
            '"]\\""',
            "[]",
            "{}",
            '"ä€😀"',
            "[[1],{}]",
        ]
        for value in values:
            self.append("message", "bot", "Bot", value)
        page = await store.read_after("news", 0, 99)
        self.assertEqual([message.data.decode() for message in page.messages], values)
        for message in page.messages:
            json.loads(message.data)

    async def test_longest(self) -> None:
        """Whatever is as long, or as deep, as it may be is accepted. (A client's command is one level more.)"""
        await self.open_store()
        longest = ("ä" * 128, "i" * 128, "ö" * 64, "[" * 31 + "]" * 31, "k" * 128)
        self.assertEqual(b"stored", self.append(*longest, room="r" * 128)[0])
        self.assertEqual(b"stored", self.append("e", "i", "n", '"%s"' % ("x" * 65534))[0])
        for index, longer in enumerate(("ä" * 129, "i" * 129, "ö" * 65, "[" * 32 + "]" * 32, "k" * 129)):
            with self.assertRaisesRegex(hiredis.ReplyError, "^BADMESSAGE "):
                self.append(*longest[:index], longer, *longest[index + 1 :], room="r" * 128)

    async def test_rooms_are_limited(self) -> None:
        """Other programs make no more rooms, and no faster, than clients may; rooms that exist take their messages."""
        store = await self.open_store(retention=Retention(rooms=2))
        answers = [self.append("message", "bot", "Bot", "1", room=room) for room in "aba"]
        self.assertEqual([1, 1, 2], [int(position.partition(b":")[2]) for _, position in answers])
        with self.assertRaisesRegex(hiredis.ReplyError, "^MANYROOMS "):
            self.append("message", "bot", "Bot", "1", room="c")
        await store.stop()
        store = await self.open_store(retention=Retention(room_rate=0.01))
        with self.assertRaisesRegex(hiredis.ReplyError, "^FASTROOMS "):
            self.append("message", "bot", "Bot", "1", room="c")
        self.append("message", "bot", "Bot", "1", room="b")
        self.assertEqual(["a", "b"], list(await store.rooms("", 9)))

    async def test_no_log(self) -> None:
        """Before a daemon was started, there is no log to append to."""
        sha = self.server.command("SCRIPT", "LOAD", load_store_script("append").text)
        keys = ("other:0:log", "other:0:stream:a", "other:0:keys:a")
        with self.assertRaisesRegex(hiredis.ReplyError, "^NOLOG .*daemon has to be started"):
            self.server.command("EVALSHA", sha, 3, *keys, "message", "bot", "Bot", "1")

    async def test_keys_of_two_rooms(self) -> None:
        """Keys that don't belong together are refused."""
        await self.open_store()
        sha = self.server.command("HGET", "realtime:0:log", "append")
        for keys in (
            ("realtime:0:log", "realtime:0:stream:a", "realtime:0:keys:b"),
            ("realtime:0:log", "realtime:1:stream:a", "realtime:1:keys:a"),
        ):
            with self.assertRaisesRegex(hiredis.ReplyError, "^BADMESSAGE "):
                self.server.command("EVALSHA", sha, 3, *keys, "message", "bot", "Bot", "1")
