"""What a model is made of: frozen dataclasses that mirror the checkpoints' own configurations.

Every constant of the network comes from here and thus from the checkpoint. `ModelConfig.from_nemo`
reads NeMo's `model_config.yaml`; `transformers`' `config.json` is mapped to the same classes in
`checkpoints/transformers_folder.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from nemo_lite.errors import CheckpointError

Section = Mapping[str, Any]

_ONLY_PREPROCESSING: Mapping[str, tuple[object, ...]] = {
    "window": ("hann",),
    "frame_splicing": (1,),
    "lowfreq": (0,),
    "mag_power": (2.0,),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2.0**-24, 5.9604645e-08),
    "mel_norm": ("slaney",),
    "exact_pad": (False,),
}
"""What NeMo could be told and no checkpoint of the family uses: key → supported, default first."""


@dataclass(frozen=True, slots=True)
class PreprocessorConfig:
    """NeMo's `AudioToMelSpectrogramPreprocessor`, inference part."""

    n_mels: int
    sample_rate: int = 16_000
    window_samples: int = 400
    hop_samples: int = 160
    n_fft: int = 512
    normalize: Literal["per_feature"] | None = None
    """`per_feature`: mean 0, standard deviation 1 per mel bin over the file; None: raw log-mel."""
    preemphasis: float = 0.97
    log_guard: float = 2.0**-24
    """Added to the mel power before the logarithm."""
    pad_to: int = 0
    """Frames are padded with zeros to a multiple of this; 0 = not at all."""

    @classmethod
    def from_nemo(cls, section: Section) -> Self:
        """Read the `preprocessor` section of a NeMo configuration."""
        rate = int(section.get("sample_rate", 16_000))
        for key, supported in _ONLY_PREPROCESSING.items():
            if section.get(key, supported[0]) not in supported:
                raise CheckpointError(
                    f"preprocessor.{key} is {section[key]!r}, not {supported[0]!r}"
                )
        if section.get("highfreq") not in (None, rate / 2):
            raise CheckpointError(f"preprocessor.highfreq is {section['highfreq']!r}")
        normalize = section.get("normalize", "per_feature")
        if normalize not in ("per_feature", "NA", "None", None):
            raise CheckpointError(f"preprocessor.normalize is {normalize!r}")
        return cls(
            n_mels=int(section.get("features", 64)),
            sample_rate=rate,
            window_samples=round(float(section.get("window_size", 0.02)) * rate),
            hop_samples=round(float(section.get("window_stride", 0.01)) * rate),
            n_fft=int(section.get("n_fft") or 512),
            normalize="per_feature" if normalize == "per_feature" else None,
            preemphasis=float(section.get("preemph", 0.97) or 0.0),
            pad_to=int(section.get("pad_to", 16)),
        )


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """Encoder frames a frame may attend to: `left` before its chunk, `right` = the look-ahead."""

    left: int
    right: int

    @property
    def chunk_frames(self) -> int:
        """Encoder frames of one streaming step."""
        return self.right + 1


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """NeMo's `ConformerEncoder` with `dw_striding` subsampling and `rel_pos` attention."""

    n_mels: int
    layers: int
    d_model: int
    heads: int
    ff_size: int
    conv_kernel: int = 9
    conv_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"
    causal_conv: bool = False
    subsampling_factor: int = 8
    subsampling_channels: int = 256
    causal_subsampling: bool = False
    xscaling: bool = True
    """Multiply the subsampled frames by sqrt(d_model)."""
    use_bias: bool = True
    contexts: tuple[AttentionContext, ...] = ()
    """Contexts the checkpoint was trained for, the default one first; empty = sees everything."""

    @property
    def streaming(self) -> bool:
        """True when every part is causal up to the chunk, so that streams equal the whole file."""
        return bool(self.contexts) and self.causal_conv and self.causal_subsampling

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.heads

    def context(self, lookahead: int | None) -> AttentionContext | None:
        """The context with this look-ahead; None means the checkpoint's default.

        Raises:
            ValueError: the checkpoint was not trained for that look-ahead.
        """
        if lookahead is None:
            return self.contexts[0] if self.contexts else None
        for context in self.contexts:
            if context.right == lookahead:
                return context
        known = ", ".join(str(context.right) for context in self.contexts) or "none"
        raise ValueError(f"look-ahead {lookahead} is not one of this model's: {known}")

    @classmethod
    def from_nemo(cls, section: Section) -> Self:
        """Read the `encoder` section of a NeMo configuration."""
        _require(section, "subsampling", ("dw_striding",))
        _require(section, "self_attention_model", ("rel_pos",))
        if not section.get("untie_biases", True):
            raise CheckpointError("encoder.untie_biases = false is not supported")
        if int(section.get("feat_out", -1)) not in (-1, int(section["d_model"])):
            raise CheckpointError("encoder.feat_out is not supported")
        norm = section.get("conv_norm_type", "batch_norm")
        if norm not in ("batch_norm", "layer_norm"):
            raise CheckpointError(f"encoder.conv_norm_type is {norm!r}")
        channels = int(section.get("subsampling_conv_channels", -1))
        width = int(section["d_model"])
        return cls(
            n_mels=int(section["feat_in"]),
            layers=int(section["n_layers"]),
            d_model=width,
            heads=int(section["n_heads"]),
            ff_size=width * int(section.get("ff_expansion_factor", 4)),
            conv_kernel=int(section.get("conv_kernel_size", 31)),
            conv_norm=norm,
            causal_conv=_is_causal(section),
            subsampling_factor=int(section.get("subsampling_factor", 4)),
            subsampling_channels=channels if channels > 0 else width,
            causal_subsampling=bool(section.get("causal_downsampling", False)),
            xscaling=bool(section.get("xscaling", True)),
            use_bias=bool(section.get("use_bias", True)),
            contexts=_contexts(section),
        )


