"""Tests for :mod:`realtime_chat.values.commands` and :mod:`realtime_chat.values.json`."""

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values import json as json_checks
from realtime_chat.values.codec import encode_error
from realtime_chat.values.commands import COMMANDS, Ping, Publish, SetProperty, decode_command, decode_commands
from realtime_chat.values.errors import UnreadableCommand
from realtime_chat.values.json import MAX_DEPTH, check_value, decode_body, encode_value

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)

UNREADABLE: tuple[tuple[bytes, str], ...] = (
    (b"", "bad_request"),
    (b"{", "bad_request"),
    (b"[]", "bad_request"),
    (b"null", "bad_request"),
    (b"{}", "bad_request"),
    (b'"hello"', "bad_request"),
    (b'{"type":1}', "bad_request"),
    (b'{"type":"dance"}', "unknown_command"),
    (b'{"type":"HELLO"}', "unknown_command"),
    (b'{"type":"join"}', "bad_request"),
    (b'{"type":"join","room":7}', "bad_request"),
    (b'{"type":"join","room":"a","last":-1}', "bad_request"),
    (b'{"type":"join","room":"a","last":"5"}', "bad_request"),
    (b'{"type":"publish","room":"a"}', "bad_request"),
    (b'{"type":"publish","room":"a","data":NaN}', "bad_request"),
    (b'{"type":"publish","room":"a","data":Infinity}', "bad_request"),
    (b'{"type":"publish","room":"a","data":1e999}', "bad_request"),
    (b'{"type":"publish","room":"a","data":' + b"9" * 400 + b"}", "bad_request"),
    (b'{"type":"publish","room":"a","data":"\\ud800"}', "bad_request"),
    (b'{"type":"publish","room":"a","data":"\xed\xa0\x80"}', "bad_request"),
    (b'{"type":"publish","room":"a","data":"\xff"}', "bad_request"),
    (b'{"type":"publish","room":"a","data":1} trailing', "bad_request"),
    (b'{"type":"ping","id":true}', "bad_request"),
    (b'{"type":"signal","room":"a","event":"e"}', "bad_request"),
    (b'{"type":"signal","room":"a","event":1,"data":1}', "bad_request"),
    (b'{"type":"signal","room":"a","event":"e","data":' + b"[" * 32 + b"]" * 32 + b"}", "bad_request"),
    (b'{"type":"state","state":[]}', "bad_request"),
    (b'{"type":"state","state":{"a":' + b"[" * 31 + b"]" * 31 + b"}}", "bad_request"),
    (b'{"type":"state","state":{"a":' + b"9" * 400 + b"}}", "bad_request"),
    (b'{"type":"members"}', "bad_request"),
    (b'{"type":"ping","id":"' + b"x" * 65 + b'"}', "bad_request"),
    (b'{"type":"ping","id":{}}', "bad_request"),
    (b"[" * 10_000, "bad_request"),
    (b'{"type":"publish","room":"a","data":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "bad_request"),
)


def nested(depth: int) -> bytes:
    """A publish whose object nests so deep, itself included."""
    return b'{"type":"publish","room":"a","data":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def depth(value: Any) -> int:
    """How many arrays and objects stand in each other, by going through all of them."""
    if not isinstance(value, (dict, list)):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, children), default=0)


