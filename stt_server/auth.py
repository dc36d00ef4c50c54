"""API keys and web origins: who may connect. Knows headers and queries, no web framework."""

import base64
import hmac
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from stt_server.client_secrets import ClientSecrets
from stt_server.settings import AuthSettings

SUBPROTOCOLS = ("stt.v1", "realtime")
"""What a browser may offer beside its key; selected in the answer, the key never is."""

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Authenticator:
    """Compares keys in constant time; without configured keys everybody may come."""

    def __init__(
        self, settings: AuthSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._origins = frozenset(origin.rstrip("/") for origin in settings.allowed_origins)
        self.secrets = ClientSecrets(clock)
        """Stand for the API keys with which they were minted, but mint none themselves."""

    @property
    def required(self) -> bool:
        return bool(self._keys)

    def accepts(self, key: str) -> bool:
        """Whether `key` may use the server; always true when no API key is configured."""
        return self.number(key) is not None

    def number(self, key: str) -> int | None:
        """Which API key `key` is, or which one it stands for; 0 when none is configured."""
        number = self._key_number(key)
        return self.secrets.requester_of(key) if number is None else number

    def allows_request(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        subprotocols: Sequence[str] = (),
    ) -> bool:
        """Whether the request carries an API key in any of the places clients put it."""
        return self.key_holder(headers, query, subprotocols) is not None

    def key_holder(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        subprotocols: Sequence[str] = (),
    ) -> int | None:
        """The number of the first API key that the request carries; 0 when none is configured."""
        return self._first(self._key_number, headers, query, subprotocols)

    def requester(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        subprotocols: Sequence[str] = (),
    ) -> int | None:
        """The same, of an API key or of one that a client secret stands for."""
        return self._first(self.number, headers, query, subprotocols)

    def session_of(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        subprotocols: Sequence[str] = (),
    ) -> dict[str, Any] | None:
        """The session that came with the client secret with which a connection was opened.

        What was to be said about it in `session.update`; None if there is nothing to be said.
        """
        keys = _presented_keys(headers, query, subprotocols)
        return next(filter(None, map(self.secrets.session_of, keys)), None)

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of `origin` may use the server that is addressed as `host`.

        Without the header the client is no browser. Otherwise any web page could use the server
        on its visitor's machine.
        """
        if origin is None or "*" in self._origins or origin.rstrip("/") in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.hostname in _LOOPBACK_HOSTS or (bool(parts.netloc) and parts.netloc == host)

    def _key_number(self, key: str) -> int | None:
        if not self._keys:
            return 0
        given = key.encode("utf-8", "surrogatepass")
        # Every key is compared, so that the time tells nothing about which one nearly matched.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        return matches.index(True) if any(matches) else None

    def _first(
        self,
        number_of: Callable[[str], int | None],
        headers: Mapping[str, str],
        query: Mapping[str, str],
        subprotocols: Sequence[str],
    ) -> int | None:
        if not self._keys:
            return 0
        numbers = map(number_of, _presented_keys(headers, query, subprotocols))
        return next((number for number in numbers if number is not None), None)


def select_subprotocol(offered: Sequence[str]) -> str | None:
    """The offered subprotocol to answer with: browsers drop a connection that selects none."""
    return next((name for name in offered if name in SUBPROTOCOLS), None)


def presents_key(
    headers: Mapping[str, str], query: Mapping[str, str], subprotocols: Sequence[str]
) -> bool:
    """Whether the request carries any key at all, right or wrong."""
    return any(True for _ in _presented_keys(headers, query, subprotocols))


def _presented_keys(
    headers: Mapping[str, str], query: Mapping[str, str], subprotocols: Sequence[str]
) -> Iterable[str]:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token") and credentials:
        yield credentials.strip()
    if "api-key" in headers:
        yield headers["api-key"]
    for name in ("token", "api_key"):
        if name in query:
            yield query[name]
    for offer in subprotocols:
        if offer.startswith("token."):
            encoded = offer.removeprefix("token.")
            try:
                raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
                yield raw.decode()
            except ValueError:  # not ASCII, not base64 or not UTF-8
                continue
        elif offer.startswith("openai-insecure-api-key."):
            yield offer.removeprefix("openai-insecure-api-key.")
