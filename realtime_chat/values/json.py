"""JSON that every reader of JSON can take: decoded, encoded, and checked against the protocol's limits."""

from __future__ import annotations

import re
from itertools import accumulate
from math import isfinite
from typing import Any

import msgspec

from realtime_chat.values.errors import UnreadableCommand

__all__ = ["MAX_DEPTH", "check_value", "decode_body", "decode_json", "encode_checked", "encode_value", "why_not_json"]

MAX_DEPTH = 32
"""How deep arrays and objects may nest, a command's own object included."""

encode_value = msgspec.json.Encoder().encode
_INTEGER_LIMIT = int(1.7976931348623157e308)
_INTEGER_DIGITS = len(str(_INTEGER_LIMIT))
"""An integer with fewer digits than these is within the limit."""

_LONG_RUN = b"0" * _INTEGER_DIGITS
_LONG_INTEGER = re.compile(rb"(?<![0-9])[0-9]{%d,}" % _INTEGER_DIGITS)
_ONE_DIGIT = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else ord(" ") for byte in range(256))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # one down and, as a signed byte, one up
_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_LONE_SURROGATE = re.compile(
    rb"(?:[^\\]++|(?:\\[^u])++|\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u(?![dD][89a-fA-F]))*+"
    rb"(?=\\u[dD][89a-fA-F][0-9A-Fa-f]{2}.)",
    re.DOTALL,
)
"""What comes before the first escape that is half of a pair; one that the text ends with may have been cut off."""

_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def decode_body(raw: bytes) -> Any:
    """Read any JSON value that keeps the limits of the protocol.

    :raises UnreadableCommand: ``bad_request``.
    """
    value = decode_json(raw)
    check_value(value, raw, MAX_DEPTH)
    return value


def encode_checked(value: Any) -> bytes:
    """Say in JSON what is to be a command's ``data`` or ``state``, if a server would take it.

    :raises TypeError: it is of a type that JSON can't say.
    :raises UnreadableCommand: ``bad_request``: it has half a surrogate pair, NaN, an infinity or a number that is out
        of range, or nests too deep.
    """
    try:
        raw = msgspec.json.encode(value)
    except (ValueError, OverflowError, RecursionError) as error:  # among these, text that UTF-8 can't say
        raise UnreadableCommand("bad_request", f"this can't be said in JSON: {error}") from error
    if b"null" in raw and _has_no_number(msgspec.to_builtins(value)):
        raise UnreadableCommand("bad_request", "this can't be said in JSON: NaN and infinities are no numbers there")
    decode_body(b"[%b]" % raw)
    return raw


def _has_no_number(value: Any) -> bool:
    """Whether NaN or an infinity is in it, which would be sent as null."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not isfinite(item):
            return True
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
    return False


def decode_json(raw: bytes) -> Any:
    """Read JSON, of whatever depth and size.

    :raises UnreadableCommand: it is none; the message says why and where, and repeats nothing of it.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableCommand("bad_request", why_not_json(raw, error)) from error


def why_not_json(raw: bytes, error: Exception) -> str:
    """Say why bytes are no JSON, where, and what would be right; nothing of them is repeated.

    :param error: what msgspec has raised.
    """
    if isinstance(error, RecursionError):
        return f"the JSON nests deeper than {MAX_DEPTH} levels"
    if isinstance(error, UnicodeDecodeError):
        return f"JSON is UTF-8, and this is not{_first_of_no_utf8(raw)}"
    place = _BYTE.search(str(error))
    end = len(raw) if place is None else int(place[1])
    lone = _LONE_SURROGATE.match(raw)
    if lone is not None and lone.end() < end:
        return (
            f"this is not JSON: a lone surrogate at byte {lone.end()} is half of a character; "
            "send both halves, as in \\ud83d\\ude00, or the character itself"
        )
    if not raw.strip():
        return "this is not JSON: it is empty"
    if place is None:
        return f"this is not JSON: it ends too early, after {len(raw)} bytes"
    return "this is not JSON: " + str(error).removeprefix("JSON is malformed: ")


def _first_of_no_utf8(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f" (byte {error.start})"
    return ""


def check_value(value: Any, raw: bytes, most: int, id: str | int | float | None = None) -> None:
    """Refuse what not every JSON reader can take: deep nesting, and integers that no double can hold.

    :param raw: the bytes that ``value`` was read from, for telling cheaply that nothing can be wrong.
    :param most: how deep it may nest.
    :raises UnreadableCommand: ``bad_request``.
    """
    if raw.count(b"{") + raw.count(b"[") > most and _nests_deeper(value, most):
        raise UnreadableCommand("bad_request", f"the JSON nests deeper than {MAX_DEPTH} levels", id)
    if len(raw) >= _INTEGER_DIGITS and _LONG_RUN in raw.translate(_ONE_DIGIT) and _has_huge_integer(value):
        raise UnreadableCommand("bad_request", "a number is out of range", id)


def _nests_deeper(value: Any, most: int) -> bool:
    """Whether arrays and objects stand in each other more than ``most`` deep.

    Only the brackets of its JSON are looked at, in C; most are those of what holds nothing, which goes first.
    """
    try:
        text = encode_value(value)
    except RecursionError:
        return True
    # Without what was in between, two strings side by side become one, whose brackets count as little.
    marks = _without_escapes(text).translate(_SQUARE, _NO_MARKS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    if len(brackets) <= 2 * most:
        return False
    steps = brackets.replace(b"[]", b"").translate(_STEPS)
    return 1 + max(accumulate(memoryview(steps).cast("b")), default=0) > most


def _has_huge_integer(value: Any) -> bool:
    """Whether it holds an integer that no double can hold; so many digits outside of strings are one, as a float is
    written short."""
    outside = b" ".join(_without_escapes(encode_value(value)).split(b'"')[::2])
    return any(len(run) > _INTEGER_DIGITS or int(run) > _INTEGER_LIMIT for run in _LONG_INTEGER.findall(outside))


def _without_escapes(text: bytes) -> bytes:
    """JSON in which each quotation mark begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
