"""Voices that speak English text and tell where each word lies.

Times come from pocketsphinx, which is given the text and finds the words in the sound.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from pocketsphinx import Decoder

from stt_server.events import SAMPLE_RATE, Samples, Word

AUDIBLE_DB = -40.0
HOP = 160
MARGIN = 3_200
SPEEDS = (0.9, 1.0, 1.15)
FLITE_VOICES = ("slt", "rms", "awb", "kal16")


@dataclass(frozen=True, slots=True)
class Spoken:
    """Sound from its first audible frame to its last one, and the words in it."""

    samples: Samples
    words: list[Word]


class Voice:
    """A synthesiser with an aligner behind it."""

    def __init__(self, synthesise: Callable[[str], Samples], aligner: Any) -> None:
        """
        Args:
            synthesise: text to 16 kHz mono.
            aligner: a pocketsphinx decoder.
        """
        self._synthesise = synthesise
        self._aligner = aligner

    def speak(self, text: str) -> Spoken:
        """Raises `ValueError` if the words cannot be found in what was spoken."""
        samples = _audible(self._synthesise(text))
        return Spoken(samples, self._align(samples, text))

    def _align(self, samples: Samples, text: str) -> list[Word]:
        names = re.sub(r"[^a-z' ]", "", text.lower()).split()
        sound = np.pad(samples / np.abs(samples).max(), MARGIN)
        self._aligner.set_align_text(" ".join(names))
        self._aligner.start_utt()
        self._aligner.process_raw((sound * 32_767).astype("<i2").tobytes(), full_utt=True)
        self._aligner.end_utt()
        words = [
            Word(part.word, part.start_frame * HOP - MARGIN, (part.end_frame + 1) * HOP - MARGIN)
            for part in self._aligner.seg() or ()
            if not part.word.startswith(("<", "["))
        ]
        if len(words) != len(names):
            raise ValueError(f"{len(words)} words found in {text!r}")
        return words


def neural_voices() -> list[Voice]:
    """One voice at three speeds, of `hibari-tts`; none without that package."""
    try:
        from hibari import Hibari  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    synthesiser: Any = Hibari()
    aligner = _aligner()
    return [Voice(partial(_hibari, synthesiser, speed), aligner) for speed in SPEEDS]


def _hibari(synthesiser: Any, speed: float, text: str) -> Samples:
    spoken = synthesiser(text, speed=speed, seed=round(100 * speed))
    return soxr.resample(spoken, synthesiser.sample_rate, SAMPLE_RATE)


def flite_voices() -> list[Voice]:
    """The voices that flite has built in; none without flite."""
    if shutil.which("flite") is None:
        return []
    aligner = _aligner()
    return [Voice(partial(_flite, name), aligner) for name in FLITE_VOICES]


def _flite(voice: str, text: str) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "-t", text, "-o", str(path)]
        subprocess.run(command, check=True, timeout=60)
        samples, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, rate, SAMPLE_RATE)


def _aligner() -> Any:
    return Decoder(lm=None, loglevel="FATAL")


def _audible(samples: Samples) -> Samples:
    frames = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    level = np.sqrt(np.mean(np.square(frames), axis=1))
    loud = np.flatnonzero(level > level.max() * 10 ** (AUDIBLE_DB / 20))
    return samples[loud[0] * HOP : (loud[-1] + 1) * HOP]
