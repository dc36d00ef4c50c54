"""smart-turn: which file it takes, what it keeps of a turn, and that it always answers."""

import asyncio
import importlib.util
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_lite.registry import find
from stt_server.engine.base import EngineUnavailable, TurnDetector
from stt_server.engine.smart_turn import (
    IN_PACKAGE,
    WAITING_PER_THREAD,
    SmartTurn,
    SmartTurnModel,
    TurnJudge,
    find_smart_turn,
)
from stt_server.engine.smart_turn_features import HEARD_SAMPLES
from stt_server.events import SAMPLE_RATE, Audio, Samples, TurnEndReason
from stt_server.settings import ModelSettings, SmartTurnSettings

SOUNDS = Path(__file__).parents[3] / "tests" / "audio"
SPEECH = Path(__file__).parents[4] / "shared" / "audio" / "jfk.flac"
MODEL = find_smart_turn(SmartTurnSettings(), ModelSettings())
needs_model = pytest.mark.skipif(MODEL is None, reason="smart-turn is not on this machine")
FILE = "smart-turn-v3.2-cpu.onnx"
ANYWHERE = SmartTurnSettings(model=Path("/anywhere"), threads=1)


class Loudness:
    """Judges by the largest sample; keeps what it heard. Waits while `gate` is closed."""

    def __init__(self) -> None:
        self.heard: list[Samples] = []
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()

    def judge(self, samples: Samples) -> float:
        self.began.set()
        assert self.gate.wait(10.0)
        self.heard.append(samples)
        return float(samples.max())


class Broken:
    """Raises, or answers what is no probability."""

    def __init__(self, answer: float | None) -> None:
        self._answer = answer

    def judge(self, samples: Samples) -> float:
        if self._answer is None:
            raise RuntimeError("broken")
        return self._answer


def loader(judge: TurnJudge) -> Callable[[Path], TurnJudge]:
    return lambda path: judge


async def started(judge: TurnJudge, *, answer_s: float = 10.0) -> SmartTurn:
    smart_turn = SmartTurn(ANYWHERE, ModelSettings(), load=loader(judge), answer_s=answer_s)
    await smart_turn.start()
    return smart_turn


async def hear(detector: TurnDetector, *pieces: Samples) -> None:
    at = 0
    for piece in pieces:
        await detector.hear(Audio(at, piece, speech=True))
        at += len(piece)


def level(value: float, count: int = 512) -> Samples:
    return np.full(count, value, dtype=np.float32)


