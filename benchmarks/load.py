"""Live clients over real sockets, in a process of their own: the load that benchmarks share."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect

RATE = 16_000
PACKET_SAMPLES = RATE // 10
QUERY = "?features=times,events"


@dataclass(slots=True)
class Measurements:
    """What the clients of one process saw."""

    delays_s: list[float] = field(default_factory=list[float])
    """From sending the packet that completes an interim's audio to receiving the interim."""
    late_s: list[float] = field(default_factory=list[float])
    """How late the load itself sent: above a few milliseconds the load is what is measured."""
    finals: int = 0
    errors: list[str] = field(default_factory=list[str])


def load_clip(paths: list[Path]) -> bytes:
    """The clips one after another as PCM16, 16 kHz mono."""
    clips = [soundfile.read(path, dtype="int16", always_2d=True)[0][:, 0] for path in paths]
    return np.concatenate(clips).astype("<i2").tobytes()


async def live_client(
    url: str, clip: bytes, *, seconds: float, seed: int, measured: Measurements
) -> None:
    """Speak in real time for `seconds`, starting somewhere in the clip, then finish."""
    offset = random.Random(seed).randrange(len(clip) // 2) * 2
    speech = clip[offset:] + clip[:offset]
    sent_at: list[float] = []
    try:
        async with connect(url + QUERY, compression=None, open_timeout=30) as socket:
            listener = asyncio.create_task(_listen(socket, sent_at, measured))
            await _speak(socket, speech, seconds, sent_at, measured)
            await socket.send('{"type":"finish"}')
            await asyncio.wait_for(listener, timeout=60)
    except Exception as error:  # a benchmark counts every failure and goes on
        measured.errors.append(repr(error))


async def _speak(
    socket: ClientConnection,
    speech: bytes,
    seconds: float,
    sent_at: list[float],
    measured: Measurements,
) -> None:
    began = time.perf_counter()
    step = PACKET_SAMPLES * 2
    for index in range(round(seconds * RATE / PACKET_SAMPLES)):
        due = began + index * PACKET_SAMPLES / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        position = index * step % len(speech)
        packet = (speech[position:] + speech)[:step] if position + step > len(speech) else None
        now = time.perf_counter()
        measured.late_s.append(now - due)
        sent_at.append(now)
        await socket.send(packet or speech[position : position + step])


async def _listen(socket: ClientConnection, sent_at: list[float], measured: Measurements) -> None:
    async for message in socket:
        now = time.perf_counter()
        segment = json.loads(message)
        if segment.get("isFinal"):
            measured.finals += 1
        elif "isFinal" in segment:
            packet = (round(segment["end"] * RATE) - 1) // PACKET_SAMPLES
            measured.delays_s.append(now - sent_at[packet])
        elif "error" in segment:
            measured.errors.append(segment["code"])
