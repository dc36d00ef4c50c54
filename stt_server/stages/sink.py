"""Events in, messages of the client's protocol out."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from stt_server.events import Hypothesis, StreamError, StreamEvent, TurnEnded
from stt_server.metrics import Metrics
from stt_server.pipeline import Stage
from stt_server.protocols.base import Codec, Message

logger = logging.getLogger(__name__)


class SinkStage(Stage[StreamEvent, Message]):
    """Speaks the client's protocol, and counts what leaves."""

    def __init__(
        self,
        codec: Codec,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        log_transcripts: bool = False,
    ) -> None:
        self._codec = codec
        self._metrics = metrics
        self._clock = clock
        self._log_transcripts = log_transcripts
        self._turn_ended_at = 0.0

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[Message, None]:
        async for event in inputs:
            self._count(event)
            for message in self._codec.encode(event):
                yield message

    def _count(self, event: StreamEvent) -> None:
        match event:
            case TurnEnded(reason=reason):
                self._metrics.turns.labels(reason).inc()
                self._turn_ended_at = self._clock()
            case Hypothesis(is_final=True):
                elapsed = self._clock() - self._turn_ended_at
                self._metrics.time_to_final_seconds.observe(elapsed)
                if self._log_transcripts:
                    logger.info("turn.final", extra={"turn": event.turn, "text": event.text})
            case StreamError(code=code):
                self._metrics.errors.labels(code).inc()
            case _:
                pass
