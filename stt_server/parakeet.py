"""What the transports of the parakeet protocol share, and its TCP ports."""

import asyncio
import itertools
import logging
import socket
import uuid
from collections.abc import Callable
from contextlib import ExitStack

from stt_server.errors import ErrorCode, Overloaded
from stt_server.events import StreamError
from stt_server.intake import MAX_KEYLESS_BYTES
from stt_server.log import session_id
from stt_server.protocols.base import Message
from stt_server.protocols.parakeet import (
    MAX_MESSAGE_BYTES,
    NO_FREE_STREAM,
    ParakeetCodec,
    encode_error,
    encode_status,
)
from stt_server.protocols.parakeet_lines import LineSplitter
from stt_server.service import Service, State
from stt_server.session import ClientGone, Transport
from stt_server.tcp import TcpTransport

logger = logging.getLogger(__name__)

LAST_WORD_S = 5.0
"""How long a client that is not served may take to read why."""


class ParakeetStreams:
    """The streams of all transports: greeted, numbered, counted."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ids = itertools.count(1)
        self.connected = 0

    async def serve(
        self,
        transport: Transport,
        authenticate: Callable[[str], bool] | None = None,
        *,
        by_turns: bool = False,
    ) -> None:
        """Run one stream from its `hello` to its end."""
        service = self._service
        codec = ParakeetCodec(
            stream_id=next(self._ids),
            endpointing=service.settings.endpointing,
            by_turns=by_turns,
        )
        self.connected += 1
        try:
            await transport.send(codec.hello)
            await service.serve(transport, codec, authenticate, protocol="parakeet")
        except ClientGone:
            logger.debug("parakeet.gone_before_hello")
        finally:
            self.connected -= 1

    async def refuse(self, transport: Transport) -> None:
        """Say that no stream is free, in place of `hello`, and close."""
        self._service.metrics.refusals.labels("capacity").inc()
        error = StreamError(ErrorCode.OVERLOADED, NO_FREE_STREAM, fatal=True)
        await _say_and_close(transport, encode_error(error), Overloaded.close_code)


class ParakeetPorts:
    """The raw TCP ports: one for streams, one that tells how many there are."""

    def __init__(self, service: Service, streams: ParakeetStreams) -> None:
        self._service = service
        self._streams = streams
        self._servers: list[asyncio.Server] = []

    async def open(self, streams_at: socket.socket | None, status_at: socket.socket | None) -> None:
        """Accept connections on bound sockets; None leaves that port out."""
        for listener, serve in ((streams_at, self._stream), (status_at, self._status)):
            if listener is not None:
                self._servers.append(await asyncio.start_server(serve, sock=listener))

    def close(self) -> None:
        """Accept no more; who is served stays."""
        for server in self._servers:
            server.close()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session_id.set(f"s-{uuid.uuid4().hex[:12]}")
        needs_key = self._service.authenticator.required
        lines = LineSplitter(MAX_KEYLESS_BYTES if needs_key else MAX_MESSAGE_BYTES)
        transport = TcpTransport(reader, writer, lines)
        try:
            await self._admit(transport, lines)
        finally:
            transport.release()

    async def _admit(self, transport: TcpTransport, lines: LineSplitter) -> None:
        service = self._service
        auth, admission = service.authenticator, service.admission
        with ExitStack() as places:
            try:
                if service.state is not State.READY:
                    raise Overloaded(f"the server is {service.state}")
                places.enter_context(admission.place())
                if auth.required:
                    # There is a place, but who has no key yet must not keep others from it.
                    places.close()
                    places.enter_context(service.without_key.place())
            except Overloaded:
                await self._streams.refuse(transport)
                return

            def authenticate(key: str) -> bool:
                if not auth.accepts(key):
                    return False
                with places.pop_all():
                    try:
                        places.enter_context(admission.place())
                    except Overloaded as error:
                        raise Overloaded(NO_FREE_STREAM) from error
                lines.limit = MAX_MESSAGE_BYTES
                return True

            await self._streams.serve(transport, authenticate if auth.required else None)

    async def _status(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = TcpTransport(reader, writer, LineSplitter(0))
        await _say_and_close(transport, encode_status(self._streams.connected), 1000)


async def _say_and_close(transport: Transport, message: Message, code: int) -> None:
    try:
        async with asyncio.timeout(LAST_WORD_S):
            await transport.send(message)
            await transport.close(code, "")
    except (TimeoutError, ClientGone):
        logger.debug("parakeet.last_word_not_delivered")
