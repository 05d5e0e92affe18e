"""The application that ``test_socketio_recovery.py`` talks to: two namespaces whose missed events are brought."""

from __future__ import annotations

import json
from typing import Any

from realtime_chat.socketio import Application, Namespace


def _data(size: int = 0, binary: list[int] | None = None, data: Any = None, **row: Any) -> Any:
    """What an event says: a text of some size, attachments, or what is given."""
    if size:
        return "x" * size
    return data if binary is None else {"deep": [bytes(binary)]}


class Chat(Namespace):
    """Writes what it is asked to, to whom it is asked to."""

    recovery = True

    def on_connect(self, auth: dict[str, Any]) -> None:
        if not self.recovered:
            auth = json.loads(auth.get("json", "null")) or auth
            for room in auth.get("rooms", ()):
                self.enter(room)

    def on_write(self, number: int, row: dict[str, Any]) -> int:
        chosen = self.of().skip(*row.get("skip", ()))
        if "to" in row:
            chosen = chosen.to(*row["to"])
        chosen.emit("told", number, _data(**row), volatile=row.get("volatile", False))
        return number

    async def on_ask(self, room: str) -> Any:
        return await self.of().to(room).call("asked", timeout=0.5)

    def on_enter(self, room: str) -> None:
        self.enter(room)

    def on_leave(self, room: str) -> None:
        self.leave(room)

    def on_keep(self, name: str, value: Any) -> None:
        self.session[name] = value

    def on_state(self) -> dict[str, Any]:
        return {"rooms": sorted(self.rooms), "session": self.session, "recovered": self.recovered}

    def on_disconnect_me(self) -> None:
        self.disconnect()


class Other(Chat):
    """Another namespace, with another log."""


app = Application({"/chat": Chat, "/other": Other})
