"""The options of a client."""

from __future__ import annotations

import attrs

__all__ = ["ClientOptions"]


@attrs.frozen
class ClientOptions:
    """How a client behaves.

    :ivar transports: which transports to try, the best one first.
    :ivar name: the guest's name.
    :ivar client: the secret of the client whose identity to resume.
    :ivar patient: whether to keep trying if the very first attempts reach no server.
    :ivar offline: how many commands may wait while there is no connection.
    :ivar online: how many publishes may wait in total.
    :ivar buffer: how many events may wait for a room's reader.
    """

    transports: tuple[str, ...]
    name: str | None = None
    client: str | None = None
    patient: bool = False
    offline: int = 100
    online: int = 1000
    buffer: int = 1000
