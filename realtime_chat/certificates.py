"""The certificates of ``ssl:`` endpoints, which are replaced while the daemon listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import endpoints
from twisted.internet.interfaces import IListeningPort, IOpenSSLServerConnectionCreator, IProtocolFactory
from zope.interface import implementer

from realtime_chat.listening import ListenRefused, check_endpoint


@implementer(IOpenSSLServerConnectionCreator)
class _Certificate:
    """Makes the TLS of new connections by the newest certificate. Living ones keep theirs.

    :param options: Twisted's ``CertificateOptions``, which hold a key and its certificate.
    """

    def __init__(self, options: Any) -> None:
        self.options = options

    def serverConnectionForTLS(self, protocol: Any) -> Any:  # noqa: N802
        """Make OpenSSL's side of a connection."""
        return self.options.serverConnectionForTLS(protocol)

    def replace(self, options: Any) -> bool:
        """Take another key and certificate.

        :returns: whether the certificate differs.
        """
        before, self.options = self.options, options
        return _fingerprint(before) != _fingerprint(options)


def _fingerprint(options: Any) -> bytes:
    fingerprint: bytes = options.certificate.digest("sha256")
    return fingerprint


class _TLSReactor:
    """Stands in for the reactor (``IReactorSSL``) before an endpoint of Twisted, as that tells its certificate to no
    other."""

    def __init__(self, listen: Callable[..., Any]) -> None:
        self._listen = listen

    def listenSSL(  # noqa: N802
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        """Listen by what was given."""
        return self._listen(port, factory, contextFactory, backlog, interface)


class Certificates:
    """The certificates of one daemon, by the descriptions of their endpoints.

    :param reactor: listens.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._by_endpoint: dict[str, _Certificate] = {}

    def listener(self, description: str) -> Any:
        """What an ``ssl:`` endpoint is given as its reactor."""

        def listen_ssl(
            port: int, factory: IProtocolFactory, options: Any, backlog: int, interface: str
        ) -> IListeningPort:
            certificate = self._by_endpoint[description] = _Certificate(options)
            listening: IListeningPort = self._reactor.listenSSL(port, factory, certificate, backlog, interface)
            return listening

        return _TLSReactor(listen_ssl)

    def read_again(self) -> Callable[[], bool]:
        """Read the files of all endpoints again.

        :returns: a function that takes what was read, and says whether any certificate differs.
        :raises ListenRefused: a file can't be used; the message says why.
        """
        found = [(certificate, _read(description)) for description, certificate in self._by_endpoint.items()]
        return lambda: True in [certificate.replace(options) for certificate, options in found]


def _read(description: str) -> Any:
    """Read the key and the certificate of an endpoint.

    :raises ListenRefused:
    """
    found: list[Any] = []
    try:
        check_endpoint(description)
        endpoints.serverFromString(_TLSReactor(lambda *given: found.append(given[2])), description).listen(None)
    except Exception as error:  # what OpenSSL says has no common class
        raise ListenRefused(str(error)) from error
    return found[0]
