"""Where the daemon keeps its data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.python import usage

_DATABASE = "realtime.sqlite"


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The data directory if no option names one.

    :raises twisted.python.usage.UsageError: the user has no home directory.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/realtime_chat")
    try:
        return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "realtime_chat"
    except RuntimeError as error:  # neither HOME nor an entry in /etc/passwd
        raise usage.UsageError(
            f"--data-dir: user {os.geteuid()} has no home directory; name one with --data-dir /srv/chat"
        ) from error


def database_path(options: Mapping[str, Any]) -> Path:
    """The path of the SQLite database."""
    store: str | None = options["store"]
    return (
        Path(options["data-dir"] or default_data_dir()) / _DATABASE if store is None else Path(store.partition(":")[2])
    )
