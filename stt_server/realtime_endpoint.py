"""`/v1/realtime`: OpenAI's Realtime protocol."""

import time
import uuid
from contextlib import ExitStack, suppress

from starlette.websockets import WebSocket

from stt_server.auth import select_subprotocol
from stt_server.errors import Overloaded
from stt_server.log import session_id
from stt_server.protocols.realtime import Identity, RealtimeCodec
from stt_server.protocols.realtime_messages import BadEvent
from stt_server.protocols.realtime_session import SessionUpdate, Terms, parse_part
from stt_server.refusals import capacity_refusal, http_error, upgrade_refusal
from stt_server.service import Service
from stt_server.session import ClientGone
from stt_server.settings import DetectorName
from stt_server.transport import WebSocketTransport

REALTIME_PATH = "/v1/realtime"
DAY_S = 86_400
"""How far away an end is that is none."""


class RealtimeEndpoint:
    """Handler of the route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from the request to its end."""
        service = self._service
        refusal = upgrade_refusal(service, socket)
        if refusal is not None:
            await socket.send_denial_response(refusal)
            return
        token = uuid.uuid4().hex[:12]
        with ExitStack() as places:
            try:
                codec = self._codec(socket, token)
                places.enter_context(service.admission.place())
            except BadEvent as error:
                refusal = http_error(400, error.wire_code, str(error), param=error.param)
                await socket.send_denial_response(refusal)
                return
            except Overloaded as error:
                await socket.send_denial_response(capacity_refusal(service, error))
                return
            session_id.set(f"s-{token}")
            await socket.accept(subprotocol=select_subprotocol(socket.scope["subprotocols"]))
            await self._run(socket, codec)

    async def _run(self, socket: WebSocket, codec: RealtimeCodec) -> None:
        service, settings = self._service, self._service.settings
        transport = WebSocketTransport(socket)
        # Pools keep connections that nobody reads: their pongs never come.
        transport.forgive_missing_pongs()
        limits = settings.limits.model_copy(
            update={"idle_timeout_s": settings.realtime.idle_timeout_s}
        )
        with suppress(ClientGone):
            await transport.send(codec.greeting())
            await service.serve(transport, codec, protocol="realtime", limits=limits)

    def _codec(self, socket: WebSocket, token: str) -> RealtimeCodec:
        service, settings = self._service, self._service.settings
        offered, query = socket.scope["subprotocols"], socket.query_params
        session = service.authenticator.session_of(socket.headers, query, offered)
        now = int(time.time())
        return RealtimeCodec(
            Identity(token, now, now + int(settings.limits.max_session_s or DAY_S)),
            Terms(service.engine.info.name, settings.endpointing, self._semantic_detector()),
            max_append_bytes=settings.realtime.max_append_bytes,
            model=query.get("model"),
            session=parse_part(SessionUpdate, session) if session is not None else None,
        )

    def _semantic_detector(self) -> DetectorName:
        """What the operator set, else the best that there is."""
        default = self._service.settings.endpointing.detector
        preferred = (default, DetectorName.SMART_TURN, DetectorName.EOU)
        able = self._service.detectors - {DetectorName.SILENCE}
        return next((name for name in preferred if name in able), DetectorName.SILENCE)
