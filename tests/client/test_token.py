"""Tokens: who the client is, renewal, and another user, with a fake clock and a server without sockets.

``tests/browser/token.test.js`` has the same promises for ``realtime.js``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.credentials import Credentials, Retry, TokenFunction, TokenSource
from realtime_chat.client.errors import ChatError, Closed, FateUnknown, NoToken, Refused
from realtime_chat.client.events import Message, OwnUser, Reset, Rights
from realtime_chat.client.link import Disconnect
from realtime_chat.values.errors import RealtimeError
from tests.client.test_core import World


class _Site:
    """An application that gives tokens for a user, each of them another one.

    :ivar asked: how often it was asked.
    """

    def __init__(self, sub: str | None) -> None:
        self.sub = sub
        self.asked = 0
        self.error: Exception | None = None

    def __call__(self) -> str | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return None if self.sub is None else f"{self.sub}:{self.asked}"


class _TokenWorld(World):
    """A core with tokens of a site."""

    def __init__(self, token: str | TokenFunction, **options: Any) -> None:
        self.source = _Lazy(token)
        super().__init__(tokens=self.source, **options)


class _Lazy(TokenSource):
    """A source whose clock is the world's."""

    def __init__(self, token: str | TokenFunction) -> None:
        self.clock = Clock()
        super().__init__(self.clock, token, lambda: self.now())
        self.now: Callable[[], float] = self.clock.seconds


def _world(token: str | TokenFunction, **options: Any) -> _TokenWorld:
    world = _TokenWorld(token, **options)
    world.source.now = world.clock.seconds
    world.settle()
    return world


def _hello(world: World) -> dict[str, Any]:
    fields = world.server.hellos[-1]
    return {name: fields[name] for name in ("client", "name", "token") if name in fields}


class HelloTests(SynchronousTestCase):
    """What is said in a ``hello``."""

    def test_first(self) -> None:
        """The application is asked for a token, and its user has no name of its own."""
        site = _Site("u7")
        world = _world(site, name="Ann")
        self.assertEqual({"token": "u7:1"}, _hello(world))
        self.assertEqual(OwnUser("u7", "y", False, {"role": "staff"}), world.core.connector.user)
        self.successResultOf(world.opening)

    def test_kinds(self) -> None:
        """A token is a string, or is returned, or comes by a Deferred or another awaitable."""

        async def later() -> str:
            return "u7:1"

        for token in ("u7:1", lambda: "u7:1", lambda: succeed("u7:1"), later):
            self.assertEqual({"token": "u7:1"}, _hello(_world(token)))

    def test_guest(self) -> None:
        """Without a token the client is a guest with its name, and there is nothing to renew."""
        site = _Site(None)
        world = _world(site, name="Ann")
        self.assertEqual({"name": "Ann"}, _hello(world))
        world.clock.advance(1e6)
        self.assertEqual(1, site.asked)

    def test_reconnect(self) -> None:
        """The application isn't asked to connect again: the client that the server gave is enough."""
        site = _Site("u7")
        world = _world(site, name="Ann")
        for _ in range(20):
            world.link.cut()
            world.clock.advance(0.8)
            world.link.deliver_command()
            world.link.deliver_event()
            self.assertTrue(world.core.connector.up)
            self.assertEqual({"client": "sealed-u7:1"}, _hello(world))
            world.clock.advance(0.1)
            world.core.connector._backoff.succeeded()
        self.assertEqual(1, site.asked)

    def test_all_transports(self) -> None:
        """One token is enough for all transports of a round."""
        site = _Site("u7")
        world = _TokenWorld(site)
        world.link.deliver_command()
        world.link.cut(unavailable=True)
        world.settle()
        self.assertEqual(("b", {"token": "u7:1"}, 1), (world.link.kind, _hello(world), site.asked))

    def test_client_and_token(self) -> None:
        """A client that is given stays the same with a token of its user, and is given up for another's."""
        self.assertEqual({"client": "sealed-u7:0", "token": "u7:1"}, _hello(_world(_Site("u7"), client="sealed-u7:0")))
        other = _world(_Site("u8"), client="sealed-u7:0")
        self.assertEqual({"token": "u8:1"}, _hello(other))
        self.assertTrue(other.core.connector.up)


