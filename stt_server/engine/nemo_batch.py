"""nemo_lite's streams as the engine room uses them."""

import logging
import time
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Self

import numpy as np

import nemo_lite
from nemo_lite import Marker
from stt_server.engine.nemo_messages import HeardTurn, HeardWord, TurnMark
from stt_server.events import SAMPLE_RATE, Samples, Token
from stt_server.settings import DecoderName

logger = logging.getLogger(__name__)

FRAME_MS = 80
PROBE_STEPS = 7
TAIL_FRAMES = 2
"""Models say a word up to two frames after its end: with so much silence behind them 92 % of digits
that were cut off at their end come, without it 69 %."""
LONG_TURN, KEPT_WORDS = 64, 16
"""A turn of so many words is settled but for its last ones: each update then costs the same."""


@dataclass(slots=True)
class _Turn:
    """What the open turn of one stream has beside the words that may still change."""

    tokens: list[Token] = field(default_factory=list[Token])
    settled: list[HeardWord] = field(default_factory=list[HeardWord])
    language: str | None = None
    spoken: bool = False
    mark: TurnMark | None = None

    def copy(self) -> Self:
        return replace(self, tokens=self.tokens.copy(), settled=self.settled.copy())


@dataclass(frozen=True, slots=True)
class _Snapshot:
    stream: nemo_lite.StreamSnapshot
    turn: _Turn


