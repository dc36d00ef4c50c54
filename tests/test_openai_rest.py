"""OpenAI's REST interface with OpenAI's own client, and with what that would never send."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from stt_server.files.tests.media import KINDS, encoded
from tests.server import ServerProcess, run_server, wait_until, with_engine
from tests.speech import clip, silence
from tests.uploads import (
    PATH,
    SHORT,
    SOUND,
    TURNS,
    async_sdk,
    error_of,
    post,
    request_head,
    sdk,
    stream_error,
    transcribed,
    upload,
)

KEY = "sk-rest"
FAILING = with_engine(
    "ScriptedSegmentEngine(failing_calls=frozenset(range(99)))",
    before="""
from stt_server.engine.fake import ScriptedSegmentEngine
""",
)


@pytest.fixture(scope="module")
def strict() -> Iterator[ServerProcess]:
    """A server with a key and low limits."""
    flags = ("--uploads-max-mb=1", "--uploads-max-audio-s=30", "--uploads-receive-s=2")
    with run_server(f"--auth-api-keys={KEY}", "--auth-metrics=open", *flags) as process:
        yield process


# Answers


def test_sdk_gets_json(server: ServerProcess) -> None:
    with sdk(server) as client:
        found = client.audio.transcriptions.create(file=SOUND, model="whisper-1")

    assert found.text.startswith("the quick brown fox jumps")
    assert found.text == found.text.strip()
    assert found.usage is not None
    assert found.usage.type == "duration"
    assert found.usage.seconds == 18.49


@pytest.mark.parametrize("name", ["text", "srt", "vtt"])
def test_sdk_gets_plain_text(server: ServerProcess, name: Any) -> None:
    with sdk(server) as client:
        found = client.audio.transcriptions.create(file=SOUND, model="any", response_format=name)

    assert isinstance(found, str)
    begin = {"text": "the quick", "srt": "1\n00:00:00,", "vtt": "WEBVTT\n\n00:00:00."}
    assert found.startswith(begin[name])
    assert found.endswith("\n")


def test_sdk_gets_segments_and_words(server: ServerProcess) -> None:
    with sdk(server) as client:
        found = client.audio.transcriptions.create(
            file=SOUND,
            model="any",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
            prompt="hints",
            temperature=0.2,
        )

    assert isinstance(found, TranscriptionVerbose)
    assert found.duration == 18.49
    assert found.language == "en"
    assert found.segments is not None
    assert found.words is not None
    assert " ".join(segment.text for segment in found.segments) == found.text
    assert " ".join(word.word for word in found.words) == found.text
    times = [time for segment in found.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 18.49


@pytest.mark.parametrize("granularities", [None, ["segment"], ["word"]])
def test_sdk_gets_what_it_asks_the_times_of(server: ServerProcess, granularities: Any) -> None:
    with sdk(server) as client:
        found = client.audio.transcriptions.create(
            file=SHORT,
            model="any",
            response_format="verbose_json",
            timestamp_granularities=granularities or openai.omit,
        )

    assert (found.words is not None) == (granularities == ["word"])
    assert (found.segments is not None) == (granularities != ["word"])


async def test_async_sdk_gets_the_same(server: ServerProcess) -> None:
    async with async_sdk(server) as client:
        found = await client.audio.transcriptions.create(
            file=SOUND,
            model="gpt-4o-mini-transcribe",
            include=["logprobs"],
            chunking_strategy={"type": "server_vad", "threshold": 0.4},
        )
        plain = await client.audio.transcriptions.create(file=SOUND, model="any")

    assert found.text == plain.text
    assert found.logprobs is not None
    assert [item.token for item in found.logprobs] == found.text.split()
    assert plain.logprobs is None


def test_sdk_gets_text_as_it_grows(server: ServerProcess) -> None:
    with sdk(server) as client:
        whole = client.audio.transcriptions.create(file=SOUND, model="any").text
        with client.audio.transcriptions.create(file=SOUND, model="any", stream=True) as stream:
            events = list(stream)

    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= 4
    assert "".join(deltas) == whole
    assert [event.type for event in events[len(deltas) :]] == ["transcript.text.done"]
    assert getattr(events[-1], "text", None) == whole


def test_events_are_written_as_clients_read_them(server: ServerProcess) -> None:
    answer = post(server, files=upload(), data={"stream": "1", "response_format": "srt"})
    lines = answer.text.split("\n")

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert all(line.startswith("data: ") for line in lines[::2] if line)
    assert not any(lines[1::2])
    assert lines[-3:] == ["data: [DONE]", "", ""]


def test_silence_is_a_success_without_words(server: ServerProcess) -> None:
    sound = encoded(silence(3.0), KINDS["wav"])
    with sdk(server) as client:
        found = client.audio.transcriptions.create(file=sound, model="any")
        stream = client.audio.transcriptions.create(file=sound, model="any", stream=True)
        events = list(stream)

    assert found.text == ""
    assert [event.type for event in events] == ["transcript.text.done"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_a_file_decides_and_not_its_name(server: ServerProcess, kind: str) -> None:
    files = {"file": ("notes.txt", encoded(clip(TURNS), KINDS[kind]), "text/plain")}
    found = post(server, files=files, data={"response_format": "verbose_json"}).json()

    assert abs(found["duration"] - 18.49) < 0.1
    assert len({round(segment["start"]) for segment in found["segments"]}) == 4
    assert abs(len(found["text"].split()) - 38) <= 3


def test_a_file_may_have_no_name(server: ServerProcess) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + SHORT + b"\r\n--b--\r\n"
    answer = post(server, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})

    assert answer.status_code == 200
    assert answer.json()["text"]


# Errors


@pytest.mark.parametrize(
    "data",
    [b"", b"no audio at all " * 50, SOUND[: len(SOUND) // 2], bytes(50_000)],
    ids=["empty", "text", "truncated", "zeros"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_sdk_raises_for_bad_files(server: ServerProcess, data: bytes, stream: bool) -> None:
    def transcribe() -> None:
        found = client.audio.transcriptions.create(
            file=("a.flac", data), model="any", stream=stream
        )
        list(found)  # damage further on is told by the stream

    with sdk(server) as client, pytest.raises(openai.APIError) as caught:
        transcribe()

    error = caught.value
    assert error.code == "invalid_audio"
    assert error.param == "file"
    assert error.type == "invalid_request_error"
    if not stream:
        assert isinstance(error, openai.BadRequestError)
        assert error.request_id is not None


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        ({"response_format": "yaml"}, "response_format", "invalid_value"),
        ({"response_format": "diarized_json"}, "response_format", "unsupported_value"),
        (
            {"response_format": "diarized_json", "stream": "true"},
            "response_format",
            "unsupported_value",
        ),
        ({"timestamp_granularities[]": "letter"}, "timestamp_granularities", "invalid_value"),
        ({"temperature": "warm"}, "temperature", "invalid_value"),
        ({"language": "x" * 20_000}, "language", "invalid_value"),
    ],
)
def test_wrong_values_are_named(
    server: ServerProcess, data: dict[str, str], param: str, code: str
) -> None:
    answer = post(server, files=upload(), data=data)
    error = error_of(answer)

    assert answer.status_code == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize(
    "arguments",
    [
        {"json": {"model": "any"}},
        {"content": b""},
        {"data": {"model": "any"}},
        {"data": {"model": "any"}, "files": {"other": b"x"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {"files": {"file": ("n" * 20_000, b"x")}},
    ],
    ids=["json", "empty", "url-encoded", "another field", "no form", "huge header"],
)
def test_a_request_without_a_file_is_refused(
    server: ServerProcess, arguments: dict[str, Any]
) -> None:
    answer = post(server, **arguments)
    error = error_of(answer)

    assert answer.status_code == 400
    assert (error["code"], error["param"]) == ("missing_required_parameter", "file")


def test_too_much_is_refused(strict: ServerProcess) -> None:
    noise = np.random.default_rng(0).standard_normal(40 * 16_000).astype(np.float32) * 0.1
    long = encoded(noise, KINDS["mp3"])
    assert len(long) < 2**20
    with sdk(strict, key=KEY) as client:
        for sound in (bytes(2**20 + 1), bytes(40 * 2**20), long):
            with pytest.raises(openai.APIStatusError) as caught:
                client.audio.transcriptions.create(file=sound, model="any")
            assert caught.value.status_code == 413
            assert caught.value.code == "file_too_large"


def test_sdk_raises_for_a_wrong_key(strict: ServerProcess) -> None:
    with sdk(strict, key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.audio.transcriptions.create(file=SHORT, model="any")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert strict.get("/v1/nothing").status_code == 401
    with sdk(strict, key=KEY) as client:
        assert client.audio.transcriptions.create(file=SHORT, model="any").text


def test_paths_and_methods_that_are_not_there_are_errors_of_the_same_form(
    server: ServerProcess,
) -> None:
    for path in ("/v1/nothing", "/v1/", "/v1/audio/translations"):
        answer = server.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    answer = server.get(PATH)
    assert answer.status_code == 405
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_failing_recogniser_is_an_error_of_the_server() -> None:
    with run_server(command=FAILING) as server, sdk(server) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.audio.transcriptions.create(file=SOUND, model="any")
        assert caught.value.code == "internal_error"
        stream = client.audio.transcriptions.create(file=SOUND, model="any", stream=True)
        assert stream_error(stream).code == "internal_error"


def test_an_upload_that_does_not_end_is_given_up(strict: ServerProcess) -> None:
    with socket.create_connection(strict.address) as peer:
        peer.settimeout(20)
        peer.sendall(request_head(1_000, key=KEY) + b"--b\r\n")
        assert peer.recv(65_536).startswith(b"HTTP/1.1 408 ")


# Models, origins


def test_sdk_lists_models(server: ServerProcess) -> None:
    with sdk(server) as client:
        models = list(client.models.list())
        loaded = models[0]
        canary = client.models.retrieve("nvidia/canary-qwen-2.5b")
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-9")

    assert (loaded.id, loaded.object) == ("scripted", "model")
    assert (loaded.model_extra or {})["loaded"] is True
    assert "parakeet-eou" in {model.id for model in models}
    assert all(isinstance(model.created, int) and model.owned_by for model in models)
    extra = canary.model_extra or {}
    assert (canary.id, canary.owned_by) == ("canary-qwen", "nvidia")
    assert extra["licence"] == "CC-BY-4.0"
    assert extra["abilities"] == ["punctuation"]
    assert extra["loaded"] is False
    assert caught.value.code == "model_not_found"


def test_pages_of_other_origins_are_kept_out(server: ServerProcess) -> None:
    answer = post(server, files=upload(SHORT), headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 403
    assert error_of(answer)["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers

    origin = "http://localhost:3000"
    answer = post(server, files=upload(SHORT), headers={"Origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_browsers_may_ask_before_they_send_a_key(strict: ServerProcess) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }

    def preflight(origin: str) -> httpx.Response:
        url = strict.http + PATH
        return httpx.options(url, headers={**asked, "Origin": origin}, trust_env=False)

    answer = preflight("http://localhost:3000")
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == "authorization"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert preflight("https://elsewhere.example").status_code == 403


def test_logs_say_how_long_it_took_and_nothing_of_what_was_said(server: ServerProcess) -> None:
    with sdk(server) as client:
        found = client.audio.transcriptions.with_raw_response.create(file=SHORT, model="any")
    identity = found.headers["x-request-id"]

    def line() -> dict[str, Any] | None:
        mine = (event for event in transcribed(server) if event["session_id"] == identity)
        return next(mine, None)

    wait_until(lambda: line() is not None, what="the request's line")
    event = line()
    assert event is not None
    assert {"audio_s", "bytes", "took_s", "streamed"} <= set(event)
    assert "quick" not in json.dumps(event)
