"""From turns and hypotheses to the segments and events of the native protocol."""

from collections.abc import Sequence

from stt_server.events import (
    Hypothesis,
    SegmentEnded,
    SpeechStarted,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
    Word,
    seconds,
)
from stt_server.protocols.native_config import Feature, NativeConfig
from stt_server.protocols.native_messages import (
    EagerEndOfTurnMessage,
    EndOfTurnMessage,
    SpeechStartedMessage,
    SpeechStoppedMessage,
    TranscriptionSegment,
    TurnResumedMessage,
    UsageMessage,
    WireModel,
    WordMessage,
)


class SegmentWriter:
    """Numbers what a client sees and keeps the order and the silences the protocol promises.

    A turn without words is not shown, unless the client was told that it began; so turns are
    numbered here, by what is seen.
    """

    def __init__(self) -> None:
        self.turns = 0
        """Turns shown so far, hence the number of the next one."""
        self._sequence = 0
        self._segment = 0
        self._told = self._told_eager = False
        self._ended: TurnEnded | None = None
        # For pieces inside a turn: where it was cut, and how many words are already final.
        self._cuts: list[int] = []
        self._final_words = 0
        self._final_until = 0
        self._last_text = ""

    def speech_started(self, event: SpeechStarted, config: NativeConfig) -> Sequence[WireModel]:
        if Feature.EVENTS not in config.features:
            return []
        self._told = True
        return [SpeechStartedMessage(time=seconds(event.at), turn_id=self.turns)]

    def segment_ended(self, event: SegmentEnded) -> None:
        self._cuts.append(event.at)

    def turn_ended(self, event: TurnEnded, config: NativeConfig) -> Sequence[WireModel]:
        self._ended = event
        if Feature.EVENTS not in config.features or not self._told:
            return []
        return [SpeechStoppedMessage(time=seconds(event.at), turn_id=self.turns)]

    def eager_end(self, event: TurnEagerEnd, config: NativeConfig) -> Sequence[WireModel]:
        # Where pieces of the turn are final already, its own final will say the rest.
        text = " ".join(event.text.split(" ")[self._final_words :])
        if Feature.EVENTS not in config.features or not text:
            return []
        self._told = self._told_eager = True
        confidence = None if event.confidence is None else round(event.confidence, 3)
        return [EagerEndOfTurnMessage(turn_id=self.turns, text=text, confidence=confidence)]

    def resumed(self) -> Sequence[WireModel]:
        if not self._told_eager:
            return []
        self._told_eager = False
        return [TurnResumedMessage(turn_id=self.turns)]

    def hypothesis(self, event: Hypothesis, config: NativeConfig) -> Sequence[WireModel]:
        if event.is_final:
            return self._final(event, config)
        out: list[WireModel] = []
        if config.options.segment_finals:
            out += self._finished_piece(event, config)
        words = event.words[self._final_words :]
        text = " ".join(word.text for word in words)
        if text and text != self._last_text and config.options.interim_results:
            self._last_text = text
            start = words[0].start if self._final_words else event.start
            out.append(self._segment_message(event, words, (start, event.end), config))
        return out

    def _final(self, event: Hypothesis, config: NativeConfig) -> Sequence[WireModel]:
        words = event.words[self._final_words :]
        out: list[WireModel] = []
        if event.words or self._told or self._last_text or self._final_words:
            # Not the end of a word of this event: its text may differ from that of the interims.
            start = max(event.start, self._final_until)
            span = (min(start, event.end), event.end)
            out.append(self._segment_message(event, words, span, config, ends_turn=True))
            if Feature.EVENTS in config.features and self._told:
                out.append(self._end_of_turn())
            self.turns += 1
        self._segment = self._final_words = self._final_until = 0
        self._cuts.clear()
        self._told = self._told_eager = False
        self._last_text, self._ended = "", None
        return out

    def _finished_piece(self, event: Hypothesis, config: NativeConfig) -> Sequence[WireModel]:
        """The words before the last of the cuts whose words have all been heard and are stable."""
        stable = event.stable.count(" ") + 1 if event.stable else 0
        counts = {
            cut: sum(word.end <= cut for word in event.words)
            for cut in self._cuts
            if cut <= event.end
        }
        cut = max((cut for cut, count in counts.items() if count <= stable), default=None)
        if cut is None:
            return []
        count = counts[cut]
        self._cuts = [later for later in self._cuts if later > cut]
        words = event.words[self._final_words : count]
        if not words:
            return []
        self._final_words = count
        self._final_until = words[-1].end
        span = (words[0].start, words[-1].end)
        message = self._segment_message(event, words, span, config, is_piece=True)
        self._segment += 1
        self._last_text = ""
        return [message]

    def _end_of_turn(self) -> EndOfTurnMessage:
        ended = self._ended
        return EndOfTurnMessage(
            turn_id=self.turns,
            reason=ended.reason if ended else TurnEndReason.FINISH,
            confidence=ended.confidence if ended else None,
        )

    def _segment_message(
        self,
        event: Hypothesis,
        words: tuple[Word, ...],
        span: tuple[int, int],
        config: NativeConfig,
        *,
        ends_turn: bool = False,
        is_piece: bool = False,
    ) -> TranscriptionSegment:
        features = config.features
        is_final = ends_turn or is_piece
        with_ids, with_words = Feature.IDS in features, Feature.WORDS in features
        segment = TranscriptionSegment(
            text=" ".join(word.text for word in words),
            is_final=is_final,
            is_end_of_turn=ends_turn,
            segment_id=f"t{self.turns}s{self._segment}" if with_ids else None,
            turn_id=self.turns if with_ids else None,
            sequence=self._sequence if with_ids else None,
            start=seconds(span[0]) if Feature.TIMES in features else None,
            end=seconds(span[1]) if Feature.TIMES in features else None,
            words=_words(words, config) if with_words else None,
            word_times="estimated" if words and with_words and event.estimated_times else None,
            confidence=_confidence(event, is_final) if Feature.CONFIDENCE in features else None,
            language=event.language if Feature.LANGUAGE in features else None,
            usage=UsageMessage(seconds=seconds(event.audio_samples))
            if ends_turn and Feature.USAGE in features
            else None,
        )
        self._sequence += 1
        return segment


def _confidence(event: Hypothesis, is_final: bool) -> float | None:
    return round(event.confidence, 3) if is_final and event.confidence is not None else None


def _words(words: tuple[Word, ...], config: NativeConfig) -> list[WordMessage]:
    with_speaker = Feature.SPEAKER in config.features
    return [
        WordMessage(
            word=word.text,
            start=seconds(word.start),
            end=seconds(word.end),
            confidence=None if word.confidence is None else round(word.confidence, 3),
            speaker=word.speaker if with_speaker else None,
        )
        for word in words
    ]
