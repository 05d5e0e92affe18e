"""The commands of ``realtime-chat``, except ``chat``."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from realtime_chat.client import Chat, Message, Position, RealtimeError, Reset
from realtime_chat.console.lines import Lines
from realtime_chat.console.text import as_json, as_line, member_as_json, member_as_line, safe
from realtime_chat.values.errors import UnreadableCommand
from realtime_chat.values.json import decode_json

__all__ = ["Failed", "Terminal", "members", "publish", "rooms", "tail"]

_MAX_PENDING = 64


class Failed(Exception):
    """A command has failed; the message is for a person."""


class Terminal(Protocol):
    """Where a command reads its input and writes its output."""

    interactive: bool
    input: Callable[[], Lines]

    def print(self, line: str) -> None:
        """Write a line of output."""

    def note(self, line: str) -> None:
        """Write a line about what happens, beside the output."""


async def tail(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Print messages as they come, until the command is stopped."""
    room = await chat.join(options.room, since=options.since, last=options.last)
    async for event in room:
        if options.json and isinstance(event, (Message, Reset)):
            terminal.print(as_json(event))
        elif isinstance(event, Message):
            terminal.print(as_line(event))
        elif isinstance(event, Reset):
            terminal.note(f"messages are missing here: the room no longer had them; it goes on after {event.position}")


async def members(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """List who is in a room."""
    for member in await chat.members(options.room):
        terminal.print(member_as_json(member) if options.json else member_as_line(member))


async def rooms(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """List the rooms."""
    for room in await chat.rooms():
        terminal.print(safe(room))


async def publish(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Publish one message, or each line of the input, and print their positions."""
    if options.text is not None:
        data = _data(options.text.encode(errors="surrogateescape"), options.json)
        terminal.print(str(await chat.publish(options.room, data, options.event, options.key)))
        return
    line = 0
    pending: deque[tuple[int, Deferred[Position]]] = deque()
    async for text in terminal.input():
        line += 1
        try:
            data = _data(text, options.json)
        except Failed as error:
            await _print_stored(pending, 0, terminal)
            raise Failed(f"line {line}: {error}; it and those after it were not published") from error
        key = None if options.key is None else f"{options.key}-{line}"
        pending.append((line, chat.publish(options.room, data, options.event, key)))
        await _print_stored(pending, _MAX_PENDING, terminal)
    await _print_stored(pending, 0, terminal)


async def _print_stored(pending: deque[tuple[int, Deferred[Position]]], most: int, terminal: Terminal) -> None:
    """Print the positions of stored messages, and wait until at most ``most`` are pending."""
    while pending and (len(pending) > most or pending[0][1].called):
        line, stored = pending.popleft()
        try:
            terminal.print(str(await stored))
        except RealtimeError as error:
            for _, other in pending:
                other.addErrback(lambda failure: None)
            raise Failed(f"line {line}: {safe(error.message)}") from error


def _data(text: bytes, is_json: bool) -> Any:
    """The data to publish for a text.

    :raises Failed: it is invalid.
    """
    try:
        return decode_json(text) if is_json else {"text": text.decode()}
    except UnreadableCommand as error:
        raise Failed(error.message) from error
    except UnicodeDecodeError as error:
        raise Failed("this is not UTF-8") from error
