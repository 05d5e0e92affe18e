"""Tests for :mod:`realtime_chat.tokens.verifier`: what a token says, and which tokens are refused."""

from __future__ import annotations

import base64
import hmac
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.tokens.keys import TokenKeys, secret_key
from realtime_chat.tokens.signed import MAX_TOKEN
from realtime_chat.tokens.verifier import MAX_INFO, TokenVerifier
from realtime_chat.values.access import READ, SIGNAL, WRITE, Claims, Grants
from realtime_chat.values.errors import RealtimeError, no_keys
from tests.tokens.made import (
    NOW,
    OTHER_SECRET,
    SECRET,
    base64url,
    private_key,
    public_jwk,
    public_pem,
    token,
)

PUBLIC = ("RS256", "ES256", "EdDSA")


class VerifierTestCase(SynchronousTestCase):
    """Verifies tokens at a time that stands still."""

    now: float = NOW

    def keys(self, *files: str) -> TokenKeys:
        """The keys of files with these texts."""
        paths = []
        for text in files:
            paths.append(self.mktemp())
            Path(paths[-1]).write_text(text)
        return TokenKeys.read(paths)

    def verifier(self, *files: str, audience: str | None = None, issuer: str | None = None) -> TokenVerifier:
        """A verifier with the keys of files with these texts, or with one secret."""
        return TokenVerifier(self.keys(*(files or (SECRET,))), audience, issuer, lambda: self.now)

    def refused(self, text: str, verifier: TokenVerifier | None = None, code: str = "unauthorized") -> str:
        """Have a token refused, and give the message."""
        error = self.assertRaises(RealtimeError, (verifier or self.verifier()).verify, text)
        self.assertEqual(code, error.code, error.message)
        self.assertRegex(error.message, "right would be|such as")
        for part in filter(None, text.split(".")):
            self.assertNotIn(part[:24], error.message) if len(part) > 23 else None
        return error.message


class ClaimTests(VerifierTestCase):
    """What a token says."""

    def test_least(self) -> None:
        """A user and an end suffice."""
        key = secret_key(SECRET).fingerprint
        expected = Claims("u7", None, None, Grants(), (NOW + 3600) * 1000, None, key)
        self.assertEqual(expected, self.verifier().verify(token()))

    def test_all(self) -> None:
        """A token may say the user's name, what the site vouches for, rights by room, and since when it is in force."""
        claims = self.verifier().verify(
            token(
                {
                    "name": " Ann ",
                    "info": {"role": "staff", "ä": 1.5},
                    "iat": NOW - 5,
                    "nbf": NOW - 5,
                    "rooms": {"lobby": "rw", "help-*": "s"},
                    "jti": "x",
                    "unknown": [1],
                }
            )
        )
        self.assertEqual(("Ann", '{"role":"staff","ä":1.5}'.encode()), (claims.name, claims.info))
        self.assertEqual(
            (READ | WRITE, SIGNAL, 0), tuple(claims.rooms.rights(room) for room in ("lobby", "help-1", "x"))
        )
        self.assertEqual((NOW - 5) * 1000, claims.issued)

    def test_sub(self) -> None:
        """A whole number is taken as its digits, and each text counts as it stands."""
        for sub, expected in (
            (42, "42"),
            (0, "0"),
            ("42", "42"),
            (" a", " a"),
            ("Ann Ünal", "Ann Ünal"),
            ("x" * 64,) * 2,
        ):
            self.assertEqual(expected, self.verifier().verify(token({"sub": sub})).sub)

    def test_empty(self) -> None:
        """PHP writes an empty map as an empty array, which is none."""
        claims = self.verifier().verify(token({"rooms": [], "info": []}))
        self.assertEqual((Grants(), None), (claims.rooms, claims.info))

    def test_fractions(self) -> None:
        """Times may have fractions of seconds."""
        self.assertEqual((NOW + 1) * 1000 + 500, self.verifier().verify(token({"exp": NOW + 1.5})).expires)

    def test_parties(self) -> None:
        """Audience and issuer are as configured; an audience may be one of several."""
        verifier = self.verifier(audience="chat", issuer="https://example.com")
        for aud in ("chat", ["mail", "chat"]):
            verifier.verify(token({"aud": aud, "iss": "https://example.com"}))
        self.verifier().verify(token({"iss": "anybody"}))

    def test_algorithms(self) -> None:
        """Each public key verifies the tokens of its algorithm, from PEM and from a JWKS, with and without a kid."""
        pems = "".join(public_pem(private_key(algorithm)) for algorithm in PUBLIC)
        jwks = json.dumps({"keys": [public_jwk(algorithm, kid=f"the {algorithm}") for algorithm in PUBLIC]})
        for verifier in (self.verifier(pems, SECRET), self.verifier(SECRET, jwks)):
            for algorithm in PUBLIC:
                for header in ({}, {"kid": f"the {algorithm}"}):
                    signed = token(key=private_key(algorithm), algorithm=algorithm, header=header)
                    self.assertEqual("u7", verifier.verify(signed).sub)
            self.assertEqual("u7", verifier.verify(token()).sub)

    def test_many_keys(self) -> None:
        """Any key of the file verifies, and the claims say which."""
        verifier = self.verifier(f"{SECRET}\n{OTHER_SECRET}\n")
        found = [verifier.verify(token(key=key)).key for key in (SECRET, OTHER_SECRET)]
        self.assertEqual([secret_key(key).fingerprint for key in (SECRET, OTHER_SECRET)], found)


