"""Tests for :mod:`realtime_chat.console.tokens` and :mod:`realtime_chat.console.config`: what needs no daemon."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import jwt
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.console.main import main
from realtime_chat.options import Options
from realtime_chat.tokens.keys import TokenKeys
from realtime_chat.tokens.making import make_secret
from tests.tokens.made import OTHER_SECRET, SECRET, private_key, public_pem, token


class Said(NamedTuple):
    """What a command has written, and its exit status."""

    out: str
    err: str
    status: int


class CommandTestCase(SynchronousTestCase):
    """Runs ``realtime-chat`` in this process."""

    def setUp(self) -> None:
        self.key = self.file(SECRET)

    def file(self, content: str) -> str:
        """The path of a file with this content."""
        path = Path(self.mktemp()).absolute()
        path.write_text(content)
        return str(path)

    def run_command(self, *words: str, stdin: str = "") -> Said:
        """Run a command to its end."""
        out, err, status = io.StringIO(), io.StringIO(), None
        given = patch.object(sys, "stdin", io.StringIO(stdin))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), given:
            try:
                status = main(list(words))
            except SystemExit as error:
                status = error.code
        assert isinstance(status, int)
        return Said(out.getvalue(), err.getvalue(), status)

    def made(self, *words: str) -> dict[str, Any]:
        """The claims of a token that is made."""
        said = self.run_command("token", "--token-key", self.key, *words)
        self.assertEqual((0, ""), (said.status, said.err))
        return dict(jwt.decode(said.out.strip(), SECRET, algorithms=["HS256"], options={"verify_aud": False}))


class KeyTests(CommandTestCase):
    """``realtime-chat key``."""

    def test_key(self) -> None:
        """Each key is another one, and a file of it is a file of keys."""
        keys = {self.run_command("key").out for _ in range(5)}
        self.assertEqual(5, len(keys))
        for key in keys:
            self.assertRegex(key, r"^[A-Za-z0-9_-]{43}\n$")
            self.assertEqual(1, len(TokenKeys.read([self.file(key)]).keys))

    def test_unlucky(self) -> None:
        """Random bytes that look like a key of another kind are drawn again."""
        looks = bytes((0x30, 0x1E, 0x30, *([0] * 29)))
        draws = iter((looks, bytes(range(32))))
        self.assertEqual("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", make_secret(lambda count: next(draws)))

    def test_readable(self) -> None:
        """If everybody can read the file that it is written to, standard error says so."""
        command = [sys.executable, "-c", "from realtime_chat.console.main import main; main()", "key"]
        for mode, says in ((0o600, ""), (0o640, ""), (0o644, "right would be chmod 640")):
            path = Path(self.file(""))
            path.chmod(mode)
            with path.open("w") as file:
                done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, timeout=60, check=True)
            self.assertIn(says, done.stderr.decode())
            self.assertEqual(bool(says), bool(done.stderr))


class TokenTests(CommandTestCase):
    """``realtime-chat token``."""

    def test_claims(self) -> None:
        """What is given becomes claims, and nothing else but two times."""
        claims = self.made("--sub", "u7")
        self.assertEqual({"sub": "u7", "iat": claims["iat"], "exp": claims["iat"] + 3600}, claims)
        words = (
            "--name",
            "Ann",
            "--info",
            '{"role": "staff"}',
            "--room",
            "lobby=rw",
            "--room",
            "a=b*=s",
            "--for",
            "2d",
        )
        self.assertEqual(1, self.run_command("token", "--token-key", self.key, "--sub", "u7", *words).status)
        words = (*words[:6], "--room", "help-*=s", "--room", "x=", "--for", "2d")
        claims = self.made("--sub", "u7", *words)
        self.assertEqual({"lobby": "rw", "help-*": "s", "x": ""}, claims["rooms"])
        self.assertEqual(("Ann", {"role": "staff"}), (claims["name"], claims["info"]))
        self.assertEqual(2 * 86400, claims["exp"] - claims["iat"])
        claims = self.made("--sub", "u7", "--token-audience", "chat", "--token-issuer", "https://a.example")
        self.assertEqual(("chat", "https://a.example"), (claims["aud"], claims["iss"]))

    def test_default_key(self) -> None:
        """Without a file of keys it is realtime.key in this directory, and its first secret signs."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "realtime.key").write_text(f"# new\n{OTHER_SECRET}\n{SECRET}\n")
        before = os.getcwd()
        os.chdir(directory)
        self.addCleanup(os.chdir, before)
        jwt.decode(self.run_command("token", "--sub", "u7").out.strip(), OTHER_SECRET, algorithms=["HS256"])

    def test_refused(self) -> None:
        """What the daemon would refuse isn't made, and the message says why; the status says that it failed."""
        public = self.file(public_pem(private_key("ES256")))
        for words, says in (
            ((), "there is no --sub; right would be"),
            (("--sub", "anonymous"), "sub is what a guest is called"),
            (("--sub", "u7", "--name", "a\nb"), "name is empty, too long or has control characters"),
            (("--sub", "u7", "--room", "lobby=x"), "'lobby': rights are some of the letters"),
            (("--sub", "u7", "--room", "a b=r"), "'a b': a pattern is a room's name"),
            (("--sub", "u7", "--for", "0"), "exp of this token is over"),
            (("--sub", "u7", "--token-key", "/nowhere"), "/nowhere: it can't be read"),
            (("--sub", "u7", "--token-key", self.file("short")), "line 1: the secret has 5 bytes"),
        ):
            said = self.run_command("token", "--token-key", self.key, *words)
            self.assertEqual(("", 1), (said.out, said.status), words)
            self.assertIn(f"realtime-chat: {says}"[:15], said.err)
            self.assertIn(says, said.err)
        said = self.run_command("token", "--token-key", public, "--sub", "u7")
        self.assertIn("there are public keys alone", said.err)

    def test_usage(self) -> None:
        """What can't be read is a wrong command line."""
        for words, says in (
            (("--room", "lobby"), "right would be PATTERN=RIGHTS, such as lobby=rw"),
            (("--info", "[]"), "right would be an object"),
            (("--info", "{"), "right would be an object"),
            (("--for", "1w"), "right would be 90, or with a unit"),
        ):
            said = self.run_command("token", "--sub", "u7", *words)
            self.assertEqual(2, said.status)
            self.assertIn(says, " ".join(said.err.split()))


