"""The devices and number formats a model may compute in."""

from typing import Literal

import torch

from nemo_lite.errors import UnsupportedError

DtypeName = Literal["float32", "bfloat16", "float16", "int8"]


def check_format(
    device: torch.device,
    dtype: torch.dtype | str | None,
    *,
    kinds: tuple[str, ...] = ("cpu", "cuda"),
) -> None:
    """Refuse what this machine cannot do, before anything is downloaded or read.

    Args:
        device: where the model is to run.
        dtype: what it is to compute in; None = float32.
        kinds: of devices the model was written for.

    Raises:
        UnsupportedError: no such device here, or no such number format there.
    """
    if device.type not in kinds:
        raise UnsupportedError(f"device {device} is none of {', '.join(kinds)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("there is no CUDA device")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnsupportedError("there is no MPS device")
    if device.type == "mps" and dtype in ("bfloat16", torch.bfloat16):
        raise UnsupportedError("MPS computes in float32 and float16 alone")
    if dtype != "int8":
        torch_dtype(dtype)
    elif device.type != "cpu":
        raise UnsupportedError(f"int8 runs on the CPU, not on {device}")


def torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """The format as torch names it; None = float32.

    Raises:
        UnsupportedError: it is none that models compute in.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype or torch.float32
    if kind not in (torch.float32, torch.bfloat16, torch.float16):
        raise UnsupportedError(f"dtype {dtype} is not float32, bfloat16, float16 or int8")
    return kind
