"""nginx and haproxy in front of daemons, as ``docs`` configures them."""

from __future__ import annotations

import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.functional.browsers import program
from tests.functional.daemon import CHECKOUT, Daemon, free_port, wait_until

__all__ = ["Proxy", "balancer", "documented", "haproxy", "nginx"]

_NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{snippet}
}}
"""


def documented(language: str, page: str = "howto/proxies.rst") -> str:
    """The one block of a language on a page, as it stands there."""
    text = (CHECKOUT / "docs" / page).read_text("utf-8")
    (block,) = re.findall(rf"\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", text)
    return block


class Proxy:
    """A proxy that runs.

    :ivar port: where it listens.
    :param path: of the daemon, as it is seen through the proxy.
    """

    def __init__(self, arguments: list[str], log: Path, port: int, path: str = "/chat/") -> None:
        self.port = port
        self._path = path
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_until(self._answers, lambda: f"{arguments[0]} did not answer:\n{log.read_text()}")
        except AssertionError:
            self.end()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"the proxy ended:\n{self._log.read_text()}"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self._path}healthz", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def end(self) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _at(snippet: str, listen: str, here: str, daemons: Sequence[Daemon], first: int = 8080) -> str:
    """A snippet with the addresses of this test, which must not be anything else's.

    :param first: the first daemon's port in the snippet; those of the others follow.
    """
    places = [(f"127.0.0.1:{first + at}", f"127.0.0.1:{daemon.port}") for at, daemon in enumerate(daemons)]
    for address, other in ((listen, here), *places):
        assert snippet.count(address) == 1, address
        snippet = snippet.replace(address, other)
    return snippet


def nginx(directory: Path, daemon: Daemon, snippet: str) -> Proxy:
    """nginx, with this ``server`` in an otherwise empty configuration."""
    directory.mkdir()
    port = free_port()
    snippet = _at(snippet, "listen 443 ssl;", f"listen 127.0.0.1:{port};", [daemon])
    (directory / "nginx.conf").write_text(_NGINX.format(directory=directory, snippet=snippet))
    arguments = [program("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")]
    return Proxy([*arguments, "-e", str(directory / "error.log")], directory / "log", port)


def haproxy(directory: Path, daemon: Daemon, snippet: str) -> Proxy:
    """haproxy, with these frontends and backends for its configuration."""
    return _haproxy(directory, snippet, [daemon], 8080, "/chat/")


def balancer(directory: Path, daemons: Sequence[Daemon]) -> Proxy:
    """haproxy before several daemons, as the operator's pages have it."""
    return _haproxy(directory, documented("text", "operations.rst"), daemons, 8081, "/")


def _haproxy(directory: Path, snippet: str, daemons: Sequence[Daemon], first: int, path: str) -> Proxy:
    directory.mkdir()
    port = free_port()
    certificate = "bind :443 ssl crt /etc/haproxy/example.com.pem"
    snippet = _at(snippet, certificate, f"bind 127.0.0.1:{port}", daemons, first)
    (directory / "haproxy.cfg").write_text(re.sub("(?m)^   ", "", snippet))
    return Proxy([program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")], directory / "log", port, path)
