"""Ports beside the main one, for clients of other servers."""

from pydantic import Field

from stt_server.settings.section import Section


class ParakeetSettings(Section):
    """Ports of the parakeet protocol beside its path on the main one; 0 = off."""

    port: int = Field(
        default=8_765,
        ge=0,
        le=65_535,
        description="Raw TCP, a JSON object per line.",
    )
    status_port: int = Field(
        default=8_050,
        ge=0,
        le=65_535,
        description="Raw TCP that tells the number of streams.",
    )
    ws_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="WebSockets of old clients, whatever their path.",
    )


class FastConformerSettings(Section):
    """The port of the FastConformer protocol beside its path on the main one; 0 = off."""

    port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="WebSockets of old clients, whatever their path.",
    )
    init_s: float = Field(
        default=10.0,
        gt=0.0,
        description="Time for the `init` message.",
    )
