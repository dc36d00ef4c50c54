"""The encoder against NeMo's own numbers."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_lite.config import EncoderConfig
from nemo_lite.conformer import EncoderCache, FastConformer
from nemo_lite.conformer.encoder import chunk_mask
from nemo_lite.tests.goldens import Case, case_names, load_case, needs_goldens

pytestmark = needs_goldens
TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}


def encoder_of(case: Case) -> FastConformer:
    encoder = FastConformer(EncoderConfig.from_nemo(case.config)).eval()
    weights = {k: v for k, v in case.weights.items() if not k.endswith("num_batches_tracked")}
    encoder.load_state_dict(weights)
    return encoder


@pytest.mark.parametrize("name", case_names("encoder_offline"))
def test_whole_file_with_full_attention(name: str) -> None:
    case = load_case("encoder_offline", name)
    encoder, t = encoder_of(case), case.tensors
    with torch.inference_mode():
        encoded, lengths = encoder(t["in.mel"], t["in.length"])
        subsampled, _ = encoder.pre_encode(t["in.mel"], t["in.length"])
        assert lengths.tolist() == t["out.encoded_length"].tolist()
        for row, length in enumerate(lengths.tolist()):
            expected = t["out.encoded"][row, :, :length].T
            torch.testing.assert_close(encoded[row, :length], expected, **TOLERANCE)
            expected = t["out.pre_encode"][row, :length]
            torch.testing.assert_close(subsampled[row, :length], expected, **TOLERANCE)
            if f"out.single{row}" in t:
                mel = t["in.mel"][row : row + 1, :, : int(t["in.length"][row])]
                alone, _ = encoder(mel, t["in.length"][row : row + 1])
                single = t[f"out.single{row}"][0].T
                torch.testing.assert_close(alone[0, :length], single[:length], **TOLERANCE)


@pytest.mark.parametrize("name", case_names("encoder_streaming"))
def test_whole_file_with_the_streaming_mask(name: str) -> None:
    case = load_case("encoder_streaming", name)
    encoder, t = encoder_of(case), case.tensors
    for entry in case.expected["lookaheads"]:
        lookahead = entry["att_context_size"][1]
        with torch.inference_mode():
            encoded, _ = encoder(t["in.mel"], t["in.length"], lookahead=lookahead)
        expected = t[f"out.{entry['name']}.offline"].transpose(1, 2)
        for row, length in enumerate(lengths_of(encoder, t["in.length"])):
            torch.testing.assert_close(encoded[row, :length], expected[row, :length], **TOLERANCE)


@dataclass
class NemoStream:
    """NeMo's own step: a window of mel frames that repeats nine old ones, some outputs dropped."""

    encoder: FastConformer
    lookahead: int
    cache: EncoderCache

    def step(self, window: Tensor, lengths: Tensor, drop: int) -> Tensor:
        context = self.encoder.config.context(self.lookahead)
        assert context is not None
        x, frames = self.encoder.pre_encode(window, lengths)
        frames = torch.where(lengths > 0, frames - drop, 0)
        slots = torch.arange(len(window))
        positions = self.encoder.positions(context, context.chunk_frames)
        return self.encoder.advance(x[:, drop:], frames, self.cache, slots, context, positions)

    def check_caches(self, t: dict[str, Tensor], key: str, lengths: list[int]) -> None:
        left = self.encoder.config.context(self.lookahead).left  # type: ignore[union-attr]
        assert self.cache.frames.clamp(max=left).tolist() == lengths
        if f"{key}.cache_last_channel" not in t:
            return
        inputs = t[f"{key}.cache_last_channel"]
        for layer, keys, values, x in zip(
            self.encoder._layers, self.cache.keys, self.cache.values, inputs, strict=True
        ):
            skip = keys.shape[1] - left
            for row, length in enumerate(lengths):
                seen = x[row, left - length :]
                got = keys[row, skip + left - length :]
                torch.testing.assert_close(got, layer.self_attn.linear_k(seen), **TOLERANCE)
                got = values[row, skip + left - length :]
                torch.testing.assert_close(got, layer.self_attn.linear_v(seen), **TOLERANCE)
        expected = t[f"{key}.cache_last_time"]
        torch.testing.assert_close(self.cache.conv, expected, **TOLERANCE)


