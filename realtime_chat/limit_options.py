"""The options for limits: of each client, of each user over all clients, and of each address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from realtime_chat.option_values import read_limit, read_rate, read_size_rate
from realtime_chat.values.rates import DEFAULTS, RateLimits, ScopeLimits

_RATE = "COUNT, COUNT/s, COUNT/m or COUNT/h, and perhaps +BURST for how many at once; 0 for no limit."
_SUBJECTS = {
    "client": "one client",
    "user": "one user with a token, over all clients,",
    "address": "one address, an IPv6 /64 or an IPv4 address,",
}
_RATES = (
    ("commands", "command", "send commands, on any transport"),
    ("publishes", "publish", "publish messages"),
    ("bytes", "byte", "publish, in bytes; with units k m, such as 512k/s+8m"),
    ("signals", "signal", "send signals; a state costs as much as a signal in each room"),
    ("joins", "join", "join rooms"),
    ("connects", "connect", "connect"),
    ("guests", "guest", "bring new guests"),
    ("rooms", "room", "make rooms by a message to them"),
)
"""The field of the limits, its word in an option's name, and what is limited."""

_Options = TypeVar("_Options", bound=type[Any])


class LimitOption(NamedTuple):
    """An option for one limit.

    :ivar scope: whose limit it is, a field of :class:`~realtime_chat.values.rates.RateLimits`.
    :ivar field: which limit, a field of :class:`~realtime_chat.values.rates.ScopeLimits`.
    :ivar default: as text.
    :ivar read: the value of a text. It raises ValueError, and says what would be right.
    """

    name: str
    scope: str
    field: str
    help: str
    default: str
    read: Callable[[str], Any]


def _options() -> Iterator[LimitOption]:
    for scope, subject in _SUBJECTS.items():
        limits: ScopeLimits = getattr(DEFAULTS, scope)
        for field, word, act in _RATES:
            rate = getattr(limits, field)
            if rate is not None:
                name = "signal-rate" if (scope, field) == ("client", "signals") else f"{scope}-{word}-rate"
                in_bytes = field == "bytes"
                read = read_size_rate if in_bytes else read_rate
                yield LimitOption(
                    name, scope, field, f"How fast {subject} may {act}: {_RATE}", rate.text(in_bytes), read
                )
    for field, what in (("connections", "connections may be open"), ("polls", "polls may wait")):
        help = f"How many {what} from one address, an IPv6 /64 or an IPv4 address; 0 for no limit."
        default = str(getattr(DEFAULTS.address, field))
        yield LimitOption(f"address-{field}", "address", field, help, default, read_limit)


LIMIT_OPTIONS = tuple(_options())
"""All of these options, in the order of the help."""


def with_limit_options(options: _Options) -> _Options:
    """Give a class of options a method for each option here. The value of an option is its text, once it is checked."""
    for option in LIMIT_OPTIONS:
        setattr(options, f"opt_{option.name.replace('-', '_')}", _method(option))
    return options


def _method(option: LimitOption) -> Callable[[Any, str], None]:
    def set_limit(self: Any, text: str) -> None:
        self.check_value(option.name, text, option.read)
        self[option.name] = text

    set_limit.__doc__ = f"{option.help} [default: {option.default}]"
    return set_limit


def read_limits(options: Mapping[str, Any]) -> RateLimits:
    """The limits that options set."""
    limits: dict[str, dict[str, Any]] = {scope: {} for scope in _SUBJECTS}
    for option in LIMIT_OPTIONS:
        limits[option.scope][option.field] = option.read(options[option.name])
    return RateLimits(**{scope: ScopeLimits(**given) for scope, given in limits.items()})
