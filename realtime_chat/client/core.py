"""The client without any I/O: what is wanted, what is on its way, and what to do when a link opens, tells or is lost.

It is given a clock, random numbers and what makes links; :mod:`realtime_chat.client.chat` is its public face.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from realtime_chat.client.backoff import Backoff
from realtime_chat.client.errors import ChatError, Closed, FateUnknown, QueueFull, Refused, Unreachable
from realtime_chat.client.events import Message, Presence, State, read_event
from realtime_chat.client.link import Disconnect, Identity, Link, OpenLink, loss_by_goodbye, refusal
from realtime_chat.client.outbox import Outbox, PendingPublish
from realtime_chat.client.subscription import RoomSubscription
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position, User

__all__ = ["ClientOptions", "Core"]

OPEN_WITHIN = 10.0
STABLE_AFTER = 10.0
WINDOW = 100


@attrs.frozen
class ClientOptions:
    """How the client is to behave.

    :ivar transports: which to try, the best first.
    :ivar name: the guest's name.
    :ivar client: the client to be again.
    :ivar patient: whether to go on trying where the very first attempts reach nobody.
    :ivar offline: commands that may wait for a connection.
    :ivar online: publishes that may wait altogether.
    :ivar buffer: events that may wait for a room's reader.
    """

    transports: tuple[str, ...]
    name: str | None = None
    client: str | None = None
    patient: bool = False
    offline: int = 100
    online: int = 1000
    buffer: int = 1000


class _Ask:
    """A question that is asked again on the next connection until it is answered."""

    __slots__ = ("answer", "command")

    def __init__(self, command: dict[str, Any], answer: Deferred[dict[str, Any]]) -> None:
        self.command = command
        self.answer = answer


class Core:
    """One client, over one link after the other.

    :param random: gives a float from 0 up to 1.
    :param token: gives a new key, which nobody can guess.
    :param links: what makes a link, by transport.
    :param tell: is told how the connection is.
    :param asleep_too: seconds that also count while this machine sleeps, for what the server remembers meanwhile; the
        clock's where it isn't given.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Callable[[], float],
        token: Callable[[], str],
        links: Mapping[str, OpenLink],
        wants: ClientOptions,
        tell: Callable[[State], None],
        asleep_too: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock
        self._token = token
        self._links = links
        self._wants = wants
        self._tell = tell
        self._asleep_too = clock.seconds if asleep_too is None else asleep_too
        self._backoff = Backoff(random)
        self._patience = Backoff(random)  # with rooms that can't be read for a while
        self._doubts = Backoff(random)
        self._releasing: IDelayedCall | None = None
        self._troubled: set[str] = set()  # rooms where one publish goes ahead of the others
        self.transports = wants.transports
        self.state = State("closed")
        self.client = wants.client
        self.user: User | None = None
        self.link: Link | None = None
        self.up = False
        self._ever_up = False
        self._up_since = 0.0
        self._candidates: list[str] = []
        self._complaints: dict[str, str] = {}
        self._timer: IDelayedCall | None = None
        self._waking: IDelayedCall | None = None
        self._dying: set[Deferred[None]] = set()
        self._openers: list[Deferred[None]] = []
        self._end: ChatError | None = None
        self.readings: dict[str, RoomSubscription] = {}
        self._rejoining: dict[str, IDelayedCall] = {}
        self._outbox = Outbox()
        self._asks: dict[int, _Ask] = {}
        self._own_state: Any = None
        self._last_id = 0
        self._paused = False

    # Its life

    def open(self) -> Deferred[None]:
        """Connect, if it isn't; fires when it is.

        :raises ChatError: by the Deferred: nobody is there, or the server refuses.
        """
        if self._end is not None:
            return fail(self._end)
        if self.up:
            return succeed(None)
        if self.link is None and self._timer is None:
            self._begin_round()
        opener: Deferred[None] = Deferred(lambda deferred: self._openers.remove(deferred))
        self._openers.append(opener)
        return opener

    def close(self) -> Deferred[None]:
        """End everything; fires when no connection and no timer is left."""
        self._finish(Closed(), True)
        return DeferredList(list(self._dying)).addCallback(lambda results: None)

    def switch(self, transports: Sequence[str]) -> Deferred[None]:
        """Go on over another transport, at once; fires when that is open."""
        self.transports = tuple(transports)
        if self._end is None:
            self._drop(False)
            self._begin_round()
        return self.open()

    def _finish(self, error: ChatError, leaving: bool = False) -> None:
        if self._end is not None:
            return
        self._end = error
        self._drop(leaving)
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        self._say(State("closed", reason=error.message))
        self._fail_all(error, True if isinstance(error, Closed) else error)

    def _fail_all(self, error: ChatError, told: ChatError | bool) -> None:
        waiting: list[Deferred[Any]] = [*self._openers, *(ask.answer for ask in self._asks.values())]
        readings = list(self.readings.values())
        for reading in readings:
            waiting += reading.joining
        self._openers, self._asks, self.readings = [], {}, {}
        for deferred in waiting:
            deferred.errback(error)
        self._outbox.fail_all(error)
        for reading in readings:
            reading.end(told)

    def _say(self, state: State) -> None:
        self.state = state
        self._tell(state)

    # Connecting

    def _begin_round(self) -> None:
        """Try all transports, from the best one on."""
        self._timer = None
        self._candidates = list(self.transports)
        self._complaints = {}
        self._attempt()

    def _attempt(self) -> None:
        kind = self._candidates.pop(0)
        link = self.link = self._links[kind](self, Identity(self.client, self._wants.name))
        late = Disconnect(f"no answer within {OPEN_WITHIN:.0f} seconds")
        self._timer = self._clock.callLater(OPEN_WITHIN, self.closed, link, late)
        link.open()
        self._say(State("connecting", kind))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _drop(self, leaving: bool) -> None:
        """Let go of the link, and take note that nothing is on it."""
        self._stop_timer()
        self._stop_rejoining(list(self._rejoining))
        link, self.link = self.link, None
        if link is not None:
            dying = link.close(leaving)
            self._dying.add(dying)
            dying.addBoth(lambda result: self._dying.discard(dying))
        self.up = self._paused = False
        if self._releasing is not None:
            self._releasing.cancel()
            self._releasing = None
        self._outbox.cut_off()
        for reading in self.readings.values():
            reading.cut_off()

    def opened(self, link: Link, welcome: Mapping[str, Any]) -> None:
        """A link's ``hello`` was answered: read all rooms from where they were, and go on with what was begun."""
        if link is not self.link:
            return
        self._stop_timer()
        self.up = self._ever_up = True
        self._up_since = self._clock.seconds()
        self.client = welcome["client"]
        self.user = msgspec.convert(welcome["user"], User)
        self._begin_anew(link)
        self._say(State("connected", link.kind))
        openers, self._openers = self._openers, []
        for opener in openers:
            opener.callback(None)

    def _begin_anew(self, link: Link) -> None:
        if self._own_state is not None:
            link.send({"type": "state", "state": self._own_state})
        for reading in self.readings.values():
            link.join(reading.wish)
        for ask in self._asks.values():
            link.send(ask.command)
        self._flush()

    def closed(self, link: Link, loss: Disconnect) -> None:
        """A link is no more: try the next transport, wait for the next attempt, or give up."""
        if link is not self.link:
            return
        was_up = self.up
        too_large = self._outbox.largest_on_wire() if loss.too_large else None
        if was_up and self._clock.seconds() - self._up_since > STABLE_AFTER:
            self._backoff.succeeded()
        self._drop(False)
        self._complaints[link.kind] = loss.reason
        if self._forgets_client(loss):
            self._begin_round()
        elif self._candidates and (loss.unavailable or not was_up):
            self._attempt()
        else:
            self._give_up_or_retry(loss)
        if too_large is not None:
            self._settle(too_large, Refused("too_large", f"the server takes no message of {too_large.size} bytes"))

    def _forgets_client(self, loss: Disconnect) -> bool:
        """Whether the server doesn't know our client, and will give us another."""
        unknown = loss.error is not None and loss.error.code == "unauthorized" and self.client is not None
        if unknown:
            self.client = None
        return unknown

    def _give_up_or_retry(self, loss: Disconnect) -> None:
        if loss.permanent or not (self._ever_up or (self._wants.patient and not loss.unavailable)):
            self._finish((loss.error if loss.permanent else None) or self._nobody())
        else:
            delay = loss.after + self._backoff.next()
            self._timer = self._clock.callLater(delay, self._begin_round)
            self._say(State("waiting", reason=loss.reason, delay=delay))

    def _nobody(self) -> Unreachable:
        """What was tried, for a person; one reason for all stands there once."""
        if len(set(self._complaints.values())) == 1:
            return Unreachable(next(iter(self._complaints.values())))
        return Unreachable("; ".join(f"{kind}: {reason}" for kind, reason in self._complaints.items()))

    # Reading

    def join(self, room: str, since: Position | None, last: int | None) -> Deferred[RoomSubscription]:
        """Read a room, now and after every reconnect; fires when the server has agreed."""
        if self._end is not None:
            return fail(self._end)
        if room in self.readings:
            return fail(Refused("already_joined", f"room {room} is joined already; leave it first"))
        reading = self.readings[room] = RoomSubscription(room, since, last, self._wants.buffer)
        joined: Deferred[None] = Deferred(lambda deferred: self.leave(reading))
        reading.joining.append(joined)
        if self.up and self.link is not None:
            self.link.join(reading.wish)
        self._look_at_pause()
        return joined.addCallback(lambda ignored: reading)

    def leave(self, reading: RoomSubscription) -> None:
        """Read a room no longer."""
        if self.readings.get(reading.room) is reading:
            del self.readings[reading.room]
            self._stop_rejoining([reading.room])
            if self.up and self.link is not None:
                self.link.leave(reading.room)
            self._outbox.gap(reading.room, False)
            self._look_at_pause()
            self._flush()
        reading.end()

    def consumed(self, reading: RoomSubscription) -> None:
        """The reader has taken an event."""
        if reading.drained and self.readings.get(reading.room) is reading:
            if reading.behind and reading.joined and self.up and self.link is not None:
                reading.cut_off()
                self.link.join(reading.wish)
            self._look_at_pause()

    def _look_at_pause(self) -> None:
        """Take nothing from the server while every reader has much to do already, and no reply is waited for."""
        if self.link is None or not self.up:
            return
        readings = self.readings.values()
        if not self._paused and readings and all(reading.crowded for reading in readings) and not self._waits():
            self._paused = True
            self.link.pause()
        elif self._paused and (self._waits() or not readings or any(reading.drained for reading in readings)):
            self._paused = False
            self.link.resume()

    def _waits(self) -> bool:
        return bool(self._asks or len(self._outbox) or any(not reading.joined for reading in self.readings.values()))

    def _wake_later(self, reading: RoomSubscription) -> None:
        """In a turn of its own: who waited may call us, and we are in the middle of something."""
        if reading.wants_waking and self._waking is None:
            self._waking = self._clock.callLater(0, self._wake)

    def _wake(self) -> None:
        self._waking = None
        for reading in list(self.readings.values()):
            if reading.wants_waking:
                reading.wake()

    def refused(self, link: Link, room: str, error: Refused) -> None:
        """A room can't be joined."""
        reading = self.readings.get(room)
        if link is not self.link or reading is None:
            return
        if error.code == "stopping":
            self.closed(link, Disconnect(error.message, error=error))
            return
        if error.temporary and reading.ever_joined and error.code != "too_many":
            self._join_later(reading)
            return
        del self.readings[room]
        self._outbox.gap(room, False)
        joining, reading.joining = reading.joining, []
        for deferred in joining:
            deferred.errback(error)
        reading.end(error)
        self._flush()

    def _join_later(self, reading: RoomSubscription) -> None:
        """A room can't be read for a while, and the others can."""
        reading.cut_off()
        timer = self._clock.callLater(self._patience.next(), self._join_again, reading)
        self._rejoining[reading.room] = timer

    def _join_again(self, reading: RoomSubscription) -> None:
        del self._rejoining[reading.room]
        if self.up and self.link is not None:
            self.link.join(reading.wish)

    def _stop_rejoining(self, rooms: Sequence[str]) -> None:
        for room in rooms:
            timer = self._rejoining.pop(room, None)
            if timer is not None:
                timer.cancel()

    # What comes

    def received(self, link: Link, event: dict[str, Any]) -> None:
        """A reply or an event came."""
        if link is not self.link:
            return
        try:
            _RECEIVERS.get(event.get("type", ""), Core._answered)(self, event)
        except (KeyError, TypeError, ValueError, RealtimeError) as error:
            self._log.failure("the server sent what the protocol doesn't know")
            self.closed(link, Disconnect(f"the server sent what the protocol doesn't know: {error!r}"))

    def _joined(self, event: dict[str, Any]) -> None:
        reading = self.readings.get(event["room"])
        if reading is None:
            return
        start, top = Position.parse(event["position"]), Position.parse(event["top"])
        lost = reading.position is not None and not event["recovered"]
        if lost:
            self._lose(reading, start)
        reading.begin(start, top)
        self._patience.succeeded()
        if "count" in event:
            presence = read_event({**event, "type": "presence"}, self.user)
            assert isinstance(presence, Presence)
            reading.present(presence)
        self._wake_later(reading)
        joining, reading.joining = reading.joining, []
        for deferred in joining:
            deferred.callback(None)
        self._moved(reading)

    def _lose(self, reading: RoomSubscription, position: Position) -> None:
        """Messages of a room are lost to its reader."""
        self._outbox.gap(reading.room, reading.seen is None or reading.seen.epoch != position.epoch)
        reading.reset(position)

    def _message(self, event: dict[str, Any]) -> None:
        message = read_event(event, self.user)
        assert isinstance(message, Message)
        self._confirm_from_log(message)
        reading = self.readings.get(message.room)
        if reading is None or not reading.joined or reading.is_known(message.position):
            return
        if not reading.follows(message.position):  # no server does this, and no reader shall miss it
            self._lose(reading, Position(message.position.epoch, message.position.offset - 1))
        reading.take(message)
        self._moved(reading)

    def _moved(self, reading: RoomSubscription) -> None:
        self._wake_later(reading)
        self._look_at_pause()
        if reading.caught_up:
            self._flush()

    def _confirm_from_log(self, message: Message) -> None:
        """One of our own messages is in the log, whatever became of its reply."""
        parcel = None if message.key is None else self._outbox.by_key(message.room, message.key)
        if parcel is not None and parcel.sent_by == message.sender.id:
            self._settle(parcel, message.position)

    def _reset(self, event: dict[str, Any]) -> None:
        reading = self.readings.get(event["room"])
        if reading is not None and reading.joined:
            self._lose(reading, Position.parse(event["position"]))
            self._moved(reading)

    def _presence(self, event: dict[str, Any]) -> None:
        presence = read_event(event, self.user)
        reading = self.readings.get(presence.room)
        if isinstance(presence, Presence) and reading is not None:
            reading.present(presence)
            self._moved(reading)

    def _signal(self, event: dict[str, Any]) -> None:
        reading = self.readings.get(event["room"])
        if reading is not None:
            reading.tell(read_event(event, self.user))
            self._moved(reading)

    def _goodbye(self, event: dict[str, Any]) -> None:
        assert self.link is not None
        self.closed(self.link, loss_by_goodbye(event))

    def _error(self, event: dict[str, Any]) -> None:
        error = refusal(event)
        if error.code == "stopping":
            assert self.link is not None
            self.closed(self.link, Disconnect("the server is stopping", 1.0, error))
            return
        parcel = self._outbox.by_id(event.get("id"))
        ask = self._asks.pop(event.get("id"), None)  # type: ignore[arg-type]
        if parcel is not None and error.temporary:
            self._publish_later(parcel, error.code)
        elif parcel is not None:
            self._settle(parcel, error)
        elif ask is not None:
            ask.answer.errback(error)
        elif error.code == "bad_request" and "id" not in event and "room" not in event:
            self._unreadable(error)
        else:
            self._log.warn("the server complains: {code}: {message}", code=error.code, message=error.message)

    def _publish_later(self, parcel: PendingPublish, code: str) -> None:
        """The server can't store it now, or doesn't know whether it is stored: what waits in its room waits on."""
        parcel.refused_for_now(code)
        self._troubled.add(parcel.room)
        if self._releasing is None:
            self._releasing = self._clock.callLater(self._doubts.next(), self._release)
        self._look_at_pause()

    def _release(self) -> None:
        self._releasing = None
        self._flush()

    def _unreadable(self, error: Refused) -> None:
        """The server could not read a command, and can't say which: what may have been it is waited for no longer."""
        parcels = [parcel for parcel in self._outbox if parcel.on_wire]
        asks, self._asks = self._asks, {}
        alone = len(parcels) + len(asks) == 1
        for parcel in parcels:
            self._settle(parcel, error if alone else FateUnknown("the server could not read it, or one beside it"))
        for ask in asks.values():
            ask.answer.errback(error)

    def _published(self, event: dict[str, Any]) -> None:
        parcel = self._outbox.by_id(event.get("id"))
        if parcel is not None:
            self._settle(parcel, Position.parse(event["position"]))

    def _answered(self, event: dict[str, Any]) -> None:
        """The reply to a question, or something that this version doesn't know."""
        ask = self._asks.pop(event.get("id"), None)  # type: ignore[arg-type]
        if ask is not None:
            self._look_at_pause()
            ask.answer.callback(event)

    # What goes

    def ask(self, command: dict[str, Any]) -> Deferred[dict[str, Any]]:
        """Send a command that changes nothing, again after a reconnect; fires with its reply."""
        if self._end is not None:
            return fail(self._end)
        if not self.up and len(self._asks) >= self._wants.offline:
            return fail(QueueFull(self._wants.offline))
        id = self._next_id()
        answer: Deferred[dict[str, Any]] = Deferred(lambda deferred: self._asks.__delitem__(id))
        ask = self._asks[id] = _Ask({**command, "id": id}, answer)
        if self.up and self.link is not None:
            self.link.send(ask.command)
            self._look_at_pause()
        return ask.answer

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def say(self, command: dict[str, Any]) -> None:
        """Send a command that has no reply, if that can be done now."""
        reading = self.readings.get(command["room"])
        if self.up and self.link is not None and reading is not None and reading.joined:
            self.link.send(command)

    def set_state(self, state: Any) -> None:
        """Say something of oneself, now and after every reconnect."""
        self._own_state = state
        if self.up and self.link is not None:
            self.link.send({"type": "state", "state": state})

    def publish(self, room: str, data: bytes, event: str, key: str | None) -> Deferred[Position]:
        """Publish once, whatever becomes of the connection; fires with the message's position.

        :param data: compact JSON.
        """
        if self._end is not None:
            return fail(self._end)
        command = {
            "type": "publish",
            "room": room,
            "event": event,
            "data": msgspec.Raw(data),
            "key": self._token() if key is None else key,
        }
        try:
            parcel = self._outbox.find(command)
        except Refused as error:
            return fail(error)
        if parcel is None:
            full = self._full()
            if full is not None:
                return fail(full)
            parcel = self._outbox.add(self._next_id(), command)
        promise = parcel.promise().addErrback(self._given_up, parcel)
        self._flush()
        self._look_at_pause()
        return promise

    def _full(self) -> QueueFull | None:
        limit = self._wants.online if self.up else self._wants.offline
        return QueueFull(limit) if len(self._outbox) >= limit else None

    def _given_up(self, failure: Any, parcel: PendingPublish) -> Any:
        """Who is cancelled before the message was sent doesn't want it sent."""
        if not parcel.waiting and parcel.first_sent is None:
            self._outbox.remove(parcel)
        return failure

    def _flush(self) -> None:
        """Send what may be sent, in order; give up what can't be told apart from what was stored."""
        given_up = []
        room_left = WINDOW - self._outbox.on_wire
        user = "" if self.user is None else self.user.id
        before: dict[str, str] = {}
        for parcel in self._outbox if self.up else ():
            if room_left > 0 and not parcel.on_wire and self._may_go(parcel, parcel.room in before):
                why = parcel.why_not_again(self._asleep_too(), user)
                if why is not None:
                    self._outbox.remove(parcel)
                    given_up.append((parcel, FateUnknown(why)))
                    continue
                self._send(parcel, user, before.get(parcel.room))
                room_left -= 1
            before[parcel.room] = parcel.key
        for parcel, error in given_up:
            parcel.settle(error)

    def _may_go(self, parcel: PendingPublish, follows: bool) -> bool:
        """First everything that came meanwhile is looked at: the message may be there.

        :param follows: whether another one of its room waits before it.
        """
        if parcel.room in self._troubled and (follows or self._releasing is not None):
            return False
        reading = self.readings.get(parcel.room)
        return reading is None or reading.caught_up

    def _send(self, parcel: PendingPublish, user: str, before: str | None) -> None:
        assert self.link is not None
        if parcel.first_sent is None:
            parcel.first_sent = self._asleep_too()
            parcel.covered = parcel.room in self.readings
        parcel.sent_by = user
        parcel.on_wire = True
        self.link.send(parcel.command if before is None else {**parcel.command, "after": before})

    def _settle(self, parcel: PendingPublish, result: Position | ChatError) -> None:
        self._outbox.remove(parcel)
        if isinstance(result, Position):
            self._doubts.succeeded()
            self._troubled.discard(parcel.room)
        self._look_at_pause()
        parcel.settle(result)
        self._flush()


_RECEIVERS: Mapping[str, Callable[[Core, dict[str, Any]], None]] = MappingProxyType(
    {
        "joined": Core._joined,
        "message": Core._message,
        "reset": Core._reset,
        "presence": Core._presence,
        "signal": Core._signal,
        "goodbye": Core._goodbye,
        "error": Core._error,
        "published": Core._published,
    }
)
