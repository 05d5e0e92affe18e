"""A server without sockets, and links to it. A test decides when each command and event is delivered."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed

from realtime_chat.client.link import ClientIdentity, Disconnect, JoinRequest, Link, LinkListener, refusal

__all__ = ["FakeLink", "FakeServer", "Log"]

KEY_KEPT = 300.0


class Log:
    """All messages of one epoch of a room."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.messages: list[dict[str, Any]] = []
        self.oldest = 1

    @property
    def top(self) -> int:
        """The last offset."""
        return len(self.messages)

    def position(self, offset: int) -> str:
        """The position as clients see it."""
        return f"{self.epoch}:{offset}"


class FakeServer:
    """One room, lobby, by the rules of ``docs/protocol.rst``.

    :ivar logs: the logs of all epochs; the last one is the current one.
    :ivar away: whether nothing can be stored.
    :ivar offline: whether no command reaches it.
    :ivar room_away: whether the room can't be read.
    :ivar refused: the codes with which tokens and clients of them are refused, by token.
    :ivar token_life: for how many seconds a token is good.
    :ivar hellos: the hellos that came, in order.
    :ivar publish_errors: the errors of the next publishes: ``store_unavailable``, ``in_doubt`` or ``in_doubt, stored``.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.logs = [Log("e1")]
        self._keys: dict[tuple[str, str], tuple[int, float]] = {}
        self._clients: set[str] = set()
        self.publish_errors: list[str] = []
        self.away = self.offline = self.room_away = False
        self.sessions: list[FakeLink] = []
        self.refused: dict[str, str] = {}
        self.token_life = 100.0
        self.hellos: list[dict[str, Any]] = []

    @property
    def log(self) -> Log:
        """The current log."""
        return self.logs[-1]

    def identify(self, client: str | None) -> str:
        """Return the client if it is known, else a new one."""
        if client not in self._clients:
            client = f"c{len(self._clients) + 1}-{len(self.logs)}"
            self._clients.add(client)
        assert client is not None
        return client

    def admit(self, client: str | None, token: str | None) -> dict[str, Any]:
        """What a ``hello`` is answered with. A token is ``sub:number``, and a client of it is ``sealed-sub:number``."""
        if token is None and client and client.startswith("sealed-"):
            token = client.removeprefix("sealed-")
        elif token is None:
            client = self.identify(client)
            user = {"id": f"u-{client}", "name": "x", "guest": True}
            return {"type": "welcome", "client": client, "user": user, "ping": 25, "expires": None}
        elif client and _sub(client.removeprefix("sealed-")) != _sub(token):
            return {"type": "error", "code": "forbidden", "message": "another user"}
        if token in self.refused:
            return {"type": "error", "code": self.refused[token], "message": "no"}
        user = {"id": _sub(token), "name": "y", "guest": False, "info": {"role": "staff"}}
        expires = round((self._clock.seconds() + self.token_life) * 1000)
        return {"type": "welcome", "client": f"sealed-{token}", "user": user, "ping": 25, "expires": expires}

    def forget_clients(self) -> None:
        """Forget all clients: each that comes back gets a new identity."""
        self._clients = {f"gone-{client}" for client in self._clients}

    def renew(self) -> None:
        """Replace the log by a new one, and send a reset to readers."""
        self.logs.append(Log(f"e{len(self.logs) + 1}"))
        self._keys.clear()
        for session in self.sessions:
            session.reset(self.log, 0)

    def trim(self, keep: int) -> None:
        """Remove all but the last messages, and the expired keys of removed messages."""
        log, now = self.log, self._clock.seconds()
        log.oldest = max(log.oldest, log.top - keep + 1)
        kept = {
            name: known for name, known in self._keys.items() if known[0] >= log.oldest or now - known[1] < KEY_KEPT
        }
        self._keys = kept

    def publish(self, user: str, command: Mapping[str, Any]) -> dict[str, Any]:
        """Store a message once, after the one that it names. Returns the reply."""
        code = "store_unavailable" if self.away else self.publish_errors.pop(0) if self.publish_errors else None
        if code == "store_unavailable":
            return _refusal(command, code)
        reply = {} if code == "in_doubt" else self._publish(user, command)
        return reply if code is None else _refusal(command, code.partition(",")[0])

    def _publish(self, user: str, command: Mapping[str, Any]) -> dict[str, Any]:
        name = (user, command["key"])
        if name not in self._keys:
            if "after" in command and (user, command["after"]) not in self._keys:
                return _refusal(command, "out_of_order")
            self._store(user, command)
            self._keys[name] = (self.log.top, self._clock.seconds())
        position = self.log.position(self._keys[name][0])
        return {"type": "published", "id": command["id"], "room": "lobby", "position": position}

    def _store(self, user: str, command: Mapping[str, Any]) -> None:
        log = self.log
        message = {
            "type": "message",
            "room": "lobby",
            "position": log.position(log.top + 1),
            "event": command["event"],
            "data": msgspec.json.decode(bytes(command["data"])),
            "at": 0,
            "from": {"id": user, "name": user},
            "key": command["key"],
        }
        log.messages.append(message)
        for session in self.sessions:
            session.announce(log)


class FakeLink(Link):
    """A connection whose commands and events wait until a test delivers them."""

    def __init__(self, server: FakeServer, kind: str, listener: LinkListener, identity: ClientIdentity) -> None:
        self.kind = kind
        self._server = server
        self._listener = listener
        self._identity = identity
        self._user = ""
        self._client: str | None = None
        self._cursor: int | None = None
        self.commands: deque[dict[str, Any]] = deque()
        self.events: deque[dict[str, Any]] = deque()
        self.replies: deque[dict[str, Any]] = deque()
        self.paused = False
        self.closed = False

    # The Link interface

    def open(self) -> None:
        self._server.sessions.append(self)
        self.commands.append(self._identity.hello())

    def join(self, request: JoinRequest) -> None:
        self.commands.append({"type": "join", **request.fields()})

    def leave(self, room: str) -> None:
        self.commands.append({"type": "leave", "room": room})

    def send(self, command: Mapping[str, Any]) -> None:
        self.commands.append(dict(command))

    def renew(self, token: str) -> None:
        self.commands.append({"type": "hello", "token": token, "id": "renew"})

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self, leaving: bool = False) -> Deferred[None]:
        self._end()
        return succeed(None)

    def _end(self) -> None:
        self.closed = True
        if self in self._server.sessions:
            self._server.sessions.remove(self)

    # What a test does

    def cut(self, **fields: Any) -> None:
        """Lose the connection, and everything that is on its way."""
        self.cut_by(Disconnect("cut", **fields))

    def cut_by(self, disconnect: Disconnect) -> None:
        """Lose the connection for a reason."""
        if not self.closed:
            self._end()
            self._listener.closed(self, disconnect)

    def deliver_command(self) -> bool:
        """Deliver one command. Returns whether there was one."""
        if self.closed or self._server.offline or not self.commands:
            return False
        command = self.commands.popleft()
        getattr(self, f"_{command['type']}")(command)
        return True

    def deliver_event(self) -> bool:
        """Deliver one event. Returns whether there was one."""
        return self._deliver(self.events)

    def deliver_reply(self) -> bool:
        """Deliver one reply, which may overtake events. Returns whether there was one."""
        return self._deliver(self.replies)

    def _deliver(self, queue: deque[dict[str, Any]]) -> bool:
        if self.closed or self.paused or not queue:
            return False
        event = queue.popleft()
        if event.get("id") == "renew":
            self._listener.renewed(self, event)
        elif event["type"] == "welcome":
            self._listener.opened(self, event)
        elif event["type"] == "error" and "id" not in event and event["code"] != "bad_request":
            self.cut_by(Disconnect.by_error(refusal(event)))
        elif event["type"] == "refused":
            self._listener.refused(self, "lobby", refusal(event))
        else:
            self._listener.received(self, event)
        return True

    # What the server does

    def _hello(self, command: dict[str, Any]) -> None:
        self._server.hellos.append(command)
        reply = self._server.admit(command.get("client") or self._client, command.get("token"))
        if reply["type"] == "welcome":
            self._user, self._client = reply["user"]["id"], reply["client"]
        self.events.append({**reply, **({"id": command["id"]} if "id" in command else {})})

    def _join(self, command: dict[str, Any]) -> None:
        log = self._server.log
        if self._server.room_away:
            self.events.append({"type": "refused", "code": "store_unavailable", "message": "", "temporary": True})
            return
        epoch, _, offset = command.get("since", f"{log.epoch}:{max(log.oldest - 1, log.top - 5)}").partition(":")
        recovered = epoch == log.epoch and log.oldest - 1 <= int(offset) <= log.top
        start = int(offset) if recovered else max(log.oldest - 1, log.top - 2)
        self.events.append(
            {
                "type": "joined",
                "room": "lobby",
                "position": log.position(start),
                "top": log.position(log.top),
                "recovered": recovered,
            }
        )
        self._cursor = start
        self.announce(log)

    def _leave(self, command: dict[str, Any]) -> None:
        self._cursor = None

    def _publish(self, command: dict[str, Any]) -> None:
        self.replies.append(self._server.publish(self._user, command))

    def announce(self, log: Log) -> None:
        """Send what follows the cursor."""
        if self._cursor is not None:
            self.events.extend(log.messages[self._cursor :])
            self._cursor = log.top

    def reset(self, log: Log, offset: int) -> None:
        """Send a reset."""
        if self._cursor is not None:
            self._cursor = offset
            self.events.append({"type": "reset", "room": "lobby", "position": log.position(offset)})


def _sub(token: str) -> str:
    return token.partition(":")[0]


def _refusal(command: Mapping[str, Any], code: str) -> dict[str, Any]:
    return {"type": "error", "id": command["id"], "code": code, "message": "?", "temporary": True}
