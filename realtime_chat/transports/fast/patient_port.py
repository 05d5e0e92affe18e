"""A listening port that accepts few connections in one turn of the reactor.

Twisted adapts how many connections a port accepts at once, up to hundreds. Strangers who connect and disconnect in a
loop would then delay everybody who is connected. With a few a turn, new connections wait in the kernel's backlog
while the open ones are served.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp

__all__ = ["LEANS_ON", "accept_few"]

LEANS_ON = ("twisted.internet.tcp:Port.numberAccepts",)
"""What is used of Twisted beyond its documented interfaces."""

_ACCEPTS = 8
"""Connections that a port accepts in one turn of the reactor."""


class _PatientPort(tcp.Port):
    numberAccepts = property(lambda self: _ACCEPTS, lambda self, number: None)  # noqa: N815


def accept_few(port: Any) -> None:
    """Make a listening TCP port accept only a few connections in a turn. Any other port is left as it is."""
    if type(port) is tcp.Port:
        port.__class__ = _PatientPort
