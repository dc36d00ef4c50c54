from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stt_server.clients.samples import encode_samples
from stt_server.protocols.base import AudioFormat, Encoding

MONO = AudioFormat()
FLOAT = AudioFormat(encoding=Encoding.F32)


def test_int16_goes_as_it_is() -> None:
    assert encode_samples(np.array([1, -2], dtype=np.int16), MONO) == b"\x01\x00\xfe\xff"


def test_float_is_scaled_rounded_and_clipped() -> None:
    samples = np.array([0.0, 0.5, 1.0, -1.0, 7.0, np.nan, 1.6 / 32_768])
    expected = np.array([0, 16_384, 32_767, -32_768, 32_767, 0, 2], dtype="<i2")
    assert encode_samples(samples.astype(np.float32), MONO) == expected.tobytes()


def test_pcm16_survives_the_way_through_float() -> None:
    every = np.arange(-32_768, 32_768, dtype=np.int16)
    assert encode_samples(every.astype(np.float32) / 32_768, MONO) == every.tobytes()


def test_a_float_session_gets_floats() -> None:
    samples = np.array([16_384, -32_768], dtype=np.int16)
    assert encode_samples(samples, FLOAT) == np.array([0.5, -1.0], dtype="<f4").tobytes()


def test_channels_are_interleaved() -> None:
    samples = np.array([[1, 2], [3, 4]], dtype=np.int16)
    assert encode_samples(samples, AudioFormat(channels=2)) == b"\1\0\2\0\3\0\4\0"


@pytest.mark.parametrize(
    ("samples", "audio_format"),
    [
        (np.zeros((4, 2), dtype=np.float32), MONO),
        (np.zeros((1, 1, 1), dtype=np.float32), MONO),
        (np.zeros(4, dtype=np.int32), MONO),
        (np.zeros(4, dtype=np.int16), AudioFormat(encoding=Encoding.MULAW)),
    ],
)
def test_what_does_not_fit_is_refused(samples: NDArray[Any], audio_format: AudioFormat) -> None:
    with pytest.raises(ValueError, match=r"shape|int16|bytes"):
        encode_samples(samples, audio_format)
