"""When speech starts, pauses and ends a turn, and what else a session may choose for itself."""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from stt_server.settings.section import Section


class EndpointingMode(StrEnum):
    """What makes turns: speech and silence, or the client."""

    VAD = "vad"
    NONE = "none"
    """Speech opens a turn, only the client's flush or finish ends it."""
    MANUAL = "manual"
    """The client marks turns: whatever it sends from one flush to the next is one."""


class DetectorName(StrEnum):
    """What may end a turn before the large gap does."""

    SILENCE = "silence"
    EOU = "eou"
    SMART_TURN = "smart-turn"


class EndpointingSettings(Section):
    """When speech starts, pauses and yields the floor."""

    mode: EndpointingMode = Field(
        default=EndpointingMode.VAD,
        description="`none`: turns end only by flush or finish. `manual`: also, all audio between "
        "two flushes is a turn, silence included.",
    )
    detector: DetectorName = Field(
        default=DetectorName.SILENCE,
        description="What may end a turn before `silence_ms` does: nothing, the model's `<EOU>` "
        "token, or smart-turn's judgement of the audio.",
    )
    turn_threshold: float = Field(
        default=0.5,
        ge=0.01,
        le=1.0,
        description="A detector at least so sure ends the turn.",
    )
    eager: bool = Field(
        default=False,
        description="Tell clients at a small gap that the turn has probably ended.",
    )
    eager_threshold: float = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="No eager end while a detector is less sure than this.",
    )
    check_ms: int = Field(
        default=160,
        ge=32,
        le=2_000,
        description="Silence after which a detector is asked again.",
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

    @property
    def stall_s(self) -> float:
        """Wall-clock seconds without audio that end an open turn; 0 = never."""
        return 0.0 if self.mode is EndpointingMode.MANUAL else self.stall_ms / 1_000

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
