"""Which device and number format a torch model gets here."""

import importlib.util

import torch

from nemo_lite.number_formats import DtypeName
from stt_server.engine.base import EngineUnavailable
from stt_server.settings import Dtype


def choose_device(wanted: str) -> torch.device:
    """The device of that name; `auto` is a GPU of CUDA where there is one, else the CPU.

    Raises:
        EngineUnavailable: this machine does not have it.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "torch sees no GPU" if torch.version.cuda else "this torch is built without CUDA"
        raise EngineUnavailable(f"--device {wanted}: {why}; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise EngineUnavailable(f"--device {wanted}: GPUs here are cuda:0 to cuda:{count - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise EngineUnavailable("--device mps: this machine has none; use --device cpu or auto")
    return device


def choose_devices(wanted: str) -> list[torch.device]:
    """All devices of that name: `auto` and `cuda` are every GPU of CUDA there is.

    Raises:
        EngineUnavailable: this machine has none.
    """
    chosen = choose_device(wanted)
    if str(chosen) == "cuda":
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [chosen]


def choose_dtype(wanted: Dtype, device: torch.device) -> DtypeName:
    """What the network computes in: `auto` takes what is fast on the device without other words.

    On the CPU that is int8 where its kernels are installed; bfloat16 is emulated on most.
    """
    if wanted is not Dtype.AUTO:
        return wanted.value
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and importlib.util.find_spec("nemo_lite_cpu") is not None:
        return "int8"
    return "float32"


def check_memory(model: str, *, needed: float, free: float) -> None:
    """Refuse what does not fit, before minutes of loading end in a killed process.

    Raises:
        EngineUnavailable: `needed` bytes are more than `free`.
    """
    if needed > free:
        raise EngineUnavailable(
            f"{model} needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: "
            "take --dtype int8 (on the CPU), fewer streams or slots, or another --device"
        )
