"""A plain float32 rendering of the layers: one stream, its whole history, no caches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Layer = dict[str, Floats]
Linear = Callable[[Layer, str, Floats], Floats]


@dataclass(frozen=True)
class Sizes:
    """What an encoder is made of."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    expansion: int = 4
    taps: int = 9
    left: int = 6
    max_chunk: int = 3
    bias: bool = True


def random_layers(sizes: Sizes, seed: int = 0) -> list[Layer]:
    """Weights of about the spread that trained ones have."""
    random = np.random.default_rng(seed)
    return [_random_layer(sizes, random) for _ in range(sizes.layers)]


def _random_layer(sizes: Sizes, random: np.random.Generator) -> Layer:
    width, dk = sizes.width, sizes.width // sizes.heads
    layer: Layer = {}

    def normal(*shape: int, scale: float) -> Floats:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def linear(name: str, *shape: int) -> None:
        layer[f"{name}.weight"] = normal(*shape, scale=1 / np.sqrt(np.prod(shape[1:])))
        if sizes.bias:
            layer[f"{name}.bias"] = normal(shape[0], scale=0.1)

    for name in ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2"):
        layer[f"{name}.weight"] = 1 + normal(width, scale=0.2)
        layer[f"{name}.bias"] = normal(width, scale=0.1)
    for name in ("norm_out", "conv.batch_norm"):
        layer[f"{name}.weight"] = 1 + normal(width, scale=0.2)
        layer[f"{name}.bias"] = normal(width, scale=0.1)
    for name in ("feed_forward1", "feed_forward2"):
        linear(f"{name}.linear1", width * sizes.expansion, width)
        linear(f"{name}.linear2", width, width * sizes.expansion)
    for name in ("q", "k", "v", "out"):
        linear(f"self_attn.linear_{name}", width, width)
    layer["self_attn.pos_bias_u"] = normal(sizes.heads, dk, scale=0.3)
    layer["self_attn.pos_bias_v"] = normal(sizes.heads, dk, scale=0.3)
    layer["positions"] = normal(sizes.left + 2 * sizes.max_chunk - 1, width, scale=0.5)
    linear("conv.pointwise_conv1", 2 * width, width, 1)
    linear("conv.depthwise_conv", width, 1, sizes.taps)
    linear("conv.pointwise_conv2", width, width, 1)
    return layer


def encode(
    sizes: Sizes,
    layers: list[Layer],
    x: Floats,
    chunks: list[int],
    left: int,
    *,
    quantised: bool = False,
) -> Floats:
    """(T, D) frames of one stream, cut into `chunks`, through all layers.

    `quantised` rounds weights, activations and what attention keeps as the kernels do, so that
    little is left.
    """
    linear = _quantised_linear if quantised else _linear
    starts = np.repeat(np.cumsum([0, *chunks[:-1]]), chunks)
    ends = np.repeat(np.cumsum(chunks), chunks)
    for layer in layers:
        x = x + 0.5 * _feed_forward(linear, layer, "feed_forward1", x)
        x = x + _attention(sizes, linear, layer, x, starts - left, ends)
        x = x + _convolution(linear, layer, x)
        x = x + 0.5 * _feed_forward(linear, layer, "feed_forward2", x)
        x = _norm(layer, "norm_out", x)
    return x


def _norm(layer: Layer, name: str, x: Floats) -> Floats:
    x = x - x.mean(axis=1, keepdims=True)
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
    return x * layer[f"{name}.weight"] + layer[f"{name}.bias"]


def _linear(layer: Layer, name: str, x: Floats) -> Floats:
    weight = layer[f"{name}.weight"]
    return x @ weight.reshape(weight.shape[:2]).T + layer.get(f"{name}.bias", np.float32(0))


def _quantised_linear(layer: Layer, name: str, x: Floats) -> Floats:
    weight = layer[f"{name}.weight"]
    weight = weight.reshape(weight.shape[:2])
    step = np.abs(weight).max(axis=1, keepdims=True) / 127
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    scale = ((high - low) / 255)[:, None]
    zero = np.round(-low[:, None] / scale)
    rounded = np.clip(np.round(x / scale + zero), 0, 255) - zero
    y = (rounded @ np.round(weight / step).T) * scale * step.T
    return y + layer.get(f"{name}.bias", np.float32(0))


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _feed_forward(linear: Linear, layer: Layer, name: str, x: Floats) -> Floats:
    hidden = linear(layer, f"{name}.linear1", _norm(layer, f"norm_{name}", x))
    return linear(layer, f"{name}.linear2", hidden * _sigmoid(hidden))


def _attention(
    sizes: Sizes,
    linear: Linear,
    layer: Layer,
    x: Floats,
    first: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
) -> Floats:
    normed = _norm(layer, "norm_self_att", x)
    heads = (len(x), sizes.heads, x.shape[1] // sizes.heads)
    q, k, v = (linear(layer, f"self_attn.linear_{n}", normed).reshape(heads) for n in "qkv")
    table = layer["positions"]
    if linear is _quantised_linear:
        k, v, table = (a.astype(np.float16).astype(np.float32) for a in (k, v, table))
    times = np.arange(len(x))
    origin = sizes.left + sizes.max_chunk - 1
    distance = np.clip(times[:, None] - times[None, :], 1 - sizes.max_chunk, origin)
    positions = table.reshape(-1, *heads[1:])[origin - distance]  # (T, T, H, dk)
    scores = np.einsum("thd,shd->hts", q + layer["self_attn.pos_bias_u"], k)
    scores += np.einsum("thd,tshd->hts", q + layer["self_attn.pos_bias_v"], positions)
    scores /= np.sqrt(np.float32(q.shape[2]))
    seen = (times[None, :] >= first[:, None]) & (times[None, :] < end[:, None])
    scores = np.where(seen, scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    mixed = np.einsum("hts,shd->thd", weights, v).reshape(len(x), -1)
    return linear(layer, "self_attn.linear_out", mixed)


def _convolution(linear: Linear, layer: Layer, x: Floats) -> Floats:
    gated = linear(layer, "conv.pointwise_conv1", _norm(layer, "norm_conv", x))
    half = gated.shape[1] // 2
    gated = gated[:, :half] * _sigmoid(gated[:, half:])
    weight = layer["conv.depthwise_conv.weight"][:, 0]  # (D, k)
    padded = np.pad(gated, ((weight.shape[1] - 1, 0), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[1], axis=0)
    y = (windows * weight).sum(axis=2) + layer.get("conv.depthwise_conv.bias", np.float32(0))
    y = _norm(layer, "conv.batch_norm", y.astype(np.float32))
    return linear(layer, "conv.pointwise_conv2", y * _sigmoid(y))
