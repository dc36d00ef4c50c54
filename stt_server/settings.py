"""The one settings object of the server: flags over `STT_*` variables over a file over defaults.

Nested fields take a double underscore in the environment (`STT_ENDPOINTING__SILENCE_MS`), a dash
on the command line (`--endpointing-silence-ms`) and a table in the file (`[endpointing]`).
"""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

DEFAULT_PORT = 15751
CLIENT_VARIABLES = frozenset({"STT_API_KEY"})
"""Read by `stt-client`, not by the server."""


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EndpointingMode(StrEnum):
    """What may end a turn: the detector, or only the client's own flush and finish."""

    VAD = "vad"
    NONE = "none"


class EndpointingSettings(Section):
    """When speech starts, pauses and yields the floor."""

    mode: EndpointingMode = Field(
        default=EndpointingMode.VAD,
        description="`none`: turns end only by flush or finish.",
    )
    onset: float = Field(
        default=0.5,
        ge=0.05,
        le=0.99,
        description="Speech probability that opens speech.",
    )
    offset: float = Field(
        default=0.35,
        ge=0.01,
        le=0.95,
        description="Probability below which speech pauses.",
    )
    small_gap_ms: int = Field(
        default=300,
        ge=64,
        le=5_000,
        description="Silence that pauses speech and may cut a segment.",
    )
    silence_ms: int = Field(
        default=1_500,
        ge=100,
        le=10_000,
        description="Silence that ends a turn.",
    )
    min_speech_ms: int = Field(
        default=1_000,
        ge=0,
        le=10_000,
        description="Speech needed before a small gap may cut a segment.",
    )
    max_segment_s: float = Field(
        default=20.0,
        ge=2.0,
        le=600.0,
        description="A longer segment is cut at its largest gap.",
    )
    pre_roll_ms: int = Field(
        default=300,
        ge=0,
        le=2_000,
        description="Audio before the onset that belongs to the turn.",
    )
    leading_silence_ms: int = Field(
        default=3_000,
        ge=0,
        le=60_000,
        description="Silence kept at most ahead of a segment's speech.",
    )
    stall_ms: int = Field(
        default=1_200,
        ge=0,
        le=60_000,
        description="Wall-clock time without audio that ends an open turn; 0 = never.",
    )

    @model_validator(mode="after")
    def _hysteresis(self) -> Self:
        if self.offset > self.onset:
            raise ValueError("offset must not lie above onset")
        return self


class SessionOptions(Section):
    """What one session may choose for itself; the server's settings are the defaults."""

    endpointing: EndpointingSettings = EndpointingSettings()
    interim_results: bool = True
    segment_finals: bool = False
    language: str | None = None
    vocabulary: tuple[str, ...] = ()
    lookahead_ms: int | None = None


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


class EngineName(StrEnum):
    """Recognisers this server can run."""

    AUTO = "auto"
    POCKETSPHINX = "pocketsphinx"
    SCRIPTED = "scripted"


class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class ModelSettings(Section):
    """Where model checkpoints come from and are kept."""

    cache_dir: Path | None = Field(
        default=None,
        description="Folder of downloaded checkpoints; default: ~/.cache/nemo_lite.",
    )
    endpoint: str = Field(
        default="https://huggingface.co",
        pattern="^https?://",
        description="Model hub, or a mirror of it.",
    )
    offline: bool = Field(
        default=False,
        description="Never download; use what is in the folder.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="Access token for gated or private checkpoints.",
    )

    @field_validator("cache_dir")
    @classmethod
    def _home(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser()


class PocketsphinxSettings(Section):
    """The embedded recogniser's worker processes."""

    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Worker processes at most; default: two per core.",
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


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix="STT_",
        env_nested_delimiter="__",
        env_nested_max_split=1,
        frozen=True,
        extra="forbid",
    )

    host: str | None = Field(
        default=None,
        description="Address to bind; default: loopback without API keys, all interfaces with.",
    )
    port: int = Field(
        default=DEFAULT_PORT,
        ge=0,
        le=65_535,
        description="TCP port; 0 = any free one.",
    )
    model: EngineName = Field(
        default=EngineName.AUTO,
        description="Recogniser to load.",
    )
    device: Device = Field(
        default=Device.AUTO,
        description="Where the model runs.",
    )
    endpointing: EndpointingSettings = EndpointingSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    models: ModelSettings = ModelSettings()
    pocketsphinx: PocketsphinxSettings = PocketsphinxSettings()
    log: LogSettings = LogSettings()

    @property
    def bind_host(self) -> str:
        """The address to listen on: without a key only this machine may connect by default."""
        if self.host is not None:
            return self.host
        return "0.0.0.0" if self.auth.api_keys else "127.0.0.1"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, then the file that `load_settings` names."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(flags: Mapping[str, Any], *, file: Path | None = None) -> Settings:
    """Settings from command-line flags (nested like the sections), environment and TOML file.

    Raises:
        FileNotFoundError: `file` does not exist.
        pydantic.ValidationError: a value or a key is wrong.
        tomllib.TOMLDecodeError: `file` is not TOML.
    """
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"no settings file at {file}")

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    return FileSettings(**flags)


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Names of `STT_*` variables that set nothing here: mistyped, or another program's."""
    known = {f"STT_{name}".upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    names = (name.upper() for name in (os.environ if environment is None else environment))  # noqa: TID251
    return sorted(
        name for name in names if name.startswith("STT_") and name.split("__")[0] not in known
    )
