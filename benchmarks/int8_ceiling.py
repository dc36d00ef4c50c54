"""What the machine permits: all linear layers of an encoder with the fastest 8-bit kernel at hand.

Nothing else is computed: no attention, norm, convolution or cache. Every layer has weights of its
own, so that they come from memory as in a real step.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nemo_lite import FastConformer

Multiply = Callable[[Tensor], object]
Kernel = Callable[[Tensor], Multiply]
"""(N, K) float32 weights → a function of (M, K) float32 activations."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The least time of all linear layers, and whose it is."""

    kernel: str
    seconds: float


def linear_weights(encoder: FastConformer) -> Iterator[Tensor]:
    """(N, K) weights of everything that a step multiplies every frame with."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("linear_pos"):
            yield module.weight.detach()
        if isinstance(module, nn.Conv1d) and module.kernel_size == (1,):
            yield module.weight.detach()[:, :, 0]


def int8_gflop(encoder: FastConformer) -> float:
    """Billions of multiplications and additions per encoder frame."""
    return 2e-9 * sum(weight.numel() for weight in linear_weights(encoder))


@torch.inference_mode()
def ceilings(
    encoder: FastConformer, rows: Iterable[int], *, threads: int, repeats: int = 5
) -> dict[int, Ceiling]:
    """Per number of rows (batch × frames) the fastest kernel's time."""
    found: dict[int, Ceiling] = {}
    for name, kernel in _kernels(threads).items():
        layers = [(weight.shape[1], kernel(weight)) for weight in linear_weights(encoder)]
        for count in rows:
            seconds = _time(layers, count, repeats)
            if count not in found or seconds < found[count].seconds:
                found[count] = Ceiling(name, seconds)
    return found


def _time(layers: list[tuple[int, Multiply]], rows: int, repeats: int) -> float:
    """The median of a few passes."""
    inputs = {width: torch.randn(rows, width) for width, _ in layers}
    seconds: list[float] = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        for width, multiply in layers:
            multiply(inputs[width])
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


def _kernels(threads: int) -> Mapping[str, Kernel]:
    kernels: dict[str, Kernel] = {}
    for engine, name in (("fbgemm", "FBGEMM"), ("onednn", "oneDNN")):
        if engine in torch.backends.quantized.supported_engines:
            kernels[name] = lambda weight, engine=engine: _torch_linear(weight, engine)
    try:
        from nemo_lite_cpu import Linear
    except ImportError:
        return kernels

    def packed(weight: Tensor) -> Multiply:
        linear = Linear(np.ascontiguousarray(weight.numpy()), threads=threads)
        return lambda x: linear(x.numpy())

    return {**kernels, "nemo_lite_cpu": packed}


def _torch_linear(weight: Tensor, engine: str) -> Multiply:
    """PyTorch's dynamically quantised linear layer, weights per output."""
    torch.backends.quantized.engine = engine
    scales = weight.abs().amax(1).clamp(min=1e-9).double() / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tensor type is being replaced, the kernel is not
        quantised = torch.quantize_per_channel(
            weight.contiguous(), scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
        )
        packed = torch.ops.quantized.linear_prepack(quantised, None)

    def multiply(x: Tensor) -> Tensor:
        # Without VNNI the sums of pairs must fit into 16 bits.
        return torch.ops.quantized.linear_dynamic(x, packed, True)

    return multiply
