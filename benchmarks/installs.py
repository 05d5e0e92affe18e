"""What the peers need: installed where that may be done, else named."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.hotloop import BUILD
from benchmarks.servers import Server

__all__ = ["install", "missing"]

_NPM = {
    "socket.io": "^4.8",
    "@socket.io/redis-adapter": "^8.3",
    "bufferutil": "^4.1",
    "redis": "^5.12",
    "utf-8-validate": "^6.0",
    "ws": "^8.18",
}
_MODULES = {"libnginx-mod-nchan": Path("/usr/lib/nginx/modules/ngx_nchan_module.so")}
_WITH = {"nodejs": ("nodejs", "npm"), "gcc": ("gcc", "libc6-dev")}


def missing(server: Server) -> list[str]:
    """What this server needs and isn't there, in words."""
    return [
        *(f"the Debian package {package}" for package in _missing_packages(server)),
        *(f"the npm package {name}" for name in _missing_npm(server)),
        *(f"the Python package {name} (in the extra bench)" for name in server.distributions if not _has_python(name)),
    ]


def install(servers: Iterable[Server], say: Callable[[str], None]) -> None:
    """Install what is missing of Debian's and npm's packages, as far as that may be done here.

    The load generator itself needs gcc.
    """
    wanted = list(servers)
    packages = {package for server in wanted for package in _missing_packages(server)}
    if shutil.which("gcc") is None:
        packages.add("gcc")
    if packages:
        _install_packages(sorted(packages), say)
    names = sorted({name for server in wanted for name in _missing_npm(server)})
    if names:
        _install_npm(names, say)


def _missing_packages(server: Server) -> list[str]:
    return [package for program, package in server.programs if not _has_program(program, package)]


def _has_program(program: str, package: str) -> bool:
    """Whether a program is there; some packages bring a file in the place of a program."""
    if package in _MODULES:
        return _MODULES[package].exists()
    return shutil.which(program) is not None


def _missing_npm(server: Server) -> list[str]:
    return [name for name in server.npm if not (BUILD / "node_modules" / name).exists()]


def _has_python(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _install_packages(packages: list[str], say: Callable[[str], None]) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say(f"Only root may install; please do: apt-get install {' '.join(packages)}")
        return
    names = [name for package in packages for name in _WITH.get(package, (package,))]
    say(f"Installing the Debian packages {' '.join(names)} …")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-qq", "--yes", "--no-install-recommends"]
    for command in (["apt-get", "-qq", "update"], ["apt-get", *options, "install", *names]):
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)


def _install_npm(names: list[str], say: Callable[[str], None]) -> None:
    if shutil.which("npm") is None:
        say("npm is missing; please do: apt-get install npm")
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    say(f"Installing the npm packages {' '.join(names)} …")
    packages = [f"{name}@{_NPM[name]}" for name in names]
    command = ["npm", "install", "--prefix", str(BUILD), "--no-audit", "--no-fund", "--silent", *packages]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
