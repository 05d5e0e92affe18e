"""Which address a request comes from, if proxies that the operator trusts stand in between. There is no I/O here.

Anybody can send ``X-Forwarded-For``, ``Forwarded`` (RFC 7239) and the PROXY protocol. Each proxy adds the address of
who connected to it at the right. So they are read from the right, as long as the address so far is a trusted proxy's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Any, NamedTuple

import attrs
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.web.http_headers import Headers

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_EXAMPLE = "right would be your proxy's address, such as 10.0.0.5, a network such as 10.0.0.0/24, loopback or unix"
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_IPV4_MAPPED = 96
"""The length of the prefix of IPv4 addresses in IPv6 (RFC 4291, section 2.5.5.2)."""

_MAX_PROXIES = 16
"""The longest chain of proxies."""

_MAX_FORWARDED = 1024
"""Bytes of the longest ``Forwarded`` that is read. It can't be read from the right, because of its quotes."""

_MAX_KEPT = 4096
_MAX_KEPT_TEXT = 256
"""How many addresses are kept in memory, and the bytes of the longest headers for which they are."""

_LIKE_PRIVATE = ("10.", "172.", "192.168.", "fc", "fd")
"""How addresses of private networks begin. ``is_private`` takes 10 µs."""

_EMPTY = ", \t"
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_NODE = re.compile(rf"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\]){_PORT}")
"""A node with an address (RFC 7239, section 6). It may also be ``unknown``, or hidden behind a word."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf'[ \t]*(?:({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)"))?[ \t]*([,;]|\Z)')
_ESCAPE = re.compile(r"\\(.)")


class ClientAddress(NamedTuple):
    """Where a request comes from.

    :ivar host: the address of the client, as far as it is known; None for a Unix socket.
    :ivar key: what limits by address count by: an IPv4 address, or the /64 of an IPv6 address; None if there are none.
    """

    host: str | None
    key: str | None


@attrs.frozen
class TrustedProxies:
    """The proxies that are believed about the addresses of their clients.

    :ivar networks: their addresses.
    :ivar unix: whether everybody who connects to a Unix socket is one.
    """

    networks: tuple[IPNetwork, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, texts: Iterable[str]) -> TrustedProxies:
        """Parse addresses, networks, ``loopback`` and ``unix``.

        :raises ValueError: one is something else. The message says what would be right.
        """
        words = list(texts)
        networks = [network for word in words if word != "unix" for network in _networks(word)]
        return cls(tuple(networks), "unix" in words)

    def __bool__(self) -> bool:
        return self.unix or bool(self.networks)

    def __str__(self) -> str:
        names = [str(one.network_address if one.num_addresses == 1 else one) for one in self.networks]
        return ", ".join([*names, *["unix"] * self.unix])

    def describe(self) -> str:
        """Say, for the log, for whom limits by address are on."""
        if self:
            return f"on; these proxies are believed about their clients: {self}"
        return (
            "on, but off for loopback and Unix sockets, as behind a proxy everybody is one address; right would be "
            "--trusted-proxy with the address of your proxy, if there is one"
        )

    def trust(self, address: IPAddress | None) -> bool:
        """Return whether an address is that of a trusted proxy. None stands for a Unix socket."""
        return self.unix if address is None else any(address in network for network in self.networks)


def _networks(text: str) -> list[IPNetwork]:
    if text == "loopback":
        return list(map(ip_network, _LOOPBACK))
    try:
        if "%" in text:
            raise ValueError
        given = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address of a proxy; {_EXAMPLE}") from None
    network = _unmapped_network(given)
    if not network.prefixlen:
        raise ValueError(f"{text!r} is everybody, who could then claim any address; {_EXAMPLE}")
    if "/" in text and given.network_address != ip_address(text.partition("/")[0]):
        raise ValueError(f"{text!r} has more digits than its network; right would be {network}")
    return [network]


def _unmapped_network(network: IPNetwork) -> IPNetwork:
    if isinstance(network, IPv6Network) and network.prefixlen >= _IPV4_MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _IPV4_MAPPED))
    return network


class Peer(NamedTuple):
    """The other end of a connection.

    :ivar address: of the client that the PROXY protocol names, if it is believed, else of the peer itself.
    :ivar is_trusted: whether that is a trusted proxy, so that headers are read.
    :ivar client: where a request without such headers comes from.
    :ivar is_like_a_proxy: whether it may be a proxy that the operator has forgotten to trust.
    """

    address: IPAddress | None
    is_trusted: bool
    client: ClientAddress
    is_like_a_proxy: bool = False


class ClientAddresses:
    """Finds where requests come from.

    :param proxies: who is believed.
    """

    _log = Logger()

    def __init__(self, proxies: TrustedProxies = TrustedProxies()) -> None:
        self.proxies = proxies
        self._has_hinted = False
        self._kept = lru_cache(_MAX_KEPT)(self._read)
        self._peers = lru_cache(_MAX_KEPT)(self._peer)

    @property
    def kept(self) -> int:
        """How many addresses are kept in memory by the headers that name them."""
        return self._kept.cache_info().currsize

    def opened_by(self, transport: Any) -> Peer:
        """Return who has opened a connection, whatever the PROXY protocol claims."""
        return self._peers(getattr(_real_peer(transport), "host", None))

    def peer_of(self, transport: Any) -> Peer:
        """Return whose requests come over a connection. The PROXY protocol tells it with the first one."""
        real = _real_peer(transport)
        peer = self._peers(getattr(real, "host", None))
        claimed = transport.getPeer()
        return peer if claimed == real else self._claimed(peer, _ip(getattr(claimed, "host", None)))

    def _peer(self, host: str | None) -> Peer:
        address = _ip(host)
        is_trusted = self.proxies.trust(address)
        client = _client(address)
        if address is None or is_trusted or (not self.proxies and address.is_loopback):
            return Peer(address, is_trusted, ClientAddress(client.host, None))
        return Peer(address, False, client, str(client.host).startswith(_LIKE_PRIVATE))

    def _claimed(self, peer: Peer, address: IPAddress | None) -> Peer:
        """The peer in whose place one has opened a connection that claims to be a proxy."""
        if not peer.is_trusted:
            self._hint("the PROXY protocol", peer)
            return peer
        if address is None:
            return Peer(peer.address, False, _client(peer.address))
        return Peer(address, self.proxies.trust(address), _client(address))

    def of(self, peer: Peer, headers: Headers) -> ClientAddress:
        """Find where a request comes from.

        What can't be believed is passed over: then the last address counts that is known. If both headers are there,
        they have to agree. A proxy sends one of them, and passes on the other one as a client has sent it.
        """
        if not peer.is_trusted:
            if peer.is_like_a_proxy and not self._has_hinted and headers.hasHeader(b"X-Forwarded-For"):
                self._hint("X-Forwarded-For", peer)
            return peer.client
        names = headers.getRawHeaders(b"X-Forwarded-For"), headers.getRawHeaders(b"Forwarded")
        if names == (None, None):
            return peer.client
        forwarded_for, forwarded = (None if lines is None else b",".join(lines) for lines in names)
        is_short = len(forwarded_for or b"") + len(forwarded or b"") <= _MAX_KEPT_TEXT
        return (self._kept if is_short else self._read)(peer.address, forwarded_for, forwarded)

    def _read(self, peer: IPAddress | None, forwarded_for: bytes | None, forwarded: bytes | None) -> ClientAddress:
        found = set()
        if forwarded_for is not None:
            found.add(self._follow(peer, _forwarded_for(forwarded_for.decode("latin-1"))))
        if forwarded is not None:
            found.add(self._follow(peer, _forwarded(forwarded.decode("latin-1"))))
        return _client(found.pop() if len(found) == 1 else peer)

    def _follow(self, address: IPAddress | None, before: Iterable[IPAddress | None]) -> IPAddress | None:
        """The last address that is known, of those that trusted proxies name.

        :param before: who was before each proxy, the last one first; None where a proxy doesn't say it.
        """
        for client in islice(before, _MAX_PROXIES):
            if client is None or not self.proxies.trust(address):
                break
            address = client
        return address

    def _hint(self, what: str, peer: Peer) -> None:
        """Tell an operator who has forgotten a proxy, once: all its clients count as one address."""
        is_proxy = what != "X-Forwarded-For" or (peer.address is not None and peer.address.is_private)
        if is_proxy and not self._has_hinted:
            self._has_hinted = True
            self._log.warn(
                "{what} from {peer} isn't believed; if that is your proxy, right would be --trusted-proxy {peer}",
                what=what,
                peer=peer.client.host or "unix",
            )


# Addresses


def _real_peer(transport: Any) -> Any:
    """The peer of the socket below TLS and the PROXY protocol."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport.getPeer()


