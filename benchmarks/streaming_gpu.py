"""How many live streams one GPU holds, and how near a step comes to what the device can do.

    PYTHONPATH=. python benchmarks/streaming_gpu.py [--write docs/benchmarks.md]

The network has the size of the published model and random weights.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from device_limits import Limits, floor_s, measure_limits
from full_size import CONFIGS, babble, random_network
from gpu_rounds import (
    FRAME_MS,
    Budget,
    Case,
    Rounds,
    Samples,
    attempt,
    eager,
    graphed,
    run_rounds,
)
from precision import Heard, digits_error, encoder_error, hear, token_error
from report import machine, write_section

from nemo_lite.network import Network
from nemo_lite.step import StepRunner

SHARED = Path(__file__).resolve().parents[1] / "../shared"
DTYPES = ["bfloat16", "float16", "float32"]
BATCHES = [1, 8, 32, 128, 512, 1024, 2048]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one case; a text says why it was not."""

    case: Case
    graphs: Rounds | str
    eager: Rounds | str = "–"
    floor_ms: float = 0.0
    limit: str = ""

    @property
    def streams(self) -> float:
        """Real-time streams: batch times chunk by the 95th percentile; 0 where it failed."""
        if isinstance(self.graphs, str):
            return 0.0
        return self.case.batch * self.case.chunk_ms / self.graphs.percentile(95)

    @property
    def in_time(self) -> bool:
        """Whether this very batch keeps up."""
        return self.streams >= self.case.batch


@dataclass(frozen=True, slots=True)
class Precision:
    """What one dtype costs, and the device's limits in it."""

    dtype: str
    limits: Limits
    encoder_error: float
    token_error: float
    digits_error: float | str


