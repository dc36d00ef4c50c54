"""Short-lived keys for browsers, minted with OpenAI's own client."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.realtime import RealtimeTranscriptionSessionCreateResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.server import ServerProcess, run_server
from tests.speech import pcm
from tests.test_resume import Returning, refusal
from tests.uploads import SHORT, error_of, post, sdk, upload
from tests.wire import is_final, is_type, open_client

KEY = "sk-minting"
PATH = "/v1/realtime/client_secrets"
FLAT = "/v1/realtime/transcription_sessions"
SESSION: dict[str, Any] = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": {"model": "whisper-1", "language": "de"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 700},
        }
    },
}
INPUT = b'{"session":{"audio":{"input":%s}}}'


@pytest.fixture(scope="module")
def strict() -> Iterator[ServerProcess]:
    """A server with keys."""
    flags = ("--auth-api-keys=sk-another", f"--auth-api-keys={KEY}", "--auth-metrics=key")
    with run_server(*flags, "--host=127.0.0.1") as process:
        yield process
        assert "ek_" not in process.stderr


def ask(
    server: ServerProcess, path: str = PATH, *, key: str = KEY, **arguments: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", **arguments.pop("headers", {})}
    return httpx.post(server.http + path, headers=headers, trust_env=False, **arguments)


def minted(server: ServerProcess) -> str:
    return ask(server).json()["value"]


def test_sdk_mints_a_secret(strict: ServerProcess) -> None:
    before = int(time.time())
    with sdk(strict, key=KEY) as client:
        made = client.realtime.client_secrets.create(
            session=SESSION,  # pyright: ignore[reportArgumentType]
            expires_after={"anchor": "created_at", "seconds": 60},
        )

    assert made.value.startswith("ek_")
    assert before + 60 <= made.expires_at <= int(time.time()) + 60
    assert isinstance(made.session, RealtimeTranscriptionSessionCreateResponse)
    assert made.session.object == "realtime.transcription_session"
    assert made.session.id.startswith("sess_")
    given = made.session.audio
    assert given is not None
    assert given.input is not None
    assert given.input.transcription is not None
    assert given.input.transcription.language == "de"


def test_sdk_mints_a_secret_with_a_session_of_the_older_form(strict: ServerProcess) -> None:
    before = int(time.time())
    with sdk(strict, key=KEY) as client:
        made = client.beta.realtime.transcription_sessions.create(
            input_audio_format="g711_ulaw",
            input_audio_transcription={"model": "whisper-1", "language": "de"},
            client_secret={"expires_at": {"anchor": "created_at", "seconds": 30}},
        )

    assert made.client_secret.value.startswith("ek_")
    assert before + 30 <= made.client_secret.expires_at <= int(time.time()) + 30
    assert made.input_audio_format == "g711_ulaw"
    assert made.input_audio_transcription is not None
    assert made.input_audio_transcription.language == "de"
    assert made.turn_detection is not None
    assert made.turn_detection.type == "server_vad"


@pytest.mark.parametrize("path", [PATH, FLAT])
def test_nothing_needs_to_be_said(strict: ServerProcess, path: str) -> None:
    before = int(time.time())
    for arguments in ({}, {"json": {}}):
        answer = ask(strict, path, **arguments)
        assert answer.status_code == 200
        secret = answer.json() if path == PATH else answer.json()["client_secret"]
        assert before + 600 <= secret["expires_at"] <= int(time.time()) + 600


def ways(key: str) -> dict[str, dict[str, Any]]:
    form = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    return {
        "bearer": {"additional_headers": {"Authorization": f"Bearer {key}"}},
        "query": {"query": f"?token={key}"},
        "browser": {"subprotocols": ["stt.v1", f"token.{form}"]},
        "openai": {"subprotocols": ["realtime", f"openai-insecure-api-key.{key}"]},
    }


@pytest.mark.parametrize("way", ways(""))
async def test_a_secret_opens_sessions(strict: ServerProcess, way: str) -> None:
    secret = minted(strict)
    for _ in range(2):
        arguments = ways(secret)[way]
        async with open_client(strict.url + arguments.pop("query", ""), **arguments) as client:
            await client.send_binary(pcm("yes"))
            assert any(is_final(message) for message in await client.finish())


async def test_a_secret_opens_a_session_in_its_first_message(strict: ServerProcess) -> None:
    async with open_client(strict.url) as client:
        await client.ask({"type": "config", "token": minted(strict)}, "ready")
        assert (await client.finish())[-1]["type"] == "finished"


@pytest.mark.parametrize("is_key", [False, True])
async def test_a_secret_is_to_its_sessions_the_key_it_was_minted_with(
    strict: ServerProcess, is_key: bool
) -> None:
    secret = minted(strict)
    book = Returning(strict.url, query=f"resume=true&token={secret}")
    async with book.begin() as client:
        client.socket.transport.abort()
    async with book.come_back(token="sk-another") as client:
        await refusal(client)
    async with book.come_back(token=KEY if is_key else secret) as client:
        await book.read_until(client, is_type("resumed"))


async def test_a_secret_that_was_never_minted_opens_nothing(strict: ServerProcess) -> None:
    offered = ways("ek_" + "a" * 43)["openai"]
    with pytest.raises(InvalidStatus) as refused:
        await open_client(strict.url, **offered).__aenter__()
    assert refused.value.response.status_code == 401


def test_a_secret_mints_no_others_and_reads_no_metrics(strict: ServerProcess) -> None:
    secret = minted(strict)
    bearer = {"Authorization": f"Bearer {secret}"}

    for path in (PATH, FLAT):
        answer = ask(strict, path, key=secret)
        assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
    assert strict.get("/metrics", headers=bearer).status_code == 401


def test_a_secret_is_good_for_files_too(strict: ServerProcess) -> None:
    secret = minted(strict)
    bearer = {"Authorization": f"Bearer {secret}"}

    assert post(strict, files=upload(SHORT), headers=bearer).status_code == 200
    assert strict.get(f"/v1/models?token={secret}").status_code == 200


def test_only_who_has_a_key_mints(strict: ServerProcess) -> None:
    with sdk(strict, key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.realtime.client_secrets.create()


async def test_a_session_is_as_it_was_when_its_secret_was_minted(strict: ServerProcess) -> None:
    asked = {"input_audio_format": "g711_ulaw", "turn_detection": None}
    plain, flat = ask(strict, json={"session": SESSION}), ask(strict, FLAT, json=asked)
    created = [
        await first_event(strict, secret)
        for secret in (plain.json()["value"], flat.json()["client_secret"]["value"], KEY)
    ]
    inputs = [event["session"]["audio"]["input"] for event in created]

    assert {event["type"] for event in created} == {"session.created"}
    assert inputs[0]["transcription"]["language"] == "de"
    assert inputs[0]["turn_detection"]["silence_duration_ms"] == 700
    assert inputs[0] == plain.json()["session"]["audio"]["input"]
    assert inputs[1]["format"] == {"type": "audio/pcmu"}
    assert inputs[1]["turn_detection"] is None
    assert inputs[2]["turn_detection"]["silence_duration_ms"] == 500


async def first_event(server: ServerProcess, key: str) -> dict[str, Any]:
    address = server.http.replace("http", "ws", 1) + "/v1/realtime?intent=transcription"
    headers = {"Authorization": f"Bearer {key}"}
    async with connect(address, additional_headers=headers, proxy=None) as socket:
        return json.loads(await socket.recv())


def test_a_server_without_keys_mints_too(server: ServerProcess) -> None:
    with sdk(server) as client:
        assert client.realtime.client_secrets.create().value.startswith("ek_")


@pytest.mark.parametrize(
    ("path", "content", "param"),
    [
        (PATH, b"{", None),
        (PATH, b"[]", None),
        (PATH, b'"text"', None),
        (PATH, b"[" * 10_000, None),
        (PATH, b"\xff", None),
        (PATH, b'{"session":[]}', "session"),
        (PATH, INPUT % b'{"noise_reduction":{"x":NaN}}', None),
        (PATH, INPUT % b'{"noise_reduction":{"x":1e999}}', None),
        (PATH, INPUT % b'{"format":{"type":"audio/opus"}}', "session.audio.input.format.type"),
        (PATH, b'{"session":{"type":"realtime"}}', "session.type"),
        (PATH, b'{"expires_after":{"anchor":"now"}}', "expires_after.anchor"),
        (PATH, b'{"expires_after":{"seconds":9}}', "expires_after.seconds"),
        (PATH, b'{"expires_after":{"seconds":7201}}', "expires_after.seconds"),
        (PATH, b'{"expires_after":{"seconds":"soon"}}', "expires_after.seconds"),
        (FLAT, b'{"input_audio_format":"mp3"}', "input_audio_format"),
        (FLAT, b'{"turn_detection":7}', "turn_detection"),
        (
            FLAT,
            b'{"client_secret":{"expires_at":{"seconds":1}}}',
            "client_secret.expires_at.seconds",
        ),
    ],
)
def test_wrong_values_are_named(
    strict: ServerProcess, path: str, content: bytes, param: str | None
) -> None:
    answer = ask(strict, path, content=content)
    error = error_of(answer)

    assert answer.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_request_that_is_too_large_is_refused(strict: ServerProcess) -> None:
    answer = ask(strict, json={"session": {"x": "x" * 20_000}})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


def test_pages_may_mint_only_from_allowed_origins(strict: ServerProcess) -> None:
    origin = "http://localhost:3000"
    answer = ask(strict, headers={"Origin": origin})
    assert answer.headers["access-control-allow-origin"] == origin

    assert ask(strict, headers={"Origin": "https://elsewhere.example"}).status_code == 403
