"""One connection from accept to close: messages in, pipeline, messages out.

Knows no web framework: the transport is a `Transport`, the wire protocol a `Codec`.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stt_server.deadlines import Deadlines
from stt_server.errors import ClientTooSlow, InternalError, SessionError
from stt_server.events import (
    SAMPLE_RATE,
    Backlog,
    Finished,
    StreamError,
    StreamEvent,
    seconds,
)
from stt_server.intake import Intake
from stt_server.log import session_id
from stt_server.metrics import Metrics
from stt_server.pipeline import Channel, Pipeline, Progress
from stt_server.protocols.base import Codec, Message
from stt_server.settings import LimitSettings

logger = logging.getLogger(__name__)

OUTBOUND_BYTES = 4 * 2**20
"""Room for messages that the client has not read."""
STAGE_BOUND_S = 2.0
"""Audio between two stages; the rest waits ahead of the first one, within the limit."""
REASON_BYTES = 120


@dataclass(frozen=True, slots=True)
class Reattached:
    """The client is back over another connection and sends again what it sent from its sample
    `acked` on; it is one that the session has."""

    acked: int


class Transport(Protocol):
    """One WebSocket or another carrier of whole messages."""

    async def receive(self) -> Message | Reattached | None:
        """The next message; None once the peer has gone."""
        ...

    async def send(self, message: Message) -> None:
        """Hand one message to the network; waits while the peer does not read."""
        ...

    async def close(self, code: int, reason: str) -> None: ...

    @property
    def is_gone(self) -> bool:
        """The connection is lost for good, which `receive` tells only to who reads."""
        ...

    @property
    def is_detached(self) -> bool:
        """The connection is lost, and the client may come back."""
        ...

    @property
    def is_half_closed(self) -> bool:
        """The peer sends nothing more, but may still read."""
        ...

    @property
    def pinged_at(self) -> float:
        """When the peer last showed life without a message, on the session's clock."""
        ...


