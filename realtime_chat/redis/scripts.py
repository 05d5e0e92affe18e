"""Lua scripts, sent once and run by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from twisted.internet.defer import Deferred

from realtime_chat.redis.wire import Argument, Commands, ServerError

__all__ = ["Script", "load_script"]


class Script:
    """A script, which runs as a whole or not at all as far as anybody else in Redis can see.

    :ivar sha: the hash that EVALSHA takes.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # Redis' own choice

    def call(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Deferred[Any]:
        """Run it where Redis knows it.

        :raises ServerError: also with the word ``NOSCRIPT``.
        """
        return redis.command("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def load(self, redis: Commands) -> Deferred[Any]:
        """Let Redis know it."""
        return redis.command("SCRIPT", "LOAD", self.text)

    async def run(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run it; where Redis doesn't know it (any more), send its text along.

        :param keys: all keys that it uses.
        :raises ServerError: it, or Redis, has answered with an error.
        :raises StoreError: as with any command.
        """
        try:
            return await self.call(redis, keys, arguments)
        except ServerError as error:
            if error.word != "NOSCRIPT":
                raise
        return await self.send(redis, keys, arguments)

    def send(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Deferred[Any]:
        """Run it, and let Redis know it."""
        return redis.command("EVAL", self.text, len(keys), *keys, *arguments)


def load_script(package: str, *names: str) -> Script:
    """The script in a file of a package, or in several that stand one after the other.

    :param package: such as ``realtime_chat.store``.
    :param names: such as ``lua/append.lua``.
    """
    return Script("".join(resources.files(package).joinpath(name).read_text("utf-8") for name in names))
