"""What `torch.save` wrote, mapped from the file instead of read.

`torch.load` reads every tensor into memory of its own, where nothing can be converted before all
of it is there. Here each storage is a private mapping, which goes when its last tensor goes: a
caller that converts one tensor after another holds no second model.
"""

import io
import mmap
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor, UntypedStorage

from nemo_lite.errors import CheckpointError

# What the readers of tar, zip and pickle raise on damaged or hostile bytes.
DAMAGED = (
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

_LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of the name and of the extra field
_LOCAL_MAGIC = b"PK\3\4"


class FileRange(io.RawIOBase):
    """A byte range of an open file as a file of its own, so that nothing has to be copied."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._at = file, start, 0
        self.size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(0, self.size - self._at)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view)
        self._at += count
        return count

    def map(self, offset: int, size: int) -> Tensor:
        """(size,) uint8, a copy-on-write mapping.

        Raises:
            ValueError: the bytes are not all within the range.
        """
        if size == 0:
            return torch.empty(0, dtype=torch.uint8)
        if not 0 <= offset <= offset + size <= self.size:
            raise ValueError(f"bytes {offset} to {offset + size} of {self.size}")
        start = self._start + offset
        before = start % mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(
            self._file.fileno(), before + size, access=mmap.ACCESS_COPY, offset=start - before
        )
        return torch.frombuffer(mapping, dtype=torch.uint8, count=size, offset=before)


def read_tensors(file: FileRange, *, name: str) -> dict[str, Tensor]:
    """The state dict of a `torch.save` file, on the CPU, mapped.

    Args:
        name: of the file, for messages.

    Raises:
        CheckpointError: it is damaged, or holds anything but named tensors.
    """
    try:
        records = _records(file)
        state = torch.load(io.BufferedReader(file), map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:  # its text says how to run the code nevertheless
        raise CheckpointError(f"{name} holds more than tensors, or is damaged") from error
    except DAMAGED as error:
        raise CheckpointError(f"{name} cannot be loaded: {error!r:.200}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{name} holds a {type(state).__name__}, not named tensors")
    storages: dict[tuple[int, int], UntypedStorage] = {}
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        at = _offset(tensor)
        if at is None or not isinstance(key, str):
            raise CheckpointError(f"{name}: {key!r} is no plain tensor")
        size = tensor.untyped_storage().nbytes()
        if size > records.get(at, 0):
            raise CheckpointError(f"{name}: {key!r} is not all there")
        if (at, size) not in storages:
            storages[at, size] = file.map(at, size).untyped_storage()
        tensors[key] = _filled(tensor, storages[at, size])
    return tensors


def _records(file: FileRange) -> dict[int, int]:
    """The sizes of a zip archive's records, by the offsets of their bytes.

    Compressed records, which `torch.save` never writes, are refused: they could not be mapped, and
    would unpack to any size.
    """
    found: dict[int, int] = {}
    with zipfile.ZipFile(file) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError("compressed records")
            file.seek(record.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            if not header.startswith(_LOCAL_MAGIC):
                raise zipfile.BadZipFile(f"no record at {record.header_offset}")
            at = record.header_offset + len(header) + sum(_LOCAL_HEADER.unpack(header))
            found[at] = record.file_size
    if sum(found.values()) > file.size:
        raise ValueError("overlapping records")
    file.seek(0)
    return found


def _offset(tensor: object) -> int | None:
    """Where in the file a meta tensor's storage is; None if it is no dense tensor within one.

    https://docs.pytorch.org/docs/stable/notes/serialization.html
    """
    if (
        not isinstance(tensor, Tensor)
        or tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        return None
    return getattr(tensor.untyped_storage(), "_checkpoint_offset", None)


def _filled(tensor: Tensor, storage: UntypedStorage) -> Tensor:
    """A meta tensor with these bytes; what shared a storage in the file goes on sharing it."""
    values = torch.empty(0, dtype=tensor.dtype)
    values.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
    return values if values.data_ptr() % values.element_size() == 0 else values.clone()