class CheckTests(CommandTestCase):
    """``realtime-chat token check``."""

    def check(self, text: str, *words: str, stdin: str = "") -> Said:
        """Check a token with the key of this test."""
        return self.run_command(
            "token", "check", *words, "--token-key", self.key, *([text] if text else []), stdin=stdin
        )

    def test_right(self) -> None:
        """It says what the token says."""
        claims = {"name": "Ann", "info": {"a": 1}, "rooms": {"lobby": "rw"}, "exp": 4_102_444_800}
        for said in (
            self.check(token(claims)),
            self.check("", stdin=token(claims) + "\n"),
            self.check("-", stdin=token(claims)),
        ):
            self.assertEqual((0, ""), (said.status, said.err))
            for line in (
                "sub   u7",
                "name  Ann",
                'info  {"a":1}',
                'rooms {"lobby":"rw"}',
                "exp   2100-01-01 00:00:00 UTC, in ",
            ):
                self.assertIn(line, said.out)
            self.assertIn(
                f"This token is right; its key is {TokenKeys.read([self.key]).keys[0].fingerprint}.", said.out
            )

    def test_wrong(self) -> None:
        """It says what is wrong, and what the token says as far as it can be read; the status is 1."""
        for text, told, wrong in (
            (token({"exp": 1}), "exp   1970-01-01 00:00:01 UTC, ", "exp of this token is over"),
            (token({"exp": "soon"}), "exp   soon", "exp is no number"),
            (token({"exp": 9e99}), "exp   9e99", "exp is too large"),
            (token(key=OTHER_SECRET), "sub   u7", "its signature is of no key here"),
            (token({"sub": "\x1b[1m"}), "sub   \\u001b[1m", "sub is empty, too long"),
            ("nothing", "", "HEADER.PAYLOAD.SIGNATURE"),
            (token('{"sub":"u7","sub":"u8"}'), "", "'sub' is there twice"),
        ):
            said = self.check(text)
            self.assertEqual(1, said.status, text)
            self.assertIn(told, said.out)
            self.assertIn(wrong, said.err)
            self.assertNotIn(text, said.out + said.err)

    def test_parties(self) -> None:
        """Audience and issuer are checked as the daemon does with the same options."""
        text = token({"exp": 4_102_444_800, "aud": "chat", "iss": "site"})
        self.assertEqual(0, self.check(text, "--token-audience", "chat", "--token-issuer", "site").status)
        for words, says in (
            ((), "aud"),
            (("--token-audience", "x"), "aud"),
            (("--token-audience", "chat", "--token-issuer", "x"), "iss"),
        ):
            self.assertIn(says, self.check(text, *words).err)


