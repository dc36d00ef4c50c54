"""Folders that `transformers` saved: its configuration and names, mapped to NeMo's.

Facts that `transformers` keeps on the processor (features, look-aheads, languages) come from
`processor_config.json`. Without one, the model has the feature extractor's defaults and the one
look-ahead and prompt that the model's own configuration names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nemo_lite.checkpoints.checkpoint import Checkpoint, assemble
from nemo_lite.checkpoints.documents import read_json
from nemo_lite.checkpoints.key_maps import from_transformers
from nemo_lite.checkpoints.safetensors_folder import read_tensors, read_tokenizer
from nemo_lite.config import (
    AttentionContext,
    EncoderConfig,
    JointConfig,
    ModelConfig,
    PredictorConfig,
    PreprocessorConfig,
    PromptConfig,
)
from nemo_lite.errors import CheckpointError
from nemo_lite.features import AudioPreprocessor
from nemo_lite.tokenizer import Tokenizer

Section = Mapping[str, Any]

_STREAMING = ("nemotron_asr_streaming", "nemotron3_5_asr")
_PARAKEET = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")


def read_transformers_folder(folder: Path, *, tokenizer: Tokenizer | None = None) -> Checkpoint:
    """Read `config.json`, `model.safetensors`, `tokenizer.json` and the processor's configuration.

    Raises:
        CheckpointError: a file is missing, damaged, or of another kind of model.
        OSError: a file cannot be read.
    """
    files = _Files(read_json(folder / "config.json"), *_read_processor(folder))
    try:
        config = files.model_config()
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"config.json makes no sense: {error!r}") from error
    tokenizer = tokenizer or read_tokenizer(folder, size=config.vocabulary_size)
    tensors = read_tensors(folder)
    state = {from_transformers(name): tensor for name, tensor in tensors.items()}
    if len(state) != len(tensors):
        raise CheckpointError("two tensors have the same meaning")
    dtype = files.features.get("mel_filters_dtype", "float32")
    if dtype != "float32":
        state.update(_rounded_tables(config.preprocessor, dtype))
    target = " ".join(files.model.get("architectures") or [])
    return assemble(Checkpoint(config, state, tokenizer, folder, target))


def _read_processor(folder: Path) -> tuple[Section, Section]:
    """The processor's own settings and its feature extractor's; empty where there are none."""
    processor: dict[str, Any] = {}
    features: dict[str, Any] = {}
    if (folder / "processor_config.json").is_file():
        processor = read_json(folder / "processor_config.json")
        features = processor.get("feature_extractor") or {}
    if not features and (folder / "preprocessor_config.json").is_file():
        features = read_json(folder / "preprocessor_config.json")
    return processor, features


def _rounded_tables(config: PreprocessorConfig, dtype: str) -> dict[str, torch.Tensor]:
    """Filterbank and window as a checkpoint in a narrow dtype has them, in float32."""
    if dtype not in ("bfloat16", "float16"):
        raise CheckpointError(f"mel_filters_dtype is {dtype!r}")
    tables = AudioPreprocessor(config).state_dict()
    narrow: torch.dtype = getattr(torch, dtype)
    return {f"preprocessor.{name}": table.to(narrow).float() for name, table in tables.items()}


@dataclass(frozen=True, slots=True)
class _Files:
    """The three sections that describe a model."""

    model: Section
    processor: Section
    features: Section

    def model_config(self) -> ModelConfig:
        model = self.model
        kind = model["model_type"]
        if kind not in (*_STREAMING, *_PARAKEET):
            known = ", ".join((*_STREAMING, *_PARAKEET))
            raise CheckpointError(f"config.json has model_type {kind!r}, not one of: {known}")
        blank = int(model["vocab_size"]) - 1
        blank_name = "pad_token_id" if kind == "parakeet_ctc" else "blank_token_id"
        if model[blank_name] != blank:
            raise CheckpointError(f"{blank_name} is {model[blank_name]}, not the last id, {blank}")
        encoder = self._encoder(streaming=kind in _STREAMING)
        preprocessor = self._preprocessor(encoder.n_mels, streaming=kind in _STREAMING)
        if kind == "parakeet_ctc":
            return ModelConfig(preprocessor, encoder, blank, ctc=True, ctc_prefix="decoder")
        hidden = int(model["decoder_hidden_size"])
        durations = model["durations"] if kind == "parakeet_tdt" else ()
        activation = model["hidden_act"]
        if activation not in ("relu", "sigmoid", "tanh"):
            raise CheckpointError(f"hidden_act of the joint is {activation!r}")
        return ModelConfig(
            preprocessor,
            encoder,
            blank,
            predictor=PredictorConfig(blank, hidden, int(model["num_decoder_layers"])),
            joint=JointConfig(
                encoder.d_model, hidden, hidden, blank, activation, tuple(map(int, durations))
            ),
            max_symbols=int(model["max_symbols_per_step"]),
            prompt=self._prompt() if kind == "nemotron3_5_asr" else None,
        )

    def _encoder(self, *, streaming: bool) -> EncoderConfig:
        section = self.model["encoder_config"]
        for name, value in (
            ("hidden_act", "silu"),
            ("subsampling_conv_kernel_size", 3),
            ("subsampling_conv_stride", 2),
            ("num_key_value_heads", section["num_attention_heads"]),
            ("convolution_bias", section["attention_bias"]),
        ):
            if section.get(name, value) != value:
                raise CheckpointError(f"encoder_config.{name} is {section[name]!r}, not {value!r}")
        return EncoderConfig(
            n_mels=int(section["num_mel_bins"]),
            layers=int(section["num_hidden_layers"]),
            d_model=int(section["hidden_size"]),
            heads=int(section["num_attention_heads"]),
            ff_size=int(section["intermediate_size"]),
            conv_kernel=int(section["conv_kernel_size"]),
            conv_norm="layer_norm" if streaming else "batch_norm",
            causal_conv=streaming,
            subsampling_factor=int(section["subsampling_factor"]),
            subsampling_channels=int(section["subsampling_conv_channels"]),
            causal_subsampling=streaming,
            xscaling=bool(section["scale_input"]),
            use_bias=bool(section["attention_bias"]),
            contexts=self._contexts(section) if streaming else (),
        )

    def _contexts(self, encoder: Section) -> tuple[AttentionContext, ...]:
        """The processor knows what the model was trained for; the default comes first."""
        left = int(encoder["sliding_window"]) - 1
        default = self.processor.get("default_num_lookahead_tokens")
        if default is None:
            default = encoder["default_num_lookahead_tokens"]
        others = self.processor.get("supported_num_lookahead_tokens") or []
        lookaheads = dict.fromkeys(int(lookahead) for lookahead in (default, *others))
        for lookahead in lookaheads:
            if left < 0 or lookahead < 0 or left % (lookahead + 1):
                raise CheckpointError(
                    f"look-ahead {lookahead} does not go with a left context of {left} frames, "
                    "which is no whole number of chunks"
                )
        return tuple(AttentionContext(left, lookahead) for lookahead in lookaheads)

    def _preprocessor(self, n_mels: int, *, streaming: bool) -> PreprocessorConfig:
        features = self.features
        if features.get("feature_size", n_mels) != n_mels:
            raise CheckpointError(
                f"the features have {features['feature_size']} mel bins, the encoder {n_mels}"
            )
        return PreprocessorConfig(
            n_mels,
            sample_rate=int(features.get("sampling_rate", 16_000)),
            window_samples=int(features.get("win_length", 400)),
            hop_samples=int(features.get("hop_length", 160)),
            n_fft=int(features.get("n_fft", 512)),
            normalize=None if streaming else "per_feature",
            preemphasis=float(features.get("preemphasis", 0.97) or 0.0),
        )

    def _prompt(self) -> PromptConfig:
        default = int(self.model["default_prompt_id"])
        known = self.processor.get("prompt_dictionary") or {"auto": default}
        languages = {str(name): int(index) for name, index in known.items()}
        names = [name for name, index in languages.items() if index == default]
        if not names:
            raise CheckpointError(f"no language has the default prompt {default}")
        return PromptConfig(
            num_prompts=int(self.model["num_prompts"]),
            hidden=int(self.model["prompt_intermediate_size"]),
            languages=languages,
            default="auto" if "auto" in names else names[0],
        )
