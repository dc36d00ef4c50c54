"""What clients say."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from stt_server.bench.clips import Playlist, Round, load_round, speech_spans
from stt_server.clients.errors import UnreadableAudio
from stt_server.events import SAMPLE_RATE, Samples


def noise(seconds: float, level: float = 0.3) -> Samples:
    size = round(seconds * SAMPLE_RATE)
    return (level * np.random.default_rng(0).standard_normal(size)).astype(np.float32)


def numbered(samples: int) -> Round:
    """A round whose samples are their own numbers; two files, speech in the middle of each."""
    half = samples // 2
    pcm = np.arange(samples, dtype="<i2").tobytes()
    return Round(pcm, (0, half), (10, half + 10), (20, half + 20))


def test_speech_is_what_is_loud() -> None:
    samples = np.concatenate(
        [noise(0.5, 1e-3), noise(1.0), noise(0.1, 1e-3), noise(0.5), noise(0.6, 1e-3), noise(0.3)]
    )
    spans = [(start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in speech_spans(samples)]

    assert spans == [pytest.approx((0.5, 2.1), abs=0.011), pytest.approx((2.7, 3.0), abs=0.011)]


def test_nothing_is_said_in_silence() -> None:
    assert speech_spans(np.zeros(SAMPLE_RATE, np.float32)) == []
    assert speech_spans(np.zeros(5, np.float32)) == []


def test_files_of_a_folder_follow_each_other_with_pauses(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "b.wav", noise(1.0), SAMPLE_RATE)
    soundfile.write(tmp_path / "a.FLAC", noise(0.5), SAMPLE_RATE, format="FLAC")
    soundfile.write(tmp_path / "c.wav", np.stack([noise(0.5)[:4_000]] * 2, axis=1), 8_000)
    (tmp_path / "notes.txt").write_text("no sound")

    audio = load_round(tmp_path, pause_s=2.0)

    seconds = [start / SAMPLE_RATE for start in audio.starts]
    assert seconds == pytest.approx([0.0, 2.5, 5.5], abs=0.01)
    assert audio.samples / SAMPLE_RATE == pytest.approx(8.0, abs=0.01)
    assert len(audio.speech_ends) == 3


@pytest.mark.parametrize("content", [None, b"no sound at all"])
def test_what_is_no_audio_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableAudio, match=r"speech\.wav"):
        load_round(path, pause_s=1.0)
    if content is None:
        with pytest.raises(UnreadableAudio, match=r"no \.wav or \.flac"):
            load_round(tmp_path, pause_s=1.0)


def test_a_silent_file_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(UnreadableAudio, match="nobody speaks"):
        load_round(tmp_path, pause_s=1.0)


@given(st.integers(0, 50), st.integers(0, 500), st.integers(1, 300))
def test_audio_goes_round_and_round(number: int, start: int, count: int) -> None:
    playlist = Playlist(numbered(100), number)
    first = int(np.frombuffer(playlist.read(0, 1), "<i2")[0])
    got = np.frombuffer(playlist.read(start, count), "<i2")

    assert got.tolist() == [(first + start + index) % 100 for index in range(count)]


def test_files_are_dealt_out() -> None:
    firsts = [int(np.frombuffer(Playlist(numbered(100), n).read(0, 1), "<i2")[0]) for n in range(9)]

    assert [first >= 50 for first in firsts] == [False, True] * 4 + [False]
    assert len(set(firsts)) > 4


@given(st.integers(0, 20), st.integers(0, 400))
def test_speech_ended_where_the_audio_says(number: int, sample: int) -> None:
    """Against a walk back through the audio, sample by sample."""
    playlist = Playlist(numbered(100), number)
    first = int(np.frombuffer(playlist.read(0, 1), "<i2")[0])

    def speaks(at: int) -> bool:
        return (first + at) % 50 in range(10, 20)

    ends = [at for at in range(sample + 1) if speaks(at - 1) and not speaks(at)]
    expected = None if speaks(sample) or not ends else ends[-1]
    found = playlist.speech_end(sample)
    assert found == expected
