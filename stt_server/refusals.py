"""HTTP errors, and the answers to connections that must not be accepted."""

from collections.abc import Container

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from stt_server.auth import presents_key
from stt_server.errors import Overloaded
from stt_server.service import Service, State

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


def error_body(
    status: int, code: str, message: str, *, param: str | None = None
) -> dict[str, object]:
    """What an error of that status holds, in OpenAI's shape."""
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def http_error(status: int, code: str, message: str, *, param: str | None = None) -> Response:
    """An HTTP error in OpenAI's shape, which every surface of this server shares."""
    return JSONResponse(error_body(status, code, message, param=param), status_code=status)


def unavailable(message: str) -> Response:
    """Worth another try, soon."""
    response = http_error(503, "overloaded", message)
    response.headers["Retry-After"] = "1"
    return response


def upgrade_refusal(
    service: Service,
    socket: WebSocket,
    *,
    key_may_follow: bool = False,
    states: Container[State] = (State.READY,),
) -> Response | None:
    """The answer to an upgrade that must not be accepted; None if it may.

    Args:
        key_may_follow: The protocol has a message for the key of who presents none here.
        states: Of the service, in which such a connection can be served.
    """
    refusal = access_refusal(service, socket, key_may_follow=key_may_follow)
    return refusal or not_ready_refusal(service, states=states)


def access_refusal(
    service: Service, connection: HTTPConnection, *, key_may_follow: bool = False
) -> Response | None:
    """The answer to who may not connect, for their origin or their key; None if they may."""
    headers, query = connection.headers, connection.query_params
    offered = connection.scope.get("subprotocols", ())
    auth = service.authenticator
    waits_for_key = key_may_follow and not presents_key(headers, query, offered)
    if not auth.allows_origin(headers.get("origin"), headers.get("host")):
        reason, response = "origin", http_error(403, "origin_not_allowed", "origin not allowed")
    elif not waits_for_key and auth.requester(headers, query, offered) is None:
        reason, response = "auth", http_error(401, "invalid_api_key", "missing or wrong API key")
    else:
        return None
    service.metrics.refusals.labels(reason).inc()
    return response


def capacity_refusal(service: Service, error: Overloaded) -> Response:
    """The answer to an upgrade for which there was no place."""
    service.metrics.refusals.labels("capacity").inc()
    return unavailable(str(error))


def not_ready_refusal(
    service: Service, *, states: Container[State] = (State.READY,)
) -> Response | None:
    """The answer while the service is in none of `states`; None if it is."""
    if service.state in states:
        return None
    service.metrics.refusals.labels("not_ready").inc()
    return unavailable(f"the server is {service.state}")
