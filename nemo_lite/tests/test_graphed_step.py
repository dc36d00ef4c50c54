"""Steps with fixed places: equal to the plain ones whatever the padding; on CUDA, as graphs."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import nemo_lite
from nemo_lite.checkpoints import load_strictly, read_checkpoint
from nemo_lite.chunk_encoder import TorchChunkEncoder
from nemo_lite.config import PromptConfig
from nemo_lite.decoding import CtcDecoder, GreedyDecoder, RnntDecoder
from nemo_lite.graphed_step import GraphedStep, batch_sizes
from nemo_lite.network import Network
from nemo_lite.step import EagerStep, StepRunner
from nemo_lite.streaming import StreamBatch
from nemo_lite.tests.goldens import GOLDENS, case_names, load_case, needs_goldens
from nemo_lite.tests.tiny import CONFIG, noise, random_network, tiny_model, whole_file
from nemo_lite.tokenizer import Tokenizer

LOOKAHEADS = (13, 6, 1, 0)
Audio = NDArray[np.float32]

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])


def decoder_of(network: Network, *, ctc: bool = False) -> GreedyDecoder:
    if ctc:
        assert network.ctc_head is not None
        return CtcDecoder(network.ctc_head)
    return RnntDecoder(network.decoder, network.joint, max_symbols=network.config.max_symbols)


def graphed(network: Network, slots: int, *, ctc: bool = False) -> GraphedStep:
    return GraphedStep(network, decoder_of(network, ctc=ctc), slots)


def eager(network: Network, slots: int, *, ctc: bool = False) -> EagerStep:
    encoder = TorchChunkEncoder(network.encoder, slots, frames_per_step=1)
    return EagerStep(network, encoder, decoder_of(network, ctc=ctc), slots)


def streams_of(network: Network, runner: StepRunner, slots: int) -> StreamBatch:
    tokenizer = tiny_model().tokenizer
    return StreamBatch(network, tokenizer, runner, slots=slots, frames_per_step=1)


def drain(batch: StreamBatch) -> None:
    while batch.ready:
        batch.step()


def recognise(
    batch: StreamBatch, recordings: Iterable[tuple[Audio, int]], *, packet: int = 3_000
) -> list[nemo_lite.Transcript]:
    """Stream (samples, look-ahead) pairs, each beginning one packet after the one before."""
    slots: dict[int, int] = {}
    found: dict[int, nemo_lite.Transcript] = {}
    waiting = list(enumerate(recordings))
    sent = [0] * len(waiting)
    audio = [samples for _, (samples, _) in waiting]
    while waiting or slots:
        if waiting and batch.free_slots:
            index, (_, lookahead) = waiting.pop(0)
            slots[batch.open(lookahead=lookahead)] = index
        for slot, index in slots.items():
            if sent[index] <= len(audio[index]):
                batch.push(slot, audio[index][sent[index] : sent[index] + packet])
                sent[index] += packet
                if sent[index] > len(audio[index]):
                    batch.finish(slot)
        for update in batch.step():
            if update.is_final:
                found[slots.pop(update.slot)] = batch.transcript(update.slot)
                batch.close(update.slot)
    return [found[index] for index in range(len(audio))]


def ids(transcripts: Iterable[nemo_lite.Transcript]) -> list[list[int]]:
    return [list(transcript.token_ids) for transcript in transcripts]


def differing(expected: list[list[int]], found: list[list[int]]) -> float:
    """Roughly the share of the streams' tokens that are not the same; 0 when all are."""
    if expected == found:
        return 0.0
    one, other = list(chain.from_iterable(expected)), list(chain.from_iterable(found))
    return max(1 - SequenceMatcher(None, one, other, autojunk=False).ratio(), 1e-9)


def rounding(device: str) -> float:
    """The share of tokens that may differ where random weights make nearly even choices.

    CUDA sums in an order that depends on the size of the batch.
    """
    return 0.0 if device == "cpu" else 0.02


def talkative(network: Network) -> Network:
    """The network with its blank made so unlikely that most frames emit all they may."""
    output = network.joint.joint_net[-1]
    assert isinstance(output, torch.nn.Linear)
    with torch.no_grad():
        output.bias[-1] -= 20
    return network


@torch.inference_mode()
def talkative_ctc(network: Network, lookahead: int) -> Network:
    """The network with a head that has another token at almost every frame."""
    assert network.ctc_head is not None
    layer = network.ctc_head.decoder_layers[0]
    assert isinstance(layer, torch.nn.Conv1d)
    assert layer.bias is not None
    samples = torch.from_numpy(noise(3, seed=1))[None]
    mel, lengths = network.preprocessor(samples, torch.tensor([samples.shape[1]]))
    frames = network.encoder(mel, lengths, lookahead=lookahead)[0][0]
    torch.nn.init.normal_(layer.weight)
    layer.bias.copy_(-layer.weight[:, :, 0] @ frames.mean(0))
    return network


