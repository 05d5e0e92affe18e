"""The command ``nginx``: what belongs into nginx's ``server``, so that it passes requests on to the daemon."""

from __future__ import annotations

import argparse
import re

# Without an Upgrade header, "Connection: upgrade" asks for nothing. nginx sends none if the client sent none.
_LOCATION = """\
location {path} {{
    proxy_pass {upstream};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header Forwarded "";
}}
"""
_PATH = re.compile(r"/(?:(?!\.\.?/)[\w.~-]+/)*", re.ASCII)
_UPSTREAM = re.compile(r"[a-z]+://[^/]+/")
_DEFAULT_PATH = "/chat/"
_DEFAULT_UPSTREAM = "http://127.0.0.1:8080/"


def add_nginx_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    what = "print the location block that puts the daemon below a path of your site, to include in nginx's server"
    nginx = commands.add_parser("nginx", help=what, description=f"{what[0].upper()}{what[1:]}.")
    nginx.add_argument(
        "--path", type=_path, default=_DEFAULT_PATH, help=f"where the chat is on your site [default: {_DEFAULT_PATH}]"
    )
    nginx.add_argument(
        "--upstream",
        type=_upstream,
        metavar="URL",
        help=f"where the daemon listens [default: {_DEFAULT_UPSTREAM}]",
    )


def print_location(options: argparse.Namespace) -> int:
    """Print the block. The status is 0."""
    print(_LOCATION.format(path=options.path, upstream=options.upstream or _DEFAULT_UPSTREAM), end="")
    return 0


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no path that begins and ends with a slash, of A-Z a-z 0-9 _ - . ~; right would be /chat/"
        )
    return text


def _upstream(text: str) -> str:
    from realtime_chat.client.server_url import ServerURL  # which imports what connects

    try:
        url = ServerURL(None, text).url
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not _UPSTREAM.fullmatch(url):
        raise argparse.ArgumentTypeError(
            f"{text!r} has a path, and a daemon has none; right would be {_DEFAULT_UPSTREAM}"
        )
    return url
