"""Long poll: a read after a position that waits for something to read."""

from __future__ import annotations

from typing import NamedTuple

from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.rate_limiter import ONE_GUEST, Costs
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.http.answers import JSONResource, answer, charged_error
from realtime_chat.http.clients import (
    Wrap,
    address_of,
    asks_for_script,
    costs_of,
    find_identity,
    is_readable,
    new_guest,
    take,
    wrap_for,
)
from realtime_chat.http.subscribe_params import (
    SubscribeParams,
    check_rooms,
    memoized,
    natural,
    read_query,
    read_subscribe_params,
)
from realtime_chat.transports.waiting_poll import WaitingPoll, open_poll
from realtime_chat.values.errors import RealtimeError


class _PollParams(NamedTuple):
    """The parameters of a poll's address.

    :ivar wait: seconds.
    :ivar rooms: their names.
    :ivar costs: a command, and a join for each room that is new to the client. A room in which it has a position costs
        a join only if the store has to be read.
    """

    params: SubscribeParams
    wait: float
    rooms: tuple[str, ...]
    costs: Costs


class PollResource(JSONResource):
    """``/poll``.

    :param jsonp: whether scripts may be answered.
    """

    isLeaf = True

    def __init__(self, hub: Hub, jsonp: bool) -> None:
        super().__init__()
        self._hub = hub
        self._jsonp = jsonp
        self._params = memoized(self._read_params)
        self._deadlines: dict[float, DeadlineQueue[WaitingPoll]] = {}

    def is_guarded(self, request: Request) -> bool:
        return not asks_for_script(request, self._jsonp)

    def render_GET(self, request: Request) -> int:
        """Answer when there is something to tell, or after the wait."""
        wrap = wrap_for(request, self._jsonp)
        try:
            return self._begin(request, wrap)
        except RealtimeError as error:
            return answer(request, wrap(charged_error(request, error)))

    def _begin(self, request: Request, wrap: Wrap) -> int:
        self._hub.check_open()
        params, wait, rooms, costs = self._params(request.uri.partition(b"?")[2])
        identity = self._identify(request, params)
        take(request, self._hub, identity, costs)
        usage = open_poll(self._hub, address_of(request))
        poll = WaitingPoll(request, wrap, self._hub, identity, params, usage)
        if not self._hub.access.are_public(rooms):
            poll.check_readable(params)
        poll.begin(params, self._deadlines.get(wait) or self._make_deadlines(wait))
        return NOT_DONE_YET

    def _identify(self, request: Request, params: SubscribeParams) -> Identity:
        """Who polls. It is nobody if its client would be a new one with each poll, or no script can read the answer."""
        if not is_readable(request, self._jsonp):
            return NOBODY
        identity = find_identity(request, self._hub, params.name)
        if identity is not None:
            return identity
        if all(since is not None for _, since in params.rooms):
            take(request, self._hub, NOBODY, ONE_GUEST)  # it is given a client, too, which it may use
            return NOBODY
        return self._hub.identities.remember(new_guest(request, self._hub, params.name))

    def _make_deadlines(self, wait: float) -> DeadlineQueue[WaitingPoll]:
        """The queue that ends polls after ``wait`` seconds: at most one for each whole second in ``max_wait``."""
        wheel = self._hub.wheel
        seconds = wait - wheel.lateness
        deadlines = self._deadlines[wait] = DeadlineQueue(wheel, seconds, WaitingPoll.answer)
        return deadlines

    def _read_params(self, query: bytes) -> _PollParams:
        """Read the query of an address.

        :raises RealtimeError: something in it is wrong.
        """
        limits = self._hub.limits
        args = read_query(query)
        params = read_subscribe_params(args, limits.max_limit)
        check_rooms(params, limits.max_rooms, "a poll", "poll?room=lobby")
        wait = natural(args, b"wait", int(limits.max_wait))
        rooms = tuple([room for room, _ in params.rooms])
        costs = costs_of(params.joins)
        return _PollParams(params, limits.wait if wait is None else wait, rooms, costs)