class NemoBatch:
    """A `LiveBatch` of a nemo_lite model."""

    def __init__(
        self,
        model: nemo_lite.Model,
        *,
        slots: int,
        lookahead_ms: int | None = None,
        decoder: DecoderName | None = None,
        resets_decoder: bool = False,
    ) -> None:
        """
        Args:
            model: loaded.
            slots: streams at once.
            lookahead_ms: of streams that ask for none, and the least that others get.
            decoder: of models with two.
            resets_decoder: every turn begins with a decoder that has said nothing.
        """
        tokenizer = model.tokenizer
        kinds = {marker: id for id, marker in tokenizer.markers.items()}
        self._mark_id = kinds.get(Marker.END_OF_UTTERANCE)
        named = tokenizer.markers.keys() | tokenizer.language_tags.keys()
        self._spoken = [
            id not in named and is_spoken(piece) for id, piece in enumerate(tokenizer.pieces)
        ]
        self._resets_decoder = resets_decoder
        self._batch = model.streams(slots, decoder=None if decoder is None else decoder.value)
        self._default = default_lookahead(model.lookaheads, lookahead_ms)
        # Shorter chunks would cost more than the capacity was measured with.
        self._lookaheads = tuple(n for n in model.lookaheads if n >= self._default)
        self._turns: dict[int, _Turn] = {}

    @property
    def slots(self) -> int:
        return self._batch.slots

    @property
    def ready(self) -> bool:
        return self._batch.ready

    @property
    def stepped(self) -> int:
        return self._batch.stepped

    @property
    def lookahead_ms(self) -> int:
        """Of streams that ask for none."""
        return self._default * FRAME_MS

    @property
    def lookaheads_ms(self) -> tuple[int, ...]:
        """What streams may ask for."""
        return tuple(frames * FRAME_MS for frames in self._lookaheads)

    @property
    def marks_turn_ends(self) -> bool:
        """The model has an `<EOU>` token."""
        return self._mark_id is not None

    def warm_up(self) -> None:
        """See `StreamBatch.warm_up`."""
        self._batch.warm_up()

    def open(self, lookahead_ms: int | None, language: str | None) -> int:
        lookahead = self._default
        if lookahead_ms is not None:
            lookahead = nearest_lookahead(self._lookaheads, lookahead_ms)
        try:
            slot = self._batch.open(lookahead=lookahead, language=language)
        except ValueError:
            logger.info("language.ignored", extra={"language": language})
            slot = self._batch.open(lookahead=lookahead)
        self._turns[slot] = _Turn()
        return slot

    def push(self, slot: int, samples: Samples) -> None:
        self._batch.push(slot, samples)

    def has_chunk(self, slot: int) -> bool:
        return self._batch.has_chunk(slot)

    def push_tail(self, slot: int) -> int:
        return self._push_silence(slot, TAIL_FRAMES * FRAME_MS * SAMPLE_RATE // 1_000)

    def pad(self, slot: int) -> int:
        return self._push_silence(slot, self._batch.padding(slot))

    def _push_silence(self, slot: int, samples: int) -> int:
        self._batch.push(slot, np.zeros(samples, np.float32))
        return samples

    def finish(self, slot: int) -> None:
        self._batch.finish(slot)

    def has_ended(self, slot: int) -> bool:
        return self._batch.has_ended(slot)

    def step(self) -> list[int]:
        updates = [update for update in self._batch.step() if update.token_ids]
        for update in updates:
            self._note(self._turns[update.slot], update)
        return [update.slot for update in updates]

    def _note(self, turn: _Turn, new: nemo_lite.Update) -> None:
        turn.tokens += map(Token, new.token_ids, new.token_confidences)
        for id, at, confidence in zip(
            new.token_ids, new.token_times, new.token_confidences, strict=True
        ):
            if self._spoken[id]:
                turn.spoken, turn.mark = True, None
            elif id == self._mark_id and turn.spoken:
                turn.mark = TurnMark(round(at * SAMPLE_RATE), confidence)

    def decoded(self, slot: int) -> int:
        return self._batch.decoded_samples(slot)

    def turn(self, slot: int) -> HeardTurn:
        turn, found = self._turns[slot], self._batch.transcript(slot)
        words = [
            HeardWord(
                word.text,
                round(word.start * SAMPLE_RATE),
                round(word.end * SAMPLE_RATE),
                word.confidence,
            )
            for word in found.words
        ]
        if not turn.settled:
            # Punctuation that comes late belongs to the turn before, which has been told.
            while words and not is_spoken(words[0].text):
                del words[0]
        turn.language = found.language or turn.language
        everything = (*turn.settled, *words)
        if len(words) > LONG_TURN:
            self._batch.forget(slot, keep_words=KEPT_WORDS)
            kept = len(self._batch.transcript(slot).words)
            turn.settled += words[: len(words) - kept]
        return HeardTurn(everything, tuple(turn.tokens), turn.language, turn.mark)

    def end_turn(self, slot: int, *, undecoded: bool) -> None:
        self._batch.forget(slot, undecoded=undecoded)
        self._turns[slot] = _Turn(language=self._turns[slot].language)
        if self._resets_decoder:
            self._batch.reset_decoder(slot)

    def snapshot(self, slot: int) -> _Snapshot:
        return _Snapshot(self._batch.snapshot(slot), self._turns[slot].copy())

    def restore(self, slot: int, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self._batch.restore(slot, snapshot.stream)
        self._turns[slot] = snapshot.turn.copy()

    def close(self, slot: int) -> None:
        self._batch.close(slot)
        del self._turns[slot]

    def stream_bytes(self) -> int:
        """Memory of one stream: its slot, and the copy that there is of it during a pause."""
        slot = self._batch.open(lookahead=self._default)
        try:
            return 2 * self._batch.snapshot(slot).size_bytes
        finally:
            self._batch.close(slot)

    def fill(self) -> float:
        """Seconds per chunk of sound divided by seconds of a full batch's step.

        That is the median of several: the answer counts for as long as the server runs, so it must
        not hang on what another program did in the meantime.
        """
        lookahead = self._default
        chunk = (lookahead + 1) * FRAME_MS * SAMPLE_RATE // 1_000
        random = np.random.default_rng(0)
        slots = [self._batch.open(lookahead=lookahead) for _ in range(self.slots)]
        times: list[float] = []
        try:
            for step in range(PROBE_STEPS + 2):
                for slot in slots:
                    noise = random.standard_normal(2 * chunk if step == 0 else chunk) * 0.05
                    self._batch.push(slot, noise.astype(np.float32))
                began = time.perf_counter()
                while self._batch.ready:
                    self._batch.step()
                if step >= 2:
                    times.append(time.perf_counter() - began)
        finally:
            for slot in slots:
                self._batch.close(slot)
        return chunk / SAMPLE_RATE / median(times)


def is_spoken(text: str) -> bool:
    """Whether there is anything but punctuation in it; `⁇` is a piece that nobody knows."""
    return any(character.isalnum() or character == "⁇" for character in text)


def default_lookahead(known: tuple[int, ...], wanted_ms: int | None) -> int:
    """Encoder frames: what the operator wants, else 80 ms where the model has it."""
    return nearest_lookahead(known, FRAME_MS if wanted_ms is None else wanted_ms)


def nearest_lookahead(known: tuple[int, ...], wanted_ms: int) -> int:
    """The look-ahead, in encoder frames, that is nearest to `wanted_ms`; the shorter of two."""
    return min(known, key=lambda frames: (abs(frames * FRAME_MS - wanted_ms), frames))
