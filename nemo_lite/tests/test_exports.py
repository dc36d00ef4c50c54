"""The public names, and what must not be imported to have them."""

import subprocess
import sys

import pytest

import nemo_lite

PUBLIC = [
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


def run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_public_names_are_these_and_all_exist() -> None:
    assert nemo_lite.__all__ == PUBLIC
    assert all(getattr(nemo_lite, name).__doc__ for name in PUBLIC)


def test_importing_the_package_its_registry_and_hub_imports_no_torch() -> None:
    code = (
        "import sys, nemo_lite; from nemo_lite import registry, hub; nemo_lite.REGISTRY\n"
        "print(*(name for name in ('torch', 'transformers', 'numpy') if name in sys.modules))"
    )
    assert run(code) == []


def test_loading_a_model_needs_no_transformers() -> None:
    code = (
        "import sys, nemo_lite; nemo_lite.load; nemo_lite.CanaryQwen\n"
        "print(*(name for name in ('transformers', 'peft', 'librosa', 'huggingface_hub') "
        "if name in sys.modules))"
    )
    assert run(code) == []


def test_a_missing_torch_is_explained() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import nemo_lite\n"
        "try: nemo_lite.load\n"
        "except ImportError as error: print(error)"
    )
    assert "needs torch: pip install torch safetensors" in " ".join(run(code))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        nemo_lite.Nothing  # type: ignore[attr-defined]  # noqa: B018