class TimeTests(VerifierTestCase):
    """When a token is in force."""

    def test_end(self) -> None:
        """A token that was verified before is refused from its end on, to the millisecond."""
        verifier, signed = self.verifier(), token({"exp": NOW + 2})
        for self.now in (NOW, NOW + 1.999):
            verifier.verify(signed)
        for self.now in (NOW + 2, NOW + 99):
            self.assertIn("exp", self.refused(signed, verifier, "token_expired"))

    def test_start(self) -> None:
        """A clock may be ten seconds ahead of ours, and not more."""
        for claim in ("nbf", "iat"):
            verifier, signed = self.verifier(), token({claim: NOW + 11})
            self.now = NOW
            self.assertIn(claim, self.refused(signed, verifier))
            self.now = NOW + 1
            verifier.verify(signed)
            self.now = NOW - 60  # somebody sets the clock back
            self.refused(signed, verifier)

    def test_replaced_keys(self) -> None:
        """A key that is removed verifies nothing from then on, not even what it verified before."""
        verifier = self.verifier(SECRET)
        verified = verifier.verify(token())
        self.assertEqual({verified.key}, verifier.fingerprints())
        verifier.replace(self.keys(OTHER_SECRET), None, None)
        self.assertNotIn(verified.key, verifier.fingerprints())
        self.refused(token(), verifier)
        verifier.verify(token(key=OTHER_SECRET))

    def test_bounded(self) -> None:
        """However many tokens come, only some are remembered."""
        verifier = self.verifier()
        self.patch(verifier_module(), "_MAX_REMEMBERED", 5)
        for number in range(12):
            verifier.verify(token({"sub": number}))
        self.assertEqual(5, len(verifier._remembered))


def verifier_module() -> Any:
    """The module, to change its bound."""
    from realtime_chat.tokens import verifier

    return verifier


class Attack(NamedTuple):
    """A token that has to be refused.

    :ivar says: a word of the message.
    """

    what: str
    text: str
    says: str
    code: str = "unauthorized"


