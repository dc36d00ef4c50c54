"""The tables of `streaming_cpu`, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from int8_ceiling import Ceiling
from streaming_runs import Run, encoder_error, percentile, token_error

REFERENCE = "nemo_lite float32"
INT8 = "nemo_lite int8"
STOCK, HOISTED = "transformers", "transformers hoisted"

NOTES = """\
*Streams* is batch × chunk / p95 of the step, and the best over the batches in the first table;
*kept up* is the largest batch measured whose p95 is not longer than the chunk. *Encoder error* is
relative to the float32 frames, *token error* the share of wrong, missing and surplus tokens; both
are of the same stream from its start. Random weights choose between tokens by a hair's breadth, so
rounding changes many more of them than with a trained model: see the digits for one. A run that
other programs disturbed (p95 over 1.5 times the median) is repeated once or twice, the
best kept.

`transformers` is `NemotronAsrStreamingForRNNT` with its caches and its feature extractor, float32;
*hoisted* computes relative positions and their projections once instead of in every step. ONNX
Runtime and NeMo run the encoder, with nemo_lite's front end, decoder and batching around it. ONNX
Runtime's caches hold projected keys and values, as nemo_lite's; NeMo projects its cached layer
inputs again in every step."""


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured."""

    runs: Mapping[str, list[Run]]
    missing: Mapping[str, str]
    """Why a contender did not run."""
    ceilings: Mapping[int, Ceiling]
    """By rows, that is batch times frames."""
    digits: Mapping[str, Mapping[int, float]]
    """Word error rate by dtype and look-ahead."""


def report(results: Results) -> str:
    """Everything, in Markdown."""
    parts = [_best(results.runs), NOTES, _every(results.runs)]
    if results.ceilings:
        parts.append(_ceilings(results))
    if results.digits:
        parts.append(_digits(results.digits))
    parts += [f"Not measured: {name}: {reason}." for name, reason in results.missing.items()]
    return "\n\n".join(parts)


def line(run: Run) -> str:
    """One run in one line, for the impatient."""
    return (
        f"{_chunk_ms(run)} ms × {run.plan.batch}: step p50 {_ms(percentile(run.steps_s, 50))} "
        f"p95 {_ms(run.p95_s)} ms, encoder {_ms(percentile(run.encoder_s, 50))} ms, "
        f"{run.streams:.1f} streams"
    )


def _best(runs: Mapping[str, list[Run]]) -> str:
    rows: list[list[str]] = []
    for lookahead in _lookaheads(runs[REFERENCE]):
        at = {
            name: [run for run in found if run.plan.lookahead == lookahead]
            for name, found in runs.items()
        }
        best = {name: max(found, key=lambda run: run.streams) for name, found in at.items()}
        for name, run in best.items():
            first, reference = at[name][0], at[REFERENCE][0]
            kept_up = [run.plan.batch for run in at[name] if run.p95_s <= run.plan.chunk_s]
            rows.append(
                [
                    _chunk_ms(run),
                    name,
                    f"**{run.streams:.1f}**",
                    str(run.plan.batch),
                    str(max(kept_up, default=0)),
                    *(
                        f"{run.streams / best[peer].streams:.1f}" if peer in best else "–"
                        for peer in (STOCK, HOISTED)
                    ),
                    f"{encoder_error(first, reference):.1e}",
                    f"{100 * token_error(first, reference):.1f} %",
                ]
            )
    header = ["chunk ms", "", "streams", "at batch", "kept up", "× stock", "× hoisted"]
    return table([*header, "encoder error", "token error"], rows, left=(1,))


def _every(runs: Mapping[str, list[Run]]) -> str:
    rows = [
        [
            _chunk_ms(run),
            str(run.plan.batch),
            name,
            _ms(percentile(run.encoder_s, 50)),
            _ms(percentile(run.steps_s, 50)),
            _ms(run.p95_s),
            f"{run.streams:.1f}",
        ]
        for name, found in runs.items()
        for run in found
    ]
    rows.sort(key=lambda row: (int(row[0]), int(row[1])))
    header = ["chunk ms", "batch", "", "encoder p50 ms", "step p50 ms", "step p95 ms", "streams"]
    return table(header, rows, left=(2,))


def _ceilings(results: Results) -> str:
    rows: list[list[str]] = []
    for run in results.runs[INT8]:
        ceiling, encoder_s = results.ceilings[run.plan.rows], percentile(run.encoder_s, 50)
        rows.append(
            [
                _chunk_ms(run),
                str(run.plan.batch),
                str(run.plan.rows),
                _ms(ceiling.seconds),
                ceiling.kernel,
                _ms(encoder_s),
                f"{100 * ceiling.seconds / encoder_s:.0f} %",
            ]
        )
    text = (
        "The ceiling is the time of the encoder's linear layers alone, with the fastest of these "
        "8-bit kernels: FBGEMM, oneDNN, `nemo_lite_cpu.Linear`."
    )
    header = ["chunk ms", "batch", "rows", "ceiling ms", "kernel", "int8 encoder p50 ms", "share"]
    return f"{text}\n\n{table(header, rows, left=(4,))}"


def _digits(digits: Mapping[str, Mapping[int, float]]) -> str:
    lookaheads = sorted({lookahead for rates in digits.values() for lookahead in rates})
    rows = [
        [dtype, *(f"{100 * rates[lookahead]:.2f} %" for lookahead in lookaheads)]
        for dtype, rates in digits.items()
    ]
    header = ["", *(f"look-ahead {lookahead}" for lookahead in lookaheads)]
    text = "Word error rate of the digits model on its 40 recordings."
    return f"{text}\n\n{table(header, rows, left=(0,))}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = ()) -> str:
    """A Markdown table; columns are right-aligned but for those in `left`."""
    rule = [":---" if column in left else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _lookaheads(runs: Iterable[Run]) -> list[int]:
    return sorted({run.plan.lookahead for run in runs})


def _chunk_ms(run: Run) -> str:
    return str(round(run.plan.chunk_s * 1_000))


def _ms(seconds: float) -> str:
    return f"{seconds * 1_000:.1f}"
