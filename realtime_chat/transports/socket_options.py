"""What the kernel knows of a connection, and may be told about it. All of it is documented in tcp(7)."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Any

__all__ = ["abort_when_stalled", "acknowledged", "in_kernel"]

_ACKED_AT = 120
"""Where ``tcpi_bytes_acked`` stands in ``struct tcp_info`` (linux/tcp.h)."""


def in_kernel(transport: Any) -> int:
    """Bytes that the kernel holds because the peer has not acknowledged them; 0 where that can't be told.

    A TLS transport has the attributes of the transport below it, whose socket holds the bytes.
    """
    try:
        answer = fcntl.ioctl(transport.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (AttributeError, OSError):
        return 0
    return int(struct.unpack("i", answer)[0])


def acknowledged(transport: Any) -> int | None:
    """How many bytes the peer has acknowledged in all (``TCP_INFO``); None where the kernel doesn't tell."""
    try:
        information = transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
        return int(struct.unpack_from("Q", information, _ACKED_AT)[0])
    except (AttributeError, OSError, struct.error):
        return None


def abort_when_stalled(transport: Any, seconds: float) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing for ``seconds``, where the kernel can
    (``TCP_USER_TIMEOUT``, RFC 5482)."""
    connection, option = getattr(transport, "socket", None), getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and isinstance(connection, socket.socket):
        with suppress(OSError):  # the connection is gone, or is not TCP
            connection.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))
