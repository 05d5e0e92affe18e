"""Lua scripts, which are sent once and run by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from twisted.internet.defer import Deferred

from realtime_chat.redis.wire import Argument, Commands, ServerError

__all__ = ["Script", "load_script"]


class Script:
    """A Lua script. Redis runs it as a whole, with nothing else in between.

    :ivar sha: the hash for EVALSHA.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # Redis requires SHA-1

    def call(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Deferred[Any]:
        """Run the script by its hash.

        :raises ServerError: Redis answered with an error; its word is ``NOSCRIPT`` if Redis doesn't know the script.
        """
        return redis.command("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def load(self, redis: Commands) -> Deferred[Any]:
        """Load the script into Redis."""
        return redis.command("SCRIPT", "LOAD", self.text)

    async def run(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run the script by its hash. If Redis doesn't know it, send its text.

        :param keys: all keys that it uses.
        :raises ServerError: the script or Redis answered with an error.
        :raises StoreError: as with any command.
        """
        try:
            return await self.call(redis, keys, arguments)
        except ServerError as error:
            if error.word != "NOSCRIPT":
                raise
        return await self.send(redis, keys, arguments)

    def send(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Deferred[Any]:
        """Run the script by its text, which also loads it."""
        return redis.command("EVAL", self.text, len(keys), *keys, *arguments)


def load_script(package: str, *names: str) -> Script:
    """Load a script from a file of a package, or from several files, one after another.

    :param package: such as ``realtime_chat.store.redis``.
    :param names: such as ``lua/append.lua``.
    """
    return Script("".join(resources.files(package).joinpath(name).read_text("utf-8") for name in names))
