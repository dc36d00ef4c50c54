"""Clients that come back after a lost connection."""

from pydantic import Field

from stt_server.settings.section import Section


class ResumeSettings(Section):
    """Sessions whose client lost its connection and comes back."""

    window_s: float = Field(
        default=15.0,
        ge=0.0,
        le=3_600.0,
        description="Time to come back in; 0 = sessions cannot be resumed.",
    )
    buffer_kib: int = Field(
        default=1_024,
        ge=16,
        le=2**20,
        description="Messages kept for a client that is away; the session ends when it gets more.",
    )