class NoTokenTests(SynchronousTestCase):
    """An application that gives no token."""

    def test_lasting(self) -> None:
        """An error that isn't temporary ends the chat, and nobody is asked again."""
        for error in (Refused("unauthorized", "log in first"), RealtimeError("forbidden", "no")):
            site = _Site("u7")
            site.error = error
            world = _TokenWorld(site, patient=True)
            world.clock.advance(100)
            stopped = world.core.connector.stopped_by
            assert stopped is not None
            self.assertEqual((error.code, 1, []), (stopped.code, site.asked, world.links))
            self.assertTrue(world.opening.called, "who waits for the connection is told")

    def test_passing(self) -> None:
        """After any other error the application is asked again, after a delay that grows."""
        site = _Site("u7")
        site.error = OSError("the site is away")
        world = _TokenWorld(site, patient=True)
        delays = []
        for _ in range(7):
            delays.append(world.states[-1].delay)
            world.clock.advance(delays[-1])
        self.assertEqual([0.75, 1.25, 2.25, 4.25, 8.25, 10.25, 10.25], delays)
        self.assertEqual(("waiting", "there is no token: OSError: the site is away"), _last(world))
        site.error = None
        world.clock.advance(10.25)
        world.settle()
        self.assertTrue(world.core.connector.up)

    def test_beginning(self) -> None:
        """Without patience, the chat can't be opened without a token."""
        site = _Site("u7")
        site.error = OSError("the site is away")
        world = _TokenWorld(site)
        self.assertIsInstance(world.core.connector.stopped_by, NoToken)
        self.assertTrue(world.opening.called, "who waits for the connection is told")

    def test_nonsense(self) -> None:
        """What is no token is an error that says what would be right."""
        for value in (7, b"u7:1", ["u7"], "ü"):
            world = _TokenWorld(lambda value=value: value, patient=True)  # type: ignore[misc]
            self.assertIn("right is a token, or None for a guest", world.states[-1].reason)

    def test_silence(self) -> None:
        """A token that doesn't come within 30 seconds is asked for again, and may not come later."""
        first: Deferred[str | None] = Deferred()
        answers = [first, succeed("u7:2")]
        world = _TokenWorld(lambda: answers.pop(0), patient=True)
        world.source.clock.advance(30)
        self.assertEqual(("waiting", "there is no token: nothing came within 30 seconds"), _last(world))
        first.callback("u7:1")
        world.clock.advance(1)
        world.settle()
        self.assertEqual({"token": "u7:2"}, _hello(world))

    def test_once_at_a_time(self) -> None:
        """One token is awaited at a time, whatever is asked for meanwhile."""
        asked: list[Deferred[str | None]] = []
        world = _TokenWorld(lambda: asked.append(Deferred()) or asked[-1])  # type: ignore[func-returns-value]
        world.core.connector.renew()
        world.core.connector.open()
        world.core.connector.switch(("b",))
        self.assertEqual(1, len(asked))
        asked[0].callback("u7:1")
        world.settle()
        self.assertEqual((["b"], 1), ([link.kind for link in world.links], len(asked)))

    def test_close(self) -> None:
        """A chat that is closed waits for no token."""
        cancelled: list[Any] = []
        world = _TokenWorld(lambda: Deferred(cancelled.append))
        self.successResultOf(world.core.connector.close())
        self.assertEqual((1, []), (len(cancelled), world.links))
        self.assertIsInstance(world.core.connector.stopped_by, Closed)


def _last(world: World) -> tuple[str, str]:
    return world.states[-1].kind, world.states[-1].reason


