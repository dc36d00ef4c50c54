"""Opening the WebSocket: every way it can fail, as one of our errors."""

import json
import logging
import ssl
from http import HTTPStatus
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, ProxyError

from stt_server.clients.address import is_loopback, shown
from stt_server.clients.errors import Refused, ServerUnreachable

logger = logging.getLogger(__name__)
# The library logs what a lost connection interrupts; who calls gets it as an exception.
logger.addHandler(logging.NullHandler())

_MAX_MESSAGE_BYTES = 16 * 2**20
"""A turn of hours with a time for every word."""

_PING_INTERVAL_S = 20.0
_CLOSE_TIMEOUT_S = 5.0
_IMPATIENT_S = 5.0
_IMPATIENT_CLOSE_S = 1.0


async def open_websocket(
    url: str,
    *,
    api_key: str | None,
    connect_timeout_s: float,
    answer_timeout_s: float,
    is_impatient: bool | None = None,
) -> ClientConnection:
    """A connection to the native endpoint at `url`.

    The pings keep an idle session alive. Their timeout is `answer_timeout_s` and not the usual
    20 s: a server that is a backlog behind reads nothing, pings included, until it caught up.

    Args:
        is_impatient: A connection that seems dead for some seconds is given up: the session can go
            on over another one. False: `make_impatient` may follow; None: never.

    Raises:
        ServerUnreachable: nobody answers in `connect_timeout_s`, or no WebSocket server does.
        Refused: the server answered with an HTTP status instead of a session.
    """
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        return await connect(
            url,
            additional_headers=headers,
            # A proxy for the web at large cannot reach this machine's own loopback.
            proxy=None if is_loopback(url) else True,
            compression=None,  # noise-like samples only cost time in a compressor
            open_timeout=connect_timeout_s,
            ping_interval=_PING_INTERVAL_S if is_impatient is None else _IMPATIENT_S,
            ping_timeout=_IMPATIENT_S if is_impatient else answer_timeout_s,
            close_timeout=_IMPATIENT_CLOSE_S if is_impatient else _CLOSE_TIMEOUT_S,
            max_size=_MAX_MESSAGE_BYTES,
            logger=logger,
        )
    except InvalidStatus as error:
        response = error.response
        raise Refused(response.status_code, _reason(response.body, response.status_code)) from error
    except TimeoutError as error:
        raise ServerUnreachable(
            f"no answer from {shown(url)} within {connect_timeout_s:g} s"
        ) from error
    except (OSError, ProxyError) as error:
        raise ServerUnreachable(f"cannot reach {shown(url)}: {_cause(error, url)}") from error
    except (InvalidHandshake, EOFError) as error:
        raise ServerUnreachable(f"no WebSocket server at {shown(url)}: {error}") from error


def make_impatient(websocket: ClientConnection) -> None:
    """From its next ping on, give the connection up when it seems dead for some seconds."""
    websocket.ping_timeout = _IMPATIENT_S
    websocket.close_timeout = _IMPATIENT_CLOSE_S


def _cause(error: Exception, url: str) -> str:
    """asyncio words a refused connection with socket internals; the system's words are better."""
    is_tls = url.startswith("wss:")
    if isinstance(error, ConnectionRefusedError):
        why = "connection refused; is the server running?"
    elif isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    elif is_tls and isinstance(error, ssl.SSLError | ConnectionError):
        why = "what listens there speaks no TLS."
    else:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{why} Without a proxy before it the server takes ws:// or http://" if is_tls else why


def _reason(body: bytes | bytearray | None, status: int) -> str:
    """The message of an OpenAI-style error, else a short plain body, else the status's name."""
    text = (body or b"").decode("utf-8", errors="replace").strip()
    try:
        loaded = cast(dict[str, Any], json.loads(text))
        return str(loaded["error"]["message"])
    except (ValueError, LookupError, TypeError):
        pass
    if text and len(text) <= 120 and not text.startswith(("<", "{")):
        return text
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
