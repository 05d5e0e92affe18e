"""Output for a terminal: text of other users never reaches it raw."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import msgspec

from realtime_chat.client import Event, Member, Message, Presence, Property, Reset, Rights, Signal

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters, invisible characters, and marks that change the direction of text."""

_SHORT = {"\n": "\\n", "\t": " ", "\r": "\\r"}


def safe(text: str) -> str:
    """Text on one line; characters that could affect a terminal are escaped."""
    return _UNSAFE.sub(lambda match: _SHORT.get(match[0]) or _escape(match[0]), text)


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}"


def value_as_json(value: Any) -> str:
    """JSON on one line; unsafe characters are escaped, which keeps the value."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: _escape(match[0]), text)


def as_line(event: Message) -> str:
    """A message as a line for a person."""
    when = time.strftime("%H:%M:%S", time.localtime(event.at / 1000))
    kind = " (guest)" if event.sender.guest else ""
    kind += "" if event.event == "message" else f" [{safe(event.event)}]"
    text = value_as_json(event.data) if event.text is None else safe(event.text)
    return f"{when} {safe(event.sender.name)}{kind}: {text}"


def as_json(event: Event) -> str:
    """An event as JSON for a program, as in the protocol."""
    fields = msgspec.to_builtins(event)
    fields.pop("own", None)
    if "sender" in fields:
        fields["from"] = fields.pop("sender")
        if fields["from"] and not fields["from"]["guest"]:
            del fields["from"]["guest"]  # only guests have it
    if isinstance(event, (Message, Reset, Property)):
        fields["position"] = str(event.position)
    kept = {name: value for name, value in fields.items() if value is not None or name in ("data", "from")}
    return value_as_json({"type": _KINDS[type(event)], **kept})


_KINDS: dict[type, str] = {
    Message: "message",
    Signal: "signal",
    Presence: "presence",
    Reset: "reset",
    Rights: "rights",
    Property: "property",
}


def member_as_line(member: Member) -> str:
    """A member as a line for a person."""
    state = f"  {value_as_json(dict(member.state))}" if member.state else ""
    return f"{safe(member.id)}  {safe(member.name)}{' (guest)' if member.guest else ''}{state}"


def member_as_json(member: Member) -> str:
    """A member as JSON for a program."""
    return value_as_json(msgspec.to_builtins(member))


_RIGHTS = {"r": "read", "w": "write", "s": "signal", "p": "see who is here", "m": "moderate"}


def describe_rights(rights: str) -> str:
    """The letters of rights as words."""
    return ", ".join(_RIGHTS.get(letter, letter) for letter in rights) or "nothing"
