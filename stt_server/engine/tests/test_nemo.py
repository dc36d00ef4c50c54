"""The engine room: streams share steps, failures end turns and not the server."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from nemo_lite.errors import CheckpointError
from stt_server.engine import nemo_stream, supervisor
from stt_server.engine.base import EngineUnavailable, StreamOptions
from stt_server.engine.nemo import STUCK_S, NemoEngine
from stt_server.engine.nemo_messages import Command, Heard, HeardTurn, HeardWord
from stt_server.engine.nemo_stream import NemoStream
from stt_server.engine.supervisor import MAX_STUCK
from stt_server.engine.tests.fake_batch import CHUNK, Script
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Transcript


@asynccontextmanager
async def running(
    script: Script,
    *,
    tick_s: float = 0.001,
    gating: bool = True,
    stuck_s: float = STUCK_S,
    pause_s: float = 0.01,
) -> AsyncIterator[NemoEngine]:
    engine = NemoEngine(
        script,
        name="fake",
        summary="For tests.",
        most_streams=9,
        tick_s=tick_s,
        gating=gating,
        stuck_s=stuck_s,
        pauses_s=(pause_s,),
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def audio(start: int, samples: int) -> Audio:
    return Audio(start, np.zeros(samples, np.float32), speech=True)


def spell(transcript: Transcript) -> str:
    return " ".join(word.text for word in transcript.words)


async def say(stream: NemoStream, start: int, samples: int, packet: int = 1_600) -> list[str]:
    """Push in packets; the texts of the interims."""
    found: list[str] = []
    for at in range(start, start + samples, packet):
        heard = await stream.push(audio(at, min(packet, start + samples - at)))
        if heard is not None:
            found.append(spell(heard))
        await asyncio.sleep(0)
    return found


async def say_turn(stream: NemoStream, start: int, samples: int) -> Transcript:
    await say(stream, start, samples)
    return await stream.end_turn()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.005)


async def test_words_come_while_they_are_spoken_and_the_final_has_all() -> None:
    async with running(Script()) as engine:
        stream = await engine.open(StreamOptions())
        interims = await say(stream, 0, 5 * SAMPLE_RATE)
        final = await stream.end_turn()
        assert spell(final) == "s0 s1 s2 s3 s4"
        assert final.stable == 5
        assert interims
        assert all("s0 s1 s2 s3 s4".startswith(text) for text in interims)


async def test_capacity_and_lookaheads_are_those_of_the_loaded_model() -> None:
    async with running(Script()) as engine:
        assert engine.info.capacity == 4
        assert engine.info.lookaheads_ms == (80, 0)
        streams = [await engine.open(StreamOptions()) for _ in range(4)]
        with pytest.raises(Overloaded):
            await engine.open(StreamOptions())
        await streams[0].close()
        await engine.open(StreamOptions())


async def test_checks_find_a_slot_even_when_all_places_are_taken() -> None:
    async with running(Script()) as engine:
        for _ in range(4):
            await say(await engine.open(StreamOptions()), 0, 1_600)
        await engine.check()


async def test_hints_reach_the_model() -> None:
    script = Script()
    async with running(script) as engine:
        stream = await engine.open(StreamOptions(language="de-DE", lookahead_ms=0))
        await say(stream, 0, SAMPLE_RATE)
        final = await stream.end_turn()
        assert final.language == "de-DE"
        assert script.batch is not None
        assert [s.lookahead_ms for s in script.batch.streams.values()] == [0]


async def test_word_times_are_the_sessions_across_gaps_and_padding() -> None:
    async with running(Script()) as engine:
        stream = await engine.open(StreamOptions())
        first_at, second_at = 7 * SAMPLE_RATE, 30 * SAMPLE_RATE
        await say(stream, first_at, SAMPLE_RATE + 5)
        first = await stream.end_turn()
        assert [(w.start, w.end) for w in first.words] == [(first_at, first_at + SAMPLE_RATE)]
        await say(stream, second_at, 3 * SAMPLE_RATE)
        second = await stream.end_turn()
        # The first turn and what completed its chunk are before the second in the model's stream.
        before = -(-(SAMPLE_RATE + 5) // CHUNK) * CHUNK
        expected = [max(second_at, second_at + n * SAMPLE_RATE - before) for n in (1, 2, 3)]
        assert [word.start for word in second.words] == expected
        assert [word.text for word in second.words] == ["s1", "s2", "s3"]


async def test_a_turn_without_audio_is_empty_and_costs_no_slot() -> None:
    script = Script()
    async with running(script) as engine:
        stream = await engine.open(StreamOptions())
        assert await stream.end_turn() == Transcript()
        assert script.batch is not None
        assert not script.batch.streams


async def test_streams_that_send_together_share_steps() -> None:
    script = Script()
    async with running(script, tick_s=0.02) as engine:
        streams = [await engine.open(StreamOptions()) for _ in range(4)]
        for at in range(0, 20 * CHUNK, CHUNK):
            for stream in streams:
                await stream.push(audio(at, CHUNK))
            await asyncio.sleep(0.03)
        assert script.batch is not None
        assert sum(script.batch.sizes) == 80
        assert max(script.batch.sizes) == 4
        assert script.steps < 60


async def test_a_sender_that_is_too_fast_waits_for_the_worker() -> None:
    script = Script()
    async with running(script) as engine:
        stream = await engine.open(StreamOptions())
        hang = script.hang = threading.Event()
        pushes = 0

        async def send() -> None:
            nonlocal pushes
            for at in range(0, 60 * SAMPLE_RATE, SAMPLE_RATE // 2):
                await stream.push(audio(at, SAMPLE_RATE // 2))
                pushes += 1

        sender = asyncio.create_task(send())
        await asyncio.sleep(0.1)
        assert pushes <= nemo_stream.BACKLOG_SAMPLES * 2 // SAMPLE_RATE + 1
        hang.set()
        async with asyncio.timeout(5):
            await sender
        assert spell(await stream.end_turn()).endswith("s59")


async def test_a_failed_step_ends_turns_and_the_next_ones_are_heard() -> None:
    script = Script(failing_steps={3})
    async with running(script) as engine:
        streams = [await engine.open(StreamOptions()) for _ in range(2)]
        await asyncio.gather(*(say(stream, 0, CHUNK) for stream in streams))
        for stream in streams:
            with pytest.raises(TranscriptionError, match="restarted"):
                await say_turn(stream, 0, 4 * SAMPLE_RATE)
        for stream in streams:
            await say(stream, 100 * SAMPLE_RATE, 2 * SAMPLE_RATE)
            final = await stream.end_turn()
            assert spell(final) == "s0 s1"
            assert final.words[0].start == 100 * SAMPLE_RATE


async def test_while_the_model_is_restarted_the_server_is_not_ready() -> None:
    script = Script(failing_steps={0}, failing_loads={1, 2})
    async with running(script, pause_s=0.05) as engine:
        stream = await engine.open(StreamOptions())
        await stream.push(audio(0, CHUNK))
        await until(lambda: script.steps == 1)
        await asyncio.sleep(0.02)
        with pytest.raises(EngineUnavailable, match="restarted"):
            await engine.check()
        # Who speaks meanwhile waits.
        waiting = await engine.open(StreamOptions())
        assert spell(await say_turn(waiting, 0, SAMPLE_RATE)) == "s0"
        assert script.loads == 4
        await engine.check()


async def test_a_stuck_step_is_given_up() -> None:
    script = Script()
    hang = threading.Event()
    async with running(script, stuck_s=0.2) as engine:
        stream = await engine.open(StreamOptions())
        script.hang = hang
        await stream.push(audio(0, 4 * CHUNK))
        with pytest.raises(TranscriptionError):
            await stream.end_turn()
        await say(stream, 0, SAMPLE_RATE)
        assert spell(await stream.end_turn()) == "s0"
        hang.set()


async def test_audio_waits_for_a_restart_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_WAIT_S", 0.05)
    async with running(Script(failing_steps={0}), pause_s=60.0) as engine:
        stream = await engine.open(StreamOptions())
        await stream.push(audio(0, CHUNK))
        with pytest.raises(TranscriptionError, match="failed"):
            await stream.end_turn()
        with pytest.raises(TranscriptionError, match="restarted"):
            await stream.push(audio(0, CHUNK))


async def test_a_model_that_cannot_be_loaded_says_why() -> None:
    engine = NemoEngine(
        Script(failing_loads={0}), name="fake", summary="For tests.", most_streams=9
    )
    with pytest.raises(EngineUnavailable, match="fake cannot be loaded: no model today"):
        await engine.start()
    await engine.stop()


@pytest.mark.parametrize(
    ("failure", "traces"),
    [(CheckpointError("damaged"), 0), (EngineUnavailable("no torch"), 0), (KeyError("bug"), 1)],
)
async def test_only_a_load_that_fails_without_words_leaves_a_trace(
    failure: Exception, traces: int, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(failing_loads={0}, load_failure=failure)
    engine = NemoEngine(script, name="fake", summary="For tests.", most_streams=9)
    with pytest.raises(EngineUnavailable):
        await engine.start()
    await engine.stop()
    assert len([record for record in caplog.records if record.exc_info]) == traces


async def test_stopping_fails_open_streams() -> None:
    async with running(Script()) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, SAMPLE_RATE)
    with pytest.raises(Overloaded):
        await stream.push(audio(SAMPLE_RATE, 1_600))
    await stream.close()


async def test_a_closed_stream_gives_its_slot_back() -> None:
    script = Script()
    async with running(script) as engine:
        for _ in range(20):
            stream = await engine.open(StreamOptions())
            await say(stream, 0, CHUNK)
            await stream.close()
        batch = script.batch
        assert batch is not None
        await until(lambda: not batch.streams)


async def test_what_the_model_refuses_costs_one_stream_its_turn() -> None:
    script = Script(refused_language="xx")
    async with running(script) as engine:
        good = await engine.open(StreamOptions())
        bad = await engine.open(StreamOptions(language="xx"))
        await say(good, 0, SAMPLE_RATE)
        await bad.push(audio(0, 1_600))
        with pytest.raises(TranscriptionError, match="no such language"):
            await bad.end_turn()
        await bad.close()
        await bad.close()
        await say(good, SAMPLE_RATE, SAMPLE_RATE)
        assert spell(await good.end_turn()) == "s0 s1"
        assert script.loads == 1


async def test_a_check_takes_nobodys_place() -> None:
    script = Script()
    async with running(script) as engine:
        for _ in range(3):
            await say(await engine.open(StreamOptions()), 0, 1_600)
        hang = script.hang = threading.Event()
        check = asyncio.create_task(engine.check())
        await asyncio.sleep(0.05)
        assert not check.done()
        await engine.open(StreamOptions())
        hang.set()
        await check


async def test_after_too_many_hangs_no_further_model_is_loaded() -> None:
    script = Script()
    hang = threading.Event()
    async with running(script, stuck_s=0.05) as engine:
        for times in range(1, MAX_STUCK + 1):
            stream = await engine.open(StreamOptions())
            script.hang = hang
            await stream.push(audio(0, 4 * CHUNK))
            with pytest.raises(TranscriptionError):
                await stream.end_turn()
            assert script.discards == times
            if times < MAX_STUCK:
                await engine.running()
        await asyncio.sleep(0.1)
        assert script.loads == MAX_STUCK
        with pytest.raises(EngineUnavailable, match="restart the server"):
            await engine.check()
        # Its clients are to go elsewhere.
        with pytest.raises(Overloaded, match="restart the server"):
            await stream.push(audio(0, CHUNK))
        # The threads come back to life: their memory is free again.
        hang.set()
        await until(lambda: engine.fault is None)
        await engine.check()


async def test_a_panic_of_the_kernels_is_a_failure_like_others() -> None:
    script = Script(failing_steps={0}, failure=KeyboardInterrupt("panic"))
    async with running(script) as engine:
        stream = await engine.open(StreamOptions())
        with pytest.raises(TranscriptionError):
            await say_turn(stream, 0, SAMPLE_RATE)
        assert spell(await say_turn(stream, 0, SAMPLE_RATE)) == "s0"


async def test_a_worker_that_fails_as_soon_as_it_is_ready_is_noticed() -> None:
    async with running(Script(broken=True), pause_s=60.0) as engine:
        await until(lambda: engine.fault is not None)


@pytest.mark.parametrize("gating", [True, False])
async def test_a_thread_that_dies_between_turns_costs_the_next_one_nothing(gating: bool) -> None:
    script = Script(failing_steps={0})
    async with running(script, gating=gating) as engine:
        stream = await engine.open(StreamOptions())
        if not gating:
            await stream.push(Audio(0, np.zeros(CHUNK, np.float32)))
        else:
            with pytest.raises(EngineUnavailable):
                await engine.check()
        await until(lambda: script.loads == 2 and engine.fault is None)
        assert spell(await say_turn(stream, SAMPLE_RATE, SAMPLE_RATE)) == "s0"


class _Room:
    """A `Room` whose worker never answers."""

    def post(self, command: Command) -> None: ...

    async def running(self) -> None: ...

    def settle(self, stream: NemoStream, key: int) -> tuple["_Room", int]:
        return self, key

    def renew(self, stream: NemoStream, key: int) -> int:
        return key + 1

    def release(self, key: int) -> None: ...


async def test_only_the_last_words_of_a_long_turn_are_converted_again() -> None:
    stream = NemoStream(_Room(), 0, StreamOptions())
    settled = tuple(HeardWord(f"w{n}", n * 100, n * 100 + 50, 0.5) for n in range(90))

    async def hear(start: int, *words: HeardWord) -> Transcript:
        await stream.push(audio(start, SAMPLE_RATE))
        stream.deliver(Heard(0, HeardTurn(words), start + SAMPLE_RATE, start + SAMPLE_RATE, False))
        heard = stream.take_news()
        assert heard is not None
        return heard

    first = await hear(0, *settled, HeardWord("lo", 9_000, 99_000, 0.5))
    second = await hear(SAMPLE_RATE, *settled, HeardWord("long", 9_000, 99_000, 0.5))
    assert all(a is b for a, b in zip(first.words[:90], second.words[:90], strict=True))
    assert spell(second).endswith("w89 long")
    # The sound goes on in what has been pushed since.
    assert (first.words[-1].end, second.words[-1].end) == (SAMPLE_RATE, 2 * SAMPLE_RATE)

    # A pause's copy was dropped: fewer words, and others.
    third = await hear(2 * SAMPLE_RATE, *settled[:80], HeardWord("else", 8_000, 8_050, 0.5))
    assert spell(third).endswith("w79 else")
    assert third.words[-1].start == 8_000
