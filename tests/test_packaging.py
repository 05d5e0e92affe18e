"""The packages that are built from this checkout: what is in them, and that the daemon runs where one is installed."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.daemon import CHECKOUT, free_port, wait_until

_NOT_OURS = ("PYTHON", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "REALTIME_")
_STOPS_WITHIN = 5.0


def _environment() -> dict[str, str]:
    """That of a shell in which nothing of this checkout is active; how pip reaches an index stays.

    pip compiles nothing: it would compile each module of each package, and few of them are imported.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    return {**kept, "PIP_NO_COMPILE": "1"}


def _run(*command: str | Path, cwd: Path) -> str:
    """Run a program, and give what it wrote.

    :raises AssertionError: it failed.
    """
    done = subprocess.run(command, cwd=cwd, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{output}"
    return output


def _pip(*arguments: str | Path, cwd: Path) -> str:
    return _run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


class Packages(NamedTuple):
    """What was built.

    :ivar wheels: a directory with the wheels of all that they need.
    """

    sdist: Path
    wheel: Path
    wheels: Path


@cache
def _directory() -> Path:
    """A directory outside of the checkout that goes when the tests are over; processes of ``trial -j`` share one."""
    if Path(sys.argv[0]).name != "workertrial.py":
        directory = Path(tempfile.mkdtemp(prefix="realtime-packaging-"))
        atexit.register(shutil.rmtree, directory, True)
        return directory
    trial = os.getppid()
    begun = Path(f"/proc/{trial}/stat").read_text().rpartition(")")[2].split()[19]
    directory = Path(tempfile.gettempdir(), f"realtime-packaging-{trial}-{begun}")
    directory.mkdir(exist_ok=True)
    users = (directory / "users").open("a")
    fcntl.flock(users, fcntl.LOCK_SH)
    atexit.register(_leave, directory, users)
    return directory


def _leave(directory: Path, users: IO[str]) -> None:
    """Remove the directory, if no other process uses it."""
    with users, contextlib.suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, True)


