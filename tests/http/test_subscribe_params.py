"""Tests for :mod:`realtime_chat.http.subscribe_params`."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import parse_qs

from realtime_chat.http.subscribe_params import (
    MAX_PARAMETERS,
    SubscribeParams,
    natural,
    one,
    read_query,
    read_subscribe_params,
    unquoted,
)
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position
from tests.soak import examples


def args(query: str) -> Any:
    """What Twisted makes of a query."""
    return parse_qs(query.encode(), keep_blank_values=True)


class SubscribeParamsTests(SynchronousTestCase):
    """Rooms with their positions."""

    def read(self, query: str) -> SubscribeParams:
        return read_subscribe_params(args(query), 1000)

    def assert_code(self, code: str, query: str) -> None:
        self.assertEqual(code, self.assertRaises(RealtimeError, self.read, query).code, query)

    def test_nothing(self) -> None:
        """Nothing need be wished."""
        self.assertEqual(SubscribeParams(), self.read(""))

    def test_all(self) -> None:
        """Rooms keep their order, and each gets its own position; an empty since is none."""
        params = self.read("room=b&since=x:1&room=a&since=&room=@u&since=y:0&last=7&name=Ann")
        rooms = (("b", Position("x", 1)), ("a", None), ("@u", Position("y", 0)))
        self.assertEqual(SubscribeParams(rooms, 7, "Ann"), params)

    def test_no_since(self) -> None:
        """Without a since no room has a position."""
        self.assertEqual((("a", None), ("b", None)), self.read("room=a&room=b").rooms)

    def test_uneven(self) -> None:
        """There are as many since as rooms, or none."""
        for query in ("room=a&room=b&since=x:1", "room=a&since=x:1&since=x:2", "since=x:1"):
            self.assert_code("bad_request", query)

    def test_same_room(self) -> None:
        """A room is given once."""
        self.assert_code("bad_request", "room=a&room=b&room=a")

    def test_positions(self) -> None:
        """A position that is none is refused."""
        for since in (
            "x",
            "x:",
            ":1",
            "x:01",
            "x:-1",
            "x:+1",
            "x:1.0",
            "x:" + "9" * 17,
            "%C3%A4:1",
            "x:%D9%A1",
            "x:1%0A",
        ):
            self.assert_code("bad_position", f"room=a&since={since}")

    def test_not_utf8(self) -> None:
        """Whatever isn't UTF-8 is refused."""
        for query in ("room=%FF", "room=a&since=%FF", "name=%FF", "last=%FF"):
            self.assert_code("bad_request", query)

    def test_once(self) -> None:
        """What stands for itself is given once."""
        for query in ("last=1&last=1", "name=a&name=a"):
            self.assert_code("bad_request", query)

    def test_name(self) -> None:
        """A name that can't be one is refused."""
        for name in ("x" * 65, "a%0Ab", "%20"):
            self.assert_code("bad_request", f"name={name}")


class QueryTests(SynchronousTestCase):
    """Queries as they are sent."""

    @given(
        st.lists(st.sampled_from((b"%", b"%4", b"%41", b"%aF", b"%zz", b"%%", b"\\", b"\\x41", b"\xff", b"+", b"a")))
    )
    @settings(max_examples=examples(1000))
    def test_unquoted(self, pieces: list[bytes]) -> None:
        """Few escapes or many, right or wrong: they are read as the standard library reads them."""
        text = b"".join(pieces)
        for many in (text, text * 64):
            self.assertEqual(unquote_to_bytes(many.replace(b"+", b" ")), unquoted(many))

    def test_most_parameters(self) -> None:
        """More parameters than anybody needs are refused, with words, and so many are read."""
        error = self.assertRaises(RealtimeError, read_query, b"&" * MAX_PARAMETERS)
        self.assertEqual("bad_request", error.code)
        self.assertIn("at most 1,024 parameters", error.message)
        self.assertEqual(MAX_PARAMETERS, len(read_query(b"&".join([b"a="] * MAX_PARAMETERS))[b"a"]))


class ParameterTests(SynchronousTestCase):
    """Single parameters."""

    def test_one(self) -> None:
        """One value or none; an empty one is one."""
        self.assertIsNone(one(args("b=1"), b"a"))
        self.assertEqual("", one(args("a="), b"a"))
        self.assertEqual("ü", one(args("a=%C3%BC"), b"a"))

    def test_numbers(self) -> None:
        """Whole numbers, of which those above the most are taken as the most."""
        for text, number in (("0", 0), ("7", 7), ("007", 7), ("55", 55), ("56", 55), ("9" * 5000, 55)):
            self.assertEqual(number, natural(args(f"a={text}"), b"a", 55), text[:9])
        self.assertIsNone(natural({}, b"a", 55))

    def test_no_numbers(self) -> None:
        """Everything else is refused."""
        for text in ("", "-1", "%2B1", "1.0", "1e3", "0x1", "%D9%A1", "%C2%B2", "1_0", "%201", "all"):
            self.assertRaises(RealtimeError, natural, args(f"a={text}"), b"a", 55)

    @given(st.integers(0, 10**30), st.integers(1, 10**6))
    @settings(max_examples=200)
    def test_any_number(self, number: int, most: int) -> None:
        """Any number is itself or the most."""
        self.assertEqual(min(number, most), natural(args(f"a={number}"), b"a", most))
