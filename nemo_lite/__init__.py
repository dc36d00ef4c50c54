"""NVIDIA's FastConformer speech recognisers without NeMo: whole recordings and live streams.

```python
import nemo_lite

model = nemo_lite.load("nemotron-en")  # or a folder, or a .nemo file
print(model.transcribe("meeting.wav")[0].text)
```
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nemo_lite.config import (
        AttentionContext,
        EncoderConfig,
        ModelConfig,
        PreprocessorConfig,
    )
    from nemo_lite.conformer import EncoderCache, FastConformer
    from nemo_lite.errors import (
        CheckpointError,
        DownloadError,
        NemoLiteError,
        RecognitionError,
        ShapeError,
        StreamStateError,
        UnknownModelError,
        UnsupportedError,
    )
    from nemo_lite.features import AudioPreprocessor, MelStream
    from nemo_lite.model import Model, load
    from nemo_lite.registry import REGISTRY
    from nemo_lite.results import Marker, Transcript, Update, Word
    from nemo_lite.salm.model import CanaryQwen
    from nemo_lite.salm.requests import RequestBatch
    from nemo_lite.streaming import StreamBatch, StreamSnapshot
    from nemo_lite.tokenizer import Tokenizer

__all__ = [
    "REGISTRY",
    "AttentionContext",
    "AudioPreprocessor",
    "CanaryQwen",
    "CheckpointError",
    "DownloadError",
    "EncoderCache",
    "EncoderConfig",
    "FastConformer",
    "Marker",
    "MelStream",
    "Model",
    "ModelConfig",
    "NemoLiteError",
    "PreprocessorConfig",
    "RecognitionError",
    "RequestBatch",
    "ShapeError",
    "StreamBatch",
    "StreamSnapshot",
    "StreamStateError",
    "Tokenizer",
    "Transcript",
    "UnknownModelError",
    "UnsupportedError",
    "Update",
    "Word",
    "load",
]

_HOMES = {
    "config": ("AttentionContext", "EncoderConfig", "ModelConfig", "PreprocessorConfig"),
    "conformer": ("EncoderCache", "FastConformer"),
    "errors": (
        "CheckpointError",
        "DownloadError",
        "NemoLiteError",
        "RecognitionError",
        "ShapeError",
        "StreamStateError",
        "UnknownModelError",
        "UnsupportedError",
    ),
    "features": ("AudioPreprocessor", "MelStream"),
    "model": ("Model", "load"),
    "registry": ("REGISTRY",),
    "results": ("Marker", "Transcript", "Update", "Word"),
    "salm.model": ("CanaryQwen",),
    "salm.requests": ("RequestBatch",),
    "streaming": ("StreamBatch", "StreamSnapshot"),
    "tokenizer": ("Tokenizer",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load public names when they are first used: `import nemo_lite` does not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "yaml", "sentencepiece", "safetensors", "tokenizers"):
            raise ImportError(
                f"nemo_lite.{name} needs {error.name}: "
                "pip install torch safetensors sentencepiece tokenizers pyyaml"
            ) from error
        raise
