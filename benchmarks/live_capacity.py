"""The live engine as clients see it: lags per look-ahead, streams held, time to final.

    python benchmarks/live_capacity.py [--parts words,streams,finals] [--write docs/benchmarks.md]

The digits model and its recordings are in ../shared; `words` needs them. The other model has the
size of parakeet-eou (120M), random weights and int8. Everything goes through a server process and
real sockets, in real time; the load is that of `stt-bench`, on the same machine.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import live_finals
import live_words
from load_model import write_nemo
from report import machine, write_section
from server_process import RunningServer, running_server

from stt_server.bench.measured import Percentiles
from stt_server.bench.ramp import Ramp
from stt_server.bench.report import held, markdown
from stt_server.bench.run import Findings, climb
from stt_server.bench.server_costs import ServerCosts
from stt_server.bench.stage import Limits, Plan
from stt_server.bench.target import Target

SHARED = Path(__file__).resolve().parents[2] / "shared"
DIGITS = SHARED / "models/digits-streaming.nemo"
RECORDINGS = SHARED / "audio/digits"
LOOKAHEADS_MS = (0, 80, 480, 1_040)
FRAME_MS = 80
BEYOND_CHUNK_MS = 100.0
PACKET_MS = 20
"""As agents send it: larger packets are a lag of their own."""
MOST_STREAMS = 512


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint, and how it is served."""

    name: str
    path: Path
    audio: Path | None
    """What is said to it; None: the bundled conversations."""
    has_words: bool
    """What it writes means something; random weights also write in silence."""

    def serve(self, device: str, *flags: str) -> AbstractContextManager[RunningServer]:
        """A server with it."""
        checkpoint = ("--model=parakeet-eou", f"--nemo-checkpoint={self.path}")
        ports = ("--parakeet-port=0", "--parakeet-status-port=0")
        return running_server(*checkpoint, f"--device={device}", *ports, *flags)


