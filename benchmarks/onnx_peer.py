"""The encoder's step exported to ONNX and quantised, behind the interface of a `ChunkEncoder`.

The export is kinder to ONNX Runtime than the usual one, which caches the inputs of the attention
and projects them again in every step: its caches hold projected keys and values, and the relative
positions are inputs that are computed once. Weights are 8-bit per output, activations 8-bit per
step; attention and convolutions are float32.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from report import machine
from streaming_runs import Unavailable
from torch import Tensor, nn

from nemo_lite import FastConformer
from nemo_lite.chunk_encoder import Chunk
from nemo_lite.config import AttentionContext
from nemo_lite.conformer.layer import ConformerLayer

Array = NDArray[np.float32]


class OnnxChunkEncoder:
    """All slots in every step, in order, and all of the same age."""

    snapshot_type = tuple

    def __init__(self, session: Any, encoder: FastConformer, slots: int) -> None:
        """Use a session of `quantised_session` for `slots` streams."""
        self._session, self._encoder, self._slots = session, encoder, slots
        self._state = _arrays(encoder, slots)
        self._next_state = _arrays(encoder, slots)
        self._frames = np.zeros(slots, np.int64)
        self._positions: dict[AttentionContext, list[Array]] = {}

    def encode(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Encode one step of all streams."""
        (chunk,) = chunks
        assert len(chunk.slots) == self._slots
        context = chunk.context
        if context not in self._positions:
            projected = self._encoder.positions(context, context.chunk_frames)
            self._positions[context] = [tensor.numpy() for tensor in projected]
        width = self._encoder.config.d_model
        x = np.empty((self._slots, chunk.frames, width), np.float32)
        mel = np.ascontiguousarray(chunk.mel.numpy())
        inputs = [mel, self._hidden(chunk), *self._positions[context], *self._state]
        self._run(inputs, [x, *self._next_state])
        self._state, self._next_state = self._next_state, self._state
        self._frames += chunk.frames
        return [torch.from_numpy(x)]

    def _run(self, inputs: list[Array], outputs: list[Array]) -> None:
        """Run with the outputs in their places: new ones would cost more than some steps."""
        binding = self._session.io_binding()
        for node, array in zip(self._session.get_inputs(), inputs, strict=True):
            binding.bind_cpu_input(node.name, array)
        for node, array in zip(self._session.get_outputs(), outputs, strict=True):
            place = array.ctypes.data
            binding.bind_output(node.name, "cpu", 0, np.float32, array.shape, place)
        self._session.run_with_iobinding(binding)

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        self._frames[slot] = 0
        for array in self._state:
            array[slot] = 0.0

    def save(self, slot: int) -> object:
        """Copy a slot's caches."""
        return int(self._frames[slot]), [array[slot].copy() for array in self._state]

    def load(self, slot: int, snapshot: Any) -> None:
        """Put a copy that `save` made into a slot."""
        self._frames[slot], rows = snapshot
        for array, row in zip(self._state, rows, strict=True):
            array[slot] = row

    def _hidden(self, chunk: Chunk) -> Array:
        """(B, 1, 1, K) what is added to the scores: keys from before the stream are hidden."""
        left, width = chunk.context.left, chunk.frames
        age = np.arange(left, -width, -1)
        return np.where(age[None] <= self._frames[:, None], 0.0, -1e9).astype(np.float32)[
            :, None, None
        ]


