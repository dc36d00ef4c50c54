"""However audio is encoded and cut into packets, the transcript is the same.

The scripted engine writes one word per 0.3 s of a turn, so its text shows how much audio each
turn got, to the word; the times show where.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest

from tests.audio import noise
from tests.server import ServerProcess, run_server, wait_until
from tests.speech import (
    RATE,
    Samples,
    at_rate,
    clip,
    encode,
    interleave,
    pcm,
    silence,
    spans,
    yes_and_pause,
)
from tests.wire import Json, audio_frame, is_type, open_client

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000]
ENCODINGS = ["pcm16", "f32", "mulaw", "alaw"]
SAMPLE_BYTES = {"pcm16": 2, "f32": 4, "mulaw": 1, "alaw": 1}

TIME_TOLERANCE_S = 0.1
"""A turn's border is a window border (32 ms). Another rate's filter or a coarse encoding moves a
probability near a threshold to the other side, for three windows at most in these clips."""
ONSET_LATENCY_S = 0.15
FEATURES = "features=times,words,events"


def packets(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    begin = 0
    while begin < len(data):
        end = begin + next(sizes)
        yield data[begin:end]
        begin = end


def random_sizes(seed: int, largest: int) -> Iterator[int]:
    chooser = random.Random(seed)
    while True:
        yield chooser.randint(0, largest)


async def send_and_finish(
    server: ServerProcess, messages: Iterator[bytes | Json], query: str = ""
) -> list[Json]:
    async with open_client(f"{server.url}?{FEATURES}&{query}") as client:
        for message in messages:
            await client.send(message)
        received = await client.finish()
    assert client.close_code == 1000
    assert not [message for message in received if "error" in message]
    return received


def frame_bytes(channels: int, encoding: str) -> int:
    return SAMPLE_BYTES[encoding] * channels


def binary_format(rate: int, channels: int, encoding: str) -> str:
    return f"sample_rate={rate}&channels={channels}&encoding={encoding}"


def finals(messages: list[Json]) -> list[Json]:
    return [message for message in messages if message.get("isFinal")]


def assert_speech_times(messages: list[Json], spoken: list[tuple[float, float]]) -> None:
    for kind, times in zip(
        ("speechStarted", "speechStopped"), zip(*spoken, strict=True), strict=True
    ):
        found = [message["time"] for message in messages if message.get("type") == kind]
        assert found == pytest.approx(list(times), abs=TIME_TOLERANCE_S)


def settled(messages: list[Json]) -> list[Json]:
    """What may not depend on packets: all but interims and warnings. How often a text is shown
    depends on how audio comes; what it ends as does not."""
    return [
        message
        for message in messages
        if message.get("isFinal") or message.get("type") not in (None, "warning")
    ]


def encoded(samples: Samples, rate: int, channels: int, encoding: str) -> bytes:
    """With two channels each has half of the sound: averaging gives the whole, at half level."""
    mono = at_rate(samples, rate)
    if channels == 1:
        return encode(mono, encoding)
    even = np.arange(len(mono)) // (rate // 2) % 2 == 0
    # Half a second left, half a second right; loud enough to sound the same once averaged.
    left, right = np.where(even, mono, 0.0), np.where(even, 0.0, mono)
    return encode(interleave(left.astype(np.float32), right.astype(np.float32)), encoding)


@pytest.mark.parametrize("carrier", ["json", "binary"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
async def test_every_format_gives_the_same_turns(
    server: ServerProcess, rate: int, channels: int, encoding: str, carrier: str
) -> None:
    cut_s = 4.5
    samples = clip("demo")[round(cut_s * RATE) :]
    spoken = [(start - cut_s, end - cut_s) for start, end in spans("demo") if start > cut_s]
    data = encoded(samples, rate, channels, encoding)
    # 0.311 s: no multiple of any window or hop.
    pieces = packets(data, itertools.repeat(round(0.311 * rate) * frame_bytes(channels, encoding)))
    if carrier == "json":
        frames = (audio_frame(piece, rate, channels, encoding=encoding) for piece in pieces)
        received = await send_and_finish(server, frames)
    else:
        received = await send_and_finish(server, pieces, binary_format(rate, channels, encoding))
    assert received[-1]["turns"] == len(spoken) == 2
    # Counted at the client's rate: exact to the millisecond that is shown.
    assert received[-1]["audioSeconds"] == pytest.approx(len(samples) / RATE, abs=0.0011)
    assert_speech_times(received, spoken)
    for final, (start, end) in zip(finals(received), spoken, strict=True):
        # One word per 0.3 s of pre-roll (0.3 s), speech, and the pause up to where it is told
        # (0.3 s, less where the clip ends). The tolerance of both borders together is one word.
        heard_until = min(end + 0.3, len(samples) / RATE)
        expected = (heard_until - start + 0.3) / 0.3
        assert len(final["text"].split()) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 2), (16_000, 1), (44_100, 2)])
async def test_cuts_between_packets_cannot_be_heard(
    server: ServerProcess, rate: int, channels: int, encoding: str
) -> None:
    """Finals, words and every time are equal to the millisecond, odd cuts included."""
    samples = np.concatenate((clip("yes"), silence(1.7)))
    data = encoded(samples, rate, channels, encoding)
    query = binary_format(rate, channels, encoding)
    cuts: list[Iterator[int]] = [
        itertools.repeat(2**20),
        itertools.repeat(rate // 50 * frame_bytes(channels, encoding)),
        itertools.repeat(997),
        random_sizes(1, 4_001),
        random_sizes(2, 30_011),
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(send_and_finish(server, packets(data, cut), query)) for cut in cuts
        ]
    results = [settled(task.result()) for task in tasks]
    assert len(finals(results[0])) == 1
    for result in results[1:]:
        assert result == results[0]


async def test_real_words_are_the_same_in_every_format() -> None:
    """Down to 16 kHz: what a lower rate cuts off is lost to any recogniser."""
    samples = clip("demo")[round(4.5 * RATE) : round(8.3 * RATE)]
    formats = [
        (16_000, 1, "pcm16", 32_000),
        (16_000, 1, "pcm16", 9_973),
        (16_000, 2, "mulaw", 8_001),
        (16_000, 1, "alaw", 8_000),
        (22_050, 1, "pcm16", 20_001),
        (44_100, 2, "pcm16", 99_973),
        (48_000, 1, "f32", 100_003),
    ]
    with run_server("--model=pocketsphinx", "--pocketsphinx-workers=2") as server:
        places = asyncio.Semaphore(2)

        async def recognise(rate: int, channels: int, encoding: str, size: int) -> list[Json]:
            pieces = packets(encoded(samples, rate, channels, encoding), itertools.repeat(size))
            async with places:
                wait_until(lambda: server.active_sessions() < 2, what="a place is free")
                query = binary_format(rate, channels, encoding)
                return await send_and_finish(server, pieces, query)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(recognise(*one)) for one in formats]
    texts = [[final["text"] for final in finals(task.result())] for task in tasks]
    assert texts == [["i would prefer a seat near the window"]] * len(formats)


async def test_single_bytes_make_the_same_transcript(server: ServerProcess) -> None:
    whole = await send_and_finish(server, iter([yes_and_pause()]))
    bytewise = await send_and_finish(server, packets(yes_and_pause(), itertools.repeat(1)))
    assert settled(bytewise) == settled(whole)


async def test_json_and_binary_may_be_mixed(server: ServerProcess) -> None:
    pieces = list(packets(pcm("demo"), itertools.repeat(16_002)))
    mixed: list[bytes | Json] = [
        piece if index % 3 else audio_frame(piece) for index, piece in enumerate(pieces)
    ]
    binary = await send_and_finish(server, iter(pieces))
    assert settled(await send_and_finish(server, iter(mixed))) == settled(binary)


async def test_rate_and_encoding_may_change_between_json_frames(server: ServerProcess) -> None:
    """Turns stay where they are; at each change the old filter gives out what it holds."""

    def frames() -> Iterator[Json]:
        half_seconds = np.array_split(clip("demo"), 20)
        for index, samples in enumerate(half_seconds):
            rate, encoding = RATES[index % len(RATES)], ENCODINGS[index % len(ENCODINGS)]
            yield audio_frame(encode(at_rate(samples, rate), encoding), rate, encoding=encoding)

    received = await send_and_finish(server, frames())
    assert received[-1]["audioSeconds"] == pytest.approx(len(clip("demo")) / RATE, abs=0.01)
    assert_speech_times(received, spans("demo"))


@pytest.mark.parametrize(
    ("name", "rate"),
    list(itertools.product(["demo", "yes", "conversation-delivery"], RATES)),
)
async def test_speech_started_comes_within_150_ms_of_stream_time(
    server: ServerProcess, name: str, rate: int
) -> None:
    """`config` is answered behind all output of the audio before it: after each 10 ms packet it
    tells whether the packet made the server say that speech started."""
    onset = spans(name)[0][0]
    data = encode(at_rate(clip(name), rate), "pcm16")
    packet_samples = rate // 100
    async with open_client(f"{server.url}?features=events&sample_rate={rate}") as client:
        sent = round((onset - 0.2) * rate)
        await client.send(data[: 2 * sent])
        while not (first := (await client.ask({"type": "config"}, "ready"))[0]).get("time"):
            assert sent / rate <= onset + ONSET_LATENCY_S
            await client.send(data[2 * sent : 2 * (sent + packet_samples)])
            sent += packet_samples
    assert first["type"] == "speechStarted"
    assert first["time"] == pytest.approx(onset, abs=TIME_TOLERANCE_S)
    assert sent / rate <= onset + ONSET_LATENCY_S


@pytest.mark.parametrize("rate", RATES)
async def test_one_word_turn_always_arrives(server: ServerProcess, rate: int) -> None:
    """Wherever the word lies against windows and packets, with silence before and after it."""
    word = clip("yes")[round(0.3 * RATE) :]
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[list[Json]]] = []
        for shift in range(0, 512, 73):
            samples = np.concatenate((silence(0.4 + shift / RATE), word, silence(1.8)))
            data = encode(at_rate(samples, rate), "pcm16")
            pieces = packets(data, itertools.repeat(rate // 2 + 2))
            tasks.append(group.create_task(send_and_finish(server, pieces, f"sample_rate={rate}")))
    for task in tasks:
        assert task.result()[-1]["turns"] == 1
        assert finals(task.result())[0]["text"]


@pytest.mark.parametrize(
    "samples",
    [
        silence(10.0),
        noise.white(10.0, level_dbfs=-40, seed=1),
        noise.white(10.0, level_dbfs=-20, seed=2),
        noise.pink(10.0, level_dbfs=-25, seed=3),
        noise.brown(10.0, level_dbfs=-25, seed=4),
        noise.hum(10.0, level_dbfs=-25, seed=5),
        np.full(10 * RATE, 0.5, dtype=np.float32),
    ],
    ids=["silence", "hiss", "loud white", "pink", "brown", "hum", "offset"],
)
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
async def test_noise_and_silence_are_no_turn(
    server: ServerProcess, samples: Samples, rate: int
) -> None:
    data = encode(at_rate(samples, rate), "pcm16")
    pieces = packets(data, itertools.repeat(rate))
    received = await send_and_finish(server, pieces, f"sample_rate={rate}")
    assert [message["type"] for message in settled(received)] == ["finished"]
    assert not list(filter(is_type("speechStarted"), received))
