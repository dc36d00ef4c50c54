"""How the native protocol's messages are numbered, so that a session can be resumed;
`docs/protocols/resume.md`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from stt_server.errors import ResumeFailed
from stt_server.protocols.base import Message

TOKEN_PARAMETER = "resume_token"
_INTERIM = '"isFinal":false,"isEndOfTurn":'
_SEGMENT = '{"text":'
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class ResumeOffer:
    """A client's way back into its session."""

    token: str
    window_s: float
    """Seconds after the loss of a connection in which it may come back."""


@dataclass(frozen=True, slots=True)
class Comeback:
    """Where a client that lost its connection goes on."""

    acked: int
    """Samples per channel that it does not send again."""
    controls: int
    """Control messages that it does not send again."""
    received: int
    """Messages of the server that it has: the last one's number and 1."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """What the URL of the new connection says.

        Raises:
            ResumeFailed: a number is missing or none.
        """
        return cls(*(_count(query, name) for name in ("acked", "controls", "received")))


def stamp(message: Message, number: int, ack_samples: int) -> str:
    """`message`, a JSON object with a field or more, as its client can acknowledge it."""
    assert isinstance(message, str)
    return f'{message[:-1]},"messageId":{number},"ackSamples":{ack_samples}}}'


def is_segment(message: str) -> bool:
    return message.startswith(_SEGMENT)


def is_interim(message: str) -> bool:
    """A segment that the next one replaces. Inside the text quotation marks are escaped."""
    return is_segment(message) and _INTERIM in message


def _count(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ResumeFailed(f"{name} must be a number in the URL of a client that comes back")
    return int(text)
