"""NeMo's own `.nemo` archives: a tar file with a configuration, weights and tokenizer files.

Nothing is ever extracted: members are read in place, by their byte range, and weights are mapped.
An archive that is gzipped as a whole is decompressed to an unnamed temporary file first.
"""

import gzip
import io
import tarfile
import tempfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from nemo_lite.checkpoints.checkpoint import Checkpoint, assemble, model_config, target_class
from nemo_lite.checkpoints.documents import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, parse_yaml
from nemo_lite.checkpoints.torch_file import DAMAGED, FileRange, read_tensors
from nemo_lite.errors import CheckpointError
from nemo_lite.tokenizer import Tokenizer

_CONFIG = "model_config.yaml"
_WEIGHTS = "model_weights.ckpt"
_MAX_MEMBERS = 1_000
_GZIP_MAGIC = b"\x1f\x8b"
# Weights hardly compress; what grows more than this is built to fill the disk.
_MAX_EXPANSION, _EXPANSION_SLACK = 16, 2**30
_COPY_BYTES = 2**20


def read_nemo(path: Path, *, tokenizer: Tokenizer | None = None) -> Checkpoint:
    """Read a `.nemo` file; `tokenizer` replaces the archive's own.

    Raises:
        CheckpointError: it is damaged, hostile, or of another kind of model.
        OSError: it cannot be read.
    """
    with _opened_tar(path) as file:
        members = _members(file)
        nemo = parse_yaml(_member(file, members, _CONFIG, MAX_CONFIG_BYTES).read(), name=_CONFIG)
        config = model_config(nemo)
        if tokenizer is None:
            name = _tokenizer_name(nemo)
            model = _member(file, members, name, MAX_TOKENIZER_BYTES).read()
            tokenizer = Tokenizer.from_sentencepiece(model)
        state = read_tensors(_member(file, members, _WEIGHTS), name=_WEIGHTS)
    return assemble(Checkpoint(config, state, tokenizer, path, target_class(nemo), nemo))


@contextmanager
def _opened_tar(path: Path) -> Generator[io.FileIO, None, None]:
    with path.open("rb", buffering=0) as file:
        magic = file.read(len(_GZIP_MAGIC))
        file.seek(0)
        if magic != _GZIP_MAGIC:
            yield file
            return
        with tempfile.TemporaryFile(buffering=0) as plain:
            _decompress(file, plain, limit=path.stat().st_size * _MAX_EXPANSION + _EXPANSION_SLACK)
            yield plain


def _decompress(source: io.FileIO, target: io.FileIO, *, limit: int) -> None:
    try:
        with gzip.GzipFile(fileobj=source) as packed:
            while block := packed.read(_COPY_BYTES):
                if target.tell() + len(block) > limit:
                    raise CheckpointError("decompresses to an absurd size")
                target.write(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CheckpointError(f"damaged gzip data: {error}") from error


def _members(file: io.FileIO) -> dict[str, tarfile.TarInfo]:
    """The regular files of the archive by name, each within the file's bounds."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for count, member in enumerate(archive):
                if count == _MAX_MEMBERS:
                    raise CheckpointError(f"more than {_MAX_MEMBERS} files in the archive")
                _require_plain(member, size)
                name = str(PurePosixPath(member.name))
                if name in members:
                    raise CheckpointError(f"{name!r} is in the archive twice")
                if member.isfile():
                    members[name] = member
    except DAMAGED as error:
        raise CheckpointError(
            f"not a .nemo archive (a tar file), or damaged: {error!r:.200}"
        ) from error
    return members


def _require_plain(member: tarfile.TarInfo, file_size: int) -> None:
    """Refuse everything but files and folders inside the archive's own folder, fully there."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise CheckpointError(f"{member.name!r} leads out of the archive")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise CheckpointError(f"{member.name!r} is neither a plain file nor a folder")
    if member.size < 0 or member.offset_data + member.size > file_size:
        raise CheckpointError(f"truncated: {member.name!r} ends beyond the file")


def _member(
    file: io.FileIO, members: Mapping[str, tarfile.TarInfo], name: str, limit: int | None = None
) -> FileRange:
    member = members.get(name)
    if member is None:
        raise CheckpointError(f"no {name} in the archive")
    if limit is not None and member.size > limit:
        raise CheckpointError(f"{name} is larger than {limit} bytes")
    return FileRange(file, member.offset_data, member.size)


def _tokenizer_name(nemo: Mapping[str, Any]) -> str:
    """The archive member that `tokenizer.model_path: nemo:<name>` points at."""
    section = nemo.get("tokenizer")
    path = section.get("model_path") if isinstance(section, Mapping) else None
    if not isinstance(path, str):
        raise CheckpointError("the configuration names no SentencePiece tokenizer (model_path)")
    return path.removeprefix("nemo:")
