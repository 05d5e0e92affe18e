"""Wrong options and environments, as a table: what a real ``twistd`` says of each, and the status that it ends with."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import DeferredSemaphore, gatherResults
from twisted.internet.threads import deferToThread

from realtime_chat.limit_options import LIMIT_OPTIONS
from realtime_chat.options import Options
from realtime_chat.store.sqlite.file import APPLICATION_ID
from tests.functional.daemon import CHECKOUT, TWISTD, DaemonTestCase, wait_until
from tests.functional.forked import ForkedProcess

_AT_ONCE = 4
_COLUMNS, _LINES = 80, 24
"""A screen."""

HOMELESS = f"import os; os.geteuid = os.getuid = lambda: 54321; del os.environ['HOME']; {TWISTD}"
"""As a user whom ``/etc/passwd`` doesn't know, which containers have."""
WITHOUT_REDIS = f"import sys; sys.modules['txredisapi'] = None; {TWISTD}"


class Row(NamedTuple):
    """One mistake.

    :ivar options: after ``realtime``. In braces stand a directory of files that are there, and a port that is taken.
    :ivar wrong: what the message says is wrong, in these words.
    :ivar right: what it says would be right.
    :ivar runner: options before ``realtime``.
    :ivar program: what runs twistd.
    """

    options: str
    wrong: str
    right: str
    runner: str = ""
    program: str = TWISTD


