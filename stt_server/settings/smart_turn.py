"""The smart-turn model, which judges from the sound whether a turn is complete."""

from pathlib import Path

from pydantic import Field, field_validator

from stt_server.settings.section import Section


class SmartTurnSettings(Section):
    """Where smart-turn is, and how much of the machine it may use."""

    model: Path | None = Field(
        default=None,
        description="Path of the ONNX file; default: that of an installed `pipecat-ai`, else the "
        "one that `stt-server models pull smart-turn` brought.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Judgements at once, each on a core; default: one for every two cores.",
    )

    @field_validator("model")
    @classmethod
    def _home(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()
