"""``/commands``: the commands of a WebSocket, over plain HTTP."""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.core.turns import Turns
from realtime_chat.http.answers import Answer, JSONResource, Later, charged_error
from realtime_chat.http.clients import address_of, asks_for_script, client_of, identity_of, wrap_for
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.subscribe_params import one
from realtime_chat.values import codec
from realtime_chat.values.commands import STORING, Command, decode_commands
from realtime_chat.values.errors import RateLimited, RealtimeError, UnreadableCommand

_JSON_TYPES = (b"application/json", b"text/plain", b"")
_MEDIA_TYPE = re.compile(rb"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")


class CommandsResource(JSONResource):
    """Runs one command or an array of commands.

    :param turns: the line in which an array waits that takes longer than a turn.
    """

    isLeaf = True

    def __init__(self, hub: Hub, jsonp: bool, turns: Turns | None = None) -> None:
        super().__init__()
        self._hub = hub
        self._jsonp = jsonp
        self._turns = Turns(hub.clock) if turns is None else turns

    def is_guarded(self, request: Request) -> bool:
        return not asks_for_script(request, self._jsonp)

    def render_POST(self, request: Request) -> Later:
        """Perform the command, or the array of commands, of the body."""
        return self._run(request, json_body(request))

    async def render_GET(self, request: Request) -> Answer:
        """Perform the commands that a script asks for (JSONP)."""
        if not self._jsonp:
            raise RealtimeError("forbidden", "commands are sent by POST; JSONP is off on this server")
        wrap = wrap_for(request, self._jsonp)
        try:
            return wrap(Answer(await self._run(request, _script_commands(request))))
        except RealtimeError as error:
            return wrap(charged_error(request, error))

    async def _run(self, request: Request, body: bytes) -> bytes:
        commands, many = decode_commands(body)
        session = self._session(request)
        try:
            most = self._hub.limits.answer_bytes
            if not many:
                await _place_for(session, commands[0])
                return await _perform_one(session, commands[0])
            return await _perform_all(session, commands, most, self._turns)
        finally:
            session.close()

    def _session(self, request: Request) -> PerformingSession:
        return _RequestSession(self._hub, request)


class _RequestSession(PerformingSession):
    """The session of one request."""

    __slots__ = ("_request",)

    def __init__(self, hub: Hub, request: Request) -> None:
        super().__init__(hub, identity=identity_of(request, hub), address=address_of(request))
        self._request = request

    def refuse(self, error: RealtimeError) -> bytes:
        """Encode the error of a command in an array, which has paid for it already."""
        if isinstance(error, RateLimited) and isinstance(self._request, RealtimeRequest):
            self._request.charge(error)
        return super().refuse(error)


async def _place_for(session: PerformingSession, command: Command | UnreadableCommand) -> None:
    """Wait while too many publishes wait for the store. The publishes of one request queue there one at a time."""
    place = session.hub.publisher.place() if isinstance(command, STORING) else None
    if place is not None:
        await place


async def _perform_one(session: PerformingSession, command: Command | UnreadableCommand) -> bytes:
    answer = session.act(command)
    return (await answer if isinstance(answer, Deferred) else answer) or codec.encode_reply(command.id, {"type": "ok"})


async def _perform_all(
    session: PerformingSession, commands: list[Command | UnreadableCommand], most: int, turns: Turns
) -> bytes:
    """Run commands in order, and return their replies. Publishes don't wait for each other.

    :param most: bytes of replies after which no further command is started. A pending publish counts as none.
    :param turns: tells when the time of a turn is used up.
    """
    answers: list[bytes | Deferred[bytes]] = []
    size = 0
    share_ends = turns.share()
    for command in commands:
        if turns.is_over(share_ends):
            await turns.next()
            share_ends = turns.share()
        if size >= most:
            answers.append(_not_started(command, most))
            continue
        await _place_for(session, command)
        answer = session.perform(command)
        if isinstance(answer, Deferred) and not isinstance(command, STORING):
            answer = await answer
        answers.append(answer or codec.encode_reply(command.id, {"type": "ok"}))
        size += 0 if isinstance(answer, Deferred) else len(answer)
    replies = [await answer if isinstance(answer, Deferred) else answer for answer in answers]
    return b"[" + b",".join(replies) + b"]"


def _not_started(command: Command | UnreadableCommand, most: int) -> bytes:
    message = f"the replies before this one have {most} bytes or more together; send this command again by itself"
    return codec.encode_error(RealtimeError("too_many", message, command.id))


def _script_commands(request: Request) -> bytes:
    if client_of(request) is None:
        raise RealtimeError("unauthorized", "commands by GET need the client, which proves who sends them")
    body = one(request.args, b"commands")
    if body is None:
        raise RealtimeError("bad_request", "commands by GET are given as commands=JSON")
    return body.encode()


def json_body(request: Request, also: str = "") -> bytes:
    """Return the body of a request whose type is JSON, or isn't given.

    ``text/plain`` is accepted too: pages can send it without a preflight, and in a beacon on unload.

    :param also: what else is accepted here, for the message.
    :raises RealtimeError: ``unsupported_media``.
    """
    kind = media_type(request)
    if kind not in _JSON_TYPES:
        # Only what has the syntax of RFC 6838, section 4.2, is repeated in the message.
        sent = kind.decode() if _MEDIA_TYPE.fullmatch(kind) else "of no type that there is"
        message = f"send JSON with Content-Type: application/json{also}; this is {sent}"
        raise RealtimeError("unsupported_media", message)
    return body_of(request)


def media_type(request: Request) -> bytes:
    """Return the media type of a request's body, in lower case and without parameters; empty if none is given."""
    return (request.getHeader(b"content-type") or b"").split(b";")[0].strip().lower()


def body_of(request: Request) -> bytes:
    """Return a request's body."""
    return b"" if request.content is None else bytes(request.content.read())
