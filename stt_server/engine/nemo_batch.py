"""nemo_lite's streams as the engine room uses them."""

import logging
import time

import numpy as np

import nemo_lite
from stt_server.engine.nemo_messages import HeardWord
from stt_server.events import SAMPLE_RATE, Samples
from stt_server.settings import DecoderName

logger = logging.getLogger(__name__)

FRAME_MS = 80
PROBE_STEPS = 5
LONG_TURN, KEPT_WORDS = 64, 16
"""A turn of so many words is settled but for its last ones: each update then costs the same."""


class NemoBatch:
    """A `LiveBatch` of a nemo_lite model."""

    def __init__(
        self,
        model: nemo_lite.Model,
        *,
        slots: int,
        lookahead_ms: int | None = None,
        decoder: DecoderName | None = None,
    ) -> None:
        self._model = model
        self._batch = model.streams(slots, decoder=None if decoder is None else decoder.value)
        self._default = default_lookahead(model.lookaheads, lookahead_ms)
        # Shorter chunks would cost more than the capacity was measured with.
        self._lookaheads = tuple(n for n in model.lookaheads if n >= self._default)
        self._settled: dict[int, list[HeardWord]] = {}
        self._languages: dict[int, str] = {}

    @property
    def slots(self) -> int:
        return self._batch.slots

    @property
    def ready(self) -> bool:
        return self._batch.ready

    @property
    def lookahead_ms(self) -> int:
        """Of streams that ask for none."""
        return self._default * FRAME_MS

    @property
    def lookaheads_ms(self) -> tuple[int, ...]:
        """What streams may ask for."""
        return tuple(frames * FRAME_MS for frames in self._lookaheads)

    def warm_up(self) -> None:
        """See `StreamBatch.warm_up`."""
        self._batch.warm_up()

    def open(self, lookahead_ms: int | None, language: str | None) -> int:
        lookahead = self._default
        if lookahead_ms is not None:
            lookahead = nearest_lookahead(self._lookaheads, lookahead_ms)
        try:
            return self._batch.open(lookahead=lookahead, language=language)
        except ValueError:
            logger.info("language.ignored", extra={"language": language})
            return self._batch.open(lookahead=lookahead)

    def push(self, slot: int, samples: Samples) -> None:
        self._batch.push(slot, samples)

    def pad(self, slot: int) -> int:
        padding = self._batch.padding(slot)
        self._batch.push(slot, np.zeros(padding, np.float32))
        return padding

    def step(self) -> list[int]:
        return [update.slot for update in self._batch.step()]

    def decoded(self, slot: int) -> int:
        return self._batch.decoded_samples(slot)

    def words(self, slot: int) -> tuple[tuple[HeardWord, ...], str | None]:
        found = self._batch.transcript(slot)
        words = [
            HeardWord(
                word.text,
                round(word.start * SAMPLE_RATE),
                round(word.end * SAMPLE_RATE),
                word.confidence,
            )
            for word in found.words
        ]
        if found.language is not None:
            self._languages[slot] = found.language
        settled = self._settled.setdefault(slot, [])
        everything = (*settled, *words)
        if len(words) > LONG_TURN:
            self._batch.forget(slot, keep_words=KEPT_WORDS)
            kept = len(self._batch.transcript(slot).words)
            settled += words[: len(words) - kept]
        return everything, self._languages.get(slot)

    def forget(self, slot: int) -> None:
        self._batch.forget(slot)
        self._settled.pop(slot, None)

    def close(self, slot: int) -> None:
        self._batch.close(slot)
        self._settled.pop(slot, None)
        self._languages.pop(slot, None)

    def fill(self) -> float:
        """Seconds per chunk of sound divided by seconds of a full batch's step, at its slowest."""
        lookahead = self._default
        chunk = (lookahead + 1) * FRAME_MS * SAMPLE_RATE // 1_000
        random = np.random.default_rng(0)
        slots = [self._batch.open(lookahead=lookahead) for _ in range(self.slots)]
        slowest = 0.0
        try:
            for step in range(PROBE_STEPS + 2):
                for slot in slots:
                    noise = random.standard_normal(2 * chunk if step == 0 else chunk) * 0.05
                    self._batch.push(slot, noise.astype(np.float32))
                began = time.perf_counter()
                while self._batch.ready:
                    self._batch.step()
                if step >= 2:
                    slowest = max(slowest, time.perf_counter() - began)
        finally:
            for slot in slots:
                self._batch.close(slot)
        return chunk / SAMPLE_RATE / slowest


def default_lookahead(known: tuple[int, ...], wanted_ms: int | None) -> int:
    """Encoder frames: what the operator wants, else 80 ms where the model has it."""
    return nearest_lookahead(known, FRAME_MS if wanted_ms is None else wanted_ms)


def nearest_lookahead(known: tuple[int, ...], wanted_ms: int) -> int:
    """The look-ahead, in encoder frames, that is nearest to `wanted_ms`; the shorter of two."""
    return min(known, key=lambda frames: (abs(frames * FRAME_MS - wanted_ms), frames))