@pytest.mark.parametrize("slots", [1, 2, 5, 31, 32, 33, 100, 1_000, 2_048])
def test_batches_are_padded_by_a_quarter_at_most(slots: int) -> None:
    sizes = batch_sizes(slots)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == slots
    for batch in range(33, slots + 1):
        assert min(size for size in sizes if size >= batch) <= 1.25 * batch
    assert len(sizes) <= 31


@settings(max_examples=10)
@given(
    streams=st.lists(
        st.tuples(st.sampled_from(LOOKAHEADS), st.floats(0.1, 1.5), st.integers(0, 99)),
        min_size=1,
        max_size=9,
    ),
    packet=st.integers(700, 20_000),
)
def test_neighbours_padding_and_lookaheads_do_not_matter(
    streams: list[tuple[int, float, int]], packet: int
) -> None:
    network = random_network()
    batch = streams_of(network, graphed(network, 7), 7)
    recordings = [(noise(seconds, seed=seed), lookahead) for lookahead, seconds, seed in streams]
    found = ids(recognise(batch, recordings, packet=packet))
    assert found == [whole_file(tiny_model(), *recording) for recording in recordings]


@on_every_device
@pytest.mark.parametrize("prepared", [False, True])
def test_streams_may_come_one_by_one(prepared: bool, device: str) -> None:
    network = random_network().to(device)
    runner = graphed(network, 9)
    if prepared:
        runner.prepare(network.config.encoder.contexts[1:3], 9)
    recordings = [(noise(1.5, seed=seed), 1 if seed % 3 else 6) for seed in range(9)]
    found = ids(recognise(streams_of(network, runner, 9), recordings, packet=2_000))
    expected = [whole_file(tiny_model(), *recording) for recording in recordings]
    assert differing(expected, found) <= rounding(device)


@on_every_device
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("max_symbols", [1, 12])
def test_a_stream_may_have_any_number_of_tokens_in_a_step(
    lookahead: int, max_symbols: int, device: str
) -> None:
    network = talkative(random_network(replace(CONFIG, max_symbols=max_symbols))).to(device)
    recordings = [(noise(1.3, seed=seed), lookahead) for seed in range(2)]
    found, expected = (
        recognise(streams_of(network, make(network, 3), 3), recordings) for make in (graphed, eager)
    )
    frames = 1.3 / 0.08
    assert all(len(transcript.token_ids) > 0.5 * max_symbols * frames for transcript in found)
    assert differing(ids(expected), ids(found)) <= rounding(device)
    for one, other in zip(found, expected, strict=True):
        if one.token_ids == other.token_ids:
            assert one.token_times == other.token_times
            # Single operations convolve in TF32 on CUDA, as torch does by default.
            tolerance = 1e-5 if device == "cpu" else 1e-2
            assert one.token_confidences == pytest.approx(other.token_confidences, abs=tolerance)


@on_every_device
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_ctc(lookahead: int, device: str) -> None:
    network = talkative_ctc(random_network(), lookahead).to(device)
    recordings = [(noise(3, seed=seed), lookahead) for seed in range(3)]
    found, expected = (
        recognise(streams_of(network, make(network, 3, ctc=True), 3), recordings)
        for make in (graphed, eager)
    )
    assert sum(len(transcript.token_ids) for transcript in found) > 80
    assert differing(ids(expected), ids(found)) <= rounding(device)
    for one, other in zip(found, expected, strict=True):
        if one.token_ids == other.token_ids:
            assert one.token_times == other.token_times


def test_each_stream_has_its_own_language() -> None:
    prompt = PromptConfig(8, 64, {"en-US": 1, "de-DE": 6, "auto": 3})
    network = random_network(replace(CONFIG, prompt=prompt))
    batch = streams_of(network, graphed(network, 5), 5)
    alone = streams_of(network, eager(network, 1), 1)
    samples, languages = noise(3, seed=1), ("de-DE", "en-US", None)
    slots = [batch.open(lookahead=1, language=language) for language in languages]
    for slot in slots:
        batch.push(slot, samples)
        batch.finish(slot)
    drain(batch)
    confidences: set[tuple[float, ...]] = set()
    for language, slot in zip(languages, slots, strict=True):
        expected = alone.open(lookahead=1, language=language)
        alone.push(expected, samples)
        alone.finish(expected)
        drain(alone)
        one, other = batch.transcript(slot), alone.transcript(expected)
        assert one.token_ids == other.token_ids
        assert one.token_confidences == pytest.approx(other.token_confidences, abs=1e-5)
        confidences.add(tuple(round(value, 3) for value in one.token_confidences))
        alone.close(expected)
    assert len(confidences) == 3


