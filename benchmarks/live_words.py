"""When the words of a recording that is spoken live come: lags from the true end of each word."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from stt_server.bench.live import Manner, converse
from stt_server.bench.observer import Timeline
from stt_server.bench.target import Target
from stt_server.clients.messages import ServerMessage
from stt_server.events import SAMPLE_RATE
from stt_server.protocols.native_messages import (
    EndOfTurnMessage,
    SpeechStoppedMessage,
    TranscriptionSegment,
)

TAIL_S = 2.0
"""Silence after each recording: the turn ends before the client does."""


@dataclass(frozen=True, slots=True)
class Sound:
    """What one client says. A `Speech`."""

    pcm: bytes

    @classmethod
    def of(cls, path: Path) -> "Sound":
        """A 16 kHz mono recording and `TAIL_S` of silence."""
        samples, rate = soundfile.read(path, dtype="int16")
        assert rate == SAMPLE_RATE
        tail = np.zeros(round(TAIL_S * SAMPLE_RATE), np.int16)
        return cls(np.concatenate([samples, tail]).astype("<i2").tobytes())

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2

    def read(self, start: int, count: int) -> bytes:
        return self.pcm[2 * start : 2 * (start + count)].ljust(2 * count, b"\0")


@dataclass(slots=True)
class Turn:
    """One turn as a client saw it."""

    words: list[str] = field(default_factory=list[str])
    """Of the final."""
    first_seen: dict[tuple[int, str], float] = field(default_factory=dict[tuple[int, str], float])
    """When a word was first at its place in the turn's text."""
    in_interim: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    stopped_s: float = 0.0
    final_at: float = 0.0
    reason: str = ""


class Recorder:
    """Keeps all turns of a session. An `Observer`."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.turns: list[Turn] = []
        self._open = Turn()

    def hear(self, message: ServerMessage, at: float) -> None:
        match message:
            case TranscriptionSegment(words=words):
                texts = [word.word for word in words or ()]
                for place in enumerate(texts):
                    self._open.first_seen.setdefault(place, at)
                    if not message.is_final:
                        self._open.in_interim.add(place)
                if message.is_end_of_turn:
                    self._open.words, self._open.final_at = texts, at
            case SpeechStoppedMessage(time=time):
                self._open.stopped_s = time
            case EndOfTurnMessage(reason=reason):
                self._open.reason = reason
                self.turns.append(self._open)
                self._open = Turn()
            case _:
                pass

    def finish(self) -> None: ...


async def listen(target: Target, sound: Sound, *, packet_ms: int, fast: bool = False) -> Recorder:
    """Say it to the server and record what it says."""
    recorders: list[Recorder] = []

    def make(timeline: Timeline) -> Recorder:
        recorders.append(Recorder(timeline))
        return recorders[-1]

    manner = Manner(round(packet_ms * SAMPLE_RATE / 1_000), sound.samples, fast)
    await converse(target, sound, manner, make, asyncio.Event())
    return recorders[0]


@dataclass(slots=True)
class Found:
    """Of many recordings. Seconds."""

    lags: list[float] = field(default_factory=list[float])
    """True end of a word to the first message with it."""
    finals: list[float] = field(default_factory=list[float])
    """True end of a turn's last word to its final, of turns that silence ended."""
    late_words: int = 0
    """Words that no interim had, but the final."""
    words: int = 0
    errors: int = 0

    def add(self, recorder: Recorder, truth: Sequence[tuple[str, float]]) -> None:
        """Compare a session with its words and their ends in seconds."""
        heard = [
            (turn, (index, word))
            for turn in recorder.turns
            for index, word in enumerate(turn.words)
        ]
        pairs, errors = align([word for word, _ in truth], [word for _, (_, word) in heard])
        self.words += len(truth)
        self.errors += errors
        due = recorder.timeline.due
        for reference, hypothesis in pairs:
            end = round(truth[reference][1] * SAMPLE_RATE)
            turn, place = heard[hypothesis]
            self.lags.append(turn.first_seen[place] - due(end))
            self.late_words += place not in turn.in_interim
            if place[0] == len(turn.words) - 1 and turn.reason == "silence":
                self.finals.append(turn.final_at - due(end))


def align(truth: Sequence[str], heard: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """Equal words in the order of both sequences, and the number of word errors."""
    costs = np.zeros((len(truth) + 1, len(heard) + 1), np.int64)
    costs[:, 0], costs[0] = range(len(truth) + 1), range(len(heard) + 1)
    for i, word in enumerate(truth):
        for j, other in enumerate(heard):
            swap = costs[i, j] + (word != other)
            costs[i + 1, j + 1] = min(swap, costs[i, j + 1] + 1, costs[i + 1, j] + 1)
    pairs: list[tuple[int, int]] = []
    i, j = len(truth), len(heard)
    while i and j:
        equal = truth[i - 1] == heard[j - 1]
        if costs[i, j] == costs[i - 1, j - 1] + (not equal):
            i, j = i - 1, j - 1
            if equal:
                pairs.append((i, j))
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs[::-1], int(costs[-1, -1])


async def measure(
    target: Target, folder: Path, *, streams: int, packet_ms: int, files: int, fast: bool = False
) -> Found:
    """Say the recordings of a folder's `manifest.jsonl`, `streams` at a time."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    found, places = Found(), asyncio.Semaphore(streams)

    async def one(row: dict) -> None:
        async with places:
            sound = Sound.of(folder / row["file"])
            recorder = await listen(target, sound, packet_ms=packet_ms, fast=fast)
        found.add(recorder, [(word["word"], word["end"]) for word in row["words"]])

    async with asyncio.TaskGroup() as group:
        for row in rows[:files]:
            group.create_task(one(row))
    return found
