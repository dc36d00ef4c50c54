"""Requests for client secrets that go wrong; `tests/test_client_secrets.py` has the others."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from stt_server import client_secrets
from stt_server.auth import Authenticator
from stt_server.protocols.realtime_session import Terms
from stt_server.rest import client_secrets as routes
from stt_server.settings import AuthSettings, EndpointingSettings

ADDRESS = "http://server/"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    made = routes.ClientSecretRoutes(
        Authenticator(AuthSettings()), Terms("a model", EndpointingSettings())
    )
    app = Starlette(routes=[Route("/", made.create, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        yield client


async def test_more_secrets_than_a_key_may_have_are_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_secrets, "MOST_PER_KEY", 2)
    body = {"expires_after": {"anchor": "created_at", "seconds": 500}}
    answers = [await client.post(ADDRESS, json=body) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    error = answers[-1].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 400 < int(answers[-1].headers["retry-after"]) <= 500


async def test_a_request_that_does_not_end_is_given_up(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "BODY_S", 0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    answer = await client.post(ADDRESS, content=endless())

    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")
