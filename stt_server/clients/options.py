"""What a client asks of its session, and the user's environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from stt_server.protocols.base import AudioFormat, Encoding
from stt_server.settings import EndpointingMode


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The session options of the native protocol; None leaves the server's own default.

    `features` are extra fields and events: any of `ids`, `times`, `words`, `confidence`,
    `language`, `speaker`, `events`, or `all`.
    """

    sample_rate: int = 16_000
    channels: int = 1
    encoding: Encoding = Encoding.PCM16
    features: tuple[str, ...] = ()
    interim: bool | None = None
    segment_finals: bool | None = None
    language: str | None = None
    vocabulary: tuple[str, ...] = ()
    model: str | None = None
    lookahead_ms: int | None = None
    endpointing: EndpointingMode | None = None
    detector: str | None = None
    silence_ms: int | None = None
    stall_ms: int | None = None
    eager: bool | None = None
    resume: bool | None = None
    """Ask for a session that survives lost connections: the client comes back by itself."""

    @property
    def format(self) -> AudioFormat:
        """The shape of the bytes that are sent."""
        return AudioFormat(self.sample_rate, self.channels, self.encoding)

    def config(self) -> dict[str, Any]:
        """The `config` message."""
        endpointing = _without_none(
            {
                "mode": self.endpointing,
                "detector": self.detector,
                "silenceMs": self.silence_ms,
                "stallMs": self.stall_ms,
                "eager": self.eager,
            }
        )
        return _without_none(
            {
                "type": "config",
                "sampleRate": self.sample_rate,
                "channels": self.channels,
                "encoding": self.encoding,
                "features": list(self.features) or None,
                "interimResults": self.interim,
                "segmentFinals": self.segment_finals,
                "language": self.language,
                "vocabulary": list(self.vocabulary) or None,
                "model": self.model,
                "lookaheadMs": self.lookahead_ms,
                "resume": self.resume,
                "endpointing": endpointing or None,
            }
        )


class ClientSettings(BaseSettings):
    """What the command line takes from the environment."""

    model_config = SettingsConfigDict(env_prefix="STT_", frozen=True)

    api_key: SecretStr | None = None
    """`STT_API_KEY`"""


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
