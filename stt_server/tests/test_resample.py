"""The resamplers, apart from what `test_audio.py` says of ingress."""

import numpy as np
import pytest

from stt_server.events import SAMPLE_RATE, Samples
from stt_server.resample import make_resampler

RATES = [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000]
ODD_RATE = 8_001
DELAY_MS = 10.0


def tone(frequency: float, rate: int, seconds: float) -> Samples:
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate).astype(
        np.float32
    )


def resample(samples: Samples, rate: int, packet: int) -> Samples:
    resampler = make_resampler(rate)
    packets = range(0, len(samples), packet)
    pieces = [resampler.push(samples[begin : begin + packet]) for begin in packets]
    return np.concatenate([*pieces, resampler.finish()])


@pytest.mark.parametrize("rate", RATES)
def test_output_is_in_phase_with_the_input(rate: int) -> None:
    out = resample(tone(440, rate, 1.0), rate, packet=rate // 50)

    expected = tone(440, SAMPLE_RATE, 1.0)
    middle = slice(800, -800)
    assert np.abs(out[middle] - expected[middle]).max() < 1e-3


@pytest.mark.parametrize("rate", RATES)
def test_what_comes_out_is_a_few_milliseconds_behind(rate: int) -> None:
    resampler, given, worst = make_resampler(rate), 0, 0.0
    packet = rate // 100
    for count in range(1, 200):
        given += len(resampler.push(np.zeros(packet, dtype=np.float32)))
        worst = max(worst, count * packet / rate - given / SAMPLE_RATE)

    assert worst * 1_000 < DELAY_MS


@pytest.mark.parametrize("rate", [*RATES, ODD_RATE])
def test_packet_sizes_do_not_matter_to_the_bit(rate: int) -> None:
    noise = np.random.default_rng(rate).standard_normal(rate // 2).astype(np.float32)

    reference = resample(noise, rate, packet=rate)
    for packet in (1 if rate == 8_000 else 17, 160, 1_001):
        assert np.array_equal(resample(noise, rate, packet), reference)


@pytest.mark.parametrize("rate", [*RATES, ODD_RATE])
@pytest.mark.parametrize("length", [0, 1, 7, 999, 48_000])
def test_output_lasts_as_long_as_the_input(rate: int, length: int) -> None:
    out = resample(np.ones(length, dtype=np.float32), rate, packet=480)

    assert abs(len(out) - length * SAMPLE_RATE / rate) <= 1


@pytest.mark.parametrize("rate", [8_000, 11_025])
def test_no_image_above_the_band_of_the_input(rate: int) -> None:
    out = resample(tone(1_000, rate, 1.0), rate, packet=480)

    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
    frequencies = np.fft.rfftfreq(len(out), 1 / SAMPLE_RATE)
    image = spectrum[frequencies > 0.6 * rate].max() / spectrum.max()
    assert 20 * np.log10(image) < -70
