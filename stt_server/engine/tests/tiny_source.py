"""The engine room with a tiny model of random weights, and what its streams should give."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

import nemo_lite
from nemo_lite.tests.tiny import tiny_model
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.nemo_batch import FRAME_MS, TAIL_FRAMES, NemoBatch
from stt_server.engine.nemo_model import LoadedModel
from stt_server.events import SAMPLE_RATE, Samples

# The models of the tests are tiny: a second thread costs more than it brings.
torch.set_num_threads(1)

PLACES = 3
FRAME = FRAME_MS * SAMPLE_RATE // 1_000


@dataclass
class TinySource:
    """A `ModelSource`."""

    model: nemo_lite.Model = field(default_factory=tiny_model)
    resets_decoder: bool = False

    def open(self, _is_stopping: Callable[[], bool]) -> LoadedModel:
        batch = NemoBatch(
            self.model, slots=PLACES + 1, lookahead_ms=0, resets_decoder=self.resets_decoder
        )
        return LoadedModel(batch, PLACES, batch.lookaheads_ms, batch.marks_turn_ends)

    def discard(self) -> None:
        """It never breaks."""


@asynccontextmanager
async def tiny_engine(
    source: TinySource | None = None, *, gating: bool = True
) -> AsyncIterator[NemoEngine]:
    engine = NemoEngine(
        source or TinySource(),
        name="tiny",
        summary="For tests.",
        most_streams=PLACES,
        tick_s=0.001,
        gating=gating,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def offline_ids(samples: Samples, lookahead: int) -> list[int]:
    """Token ids of a whole recording."""
    return list(tiny_model().transcribe(samples, lookahead=lookahead)[0].token_ids)


def offline_ids_with_silence(samples: Samples, lookahead: int) -> list[int]:
    """Token ids of a recording that goes on with silence up to the end of a chunk."""
    chunk = lookahead + 1
    frames = -(-(len(samples) + TAIL_FRAMES * FRAME) // FRAME)
    frames = -(-frames // chunk) * chunk
    padded = np.concatenate([samples, np.zeros((chunk + TAIL_FRAMES + 2) * FRAME, np.float32)])
    found = tiny_model().transcribe(padded, lookahead=lookahead)[0]
    seconds = frames * FRAME / SAMPLE_RATE - 1e-6
    return [id for id, at in zip(found.token_ids, found.token_times, strict=True) if at < seconds]
