"""nginx, Apache, haproxy, lighttpd and Varnish in front of daemons, as ``docs`` configures them."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.deadlines import DEADLINE
from tests.functional.browsers import program
from tests.functional.daemon import CHECKOUT, Daemon, free_port, wait_until

__all__ = ["PROXIES", "Proxy", "balancer", "documented", "haproxy", "nginx"]

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

_APACHE = """
ServerName localhost
DefaultRuntimeDir {directory}
PidFile {directory}/apache.pid
ErrorLog {directory}/log
Listen 127.0.0.1:{port}
{modules}
{user}
{snippet}
"""
_APACHE_MODULES = "mpm_event", "authz_core", "proxy", "proxy_http"

_LIGHTTPD = """
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{directory}"
server.pid-file = "{directory}/lighttpd.pid"
server.upload-dirs = ("{directory}")
{snippet}
"""


def documented(language: str, page: str = "howto/proxies.rst") -> str:
    """The one block of a language on a page, as it stands there.

    :param page: its path below ``docs``.
    """
    text = (CHECKOUT / "docs" / page).read_text("utf-8")
    (block,) = re.findall(rf"\.\. code-block:: {language}\n(?:   :\w+:.*\n)*\n((?:   .*\n|\n)+)", text)
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
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self._path}healthz", timeout=DEADLINE).close()
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


def _at(snippet: str, *places: tuple[str, str]) -> str:
    """A snippet with the addresses of this test, which must not be anything else's.

    :param places: pairs of what stands in it, once, and what is there instead.
    """
    for there, here in places:
        assert snippet.count(there) == 1, there
        snippet = snippet.replace(there, here)
    return snippet


def _user() -> str:
    """Who Apache's children are, where its parent is root."""
    return "User nobody\nGroup nogroup" if os.getuid() == 0 else ""


def nginx(directory: Path, daemon: int | None, snippet: str, listen: str = "listen 443 ssl;") -> Proxy:
    """nginx, with this ``server`` in an otherwise empty configuration.

    :param directory: files that it includes may be there already.
    :param daemon: its port; so it is with the other proxies. None if an included file says it.
    :param listen: how it says there where it listens.
    """
    directory.mkdir(exist_ok=True)
    port = free_port()
    places = [(listen, f"listen 127.0.0.1:{port};")]
    snippet = _at(snippet, *places, *([] if daemon is None else [_daemon(daemon)]))
    (directory / "nginx.conf").write_text(_NGINX.format(directory=directory, snippet=snippet))
    arguments = [program("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")]
    return Proxy([*arguments, "-e", str(directory / "error.log")], directory / "log", port)


def _daemon(port: int) -> tuple[str, str]:
    return "127.0.0.1:8080", f"127.0.0.1:{port}"


def apache(directory: Path, daemon: int, snippet: str) -> Proxy:
    """Apache, with this ``VirtualHost`` in an otherwise empty configuration."""
    directory.mkdir()
    port = free_port()
    snippet = _at(snippet, ("*:443", f"127.0.0.1:{port}"), _daemon(daemon))
    modules = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _APACHE_MODULES)
    text = _APACHE.format(directory=directory, port=port, modules=modules, user=_user(), snippet=snippet)
    (directory / "apache.conf").write_text(text)
    arguments = [program("apache"), "-d", str(directory), "-f", str(directory / "apache.conf"), "-DFOREGROUND"]
    return Proxy(arguments, directory / "log", port)


def lighttpd(directory: Path, daemon: int, snippet: str) -> Proxy:
    """lighttpd, with these lines after those that say where it listens."""
    directory.mkdir()
    port = free_port()
    snippet = _at(snippet, ('"port" => 8080', f'"port" => {daemon}'))
    (directory / "lighttpd.conf").write_text(_LIGHTTPD.format(directory=directory, port=port, snippet=snippet))
    return Proxy([program("lighttpd"), "-D", "-f", str(directory / "lighttpd.conf")], directory / "log", port)


def varnish(directory: Path, daemon: int, snippet: str) -> Proxy:
    """Varnish with this VCL."""
    directory.mkdir()
    port = free_port()
    (directory / "chat.vcl").write_text(_at(snippet, ('.port = "8080"', f'.port = "{daemon}"')))
    options = ("-F", "-n", str(directory / "varnish"), "-T", "none", "-s", "malloc,16m", "-j", "none")
    listen = ("-a", f"127.0.0.1:{port}", "-f", str(directory / "chat.vcl"))
    return Proxy([program("varnish"), *options, *listen], directory / "log", port)


def haproxy(directory: Path, daemon: int, snippet: str) -> Proxy:
    """haproxy, with these frontends and backends for its configuration."""
    return _haproxy(directory, snippet, [_daemon(daemon)], "/chat/")


def balancer(directory: Path, daemons: Sequence[Daemon]) -> Proxy:
    """haproxy before several daemons, as the operator's pages have it."""
    places = [(f"127.0.0.1:{8081 + at}", f"127.0.0.1:{daemon.port}") for at, daemon in enumerate(daemons)]
    return _haproxy(directory, documented("text", "operations.rst"), places, "/")


def _haproxy(directory: Path, snippet: str, daemons: Sequence[tuple[str, str]], path: str) -> Proxy:
    directory.mkdir()
    port = free_port()
    certificate = "bind :443 ssl crt /etc/haproxy/example.com.pem"
    snippet = _at(snippet, (certificate, f"bind 127.0.0.1:{port}"), *daemons)
    (directory / "haproxy.cfg").write_text(re.sub("(?m)^   ", "", snippet))
    return Proxy([program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")], directory / "log", port, path)


PROXIES: dict[str, tuple[Callable[[Path, int, str], Proxy], str]] = {
    "nginx": (nginx, "nginx"),
    "Apache": (apache, "apache"),
    "haproxy": (haproxy, "text"),
    "lighttpd": (lighttpd, "lighttpd"),
    "Varnish": (varnish, "vcl"),
}
"""Each that the documents configure: what starts it, and the language of its block there."""
