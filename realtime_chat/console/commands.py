"""The commands of ``realtime-chat``."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from realtime_chat.client import (
    Chat,
    ChatError,
    Message,
    Position,
    Presence,
    RealtimeError,
    Reset,
    Rights,
    Room,
    Signal,
)
from realtime_chat.console.terminal import Terminal
from realtime_chat.console.text import (
    as_json,
    as_line,
    describe_rights,
    member_as_json,
    member_as_line,
    safe,
    value_as_json,
)
from realtime_chat.values.errors import UnreadableCommand
from realtime_chat.values.json import decode_json

_MAX_PENDING = 64
_HELP = "/who lists who is here, /quit ends (so does ^D), //… says something that begins with a slash"
_TYPING_EVERY = 5_000


class Failed(Exception):
    """A command has failed; the message is for a person."""


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


async def properties(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Print the properties of a room, sorted by name."""
    found = dict(sorted((await chat.properties(options.room)).items()))
    if options.json:
        terminal.print(value_as_json(found))
    else:
        for name, value in found.items():
            terminal.print(f"{safe(name)}: {safe(value) if isinstance(value, str) else value_as_json(value)}")


async def set_property(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Set a property, and print its position."""
    text = options.text.encode(errors="surrogateescape")
    value = _data(text, True) if options.json else _data(text, False)["text"]
    terminal.print(str(await chat.set(options.room, options.property, value)))


async def unset_property(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Remove a property, and print the position."""
    terminal.print(str(await chat.unset(options.room, options.property)))


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


async def talk(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Publish typed lines, and show the room's events, until the input ends."""
    room = await chat.join(options.room, last=options.last)
    talk = _Talk(chat, room, terminal)
    if terminal.interactive:
        terminal.note(f"in room {room.name} as {safe(chat.user.name if chat.user else '')}; {_HELP}")
    showing = Deferred.fromCoroutine(talk.show())
    typing = Deferred.fromCoroutine(talk.read())
    # The one that ends first ends the other. An error of either ends the command.
    showing.addBoth(_end, typing)
    try:
        await typing
    finally:
        await room.leave()
    await showing


def _end(result: Any, other: Deferred[None]) -> Any:
    other.cancel()
    return None if isinstance(result, Failure) and result.check(CancelledError) else result


class _Talk:
    """One room on a terminal."""

    def __init__(self, chat: Chat, room: Room, terminal: Terminal) -> None:
        self._chat = chat
        self._room = room
        self._terminal = terminal
        self._last_typing: dict[str, int] = {}
        self._members: dict[str, str] | None = None
        self._pending = 0
        self._stored: set[Position] = set()
        self._shown: set[Position] = set()
        self._all_shown: Deferred[None] | None = None

    # Events

    async def show(self) -> None:
        """Show the room's events."""
        async for event in self._room:
            _SHOW[type(event)](self, event)

    def _message(self, message: Message) -> None:
        if not (message.own and self._terminal.interactive):  # the terminal shows what was typed already
            self._terminal.print(as_line(message))
        if message.own:
            self._shown.add(message.position)
            self._check_all_shown()

    def _signal(self, signal: Signal) -> None:
        sender = signal.sender
        if sender is None or signal.event != "typing":
            return
        if signal.at - self._last_typing.get(sender.id, 0) >= _TYPING_EVERY:
            self._last_typing[sender.id] = signal.at
            self._terminal.print(f"* {safe(sender.name)} is typing …")

    def _presence(self, presence: Presence) -> None:
        if presence.members is not None:
            members = {member.id: member.name for member in presence.members}
            if members != self._members:
                self._members = members
                self._terminal.print(f"* here: {safe(', '.join(sorted(members.values())))}")
            return
        names = self._members = self._members or {}
        for member in presence.joined:
            if member.id not in names:
                self._terminal.print(f"* {safe(member.name)} came")
            names[member.id] = member.name
        for member in presence.left:
            names.pop(member.id, None)
            self._terminal.print(f"* {safe(member.name)} left")

    def _rights(self, rights: Rights) -> None:
        self._terminal.note(f"what you may do here has changed: {safe(describe_rights(rights.rights))}")

    def _reset(self, reset: Reset) -> None:
        self._terminal.note("messages are missing here: the room no longer had them")
        self._stored.clear()
        self._check_all_shown()

    # Input

    async def read(self) -> None:
        """Handle typed lines; at their end, wait until every message is stored and shown."""
        async for line in self._terminal.input():
            text = line.decode(errors="replace").strip()
            if text == "/quit":
                break
            await self._handle(text)
        while self._pending or self._stored - self._shown:
            self._all_shown = Deferred()
            await self._all_shown

    async def _handle(self, text: str) -> None:
        if text == "/who":
            await self._who()
        elif text.startswith("/") and not text.startswith("//"):
            self._terminal.note(_HELP)
        elif text:
            self._publish(text.removeprefix("/"))

    def _publish(self, text: str) -> None:
        self._pending += 1
        stored = self._room.publish({"text": text})
        stored.addCallbacks(self._stored.add, self._failed, errbackArgs=(text,)).addBoth(self._done)

    def _failed(self, failure: Failure, text: str) -> None:
        error = failure.value
        if not isinstance(error, ChatError):
            failure.raiseException()
        self._terminal.note(f"not said: {safe(text)}: {safe(error.message)}")

    def _done(self, result: Any) -> Any:
        self._pending -= 1
        self._check_all_shown()
        return result

    def _check_all_shown(self) -> None:
        waiting = self._all_shown
        if waiting is not None and not self._pending and not self._stored - self._shown:
            self._all_shown = None
            waiting.callback(None)

    async def _who(self) -> None:
        try:
            names = sorted(member.name for member in await self._room.members())
        except ChatError as error:
            self._terminal.note(safe(error.message))
        else:
            self._terminal.print(f"* here: {safe(', '.join(names))}")


_SHOW: Mapping[type, Callable[[_Talk, Any], None]] = MappingProxyType(
    {
        Message: _Talk._message,
        Signal: _Talk._signal,
        Presence: _Talk._presence,
        Reset: _Talk._reset,
        Rights: _Talk._rights,
    }
)

COMMANDS: Mapping[str, Callable[[Chat, argparse.Namespace, Terminal], Awaitable[None]]] = MappingProxyType(
    {
        "tail": tail,
        "publish": publish,
        "members": members,
        "rooms": rooms,
        "properties": properties,
        "set": set_property,
        "unset": unset_property,
        "chat": talk,
    }
)
"""The commands by name. Each is given a chat that is connected."""
