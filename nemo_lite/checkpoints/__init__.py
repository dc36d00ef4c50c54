"""Checkpoints of every supported layout → configuration, weights by NeMo's names, tokenizer.

One file per layout. Building the network from a `Checkpoint` is not done here.
"""

from pathlib import Path

from nemo_lite.checkpoints.checkpoint import Checkpoint
from nemo_lite.checkpoints.documents import read_json
from nemo_lite.checkpoints.nemo_archive import read_nemo
from nemo_lite.checkpoints.safetensors_folder import read_safetensors_folder, save_folder
from nemo_lite.checkpoints.strict import load_strictly
from nemo_lite.checkpoints.transformers_folder import read_transformers_folder
from nemo_lite.errors import CheckpointError
from nemo_lite.tokenizer import Tokenizer

__all__ = ["Checkpoint", "load_strictly", "read_checkpoint", "save_folder"]


def read_checkpoint(path: Path | str, *, tokenizer: Tokenizer | None = None) -> Checkpoint:
    """Read a recogniser from disk, whichever layout it has.

    Layouts: a `.nemo` archive, also alone in a folder; a folder with `model.safetensors` and
    NeMo's configuration as `model_config.yaml` or `config.json`; a folder saved by `transformers`.
    Weights may be in shards. No code from the checkpoint runs, and nothing is extracted.

    Args:
        path: the archive or the folder.
        tokenizer: used instead of the checkpoint's own, which may then be missing. It must have as
            many pieces as the network.

    Raises:
        CheckpointError: it cannot be read, is damaged or hostile, or is of another kind of model;
            the message names `path`.
    """
    path = Path(path)
    try:
        return _read(path, tokenizer)
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read(path: Path, tokenizer: Tokenizer | None) -> Checkpoint:
    if path.is_file():
        return read_nemo(path, tokenizer=tokenizer)
    if not path.is_dir():
        raise CheckpointError("no such file or folder")
    if any(path.glob("model*.safetensors")):
        if (path / "model_config.yaml").is_file():
            return read_safetensors_folder(path, tokenizer=tokenizer)
        kind = read_json(path / "config.json").get("model_type")
        if kind == "nemo_speechlm":
            raise CheckpointError("config.json is that of a Canary-Qwen: use CanaryQwen.load")
        if kind is not None:
            return read_transformers_folder(path, tokenizer=tokenizer)
        return read_safetensors_folder(path, tokenizer=tokenizer)
    archives = list(path.glob("*.nemo"))
    if len(archives) == 1:
        return read_checkpoint(archives[0], tokenizer=tokenizer)
    raise CheckpointError("the folder has neither model.safetensors nor exactly one .nemo file")
