"""Files of all kinds, whole and damaged."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from stt_server.files.audio_file import AudioFile
from stt_server.files.errors import InvalidFile
from stt_server.files.tests.media import KINDS, RATE, Kind, Samples, encoded, tone


def read(path: Path, data: bytes) -> Samples:
    path.write_bytes(data)
    file = AudioFile(path)
    try:
        return np.concatenate(list(file.pieces()))
    finally:
        file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A name that tells nothing."""
    return tmp_path / "upload"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_sound(kind: str, path: Path) -> None:
    samples = read(path, encoded(tone(3.0), KINDS[kind]))

    assert samples.dtype == np.float32
    assert abs(len(samples) - 3 * RATE) < 0.1 * RATE
    middle = samples[RATE : 2 * RATE]
    spectrum = np.abs(np.fft.rfft(middle))
    assert int(spectrum.argmax()) == 440
    assert 0.3 < float(np.sqrt(np.mean(middle**2))) < 0.4


def test_16_khz_pcm_comes_out_to_the_bit(path: Path) -> None:
    given = np.random.default_rng(0).integers(-32_768, 32_767, 20_000, dtype=np.int16)
    floats = given.astype(np.float32) / 32_768
    header = wav_header(data_bytes=given.nbytes)

    assert np.array_equal(read(path, header + given.tobytes()), floats)


def test_channels_are_averaged(path: Path) -> None:
    pairs = np.array([[1_000, 3_000], [-2_000, 0]] * 8_000, dtype=np.int16)
    samples = read(path, wav_header(data_bytes=pairs.nbytes, channels=2) + pairs.tobytes())

    assert np.array_equal(samples[:2], np.array([2_000, -1_000], np.float32) / 32_768)


def test_pieces_are_about_a_second(path: Path) -> None:
    path.write_bytes(encoded(tone(5.3), KINDS["flac"]))
    file = AudioFile(path)
    lengths = [len(piece) for piece in file.pieces()]
    file.close()

    assert sum(lengths) == round(5.3 * RATE)
    assert all(RATE <= length < 2 * RATE for length in lengths[:-1])


@pytest.mark.parametrize("kind", ["wav", "wav mu-law", "flac", "mp3", "m4a", "webm"])
def test_half_a_file_is_refused(kind: str, path: Path) -> None:
    data = encoded(tone(6.0), KINDS[kind])

    with pytest.raises(InvalidFile):
        read(path, data[: len(data) // 2])


def test_wav_of_unknown_length_is_read_to_its_end(path: Path) -> None:
    data = encoded(tone(2.0), KINDS["wav"])
    for size in (0, 0xFFFF_FFFF, 0x7FFF_FFFF):
        streamed = wav_header(data_bytes=size) + data[-2 * RATE * 2 :]
        assert len(read(path, streamed)) == 2 * RATE


def test_length_is_what_the_header_says(path: Path) -> None:
    path.write_bytes(encoded(tone(4.0), KINDS["flac"]))
    file = AudioFile(path)

    assert file.length == 4 * RATE
    file.close()


def test_video_with_sound_gives_its_sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("aac", rate=RATE)
        audio.layout = "mono"
        for index in range(40):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(tone(2.0)[None], format="fltp", layout="mono")
        sound.sample_rate = RATE
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    file = AudioFile(path)
    samples = np.concatenate(list(file.pieces()))
    file.close()

    assert abs(len(samples) - 2 * RATE) < 0.2 * RATE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"not audio at all " * 100,
        bytes(100_000),
        np.random.default_rng(1).bytes(200_000),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x89PNG\r\n\x1a\n" + bytes(1_000),
    ],
    ids=["empty", "short", "text", "zeros", "noise", "playlist", "list of files", "picture"],
)
def test_what_is_no_audio_is_refused(data: bytes, path: Path) -> None:
    with pytest.raises(InvalidFile):
        read(path, data)


def test_audio_without_samples_is_refused(path: Path) -> None:
    with pytest.raises(InvalidFile):
        read(path, wav_header(data_bytes=0))


def test_a_playlist_that_names_a_real_file_is_not_followed(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(encoded(tone(1.0), KINDS["wav"]))
    lists = (
        f"ffconcat version 1.0\nfile '{sound}'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{sound}\n#EXT-X-ENDLIST\n",
    )
    for text in lists:
        with pytest.raises(InvalidFile):
            read(tmp_path / "list", text.encode())


def test_noise_in_the_middle_never_crashes(path: Path) -> None:
    random = np.random.default_rng(2)
    for kind in ("flac", "mp3", "ogg opus", "m4a", "webm", "aac"):
        data = bytearray(encoded(tone(4.0), KINDS[kind]))
        for at in random.integers(200, len(data), 60):
            data[at] = int(random.integers(256))
        try:
            samples = read(path, bytes(data))
        except InvalidFile:
            continue
        assert np.isfinite(samples).all()


def test_mp3_without_a_length_is_read_as_far_as_it_goes(path: Path) -> None:
    data = encoded(tone(4.0), Kind("mp3", "libmp3lame", 16_000), write_xing="0")

    assert len(read(path, data[: len(data) // 2])) > RATE


def wav_header(*, data_bytes: int, channels: int = 1, rate: int = RATE) -> bytes:
    """Of 16-bit samples."""
    shape = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    whole = min(36 + data_bytes, 0xFFFF_FFFF)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16)
        + shape
        + struct.pack("<4sI", b"data", data_bytes)
    )
