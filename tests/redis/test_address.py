"""Where a Redis server is."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.redis.address import RedisAddress, parse_address
from tests.certificates import self_signed


class AddressTests(SynchronousTestCase):
    """The URL of a database."""

    def file(self, content: bytes) -> str:
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def test_read(self) -> None:
        """Every form is read, and described in full but for the password."""
        for url, address, described in (
            ("redis://db.example", RedisAddress("db.example"), "redis://db.example:6379/0"),
            ("redis://db.example/", RedisAddress("db.example"), "redis://db.example:6379/0"),
            ("redis://10.0.0.7:7000/5", RedisAddress("10.0.0.7", 7000, database=5), "redis://10.0.0.7:7000/5"),
            ("redis://[::1]:7000", RedisAddress("::1", 7000), "redis://[::1]:7000/0"),
            ("redis://[0::1]:7000/3", RedisAddress("::1", 7000, database=3), "redis://[::1]:7000/3"),
            ("redis://[fe80::1%25eth0]", RedisAddress("fe80::1%eth0"), "redis://[fe80::1%eth0]:6379/0"),
            ("redis://chat_redis/", RedisAddress("chat_redis"), "redis://chat_redis:6379/0"),
            ("redis://:p%40%2F@h", RedisAddress("h", password="p@/"), "redis://h:6379/0"),
            ("redis://bob:pw@h/1", RedisAddress("h", database=1, user="bob", password="pw"), "redis://bob@h:6379/1"),
            ("rediss://h:1", RedisAddress("h", 1, secure=True), "rediss://h:1/0"),
            ("redis+unix:///run/r.sock", RedisAddress(path="/run/r.sock"), "redis+unix:///run/r.sock?db=0"),
            ("unix:///r.sock?db=15", RedisAddress(path="/r.sock", database=15), "redis+unix:///r.sock?db=15"),
            ("unix://u:p@/a%20b", RedisAddress(path="/a b", user="u", password="p"), "redis+unix://u@/a b?db=0"),
        ):
            self.assertEqual((parse_address(url), parse_address(url).describe()), (address, described), url)

    def test_refused(self) -> None:
        """Whatever can't be an address is refused with what would be right, and no password is shown."""
        for url in (
            *("", "redis", "redis:", "redis://", "redis:///0", "http://h", "redis://:secret@", "redis://h#secret"),
            *(
                "redis://h/x",
                "redis://h/-1",
                "redis://h/1/2",
                "redis://h/1000000",
                "redis://h/\u0661",
                "redis://h/0?db=1",
            ),
            *("redis://:secret@h:0", "redis://:secret@h:65536", "redis://h:x", "redis://[::1", "unix://secret/r.sock"),
            *("redis://:secret@a..b", "redis://:secret@::1:6379/0", "redis://:secret@[zz]/0", "redis://secret@a b/"),
            *("redis://:secret@*/0", "rediss://:secret@chat_redis/0", "rediss://:secret@[fe80::1%25eth0]/0"),
            *("unix:///", "unix://", "unix:///r.sock?db=x", "unix:///r.sock?password=secret", "redis+unix:r.sock"),
        ):
            message = str(self.assertRaises(ValueError, parse_address, url))
            self.assertIn("right would be redis", message, url)
            self.assertNotIn("secret", message)

    def test_password_of_a_file(self) -> None:
        """The first line of a file is the password; without its end, with everything else."""
        address = parse_address("redis://h")
        for content, password in ((b"pw", "pw"), (b"p w \n", "p w "), ("p\u00e4ss\r\nmore".encode(), "p\u00e4ss")):
            self.assertEqual(address.with_password_of(self.file(content)).password, password)
        for content in (b"", b"\npw", b"\xff"):
            message = str(self.assertRaises(ValueError, address.with_password_of, self.file(content)))
            self.assertIn("right would be", message)
        message = str(self.assertRaises(ValueError, address.with_password_of, "/nowhere"))
        self.assertIn("'/nowhere' can't be read (No such file or directory)", message)
        twice = parse_address("redis://:secret@h")
        message = str(self.assertRaises(ValueError, twice.with_password_of, self.file(b"pw")))
        self.assertNotIn("secret", message)

    def test_not_shown(self) -> None:
        """A password stands in no representation."""
        self.assertNotIn("secret", repr(parse_address("redis://:secret@h")))

    def test_authorities(self) -> None:
        """The certificates of a file vouch for a server with TLS, and are refused where there are none."""
        _, first = self_signed("a")
        _, second = self_signed("b")
        address = parse_address("rediss://h")
        self.assertEqual(address.with_authorities(self.file(first + second)).authorities, first + second)
        for content in (b"", b"nonsense", first[:100]):
            message = str(self.assertRaises(ValueError, address.with_authorities, self.file(content)))
            self.assertIn("holds no certificate", message)
        self.assertRaises(ValueError, address.with_authorities, "/nowhere")
        message = str(self.assertRaises(ValueError, parse_address("redis://h").with_authorities, self.file(first)))
        self.assertIn("right would be rediss://", message)
