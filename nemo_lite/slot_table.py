"""What the host knows of every live stream: one row per slot, one column per fact."""

import operator
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from nemo_lite.config import AttentionContext, ModelConfig
from nemo_lite.conformer.subsampling import UNBOUNDED
from nemo_lite.errors import StreamStateError
from nemo_lite.features import UNKNOWN_LENGTH, AudioPreprocessor
from nemo_lite.sample_buffer import SampleBuffer
from nemo_lite.step import Group

Rows = NDArray[np.int64]


class State(IntEnum):
    """Where a stream is in its life."""

    FREE = 0
    OPEN = 1
    FINISHING = 2
    ENDED = 3
    FAILED = 4


class SlotTable:
    """Who is in which slot, how far each stream is, and what its next chunk needs."""

    def __init__(
        self,
        config: ModelConfig,
        preprocessor: AudioPreprocessor,
        *,
        slots: int,
        frames_per_step: int,
    ) -> None:
        """Streams of `frames_per_step` encoder frames or one chunk per step, whichever is more."""
        self._contexts = config.encoder.contexts
        self._factor = config.encoder.subsampling_factor
        self._preprocessor = preprocessor
        self._hop = config.preprocessor.hop_samples
        self._frames_per_step = frames_per_step
        self.states: Rows = np.full(slots, State.FREE, np.int64)
        self.context: Rows = np.zeros(slots, np.int64)
        self.prompt: Rows = np.zeros(slots, np.int64)
        self.received: Rows = np.zeros(slots, np.int64)
        """Samples."""
        self.next_frame: Rows = np.zeros(slots, np.int64)
        """Encoder frames that are done."""
        self.end_frame: Rows = np.full(slots, UNBOUNDED, np.int64)
        """Encoder frames of the whole stream, once that is known."""
        self._columns = (
            self.states,
            self.context,
            self.prompt,
            self.received,
            self.next_frame,
            self.end_frame,
        )
        widest = max(frames_per_step, *(context.chunk_frames for context in self._contexts))
        # Twice the widest span, so that a stream can receive while a chunk is still needed.
        self.buffer = SampleBuffer(slots, 2 * self.span(widest))

    def claim(self, context: AttentionContext, prompt: int) -> int | None:
        """A free slot for a new stream; None if there is none."""
        free = np.flatnonzero(self.states == State.FREE)
        if not len(free):
            return None
        slot = int(free[0])
        self.buffer.clear(slot)
        self.load(slot, (State.OPEN, self._contexts.index(context), prompt, 0, 0, UNBOUNDED))
        return slot

    def save(self, slot: int) -> tuple[int, ...]:
        """A copy of a row, without its samples."""
        return tuple(int(column[slot]) for column in self._columns)

    def load(self, slot: int, row: tuple[int, ...]) -> None:
        """Put a row that `save` made into a slot."""
        for column, value in zip(self._columns, row, strict=True):
            column[slot] = value

    def require(self, slot: int, *states: State) -> None:
        """Raise `StreamStateError` unless the slot exists and is in one of `states`."""
        if not 0 <= operator.index(slot) < len(self.states):
            raise StreamStateError(f"there is no slot {slot}, only 0 to {len(self.states) - 1}")
        state = State(int(self.states[slot]))
        if state not in states:
            raise StreamStateError(f"stream {slot} is {state.name.lower()}")

    def span(self, frames: int) -> int:
        """Samples that a chunk of so many encoder frames needs."""
        return self._preprocessor.span_samples(self._factor * frames)

    def groups(self) -> list[Group]:
        """The next step: every stream that has a chunk, by look-ahead."""
        return [self._group(*ready) for ready in self._ready()]

    def advance(self, group: Group) -> None:
        """A group's chunks are done."""
        self.next_frame[group.slots] += group.valid_frames
        self.buffer.release(group.slots, self._first_sample(group.slots))

    def has_chunk(self, slot: int) -> bool:
        """Whether an open stream takes part in the next step."""
        width = self._contexts[self.context[slot]].chunk_frames
        return bool((self._stored_frames() - self.next_frame)[slot] >= width)

    def padding(self, slot: int) -> int:
        """Samples that must follow for the frame with the newest sample to be in a whole chunk."""
        frame_samples = self._factor * self._hop
        width = self._contexts[self.context[slot]].chunk_frames
        frames = -(-int(self.received[slot]) // frame_samples)
        frames = max(-(-frames // width) * width, int(self.next_frame[slot]))
        # Encoder frame i needs mel frames up to `factor * i`.
        needed = self._samples_before_first() + self._factor * (frames - 1) * self._hop
        return max(0, needed - int(self.received[slot])) if frames else 0

    @property
    def ready(self) -> bool:
        """Whether `groups` or `ended` has something to give."""
        waiting_ends = (self.states == State.FINISHING).any()
        return bool(waiting_ends) or next(self._ready(), None) is not None

    def end(self) -> list[int]:
        """The slots whose streams have come to their end, which they are told by this."""
        done = (self.states == State.FINISHING) & (self.next_frame >= self.end_frame)
        self.states[done] = State.ENDED
        return np.flatnonzero(done).tolist()

    def _ready(self) -> Iterator[tuple[AttentionContext, Rows, int]]:
        """Which streams take part in this step, by look-ahead, and with how many frames."""
        complete = (self.states == State.FINISHING) & (self.buffer.stored == self.received)
        streaming = (self.states == State.OPEN) | (self.states == State.FINISHING)
        frames = self._stored_frames() - self.next_frame
        remaining = self.end_frame - self.next_frame
        for index, context in enumerate(self._contexts):
            width = context.chunk_frames
            chunks = np.where(complete, -(-remaining // width), frames // width)
            rows = np.flatnonzero(streaming & (self.context == index) & (chunks > 0))
            if not len(rows):
                continue
            # A stream that ends takes a step of any width; the others need all its frames.
            open_rows = rows[~complete[rows]]
            count = chunks[open_rows].min() if len(open_rows) else chunks[rows].max()
            yield context, rows, int(min(count, max(1, self._frames_per_step // width))) * width

    def _stored_frames(self) -> Rows:
        """Per slot how many encoder frames the stored samples are enough for.

        Encoder frame i needs mel frames up to `factor * i`.
        """
        mel_frames = (self.buffer.stored - self._samples_before_first()) // self._hop + 1
        return (mel_frames - 1) // self._factor + 1

    def _samples_before_first(self) -> int:
        """Samples that the first mel frame needs."""
        return self._preprocessor.span_offset + self._preprocessor.span_samples(1)

    def _first_sample(self, rows: Rows) -> Rows:
        """Per row the first sample that its next chunk needs; negative at the start."""
        mel_frame = self._factor * self.next_frame[rows] - (self._factor - 1)
        return mel_frame * self._hop + self._preprocessor.span_offset

    def _group(self, context: AttentionContext, rows: Rows, frames: int) -> Group:
        first = self._first_sample(rows)
        ended = self.end_frame[rows] < UNBOUNDED
        return Group(
            context=context,
            frames=frames,
            samples=self.buffer.spans(rows, first, self.span(frames)),
            slots=rows,
            first_sample=first,
            total_samples=np.where(ended, self.received[rows], UNKNOWN_LENGTH),
            first_frame=self.next_frame[rows],
            valid_frames=np.minimum(frames, self.end_frame[rows] - self.next_frame[rows]),
            prompts=self.prompt[rows],
        )