class RenewalTests(SynchronousTestCase):
    """A new token before the old one's time is over."""

    def test_on_the_connection(self) -> None:
        """After four fifths of its life a token is renewed, on the same connection."""
        site = _Site("u7")
        world = _world(site)
        world.clock.advance(79.9 - world.clock.seconds())
        self.assertEqual(1, site.asked)
        world.clock.advance(0.2)
        world.settle()
        self.assertEqual(({"token": "u7:2"}, 1), (_hello(world), len(world.links)))
        self.assertEqual("sealed-u7:2", world.core.connector.client)

    def test_life(self) -> None:
        """A life is measured by the clock of who made the token; without ``iat``, by the server's and ours."""
        source = TokenSource(Clock(), lambda: None, lambda: 1000.0)
        for claims, expires, expected in (
            ({"iat": 5e9, "exp": 5e9 + 300}, 0, 240),
            ({"exp": 5e9}, 1_100_000, 80),
            ({"iat": 1, "exp": 2}, None, 8),
            ({"iat": "x", "exp": 9}, None, None),
            ({}, 0, 8),
        ):
            token = f"h.{base64.urlsafe_b64encode(msgspec.json.encode(claims)).decode().rstrip('=')}.s"
            self.assertEqual(expected, source.renew_after(token, expires), claims)
        self.assertEqual(8, source.renew_after("rubbish", 0))
        self.assertIsNone(TokenSource(Clock(), "h.p.s", lambda: 0.0).renew_after("h.p.s", 100_000))

    def test_failing_site(self) -> None:
        """While the application gives none, the connection stays, and it is asked again."""
        site = _Site("u7")
        world = _world(site)
        site.error = OSError("away")
        world.core.connector.renew()
        world.clock.pump([1.0] * 10)
        self.assertGreater(site.asked, 3)
        world.link.cut()
        world.settle()
        self.assertTrue(world.core.connector.up, "the client is still good, so no token is needed")
        self.assertEqual({"client": "sealed-u7:1"}, _hello(world))
        world.core.connector.close()

    def test_logged_out(self) -> None:
        """If the application refuses a renewal for good, the chat ends with its error."""
        site = _Site("u7")
        world = _world(site)
        site.error = Refused("unauthorized", "logged out")
        world.core.connector.renew()
        self.assertIs(site.error, world.core.connector.stopped_by)

    def test_expired(self) -> None:
        """A client whose time is over, by a goodbye or an error, comes back with a new token and is the same."""
        goodbye = Disconnect.by_goodbye({"reason": "token_expired", "close_code": 4004, "reconnect": True, "after": 0})
        error = Disconnect.by_error(Refused("token_expired", "over"))
        for disconnect in (goodbye, error):
            site = _Site("u7")
            world = _world(site)
            world.link.cut_by(disconnect)
            world.settle()
            self.assertEqual({"client": "sealed-u7:1", "token": "u7:2"}, _hello(world))
            self.assertEqual((2, True), (site.asked, world.core.connector.up))

    def test_expired_while_away(self) -> None:
        """A client that the server takes no longer is answered with a new token."""
        site = _Site("u7")
        world = _world(site)
        world.server.refused["u7:1"] = "token_expired"
        world.link.cut()
        world.settle()
        self.assertEqual(({"client": "sealed-u7:1", "token": "u7:2"}, 2), (_hello(world), site.asked))

    def test_refused_token(self) -> None:
        """A new token that the server refuses ends the chat; one that is expired is asked for again."""
        for refused, asked in (("unauthorized", 1), ("token_expired", 2)):
            site = _Site("u7")
            world = _TokenWorld(site, patient=True)
            world.server.refused["u7:1"] = refused
            world.settle()
            stopped = world.core.connector.stopped_by
            self.assertEqual((asked, refused == "unauthorized"), (site.asked, stopped is not None))

    def test_same_again(self) -> None:
        """A token that is expired, and given again, ends the chat: asking again would give the same."""
        for token in ("u7:1", lambda: "u7:1"):
            world = _TokenWorld(token, patient=True)
            world.server.refused["u7:1"] = "token_expired"
            world.settle()
            stopped = world.core.connector.stopped_by
            assert stopped is not None
            self.assertEqual(("token_expired", 2), (stopped.code, len(world.server.hellos)))

    def test_a_client_without_tokens(self) -> None:
        """A user's client that is over ends the chat, and is never replaced by a guest."""
        world = World(client="sealed-u7:0", patient=True)
        world.server.refused["u7:0"] = "token_expired"
        world.settle()
        stopped = world.core.connector.stopped_by
        assert stopped is not None
        self.assertEqual(("token_expired", 1), (stopped.code, len(world.server.hellos)))