MEMORY = "--store memory: --listen tcp:0:interface=127.0.0.1"
EARLY = (
    Row("--listen ''", "--listen: '' is no endpoint", "tcp:8080:interface=127.0.0.1"),
    Row("--listen 8081", "--listen: '8081' is no endpoint", "tcp:8080:interface=127.0.0.1"),
    Row("--listen tcp:99999", "a port that isn't from 0 to 65535", "tcp:8080:interface=127.0.0.1"),
    Row("--listen carrier:pigeon", "'carrier:pigeon' is no endpoint", "tcp:8080:interface=127.0.0.1"),
    Row("--listen unix:/nowhere/chat.sock", "there is no directory /nowhere", "unix:/run/chat.sock"),
    Row("--listen unix:{long}", "a path above 107 bytes", "unix:/run/chat.sock"),
    Row("--listen ssl:0:privateKey=/nowhere.pem", "/nowhere.pem can't be read", "privateKey=key.pem:certKey=cert.pem"),
    Row("--listen ssl:0:privateKey={here}/text", "is no endpoint", "privateKey=key.pem:certKey=cert.pem"),
    Row("--listen systemd:domain=INET:index=0", "no such socket was handed over", "a .socket unit of systemd"),
    Row("--listen systemd:domain=INET:name=web", "no such socket was handed over", "a .socket unit of systemd"),
    Row("--listen systemd:domain=CARRIER:index=0", "is no endpoint", "domain=INET"),
    Row("--listen tcp:81 --listen tcp:81", "'tcp:81' is there already", "another port"),
    Row("--listen tcp:81 --metrics-listen tcp:81", "--metrics-listen: 'tcp:81' is there already", "another port"),
    Row("--listen tcp:81 --legacy-listen tcp:81", "--legacy-listen: 'tcp:81' is there already", "another port"),
    Row("--legacy-listen 1025", "--legacy-listen: '1025' is no endpoint", "tcp:8080:interface=127.0.0.1"),
    Row("--legacy-listen tcp:1025", "--legacy-listen: others can reach 'tcp:1025'", "--token-key FILE .* or --open"),
    Row("--legacy-room 'a b'", "--legacy-room: 'a b' is no room's name", "right would be lobby"),
    Row("--legacy-room old", "--legacy-room: this is for --legacy-listen", "leave it out"),
    Row("--open --legacy-listen tcp:1025 --legacy-room @x", "guests may not read '@x'", "or another room"),
    Row("--token-key {here}/good.key --legacy-listen tcp:1025", "guests may not read 'lobby'", "a rule for it"),
    Row("--app shop", "--app: 'shop' is not MODULE:NAME", "right would be shop:app"),
    Row("--app nowhere_shop:app", "--app: there is no module nowhere_shop", "right would be shop:app"),
    Row("--socket-io-path chat", "--socket-io-path: this is for Socket.IO", "add --socket-io or --app MODULE:NAME"),
    Row("--socket-io --socket-io-path a/b", "'a/b' is not one part of a path", "right would be socketio"),
    Row("--socket-io --socket-io-script /nowhere.js", "'/nowhere.js' can't be read", "right would be dist/socket.io"),
    Row("--socket-io --socket-io-history 0", "--socket-io-history: '0' is not a whole number above 0", "be 10000"),
    Row("--metrics-listen 9100", "--metrics-listen: '9100' is no endpoint", "tcp:8080:interface=127.0.0.1"),
    Row("--store postgres://host", "names no store", "sqlite:PATH, redis://HOST/0, or memory:"),
    Row("--store sqlite:", "'sqlite:' names no store", "sqlite:PATH"),
    Row("--store redis://host/x", "--store: ", "redis://host/0"),
    Row("--store redis://host", "txredisapi, which is not", "pip install txredisapi", program=WITHOUT_REDIS),
    Row("--store redis://host --store-password-file /nowhere", "--store-password-file: ", "right would be"),
    Row("--store rediss://host --store-ca {here}/text", "--store-ca: ", "right would be"),
    Row("--store-password-file {here}/text", "--store-password-file: this is for --store redis", "leave it out"),
    Row("--store redis://host --store-prefix a:b", "--store-prefix: 'a:b'", "right would be realtime"),
    Row("--store redis://host --relay news", "--relay: 'news'", "right would be"),
    Row("--store memory: --data-dir /srv/chat", "--data-dir: ", "leave it out with --store memory:"),
    Row("", "user 54321 has no home directory", "--data-dir /srv/chat", program=HOMELESS),
    Row("--history 0", "--history: '0' is not a whole number above 0", "right would be 1000"),
    Row("--history-age 1w", "--history-age: '1w'", "right would be 30d"),
    Row("--host http://example.com", "'http://example.com' can't be served as a host", "chat.example.com"),
    Row("--allow-origin example.com", "'example.com' is not an origin", "https://example.com"),
    Row("--max-message 1g", "--max-message: '1g' is not from 1k to 16m", "64k"),
    Row("--max-connections all", "--max-connections: 'all'", "right would be 1000"),
    Row("--max-rooms -5", "--max-rooms: '-5'", "right would be 100"),
    Row("--max-rooms-total many", "--max-rooms-total: 'many'", "right would be 50000"),
    Row("--max-rooms-stored many", "--max-rooms-stored: 'many'", "right would be 1000000"),
    Row("--room-rate 0.5", "--room-rate: '0.5'", "right would be 100"),
    Row("--stream-lifetime never", "--stream-lifetime: 'never'", "1h, or 0 for no end"),
    Row("--presence-limit 0", "--presence-limit: '0'", "right would be 200"),
    Row("--signal-rate 1e3", "--signal-rate: '1e3'", "right would be COUNT, COUNT/s"),
    Row("--client-byte-rate 5/d", "--client-byte-rate: '5/d'", "right would be COUNT, COUNT/s"),
    Row("--address-polls all", "--address-polls: 'all'", "right would be 1000"),
    Row("--max-members 0", "--max-members: '0'", "right would be 100000"),
    Row("--page /nowhere", "'/nowhere' is not a directory", "index.html"),
    Row("--page {here}/empty", "holds no index.html", "put one there"),
    Row("--access-log /nowhere/access.log", "there is no directory /nowhere", "/var/log/realtime/access.log"),
    Row("--access-log {here}", "is no file", "/var/log/realtime/access.log"),
    Row("--listen tcp:8081", "--listen: others can reach 'tcp:8081'", "--token-key FILE .* or --open"),
    Row("--listen unix:{here}/chat.sock", "--listen: others can reach 'unix:.*'", "--token-key FILE .* or --open"),
    Row("--host example.com", "--host: others can reach 'example.com'", "--token-key FILE .* or --open"),
    Row("--token-key /nowhere", "--token-key: /nowhere: it can't be read", "realtime-chat key prints one"),
    Row("--token-key {here}/short.key", "short.key, line 2: the secret has 5 bytes", "32 or more"),
    Row("--token-audience chat", "--token-audience: this is for tokens", "need --token-key FILE"),
    Row("--token-issuer chat", "--token-issuer: this is for tokens", "need --token-key FILE"),
    Row("--token-key {here}/short.key --token-url chat", "--token-url: 'chat' is no address", "such as /token/"),
    Row("--trusted-proxy proxy.example", "--trusted-proxy: 'proxy.example' is no address", "10.0.0.5, a network"),
    Row("--trusted-proxy 10.0.0.7/8", "has more digits than its network", "right would be 10.0.0.0/8"),
    Row("--config /nowhere.toml", "--config: /nowhere.toml: it can't be read", "a file in TOML"),
    Row("--config {here}/wrong.toml", "wrong.toml, line 2: 'histroy' is not an option", "did you mean history?"),
    Row("--histroy 5", "option --histroy not recognized", "right would be --history"),
    Row("--history", "option --history requires argument", "All options: twistd realtime --help"),
    Row("start", "'start' belongs to no option", "an option, which begins with --"),
    Row(MEMORY, "twistd --pidfile: '/nowhere/pid' can't be made", "--pidfile= for none", "--pidfile=/nowhere/pid"),
    Row(MEMORY, "twistd --pidfile: '{here}' is no file", "--pidfile= for none", "--pidfile={here}"),
    Row(MEMORY, "no directory /nowhere", "--logfile /var/log/realtime/daemon.log", "--logfile=/nowhere/chat.log"),
    Row(MEMORY, "twistd --rundir: '/nowhere' is no directory", "such as /", "--rundir=/nowhere"),
    Row(MEMORY, "Another twistd server is running", "use the --pidfile", "--pidfile={here}/running.pid"),
)  # fmt: skip