@on_every_device
@pytest.mark.parametrize(("before", "after"), [(graphed, eager), (eager, graphed)])
def test_a_stream_moves_between_the_two_kinds_of_step(before: Any, after: Any, device: str) -> None:
    network = random_network().to(device)
    samples = noise(4, seed=3)
    first = streams_of(network, before(network, 3), 3)
    second = streams_of(network, after(network, 2), 2)
    first.open()
    slot, other = first.open(lookahead=6), second.open(lookahead=0)
    first.push(slot, samples[:30_000])
    drain(first)
    assert first.transcript(slot).token_ids
    second.restore(other, first.snapshot(slot))
    second.push(other, samples[30_000:])
    second.finish(other)
    drain(second)
    expected, found = whole_file(tiny_model(), samples, 6), ids([second.transcript(other)])
    assert differing([expected], found) <= rounding(device)


def test_slot_reuse_leaks_nothing() -> None:
    network = random_network()
    batch = streams_of(network, graphed(network, 2), 2)
    for seed in range(3):
        abandoned = batch.open(lookahead=13)
        batch.push(abandoned, noise(2.3, seed=seed))
        drain(batch)
        batch.close(abandoned)
        recording = (noise(1.7, seed=10 + seed), 1)
        assert ids(recognise(batch, [recording])) == [whole_file(tiny_model(), *recording)]


class _Waits(TorchDispatchMode):
    """Collects what would make the host wait for the device or bring data to it."""

    NAMES = (
        "_local_scalar_dense nonzero masked_select bincount unique equal is_nonzero "
        "repeat_interleave lift_fresh"
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.seen.add(name)
        masks = name.startswith(("index", "_index_put")) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        if name in self.NAMES.split() or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ctc", [False, True])
def test_a_step_never_waits_for_the_device(ctc: bool) -> None:
    network = talkative(random_network())
    batch = streams_of(network, graphed(network, 4, ctc=ctc), 4)
    for lookahead in LOOKAHEADS:
        slot = batch.open(lookahead=lookahead)
        batch.push(slot, noise(1.5, seed=lookahead))
        batch.finish(slot)
    batch.step()  # constants may be made in the first one
    with _Waits() as waits:
        updates = batch.step()
    assert updates
    assert "fft_rfft" in waits.seen or "_fft_r2c" in waits.seen
    # What is brought to the device is the samples of the four groups, no constants.
    assert waits.found == ["aten.lift_fresh.default"] * 4


@cache
def golden_network(name: str, device: str, dtype: torch.dtype) -> Network:
    checkpoint = read_checkpoint(GOLDENS / "nemo_files" / f"{name}.nemo")
    with torch.device("meta"):
        network = Network(checkpoint.config)
    load_strictly(network, checkpoint.state, source=name)
    return network.eval().to(device, dtype)


def golden_streams(
    name: str, device: str, dtype: torch.dtype
) -> Iterator[tuple[list[int], list[int]]]:
    """NeMo's tokens and ours for every look-ahead, all of them in one batch of five slots."""
    samples, _ = soundfile.read(GOLDENS / "nemo_files" / f"{name}.wav", dtype="float32")
    entries = load_case("nemo_files", name).expected["lookaheads"]
    network = golden_network(name, device, dtype)
    pieces = Tokenizer.from_pieces([f"▁{i}" for i in range(network.config.vocabulary_size)])
    runner = graphed(network, 5)
    batch = StreamBatch(network, pieces, runner, slots=5, frames_per_step=1)
    found = recognise(batch, [(samples, e["att_context_size"][1]) for e in entries])
    for entry, transcript in zip(entries, found, strict=True):
        yield entry["offline"]["tokens"], list(transcript.token_ids)


@needs_goldens
@on_every_device
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_float32_gives_nemos_tokens(name: str, device: str) -> None:
    for expected, found in golden_streams(name, device, torch.float32):
        assert found == expected


@needs_goldens
@on_every_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_half_precision_gives_nearly_nemos_tokens(
    name: str, dtype: torch.dtype, device: str
) -> None:
    for expected, found in golden_streams(name, device, dtype):
        assert differing([expected], [found]) < 0.1


@on_every_device
def test_a_decoder_forgets_in_both_kinds_of_step(device: str) -> None:
    network = random_network().to(device)
    samples = noise(3, seed=6)
    found: list[tuple[list[int], float]] = []
    for make, resets in ((eager, True), (graphed, True), (graphed, False)):
        batch = streams_of(network, make(network, 3), 3)
        slot = batch.open(lookahead=1)
        batch.push(slot, samples[:30_000])
        drain(batch)
        batch.forget(slot)
        if resets:
            batch.reset_decoder(slot)
        batch.push(slot, samples[30_000:])
        batch.finish(slot)
        drain(batch)
        transcript = batch.transcript(slot)
        found.append((list(transcript.token_ids), transcript.token_confidences[0]))
    assert differing([found[0][0]], [found[1][0]]) <= rounding(device)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5 if device == "cpu" else 1e-2)
    assert abs(found[1][1] - found[2][1]) > 1e-3
