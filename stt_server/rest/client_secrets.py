"""`POST /v1/realtime/client_secrets`, and the older form of it: short-lived keys for browsers."""

import asyncio
import json
import logging
import math
import time
import uuid
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from stt_server.auth import Authenticator
from stt_server.client_secrets import TooManySecrets
from stt_server.protocols.native_config import readable
from stt_server.protocols.realtime_flat import describe_flat, parse_flat
from stt_server.protocols.realtime_messages import BadEvent
from stt_server.protocols.realtime_session import (
    RealtimeConfig,
    SessionUpdate,
    Terms,
    parse_part,
)
from stt_server.refusals import http_error
from stt_server.rest.errors import ApiError, as_api_error

logger = logging.getLogger(__name__)

Json: TypeAlias = dict[str, Any]
MAX_BODY_BYTES = 16_384
BODY_S = 10.0
"""Time for a request to arrive."""


class Lifetime(BaseModel):
    """How long a secret opens sessions."""

    model_config = ConfigDict(frozen=True)

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(default=600, ge=10, le=7_200)


class SecretRequest(BaseModel):
    """What is asked of `client_secrets`."""

    expires_after: Lifetime | None = None
    session: Json | None = None


class FlatSecret(BaseModel):
    """`client_secret` of the older form; its `expires_at` is a duration, too."""

    expires_at: Lifetime | None = None
    expires_after: Lifetime | None = None


class FlatRequest(BaseModel):
    """What is asked of `transcription_sessions`: all else in it is the flat session."""

    model_config = ConfigDict(extra="allow")

    client_secret: FlatSecret | None = None


Asked = TypeVar("Asked", SecretRequest, FlatRequest)


class ClientSecretRoutes:
    """Handlers of the routes."""

    def __init__(self, auth: Authenticator, terms: Terms) -> None:
        self._auth = auth
        self._terms = terms

    async def create(self, request: Request) -> Response:
        """A secret, and the session it is for."""
        try:
            asked = await _asked(request, SecretRequest)
            session = parse_part(SessionUpdate, asked.session or {})
            secret = self._mint(request, session, asked.expires_after)
        except Exception as error:  # the request's boundary
            return _failure(error)
        kind = {"type": "transcription"}
        return JSONResponse({**secret, "session": kind | _named() | self._all(session).describe()})

    async def create_flat(self, request: Request) -> Response:
        """The session in its older form, and the secret in it."""
        try:
            asked = await _asked(request, FlatRequest)
            session = _parse_flat(asked)
            wanted = asked.client_secret or FlatSecret()
            secret = self._mint(request, session, wanted.expires_at or wanted.expires_after)
        except Exception as error:  # the request's boundary
            return _failure(error)
        return JSONResponse(
            {**_named(), **describe_flat(self._all(session)), "client_secret": secret}
        )

    def _mint(self, request: Request, session: SessionUpdate, lifetime: Lifetime | None) -> Json:
        seconds = (lifetime or Lifetime()).seconds
        holder = self._auth.key_holder(request.headers, request.query_params)
        if holder is None:
            # Else it would never expire.
            text = "a client secret mints no others: use an API key"
            raise ApiError(401, "invalid_api_key", text)
        given = session.model_dump(mode="json", exclude_unset=True)
        try:
            value = self._auth.secrets.mint(holder, given, seconds=seconds)
        except TooManySecrets as error:
            retry_s = math.ceil(error.retry_s)
            raise ApiError(429, "rate_limit_exceeded", str(error), retry_s=retry_s) from error
        logger.info("client_secret.minted", extra={"seconds": seconds})
        return {"value": value, "expires_at": int(time.time()) + seconds}

    def _all(self, session: SessionUpdate) -> RealtimeConfig:
        """What will be in force, as far as it is known without the connection's URL."""
        return RealtimeConfig.initial(self._terms, None).merge(session)


async def _asked(request: Request, kind: type[Asked]) -> Asked:
    """The request's body, which may be empty.

    Raises:
        ApiError: it is something else, too large, or does not arrive in time.
        ClientDisconnect: the client went away.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    most = f"{MAX_BODY_BYTES // 1_024} KiB"
                    raise ApiError(413, "request_too_large", f"the body is larger than {most}")
    except TimeoutError:
        raise ApiError(408, "timeout", "the request did not arrive in time") from None
    try:
        value: object = from_json(bytes(body) or b"{}")
        # Refuses what is read as infinite, and could not be written again.
        json.dumps(value, allow_nan=False)
        return kind.model_validate(value)
    except ValidationError as error:
        path = error.errors(include_url=False, include_input=False)[0]["loc"]
        param = ".".join(map(str, path)) or None
        raise ApiError(400, "invalid_value", readable(error), param) from error
    except ValueError as error:
        raise ApiError(400, "invalid_value", "the body is not plain JSON") from error


def _parse_flat(asked: FlatRequest) -> SessionUpdate:
    try:
        return parse_flat(asked.model_extra)
    except BadEvent as error:
        param = (error.param or "").removeprefix("session.") or None
        raise ApiError(400, error.wire_code, str(error), param) from error


def _failure(error: Exception) -> Response:
    match error:
        case ClientDisconnect():
            return http_error(400, "invalid_request", "the request broke off")
        case BadEvent():
            return http_error(400, error.wire_code, str(error), param=error.param)
        case _:
            return as_api_error(error).response()


def _named() -> Json:
    return {"object": "realtime.transcription_session", "id": f"sess_{uuid.uuid4().hex[:12]}"}
