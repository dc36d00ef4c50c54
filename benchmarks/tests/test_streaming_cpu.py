"""The CPU benchmark on a tiny model: every contender computes the same, and the tables say so."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import streaming_cpu
from full_size import random_network
from int8_ceiling import Ceiling, ceilings, linear_weights
from nemo_peer import NemoChunkEncoder
from streaming_runs import LEFT_FRAMES, Audio, LiveBatch, Plan, Run, encoder_error, token_error
from streaming_tables import INT8, REFERENCE, STOCK, Results, report

from nemo_lite import FastConformer
from nemo_lite.chunk_encoder import TorchChunkEncoder
from nemo_lite.network import Network


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The model is tiny: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network("tiny")


def cells(text: str, columns: int) -> list[list[str]]:
    """The rows of the tables with so many columns, without head and rule."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in row] for row in rows if len(row) == columns]
    return [row for row in found if row[0].isdigit()]


def run(
    lookahead: int = 1, batch: int = 1, step_s: float = 0.1, tokens: tuple[int, ...] = (7, 8)
) -> Run:
    return Run(
        Plan(lookahead, batch),
        [step_s] * 4,
        [step_s / 2] * 4,
        torch.ones(len(tokens), 2),
        list(enumerate(tokens)),
    )


@pytest.mark.slow
def test_quick_run_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "benchmarks.md"
    command = ["--quick", "--chunks", "560", "--threads", "1", "--write", str(path)]
    monkeypatch.setattr(sys, "argv", ["streaming_cpu.py", *command])
    streaming_cpu.main()
    text = path.read_text()
    measured = {row[1] for row in cells(text, 9)}
    assert {name for name in streaming_cpu.CONTENDERS if f"Not measured: {name}:" not in text} == (
        measured
    )
    errors = {row[1]: float(row[7]) for row in cells(text, 9)}
    for name, error in errors.items():
        if "int8" in name:
            assert 1e-4 < error < 0.1
        elif "bfloat16" not in name:
            assert error < 1e-5  # the hoisted projections change nothing
    steps = cells(text, 7)
    assert {(row[0], row[1]) for row in steps if row[2] in measured} == {("560", "1"), ("560", "3")}
    assert all(
        float(row[3]) < float(row[4]) <= float(row[5]) for row in steps if row[2] in measured
    )


def test_a_warm_stream_goes_on_as_if_it_had_never_been_copied(network: Network) -> None:
    def new_encoder(slots: int) -> TorchChunkEncoder:
        return TorchChunkEncoder(network.encoder, slots, frames_per_step=1)

    audio, plan = Audio(20.0), Plan(lookahead=6, batch=2, fewest=3, most=3)
    found = LiveBatch(network, new_encoder).run(plan, audio)
    frames = LEFT_FRAMES + 3 * plan.chunk_frames
    assert found.encoded.shape == (frames, network.config.encoder.d_model)
    samples = torch.from_numpy(audio.samples(0, 0, 1_280 * (frames + 1)))
    with torch.inference_mode():
        mel, lengths = network.preprocessor(samples[None], torch.tensor([len(samples)]))
        whole, _ = network.encoder(mel, lengths, lookahead=6)
    # The last chunk sees nothing of what lies behind it.
    assert torch.allclose(found.encoded, whole[0, :frames], atol=1e-4)
    assert len(found.steps_s) == len(found.encoder_s) == 2


