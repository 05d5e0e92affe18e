"""The tests of all transports once more, with nothing that goes past Twisted and Autobahn."""

from __future__ import annotations

from types import ModuleType

from realtime_chat.transports.fast.choice import PLAIN
from tests.transports import test_contract, test_contract_redis, test_sse, test_websocket
from tests.transports.test_contract import ServedTestCase

FAST_ONLY = {
    "FailingSendTests": "it makes the socket's own send fail",
    "OrdinaryTransportTests": "it is the sender of the plain kind among everything else that is fast",
}
"""Test classes that say nothing about the plain kind, with the reason."""


def plain(module: ModuleType) -> dict[str, type]:
    """A subclass of each test class of a module, whose daemon moves its bytes by Twisted and Autobahn alone."""
    cases = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ServedTestCase)
        if value.__module__ == module.__name__ and name.endswith("Tests") and name not in FAST_ONLY
    }
    prefix = module.__name__.rpartition("_")[2].capitalize()
    return {
        f"Plain{prefix}{name}": type(
            f"Plain{prefix}{name}", (case,), {"io": PLAIN, "repeats": True, "__module__": __name__}
        )
        for name, case in cases.items()
    }


for tested in (test_contract, test_contract_redis, test_sse, test_websocket):
    globals().update(plain(tested))