def _flipped(text: str, part: int) -> str:
    """A token with one bit changed in one of its parts."""
    parts = text.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    raw[len(raw) // 2] ^= 1
    parts[part] = base64url(bytes(raw))
    return ".".join(parts)


def _confused(secret: str, now: float) -> str:
    """A token for HS256 that is signed with a public text."""
    signed = token(now=now).rpartition(".")[0]
    return f"{signed}.{base64url(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def _signatures(signed: str) -> list[tuple[str, bytes]]:
    """Signatures that are none of a token."""
    raw = base64.urlsafe_b64decode(signed.rpartition(".")[2] + "==")
    return [
        ("no signature", b""),
        ("a short signature", raw[:-1]),
        ("a long signature", raw + b"\0"),
        ("zeros", bytes(len(raw))),
        ("ones", b"\xff" * len(raw)),
        ("its halves changed over", raw[len(raw) // 2 :] + raw[: len(raw) // 2]),
    ]


def attacks(now: float = NOW) -> list[Attack]:
    """Tokens against a verifier with one secret, the key of RS256 in PEM, and those of ES256 and EdDSA in a JWKS.

    :param now: the verifier's time.
    """
    made = partial(token, now=now)
    rsa, ecdsa, good = private_key("RS256"), private_key("ES256"), made()
    own = public_jwk("ES256")
    exp, past = int(now) + 3600, int(now) - 3600
    return [
        Attack("alg none", made(algorithm="none"), "alg"),
        Attack("alg None", made(algorithm="none", header={"alg": "None"}), "alg"),
        Attack("alg none with the signature of another", made(header={"alg": "none"}), "alg"),
        Attack("no alg", made(header=b'{"typ":"JWT"}'), "alg"),
        Attack("alg is no string", made(header={"alg": ["HS256"]}), "alg"),
        Attack("an algorithm without a key", made(algorithm="HS512"), "alg"),
        Attack("the public key as a secret", _confused(public_pem(rsa), now), "signature"),
        Attack("the public key as a secret, stripped", _confused(public_pem(rsa).strip(), now), "signature"),
        Attack("a JWK as a secret", _confused(json.dumps(own), now), "signature"),
        Attack("RS256 by the key of another", made(key=_stranger(), algorithm="RS256"), "signature"),
        Attack("ES256 that says RS256", made(key=ecdsa, algorithm="ES256", header={"alg": "RS256"}), "signature"),
        Attack("RS256 that says HS256", made(key=rsa, algorithm="RS256", header={"alg": "HS256"}), "signature"),
        *(
            Attack(f"{algorithm} with {what}", signed.rpartition(".")[0] + f".{base64url(signature)}", "signature")
            for algorithm in PUBLIC
            for signed in [made(key=private_key(algorithm), algorithm=algorithm)]
            for what, signature in _signatures(signed)
        ),
        Attack("a key in the header", made(key=OTHER_SECRET, header={"jwk": {"kty": "oct", "k": "x"}}), "signature"),
        Attack("an address of keys in the header", made(key=OTHER_SECRET, header={"jku": "http://x/"}), "signature"),
        Attack("an unknown kid", made(key=ecdsa, algorithm="ES256", header={"kid": "x"}), "kid"),
        Attack(
            "the kid of another key", made(key=rsa, algorithm="RS256", header={"kid": "one", "alg": "ES256"}), "sig"
        ),
        Attack("a kid that is a path", made(key="\0" * 32, header={"kid": "../../dev/null"}), "signature"),
        Attack("a kid that is no string", made(header={"kid": 1}), "kid"),
        Attack("another secret", made(key=OTHER_SECRET), "signature"),
        Attack("an empty secret", made(key=""), "signature"),
        Attack("no signature", good.rpartition(".")[0] + ".", "signature"),
        Attack("a signature cut short", good[:-4], "signature"),
        Attack("one bit of the signature", _flipped(good, 2), "signature"),
        Attack("one bit of the payload", _flipped(good, 1), "signature"),
        Attack("one bit of the header", _flipped(good, 0), "header"),
        Attack("another spelling of the signature", good[:-1] + _next(good[-1]), "base64url"),
        Attack("padding", good + "=", "base64url"),
        Attack("white space", good + "\n", "base64url"),
        Attack("a fourth part", good + ".", "base64url"),
        Attack("an encrypted token", ".".join(["abcd"] * 5), "base64url"),
        Attack("an empty text", "", "base64url"),
        Attack("a lone surrogate", "\ud800" + good, "base64url"),
        Attack("60 KB", made({"info": {"x": "y" * 45_000}}), f"{MAX_TOKEN:,} bytes"),
        Attack("what must be understood", made(header={"crit": ["exp"], "exp": exp}), "crit"),
        Attack("an unencoded payload", made(header={"b64": False}), "b64"),
        Attack("a compressed payload", made(header={"zip": "DEF"}), "zip"),
        Attack("a token in a token", made(good.encode(), header={"cty": "JWT"}), "cty"),
        Attack("a token as the payload", made(good.encode()), "JSON"),
        Attack("a token for something else", made(header={"typ": "logout+jwt"}), "typ"),
        Attack("alg twice", made(header=b'{"alg":"none","alg":"HS256"}'), "'alg' is there twice"),
        Attack("sub twice", made(f'{{"sub":"u7","sub":"u1","exp":{exp}}}'), "'sub' is there twice"),
        Attack("sub twice, once escaped", made(f'{{"sub":"u7","\\u0073ub":"u1","exp":{exp}}}'), "'sub' is there twice"),
        Attack("a room twice", made(f'{{"sub":"u7","exp":{exp},"rooms":{{"a":"r","a":"rw"}}}}'), "'a' is there twice"),
        Attack("no object", made("[]"), "object"),
        Attack("JSON that ends too early", made('{"sub":'), "JSON"),
        Attack("deep JSON", made('{"x":' + "[" * 5000 + "]" * 5000 + "}"), "deeper"),
        Attack("no UTF-8", made(b'{"sub":"\xff"}'), "UTF-8"),
        Attack("NaN", made('{"sub":"u7","exp":NaN}'), "JSON"),
        Attack("an integer that is too large", made({"info": {"x": 10**400}}), "number"),
        Attack("no sub", made(f'{{"exp":{exp}}}'), "sub"),
        *(Attack(f"sub {sub!r}", made({"sub": sub}), "sub") for sub in _NO_SUBS),
        Attack("no exp", made('{"sub":"u7"}'), "exp"),
        *(Attack(f"exp {time!r}", made({"exp": time}), "exp") for time in (str(exp), True, None, [], exp * 1000, -1)),
        Attack("expired", made({"exp": past}), "exp", "token_expired"),
        Attack("expired in this moment", made({"exp": int(now)}), "exp", "token_expired"),
        Attack("expired long ago", made({"exp": 0}), "exp", "token_expired"),
        Attack("not yet valid", made({"nbf": exp}), "nbf"),
        Attack("from the future", made({"iat": exp}), "iat"),
        *(Attack(f"{claim} in a text", made({claim: str(past)}), claim) for claim in ("nbf", "iat")),
        Attack("for somebody else", made({"aud": "mail"}), "aud"),
        Attack("for others", made({"aud": ["mail", "news"]}), "aud"),
        Attack("an audience of a wrong type", made({"aud": [1]}), "aud"),
        Attack("an issuer of a wrong type", made({"iss": 1}), "iss"),
        *(Attack(f"name {name!r}", made({"name": name}), "name") for name in ("", " ", 7, None, "a\nb", "x" * 65)),
        *(Attack(f"info {info!r}"[:20], made({"info": info}), "info") for info in ("x", 1, None, [1], _LARGE)),
        *(Attack(f"rooms {rooms!r}", made({"rooms": rooms}), "rooms") for rooms in _NO_ROOMS),
    ]


_NO_SUBS: tuple[Any, ...] = (
    *("", "x" * 65, "a\0b", "a\nb", "a\u2028b", 1.5, True, None, [], {}, -1, 10**80, "anonymous"),
    *("u" + "a2" * 8, "~u" + "a2" * 8, "\u00e4" * 22, "~" * 43),
)
_LARGE = {"x": "y" * (MAX_INFO - len('{"x":""}') + 1)}
_NO_ROOMS: tuple[Any, ...] = (
    *("lobby", None, ["lobby"], {"lobby": 3}, {"lobby": None}, {"lobby": ["r"]}, {"lobby": "x"}, {"lobby": "rr"}),
    *({"": "r"}, {"a b": "r"}, {"a*b": "r"}, {"**": "r"}, {"..": "r"}, {"x" * 129: "r"}),
)


def _stranger() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(65537, 2048)


def _next(letter: str) -> str:
    """The last letter of 32 bytes in base64url, with one of the two bits changed that mean nothing."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return letters[letters.index(letter) ^ 1]


class AttackTests(VerifierTestCase):
    """Tokens that nobody with a key here has made so."""

    def test_refused(self) -> None:
        """Each is refused with its code, the message names what is wrong and repeats nothing of the token."""
        jwks = json.dumps({"keys": [public_jwk("ES256", kid="one"), public_jwk("EdDSA", kid="two")]})
        verifier = self.verifier(SECRET, public_pem(private_key("RS256")), jwks)
        rows = attacks()
        self.assertGreater(len(rows), 40)
        for attack in rows:
            for _ in range(2):  # nothing that was refused is remembered as right
                message = self.refused(attack.text, verifier, attack.code)
                self.assertIn(attack.says, message, attack.what)

    def test_largest(self) -> None:
        """What is as large as it may be is accepted."""
        info = {"x": "y" * (MAX_INFO - len('{"x":""}'))}
        rooms = {f"room-{number}": "rw" for number in range(600)}
        signed = token({"info": info, "rooms": rooms, "sub": "~" * 42})
        self.assertLess(MAX_TOKEN * 0.8, len(signed))
        self.verifier().verify(signed)

    def test_length(self) -> None:
        """The longest token is accepted, and one that is a character longer isn't."""
        tokens = {len(signed): signed for signed in (token({"x": "y" * size}) for size in range(12_160, 12_200))}
        self.verifier().verify(tokens[MAX_TOKEN])
        self.assertIn("more than 16,384 bytes", self.refused(tokens[min(size for size in tokens if size > MAX_TOKEN)]))

    def test_other_parties(self) -> None:
        """What is for another audience, or of another issuer, is refused where these are configured."""
        for claims, says in (
            ({"aud": "chat"}, "iss"),
            ({"iss": "site"}, "aud"),
            ({"aud": "Chat", "iss": "site"}, "aud"),
            ({"aud": [], "iss": "site"}, "aud"),
            ({"aud": ["chat", 1], "iss": "site"}, "aud is no string and no array of strings"),
            ({"aud": "chat", "iss": "site/"}, "iss"),
        ):
            self.assertIn(says, self.refused(token(claims), self.verifier(audience="chat", issuer="site")))

    def test_no_keys(self) -> None:
        """Without a key nothing is verified, and the message says that."""
        verifier = TokenVerifier(TokenKeys(), None, None, lambda: NOW)
        for text in (token(), token(algorithm="none")):
            error = self.assertRaises(RealtimeError, verifier.verify, text)
            self.assertEqual(("unauthorized", no_keys().message), (error.code, error.message))
