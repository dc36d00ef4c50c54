"""The language model that a Canary-Qwen checkpoint builds upon: its configuration and tokenizer.

The checkpoint has its weights but not always these files, and then names where they come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_lite import hub
from nemo_lite.checkpoints.documents import MAX_TOKENIZER_BYTES, read_file, read_json
from nemo_lite.errors import CheckpointError, DownloadError, UnknownModelError
from nemo_lite.listing import is_repository
from nemo_lite.salm.config import Qwen3Config
from nemo_lite.salm.tokenizer import SalmTokenizer

INSIDE = "llm_backbone"
"""The folder for these files within a checkpoint."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What is read of it."""

    config: Qwen3Config
    tokenizer: SalmTokenizer


def find_base_model(
    folder: Path,
    name: str,
    *,
    given: str | Path | None = None,
    fetch: Callable[[str], Path] = hub.base_model,
) -> Path:
    """The folder with the base model's files.

    Args:
        folder: the checkpoint's.
        name: what the checkpoint calls its base model, not trusted: a folder within `folder`, or a
            hub id.
        given: a folder or hub id to use instead.
        fetch: brings the files of a hub id here.

    Raises:
        CheckpointError: the files are not in the checkpoint, and it names no hub id.
        DownloadError: they are not on this machine and cannot be fetched.
        UnknownModelError: `given` is neither a folder nor a hub id.
    """
    if given is not None:
        path = Path(given).expanduser()
        if path.is_dir():
            return path
        if isinstance(given, Path) or not is_repository(given):
            raise UnknownModelError(f"base_model is {str(given)!r}, no folder and no hub id")
        return fetch(given)
    for inside in (INSIDE, name):
        path = (folder / inside).resolve()
        if path.is_relative_to(folder.resolve()) and (path / "tokenizer.json").is_file():
            return path
    how = f"copy config.json and tokenizer.json of its language model to {folder / INSIDE}, or "
    how += "give their folder as base_model"
    if not is_repository(name):
        raise CheckpointError(f"builds upon {name!r:.200}, which is not in it: {how}")
    try:
        return fetch(name)
    except DownloadError as error:
        raise DownloadError(f"{folder} builds upon {name}: {error}. Else {how}") from error


def read_base_model(folder: Path, *, audio_tag: str) -> BaseModel:
    """Read `config.json`, `tokenizer.json` and, where there is one, `tokenizer_config.json`.

    Raises:
        CheckpointError: a file is missing, damaged or hostile, or of another architecture.
    """
    try:
        config = read_json(folder / "config.json")
        llm = Qwen3Config.from_transformers(config)
        special: dict[str, Any] = {}
        if (folder / "tokenizer_config.json").is_file():
            special = read_json(folder / "tokenizer_config.json")
        tokenizer = SalmTokenizer.from_json(
            read_file(folder / "tokenizer.json", limit=MAX_TOKENIZER_BYTES),
            audio_tag=audio_tag,
            eos=_token(special.get("eos_token")) or _first(config.get("eos_token_id")),
            pad=_token(special.get("pad_token")),
        )
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"base model {folder}: {error}") from error
    if tokenizer.size > llm.vocabulary_size:
        raise CheckpointError(
            f"base model {folder}: {tokenizer.size} tokens, the network has {llm.vocabulary_size}"
        )
    return BaseModel(llm, tokenizer)


def _token(entry: Any) -> str | None:
    """Some versions write the token, others a description of it."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _first(entry: Any) -> int:
    """Some models have several ends; the first is the one of answers."""
    id = entry[0] if isinstance(entry, list) and entry else entry
    if not isinstance(id, int):
        raise CheckpointError(f"eos_token_id is {id!r:.200}")
    return id
