"""Files over OpenAI's REST interface: how fast, how much memory, and what live sessions feel of it.

    python benchmarks/rest.py [--write docs/benchmarks.md] [-- --model parakeet-eou ...]

What stands behind `--` goes to the server; without it the model is `scripted`, which costs nothing,
so that only the server is measured. First one long file, streamed; then live sessions in real time,
alone and beside as many uploads as there may be. Everything runs on this machine: the clients' own
share is part of what the sessions feel.
"""

import argparse
import asyncio
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np
import psutil
import soundfile
from report import machine, write_section
from server_process import RunningServer, running_server

from stt_server.bench.clips import load_round
from stt_server.bench.server_costs import ServerCosts
from stt_server.bench.stage import Limits, LoadProcesses, Plan, StageResult, run_stage
from stt_server.bench.target import Target

RATE = 16_000
MIB = 2**20
RATIO_LIMIT = 1.5
START_S = 120.0


@dataclass(slots=True)
class Memory:
    """Highest resident sizes seen, MiB."""

    server: float = 0.0
    decoders: float = 0.0


@dataclass(frozen=True, slots=True)
class LongFile:
    """One long file, streamed."""

    seconds: float
    mib: float
    took_s: float
    first_delta_s: float
    deltas: int
    memory: Memory
    idle_mib: float


@dataclass(slots=True)
class Uploads:
    """What became of the files beside them."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    audio_s: float = 0.0
    took_s: list[float] = field(default_factory=list[float])


def long_file(seconds: float, audio: Path | None) -> bytes:
    """The clips over and over, as FLAC."""
    clips = np.frombuffer(load_round(audio, pause_s=1.0).pcm, dtype="<i2")
    samples = np.resize(clips, round(seconds * RATE))
    target = io.BytesIO()
    soundfile.write(target, samples, RATE, format="FLAC", subtype="PCM_16")
    return target.getvalue()


@contextmanager
def watched_memory(server: RunningServer) -> Generator[Memory]:
    """Looks at the processes five times a second."""
    memory, is_over = Memory(), Event()

    def watch() -> None:
        while not is_over.wait(0.2):
            memory.server = max(memory.server, server.rss_mib())
            memory.decoders = max(memory.decoders, decoders_mib(server))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        is_over.set()
        thread.join()


def decoders_mib(server: RunningServer) -> float:
    """Resident size of the processes that read files."""
    total = 0.0
    for child in server.process.children():
        try:
            if any("decoder_worker" in argument for argument in child.cmdline()):
                total += child.memory_info().rss / MIB
        except psutil.NoSuchProcess:
            continue
    return total


def address(server: RunningServer) -> str:
    """Where files go."""
    base = server.url.replace("ws://", "http://").removesuffix("/ws/transcribe")
    return base + "/v1/audio/transcriptions"


def measure_long_file(server: RunningServer, sound: bytes, seconds: float) -> LongFile:
    """Send one file and read its events."""
    idle_mib, first, deltas = server.rss_mib(), float("nan"), 0
    with watched_memory(server) as memory:
        began = time.perf_counter()
        request = {"files": {"file": ("long", sound)}, "data": {"stream": "true"}}
        with httpx.stream("POST", address(server), timeout=3_600, **request) as answer:
            if answer.status_code != 200:
                raise RuntimeError(answer.read().decode())
            for line in answer.iter_lines():
                if "transcript.text.delta" in line:
                    deltas += 1
                    if deltas == 1:
                        first = time.perf_counter() - began
                elif line.startswith("data: {") and "error" in json.loads(line[6:]):
                    raise RuntimeError(line)
        took = time.perf_counter() - began
    return LongFile(seconds, len(sound) / MIB, took, first, deltas, memory, idle_mib)


def measure_lag(
    server: RunningServer, processes: LoadProcesses, count: int, seconds: float, audio: Path | None
) -> StageResult:
    """Hold live sessions; a process of its own speaks."""
    target = Target(server.url)
    costs = ServerCosts(target.http, api_key=None, pid=server.process.pid)
    plan = Plan(target, Limits(60_000.0), audio=audio, stage_s=seconds)
    return run_stage(plan, count, processes, costs)[0]


async def _keep_uploading(url: str, count: int, sound: bytes, told: Connection) -> Uploads:
    """So many uploads at any time, until the other side of `told` says something."""
    found = Uploads()

    async def upload_again(client: httpx.AsyncClient) -> None:
        while True:
            began = time.perf_counter()
            answer = await client.post(url, files={"file": ("clip", sound)})
            found.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                found.took_s.append(time.perf_counter() - began)
                found.audio_s += answer.json()["usage"]["seconds"]
            else:
                await asyncio.sleep(1.0)

    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        tasks = [asyncio.create_task(upload_again(client)) for _ in range(count)]
        await asyncio.to_thread(told.recv)
        # What is under way is of no more interest.
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return found


def _uploaders(url: str, count: int, sound: bytes, pipe: Connection) -> None:
    pipe.send(asyncio.run(_keep_uploading(url, count, sound, pipe)))


@contextmanager
def uploading(
    server: RunningServer, count: int, sound: bytes, result: list[Uploads]
) -> Generator[None]:
    """So many uploads at any time, from another process; what became of them is appended."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_uploaders, args=(address(server), count, sound, theirs))
    process.start()
    try:
        answered = server.metric("stt_file_answers_total")
        deadline = time.monotonic() + START_S
        while server.metric("stt_file_answers_total") == answered:
            if time.monotonic() > deadline:
                raise TimeoutError("no upload was answered")
            time.sleep(0.5)
        yield
        ours.send("enough")
        result.append(ours.recv())
    finally:
        process.kill()
        process.join()


