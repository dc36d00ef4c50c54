"""Where sound is, and where there is nothing to transcribe."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nemo_lite.salm.activity import Region, has_speech, levels, runs, speech_regions

RATE = 16_000


def noise(seconds: float, decibel: float, *, seed: int = 0) -> NDArray[np.float32]:
    """White noise of a level in dB of full scale."""
    random = np.random.default_rng(seed)
    wave = random.standard_normal(round(seconds * RATE)) * 10 ** (decibel / 20)
    return wave.astype(np.float32)


def tone(seconds: float, hertz: float, decibel: float) -> NDArray[np.float32]:
    time = np.arange(round(seconds * RATE)) / RATE
    return (np.sqrt(2) * 10 ** (decibel / 20) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def babble(seconds: float, decibel: float) -> NDArray[np.float32]:
    """Harmonics of a voice in syllables of 150 ms with gaps of 100 ms, at a level as a whole."""
    voice = sum(tone(seconds, 130 * k, -abs(130 * k - 500) / 50) for k in range(1, 20))
    syllables = (np.arange(round(seconds * RATE)) / RATE) % 0.25 < 0.15
    wave = np.asarray(voice * syllables, np.float32)
    return wave * np.float32(10 ** (decibel / 20) / np.sqrt(np.mean(wave**2)))


def hum(seconds: float, decibel: float) -> NDArray[np.float32]:
    """Mains hum with its harmonics."""
    wave = sum(tone(seconds, 50 * k, decibel - 6 * k) for k in range(1, 12))
    return np.asarray(wave, np.float32)


def clicks(seconds: float) -> NDArray[np.float32]:
    wave = noise(seconds, -75)
    wave[1_000::4_000] = 0.9
    return wave


@pytest.mark.parametrize("decibel", [-50, -40, -20, -6])
def test_speech_at_any_usual_level_is_speech(decibel: float) -> None:
    assert has_speech(babble(2, decibel) + noise(2, -75), RATE)


@pytest.mark.parametrize("seconds", [0.15, 0.3, 1.0])
def test_a_short_word_without_silence_around_it_is_speech(seconds: float) -> None:
    assert has_speech(tone(seconds, 400, -20), RATE)


def test_speech_in_noise_of_its_own_level_is_speech() -> None:
    assert has_speech(babble(3, -30) + noise(3, -30), RATE)


def test_one_word_in_a_long_silence_is_speech() -> None:
    audio = noise(40, -70)
    audio[20 * RATE : 20 * RATE + 4_000] += babble(0.25, -45)
    assert has_speech(audio, RATE)


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(0, np.float32),
        np.zeros(RATE, np.float32),
        np.full(RATE, 0.5, np.float32),
        noise(10, -70),
        noise(0.3, -70),
        noise(10, -50),
        noise(40, -25),
        hum(5, -30),
        hum(5, -30) + noise(5, -70),
        clicks(5),
        np.concatenate([np.zeros(RATE, np.float32), noise(3, -55)]),
    ],
    ids=[
        "nothing",
        "digital silence",
        "an offset",
        "a noise floor",
        "a short noise floor",
        "low noise",
        "loud steady noise",
        "hum",
        "hum and noise",
        "clicks",
        "noise after digital silence",
    ],
)
def test_what_is_not_speech_is_silence(audio: NDArray[np.float32]) -> None:
    assert not has_speech(audio, RATE)


def test_levels_are_those_of_the_sound_within_the_band() -> None:
    assert levels(tone(1, 1_000, -20), RATE)[10:90] == pytest.approx(-20, abs=0.3)
    assert (levels(tone(1, 50, -20), RATE)[10:90] < -60).all()
    assert levels(np.zeros(RATE, np.float32), RATE) == pytest.approx(-120, abs=0.01)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 16_000])
def test_there_is_a_level_for_every_started_hop(samples: int) -> None:
    assert len(levels(noise(1, -20)[:samples], RATE)) == -(-samples // 160)


def test_regions_are_where_the_sound_is() -> None:
    audio = noise(3, -60)
    audio[RATE : 2 * RATE] += tone(1, 500, -20)
    (region,) = speech_regions(levels(audio, RATE))
    assert region.start == pytest.approx(100, abs=2)
    assert region.end == pytest.approx(200, abs=2)


def test_a_closure_does_not_split_a_region_and_a_click_is_none() -> None:
    level = np.full(100, -80, np.float32)
    level[20:40], level[44:60], level[80:83] = -20, -20, -20
    assert speech_regions(level) == [Region(20, 60)]


def test_digital_silence_has_no_regions() -> None:
    assert speech_regions(np.full(50, -120, np.float32)) == []


def test_runs_are_half_open() -> None:
    flags = np.array([True, False, True, True, False, False, True])
    assert runs(flags) == [Region(0, 1), Region(2, 4), Region(6, 7)]
