"""What is said to whom a limit refuses something: which limit it was, and what sets it."""

from __future__ import annotations

from realtime_chat.values.rates import ADDRESS, CLIENT, KINDS, ROOM, USER, Scope

_SUBJECTS = {CLIENT: "a client", USER: "a user", ADDRESS: "an address", ROOM: "a client in this room"}
_ACTS = dict(
    zip(
        KINDS,
        (
            ("send {} commands", "command"),
            ("publish {} messages", "publish"),
            ("publish {} bytes", "byte"),
            ("send {} signals", "signal"),
            ("tell its state to {} rooms", "signal"),
            ("join {} rooms", "join"),
            ("connect {} times", "connect"),
            ("bring {} new guests", "guest"),
            ("make {} rooms", "room"),
        ),
        strict=True,
    )
)
"""What a kind limits, and the word for it in the options."""


def explain(scope: Scope, kind: int) -> str:
    """The message of an error for a limit that was reached."""
    rate = scope.rate(kind)
    if rate is None:  # the limits have changed meanwhile
        return "that was too fast; try again in a moment"
    act, word = _ACTS[KINDS[kind]]
    allowed = f"{_SUBJECTS[scope.name]} may {act.format(rate.count)} a {rate.unit}, and {rate.burst:.10g} at once"
    return f"{allowed} ({_setting(scope.name, word)}); wait as many seconds as after says"


def _setting(scope: str, word: str) -> str:
    """The option, or the key of a rule, that sets a limit."""
    if scope == ROOM:
        return f"{word}-rate of the room's rule"
    return "--signal-rate" if (scope, word) == (CLIENT, "signal") else f"--{scope}-{word}-rate"
