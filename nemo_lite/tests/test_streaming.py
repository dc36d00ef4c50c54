"""Live streams: equal to the whole file, whatever the packets, the neighbours and the slot."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nemo_lite.errors import ShapeError, StreamStateError, UnsupportedError
from nemo_lite.model import Model
from nemo_lite.results import Update
from nemo_lite.streaming import StreamBatch
from nemo_lite.tests.tiny import (
    CONFIG,
    noise,
    random_network,
    tiny_model,
    whole_file,
    with_lookaheads,
)

LOOKAHEADS = (13, 6, 1, 0)
FRAME = 1_280


def drain(batch: StreamBatch) -> list[Update]:
    """Step until nothing is left to do."""
    updates: list[Update] = []
    while batch.ready:
        updates += batch.step()
    return updates


def streamed(
    batch: StreamBatch, samples: NDArray[np.float32], cuts: list[int], lookahead: int
) -> list[int]:
    """Token ids of one stream that arrives in packets of these sizes, then the rest at once."""
    slot = batch.open(lookahead=lookahead)
    at = 0
    for size in cuts:
        batch.push(slot, samples[at : at + size])
        at += size
        drain(batch)
    batch.push(slot, samples[at:])
    batch.finish(slot)
    drain(batch)
    tokens = list(batch.transcript(slot).token_ids)
    batch.close(slot)
    return tokens


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_stream_equals_whole_file_for_every_chunk_phase(lookahead: int) -> None:
    model = tiny_model()
    batch = model.streams(1)
    chunk = (lookahead + 1) * FRAME
    lengths = range(2 * chunk + 1, 3 * chunk + 2, max(160, chunk // 23))
    found = 0
    for length in lengths:
        samples = noise(3 * chunk / 16_000 + 1, seed=length)[:length]
        expected = whole_file(model, samples, lookahead)
        assert streamed(batch, samples, [], lookahead) == expected
        found += len(expected)
    assert found > len(lengths)  # there was something to lose


@pytest.mark.parametrize("length", [0, 1, 159, 160, 161, 1279, 1280, 1281, 1440])
def test_shortest_recordings(length: int) -> None:
    model = tiny_model()
    samples = noise(1, seed=5)[:length]
    for lookahead in LOOKAHEADS:
        expected = whole_file(model, samples, lookahead)
        assert streamed(model.streams(1), samples, [], lookahead) == expected
        assert list(model.transcribe(samples, lookahead=lookahead)[0].token_ids) == expected


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 9_000), max_size=12),
    lookahead=st.sampled_from(LOOKAHEADS),
    seed=st.integers(0, 50),
)
def test_packet_sizes_do_not_matter(cuts: list[int], lookahead: int, seed: int) -> None:
    model = tiny_model()
    samples = noise(2.5, seed=seed)
    assert streamed(model.streams(2), samples, cuts, lookahead) == whole_file(
        model, samples, lookahead
    )


@settings(max_examples=15)
@given(
    streams=st.lists(
        st.tuples(
            st.sampled_from(LOOKAHEADS), st.integers(0, 6), st.floats(0.3, 3.0), st.integers(0, 99)
        ),
        min_size=2,
        max_size=6,
    ),
    packet=st.integers(700, 6_000),
)
def test_neighbours_ages_slots_and_lookaheads_do_not_matter(
    streams: list[tuple[int, int, float, int]], packet: int
) -> None:
    model = tiny_model()
    batch = model.streams(4)
    audio = [noise(seconds, seed=seed) for _, _, seconds, seed in streams]
    waiting = list(range(len(streams)))
    slots: dict[int, int] = {}
    sent = dict.fromkeys(waiting, 0)
    tokens: dict[int, list[int]] = {}
    tick = 0
    while len(tokens) < len(streams):
        for index in [i for i in waiting if streams[i][1] <= tick][: batch.free_slots]:
            waiting.remove(index)
            slots[batch.open(lookahead=streams[index][0])] = index
        for slot, index in slots.items():
            if sent[index] < len(audio[index]):
                batch.push(slot, audio[index][sent[index] : sent[index] + packet])
                sent[index] += packet
                if sent[index] >= len(audio[index]):
                    batch.finish(slot)
        for update in batch.step():
            if update.is_final:
                index = slots.pop(update.slot)
                tokens[index] = list(batch.transcript(update.slot).token_ids)
                batch.close(update.slot)
        tick += 1
    for index, (lookahead, *_) in enumerate(streams):
        assert tokens[index] == whole_file(model, audio[index], lookahead)


def test_updates_add_up_to_the_transcript() -> None:
    model = tiny_model()
    batch = model.streams(2)
    slot = batch.open(lookahead=1)
    batch.push(slot, noise(3, seed=1))
    batch.finish(slot)
    updates = drain(batch)
    whole = batch.transcript(slot)
    assert [update.is_final for update in updates] == [False] * (len(updates) - 1) + [True]
    assert "".join(update.text for update in updates) == whole.text
    assert tuple(t for update in updates for t in update.token_ids) == whole.token_ids
    assert tuple(t for update in updates for t in update.token_times) == whole.token_times
    assert updates[-1].at_sample == 48_000
    assert list(whole.token_times) == sorted(whole.token_times)


def test_tokens_come_as_soon_as_their_chunk_is_complete() -> None:
    model = tiny_model()
    batch = model.streams(1)
    slot = batch.open(lookahead=1)
    needed = 8 * 160 + 200  # the last mel frame of the first chunk, to the end of its window
    batch.push(slot, noise(1, seed=2)[: needed - 1])
    assert not batch.ready
    batch.push(slot, noise(1, seed=2)[needed - 1 : needed])
    assert batch.ready


def test_snapshot_brings_a_stream_back() -> None:
    model = tiny_model()
    batch = model.streams(2)
    samples, lookahead = noise(4, seed=3), 6
    slot = batch.open(lookahead=lookahead)
    batch.push(slot, samples[:30_000])
    drain(batch)
    moment = batch.snapshot(slot)
    batch.push(slot, np.zeros(FRAME * 7, np.float32))
    batch.finish(slot)
    drain(batch)
    early = batch.transcript(slot)
    assert len(early.token_ids) > 0

    batch.restore(slot, moment)
    batch.push(slot, samples[30_000:])
    batch.finish(slot)
    drain(batch)
    assert list(batch.transcript(slot).token_ids) == whole_file(model, samples, lookahead)


def test_snapshot_continues_in_another_slot_beside_the_first() -> None:
    model = tiny_model()
    batch = model.streams(3)
    samples = noise(4, seed=4)
    first, second = batch.open(lookahead=1), batch.open(lookahead=13)
    batch.push(first, samples[:33_333])
    drain(batch)
    batch.restore(second, batch.snapshot(first))
    for slot in (first, second):
        batch.push(slot, samples[33_333:])
        batch.finish(slot)
    drain(batch)
    expected = whole_file(model, samples, 1)
    assert list(batch.transcript(first).token_ids) == expected
    assert list(batch.transcript(second).token_ids) == expected


def test_slot_reuse_leaks_nothing() -> None:
    model = tiny_model()
    batch = model.streams(1)
    for seed in range(3):
        abandoned = batch.open(lookahead=0)
        batch.push(abandoned, noise(1.3, seed=seed))
        batch.step()
        batch.close(abandoned)
        samples = noise(1.7, seed=10 + seed)
        assert streamed(batch, samples, [5_000], 1) == whole_file(model, samples, 1)


def test_warming_up_leaves_no_trace() -> None:
    model = tiny_model()
    batch = model.streams(1)
    batch.warm_up()
    assert batch.free_slots == 1
    samples = noise(2, seed=12)
    assert streamed(batch, samples, [], 6) == whole_file(model, samples, 6)


def test_a_long_backlog_is_kept_whole() -> None:
    model = tiny_model()
    samples = noise(40, seed=6)
    assert streamed(model.streams(1), samples, [600_000], 6) == whole_file(model, samples, 6)


def test_pushed_audio_is_copied() -> None:
    model = tiny_model()
    batch = model.streams(1)
    samples = noise(30, seed=7)
    expected = whole_file(model, samples, 13)
    slot = batch.open(lookahead=13)
    packet = samples.copy()
    batch.push(slot, packet)
    packet[:] = 1.0
    batch.finish(slot)
    drain(batch)
    assert list(batch.transcript(slot).token_ids) == expected


def test_left_contexts_may_differ_between_lookaheads() -> None:
    config = with_lookaheads((32, 7), (28, 3), (30, 0))
    model = Model(random_network(config), tiny_model().tokenizer)
    batch = model.streams(3)
    samples = noise(4, seed=8)
    slots = {right: batch.open(lookahead=right) for right in (7, 3, 0)}
    for slot in slots.values():
        batch.push(slot, samples)
        batch.finish(slot)
    drain(batch)
    for lookahead, slot in slots.items():
        expected = whole_file(model, samples, lookahead)
        assert list(batch.transcript(slot).token_ids) == expected


def test_misuse_is_an_error_and_harms_nobody() -> None:
    model = tiny_model()
    batch = model.streams(1)
    with pytest.raises(StreamStateError, match="free"):
        batch.push(0, noise(0.1))
    with pytest.raises(StreamStateError, match="no slot 7"):
        batch.push(7, noise(0.1))
    with pytest.raises(ValueError, match="look-ahead 5"):
        batch.open(lookahead=5)
    with pytest.raises(ValueError, match="no language"):
        batch.open(language="de-DE")
    slot = batch.open(lookahead=1)
    with pytest.raises(StreamStateError, match="all 1 slots"):
        batch.open()
    samples = noise(2, seed=9)
    batch.push(slot, samples[:20_000])
    with pytest.raises(ShapeError, match="float32"):
        batch.push(slot, np.zeros(10, np.int16))
    with pytest.raises(ShapeError):
        batch.push(slot, np.zeros((2, 10), np.float32))
    batch.push(slot, samples[20_000:])
    batch.finish(slot)
    with pytest.raises(StreamStateError, match="finishing"):
        batch.push(slot, samples)
    drain(batch)
    with pytest.raises(StreamStateError, match="ended"):
        batch.finish(slot)
    assert list(batch.transcript(slot).token_ids) == whole_file(model, samples, 1)


def test_transcribe_gives_the_recordings_in_order() -> None:
    model = tiny_model()
    recordings = [noise(seconds, seed=20 + i) for i, seconds in enumerate((3, 0.5, 25, 0, 1))]
    found = model.transcribe(recordings, lookahead=6)
    for transcript, samples in zip(found, recordings, strict=True):
        assert list(transcript.token_ids) == whole_file(model, samples, 6)
    assert model.transcribe([]) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_numbers_that_are_no_audio_are_refused_and_leave_no_trace(value: float) -> None:
    model = tiny_model()
    batch = model.streams(1)
    samples = noise(2, seed=13)
    slot = batch.open(lookahead=1)
    batch.push(slot, samples[:16_000])
    broken = samples[16_000:].copy()
    broken[5] = value
    with pytest.raises(ShapeError, match="not finite"):
        batch.push(slot, broken)
    with pytest.raises(ShapeError, match="not finite"):
        model.transcribe(broken)
    batch.push(slot, samples[16_000:])
    batch.finish(slot)
    drain(batch)
    assert list(batch.transcript(slot).token_ids) == whole_file(model, samples, 1)


def test_warming_up_is_refused_while_a_stream_is_open() -> None:
    batch = tiny_model().streams(2)
    slot = batch.open()
    batch.push(slot, noise(3))
    batch.finish(slot)
    with pytest.raises(StreamStateError, match="before the first stream"):
        batch.warm_up()
    assert drain(batch)[-1].is_final


def test_a_step_that_fails_fails_its_streams_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model()
    batch = model.streams(2)
    working, idle = batch.open(lookahead=1), batch.open(lookahead=1)
    samples = noise(2, seed=14)
    batch.push(working, samples)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model._network.preprocessor, "frames", fail)
        with pytest.raises(MemoryError):
            batch.step()
    with pytest.raises(StreamStateError, match="failed"):
        batch.push(working, samples)
    assert not batch.ready
    batch.close(working)
    batch.push(idle, samples)
    batch.finish(idle)
    drain(batch)
    assert list(batch.transcript(idle).token_ids) == whole_file(model, samples, 1)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_padding_is_what_decodes_everything_pushed_and_no_more(lookahead: int) -> None:
    batch = tiny_model().streams(1)
    slot = batch.open(lookahead=lookahead)
    chunk = (lookahead + 1) * FRAME
    assert batch.padding(slot) == 0
    received = 0
    for size in (chunk // 3, 1, chunk, 2 * chunk + 177, 160):
        batch.push(slot, noise(4)[:size])
        received += size
        drain(batch)
        padding = batch.padding(slot)
        assert padding <= chunk + 2 * 1_280
        if padding:
            batch.push(slot, np.zeros(padding - 1, np.float32))
            drain(batch)
            assert batch.decoded_samples(slot) < received
            batch.push(slot, np.zeros(1, np.float32))
            received += padding
            drain(batch)
        assert batch.decoded_samples(slot) >= received - padding


def test_what_is_forgotten_leaves_the_transcript_and_nothing_else() -> None:
    model = tiny_model()
    samples = noise(4, seed=3)
    expected = whole_file(model, samples, 1)
    batch = model.streams(1)
    slot = batch.open(lookahead=1)
    batch.push(slot, samples[:30_000])
    drain(batch)
    first = batch.transcript(slot)
    batch.forget(slot)
    assert batch.transcript(slot).token_ids == ()
    batch.push(slot, samples[30_000:])
    batch.finish(slot)
    drain(batch)
    rest = batch.transcript(slot)
    assert first.token_ids
    assert rest.token_ids
    assert list(first.token_ids + rest.token_ids) == expected
    assert rest.token_times[0] >= first.token_times[-1]


def test_the_last_words_can_be_kept() -> None:
    batch = tiny_model().streams(1)
    slot = batch.open(lookahead=1)
    batch.push(slot, noise(6, seed=3))
    drain(batch)
    words = batch.transcript(slot).words
    assert len(words) > 4
    batch.forget(slot, keep_words=3)
    kept = batch.transcript(slot).words
    assert 3 <= len(kept) < len(words)
    assert kept == words[-len(kept) :]
    batch.forget(slot, keep_words=100)
    assert batch.transcript(slot).words == kept


def test_a_foreign_snapshot_is_refused_and_the_stream_goes_on() -> None:
    model = tiny_model()
    other = Model(random_network(seed=3), model.tokenizer).streams(1)
    ctc = model.streams(1, decoder="ctc")
    batch = model.streams(1)
    samples = noise(2, seed=15)
    slot = batch.open(lookahead=6)
    batch.push(slot, samples[:20_000])
    drain(batch)
    for foreign in (other, ctc):
        snapshot = foreign.snapshot(foreign.open())
        with pytest.raises(StreamStateError, match="another model"):
            batch.restore(slot, snapshot)
    batch.push(slot, samples[20_000:])
    batch.finish(slot)
    drain(batch)
    assert list(batch.transcript(slot).token_ids) == whole_file(model, samples, 6)


def test_the_callers_inference_mode_does_not_matter() -> None:
    model = tiny_model()
    with torch.inference_mode():
        batch = model.streams(1)
    samples = noise(1.5, seed=16)
    assert streamed(batch, samples, [], 1) == whole_file(model, samples, 1)


def test_models_with_normalised_features_transcribe_but_do_not_stream() -> None:
    config = replace(CONFIG, preprocessor=replace(CONFIG.preprocessor, normalize="per_feature"))
    model = Model(random_network(config), tiny_model().tokenizer)
    with pytest.raises(UnsupportedError, match="normalised"):
        model.streams(1)
    samples = noise(3, seed=17)
    found = model.transcribe(samples, lookahead=1)[0]
    assert list(found.token_ids) == whole_file(model, samples, 1)


def test_what_transcribe_cannot_take_is_an_error() -> None:
    model = tiny_model()
    with pytest.raises(ShapeError, match="not \\(S,\\)"):
        model.transcribe(np.zeros((400, 2), np.float32))
    with pytest.raises(ShapeError, match="int32"):
        model.transcribe(np.zeros(400, np.int32))
    with pytest.raises(ValueError, match="sample_rate"):
        model.transcribe(np.zeros(400, np.float32), sample_rate=float("nan"))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="no audio file"):
        model.transcribe(__file__)
    with pytest.raises(UnsupportedError, match="CTC"):
        model.transcribe(noise(1), decoder="CTC")  # type: ignore[arg-type]


def test_what_a_finished_copy_told_is_not_told_again() -> None:
    model = tiny_model()
    samples = noise(4, seed=3)
    batch = model.streams(1)
    slot = batch.open(lookahead=6)
    batch.push(slot, samples[:30_000])
    drain(batch)
    moment = batch.snapshot(slot)
    batch.finish(slot)
    assert not batch.has_ended(slot)
    drain(batch)
    assert batch.has_ended(slot)
    told = batch.transcript(slot)
    batch.restore(slot, moment)
    batch.forget(slot, undecoded=True)
    batch.push(slot, samples[30_000:])
    batch.finish(slot)
    updates = drain(batch)
    rest = batch.transcript(slot)
    whole = model.transcribe(samples, lookahead=6)[0]
    count = len(rest.token_ids)
    assert 0 < count < len(whole.token_ids)
    assert rest.token_ids == whole.token_ids[-count:]
    assert rest.token_times == whole.token_times[-count:]
    assert told.token_times[-1] < rest.token_times[0]
    # Of the whole recording nothing is between what was told and what came after.
    assert whole.token_times[-count - 1] <= told.token_times[-1]
    assert tuple(token for update in updates for token in update.token_ids) == rest.token_ids


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_a_stream_with_a_chunk_is_in_the_next_step(lookahead: int) -> None:
    batch = tiny_model().streams(2)
    slot, other = batch.open(lookahead=lookahead), batch.open(lookahead=lookahead)
    batch.push(other, noise(2.5))
    for size in (500, 700, 1_280, 5_000, 18_000):
        batch.push(slot, noise(2)[:size])
        while batch.has_chunk(slot):
            before = batch.decoded_samples(slot)
            batch.step()
            assert batch.decoded_samples(slot) > before
        drain(batch)
        assert not batch.has_chunk(slot)
