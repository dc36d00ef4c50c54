"""From turns and hypotheses to the items and events of OpenAI's Realtime protocol."""

import math
from dataclasses import dataclass, field
from typing import Any

from stt_server.events import (
    SAMPLE_RATE,
    Clear,
    Flush,
    Hypothesis,
    SpeechStarted,
    StreamError,
    StreamEvent,
    TurnEnded,
    TurnEndReason,
    Word,
    seconds,
)
from stt_server.protocols.base import Message
from stt_server.protocols.realtime_messages import EventWriter
from stt_server.protocols.realtime_session import LOGPROBS, RealtimeConfig

TRANSCRIPTION = "conversation.item.input_audio_transcription"
LEAST_CONFIDENCE = 1e-6
SAMPLES_PER_MS = SAMPLE_RATE // 1_000


class Deltas:
    """The text of one item as it was told: it grows by whole words, nothing is taken back."""

    def __init__(self) -> None:
        self._told = ""

    def advance(self, text: str) -> str:
        """What `text` adds, with the space before it; nothing if it is no continuation."""
        rest = text.removeprefix(self._told)
        is_next = text.startswith(self._told) and (not self._told or rest.startswith(" "))
        if not is_next:
            return ""
        self._told = text
        return rest


@dataclass(slots=True)
class _Item:
    id: str
    deltas: Deltas = field(default_factory=Deltas)
    is_speech_told: bool = False
    is_committed: bool = False
    answers_commit: bool = False
    failure: str | None = None


class ItemWriter:
    """One item for each turn, and for each commit behind which there is no turn. Items never
    interleave: an item is completed, or failed, before the next one is spoken of."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer
        self._item: _Item | None = None
        self._previous: str | None = None
        self._has_answered = False
        """The commit that is under way ended a turn, whose item is its answer."""
        self._end = 0
        """Sample at which the last item ended."""

    def encode(self, event: StreamEvent, config: RealtimeConfig, *, is_flat: bool) -> list[Message]:
        """The messages that tell of `event`.

        Args:
            is_flat: In the older form, which has other names.
        """
        match event:
            case SpeechStarted(at=at, opens_turn=True):
                return self._open(at, config)
            case Hypothesis(is_final=True):
                return self._complete(event, config)
            case Hypothesis():
                return self._delta(event.stable)
            case TurnEnded():
                return self._end_turn(event, config, is_flat=is_flat)
            case StreamError():
                return self._fail(event)
            case Flush():
                return self._answer_commit(config, is_flat=is_flat)
            case Clear(at=at):
                self._item, self._end = None, at
                return [self._writer.write("input_audio_buffer.cleared")]
            case _:
                return []

    def _open(self, at: int, config: RealtimeConfig) -> list[Message]:
        self._item = item = _Item(self._writer.new_item_id())
        if config.is_manual:
            return []
        item.is_speech_told = True
        pre_roll = config.options.endpointing.pre_roll_ms * SAMPLES_PER_MS
        start = max(at - pre_roll, self._end)
        return [
            self._writer.write(
                "input_audio_buffer.speech_started",
                item_id=item.id,
                audio_start_ms=start // SAMPLES_PER_MS,
            )
        ]

    def _end_turn(
        self, event: TurnEnded, config: RealtimeConfig, *, is_flat: bool
    ) -> list[Message]:
        # One that began in another form has none yet.
        item = self._item = self._item or _Item(self._writer.new_item_id())
        self._end = event.at
        if event.reason is TurnEndReason.SILENCE:
            self._end += config.options.endpointing.silence_ms * SAMPLES_PER_MS
        item.answers_commit = event.reason is TurnEndReason.COMMIT
        out: list[Message] = []
        if item.is_speech_told:
            end_ms = self._end // SAMPLES_PER_MS
            kind = "input_audio_buffer.speech_stopped"
            out.append(self._writer.write(kind, item_id=item.id, audio_end_ms=end_ms))
        return [*out, *self._commit(item, is_flat=is_flat)]

    def _commit(self, item: _Item, *, is_flat: bool) -> list[Message]:
        item.is_committed = True
        previous, self._previous = self._previous, item.id
        content: dict[str, Any] = {"type": "input_audio", "transcript": None}
        body = {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [content],
        }
        write = self._writer.write
        names = ("created",) if is_flat else ("added", "done")
        return [
            write("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous),
            *(
                write(f"conversation.item.{name}", previous_item_id=previous, item=body)
                for name in names
            ),
        ]

    def _delta(self, text: str) -> list[Message]:
        delta = self._item.deltas.advance(text) if self._item is not None else ""
        return [self._tell("delta", delta=delta)] if delta else []

    def _complete(self, event: Hypothesis, config: RealtimeConfig) -> list[Message]:
        item = self._item
        if item is None:
            return []
        out = self._delta(event.text)
        # A turn that lost some audio but has words is worth more to an agent than none.
        if item.failure is not None and not event.text:
            out.append(self._failed(item.failure))
        else:
            out.append(self._completed(event, config))
        self._item, self._has_answered = None, item.answers_commit
        return out

    def _completed(self, event: Hypothesis, config: RealtimeConfig) -> Message:
        fields: dict[str, Any] = {"transcript": event.text}
        if event.language is not None:
            fields["languages"] = [{"code": event.language}]
        if LOGPROBS in (config.include or ()):
            fields["logprobs"] = _logprobs(event.words)
        usage = {"type": "duration", "seconds": seconds(event.audio_samples)}
        return self._tell("completed", **fields, usage=usage)

    def _answer_commit(self, config: RealtimeConfig, *, is_flat: bool) -> list[Message]:
        has_answered, self._has_answered = self._has_answered, False
        if has_answered or not config.is_manual:
            return []
        # There was not enough audio to open a turn, but a commit has its answer.
        self._item = item = _Item(self._writer.new_item_id())
        nothing = Hypothesis(0, "", "", (), self._end, self._end, is_final=True)
        return [*self._commit(item, is_flat=is_flat), *self._complete(nothing, config)]

    def _fail(self, error: StreamError) -> list[Message]:
        """The open turn lost audio; or the session ends, and no final comes any more."""
        item = self._item
        if item is None:
            return []
        item.failure = item.failure or error.message
        if not (error.fatal and item.is_committed):
            return []
        out = [self._failed(item.failure)]
        self._item = None
        return out

    def _failed(self, message: str) -> Message:
        return self._tell(
            "failed",
            error={
                "type": "server_error",
                "code": "transcription_failed",
                "message": message,
                "param": None,
            },
        )

    def _tell(self, what: str, **fields: Any) -> Message:
        assert self._item is not None
        return self._writer.write(
            f"{TRANSCRIPTION}.{what}", item_id=self._item.id, content_index=0, **fields
        )


def _logprobs(words: tuple[Word, ...]) -> list[dict[str, Any]]:
    return [
        {
            "token": word.text,
            "bytes": list(word.text.encode()),
            "logprob": round(math.log(min(1.0, max(LEAST_CONFIDENCE, word.confidence))), 4),
        }
        for word in words
        if word.confidence is not None
    ]
