"""HTTP errors, and the answer to upgrades that must not be accepted."""

from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from stt_server.auth import presents_key
from stt_server.service import Service, State

_TYPES = {401: "authentication_error", 503: "server_error"}


def http_error(status: int, code: str, message: str) -> Response:
    """An HTTP error in OpenAI's shape, which every surface of this server shares."""
    kind = _TYPES.get(status, "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return JSONResponse(body, status_code=status)


def unavailable(message: str) -> Response:
    """Worth another try, soon."""
    response = http_error(503, "overloaded", message)
    response.headers["Retry-After"] = "1"
    return response


def upgrade_refusal(
    service: Service, socket: WebSocket, *, key_may_follow: bool = False
) -> Response | None:
    """The answer to an upgrade that must not be accepted; None if it may.

    Args:
        key_may_follow: The protocol has a message for the key of who presents none here.
    """
    headers, query, offered = socket.headers, socket.query_params, socket.scope["subprotocols"]
    auth = service.authenticator
    waits_for_key = key_may_follow and not presents_key(headers, query, offered)
    if not auth.allows_origin(headers.get("origin"), headers.get("host")):
        reason, response = "origin", http_error(403, "origin_not_allowed", "origin not allowed")
    elif not waits_for_key and not auth.allows_request(headers, query, offered):
        reason, response = "auth", http_error(401, "invalid_api_key", "missing or wrong API key")
    elif service.state is not State.READY:
        reason, response = "not_ready", unavailable(f"the server is {service.state}")
    else:
        return None
    service.metrics.refusals.labels(reason).inc()
    return response