def measure(network: Network, audio: Samples, case: Case, limits: Limits, budget: Budget) -> Row:
    """Graphs, single operations, and what the device allows."""

    def rounds(runner: Callable[[Network, int], StepRunner], budget: Budget) -> Rounds | str:
        return attempt(
            lambda: run_rounds(network, runner(network, case.batch), audio, case, budget)
        )

    found = rounds(graphed, budget)
    plain = rounds(eager, Budget(budget.seconds / 3, 3, budget.most // 4))
    context = network.config.encoder.context(case.lookahead)
    assert context is not None
    floor, limit = floor_s(network, context, case.batch, limits)
    return Row(case, found, plain, 1_000 * floor, limit)


def rows_table(rows: Sequence[Row]) -> str:
    """Everything that was measured."""
    lines = [
        "| dtype | chunk ms | batch | p50 ms | p95 | p99 | real-time streams | of p50 outside "
        "the step | eager p50 | peak GiB | floor ms | p50 ÷ floor |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        case, found, plain = row.case, row.graphs, row.eager
        start = f"| {case.dtype} | {case.chunk_ms} | {case.batch} |"
        if isinstance(found, str):
            lines.append(f"{start} {found} | | | | | {_p50(plain)} | | | |")
            continue
        p50, p95, p99 = (found.percentile(percent) for percent in (50, 95, 99))
        peak = "–" if found.peak_gib is None else f"{found.peak_gib:.1f}"
        lines.append(
            f"{start} {p50:.2f} | {p95:.2f} | {p99:.2f} | {row.streams:,.0f} "
            f"| {found.outside_ms:.2f} | {_p50(plain)} | {peak} "
            f"| {row.floor_ms:.2f} ({row.limit}) | {p50 / row.floor_ms:.1f} |"
        )
    return "\n".join(lines)


def summary_table(rows: Sequence[Row]) -> str:
    """The largest batch in time and the most streams, by dtype and chunk."""
    chunks = sorted({row.case.chunk_ms for row in rows})
    lines = [
        "| largest batch in time (real-time streams) | "
        + " | ".join(f"{chunk} ms" for chunk in chunks)
        + " | batch 1, p50 ms |",
        "| --- |" + " ---: |" * (len(chunks) + 1),
    ]
    for dtype in dict.fromkeys(row.case.dtype for row in rows):
        ours = [row for row in rows if row.case.dtype == dtype]
        cells: list[str] = []
        for chunk in chunks:
            kept = [row for row in ours if row.case.chunk_ms == chunk and row.in_time]
            best = max(kept, key=lambda row: row.case.batch, default=None)
            cells.append(f"{best.case.batch} ({best.streams:,.0f})" if best else "none")
        alone = [_p50(row.graphs) for row in ours if row.case.batch == 1]
        cells.append("–".join(dict.fromkeys((alone[0], alone[-1]))) if alone else "–")
        lines.append(f"| {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def precision_table(found: Sequence[Precision]) -> str:
    """Errors and the device's limits, by dtype."""
    lines = [
        "| dtype | encoder error | token error | `digits` word errors | copy TB/s "
        "| matrix TFLOP/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        digits = each.digits_error
        words = digits if isinstance(digits, str) else f"{digits:.2%}"
        lines.append(
            f"| {each.dtype} | {each.encoder_error:.1e} | {each.token_error:.2%} | {words} "
            f"| {each.limits.bytes_per_s / 1e12:.2f} | {each.limits.flops_per_s / 1e12:.1f} |"
        )
    return "\n".join(lines)


def report(
    arguments: argparse.Namespace,
    command: str,
    rows: Sequence[Row],
    precision: Sequence[Precision],
    rate: float,
) -> str:
    """The section of the document."""
    on_cuda = arguments.device.type == "cuda"
    device = torch.cuda.get_device_name(arguments.device) if on_cuda else "no GPU"
    cuda = f", CUDA {torch.version.cuda}" if on_cuda else ""
    return f"""## Live streams on a GPU (`{arguments.model}`)

{device}; {machine()}; torch {torch.__version__}{cuda}; `{command}`.

A round gives one chunk to every stream and ends with their tokens on the host; real-time streams
are batch × chunk ÷ p95. "Outside the step" is Python: buffers, text, updates. "Eager" runs the
same operations without a graph. The floor is the longer of reading weights and caches at the
measured copy rate and of the encoder's products at the measured matrix rate.

{summary_table(rows)}

Errors are against float32 on the CPU, of the measured steps themselves; random weights, which emit
{rate:.2f} tokens per frame, decide more narrowly than trained ones.

{precision_table(precision)}

{rows_table(rows)}"""


def _p50(rounds: Rounds | str) -> str:
    return rounds if isinstance(rounds, str) else f"{rounds.percentile(50):.2f}"


def _recordings(audio: Samples, quick: bool) -> list[Samples]:
    """What the errors are measured on: of one length, since these streams stay together."""
    count, seconds = (2, 3) if quick else (4, 12)
    size = seconds * 16_000
    return [audio[index * size : (index + 1) * size] for index in range(count)]


def _precision(
    network: Network, reference: Heard, arguments: argparse.Namespace, audio: Samples
) -> Precision:
    dtype = network.dtype
    found = hear(network, _recordings(audio, arguments.quick), reference.lookahead)
    return Precision(
        str(dtype).removeprefix("torch."),
        measure_limits(arguments.device, dtype),
        encoder_error(found, reference),
        token_error(found, reference),
        digits_error(arguments.shared, arguments.device, dtype),
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    def integers(text: str) -> list[int]:
        return [int(item) for item in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(CONFIGS), default="nemotron-en")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--dtypes", type=lambda text: text.split(","))
    parser.add_argument("--chunks", type=integers, help="in ms")
    parser.add_argument("--batches", type=integers)
    parser.add_argument("--seconds", type=float, default=1.5, help="per row")
    parser.add_argument("--minutes", type=float, default=7.5, help="no new row after that")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of the digits model")
    parser.add_argument("--quick", action="store_true", help="a few small rows, to test this")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    arguments.dtypes = arguments.dtypes or (DTYPES[::2] if quick else DTYPES)
    arguments.chunks = arguments.chunks or ([160] if quick else [80, 160, 560, 1120])
    arguments.batches = arguments.batches or ([1, 3] if quick else BATCHES)
    arguments.budget = Budget(0.1, 3, 20) if quick else Budget(arguments.seconds, 10, 200)
    return arguments


def main(argv: Sequence[str]) -> None:
    """Measure, print, and write the section if asked."""
    arguments = _arguments(argv)
    shown = [f"--{name} {getattr(arguments, name)}" for name in ("model", "device")]
    command = " ".join(["python benchmarks/streaming_gpu.py", *shown])
    deadline = time.monotonic() + 60 * arguments.minutes
    network = random_network(arguments.model)
    contexts = network.config.encoder.contexts
    known = [(context.right + 1) * FRAME_MS for context in contexts]
    chunks = [chunk for chunk in arguments.chunks if chunk in known]
    audio = babble(12.0 if arguments.quick else 120.0, seed=1).numpy()
    lookahead = contexts[0].right if 160 not in known else 1
    reference = hear(network, _recordings(audio, arguments.quick), lookahead)
    rows: list[Row] = []
    precision: list[Precision] = []
    for dtype in arguments.dtypes:
        ours = copy.deepcopy(network).to(arguments.device, getattr(torch, dtype))
        precision.append(_precision(ours, reference, arguments, audio))
        print(precision[-1], flush=True)
        for case in (Case(dtype, chunk, batch) for chunk in chunks for batch in arguments.batches):
            late = time.monotonic() > deadline
            rows.append(
                Row(case, "not measured")
                if late
                else measure(ours, audio, case, precision[-1].limits, arguments.budget)
            )
            print(rows_table(rows[-1:]).splitlines()[-1], flush=True)
    text = report(arguments, command, rows, precision, reference.tokens_per_frame)
    print(text)
    if arguments.write:
        write_section(arguments.write, "streaming-gpu", text)


if __name__ == "__main__":
    main(sys.argv[1:])
