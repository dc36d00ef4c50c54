"""Canary-Qwen behind the segment-engine interface: accurate, one piece of audio at a time."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from nemo_lite import results
from nemo_lite.errors import NemoLiteError
from stt_server.engine.base import (
    EngineInfo,
    EngineUnavailable,
    StreamOptions,
    missing_package,
)
from stt_server.engine.downloads import Downloads
from stt_server.engine.request_thread import RequestBatch
from stt_server.engine.request_worker import RequestWorker
from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word
from stt_server.settings import Settings

if TYPE_CHECKING:
    from nemo_lite.salm.model import CanaryQwen

logger = logging.getLogger(__name__)

NAME = "canary-qwen"
SUMMARY = "Canary-Qwen (English, hears whole pieces of speech): accurate, with punctuation"
MAX_SEGMENT_SAMPLES = 40 * SAMPLE_RATE
"""What the model was made for, until the checkpoint says otherwise."""
SESSIONS_PER_SLOT = 4
"""A session speaks part of the time, and its speech is recognised faster than it is spoken."""


class CanaryQwenEngine:
    """All sessions share the steps of one model in one thread. A `SegmentEngine`."""

    def __init__(self, settings: Settings) -> None:
        self._source = CanaryQwenSource(settings)
        self._worker = RequestWorker(
            self._source, name=NAME, step_timeout_s=settings.canary_qwen.step_timeout_s
        )

    @property
    def info(self) -> EngineInfo:
        """Capacity is known when the model is loaded."""
        capacity = SESSIONS_PER_SLOT * max(1, self._worker.slots)
        return EngineInfo(name=NAME, summary=SUMMARY, capacity=capacity)

    @property
    def fault(self) -> str | None:
        return self._worker.fault

    @property
    def max_segment_samples(self) -> int:
        return self._source.max_samples

    async def start(self) -> None:
        """Download what is missing, load, and recognise a sound.

        Raises:
            EngineUnavailable: what is missing and how to get it, in one sentence.
        """
        await self._worker.start()

    async def check(self) -> None:
        """Recognise a sound now, or raise."""
        await self._worker.check()

    async def stop(self) -> None:
        """End the thread; what it still had to hear fails with `Overloaded`."""
        await self._worker.stop()

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        """The transcript of `audio`; the model has no use for `options`."""
        return to_transcript(await self._worker.recognise(audio.samples), at=audio.start)


def to_transcript(found: results.Transcript, *, at: int) -> Transcript:
    """What the library found in audio that begins at sample `at`."""
    words = tuple(
        Word(
            word.text,
            at + round(word.start * SAMPLE_RATE),
            at + round(word.end * SAMPLE_RATE),
            confidence=word.confidence,
        )
        for word in found.words
    )
    return Transcript(
        words, stable=len(words), language=found.language, estimated_times=found.estimated_times
    )


class CanaryQwenSource:
    """Downloads and loads the model, once, and makes its batches. A `RequestSource`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = settings.canary_qwen.slots
        self._model: CanaryQwen | None = None
        self.max_samples = MAX_SEGMENT_SAMPLES

    def open(self, is_stopping: Callable[[], bool]) -> RequestBatch:
        """A new batch of the model, which is loaded if need be; as large as the first one, by which
        the server's capacity was set.

        Raises:
            EngineUnavailable: a package, a device, memory or the checkpoint is missing.
        """
        if self._model is None:
            try:
                self._model = self._load(is_stopping)
            except (NemoLiteError, OSError) as error:
                raise EngineUnavailable(str(error)) from error
            except ImportError as error:
                raise missing_package(NAME, error) from error
            self.max_samples = self._model.max_samples
        batch = self._model.requests(self._slots)
        batch.prepare()
        self._slots = batch.slots
        return batch

    def discard(self) -> None:
        """Load again the next time."""
        self._model = None

    def _load(self, is_stopping: Callable[[], bool]) -> "CanaryQwen":
        from nemo_lite.number_formats import check_format
        from nemo_lite.salm.checkpoint import read_salm
        from nemo_lite.salm.memory import available_bytes, release_unused, required_bytes
        from nemo_lite.salm.model import CanaryQwen
        from stt_server.engine.torch_device import check_memory, choose_device, choose_dtype

        own, downloads = self._settings.canary_qwen, Downloads(self._settings.models, is_stopping)
        device = choose_device(self._settings.device)
        dtype = choose_dtype(self._settings.dtype, device)
        check_format(device, dtype)
        folder = downloads.checkpoint(own.checkpoint)
        found = read_salm(folder, base_model=own.base_model, fetch=downloads.base_model)
        slots = self._slots or 1
        needed = required_bytes(found.config, found.llm, dtype, slots=slots, device=device)
        # Of the model that failed, if this is another attempt.
        release_unused()
        check_memory(NAME, needed=needed, free=available_bytes(device))
        base = downloads.base or own.base_model
        model = CanaryQwen.load(
            folder, device=device, dtype=dtype, threads=own.threads, base_model=base
        )
        logger.info("engine.ready", extra={"engine": NAME, "device": str(device), "dtype": dtype})
        return model