class OtherUserTests(SynchronousTestCase):
    """Another user in place of the first."""

    def check(self, world: _TokenWorld, expected: str) -> None:
        self.assertEqual(expected, getattr(world.core.connector.user, "id", None))
        self.assertTrue(world.core.connector.up)
        self.assertEqual([], [message["data"] for log in world.server.logs for message in log.messages])

    def begin(self, site: _Site) -> _TokenWorld:
        world = _TokenWorld(site)
        world.source.now = world.clock.seconds
        world.join()
        world.settle()
        return world

    def test_renewal(self) -> None:
        """If a renewal is another user's, nothing that waits is sent as that one, and rooms begin anew."""
        for sub, user in (("u8", "u8"), (None, "u-c1-1")):
            site = _Site("u7")
            world = self.begin(site)
            site.sub = sub
            world.server.offline = True
            world.publish()
            query = world.core.query({"type": "ping"})
            world.core.connector.renew()
            world.link.commands.clear() if sub is None else world.link.commands.rotate(1)
            world.server.offline = False
            if sub is not None:
                world.link.deliver_command()
                world.link.deliver_event()
            self.assertIsInstance(world.results["m0"][0], FateUnknown)
            self.failureResultOf(query, Closed)
            world.settle()
            self.check(world, user)
            self.assertEqual([Reset], [type(event) for event in world.seen])

    def test_next_connection(self) -> None:
        """If the next connection is of another user, what was written before isn't sent."""
        site = _Site("u7")
        world = self.begin(site)
        world.server.refused["u7:1"] = "token_expired"
        site.sub = "u8"
        world.link.cut()
        world.publish()
        world.settle()
        self.check(world, "u8")
        self.assertIsInstance(world.results["m0"][0], Closed)

    def test_guests(self) -> None:
        """One guest in place of another goes on where it was, as always."""
        world = self.begin(_Site(None))
        world.server.forget_clients()
        world.link.cut()
        world.publish()
        world.settle()
        self.assertEqual(["m0"], [event.data for event in world.seen if isinstance(event, Message)])


class RoomTests(SynchronousTestCase):
    """What the client may do in a room."""

    def test_left(self) -> None:
        """A room that may be read no longer ends with an error, and is not joined again."""
        world = World()
        world.join()
        world.settle()
        assert world.subscription is not None
        world.link.events.append({"type": "left", "room": "lobby", "reason": "forbidden"})
        world.settle()
        ended = world.subscription.ended
        assert isinstance(ended, ChatError)
        self.assertEqual(("forbidden", {}), (ended.code, world.core.rooms))
        world.link.cut()
        world.settle()
        self.assertEqual({}, world.core.rooms)

    def test_rights(self) -> None:
        """Rights are known from a join on, and an event tells each change once."""
        world = World()
        world.join()
        world.settle()
        assert world.subscription is not None
        for rights in ("rw", "r", "r", "rwm"):
            world.link.events.append({"type": "rights", "room": "lobby", "rights": rights})
        world.settle()
        self.assertEqual([Rights("lobby", "r"), Rights("lobby", "rwm")], world.seen)
        self.assertEqual("rwm", world.subscription.rights)


class CredentialsTests(SynchronousTestCase):
    """What follows if the server refuses who the client is."""

    def test_table(self) -> None:
        """Each refusal is answered at once, later or never, and by no loop."""
        for has_tokens, client, is_user, token, code, expected in (
            (True, "c", True, None, "token_expired", Retry.LATER),
            (True, "c", True, None, "unauthorized", Retry.NOW),
            (True, "c", False, None, "unauthorized", Retry.NOW),
            (True, "c", True, "t", "forbidden", Retry.NOW),
            (True, "c", True, "t", "unauthorized", Retry.NOW),
            (True, None, False, "t", "unauthorized", Retry.NEVER),
            (True, None, False, "t", "forbidden", Retry.NEVER),
            (True, None, False, "t", "token_expired", Retry.LATER),
            (False, "c", False, None, "unauthorized", Retry.NOW),
            (False, "c", True, None, "unauthorized", Retry.NEVER),
            (False, "c", False, None, "token_expired", Retry.NEVER),
            (False, None, False, None, "unauthorized", Retry.NEVER),
            (False, "c", False, None, "forbidden", None),
            (True, "c", True, "t", "stopping", None),
        ):
            credentials = Credentials(client, None, has_tokens)
            credentials.is_user, credentials.token = is_user, token
            row = has_tokens, client, is_user, token, code
            self.assertIs(expected, credentials.refused(Refused(code, "no")), row)
        self.assertIsNone(Credentials("c", None, True).refused(None))

    def test_failing_deferred(self) -> None:
        """A Deferred that fails is as good as a function that raises."""
        error = Refused("unauthorized", "log in first")
        world = _TokenWorld(lambda: fail(error), patient=True)
        self.assertIs(error, world.core.connector.stopped_by)
