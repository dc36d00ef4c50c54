"""Audio files that clients upload."""

from pydantic import Field

from stt_server.settings.section import Section


class UploadSettings(Section):
    """Files that are transcribed over HTTP."""

    max_mb: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Largest file, MiB.",
    )
    max_audio_s: float = Field(
        default=14_400.0,
        gt=0.0,
        description="Longest audio in a file.",
    )
    max_requests: int = Field(
        default=64,
        ge=1,
        description="Files being received, waiting or transcribed; one more gets 503.",
    )
    decoders: int = Field(
        default=4,
        ge=2,
        le=256,
        description="Files transcribed at once, each with a decoder process; the others wait.",
    )
    parallel: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Pieces of files recognised at once while there are no live sessions; "
        "default: half of what the model holds, at most 32. Beside live ones it is less.",
    )
    warm: bool = Field(
        default=True,
        description="Keep a decoder process ready; without, the first file waits for its start.",
    )
    receive_s: float = Field(
        default=600.0,
        gt=0.0,
        description="Time for a request to arrive whole.",
    )
    wait_s: float = Field(
        default=300.0,
        gt=0.0,
        description="Longest wait for a turn, and for the next words; then 503.",
    )
