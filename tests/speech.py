"""The clips of `tests/audio` and the ways in which clients encode them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "audio"
RATE = 16_000

Samples = NDArray[np.float32]


@cache
def clip(name: str) -> Samples:
    """A clip as float32 mono 16 kHz."""
    samples, rate = soundfile.read(FOLDER / f"{name}.flac", dtype="float32")
    assert rate == RATE
    return samples


@cache
def spans(name: str) -> list[tuple[float, float]]:
    """Start and end of each spoken turn of a clip, in seconds."""
    entries = json.loads((FOLDER / "manifest.json").read_text())
    entry = next(entry for entry in entries if entry["file"] == f"{name}.flac")
    return [(turn["start_s"], turn["end_s"]) for turn in entry["turns"]]


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


@cache
def pcm(name: str) -> bytes:
    """A clip as PCM16."""
    return encode(clip(name), "pcm16")


@cache
def yes_and_pause() -> bytes:
    """One short turn that ends by silence, PCM16."""
    return encode(np.concatenate((clip("yes"), silence(2.0))), "pcm16")


def at_rate(samples: Samples, rate: int) -> Samples:
    return samples if rate == RATE else soxr.resample(samples, RATE, rate, quality="HQ")


def interleave(left: Samples, right: Samples) -> Samples:
    return np.stack((left, right), axis=1).reshape(-1)


def encode(samples: Samples, encoding: str) -> bytes:
    """Bytes in one of the native protocol's encodings."""
    match encoding:
        case "f32":
            return samples.astype("<f4").tobytes()
        case "mulaw":
            return _mulaw(_int16(samples))
        case "alaw":
            return _alaw(_int16(samples))
        case _:
            return _int16(samples).astype("<i2").tobytes()


def _int16(samples: Samples) -> NDArray[np.int32]:
    return np.clip(np.round(samples * 32_768), -32_768, 32_767).astype(np.int32)


def _mulaw(values: NDArray[np.int32]) -> bytes:
    """ITU-T G.711 mu-law."""
    sign = np.where(values < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(values), 32_635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes()


def _alaw(values: NDArray[np.int32]) -> bytes:
    """ITU-T G.711 A-law: 13 bits, the sign bit set for what is not negative."""
    sign = np.where(values >= 0, 0x80, 0)
    magnitude = np.minimum(np.where(values >= 0, values, ~values) >> 3, 4_095)
    exponent = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 4, 0)
    mantissa = np.where(exponent == 0, magnitude >> 1, magnitude >> exponent) & 0x0F
    return ((sign | (exponent << 4) | mantissa) ^ 0x55).astype(np.uint8).tobytes()
