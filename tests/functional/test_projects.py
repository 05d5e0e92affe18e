"""``realtime.js`` in projects: imported in Node, in strict TypeScript, and bundled with React, by packages of npm."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE
from tests.functional.browsers import NPM_MODULES, browser, node, serve
from tests.functional.daemon import CHECKOUT, Daemon, wait_until
from tests.functional.proxies import documented

_STATIC = CHECKOUT / "realtime_chat" / "static"

_CONFIGURATION = {
    "compilerOptions": {
        "strict": True,
        "noUncheckedIndexedAccess": True,
        "exactOptionalPropertyTypes": True,
        "module": "esnext",
        "moduleResolution": "bundler",
        "target": "es2022",
        "lib": ["es2022", "dom", "dom.iterable"],
        "jsx": "react-jsx",
        "esModuleInterop": True,
        "noEmit": True,
    },
    "include": ["*.ts", "*.tsx"],
}

_MODULE = """
import Realtime from './realtime.js';

export async function greet(name: string): Promise<string | undefined> {
  const rt: Realtime.Connection = Realtime.connect('/chat', {name, storage: false});
  const room = rt.room('lobby');
  room.on('message', (data: {text: string}, message) => console.log(message.from?.name ?? 'a program', data.text));
  room.publish({text: 'hi'}).then((published) => published.position.length);
  try {
    return (await room.publish({text: 'hi'})).key;
  } catch (error) {
    return error instanceof Error ? error.message : undefined;
  }
}

export function why(trouble: Realtime.Trouble): Error {
  return trouble;
}
"""

_MISTAKES = ("rt.room(1)", "room.publish({}).then((published) => published.nothing)", "rt.user.name")

_PAGE = """
import {StrictMode, useState} from 'react';
import {createRoot} from 'react-dom/client';
import {Messages, rt} from './messages';

function App() {
  const [isOpen, setOpen] = useState(true), [trouble, setTrouble] = useState('');
  async function publish() {
    try {
      await rt.room('react').publish(NaN);
    } catch (error) {
      setTrouble(error instanceof Error ? error.message : 'no error');
    }
  }
  return <>
    <ul id="first"><Messages name="react" /></ul>
    <ul id="second">{isOpen && <Messages name="react" />}</ul>
    <button id="close" onClick={() => setOpen(false)}>Close</button>
    <button id="fail" onClick={publish}>Fail</button>
    <p id="trouble">{trouble}</p>
  </>;
}

createRoot(document.getElementById('app')!).render(<StrictMode><App /></StrictMode>);
"""

_BUNDLE = """
require(process.env.NPM_MODULES + '/esbuild').buildSync({
  absWorkingDir: process.argv[1], entryPoints: ['page.tsx'], outfile: 'page.js', bundle: true, jsx: 'automatic'
});
"""

_HTML = """<!doctype html><link rel="icon" href="data:,"><title>React</title><div id="app"></div>
<script src="page.js"></script>
"""


class ProjectTestCase(SynchronousTestCase):
    """A directory beside the packages, with the library as the daemon serves it."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        for name in ("realtime.js", "realtime.d.ts"):
            shutil.copy(_STATIC / name, self.directory)
        (self.directory / "node_modules").symlink_to(NPM_MODULES)
        (self.directory / "tsconfig.json").write_text(json.dumps(_CONFIGURATION))

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def write_page(self, url: str) -> None:
        """Write a page, with the component of the how-to.

        :param url: of the daemon.
        """
        component = textwrap.dedent(documented("tsx", "howto/realtime-js.rst"))
        self.assertIn("https://example.com/chat/", component)
        self.write("messages.tsx", component.replace("https://example.com/chat/", url))
        self.write("page.tsx", _PAGE)


class NodeTests(ProjectTestCase):
    """Node, as where a server renders pages."""

    def check(self, name: str, script: str) -> None:
        script += """
          console.log(typeof window, typeof globalThis.Realtime);
          try {
            Realtime.connect('https://example.com/chat/');
          } catch (error) {
            console.log(error.message);
          }
        """
        done = node(self.write(name, script))
        told = "undefined undefined\nconnect() needs a page.\n"
        self.assertEqual((0, told, ""), (done.returncode, done.stdout, done.stderr))

    def test_require(self) -> None:
        """``require`` gives the library, which is nothing global and says that it connects in a page alone."""
        self.check("required.cjs", "const Realtime = require('./realtime.js');")

    def test_import(self) -> None:
        """``import`` does as well."""
        self.check("imported.mjs", "import Realtime from './realtime.js';")


class TypeScriptTests(ProjectTestCase):
    """A project in TypeScript's strict mode."""

    def test_strict(self) -> None:
        """A module that imports it and a React page pass. One with mistakes is told of each, and of nothing else."""
        self.write("module.ts", _MODULE)
        self.write("mistaken.ts", _MODULE.replace("  try {", ";\n".join((*_MISTAKES, "  try {"))))
        self.write_page("https://example.com/chat/")
        told = node(NPM_MODULES / "typescript" / "bin" / "tsc", "--project", self.directory).stdout
        places = set(re.findall(r"(\w+\.tsx?)\((\d+)", told))
        self.assertEqual(["mistaken.ts"] * len(_MISTAKES), [file for file, _ in places], told)


class ReactTests(ProjectTestCase):
    """A React page in strict mode, with the component of the how-to, in Chromium; subclassed for Firefox."""

    kind = "chromium"

    def test_two_users(self) -> None:
        """Two components read a room; when one goes, the other goes on, and what is rejected is an ``Error``."""
        site = serve(self.directory)
        self.addCleanup(site.end)
        daemon = Daemon(self.mktemp(), "--allow-origin", site.origin).start()
        self.addCleanup(daemon.kill)
        self.write_page(daemon.url)
        self.write("page.html", _HTML)
        done = node("-e", _BUNDLE, self.directory)
        self.assertEqual(0, done.returncode, done.stderr)
        tab = browser(self.kind).open(f"{site.origin}/page.html")
        self.addCleanup(tab.close)
        read = "return ['first', 'second'].map((id) => document.getElementById(id).innerText.split('\\n').join(' '))"

        def say(text: str) -> None:
            body = json.dumps({"data": {"text": text}}).encode()
            request = urllib.request.Request(f"{daemon.url}rooms/react/messages", body)
            request.add_header("Content-Type", "application/json")
            urllib.request.urlopen(request, timeout=DEADLINE).close()

        def shows(first: str, second: str) -> None:
            wait_until(lambda: tab.run(read) == [first, second], lambda: str((tab.run(read), tab.console)))

        say("one")
        shows("one", "one")
        tab.run("document.getElementById('close').click()")
        say("two")
        shows("one two", "")
        tab.run("document.getElementById('fail').click()")
        trouble = "return document.getElementById('trouble').textContent"
        wait_until(lambda: "Not JSON" in tab.run(trouble), lambda: tab.run(trouble))
        self.assertEqual([], tab.console)


class FirefoxReactTests(ReactTests):
    """The same in Firefox."""

    kind = "firefox"
