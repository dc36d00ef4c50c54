"""NeMo's own `.nemo` archives: a tar file with a configuration, weights and tokenizer files.

Nothing is ever extracted: members are read in place, by their byte range. An archive that is
gzipped as a whole is decompressed to an unnamed temporary file first.
"""

import gzip
import io
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from nemo_lite.checkpoints.checkpoint import Checkpoint, assemble, model_config, target_class
from nemo_lite.checkpoints.documents import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, parse_yaml
from nemo_lite.errors import CheckpointError
from nemo_lite.tokenizer import Tokenizer

_CONFIG = "model_config.yaml"
_WEIGHTS = "model_weights.ckpt"
_MAX_MEMBERS = 1_000
_GZIP_MAGIC = b"\x1f\x8b"
# Weights hardly compress; what grows more than this is built to fill the disk.
_MAX_EXPANSION, _EXPANSION_SLACK = 16, 2**30
_COPY_BYTES = 2**20

# What the readers of tar, zip and pickle raise on damaged or hostile bytes.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


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
        state = _load_weights(_member(file, members, _WEIGHTS))
    return assemble(Checkpoint(config, state, tokenizer, path, target_class(nemo), nemo))


class _Range(io.RawIOBase):
    """A byte range of an open file as a file of its own, so that nothing has to be copied."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view)
        self._at += count
        return count


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
    except _DAMAGED as error:
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
) -> io.BufferedReader:
    member = members.get(name)
    if member is None:
        raise CheckpointError(f"no {name} in the archive")
    if limit is not None and member.size > limit:
        raise CheckpointError(f"{name} is larger than {limit} bytes")
    return io.BufferedReader(_Range(file, member.offset_data, member.size))


def _tokenizer_name(nemo: Mapping[str, Any]) -> str:
    """The archive member that `tokenizer.model_path: nemo:<name>` points at."""
    section = nemo.get("tokenizer")
    path = section.get("model_path") if isinstance(section, Mapping) else None
    if not isinstance(path, str):
        raise CheckpointError("the configuration names no SentencePiece tokenizer (model_path)")
    return path.removeprefix("nemo:")


def _load_weights(file: io.BufferedReader) -> dict[str, Tensor]:
    """The state dict of a `torch.save` file, on the CPU."""
    try:
        _require_stored(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text says how to run the code nevertheless
        raise CheckpointError(f"{_WEIGHTS} holds more than tensors, or is damaged") from error
    except _DAMAGED as error:
        raise CheckpointError(f"{_WEIGHTS} cannot be loaded: {error!r:.200}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{_WEIGHTS} holds a {type(state).__name__}, not named tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not _is_plain(tensor):
            raise CheckpointError(f"{_WEIGHTS}: {name!r} is no plain tensor")
    return dict(state)


def _require_stored(file: io.BufferedReader) -> None:
    """Refuse compressed records, which `torch.save` never writes: loading takes the file's size."""
    file_size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(f"{_WEIGHTS} has compressed records")
    if sum(record.file_size for record in records) > file_size:
        raise CheckpointError(f"{_WEIGHTS} has overlapping records")
    file.seek(0)


def _is_plain(tensor: Tensor) -> bool:
    """Dense, in memory, and no larger than what was read for it."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
