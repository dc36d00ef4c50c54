"""Which streaming model to run, and how many streams this machine keeps up with."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stt_server.engine.base import EngineUnavailable, missing_package
from stt_server.engine.cpus import usable_cpus
from stt_server.engine.nemo_model import LoadedModel
from stt_server.settings import DecoderState, Settings

if TYPE_CHECKING:
    from nemo_lite import Model
    from stt_server.engine.nemo_batch import NemoBatch

logger = logging.getLogger(__name__)

MOST_STREAMS = 512
BUSY_SHARE = 0.8
"""Part of a chunk's time that a step may take: the rest is for bursts and for others."""
FEW_STREAMS = 4
"""A machine that keeps up with fewer was busy, or is the wrong one."""
MEMORY_SHARE = 0.8
"""Part of the free memory that streams may take: the rest is for what steps need meanwhile."""
LOADED = {"float32": 1.05, "bfloat16": 0.55, "float16": 0.55, "int8": 0.35}
"""Memory at the peak of loading over the size of a checkpoint in float32, as measured."""


class NemoSource:
    """A `ModelSource` of the model that the settings name.

    Capacity is measured once: after a restart every open session must find its place.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: Model | None = None
        self._name = settings.model.value
        self._capacity: int | None = None

    def open(self, is_stopping: Callable[[], bool]) -> LoadedModel:
        """Fetch and load the model if need be, measure how many streams it keeps up with, warm up.

        Raises:
            EngineUnavailable: a package, the device, memory or the checkpoint is missing.
            nemo_lite.NemoLiteError: the checkpoint cannot be had, read or run here.
        """
        try:
            self._model = self._model or self._load(is_stopping)
        except ImportError as error:
            raise missing_package(self._name, error) from error
        self._prepare_torch(self._model)
        if self._capacity is None:
            room = self._room()
            wanted = self._settings.max_streams
            self._capacity = wanted or self._measured(most=min(room, MOST_STREAMS))
        batch = self._batch(self._capacity + 1)  # one for checks
        batch.warm_up()
        extra = {"streams": self._capacity, "lookahead_ms": batch.lookahead_ms}
        logger.info("engine.ready", extra={"engine": self._name, **extra})
        return LoadedModel(batch, self._capacity, batch.lookaheads_ms, batch.marks_turn_ends)

    def discard(self) -> None:
        """Load the model again the next time; from any thread."""
        self._model = None

    def _load(self, is_stopping: Callable[[], bool]) -> "Model":
        import nemo_lite
        from nemo_lite.salm.memory import available_bytes, release_unused
        from stt_server.engine.downloads import Downloads
        from stt_server.engine.torch_device import check_memory, choose_device, choose_dtype

        settings = self._settings
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        downloads = Downloads(settings.models, is_stopping)
        path = downloads.checkpoint(settings.nemo.checkpoint or self._name)
        release_unused()  # of the model that failed, if this is another attempt
        check_memory(
            self._name, needed=LOADED[dtype] * size_bytes(path), free=available_bytes(device)
        )
        model = nemo_lite.load(path, device=device, dtype=dtype, threads=self._threads())
        if not model.lookaheads:
            raise EngineUnavailable(f"{path.name} is no streaming model")
        logger.info("model.loaded", extra={"device": str(device), "dtype": dtype})
        return model

    def _prepare_torch(self, model: "Model") -> None:
        import torch

        if model.device.type == "cuda":
            # Of several GPUs, this thread's is the one where none is named.
            torch.cuda.set_device(model.device.index or 0)
        else:
            torch.set_num_threads(self._threads())

    def _threads(self) -> int:
        """On the CPU. One core is left to the event loop and the VAD's process: threads that
        compute together all wait for the one that is interrupted."""
        import torch

        return self._settings.nemo.threads or max(
            1, min(torch.get_num_threads(), usable_cpus() - 1)
        )

    def _measured(self, *, most: int) -> int:
        found = capacity(self._batch, most=most)
        if found < min(FEW_STREAMS, most):
            hint = "measured while other programs were busy? --max-streams sets it"
            logger.warning("capacity.low", extra={"streams": found, "hint": hint})
        return found

    def _room(self) -> int:
        """How many streams there is memory for, at least one.

        Raises:
            EngineUnavailable: fewer than the settings ask for.
        """
        from nemo_lite.salm.memory import available_bytes
        from stt_server.engine.torch_device import check_memory

        assert self._model is not None
        each = self._batch(1).stream_bytes()
        free = MEMORY_SHARE * available_bytes(self._model.device)
        wanted = self._settings.max_streams or 1
        what = f"room for {wanted} streams of {self._name}"
        check_memory(what, needed=each * (wanted + 1), free=free)
        return max(1, int(free // each) - 1)

    def _batch(self, slots: int) -> "NemoBatch":
        from stt_server.engine.nemo_batch import NemoBatch

        assert self._model is not None
        settings = self._settings
        return NemoBatch(
            self._model,
            slots=slots,
            lookahead_ms=settings.lookahead_ms,
            decoder=settings.decoder,
            resets_decoder=settings.nemo.decoder_state is DecoderState.RESET,
        )


def size_bytes(checkpoint: Path) -> int:
    """Of a file, or of all files in a folder."""
    files = [checkpoint, *checkpoint.rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


class Probe(Protocol):
    """A batch that can be timed."""

    def fill(self) -> float:
        """Seconds per chunk of sound divided by seconds of a full batch's step."""
        ...


def capacity(make: Callable[[int], Probe], *, most: int, target: float = 1 / BUSY_SHARE) -> int:
    """The largest batch, up to `most`, whose steps are `target` times as fast as sound.

    Tries powers of two, then takes what the straight line through the last two steps says. A batch
    that memory has no room for is too large, too.

    Returns:
        How many streams keep up, at least 1.
    """
    good, good_pace = 1, make(1).fill()
    while (size := min(2 * good, most)) > good:
        try:
            pace = make(size).fill()
        except (MemoryError, RuntimeError) as error:
            logger.warning("capacity.probe_failed", extra={"streams": size, "error": str(error)})
            break
        if pace < target:
            # Step times grow by a straight line: find where it meets the target.
            slope = (1 / pace - 1 / good_pace) / (size - good)
            return good + max(0, min(size - good - 1, int((1 / target - 1 / good_pace) / slope)))
        good, good_pace = size, pace
    return good
