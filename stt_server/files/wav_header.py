"""How long a WAV file says it is. FFmpeg goes by what is there, and takes half a file for a whole
one."""

import struct
from typing import BinaryIO

NO_LENGTH = 0x7FFF_0000
"""Sizes from here on, and 0, stand for "unknown": what is written to a pipe begins like that."""
MAX_CHUNKS = 64


def missing_seconds(file: BinaryIO, size: int) -> float:
    """How much audio the header promises and the file lacks; 0 for what is no WAV file.

    Args:
        file: At its beginning.
        size: Of the file, in bytes.
    """
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0.0
    at, bytes_per_second = 12, 0
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, length = struct.unpack("<4sI", chunk)
        at += 8
        if name == b"fmt ":
            bytes_per_second = int.from_bytes(file.read(16)[8:12], "little")
        elif name == b"data":
            is_known = 0 < length < NO_LENGTH and bytes_per_second
            return max(0, at + length - size) / bytes_per_second if is_known else 0.0
        at += length + length % 2
    return 0.0