def _ip(host: str | None) -> IPAddress | None:
    """The IP address of a peer, without a zone; None for a Unix socket, and where a PROXY line has none."""
    return None if host is None else _parse(host.partition("%")[0])


def _parse(text: str) -> IPAddress | None:
    """An IP address; one of IPv4 that is mapped to IPv6 as it is. None for everything else."""
    try:
        if ":" not in text:
            return IPv4Address(text)
        address = IPv6Address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if address.scope_id is None else None


def _client(address: IPAddress | None) -> ClientAddress:
    """A client with its limits. Customers of providers have a /64 of IPv6 at least."""
    if address is None:
        return ClientAddress(None, "unix")
    text = str(address)
    is_ipv4 = isinstance(address, IPv4Address)
    return ClientAddress(text, text if is_ipv4 else f"{IPv6Address(int(address) >> 64 << 64)}/64")


# Headers


def _forwarded_for(text: str) -> Iterator[IPAddress | None]:
    """The addresses of ``X-Forwarded-For``, the last one first. It has no standard: some proxies add ports."""
    text = text.rstrip(_EMPTY)
    while text:
        text, _, element = text.rpartition(",")
        text, element = text.rstrip(_EMPTY), element.strip(_EMPTY)
        yield _parse(element) or _node(element)


def _forwarded(text: str) -> Iterator[IPAddress | None]:
    """The addresses of ``Forwarded``, the last one first. There are none if it is malformed."""
    elements = _elements(text) if len(text) <= _MAX_FORWARDED else []
    return (_node(element.get("for", "unknown")) for element in reversed(elements) if element)


def _elements(text: str) -> Sequence[dict[str, str]]:
    """The parameters of each element of ``Forwarded`` (RFC 7239, section 4); nothing if it is malformed."""
    elements: list[dict[str, str]] = [{}]
    at, separator = 0, ","
    while separator:
        match = _PAIR.match(text, at)
        if match is None:
            return ()
        name, token, quoted, separator = match.groups()
        if name and name.lower() in elements[-1]:
            return ()
        if name:
            elements[-1][name.lower()] = token or _ESCAPE.sub(r"\1", quoted)
        if separator == ",":
            elements.append({})
        at = match.end()
    return elements


def _node(text: str) -> IPAddress | None:
    match = _NODE.fullmatch(text)
    if match is None or (match[2] and ":" not in match[2]):
        return None
    return _parse(match[1] or match[2])
