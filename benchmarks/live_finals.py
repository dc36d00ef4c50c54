"""How long after the last sample of speech its final comes, for every phase of a chunk."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from live_words import Sound, listen

from stt_server.bench.clips import load_round
from stt_server.bench.target import Target
from stt_server.events import SAMPLE_RATE

STEP_MS = 10
PACKET_MS = 10
SILENCE_MS = 1_500
REST_S = 0.6
"""Silence beyond that which ends a turn."""
SHORTEST_S, LONGEST_S = 0.9, 2.5


@dataclass(frozen=True, slots=True)
class Finals:
    """Seconds beyond the silence that ends a turn, one per turn."""

    from_detected: list[float]
    """From where the server says that speech stopped."""
    from_true: list[float]
    """From the last loud sample."""
    turns: int
    """That there should be."""


def phases(chunk_ms: int) -> Iterator[int]:
    """Milliseconds by which audio is shifted against the chunks."""
    return iter(range(0, chunk_ms, STEP_MS))


async def measure(target: Target, *, chunk_ms: int, repeats: int) -> Finals:
    """Say one utterance again and again.

    Each time another 10 ms of its beginning become silence: the utterance ends elsewhere in a
    chunk of the model, which begins with the turn, and elsewhere in a window of the VAD.
    """
    speech = _utterance()
    rest = np.zeros(round((SILENCE_MS / 1_000 + REST_S) * SAMPLE_RATE), np.int16)
    pieces: list[np.ndarray] = [rest[: SAMPLE_RATE // 2]]
    ends: list[int] = []
    for _ in range(repeats):
        for shift_ms in phases(chunk_ms):
            shift = shift_ms * SAMPLE_RATE // 1_000
            # Twice, so that the end moves as well.
            pieces += [np.zeros(2 * shift, np.int16), speech[shift:]]
            ends.append(sum(map(len, pieces)))
            pieces.append(rest)
    sound = Sound(np.concatenate(pieces).astype("<i2").tobytes())
    recorder = await listen(target, sound, packet_ms=PACKET_MS)
    finals = Finals([], [], len(ends))
    silence = SILENCE_MS * SAMPLE_RATE // 1_000
    for turn in recorder.turns:
        stopped = round(turn.stopped_s * SAMPLE_RATE)
        end = min(ends, key=lambda at: abs(at - stopped))
        if turn.reason == "silence" and abs(end - stopped) < SAMPLE_RATE // 2:
            finals.from_detected.append(turn.final_at - recorder.timeline.due(stopped + silence))
            finals.from_true.append(turn.final_at - recorder.timeline.due(end + silence))
    return finals


def _utterance() -> np.ndarray:
    """A stretch of speech of the bundled conversations, to its last loud sample."""
    audio = load_round(None, pause_s=0.0)
    samples = np.frombuffer(audio.pcm, "<i2")
    for start, end in zip(audio.speech_starts, audio.speech_ends, strict=True):
        if SHORTEST_S * SAMPLE_RATE <= end - start <= LONGEST_S * SAMPLE_RATE:
            return samples[start:end]
    raise ValueError("no stretch of speech of that length")
