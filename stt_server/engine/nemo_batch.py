"""nemo_lite's streams as the engine room uses them, and how many of them this machine can keep up
with."""

import logging
import time
from collections.abc import Callable

import numpy as np

import nemo_lite
from stt_server.engine.base import EngineUnavailable
from stt_server.engine.downloads import Downloads
from stt_server.engine.nemo_worker import HeardWord, LoadedModel
from stt_server.engine.torch_device import choose_device, choose_dtype
from stt_server.events import SAMPLE_RATE, Samples
from stt_server.settings import DecoderName, Settings

logger = logging.getLogger(__name__)

FRAME_MS = 80
PROBE_STEPS = 5
BUSY_SHARE = 0.8
"""Part of a chunk's time that a step may take: the rest is for bursts and for others."""


MOST_STREAMS = 512


def load(settings: Settings, is_stopping: Callable[[], bool]) -> LoadedModel:
    """Fetch and load a model, warm it up and measure how many streams it keeps up with.

    Raises:
        EngineUnavailable: a package, the device or the checkpoint is missing.
        nemo_lite.NemoLiteError: the checkpoint cannot be had, read or run here.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    downloads = Downloads(settings.models, is_stopping)
    path = downloads.checkpoint(settings.nemo.checkpoint or settings.model.value)
    model = nemo_lite.load(path, device=device, dtype=dtype, threads=settings.nemo.threads)
    if not model.lookaheads:
        raise EngineUnavailable(f"{path.name} is no streaming model")
    size, batch = make_batch(model, settings)
    batch.warm_up()
    logger.info(
        "engine.ready",
        extra={
            "engine": settings.model.value,
            "device": str(device),
            "dtype": dtype,
            "streams": size,
            "lookahead_ms": batch.lookahead_ms,
        },
    )
    return LoadedModel(batch, size, tuple(frames * FRAME_MS for frames in model.lookaheads))


def make_batch(model: nemo_lite.Model, settings: Settings) -> "tuple[int, NemoBatch]":
    """How many streams to take, and a batch for them and one more, which checks use."""

    def make(slots: int) -> NemoBatch:
        return NemoBatch(
            model, slots=slots, lookahead_ms=settings.lookahead_ms, decoder=settings.decoder
        )

    if settings.max_streams is not None:
        return settings.max_streams, make(settings.max_streams + 1)
    return capacity(make, most=MOST_STREAMS)


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

    def warm_up(self) -> None:
        """See `StreamBatch.warm_up`."""
        self._batch.warm_up()

    def open(self, lookahead_ms: int | None, language: str | None) -> int:
        lookahead = self._default
        if lookahead_ms is not None:
            lookahead = nearest_lookahead(self._model.lookaheads, lookahead_ms)
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
        words = tuple(
            HeardWord(
                word.text,
                round(word.start * SAMPLE_RATE),
                round(word.end * SAMPLE_RATE),
                word.confidence,
            )
            for word in found.words
        )
        return words, found.language

    def forget(self, slot: int) -> None:
        self._batch.forget(slot)

    def close(self, slot: int) -> None:
        self._batch.close(slot)

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


def capacity(
    make: Callable[[int], NemoBatch], *, most: int, target: float = 1 / BUSY_SHARE
) -> tuple[int, NemoBatch]:
    """The largest batch, up to `most`, whose steps are `target` times as fast as sound.

    Tries powers of two, then once in between by the straight line through the last two steps.

    Returns:
        How many streams keep up, at least 1, and a batch of that size and a slot for checks.
    """
    good, good_pace = 1, make(1).fill()
    while (size := min(2 * good, most)) > good:
        pace = make(size).fill()
        if pace < target:
            # Step times grow by a straight line: find where it meets the target.
            slope = (1 / pace - 1 / good_pace) / (size - good)
            good += max(0, min(size - good - 1, int((1 / target - 1 / good_pace) / slope)))
            break
        good, good_pace = size, pace
    return good, make(good + 1)
