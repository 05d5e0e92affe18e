"""Small changes to the code, and which tests notice them (:mod:`tools.mutants`)."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.daemon import CHECKOUT
from tools import mutants
from tools.mutants import MIN_NOTICED, Result, draw, equivalents
from tools.mutations import mutations
from tools.test_selection import Mutant, Sources

_PYTHON = '''
"""1 < 2"""
from __future__ import annotations
import sys
if TYPE_CHECKING:
    from a import b
__all__ = ["a", "b"][:2]
LIMIT: Final[Literal[1]] = 7
BYTES = 65536

@define(frozen=True)
class A:
    size: int = 3

    def __repr__(self) -> str:
        return str(1 + 1)

    async def f(self, first: bool = False, unread: bool = False) -> int | None:
        """Whether 1 < 2."""
        self._log.info("{n} left", n=self.n - 1)
        assert self.n > 0
        for x in self.y:
            if x <= 0 or not x:
                continue
            await self.call(x)
            self.count += 1
        self.call("a" + x, f"{x - 1}", first)
        return x - (  # -
            LIMIT)
'''
_PYTHON_CHANGES = [
    "LIMIT: Final[Literal[1]] = 6",
    "LIMIT: Final[Literal[1]] = 8",
    "BYTES = 131072",
    "size: int = 2",
    "size: int = 4",
    "async def f(self, first: bool = True, unread: bool = False) -> int | None:",
    "if x < 0 or not x:",
    "if x > 0 or not x:",
    "if x <= 1 or not x:",
    "if x <= 0 and not x:",
    "if x <= 0 or x:",
    "break",
    "self.count -= 1",
    "self.count += 0",
    "self.count += 2",
    "pass",
    "return None",
    "return x + ( # -",
]
_LUA = """
-- a < b
local many = #rows - 1 --[[ a
< b ]]
if many == 0 and not found then
  return {'a < b', 200}
end
if found then
  redis.call('DEL', KEYS[1])
end
return 'a' .. many
"""
_LUA_CHANGES = [
    "local many = #rows + 1 --[[ a",
    "local many = #rows - 0 --[[ a",
    "local many = #rows - 2 --[[ a",
    "if many ~= 0 and not found then",
    "if many == 1 and not found then",
    "if many == 0 or not found then",
    "if many == 0 and found then",
    "return nil",
    "return {'a < b', 400}",
    "if not found then",
    "",
    "redis.call('DEL', KEYS[0])",
    "redis.call('DEL', KEYS[2])",
    "return nil",
]
_JAVASCRIPT = """
/* a < b */
function f(x) {
  if (this.isUp) {
    this.send({a: true}); // a < b
  }
  console.log(1);
  var url = x + '?a=' + (/a < b/).test(x);
  return x !== y || !x ? x - y : null;
}
"""
_JAVASCRIPT_CHANGES = [
    "if (!this.isUp) {",
    "; // a < b",
    "this.send({a: false}); // a < b",
    "console.log(0);",
    "console.log(2);",
    "return;",
    "return x === y || !x ? x - y : null;",
    "return x !== y && !x ? x - y : null;",
    "return x !== y || x ? x - y : null;",
    "return x !== y || !x ? x + y : null;",
]


def changed_lines(path: str, text: str) -> list[str]:
    """What each change makes of its lines."""
    return [mutation.lines(text)[1] for mutation in mutations(path, text)]


class MutationTests(SynchronousTestCase):
    """What is changed."""

    def test_python(self) -> None:
        """Operators, numbers, truth values, calls and results; no docstring, log, type, assertion, import or repr, and
        no default that isn't read."""
        self.assertEqual(sorted(_PYTHON_CHANGES), sorted(changed_lines("a.py", _PYTHON)))

    def test_lua(self) -> None:
        """The same in Lua, but not in comments and strings."""
        self.assertEqual(sorted(_LUA_CHANGES), sorted(changed_lines("a.lua", _LUA)))

    def test_javascript(self) -> None:
        """The same in JavaScript, but not in comments, strings, regular expressions and sums of strings."""
        self.assertEqual(sorted(_JAVASCRIPT_CHANGES), sorted(changed_lines("a.js", _JAVASCRIPT)))

    def test_still_python(self) -> None:
        """Whatever is changed is still Python."""
        every = [(path, text) for path, text in Sources(CHECKOUT).files.items() if path.endswith(".py")]
        for path, text in random.sample(every, 10):
            found = mutations(path, text)
            for mutation in random.sample(found, min(5, len(found))):
                compile(mutation.apply(text), path, "exec")

    def test_function(self) -> None:
        """A change knows its function by the name that code objects have, and else what its statement defines."""
        text = (
            "A = B, C = 1\nclass D:\n    e = 2\n"
            "    def f(self, x=3):\n        def g():\n            return lambda: 4 + x\n"
        )
        places = [(mutation.new, mutation.function, {*mutation.names}) for mutation in mutations("a.py", text)]
        self.assertIn(("0", "", {"A", "B", "C"}), places)
        self.assertIn(("1", "", {"D", "e"}), places)
        self.assertIn(("4", "D.f", set()), places)
        self.assertIn(("5", "D.f.<locals>.g.<locals>.<lambda>", set()), places)


