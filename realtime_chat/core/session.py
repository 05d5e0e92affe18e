"""One connected client: who it is, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping

from realtime_chat.core.delivery import Delivery
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identity
from realtime_chat.core.interfaces import MessageSink
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.properties import PropertyLog, PropertyValues
from realtime_chat.core.quota import Quota
from realtime_chat.core.room import Room, Subscription
from realtime_chat.values import codec, commands
from realtime_chat.values.access import PRESENCE, READ
from realtime_chat.values.errors import GOODBYES
from realtime_chat.values.model import Position, check_room, properties_log
from realtime_chat.values.rates import GUESTS

PropertiesStart = tuple[PropertyLog, bool | Position]
"""The log of a room's properties, and the reader's position in it; True if it has none."""


class Session:
    """A client on one transport: who it is, and what it reads.

    One that sends commands has a :class:`~realtime_chat.core.performing_session.PerformingSession`.

    :param transport: where messages are sent; None for one HTTP request of commands, to which none are.
    :param identity: who it is, if that is known already.
    :param name: the name of the guest that it becomes if it doesn't say who it is.
    :param address: what its address is limited by; None if it is not.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_errors",
        "_is_request",
        "_name",
        "_quota",
        "_refused",
        "_state",
        "closed",
        "delivery",
        "hub",
        "identity",
    )

    def __init__(
        self,
        hub: Hub,
        transport: MessageSink | None = None,
        identity: Identity | None = None,
        name: str | None = None,
        address: str | None = None,
    ) -> None:
        self.hub = hub
        self.delivery = Delivery(hub, transport)
        self.identity = identity
        self.closed = False
        self._name = name
        self._address = address
        self._quota: Quota | None = None  # no waiting poll has one
        self._state = b"{}"
        self._errors = 0
        self._refused: dict[str, str | None] | None = None  # by room, the last key after which none can be stored now
        self._is_request = transport is None  # what it says is said for whatever else its client reads by
        hub.sessions[self] = None
        if identity is not None and identity.expires is not None:
            hub.users.add(self, identity)

    def close(self, polls: bool = False) -> None:
        """End everything; nothing is sent from now on.

        :param polls: whether that was one poll of many, whose client is expected back.
        """
        if not self.closed:
            self.closed = True
            for subscription in self.delivery.close():
                self.hub.presence.exit(subscription, polls)
            self.hub.sessions.pop(self, None)
            if self._quota is not None:
                self._quota.close()
            if (identity := self.identity) is not None and identity.expires is not None:
                self.hub.users.remove(self, identity)

    # What the transport sees of the delivery

    @property
    def transport(self) -> MessageSink | None:
        """Where messages are sent; None if nowhere, or if the session is closed."""
        return self.delivery.transport

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """What it reads, by room."""
        return {subscription.room.name: subscription for subscription in self.delivery.all()}

    def pause_writing(self) -> None:
        """The transport takes no more for now."""
        self.delivery.pause_writing()

    def resume_writing(self) -> None:
        """The transport takes more again."""
        self.delivery.pump()

    @property
    def quota(self) -> Quota:
        """What its commands draw from."""
        if self._quota is None:
            self._quota = Quota(self.hub.limiter, self.identity, self._address)
        return self._quota

    def dismiss(self, reason: str) -> None:
        """Say goodbye for one of the reasons in :data:`realtime_chat.values.errors.GOODBYES`, and close."""
        if not self.closed:
            self.hub.counters.goodbyes[reason] += 1
            if self.transport is not None:
                self.transport.goodbye(GOODBYES[reason])
            self.close()

    # Who it is

    def identify(self) -> Identity:
        """Who it is. A client that has not said that becomes a guest.

        :raises RateLimited: too many guests come from its address.
        """
        if self.identity is None:
            self.quota.take(GUESTS)
            self._become(self.hub.identities.new_guest(self._name))
        assert self.identity is not None
        return self.identity

    def _become(self, identity: Identity) -> None:
        """Be somebody from now on."""
        self.identity = identity
        if self._quota is not None:
            self._quota.become(identity)
        if identity.expires is not None:
            self.hub.users.add(self, identity)

    def renew(self, identity: Identity) -> None:
        """Go on with a later identity of the same client hash. Give up what it may not do any more."""
        before = self.identity
        if self.closed or before is None or before.order > identity.order:
            return
        self._become(self.hub.identities.reader_of(identity) if before.is_reader else identity)
        if self.hub.identities.is_over(identity):
            self.dismiss("token_expired")
        self.renew_rights()

    def renew_rights(self) -> None:
        """Go on with the rights that it has now, in all rooms that it reads."""
        if (transport := self.transport) is not None:
            for subscription in tuple(self.delivery.all()):
                self._renew_rights(transport, subscription)
            self.delivery.pump()

    def _renew_rights(self, transport: MessageSink, subscription: Subscription) -> None:
        """Do what follows from new rights in a room: stop reading it, or tell the client."""
        room = subscription.room.name
        if subscription.is_of_properties:
            return  # it goes with the room
        rights = self.hub.access.rights(self.identity, room)
        if not rights & READ:
            self._end_subscription(room)
            transport.send_event("left", codec.encode_left(room))
        elif rights != subscription.rights:
            subscription.rights = rights
            self.hub.presence.visibility.set_seeing(subscription, rights & PRESENCE != 0)
            transport.send_event("rights", codec.encode_rights(room, rights))

    def check_right(self, room: str, right: int) -> str:
        """Give back the name of a room in which this client has a right.

        :raises RealtimeError: ``bad_room`` or ``forbidden``.
        """
        return self.hub.access.check(self.identity, check_room(room), right)

    def check_still(self, room: str, right: int) -> None:
        """Check a right again, after something was waited for.

        :raises RealtimeError: ``forbidden``, or why a user's time is over.
        """
        identity = None if self.identity is None else self.hub.identities.look_again(self.identity)
        self.hub.access.check(identity, room, right)

    # What it reads

    def enter(
        self,
        room: Room,
        start: StartPosition,
        id: commands.CommandId | None = None,
        listed: bool = True,
        resumed: bool | None = None,
        properties: PropertiesStart | None = None,
    ) -> bytes:
        """Read a room from a position on.

        :param listed: whether the reply lists the members; else they are sent when the reader is live.
        :param resumed: whether it gave a position, if the reply is to say that.
        :param properties: where it starts to read the room's properties; None if it doesn't read them.
        :returns: the encoded ``joined``.
        """
        subscription = self.subscribe(room, start)
        values = None
        if subscription is not None and properties is not None:
            values = self.subscribe_properties(properties, self.hub.limits.page_bytes)
        rights = 0 if subscription is None else subscription.rights
        members = self.hub.presence.attend(room.name, subscription, listed) if rights & PRESENCE else None
        return codec.encode_joined(
            id,
            room.name,
            start.position,
            room.position,
            start.recovered,
            members,
            rights,
            resumed,
            None if values is None else values.fields(),
        )

    def subscribe_properties(self, start: PropertiesStart, most: int | None) -> PropertyValues:
        """Read the properties of a room that is read.

        :param most: bytes of the largest answer; None for all that there is.
        :returns: what the client is to be told first.
        """
        log, since = start
        log.used = self.hub.clock.seconds()
        values = log.first_values(since if isinstance(since, Position) else None, most)
        complete_to = values.top.offset if values.full else 0
        self.delivery.subscribe_properties(log, StartPosition(values.position, True), complete_to)
        return values

    def last(self, last: int | None) -> int:
        """How many messages a reader without a position starts with, if it asks for ``last`` of them."""
        limits = self.hub.limits
        return limits.default_last if last is None else min(last, limits.max_limit)

    def subscribe(self, room: Room, start: StartPosition) -> Subscription | None:
        """Read a room from a position on; :meth:`Delivery.pump` sends what follows.

        :returns: None if the client is gone by now.
        :raises RealtimeError: ``forbidden``: the client may not read the room, or may not any more; ``too_many``: the
            room has as many members as it may have.
        """
        if self.closed:
            return None
        identity = self.identity or self.identify()
        rights = self.hub.access.rights(identity, room.name)
        if not rights & READ:
            self.hub.access.check(identity, room.name, READ)
        if rights & PRESENCE:
            self.hub.presence.check_place(identity, room.name, self.hub.access.most_members(room.name))
        subscription = self.delivery.subscribe(room, start)
        subscription.rights = rights
        if not self._is_request:
            self.hub.presence.enter(subscription, identity, self._state, rights & PRESENCE != 0)
        return subscription

    def _end_subscription(self, room: str) -> bool:
        """Stop reading a room.

        :returns: False if it wasn't read.
        """
        if (subscription := self.delivery.unsubscribe(room)) is not None:
            self.delivery.unsubscribe(properties_log(room))
            self.hub.presence.exit(subscription, False)
        return subscription is not None
