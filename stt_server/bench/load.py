"""Many clients in one process of the load generator."""

import asyncio
import signal
import time
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random

from stt_server.bench.clips import Playlist, Round, load_round
from stt_server.bench.live import (
    Manner,
    Outcome,
    converse,
    first_failure,
    was_turned_away,
)
from stt_server.bench.measured import Measured
from stt_server.bench.observer import Window
from stt_server.bench.target import Target
from stt_server.clients.errors import ClientError, ConnectionLost, Refused

STOP_EVERY_S = 0.1

_stop: Event | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """The clients of one process during one stage. Times are of the monotonic clock, which the
    machine's processes share."""

    target: Target
    manner: Manner
    audio: Path | None
    pause_s: float
    first: int
    """Number of the first client; the others follow at distances of `every`."""
    every: int
    streams: int
    """Of all processes."""
    begins_at: float
    stagger_s: float
    """Over which the starts of all clients are spread."""
    window: Window


def prepare(stop: Event) -> None:
    """Make this process one of the load generator's: Ctrl-C is for the first process alone."""
    global _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stop = stop


def run_job(job: Job) -> Measured:
    """Run the clients to their end."""
    cpu_began = time.process_time()
    measured = asyncio.run(_run_clients(job))
    measured.cpu_s = time.process_time() - cpu_began
    return measured


@lru_cache(maxsize=1)
def _audio(path: Path | None, pause_s: float) -> Round:
    return load_round(path, pause_s=pause_s)


async def _run_clients(job: Job) -> Measured:
    measured = Measured()
    stop = asyncio.Event()
    watch = asyncio.create_task(_watch(stop))
    async with asyncio.TaskGroup() as clients:
        for number in range(job.first, job.streams, job.every):
            clients.create_task(_client(job, number, measured, stop))
    watch.cancel()
    return measured


async def _watch(stop: asyncio.Event) -> None:
    while _stop is not None and not _stop.is_set():  # noqa: ASYNC110 - it is another process's
        await asyncio.sleep(STOP_EVERY_S)
    stop.set()


async def _client(job: Job, number: int, measured: Measured, stop: asyncio.Event) -> None:
    # Spread evenly, and over all phases of a chunk.
    share = (number + Random(number).random()) / job.streams
    await asyncio.sleep(max(0.0, job.begins_at + share * job.stagger_s - time.monotonic()))
    if stop.is_set():
        return
    playlist = Playlist(_audio(job.audio, job.pause_s), number)
    try:
        outcome = await converse(
            job.target,
            playlist,
            job.manner,
            lambda timeline: job.target.observer(
                timeline, job.window, measured, playlist.speech_end
            ),
            stop,
        )
    except* ClientError as group:
        _count_failure(group, measured)
    else:
        _count(outcome, job.window, measured)


def _count(outcome: Outcome, window: Window, measured: Measured) -> None:
    measured.held += 1
    measured.sent_s += outcome.sent_s
    measured.to_end.append(outcome.to_end_s)
    measured.late += [late_s for at, late_s in outcome.late if at in window]


def _count_failure(group: BaseExceptionGroup[ClientError], measured: Measured) -> None:
    error = first_failure(group)
    match error:
        case Refused(status=code) | ConnectionLost(code=code):
            name = str(code)
        case _:
            name = type(error).__name__
    counts = measured.refusals if was_turned_away(error) else measured.errors
    counts[name] += 1