class ExportedStep(nn.Module):
    """One step as a function of everything it needs: tensors in, tensors out."""

    def __init__(self, encoder: FastConformer) -> None:
        super().__init__()
        self.encoder = encoder
        self._layers: list[ConformerLayer] = list(encoder.layers)  # type: ignore[arg-type]

    def forward(
        self, mel: Tensor, hidden: Tensor, positions: list[Tensor], state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """(B, n_mels, 8 T) mel → (B, T, D), and the next step's state."""
        stages = len(self.encoder.pre_encode.cached_shapes)
        cached = state[:stages]
        x = self.encoder.pre_encode.advance(mel, cached, None) * self.encoder.input_scale
        after = [*cached]
        for index, layer in enumerate(self._layers):
            caches = state[stages + 3 * index : stages + 3 * index + 3]
            x, new = _advance(layer, x, hidden, positions[index], caches)
            after += new
        return x, after


def quantised_session(encoder: FastConformer, threads: int) -> Any:
    """Export, quantise and load an encoder.

    Raises:
        Unavailable: a package that this needs is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would take the cores from the front end and the decoder after each step.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        exported, quantised = Path(folder) / "step.onnx", Path(folder) / "int8.onnx"
        _export(encoder, exported)
        quantize_dynamic(
            exported,
            quantised,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            # Without VNNI the kernels add pairs of products in 16 bits, which overflow otherwise.
            reduce_range="vnni" not in machine(),
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
        return onnxruntime.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])


def _arrays(encoder: FastConformer, slots: int) -> list[Array]:
    return [tensor.numpy() for tensor in _empty_state(encoder, slots)]


def _empty_state(encoder: FastConformer, batch: int) -> list[Tensor]:
    """Empty caches: one frame per subsampling stage; keys, values, convolution per layer."""
    config = encoder.config
    left = max(context.left for context in config.contexts)
    shapes = [(channels, 1, bins) for channels, bins in encoder.pre_encode.cached_shapes]
    per_layer = [(left, config.d_model)] * 2 + [(config.d_model, config.conv_kernel - 1)]
    shapes += per_layer * config.layers
    return [torch.zeros(batch, *shape) for shape in shapes]


def _export(encoder: FastConformer, path: Path) -> None:
    batch, frames, context = 2, 3, encoder.config.contexts[0]
    arguments = (
        torch.zeros(batch, encoder.config.n_mels, 8 * frames),
        torch.zeros(batch, 1, 1, context.left + frames),
        encoder.positions(context, frames),
        _empty_state(encoder, batch),
    )
    count = len(arguments[2])
    positions = [f"positions.{index}" for index in range(count)]
    state = [f"state.{index}" for index in range(len(arguments[3]))]
    after = [f"after.{index}" for index in range(len(arguments[3]))]
    axes = {"mel": {0: "B", 2: "M"}, "hidden": {0: "B", 3: "K"}, "x": {0: "B", 1: "T"}}
    axes |= {name: {2: "P"} for name in positions} | {name: {0: "B"} for name in state + after}
    with torch.no_grad():
        torch.onnx.export(
            ExportedStep(encoder).eval(),
            arguments,
            str(path),
            dynamo=False,
            input_names=["mel", "hidden", *positions, *state],
            output_names=["x", *after],
            dynamic_axes=axes,
        )


def _advance(
    layer: ConformerLayer, x: Tensor, hidden: Tensor, positions: Tensor, caches: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """`ConformerLayer.advance` of streams that go on, with operators that ONNX has."""
    x = x + 0.5 * layer.feed_forward1(layer.norm_feed_forward1(x))
    normed = layer.norm_self_att(x)
    left = caches[0].shape[1]
    keys = torch.cat((caches[0], layer.self_attn.linear_k(normed)), dim=1)
    values = torch.cat((caches[1], layer.self_attn.linear_v(normed)), dim=1)
    x = x + _attend(layer, normed, keys, values, positions, hidden)
    conv = layer.conv
    gated = F.glu(_pointwise(conv.pointwise_conv1, layer.norm_conv(x)), dim=-1).transpose(1, 2)
    extended = torch.cat((caches[2], gated), dim=2)
    mixed = F.silu(conv.batch_norm(conv.depthwise_conv(extended).transpose(1, 2)))
    x = x + _pointwise(conv.pointwise_conv2, mixed)
    x = x + 0.5 * layer.feed_forward2(layer.norm_feed_forward2(x))
    kept = extended[:, :, -caches[2].shape[2] :]
    return layer.norm_out(x), [keys[:, -left:], values[:, -left:], kept]


def _attend(
    layer: ConformerLayer,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    hidden: Tensor,
) -> Tensor:
    attention = layer.self_attn
    heads, size = attention.pos_bias_u.shape

    def split(tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (heads, size)).transpose(1, 2)

    q = split(attention.linear_q(x))
    content = (q + attention.pos_bias_u[:, None]) @ split(keys).transpose(2, 3)
    distance = (q + attention.pos_bias_v[:, None]) @ positions
    # Row i starts T - 1 - i columns further left: shift by padding and reshaping.
    queries, columns = distance.shape[2:]
    shifted = F.pad(distance, (1, 0)).flatten(2)[:, :, queries:]
    shifted = shifted.reshape(-1, heads, queries, columns)[..., : keys.shape[1]]
    weights = ((content + shifted) * size**-0.5 + hidden).softmax(-1)
    return attention.linear_out((weights @ split(values)).transpose(1, 2).flatten(2))


def _pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    return F.linear(x, conv.weight[:, :, 0], conv.bias)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and the quantiser warn of what does not matter here."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
