"""The smaller vocabulary that vLLM speaks at the Realtime address."""

from stt_server.events import Flush, Hypothesis, SpeechStarted, StreamError, StreamEvent, TurnEnded
from stt_server.events import TurnEndReason as Reason
from stt_server.protocols.base import Message
from stt_server.protocols.realtime_items import Deltas
from stt_server.protocols.realtime_messages import dump

VLLM_RATE = 16_000
_NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def vllm_error(code: str, message: str) -> Message:
    """Its flat form of `error`."""
    return dump({"type": "error", "error": message, "code": code})


class VllmWriter:
    """One utterance from each start to its final commit."""

    def __init__(self) -> None:
        self._deltas = Deltas()
        self._failure: str | None = None
        self._is_ending = self._has_answered = False

    def encode(self, event: StreamEvent) -> list[Message]:
        """The messages that tell of `event`."""
        match event:
            case SpeechStarted(opens_turn=True):
                self._deltas, self._failure = Deltas(), None
                return []
            case Hypothesis():
                delta = self._deltas.advance(event.text if event.is_final else event.stable)
                out = [dump({"type": "transcription.delta", "delta": delta})] if delta else []
                return [*out, self._done(event.text)] if event.is_final else out
            case TurnEnded(reason=reason):
                self._is_ending = True
                self._has_answered = reason is Reason.COMMIT
                return []
            case StreamError():
                self._failure = self._failure or event.message
                return [self._done("")] if event.fatal and self._is_ending else []
            case Flush():
                has_answered, self._has_answered = self._has_answered, False
                return [] if has_answered else [self._done("")]
            case _:
                return []

    def _done(self, text: str) -> Message:
        failure, self._failure = self._failure, None
        self._is_ending = False
        if failure is not None and not text:
            return vllm_error("transcription_failed", failure)
        return dump({"type": "transcription.done", "text": text, "usage": _NO_TOKENS})
