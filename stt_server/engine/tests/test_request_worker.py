"""The model's thread and who keeps it alive, with a model on a script."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from nemo_lite.errors import NemoLiteError, ShapeError
from nemo_lite.results import Transcript
from stt_server.engine import request_worker, supervisor
from stt_server.engine.base import EngineUnavailable
from stt_server.engine.request_worker import PENDING_PER_SLOT, RequestWorker
from stt_server.engine.supervisor import MAX_STUCK
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import Samples
from stt_server.tests.polling import until

HANG_S = 0.3
"""A step takes no time; where none is to hang, other programs may have the machine for longer."""


def audio(count: int) -> Samples:
    """What is heard is its length; real sounds are longer than these."""
    return np.zeros(count, dtype=np.float32)


def text(count: int) -> str:
    return f"{count} samples"


class ScriptedModel:
    """A `RequestSource` whose batches finish each request with the second step.

    While `gate` is closed steps hang; a request of `POISON` samples makes one raise. `REFUSED` ones
    are not taken, `UNHEARD` ones are and come to nothing.
    """

    POISON, REFUSED, UNHEARD = 13, 17, 19

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Event()
        """Set while a step hangs at the gate."""
        self.loads = 0
        self.batches = 0
        self.cancelled: list[int] = []
        self.threads: set[int] = set()
        self.most_at_once = 0
        self.load_error: Exception | None = None
        self.is_loaded = False

    def open(self, is_stopping: Callable[[], bool]) -> "ScriptedBatch":
        self.threads.add(threading.get_ident())
        if self.load_error is not None:
            raise self.load_error
        if not self.is_loaded:
            self.loads += 1
            self.is_loaded = True
        self.batches += 1
        return ScriptedBatch(self)

    def discard(self) -> None:
        self.is_loaded = False


class ScriptedBatch:
    def __init__(self, model: ScriptedModel) -> None:
        self.slots = model.slots
        self._model = model
        self._requests: dict[int, tuple[int, int]] = {}
        self._made = 0

    def add(self, samples: Samples) -> int:
        if len(samples) == ScriptedModel.REFUSED:
            raise ShapeError("too odd")
        self._made += 1
        self._requests[self._made] = (len(samples), 2)
        return self._made

    def step(self) -> Sequence[tuple[int, Transcript | NemoLiteError]]:
        self._model.threads.add(threading.get_ident())
        if not self._model.gate.is_set():
            self._model.stepping.set()
        self._model.gate.wait()
        self._model.most_at_once = max(self._model.most_at_once, len(self._requests))
        done: list[tuple[int, Transcript | NemoLiteError]] = []
        for request, (count, steps) in list(self._requests.items()):
            if count == ScriptedModel.POISON:
                raise ZeroDivisionError("the model broke")
            self._requests[request] = (count, steps - 1)
            if steps == 1:
                del self._requests[request]
                is_heard = count != ScriptedModel.UNHEARD
                found = Transcript(text(count), (), (), (), ()) if is_heard else NemoLiteError("no")
                done.append((request, found))
        return done

    def cancel(self, request: int) -> None:
        self._model.cancelled.append(self._requests.pop(request)[0])


def new_worker(model: ScriptedModel, *, step_timeout_s: float = 30.0) -> RequestWorker:
    return RequestWorker(
        model, name="fake", step_timeout_s=step_timeout_s, pauses_s=(0.0, 0.02, 0.1)
    )


@asynccontextmanager
async def serving(
    model: ScriptedModel, *, step_timeout_s: float = 30.0
) -> AsyncGenerator[RequestWorker]:
    worker = new_worker(model, step_timeout_s=step_timeout_s)
    try:
        await worker.start()
        yield worker
    finally:
        model.gate.set()
        await worker.stop()


@pytest.fixture(autouse=True)
def _no_long_wait_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.05)


async def waiting_at_the_gate(
    worker: RequestWorker, model: ScriptedModel, *counts: int
) -> list[asyncio.Task[Transcript]]:
    """Requests that hang in the model."""
    model.gate.clear()
    tasks = [asyncio.create_task(worker.recognise(audio(count))) for count in counts]
    await asyncio.sleep(0)
    return tasks


async def test_requests_of_all_sessions_share_steps_of_one_thread() -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        tasks = await waiting_at_the_gate(worker, model, *range(3, 9))
        model.gate.set()
        found = [transcript.text for transcript in await asyncio.gather(*tasks)]

    assert found == [text(count) for count in range(3, 9)]
    assert model.most_at_once > 1
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


async def test_worker_is_at_fault_until_a_sound_was_recognised() -> None:
    model = ScriptedModel()
    worker = new_worker(model)
    assert worker.fault is not None
    async with serving(model) as worker:
        assert worker.fault is None
        assert worker.slots == 2
        await worker.check()


async def test_cancelled_request_leaves_the_batch() -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        first, second = await waiting_at_the_gate(worker, model, 5, 6)
        await until(model.stepping.is_set, "the model is busy")
        first.cancel()
        await asyncio.wait([first])
        model.gate.set()

        assert (await second).text == text(6)
        await worker.recognise(audio(7))
    assert 5 in model.cancelled
    assert 6 not in model.cancelled


async def test_audio_of_requests_withdrawn_while_the_model_is_busy_is_let_go() -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        await waiting_at_the_gate(worker, model, 5)
        await until(lambda: model.stepping.is_set(), "the model is busy")
        samples = audio(6)
        withdrawn = asyncio.create_task(worker.recognise(samples))
        await asyncio.sleep(0)
        withdrawn.cancel()
        await asyncio.wait([withdrawn])
        held = weakref.ref(samples)
        del samples, withdrawn
        gc.collect()

        assert held() is None
        model.gate.set()
        await worker.recognise(audio(7))
    assert 6 not in model.cancelled


@pytest.mark.parametrize("count", [ScriptedModel.REFUSED, ScriptedModel.UNHEARD])
async def test_refused_request_harms_nobody(count: int) -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        good, bad = await waiting_at_the_gate(worker, model, 5, count)
        model.gate.set()

        assert (await good).text == text(5)
        with pytest.raises(TranscriptionError, match="cannot hear this piece"):
            await bad
        assert worker.fault is None
    assert model.batches == 1


async def test_exception_fails_the_requests_under_way_and_a_new_batch_is_made() -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        tasks = await waiting_at_the_gate(worker, model, 5, ScriptedModel.POISON)
        model.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [TranscriptionError, TranscriptionError]

        await until(lambda: worker.fault is None, "the worker serves again")
        assert (await worker.recognise(audio(5))).text == text(5)
    # The weights are kept.
    assert (model.loads, model.batches) == (1, 2)


async def broken(worker: RequestWorker, model: ScriptedModel) -> None:
    """A model that fails and cannot be loaded again."""
    model.load_error = RuntimeError("out of memory")
    with pytest.raises(TranscriptionError):
        await worker.recognise(audio(ScriptedModel.POISON))
    await until(lambda: not model.is_loaded, "a restart has failed")


async def test_requests_wait_while_the_model_restarts() -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        await broken(worker, model)
        task = asyncio.create_task(worker.recognise(audio(5)))
        with pytest.raises(TranscriptionError, match="being restarted"):
            await worker.check()
        assert worker.slots == 2

        model.load_error = None
        assert (await task).text == text(5)
        assert worker.fault is None
    assert model.loads == 2


async def test_requests_are_refused_when_the_restart_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_WAIT_S", 0.01)
    model = ScriptedModel()
    async with serving(model) as worker:
        await broken(worker, model)
        with pytest.raises(TranscriptionError, match="restarted, try again"):
            await worker.recognise(audio(5))


async def test_requests_that_wait_for_a_restart_end_with_the_worker() -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        await broken(worker, model)
        task = asyncio.create_task(worker.recognise(audio(5)))
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="shutting down"):
        await task


async def test_step_that_hangs_fails_its_requests_and_the_model_is_loaded_again() -> None:
    model = ScriptedModel()
    async with serving(model, step_timeout_s=HANG_S) as worker:
        (task,) = await waiting_at_the_gate(worker, model, 5)
        with pytest.raises(TranscriptionError, match="failed, try again"):
            await task
        assert worker.fault is not None

        # The successor's proof hangs first, too.
        model.gate.set()
        await until(lambda: worker.fault is None, "the worker serves again")
        assert (await worker.recognise(audio(6))).text == text(6)
    assert model.loads >= 2


async def test_model_that_goes_on_hanging_is_given_up() -> None:
    model = ScriptedModel()
    async with serving(model, step_timeout_s=HANG_S) as worker:
        (task,) = await waiting_at_the_gate(worker, model, 5)
        with pytest.raises(TranscriptionError):
            await task
        await until(lambda: "restart the server" in (worker.fault or ""), "it is given up")
        with pytest.raises(Overloaded, match="hangs"):
            await worker.recognise(audio(5))

        # All come back: they were only slow.
        model.gate.set()
        await until(lambda: worker.fault is None, "the worker serves again")
        assert (await worker.recognise(audio(6))).text == text(6)


async def test_threads_that_came_back_are_forgiven() -> None:
    model = ScriptedModel()
    async with serving(model, step_timeout_s=HANG_S) as worker:
        for _ in range(MAX_STUCK + 1):
            (task,) = await waiting_at_the_gate(worker, model, 5)
            with pytest.raises(TranscriptionError):
                await task
            model.gate.set()
            await until(lambda: worker.fault is None, "the worker serves again")


async def test_busy_model_is_well_without_a_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_worker, "EVIDENCE_S", 0.0)
    model = ScriptedModel(slots=1)
    async with serving(model) as worker:
        tasks = await waiting_at_the_gate(worker, model, *range(20, 20 + PENDING_PER_SLOT))
        async with asyncio.timeout(5.0):
            await worker.check()
        model.gate.set()
        await asyncio.gather(*tasks)


async def test_idle_model_has_to_recognise_a_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_worker, "EVIDENCE_S", 0.0)
    model = ScriptedModel()
    async with serving(model) as worker:
        model.gate.clear()
        check = asyncio.create_task(worker.check())
        await until(model.stepping.is_set, "the model is asked")
        assert not check.done()
        model.gate.set()
        await check


async def test_more_requests_than_can_be_answered_in_time_are_refused() -> None:
    model = ScriptedModel(slots=1)
    async with serving(model) as worker:
        tasks = await waiting_at_the_gate(worker, model, *range(20, 20 + PENDING_PER_SLOT))
        with pytest.raises(Overloaded, match="try again later"):
            await worker.recognise(audio(5))
        model.gate.set()
        await asyncio.gather(*tasks)
        await worker.recognise(audio(5))


async def test_request_that_takes_too_long_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        monkeypatch.setattr(request_worker, "REQUEST_S", 0.2)
        (task,) = await waiting_at_the_gate(worker, model, 5)
        with pytest.raises(TranscriptionError, match="too long"):
            await task
        model.gate.set()
        monkeypatch.undo()
        await worker.recognise(audio(6))
    assert model.cancelled == [5]


async def test_model_that_cannot_load_keeps_the_worker_from_starting() -> None:
    model = ScriptedModel()
    model.load_error = EngineUnavailable("no such checkpoint")
    worker = new_worker(model)

    with pytest.raises(EngineUnavailable, match="no such checkpoint"):
        await worker.start()
    await worker.stop()


async def test_model_that_hangs_on_its_first_sound_keeps_the_worker_from_starting() -> None:
    model = ScriptedModel()
    model.gate.clear()
    worker = new_worker(model, step_timeout_s=HANG_S)

    with pytest.raises(EngineUnavailable, match="does not recognise a sound"):
        await worker.start()
    await worker.stop()
    model.gate.set()


async def test_stop_fails_what_is_under_way_and_ends_the_thread() -> None:
    model = ScriptedModel()
    async with serving(model) as worker:
        (task,) = await waiting_at_the_gate(worker, model, 5)
        stopping = asyncio.create_task(worker.stop())
        with pytest.raises(Overloaded, match="shutting down"):
            await task
        model.gate.set()
        await stopping

        with pytest.raises(Overloaded):
            await worker.recognise(audio(5))
    await until(
        lambda: not any(thread.ident in model.threads for thread in threading.enumerate()),
        "the thread is gone",
    )


async def test_stop_while_loading_does_not_wait_for_the_model() -> None:
    model = ScriptedModel()
    stopped = threading.Event()

    def load(is_stopping: Callable[[], bool]) -> ScriptedBatch:
        while not is_stopping():
            stopped.wait(0.01)
        raise EngineUnavailable("stopped")

    model.open = load  # type: ignore[method-assign]
    worker = new_worker(model)
    starting = asyncio.create_task(worker.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await worker.stop()
    assert starting.cancelled()
