"""The event loop stays free while the embedded recogniser computes."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stt_server.engine.base import StreamOptions
from stt_server.engine.pocketsphinx import PocketsphinxEngine, PocketsphinxStream
from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Audio, Samples
from stt_server.settings import PocketsphinxSettings

CLIPS = Path(__file__).parent / "audio"
SPEECH_S = 5
STREAMS = 2
ATTEMPTS = 3
ALLOWED_S = 0.020


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_loop_is_free_while_two_streams_decode() -> None:
    """p99 of the loop's delay is under 20 ms.

    A promise of the server in wall-clock time, so this test times what tests should not. On a busy
    machine other processes delay the loop too, for seconds at a time; so the best of three
    attempts counts. A decoder in the loop's own process, as a thread or not, would fail them all:
    it holds the interpreter for 15 to 60 ms with every 100 ms of speech.
    """
    engine = PocketsphinxEngine(PocketsphinxSettings(workers=STREAMS))
    await engine.start()
    try:
        streams = [await engine.open(StreamOptions()) for _ in range(STREAMS)]
        delays_s: list[float] = []
        for _ in range(ATTEMPTS):
            delays_s.append(await measure(streams))
            if delays_s[-1] < ALLOWED_S:
                break
    finally:
        await engine.stop()
    assert min(delays_s) < ALLOWED_S, f"p99 of each attempt, in seconds: {delays_s}"


async def measure(streams: list[PocketsphinxStream]) -> float:
    """The p99 of the loop's delay in seconds while all `streams` hear speech in real time."""
    clips = ("conversation-doctor.flac", "conversation-restaurant.flac")
    probe = asyncio.create_task(record_delays())
    try:
        async with asyncio.TaskGroup() as talk:
            for stream, clip in zip(streams, clips, strict=True):
                samples, _ = soundfile.read(CLIPS / clip, dtype="float32")
                talk.create_task(speak(stream, samples[: SPEECH_S * SAMPLE_RATE]))
    finally:
        probe.cancel()
    delays_s = await probe
    assert len(delays_s) > 100
    return float(np.percentile(delays_s, 99))


async def record_delays() -> list[float]:
    """How much later than asked each of many short sleeps returned, until cancelled."""
    loop = asyncio.get_running_loop()
    delays_s: list[float] = []
    try:
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            delays_s.append(loop.time() - due)
    except asyncio.CancelledError:
        return delays_s


async def speak(stream: PocketsphinxStream, samples: Samples) -> None:
    """Push as a microphone would; a stream that falls behind catches up without a break."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    heard = 0
    for at in range(0, len(samples), WINDOW_SAMPLES):
        await asyncio.sleep(max(0.0, started + at / SAMPLE_RATE - loop.time()))
        audio = Audio(at, samples[at : at + WINDOW_SAMPLES], speech=True)
        heard += await stream.push(audio) is not None
    final = await stream.end_turn()
    assert heard > SPEECH_S
    assert final.words