def has_huge_integer(value: Any) -> bool:
    """Whether it holds an integer that no double can hold, by going through all of it."""
    if isinstance(value, (dict, list)):
        return any(map(has_huge_integer, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) > int(1.7976931348623157e308)


def within(value: Any, levels: int) -> Any:
    """A value in so many arrays and objects, one in the other."""
    for level in range(levels):
        value = [value] if level % 2 else {"[": value, "]": "}"}
    return value


def quickest(act: Callable[[], object]) -> float:
    """The seconds of a processor that the quickest of some turns takes, whatever else runs on it."""
    seconds = []
    for _ in range(7):
        begun = time.thread_time()
        act()
        seconds.append(time.thread_time() - begun)
    return min(seconds)


_MARKS = st.text(alphabet='[]{}"\\\\/u0é', max_size=12)
BRACKETS = st.recursive(
    _MARKS | st.just(1),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(_MARKS, children, max_size=3),
    max_leaves=60,
)
WILD = st.lists(BRACKETS, min_size=10, max_size=40)
DEEP = st.builds(within, BRACKETS, st.integers(0, 45)) | st.lists(st.builds(within, _MARKS, st.integers(25, 35)))
_LIMIT = int(1.7976931348623157e308)
_NUMBERS = (
    st.integers(_LIMIT - 2, _LIMIT + 2)
    | st.integers(-_LIMIT - 2, -_LIMIT + 2)
    | st.integers(300, 320).map(lambda digits: 10**digits - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(300, 320).map(lambda digits: "9" * digits)
    | _MARKS
)
DIGITS = st.recursive(
    _NUMBERS,
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(_MARKS | st.just("9" * 310), children, max_size=3)
    ),
    max_leaves=12,
)
DEEPER = b'{"type":"signal","room":"a","event":"e","later":' + b"[" * 40 + b"]" * 40 + b',"data":%b}'
"""A signal with a field that isn't known, and deeper than it may be, which is nobody's fault."""

COSTLY = (
    b"[" + b"1," * 30_000 + b"1]",
    b"[" + b"[]," * 20_000 + b"[]]",
    b"[" + b"''," * 20_000 + b"1]",
    b"[" + b"'['," * 16_000 + b"1]",
    b"[" + b"'[',[]," * 9_000 + b"1]",
    b"[" + (b"[" * 30 + b"]" * 30 + b",") * 1000 + b"1]",
    b"['" + b"9" * 400 + b"'," + b"[]," * 20_000 + b"1]",
    b"[" + (b"1." + b"9" * 297 + b",") * 200 + b"1]",
    b"[" + (b"1" * 309 + b",") * 200 + b"1]",
    b"[" + (b"'" + b"9" * 308 + b"',") * 200 + b"1]",
)
"""JSON, with apostrophes for quotation marks, that is much work for whoever goes through it."""


class DecodeTests(SynchronousTestCase):
    """Bytes to commands."""

    def test_unreadable(self) -> None:
        """What can't be read is an error with a documented code, never another exception."""
        for raw, code in UNREADABLE:
            error = self.assertRaises(UnreadableCommand, decode_command, raw)
            self.assertEqual(code, error.code, raw[:60])

    def test_nothing_is_echoed(self) -> None:
        """An error doesn't repeat what the client sent."""
        for raw in (b'{"type":"<script>"}', b'{"type":"join","room":{"<script>":1}}', b'{"<script>":1}', b"<script>"):
            self.assertNotIn("<script>", self.assertRaises(UnreadableCommand, decode_command, raw).message)

    def test_lone_surrogates(self) -> None:
        """Half of a surrogate pair is called that, with its place and what would be right, wherever it stands."""
        for text in (
            r'"\ud800"',
            r'"\uDBFF "',
            r'"\udc00"',
            r'"\udc00\ud83d"',
            r'"\ud83d\n\n\n\n"',
            r'"\ud83d\\ude00"',
            r'"\ud83d, and so on for a while"',
            r'{"\ud800":1}',
            r'[[{"a":"\uD800"}]]',
        ):
            for before in ("[", r'["\ud83d\ude00 \\ud83d \\\" ü", '):
                raw = f"{before}{text}]".encode()
                place = before.encode(), text[: text.lower().index(r"\ud")].encode()
                message = self.assertRaises(UnreadableCommand, decode_body, raw).message
                self.assertIn(f"a lone surrogate at byte {len(b''.join(place))} ", message, raw)
                self.assertIn(r"\ud83d\ude00", message)
                publish = b'{"type":"publish","room":"a","data":%b}' % raw
                for decode in (decode_command, decode_commands):
                    message = self.assertRaises(UnreadableCommand, decode, publish).message
                    self.assertIn("a lone surrogate at byte", message)

    def test_no_lone_surrogate(self) -> None:
        """What is wrong otherwise isn't called one: it ends too early, is empty, is no UTF-8, or is wrong before."""
        for raw, wrong in (
            (rb'["\ud83d\ude00', "it ends too early, after 14 bytes"),
            (rb'["\ud83d', "it ends too early, after 8 bytes"),
            (b'{"type":"ping","id":1e400}', "a number is out of range"),
            (b'{"type":"ping"', "it ends too early, after 14 bytes"),
            (b" ", "it is empty"),
            (b"", "it is empty"),
            (b'["\xc3\xbc\xff"]', "this is not (byte 4)"),
            (rb'[x, "\ud800"]', "(byte 1)"),
        ):
            for decode in (decode_command, decode_commands, decode_body):
                message = self.assertRaises(UnreadableCommand, decode, raw).message
                self.assertIn(wrong, message)
                self.assertNotIn("surrogate", message)

    @given(
        st.sampled_from([str(kind.__struct_config__.tag) for kind in COMMANDS] + ["MARKER", None]),
        st.dictionaries(
            st.sampled_from(["room", "data", "event", "key", "since", "last", "limit", "state", "v", "id", "MARKER"]),
            st.sampled_from(["MARKER", ["MARKER"], {"MARKER": "MARKER"}, 1.5, -1, True, None, "MARKER" * 300]),
        ),
        st.booleans(),
    )
    def test_no_word_is_echoed(self, kind: Any, fields: dict[str, Any], array: bool) -> None:
        """Whatever is wrong with a command, the message repeats no word of it."""
        raw = json.dumps({"type": kind} | fields).encode()
        try:
            (command,), _ = decode_commands(b"[%b]" % raw if array else raw)
        except UnreadableCommand as error:
            command = error
        if isinstance(command, UnreadableCommand):
            self.assertNotIn("MARKER", command.message)

    def test_id_of_a_wrong_command(self) -> None:
        """An error carries the command's id where that could be read."""
        error = self.assertRaises(UnreadableCommand, decode_command, b'{"type":"dance","id":"x7"}')
        self.assertEqual("x7", error.id)
        self.assertEqual("x7", json.loads(encode_error(error))["id"])

    def test_depth(self) -> None:
        """Nesting is taken up to 32 levels and refused from the 33rd."""
        self.assertIsInstance(decode_command(nested(MAX_DEPTH)), Publish)
        self.assertIn("32", self.assertRaises(UnreadableCommand, decode_command, nested(MAX_DEPTH + 1)).message)

    def test_removal(self) -> None:
        """A removal has no data that could be too deep or too large, whatever its name looks like."""
        for name in ("[" * 128, "1" + "0" * 127, "{" * 100):
            raw = encode_value({"type": "set", "room": "lobby", "name": name, "key": "9" * 1000, "more": "[" * 1000})
            command = decode_command(raw)
            assert isinstance(command, SetProperty)
            self.assertEqual((name, msgspec.UNSET), (command.name, command.data))

    def test_wide_is_not_deep(self) -> None:
        """A wide value is no deep one."""
        raw = b'{"type":"publish","room":"a","data":[' + b",".join([b"[]"] * 500) + b"]}"
        self.assertIsInstance(decode_command(raw), Publish)

    @given(BRACKETS | DEEP | WILD, st.integers(0, 40))
    def test_depth_as_before(self, value: Any, most: int) -> None:
        """Brackets in the JSON tell the depth that going through the value tells."""
        self.assertEqual(depth(value) > most, json_checks._nests_deeper(value, most))

    @given(DIGITS)
    def test_huge_integers_as_before(self, value: Any) -> None:
        """Runs of digits in the JSON tell the integers that going through the value tells."""
        self.assertEqual(has_huge_integer(value), json_checks._has_huge_integer(value))

    @given(BRACKETS | DEEP | WILD | DIGITS, st.booleans())
    def test_refused_as_before(self, value: Any, spaced: bool) -> None:
        """What is deep or holds a huge integer is refused, and nothing else is."""
        raw = msgspec.json.encode(value)
        if spaced:
            raw = msgspec.json.format(raw)
        for body in (b'{"type":"signal","room":"a","event":"e","data":%b}' % raw, DEEPER % raw):
            taken = True
            try:
                decode_command(body)
            except UnreadableCommand:
                taken = False
            self.assertEqual(depth(value) < MAX_DEPTH and not has_huge_integer(value), taken)

    def test_checks_are_cheap(self) -> None:
        """No 64 KiB of JSON cost more to check than six times what reading and writing them costs."""
        for data in COSTLY:
            raw = DEEPER % data.replace(b"'", b'"')
            value = msgspec.json.decode(raw)
            plain = quickest(lambda raw=raw, value=value: (msgspec.json.decode(raw), encode_value(value)))
            checks = quickest(lambda raw=raw, value=value: check_value(value["data"], raw, MAX_DEPTH))
            self.assertLess(checks, 6 * plain, data[:40])

    def test_unknown_fields(self) -> None:
        """Fields that aren't known are ignored."""
        self.assertEqual(Ping(id=1), decode_command(b'{"type":"ping","id":1,"later":true}'))

    def test_array(self) -> None:
        """Of an array, each command can be wrong by itself."""
        commands, many = decode_commands(b'[{"type":"ping"},{"type":"dance","id":2}]')
        self.assertTrue(many)
        self.assertEqual(Ping(), commands[0])
        self.assertIsInstance(commands[1], UnreadableCommand)

    def test_long_array(self) -> None:
        """More than a hundred commands are refused."""
        raw = b"[" + b",".join([b'{"type":"ping"}'] * 101) + b"]"
        self.assertIn("100", self.assertRaises(UnreadableCommand, decode_commands, raw).message)

    @given(JSON)
    def test_values_round_trip(self, value: Any) -> None:
        """Any JSON value comes out as it went in."""
        raw = json.dumps({"type": "publish", "room": "a", "data": value}).encode()
        command = decode_command(raw)
        assert isinstance(command, Publish)
        self.assertEqual(value, json.loads(encode_value(command.data)))