@dataclass(frozen=True, slots=True)
class PredictorConfig:
    """NeMo's `RNNTDecoder`: an embedding and an LSTM stack."""

    vocabulary_size: int
    """Tokens without the blank; the blank's id, and the row of zeros in the embedding."""
    hidden: int
    layers: int

    @classmethod
    def from_nemo(cls, section: Section) -> Self:
        """Read the `decoder` section of a NeMo configuration."""
        if not section.get("blank_as_pad", True):
            raise CheckpointError("decoder.blank_as_pad = false is not supported")
        net = section["prednet"]
        return cls(int(section["vocab_size"]), int(net["pred_hidden"]), int(net["pred_rnn_layers"]))


@dataclass(frozen=True, slots=True)
class JointConfig:
    """NeMo's `RNNTJoint`; `durations` is empty for RNN-T and lists frames to skip for TDT."""

    encoder_size: int
    predictor_size: int
    hidden: int
    vocabulary_size: int
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    durations: tuple[int, ...] = ()

    @classmethod
    def from_nemo(cls, section: Section, *, durations: tuple[int, ...] = ()) -> Self:
        """Read the `joint` section of a NeMo configuration."""
        net = section["jointnet"]
        activation = str(net.get("activation", "relu")).lower()
        if activation not in ("relu", "sigmoid", "tanh"):
            raise CheckpointError(f"joint.jointnet.activation is {activation!r}")
        return cls(
            encoder_size=int(net["encoder_hidden"]),
            predictor_size=int(net["pred_hidden"]),
            hidden=int(net["joint_hidden"]),
            vocabulary_size=int(section["num_classes"]),
            activation=activation,
            durations=durations,
        )


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """The language prompt of the multilingual model: a one-hot vector joined to every frame."""

    num_prompts: int
    hidden: int
    languages: Mapping[str, int] = field(default_factory=dict)
    default: str = "auto"

    @classmethod
    def from_nemo(cls, config: Section, *, d_model: int) -> Self | None:
        """Read `num_prompts` and `prompt_dictionary`; None for a model without prompts."""
        defaults: Section = config.get("model_defaults") or {}
        languages = defaults.get("prompt_dictionary")
        if not languages:
            return None
        count = int(config.get("num_prompts") or defaults.get("num_prompts") or 128)
        # YAML takes an unquoted `no`, Norwegian, for False.
        names = {
            "no" if name is False else str(name): int(index) for name, index in languages.items()
        }
        return cls(count, 2 * d_model, names, "auto" if "auto" in names else next(iter(names)))

    def index(self, language: str | None) -> int:
        """The prompt's row for a language name; None means the default.

        Raises:
            ValueError: the model does not know the language.
        """
        name = self.default if language is None else language
        if name not in self.languages:
            raise ValueError(f"language {name!r} is not one of: {', '.join(self.languages)}")
        return self.languages[name]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole recogniser. At least one of (`predictor` and `joint`) and `ctc` is there."""

    preprocessor: PreprocessorConfig
    encoder: EncoderConfig
    vocabulary_size: int
    """Tokens without the blank; the blank's id."""
    predictor: PredictorConfig | None = None
    joint: JointConfig | None = None
    ctc: bool = False
    max_symbols: int = 10
    """Most tokens RNN-T may emit at one encoder frame."""
    prompt: PromptConfig | None = None
    ctc_prefix: str = "ctc_decoder"
    """Where the CTC head's parameters live: a plain CTC model calls it `decoder`."""

    def __post_init__(self) -> None:
        if (self.predictor is None) != (self.joint is None):
            raise CheckpointError("a predictor needs a joint and the other way round")
        if self.predictor is None and not self.ctc:
            raise CheckpointError("the checkpoint has neither an RNN-T nor a CTC decoder")

    @property
    def frame_samples(self) -> int:
        """Samples per encoder frame (1,280 = 80 ms for the family)."""
        return self.preprocessor.hop_samples * self.encoder.subsampling_factor

    @property
    def frame_seconds(self) -> float:
        """Seconds per encoder frame."""
        return self.frame_samples / self.preprocessor.sample_rate

    @classmethod
    def from_nemo(cls, config: Section) -> Self:
        """Read a whole `model_config.yaml`.

        Raises:
            CheckpointError: a section is missing, malformed, or asks for what is not supported.
        """
        try:
            return cls._from_nemo(config)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"model_config.yaml is not a FastConformer's: {error!r}"
            ) from error

    @classmethod
    def _from_nemo(cls, config: Section) -> Self:
        preprocessor = PreprocessorConfig.from_nemo(config["preprocessor"])
        encoder = EncoderConfig.from_nemo(config["encoder"])
        prompt = PromptConfig.from_nemo(config, d_model=encoder.d_model)
        decoder: Section = config["decoder"]
        if "prednet" not in decoder:
            size = int(decoder["num_classes"])
            return cls(preprocessor, encoder, size, ctc=True, ctc_prefix="decoder", prompt=prompt)
        decoding: Section = config.get("decoding") or {}
        durations = tuple(int(frames) for frames in decoding.get("durations") or ())
        predictor = PredictorConfig.from_nemo(decoder)
        greedy: Section = decoding.get("greedy") or {}
        return cls(
            preprocessor,
            encoder,
            predictor.vocabulary_size,
            predictor=predictor,
            joint=JointConfig.from_nemo(config["joint"], durations=durations),
            ctc="aux_ctc" in config,
            max_symbols=int(greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or 10),
            prompt=prompt,
        )