# Which file


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pipecat` that would fail to import, with the model's file in its place."""
    data = tmp_path / "pipecat" / IN_PACKAGE
    data.mkdir(parents=True)
    (tmp_path / "pipecat" / "__init__.py").write_text("raise ImportError")
    (data / FILE).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return data / FILE


def place_in_cache(cache: Path) -> Path:
    entry = find("smart-turn")
    folder = cache / entry.repo.replace("/", "--") / entry.revision
    folder.mkdir(parents=True)
    (folder / FILE).touch()
    return folder / FILE


def test_the_setting_goes_before_the_package_and_that_before_the_cache(
    package: Path, tmp_path: Path
) -> None:
    models = ModelSettings(cache_dir=tmp_path / "cache")
    place_in_cache(tmp_path / "cache")

    mine = SmartTurnSettings(model=Path("/mine.onnx"))
    assert find_smart_turn(mine, models) == Path("/mine.onnx")
    assert find_smart_turn(SmartTurnSettings(), models) == package


def test_the_downloaded_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    models = ModelSettings(cache_dir=tmp_path)
    assert find_smart_turn(SmartTurnSettings(), models) is None

    downloaded = place_in_cache(tmp_path)

    assert find_smart_turn(SmartTurnSettings(), models) == downloaded


def test_a_package_without_the_file_is_passed_over(package: Path, tmp_path: Path) -> None:
    package.unlink()

    assert find_smart_turn(SmartTurnSettings(), ModelSettings(cache_dir=tmp_path)) is None


async def test_without_a_file_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    smart_turn = SmartTurn(SmartTurnSettings(), ModelSettings(cache_dir=tmp_path))

    with pytest.raises(EngineUnavailable, match="stt-server models pull smart-turn"):
        await smart_turn.start()


@pytest.mark.parametrize("name", ["nothing.onnx", "text.onnx", "silero_vad.onnx"])
async def test_a_file_of_another_kind_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "text.onnx":
        path.write_text("text")
    elif name == "silero_vad.onnx":
        spec = importlib.util.find_spec("silero_vad")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        path = Path(spec.submodule_search_locations[0]) / "data" / name
    smart_turn = SmartTurn(SmartTurnSettings(model=path), ModelSettings())

    with pytest.raises(EngineUnavailable, match=f"{name} is no smart-turn v3 model"):
        await smart_turn.start()


def test_nothing_heavy_is_imported_before_it_starts() -> None:
    script = (
        "import sys, stt_server.engine.smart_turn\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert not set(done.stdout.split()) & {"torch", "transformers", "pipecat", "onnxruntime"}


# What it hears


async def test_the_whole_turn_is_heard_however_it_was_cut() -> None:
    judge = Loudness()
    detector = (await started(judge)).open()
    turn = np.linspace(0.0, 0.5, 3_000, dtype=np.float32)

    await hear(detector, *np.array_split(turn, 7))

    assert await detector.judge() == 0.5
    assert np.array_equal(judge.heard[0], turn)


async def test_what_is_kept_of_a_long_turn_is_bounded_and_ends_with_its_end() -> None:
    judge = Loudness()
    detector = (await started(judge)).open()
    turn = np.linspace(0.0, 0.5, 3 * HEARD_SAMPLES, dtype=np.float32)

    await hear(detector, *np.array_split(turn, 100))
    await detector.judge()

    (heard,) = judge.heard
    assert HEARD_SAMPLES <= len(heard) < HEARD_SAMPLES + SAMPLE_RATE
    assert np.array_equal(heard, turn[-len(heard) :])


async def test_nothing_of_a_turn_is_heard_in_the_next_one() -> None:
    detector = (await started(Loudness())).open()
    await hear(detector, level(0.9))

    await detector.reset()
    assert await detector.judge() is None
    await hear(detector, level(0.1))

    assert await detector.judge() == pytest.approx(0.1)


async def test_a_pause_is_judged_by_its_first_100_ms() -> None:
    judge = Loudness()
    detector = (await started(judge)).open()
    turn = np.linspace(0.0, 0.5, SAMPLE_RATE, dtype=np.float32)
    await hear(detector, turn, level(0.0, SAMPLE_RATE // 2))

    detector.pause(SAMPLE_RATE)
    await detector.judge()

    (heard,) = judge.heard
    assert np.array_equal(heard, np.concatenate((turn, level(0.0, SAMPLE_RATE // 10))))


async def test_the_end_of_a_long_turn_is_whole_after_a_long_pause() -> None:
    judge = Loudness()
    detector = (await started(judge)).open()
    silence = level(0.0, SAMPLE_RATE // 2)
    await hear(detector, *[level(0.1, 1_000)] * 300, silence)

    detector.pause(300_000)
    await detector.judge()

    assert len(judge.heard[0]) >= HEARD_SAMPLES


async def test_a_pause_is_judged_once_and_the_next_one_anew() -> None:
    judge = Loudness()
    detector = (await started(judge)).open()
    await hear(detector, level(0.5))
    detector.pause(512)

    assert [await detector.judge() for _ in range(3)] == [0.5] * 3
    assert len(judge.heard) == 1

    await detector.hear(Audio(512, level(0.7), speech=True))
    detector.pause(1_024)
    assert await detector.judge() == pytest.approx(0.7)


async def test_sessions_do_not_hear_each_other() -> None:
    smart_turn = await started(Loudness())
    levels = [0.1, 0.2, 0.3, 0.4]
    detectors = [smart_turn.open() for _ in levels]
    for detector, value in zip(detectors, levels, strict=True):
        await hear(detector, level(value))

    answers = await asyncio.gather(*(detector.judge() for detector in detectors))

    assert answers == pytest.approx(levels)


async def test_its_turn_ends_are_told_from_others() -> None:
    assert (await started(Loudness())).open().reason is TurnEndReason.TURN_MODEL


# It always answers


@pytest.mark.parametrize("answer", [None, float("nan"), 1.5])
async def test_who_fails_cannot_tell_and_says_why_once(
    answer: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    detector = (await started(Broken(answer))).open()
    await hear(detector, level(0.5))

    with caplog.at_level(logging.WARNING):
        assert [await detector.judge() for _ in range(3)] == [None] * 3

    assert [record.message for record in caplog.records] == ["smart_turn.no_answer"]


async def test_a_late_answer_is_none_and_the_next_one_is_its_own() -> None:
    judge = Loudness()
    detector = (await started(judge, answer_s=0.05)).open()
    await hear(detector, level(0.5))
    judge.gate.clear()

    detector.pause(512)
    assert await detector.judge() is None

    judge.gate.set()
    await detector.hear(Audio(512, level(0.7), speech=True))
    detector.pause(1_024)
    answer = None
    while answer is None:  # the thread may be at the late one still
        answer = await detector.judge()
    assert answer == pytest.approx(0.7)


async def test_what_waits_is_bounded_and_nobody_else_is_computed_for() -> None:
    judge = Loudness()
    smart_turn = await started(judge)
    judge.gate.clear()
    room = 1 + WAITING_PER_THREAD
    waiting = [asyncio.create_task(smart_turn.judge((level(0.5),))) for _ in range(room)]
    assert await asyncio.to_thread(judge.began.wait, 10.0)

    assert await smart_turn.judge((level(0.5),)) is None

    for task in waiting[1:]:
        task.cancel()
    await asyncio.wait(waiting[1:])
    judge.gate.set()
    assert await waiting[0] == 0.5
    assert await smart_turn.judge((level(0.5),)) == 0.5
    assert len(judge.heard) == 2


async def test_stopping_answers_those_who_wait() -> None:
    judge = Loudness()
    smart_turn = await started(judge)
    detector = smart_turn.open()
    await hear(detector, level(0.5))
    judge.gate.clear()
    waiting = [asyncio.create_task(smart_turn.judge((level(0.5),))) for _ in range(4)]
    assert await asyncio.to_thread(judge.began.wait, 10.0)

    stopping = asyncio.create_task(smart_turn.stop())
    assert await asyncio.gather(*waiting[1:]) == [None] * 3
    judge.gate.set()
    await stopping

    assert await waiting[0] == 0.5
    assert await detector.judge() is None


# The model itself


@needs_model
async def test_a_finished_sentence_is_complete_and_half_of_it_is_not() -> None:
    assert MODEL is not None
    smart_turn = SmartTurn(SmartTurnSettings(model=MODEL), ModelSettings(), answer_s=60.0)
    await smart_turn.start()
    samples, _ = soundfile.read(SOUNDS / "demo.flac", dtype="float32")
    question = samples[: round(3.4 * SAMPLE_RATE)]
    detector = smart_turn.open()

    await hear(detector, question[: round(1.6 * SAMPLE_RATE)])
    half = await detector.judge()
    await detector.reset()
    await hear(detector, question)
    whole = await detector.judge()
    await smart_turn.stop()

    assert half is not None
    assert whole is not None
    assert half < 0.5 < whole


@needs_model
@pytest.mark.skipif(not SPEECH.is_file(), reason="../shared/audio is absent")
def test_a_pause_for_effect_in_recorded_speech_is_no_end() -> None:
    assert MODEL is not None
    model = SmartTurnModel(MODEL)
    samples, _ = soundfile.read(SPEECH, dtype="float32")

    ask_not = model.judge(samples[: round(4.5 * SAMPLE_RATE)])
    your_country = model.judge(samples[: round(10.75 * SAMPLE_RATE)])

    assert ask_not < 0.5 < your_country


@needs_model
def test_the_same_sound_is_judged_the_same_by_threads_at_once() -> None:
    assert MODEL is not None
    model = SmartTurnModel(MODEL)
    samples, _ = soundfile.read(SOUNDS / "yes.flac", dtype="float32")
    expected = model.judge(samples)
    answers: list[float] = []
    threads = [
        threading.Thread(target=lambda: answers.append(model.judge(samples))) for _ in range(3)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)

    assert answers == [expected] * 3
