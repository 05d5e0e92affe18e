"""Keys and channels."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.redis.names import RedisNames, check_prefix


class NamesTests(SynchronousTestCase):
    """What belongs to one scope, one kind and one room alone."""

    def test_never_the_same(self) -> None:
        """No two scopes, kinds or rooms share a name, whatever the rooms are called."""
        names = []
        for prefix in ("a", "a.b", "realtime", "log"):
            for database in (0, 1, 10):
                scope = RedisNames(prefix, database)
                names.append(scope.log)
                for room in ("", "a", "b:a", "1:a", "log", "0:log", "*", "stream:a"):
                    names += [of(room) for of in (scope.stream, scope.keys, scope.room, scope.members, scope.node)]
                    names += [scope.alive(room), *scope.relay(room)]
        self.assertEqual(len(names), len(set(names)))

    def test_relay(self) -> None:
        """What anybody may publish to needs no number for database 0."""
        self.assertEqual(RedisNames("chat", 0).relay("a:b"), ("chat:relay:a:b", "chat:0:relay:a:b"))
        self.assertEqual(RedisNames("chat", 3).relay("a"), ("chat:3:relay:a",))

    def test_room_of(self) -> None:
        """A channel leads back to its room."""
        names = RedisNames("chat", 3)
        self.assertEqual(names.room_of(names.room("a:b")), "a:b")
        for scope in (names, RedisNames("chat", 0)):
            for channel in scope.relay("relay:0:a"):
                self.assertEqual(scope.relay_room_of(channel), "relay:0:a")

    def test_prefix(self) -> None:
        """A prefix is short and has no colon, blank or pattern."""
        for prefix in ("a", "A-z_0.9", "x" * 64):
            self.assertEqual(check_prefix(prefix), prefix)
        for prefix in ("", "a:b", "a b", "*", "a\n", "\u00e4", "x" * 65):
            self.assertRaises(ValueError, check_prefix, prefix)