def _require(section: Section, key: str, known: tuple[str, ...]) -> None:
    if section.get(key) not in known:
        raise CheckpointError(f"encoder.{key} is {section.get(key)!r}, not {' or '.join(known)}")


def _is_causal(section: Section) -> bool:
    size = section.get("conv_context_size")
    kernel = int(section.get("conv_kernel_size", 31))
    if size is None:
        return False
    if size == "causal":
        return True
    if list(size) == [kernel - 1, 0]:
        return True
    if list(size) == [(kernel - 1) // 2] * 2:
        return False
    raise CheckpointError(f"encoder.conv_context_size is {size!r}")


def _contexts(section: Section) -> tuple[AttentionContext, ...]:
    style = section.get("att_context_style", "regular")
    sizes: list[Any] = list(section.get("att_context_size") or [-1, -1])
    if sizes and not isinstance(sizes[0], (list, tuple)):
        sizes = [sizes]
    pairs = [(int(left), int(right)) for left, right in sizes]
    if all(pair == (-1, -1) for pair in pairs):
        return ()
    if style != "chunked_limited":
        raise CheckpointError(f"encoder.att_context_style is {style!r}, not 'chunked_limited'")
    for left, right in pairs:
        if left < 0 or right < 0 or left % (right + 1):
            raise CheckpointError(f"encoder.att_context_size has [{left}, {right}]")
    return tuple(AttentionContext(left, right) for left, right in pairs)
