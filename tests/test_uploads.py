"""Files that take their time: clients that leave, servers that end, live sessions beside them."""

import asyncio
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import uvicorn

from stt_server import transport
from stt_server.files.tests.media import KINDS, encoded
from stt_server.transport import ImpatientHttpProtocol
from tests.raw import raw_peer
from tests.server import ServerProcess, run_server, wait_until
from tests.speech import clip, pcm
from tests.test_conversations import word_errors
from tests.test_live_models import AUDIO, BASE, MODEL, sound
from tests.uploads import (
    SHORT,
    SLOW,
    SOUND,
    TURNS,
    async_sdk,
    error_of,
    post,
    request_head,
    requests_open,
    sdk,
    stream_error,
    transcribed,
    upload,
)
from tests.wire import is_final, open_client, transcribe


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that needs a while and takes two requests at a time."""
    folder = tmp_path_factory.mktemp("uploads")
    with run_server(
        "--uploads-max-requests=2", command=SLOW, env={"TMPDIR": str(folder)}
    ) as process:
        yield process
        assert not list(folder.glob("stt-upload-*"))


async def test_text_comes_while_the_file_is_still_being_worked_on(slow: ServerProcess) -> None:
    before = len(transcribed(slow))
    async with async_sdk(slow) as client:
        stream = await client.audio.transcriptions.create(file=SOUND, model="any", stream=True)
        async with stream:
            first = await anext(aiter(stream))
            assert first.type == "transcript.text.delta"
            assert len(transcribed(slow)) == before
            assert [event.type async for event in stream][-1] == "transcript.text.done"
    await asyncio.to_thread(
        wait_until, lambda: len(transcribed(slow)) > before, what="the request's last line"
    )


def test_a_decoder_that_dies_is_an_error_of_the_file(slow: ServerProcess) -> None:
    with sdk(slow) as client:
        stream = client.audio.transcriptions.create(file=long_sound(), model="any", stream=True)
        next(iter(stream))
        kill_decoders(slow)
        assert stream_error(stream).code == "invalid_audio"
        assert client.audio.transcriptions.create(file=SHORT, model="any").text


def long_sound() -> bytes:
    """Far more than is read ahead of the recogniser."""
    return encoded(np.tile(clip(TURNS), 12), KINDS["flac"])


def kill_decoders(server: ServerProcess) -> None:
    for child in server.usage().children():
        if any("decoder_worker" in argument for argument in child.cmdline()):
            os.kill(child.pid, signal.SIGSEGV)


def test_a_client_that_leaves_in_mid_upload_leaves_nothing(slow: ServerProcess) -> None:
    with socket.create_connection(slow.address) as peer:
        peer.sendall(request_head(10_000_000) + file_head() + bytes(3_000_000))
        wait_until(lambda: requests_open(slow) == 1, what="the request")
    wait_until(lambda: requests_open(slow) == 0, what="the end of the request")


def test_a_client_that_leaves_takes_its_work_along(slow: ServerProcess) -> None:
    body = file_head() + long_sound() + b"\r\n--b--\r\n"
    for stream in (b"", stream_part()):
        with socket.create_connection(slow.address) as peer:
            peer.sendall(request_head(len(stream + body)) + stream + body)
            wait_until(lambda: requests_open(slow) == 1, what="the request")
            if stream:
                assert b"200 OK" in peer.recv(1_000)
        wait_until(lambda: requests_open(slow) == 0, what="the end of the request")


def file_head() -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def stream_part() -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n'


async def test_more_requests_than_may_wait_are_refused(slow: ServerProcess) -> None:
    sound = await asyncio.to_thread(long_sound)
    async with async_sdk(slow) as client:
        streams = [
            await client.audio.transcriptions.create(file=sound, model="any", stream=True)
            for _ in range(2)
        ]
        answer = await asyncio.to_thread(post, slow, files=upload(SHORT))
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert error_of(answer)["code"] == "overloaded"
        for stream in streams:
            await stream.close()
    await asyncio.to_thread(wait_until, lambda: requests_open(slow) == 0, what="the end")


def test_a_decoder_is_ready_before_the_first_file() -> None:
    with run_server("--uploads-warm") as server:
        server.wait_for_event("worker.started")
        assert requests_open(server) == 0
        assert not transcribed(server)
        assert post(server, files=upload(SHORT)).status_code == 200


async def test_live_sessions_keep_their_places(slow: ServerProcess) -> None:
    """The engine has four; a file that took some of them gives them back."""
    async with async_sdk(slow) as client:
        stream = await client.audio.transcriptions.create(
            file=await asyncio.to_thread(long_sound), model="any", stream=True
        )
        await anext(aiter(stream))
        async with asyncio.TaskGroup() as group:
            live = [group.create_task(final_of_yes(slow)) for _ in range(4)]
        assert [task.result() for task in live] == ["the quick"] * 4
        await stream.close()


async def final_of_yes(server: ServerProcess) -> str:
    async with open_client(server.url) as client:
        await client.send_binary(pcm("yes"))
        messages = await client.finish()
    return next(message["text"] for message in messages if is_final(message))


def test_what_runs_is_finished_when_the_server_ends() -> None:
    with run_server(command=SLOW) as server, sdk(server) as client:
        whole = client.audio.transcriptions.create(file=SOUND, model="any").text
        stream = client.audio.transcriptions.create(file=SOUND, model="any", stream=True)
        with stream:
            events = iter(stream)
            next(events)
            server.signal(signal.SIGTERM)
            server.wait_for_event("server.draining")
            assert post(server, files=upload(SHORT)).status_code == 503
            *_, last = events
        assert getattr(last, "text", None) == whole
        assert server.wait() == 0


def test_what_runs_too_long_is_told_when_the_server_ends() -> None:
    with run_server("--limits-drain-s=0.3", command=SLOW) as server, sdk(server) as client:
        stream = client.audio.transcriptions.create(file=long_sound(), model="any", stream=True)
        next(iter(stream))
        server.signal(signal.SIGTERM)
        assert stream_error(stream).code == "overloaded"
        assert server.wait() == 0


def test_a_flood_of_bad_files_leaves_nothing(slow: ServerProcess) -> None:
    post(slow, files=upload(SHORT))
    usage = psutil.Process(slow.pid)
    files, threads = usage.num_fds(), usage.num_threads()
    for index in range(20):
        assert post(slow, files=upload(SHORT[: 100 * index])).status_code == 400
    assert post(slow, files=upload(SHORT)).status_code == 200
    wait_until(lambda: usage.num_fds() <= files + 4, what="files closed")
    assert usage.num_threads() <= threads + 2
    assert not [event for event in slow.events if event["level"] == "ERROR"]


async def test_a_peer_that_reads_nothing_of_its_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "UNREAD_S", 0.2)
    is_gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        event = {"type": "http.response.body", "body": bytes(2**20), "more_body": True}

        async def talk() -> None:
            while True:
                await send(event)

        talking = asyncio.create_task(talk())
        while (await receive())["type"] != "http.disconnect":
            pass
        talking.cancel()
        is_gone.set()

    config = uvicorn.Config(app, http=ImpatientHttpProtocol, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        with raw_peer(listener.getsockname(), receive_buffer=4_096) as peer:
            peer.socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(20):
                await is_gone.wait()
        server.should_exit = True
        await serving


# Words


@pytest.fixture(scope="module")
def digits() -> Iterator[ServerProcess]:
    if not MODEL.is_file():
        pytest.skip("../shared/models is absent")
    pytest.importorskip("torch")
    flags = ("--model=parakeet-eou", f"--nemo-checkpoint={MODEL}", "--device=cpu")
    with run_server(*flags, "--max-streams=8", command=BASE) as process:
        yield process


async def test_a_file_has_the_words_of_a_live_session(digits: ServerProcess) -> None:
    for name in ("p01_turn_george", "p08_turn_lucas", "p09_turn_nicolas"):
        path = AUDIO / f"{name}.flac"
        live = [m["text"] for m in await transcribe(digits.url, sound(path)) if is_final(m)]
        answer = await asyncio.to_thread(post, digits, files=upload(path.read_bytes()))

        assert answer.json()["text"] == " ".join(live)


async def test_a_long_file_is_recognised_as_well_as_live(digits: ServerProcess) -> None:
    """More than a minute, cut into pieces that are heard side by side."""
    lines = (AUDIO / "manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines][:15]
    target, parts, said = io.BytesIO(), list[Any](), list[str]()
    for entry in entries:
        samples, _ = soundfile.read(AUDIO / entry["file"], dtype="int16")
        parts += [samples, np.zeros(11_000, np.int16)]
        said += entry["text"].split()
    whole = np.concatenate(parts)
    soundfile.write(target, whole, 16_000, format="FLAC")
    messages = await transcribe(digits.url, whole.tobytes())
    live = " ".join(message["text"] for message in messages if is_final(message))
    answer = await asyncio.to_thread(
        post, digits, files=upload(target.getvalue()), data={"response_format": "verbose_json"}
    )
    found = answer.json()

    errors = word_errors(said, found["text"].split())
    assert errors <= word_errors(said, live.split()) + 1
    starts = [segment["start"] for segment in found["segments"]]
    assert starts == sorted(starts)
    last = entries[-1]["words"][-1]["start"] + (sum(map(len, parts[:-2])) / 16_000)
    assert abs(found["segments"][-1]["end"] - last) < 1.5
