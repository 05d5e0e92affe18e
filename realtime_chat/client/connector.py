"""Keeps a client connected: picks a transport, falls back to the next one, and reconnects after a delay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from realtime_chat.client.credentials import Credentials, Retry, TokenSource
from realtime_chat.client.errors import ChatError, Closed, Unreachable
from realtime_chat.client.events import OwnUser, State
from realtime_chat.client.link import Disconnect, Link, LinkListener, OpenLink, refusal

OPEN_WITHIN = 10.0
STABLE_AFTER = 10.0
SHORTEST = 0.5
LONGEST = 20.0


@attrs.frozen
class ClientOptions:
    """How a client behaves.

    :ivar transports: which transports to try, the best one first.
    :ivar name: the guest's name.
    :ivar client: the secret of the client whose identity to resume.
    :ivar tokens: gives tokens; None for a guest.
    :ivar patient: whether to keep trying if the very first attempts reach no server.
    :ivar offline: how many commands may wait while there is no connection.
    :ivar online: how many publishes may wait in total.
    :ivar buffer: how many events may wait for a room's reader.
    """

    transports: tuple[str, ...]
    name: str | None = None
    client: str | None = None
    tokens: TokenSource | None = None
    patient: bool = False
    offline: int = 100
    online: int = 1000
    buffer: int = 1000


class Backoff:
    """Exponential backoff with full jitter: a random time up to a bound that doubles with each failure.

    Clients that were cut off together don't come back together (M. Brooker, "Exponential Backoff And Jitter", 2015).

    :param random: returns a float from 0 up to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def next(self) -> float:
        """Count one more failure, and return the seconds to wait: from 0.5 to at most 20."""
        bound = min(LONGEST, 2.0 ** min(self._failures, 10))
        self._failures += 1
        return SHORTEST + self._random() * (bound - SHORTEST)

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures = 0


class ConnectorListener(LinkListener, Protocol):
    """Receives what links report, and the changes of the connection."""

    def connected(self, link: Link) -> None:
        """A link is up: send what has to be sent on each new connection."""

    def disconnected(self) -> None:
        """No link is up: nothing is on the wire any more."""

    def identity_changed(self) -> None:
        """The client is another user from now on: drop everything that is the first one's."""

    def stopped(self, error: ChatError) -> None:
        """The connector has stopped for good: fail everything that waits."""


