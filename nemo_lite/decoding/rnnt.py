"""Greedy decoding of RNN-T and TDT: label looping over a batch of streams.

One iteration evaluates the joint for several frames of every stream at once with the stream's
present predictor output, finds the first token and advances the predictor where there is one, so
that there are about as many iterations as the busiest stream has tokens.

Source: arXiv 2406.06220 (label looping).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_lite.decoding.base import Decoded, DecoderState, check_shapes
from nemo_lite.decoding.confidence import max_prob_of_scores
from nemo_lite.decoding.emission import Emission, first_emission
from nemo_lite.decoding.joint import Joint
from nemo_lite.decoding.predictor import Predictor

_ROWS = 64
"""Joint evaluations of one iteration on a CPU, over all streams. With fewer there are more
iterations, each of which takes all weights through memory; with more, frames are evaluated that a
token before them makes stale."""

_BLOCK = 64
"""Most frames at once on a device that prefers whole batches."""


@dataclass(slots=True)
class _Cursor:
    """The working copy of B streams during one call."""

    projected: Tensor  # (B, T, J) encoder frames
    lengths: Tensor  # (B,)
    rows: dict[str, Tensor]  # what `RnntDecoder.new_state` lists

    def look(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """(A, W, J) joint inputs of the next W frames of some streams, and which exist (A, W)."""
        frames = self.projected.shape[1]
        times = self.rows["pointer"][rows, None] + torch.arange(width, device=rows.device)
        index = rows[:, None] * frames + times.clamp(max=frames - 1)
        joined = self.projected.flatten(0, 1)[index] + self.rows["predicted"][rows, None]
        return joined, times < self.lengths[rows, None]

    def move(self, rows: Tensor, emission: Emission, max_symbols: int) -> Tensor:
        """Move streams to the next frame to look at; gives the (A,) chunk frames of the tokens."""
        pointer, symbols = self.rows["pointer"], self.rows["symbols"]
        at = pointer[rows] + emission.offset
        count = symbols[rows] * (emission.offset == 0) + 1
        stays = emission.found & (emission.duration == 0)
        full = stays & (count >= max_symbols)
        pointer[rows] = at + emission.duration + full
        symbols[rows] = count * (stays & ~full)
        return at

    def done(self) -> Tensor:
        """(B,) bool: nothing left to look at."""
        return self.rows["pointer"] >= self.lengths


class RnntDecoder:
    """Greedy decoder of RNN-T models, and of TDT models where the joint has durations.

    Args:
        predictor: with its weights.
        joint: with its weights.
        max_symbols: most tokens at one encoder frame; then the next frame's turn comes without
            asking for a blank.
    """

    def __init__(self, predictor: Predictor, joint: Joint, *, max_symbols: int = 10) -> None:
        self._predictor = predictor
        self._joint = joint
        self._max_symbols = max_symbols

    @torch.no_grad()
    def new_state(self, slots: int) -> DecoderState:
        """State for `slots` streams; see `GreedyDecoder`.

        Per stream: `hidden` and `cell` (L, H) of the predictor after the last token, `predicted`
        (J,) its projected output, `frames` decoded so far, `pointer` the next frame to look at,
        counted from there (more than 0 where a duration led beyond the last piece), and `symbols`
        emitted at that frame (0 between pieces).
        """
        hidden, cell = self._predictor.start()
        zero = torch.zeros((), dtype=torch.int64, device=hidden.device)
        fresh = {
            "hidden": hidden[0],
            "cell": cell[0],
            "predicted": self._joint.pred(hidden[:, -1])[0],
            "frames": zero,
            "pointer": zero,
            "symbols": zero,
        }
        return DecoderState(fresh, slots, memory=("hidden", "cell", "predicted"))

    def decode(
        self, encoded: Tensor, lengths: Tensor, state: DecoderState, slots: Tensor
    ) -> Decoded:
        """Decode the next frames of B streams; see `GreedyDecoder`."""
        if encoded.device.type == "cpu":
            return self._decode_packed(self._open(encoded, lengths, state, slots), state, slots)
        return self.decode_blocks(encoded, lengths, state, slots)

    def decode_blocks(
        self,
        encoded: Tensor,
        lengths: Tensor,
        state: DecoderState,
        slots: Tensor,
        *,
        block_frames: int = _BLOCK,
    ) -> Decoded:
        """As `decode`, with whole batches in every iteration: what suits a GPU."""
        events: list[tuple[Tensor, ...]] = []
        for start in range(0, encoded.shape[1], block_frames):
            block = encoded[:, start : start + block_frames]
            left = (lengths - start).clamp(0, block.shape[1])
            cursor = self._open(block, left, state, slots)
            while not bool(cursor.done().all()):
                found, *columns = self._iterate(cursor)
                row = found.nonzero().squeeze(1)
                events.append((row, *(column[row] for column in columns)))
            self._close(cursor, state, slots)
        return self._gather(events, encoded)

    def decode_fixed(
        self,
        encoded: Tensor,
        lengths: Tensor,
        state: DecoderState,
        slots: Tensor,
        iterations: int,
    ) -> tuple[Decoded, Tensor]:
        """Decode with static shapes; see `GreedyDecoder`. (B, iterations) tokens at most."""
        cursor = self._open(encoded, lengths, state, slots)
        columns = zip(*(self._iterate(cursor) for _ in range(iterations)), strict=True)
        found, tokens, frames, confidences = (torch.stack(column, 1) for column in columns)
        done = cursor.done()
        self._close(cursor, state, slots)
        return Decoded(tokens, frames, confidences, found.sum(1)), done

    def _decode_packed(self, cursor: _Cursor, state: DecoderState, slots: Tensor) -> Decoded:
        """Only streams that have frames left, and only about `_ROWS` evaluations at a time."""
        events: list[tuple[Tensor, ...]] = []
        rows = (~cursor.done()).nonzero().squeeze(1)
        while len(rows):
            width = max(1, min(cursor.projected.shape[1], _ROWS // len(rows)))
            scores, emission = self._find(cursor, rows, width)
            at = cursor.move(rows, emission, self._max_symbols)
            hits = emission.found.nonzero().squeeze(1)
            if len(hits):
                row, token = rows[hits], emission.token[hits]
                frame = cursor.rows["frames"][row] + at[hits]
                best = scores[hits, emission.offset[hits]]
                events.append((row, token, frame, max_prob_of_scores(best)))
                for name, value in self._advance(cursor, row, token).items():
                    cursor.rows[name].index_copy_(0, row, value)
            rows = rows[~cursor.done()[rows]]
        self._close(cursor, state, slots)
        return self._gather(events, cursor.projected)

    def _iterate(self, cursor: _Cursor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All streams, all frames, no shape that depends on a value: found, token, frame, conf."""
        batch, width = cursor.projected.shape[:2]
        rows = torch.arange(batch, device=cursor.projected.device)
        scores, emission = self._find(cursor, rows, width)
        at = cursor.move(rows, emission, self._max_symbols)
        confidences = max_prob_of_scores(scores[rows, emission.offset.clamp(max=width - 1)])
        for name, value in self._advance(cursor, rows, emission.token).items():
            old = cursor.rows[name]
            found = emission.found.view(-1, *[1] * (old.ndim - 1))
            cursor.rows[name] = torch.where(found, value, old)
        return emission.found, emission.token, cursor.rows["frames"] + at, confidences

    def _find(self, cursor: _Cursor, rows: Tensor, width: int) -> tuple[Tensor, Emission]:
        """(A, W, V + 1) scores of symbols, and the first token of each stream in `rows`."""
        joined, inside = cursor.look(rows, width)
        scores = self._joint(joined)
        size = self._joint.config.vocabulary_size
        durations = self._joint.config.durations
        emission = first_emission(scores, inside, vocabulary_size=size, durations=durations)
        return scores[..., : size + 1], emission

    def _advance(self, cursor: _Cursor, rows: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """What the predictor holds after these streams' tokens."""
        hidden, cell = cursor.rows["hidden"][rows], cursor.rows["cell"][rows]
        hidden, cell = self._predictor.step(tokens, hidden, cell)
        return {"hidden": hidden, "cell": cell, "predicted": self._joint.pred(hidden[:, -1])}

    def _open(
        self, encoded: Tensor, lengths: Tensor, state: DecoderState, slots: Tensor
    ) -> _Cursor:
        check_shapes(encoded, lengths, slots)
        return _Cursor(self._joint.enc(encoded), lengths, state.rows(slots))

    @staticmethod
    def _close(cursor: _Cursor, state: DecoderState, slots: Tensor) -> None:
        """Write back; a stream that is done stands at the beginning of its next piece."""
        passed = cursor.lengths * cursor.done()
        cursor.rows["frames"] += passed
        cursor.rows["pointer"] -= passed
        state.store(slots, cursor.rows)

    @staticmethod
    def _gather(events: list[tuple[Tensor, ...]], like: Tensor) -> Decoded:
        batch = len(like)
        if not events:
            ids = torch.zeros(batch, 0, dtype=torch.int64, device=like.device)
            return Decoded(ids, ids, ids.float(), ids.sum(1))
        rows, tokens, frames, confidences = (
            torch.cat(values) for values in zip(*events, strict=True)
        )
        return Decoded.from_events(rows, tokens, frames, confidences, batch=batch)