def report(file: LongFile, lags: dict[str, StageResult], found: Uploads, asked: str) -> str:
    """Both results in Markdown."""
    alone, beside = (lag.lag for lag in lags.values())
    ratio = beside.p99 / alone.p99 if alone and beside else float("nan")
    took = np.array(found.took_s or [np.nan])
    lines = [
        f"One file of {file.seconds / 60:.0f} min ({file.mib:.0f} MiB of FLAC), streamed: "
        f"**{file.seconds / file.took_s:.0f} s of audio per second**, first delta after "
        f"{file.first_delta_s:.2f} s, {file.deltas} deltas. The server's process had at most "
        f"{file.memory.server:.0f} MiB ({file.idle_mib:.0f} before), its decoders "
        f"{file.memory.decoders:.0f} MiB; all samples as float32 are "
        f"{file.seconds * RATE * 4 / MIB:.0f} MiB.",
        "",
        f"{asked}: the p99 of the lag is **{ratio:.2f} times** what it was (aim: at most "
        f"{RATIO_LIMIT}).",
        "",
        "| live sessions | lag p50 ms | p95 | p99 | load late p99 ms | errors | server cores |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, stage in lags.items():
        lag = stage.lag
        shown = " | ".join(f"{x:.1f}" for x in ((lag.p50, lag.p95, lag.p99) if lag else ()))
        errors = sum(stage.errors.values()) + sum(stage.refusals.values())
        cores = f"{stage.server_cores or 0.0:.2f}"
        lines.append(f"| {name} | {shown} | {stage.late_p99:.1f} | {errors} | {cores} |")
    lines += [
        "",
        f"Meanwhile {found.audio_s:.0f} s of uploaded audio were answered; a file took "
        f"{np.median(took):.1f} s in the median; statuses: {dict(found.statuses)}.",
    ]
    return "\n".join(lines)


def measure(server: RunningServer, arguments: argparse.Namespace) -> str:
    """Everything, in Markdown."""
    audio, live, seconds = arguments.audio, arguments.live, arguments.seconds
    clip = long_file(arguments.clip_s, audio)
    measure_long_file(server, clip, arguments.clip_s)  # starts the decoders
    length_s = arguments.minutes * 60
    file = measure_long_file(server, long_file(length_s, audio), length_s)
    print(file, flush=True)
    found: list[Uploads] = []
    with LoadProcesses(1) as processes:
        measure_lag(server, processes, 2, min(5.0, seconds), audio)  # warms up
        alone = measure_lag(server, processes, live, seconds, audio)
        print(alone, flush=True)
        with uploading(server, arguments.uploads, clip, found):
            beside = measure_lag(server, processes, live, seconds, audio)
    print(beside, flush=True)
    asked = (
        f"{live} live sessions for {seconds:.0f} s, alone and beside {arguments.uploads} uploads "
        f"of {arguments.clip_s:.0f} s at any time"
    )
    return report(file, {"alone": alone, "beside uploads": beside}, found[0], asked)


def main() -> None:
    """Measure, print, and write the section if asked."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    flags = given[cut + 1 :] or ["--model", "scripted"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the long file")
    parser.add_argument("--audio", type=Path, help="what is said: file or folder")
    parser.add_argument("--live", type=int, default=10, help="sessions in real time")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each session")
    parser.add_argument("--uploads", type=int, default=50, help="at once")
    parser.add_argument("--clip-s", type=float, default=60.0, help="length of an upload")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args(given[:cut])
    off = ("--parakeet-port", "0", "--parakeet-status-port", "0")
    with running_server(*flags, *off, "--uploads-max-mb", "1000") as server:
        results = measure(server, arguments)
    told = " ".join(flags)
    text = f"## Files (`rest`)\n\n{machine()}; server: `{told}`\n\n{results}"
    print(text)
    if arguments.write:
        write_section(arguments.write, f"rest {told}", text)


if __name__ == "__main__":
    main()