LATE = (
    Row("--store memory: --listen tcp:{port}:interface=127.0.0.1", "--listen: .*:{port}:.* in use", "another endpoint"),
    Row("--data-dir data --listen tcp:{port}:interface=127.0.0.1", "--listen: .*:{port}:.* in use", "another endpoint"),
    Row(f"{MEMORY} --legacy-listen tcp:{{port}}:interface=127.0.0.1", "--legacy-listen: .* in use", "another endpoint"),
    Row(f"{MEMORY} --metrics-listen tcp:{{port}}", "--metrics-listen: .*:{port}' .* in use", "another endpoint"),
    Row("--store memory: --open --listen tcp:0:interface=192.0.2.1", "this machine hasn't that address", "its own"),
    Row("--store memory: --open --listen tcp:0:interface=a.invalid", "this machine hasn't that address", "its own"),
    Row("--store memory: --open --listen unix:{here}/used.sock", "'unix:.*' .* in use by another", "another endpoint"),
    Row("--store memory: --open --listen unix:{here}/text", "a file is there that is no socket", "where nothing is"),
    Row("--store sqlite:{here}/used.sqlite", "in use by another process, pid [0-9]+", "another file"),
    Row("--store sqlite:{here}/text", "{here}/text: it is damaged, or not a SQLite", "move it away for a new one"),
    Row("--store sqlite:{here}/other.sqlite", "the database of another program", "name another file"),
    Row("--store sqlite:{here}/newer.sqlite", "its schema has version 99", "use the release that wrote it"),
    Row("--store sqlite:{here}", "{here} can't be opened", "a file in a directory that this user may write"),
    Row("--data-dir {here}/text/data", "{here}/text/data can't be made", "name another with --data-dir"),
    Row("--data-dir /proc/nothing/here", "/proc/nothing/here can't be made", "name another with --data-dir"),
    Row(f"{MEMORY} --page {{here}}/page", "'rooms' stands in the way", "call it otherwise"),
    Row("--store redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0: nobody answers", "address of a Redis server"),
)  # fmt: skip


