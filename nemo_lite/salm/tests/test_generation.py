"""Requests in one batch: whatever is around a request, it gets what it would get alone."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nemo_lite.errors import ShapeError
from nemo_lite.salm import generation
from nemo_lite.salm.encoding import Encoding
from nemo_lite.salm.generation import Generated, GenerationBatch
from nemo_lite.salm.graphed_passes import GraphedPasses
from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.passes import EagerPasses
from nemo_lite.salm.tests.tiny import noise, tiny_network, tiny_tokenizer
from nemo_lite.salm.tokenizer import PromptIds

LENGTH = 96
PROMPT = tiny_tokenizer().prompt()


@dataclass(frozen=True)
class Case:
    samples: NDArray[np.float32]
    prompt: PromptIds
    limit: int


@cache
def network() -> SalmNetwork:
    return tiny_network()


@cache
def cases() -> tuple[Case, ...]:
    """Of many lengths, one without a single frame."""
    texts = (None, "Hear the rain:", "we")
    return tuple(
        Case(
            noise(0.13 * index * index % 3.1, seed=index),
            tiny_tokenizer().prompt(texts[index % 3]),
            1 + 7 * index % 19,
        )
        for index in range(10)
    )


def new_batch(slots: int, model: SalmNetwork | None = None) -> GenerationBatch:
    ends = tiny_tokenizer().end_tokens
    return GenerationBatch(model or network(), slots=slots, length=LENGTH, end_tokens=ends)


def add(batch: GenerationBatch, case: Case) -> int:
    return batch.add(case.samples, case.prompt, max_new_tokens=case.limit)


def drain(batch: GenerationBatch) -> dict[int, Generated]:
    done: dict[int, Generated] = {}
    while batch.active or batch.waiting:
        done.update(batch.step())
    return done


@cache
def alone(index: int) -> Generated:
    batch = new_batch(1)
    number = add(batch, cases()[index])
    return drain(batch)[number]


def plainly(case: Case) -> list[int]:
    """One request, everything read again for every token."""
    model, written = network(), list[int]()
    with torch.inference_mode():
        rows = [model.embed(torch.tensor(case.prompt.before))]
        if len(case.samples) >= 160:
            samples = torch.from_numpy(case.samples)[None]
            frames, lengths = model.perception(samples, torch.tensor([samples.shape[1]]))
            rows.append(frames[0, : int(lengths)])
        rows.append(model.embed(torch.tensor(case.prompt.after)))
        while len(written) < case.limit:
            cache = KvCache.allocate(model.llm.config, slots=1, length=LENGTH, like=rows[0])
            passes = EagerPasses(model, cache)
            reading = generation.Reading(0, 0, torch.cat(rows), last=True)
            token = passes.run({}, [reading])[0].id
            if token in tiny_tokenizer().end_tokens:
                break
            written.append(token)
            rows.append(model.embed(torch.tensor([token])))
    return written


@pytest.mark.parametrize("index", range(10))
def test_tokens_are_those_of_a_plain_loop(index: int) -> None:
    found = alone(index)
    assert list(found.tokens) == plainly(cases()[index])
    assert len(found.probabilities) == len(found.tokens)
    assert all(0.0 < probability <= 1.0 for probability in found.probabilities)


def test_some_requests_end_by_themselves_and_some_at_their_limit() -> None:
    at_limit = [len(alone(i).tokens) == case.limit for i, case in enumerate(cases())]
    assert any(at_limit)
    assert not all(at_limit)


ACTIONS = st.lists(
    st.one_of(st.integers(0, 9), st.just("step"), st.just("cancel")), min_size=4, max_size=40
)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS, slots=st.integers(1, 5), data=st.data())
@pytest.mark.parametrize("graphed", [False, True])
def test_neighbours_slots_order_and_cancellations_change_nothing(
    graphed: bool, actions: list[int | str], slots: int, data: st.DataObject
) -> None:
    batch = new_batch(slots)
    if graphed:
        batch.passes = GraphedPasses(network(), batch._cache)
    running: dict[int, int] = {}
    for action in actions:
        if isinstance(action, int):
            running[add(batch, cases()[action])] = action
        elif action == "cancel" and running:
            number = data.draw(st.sampled_from(sorted(running)))
            batch.cancel(number)
            del running[number]
        else:
            check(dict(batch.step()), running)
        assert batch.active <= slots
        assert batch.active + batch.waiting == len(running)
    check(drain(batch), running)
    assert not running


def check(done: dict[int, Generated], running: dict[int, int]) -> None:
    for number, generated in done.items():
        expected = alone(running.pop(number))
        assert generated.tokens == expected.tokens
        np.testing.assert_allclose(generated.probabilities, expected.probabilities, atol=1e-4)


def test_prompts_read_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = new_batch(4)
    monkeypatch.setattr(batch._pace, "chunk", lambda _writers, wanted: min(wanted, 3))
    running = {add(batch, case): index for index, case in enumerate(cases())}
    check(drain(batch), running)
    assert not running


def test_recordings_encoded_together_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    advance = Encoding.advance

    def spy(self: Encoding) -> list[torch.Tensor] | None:
        frames = advance(self)
        sizes.extend([len(frames)] if frames else [])
        return frames

    monkeypatch.setattr(Encoding, "advance", spy)
    batch = new_batch(8)
    batch._group_frames = 1000
    chosen = [5, 5, 5, 5, 8, 8]
    running = {add(batch, cases()[index]): index for index in chosen}
    check(drain(batch), running)
    assert max(sizes) > 1


@pytest.mark.parametrize(
    ("samples", "before", "limit"),
    [
        (np.zeros(16_000 * 30, np.float32), 3, 1),
        (np.zeros(1600, np.float32), 3, LENGTH),
        (np.zeros(1600, np.float32), 3, 0),
        (np.zeros((1, 1600), np.float32), 3, 5),
        (np.zeros(1600, np.float64), 3, 5),
        (np.full(1600, np.nan, np.float32), 3, 5),
        (np.zeros(0, np.float32), 0, 5),
    ],
)
def test_what_does_not_fit_is_refused_and_harms_nobody(
    samples: NDArray[np.float32], before: int, limit: int
) -> None:
    batch = new_batch(2)
    running = {add(batch, cases()[3]): 3}
    batch.step()
    with pytest.raises(ShapeError):
        batch.add(samples, PromptIds((1,) * before, ()), max_new_tokens=limit)
    check(drain(batch), running)
    assert not running


def test_a_request_fills_its_slot_to_the_last_position() -> None:
    ends = frozenset[int]()
    case = cases()[3]
    frames = network().perception.output_frames(len(case.samples))
    rows = len(PROMPT.before) + frames + len(PROMPT.after)
    lengths = (rows + 12, rows + 40)
    found: list[tuple[int, ...]] = []
    for length in lengths:
        batch = GenerationBatch(network(), slots=2, length=length, end_tokens=ends)
        number = batch.add(case.samples, PROMPT, max_new_tokens=12)
        found.append(drain(batch)[number].tokens)
    assert len(found[0]) == 12
    assert found[0] == found[1]


def poisoned_network() -> SalmNetwork:
    """Token 7 is no number to it."""
    model = tiny_network()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    model.embed_tokens.weight[7] = torch.nan
    return model


@pytest.mark.parametrize("graphed", [False, True])
def test_a_request_ends_at_the_first_result_that_is_no_number_and_says_so(graphed: bool) -> None:
    model = poisoned_network()
    batch = new_batch(2, model)
    if graphed:
        batch.passes = GraphedPasses(model, batch._cache)
    poisoned = batch.add(cases()[4].samples, PromptIds((7, 8), (7,)), max_new_tokens=30)
    sound = add(batch, cases()[4])
    assert batch.step() == [(poisoned, Generated((), (), failed=True))]
    assert batch.active + batch.waiting == 1
    check(drain(batch), {sound: 4})


def test_what_was_written_before_a_failure_is_given() -> None:
    model = tiny_network()
    batch = new_batch(1, model)
    number = batch.add(cases()[3].samples, cases()[3].prompt, max_new_tokens=12)
    written = alone(3).tokens
    assert len(written) > 2
    found: list[tuple[int, Generated]] = []
    for _ in range(2):
        found += batch.step()
    assert found == []
    with torch.inference_mode():
        model.llm.norm.weight.fill_(torch.inf)
    ((failed, generated),) = batch.step()
    assert (failed, generated.failed) == (number, True)
    assert generated.tokens == written[: len(generated.tokens)]
    assert 0 < len(generated.tokens) == len(generated.probabilities) < len(written)


def test_what_is_no_number_stays_with_its_request() -> None:
    model = poisoned_network()
    batch = new_batch(1, model)
    poisoned = batch.add(cases()[4].samples, PromptIds((7, 8), (7,)), max_new_tokens=3)
    drain(batch)
    cancelled = batch.add(cases()[4].samples, PromptIds((7, 8), (7,)), max_new_tokens=3)
    batch.step()
    batch.cancel(cancelled)
    number = add(batch, cases()[4])
    assert number not in (poisoned, cancelled)
    assert drain(batch)[number].tokens == alone(4).tokens


def test_the_samples_are_copied_and_unknown_requests_cancel_nothing() -> None:
    batch = new_batch(1)
    samples = cases()[3].samples.copy()
    number = batch.add(samples, cases()[3].prompt, max_new_tokens=cases()[3].limit)
    samples[:] = 0.0
    batch.cancel(number + 99)
    assert drain(batch)[number].tokens == alone(3).tokens
    assert batch.step() == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("graphed", [False, True])
def test_cuda_gives_what_the_cpu_gives(graphed: bool) -> None:
    model = tiny_network().to("cuda")
    batch = new_batch(3, model)
    if not graphed:
        batch.passes = EagerPasses(model, batch._cache)
    running = {add(batch, case): index for index, case in enumerate(cases())}
    done = drain(batch)
    assert {running[n]: g.tokens for n, g in done.items()} == {
        index: alone(index).tokens for index in range(len(cases()))
    }
