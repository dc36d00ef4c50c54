"""Hyper-parameters of Canary-Qwen, read from the files its checkpoint comes with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from nemo_lite.config import EncoderConfig, PreprocessorConfig
from nemo_lite.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Qwen3Config:
    """The part of `transformers`' `Qwen3Config` that inference reads."""

    vocabulary_size: int
    """Rows of the embedding."""
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ff_size: int
    norm_eps: float
    rope_theta: float
    tied: bool
    """The head's weights are the embedding's."""

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any]) -> Self:
        """Read a `config.json`.

        Raises:
            CheckpointError: it is of another architecture or a variant that is not supported.
        """
        try:
            return cls._read(config)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(f"not a Qwen3 configuration: {error!r:.200}") from error

    @classmethod
    def _read(cls, config: Mapping[str, Any]) -> Self:
        if config.get("model_type") != "qwen3":
            raise CheckpointError(f"model_type is {config.get('model_type')!r}, not 'qwen3'")
        if config.get("attention_bias") or config.get("use_sliding_window"):
            raise CheckpointError("attention_bias and use_sliding_window are not supported")
        # Newer files have `rope_parameters`, older ones `rope_scaling` and `rope_theta` beside it.
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise CheckpointError("scaled rotary positions are not supported")
        heads = int(config["num_attention_heads"])
        return cls(
            vocabulary_size=int(config["vocab_size"]),
            width=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config["num_key_value_heads"]),
            head_size=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            ff_size=int(config["intermediate_size"]),
            norm_eps=float(config["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or config["rope_theta"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )


_LORA_VARIANTS = (
    "use_rslora",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "layers_to_transform",
    "layer_replication",
    "exclude_modules",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
"""Options of `peft` that change what adapters compute, or which weights have one."""
_DEFAULTS = (None, False, "none", [], {})
"""Values that leave such an option off."""


@dataclass(frozen=True, slots=True)
class SalmConfig:
    """NeMo's `SALM`: perception, adapters and prompt format."""

    preprocessor: PreprocessorConfig
    encoder: EncoderConfig
    output_width: int
    """Width of an audio frame as the language model reads it."""
    audio_tag: str
    """Stands for the audio in a prompt."""
    base_model: str
    """Hub id or folder of the language model's configuration and tokenizer."""
    lora_rank: int
    """0 = no adapters."""
    lora_alpha: float
    lora_modules: tuple[str, ...]
    """Names of the adapted modules within a layer; empty = not said."""

    @property
    def lora_scale(self) -> float:
        """What B A x is multiplied by."""
        return self.lora_alpha / self.lora_rank if self.lora_rank else 0.0

    @classmethod
    def from_nemo(cls, config: Mapping[str, Any]) -> Self:
        """Read the `config.json` that `SALM.save_pretrained` writes.

        Raises:
            CheckpointError: it is of another kind of model or makes no sense.
        """
        try:
            return cls._read(config)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(f"not a Canary-Qwen configuration: {error!r:.200}") from error

    @classmethod
    def _read(cls, config: Mapping[str, Any]) -> Self:
        perception = config["perception"]
        if config.get("prompt_format") != "qwen":
            raise CheckpointError(f"prompt_format is {config.get('prompt_format')!r}, not 'qwen'")
        adapter = str(perception.get("modality_adapter", {}).get("_target_", "IdentityConnector"))
        if not adapter.endswith("IdentityConnector"):
            raise CheckpointError(f"the modality adapter {adapter!r} is not supported")
        lora = config.get("lora") or {}
        variants = [name for name in _LORA_VARIANTS if lora.get(name) not in _DEFAULTS]
        if variants:
            raise CheckpointError(f"adapters with {', '.join(variants)} are not supported")
        modules = lora.get("target_modules") or ()
        if isinstance(modules, str):
            raise CheckpointError(f"target_modules is the pattern {modules!r:.100}, not a list")
        return cls(
            preprocessor=PreprocessorConfig.from_nemo(perception["preprocessor"]),
            encoder=EncoderConfig.from_nemo(perception["encoder"]),
            output_width=int(perception["output_dim"]),
            audio_tag=str(config["audio_locator_tag"]),
            base_model=str(config["pretrained_llm"]),
            lora_rank=int(lora.get("r", 0)),
            lora_alpha=float(lora.get("lora_alpha", 0.0)),
            lora_modules=tuple(str(name) for name in modules),
        )