def golden_streams() -> list[tuple[str, str, str]]:
    found = []
    for name in case_names("encoder_streaming"):
        for entry in load_case("encoder_streaming", name).expected["lookaheads"]:
            modes = [*entry["modes"], *({"batch", "mixed"} & entry.keys())]
            found += [(name, entry["name"], mode) for mode in modes]
    return found


@pytest.mark.parametrize(("name", "lookahead", "mode"), golden_streams())
def test_steps_give_nemos_numbers_from_nemos_windows(name: str, lookahead: str, mode: str) -> None:
    case = load_case("encoder_streaming", name)
    encoder, t = encoder_of(case), case.tensors
    entry = next(e for e in case.expected["lookaheads"] if e["name"] == lookahead)
    if mode == "mixed":
        check_mixed(encoder, entry, t)
        return
    rows = 2 if mode == "batch" else 1
    steps = entry["batch" if mode == "batch" else "modes"]
    steps = (steps if mode == "batch" else steps[mode])["steps"]
    with torch.inference_mode():
        stream = NemoStream(encoder, entry["att_context_size"][1], encoder.new_cache(rows))
        for step in steps:
            window = F.pad(
                t["in.mel"][:rows, :, step["mel_from"] : step["mel_end"]], (step["zeros_left"], 0)
            )
            lengths = torch.tensor(step["input_lengths"])
            got = stream.step(window, lengths, step["drop_extra_pre_encoded"])
            key = f"out.{lookahead}.{mode}.step{step['step']}"
            compare(got, t[f"{key}.encoded"], step["out_lengths"])
            if mode != "batch":
                stream.check_caches(t, key, step["cache_last_channel_len"])


def check_mixed(encoder: FastConformer, entry: dict[str, Any], t: dict[str, Tensor]) -> None:
    """Two streams at different positions in one batch; both start with `pad_first`."""
    lookahead, lead = entry["name"], entry["mixed"]["lead"]
    chunks = entry["modes"]["pad_first"]["steps"]

    def window(stream: int, chunk: int) -> Tensor:
        step, length = chunks[chunk], int(t["in.length"][stream])
        mel = t["in.mel"][stream, :, step["mel_from"] : min(step["mel_end"], length)]
        return F.pad(mel, (step["zeros_left"], 0))

    with torch.inference_mode():
        stream = NemoStream(encoder, entry["att_context_size"][1], encoder.new_cache(2))
        older = NemoStream(encoder, entry["att_context_size"][1], encoder.new_cache(1))
        for chunk in range(lead):
            mel = window(0, chunk)[None]
            older.step(mel, torch.tensor([mel.shape[2]]), 2)
        stream.cache.load(0, older.cache.save(0))
        for step in entry["mixed"]["steps"]:
            windows = [window(0, lead + step["step"]), window(1, step["step"])]
            widest = max(mel.shape[1] for mel in windows)
            batch = torch.stack([F.pad(mel, (0, widest - mel.shape[1])) for mel in windows])
            key = f"out.{lookahead}.mixed.step{step['step']}"
            if f"{key}.input" in t:
                assert torch.equal(batch, t[f"{key}.input"])
            assert [mel.shape[1] for mel in windows] == step["input_lengths"]
            got = stream.step(batch, torch.tensor(step["input_lengths"]), 2)
            compare(got, t[f"{key}.encoded"], step["out_lengths"])
            stream.check_caches(t, key, step["cache_last_channel_len"])


def compare(got: Tensor, expected: Tensor, lengths: list[int]) -> None:
    for row, length in enumerate(lengths):
        torch.testing.assert_close(got[row, :length], expected[row, :, :length].T, **TOLERANCE)


def lengths_of(encoder: FastConformer, mel_lengths: Tensor) -> list[int]:
    _, lengths = encoder.pre_encode(
        torch.zeros(len(mel_lengths), encoder.config.n_mels, int(mel_lengths.max())), mel_lengths
    )
    return lengths.tolist()


def test_chunk_mask_counts_the_past_from_the_start_of_the_chunk() -> None:
    from nemo_lite.config import AttentionContext

    mask = chunk_mask(4, 6, AttentionContext(left=2, right=1), device=torch.device("cpu"))
    assert mask.int().tolist() == [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]
