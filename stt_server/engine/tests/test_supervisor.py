"""What keeps a model's thread serving, with threads on a script."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stt_server.engine.supervisor import MAX_STUCK, RESTART_WAIT_S, START_S, Supervisor
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.stages.tests.virtual_time import run


class FakeThread:
    """A `ModelThread` that does nothing but end."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.busy_s = 0.0

    def stop(self) -> None:
        if not self.busy_s:
            self.ended.set()


class FakeModel:
    """Its threads, and how long each needs to start."""

    def __init__(self, *starts_s: float) -> None:
        self._starts_s = list(starts_s)
        self.threads: list[FakeThread] = []
        self.discards = 0

    def begin(self) -> FakeThread:
        self.threads.append(FakeThread())
        return self.threads[-1]

    async def prove(self, thread: FakeThread) -> None:
        await asyncio.sleep(self._starts_s[len(self.threads) - 1])

    def discard(self) -> None:
        self.discards += 1


def supervised(model: FakeModel, work: Callable[[Supervisor[FakeThread]], Awaitable[None]]) -> None:
    """Do `work` beside a supervisor of `model` that has been started."""

    async def main() -> None:
        supervisor = Supervisor(
            "fake",
            model.begin,
            model.prove,
            on_lost=lambda _: None,
            discard=model.discard,
            stuck_s=4.0,
            pauses_s=(1.0,),
        )
        await supervisor.start()
        try:
            await work(supervisor)
        finally:
            await supervisor.stop()

    run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_all_who_wait_for_a_restart_wait_until_the_same_moment() -> None:
    model = FakeModel(0.0, 60.0)

    async def work(supervisor: Supervisor[FakeThread]) -> None:
        model.threads[0].ended.set()
        await asyncio.sleep(0.1)
        lost_at = now() - 0.1
        for _ in range(5):
            with pytest.raises(TranscriptionError, match="being restarted"):
                await supervisor.serving()
            assert now() == pytest.approx(lost_at + RESTART_WAIT_S)
        await asyncio.sleep(60.0)
        assert await supervisor.serving() is model.threads[1]

    supervised(model, work)


def test_each_fault_is_waited_for_anew() -> None:
    model = FakeModel(0.0, 5.0, 5.0)

    async def work(supervisor: Supervisor[FakeThread]) -> None:
        for lost, successor in ((0, 1), (1, 2)):
            model.threads[lost].ended.set()
            await asyncio.sleep(0.1)
            assert await supervisor.serving() is model.threads[successor]
            await asyncio.sleep(60.0)

    supervised(model, work)


def test_restart_that_hangs_is_left_behind_and_followed_by_another() -> None:
    model = FakeModel(0.0, 1e6, 0.0)

    async def work(supervisor: Supervisor[FakeThread]) -> None:
        model.threads[0].ended.set()
        await asyncio.sleep(START_S)
        assert len(model.threads) == 2
        await asyncio.sleep(10.0)
        assert supervisor.thread is model.threads[2]
        assert model.threads[1].ended.is_set()
        assert model.discards

    supervised(model, work)


def test_restart_may_take_twice_as_long_as_the_first_start() -> None:
    model = FakeModel(START_S, 1.9 * START_S)

    async def work(supervisor: Supervisor[FakeThread]) -> None:
        model.threads[0].ended.set()
        await asyncio.sleep(2.0 * START_S)
        assert supervisor.thread is model.threads[1]

    supervised(model, work)


def test_who_asks_for_a_model_that_is_given_up_is_sent_away_at_once() -> None:
    model = FakeModel(*[0.0] * MAX_STUCK)

    async def work(supervisor: Supervisor[FakeThread]) -> None:
        for thread in range(MAX_STUCK):
            model.threads[thread].busy_s = 99.0
            await asyncio.sleep(10.0)
        began = now()
        with pytest.raises(Overloaded, match="restart the server"):
            await supervisor.serving()
        assert now() == began

    supervised(model, work)
