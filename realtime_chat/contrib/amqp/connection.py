"""One connection to a RabbitMQ after another, by pika's adapter for Twisted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from pika import URLParameters
from pika.adapters.twisted_connection import TwistedChannel, TwistedProtocolConnection
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ChannelWrongStateError,
    ConsumerCancelled,
    NackError,
)
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone, DNSLookupError
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

_CONNECT_WITHIN: Final = 30.0
_CLOSED: Final = "it was closed at once: are the user, the password and the virtual host right?"
_PUBLISH_AGAIN_AFTER: Final = 1.0
_RIGHT: Final = "right would be amqp://USER:PASSWORD@HOST/VHOST, or amqps:// for TLS"

LOST = (
    *(AMQPConnectionError, ChannelWrongStateError, ConsumerCancelled),
    *(ConnectError, ConnectionClosed, DNSLookupError, TimeoutError),
)
"""What says that there is no connection or no queue any more, and that it can be had again."""


class _AMQPProtocol(TwistedProtocolConnection):
    """A connection that keeps why it was lost, as pika doesn't while it is opened."""

    lost: BaseException | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason.value
        super().connectionLost(reason)


class BrokerRefused(Exception):
    """RabbitMQ refuses what a route asks for; the message is for a person."""


def read_url(text: str) -> URLParameters:
    """Parse the address of a RabbitMQ.

    :raises ValueError: it is none. The message has nothing of the password.
    """
    try:
        parts = urlsplit(text)
        if parts.scheme in ("amqp", "amqps") and parts.hostname:
            return URLParameters(text)
    except Exception as error:  # pika raises all kinds
        raise ValueError(f"this is no address of a RabbitMQ; {_RIGHT}") from error
    raise ValueError(f"this is no address of a RabbitMQ; {_RIGHT}")


class BrokerConnection:
    """Connects, and connects again when the connection is lost.

    :param backoff: returns the seconds to wait before the next attempt, and is told of a success.
    :param note: is given a line for a person, when the connection is gone and when it is back.
    """

    def __init__(self, reactor: Any, parameters: URLParameters, backoff: Any, note: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._parameters = parameters
        self._backoff = backoff
        self._note = note
        self._is_gone = False
        self._channel: TwistedChannel | None = None
        self._waiting: list[Deferred[None]] = []

    async def stay_connected(self, use: Callable[[TwistedChannel], Awaitable[None]]) -> None:
        """Give each connection's channel to ``use``, which goes on until the connection is lost.

        :raises BrokerRefused: RabbitMQ doesn't let the channel do that.
        """
        while True:
            try:
                await self._use_one(use)
            except ChannelClosedByBroker as error:
                raise BrokerRefused(f"RabbitMQ refuses: {error.reply_text}") from error
            except LOST as error:
                self._lost(error)
            await deferLater(self._reactor, self._backoff.next(), lambda: None)

    async def _use_one(self, use: Callable[[TwistedChannel], Awaitable[None]]) -> None:
        connection = _AMQPProtocol(self._parameters, custom_reactor=self._reactor)
        try:
            await self._open(connection)
            consuming, publishing = await connection.channel(), await connection.channel()
            await publishing.confirm_delivery()
            self._found(publishing)
            await use(consuming)
        finally:
            self._channel = None
            if connection.is_open:  # pika can't close one that isn't
                connection.close()
            if connection.transport is not None:
                connection.transport.loseConnection()

    async def _open(self, connection: _AMQPProtocol) -> None:
        host, options = self._parameters.host, self._parameters.ssl_options
        endpoint: Any = HostnameEndpoint(self._reactor, host, self._parameters.port)
        if options is not None:
            endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
        ready = connection.ready
        assert ready is not None
        await connectProtocol(endpoint, connection)
        try:
            await ready.addTimeout(_CONNECT_WITHIN, self._reactor)
        except AMQPConnectionError as error:
            is_closed = connection.lost is None or isinstance(connection.lost, ConnectionDone)
            raise ConnectError(string=_CLOSED if is_closed else str(connection.lost)) from error

    def _found(self, channel: TwistedChannel) -> None:
        self._backoff.succeeded()
        if self._is_gone:
            self._is_gone = False
            self._note("the connection to RabbitMQ is back")
        self._channel = channel
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _lost(self, error: Exception) -> None:
        if not self._is_gone:
            self._is_gone = True
            where = f"{self._parameters.host}:{self._parameters.port}"
            why = str(error) or type(error).__name__
            self._note(f"there is no connection to RabbitMQ at {where} ({why}); trying to get one")

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Any) -> None:
        """Publish a message, and wait until RabbitMQ has it. After a lost connection it is published again.

        :raises BrokerRefused: there is no such exchange, or nobody may publish there.
        """
        while True:
            channel = await self._open_channel()
            try:
                await channel.basic_publish(exchange, routing_key, body, properties)
            except ChannelClosedByBroker as error:
                raise BrokerRefused(f"RabbitMQ refuses: {error.reply_text}") from error
            except NackError:  # such as a queue that is full and refuses more
                await deferLater(self._reactor, _PUBLISH_AGAIN_AFTER, lambda: None)
            except LOST:
                if self._channel is channel:
                    self._channel = None
            else:
                return

    async def _open_channel(self) -> TwistedChannel:
        while self._channel is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
        return self._channel
