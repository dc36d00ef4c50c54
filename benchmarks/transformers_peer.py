"""`transformers`' own streaming classes as a contender: stock, and without needless work."""

import time
from typing import Any

import torch
from streaming_runs import LEFT_FRAMES, RATE, Audio, Plan, Run, Token, Unavailable
from torch import Tensor, nn

from nemo_lite.checkpoints.key_maps import to_transformers
from nemo_lite.network import Network

_HOP = 160
_FIRST_MEL = 8 * (LEFT_FRAMES - 1) + 1
"""Mel frames of the first chunk, which fills the caches."""


class TransformersStreams:
    """`NemotronAsrStreamingForRNNT` and its feature extractor, a chunk of every stream at a time.

    Chunks are encoded and symbols predicted by the same calls as in its `generate`. The loop around
    them is not `generate`'s, which gives a batch up as soon as one of its streams has used up a
    chunk before the others have. All streams must have the same age.
    """

    def __init__(self, network: Network, *, hoisted: bool = False) -> None:
        """Share the network's weights.

        Args:
            network: float32.
            hoisted: compute the relative positions and their projections, which depend on weights
                alone, once and not in every step.

        Raises:
            Unavailable: the package is not installed, or does not know this kind of model.
        """
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise Unavailable("transformers is not installed") from error
        if network.config.predictor is None or network.config.prompt is not None:
            raise Unavailable("the streaming class of transformers is RNN-T without prompts")
        self._model = _convert(network)
        self._features = _feature_extractor(network)
        if hoisted:
            _hoist(self._model)

    @torch.inference_mode()
    def run(self, plan: Plan, audio: Audio) -> Run:
        """Fill the caches with one long chunk, then measure features, encoder and decoder."""
        start = audio.samples(0, 0, (_FIRST_MEL - 1) * _HOP + 200)
        mel = self._mel([start] * plan.batch, center=True)[:, :_FIRST_MEL]
        streams = _Streams(self._model, plan)
        streams.decode(streams.encode(mel))
        width, mel_frame, steps_s = 8 * plan.chunk_frames, _FIRST_MEL, list[float]()
        began = time.perf_counter()
        while plan.goes_on(len(steps_s), began):
            at, count = _HOP * mel_frame - 256, width * _HOP + 400
            packets = [audio.samples(stream, at, count) for stream in range(plan.batch)]
            mel_frame += width
            step_began = time.perf_counter()
            streams.decode(streams.encode(self._mel(packets, center=False)))
            steps_s.append(time.perf_counter() - step_began)
        return Run(
            plan,
            steps_s[1:],
            streams.encoder_s[2:],  # the first filled the caches
            torch.cat(streams.encoded),
            streams.tokens,
        )

    def _mel(self, packets: list[Any], *, center: bool) -> Tensor:
        features = self._features(packets, sampling_rate=RATE, center=center, return_tensors="pt")
        return features["input_features"]


