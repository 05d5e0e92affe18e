"""What no log, error, page or metric may hold: secrets, and what proves who somebody is.

Tokens and sealed clients are found by their form, wherever they come from. Classic clients look like any other word;
those of a test's own clients are remembered, and the store's secret tells the others.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from realtime_chat.core.identity import Identities
from realtime_chat.values.errors import RealtimeError

__all__ = ["Secrets", "access_logs", "assert_tells_nothing", "remember"]

_FORMS = {
    "a token": re.compile(r"eyJ[A-Za-z0-9_-]{20,}"),
    "a client": re.compile(r"AZjEC[A-Za-z0-9_-]{20,}"),
    "a reader": re.compile(r"ApjEC[A-Za-z0-9_-]{20,}"),
}
"""How the JSON of a token begins in base64url, and the first bytes of a sealed client and of its reader."""

_RUN = re.compile(r"[A-Za-z0-9_-]{32,}")
_CLASSIC = 32
_PIECE = 24
_SHORT = 8
"""Characters of a secret of which less is no secret."""

_issued: set[str] = set()
"""Pieces of all clients and readers that this process has got."""


def remember(*texts: str | None) -> None:
    """Remember clients or readers that a daemon has issued."""
    for text in texts:
        if text is not None:
            starts = {*range(0, len(text) - _PIECE + 1, _PIECE), max(0, len(text) - _PIECE)}
            _issued.update(text[start : start + _PIECE] for start in starts)


class Secrets:
    """The secrets of one daemon, and what it has issued."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}
        self._identities: Identities | None = None

    def learn(self, options: Iterable[str], directory: Path) -> None:
        """Learn what a daemon with these options reads, as it is now.

        :param directory: where it runs, and has its data.
        """
        for name, value in _options(options):
            if name in ("token-key", "store-password-file"):
                self._learn_file(directory / value)
            elif name == "store" and "@" in value:
                self._keep(value.rpartition("@")[0].rpartition(":")[2], "the password of a store")
        self._learn_database(directory / "data" / "realtime.sqlite")

    def _learn_file(self, path: Path) -> None:
        if path.is_file():
            text = path.read_text(errors="replace")
            lines = [] if text.lstrip().startswith(("{", "-----BEGIN PUBLIC", "-----BEGIN CERT")) else text.split("\n")
            for line in lines:
                self._keep(line.strip(), f"a line of {path.name}")

    def _learn_database(self, path: Path) -> None:
        try:
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                (secret,) = connection.execute("SELECT secret FROM identity").fetchone()
            finally:
                connection.close()
        except (sqlite3.Error, TypeError):
            return
        self._identities = Identities(lambda: secret, lambda count: b"\0" * count)
        for text in (secret.hex(), base64.b64encode(secret).decode().rstrip("="), repr(secret)[2:-1]):
            self._keep(text, "the store's secret")

    def _keep(self, text: str, what: str) -> None:
        if len(text) >= _SHORT:
            self._kept[text] = what

    def found_in(self, text: str) -> list[str]:
        """What of all that is in a text: each with a few of its characters."""
        found = [f"{what}: {hit[:40]}" for what, form in _FORMS.items() for hit in set(form.findall(text))]
        found += [what for secret, what in self._kept.items() if secret in text]
        for run in set(_RUN.findall(text)):
            if any(run[start : start + _PIECE] in _issued for start in range(len(run) - _PIECE + 1)):
                found.append(f"something that was issued: {run[:40]}")
            elif len(run) == _CLASSIC and self._is_classic(run):
                found.append(f"a client: {run}")
        return found

    def _is_classic(self, text: str) -> bool:
        try:
            return self._identities is not None and self._identities.find(text) is not None
        except RealtimeError:
            return False


def _options(options: Iterable[str]) -> list[tuple[str, str]]:
    """Options of a command line, with their values."""
    words = list(options)
    pairs = [(word.partition("=")[0], word.partition("=")[2]) for word in words if "=" in word]
    pairs += [(word, following) for word, following in pairwise(words) if "=" not in word]
    return [(name[2:], value) for name, value in pairs if name.startswith("--")]


def access_logs(options: Iterable[str], directory: Path) -> list[Path]:
    """The access logs that a command line names."""
    return [directory / value for name, value in _options(options) if name == "access-log"]


def assert_tells_nothing(answer: Mapping[str, Any]) -> None:
    """An error tells no secret. What an answer has issued is remembered."""
    if answer.get("type") == "error":
        found = Secrets().found_in(json.dumps({**answer, "id": None}))
        assert not found, (found, answer)
    else:
        remember(answer.get("client"), answer.get("reader"))
