"""What a client's messages do to its session: audio and requests go into the pipeline, replies and
refusals out. `session.py` reads the messages and runs the rest."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from stt_server.audio import Ingress
from stt_server.deadlines import Deadlines
from stt_server.errors import BadMessageFlood, SessionError, SttError, Unauthorized
from stt_server.events import (
    Audio,
    Clear,
    Configure,
    Flush,
    Samples,
    Stall,
    StreamError,
    StreamEvent,
    TurnEndReason,
)
from stt_server.metrics import Metrics
from stt_server.pipeline import Channel, ChannelClosed, Progress
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
from stt_server.settings import EndpointingMode, LimitSettings, SessionOptions

BAD_MESSAGE_WINDOW_S = 10.0
LAST_MESSAGES, MAX_LAST_MESSAGE = 1_000, 1_024
"""How many messages, of how many characters, a client that has finished is answered: with its
audio, what bounds all others has ended."""
MAX_KEYLESS_BYTES = 2**16
"""A message that may carry the key needs no more."""


class Intake:
    """One session's way in.

    Attributes:
        audio: What the pipeline reads.
        options: The session's options as the client wants them by now.
        asked_to_finish: The client has said that no audio follows.
    """

    def __init__(
        self,
        codec: Codec,
        outbound: Channel[Message],
        progress: Progress,
        deadlines: Deadlines,
        *,
        authenticate: Callable[[str], bool] | None,
        limits: LimitSettings,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.audio: Channel[StreamEvent] = Channel(limits.max_backlog_s)
        self.options: SessionOptions = codec.options
        self.asked_to_finish = False
        self._codec = codec
        self._outbound = outbound
        self._progress = progress
        self._deadlines = deadlines
        self._authenticate = authenticate
        self._max_bad_messages = limits.max_bad_messages
        self._metrics = metrics
        self._clock = clock
        self._ingress = Ingress()
        self._unput: deque[Audio] = deque()
        self._bad_messages: deque[float] = deque()
        self._last_messages = LAST_MESSAGES

    @property
    def waits_for_key(self) -> bool:
        """The client has yet to show that it may use the server."""
        return self._authenticate is not None

    async def take(self, message: Message) -> None:
        """Do what the client wants with `message`.

        Raises:
            SessionError: the session is to end.
        """
        self._deadlines.heard(self._clock())
        try:
            if self._deadlines.finishing:
                await self._answer_ping(message)
            else:
                await self._take(message)
        except ChannelClosed:
            return  # the session began to end while this message waited for room

    def rewind(self, sample: int) -> None:
        """The client is back and begins again at its `sample`."""
        self._ingress.rewind(sample)
        self._deadlines.came_back(self._clock())

    def finish(self) -> None:
        """Take no more audio; what was taken goes on through the pipeline."""
        self._deadlines.finish(self._clock())
        rest = list(self._unput)
        self._unput.clear()
        end = rest[-1].end if rest else self._progress.received
        tail = Audio(end, self._ingress.finish())
        self._progress.received = tail.end
        self.audio.close(*rest, tail)

    async def check_pause(self, now: float) -> None:
        """A client that sends nothing may have left a turn or a sample unfinished."""
        if self._deadlines.has_stalled(now, self.options.endpointing.stall_s):
            self._progress.turn_open = False
            await self.audio.put(Stall())
        if self._ingress.is_mid_sample and self._deadlines.waits_for_half_a_sample_too_long(now):
            await self._report_split_sample()

    async def _answer_ping(self, message: Message) -> None:
        """All that a client which has finished may still want."""
        if len(message) > MAX_LAST_MESSAGE or not self._last_messages:
            return
        self._last_messages -= 1
        with suppress(SttError):
            for event in self._codec.decode(message):
                if isinstance(event, Reply):
                    await self._outbound.put(event.message)

    async def _take(self, message: Message) -> None:
        if self.waits_for_key and len(message) > MAX_KEYLESS_BYTES:
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
                self.asked_to_finish = True
                self.finish()
            case Configure() | Flush() | Clear():
                self._require_key()
                await self._report_split_sample()
                if isinstance(event, Configure):
                    self.options = event.options
                elif isinstance(event, Clear) or self._marks_turns(event):
                    # What the client marks ends with its last sample: it may still be resampled.
                    await self._put_audio([self._ingress.finish()])
                await self.audio.put(event)

    def _marks_turns(self, flush: Flush) -> bool:
        is_manual = self.options.endpointing.mode is EndpointingMode.MANUAL
        return is_manual or flush.reason is TurnEndReason.COMMIT

    async def _accept_audio(self, packet: Packet) -> None:
        if not packet.splits_samples:
            await self._report_split_sample()
        await self._put_audio(self._ingress.push(packet))
        # Counted from the end of the packet: putting may have waited for room.
        self._deadlines.took_audio(self._clock())

    async def _put_audio(self, pieces: Iterable[Samples]) -> None:
        at = self._progress.received
        for samples in pieces:
            self._unput.append(Audio(at, samples))
            at += len(samples)
        self._progress.taken = self._ingress.taken
        # While this waits for room the session may begin to end: `finish` takes the rest.
        while self._unput:
            await self.audio.put(self._unput[0])
            self._progress.received = self._unput.popleft().end

    def _require_key(self) -> None:
        if self.waits_for_key:
            raise Unauthorized("send your API key first")

    async def _refuse(self, error: SttError) -> None:
        """Answer a bad message; the session lives unless the error says otherwise."""
        if isinstance(error, SessionError):
            raise error
        now = self._clock()
        self._bad_messages.append(now)
        while self._bad_messages[0] < now - BAD_MESSAGE_WINDOW_S:
            self._bad_messages.popleft()
        if len(self._bad_messages) > self._max_bad_messages:
            raise BadMessageFlood("too many bad messages") from error
        self._metrics.errors.labels(error.code).inc()
        for message in self._codec.encode(StreamError(error.code, str(error))):
            await self._outbound.put(message)

    async def _report_split_sample(self) -> None:
        if self._ingress.is_mid_sample:
            await self._refuse(self._ingress.drop_incomplete())
