"""JSON: decoded, encoded, and checked against what every JSON parser can read (``docs/protocol.rst``)."""

from __future__ import annotations

import re
from itertools import accumulate
from math import isfinite
from typing import Any

import msgspec

from realtime_chat.values.errors import UnreadableCommand

MAX_DEPTH = 32
"""How deep arrays and objects may nest; the command's own object counts as one level."""

encode_value = msgspec.json.Encoder().encode
_decode_value = msgspec.json.Decoder().decode
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
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
"""Matches the text before the first lone surrogate escape. An escape at the very end doesn't count, as the text may be
cut off there."""

_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def decode_body(raw: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """Decode any JSON value, and check it against the protocol's limits.

    :raises UnreadableCommand: ``bad_request``.
    """
    try:  # as decode_json() does, without another call
        value = _decode_value(raw)
    except _ERRORS as error:
        raise UnreadableCommand("bad_request", why_not_json(raw, error, max_depth)) from error
    if len(raw) > 2 * max_depth or len(raw) >= _INTEGER_DIGITS:  # fewer bytes can break neither limit
        check_value(value, raw, max_depth, stated=max_depth)
    return value


def encode_checked(value: Any) -> bytes:
    """Encode the ``data`` or ``state`` of a command, and check that a server would accept it.

    :raises TypeError: JSON has no such type.
    :raises UnreadableCommand: ``bad_request``: a lone surrogate, NaN, an infinity, a number out of range, or nesting
        that is too deep.
    """
    try:
        raw = msgspec.json.encode(value)
    except (ValueError, OverflowError, RecursionError) as error:  # such as text with a lone surrogate
        raise UnreadableCommand("bad_request", f"this can't be said in JSON: {error}") from error
    if b"null" in raw and _has_nan_or_infinity(msgspec.to_builtins(value)):
        raise UnreadableCommand("bad_request", "this can't be said in JSON: NaN and infinities are no numbers there")
    decode_body(b"[%b]" % raw)
    return raw


def _has_nan_or_infinity(value: Any) -> bool:
    """Whether a value holds NaN or an infinity, which the encoder would write as null."""
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


def decode_json(raw: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """Decode JSON of any depth and size.

    :param max_depth: what an error states, where the JSON nests so deep that nobody can decode it.
    :raises UnreadableCommand: it is not JSON. The message says why and where, and repeats nothing of the text.
    """
    try:
        return _decode_value(raw)
    except _ERRORS as error:
        raise UnreadableCommand("bad_request", why_not_json(raw, error, max_depth)) from error


def why_not_json(raw: bytes, error: Exception, max_depth: int = MAX_DEPTH) -> str:
    """Say why bytes are not JSON, where, and what would be right. The message repeats nothing of the bytes.

    :param error: what msgspec raised.
    """
    if isinstance(error, RecursionError):
        return f"the JSON nests deeper than {max_depth} levels"
    if isinstance(error, UnicodeDecodeError):
        return f"JSON is UTF-8, and this is not{_first_invalid_byte(raw)}"
    if isinstance(error, msgspec.ValidationError):  # the one that JSON of any type can have
        return "a number is out of range"
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


def _first_invalid_byte(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f" (byte {error.start})"
    return ""


def check_value(
    value: Any, raw: bytes, most: int, id: str | int | float | None = None, stated: int = MAX_DEPTH
) -> None:
    """Refuse what some JSON parsers can't read: deep nesting, and integers outside the range of a double.

    :param raw: the bytes that ``value`` was decoded from. Most values are seen to be right by their bytes alone.
    :param most: how deep the value may nest.
    :param stated: the depth that an error states, with what the value stands in.
    :raises UnreadableCommand: ``bad_request``.
    """
    if raw.count(b"{") + raw.count(b"[") > most and _nests_deeper(value, most):
        raise UnreadableCommand("bad_request", f"the JSON nests deeper than {stated} levels", id)
    if len(raw) >= _INTEGER_DIGITS and _LONG_RUN in raw.translate(_ONE_DIGIT) and _has_huge_integer(value):
        raise UnreadableCommand("bad_request", "a number is out of range", id)


def _nests_deeper(value: Any, most: int) -> bool:
    """Whether arrays and objects nest deeper than ``most``.

    It counts the brackets in the value's JSON, in C. Empty arrays and objects, the most frequent, are removed first.
    """
    try:
        text = encode_value(value)
    except RecursionError:
        return True
    # With all else removed, two neighbouring strings become one string, whose brackets still don't count.
    marks = _without_escapes(text).translate(_SQUARE, _NO_MARKS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    if len(brackets) <= 2 * most:
        return False
    steps = brackets.replace(b"[]", b"").translate(_STEPS)
    return 1 + max(accumulate(memoryview(steps).cast("b")), default=0) > most


def _has_huge_integer(value: Any) -> bool:
    """Whether a value holds an integer outside the range of a double.

    In the encoder's JSON, only an integer has so many digits outside of strings: floats are written shorter.
    """
    outside = b" ".join(_without_escapes(encode_value(value)).split(b'"')[::2])
    return any(len(run) > _INTEGER_DIGITS or int(run) > _INTEGER_LIMIT for run in _LONG_INTEGER.findall(outside))


def _without_escapes(text: bytes) -> bytes:
    """Remove escaped quotation marks, so that each one that is left begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def json_in_script(text: bytes) -> bytes:
    """JSON as it may stand in a script: without two line separators that scripts before ES2019 may not have."""
    return text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
