"""Tests for :mod:`realtime_chat.transports.frames`."""

import os
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.transports.frames import FrameBatch, deflated_frame, frame, short_frame, unmask


def masked(payload: bytes, mask: bytes) -> bytes:
    """A client's text frame, byte by byte as RFC 6455, section 5.3, says."""
    size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + size + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def payload_of(whole: bytes) -> bytes:
    """The payload of one unmasked frame."""
    return whole[{126: 4, 127: 10}.get(whole[1], 2) :]


class SentTests(SynchronousTestCase):
    """Frames to be sent."""

    def test_lengths(self) -> None:
        """The three forms of the length."""
        for size, head in ((0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)):
            whole = frame(b"x" * size)
            self.assertEqual((0x81, head + size), (whole[0], len(whole)))

    def test_ends(self) -> None:
        """Joined frames know where each of them ends."""
        frames = FrameBatch([b"ab", b"", b"cde"])
        self.assertEqual((3, b"abcde", [2, 2, 5]), (frames.count, frames.data, frames.ends))

    @given(st.lists(st.binary(max_size=5000) | st.text(max_size=500).map(lambda text: text.encode() * 3), max_size=5))
    def test_compressed(self, payloads: list[bytes]) -> None:
        """What is compressed inflates to what it was, one after the other in one window, and is never longer."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        for payload in payloads:
            whole = deflated_frame(payload)
            self.assertLessEqual(len(whole), len(frame(payload)))
            inflated = payload_of(whole)
            if whole[0] == 0xC1:
                inflated = inflater.decompress(inflated + b"\x00\x00\xff\xff")
            self.assertEqual(payload, inflated)


class ReceivedTests(SynchronousTestCase):
    """Frames that came."""

    @given(st.binary(max_size=1100), st.binary(min_size=4, max_size=4), st.binary(max_size=20), st.binary(max_size=20))
    def test_short_frames(self, payload: bytes, mask: bytes, before: bytes, after: bytes) -> None:
        """A whole short frame is found where it is, and read as what was sent."""
        found = short_frame(before + masked(payload, mask) + after, len(before), 1024)
        if len(payload) > 1024:
            self.assertIsNone(found)
        else:
            assert found is not None
            begin, end = found
            data = before + masked(payload, mask) + after
            self.assertEqual(payload, unmask(data[begin:end], data[begin - 4 : begin]))
            self.assertEqual(after, data[end:])

    @given(st.binary(max_size=300), st.integers(0, 400))
    def test_cut_short(self, payload: bytes, cut: int) -> None:
        """A frame of which a part is missing is none."""
        whole = masked(payload, os.urandom(4))
        if cut < len(whole):
            self.assertIsNone(short_frame(whole[:cut], 0, 1024))

    def test_others(self) -> None:
        """What isn't text, isn't whole, isn't masked, is long or compressed is left to Autobahn."""
        for data in (
            b"",
            b"\x81",
            b"\x82\x80mask",
            b"\x01\x80mask",
            b"\x81\x00mask",
            b"\xc1\x80mask",
            b"\x81\xff" + bytes(2000),
        ):
            self.assertIsNone(short_frame(data, 0, 1024), data)
