"""The devices and number formats a model may compute in."""

from typing import Literal

import torch

from nemo_lite.errors import UnsupportedError

DtypeName = Literal["float32", "bfloat16", "float16", "int8"]


def check_format(device: torch.device, dtype: torch.dtype | str | None) -> None:
    """Refuse what this machine cannot do, before anything is downloaded or read.

    Raises:
        UnsupportedError: no such device here, or no such number format there.
    """
    if device.type not in ("cpu", "cuda"):
        raise UnsupportedError(f"device {device} is neither cpu nor cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("there is no CUDA device")
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
