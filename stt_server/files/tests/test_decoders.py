"""Decoder processes: what they give, and what bad files cannot do to the server."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from stt_server.engine.worker_process import WorkerLimits
from stt_server.events import SAMPLE_RATE, Audio
from stt_server.files.decoders import (
    Answer,
    Decoders,
    OpenFile,
    Verdict,
    pack_answer,
    unpack_answer,
)
from stt_server.files.errors import FileTooLong, InvalidFile
from stt_server.settings import EndpointingSettings
from stt_server.tests.polling import until

CLIPS = Path(__file__).parents[3] / "tests" / "audio"
CLIP = CLIPS / "conversation-doctor.flac"


@asynccontextmanager
async def pool(**limits: float) -> AsyncGenerator[Decoders]:
    decoders = Decoders(2, limits=WorkerLimits(**limits))
    try:
        yield decoders
    finally:
        await decoders.stop()


@pytest.fixture(scope="module")
async def decoders() -> AsyncGenerator[Decoders]:
    """For tests that leave the pool as it was, or as it recovers by itself."""
    async with pool() as made:
        yield made


@asynccontextmanager
async def opened(
    decoders: Decoders, path: Path, *, most_s: float = 3_600.0
) -> AsyncGenerator[OpenFile]:
    async with decoders.open(
        path,
        endpointing=EndpointingSettings(),
        longest_samples=40 * SAMPLE_RATE,
        most_samples=round(most_s * SAMPLE_RATE),
    ) as file:
        yield file


async def read_all(file: OpenFile) -> list[Answer]:
    answers = [await file.read()]
    while not answers[-1].is_end:
        answers.append(await file.read())
    return answers


def children() -> list[psutil.Process]:
    """This process's decoders."""
    running = (child for child in psutil.Process().children() if is_running(child))
    return [child for child in running if any("decoder_worker" in part for part in child.cmdline())]


def is_running(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE


def test_answers_come_out_of_the_pipe_as_they_went_in() -> None:
    samples = np.linspace(-1, 1, 1_000, dtype=np.float32)
    pieces = (Audio(5, samples, speech=True), Audio(1_005, samples[:10], speech=True))
    answer = Answer(2_000, pieces, is_end=True, verdict=Verdict.INVALID, message="ä ö")
    copy = unpack_answer(pack_answer(answer))

    assert (copy.decoded, copy.is_end, copy.verdict) == (2_000, True, Verdict.INVALID)
    assert copy.message == "ä ö"
    for given, found in zip(pieces, copy.pieces, strict=True):
        assert found.start == given.start
        assert np.array_equal(found.samples, given.samples)


async def test_a_file_comes_in_pieces_of_speech_a_few_seconds_at_a_time(
    decoders: Decoders,
) -> None:
    async with opened(decoders, CLIP) as file:
        answers = await read_all(file)
    pieces = [piece for answer in answers for piece in answer.pieces]

    assert [answer.decoded // SAMPLE_RATE for answer in answers] == [10, 18]
    assert len(pieces) == 4
    assert all(piece.samples.flags.writeable for piece in pieces)


async def test_bad_files_and_too_long_ones_are_told_apart(
    decoders: Decoders, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("no audio " * 1_000)
    with pytest.raises(InvalidFile):
        async with opened(decoders, text):
            pass
    with pytest.raises(InvalidFile):
        async with opened(decoders, tmp_path / "absent"):
            pass
    with pytest.raises(FileTooLong, match="more than 5 s"):
        async with opened(decoders, CLIP, most_s=5.0):
            pass
    async with opened(decoders, CLIP) as file:
        assert (await read_all(file))[-1].is_end


async def test_a_decoder_that_dies_over_a_file_costs_that_file_alone(
    decoders: Decoders,
) -> None:
    async with opened(decoders, CLIP) as file:
        for child in children():
            os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(InvalidFile):
            await file.read()
    async with opened(decoders, CLIP) as file:
        assert (await read_all(file))[-1].is_end


async def test_a_decoder_that_hangs_over_a_file_is_ended() -> None:
    others = set(children())
    async with pool(answer_s=5.0) as decoders, opened(decoders, CLIP) as file:
        for child in set(children()) - others:
            os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(InvalidFile):
            await file.read()


async def test_a_decoder_goes_on_with_another_file_after_one_that_was_given_up(
    decoders: Decoders,
) -> None:
    async with opened(decoders, CLIP) as file:
        reading = asyncio.create_task(file.read())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    for _ in range(3):
        async with opened(decoders, CLIP) as file:
            assert sum(len(answer.pieces) for answer in await read_all(file)) == 4


async def test_a_decoder_can_be_there_before_the_first_file() -> None:
    others = set(children())
    async with pool() as decoders:
        decoders.warm_up()
        await until(lambda: bool(set(children()) - others), "a decoder")
    assert set(children()) <= others


async def test_no_process_is_left_behind() -> None:
    others = set(children())
    async with pool() as decoders, opened(decoders, CLIP):
        assert set(children()) - others
    assert set(children()) <= others
