"""Every identifier that a client brings has exactly one spelling."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable
from string import ascii_letters, digits
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.identity import Identities
from realtime_chat.engineio.packets import PacketError, decode_payload
from realtime_chat.http.host_list import Authority
from realtime_chat.http.origins import _normalise
from realtime_chat.presence.poll_version import _NUMBER, _VERSION
from realtime_chat.socketio.packets import MAX_ID, PacketReader
from realtime_chat.transports.event_blocks import read_id
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position, check_event, check_key, check_room
from tests.fakes import tokens

IDENTITIES = Identities(lambda: b"k" * 32, tokens())
CLASSIC = [IDENTITIES.issue() for _ in range(200)]
SEALED = [IDENTITIES.new_guest("x" * length).client for length in range(1, 13) for _ in range(10)]
"""Clients of all lengths, so that each number of bits that mean nothing is among their last characters."""

CLIENTS = [*CLASSIC, *SEALED]

epochs = st.text("abcxyzABC019_-", min_size=1, max_size=12)
offsets = st.integers(0, 10**16 - 1)
positions = st.builds(Position, epochs, offsets)
rooms = st.text("abcXYZ019_.:@~-", min_size=1, max_size=20).filter(lambda name: name not in (".", ".."))
ids = st.dictionaries(rooms, positions, min_size=2, max_size=4)


def respellings(text: str) -> st.SearchStrategy[str]:
    """What somebody may write who means the same: other digits, signs, cases, forms, white space, ways to encode."""
    place = st.integers(0, len(text))
    noise = st.sampled_from(
        ["0", "+", "-", " ", "\n", "\0", "=", ".", ",", ":", "%", "_", "/", "\u200b", "\u0301", "٣", "3"]
    )
    return st.one_of(
        st.just(text),
        st.sampled_from((f"0{text}", text.replace(":", ":0"), text.replace(".", ".0"))),
        st.builds(lambda at, sign: text[:at] + sign + text[at:], place, noise),
        st.builds(lambda at, sign: text[:at] + sign + text[at + 1 :], place, noise),
        st.builds(lambda at: text[:at] + text[at:].swapcase(), place),
        st.builds(
            lambda at: text[:at] + "".join(chr(ord("\uff10") + int(c)) if c in "0123456789" else c for c in text[at:]),
            place,
        ),
        st.builds(lambda at: text[:at] + text[at : at + 1].replace("-", "+").replace("_", "/") + text[at + 1 :], place),
        st.just(text.translate({ord("-"): "+", ord("_"): "/"})),
        st.just("".join(f"%{ord(sign):02x}" for sign in text)),
        st.sampled_from(("NFC", "NFD", "NFKC", "NFKD")).map(lambda form: unicodedata.normalize(form, text)),
        st.just(f"{text},{text}"),
        st.just(f"{text}."),
    )


def is_known(client: str) -> bool:
    """Whether a client is somebody's."""
    try:
        return IDENTITIES.find(client) is not None
    except RealtimeError:
        return False


def respelled(valid: st.SearchStrategy[str]) -> Any:
    """Pairs of a right spelling and a doubtful one."""
    return valid.flatmap(lambda text: st.tuples(st.just(text), respellings(text)))


