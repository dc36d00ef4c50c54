"""What the pipeline of one session is made of."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from stt_server.engine.base import HearsSilence, SegmentEngine, StreamingEngine, TurnDetector
from stt_server.engine.detectors import Detectors
from stt_server.engine.vad import VoiceDetector
from stt_server.events import StreamEvent
from stt_server.metrics import Metrics
from stt_server.pipeline import Pipeline, Progress, Stage
from stt_server.protocols.base import Codec, Message
from stt_server.settings import DetectorName, SessionOptions, Settings
from stt_server.stages.asr import StreamingAsrStage
from stt_server.stages.sink import SinkStage
from stt_server.stages.two_pass import TwoPassStage
from stt_server.stages.vad import VadStage
from stt_server.stages.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Assembly:
    """Builds pipelines from what all sessions of a server share."""

    settings: Settings
    engine: StreamingEngine | SegmentEngine
    final_engine: SegmentEngine | None
    voice: VoiceDetector
    turn_detectors: Detectors
    metrics: Metrics

    def pipeline(self, codec: Codec, progress: Progress) -> Pipeline[StreamEvent, Message]:
        """From the events of a client to messages for it."""
        openers: dict[DetectorName, Callable[[], TurnDetector]] = self.turn_detectors.openers()
        verdict = None
        if self.engine.info.marks_turn_ends and DetectorName.EOU not in openers:
            verdict = own = Verdict()
            openers[DetectorName.EOU] = lambda: own
        vad = VadStage(
            self.voice.open(),
            codec.options.endpointing,
            progress,
            turn_detectors=openers,
            metrics=self.metrics,
        )
        sink = SinkStage(
            codec,
            self.metrics,
            clock=time.monotonic,
            log_transcripts=self.settings.log.transcripts,
        )
        return vad + self._asr_stage(codec.options, progress, verdict) + sink

    def _asr_stage(
        self, options: SessionOptions, progress: Progress, verdict: Verdict | None
    ) -> Stage[StreamEvent, StreamEvent]:
        engine, clock = self.engine, time.monotonic
        if isinstance(engine, SegmentEngine):
            from stt_server.stages.segment_asr import SegmentAsrStage

            return SegmentAsrStage(engine, options, progress, clock=clock)
        streaming = StreamingAsrStage(
            engine.open,
            options,
            progress,
            clock=clock,
            verdict=verdict,
            hears_silence=hears_silence(engine),
        )
        if self.final_engine is None:
            return streaming
        return TwoPassStage(
            streaming,
            self.final_engine,
            options,
            self.metrics,
            timeout_s=self.settings.final_timeout_ms / 1_000,
            clock=clock,
        )


def hears_silence(engine: StreamingEngine | SegmentEngine) -> bool:
    """Whether its streams want the audio between turns, too."""
    return isinstance(engine, HearsSilence) and engine.hears_silence
