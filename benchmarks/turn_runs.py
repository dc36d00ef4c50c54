"""Runs of the VAD stage over clips: when does it end the turn?

What a turn detector answers is recorded once per clip; sweeps of settings then replay it, for the
stage asks at the same places whatever the thresholds are.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
from turn_clips import Clip

from stt_server.engine.base import HearsPauses, TurnDetector
from stt_server.engine.vad import VadModel, VadState
from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Samples,
    StreamEvent,
    TurnEnded,
    TurnEndReason,
)
from stt_server.pipeline import Progress
from stt_server.settings import DetectorName, EndpointingSettings
from stt_server.stages.vad import VadStage

PACKET = 16 * WINDOW_SAMPLES
AGAIN_MS = 160
"""Silence after which a detector is asked again, where it is."""
AGAIN_SAMPLES = AGAIN_MS * SAMPLE_RATE // 1_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one turn ended. `delay_s` is stream time from the true end of speech to the decision,
    negative if the turn was cut off."""

    kind: str
    delay_s: float
    reason: TurnEndReason

    @property
    def is_cut(self) -> bool:
        return self.delay_s < 0


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip, the probabilities of its windows, and what detectors answered, by the span of audio
    they had heard."""

    clip: Clip
    probabilities: list[float]
    answers: dict[DetectorName, dict[tuple[int, int], float | None]] = field(
        default_factory=dict[DetectorName, dict[tuple[int, int], float | None]]
    )


def hear(clips: Sequence[Clip], model: VadModel) -> list[Heard]:
    """Run the voice activity detector over the clips."""
    windows = [clip.samples.reshape(-1, WINDOW_SAMPLES) for clip in clips]
    probabilities = model.run([VadState() for _ in clips], windows)
    return [Heard(*pair) for pair in zip(clips, probabilities, strict=True)]


async def decide(
    heard: Heard,
    endpointing: EndpointingSettings,
    detector: TurnDetector | None = None,
) -> Outcome | None:
    """Push the clip through the stage; None if no turn was found in it.

    Args:
        detector: the one that `endpointing` names.
    """
    detectors = {} if detector is None else {endpointing.detector: lambda: detector}
    stage = VadStage(_Probabilities(heard), endpointing, Progress(), turn_detectors=detectors)
    at = 0
    async with aclosing(stage.run(_packets(heard.clip))) as events:
        async for event in events:
            match event:
                case Audio():
                    at = event.end
                case TurnEnded(reason=reason):
                    # All that was judged has been given out: the decision fell here.
                    return Outcome(heard.clip.kind, (at - heard.clip.end) / SAMPLE_RATE, reason)
                case _:
                    pass
    return None


async def _packets(clip: Clip) -> AsyncIterator[StreamEvent]:
    for start in range(0, len(clip.samples), PACKET):
        yield Audio(start, clip.samples[start : start + PACKET])


class _Probabilities:
    """What the detector of speech said of these windows. A `SpeechProbabilities`."""

    def __init__(self, heard: Heard) -> None:
        self._probabilities = heard.probabilities
        self._window = 0

    async def push(self, samples: Samples) -> list[float]:
        before = self._window
        self._window += len(samples) // WINDOW_SAMPLES
        return self._probabilities[before : self._window]

    def reset(self) -> None:
        """Nothing is to be forgotten."""


class Recorder:
    """A `TurnDetector` that asks another one, keeps what it says and ends nothing."""

    def __init__(
        self, detector: TurnDetector, answers: dict[tuple[int, int], float | None]
    ) -> None:
        self._detector = detector
        self._answers = answers
        self._span = _Span()
        self.took_s: list[float] = []
        """Of the processor, so that neighbours do not count: each answer's."""

    @property
    def reason(self) -> TurnEndReason:
        return self._detector.reason

    async def hear(self, audio: Audio) -> None:
        self._span.add(audio)
        await self._detector.hear(audio)

    def pause(self, at: int) -> None:
        if isinstance(self._detector, HearsPauses):
            self._detector.pause(at)

    async def judge(self) -> float | None:
        began = time.process_time()
        self._answers[self._span.key] = await self._detector.judge()
        self.took_s.append(time.process_time() - began)
        return None

    async def reset(self) -> None:
        self._span = _Span()
        await self._detector.reset()

    async def close(self) -> None:
        await self._detector.close()


class Replay:
    """A `TurnDetector` that says what was recorded: of several, what `combine` makes of it."""

    reason = TurnEndReason.TURN_MODEL

    def __init__(
        self, heard: Heard, names: Sequence[DetectorName], combine: Callable[[list[float]], float]
    ) -> None:
        self._recorded = [heard.answers[name] for name in names]
        self._combine = combine
        self._span = _Span()

    async def hear(self, audio: Audio) -> None:
        self._span.add(audio)

    async def judge(self) -> float | None:
        # Only a turn that began after a false cut-off was never recorded: it counts no more.
        return self._combine([answers.get(self._span.key) or 0.0 for answers in self._recorded])

    async def reset(self) -> None:
        self._span = _Span()

    async def close(self) -> None:
        """Holds nothing."""


class _Span:
    """Of the audio of a turn."""

    def __init__(self) -> None:
        self._start: int | None = None
        self._end = 0

    def add(self, audio: Audio) -> None:
        self._start = audio.start if self._start is None else self._start
        self._end = audio.end

    @property
    def key(self) -> tuple[int, int]:
        return (self._start or 0, self._end)


@dataclass(frozen=True, slots=True)
class Point:
    """Settings, and what came of them over all clips."""

    endpointing: EndpointingSettings
    outcomes: list[Outcome]
    missed: int
    """Clips in which no turn was found."""

    @property
    def cut_percent(self) -> float:
        return 100 * sum(outcome.is_cut for outcome in self.outcomes) / len(self.outcomes)

    def delay_ms(self, quantile: float, compute_s: float = 0.0) -> float:
        """Of turns that were not cut off.

        Args:
            compute_s: what a detector's answer takes, for the turns that one ended.
        """
        delays = [
            outcome.delay_s + (compute_s if outcome.reason is not TurnEndReason.SILENCE else 0.0)
            for outcome in self.outcomes
            if not outcome.is_cut
        ]
        return 1_000 * float(np.quantile(delays, quantile)) if delays else float("inf")


async def measure(
    clips: Sequence[Heard],
    endpointing: EndpointingSettings,
    names: Sequence[DetectorName] = (),
    combine: Callable[[list[float]], float] = min,
) -> Point:
    """What the settings do to all clips; detectors that are named answer what was recorded."""
    outcomes = [
        await decide(heard, endpointing, Replay(heard, names, combine) if names else None)
        for heard in clips
    ]
    found = [outcome for outcome in outcomes if outcome is not None]
    return Point(endpointing, found, len(outcomes) - len(found))


def separation(clips: Sequence[Heard], name: DetectorName) -> float | None:
    """How well the detector tells ends of turns from pauses, the first time it is asked in each:
    the share of pairs in which it is surer at the end, ties by half; None if it was not asked."""
    ends: list[float] = []
    pauses: list[float] = []
    for heard in clips:
        answers = heard.answers.get(name, {})
        for (start, end), sureness in answers.items():
            if sureness is not None and (start, end - AGAIN_SAMPLES) not in answers:
                (ends if end > heard.clip.end else pauses).append(sureness)
    if not ends or not pauses:
        return None
    surer = np.sign(np.subtract.outer(ends, pauses))
    return float(surer.mean() / 2 + 0.5)
