"""``/rooms``: rooms as plain resources, for back ends and curl."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identity
from realtime_chat.core.quota import Quota
from realtime_chat.core.rate_limiter import ONE_COMMAND, ONE_READ, Costs
from realtime_chat.http.answers import Answer, JSONResource, is_gone
from realtime_chat.http.clients import address_of, identity_of, take
from realtime_chat.http.commands import body_of, json_body, media_type
from realtime_chat.http.subscribe_params import natural, one, unquoted
from realtime_chat.values import codec
from realtime_chat.values.access import PRESENCE, READ, WRITE
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.json import decode_body, encode_value
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    Position,
    User,
    author,
    check_event,
    check_key,
    check_room,
    room_of_log,
)

FORM = b"application/x-www-form-urlencoded"
_MAX_FIELDS = 100
_FOR_JSON = "for JSON, say Content-Type: application/json"


class RoomsResource(JSONResource):
    """``/rooms``: the list of rooms, and one resource for each room below it."""

    guarded = True

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    def getChild(self, path: bytes, request: Request) -> Resource:
        return _RoomResource(self._hub, path.decode("ascii", "replace")) if path else self

    async def render_GET(self, request: Request) -> bytes:
        """Give a page of the list of rooms."""
        identity = identity_of(request, self._hub)
        take(request, self._hub, identity)
        after = one(request.args, b"after") or ""
        most = self._hub.limits.max_limit
        limit = natural(request.args, b"limit", most)
        gone = partial(is_gone, request)
        return codec.encode_rooms(await self._hub.list_rooms(identity, after, most if limit is None else limit, gone))


class _RoomResource(JSONResource):
    """``/rooms/{room}``, with the resources below it."""

    guarded = True

    def __init__(self, hub: Hub, room: str) -> None:
        super().__init__()
        self.putChild(b"messages", _MessagesResource(hub, room))
        self.putChild(b"members", _MembersResource(hub, room))
        self.putChild(b"properties", _PropertiesResource(hub, room))


class _RoomLeaf(JSONResource):
    """A resource below ``/rooms/{room}``."""

    isLeaf = True
    guarded = True

    def __init__(self, hub: Hub, room: str) -> None:
        super().__init__()
        self._hub = hub
        self._room = room

    def _check_right(self, request: Request, right: int, costs: Costs = ONE_COMMAND) -> Identity:
        """Check the room's name, and that the sender has a right in the room. Return who sent the request.

        :param costs: what that costs.
        :raises RealtimeError:
        """
        identity = identity_of(request, self._hub)
        take(request, self._hub, identity, costs)
        self._hub.access.check(identity, check_room(self._room), right)
        return identity

    def _check_still(self, identity: Identity, right: int) -> None:
        """Check the right again, after something was waited for.

        :raises RealtimeError:
        """
        _check_still(self._hub, identity, self._room, right)


class _MembersResource(_RoomLeaf):
    """``/rooms/{room}/members``."""

    async def render_GET(self, request: Request) -> bytes:
        identity = self._check_right(request, PRESENCE)
        after = one(request.args, b"after") or ""
        found = self._hub.await_presence(self._room)
        if found is not None:
            await found
            self._check_still(identity, PRESENCE)
        return codec.encode_members(None, self._room, *self._hub.presence.page(self._room, after))


class _MessagesResource(_RoomLeaf):
    """``/rooms/{room}/messages``."""

    async def render_GET(self, request: Request) -> bytes:
        identity = self._check_right(request, READ, ONE_READ)
        since, before = _position(request, b"since"), _position(request, b"before")
        if since is not None and before is not None:
            raise RealtimeError("bad_request", "give since or before, not both")
        page, position, recovered = await self._hub.read_history(self._room, since, before, self._limit(request))
        self._check_still(identity, READ)
        return codec.encode_page(self._room, position, page, recovered)

    def _limit(self, request: Request) -> int:
        limits = self._hub.limits
        for name in (b"limit", b"last"):
            limit = natural(request.args, name, limits.max_limit)
            if limit is not None:
                return limit
        return limits.default_last

    async def render_POST(self, request: Request) -> Answer:
        identity = self._check_right(request, WRITE, ())
        draft = _draft(self._room, author(identity.user), _fields(request))
        stored = await publish(request, self._hub, identity, draft)
        body = codec.encode_published(None, draft.room, stored.message.position)
        return Answer(body, 200 if stored.duplicate else 201)


class _PropertiesResource(_RoomLeaf):
    """``/rooms/{room}/properties``, with the properties below it."""

    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Resource:
        name = path.decode("utf-8", "surrogateescape")  # which no name may have
        return _PropertyResource(self._hub, self._room, name) if path else self

    async def render_GET(self, request: Request) -> bytes:
        identity = self._check_right(request, READ, ONE_READ)
        since = _position(request, b"since")
        log = await self._hub.read_properties(self._room, since)
        self._check_still(identity, READ)
        values = log.first_values(since, None)
        return encode_value({"room": self._room, **values.fields()})


class _PropertyResource(_RoomLeaf):
    """``/rooms/{room}/properties/{name}``."""

    def __init__(self, hub: Hub, room: str, name: str) -> None:
        super().__init__(hub, room)
        self._name = name

    async def render_GET(self, request: Request) -> bytes:
        identity = self._check_right(request, READ, ONE_READ)
        log = await self._hub.read_properties(self._room, None)
        self._check_still(identity, READ)
        entry = log.find(self._name)
        if entry is None:
            raise RealtimeError("not_found", "this room has no property of that name")
        return entry.json

    async def render_PUT(self, request: Request) -> bytes:
        """Set the property."""
        identity = self._check_right(request, WRITE, ())
        fields = _fields(request)
        return await self._change(request, identity, encode_value(fields["data"]), fields.get("key"))

    async def render_DELETE(self, request: Request) -> bytes:
        """Remove the property."""
        identity = self._check_right(request, WRITE, ())
        return await self._change(request, identity, b"", one(request.args, b"key"))

    async def _change(self, request: Request, identity: Identity, data: bytes, key: Any) -> bytes:
        if not isinstance(key, str | None):
            raise RealtimeError("bad_request", "key is a string")
        draft = self._hub.property_draft(self._room, self._name, data, author(identity.user), key)
        stored = await publish(request, self._hub, identity, draft)
        return codec.encode_set(None, stored.message)


async def publish(request: Request, hub: Hub, identity: Identity, draft: Draft) -> AppendResult:
    """Publish what a request brings, after it has paid for that. The right to write was checked before.

    :raises RealtimeError:
    """
    quota = Quota(hub.limiter, identity, address_of(request), is_held=False)
    room = room_of_log(draft.room)
    hub.take_publish(quota, draft, room)
    place = hub.publisher.place()
    if place is not None:
        await place
        _check_still(hub, identity, room, WRITE)
    stored = await hub.publish(draft)
    quota.on_stored(stored)
    return stored


def _check_still(hub: Hub, identity: Identity, room: str, right: int) -> None:
    hub.access.check(hub.identities.look_again(identity), room, right)


def _position(request: Request, name: bytes) -> Position | None:
    text = one(request.args, name)
    return Position.parse(text) if text else None


def _fields(request: Request) -> dict[str, Any]:
    """Read the body of a publish: ``data``, and perhaps ``event`` and ``key``."""
    if media_type(request) == FORM:
        return _form_fields(body_of(request))
    body = decode_body(json_body(request, f", or a form as {FORM.decode()}"))
    if not isinstance(body, dict) or "data" not in body:
        raise RealtimeError("bad_request", 'the body is a JSON object with "data", or a form with text=…')
    return body


def _form_fields(body: bytes) -> dict[str, Any]:
    try:
        form = _read_form(body)
    except UnicodeDecodeError as error:
        raise RealtimeError("bad_request", "a form is UTF-8, and this is not") from error
    if "text" not in form:
        raise RealtimeError("bad_request", f"a form has a field text; {_FOR_JSON}")
    fields: dict[str, Any] = {name: form[name] for name in ("event", "key") if name in form}
    return fields | {"data": {"text": form["text"]}}


def _read_form(body: bytes) -> dict[str, str]:
    """Parse a form. If a field is given twice, the last one counts.

    :raises UnicodeDecodeError: the body or a decoded field isn't UTF-8.
    :raises RealtimeError: this isn't a form, or it has too many fields.
    """
    body.decode()
    if body.count(b"&") >= _MAX_FIELDS:
        raise _form_error(f"it has more than {_MAX_FIELDS} fields")
    form = {}
    for field in body.split(b"&"):
        name, equals, value = field.partition(b"=")
        if not equals:
            raise _form_error("a field is NAME=VALUE")
        form[unquoted(name).decode()] = unquoted(value).decode()
    return form


def _form_error(why: str) -> RealtimeError:
    return RealtimeError("bad_request", f"this is not a form: {why}; {_FOR_JSON}")


def _draft(room: str, user: User, fields: dict[str, Any]) -> Draft:
    event, key = fields.get("event", "message"), fields.get("key")
    if not isinstance(event, str) or not isinstance(key, str | None):
        raise RealtimeError("bad_request", "event and key are strings")
    return Draft(room, check_event(event), encode_value(fields["data"]), user, None if key is None else check_key(key))
