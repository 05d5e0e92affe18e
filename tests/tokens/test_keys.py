"""Tests for :mod:`realtime_chat.tokens.keys`: files of keys, and what is no key."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.text_files import FileRefused
from realtime_chat.tokens.keys import TokenKeys
from tests.tokens.made import OTHER_SECRET, SECRET, private_key, private_pem, public_jwk, public_pem

CERTIFICATE = (Path(__file__).parents[1] / "certificates").with_suffix(".py")


class KeyFileTestCase(SynchronousTestCase):
    """Files of keys."""

    def file(self, content: str | bytes) -> str:
        """The path of a file with this content."""
        path = Path(self.mktemp())
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def read(self, *contents: str | bytes) -> TokenKeys:
        """The keys of files with these contents."""
        return TokenKeys.read([self.file(content) for content in contents])

    def refused(self, content: str | bytes, line: int | None) -> str:
        """Have a file refused; give what the message says besides the place."""
        path = self.file(content)
        message = str(self.assertRaises(FileRefused, TokenKeys.read, [path]))
        place = path if line is None else f"{path}, line {line}"
        self.assertTrue(message.startswith(f"{place}: "), message)
        for word in re.findall(r"[A-Za-z0-9+/_-]{12,}", content if isinstance(content, str) else ""):
            if word not in ("BEGIN", "CERTIFICATE"):
                self.assertNotIn(word, message.removeprefix(place))
        return message


class FileTests(KeyFileTestCase):
    """What a file may hold."""

    def test_secrets(self) -> None:
        """A secret is a line as it stands, without white space around it; comments and blank lines are skipped."""
        keys = self.read(f"# of 2026\r\n\r\n  {SECRET}\t\r\n#{'x' * 40}\n{OTHER_SECRET}")
        self.assertEqual(
            [("HS256", None, SECRET.encode()), ("HS256", None, OTHER_SECRET.encode())],
            [(key.algorithm, key.kid, key.material) for key in keys.keys],
        )

    def test_least(self) -> None:
        """32 bytes suffice, also if they are fewer characters."""
        for secret in ("x" * 32, "ä" * 16, "é" * 40):
            self.assertEqual(1, len(self.read(secret).keys))

    def test_public(self) -> None:
        """Public keys stand in PEM, more than one with text between them, or in a JWKS."""
        pems = [public_pem(private_key(algorithm)) for algorithm in ("RS256", "ES256", "EdDSA")]
        jwks = {"keys": [public_jwk(algorithm, kid=algorithm) for algorithm in ("RS256", "ES256", "EdDSA")]}
        for text, kids in (
            ("# ours\n\n" + "# ours\n".join(pems), [None] * 3),
            (json.dumps(jwks), ["RS256", "ES256", "EdDSA"]),
        ):
            keys = self.read(text).keys
            self.assertEqual(["RS256", "ES256", "EdDSA"], [key.algorithm for key in keys])
            self.assertEqual(kids, [key.kid for key in keys])

    def test_fingerprints(self) -> None:
        """A key has one fingerprint, however its file writes it, and keys are told apart by it."""
        pem, jwks = public_pem(private_key("ES256")), json.dumps({"keys": [public_jwk("ES256", kid="a")]})
        (one,), (two,) = self.read(pem).fingerprints, self.read(jwks).fingerprints
        self.assertEqual(one, two)
        self.assertRegex(one, r"^[0-9a-f]{8}$")
        self.assertEqual(4, len({*self.read(SECRET, OTHER_SECRET, pem).fingerprints, "a"}))

    def test_twice(self) -> None:
        """A key that is there twice is one."""
        self.assertEqual(1, len(self.read(f"{SECRET}\n{SECRET}", SECRET).keys))

    def test_encryption(self) -> None:
        """A JWKS may have keys for encryption, which verify nothing."""
        jwks = {"keys": [public_jwk("RS256", use="enc", alg="RSA-OAEP"), public_jwk("ES256", use="sig", alg="ES256")]}
        self.assertEqual(("ES256",), self.read(json.dumps(jwks)).algorithms)

    def test_matching(self) -> None:
        """A kid chooses the key that has it, or else one that has none; without a kid each may be it."""
        keys = self.read(SECRET, json.dumps({"keys": [public_jwk("ES256", kid="a")]}), public_pem(private_key("ES256")))
        for algorithm, kid, count in (("ES256", None, 2), ("ES256", "a", 1), ("ES256", "b", 1), ("HS256", "a", 1)):
            self.assertEqual(count, len(keys.matching(algorithm, kid)), (algorithm, kid))
        self.assertEqual([], keys.matching("EdDSA", None))

    def test_hidden(self) -> None:
        """No key shows what is secret in it."""
        self.assertNotIn(SECRET, repr(self.read(SECRET)))


class RefusedTests(KeyFileTestCase):
    """What is no file of keys."""

    def test_secrets(self) -> None:
        """A secret that is too short, can't be typed, or is a key of another kind, is refused with its line."""
        pem = public_pem(private_key("RS256"))
        ders = [
            private_key(algorithm).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for algorithm in ("RS256", "ES256", "EdDSA")
        ]
        ssh = private_key("RS256").public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        for line, says in (
            ("x" * 31, "31 bytes; right would be 32 or more"),
            ("x" * 40 + "\x07", "can't be seen"),
            ("x" * 40 + "\u200b", "can't be seen"),
            ("\ufeff" + SECRET, "can't be seen"),
            (pem.splitlines()[0], "a public key"),
            (pem.splitlines()[-1], "a public key"),
            *((base64.b64encode(der).decode(), "a public key") for der in ders),
            *((base64.urlsafe_b64encode(der).decode().rstrip("="), "a public key") for der in ders),
            (ssh, "a public key"),
            (json.dumps([public_jwk("RS256")]), "JWK"),
        ):
            self.assertIn(says, self.refused(f"{OTHER_SECRET}\n\n{line}\n", 3))

    def test_public_in_secrets(self) -> None:
        """A PEM file after secrets is refused where it begins."""
        self.assertIn("a file of its own", self.refused(f"{SECRET}\n{public_pem(private_key('ES256'))}", 2))

    def test_private(self) -> None:
        """A private key is refused, and the message says how to make a public one of it."""
        for algorithm in ("RS256", "ES256", "EdDSA"):
            private = private_key(algorithm)
            message = self.refused(
                public_pem(private) + "\n" + private_pem(private), len(public_pem(private).splitlines()) + 2
            )
            self.assertIn("openssl pkey -in FILE -pubout", message)
        jwk = {**public_jwk("ES256"), "d": "AAAA"}
        self.assertIn("key 1: this is a private key", self.refused(json.dumps({"keys": [jwk]}), None))

    def test_pem(self) -> None:
        """What is no public key that is used here is refused where it begins."""
        weak = public_pem(rsa.generate_private_key(65537, 1024))
        for text, says in (
            (weak, "1024 bits; right would be 2048 or more"),
            (public_pem(ec.generate_private_key(ec.SECP384R1())), "RS256 (RSA), ES256 (P-256) or EdDSA (Ed25519)"),
            (public_pem(ed448.Ed448PrivateKey.generate()), "ES256 (P-256)"),
            (public_pem(private_key("ES256"))[:-10], "no end"),
            (public_pem(private_key("ES256")).replace("\n", "\\n"), "right would be"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "openssl x509 -in FILE -noout -pubkey"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        ):
            for before, line in (("", 1), ("\n\n", 3)):
                self.assertIn(says, self.refused(before + text, line))

    def test_jwks(self) -> None:
        """What is no JWKS of public keys is refused with the key's number."""
        good = public_jwk("ES256", kid="a")
        for jwks, says in (
            ({}, '{"keys": […]}'),
            ({"keys": {}}, '{"keys": […]}'),
            (good, '{"keys": […]}'),
            ({"keys": []}, "no key for signatures"),
            ({"keys": [good, 7]}, "key 2: this is no object"),
            ({"keys": [good, {"kty": "oct", "k": "QUFB"}]}, "key 2: keys of this kty"),
            ({"keys": [{**good, "alg": "RS256"}]}, "key 1: its alg is another one; right would be ES256"),
            ({"keys": [{**good, "kid": 7}]}, "key 1: its kid"),
            ({"keys": [{**good, "x": "AAAA"}]}, "key 1: this can't be read"),
            ({"keys": [{"kty": "RSA"}]}, "key 1: this can't be read"),
            ({"keys": [{**good, "crv": "P-521"}]}, "key 1: this can't be read"),
        ):
            self.assertIn(says, self.refused(json.dumps(jwks), None))
        self.assertIn("no JSON", self.refused('{"keys":\n[}', 2))

    def test_same_kid(self) -> None:
        """Two keys can't have the same kid, in one file or in two."""
        other = ec.generate_private_key(ec.SECP256R1())
        from jwt import get_algorithm_by_name

        jwk = {**get_algorithm_by_name("ES256").to_jwk(other.public_key(), as_dict=True), "kid": "a"}
        files = ({"keys": [public_jwk("ES256", kid="a")]}, {"keys": [jwk]}, {"keys": [public_jwk("RS256", kid="a")]})
        one, two, three = map(json.dumps, files)
        self.assertIn("kid 'a'", str(self.assertRaises(FileRefused, self.read, one, two)))
        self.assertEqual(2, len(self.read(one, three).keys))

    def test_files(self) -> None:
        """What can't be read, is empty, too large or no text is refused."""
        for content, line, says in (
            ("", None, "no key for signatures in it"),
            ("# nothing\n\n", None, "no key for signatures in it"),
            (b"x" * 40 + b"\n\xff", 2, "no text in UTF-8"),
            (os.urandom(64) + b"\xff", 1, "no text"),
            (b"#" * 2**20 + b"\n", None, "mebibyte"),
        ):
            message = (
                self.refused(content, line)
                if says != "no text"
                else str(self.assertRaises(FileRefused, self.read, content))
            )
            self.assertIn(says, message)
            self.assertIn("realtime-chat key", message)
        for path, says in (("/nowhere/realtime.key", "No such file"), ("/", "Is a directory")):
            message = str(self.assertRaises(FileRefused, TokenKeys.read, [path]))
            self.assertTrue(message.startswith(f"{path}: "), message)
            self.assertIn(says, message)

    def test_without_cryptography(self) -> None:
        """Without cryptography a public key is refused, and the message says what to install; secrets still work."""
        path = self.file(public_pem(private_key("ES256")))
        with patch.dict(sys.modules, {"realtime_chat.tokens.public_keys": None}):
            message = str(self.assertRaises(FileRefused, TokenKeys.read, [path]))
            self.assertEqual(1, len(self.read(SECRET).keys))
        self.assertIn("pip install 'realtime_chat[public-keys]'", message)