def words(arguments: argparse.Namespace, digits: Model) -> str:
    """Lags and word errors of the digits model per look-ahead."""
    lines = [
        "From the true end of each word that was recognised to the first message with it, and from "
        "the true end of a turn's last word to its final (1.5 s of it are the silence that ends a "
        f"turn). {arguments.streams} recordings at a time, packets of {PACKET_MS} ms.",
        "",
        "| look-ahead ms | word p50 ms | p95 | only in the final | final p50 ms | p95 "
        "| word errors, live | fast | words |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for lookahead_ms in arguments.lookaheads:
        flags = (f"--lookahead-ms={lookahead_ms}", f"--max-streams={2 * arguments.streams}")
        with digits.serve(arguments.device, *flags) as server:
            measure = partial(
                live_words.measure,
                Target(server.url),
                RECORDINGS,
                streams=arguments.streams,
                files=arguments.files,
            )
            live = asyncio.run(measure(packet_ms=PACKET_MS))
            fast = asyncio.run(measure(packet_ms=1_000, fast=True))
        lines.append(_words_row(lookahead_ms, live, fast))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _words_row(lookahead_ms: int, live: live_words.Found, fast: live_words.Found) -> str:
    lag, final = Percentiles.of(live.lags), Percentiles.of(live.finals)
    cells = [
        str(lookahead_ms),
        *(f"{value:.0f}" for value in ((lag.p50, lag.p95) if lag else ())),
        str(live.late_words),
        *(f"{value:.0f}" for value in ((final.p50, final.p95) if final else ())),
        *(f"{100 * found.errors / max(1, found.words):.2f} %" for found in (live, fast)),
        str(live.words),
    ]
    return f"| {' | '.join(cells)} |"


def streams(arguments: argparse.Namespace, models: Sequence[Model]) -> str:
    """How many streams each model holds."""
    chunk_ms = arguments.lookahead_ms + FRAME_MS
    limits = Limits(chunk_ms + BEYOND_CHUNK_MS, chunk_ms)
    parts = [
        f"Look-ahead {arguments.lookahead_ms} ms, so chunks of {chunk_ms} ms; held while the p95 "
        f"of the lag stays under {limits.lag_ms:.0f} ms and nobody is refused. "
        f"{arguments.stage_s:g} s each, packets of {PACKET_MS} ms, {arguments.processes} "
        "process(es) with clients on the same machine. Columns are those of "
        "[stt-bench](bench.md). Random weights write words in silence, too: for them the lag is a "
        "chunk and the lag of the model's steps.",
    ]
    for model in models:
        lookahead = f"--lookahead-ms={arguments.lookahead_ms}"
        with model.serve(arguments.device, lookahead) as server:
            admitted = json.loads(server.get("/health"))["max_sessions"]
        most = min(MOST_STREAMS, 2 * admitted)
        with model.serve(arguments.device, lookahead, f"--max-streams={most}") as server:
            ramp = Ramp(min(arguments.start, admitted), min(arguments.most, most))
            rows = _climb(arguments, model, server, limits, ramp)
        parts += [
            f"**{model.name}: {held(rows.rows)} streams held**; by its own measurement at the "
            f"start the server admits {admitted}.",
            markdown(sorted(rows.rows, key=lambda row: row.streams)),
        ]
        print("\n".join(parts[-2:]), flush=True)
    return "\n\n".join(parts)


def _climb(
    arguments: argparse.Namespace, model: Model, server: RunningServer, limits: Limits, ramp: Ramp
) -> Findings:
    # Without interims what the words are does not matter.
    query = "" if model.has_words else "?interim=false"
    plan = Plan(
        Target(server.url + query),
        limits,
        audio=model.audio,
        packet_ms=PACKET_MS,
        stage_s=arguments.stage_s,
        processes=arguments.processes,
    )
    findings = Findings()
    costs = ServerCosts(plan.target.http, api_key=None, pid=server.process.pid)
    climb(plan, ramp, costs, findings, show=lambda row: print(row, flush=True))
    return findings


def finals(arguments: argparse.Namespace, models: Sequence[Model]) -> str:
    """The server's share of the time to final, over every phase of a chunk."""
    chunk_ms = arguments.lookahead_ms + FRAME_MS
    lines = [
        f"One stream, look-ahead {arguments.lookahead_ms} ms, the utterance shifted by 0 to "
        f"{chunk_ms} ms in steps of {live_finals.STEP_MS} ms, {arguments.repeats} times each, "
        f"packets of {live_finals.PACKET_MS} ms. From the end of speech to the final on the wire, "
        "less the silence that ends a turn: from where the VAD says that speech stopped, and from "
        "the last loud sample.",
        "",
        "| model | turns | detected end p50 ms | p95 | p99 | loud end p50 ms | p95 | p99 |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model in models:
        flags = (f"--lookahead-ms={arguments.lookahead_ms}", "--max-streams=4")
        with model.serve(arguments.device, *flags) as server:
            found = asyncio.run(
                live_finals.measure(
                    Target(server.url), chunk_ms=chunk_ms, repeats=arguments.repeats
                )
            )
        cells = [model.name, f"{len(found.from_true)} of {found.turns}"]
        for durations in (found.from_detected, found.from_true):
            part = Percentiles.of(durations)
            cells += [f"{value:.0f}" for value in ((part.p50, part.p95, part.p99) if part else ())]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="words,streams,finals")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--random", default="parakeet-eou", help="a key of full_size.CONFIGS")
    parser.add_argument("--lookahead-ms", type=int, default=80, help="of streams and finals")
    group = parser.add_argument_group("words")
    group.add_argument("--lookaheads", type=int, nargs="+", default=LOOKAHEADS_MS)
    group.add_argument("--streams", type=int, default=3, help="recordings at a time")
    group.add_argument("--files", type=int, default=1_000, help="of the recordings at most")
    group = parser.add_argument_group("streams")
    group.add_argument("--stage-s", type=float, default=30.0)
    group.add_argument("--start", type=int, default=8)
    group.add_argument("--most", type=int, default=MOST_STREAMS)
    group.add_argument("--processes", type=int, default=1)
    group = parser.add_argument_group("finals")
    group.add_argument("--repeats", type=int, default=5, help="of each phase")
    return parser


def main() -> None:
    """Measure the parts, print, and write their sections if asked."""
    arguments = _parser().parse_args()
    digits = Model("digits", DIGITS, RECORDINGS, has_words=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.nemo"
        models = [digits] if DIGITS.is_file() else []
        if set(arguments.parts.split(",")) - {"words"}:
            size = write_nemo(arguments.random, path) / 4e6
            name = f"random, {size:.0f}M, int8"
            models.append(Model(name, path, None, has_words=False))
        parts: dict[str, tuple[str, Callable[[], str]]] = {
            "words": ("Lag of words, per look-ahead", partial(words, arguments, digits)),
            "streams": ("Live streams held", partial(streams, arguments, models)),
            "finals": ("Time to final", partial(finals, arguments, models)),
        }
        for part in arguments.parts.split(","):
            title, measure = parts[part]
            command = f"live_capacity --parts {part}"
            text = f"## {title} (`{command}`)\n\n{machine()}; {arguments.device}\n\n{measure()}"
            print(text)
            if arguments.write:
                write_section(arguments.write, f"live_capacity {part}", text)


if __name__ == "__main__":
    main()
