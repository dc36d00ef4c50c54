from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from stt_server.clients.errors import UnreadableAudio
from stt_server.clients.file import AudioFile, RealTime
from stt_server.protocols.base import AudioFormat


def tone(rate: int, seconds: float, channels: int = 1) -> NDArray[np.float32]:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def read(path: Path, packet_s: float = 0.1) -> tuple[AudioFormat, NDArray[np.int16]]:
    with AudioFile(path) as file:
        data = b"".join(file.packets(packet_s))
        return file.format, np.frombuffer(data, dtype="<i2").reshape(-1, file.format.channels)


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [("wav", 0), ("flac", 0), ("ogg", 900), ("mp3", 900)]
)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_every_container_gives_its_samples(
    suffix: str, tolerance: int, rate: int, tmp_path: Path
) -> None:
    path = tmp_path / f"tone.{suffix}"
    samples = np.rint(tone(rate, 1.0) * 32_767).astype(np.int16)
    soundfile.write(path, samples, rate)
    audio_format, got = read(path)
    assert audio_format == AudioFormat(rate, 1)
    assert abs(len(got) - rate) <= 2_400 * (tolerance > 0)
    middle = slice(rate // 4, rate // 2)
    assert np.abs(got[middle, 0].astype(int) - samples[middle, 0]).max() <= tolerance
    whole, _ = soundfile.read(path, dtype="float32")
    assert np.abs(got[:, 0] / 32_768 - whole).max() < 2e-5


def test_stereo_goes_as_stereo(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    samples = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.int16)
    soundfile.write(path, samples, 48_000)
    audio_format, got = read(path)
    assert audio_format == AudioFormat(48_000, 2)
    assert np.array_equal(got, samples)


def test_more_channels_become_their_mean(tmp_path: Path) -> None:
    path = tmp_path / "four.wav"
    soundfile.write(path, np.full((800, 4), [100, 200, 300, 400], dtype=np.int16), 8_000)
    audio_format, got = read(path)
    assert audio_format == AudioFormat(8_000, 1)
    assert np.array_equal(got, np.full((800, 1), 250))


@pytest.mark.parametrize(("rate", "channels"), [(96_000, 1), (96_000, 2), (192_000, 6), (4_000, 1)])
def test_a_rate_outside_the_protocol_becomes_16_khz(
    rate: int, channels: int, tmp_path: Path
) -> None:
    path = tmp_path / "odd.wav"
    soundfile.write(path, tone(rate, 0.75, channels), rate)
    audio_format, got = read(path, packet_s=0.01)
    assert audio_format == AudioFormat(16_000, channels if channels <= 2 else 1)
    assert abs(len(got) - 12_000) <= 1
    expected = tone(16_000, 0.75)[4_000:8_000, 0] * 32_768
    assert np.abs(got[4_000:8_000, 0] - expected).max() < 200


def test_packets_are_decoded_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(16_000, 1.05), 16_000)
    with AudioFile(path) as file:
        assert file.seconds == pytest.approx(1.05)
        packets = file.packets(0.1)
        assert len(next(packets)) == 3_200
        assert [len(packet) for packet in packets] == [3_200] * 9 + [1_600]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.wav", b"", "empty"),
        ("text.wav", b"hello " * 100, "not a sound file"),
        ("data.raw", b"hello " * 100, "not a sound file"),
    ],
)
def test_what_is_no_sound_is_named(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableAudio, match=words):
        AudioFile(path)


def test_a_file_without_samples_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.wav"
    soundfile.write(path, np.empty(0, dtype=np.int16), 16_000)
    with pytest.raises(UnreadableAudio, match="no audio"):
        AudioFile(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAudio, match="No such file"):
        AudioFile(tmp_path / "missing.wav")
    with pytest.raises(UnreadableAudio, match="directory"):
        AudioFile(tmp_path)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_truncated_wav_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "half.wav"
    soundfile.write(path, tone(16_000, 1.0), 16_000)
    cut_in_half(path)
    assert 7_900 < len(read(path)[1]) < 8_000


def test_a_damaged_flac_gives_what_is_there_and_then_says_so(tmp_path: Path) -> None:
    path = tmp_path / "half.flac"
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 64_000, dtype=np.int16)
    soundfile.write(path, noise, 16_000)
    cut_in_half(path)
    with AudioFile(path) as file:
        packets = file.packets(0.1)
        assert next(packets) == noise[:1_600].tobytes()
        with pytest.raises(UnreadableAudio, match="damaged"):
            list(packets)


async def test_real_time_follows_deadlines_and_does_not_drift() -> None:
    now, sleeps = 100.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        sleeps.append(round(seconds, 3))
        now += seconds + 0.03  # a sleep that always takes too long

    clock = RealTime(now=lambda: now, sleep=sleep)
    for packet in range(1, 5):
        await clock.until(packet * 0.1)
    assert sleeps == [0.1, 0.07, 0.07, 0.07]


async def test_real_time_catches_up_after_a_delay() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = RealTime(now=lambda: now, sleep=sleep)
    await clock.until(0.1)
    now = 5.0
    await clock.until(0.2)
    assert now == 5.0
