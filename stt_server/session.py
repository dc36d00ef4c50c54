"""One connection from accept to close: messages in, pipeline, messages out.

Knows no web framework: the transport is a `Transport`, the wire protocol a `Codec`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from stt_server.audio import Ingress
from stt_server.errors import (
    BadMessageFlood,
    ClientTooSlow,
    IdleTimeout,
    InternalError,
    SessionError,
    SessionLimit,
    SttError,
    Unauthorized,
)
from stt_server.events import (
    SAMPLE_RATE,
    Audio,
    Backlog,
    Configure,
    Finished,
    Flush,
    Stall,
    StreamError,
    StreamEvent,
    seconds,
)
from stt_server.log import session_id
from stt_server.metrics import Metrics
from stt_server.pipeline import Channel, ChannelClosed, Pipeline, Progress
from stt_server.protocols.base import (
    Authenticate,
    ClientEvent,
    Codec,
    Finish,
    Message,
    Packet,
    Refused,
    Reply,
)
from stt_server.settings import LimitSettings, SessionOptions

logger = logging.getLogger(__name__)

BACKLOG_WARNING_S = 5.0
"""A client is told when the server is behind by more than this, and as rarely as this."""
BAD_MESSAGE_WINDOW_S = 10.0
SPLIT_SAMPLE_WAIT_S = 1.0
"""How long half a sample waits for the packet with its other half."""
OUTBOUND_BYTES = 4 * 2**20
"""Room for messages that the client has not read."""
STAGE_BOUND_S = 2.0
"""Audio between two stages; the rest waits ahead of the first one, within the limit."""
MAX_KEYLESS_BYTES = 2**16
"""A message that may carry the key needs no more."""
FINISH_STALL_S = 120.0
"""A session that is to finish and does not get on for so long is given up."""
MIN_WATCH_S = 0.05
REASON_BYTES = 120


class Transport(Protocol):
    """One WebSocket or another carrier of whole messages."""

    async def receive(self) -> Message | None:
        """The next message; None once the peer has gone."""
        ...

    async def send(self, message: Message) -> None:
        """Hand one message to the network; waits while the peer does not read."""
        ...

    async def close(self, code: int, reason: str) -> None: ...

    @property
    def is_gone(self) -> bool:
        """The connection is lost, which `receive` tells only to who reads."""
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
        self._authenticate = parts.authenticate
        self._transport = transport
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._ingress = Ingress()
        self._input: Channel[StreamEvent] = Channel(limits.max_backlog_s)
        self._outbound: Channel[Message] = Channel(OUTBOUND_BYTES / SAMPLE_RATE)
        self._unput: deque[Audio] = deque()
        self._options: SessionOptions = parts.codec.options
        self._ending: SessionError | None = None
        self._draining: SessionError | None = None
        self._finishing = self._asked_to_finish = False
        self._bad_messages: deque[float] = deque()
        now = clock()
        self._opened_at = self._last_message_at = self._last_audio_at = now
        self._finishing_at = self._ending_at = self._observed_at = now
        self._warned_at = now - BACKLOG_WARNING_S

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
        error = _to_tell(failures) if failures else self._ending
        if self._asked_to_finish and not failures:
            error = None
        if error is None:
            await self._close(1000, "")
            return "client"
        await self._close_with(error)
        return error.code.lower()

    def end(self, error: SessionError) -> None:
        """Take no more audio, send what was said, then close with `error`."""
        if self._ending is None:
            self._ending, self._ending_at = error, self._clock()
        if not self._finishing:
            self._finish()

    def drain(self, error: SessionError) -> None:
        """Like `end`, but let the open turn come to its own end first."""
        self._draining = error

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read())
            writer = group.create_task(self._write())
            watchdog = group.create_task(self._watch())
            await self._pipeline.run(self._input, self._outbound, bound_s=STAGE_BOUND_S)
            watchdog.cancel()
            if self._ending is None or self._asked_to_finish:
                for message in self._codec.encode(Finished(self._progress.received)):
                    await self._outbound.put(message)
            self._outbound.close()
            await writer
            reader.cancel()

    # Inbound

    async def _read(self) -> None:
        while (message := await self._transport.receive()) is not None:
            self._last_message_at = self._clock()
            try:
                if self._finishing:
                    await self._answer_ping(message)
                else:
                    await self._take(message)
            except ChannelClosed:
                continue  # the session began to end while this message waited for room
        if not (self._asked_to_finish and self._transport.is_half_closed):
            raise ClientGone

    async def _answer_ping(self, message: Message) -> None:
        """All that a client which has finished may still want."""
        with suppress(SttError):
            for event in self._codec.decode(message):
                if isinstance(event, Reply):
                    await self._outbound.put(event.message)

    async def _take(self, message: Message) -> None:
        if self._authenticate is not None and len(message) > MAX_KEYLESS_BYTES:
            raise Unauthorized("send your API key first")
        try:
            for number, event in enumerate(self._codec.decode(message)):
                if number:
                    await asyncio.sleep(0)  # a message may ask for a lot: others get their turn
                await self._accept(event)
        except SttError as error:
            await self._refuse(error)

    async def _accept(self, event: ClientEvent) -> None:
        match event:
            case Packet():
                self._require_key()
                await self._accept_audio(event)
            case Reply(message=message):
                await self._outbound.put(message)
            case Refused(error=error):
                await self._refuse(error)
            case Authenticate(token=token):
                if self._authenticate is not None and not self._authenticate(token):
                    raise Unauthorized("invalid API key")
                self._authenticate = None
            case Finish():
                self._require_key()
                await self._report_split_sample()
                self._asked_to_finish = True
                self._finish()
            case Configure() | Flush():
                self._require_key()
                await self._report_split_sample()
                if isinstance(event, Configure):
                    self._options = event.options
                await self._input.put(event)

    async def _accept_audio(self, packet: Packet) -> None:
        if not packet.splits_samples:
            await self._report_split_sample()
        at = self._progress.received
        for samples in self._ingress.push(packet):
            self._unput.append(Audio(at, samples))
            at += len(samples)
        # While this waits for room the session may begin to end: `_finish` takes the rest.
        while self._unput:
            await self._input.put(self._unput[0])
            self._progress.received = self._unput.popleft().end
        # Counted from the end of the packet: putting may have waited for room.
        self._last_audio_at = self._clock()

    def _require_key(self) -> None:
        if self._authenticate is not None:
            raise Unauthorized("send your API key first")

    def _finish(self) -> None:
        self._finishing = True
        self._finishing_at = self._clock()
        rest = list(self._unput)
        self._unput.clear()
        end = rest[-1].end if rest else self._progress.received
        tail = Audio(end, self._ingress.finish())
        self._progress.received = tail.end
        self._input.close(*rest, tail)

    async def _refuse(self, error: SttError) -> None:
        """Answer a bad message; the session lives unless the error says otherwise."""
        if isinstance(error, SessionError):
            raise error
        now = self._clock()
        self._bad_messages.append(now)
        while self._bad_messages[0] < now - BAD_MESSAGE_WINDOW_S:
            self._bad_messages.popleft()
        if len(self._bad_messages) > self._limits.max_bad_messages:
            raise BadMessageFlood("too many bad messages") from error
        await self._report(error)

    async def _report(self, error: SttError) -> None:
        self._metrics.errors.labels(error.code).inc()
        for message in self._codec.encode(StreamError(error.code, str(error))):
            await self._outbound.put(message)

    async def _report_split_sample(self) -> None:
        if self._ingress.is_mid_sample:
            await self._refuse(self._ingress.drop_incomplete())

    # Outbound

    async def _write(self) -> None:
        async for message in self._outbound:
            try:
                async with asyncio.timeout(self._limits.send_timeout_s):
                    await self._transport.send(message)
            except TimeoutError as error:
                raise ClientTooSlow("messages were not read in time") from error

    async def _close_with(self, error: SessionError) -> None:
        self._metrics.errors.labels(error.code).inc()
        if isinstance(error, ClientTooSlow):
            await self._close(error.close_code, str(error), timeout_s=0.0)
            return
        # What was ready for the client before the error still belongs to it.
        self._outbound.close()
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                async for message in self._outbound:
                    await self._transport.send(message)
                for message in self._codec.encode(StreamError(error.code, str(error), fatal=True)):
                    await self._transport.send(message)
        except (TimeoutError, ClientGone):
            logger.debug("session.error_not_delivered", extra={"code": error.code})
        await self._close(error.close_code, str(error))

    async def _close(self, code: int, reason: str, *, timeout_s: float | None = None) -> None:
        if timeout_s is None:
            timeout_s = self._limits.send_timeout_s
        short = reason.encode()[:REASON_BYTES].decode(errors="ignore")
        try:
            async with asyncio.timeout(timeout_s):
                await self._transport.close(code, short)
        except (TimeoutError, ClientGone):
            logger.debug("session.close_not_delivered", extra={"close_code": code})

    # Time

    async def _watch(self) -> None:
        """Everything that happens because time passes."""
        while True:
            stall_s = self._options.endpointing.stall_ms / 1_000
            pause_s = min(1.0, stall_s / 4 or 1.0, self._limits.handshake_s / 2)
            await asyncio.sleep(max(MIN_WATCH_S, pause_s))
            now = self._clock()
            if self._transport.is_gone:
                raise ClientGone
            self._check_limits(now)
            await self._check_stall(now, stall_s)
            await self._check_backlog(now)
            if self._ingress.is_mid_sample and now - self._last_audio_at > SPLIT_SAMPLE_WAIT_S:
                await self._report_split_sample()

    def _check_limits(self, now: float) -> None:
        limits = self._limits
        # A client that waits for audio it has sent to be decoded is not idle.
        last_sign = max(self._last_message_at, self._transport.pinged_at, self._progress.done_at)
        if self._ending is not None and now - self._ending_at > limits.drain_s / 2:
            raise self._ending
        moved_at = max(self._finishing_at, self._progress.done_at)
        if self._finishing and now - moved_at > FINISH_STALL_S:
            raise InternalError("the session could not be finished")
        if self._draining is not None and not self._progress.turn_open:
            self.end(self._draining)
        if self._authenticate is not None and now - self._opened_at > limits.handshake_s:
            raise Unauthorized("no API key came in time")
        if limits.idle_timeout_s and now - last_sign > limits.idle_timeout_s:
            self.end(IdleTimeout(f"nothing received for {limits.idle_timeout_s:g} s"))
        if limits.max_session_s and now - self._opened_at > limits.max_session_s:
            self.end(SessionLimit(f"sessions end after {limits.max_session_s:g} s"))

    async def _check_stall(self, now: float, stall_s: float) -> None:
        progress = self._progress
        if not stall_s or not progress.turn_open or progress.lag_seconds or self._finishing:
            return
        if now - max(self._last_audio_at, progress.done_at) >= stall_s:
            progress.turn_open = False
            await self._input.put(Stall())

    async def _check_backlog(self, now: float) -> None:
        lag = self._progress.lag_seconds
        if now - self._observed_at >= 1.0:
            self._observed_at = now
            self._metrics.lag_seconds.observe(lag)
        if lag > BACKLOG_WARNING_S and now - self._warned_at >= BACKLOG_WARNING_S:
            self._warned_at = now
            for message in self._codec.encode(Backlog(lag)):
                await self._outbound.put(message)


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
