"""OpenAI's own client, and files for it."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import openai
import pytest

from tests.server import ServerProcess, with_engine
from tests.speech import FOLDER

TURNS = "conversation-doctor"
SOUND = (FOLDER / f"{TURNS}.flac").read_bytes()
SHORT = (FOLDER / "yes.flac").read_bytes()
PATH = "/v1/audio/transcriptions"
SLOW = with_engine("ScriptedEngine(Script(step_s=0.3), capacity=4)")
"""Takes a third of a second for each second of speech."""


@contextmanager
def sdk(server: ServerProcess, *, key: str = "unused") -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False) as http:
        yield openai.OpenAI(
            base_url=f"{server.http}/v1", api_key=key, max_retries=0, timeout=60, http_client=http
        )


@asynccontextmanager
async def async_sdk(server: ServerProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield openai.AsyncOpenAI(
            base_url=f"{server.http}/v1",
            api_key="unused",
            max_retries=0,
            timeout=60,
            http_client=http,
        )


def post(server: ServerProcess, **arguments: Any) -> httpx.Response:
    return httpx.post(server.http + PATH, timeout=60, trust_env=False, **arguments)


def upload(data: bytes = SOUND) -> dict[str, Any]:
    return {"file": ("upload", data, "application/octet-stream")}


def transcribed(server: ServerProcess) -> list[dict[str, Any]]:
    return [event for event in server.events if event["event"] == "file.transcribed"]


def requests_open(server: ServerProcess) -> float:
    lines = server.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("stt_file_requests "))


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    return error


def stream_error(stream: Iterable[object]) -> openai.APIError:
    """What a stream raises in the end."""
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    return caught.value


def request_head(length: int, *, key: str = "unused") -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
