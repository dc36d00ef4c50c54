"""The voice activity detector's network, in both forms, on real sound."""

import asyncio
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import soundfile

from stt_server.engine.onnx_file import OnnxFileError, read_float_weights
from stt_server.engine.silero import NumpySilero, OnnxSilero, load_silero
from stt_server.engine.vad import VadModel, VadState, VoiceDetector
from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Samples, SpeechStarted, TurnEnded
from stt_server.metrics import Metrics
from stt_server.settings import EndpointingSettings
from stt_server.turns.endpointer import Endpointer

SOUNDS = Path(__file__).parents[3] / "tests" / "audio"
MAX_ONSET_S = 0.150
"""From the first sound of a turn to the decision that speech started, in stream time."""


def package_file(name: str) -> Path:
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "data" / name


def onnx_silero() -> OnnxSilero:
    return OnnxSilero(package_file("silero_vad.onnx"))


@pytest.fixture(scope="module", params=["chosen", "onnxruntime"])
def model(request: pytest.FixtureRequest) -> VadModel:
    return load_silero() if request.param == "chosen" else onnx_silero()


def detector_with(model: VadModel) -> VoiceDetector:
    return VoiceDetector(partial(asyncio.to_thread, model.run), Metrics())


def windows_of(samples: Samples) -> list[Samples]:
    count = len(samples) // WINDOW_SAMPLES
    return list(samples[: count * WINDOW_SAMPLES].reshape(count, WINDOW_SAMPLES))


def alone(model: VadModel, samples: Samples) -> list[float]:
    """Probabilities of a stream that shares its batches with nobody."""
    state = VadState()
    return [one_step(model, [state], [window])[0] for window in windows_of(samples)]


def one_step(
    model: VadModel, states: Sequence[VadState], windows: Sequence[Samples]
) -> list[float]:
    """One window of each stream."""
    return [row[0] for row in model.run(states, [window[None] for window in windows])]


