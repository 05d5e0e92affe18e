"""A realtime chat and messaging daemon for people who already have a web site.

``twistd -n realtime`` serves rooms over WebSocket, server-sent events, long poll and plain HTTP from one store.
"""

from importlib import metadata

__all__ = ["__version__"]


def _installed_version() -> str:
    try:
        return metadata.version("realtime_chat")
    except metadata.PackageNotFoundError:  # a bare checkout that was never installed
        return "0+unknown"


__version__ = _installed_version()
