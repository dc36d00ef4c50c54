"""What a device can do at best, and the time that a step of the model takes at that rate."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nemo_lite.config import AttentionContext
from nemo_lite.network import Network


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates measured with one large operation each."""

    bytes_per_s: float
    """Read and written by a copy within the device's memory."""
    flops_per_s: float
    """Of a product of two square matrices; a multiplication and an addition are two."""


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """Measure both rates now."""
    large = device.type == "cuda"
    source = torch.ones(2**30 if large else 2**23, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy_s = _seconds(lambda: target.copy_(source))
    size = 8192 if large else 512
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product_s = _seconds(lambda: left @ right)
    return Limits(2 * source.nbytes / copy_s, 2 * size**3 / product_s)


def floor_s(
    network: Network, context: AttentionContext, batch: int, limits: Limits
) -> tuple[float, str]:
    """The least a step of `batch` streams can take, and what limits it: "memory" or "matrix".

    Memory: every weight is read once; of every stream the keys and values are read once and the
    new ones written, the other caches read and written. Matrix: the products of the encoder.
    """
    frames = context.chunk_frames
    cache = network.encoder.new_cache(1)
    attended = (cache.keys.nbytes + cache.values.nbytes) * context.left / cache.left
    others = cache.conv.nbytes + sum(tensor.nbytes for tensor in cache.subsampling)
    per_stream = attended * (1 + frames / context.left) + 2 * others
    weights = sum(parameter.nbytes for parameter in network.parameters())
    embedding = network.decoder.prediction.embed.weight.nbytes
    memory_s = (weights - embedding + batch * per_stream) / limits.bytes_per_s
    matrix_s = batch * encoder_flops(network, context) / limits.flops_per_s
    return max((memory_s, "memory"), (matrix_s, "matrix"))


# Not in inference mode, where the counter sees layers instead of the products in them.
@torch.no_grad()
def encoder_flops(network: Network, context: AttentionContext) -> int:
    """Of one step of one stream, counted by torch."""
    encoder, device = network.encoder, network.device
    cache, frames = encoder.new_cache(1), context.chunk_frames
    factor = encoder.pre_encode.factor
    mel = torch.zeros(1, encoder.config.n_mels, factor * frames, device=device, dtype=network.dtype)
    slots = torch.zeros(1, dtype=torch.int64, device=device)
    positions = encoder.positions(context, frames)
    with FlopCounterMode(display=False) as counter:
        x = encoder.subsample(mel, cache, slots, None)
        encoder.advance(x, slots + frames, cache, slots, context, positions)
    return counter.get_total_flops()


def _seconds(operation: Callable[[], Tensor], *, repeats: int = 10) -> float:
    """Of one run, the mean of several under way at once."""
    for _ in range(3):
        operation()
    _finish()
    began = time.perf_counter()
    for _ in range(repeats):
        operation()
    _finish()
    return (time.perf_counter() - began) / repeats


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
