"""The application that the official clients talk to in ``test_socketio.py``."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from realtime_chat.socketio import Application, Namespace, Refused, TimedOut, event

reasons: dict[str, str] = {}


class Main(Namespace):
    """What the scenarios use."""

    def on_connect(self, auth: dict[str, Any]) -> None:
        self.emit("welcome", auth)

    def on_disconnect(self, reason: str) -> None:
        reasons[str(self.session.get("label"))] = reason

    def on_label(self, label: str) -> None:
        self.session["label"] = label

    def on_reason(self, label: str) -> str | None:
        return reasons.get(label)

    def on_echo(self, *arguments: Any) -> None:
        self.emit("echo", *arguments)

    def on_sum(self, *numbers: Any) -> Any:
        return sum(numbers)

    def on_several(self) -> tuple[int, str, bytes]:
        return 1, "two", b"\x03"

    async def on_ask(self, question: Any) -> Any:
        return [await self.call("question", question)]

    async def on_ask_in_vain(self) -> str:
        try:
            await self.call("silence", timeout=0.2)
        except TimedOut:
            return "timed out"
        return "answered"

    async def on_ask_room(self, room: str) -> Any:
        return sorted(await self.of().to(room).call("number"))

    async def on_later(self, seconds: float, value: Any) -> Any:
        return await deferLater(reactor, seconds, lambda: value)  # type: ignore[arg-type]

    def on_enter(self, room: str) -> bool:
        self.enter(room)
        return True

    def on_leave(self, room: str) -> bool:
        self.leave(room)
        return True

    def on_tell_room(self, room: str, *arguments: Any) -> None:
        self.to(room).emit("told", *arguments)

    def on_tell_all(self, *arguments: Any) -> None:
        self.of().emit("told", *arguments)

    def on_tell_others(self, *arguments: Any) -> None:
        self.broadcast.emit("told", *arguments)

    def on_tell_except(self, room: str, *arguments: Any) -> None:
        self.of().skip(room).emit("told", *arguments)

    def on_tell_volatile(self, *arguments: Any) -> None:
        self.of().emit("told", *arguments, volatile=True)

    def on_raise(self) -> None:
        raise RuntimeError("this is raised for a test")

    def on_many(self, count: int) -> None:
        for number in range(count):
            self.emit("number", number)

    def on_disconnect_me(self, close: bool) -> None:
        self.disconnect(close)

    def on_break_off(self) -> None:
        self._socket.connection.close("transport error")

    @event("spaced name")
    def spaced(self, data: Any) -> Any:
        return data


class Private(Main):
    """For those who know the token."""

    def on_connect(self, auth: dict[str, Any]) -> None:
        if auth.get("token") != "open":
            raise Refused("wrong token", {"code": "E1"})
        super().on_connect({"private": True})


class Recovering(Main):
    """Who comes back gets what it missed."""

    recovery = True


app = Application({"/": Main, "/custom": Main, "/private": Private, "/tenant-*": Main, "/recovering": Recovering})
