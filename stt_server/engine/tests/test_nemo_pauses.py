"""What a stream says in a pause, and that a pause changes nothing."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_lite.tests.tiny import noise
from stt_server.engine.base import HearsSilence, SpeculativeStream, StreamOptions
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.nemo_batch import FRAME_MS
from stt_server.engine.nemo_positions import HANGOVER_SAMPLES
from stt_server.engine.nemo_stream import NemoStream
from stt_server.engine.tests.fake_batch import CHUNK, Script
from stt_server.engine.tests.test_nemo import audio, running, say, say_turn, spell
from stt_server.engine.tests.tiny_source import (
    PLACES,
    offline_ids,
    offline_ids_with_silence,
    tiny_engine,
)
from stt_server.errors import TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Samples, Transcript

LOOKAHEADS = (13, 6, 1, 0)


def ids(transcript: Transcript) -> list[int]:
    return [token.id for token in transcript.tokens]


def only_stream(script: Script) -> int:
    """Samples that the model has of the only stream."""
    assert script.batch is not None
    (stream,) = script.batch.streams.values()
    return stream.received


async def test_the_engine_says_what_its_streams_can() -> None:
    async with running(Script()) as engine:
        assert engine.info.speculates
        assert engine.info.marks_turn_ends
        assert isinstance(engine, HearsSilence)
        assert not engine.hears_silence
        assert isinstance(await engine.open(StreamOptions()), SpeculativeStream)


async def test_a_pause_gives_everything_said_and_speech_goes_on_as_if_there_was_none() -> None:
    async with running(Script()) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, 3 * SAMPLE_RATE)
        paused = await stream.pause()
        assert spell(paused) == "s0 s1 s2"
        assert paused.stable == 3
        assert ids(paused) == [0, 1, 2]
        await stream.resume()
        await say(stream, 3 * SAMPLE_RATE, 2 * SAMPLE_RATE)
        final = await stream.end_turn()
        assert spell(final) == "s0 s1 s2 s3 s4"
        assert [word.start for word in final.words] == [n * SAMPLE_RATE for n in range(5)]


async def test_a_turn_that_ends_in_a_pause_does_not_wait_for_the_model() -> None:
    script = Script()
    async with running(script) as engine:
        stream, other = [await engine.open(StreamOptions()) for _ in range(2)]
        await say(stream, 0, 2 * SAMPLE_RATE)
        paused = await stream.pause()
        hang = script.hang = threading.Event()
        await other.push(audio(0, CHUNK))
        async with asyncio.timeout(1):
            assert await stream.end_turn() == paused
        hang.set()
        await say(stream, 5 * SAMPLE_RATE, 2 * SAMPLE_RATE)
        assert spell(await stream.end_turn()) == "s2 s3"


async def test_silence_of_a_pause_costs_nothing_and_its_end_is_the_pre_roll() -> None:
    script = Script()
    async with running(script) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, 2 * SAMPLE_RATE)
        await stream.pause()
        steps = script.steps
        assert await say(stream, 2 * SAMPLE_RATE, 5 * SAMPLE_RATE) == []
        assert script.steps == steps
        await stream.resume()
        await say(stream, 7 * SAMPLE_RATE, 2 * SAMPLE_RATE)
        final = await stream.end_turn()
        assert spell(final) == "s0 s1 s2 s3"
        assert only_stream(script) == -(-(4 * SAMPLE_RATE + HANGOVER_SAMPLES) // CHUNK) * CHUNK
        # The third word began in the silence that was kept.
        assert final.words[2].start == 7 * SAMPLE_RATE - HANGOVER_SAMPLES
        assert final.words[3].start == 8 * SAMPLE_RATE - HANGOVER_SAMPLES


async def test_short_pauses_are_heard_whole() -> None:
    script = Script()
    async with running(script) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, SAMPLE_RATE)
        await stream.pause()
        await say(stream, SAMPLE_RATE, HANGOVER_SAMPLES)
        await stream.resume()
        await say(stream, SAMPLE_RATE + HANGOVER_SAMPLES, SAMPLE_RATE - HANGOVER_SAMPLES)
        final = await stream.end_turn()
        assert [(w.text, w.start) for w in final.words] == [("s0", 0), ("s1", SAMPLE_RATE)]


async def test_a_mark_counts_once_there_has_been_silence_up_to_it() -> None:
    # The model expects the end 390 ms behind the last word; the pause comes after 300 ms, and what
    # completes the chunk is no silence of the speaker's.
    mark_at = 2 * SAMPLE_RATE + 90 * SAMPLE_RATE // 1_000
    async with running(Script(mark_at=mark_at)) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, 2 * SAMPLE_RATE)
        first = await stream.pause()
        assert first.ends_turn is None
        await say(stream, 2 * SAMPLE_RATE, SAMPLE_RATE // 10)
        second = await stream.pause()
        assert second.ends_turn == 0.9
        assert second.words == first.words
        assert await stream.end_turn() == second


async def test_whoever_asks_again_is_told_what_later_silence_brought() -> None:
    script = Script(mark_at=4 * SAMPLE_RATE)
    async with running(script) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, 2 * SAMPLE_RATE)
        first = await stream.pause()
        answers: list[float | None] = []
        for at in range(2 * SAMPLE_RATE, 5 * SAMPLE_RATE, SAMPLE_RATE // 2):
            await say(stream, at, SAMPLE_RATE // 2)
            later = await stream.pause()
            assert later.words == first.words
            answers.append(later.ends_turn)
        assert answers == [None, None, None, None, 0.9, 0.9]
        await stream.resume()
        await say(stream, 5 * SAMPLE_RATE, SAMPLE_RATE)
        assert spell(await stream.end_turn()) == "s0 s1 s2"


async def test_pauses_without_a_turn_and_resumes_without_a_pause_do_nothing() -> None:
    async with running(Script()) as engine:
        stream = await engine.open(StreamOptions())
        assert await stream.pause() == Transcript()
        await stream.resume()
        await say(stream, 0, SAMPLE_RATE)
        await stream.resume()
        assert spell(await stream.end_turn()) == "s0"
        assert await stream.pause() == Transcript()
        assert await stream.end_turn() == Transcript()


async def test_neighbours_pause_and_resume_in_one_batch() -> None:
    async with running(Script()) as engine:

        async def converse(stream: NemoStream, pauses: int) -> str:
            at = 0
            for _ in range(pauses):
                await say(stream, at, SAMPLE_RATE // 2, packet=800)
                at += SAMPLE_RATE // 2
                await stream.pause()
                await stream.resume()
            await say(stream, at, 4 * SAMPLE_RATE - at)
            return spell(await stream.end_turn())

        streams = [await engine.open(StreamOptions()) for _ in range(4)]
        found = await asyncio.gather(*(converse(s, n) for n, s in enumerate(streams, 2)))
        assert found == ["s0 s1 s2 s3"] * 4


async def test_a_pause_ends_with_its_worker() -> None:
    script = Script()
    async with running(script) as engine:
        stream, other = [await engine.open(StreamOptions()) for _ in range(2)]
        await say(stream, 0, 2 * SAMPLE_RATE)
        await stream.pause()
        script.failing_steps = {script.steps}
        with pytest.raises(TranscriptionError):
            await say_turn(other, 0, SAMPLE_RATE)
        with pytest.raises(TranscriptionError, match="restarted"):
            await stream.resume()
        await stream.resume()
        await say(stream, 50 * SAMPLE_RATE, 2 * SAMPLE_RATE)
        paused = await stream.pause()
        assert [(word.text, word.start // SAMPLE_RATE) for word in paused.words] == [
            ("s0", 50),
            ("s1", 51),
        ]
        assert await stream.end_turn() == paused


async def test_a_worker_that_fails_in_a_pause_costs_the_turn() -> None:
    script = Script()
    async with running(script) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, SAMPLE_RATE + 1)
        script.failing_steps = set(range(script.steps, script.steps + 20))
        with pytest.raises(TranscriptionError):
            await stream.pause()
        script.failing_steps = set()
        await say(stream, 9 * SAMPLE_RATE, SAMPLE_RATE)
        assert spell(await stream.end_turn()) == "s0"


# Without gating


async def test_without_gating_all_audio_is_heard_and_nothing_told_comes_again() -> None:
    script = Script()
    async with running(script, gating=False) as engine:
        assert engine.hears_silence
        stream = await engine.open(StreamOptions())
        assert await stream.push(silence(0, SAMPLE_RATE)) is None
        await say(stream, SAMPLE_RATE, 2 * SAMPLE_RATE)
        paused = await stream.pause()
        assert spell(paused) == "s0 s1 s2"
        assert await say(stream, 3 * SAMPLE_RATE, SAMPLE_RATE) == []
        assert spell(await stream.pause()) == "s0 s1 s2"
        first = await stream.end_turn()
        assert spell(first) == "s0 s1 s2 s3"
        for second in range(4, 8):
            assert await stream.push(silence(second * SAMPLE_RATE, SAMPLE_RATE)) is None
        await say(stream, 8 * SAMPLE_RATE, SAMPLE_RATE + 5)
        second = await stream.end_turn()
        assert spell(second) == "s4 s5 s6 s7 s8"
        assert [word.start for word in second.words[-1:]] == [8 * SAMPLE_RATE]
        assert only_stream(script) == 9 * SAMPLE_RATE + 5


async def test_without_gating_a_resumed_turn_goes_on() -> None:
    async with running(Script(), gating=False) as engine:
        stream = await engine.open(StreamOptions())
        await say(stream, 0, SAMPLE_RATE + 900)
        assert spell(await stream.pause()) == "s0"
        await stream.resume()
        interims = await say(stream, SAMPLE_RATE + 900, 3 * SAMPLE_RATE)
        assert interims
        assert spell(await stream.end_turn()) == "s0 s1 s2 s3"


def silence(start: int, samples: int) -> Audio:
    return Audio(start, np.zeros(samples, np.float32), speech=False)


# With a model


async def talk(
    engine: NemoEngine,
    samples: Samples,
    lookahead: int,
    packets: list[tuple[int, int]],
) -> Transcript:
    """One turn in packets of these sizes, each followed by so many pauses, then the rest."""
    stream = await engine.open(StreamOptions(lookahead_ms=lookahead * FRAME_MS))
    at = 0
    for size, pauses in packets:
        await stream.push(Audio(at, samples[at : at + size], speech=True))
        at = min(at + size, len(samples))
        for _ in range(pauses):
            await stream.pause()
            await stream.resume()
    await stream.push(Audio(at, samples[at:], speech=True))
    final = await stream.end_turn()
    await stream.close()
    return final


packets = st.lists(st.tuples(st.integers(1, 6_000), st.integers(0, 2)), max_size=6)


@settings(max_examples=8, deadline=None)
@given(
    streams=st.lists(
        st.tuples(packets, st.sampled_from(LOOKAHEADS), st.integers(0, 99)),
        min_size=1,
        max_size=PLACES,
    ),
    gating=st.booleans(),
)
def test_pauses_anywhere_and_of_neighbours_leave_words_and_ids_as_they_are(
    streams: list[tuple[list[tuple[int, int]], int, int]], gating: bool
) -> None:
    audio = [noise(1.5, seed=seed) for _, _, seed in streams]

    async def run() -> list[Transcript]:
        async with tiny_engine(gating=gating) as engine:
            return await asyncio.gather(
                *(
                    talk(engine, samples, lookahead, cuts)
                    for samples, (cuts, lookahead, _) in zip(audio, streams, strict=True)
                )
            )

    offline = offline_ids_with_silence if gating else offline_ids
    found = [ids(final) for final in asyncio.run(run())]
    expected = [
        offline(samples, lookahead)
        for samples, (_, lookahead, _) in zip(audio, streams, strict=True)
    ]
    assert found == expected
    assert any(expected)


@pytest.mark.parametrize("lookahead", [6, 1, 0])
@pytest.mark.parametrize("gating", [True, False])
async def test_in_every_phase_of_a_chunk_a_pause_gives_the_offline_result(
    lookahead: int, gating: bool
) -> None:
    samples = noise(2, seed=3)
    chunk = (lookahead + 1) * FRAME_MS * SAMPLE_RATE // 1_000
    places = range(chunk, 2 * chunk + 320, max(160, chunk // 20))
    offline = offline_ids_with_silence if gating else offline_ids
    found, expected = list[list[int]](), list[list[int]]()
    async with tiny_engine(gating=gating) as engine:
        stream = await engine.open(StreamOptions(lookahead_ms=lookahead * FRAME_MS))
        for start, end in zip([0, *places], places, strict=False):
            await stream.push(Audio(start, samples[start:end], speech=True))
            found.append(ids(await stream.pause()))
            expected.append(offline(samples[:end], lookahead))
            await stream.resume()
    assert found == expected
    assert len(expected[-1]) > 2
