"""`/ws/transcribe`: new sessions, and clients that come back to theirs."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.websockets import WebSocket

from stt_server.auth import select_subprotocol
from stt_server.errors import BadQuery, InvalidConfig, Overloaded, ResumeFailed
from stt_server.log import session_id
from stt_server.pipeline import Progress
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.protocols.native_resume import TOKEN_PARAMETER, Comeback, ResumeOffer
from stt_server.refusals import capacity_refusal, upgrade_refusal
from stt_server.resume import ResumableTransport
from stt_server.resume_tokens import ResumeTokens, session_of
from stt_server.service import Service, State
from stt_server.session import ClientGone
from stt_server.settings import SessionOptions
from stt_server.transport import WebSocketTransport


@dataclass(slots=True)
class _Seat:
    """What a client finds again when it comes back."""

    transport: ResumableTransport
    holder: int | None
    """Number of the key with which the session began; None until it was shown."""


class NativeEndpoint:
    """Handler of the route."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seats: dict[str, _Seat] = {}

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from the request to its end."""
        if TOKEN_PARAMETER in socket.query_params:
            await self._resume(socket)
        else:
            await self._admit(socket)

    async def _admit(self, socket: WebSocket) -> None:
        service = self._service
        offered: list[str] = socket.scope["subprotocols"]
        refusal = upgrade_refusal(service, socket, key_may_follow=True)
        if refusal is not None:
            await socket.send_denial_response(refusal)
            return
        auth = service.authenticator
        holder = auth.requester(socket.headers, socket.query_params, offered)
        with ExitStack() as places:
            door = service.without_key if holder is None else service.admission
            try:
                places.enter_context(door.place())
            except Overloaded as error:
                await socket.send_denial_response(capacity_refusal(service, error))
                return
            identity = f"s-{uuid.uuid4().hex[:12]}"

            def authenticate(key: str) -> bool:
                number = auth.number(key)
                if number is None:
                    return False
                # The place among those without a key is free again.
                with places.pop_all():
                    places.enter_context(service.admission.place())
                self._seats[identity].holder = number
                return True

            await socket.accept(subprotocol=select_subprotocol(offered))
            session_id.set(identity)
            await self._run(socket, identity, holder, None if holder is not None else authenticate)

    async def _run(
        self,
        socket: WebSocket,
        identity: str,
        holder: int | None,
        authenticate: Callable[[str], bool] | None,
    ) -> None:
        resume = self._service.settings.resume
        tokens, progress = ResumeTokens(identity), Progress()
        connection = WebSocketTransport(socket)
        window_s = resume.window_s if connection.can_be_succeeded else 0.0
        try:
            codec = self._codec(socket, identity, ResumeOffer(tokens.current, window_s))
        except InvalidConfig as error:
            await _refuse(socket, error, BadQuery.close_code, "bad URL parameter")
            return
        transport = ResumableTransport(
            connection,
            identity,
            codec,
            tokens,
            progress,
            settings=resume,
            send_timeout_s=self._service.settings.limits.send_timeout_s,
            clock=time.monotonic,
        )
        self._seats[identity] = _Seat(transport, holder)
        try:
            for message in codec.greeting():
                await transport.send(message)
            await self._service.serve(transport, codec, authenticate, progress=progress)
        except ClientGone:
            return  # before it was greeted
        finally:
            del self._seats[identity]
            transport.release()

    async def _resume(self, socket: WebSocket) -> None:
        """Give the session that the token names a new connection."""
        service, query = self._service, socket.query_params
        offered: list[str] = socket.scope["subprotocols"]
        states = (State.READY, State.DRAINING)
        refusal = upgrade_refusal(service, socket, states=states)
        if refusal is not None:
            await socket.send_denial_response(refusal)
            return
        await socket.accept(subprotocol=select_subprotocol(offered))
        token = query[TOKEN_PARAMETER]
        try:
            comeback = Comeback.from_query(query)
            seat = self._seats.get(session_of(token))
            holder = service.authenticator.requester(socket.headers, query, offered)
            if seat is None or seat.holder != holder:
                raise ResumeFailed("no session can be resumed with this token")
            seat.transport.admit(token, comeback)
        except ResumeFailed as error:
            service.metrics.refusals.labels("resume").inc()
            await _refuse(socket, error, error.close_code, "not resumed")
            return
        service.metrics.resumes.inc()
        session_id.set(session_of(token))
        await seat.transport.attach(WebSocketTransport(socket), token, comeback)

    def _codec(self, socket: WebSocket, identity: str, offer: ResumeOffer) -> NativeCodec:
        service, settings = self._service, self._service.settings
        info, final = service.engine.info, service.final_engine
        return NativeCodec(
            session_id=identity,
            defaults=SessionOptions(endpointing=settings.endpointing),
            abilities=Abilities(
                frozenset({info.name}),
                final_model=final.info.name if final else None,
                detectors=service.detectors,
                eager=service.is_eager,
                resume=offer.window_s > 0,
                lookaheads_ms=info.lookaheads_ms,
            ),
            max_audio_bytes=settings.limits.max_message_audio_bytes,
            query=socket.query_params,
            resume=offer,
        )


async def _refuse(
    socket: WebSocket, error: InvalidConfig | ResumeFailed, close_code: int, reason: str
) -> None:
    await socket.send_json({"error": str(error), "code": error.code})
    await socket.close(close_code, reason)
