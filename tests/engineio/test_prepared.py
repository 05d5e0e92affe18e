"""Tests for :mod:`realtime_chat.engineio.prepared`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.engineio.prepared import Binary, PreparedMessage, frame_encoding, payload_encoding

MESSAGE = ["é".encode(), Binary(b"\x00\xff")]

FRAMES = {
    (4, False): b"\x81\x034\xc3\xa9" + b"\x82\x02\x00\xff",
    (3, False): b"\x81\x034\xc3\xa9" + b"\x82\x03\x04\x00\xff",
    (4, True): b"\x81\x034\xc3\xa9" + b"\x81\x05bAP8=",
    (3, True): b"\x81\x034\xc3\xa9" + b"\x81\x06b4AP8=",
}
"""By the version, and whether binary data is in base64."""

PAYLOADS = {
    (4, False): b"4\xc3\xa9\x1ebAP8=",
    (3, False): b"2:4\xc3\xa9" + b"6:b4AP8=",
    (3, True): b"\x00\x03\xff4\xc3\xa9" + b"\x01\x03\xff\x04\x00\xff",
}
"""By the version, and whether the payload is binary."""


class PreparedMessageTests(SynchronousTestCase):
    """What a message is on the wire."""

    def test_encodings(self) -> None:
        """Text and binary are right for each transport and version."""
        message = PreparedMessage(MESSAGE)
        for key, data in FRAMES.items():
            self.assertEqual(data, message.encode(frame_encoding(*key)), key)
        for key, data in PAYLOADS.items():
            self.assertEqual(data, message.encode(payload_encoding(*key)), key)
        self.assertEqual((True, 6), (message.has_binary, message.size))

    def test_each_encoding_is_made_once(self) -> None:
        """A thousand connections share one encoding."""
        message = PreparedMessage(MESSAGE)
        for key in FRAMES:
            self.assertIs(message.encode(frame_encoding(*key)), message.encode(frame_encoding(*key)))
        batch = message.batch(frame_encoding(4, False))
        self.assertEqual(1, batch.count)
        self.assertIs(message.encode(frame_encoding(4, False)), batch.data)

    def test_joined(self) -> None:
        """Several messages are encoded as one after the other; one stays as it is."""
        message, other = PreparedMessage(MESSAGE), PreparedMessage((b"other",))
        joined = PreparedMessage.joined((message, other))
        for encoding in map(frame_encoding, (3, 4, 4), (False, False, True)):
            self.assertEqual(message.encode(encoding) + other.encode(encoding), joined.encode(encoding))
        payload = payload_encoding(4, False)
        self.assertEqual(message.encode(payload) + b"\x1e" + other.encode(payload), joined.encode(payload))
        self.assertEqual(message.size + other.size, joined.size)
        self.assertIs(message, PreparedMessage.joined((message,)))
