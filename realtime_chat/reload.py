"""Reading the options and their files again while the daemon runs, on SIGHUP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from twisted.logger import Logger
from twisted.python.usage import UsageError

from realtime_chat.http.static_files import PageRefused
from realtime_chat.limit_options import LIMIT_OPTIONS
from realtime_chat.listening import ListenRefused
from realtime_chat.options import Options

RELOADED = (
    *("rules", "open", "keys", "token-key", "token-audience", "token-issuer"),
    *("host", "allow-origin", "max-connections", "trusted-proxy", "page", "token-url", "access-log"),
    *(option.name for option in LIMIT_OPTIONS),
)
"""The options that take effect at once. All others need a restart."""

_SHOWN = {"rules": "[[room]]", "keys": "token-key", "redis": "store"}
"""How something that is read for an option, or beside the options, is called for people."""

_DERIVED = ("socketio",)
"""What is made anew of other options each time, and can't be compared."""

_CERTIFICATE = "the certificate"


class Reload:
    """Reads the options again, and lets the daemon go on with those that need no restart.

    If anything is wrong, nothing changes. Either way the log says so in one line.

    :param started: the options that the daemon was started with.
    :param take: lets the daemon go on with other options, and says whether a certificate differs. It raises
        ``ListenRefused``, ``PageRefused`` or ``OSError`` if it can't; then nothing has changed.
    """

    _log = Logger()

    def __init__(self, started: Options, take: Callable[[Options], bool]) -> None:
        self._started = started
        self._taken = started
        self._take = take

    def __call__(self) -> None:
        """Read everything again."""
        try:
            options = self._started.again()
            is_certified = self._take(options)
        except (UsageError, ListenRefused, PageRefused, OSError) as error:
            self._log.error("nothing was reloaded, and all goes on as before: {error}", error=str(error))
            return
        changed = _shown(name for name in RELOADED if options[name] != self._taken[name])
        waiting = _shown(
            name for name in options.keys() - {*RELOADED, *_DERIVED} if options[name] != self._started[name]
        )
        self._taken = options
        self._tell([*changed, *[_CERTIFICATE] * is_certified], waiting)

    def _tell(self, changed: Collection[str], waiting: Collection[str]) -> None:
        says = [
            f"in force now: {', '.join(changed)}" if changed else "nothing has changed",
            *[f"in force after a restart: {', '.join(waiting)}"] * bool(waiting),
        ]
        self._log.info("reloaded; {says}", says="; ".join(says))


def _shown(names: Iterable[str]) -> list[str]:
    return sorted({_SHOWN.get(name, name) for name in names})
