"""From a server's messages and the times they came to lags. Pure: no I/O, no clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stt_server.bench.measured import LagKind, Measured
from stt_server.clients.messages import ServerMessage
from stt_server.events import SAMPLE_RATE, TurnEndReason
from stt_server.protocols.native_messages import (
    EndOfTurnMessage,
    ErrorResponse,
    ReadyMessage,
    SpeechStartedMessage,
    SpeechStoppedMessage,
    TranscriptionSegment,
)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a client's audio is due to be sent: each packet when its last sample was spoken."""

    began: float
    packet_samples: int

    def due(self, sample: int) -> float:
        """When the audio up to `sample` is due to have been sent."""
        packets = max(1, -(-sample // self.packet_samples))
        return self.began + packets * self.packet_samples / SAMPLE_RATE

    def sent(self, at: float) -> int:
        """How many samples are due to have been sent at a time."""
        packets = int((at - self.began) * SAMPLE_RATE / self.packet_samples + 1e-6)
        return max(0, packets) * self.packet_samples


@dataclass(frozen=True, slots=True)
class Window:
    """What came within counts."""

    opens: float = float("-inf")
    closes: float = float("inf")

    def __contains__(self, at: float) -> bool:
        return self.opens <= at <= self.closes


NEVER = Window(opens=float("inf"), closes=float("-inf"))
"""For audio that is sent ahead of its time: it tells no lag."""


class Observer(Protocol):
    """Reads one client's messages."""

    def hear(self, message: ServerMessage, at: float) -> None:
        """A message came."""
        ...

    def finish(self) -> None:
        """The client says that it has sent everything: finals do not tell the server's delay
        from here on, for no silence ends their turn."""
        ...


class NativeObserver:
    """Of the native protocol with word times and events."""

    def __init__(self, timeline: Timeline, window: Window, measured: Measured) -> None:
        self._timeline, self._window, self._measured = timeline, window, measured
        self._silence_s: float | None = None
        self._shown = 0
        self._stopped = 0
        self._final_at: float | None = None

    def hear(self, message: ServerMessage, at: float) -> None:
        match message:
            case ReadyMessage(config={"endpointing": {"silenceMs": int() as silence_ms}}):
                self._silence_s = silence_ms / 1_000
            case TranscriptionSegment(is_end_of_turn=True):
                if at in self._window:
                    surplus = len(message.words or ()) - self._shown
                    self._measured.words_first_in_final += max(0, surplus)
                self._shown, self._final_at = 0, at
            case TranscriptionSegment(is_final=False):
                self._interim(message, at)
            case SpeechStartedMessage(time=time):
                if at in self._window:
                    self._measured.to_onset.append(at - self._timeline.due(_samples(time)))
            case SpeechStoppedMessage(time=time):
                self._stopped = _samples(time)
            case EndOfTurnMessage(reason=reason):
                self._turn_ended(reason)
            case ErrorResponse(fatal=None | False, code=code):
                # What ends the session is counted by its close code.
                self._measured.errors[code] += 1
            case _:
                pass

    def finish(self) -> None: ...

    def _interim(self, segment: TranscriptionSegment, at: float) -> None:
        words = segment.words or []
        new, self._shown = words[self._shown :], max(self._shown, len(words))
        if at not in self._window:
            return
        if segment.word_times is None:
            kind, ends = LagKind.WORD, [word.end for word in new]
        else:
            kind, ends = LagKind.HEARD, [segment.end or 0.0] if new else []
        self._measured.lags += [at - self._timeline.due(_samples(end)) for end in ends]
        self._measured.lag_kinds[kind] += len(ends)

    def _turn_ended(self, reason: str) -> None:
        at, self._final_at = self._final_at, None
        by_client = reason in (TurnEndReason.FINISH, TurnEndReason.FLUSH, TurnEndReason.STALL)
        if at is None or at not in self._window or by_client:
            return
        self._measured.to_final.append(at - self._timeline.due(self._stopped))
        if reason == TurnEndReason.SILENCE and self._silence_s is not None:
            decided = self._stopped + _samples(self._silence_s)
            self._measured.own_share.append(at - self._timeline.due(decided))


class SiblingObserver:
    """Of protocols without times: what the audio itself says must do.

    New text that comes while nobody speaks belongs to speech up to its last end; of several the
    last one counts.
    """

    def __init__(
        self,
        timeline: Timeline,
        window: Window,
        measured: Measured,
        speech_end: Callable[[int], int | None],
    ) -> None:
        """
        Args:
            speech_end: Where speech last ended before a sample; None inside speech.
        """
        self._timeline, self._window, self._measured = timeline, window, measured
        self._speech_end = speech_end
        self._text = ""
        self._tail: tuple[int, float] | None = None
        self._finishing = False

    def hear(self, message: ServerMessage, at: float) -> None:
        match message:
            case TranscriptionSegment(text=text, is_final=is_final):
                self._segment(text, is_final, at)
            case ErrorResponse(code=code):
                self._measured.errors[code or "error"] += 1
            case _:
                pass

    def finish(self) -> None:
        self._settle(None)
        self._finishing = True

    def _segment(self, text: str, is_final: bool, at: float) -> None:
        is_new = text != self._text
        self._text = "" if is_final else text
        end = self._speech_end(self._timeline.sent(at))
        self._settle(end)
        if self._finishing or at not in self._window or end is None:
            return
        lag = at - self._timeline.due(end)
        if is_final:
            self._measured.to_final.append(lag)
        elif is_new:
            self._tail = end, lag

    def _settle(self, end: int | None) -> None:
        """Speech went on since the last new text: it was the last one before that."""
        if self._tail is not None and self._tail[0] != end:
            self._measured.lags.append(self._tail[1])
            self._measured.lag_kinds[LagKind.TAIL] += 1
            self._tail = None


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
