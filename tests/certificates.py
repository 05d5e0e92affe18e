"""Certificates for tests."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["self_signed", "write_self_signed"]


def self_signed(host: str) -> tuple[bytes, bytes]:
    """A key and a certificate for a host, a name or an address, as PEM, which nobody vouches for but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_subject(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    no_password = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def write_self_signed(directory: str | Path, host: str) -> tuple[Path, Path]:
    """Make a directory with such a pair in it: the paths of the key and of the certificate."""
    place = Path(directory).absolute()
    place.mkdir()
    files = place / "key.pem", place / "certificate.pem"
    for path, pem in zip(files, self_signed(host), strict=True):
        path.write_bytes(pem)
    return files


def _subject(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
