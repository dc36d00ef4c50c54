"""smart-turn's features are those of the extractor it was trained with."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from stt_server.engine.smart_turn_features import FRAMES, HEARD_SAMPLES, MELS, log_mel
from stt_server.events import SAMPLE_RATE, Samples

SOUNDS = Path(__file__).parents[3] / "tests" / "audio"
TOLERANCE = 1e-4


def reference(samples: Samples) -> Samples:
    """What `transformers` makes of the last 8 s with zeros in front."""
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(chunk_length=8)
    heard = np.zeros(HEARD_SAMPLES, dtype=np.float32)
    last = samples[-HEARD_SAMPLES:]
    heard[HEARD_SAMPLES - len(last) :] = last
    features = extractor(heard, sampling_rate=SAMPLE_RATE, do_normalize=True, return_tensors="np")
    return features.input_features[0]


def noise(count: int, level: float) -> Samples:
    rng = np.random.default_rng(count)
    return (rng.standard_normal(count) * level).astype(np.float32)


@pytest.mark.parametrize("level", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize("count", [0, 1, 399, 5_000, HEARD_SAMPLES - 1, HEARD_SAMPLES, 200_000])
def test_noise_of_any_length_gives_the_features_of_transformers(count: int, level: float) -> None:
    samples = noise(count, level)

    assert np.abs(log_mel(samples) - reference(samples)).max() < TOLERANCE


def test_speech_gives_the_features_of_transformers() -> None:
    samples, rate = soundfile.read(SOUNDS / "demo.flac", dtype="float32")
    assert rate == SAMPLE_RATE

    for end in range(SAMPLE_RATE // 2, len(samples), 3 * SAMPLE_RATE):
        assert np.abs(log_mel(samples[:end]) - reference(samples[:end])).max() < TOLERANCE


def test_features_are_float32_in_the_order_that_onnxruntime_takes() -> None:
    features = log_mel(noise(1_000, 0.1))

    assert features.shape == (MELS, FRAMES)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous


def test_only_the_last_8_s_count() -> None:
    samples = noise(HEARD_SAMPLES + 1_000, 0.1)

    assert np.array_equal(log_mel(samples), log_mel(samples[1_000:]))