class ClientGone(Exception):
    """The peer vanished: nobody is left to serve."""


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What the app builds for one session."""

    codec: Codec
    pipeline: Pipeline[StreamEvent, Message]
    progress: Progress
    authenticate: Callable[[str], bool] | None
    """Checks a key sent in a message; None when the session is already allowed."""


class Session:
    """Serves one client. `run` never raises but for its own cancellation."""

    def __init__(
        self,
        parts: SessionParts,
        transport: Transport,
        *,
        limits: LimitSettings,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._codec = parts.codec
        self._pipeline = parts.pipeline
        self._progress = parts.progress
        self._transport = transport
        self._send_timeout_s = limits.send_timeout_s
        self._metrics = metrics
        self._clock = clock
        self._outbound: Channel[Message] = Channel(OUTBOUND_BYTES / SAMPLE_RATE)
        self._deadlines = Deadlines(limits, parts.progress, clock())
        self._intake = Intake(
            parts.codec,
            self._outbound,
            parts.progress,
            self._deadlines,
            authenticate=parts.authenticate,
            limits=limits,
            metrics=metrics,
            clock=clock,
        )

    async def run(self) -> None:
        """Serve until the client, a limit, the server or an error ends the session."""
        logger.info("session.opened")
        reason = "cancelled"
        try:
            reason = await self._run_to_reason()
        finally:
            audio_s = seconds(self._progress.received)
            self._metrics.sessions_total.labels(reason).inc()
            self._metrics.audio_seconds.inc(audio_s)
            logger.info("session.closed", extra={"reason": reason, "audio_s": audio_s})

    async def _run_to_reason(self) -> str:
        failures: list[Exception] = []
        try:
            await self._serve()
        except* Exception as group:
            failures = _leaves(group)
        for failure in failures:
            if not isinstance(failure, ClientGone | SessionError):
                logger.error("session.failed", exc_info=failure)
        if any(isinstance(failure, ClientGone) for failure in failures):
            return "disconnect"
        error = _to_tell(failures) if failures else self._deadlines.ending
        if self._intake.asked_to_finish and not failures:
            error = None
        if error is None:
            await self._close(1000, "")
            return "client"
        await self._close_with(error)
        return error.code.lower()

    def end(self, error: SessionError) -> None:
        """Take no more audio, send what was said, then close with `error`."""
        self._deadlines.end(error, self._clock())
        if not self._deadlines.finishing:
            self._intake.finish()

    def drain(self, error: SessionError) -> None:
        """Like `end`, but let the open turn come to its own end first."""
        self._deadlines.drain(error)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read())
            writer = group.create_task(self._write())
            watchdog = group.create_task(self._watch())
            await self._pipeline.run(self._intake.audio, self._outbound, bound_s=STAGE_BOUND_S)
            watchdog.cancel()
            if self._deadlines.ending is None or self._intake.asked_to_finish:
                for message in self._codec.encode(Finished(self._progress.received)):
                    await self._outbound.put(message)
            self._outbound.close()
            await writer
            reader.cancel()

    async def _read(self) -> None:
        while (message := await self._transport.receive()) is not None:
            if isinstance(message, Reattached):
                self._intake.rewind(message.acked)
            else:
                await self._intake.take(message)
                # Where there is room, none of this waits: others get their turn all the same.
                await asyncio.sleep(0)
        if not (self._intake.asked_to_finish and self._transport.is_half_closed):
            raise ClientGone

    async def _write(self) -> None:
        async for message in self._outbound:
            try:
                async with asyncio.timeout(self._send_timeout_s):
                    await self._transport.send(message)
            except TimeoutError as error:
                raise ClientTooSlow("messages were not read in time") from error

    async def _watch(self) -> None:
        """Everything that happens because time passes."""
        deadlines, intake, transport = self._deadlines, self._intake, self._transport
        while True:
            await asyncio.sleep(deadlines.next_look_s(intake.options.endpointing.stall_s))
            now, is_detached = self._clock(), transport.is_detached
            if transport.is_gone:
                raise ClientGone
            error = deadlines.overdue(now, waits_for_key=intake.waits_for_key)
            if error is not None:
                raise error
            error = deadlines.over(now, pinged_at=transport.pinged_at, is_detached=is_detached)
            if error is not None:
                self.end(error)
            if not is_detached:
                await intake.check_pause(now)
            if (lag := deadlines.lag_to_observe(now)) is not None:
                self._metrics.lag_seconds.observe(lag)
            if (lag := deadlines.backlog_to_tell(now)) is not None:
                for message in self._codec.encode(Backlog(lag)):
                    await self._outbound.put(message)

    async def _close_with(self, error: SessionError) -> None:
        self._metrics.errors.labels(error.code).inc()
        if isinstance(error, ClientTooSlow):
            await self._close(error.close_code, str(error), timeout_s=0.0)
            return
        # What was ready for the client before the error still belongs to it.
        self._outbound.close()
        try:
            async with asyncio.timeout(self._send_timeout_s):
                async for message in self._outbound:
                    await self._transport.send(message)
                for message in self._codec.encode(StreamError(error.code, str(error), fatal=True)):
                    await self._transport.send(message)
        except (TimeoutError, ClientGone):
            logger.debug("session.error_not_delivered", extra={"code": error.code})
        await self._close(error.close_code, str(error))

    async def _close(self, code: int, reason: str, *, timeout_s: float | None = None) -> None:
        short = reason.encode()[:REASON_BYTES].decode(errors="ignore")
        try:
            async with asyncio.timeout(self._send_timeout_s if timeout_s is None else timeout_s):
                await self._transport.close(code, short)
        except (TimeoutError, ClientGone):
            logger.debug("session.close_not_delivered", extra={"close_code": code})


def _to_tell(failures: list[Exception]) -> SessionError:
    """What the client is told of `failures`."""
    for failure in failures:
        if isinstance(failure, SessionError):
            return failure
    return InternalError(f"internal error in session {session_id.get()}")


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    leaves: list[Exception] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
