"""A sound that every recogniser can be asked to hear."""

import numpy as np

from stt_server.events import SAMPLE_RATE, Samples


def synthesise_vowel() -> Samples:
    """Half a second of "ah" at 120 Hz between silences: the least sound that is a word.

    Formants of Peterson and Barney (1952).
    """
    formants = ((730, 60, 1.0), (1_090, 80, 0.5), (2_440, 120, 0.2))
    at = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    voice = np.zeros(len(at))
    for pitch in range(120, 4_000, 120):
        loudness = sum(gain / (1 + ((pitch - f) / width) ** 2) for f, width, gain in formants)
        voice += loudness * np.sin(2 * np.pi * pitch * at)
    silence = np.zeros(SAMPLE_RATE // 5)
    sound = np.concatenate([silence, 0.25 * voice / np.abs(voice).max(), silence])
    return sound.astype(np.float32)
