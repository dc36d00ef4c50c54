"""Streams with 8-bit weights: close to float32, and exactly alone as in a batch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import nemo_lite
from nemo_lite.chunk_encoder import Chunk, ChunkEncoder, TorchChunkEncoder
from nemo_lite.conformer.subsampling import UNBOUNDED, Bounds
from nemo_lite.errors import UnsupportedError
from nemo_lite.int8_encoder import Int8Encoder
from nemo_lite.model import Model
from nemo_lite.tests.goldens import GOLDENS, SHARED, needs_goldens, needs_models
from nemo_lite.tests.tiny import CONFIG, noise, random_network, tiny_model

pytest.importorskip("nemo_lite_cpu")
LOOKAHEADS = (13, 6, 1, 0)


def chunk(lookahead: int, rows: int, *, start: int, seed: int, ends: bool = False) -> Chunk:
    """Random log-mel for the chunk that begins at encoder frame `start`."""
    context = CONFIG.encoder.context(lookahead)
    assert context is not None
    torch.manual_seed(seed)
    frames = context.chunk_frames
    length = 8 * (start + frames) - 8 if ends else UNBOUNDED
    mel = torch.randn(rows, 8 * frames, CONFIG.encoder.n_mels) * 2 - 8
    bounds = Bounds(torch.full((rows,), start), torch.full((rows,), length))
    return Chunk(
        mel.transpose(1, 2), torch.arange(rows), torch.full((rows,), frames), bounds, context
    )


def encode(encoder: ChunkEncoder, chunks: list[Chunk]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([encoder.encode([part])[0] for part in chunks], dim=1)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_frames_are_close_to_float32(lookahead: int) -> None:
    width = lookahead + 1
    chunks = [chunk(lookahead, 3, start=i * width, seed=i, ends=i == 9) for i in range(10)]
    exact = TorchChunkEncoder(random_network().encoder, 3, frames_per_step=1)
    int8 = Int8Encoder(random_network().encoder, threads=2).chunk_encoder(3)
    expected, found = encode(exact, chunks), encode(int8, chunks)
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_a_stream_is_the_same_to_the_bit_alone_and_in_a_mixed_batch() -> None:
    packed = Int8Encoder(random_network().encoder, threads=2)
    alone, batch = packed.chunk_encoder(1), packed.chunk_encoder(4)
    for step in range(6):
        mine = chunk(1, 1, start=2 * step, seed=step)
        others = chunk(6, 3, start=7 * step, seed=99 + step)
        (expected,) = alone.encode([mine])
        moved = Chunk(mine.mel, torch.tensor([2]), mine.valid_frames, mine.bounds, mine.context)
        neighbours = Chunk(
            others.mel, torch.tensor([3, 0, 1]), others.valid_frames, others.bounds, others.context
        )
        _, found = batch.encode([neighbours, moved])
        assert torch.equal(found, expected)


def test_snapshot_continues_to_the_bit() -> None:
    encoder = Int8Encoder(random_network().encoder, threads=1).chunk_encoder(2)
    encode(encoder, [chunk(1, 2, start=2 * i, seed=i) for i in range(3)])
    moment = encoder.save(1)
    following = chunk(1, 2, start=6, seed=7)
    (expected,) = encoder.encode([following])
    encoder.clear(0)
    encoder.load(0, moment)
    first = Chunk(following.mel[1:], torch.tensor([0]), torch.tensor([2]), None, following.context)
    (found,) = encoder.encode([first])
    assert torch.equal(found[0], expected[1])


def test_streams_do_not_depend_on_packets_or_neighbours() -> None:
    network = random_network()
    int8 = Int8Encoder(network.encoder, threads=2)
    model = Model(network, tiny_model().tokenizer, int8=int8)
    recordings = [noise(2 + index / 3, seed=index) for index in range(5)]
    together = model.transcribe(recordings, lookahead=1)
    for samples, expected in zip(recordings, together, strict=True):
        batch = model.streams(1)
        slot = batch.open(lookahead=1)
        for at in range(0, len(samples), 777):
            batch.push(slot, samples[at : at + 777])
            batch.step()
        batch.finish(slot)
        while batch.ready:
            batch.step()
        assert batch.transcript(slot).token_ids == expected.token_ids
        assert len(expected.token_ids) > 5


@needs_models
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_digits_are_the_same_as_in_float32(lookahead: int) -> None:
    path = SHARED / "models" / "digits-streaming.nemo"
    files = sorted((SHARED / "audio" / "digits").glob("*.flac"))[:20]
    audio = [soundfile.read(file, dtype="float32")[0] for file in files]
    exact = nemo_lite.load(path).transcribe(audio, lookahead=lookahead)
    found = nemo_lite.load(path, dtype="int8").transcribe(audio, lookahead=lookahead)
    assert [t.text for t in found] == [t.text for t in exact]
    assert any(
        np.array_equal(a.token_times, b.token_times) for a, b in zip(found, exact, strict=True)
    )


def test_loading_frees_the_float_weights() -> None:
    network = random_network()
    Int8Encoder(network.encoder, threads=1)
    assert len(network.encoder.layers) == 0


@needs_goldens
def test_what_int8_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path: Path = GOLDENS / "nemo_files" / "nemotron_streaming.nemo"
    with pytest.raises(UnsupportedError, match="float33"):
        nemo_lite.load(path, dtype="float33")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedError, match="no CUDA device"):
            nemo_lite.load(path, device="cuda")
    monkeypatch.setitem(sys.modules, "nemo_lite_cpu", None)
    with pytest.raises(UnsupportedError, match="nemo-lite-cpu"):
        nemo_lite.load(path, dtype="int8")