class OneSpellingTests(SynchronousTestCase):
    """What is accepted is what encoding its meaning gives."""

    def check(self, text: str, decode: Callable[[str], Any], encode: Callable[[Any], str]) -> None:
        try:
            value = decode(text)
        except (RealtimeError, ValueError):
            return
        self.assertEqual(text, encode(value))

    @given(respelled(st.sampled_from(CLIENTS)))
    def test_clients(self, pair: tuple[str, str]) -> None:
        """A client's bits have one spelling that is known."""
        right, doubtful = pair
        self.assertEqual(right, IDENTITIES.check(right).client)

        def decode(text: str) -> bytes:
            return base64.b64decode(IDENTITIES.check(text).client.encode() + b"==", b"-_")

        self.check(doubtful, decode, lambda bits: base64.urlsafe_b64encode(bits).rstrip(b"=").decode())

    def test_clients_by_other_alphabets(self) -> None:
        """The other alphabet of base64, which decoders take as well, makes nobody another client."""
        changed = [client.translate({ord("-"): "+", ord("_"): "/"}) for client in CLIENTS]
        different = [other for client, other in zip(CLIENTS, changed, strict=True) if client != other]
        self.assertGreater(len(different), 100)
        self.assertEqual([], [other for other in different if is_known(other)])

    def test_last_characters_of_clients(self) -> None:
        """Of all last characters that stand for the same bytes, one is known; and none with padding."""
        self.assertEqual({0, 2, 3}, {len(client) % 4 for client in SEALED})
        for client in CLIENTS:
            spellings = {client[:-1] + sign for sign in f"{ascii_letters}{digits}-_+/="} | {client + "=", client + "=="}
            self.assertEqual([client], [text for text in spellings if is_known(text)])

    @given(positions, st.data())
    @example(Position("k3x9", 42), None)
    def test_positions(self, position: Position, data: Any) -> None:
        """A position is read from one spelling: no zeros before it, no sign, no other digits."""
        self.assertEqual(position, Position.parse(str(position)))
        doubtful = (
            ["k3x9:042", "k3x9:+42", "k3x9:٤٢", "k3x9:42 "] if data is None else [data.draw(respellings(str(position)))]
        )
        for text in doubtful:
            self.check(text, Position.parse, str)

    @given(ids.flatmap(lambda known: st.tuples(st.just(known), respellings(_encode_id(known)))))
    def test_ids_of_streams(self, pair: tuple[dict[str, Position], str]) -> None:
        """So has the id of an event stream that reads several rooms, each of which it names once."""
        known, doubtful = pair
        self.assertEqual(known, read_id(_encode_id(known), list(known)))
        self.check(doubtful, lambda text: read_id(text, list(known)), _encode_id)

    @given(positions, st.data())
    def test_id_of_one_room(self, position: Position, data: Any) -> None:
        """Where one room is read, the id is the position."""
        self.assertEqual({"lobby": position}, read_id(str(position), ["lobby"]))
        for text in (f"lobby={position}", data.draw(respellings(str(position)))):
            self.check(text, lambda text: read_id(text, ["lobby"]), lambda known: str(known["lobby"]))

    @given(respelled(st.integers(0, 10**16 - 1).map(str)))
    def test_stamps(self, pair: tuple[str, str]) -> None:
        """The number in a version of presence has one spelling."""
        self.assertTrue(_NUMBER.fullmatch(pair[0]))
        self.check(pair[1], lambda text: int(text) if _NUMBER.fullmatch(text) else int("no"), str)

    @given(
        st.from_regex(
            r"[0-9a-f]{8}\.(0|[1-9][0-9]{0,8})(\.[0-9a-f]{16}|\.[0-9a-f]{16}\.[0-9a-f]{16}|\.\.[0-9a-f]{32})?",
            fullmatch=True,
        ).flatmap(lambda text: st.tuples(st.just(text), respellings(text)))
    )
    @example(("12345678.5", "12345678.5."))
    def test_versions(self, pair: tuple[str, str]) -> None:
        """So has a version that nodes share."""
        self.assertTrue(_VERSION.fullmatch(pair[0]))

        def decode(text: str) -> tuple[str, int, str | None, str | None]:
            match = _VERSION.fullmatch(text)
            if match is None:
                raise ValueError
            return match[1], int(match[2]), match[3], match[4]

        self.check(pair[1], decode, _encode_version)

    @given(respelled(rooms))
    def test_rooms(self, pair: tuple[str, str]) -> None:
        """A room's name is itself, and no other form of it is a name at all or another room's."""
        self.assertEqual(pair[0], check_room(pair[0]))
        self.check(pair[1], check_room, lambda name: unicodedata.normalize("NFKC", name))

    @given(st.text(min_size=1, max_size=20).flatmap(lambda text: st.tuples(st.just(text), respellings(text))))
    def test_keys_and_events(self, pair: tuple[str, str]) -> None:
        """Keys and names of events are compared as they are: nothing is stripped, folded or composed."""
        for text in pair:
            self.check(text, check_key, str)
            self.check(text, check_event, str)

    @given(st.integers(1, 65535), st.data())
    @example(80, None)
    def test_hosts(self, port: int, data: Any) -> None:
        """But for the case of letters, and how an IPv6 address is shortened, a host has one spelling."""
        host = f"a.example:{port}"
        doubtful = "a.example:080" if data is None else data.draw(respellings(host))
        self.check(doubtful.lower(), Authority.parse, str)
        self.check(f"app://{doubtful.lower()}", _normalise, str)  # whose port is never left out

    @given(respelled(st.integers(0, MAX_ID).map(str)))
    def test_ids_of_acknowledgements(self, pair: tuple[str, str]) -> None:
        """The id of a Socket.IO event has one spelling, and nothing before it is taken for a part of it."""

        def decode(text: str) -> int:
            if text.endswith((" ", "\t", "\n", "\r")):
                raise PacketError("that white space belongs to the JSON")
            packet = PacketReader(5, 1000).read_text(f"3{text}[]".encode())
            if packet is None or packet.id is None or packet.namespace != "/":
                raise PacketError("another packet")
            return packet.id

        for text in pair:
            self.check(text, decode, str)

    @given(respelled(st.sampled_from(("1", "2", "10"))))
    def test_numbers_of_attachments(self, pair: tuple[str, str]) -> None:
        """The number of a packet's attachments has one spelling."""

        def decode(text: str) -> int:
            reader = PacketReader(5, 1000)
            reader.read_text(f'5{text}-["a"]'.encode())
            return reader._missing

        for text in pair:
            self.check(text, decode, str)

    @given(respelled(st.integers(1, 999).map(str)), st.sampled_from("xä"))
    def test_lengths_of_packets(self, pair: tuple[str, str], filler: str) -> None:
        """The length of a packet has one spelling in a payload of Engine.IO 3, of ASCII and of other text."""

        def decode(text: str) -> int:
            packets = list(decode_payload(f"{text}:4{filler * (int(pair[0]) - 1)}".encode(), 3))
            return 1 + len(packets[0].data.decode())

        for text in pair:
            self.check(text, decode, str)


def _encode_id(positions: dict[str, Position]) -> str:
    return ",".join(f"{room}={position}" for room, position in positions.items())


def _encode_version(version: tuple[str, int, str | None, str | None]) -> str:
    node, stamp, digest, heard = version
    if heard is not None:
        return f"{node}.{stamp}.{digest or ''}.{heard}"
    return f"{node}.{stamp}" if digest is None else f"{node}.{stamp}.{digest}"
