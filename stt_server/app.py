"""The web application: builds everything from the settings, routes requests to it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from stt_server import __version__
from stt_server.engine.auto import resolve_auto
from stt_server.engine.base import SegmentEngine, StreamingEngine
from stt_server.engine.select import make_engine, make_final_engine
from stt_server.native_endpoint import NativeEndpoint
from stt_server.parakeet import ParakeetStreams
from stt_server.realtime_endpoint import REALTIME_PATH, RealtimeEndpoint
from stt_server.refusals import http_error
from stt_server.rest.routes import Rest
from stt_server.service import Service, State
from stt_server.settings import MetricsAccess, Settings
from stt_server.sibling_endpoints import (
    FASTCONFORMER_PATH,
    PARAKEET_PATH,
    OldAddresses,
    SiblingEndpoints,
)


class Endpoints:
    """Handlers of the routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        """The process is alive, also while the model loads."""
        return JSONResponse(self._status())

    async def ready(self, _: Request) -> Response:
        """Sessions can be served."""
        reason = await self._service.not_ready_reason()
        if reason is None:
            return JSONResponse(self._status())
        return JSONResponse({**self._status(), "reason": reason}, status_code=503)

    async def status(self, _: Request) -> Response:
        """Liveness without a body."""
        return Response()

    async def metrics(self, request: Request) -> Response:
        """Prometheus text, for whom the setting allows it."""
        if self._service.settings.auth.metrics is MetricsAccess.OFF:
            return http_error(404, "not_found", "there is nothing here")
        if not self._may_read_metrics(request):
            return http_error(401, "invalid_api_key", "missing or wrong API key")
        return Response(
            self._service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def unknown_socket(self, socket: WebSocket) -> None:
        """No protocol lives at this address."""
        await socket.send_denial_response(http_error(404, "not_found", "no such address"))

    def _status(self) -> dict[str, object]:
        service = self._service
        return {
            "status": "healthy",
            "model_loaded": service.state in (State.READY, State.DRAINING),
            "model": service.engine.info.name,
            "version": __version__,
            "active_sessions": service.admission.active,
            "max_sessions": service.admission.capacity,
            **({"degraded": service.degraded_reason} if service.degraded_reason else {}),
        }

    def _may_read_metrics(self, request: HTTPConnection) -> bool:
        service = self._service
        auth, access = service.authenticator, service.settings.auth.metrics
        from_loopback = request.client is not None and request.client.host in ("127.0.0.1", "::1")
        if access is MetricsAccess.OPEN or (access is MetricsAccess.AUTO and from_loopback):
            return True
        return auth.required and auth.allows_request(request.headers, request.query_params)


def create_app(
    settings: Settings,
    *,
    engine: StreamingEngine | SegmentEngine | None = None,
    final_engine: SegmentEngine | None = None,
) -> Starlette:
    """A complete server as an ASGI app; `app.state.service` is its `Service`, and
    `app.state.parakeet` counts the streams that a server with raw TCP ports adds.

    Args:
        engine: Serves instead of the one the settings name.
        final_engine: The same for the second recogniser.
    """
    if engine is None:
        settings = resolve_auto(settings)
    service = Service(
        settings, engine or make_engine(settings), final_engine or make_final_engine(settings)
    )
    streams = ParakeetStreams(service)
    endpoints, native = Endpoints(service), NativeEndpoint(service)
    siblings, rest = SiblingEndpoints(service, streams), Rest(service)
    old_ports = {
        settings.parakeet.ws_port: PARAKEET_PATH,
        settings.fastconformer.port: FASTCONFORMER_PATH,
    }

    async def load() -> None:
        await service.load()
        if settings.uploads.warm:
            rest.warm_up()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        loading = asyncio.create_task(load(), name="load")
        # Its failure is kept in `service.failure` and logged; the CLI ends the process.
        loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.wait([loading])
            await rest.close()
            await service.close()

    app = Starlette(
        exception_handlers={HTTPException: _http_error},
        routes=[
            Route("/health", endpoints.health),
            Route("/ready", endpoints.ready),
            Route("/status", endpoints.status),
            Route("/metrics", endpoints.metrics),
            *rest.routes,
            WebSocketRoute("/ws/transcribe", native.serve),
            WebSocketRoute(PARAKEET_PATH, siblings.parakeet),
            WebSocketRoute(FASTCONFORMER_PATH, siblings.fastconformer),
            WebSocketRoute(REALTIME_PATH, RealtimeEndpoint(service).serve),
            WebSocketRoute("/{path:path}", endpoints.unknown_socket),
        ],
        middleware=[rest.middleware, Middleware(OldAddresses, routes=old_ports)],
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.parakeet = streams
    return app


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "invalid_request"
    return http_error(error.status_code, code, error.detail)
