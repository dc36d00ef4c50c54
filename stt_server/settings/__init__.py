"""The one settings object of the server: flags over `STT_*` variables over a file over defaults.

Nested fields take a double underscore in the environment (`STT_ENDPOINTING__SILENCE_MS`), a dash
on the command line (`--endpointing-silence-ms`) and a table in the file (`[endpointing]`).
`variables.py` reads the environment, `problems.py` says what is wrong.
Variables of the NeMo FastConformer server (`aliases.py`) come after `STT_*` and before the file.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from stt_server.settings.aliases import Values, as_variables, read_aliases
from stt_server.settings.endpointing import (
    DetectorName,
    EndpointingMode,
    EndpointingSettings,
    SessionOptions,
)
from stt_server.settings.listeners import FastConformerSettings, ParakeetSettings
from stt_server.settings.models import (
    CanaryQwenSettings,
    DecoderName,
    DecoderState,
    Dtype,
    EngineName,
    EouModelName,
    FinalModelName,
    ModelSettings,
    NemoSettings,
    PocketsphinxSettings,
    check_device,
)
from stt_server.settings.problems import problems
from stt_server.settings.realtime import RealtimeSettings
from stt_server.settings.resume import ResumeSettings
from stt_server.settings.section import nest
from stt_server.settings.service import (
    AuthSettings,
    LimitSettings,
    LogFormat,
    LogSettings,
    MetricsAccess,
)
from stt_server.settings.smart_turn import SmartTurnSettings
from stt_server.settings.uploads import UploadSettings
from stt_server.settings.variables import VariableSource, unknown

__all__ = [
    "CLIENT_VARIABLES",
    "DEFAULT_PORT",
    "AuthSettings",
    "CanaryQwenSettings",
    "DecoderName",
    "DecoderState",
    "DetectorName",
    "Dtype",
    "EndpointingMode",
    "EndpointingSettings",
    "EngineName",
    "EouModelName",
    "FastConformerSettings",
    "FinalModelName",
    "LimitSettings",
    "LogFormat",
    "LogSettings",
    "MetricsAccess",
    "ModelSettings",
    "NemoSettings",
    "ParakeetSettings",
    "PocketsphinxSettings",
    "RealtimeSettings",
    "ResumeSettings",
    "SessionOptions",
    "Settings",
    "SmartTurnSettings",
    "UploadSettings",
    "as_variables",
    "client_variables",
    "explain",
    "load_settings",
    "nest",
    "old_variables",
    "unknown_variables",
]

DEFAULT_PORT = 15751
CLIENT_VARIABLES = frozenset({"STT_API_KEY"})
"""Read by `stt-client`, not by the server."""


class _AliasSource(InitSettingsSource):
    """`ASR_*` variables."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, {})

    def __call__(self) -> dict[str, Any]:
        values: Values = {}
        for name, found in old_variables().items():
            # A model that a flag names must not get the checkpoint that ASR_MODEL names.
            if name != "ASR_MODEL" or "model" not in self.current_state:
                values |= found
        return nest(values)


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
        description="Recogniser to load; `auto` is the best one whose checkpoint is here.",
    )
    final_model: FinalModelName | None = Field(
        default=None,
        description="Second recogniser, for the final of each turn; `model` gives interims.",
    )
    final_timeout_ms: int = Field(
        default=700,
        ge=0,
        le=10_000,
        description="Time after a turn's end for `final_model`; then the text of `model` stands.",
    )
    eou_model: EouModelName | None = Field(
        default=None,
        description="Recogniser whose `<EOU>` token ends turns beside a `model` without one, for "
        "the detector `eou`.",
    )
    eou_checkpoint: str | None = Field(
        default=None,
        min_length=1,
        description="Hub id, `.nemo` file or folder of `eou_model`; default: the one it names.",
    )
    device: str = Field(
        default="auto",
        description="Where the model runs: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.",
    )
    dtype: Dtype = Field(
        default=Dtype.AUTO,
        description="What the model computes in.",
    )
    lookahead_ms: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Audio that words wait for; the nearest the model has. Default: 80.",
    )
    decoder: DecoderName | None = Field(
        default=None,
        description="For models with two; default: `rnnt`.",
    )
    max_streams: int | None = Field(
        default=None,
        ge=1,
        le=4_096,
        description="Live streams of the model at once; default: what it keeps up with, at most "
        "512, measured at the start.",
    )
    endpointing: EndpointingSettings = EndpointingSettings()
    limits: LimitSettings = LimitSettings()
    auth: AuthSettings = AuthSettings()
    uploads: UploadSettings = UploadSettings()
    resume: ResumeSettings = ResumeSettings()
    parakeet: ParakeetSettings = ParakeetSettings()
    fastconformer: FastConformerSettings = FastConformerSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    models: ModelSettings = ModelSettings()
    pocketsphinx: PocketsphinxSettings = PocketsphinxSettings()
    nemo: NemoSettings = NemoSettings()
    canary_qwen: CanaryQwenSettings = CanaryQwenSettings()
    smart_turn: SmartTurnSettings = SmartTurnSettings()
    log: LogSettings = LogSettings()

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        return check_device(name)

    @model_validator(mode="after")
    def _second_recogniser(self) -> Self:
        if self.final_model is not None and self.model == self.final_model:
            raise ValueError(f"final_model: {self.model} makes its own finals, leave it out")
        if self.eou_model is not None and self.model == self.eou_model:
            raise ValueError(f"eou_model: {self.model} tells ends of turns itself, leave it out")
        return self

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
        file_settings = TomlConfigSettingsSource(settings_cls)
        variables = VariableSource(settings_cls)
        return init_settings, variables, _AliasSource(settings_cls), file_settings


def load_settings(flags: Mapping[str, Any], *, file: Path | None = None) -> Settings:
    """Settings from command-line flags (nested like the sections), environment and TOML file.

    Raises:
        FileNotFoundError: `file` does not exist.
        pydantic.ValidationError: a value or a key is wrong.
        tomllib.TOMLDecodeError: `file` is not TOML.
        ValueError: a variable cannot be read.
    """
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"no settings file at {file}")

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    return FileSettings(**flags)


def explain(error: ValidationError) -> list[str]:
    """What is wrong with the settings, a line for each thing; no line repeats a value."""
    old = {path: name for name, values in old_variables().items() for path in values}
    return problems(error, Settings, old)


def unknown_variables(environment: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """`STT_*` variables that set nothing here (mistyped, or another program's), each with the one
    that was perhaps meant."""
    found = unknown(os.environ if environment is None else environment, Settings)  # noqa: TID251
    return {name: meant for name, meant in found.items() if name not in CLIENT_VARIABLES}


def client_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Variables that are set and read by `stt-client` alone."""
    names = os.environ if environment is None else environment  # noqa: TID251
    return sorted(CLIENT_VARIABLES & {name.upper() for name in names})


def old_variables(environment: Mapping[str, str] | None = None) -> dict[str, Values]:
    """The variables of the NeMo FastConformer server that are set, and what each one sets.

    Raises:
        ValueError: one cannot be understood.
    """
    return read_aliases(os.environ if environment is None else environment)  # noqa: TID251
