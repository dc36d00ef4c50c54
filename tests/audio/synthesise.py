"""Synthesise the speech clips of the test suite: `python tests/audio/synthesise.py`.

Writes FLAC files (16 kHz, mono, PCM16) and `manifest.json` beside this script. All speech is made
here, by flite; no recording of a person is used. The result depends only on the flite release
(2.2 in Debian 12) and is committed, so the tests themselves need no synthesiser.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

HERE = Path(__file__).parent
SAMPLE_RATE = 16_000
PEAK_DBFS = -4.0
FLOOR_DBFS = -72.0  # room noise below everything, so that no stretch is digital zero
AUDIBLE_DB = -40.0  # relative to a phrase's loudest 10 ms: what counts as its start and end
LEAD_S = 0.5  # floor before the first turn

Audio = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: phrases said by one voice. `pauses_s[i]` is the silence after phrase i."""

    voice: str
    phrases: tuple[str, ...]
    pauses_s: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.phrases)


@dataclass(frozen=True, slots=True)
class Clip:
    """Turns with the silence between them; `tail_s` is the silence after the last one."""

    name: str
    turns: tuple[Turn, ...]
    gaps_s: tuple[float, ...] = field(default=())
    tail_s: float = 2.0


CLIPS = (
    Clip(
        "conversation-restaurant",
        (
            Turn("slt", ("I need to change my reservation", "to Friday evening."), (0.6,)),
            Turn("rms", ("We have a table for four", "near the window."), (0.45,)),
            Turn("slt", ("Yes.",)),
        ),
        gaps_s=(2.1, 2.3),
    ),
    Clip(
        "conversation-doctor",
        (
            Turn("awb", ("I would like to make an appointment", "for tomorrow morning."), (0.7,)),
            Turn("slt", ("The doctor can see you on Wednesday", "at three o'clock."), (0.5,)),
            Turn("awb", ("Okay.",)),
            Turn("slt", ("Thank you very much for your help.",)),
        ),
        gaps_s=(2.0, 2.4, 2.2),
    ),
    Clip(
        "conversation-delivery",
        (
            Turn("kal16", ("How much does it cost", "to send a package to Canada?"), (0.55,)),
            Turn("kal16", ("No.",)),
            Turn(
                "kal16",
                ("My phone number is five five five,", "two three four,", "nine eight one seven."),
                (0.8, 0.4),
            ),
        ),
        gaps_s=(2.2, 2.5),
    ),
    Clip(
        "demo",
        (
            Turn("slt", ("What time does the next flight to Chicago leave?",)),
            Turn("slt", ("I would prefer a seat near the window.",)),
            Turn("slt", ("That sounds good to me.",)),
        ),
        gaps_s=(2.0, 2.0),
        tail_s=0.3,
    ),
    Clip("yes", (Turn("slt", ("Yes.",)),), tail_s=0.0),
)


def main() -> int:
    """Write every clip and the manifest; 2 when flite is missing."""
    if shutil.which("flite") is None:
        print("flite is missing; on Debian: apt-get install flite", file=sys.stderr)
        return 2
    entries = [write_clip(clip, seed) for seed, clip in enumerate(CLIPS)]
    (HERE / "manifest.json").write_text(json.dumps(entries, indent=2) + "\n")
    return 0


def write_clip(clip: Clip, seed: int) -> dict[str, object]:
    """Render one clip to its FLAC file and return its manifest entry."""
    parts = [silence(LEAD_S)]
    at = samples(LEAD_S)
    turns: list[dict[str, object]] = []
    for turn, gap_s in zip(clip.turns, (*clip.gaps_s, clip.tail_s), strict=True):
        speech, pauses = render_turn(turn, at)
        end = at + len(speech)
        turns.append(
            {
                "start_s": seconds(at),
                "end_s": seconds(end),
                "voice": turn.voice,
                "text": turn.text,
                "pauses": pauses,
            }
        )
        parts += [speech, silence(gap_s)]
        at = end + samples(gap_s)
    audio = with_floor(np.concatenate(parts), seed)
    file = f"{clip.name}.flac"
    sf.write(HERE / file, to_pcm16(audio), SAMPLE_RATE, subtype="PCM_16")
    return {
        "file": file,
        "duration_s": seconds(len(audio)),
        "voices": sorted({turn.voice for turn in clip.turns}),
        "turns": turns,
    }


def render_turn(turn: Turn, at: int) -> tuple[Audio, list[dict[str, float]]]:
    """Speech of one turn that starts at sample `at`, and its pauses in seconds of the clip."""
    parts: list[Audio] = []
    pauses: list[dict[str, float]] = []
    for phrase, pause_s in zip(turn.phrases, (*turn.pauses_s, 0.0), strict=True):
        parts.append(trimmed(speak(turn.voice, phrase)))
        at += len(parts[-1])
        if pause_s:
            parts.append(silence(pause_s))
            pauses.append({"start_s": seconds(at), "end_s": seconds(at + samples(pause_s))})
            at += samples(pause_s)
    speech = np.concatenate(parts)
    return speech * (10 ** (PEAK_DBFS / 20) / np.abs(speech).max()), pauses


def speak(voice: str, text: str) -> Audio:
    """flite's rendering of `text`, at 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", path], check=True)
        audio, rate = sf.read(path, dtype="float32")
    if rate != SAMPLE_RATE:
        raise SystemExit(f"flite voice {voice} speaks at {rate} Hz, expected {SAMPLE_RATE}")
    return audio


def trimmed(audio: Audio) -> Audio:
    """`audio` without the inaudible frames at both ends."""
    hop = SAMPLE_RATE // 100
    frames = audio[: len(audio) // hop * hop].reshape(-1, hop)
    level = np.sqrt(np.mean(frames**2, axis=1))
    audible = np.flatnonzero(level > level.max() * 10 ** (AUDIBLE_DB / 20))
    return audio[audible[0] * hop : (audible[-1] + 1) * hop]


def with_floor(audio: Audio, seed: int) -> Audio:
    """`audio` over white noise at FLOOR_DBFS."""
    noise = np.random.default_rng(seed).standard_normal(len(audio))
    return (audio + noise * 10 ** (FLOOR_DBFS / 20)).astype(np.float32)


def to_pcm16(audio: Audio) -> NDArray[np.int16]:
    return np.round(np.clip(audio, -1.0, 1.0) * 32767).astype(np.int16)


def silence(duration_s: float) -> Audio:
    return np.zeros(samples(duration_s), np.float32)


def samples(duration_s: float) -> int:
    return round(duration_s * SAMPLE_RATE)


def seconds(sample_count: int) -> float:
    return round(sample_count / SAMPLE_RATE, 3)


if __name__ == "__main__":
    sys.exit(main())
