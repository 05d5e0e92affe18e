"""Reads an event stream with a library from PyPI, and prints the data of each event as a line. Arguments: library, URL.

It comes back by itself, with the last id that the library has kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import requests
import sseclient

from tests.deadlines import DEADLINE


def read_sseclient(response: Any, ids: list[str]) -> Iterator[str]:
    """As sseclient-py's documentation shows it."""
    for event in sseclient.SSEClient(response).events():
        if event.id:
            ids.append(event.id)
        yield event.data


def read_lines(response: Any, ids: list[str]) -> Iterator[str]:
    """By hand, as many do: lines from requests, which reads pieces of 512 bytes where an answer has no chunks."""
    for line in response.iter_lines(decode_unicode=True):
        if line.startswith("id: "):
            ids.append(line[4:])
        elif line.startswith("data: "):
            yield line[6:]


LIBRARIES = {"sseclient-py": read_sseclient, "requests": read_lines}


def main(library: str, url: str) -> None:
    """Read for ever."""
    ids: list[str] = []
    while True:
        headers = {"Last-Event-ID": ids[-1]} if ids else {}
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=DEADLINE)
            for data in LIBRARIES[library](response, ids):
                print(data, flush=True)
        except requests.RequestException:
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:3])
