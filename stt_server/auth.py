"""API keys and web origins: who may connect. Knows headers and queries, no web framework."""

import base64
import hmac
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from stt_server.settings import AuthSettings

SUBPROTOCOLS = ("stt.v1", "realtime")
"""What a browser may offer beside its key; selected in the answer, the key never is."""

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Authenticator:
    """Compares keys in constant time; without configured keys everybody may come."""

    def __init__(self, settings: AuthSettings) -> None:
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._origins = frozenset(origin.rstrip("/") for origin in settings.allowed_origins)

    @property
    def required(self) -> bool:
        return bool(self._keys)

    def accepts(self, key: str) -> bool:
        """Whether `key` is one of the configured ones; always true when none is."""
        return self.number(key) is not None

    def number(self, key: str) -> int | None:
        """Which of the configured ones `key` is; 0 when none is."""
        given = key.encode()
        # Every key is compared, so that the time tells nothing about which one nearly matched.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        return matches.index(True) if any(matches) else None if self._keys else 0

    def allows_request(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        subprotocols: Sequence[str] = (),
    ) -> bool:
        """Whether the request carries a valid key in any of the places clients put it."""
        return self.requester(headers, query, subprotocols) is not None

    def requester(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        subprotocols: Sequence[str] = (),
    ) -> int | None:
        """The number of the first valid key that the request carries; 0 when none is configured."""
        if not self._keys:
            return 0
        numbers = (self.number(key) for key in _presented_keys(headers, query, subprotocols))
        return next((number for number in numbers if number is not None), None)

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
