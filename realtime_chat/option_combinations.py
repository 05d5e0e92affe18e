"""Which options of ``twistd realtime`` can't work together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from twisted.python import usage

from realtime_chat.core.access import AccessPolicy
from realtime_chat.http.host_list import names_loopback
from realtime_chat.http.static_files import OWN_PAGE
from realtime_chat.listening import Endpoint, is_loopback
from realtime_chat.option_values import check_guests_read

ENDPOINTS = ("listen", "legacy-listen", "metrics-listen")
"""The options that say where to listen."""

_PAGE_OPTIONS = ("page", "token-url")

G = TypeVar("G")
T = TypeVar("T")


class CheckedOptions(Protocol):
    """Options whose values are right, each by itself; see :class:`realtime_chat.options.Options`."""

    defaults: dict[str, Any]
    is_embedded: bool
    listening: dict[str, list[str]]

    @property
    def access(self) -> AccessPolicy:
        """Who may do what in which room."""

    def __getitem__(self, name: str) -> Any:
        """The value of an option."""

    def is_given(self, name: str) -> bool:
        """Whether the command line or the file says it."""

    def check_value(self, option: str, given: G, read: Callable[[G], T]) -> T:
        """The value of an option."""

    def refused(self, option: str, what: str) -> usage.UsageError:
        """The error for an option, which says where it was given."""


def check_combinations(options: CheckedOptions) -> None:
    """Refuse options that can't work together.

    :raises UsageError:
    """
    if options["redis"] is None:
        _refuse_redis_options(options)
    _refuse_same_endpoints(options)
    _check_connections(options)
    check_page(options)
    if not (options["open"] or options["token-key"]):
        _refuse_strangers(options)
    _check_legacy_room(options)


def check_page(options: CheckedOptions) -> None:
    """Refuse options for the chat page where there is none.

    :raises UsageError:
    """
    for option in _PAGE_OPTIONS if options.is_embedded else ():
        if options.is_given(option):
            raise options.refused(
                option, "makeService was given a site, which answers in place of the chat page; leave this out"
            )
    if options["token-url"] is not None and options["page"] != OWN_PAGE:
        raise options.refused(
            "token-url", "this is for the chat page; leave it out, as a page of yours names it itself"
        )


def _check_legacy_room(options: CheckedOptions) -> None:
    room = options["legacy-room"]
    if options["legacy-listen"] and not options.listening["listen"]:  # a reload may close the room
        options.check_value("legacy-room", room, partial(check_guests_read, options.access))
    elif not options["legacy-listen"] and room != options.defaults["legacy-room"]:
        raise options.refused("legacy-room", "this is for --legacy-listen ENDPOINT; leave it out")


def _refuse_same_endpoints(options: CheckedOptions) -> None:
    taken: set[str] = set()
    for option in ENDPOINTS:
        for endpoint in options[option]:
            if endpoint in taken:
                raise options.refused(option, f"{endpoint!r} is there already; right would be another port")
            if int(Endpoint.parse(endpoint).port or 1) != 0:  # port 0 is any free port
                taken.add(endpoint)


def _check_connections(options: CheckedOptions) -> None:
    """Refuse a limit of an address that the limit of all addresses together would always come before."""
    name, most = "address-connections", options["max-connections"]
    if options.is_given(name) and most is not None and int(options[name]) > most:
        raise options.refused(name, f"all addresses together have {most} (max-connections); right would be fewer")


def _refuse_strangers(options: CheckedOptions) -> None:
    """Without keys everybody is a guest, who may do anything. So others may not come in by mistake."""
    for option, is_ours, names in (
        *((name, is_loopback, (*options[name], *options.listening[name])) for name in ("listen", "legacy-listen")),
        ("host", names_loopback, options["host"]),
    ):
        for name in names:
            if not is_ours(name):
                raise options.refused(
                    option,
                    f"others can reach {name!r}, and without keys anybody may read and write every room; right "
                    "would be --token-key FILE (realtime-chat key makes one), or --open if anybody may",
                )


def _refuse_redis_options(options: CheckedOptions) -> None:
    for option in ("store-prefix", "store-password-file", "store-ca", "relay"):
        if options[option] not in (options.defaults.get(option), []):
            raise options.refused(option, "this is for --store redis://HOST/0; leave it out")
