"""The built ``realtime.js``, and tests that need no browser."""

from __future__ import annotations

import gzip
import re
import runpy
import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browsers import NPM_MODULES, node
from tests.functional.daemon import CHECKOUT

_BUILT = CHECKOUT / "realtime_chat" / "static" / "realtime.js"
_LARGEST = 11_000

_PARSE = """
const acorn = require(process.env.NPM_MODULES + '/acorn');
for (const file of process.argv.slice(1)) {
  acorn.parse(require('fs').readFileSync(file, 'utf8'), {ecmaVersion: 5});
}
"""

_PAGE = """
const rt: Realtime.Connection = Realtime.connect('', {name: 'Ann', transports: ['poll'], storage: false});
const room = rt.room('lobby', {last: 5});
room.on('message', (data, message) => console.log(data.text, message.from?.name, message.own));
room.on('$presence', (presence) => presence.joined.map((member) => member.state));
room.publish({text: 'hi'}).then((published) => published.position);
room.publish(1).catch((error) => error.code);
(async () => (await room.publish({text: 'hi'})).position)();
room.publish('label', 1, {key: 'k'}, (error, result) => error ? error.temporary : result.key);
room.history({before: room.position}).then((page) => page.messages.length);
rt.on('$state', (state) => state.retryIn === null ? state.reason : null);
rt.on('identity', (user) => [user.name, user.info?.role]);
rt.on('unauthorized', (error) => error.code);
room.on('$rights', (rights) => rights?.includes('w'));
room.on('$left', (left) => left.reason);
rt.room('shop', {properties: true}).on('$property', (property) => [property.name, property.data, property.own]);
room.set('label', {text: room.properties.label}).then((result) => result.position);
Realtime.connect('', {tokenUrl: '/token'}).renew();
Realtime.connect('', {token: async () => null});
Realtime.connect('', {token: (callback) => callback(null, 'a.b.c')});
"""

_MISTAKES = (
    "Realtime.connect('', {transports: ['carrier pigeon']})",
    "rt.room(1)",
    "room.count = 1",
    "room.rights = 'm'",
    "room.set(1, 'm')",
    "Realtime.connect('', {token: 7})",
    "room.on('x', (_, message) => message.from.id)",
)


class BuildTests(SynchronousTestCase):
    """The built file."""

    def test_reproducible(self) -> None:
        """The committed file is what the sources give."""
        build = runpy.run_path(str(CHECKOUT / "browser" / "build.py"))["build"]
        self.assertEqual(_BUILT.read_bytes(), build(), "make js builds it anew")

    def test_all_sources(self) -> None:
        """Every source is part of it."""
        names = runpy.run_path(str(CHECKOUT / "browser" / "build.py"))["FILES"]
        self.assertEqual(sorted(names), sorted(path.stem for path in (CHECKOUT / "browser" / "src").glob("*.js")))

    def test_names(self) -> None:
        """No name that a page or a string uses is shortened."""
        misnamed = runpy.run_path(str(CHECKOUT / "browser" / "build.py"))["misnamed"]
        self.assertEqual(set(), misnamed())

    def test_size(self) -> None:
        """It has at most 11 kB, gzipped."""
        size = len(gzip.compress(_BUILT.read_bytes(), 9, mtime=0))
        self.assertLessEqual(size, _LARGEST)

    def test_ecmascript_5(self) -> None:
        """A parser of ECMAScript 5 accepts it, and refuses newer syntax."""
        done = node("-e", _PARSE, _BUILT)
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        newer = Path(self.mktemp())
        newer.write_text("var f = () => 1;")
        self.assertIn("SyntaxError", node("-e", _PARSE, newer).stderr)

    def test_no_addresses(self) -> None:
        """It contains no host and no absolute path, so it works wherever the daemon is mounted."""
        self.assertEqual([], re.findall(rb"'(?:https?:/)?/[^'/]+'", _BUILT.read_bytes()))


class TypesTests(SynchronousTestCase):
    """``realtime.d.ts``."""

    def check(self, page: str) -> str:
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        (directory / "page.ts").write_text(page)
        compiler = NPM_MODULES / "typescript" / "bin" / "tsc"
        types = _BUILT.with_name("realtime.d.ts")
        options = ("--noEmit", "--strict", "--target", "es2015", "--lib", "es2015,dom", "--typeRoots", str(directory))
        return node(compiler, *options, types, directory / "page.ts").stdout

    def test_page(self) -> None:
        """A correct page passes a strict type check."""
        self.assertEqual("", self.check(_PAGE))

    def test_mistakes(self) -> None:
        """Each mistake is reported."""
        told = self.check(_PAGE + ";\n".join(_MISTAKES))
        self.assertEqual(len(_MISTAKES), len(set(re.findall(r"page\.ts\((\d+)", told))), told)


class ScriptTests(SynchronousTestCase):
    """The tests in the scripts of this directory."""

    def check(self, name: str) -> None:
        """All tests of a script pass."""
        done = node("--test", "--test-reporter=tap", Path(__file__).with_name(name))
        self.assertEqual(0, done.returncode, textwrap.shorten(done.stdout, 20_000))
        self.assertRegex(done.stdout, r"(?m)^# tests [1-9]\d*$")

    def test_core(self) -> None:
        """The library keeps its promises with a fake socket and a fake clock."""
        self.check("core.test.js")

    def test_http(self) -> None:
        """The transports over HTTP keep theirs with fake requests, fake streams and a fake clock."""
        self.check("http.test.js")

    def test_properties(self) -> None:
        """The properties of a room are what was set last, whatever happens to the connection."""
        self.check("properties.test.js")

    def test_token(self) -> None:
        """It says who somebody is by tokens, renews them, and drops what it holds when somebody else comes."""
        self.check("token.test.js")

    def test_retries(self) -> None:
        """Whatever happens to the connection and the server, each message is stored once and in order."""
        self.check("retries.test.js")

    def test_page(self) -> None:
        """The page shows whatever others send, in linear time."""
        self.check("page.test.js")