@contextlib.contextmanager
def _once(name: str) -> Iterator[bool]:
    """Whether something is to be done now, as no process has done it; others wait until it is."""
    done = _directory() / f"{name}.done"
    with (_directory() / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


def _copy_checkout(to: Path) -> None:
    """Copy what git knows, or would; an unpacked sdist holds nothing else."""
    ask = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (CHECKOUT / ".git").exists():
        shutil.copytree(
            CHECKOUT,
            to,
            ignore=shutil.ignore_patterns(".venv", "node_modules", "_trial_temp*", "*.egg-info", "__pycache__"),
        )
        return
    for name in subprocess.check_output(ask, cwd=CHECKOUT).decode().split("\0"):
        if name and (CHECKOUT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, to / name)


@cache
def _packages() -> Packages:
    """Build the sdist, and from the sdist the wheel, once for all tests."""
    directory = _directory()
    source, dist, wheels = directory / "source", directory / "dist", directory / "wheels"
    with _once("build") as first:
        if first:
            _copy_checkout(source)
            _run(sys.executable, "-m", "build", "--outdir", dist, source, cwd=directory)
        (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
        if first:
            _pip("download", "--quiet", "--dest", wheels, wheel, "setuptools>=77", cwd=directory)
    return Packages(sdist, wheel, wheels)


@cache
def _installed(kind: str) -> Path:
    """Install the ``sdist`` or the ``wheel`` into a new environment, and give the directory of its programs."""
    packages = _packages()
    directory = _directory() / f"from-{kind}"
    with _once(directory.name) as first:
        if first:
            venv.create(directory, with_pip=False)
            # What needs the network was downloaded once for both.
            offline = ("--quiet", "--no-index", "--find-links", packages.wheels)
            python = directory / "bin" / "python"
            _pip("--python", python, "install", *offline, getattr(packages, kind), cwd=_directory())
    return directory / "bin"


class ContentTests(SynchronousTestCase):
    """What is in the packages."""

    places = (0.0, 0.0)  # these build what the others install, while other tests run

    def test_wheel(self) -> None:
        """The wheel has the code, its data and the plugin, no package around the plugin, and no tests."""
        names = set(zipfile.ZipFile(_packages().wheel).namelist())
        package = CHECKOUT / "realtime_chat"
        data = [package / "py.typed", *package.glob("store/sqlite/schema/*.sql"), *package.glob("static/*")]
        wanted = {str(path.relative_to(CHECKOUT)) for path in (*package.rglob("*.py"), *data)}
        self.assertEqual(set(), wanted - names)
        ours = {name for name in names if ".dist-info/" not in name}
        self.assertEqual({"realtime_chat", "twisted"}, {name.partition("/")[0] for name in ours})
        self.assertEqual({"twisted/plugins/realtime_plugin.py"}, {name for name in ours if name.startswith("twisted/")})

    def test_sdist(self) -> None:
        """The sdist has besides that what one needs to work on it: tests, documents, and how to run them."""
        with tarfile.open(_packages().sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        for name in (
            *("Makefile", "chatserver.tac", "README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "LICENSE", ".ci/run"),
            *("tests/test_packaging.py", "tests/functional/daemon.py", "docs/protocol.rst", "docs/conf.py"),
            *("browser/build.py", "browser/package.json", "browser/src/room.js", "tests/functional/suite.js"),
            *("examples/chat-tutorial/example.tac", "examples/chat-tutorial/site/old-poll.html"),
            *("examples/monitor/example.tac", "docs/tutorial/monitor.png"),
            *("realtime_chat/static/index.html", "realtime_chat/store/sqlite/schema/0001.sql"),
            "twisted/plugins/realtime_plugin.py",
        ):
            self.assertIn(name, names)
        self.assertEqual([], [name for name in names if "node_modules" in name])


class InstalledTests(SynchronousTestCase):
    """What was installed from the wheel, used from another directory; subclassed for the sdist."""

    kind = "wheel"
    places = (0.2, 0.7)

    def setUp(self) -> None:
        self.programs = _installed(self.kind)
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()

    def test_is_listed(self) -> None:
        """``twistd`` and ``twist`` know the daemon, and ``twistd realtime --help`` lists its options."""
        for program in ("twistd", "twist"):
            self.assertIn(" realtime ", _run(self.programs / program, "--help", cwd=self.directory))
        self.assertIn("--allow-origin", _run(self.programs / "twistd", "-n", "realtime", "--help", cwd=self.directory))

    def test_console(self) -> None:
        """``realtime-chat`` is there, and says what it can do."""
        self.assertIn("publish", _run(self.programs / "realtime-chat", "--help", cwd=self.directory))

    def test_twistd(self) -> None:
        """``twistd -n realtime`` stores messages, shows the page, and stops in time."""
        self._use("twistd", "-n", "--pidfile=", "realtime")

    def test_twist(self) -> None:
        """``twist realtime`` does the same."""
        self._use("twist", "realtime")

    def _use(self, program: str, *arguments: str) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        place = ("--listen", f"tcp:{port}:interface=127.0.0.1", "--data-dir", str(self.directory / "data"))
        log = self.directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.programs / program, *arguments, *place],
                cwd=self.directory,
                env=_environment(),
                stdout=output,
                stderr=output,
            )
        self.addCleanup(_end, process)
        wait_until(lambda: _answers(process, url + "healthz"), lambda: f"it did not answer:\n{log.read_text()}")
        with urllib.request.urlopen(url + "rooms/lobby/messages", b"text=hi", timeout=DEADLINE) as answer:
            self.assertEqual("published", json.load(answer)["type"])
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            self.assertIn(b"page.js", answer.read())
        said = _run(self.programs / "realtime-chat", "publish", "lobby", "hi", "--url", url, cwd=self.directory)
        self.assertRegex(said, r"^\S+:2\n$")
        watch = Stopwatch(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)
        self.assertLess(watch.seconds(), _STOPS_WITHIN)
        self.assertNotIn("Traceback", log.read_text())


class InstalledFromSdistTests(InstalledTests):
    """What was installed from the sdist, used from another directory."""

    kind = "sdist"


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    assert process.poll() is None, f"it ended with {process.returncode}"
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return bool(answer.status == 200)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
