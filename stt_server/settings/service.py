"""Limits, access and logs."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, SecretStr

from stt_server.settings.section import Section


class LimitSettings(Section):
    """Bounds on what a client may ask of the server."""

    max_sessions: int | None = Field(
        default=None,
        ge=1,
        description="Sessions at once; default: what the engine can hold.",
    )
    max_message_bytes: int = Field(
        default=32 * 2**20,
        ge=2**16,
        description="Largest WebSocket message; a larger one closes 1009.",
    )
    max_message_audio_bytes: int = Field(
        default=2**20,
        ge=1_024,
        description="Decoded audio in one native message.",
    )
    max_backlog_s: float = Field(
        default=300.0,
        ge=1.0,
        description="Unprocessed audio above which the socket is not read.",
    )
    idle_timeout_s: float = Field(
        default=300.0,
        ge=0.0,
        description="Without any message the session ends; 0 = never.",
    )
    max_session_s: float = Field(
        default=14_400.0,
        ge=0.0,
        description="Length of a session; 0 = no limit.",
    )
    handshake_s: float = Field(
        default=5.0,
        gt=0.0,
        description="Time for a first message that carries the key.",
    )
    send_timeout_s: float = Field(
        default=20.0,
        gt=0.0,
        description="A client that reads nothing for so long is closed.",
    )
    max_bad_messages: int = Field(
        default=100,
        ge=1,
        description="Bad messages within ten seconds that close the session.",
    )
    ping_interval_s: float = Field(
        default=20.0,
        gt=0.0,
        description="Time between keepalive pings.",
    )
    ping_timeout_s: float = Field(
        default=20.0,
        gt=0.0,
        description="Silence after a ping that closes the connection.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0.0,
        description="Time for live turns to finish after SIGTERM.",
    )


class MetricsAccess(StrEnum):
    """Who may read `/metrics`."""

    AUTO = "auto"
    KEY = "key"
    OPEN = "open"
    OFF = "off"


class AuthSettings(Section):
    """Who may connect."""

    api_keys: tuple[Annotated[SecretStr, Field(min_length=1)], ...] = Field(
        default=(),
        description="Accepted API keys; none = no auth.",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Web origins allowed besides the server's own and loopback; `*` = all.",
    )
    metrics: MetricsAccess = Field(
        default=MetricsAccess.AUTO,
        description="`auto`: /metrics is open to loopback, else behind the key.",
    )


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    JSON = "json"


class LogSettings(Section):
    """What is logged. Audio never is; transcripts only when asked."""

    level: str = Field(
        default="INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="Least level.",
    )
    format: LogFormat = Field(
        default=LogFormat.CONSOLE,
        description="`console` or `json`, a line each.",
    )
    transcripts: bool = Field(
        default=False,
        description="Log the final text of every turn.",
    )
