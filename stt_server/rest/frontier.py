"""What everything under `/v1` shares: request ids, origins, keys."""

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stt_server.log import session_id
from stt_server.refusals import access_refusal
from stt_server.service import Service

PREFIX = "/v1/"
PREFLIGHT_S = 600
"""How long a browser may remember what it may ask."""


class Frontier:
    """Lets in who may come, and marks every answer. WebSockets pass: their routes ask the same."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        headers = connection.headers
        identity = f"req_{uuid.uuid4().hex}"
        session_id.set(identity)
        marked = _Marked(send, identity, self._allowed_origin(headers))
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            refusal = self._preflight(headers)
        else:
            refusal = access_refusal(self._service, connection)
        await (refusal or self._app)(scope, receive, marked)

    def _allowed_origin(self, headers: Headers) -> str | None:
        origin = headers.get("origin")
        auth = self._service.authenticator
        return origin if auth.allows_origin(origin, headers.get("host")) else None

    def _preflight(self, headers: Headers) -> Response:
        """A browser asks what it may send; it has no key to show yet."""
        if self._allowed_origin(headers) is None:
            return Response(status_code=403)
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
                "Access-Control-Max-Age": str(PREFLIGHT_S),
            },
        )


class _Marked:
    """`send` that adds what every answer carries."""

    def __init__(self, send: Send, identity: str, origin: str | None) -> None:
        self._send = send
        self._identity = identity
        self._origin = origin

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._identity
            if self._origin is not None:
                headers["Access-Control-Allow-Origin"] = self._origin
                headers["Access-Control-Expose-Headers"] = "x-request-id, retry-after"
                headers.add_vary_header("Origin")
        await self._send(message)
