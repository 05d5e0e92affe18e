"""What the old pages show of a message. Both put it into their document as HTML, so all markup is escaped."""

from __future__ import annotations

from html import escape

import msgspec

from realtime_chat.values.codec import Entry


class _Shown(msgspec.Struct, frozen=True):
    event: str
    data: msgspec.Raw


class _Text(msgspec.Struct, frozen=True):
    text: str


_entry_decoder = msgspec.json.Decoder(_Shown)
_text_decoder = msgspec.json.Decoder(_Text)


def html_text(entry: Entry) -> str | None:
    """The ``text`` of a message, or else its data as compact JSON, as HTML.

    :returns: None for an event of the server's own, which the pages don't show.
    """
    shown = _entry_decoder.decode(entry.json)
    return None if shown.event.startswith("$") else escape(_text_of(bytes(shown.data)))


def _text_of(data: bytes) -> str:
    try:
        return _text_decoder.decode(data).text
    except msgspec.ValidationError:
        return data.decode()
