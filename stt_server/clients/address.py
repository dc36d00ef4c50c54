"""Where the server is: what people type, turned into a WebSocket URL."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlencode, urlsplit

from stt_server.clients.errors import BadAddress
from stt_server.settings import DEFAULT_PORT, ParakeetSettings

_SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_PATH = "/ws/transcribe"


def websocket_url(address: str, *, path: str = _PATH, query: str = "") -> str:
    """An endpoint of `address`: `host`, `host:port`, or a ws, wss, http or https URL.

    Without a path the URL gets `path`, without a query `query`. Without a port it gets 15751; wss
    and https keep 443, where a proxy in front of the server listens.

    Raises:
        BadAddress: no such host or port can exist.
    """
    url = _split(address)
    scheme = _SCHEMES.get(url.scheme)
    if scheme is None:
        raise BadAddress(f"unknown scheme in {address!r}: use ws://, wss://, http:// or https://")
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise BadAddress(f"bad server address {address!r}: {error}") from error
    if not host or any(character.isspace() for character in url.netloc + url.path):
        raise BadAddress(f"bad server address {address!r}")
    if url.username is not None:
        raise BadAddress("the server address must not hold a user name; use the API key")
    if port is None:
        port = DEFAULT_PORT if scheme == "ws" else 443
    shown = f"[{host}]" if ":" in host else host
    path = path if url.path in {"", "/"} else url.path
    return SplitResult(scheme, f"{shown}:{port}", path, url.query or query, "").geturl()


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """`url` with `parameters` behind those that it has."""
    query = urlsplit(url).query
    added = f"{query}&{urlencode(parameters)}" if query else urlencode(parameters)
    return urlsplit(url)._replace(query=added).geturl()


def tcp_address(address: str) -> tuple[str, int] | None:
    """Host and port of `tcp://host:port`, by default the parakeet protocol's; None for a URL.

    Raises:
        BadAddress: no such host or port can exist.
    """
    url = _split(address)
    if url.scheme != "tcp":
        return None
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise BadAddress(f"bad server address {address!r}: {error}") from error
    if not host or url.username is not None or url.path not in {"", "/"} or url.query:
        raise BadAddress(f"bad server address {address!r}: use tcp://host:port")
    return host, port or ParakeetSettings().port


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown(url: str) -> str:
    """`url` without its query, which may hold a key: for messages and logs."""
    return urlsplit(url)._replace(query="").geturl()


def _split(address: str) -> SplitResult:
    address = address.strip()
    try:
        # `urlsplit("host:80")` would take the host for a scheme.
        return urlsplit(address if "://" in address else f"ws://{address}")
    except ValueError as error:  # an unclosed bracket
        raise BadAddress(f"bad server address {address!r}: {error}") from error
