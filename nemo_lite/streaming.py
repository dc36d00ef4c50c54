"""Live streams: many at once, of different ages and look-aheads, in one batch."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.audio_files import as_samples
from nemo_lite.config import AttentionContext
from nemo_lite.conformer.subsampling import UNBOUNDED
from nemo_lite.errors import StreamStateError, UnsupportedError
from nemo_lite.features import UNKNOWN_LENGTH
from nemo_lite.network import Network
from nemo_lite.results import Transcript, Update
from nemo_lite.sample_buffer import BufferSnapshot, SampleBuffer
from nemo_lite.step import Group, StepRunner, StepSnapshot
from nemo_lite.tokenizer import Detokenizer, Tokenizer
from nemo_lite.transcripts import TokenRun, transcript

Rows = NDArray[np.int64]


class _State(IntEnum):
    FREE = 0
    OPEN = 1
    FINISHING = 2
    ENDED = 3
    FAILED = 4


@dataclass(slots=True)
class _Text:
    """What one stream has said."""

    detokenizer: Detokenizer
    run: TokenRun = field(default_factory=TokenRun)


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """A copy of one stream, made by `StreamBatch.snapshot`; opaque."""

    network: Network
    kind: tuple[type, ...]
    host: tuple[int, ...]
    buffer: BufferSnapshot
    model: StepSnapshot
    text: _Text


class StreamBatch:
    """Slots for live streams that share every step of the model. Not thread-safe.

    ```python
    batch = model.streams(slots=8)
    slot = batch.open(lookahead=1)
    batch.push(slot, samples)  # any number of samples, any number of times
    for update in batch.step():
        print(update.slot, update.text)
    batch.finish(slot)
    ```

    A stream's tokens equal those of the whole recording under the same look-ahead mask, whatever
    the packet sizes and whoever shares its batch. Where NeMo's production streaming differs from
    its own whole-file result (features at chunk borders, the first step at look-ahead 0, the
    dropped tail) this follows the whole file.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        runner: StepRunner,
        *,
        slots: int,
        frames_per_step: int,
    ) -> None:
        """Use `nemo_lite.Model.streams` instead."""
        config = network.config
        if config.preprocessor.normalize is not None:
            raise UnsupportedError("features that are normalised over the file cannot stream")
        self._network, self._tokenizer = network, tokenizer
        self._runner = runner
        self._frames_per_step = frames_per_step
        self._contexts = config.encoder.contexts
        self._factor = config.encoder.subsampling_factor
        self._hop = config.preprocessor.hop_samples
        widest = max(frames_per_step, *(context.chunk_frames for context in self._contexts))
        # Twice the widest span, so that a stream can receive while a chunk is still needed.
        self._buffer = SampleBuffer(slots, 2 * self._span(widest))
        self._states = np.full(slots, _State.FREE, np.int64)
        self._context: Rows = np.zeros(slots, np.int64)
        self._prompt: Rows = np.zeros(slots, np.int64)
        self._received: Rows = np.zeros(slots, np.int64)
        self._next_frame: Rows = np.zeros(slots, np.int64)
        self._end_frame: Rows = np.full(slots, UNBOUNDED, np.int64)
        self._texts: dict[int, _Text] = {}
        self._host = (
            self._states,
            self._context,
            self._prompt,
            self._received,
            self._next_frame,
            self._end_frame,
        )

    @property
    def slots(self) -> int:
        """How many streams fit."""
        return len(self._states)

    @property
    def free_slots(self) -> int:
        """How many more streams `open` takes."""
        return int((self._states == _State.FREE).sum())

    def warm_up(self) -> None:
        """Run one chunk of silence per look-ahead, so that no caller waits for what comes first.

        On CUDA this records the graphs of all look-aheads and batch sizes, which takes a while.

        Raises:
            StreamStateError: a stream is open.
        """
        if self.free_slots < self.slots:
            raise StreamStateError("warm_up comes before the first stream")
        self._runner.prepare(self._contexts, self.slots)
        for context in self._contexts:
            slot = self.open(lookahead=context.right)
            try:
                self.push(slot, np.zeros(2 * self._span(context.chunk_frames), np.float32))
                self.step()
            finally:
                self.close(slot)

    def open(self, *, lookahead: int | None = None, language: str | None = None) -> int:
        """Begin a stream.

        Args:
            lookahead: encoder frames of 80 ms, one of the checkpoint's; None = its default. A
                step of this stream covers `lookahead + 1` frames.
            language: for models with language prompts, such as "de-DE"; None = detect.

        Returns:
            The slot, to be passed to all other methods until `close`.

        Raises:
            StreamStateError: every slot is taken.
            ValueError: the model does not know the look-ahead or the language.
        """
        context = self._network.config.encoder.context(lookahead)
        prompt = self._network.prompt_index(language)
        free = np.flatnonzero(self._states == _State.FREE)
        if context is None or not len(free):
            raise StreamStateError(f"all {self.slots} slots are taken")
        slot = int(free[0])
        self._buffer.clear(slot)
        self._runner.clear(slot)
        self._texts[slot] = _Text(Detokenizer(self._tokenizer))
        row = (_State.OPEN, self._contexts.index(context), prompt, 0, 0, UNBOUNDED)
        for column, value in zip(self._host, row, strict=True):
            column[slot] = value
        return slot

    def push(self, slot: int, samples: NDArray[np.float32] | Tensor) -> None:
        """Append audio; nothing is computed.

        Args:
            slot: an open stream.
            samples: (S,) float32 mono at the model's rate in -1..1, S ≥ 0; copied.

        Raises:
            ShapeError: not one-dimensional, not float32, or not finite; nothing was taken.
            StreamStateError: the stream is not open, or was finished.
        """
        self._require(slot, _State.OPEN)
        array = as_samples(samples)
        self._buffer.append(slot, array)
        self._received[slot] += len(array)

    def finish(self, slot: int) -> None:
        """Say that a stream's audio ends here; the following steps give all its remaining words.

        Raises:
            StreamStateError: the stream is not open, or was finished.
        """
        self._require(slot, _State.OPEN)
        mel_frames = int(self._received[slot]) // self._hop
        self._end_frame[slot] = self._network.encoder_frames(mel_frames)
        self._states[slot] = _State.FINISHING

    def close(self, slot: int) -> None:
        """Give a slot back, whatever its state; what was not decoded is dropped.

        Raises:
            StreamStateError: the slot is free.
        """
        self._require(slot, _State.OPEN, _State.FINISHING, _State.ENDED, _State.FAILED)
        self._states[slot] = _State.FREE
        self._buffer.clear(slot)
        del self._texts[slot]

    def transcript(self, slot: int) -> Transcript:
        """Everything a stream has said so far.

        Raises:
            StreamStateError: the slot is free.
        """
        self._require(slot, _State.OPEN, _State.FINISHING, _State.ENDED)
        return transcript(
            self._texts[slot].run, self._tokenizer, self._network.config.frame_seconds
        )

    def snapshot(self, slot: int) -> StreamSnapshot:
        """Copy a stream, to come back to this moment or to go on with it in another slot.

        Raises:
            StreamStateError: the slot is free.
        """
        self._require(slot, _State.OPEN, _State.FINISHING, _State.ENDED)
        text = self._texts[slot]
        return StreamSnapshot(
            network=self._network,
            kind=self._runner.kind,
            host=tuple(int(column[slot]) for column in self._host),
            buffer=self._buffer.save(slot),
            model=self._runner.save(slot),
            text=_Text(text.detokenizer.copy(), text.run.copy()),
        )

    def restore(self, slot: int, snapshot: StreamSnapshot) -> None:
        """Make the stream in `slot` a copy of the one `snapshot` was taken from.

        Args:
            slot: any slot that is not free; its stream is given up.
            snapshot: of this batch, or of another one of the same model and kind; stays usable.

        Raises:
            StreamStateError: the slot is free, or the snapshot is of another model or decoder.
        """
        self._require(slot, _State.OPEN, _State.FINISHING, _State.ENDED, _State.FAILED)
        if snapshot.network is not self._network or snapshot.kind != self._runner.kind:
            raise StreamStateError("the snapshot is of another model, dtype or decoder")
        for column, value in zip(self._host, snapshot.host, strict=True):
            column[slot] = value
        self._buffer.load(slot, snapshot.buffer)
        self._runner.load(slot, snapshot.model)
        self._texts[slot] = _Text(snapshot.text.detokenizer.copy(), snapshot.text.run.copy())

    @property
    def ready(self) -> bool:
        """Whether the next `step` has something to do."""
        waiting_ends = (self._states == _State.FINISHING).any()
        return bool(waiting_ends) or next(self._ready(), None) is not None

    def step(self) -> list[Update]:
        """Encode and decode the next chunk of every stream that has one.

        Returns:
            One update per stream that gained tokens and one, with `is_final`, per stream that
            reached its end. Call again while `ready` to work off a backlog.

        Raises:
            Exception: whatever the model raised, such as running out of memory. The streams that
                took part have failed: only `close` and `restore` take them. Others are as before.
        """
        updates: list[Update] = []
        groups = [self._group(*ready) for ready in self._ready()]
        if groups:
            try:
                runs = self._runner.run(groups)
            except BaseException:
                for group in groups:
                    self._states[group.slots] = _State.FAILED
                raise
            for group in groups:
                self._next_frame[group.slots] += group.valid_frames
                self._buffer.release(group.slots, self._first_sample(group.slots))
            rows = np.concatenate([group.slots for group in groups]).tolist()
            found = zip(rows, runs, strict=True)
            updates = [self._update(slot, run) for slot, run in found if run.tokens]
        return updates + self._ends()

    def _ready(self) -> Iterator[tuple[AttentionContext, Rows, int]]:
        """Which streams take part in this step, by look-ahead, and with how many frames."""
        complete = (self._states == _State.FINISHING) & (self._buffer.stored == self._received)
        streaming = (self._states == _State.OPEN) | (self._states == _State.FINISHING)
        frames = self._stored_frames() - self._next_frame
        remaining = self._end_frame - self._next_frame
        for index, context in enumerate(self._contexts):
            width = context.chunk_frames
            chunks = np.where(complete, -(-remaining // width), frames // width)
            rows = np.flatnonzero(streaming & (self._context == index) & (chunks > 0))
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
        preprocessor = self._network.preprocessor
        behind_first = preprocessor.span_offset + preprocessor.span_samples(1)
        mel_frames = (self._buffer.stored - behind_first) // self._hop + 1
        return (mel_frames - 1) // self._factor + 1

    def _first_sample(self, rows: Rows) -> Rows:
        """Per row the first sample that its next chunk needs; negative at the start."""
        mel_frame = self._factor * self._next_frame[rows] - (self._factor - 1)
        return mel_frame * self._hop + self._network.preprocessor.span_offset

    def _span(self, frames: int) -> int:
        return self._network.preprocessor.span_samples(self._factor * frames)

    def _group(self, context: AttentionContext, rows: Rows, frames: int) -> Group:
        first = self._first_sample(rows)
        ended = self._end_frame[rows] < UNBOUNDED
        return Group(
            context=context,
            frames=frames,
            samples=self._buffer.spans(rows, first, self._span(frames)),
            slots=rows,
            first_sample=first,
            total_samples=np.where(ended, self._received[rows], UNKNOWN_LENGTH),
            first_frame=self._next_frame[rows],
            valid_frames=np.minimum(frames, self._end_frame[rows] - self._next_frame[rows]),
            prompts=self._prompt[rows],
        )

    def _update(self, slot: int, new: TokenRun, *, is_final: bool = False) -> Update:
        text = self._texts[slot]
        text.run.extend(new)
        delta = text.detokenizer.push(new.tokens)
        if is_final:
            delta += text.detokenizer.finish()
        seconds = self._network.config.frame_seconds
        decoded_samples = int(self._next_frame[slot]) * self._network.config.frame_samples
        markers = [self._tokenizer.markers.get(token) for token in new.tokens]
        return Update(
            slot=slot,
            text=delta,
            token_ids=tuple(new.tokens),
            token_times=tuple(frame * seconds for frame in new.frames),
            token_confidences=tuple(new.confidences),
            marker=next((marker for marker in reversed(markers) if marker), None),
            at_sample=min(decoded_samples, int(self._received[slot])),
            is_final=is_final,
        )

    def _ends(self) -> list[Update]:
        """The last updates of the streams that have no more frames."""
        ended = (self._states == _State.FINISHING) & (self._next_frame >= self._end_frame)
        finals: list[Update] = []
        for slot in np.flatnonzero(ended).tolist():
            self._states[slot] = _State.ENDED
            finals.append(self._update(slot, TokenRun(), is_final=True))
        return finals

    def _require(self, slot: int, *states: _State) -> None:
        if not 0 <= operator.index(slot) < self.slots:
            raise StreamStateError(f"there is no slot {slot}, only 0 to {self.slots - 1}")
        state = _State(int(self._states[slot]))
        if state not in states:
            raise StreamStateError(f"stream {slot} is {state.name.lower()}")
