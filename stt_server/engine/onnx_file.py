"""The weights inside an ONNX file, by name; nothing else of the format.

An ONNX file is a protocol buffer. Only these fields are followed, their numbers are part of the
standard: ModelProto.graph 7, GraphProto.initializer 5, TensorProto.dims 1, .data_type 2, .name 8,
.raw_data 9. Source: onnx.proto3, protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GRAPH, INITIALIZER = 7, 5
DIMS, DATA_TYPE, NAME, RAW_DATA = 1, 2, 8, 9
FLOAT = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class OnnxFileError(ValueError):
    """The file is not what this reader understands."""


def read_float_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """All float32 initializers of the graph, read-only.

    Raises:
        OnnxFileError: not an ONNX file, or one of another make.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    try:
        for number, graph in _fields(memoryview(path.read_bytes())):
            if number != GRAPH or isinstance(graph, int):
                continue
            for kind, tensor in _fields(graph):
                if kind == INITIALIZER and not isinstance(tensor, int):
                    _add_tensor(weights, tensor)
    except (IndexError, ValueError) as error:
        raise OnnxFileError(f"cannot read the weights in {path}: {error}") from error
    return weights


def _add_tensor(weights: dict[str, NDArray[np.float32]], tensor: memoryview) -> None:
    dims: list[int] = []
    name, data_type, data = "", 0, memoryview(b"")
    for number, value in _fields(tensor):
        if number == DIMS:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif number == DATA_TYPE and isinstance(value, int):
            data_type = value
        elif number == NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif number == RAW_DATA and not isinstance(value, int):
            data = value
    if data_type == FLOAT and len(data):
        weights[name] = np.frombuffer(data, dtype="<f4").reshape(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; strings and messages as views."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire_type = tag & 7
        if wire_type == VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire_type == BYTES:
            length, at = _varint(message, at)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise OnnxFileError(f"wire type {wire_type}")
        if at + length > len(message):
            raise OnnxFileError("it is cut short")
        yield tag >> 3, message[at : at + length]
        at += length


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
