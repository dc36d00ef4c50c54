"""Canary-Qwen on the CPU with 8-bit weights: `nemo_lite_cpu`, the kernels in `conformer-rs/`."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nemo_lite.errors import UnsupportedError
from nemo_lite.salm.network import SalmNetwork

if TYPE_CHECKING:
    from nemo_lite_cpu import Linear


class Int8Linear(nn.Module):
    """Takes the place of `nn.Linear`: 8 bits per weight and, row by row, per input.

    To the bit, a row's result does not depend on the rows around it.
    """

    def __init__(self, packed: "Linear", outputs: int) -> None:
        super().__init__()
        self._packed = packed
        self._outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) float32 → (..., outputs) float32."""
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        out = x.new_empty(len(rows), self._outputs)
        if len(rows):
            self._packed(rows.numpy(), out.numpy())
        return out.view(*x.shape[:-1], self._outputs)


@torch.no_grad()
def quantise(network: SalmNetwork, *, threads: int) -> None:
    """Swap all linear layers for 8-bit ones, one at a time; the rest becomes float32.

    The embedding becomes bfloat16, which the published weights are anyway.

    Args:
        network: of any dtype, on the CPU; changed in place.
        threads: to compute on.

    Raises:
        UnsupportedError: `nemo_lite_cpu` is not installed or does not take `threads`, or the
            network is not on the CPU.
    """
    if network.device.type != "cpu":
        raise UnsupportedError(f"int8 runs on the CPU, not on {network.device.type}")
    if not 1 <= threads <= 256:
        raise UnsupportedError(f"{threads} threads are not within 1..256")
    try:
        from nemo_lite_cpu import Linear
    except ImportError as error:
        raise UnsupportedError("int8 needs the package nemo-lite-cpu (conformer-rs/)") from error
    first: Linear | None = None
    # Only parents: the list would keep alive what is replaced.
    for parent in [module for module in network.modules() if any(module.children())]:
        for name, module in list(parent.named_children()):
            if not (isinstance(module, nn.Linear) or _is_pointwise(module)):
                continue
            tensors = dict(module.named_parameters())
            weight = _array(tensors["weight"].flatten(1))
            bias = _array(tensors["bias"]) if "bias" in tensors else None
            packed = first.beside(weight, bias) if first else Linear(weight, bias, threads=threads)
            first = first or packed
            setattr(parent, name, Int8Linear(packed, len(weight)))
    _widen(network)
    # The kernels' threads and torch's would take the cores from each other.
    network.torch_threads = 1


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d) and module.kernel_size == (1,) and module.groups == 1


def _widen(network: SalmNetwork) -> None:
    table = network.embed_tokens.weight.detach().bfloat16()
    network.embed_tokens.weight = nn.Parameter(table[:0], requires_grad=False)
    network.float()
    network.embed_tokens.weight = nn.Parameter(table, requires_grad=False)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().numpy())
