"""Live streams per machine: nemo_lite on this CPU against other implementations, same weights.

    python benchmarks/streaming_cpu.py [--model nemotron-en] [--write docs/benchmarks.md]

Full-size models with random weights; every stream has full caches and gets a chunk of audio per
step. A step is all there is between samples and tokens: features, encoder, decoder. Each
contender runs alone. `--quick` is for tests of the benchmark itself.
"""

import argparse
import copy
import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import streaming_tables as tables
import torch
from full_size import CONFIGS, random_network
from int8_ceiling import Ceiling, ceilings
from nemo_peer import NemoChunkEncoder, nemo_encoder
from onnx_peer import OnnxChunkEncoder, quantised_session
from precision import digits_error
from report import machine, write_section
from streaming_runs import FRAME_S, Audio, Contender, LiveBatch, Plan, Run, Unavailable, percentile
from transformers_peer import TransformersStreams

from nemo_lite import UnsupportedError
from nemo_lite.chunk_encoder import TorchChunkEncoder
from nemo_lite.int8_encoder import Int8Encoder
from nemo_lite.network import Network

PACKAGES = ("torch", "transformers", "onnxruntime", "nemo-toolkit", "nemo-lite-cpu")
SHARED = Path(__file__).resolve().parents[2] / "shared"
TOO_LATE = 2.0
"""Larger batches are not tried once the median step is so many chunks long."""
DISTURBED = 1.5
"""A run whose 95th percentile is so many times its median met other programs: it is repeated."""
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure; the plans are in order of chunk and batch."""

    model: str
    contenders: list[str]
    plans: list[Plan]
    threads: int
    digits_lookaheads: tuple[int, ...]


def _float32(_settings: Settings, network: Network) -> Contender:
    return LiveBatch(
        network, lambda slots: TorchChunkEncoder(network.encoder, slots, frames_per_step=1)
    )


def _bfloat16(settings: Settings, network: Network) -> Contender:
    flags = machine()
    if "avx512_bf16" not in flags and "amx" not in flags:
        raise Unavailable("this processor only emulates bfloat16")
    return _float32(settings, copy.deepcopy(network).to(torch.bfloat16))


def _int8(settings: Settings, network: Network, isa: str | None = None) -> Contender:
    encoder = copy.deepcopy(network.encoder)  # packing takes the layers away
    try:
        packed = Int8Encoder(encoder, threads=settings.threads, isa=isa)
    except UnsupportedError as error:
        raise Unavailable(str(error)) from error
    return LiveBatch(network, packed.chunk_encoder, torch_threads=1)


def _int8_avx2(settings: Settings, network: Network) -> Contender:
    """What a processor without VNNI would get, as far as this one shows it."""
    if "avx512" not in machine():
        raise Unavailable("no faster instruction set here")
    return _int8(settings, network, isa="avx2")


def _transformers(_settings: Settings, network: Network) -> Contender:
    return TransformersStreams(network)


def _hoisted(_settings: Settings, network: Network) -> Contender:
    return TransformersStreams(network, hoisted=True)


def _onnx(settings: Settings, network: Network) -> Contender:
    session = quantised_session(network.encoder, settings.threads)
    return LiveBatch(
        network, lambda slots: OnnxChunkEncoder(session, network.encoder, slots), torch_threads=1
    )


def _nemo(settings: Settings, network: Network) -> Contender:
    encoder = nemo_encoder(settings.model, network)
    return LiveBatch(network, lambda slots: NemoChunkEncoder(encoder, slots))


CONTENDERS: Mapping[str, Callable[[Settings, Network], Contender]] = {
    "nemo_lite float32": _float32,
    "nemo_lite bfloat16": _bfloat16,
    "nemo_lite int8": _int8,
    "nemo_lite int8 avx2": _int8_avx2,
    "transformers": _transformers,
    "transformers hoisted": _hoisted,
    "ONNX Runtime int8": _onnx,
    "NeMo": _nemo,
}
"""The first is what the others are compared with."""


def measure(settings: Settings) -> tables.Results:
    """Run every contender by itself."""
    torch.set_num_threads(settings.threads)
    network = random_network(settings.model)
    audio, runs, missing = Audio(), dict[str, list[Run]](), dict[str, str]()
    for name in settings.contenders:
        try:
            contender = CONTENDERS[name](settings, network)
        except Unavailable as error:
            missing[name] = str(error)
            print(f"{name}: {error}", flush=True)
            continue
        runs[name] = _runs(name, contender, settings.plans, audio)
        del contender
        gc.collect()
    limits = _ceilings(settings, network, runs)
    return tables.Results(runs, missing, limits, _digits(settings, missing))


def _runs(name: str, contender: Contender, plans: list[Plan], audio: Audio) -> list[Run]:
    found: list[Run] = []
    too_late: set[int] = set()
    for plan in plans:
        if plan.lookahead in too_late:
            continue
        run = _undisturbed(contender, plan, audio)
        found.append(run)
        print(f"{name}: {tables.line(run)}", flush=True)
        if percentile(run.steps_s, 50) > TOO_LATE * plan.chunk_s:
            too_late.add(plan.lookahead)
    return found


def _undisturbed(contender: Contender, plan: Plan, audio: Audio) -> Run:
    """The best of a few runs, if the first was disturbed."""
    runs: list[Run] = []
    while len(runs) < ATTEMPTS:
        run = contender.run(plan, audio)
        runs.append(run)
        if run.p95_s < DISTURBED * percentile(run.steps_s, 50):
            break
    return min(runs, key=lambda run: run.p95_s)


def _ceilings(
    settings: Settings, network: Network, runs: Mapping[str, list[Run]]
) -> dict[int, Ceiling]:
    rows = {run.plan.rows for run in runs.get("nemo_lite int8", [])}
    return ceilings(network.encoder, sorted(rows), threads=settings.threads) if rows else {}


def _digits(settings: Settings, missing: dict[str, str]) -> dict[str, dict[int, float]]:
    """Word error rates of a trained model per dtype and look-ahead."""
    rates: dict[str, dict[int, float]] = {}
    dtypes: tuple[torch.dtype | Literal["int8"], ...] = (torch.float32, "int8")
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        for lookahead in settings.digits_lookaheads:
            rate = digits_error(SHARED, torch.device("cpu"), dtype, lookahead=lookahead)
            if isinstance(rate, str):
                missing[f"digits {name}"] = rate
                break
            rates.setdefault(name, {})[lookahead] = rate
    return rates


def _versions() -> str:
    found: list[str] = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _settings() -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=CONFIGS, default="nemotron-en")
    parser.add_argument("--batches", type=_numbers, default=[1, 8, 16, 32])
    parser.add_argument("--chunks", type=_numbers, default=[80, 160, 560, 1120], help="ms")
    parser.add_argument(
        "--peers", type=lambda text: text.split(","), default=list(CONTENDERS), metavar="NAME,..."
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement, about")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="a tiny model, few steps")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.peers) - CONTENDERS.keys():
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; known: {', '.join(CONTENDERS)}")
    model = "tiny" if arguments.quick else arguments.model
    batches = [1, 3] if arguments.quick else arguments.batches
    seconds, fewest = (0.0, 4) if arguments.quick else (arguments.seconds, 8)
    known = {right for _, right in CONFIGS[model]["encoder"]["att_context_size"]}
    lookaheads = [round(chunk / 1_000 / FRAME_S) - 1 for chunk in arguments.chunks]
    plans = [
        Plan(lookahead, batch, seconds, fewest)
        for lookahead in lookaheads
        if lookahead in known
        for batch in batches
    ]
    first = next(iter(CONTENDERS))
    contenders = [name for name in CONTENDERS if name == first or name in arguments.peers]
    digits = (6,) if arguments.quick else (0, 1, 6, 13)
    return Settings(model, contenders, plans, arguments.threads, digits), arguments.write


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, print, and write the tables if asked."""
    settings, path = _settings()
    busy = os.getloadavg()[0]
    results = measure(settings)
    heading = (
        f"## Live streams on a CPU: {settings.model} (`streaming_cpu`)\n\n"
        f"{machine()}; {settings.threads} threads; load average {busy:.1f} at the start; "
        f"{_versions()}\n\n"
    )
    text = heading + tables.report(results)
    print(text)
    if path:
        write_section(path, f"streaming_cpu {settings.model}", text)


if __name__ == "__main__":
    main()
