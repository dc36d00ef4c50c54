"""What a wire protocol is to the rest of the server."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from stt_server.errors import BadMessage
from stt_server.events import Clear, Configure, Flush, StreamEvent
from stt_server.settings import SessionOptions

Message: TypeAlias = str | bytes


class Encoding(StrEnum):
    """How samples are written; all little-endian."""

    PCM16 = "pcm16"
    F32 = "f32"
    MULAW = "mulaw"
    ALAW = "alaw"

    @property
    def sample_bytes(self) -> int:
        return {Encoding.PCM16: 2, Encoding.F32: 4}.get(self, 1)


MIN_RATE, MAX_RATE = 8_000, 48_000


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The shape of raw audio bytes. Two channels are interleaved."""

    sample_rate: int = 16_000
    channels: int = 1
    encoding: Encoding = Encoding.PCM16

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample over all channels."""
        return self.channels * self.encoding.sample_bytes


@dataclass(frozen=True, slots=True)
class Packet:
    """Audio as a client sent it."""

    data: bytes
    format: AudioFormat
    splits_samples: bool = False
    """A piece of a byte stream: it may end in the middle of a sample that the next completes."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The client is done; everything received is to be transcribed, then the session ends."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """The client presents its key in a message."""

    token: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that is answered at once, without waiting for audio before it."""

    message: Message


@dataclass(frozen=True, slots=True)
class Refused:
    """A part of the message that is refused; what stands before and after it counts."""

    error: BadMessage


ClientEvent: TypeAlias = (
    Packet | Flush | Clear | Finish | Configure | Authenticate | Reply | Refused
)


class Codec(Protocol):
    """One wire protocol for one session. Does no I/O, owns no task, reads no clock."""

    @property
    def options(self) -> SessionOptions:
        """The session's options as they stand after the connection's URL was read."""
        ...

    def decode(self, message: Message) -> Iterable[ClientEvent]:
        """What the client wants with one message, to be iterated over once.

        Raises:
            BadMessage: the message is refused whole; the session sends `encode(StreamError)`.
        """
        ...

    def encode(self, event: StreamEvent) -> Sequence[Message]:
        """The messages that tell the client of `event`; often none."""
        ...