class RecordedNemo:
    """Stands in for NeMo's encoder and keeps what it is asked."""

    def __init__(self) -> None:
        self.steps: list[tuple[torch.Tensor, int]] = []

    def get_initial_cache_state(self, batch: int) -> tuple[torch.Tensor, ...]:
        lengths = torch.zeros(batch, dtype=torch.int64)
        return torch.zeros(2, batch, 70, 64), torch.zeros(2, batch, 64, 8), lengths

    def set_default_att_context_size(self, context: list[int]) -> None:
        self.frames = context[1] + 1

    def cache_aware_stream_step(
        self, *, processed_signal: torch.Tensor, drop_extra_pre_encoded: int, **caches: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        self.steps.append((processed_signal, drop_extra_pre_encoded))
        batch = len(processed_signal)
        encoded, lengths = torch.zeros(batch, 64, self.frames), torch.full((batch,), self.frames)
        kept = (caches[f"cache_last_{name}"] for name in ("channel", "time", "channel_len"))
        return encoded, lengths, *kept


def test_nemo_gets_the_mel_frames_that_its_own_buffer_would_give(network: Network) -> None:
    nemo, audio, plan = RecordedNemo(), Audio(20.0), Plan(lookahead=6, batch=2, fewest=2, most=2)
    LiveBatch(network, lambda slots: NemoChunkEncoder(nemo, slots)).run(plan, audio)
    samples = torch.from_numpy(audio.samples(0, 0, 16_000 * 9))
    mel, _ = network.preprocessor(samples[None], torch.tensor([len(samples)]))
    ends = [49 + 56 * step for step in range(12)]
    starts = [0, *(end - 56 - 9 for end in ends[1:])]
    assert [dropped for _, dropped in nemo.steps] == [0] + [2] * 11
    for (signal, _), start, end in zip(nemo.steps, starts, ends, strict=True):
        assert torch.allclose(signal[0], mel[0, :, start:end], atol=1e-3)


def test_streams_hear_different_things_and_stream_0_always_the_same() -> None:
    audio = Audio(5.0)
    first, other = audio.samples(0, 0, 1_000), audio.samples(1, 0, 1_000)
    assert (first != other).any()
    assert (first == Audio(5.0).samples(0, 0, 1_000)).all()
    assert len(audio.samples(31, 79_990, 1_000)) == 1_000


def test_streams_are_batch_times_chunk_by_step() -> None:
    assert run(lookahead=1, batch=8, step_s=0.2).streams == pytest.approx(8 * 0.16 / 0.2)


def test_errors_count_what_both_have() -> None:
    reference = run(tokens=(7, 8, 9, 9))
    assert token_error(run(tokens=(7, 8)), reference) == 0.0
    assert token_error(run(tokens=(7, 7, 9, 9)), reference) == 0.25
    longer = run(tokens=(7, 8))
    longer.encoded.mul_(1.5)
    assert math.isclose(encoder_error(longer, reference), 0.5)


def test_tables_give_the_best_batch_and_the_ratio_to_the_peer() -> None:
    runs = {
        REFERENCE: [run(step_s=0.2)],
        INT8: [run(batch=1, step_s=0.05), run(batch=8, step_s=0.2)],
        STOCK: [run(step_s=0.4)],
    }
    missing, digits = {"NeMo": "gone"}, {"int8": {1: 0.0123}}
    text = report(
        Results(runs, missing, {2: Ceiling("fast", 0.02), 16: Ceiling("f", 0.05)}, digits)
    )
    best = {row[1]: row for row in cells(text, 9)}
    assert best[INT8][2:7] == ["**6.4**", "8", "1", "16.0", "–"]
    assert best[STOCK][3:6] == ["1", "0", "1.0"]
    assert [row[-1] for row in cells(text, 7)[-2:]] == ["80 %", "50 %"]
    assert "| int8 | 1.23 % |" in text
    assert "Not measured: NeMo: gone." in text


def test_no_larger_batch_once_it_is_too_late() -> None:
    class Slow:
        def run(self, plan: Plan, audio: Audio) -> Run:
            return run(plan.lookahead, plan.batch, step_s=0.1 * plan.batch)

    plans = [Plan(lookahead, batch) for lookahead in (1, 6) for batch in (1, 8, 16)]
    found = streaming_cpu._runs("slow", Slow(), plans, Audio(1.0))
    # 160 ms: 100, then 800 ms. 560 ms: 100, 800 and 1600 ms.
    assert [(r.plan.lookahead, r.plan.batch) for r in found] == [
        *((1, 1), (1, 8)),
        *((6, 1), (6, 8), (6, 16)),
    ]


def test_a_disturbed_run_is_repeated_and_a_steady_one_is_not() -> None:
    asked: list[float] = []

    class Busy:
        def run(self, plan: Plan, audio: Audio) -> Run:
            asked.append(0.5 if len(asked) == 0 else 0.1)
            measured = run(step_s=0.1)
            measured.steps_s[-1] = asked[-1]
            return measured

    (kept,) = streaming_cpu._runs("busy", Busy(), [Plan(1, 1)], Audio(1.0))
    assert asked == [0.5, 0.1]
    assert kept.p95_s == pytest.approx(0.1)


def test_the_ceiling_multiplies_with_every_weight_of_a_frame(network: Network) -> None:
    encoder: FastConformer = network.encoder
    width, ff = encoder.config.d_model, encoder.config.ff_size
    per_layer = 4 * width * ff + 4 * width * width + 3 * width * width
    expected = encoder.config.layers * per_layer + encoder.pre_encode.out.weight.numel()
    assert sum(weight.numel() for weight in linear_weights(encoder)) == expected
    found = ceilings(encoder, [1, 64], threads=1, repeats=1)
    assert found[1].seconds > 0
    assert set(found) == {1, 64}
