"""Tests for :mod:`realtime_chat.console.nginx`: the block that it prints, which is that of the documents."""

from __future__ import annotations

import textwrap

from tests.console.test_tokens import CommandTestCase
from tests.functional.daemon import CHECKOUT


class NginxTests(CommandTestCase):
    """The command."""

    def test_documents(self) -> None:
        """Without options, it prints what the README and the how-to show."""
        block = self.run_command("nginx")
        self.assertEqual(("", 0), (block.err, block.status))
        for name in ("README.rst", "docs/howto/proxies.rst"):
            text = (CHECKOUT / name).read_text("utf-8")
            _, location, rest = text.partition("location /chat/ {")
            self.assertNotIn("location /chat/", rest)
            indent = text[: text.index(location)].rpartition("\n")[2]
            self.assertIn(textwrap.indent(block.out, indent), text, name)

    def test_options(self) -> None:
        """The path and the daemon may be others; the slash at the end of the latter may be left out."""
        usual = self.run_command("nginx").out
        for path, upstream, passed in (
            ("/", "http://chat.example", "http://chat.example/"),
            ("/a/b.c~d_e-1/", "https://[2001:DB8::7]:8443/", "https://[2001:db8::7]:8443/"),
        ):
            expected = usual.replace("/chat/", path).replace("http://127.0.0.1:8080/", passed)
            self.assertEqual(expected, self.run_command("nginx", "--path", path, "--upstream", upstream).out)

    def test_wrong(self) -> None:
        """What would be another directive of nginx, or passes nothing on, is refused, and told what would be right."""
        for option, texts, right in (
            ("--path", ("", "chat", "/chat", "chat/", "//", "/a//", "/../", "/./", "/a b/", "/ä/"), "/chat/"),
            ("--path", ("/;/", "/$uri/", "/a/\n", "/{/", "/'/", '/"/', "/#/", "/%41/"), "/chat/"),
            ("--upstream", ("", "8080", "127.0.0.1:8080", "unix:/run/chat.sock", "ftp://a.example"), "http://"),
            ("--upstream", ("http://", "http://a/b", "http://a;b", "http://a:0", "http://a b", "http://$a"), "http://"),
            ("--upstream", ("http://a{", 'http://a"', "http://a/;", "http://a?b", "http://a@b"), "http://"),
        ):
            for text in texts:
                said = self.run_command("nginx", option, text)
                self.assertEqual(("", 2), (said.out, said.status), text)
                self.assertIn(f"{option}: ", said.err)
                self.assertRegex(said.err, f"right would be {right}.*\\n")