class DrawTests(SynchronousTestCase):
    """Which changes are drawn."""

    def setUp(self) -> None:
        self.sources = Sources(CHECKOUT)

    def test_seed(self) -> None:
        """The same seed draws the same changes, each once; another seed draws others."""
        first, again, other = (draw(self.sources, 50, seed, [])[0] for seed in (1, 1, 2))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertEqual(50, len(set(first)))

    def test_all_languages(self) -> None:
        """They come from Python, Lua and JavaScript."""
        self.assertEqual({"Python", "Lua", "JavaScript"}, {one.language for one in draw(self.sources, 150, 1, [])[0]})

    def test_only(self) -> None:
        """A path, or a path and a line, picks changes."""
        (path, text) = next((path, text) for path, text in self.sources.files.items() if path.endswith(".js"))
        line = mutations(path, text)[0].line(text)
        every, _ = draw(Sources(CHECKOUT, [path]), 10_000, 1, [])
        some, _ = draw(Sources(CHECKOUT, [f"{path}:{line}"]), 10_000, 1, [])
        self.assertEqual(len(mutations(path, text)), len(every))
        self.assertEqual({mutant for mutant in every if mutant.place == f"{path}:{line}"}, set(some))

    def test_equivalents(self) -> None:
        """A listed change isn't drawn. Each has a reason, and its lines are in the tree."""
        (first, *others), _ = draw(self.sources, 5, 1, [])
        drawn, skipped = draw(self.sources, 4, 1, [(first.path, *first.mutation.lines(first.text))])
        self.assertEqual((others, 1), (drawn, skipped))
        for (path, before, after), reason in equivalents(CHECKOUT / "tools" / "equivalent_mutants.toml").items():
            self.assertIn(before, " ".join(self.sources.files[path].split()))
            self.assertNotEqual(before, after)
            self.assertRegex(reason, r"^[A-Z`].{10,}\.$")

    def test_bound(self) -> None:
        """Of all changes that make a difference, 95 % have to be noticed."""
        self.assertEqual(0.95, MIN_NOTICED)


_FILES = {
    "realtime_chat/__init__.py": "",
    "realtime_chat/core/__init__.py": "",
    "realtime_chat/core/room.py": """
from realtime_chat.core.size import LESS, STEP

def grow(size):
    while size < 10:
        size += STEP
    return size

def shrink(size):
    return size - LESS
""",
    "realtime_chat/core/size.py": "STEP = 5\nLESS = 1\nFIRST = [4][0]\n",
    "realtime_chat/static/realtime.js": "exports.two = 1 + 1;\n",
    "browser/src/two.js": "// One and one\nexports.two = 1 + 1;\n",
    "browser/build.py": """
text = open("browser/src/two.js").read()
open("realtime_chat/static/realtime.js", "w").write(text.split("\\n", 1)[1])
""",
    "tests/__init__.py": "",
    "tests/browser/two.test.js": """
const test = require('node:test'), assert = require('node:assert');
test('two', () => assert.equal(require('../../realtime_chat/static/realtime.js').two, 2));
""",
    "tests/core/__init__.py": "",
    "tests/core/test_room.py": """
from twisted.trial.unittest import SynchronousTestCase
from realtime_chat.core.room import grow, shrink
class RoomTests(SynchronousTestCase):
    def test_grow(self):
        self.assertEqual(10, grow(0))
    def test_shrink(self):
        shrink(1)
    def test_wrong(self):
        self.assertEqual(1, grow(0))
""",
    "tests/rooms.py": "from realtime_chat.core.room import grow\n",
    "tests/test_above.py": """
from twisted.trial.unittest import SynchronousTestCase
from tests.rooms import grow
class AboveTests(SynchronousTestCase):
    def test_above(self):
        grow(10)
""",
    "tests/functional/__init__.py": "",
}
_ROOM = "realtime_chat/core/room.py"
_BESIDE = "tests.core.test_room.RoomTests"