def noisy(seed: int, count: int) -> list[Samples]:
    """Windows between silence and loud noise, so that no two streams are alike."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0, 0.5, (count, 1))
    return list((rng.standard_normal((count, WINDOW_SAMPLES)) * levels).astype(np.float32))


def load_noise() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noise", SOUNDS / "noise.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# State belongs to the stream


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 40])
def test_batch_of_streams_of_any_age_gives_the_same_bits_as_each_alone(
    model: VadModel, count: int
) -> None:
    streams = [noisy(seed, 1 + seed % 7) for seed in range(count)]
    expected = [alone(model, np.concatenate(stream)) for stream in streams]

    states = [VadState() for _ in streams]
    out: list[list[float]] = [[] for _ in streams]
    for step in range(7):
        # Streams begin at different steps, so that ages differ within a batch.
        rows = [row for row in range(count) if 0 <= step - (6 - row % 7) < len(streams[row])]
        if not rows:
            continue
        windows = [streams[row][step - (6 - row % 7)] for row in rows]
        for row, probability in zip(
            rows, one_step(model, [states[row] for row in rows], windows), strict=True
        ):
            out[row].append(probability)

    assert out == expected


def test_interleaved_streams_give_the_same_bits_as_separate_ones(model: VadModel) -> None:
    first, second = noisy(1, 50), noisy(2, 50)
    expected = [alone(model, np.concatenate(stream)) for stream in (first, second)]

    states = VadState(), VadState()
    out: list[list[float]] = [[], []]
    for pair in zip(first, second, strict=True):
        for stream, window in enumerate(pair):
            out[stream] += one_step(model, [states[stream]], [window])

    assert out == expected


async def test_concurrent_streams_give_the_same_bits_as_each_alone(model: VadModel) -> None:
    sounds = [np.concatenate(noisy(seed, 20 + seed)) for seed in range(12)]
    detector = detector_with(model)

    async def listen(seed: int, sound: Samples) -> list[float]:
        stream, rng = detector.open(), np.random.default_rng(seed)
        out: list[float] = []
        position = 0
        while position < len(sound):
            end = position + int(rng.integers(1, 6 * WINDOW_SAMPLES))
            out += await stream.push(sound[position:end])
            position = end
        return out

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen(*item)) for item in enumerate(sounds)]

    assert [task.result() for task in tasks] == [alone(model, sound) for sound in sounds]


@pytest.mark.parametrize("packet", [160, 320, 511, 512, 513, 1_600, 8_000, 40_000])
async def test_packet_borders_do_not_matter(model: VadModel, packet: int) -> None:
    sound = np.concatenate(noisy(3, 60))[: 59 * WINDOW_SAMPLES + 100]
    detector = detector_with(model)
    stream = detector.open()

    out: list[float] = []
    for start in range(0, len(sound), packet):
        out += await stream.push(sound[start : start + packet])

    assert out == alone(model, sound)


# Speech


@dataclass(frozen=True, slots=True)
class Decision:
    """What the endpointer said, and the stream time at which it did."""

    event: object
    decided_s: float


def decisions_on(model: VadModel, samples: Samples) -> list[Decision]:
    endpointer = Endpointer(EndpointingSettings())
    return [
        Decision(event, endpointer.at / SAMPLE_RATE)
        for probability in alone(model, samples)
        for event in endpointer.push(probability)
    ]


def starts_of_turns(decisions: Sequence[Decision]) -> list[Decision]:
    return [
        decision
        for decision in decisions
        if isinstance(decision.event, SpeechStarted) and decision.event.opens_turn
    ]


def clips() -> list[Any]:
    manifest = SOUNDS / "manifest.json"
    listed = json.loads(manifest.read_text()) if manifest.exists() else []
    return [pytest.param(clip, id=clip["file"]) for clip in listed]


def samples_of(clip: dict[str, Any]) -> Samples:
    """The clip and two seconds of silence, in which its last turn ends."""
    samples, rate = cast(
        "tuple[Samples, int]", soundfile.read(SOUNDS / clip["file"], dtype="float32")
    )
    assert rate == SAMPLE_RATE
    return np.concatenate((samples, np.zeros(2 * SAMPLE_RATE, dtype=np.float32)))


@pytest.mark.parametrize("clip", clips())
def test_each_spoken_turn_is_one_turn(model: VadModel, clip: dict[str, Any]) -> None:
    decisions = decisions_on(model, samples_of(clip))

    starts = [cast("SpeechStarted", start.event).at for start in starts_of_turns(decisions)]
    ends = [decision.event.at for decision in decisions if isinstance(decision.event, TurnEnded)]
    spoken = clip["turns"]
    # Measured: starts 0.01 s ahead to 0.08 s behind the manifest's, ends 0.03-0.08 s behind.
    assert [start / SAMPLE_RATE for start in starts] == [
        pytest.approx(turn["start_s"], abs=0.15) for turn in spoken
    ]
    assert [end / SAMPLE_RATE for end in ends] == [
        pytest.approx(turn["end_s"], abs=0.2) for turn in spoken
    ]


@pytest.mark.parametrize("clip", clips())
def test_onset_is_decided_soon_enough_to_barge_in(model: VadModel, clip: dict[str, Any]) -> None:
    starts = starts_of_turns(decisions_on(model, samples_of(clip)))

    # Measured: 22-108 ms.
    for start, turn in zip(starts, clip["turns"], strict=True):
        assert start.decided_s - turn["start_s"] <= MAX_ONSET_S


# Other sound


@pytest.mark.skipif(not (SOUNDS / "noise.py").exists(), reason="tests/audio/noise.py is missing")
@pytest.mark.parametrize("level_dbfs", [-45, -30, -18])
@pytest.mark.parametrize("kind", ["white", "pink", "brown", "hum", "music", "clicks"])
def test_noise_and_music_open_no_turn(model: VadModel, kind: str, level_dbfs: int) -> None:
    make: Callable[..., Samples] = getattr(load_noise(), kind)

    # Measured maxima over 8 min a level: noises 0.14, hum 0.17, clicks 0.24.
    assert starts_of_turns(decisions_on(model, make(8, level_dbfs=level_dbfs, seed=7))) == []


@pytest.mark.skipif(not (SOUNDS / "noise.py").exists(), reason="tests/audio/noise.py is missing")
def test_chord_change_opens_no_turn(model: VadModel) -> None:
    make: Callable[..., Samples] = load_noise().music

    assert starts_of_turns(decisions_on(model, make(8, level_dbfs=-40, seed=9))) == []


def test_digital_silence_opens_no_turn(model: VadModel) -> None:
    assert max(alone(model, np.zeros(10 * SAMPLE_RATE, dtype=np.float32))) < 0.05


# numpy in place of onnxruntime


def test_numpy_gives_the_numbers_of_onnxruntime_on_speech() -> None:
    fast = NumpySilero(read_float_weights(package_file("silero_vad_16k_op15.onnx")))
    for clip in clips():
        samples = samples_of(cast("dict[str, Any]", clip.values[0]))
        assert alone(fast, samples) == pytest.approx(alone(onnx_silero(), samples), abs=1e-4)


@pytest.mark.parametrize("counts", [(1, 1), (3, 3, 3), (1, 16, 4), (5,)])
def test_many_windows_at_once_give_the_same_bits_as_one_by_one(
    model: VadModel, counts: tuple[int, ...]
) -> None:
    streams = [np.stack(noisy(seed, count)) for seed, count in enumerate(counts)]

    together = model.run([VadState() for _ in streams], streams)

    assert together == [alone(model, stream.reshape(-1)) for stream in streams]


def test_weights_of_another_network_fall_back_to_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = read_float_weights(package_file("silero_vad_16k_op15.onnx"))
    name = "model.decoder.rnn.bias_hh"
    changed = {**weights, name: weights[name] + 0.1}
    monkeypatch.setattr("stt_server.engine.silero.read_float_weights", lambda _: changed)

    assert isinstance(load_silero(), OnnxSilero)
    assert "vad.slow" in caplog.text


@pytest.mark.parametrize("keep", [10, 1_000, 700_000])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(package_file("silero_vad_16k_op15.onnx").read_bytes()[:keep])

    with pytest.raises(OnnxFileError):
        read_float_weights(path)


def test_garbage_is_no_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"\xff" * 100)

    with pytest.raises(OnnxFileError):
        read_float_weights(path)
