"""Models saved by `transformers` give the same encoder frames and tokens through this library."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_lite.checkpoints import read_checkpoint
from nemo_lite.decoding import CtcDecoder, Decoded
from nemo_lite.model import Model
from nemo_lite.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

BLANK = 30
PIECES = [f"▁{index}" for index in range(BLANK)]
ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_mel_bins": 40,
    "subsampling_conv_channels": 8,
    "scale_input": False,
}
LIVE = {"sliding_window": 15, "default_num_lookahead_tokens": 6}
KINDS = {
    "NemotronAsrStreamingForRNNT": "NemotronAsrStreamingConfig",
    "Nemotron3_5AsrForRNNT": "Nemotron3_5AsrConfig",
    "ParakeetForRNNT": "ParakeetRNNTConfig",
    "ParakeetForTDT": "ParakeetTDTConfig",
    "ParakeetForCTC": "ParakeetCTCConfig",
}


def theirs(kind: str) -> Any:
    """Random weights, large enough for a mix of blanks and tokens."""
    config: dict[str, Any] = {"vocab_size": BLANK + 1, "encoder_config": ENCODER.copy()}
    if "Nemotron" in kind:
        config["encoder_config"] |= LIVE
    if kind == "ParakeetForCTC":
        config["pad_token_id"] = BLANK
    else:
        config |= {"blank_token_id": BLANK, "pad_token_id": BLANK, "max_symbols_per_step": 3}
        config |= {"decoder_hidden_size": 24, "num_decoder_layers": 2}
    if kind == "Nemotron3_5AsrForRNNT":
        config |= {"num_prompts": 6, "prompt_intermediate_size": 64, "default_prompt_id": 5}
    torch.manual_seed(1)
    model = getattr(transformers, kind)(getattr(transformers, KINDS[kind])(**config)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.5 if "encoder.layers" not in name else 0.2)
    if kind != "ParakeetForCTC":
        model.joint.head.bias[BLANK] += 6
    if kind == "ParakeetForTDT":
        model.joint.head.bias[BLANK + 1] -= 1e3  # transformers has no bound on tokens per frame
    return model


def their_tokens(model: Any, mel: Tensor) -> list[int]:
    mask = torch.ones(1, mel.shape[1], dtype=torch.long)
    if type(model).__name__ == "ParakeetForCTC":
        labels = model(input_features=mel, attention_mask=mask).logits[0].argmax(-1)
        return [token for token in labels.unique_consecutive().tolist() if token != BLANK]
    extra: dict[str, Any] = {}
    if type(model).__name__ == "ParakeetForTDT":
        extra["suppress_tokens"] = list(range(BLANK + 1, BLANK + 6))
    sequences = model.generate(
        mel, attention_mask=mask, decoder_start_token_id=BLANK, max_new_tokens=400, **extra
    )
    sequences = getattr(sequences, "sequences", sequences)
    return [token for token in sequences[0].tolist() if token != BLANK]


def our_tokens(model: Model, frames: Tensor) -> list[int]:
    decoder = model._decoder(None)
    arguments = (torch.tensor([frames.shape[1]]), decoder.new_state(1), torch.tensor([0]))
    found: Decoded = decoder.decode(frames, *arguments)
    assert isinstance(decoder, CtcDecoder) == (model.config.joint is None)
    return found.tokens[0, : int(found.counts[0])].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_saved_model_gives_the_same_frames_and_tokens(kind: str, tmp_path: Path) -> None:
    reference = theirs(kind)
    reference.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path, tokenizer=Tokenizer.from_pieces(PIECES))
    model = Model.from_checkpoint(checkpoint)
    mel = torch.randn(1, 403, ENCODER["num_mel_bins"])
    mask = torch.ones(1, 403, dtype=torch.long)
    expected = reference.get_encoder()(mel, attention_mask=mask).last_hidden_state
    frames, lengths = model._network.encoder(mel.transpose(1, 2), torch.tensor([403]))
    torch.testing.assert_close(frames, expected, atol=2e-5, rtol=1e-4)
    frames = model._network.apply_prompt(frames, torch.tensor([model._network.prompt_index(None)]))
    tokens = our_tokens(model, frames[:, : int(lengths)])
    assert tokens == their_tokens(reference, mel)
    assert len(set(tokens)) > 3