def write_files(root: Path) -> Path:
    """Write the small checkout."""
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root.resolve()


def find(sources: Sources, path: str, after: str) -> Mutant:
    """The change that makes a line this one."""
    (found,) = [one for one in sources.mutants(path) if one.mutation.lines(one.text)[1] == after]
    return found


class RunTests(SynchronousTestCase):
    """A small checkout with its tests."""

    def setUp(self) -> None:
        self.patch(mutants, "LIMIT", 3.0)
        self.root = write_files(Path(self.mktemp()))
        shutil.copytree(CHECKOUT / "tools", self.root / "tools")
        subprocess.run(["git", "init", "--quiet"], cwd=self.root, check=True)
        self.sources = Sources(self.root, [*_FILES])
        self.workers = mutants.Workers(self.sources, Path(self.mktemp()).resolve(), 1, 60)
        self.addCleanup(self.workers.stop)

    def judge(self, path: str, after: str) -> Result:
        """What the tests say of the change that makes a line this one."""
        result = self.workers.judge(find(self.sources, path, after))
        assert result is not None
        return result

    def test_judged(self) -> None:
        """A failure and a hang are noticed, if the test passes without the change. The checkout stays as it is."""
        self.assertEqual(f"{_BESIDE}.test_grow", self.judge(_ROOM, "while size >= 10:").by)
        self.assertEqual(f"{_BESIDE}.test_grow hangs", self.judge(_ROOM, "size -= STEP").by)
        self.assertEqual("tests/browser/two.test.js (two)", self.judge("browser/src/two.js", "exports.two = 1 - 1;").by)
        survivor = self.judge(_ROOM, "return size + LESS")
        self.assertEqual((None, 3), (survivor.by, survivor.ran))
        self.assertEqual({f"{_BESIDE}.test_wrong"}, self.workers.broken)
        for name, text in _FILES.items():
            self.assertEqual(text, (self.root / name).read_text())

    def test_import(self) -> None:
        """A change with which a module can't be imported is noticed."""
        self.assertEqual("tests.core.test_room", self.judge("realtime_chat/core/size.py", "FIRST = [4][1]").by)


class SelectionTests(SynchronousTestCase):
    """Which tests run for a change, and in which order."""

    def test_order(self) -> None:
        """First is the module with the file's name, then others beside it, then those that import it at all."""
        names = ("core/test_a", "core/test_size", "test_b", "functional/test_size")
        root = write_files(Path(self.mktemp()))
        for name in names:
            (root / "tests" / f"{name}.py").write_text("import realtime_chat.core.size")
        beside, others = ["tests.core.test_a", "tests.core.test_room"], ["tests.test_above", "tests.test_b"]
        found = Sources(root).tests("realtime_chat/core/size.py")
        self.assertEqual([["tests.core.test_size"], beside, others], found)

    def test_scripts(self) -> None:
        """A file of the browser is tested by scripts, and a script of Lua by what tests its package."""
        root = write_files(Path(self.mktemp()))
        self.assertEqual([["tests/browser/two.test.js"]], Sources(root).tests("browser/src/two.js"))
        beside, others = Sources(CHECKOUT).tests("realtime_chat/store/redis/lua/append.lua")
        self.assertIn("tests.store.redis.test_append_script", beside)
        self.assertIn("tests.transports.test_contract_redis", others)
