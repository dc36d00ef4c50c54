"""Does anything leak? Sessions that open, talk and vanish for minutes; one session of hours.

    python benchmarks/soak.py [--minutes 10] [--hours 4] [--write docs/benchmarks.md]

The first part ends sessions in every way there is: politely, in mid-word, by a reset. The second
sends hours of stream time as fast as the server takes them, and compares turns and times with what
the length says.
"""

import argparse
import asyncio
import json
import random
import socket
import struct
import time
from pathlib import Path

import numpy as np
from report import machine, write_section
from server_process import RunningServer, running_server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from stt_server.bench.clips import load_round
from stt_server.events import SAMPLE_RATE

CALLERS = 30
PACKET_BYTES = SAMPLE_RATE // 10 * 2


async def churn(server: RunningServer, seconds: float) -> list[str]:
    """Callers come and go; a line per half minute of what the process holds."""
    clip, lines = load_round(None, pause_s=0.0).pcm, list[str]()
    deadline, sessions = time.monotonic() + seconds, [0]
    async with asyncio.TaskGroup() as group:
        for seed in range(CALLERS):
            group.create_task(_caller(server.url, clip, deadline, random.Random(seed), sessions))
        while time.monotonic() < deadline:
            await asyncio.sleep(min(30.0, max(1.0, deadline - time.monotonic())))
            lines.append(_holdings(server, sessions[0]))
            print(lines[-1], flush=True)
    await asyncio.sleep(2)
    lines.append(_holdings(server, sessions[0]))
    print(lines[-1], flush=True)
    return lines


async def _caller(
    url: str, clip: bytes, deadline: float, rng: random.Random, sessions: list[int]
) -> None:
    while time.monotonic() < deadline:
        sessions[0] += 1
        try:
            async with connect(url + "?features=all", compression=None) as ws:
                await _talk(ws, clip, rng)
        except (ConnectionClosed, OSError):
            continue


async def _talk(ws: ClientConnection, clip: bytes, rng: random.Random) -> None:
    start = rng.randrange(0, len(clip) // 2, PACKET_BYTES)
    for index in range(rng.randrange(1, 60)):
        await ws.send(clip[start + index * PACKET_BYTES :][:PACKET_BYTES])
        await asyncio.sleep(rng.choice((0.0, 0.02, 0.1)))
    match rng.randrange(4):
        case 0:
            await ws.send('{"type":"finish"}')
            async for _ in ws:
                pass
        case 1:
            await ws.send("not json")
        case 2:
            raw: socket.socket = ws.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ws.transport.abort()
        case _:
            ws.transport.abort()


def _holdings(server: RunningServer, sessions: int) -> str:
    process = server.process
    return (
        f"| {sessions} | {server.rss_mib():.1f} | {process.num_fds()} "
        f"| {process.num_threads()} | {server.metric('stt_open_sessions{'):.0f} |"
    )


async def long_session(server: RunningServer, hours: float) -> str:
    """One session of `hours`, fed fast: the clip over and over, exact to the end."""
    clip = np.frombuffer(load_round(None, pause_s=0.0).pcm, dtype="<i2")
    clip = clip[: len(clip) // SAMPLE_RATE * SAMPLE_RATE]  # whole seconds
    repeats = round(hours * 3_600 * SAMPLE_RATE / len(clip))
    finals: list[dict[str, float]] = []
    memory: list[float] = []
    began = time.monotonic()
    url = server.url + "?features=times,ids&interim=false"
    async with connect(url, compression=None) as ws:
        listener = asyncio.create_task(_collect(ws, finals))
        for index in range(repeats):
            data = clip.tobytes()
            for at in range(0, len(data), SAMPLE_RATE * 2):
                await ws.send(data[at : at + SAMPLE_RATE * 2])
            if index % max(1, repeats // 20) == 0:
                memory.append(server.rss_mib())
        await ws.send('{"type":"finish"}')
        finished = await listener
    elapsed = time.monotonic() - began
    return _verdict(finals, finished, memory, elapsed, len(clip) / SAMPLE_RATE, repeats)


async def _collect(ws: ClientConnection, finals: list[dict[str, float]]) -> dict[str, float]:
    async for message in ws:
        value = json.loads(message)
        if value.get("type") == "finished":
            return value
        finals.append(value)
    raise RuntimeError("the session ended early")


def _verdict(
    finals: list[dict[str, float]],
    finished: dict[str, float],
    memory: list[float],
    elapsed: float,
    clip_s: float,
    repeats: int,
) -> str:
    seconds = clip_s * repeats
    # Every repetition has the same turns at the same places, shifted by the clip's length; the
    # detector's memory makes single windows differ.
    per_clip = len(finals) / repeats
    first = [final["start"] for final in finals if final["start"] < 2 * clip_s]
    second = [start - clip_s for start in first if start >= clip_s]
    last = [final["start"] - clip_s * (repeats - 1) for final in finals]
    last = [start for start in last if start >= 0]
    drift_ms = max((abs(a - b) * 1_000 for a, b in zip(second, last, strict=False)), default=0.0)
    return "".join(
        [
            f"{seconds / 3_600:.2f} h of audio in {elapsed:.0f} s ({seconds / elapsed:.0f}× real "
            f"time); `finished.audioSeconds` off by {finished['audioSeconds'] - seconds:+.3f} s; "
            f"{finished['turns']} turns ({per_clip:.2f} per {clip_s:.0f} s of clip); turn starts "
            f"of the last repetition differ from those of the second by at most {drift_ms:.0f} ms "
            f"(a VAD window is 32 ms); RSS MiB over the run: "
            + ", ".join(f"{mib:.0f}" for mib in memory)
            + "."
        ]
    )


def main() -> None:
    """Run both parts, print, and write the section if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with running_server("--model", "scripted", "--log-level", "INFO") as server:
        lines = asyncio.run(churn(server, arguments.minutes * 60))
    with running_server("--model", "scripted", "--limits-max-session-s", "0") as server:
        long = asyncio.run(long_session(server, arguments.hours))
    head = "| sessions so far | RSS MiB | file descriptors | threads | open |\n"
    head += "| ---: | ---: | ---: | ---: | ---: |\n"
    text = f"## Soak (`soak`)\n\n{machine()}\n\n"
    text += f"{CALLERS} callers for {arguments.minutes:g} min:\n\n{head}"
    text += "\n".join(lines) + f"\n\nOne long session: {long}"
    print(text)
    if arguments.write:
        write_section(arguments.write, "soak", text)


if __name__ == "__main__":
    main()