class Connector:
    """Holds one link at a time.

    ============ ================================= ======================================================
    State        Event                             What happens
    ============ ================================= ======================================================
    closed       :meth:`open`                      tries the first transport: *connecting*
    connecting   the link is opened                *connected*
    connecting   the link is closed, or too late   tries the next transport; after the last one *waiting*
    connecting   another user is welcomed          drops everything of the first one: *connecting*
    connected    a token gets old                  asks for a new one, and sends it: *connected*
    connected    the link is closed                *waiting*, or the next transport if this one can't work
    waiting      the delay is over                 tries the first transport again: *connecting*
    any          :meth:`switch`                    drops the link, tries the new transports: *connecting*
    any          a permanent error, :meth:`close`  *closed*, for good
    ============ ================================= ======================================================

    Without ``patient``, it is closed for good if the first attempts reach no server. The application is asked for a
    token in the beginning, before one gets old, and when the server takes the client no longer; not to reconnect.

    :param random: returns a float from 0 up to 1.
    :param links: makes a link, by transport.
    :param listener: receives what the links report.
    :param on_state: is called with each new state.
    :ivar link: the link that is open or being opened.
    :ivar up: whether the link is open.
    :ivar stopped_by: why it has stopped for good; None while it runs.
    """

    def __init__(
        self,
        clock: IReactorTime,
        random: Callable[[], float],
        links: Mapping[str, OpenLink],
        options: ClientOptions,
        listener: ConnectorListener,
        on_state: Callable[[State], None],
    ) -> None:
        self._clock = clock
        self._links = links
        self._options = options
        self._listener = listener
        self._on_state = on_state
        self._backoff = Backoff(random)
        self._transports = options.transports
        self._candidates: list[str] = []
        self._reasons: dict[str, str] = {}  # why each transport failed in this round
        self._timer: IDelayedCall | None = None
        self._ever_up = False
        self._up_since = 0.0
        self._closing: set[Deferred[None]] = set()
        self._waiting: list[Deferred[None]] = []
        self._credentials = Credentials(options.client, options.name, options.tokens is not None)
        self._asking: Deferred[str | None] | None = None
        self._on_token: tuple[Callable[[str | None], None], Callable[[ChatError], None]] | None = None
        self._renewal: IDelayedCall | None = None
        self._renewal_due = False
        self._renewals = Backoff(random)
        self.state = State("closed")
        self.user: OwnUser | None = None
        self.link: Link | None = None
        self.up = False
        self.stopped_by: ChatError | None = None

    @property
    def open_link(self) -> Link | None:
        """The link, if it is open."""
        return self.link if self.up else None

    @property
    def client(self) -> str | None:
        """The secret of the client."""
        return self._credentials.client

    # What the application asks for

    def open(self) -> Deferred[None]:
        """Connect, unless that is done; fires when there is a connection.

        :raises ChatError: by the Deferred: no server can be reached, or the server refuses.
        """
        if self.stopped_by is not None:
            return fail(self.stopped_by)
        if self.up:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda deferred: self._waiting.remove(deferred))
        self._waiting.append(waiting)
        if self.link is None and self._timer is None and self._asking is None:
            self._begin_round()
        return waiting

    def close(self) -> Deferred[None]:
        """Stop for good; fires when no connection and no timer is left."""
        self._stop(Closed(), True)
        return DeferredList(list(self._closing)).addCallback(lambda results: None)

    def switch(self, transports: Sequence[str]) -> Deferred[None]:
        """Move to other transports at once; fires when one of them is open."""
        self._transports = tuple(transports)
        if self.stopped_by is None:
            self._drop(False)
            self._begin_round()
        return self.open()

    def _stop(self, error: ChatError, leaving: bool = False) -> None:
        if self.stopped_by is not None:
            return
        self.stopped_by = error
        self._drop(leaving)
        self._stop_renewal()
        if self._asking is not None:
            self._asking.cancel()
        self._set_state(State("closed", reason=error.message))
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(error)
        self._listener.stopped(error)

    def _set_state(self, state: State) -> None:
        self.state = state
        self._on_state(state)

    # Attempts

    def _begin_round(self) -> None:
        """Try all transports, the best one first."""
        self._timer = None
        self._candidates = list(self._transports)
        self._reasons = {}
        if self._credentials.needs_token:
            self._ask(self._attempt_with, self._no_token)
            if self._asking is not None:
                self._set_state(State("connecting"))
        else:
            self._attempt()

    def _attempt_with(self, token: str | None) -> None:
        self._credentials.take(token)
        self._attempt()

    def _no_token(self, error: ChatError) -> None:
        if error.temporary and (self._ever_up or self._options.patient):
            self._retry(Disconnect(error.message))
        else:
            self._stop(error)

    def _attempt(self) -> None:
        kind = self._candidates.pop(0)
        link = self.link = self._links[kind](self._listener, self._credentials.identity)
        late = Disconnect(f"no answer within {OPEN_WITHIN:.0f} seconds")
        self._timer = self._clock.callLater(OPEN_WITHIN, self._listener.closed, link, late)
        link.open()
        self._set_state(State("connecting", kind))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _drop(self, leaving: bool) -> None:
        """Close the link; nothing is on the wire then."""
        self._stop_timer()
        link, self.link = self.link, None
        if link is not None:
            closing = link.close(leaving)
            self._closing.add(closing)
            closing.addBoth(lambda result: self._closing.discard(closing))
        self.up = False
        self._listener.disconnected()

    # What happens to the link

    def opened(self, link: Link, welcome: Mapping[str, Any]) -> None:
        """The server has welcomed us on the link."""
        if link is not self.link:
            return
        self._stop_timer()
        if not self._welcomed(welcome):
            self._start_over()
            return
        self.up = self._ever_up = True
        self._up_since = self._clock.seconds()
        self._listener.connected(link)
        self._set_state(State("connected", link.kind))
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)
        if self._renewal_due and self.up:
            self.renew()

    def lost(self, link: Link, disconnect: Disconnect) -> None:
        """The link is gone: try the next transport, wait for the next attempt, or stop."""
        was_up = self.up
        if was_up and self._clock.seconds() - self._up_since > STABLE_AFTER:
            self._backoff.succeeded()
        self._drop(False)
        self._reasons[link.kind] = disconnect.reason
        retry = self._credentials.refused(disconnect.error)
        if retry is Retry.NOW:
            self._begin_round()
        elif retry is Retry.LATER and (self._ever_up or self._options.patient):
            self._retry(disconnect)
        elif retry is not None:
            assert disconnect.error is not None
            self._stop(disconnect.error)
        elif self._candidates and (disconnect.unavailable or not was_up):
            self._attempt()
        else:
            self._stop_or_retry(disconnect)

    def _stop_or_retry(self, disconnect: Disconnect) -> None:
        is_soon = disconnect.error is not None and disconnect.error.after is not None
        may_retry = self._ever_up or is_soon or (self._options.patient and not disconnect.unavailable)
        if disconnect.permanent or not may_retry:
            self._stop((disconnect.error if disconnect.permanent else None) or self._unreachable())
        else:
            self._retry(disconnect)

    def _retry(self, disconnect: Disconnect) -> None:
        delay = disconnect.retry_after + self._backoff.next()
        self._timer = self._clock.callLater(delay, self._begin_round)
        self._set_state(State("waiting", reason=disconnect.reason, delay=delay))

    def _unreachable(self) -> Unreachable:
        """The error that says why each transport failed; a reason that all share is said once."""
        if len(set(self._reasons.values())) == 1:
            return Unreachable(next(iter(self._reasons.values())))
        return Unreachable("; ".join(f"{kind}: {reason}" for kind, reason in self._reasons.items()))

    # Tokens

    def _ask(self, use: Callable[[str | None], None], failed: Callable[[ChatError], None]) -> None:
        """Get a token for ``use(token)``. The last one that asks gets a token that is awaited already."""
        assert self._options.tokens is not None
        self._on_token = use, failed
        if self._asking is None:
            self._asking = asking = self._options.tokens.get()
            asking.addCallbacks(self._token_came, self._token_failed)

    def _token_came(self, token: str | None) -> None:
        self._asking = None
        if self.stopped_by is None and self._on_token is not None:
            self._renewal_due = False
            self._on_token[0](token)

    def _token_failed(self, failure: Failure) -> None:
        self._asking = None
        if self.stopped_by is None and self._on_token is not None:
            error = failure.value
            assert isinstance(error, ChatError)
            self._on_token[1](error)

    def _welcomed(self, welcome: Mapping[str, Any]) -> bool:
        """The server says who we are. Returns False if that is somebody else, and either of the two is a user."""
        user, before, token = msgspec.convert(welcome["user"], OwnUser), self.user, self._credentials.token
        self._credentials.welcomed(welcome["client"], user)
        if token is not None and self._options.tokens is not None:
            self._renew_later(self._options.tokens.renew_after(token, welcome.get("expires")))
        if before is not None and before.id != user.id and not (before.guest and user.guest):
            return False
        self.user = user
        return True

    def _start_over(self) -> None:
        """We are somebody else: drop everything, and connect anew."""
        self._drop(True)
        self.user = None
        self._listener.identity_changed()
        self._begin_round()

    def _stop_renewal(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None and renewal.active():
            renewal.cancel()

    def _renew_later(self, seconds: float | None) -> None:
        self._stop_renewal()
        if seconds is not None:
            self._renewal = self._clock.callLater(seconds, self.renew)

    def renew(self) -> None:
        """Ask for a new token, and go on with it; without a connection, when there is one."""
        self._renewal_due = self._options.tokens is not None and not self.up
        if self._options.tokens is not None and self.up:
            self._ask(self._send_token, self._renewal_failed)

    def _send_token(self, token: str | None) -> None:
        """Go on with a new token. Only the same user can do that on a link; for anybody else all begins anew."""
        link, was_user = self.open_link, self._credentials.is_user
        if link is None:
            self._renewal_due = True
            return
        self._credentials.take(token)
        if token is not None and was_user:
            link.renew(token)
        elif token is not None or was_user:
            self._credentials.forget_client()
            self._start_over()

    def _renewal_failed(self, error: ChatError) -> None:
        if error.temporary:
            self._renew_later(self._renewals.next())
        else:
            self._stop(error)

    def renewed(self, link: Link, reply: Mapping[str, Any]) -> None:
        """The server has answered the new token."""
        if link is not self.link:
            return
        if reply["type"] == "welcome":
            self._renewals.succeeded()
            self._welcomed(reply)
            return
        error = refusal(reply)
        if error.code == "forbidden":
            self._credentials.forget_client()
            self._start_over()
        elif error.temporary or self._credentials.take_back(error.code):
            self._renew_later(self._renewals.next())
        else:
            self._stop(error)