class _Streams:
    """The state of a batch of streams, and what is noted of stream 0."""

    def __init__(self, model: Any, plan: Plan) -> None:
        from transformers.models.nemotron_asr_streaming import (
            generation_nemotron_asr_streaming,
            modeling_nemotron_asr_streaming,
        )

        self._model, self._plan = model, plan
        self._blank = model.config.blank_token_id
        self._keys: Any = None
        self._padding: Any = None
        self._output = modeling_nemotron_asr_streaming.NemotronAsrStreamingEncoderModelOutput
        cache = generation_nemotron_asr_streaming.NemotronAsrStreamingRNNTDecoderCache
        self._predictor = cache(model.config)
        self._symbols = torch.full((plan.batch, 1), self._blank)
        self._frames = 0
        self.encoder_s: list[float] = []
        self.encoded: list[Tensor] = []
        self.tokens: list[Token] = []

    def encode(self, mel: Tensor) -> Tensor:
        """(B, T', n_mels) → (B, T, J), encoded and projected for the joint network."""
        began = time.perf_counter()
        output = self._model.get_audio_features(
            input_features=mel,
            past_key_values=self._keys,
            padding_cache=self._padding,
            num_lookahead_tokens=self._plan.lookahead,
            use_cache=True,
            output_attention_mask=False,
        )
        self.encoder_s.append(time.perf_counter() - began)
        self._keys, self._padding = output.past_key_values, output.padding_cache
        self.encoded.append(output.last_hidden_state[0].clone())
        return output.pooler_output

    def decode(self, projected: Tensor) -> None:
        """One symbol per stream and iteration, as `generate`; a stream that is done gets blanks."""
        frames, rows = projected.shape[1], torch.arange(len(projected))
        at = torch.zeros_like(rows)
        emitted = torch.zeros_like(rows)
        while bool((at < frames).any()):
            frame = projected[rows, at.clamp(max=frames - 1), None]
            logits = self._model(
                decoder_input_ids=self._symbols,
                decoder_cache=self._predictor,
                encoder_outputs=self._output(pooler_output=frame),
            ).logits
            symbols = logits[:, -1].argmax(-1).where(at < frames, self._blank)
            if symbols[0] != self._blank:
                self.tokens.append((self._frames + int(at[0]), int(symbols[0])))
            emitted = (emitted + 1) * (symbols != self._blank)
            passed = (symbols == self._blank) | (emitted >= self._model.max_symbols_per_step)
            emitted *= ~passed
            at += passed
            self._symbols = symbols[:, None]
        self._frames += frames


class _Once(nn.Module):
    """A module of (B, P, ...) inputs of which only the shape matters, computed once per shape."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module
        self._known: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor, cached_frames: int = 0) -> Tensor:
        key = (x.shape[0], x.shape[1] + cached_frames)
        if key not in self._known:
            # One shape is in use at a time, and each costs memory.
            self._known = {key: self._module(x, *([cached_frames] if cached_frames else []))}
        return self._known[key]


def _hoist(model: Any) -> None:
    encoder = model.encoder
    encoder.encode_positions = _Once(encoder.encode_positions)
    for layer in encoder.layers:
        layer.self_attn.relative_k_proj = _Once(layer.self_attn.relative_k_proj)


def _convert(network: Network) -> Any:
    """The same network as a `transformers` model; the parameters are shared."""
    from transformers import NemotronAsrStreamingForRNNT

    config = _config(network)
    with torch.device("meta"):
        model = NemotronAsrStreamingForRNNT(config)
    state = {
        to_transformers(name, streaming=True): tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(("preprocessor.", "ctc_decoder."))
    }
    model.load_state_dict(state, assign=True)
    positions = model.encoder.encode_positions
    positions.inv_freq = positions.compute_default_relative_positional_parameters(
        config.encoder_config
    )
    return model.eval()


def _config(network: Network) -> Any:
    from transformers import NemotronAsrStreamingConfig, NemotronAsrStreamingEncoderConfig

    encoder, predictor = network.config.encoder, network.config.predictor
    assert predictor is not None
    context = encoder.contexts[0]
    return NemotronAsrStreamingConfig(
        vocab_size=predictor.vocabulary_size + 1,
        blank_token_id=predictor.vocabulary_size,
        decoder_hidden_size=predictor.hidden,
        num_decoder_layers=predictor.layers,
        max_symbols_per_step=network.config.max_symbols,
        encoder_config=NemotronAsrStreamingEncoderConfig(
            hidden_size=encoder.d_model,
            num_hidden_layers=encoder.layers,
            num_attention_heads=encoder.heads,
            intermediate_size=encoder.ff_size,
            attention_bias=encoder.use_bias,
            convolution_bias=encoder.use_bias,
            conv_kernel_size=encoder.conv_kernel,
            subsampling_factor=encoder.subsampling_factor,
            subsampling_conv_channels=encoder.subsampling_channels,
            num_mel_bins=encoder.n_mels,
            scale_input=encoder.xscaling,
            sliding_window=context.left + 1,
            default_num_lookahead_tokens=context.right,
        ).to_dict(),
    )


def _feature_extractor(network: Network) -> Any:
    from transformers import NemotronAsrStreamingFeatureExtractor

    return NemotronAsrStreamingFeatureExtractor(feature_size=network.config.encoder.n_mels)
