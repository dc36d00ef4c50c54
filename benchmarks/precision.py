"""What a narrower dtype costs: encoder frames and tokens against float32, and words of real audio.

The frames are those of the very steps that are measured for speed, CUDA graphs included.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.decoding import Decoded, DecoderState, GreedyDecoder, RnntDecoder
from nemo_lite.graphed_step import GraphedStep
from nemo_lite.network import Network
from nemo_lite.streaming import StreamBatch
from nemo_lite.tokenizer import Tokenizer

ARCHIVE = Path("models", "digits-streaming.nemo")
RECORDINGS = Path("audio", "digits")


@dataclass(frozen=True, slots=True)
class Heard:
    """What B streams of equal length became."""

    frames: Tensor
    """(B, T, D) float32 encoder frames on the CPU."""
    tokens: list[tuple[int, ...]]
    lookahead: int

    @property
    def tokens_per_frame(self) -> float:
        """How talkative the model is."""
        return sum(map(len, self.tokens)) / (self.frames.shape[0] * self.frames.shape[1])


class Tap:
    """A `GreedyDecoder` that keeps what it is given to decode, inside a CUDA graph as well."""

    def __init__(self, decoder: GreedyDecoder) -> None:
        self._decoder = decoder
        self.frames: Tensor | None = None
        """(B, T, D) of the last step."""

    def new_state(self, slots: int) -> DecoderState:
        """As the decoder."""
        return self._decoder.new_state(slots)

    def decode(
        self, encoded: Tensor, lengths: Tensor, state: DecoderState, slots: Tensor
    ) -> Decoded:
        """As the decoder."""
        return self._decoder.decode(encoded, lengths, state, slots)

    def decode_fixed(
        self, encoded: Tensor, lengths: Tensor, state: DecoderState, slots: Tensor, iterations: int
    ) -> tuple[Decoded, Tensor]:
        """As the decoder, and keep the frames."""
        if self.frames is None:  # in the run before the recording
            self.frames = torch.empty_like(encoded)
        self.frames.copy_(encoded)
        return self._decoder.decode_fixed(encoded, lengths, state, slots, iterations)


def plain_tokenizer(network: Network) -> Tokenizer:
    """Some text for every id."""
    return Tokenizer.from_pieces([f"▁{id}" for id in range(network.config.vocabulary_size)])


def hear(network: Network, audio: Sequence[NDArray[np.float32]], lookahead: int) -> Heard:
    """Recognise recordings of equal length as streams, side by side."""
    tap = Tap(RnntDecoder(network.decoder, network.joint, max_symbols=network.config.max_symbols))
    runner = GraphedStep(network, tap, len(audio))
    streams = StreamBatch(
        network, plain_tokenizer(network), runner, slots=len(audio), frames_per_step=1
    )
    slots = [streams.open(lookahead=lookahead) for _ in audio]
    for slot, samples in zip(slots, audio, strict=True):
        streams.push(slot, samples)
    frames: list[Tensor] = []
    while streams.ready:
        streams.step()
        assert tap.frames is not None
        frames.append(tap.frames.to("cpu", torch.float32, copy=True))
    tokens = [streams.transcript(slot).token_ids for slot in slots]
    return Heard(torch.cat(frames, dim=1), tokens, lookahead)


def encoder_error(found: Heard, reference: Heard) -> float:
    """Size of the difference of all encoder frames, as a share of their size."""
    return float((found.frames - reference.frames).norm() / reference.frames.norm())


def token_error(found: Heard, reference: Heard) -> float:
    """Wrong, missing and surplus tokens as a share of the reference's."""
    pairs = zip(reference.tokens, found.tokens, strict=True)
    wrong = sum(edits(expected, tokens) for expected, tokens in pairs)
    return wrong / max(1, sum(map(len, reference.tokens)))


def digits_error(
    shared: Path,
    device: torch.device,
    dtype: torch.dtype | Literal["int8"],
    *,
    lookahead: int | None = None,
) -> float | str:
    """Word error rate of live streams on the spoken digits, or why it is not known."""
    if not (shared / ARCHIVE).is_file():
        return "no model"
    try:
        import soundfile

        from nemo_lite.model import load
    except ImportError as error:
        return f"no {error.name}"
    folder = shared / RECORDINGS
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    streams = load(shared / ARCHIVE, device=device, dtype=dtype).streams(len(entries))
    slots = [streams.open(lookahead=lookahead) for _ in entries]
    for slot, entry in zip(slots, entries, strict=True):
        streams.push(slot, soundfile.read(folder / entry["file"], dtype="float32")[0])
        streams.finish(slot)
    while streams.ready:
        streams.step()
    expected = [entry["text"].split() for entry in entries]
    found = [streams.transcript(slot).text.split() for slot in slots]
    return sum(map(edits, expected, found)) / sum(map(len, expected))


def edits(expected: Sequence[object], found: Sequence[object]) -> int:
    """Insertions, deletions and replacements between two sequences."""
    row = list(range(len(found) + 1))
    for index, item in enumerate(expected, 1):
        above, row = row, [index]
        for column, other in enumerate(found, 1):
            replaced = above[column - 1] + (item != other)
            row.append(min(above[column] + 1, row[-1] + 1, replaced))
    return row[-1]
