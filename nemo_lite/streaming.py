"""Live streams: many at once, of different ages and look-aheads, in one batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.audio_files import as_samples
from nemo_lite.errors import StreamStateError, UnsupportedError
from nemo_lite.network import Network
from nemo_lite.results import Transcript, Update
from nemo_lite.sample_buffer import BufferSnapshot
from nemo_lite.slot_table import SlotTable, State
from nemo_lite.step import StepRunner, StepSnapshot
from nemo_lite.tokenizer import Detokenizer, Tokenizer
from nemo_lite.transcripts import StreamText, TokenRun, transcript


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """A copy of one stream, made by `StreamBatch.snapshot`; opaque."""

    network: Network
    kind: tuple[type, ...]
    row: tuple[int, ...]
    buffer: BufferSnapshot
    model: StepSnapshot
    text: StreamText

    @property
    def size_bytes(self) -> int:
        """Memory that it takes; a slot takes as much."""
        return (
            self.buffer.row.nbytes + self.model.encoder.size_bytes + self.model.decoder.size_bytes
        )


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
        self._contexts = config.encoder.contexts
        self._table = SlotTable(
            config, network.preprocessor, slots=slots, frames_per_step=frames_per_step
        )
        self._texts: dict[int, StreamText] = {}
        self.stepped = 0
        """How many streams had a chunk in the last `step`."""

    @property
    def slots(self) -> int:
        """How many streams fit."""
        return len(self._table.states)

    @property
    def free_slots(self) -> int:
        """How many more streams `open` takes."""
        return int((self._table.states == State.FREE).sum())

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
                self.push(slot, np.zeros(2 * self._table.span(context.chunk_frames), np.float32))
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
        slot = None if context is None else self._table.claim(context, prompt)
        if slot is None:
            raise StreamStateError(f"all {self.slots} slots are taken")
        self._runner.clear(slot)
        self._texts[slot] = StreamText(Detokenizer(self._tokenizer))
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
        self._table.require(slot, State.OPEN)
        array = as_samples(samples)
        self._table.buffer.append(slot, array)
        self._table.received[slot] += len(array)

    def finish(self, slot: int) -> None:
        """Say that a stream's audio ends here; the following steps give all its remaining words.

        Raises:
            StreamStateError: the stream is not open, or was finished.
        """
        self._table.require(slot, State.OPEN)
        self._table.end_frame[slot] = self._frames_pushed(slot)
        self._table.states[slot] = State.FINISHING

    def close(self, slot: int) -> None:
        """Give a slot back, whatever its state; what was not decoded is dropped.

        Raises:
            StreamStateError: the slot is free.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED, State.FAILED)
        self._table.states[slot] = State.FREE
        self._table.buffer.clear(slot)
        del self._texts[slot]

    def transcript(self, slot: int) -> Transcript:
        """Everything a stream has said so far.

        Raises:
            StreamStateError: the slot is free.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED)
        return transcript(
            self._texts[slot].run, self._tokenizer, self._network.config.frame_seconds
        )

    def decoded_samples(self, slot: int) -> int:
        """How much of a stream's audio its words so far are made from.

        Raises:
            StreamStateError: the slot is free.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED)
        frames = int(self._table.next_frame[slot])
        return min(frames * self._network.config.frame_samples, int(self._table.received[slot]))

    def has_ended(self, slot: int) -> bool:
        """Whether a finished stream has given all its words.

        Raises:
            StreamStateError: the slot is free.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED)
        return bool(self._table.states[slot] == State.ENDED)

    def has_chunk(self, slot: int) -> bool:
        """Whether the next `step` advances this stream.

        Raises:
            StreamStateError: the stream is not open, or was finished.
        """
        self._table.require(slot, State.OPEN)
        return self._table.has_chunk(slot)

    def padding(self, slot: int) -> int:
        """How much silence to push for everything pushed so far to be decoded.

        For the end of a turn inside a stream: unlike `finish` it lets the stream go on.

        Raises:
            StreamStateError: the stream is not open, or was finished.
        """
        self._table.require(slot, State.OPEN)
        return self._table.padding(slot)

    def forget(self, slot: int, *, keep_words: int = 0, undecoded: bool = False) -> None:
        """Drop the words found so far from `transcript`; the decoder goes on as if they were there.

        A stream without end would otherwise keep its words for ever.

        Args:
            slot: of the stream.
            keep_words: about so many of the last words stay.
            undecoded: what is still to be found in the audio pushed so far will not be told
                either: a copy that was finished has told it already.

        Raises:
            StreamStateError: the slot is free.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED)
        text = self._texts[slot]
        text.forget(self._tokenizer, keep_words=keep_words)
        if undecoded:
            text.told_frames = self._frames_pushed(slot)

    def reset_decoder(self, slot: int) -> None:
        """Let the decoder forget what was said; the encoder still knows what it heard.

        Raises:
            StreamStateError: the slot is free.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED)
        self._runner.reset_decoder(slot)

    def snapshot(self, slot: int) -> StreamSnapshot:
        """Copy a stream, to come back to this moment or to go on with it in another slot.

        Raises:
            StreamStateError: the slot is free.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED)
        return StreamSnapshot(
            network=self._network,
            kind=self._runner.kind,
            row=self._table.save(slot),
            buffer=self._table.buffer.save(slot),
            model=self._runner.save(slot),
            text=self._texts[slot].copy(),
        )

    def restore(self, slot: int, snapshot: StreamSnapshot) -> None:
        """Make the stream in `slot` a copy of the one `snapshot` was taken from.

        Args:
            slot: any slot that is not free; its stream is given up.
            snapshot: of this batch, or of another one of the same model and kind; stays usable.

        Raises:
            StreamStateError: the slot is free, or the snapshot is of another model or decoder.
        """
        self._table.require(slot, State.OPEN, State.FINISHING, State.ENDED, State.FAILED)
        if snapshot.network is not self._network or snapshot.kind != self._runner.kind:
            raise StreamStateError("the snapshot is of another model, dtype or decoder")
        self._table.load(slot, snapshot.row)
        self._table.buffer.load(slot, snapshot.buffer)
        self._runner.load(slot, snapshot.model)
        self._texts[slot] = snapshot.text.copy()

    @property
    def ready(self) -> bool:
        """Whether the next `step` has something to do."""
        return self._table.ready

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
        groups = self._table.groups()
        self.stepped = sum(len(group.slots) for group in groups)
        if groups:
            try:
                runs = self._runner.run(groups)
            except BaseException:
                for group in groups:
                    self._table.states[group.slots] = State.FAILED
                raise
            for group in groups:
                self._table.advance(group)
            rows = np.concatenate([group.slots for group in groups]).tolist()
            found = zip(rows, runs, strict=True)
            new = [(slot, *self._texts[slot].take(run)) for slot, run in found if run.tokens]
            updates = [self._update(slot, run, text) for slot, run, text in new if run.tokens]
        return updates + [self._final_update(slot) for slot in self._table.end()]

    def _frames_pushed(self, slot: int) -> int:
        """Encoder frames there would be if a stream ended here."""
        hop = self._network.config.preprocessor.hop_samples
        return self._network.encoder_frames(int(self._table.received[slot]) // hop)

    def _final_update(self, slot: int) -> Update:
        return self._update(slot, TokenRun(), self._texts[slot].detokenizer.finish(), final=True)

    def _update(self, slot: int, new: TokenRun, text: str, *, final: bool = False) -> Update:
        seconds = self._network.config.frame_seconds
        markers = [self._tokenizer.markers.get(token) for token in new.tokens]
        return Update(
            slot=slot,
            text=text,
            token_ids=tuple(new.tokens),
            token_times=tuple(frame * seconds for frame in new.frames),
            token_confidences=tuple(new.confidences),
            marker=next((marker for marker in reversed(markers) if marker), None),
            at_sample=self.decoded_samples(slot),
            is_final=final,
        )
