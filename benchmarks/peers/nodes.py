"""A Redis, and the same server so many times over it: ``nodes.py PORT NODES KEEPING COMMAND …``.

The nodes listen on PORT and those that follow, Redis on the next one; in the command ``@PORT@`` and ``@REDIS@`` stand
for their ports. KEEPING is ``memory``, or ``always``: an append-only file that is synced before each answer.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

KEEPING = {
    "memory": ["--save", "", "--appendonly", "no"],
    "always": ["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
}


def start_redis(port: int, keeping: str) -> subprocess.Popen[bytes]:
    """Start Redis, and wait till it answers."""
    address = ["--port", str(port), "--bind", "127.0.0.1"]
    redis = subprocess.Popen(["redis-server", *address, *KEEPING[keeping], "--maxmemory-policy", "noeviction"])
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return redis
    raise SystemExit("Redis did not start")


def main(port: int, nodes: int, keeping: str, command: list[str]) -> None:
    """Start all of it; end when one of them ends."""
    redis = port + nodes
    start_redis(redis, keeping)
    for node in range(port, redis):
        subprocess.Popen([word.replace("@PORT@", str(node)).replace("@REDIS@", str(redis)) for word in command])
    os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
