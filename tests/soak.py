"""How much a test does that could go on for long: all of it with ``SOAK=1`` in the environment (``make test-all``)."""

from __future__ import annotations

import os

__all__ = ["SOAK", "examples"]

SOAK = os.environ.get("SOAK") == "1"
"""Whether what takes long is done as long as it can take, and not in its short form."""


def examples(number: int) -> int:
    """How many of so many random examples are tried: a tenth in the short form."""
    return number if SOAK else number // 10
