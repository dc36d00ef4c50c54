"""Questions and answers about pauses, between two stages."""

import asyncio

import numpy as np

from stt_server.events import Audio
from stt_server.stages.tests.virtual_time import run
from stt_server.stages.verdict import PATIENCE_S, Verdict


def audio(end: int) -> Audio:
    return Audio(0, np.zeros(end, dtype=np.float32), speech=True)


async def asked(verdict: Verdict, at: int) -> tuple[float | None, float]:
    """The judgement and how long it took."""
    loop = asyncio.get_running_loop()
    await verdict.hear(audio(at))
    began = loop.time()
    return await verdict.judge(), loop.time() - began


def test_answer_that_is_there_already_is_taken() -> None:
    async def main() -> tuple[float | None, float]:
        verdict = Verdict()
        verdict.reach(100)
        verdict.answer(0.9)
        return await asked(verdict, 100)

    assert run(main()) == (0.9, 0.0)


def test_answer_is_waited_for() -> None:
    async def main() -> tuple[float | None, float]:
        verdict = Verdict()
        asyncio.get_running_loop().call_later(1.5, verdict.reach, 100)
        asyncio.get_running_loop().call_later(1.5, verdict.answer, 0.3)
        return await asked(verdict, 100)

    assert run(main()) == (0.3, 1.5)


def test_no_answer_in_time_is_none() -> None:
    assert run(asked(Verdict(), 100)) == (None, PATIENCE_S)


def test_late_answer_is_not_taken_for_one_to_the_next_question() -> None:
    async def main() -> tuple[float | None, float]:
        verdict = Verdict()
        await asked(verdict, 100)
        verdict.reach(100)
        verdict.answer(0.9)
        return await asked(verdict, 200)

    assert run(main()) == (None, PATIENCE_S)


def test_recogniser_that_works_off_audio_from_before_the_pause_is_waited_for() -> None:
    async def main() -> tuple[float | None, float]:
        verdict = Verdict()
        loop = asyncio.get_running_loop()
        for second in range(1, 6):
            loop.call_later(second, verdict.reach, 20 * second)
        loop.call_later(6.0, verdict.answer, 0.7)
        return await asked(verdict, 100)

    assert run(main()) == (0.7, 6.0)