class RefusalTests(DaemonTestCase):
    """Each message fits on a screen, and says what is wrong and what would be right; the status says that it failed."""

    async def begin(self) -> None:
        """Make what the table speaks of: the files, and a daemon that has a port, a socket, a database and a pid."""
        self.here = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.here)
        for name in ("empty", "page/rooms", "runs"):
            (self.here / name).mkdir(parents=True)
        for name in ("page/index.html", "page/rooms/index.html"):
            (self.here / name).write_text("<!doctype html><title>Ours</title>")
        (self.here / "good.key").write_text("x" * 32)
        (self.here / "short.key").write_text("# ours\nshort\n")
        (self.here / "wrong.toml").write_text("# ours\nhistroy = 5\n")
        (self.here / "text").write_text("this is a text of some length, and not a database at all. " * 100)
        for name, pragmas in (("other", {"application_id": 4711}), ("newer", {"application_id": APPLICATION_ID})):
            with contextlib.closing(sqlite3.connect(self.here / f"{name}.sqlite")) as database:
                for pragma, value in {**pragmas, "user_version": 99}.items():
                    database.execute(f"PRAGMA {pragma} = {value}")
        socket = f"unix:{self.here}/used.sock"
        self.daemon_there = await self.started(
            "--store", f"sqlite:{self.here}/used.sqlite", "--open", "--listen", socket
        )
        daemon = self.daemon_there
        (self.here / "running.pid").write_text(str(daemon.pid))
        self.places = {"here": str(self.here), "port": str(daemon.port), "long": f"{self.here}/{'x' * 107}"}

    def complaints(self, row: Row, background: bool) -> str:
        """Make a mistake; give what is wrong with what twistd has said, and all that it has said, or nothing."""
        directory = Path(tempfile.mkdtemp(dir=self.here / "runs"))
        runner = [f"--pidfile={directory}/chat.pid", "--logfile=chat.log"] if background else ["-n", "--pidfile="]
        words = shlex.split(f"{row.runner} realtime {row.options}".format(**self.places))
        status, said = self.run_twistd(row.program, [*runner, *words], directory)
        pid_file = directory / "chat.pid"
        if status == 0:
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        else:
            wait_until(lambda: not pid_file.exists())
        lines = sum(-(-max(1, len(line)) // _COLUMNS) for line in said.splitlines())
        faults = [
            *([] if status == 1 else [f"status {status}"]),
            *([] if lines <= _LINES else [f"{lines} lines"]),
            *[word for word in ("Traceback", "Usage:") if word in said],
            *([] if said.count("realtime: ") <= 1 else ["it is said more than once"]),
            *[word for word in (row.wrong, row.right) if not self.is_said(word, said)],
        ]
        return "" if not faults else f"{words} in the {'back' if background else 'fore'}ground: {faults}\n{said}"

    def run_twistd(self, program: str, words: list[str], directory: Path) -> tuple[int, str]:
        """Run it to its end; give its status, and what it has said."""
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": str(_COLUMNS)}
        path = directory.with_suffix(".said")
        with path.open("wb") as output:
            files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            process: ForkedProcess | subprocess.Popen[bytes]
            if program == TWISTD:
                process = ForkedProcess(program, words, cwd=directory, env=environment, **files)
            else:
                process = subprocess.Popen(
                    [sys.executable, "-c", program, *words], cwd=directory, env=environment, **files
                )
        try:
            return process.wait(60), path.read_text()
        finally:
            process.kill()

    def is_said(self, words: str, said: str) -> bool:
        """Whether these words, with places in braces, stand in one line."""
        return re.search(re.sub(r"{(\w+)}", lambda match: re.escape(self.places[match[1]]), words), said) is not None

    async def assert_refused(self, tries: Iterable[tuple[Row, bool]]) -> None:
        """Nothing is wrong with what is said, and the daemon that was there goes on."""
        await self.begin()
        turns = DeferredSemaphore(_AT_ONCE)
        complaints = await gatherResults(
            [turns.run(deferToThread, self.complaints, row, background) for row, background in tries]
        )
        found = "\n".join(filter(None, complaints))
        self.assertFalse(found, found)
        self.assertEqual({"rooms": []}, await deferToThread(self.daemon_there.get, "rooms"))

    def test_size(self) -> None:
        """The table has forty mistakes at least, each once, and every option that has a value; of limits some."""
        rows = EARLY + LATE
        self.assertGreaterEqual(len(set(rows)), 40)
        self.assertEqual(len(rows), len(set(rows)))
        limits = {option.name for option in LIMIT_OPTIONS}  # all are read in one way; see tests.test_options
        tried = set(re.findall(r"--([a-z-]+)", " ".join(row.options for row in rows)))
        self.assertEqual(
            set(), {name.removesuffix("=") for name in Options().longOpt if name.endswith("=")} - tried - limits
        )

    async def test_early(self) -> None:
        """What is seen before anything starts."""
        await self.assert_refused((row, False) for row in EARLY)

    async def test_late(self) -> None:
        """What is seen at the start."""
        await self.assert_refused((row, False) for row in LATE)

    async def test_background(self) -> None:
        """What is seen at the start in the background is said on the terminal, and some of what is seen before."""
        await self.assert_refused((row, True) for row in (*LATE, *EARLY[::10]))
