"""Short-lived keys, each in place of an API key: for web pages, which must not know that one."""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "ek_"
"""Of every value: clients tell by it that they may show the key to a browser."""
SECRET_BYTES = 32
MOST_PER_KEY = 2_000
"""Alive at once."""


class TooManySecrets(Exception):
    """An API key has as many as it may; `str(error)` is safe to send."""

    def __init__(self, retry_s: float) -> None:
        """
        Args:
            retry_s: Time until one of them expires.
        """
        super().__init__(f"this key has {MOST_PER_KEY:,} client secrets that have not expired")
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class _Secret:
    ends_at: float
    requester: int
    session: str
    """JSON."""


class ClientSecrets:
    """Those that have not expired. Pure but for the random numbers.

    They are kept as digests: how long it takes to look one up then tells nothing about it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """
        Args:
            clock: Seconds that never go back.
        """
        self._clock = clock
        self._alive: dict[bytes, _Secret] = {}

    def mint(self, requester: int, session: Mapping[str, Any], *, seconds: float) -> str:
        """A new secret.

        Args:
            requester: Number of the API key that it stands for.
            session: What sessions that begin with it are to be like; plain JSON.
            seconds: How long it opens sessions; these may go on for longer.

        Raises:
            TooManySecrets: that key has `MOST_PER_KEY`.
            ValueError: `session` is not JSON.
        """
        text = json.dumps(session, ensure_ascii=False, allow_nan=False)
        now = self._clock()
        self._alive = {key: one for key, one in self._alive.items() if one.ends_at > now}
        ends = [one.ends_at for one in self._alive.values() if one.requester == requester]
        if len(ends) >= MOST_PER_KEY:
            raise TooManySecrets(min(ends) - now)
        value = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        self._alive[_digest(value)] = _Secret(now + seconds, requester, text)
        return value

    def requester_of(self, value: str) -> int | None:
        """Number of the API key that `value` stands for; None if it is no secret, or expired."""
        secret = self._find(value)
        return secret.requester if secret is not None else None

    def session_of(self, value: str) -> dict[str, Any] | None:
        """The session that came with `value`; None if it is no secret, or expired."""
        secret = self._find(value)
        return json.loads(secret.session) if secret is not None else None

    def _find(self, value: str) -> _Secret | None:
        secret = self._alive.get(_digest(value))
        return secret if secret is not None and secret.ends_at > self._clock() else None


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
