"""Who the client says that it is: by the client that a server has issued, by a token, or as a guest by a name."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, TimeoutError, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from realtime_chat.client.errors import ChatError, NoToken, Refused
from realtime_chat.client.events import OwnUser
from realtime_chat.client.link import ClientIdentity
from realtime_chat.values.errors import RealtimeError

TokenFunction = Callable[[], "str | Awaitable[str | None] | None"]

_TOKEN_WITHIN = 30.0
_RENEW_AFTER = 0.8
"""The part of a token's life after which it is renewed."""

_SHORTEST_LIFE = 10.0


class TokenSource:
    """Gets tokens from the application.

    :param token: a token, or what is called for one. It returns the token, or a Deferred or another awaitable of it.
        None stands for a guest.
    :param time: returns seconds since 1970.
    """

    def __init__(self, clock: IReactorTime, token: str | TokenFunction, time: Callable[[], float]) -> None:
        self._clock = clock
        self._time = time
        self._token = token

    def get(self) -> Deferred[str | None]:
        """A token, or None for a guest.

        :raises ChatError: by the Deferred: there is none. If the error isn't temporary, there will be none.
        """
        result: Deferred[str | None] = _call(self._token).addTimeout(_TOKEN_WITHIN, self._clock)
        return result.addCallbacks(_check, _explain)

    def renew_after(self, token: str, expires: int | None) -> float | None:
        """After how many seconds to renew a token that the server has just accepted; None for never.

        It is measured by the clock of who issued the token, if the token says when that was.

        :param expires: when the token's time is over by the server's clock, in milliseconds since 1970.
        """
        if isinstance(self._token, str):
            return None
        life = _life_of(token)
        if life is None and expires is not None:
            life = expires / 1000 - self._time()
        return None if life is None else _RENEW_AFTER * max(_SHORTEST_LIFE, life)


def _call(token: str | TokenFunction) -> Deferred[Any]:
    if isinstance(token, str):
        return succeed(token)
    try:
        result: Any = token()
    except Exception:
        return fail()
    if isinstance(result, Deferred):
        return result
    return Deferred.fromCoroutine(_await(result)) if isinstance(result, Awaitable) else succeed(result)


async def _await(result: Awaitable[Any]) -> Any:
    return await result


def _check(token: Any) -> str | None:
    if token is not None and not (isinstance(token, str) and token.isascii()):
        raise NoToken(f"it gave a {type(token).__name__}; right is a token, or None for a guest")
    return token or None


def _explain(failure: Failure) -> None:
    error = failure.value
    if isinstance(error, RealtimeError) and not error.temporary:
        raise error if isinstance(error, ChatError) else Refused(error.code, error.message)
    if isinstance(error, TimeoutError):
        raise NoToken(f"nothing came within {_TOKEN_WITHIN:.0f} seconds")
    raise NoToken(f"{type(error).__name__}: {error}") from error


def _life_of(token: str) -> float | None:
    """How many seconds a token lives; None if it doesn't say when it was issued."""
    try:
        payload = token.split(".")[1]
        claims = msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=dict[str, Any])
        return float(claims["exp"]) - float(claims["iat"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error, msgspec.DecodeError):
        return None


class Retry(Enum):
    """What to do after the server has refused a client or a token."""

    NOW = 1
    LATER = 2
    NEVER = 3


class Credentials:
    """What the next ``hello`` says, and what follows if the server refuses it.

    :param client: the secret of the client whose identity to resume.
    :param name: the guest's name.
    :param has_tokens: whether the application gives tokens.
    :ivar needs_token: whether the next ``hello`` needs a token that isn't there yet.
    :ivar token: the token that the server hasn't answered yet.
    :ivar is_user: whether the client is a user's, who has a token.
    """

    def __init__(self, client: str | None, name: str | None, has_tokens: bool) -> None:
        self.client = client
        self.needs_token = has_tokens
        self.token: str | None = None
        self.is_user = False
        self._name = name
        self._has_tokens = has_tokens
        self._expired: str | None = None

    @property
    def identity(self) -> ClientIdentity:
        """What to say. A user has the name that is in the token."""
        is_user = self.is_user or self.token is not None
        return ClientIdentity(self.client, None if is_user else self._name, self.token)

    def take(self, token: str | None) -> None:
        """The application has given a token, or None for a guest, who has no user's client."""
        self.needs_token = False
        self.token = token
        if token is None and self.is_user:
            self.forget_client()

    def forget_client(self) -> None:
        """Be nobody that is known."""
        self.client = None
        self.is_user = False

    def welcomed(self, client: str, user: OwnUser) -> None:
        """The server has accepted what was said."""
        self.client = client
        self.is_user = not user.guest
        self.token = None

    def refused(self, error: Refused | None) -> Retry | None:
        """The server has answered with an error.

        :returns: when to try again, with what is left; None if the error isn't about who this is.
        """
        code = None if error is None else error.code
        if code not in ("unauthorized", "token_expired") and not (code == "forbidden" and self.token):
            return None
        if self.token is not None:
            return self._token_refused(code)
        if self._has_tokens:
            self.needs_token = True
            if not self.is_user:
                self.forget_client()
            return Retry.NOW if code != "token_expired" else Retry.LATER
        if self.client is None or self.is_user or code == "token_expired":
            return Retry.NEVER
        self.forget_client()
        return Retry.NOW

    def _token_refused(self, code: str | None) -> Retry:
        if self.client is not None:  # the token may be another user's, or the client may be over
            self.forget_client()
            return Retry.NOW
        self.needs_token = self._has_tokens
        return Retry.LATER if self.take_back(code) else Retry.NEVER

    def take_back(self, code: str | None) -> bool:
        """The server has refused a token. Returns whether another one may be better.

        If the application gives the same token again, it has no better one.
        """
        token, self.token = self.token, None
        may_be_better = code == "token_expired" and token != self._expired
        self._expired = token
        return may_be_better