class ConfigTests(CommandTestCase):
    """``realtime-chat config``."""

    def test_sources(self) -> None:
        """Each option has its value and where that comes from; what isn't set is a comment."""
        path = self.file(
            'history = 5\nmax-rooms = 6\nhost = ["localhost"]\n\n[[room]]\nmatch = "news"\nguests = "r"\nlisted=true\n'
        )
        said = self.run_command("config", "--config", path, "--max-rooms", "7", "--allow-jsonp")
        self.assertEqual((0, ""), (said.status, said.err))
        for line in (
            f"history = 5  # {path}, line 1",
            "max-rooms = 7  # the command line",
            "allow-jsonp = true  # the command line",
            f'host = ["localhost"]  # {path}, line 3',
            'listen = ["tcp:8080:interface=127.0.0.1"]  # default',
            "compress = false  # default",
            "# history-age: for ever",
            'client-byte-rate = "512k/s+8m"  # default',
            f"[[room]]  # {path}, line 5",
        ):
            self.assertIn(line, said.out.splitlines())

    def test_whole_paths(self) -> None:
        """Paths are printed as a whole, as they count from elsewhere in what is printed."""
        path = self.file('access-log = "chat.log"\n')
        said = self.run_command("config", "--config", path, "--store", "sqlite:here")
        log = Path(path).absolute().with_name("chat.log")
        for line in (f'access-log = "{log}"', f'store = "sqlite:{Path("here").absolute()}"'):
            self.assertIn(line, said.out)

    def test_is_a_file(self) -> None:
        """What is printed is a configuration file that means the same."""
        words = ("--history-age", "2h", "--store", "memory:", "--page", "off", "--host", "::1", "--token-key", self.key)
        path = self.file(
            'max-message = "32k"\n[[room]]\nmatch = "@*"\nusers = "ws"\n'
            'publish-rate = "90/m+7"\nsignal-rate = 5\nmax-members = 9\n[[room]]\nmatch = "*"\nguests = ""\n'
        )
        given, printed = Options(), Options()
        given.parseOptions(["--config", path, *words])
        said = self.run_command("config", "--config", path, *words)
        printed.parseOptions(["--config", self.file(said.out)])
        self.assertEqual({**given, "config": None}, {**printed, "config": None})
        known = {name.removesuffix("=") for name in given.longOpt} - {"help", "version", "config"}
        set_or_not = {
            *tomllib.loads(said.out),
            *(line[2:].partition(":")[0] for line in said.out.splitlines() if line[:1] == "#"),
        }
        self.assertEqual({*known, "room"}, set_or_not)

    def test_password(self) -> None:
        """A password isn't shown."""
        said = self.run_command("config", "--store", "redis://ann:secret@db.example/3")
        self.assertIn('store = "redis://ann@db.example:6379/3"', said.out)
        self.assertNotIn("secret", said.out)

    def test_refused(self) -> None:
        """What the daemon would refuse is refused in the same words."""
        for words, says in (
            (("--histroy", "5"), "option --histroy not recognized; right would be --history"),
            (("--history", "0"), "--history: '0' is not a whole number above 0; right would be 1000"),
            (("--config", "/nowhere"), "--config: /nowhere: it can't be read"),
            (("--host", "example.com"), "--token-key FILE"),
            (("more",), "'more' belongs to no option"),
        ):
            said = self.run_command("config", *words)
            self.assertEqual((2, ""), (said.status, said.out))
            self.assertIn(
                f"realtime-chat config: {says}" if says[0] in "-o'" and "FILE" not in says else says, said.err
            )

    def test_help(self) -> None:
        """--help tells what the command does."""
        for words in (("config", "--help"), ("--help",)):
            said = self.run_command(*words)
            self.assertEqual(0, said.status)
            self.assertIn("where each comes from", " ".join(said.out.split()))

    def test_ascii(self) -> None:
        """Texts are written so that TOML reads them again."""
        text = '"\\ä\U0001f600\x7f'
        path = self.file(f"token-audience = {json.dumps('a')}\ntoken-key = '{self.key}'")
        said = self.run_command("config", "--config", path, "--token-issuer", text.rstrip("\x7f"))
        self.assertEqual(text.rstrip("\x7f"), tomllib.loads(said.out)["token-issuer"])
