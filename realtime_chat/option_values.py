"""What the value of an option may be, and what a text means. Each message says what would be right."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path

from realtime_chat.core.access import AccessPolicy
from realtime_chat.http.client_address import TrustedProxies
from realtime_chat.http.host_list import Authority, HostList
from realtime_chat.http.origins import OriginPolicy
from realtime_chat.http.static_files import NO_PAGE, OWN_PAGE, check_directory
from realtime_chat.listening import check_parent_directory
from realtime_chat.redis.address import SCHEMES, parse_address
from realtime_chat.values.access import READ
from realtime_chat.values.model import is_room
from realtime_chat.values.rates import Rate

_LOG_EXAMPLE = "/var/log/realtime/access.log"

_TOKEN_URL = re.compile(r"(?:https?://([^/]+))?/(?!/)[\w.~%!$&'()*+,;=:@/?-]*", re.ASCII)
"""A path, or a URL; browsers take ``//`` and ``/\\`` for the beginning of a host."""

_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_DURATIONS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def read_count(text: str, example: int) -> int:
    """A whole number above 0.

    :param example: what would be right.
    :raises ValueError: it is something else.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise ValueError(f"{text!r} is not a whole number above 0; right would be {example}")
    return int(text)


def _parse_quantity(text: str, units: dict[str, int], example: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([a-zA-Z]?)", text)
    if match is None or match[2].lower() not in units or int(match[1]) == 0:
        known = " ".join(filter(None, units))
        raise ValueError(f"{text!r} is not a number above 0 and perhaps a unit ({known}); right would be {example}")
    return int(match[1]) * units[match[2].lower()]


def read_limit(text: str) -> int | None:
    """A whole number; None for 0, which is no limit.

    :raises ValueError: it is something else.
    """
    return None if text == "0" else read_count(text, 1000)


def read_rate(text: str, in_bytes: bool = False) -> Rate | None:
    """A rate; None for 0, which is no limit.

    :raises ValueError: it is something else.
    """
    return None if text == "0" else Rate.parse(text, in_bytes)


def read_size_rate(text: str) -> Rate | None:
    """A rate in bytes, perhaps with units; None for 0, which is no limit.

    :raises ValueError: it is something else.
    """
    return read_rate(text, True)


def read_size(text: str) -> int:
    """Bytes, perhaps with a unit.

    :raises ValueError: it is something else, or out of range.
    """
    size = _parse_quantity(text, _SIZES, "64k")
    if not 1024 <= size <= 16 * 1024**2:
        raise ValueError(f"{text!r} is not from 1k to 16m; right would be 64k")
    return size


def read_duration(text: str) -> float:
    """Seconds, perhaps with a unit.

    :raises ValueError: it is something else.
    """
    return float(_parse_quantity(text, _DURATIONS, "30d"))


def read_lifetime(text: str) -> float:
    """Seconds, perhaps with a unit; 0 for no end.

    :raises ValueError: it is something else.
    """
    if text == "0":
        return 0.0
    return float(_parse_quantity(text, _DURATIONS, "1h, or 0 for no end"))


def check_store(text: str) -> str:
    """Return what names a store.

    :raises ValueError: it names none.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind in SCHEMES:
        parse_address(text)
    elif not colon or kind not in ("sqlite", "memory") or (kind == "sqlite") != bool(rest):
        raise ValueError(
            f"{text!r} names no store; right would be sqlite:PATH, redis://HOST/0, or memory: (which forgets "
            "everything when it stops)"
        )
    return text


def check_redis_installed(text: str) -> str:
    """Return the address of a Redis server, if the package for Redis is there.

    :raises ValueError: it isn't.
    """
    if importlib.util.find_spec("txredisapi") is None:
        raise ValueError(
            "Redis needs txredisapi, which is not installed; right would be pip install txredisapi hiredis"
        )
    return text


def read_log_path(directory: Path | None, text: str) -> str:
    """The path of a log file. It may be in a directory that the daemon will create.

    :param directory: that directory; None if the daemon creates none.
    :param text: an absolute path.
    :raises ValueError: no file can be there.
    """
    path = Path(text)
    if not text or path.is_dir():
        raise ValueError(f"{text!r} is no file; right would be {_LOG_EXAMPLE}")
    made = () if directory is None else (directory.absolute(), *directory.absolute().parents)
    if path.parent not in made:
        check_parent_directory(text, text, _LOG_EXAMPLE)
    return str(path)


def check_host(text: str) -> str:
    """Return the name of a host that can be served.

    :raises ValueError: it can't be.
    """
    HostList([text])
    return text


def check_room_name(text: str) -> str:
    """Return the name of a room.

    :raises ValueError: no room can have it.
    """
    if not is_room(text):
        raise ValueError(f"{text!r} is no room's name; right would be lobby, or up to 128 of A-Z a-z 0-9 _ - . : @ ~")
    return text


def check_guests_read(access: AccessPolicy, room: str) -> str:
    """Return the name of a room that guests may read.

    :raises ValueError: they may not.
    """
    if not access.rights(None, room) & READ:
        raise ValueError(
            f'guests may not read {room!r}; right would be a rule for it, [[room]] with guests = "rw", or another room'
        )
    return room


def check_origin(text: str) -> str:
    """Return a web origin.

    :raises ValueError: it is none.
    """
    OriginPolicy([text])
    return text


def check_proxy(text: str) -> str:
    """Return what names proxies that can be trusted.

    :raises ValueError: it names none.
    """
    TrustedProxies.parse([text])
    return text


def read_page(text: str) -> str | Path:
    """What is at ``/``: on, off, or the absolute path of a directory.

    :raises ValueError: it is nothing of these, or the directory can't be served.
    """
    if text in (OWN_PAGE, NO_PAGE):
        return text
    if not text:
        raise ValueError(f"{text!r} is no page; right would be {OWN_PAGE}, {NO_PAGE} or a directory")
    directory = Path(text)
    check_directory(directory)
    return directory


def check_token_url(text: str) -> str:
    """Return the address at which a site gives tokens: a path of the chat's own origin, or a URL of http or https.

    :raises ValueError: it is neither.
    """
    match = _TOKEN_URL.fullmatch(text)
    with contextlib.suppress(ValueError):
        if match is not None and (match[1] is None or Authority.parse(match[1])):
            return text
    raise ValueError(
        f"{text!r} is no address of a token; right would be a path from the root of the site, such as /token/, or a "
        "URL such as https://example.com/token/"
    )


def read_text(text: str) -> str:
    """A text that can be seen.

    :raises ValueError: it is empty, or has control characters.
    """
    if not text.isprintable() or not text.strip():
        raise ValueError(f"{text!r} is no name; right would be one such as https://example.com")
    return text
