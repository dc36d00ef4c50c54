"""WebSocket endpoints that speak the protocols of other servers, and their old addresses."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from stt_server.auth import select_subprotocol
from stt_server.errors import BadOpening, BadQuery, InvalidConfig, Overloaded
from stt_server.events import StreamError
from stt_server.log import session_id
from stt_server.parakeet import ParakeetStreams
from stt_server.protocols.fastconformer import (
    FastConformerCodec,
    Opening,
    encode_error,
    endpointing_of,
    parse_opening,
)
from stt_server.refusals import capacity_refusal, upgrade_refusal
from stt_server.service import Service
from stt_server.session import ClientGone
from stt_server.transport import WebSocketTransport

PARAKEET_PATH = "/ws/parakeet"
FASTCONFORMER_PATH = "/ws/fastconformer"


class SiblingEndpoints:
    """Handlers of the routes."""

    def __init__(self, service: Service, parakeet: ParakeetStreams) -> None:
        self._service = service
        self._parakeet = parakeet

    async def parakeet(self, socket: WebSocket) -> None:
        """`/ws/parakeet`."""
        refusal = upgrade_refusal(self._service, socket)
        if refusal is not None:
            await socket.send_denial_response(refusal)
            return
        transport = await _accept(socket)
        with ExitStack() as places:
            try:
                places.enter_context(self._service.admission.place())
            except Overloaded:
                await self._parakeet.refuse(transport)
                return
            by_turns = socket.query_params.get("turns") in ("1", "true")
            await self._parakeet.serve(transport, by_turns=by_turns)

    async def fastconformer(self, socket: WebSocket) -> None:
        """`/ws/fastconformer`."""
        service = self._service
        refusal = upgrade_refusal(service, socket)
        if refusal is not None:
            await socket.send_denial_response(refusal)
            return
        with ExitStack() as places:
            try:
                places.enter_context(service.admission.place())
            except Overloaded as error:
                await socket.send_denial_response(capacity_refusal(service, error))
                return
            transport = await _accept(socket)
            with suppress(ClientGone):
                await self._serve_fastconformer(transport, socket.query_params)

    async def _serve_fastconformer(
        self, transport: WebSocketTransport, query: Mapping[str, str]
    ) -> None:
        service, settings = self._service, self._service.settings
        opening = await self._opening(transport)
        if opening is None:
            await transport.close(BadOpening.close_code, "Bad init")
            return
        try:
            endpointing = endpointing_of(query, settings.endpointing)
        except InvalidConfig as error:
            await transport.send(encode_error(opening.sid, StreamError(error.code, str(error))))
            await transport.close(BadQuery.close_code, "bad URL parameter")
            return
        codec = FastConformerCodec(
            opening,
            endpointing=endpointing,
            max_audio_bytes=settings.limits.max_message_audio_bytes,
            now_ms=_unix_clock(),
        )
        await service.serve(transport, codec, protocol="fastconformer")

    async def _opening(self, transport: WebSocketTransport) -> Opening | None:
        """What the client begins with; None if that is wrong or does not come in time."""
        try:
            async with asyncio.timeout(self._service.settings.fastconformer.init_s):
                message = await transport.receive()
            if message is None:
                raise ClientGone
            return parse_opening(message)
        except (TimeoutError, BadOpening):
            return None


class OldAddresses:
    """Takes the WebSockets of some ports to a route, whatever path their clients ask for."""

    def __init__(self, app: ASGIApp, *, routes: Mapping[int, str]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope.get("server") is not None:
            path = self._routes.get(scope["server"][1], scope["path"])
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


async def _accept(socket: WebSocket) -> WebSocketTransport:
    session_id.set(f"s-{uuid.uuid4().hex[:12]}")
    await socket.accept(subprotocol=select_subprotocol(socket.scope["subprotocols"]))
    return WebSocketTransport(socket)


def _unix_clock() -> Callable[[], int]:
    """Unix time in milliseconds that never goes back, whatever is done to the system's clock."""
    zero = time.time() - time.monotonic()
    return lambda: round(1_000 * (zero + time.monotonic()))
