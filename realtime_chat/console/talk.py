"""``realtime-chat chat``: a room to talk in, line by line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from realtime_chat.client import Chat, ChatError, Message, Position, Presence, Reset, Room, Signal
from realtime_chat.console.commands import Terminal
from realtime_chat.console.text import as_line, safe

__all__ = ["talk"]

_HELP = "/who lists who is here, /quit ends (so does ^D), //… says something that begins with a slash"
_TYPING_EVERY = 5_000


async def talk(chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Publish what is typed, and show what others do, until the input ends."""
    room = await chat.join(options.room, last=options.last)
    talk = _Talk(chat, room, terminal)
    if terminal.interactive:
        terminal.note(f"in room {room.name} as {safe(chat.user.name if chat.user else '')}; {_HELP}")
    showing = Deferred.fromCoroutine(talk.show())
    typing = Deferred.fromCoroutine(talk.read())
    # Whichever ends first ends the other; an error of either is the whole's.
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
        self._typed: dict[str, int] = {}
        self._here: dict[str, str] | None = None
        self._under_way = 0
        self._stored: set[Position] = set()
        self._shown: set[Position] = set()
        self._nothing_open: Deferred[None] | None = None

    # What others do

    async def show(self) -> None:
        """Show what comes."""
        async for event in self._room:
            _SHOWN[type(event)](self, event)

    def _message(self, message: Message) -> None:
        if not (message.own and self._terminal.interactive):  # what was typed stands there already
            self._terminal.print(as_line(message))
        if message.own:
            self._shown.add(message.position)
            self._look_whether_open()

    def _signal(self, signal: Signal) -> None:
        sender = signal.sender
        if sender is None or signal.event != "typing":
            return
        if signal.at - self._typed.get(sender.id, 0) >= _TYPING_EVERY:
            self._typed[sender.id] = signal.at
            self._terminal.print(f"* {safe(sender.name)} is typing …")

    def _presence(self, presence: Presence) -> None:
        if presence.members is not None:
            members = {member.id: member.name for member in presence.members}
            if members != self._here:
                self._here = members
                self._terminal.print(f"* here: {safe(', '.join(sorted(members.values())))}")
            return
        here = self._here = self._here or {}
        for member in presence.joined:
            if member.id not in here:
                self._terminal.print(f"* {safe(member.name)} came")
            here[member.id] = member.name
        for member in presence.left:
            here.pop(member.id, None)
            self._terminal.print(f"* {safe(member.name)} left")

    def _reset(self, reset: Reset) -> None:
        self._terminal.note("messages are missing here: the room no longer had them")
        self._stored.clear()
        self._look_whether_open()

    # What one does

    async def read(self) -> None:
        """Do what is typed; when that ends, wait till everything is stored and was shown."""
        async for line in self._terminal.input():
            text = line.decode(errors="replace").strip()
            if text == "/quit":
                break
            await self._do(text)
        while self._under_way or self._stored - self._shown:
            self._nothing_open = Deferred()
            await self._nothing_open

    async def _do(self, text: str) -> None:
        if text == "/who":
            await self._who()
        elif text.startswith("/") and not text.startswith("//"):
            self._terminal.note(_HELP)
        elif text:
            self._say(text.removeprefix("/"))

    def _say(self, text: str) -> None:
        self._under_way += 1
        stored = self._room.publish({"text": text})
        stored.addCallbacks(self._stored.add, self._not_said, errbackArgs=(text,)).addBoth(self._said)

    def _not_said(self, failure: Failure, text: str) -> None:
        error = failure.value
        if not isinstance(error, ChatError):
            failure.raiseException()
        self._terminal.note(f"not said: {safe(text)}: {safe(error.message)}")

    def _said(self, result: Any) -> Any:
        self._under_way -= 1
        self._look_whether_open()
        return result

    def _look_whether_open(self) -> None:
        waiting = self._nothing_open
        if waiting is not None and not self._under_way and not self._stored - self._shown:
            self._nothing_open = None
            waiting.callback(None)

    async def _who(self) -> None:
        try:
            names = sorted(member.name for member in await self._room.members())
        except ChatError as error:
            self._terminal.note(safe(error.message))
        else:
            self._terminal.print(f"* here: {safe(', '.join(names))}")


_SHOWN: Mapping[type, Callable[[_Talk, Any], None]] = MappingProxyType(
    {Message: _Talk._message, Signal: _Talk._signal, Presence: _Talk._presence, Reset: _Talk._reset}
)
