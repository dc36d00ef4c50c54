"""What a WAV header promises."""

import io
import struct

import pytest

from stt_server.files.wav_header import missing_seconds

FORMAT = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)


def chunk(name: bytes, content: bytes, *, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return struct.pack("<4sI", name, size) + content + bytes(len(content) % 2)


def wav(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def missing(data: bytes) -> float:
    return missing_seconds(io.BytesIO(data), len(data))


def test_whole_file_misses_nothing() -> None:
    assert missing(wav(chunk(b"fmt ", FORMAT), chunk(b"data", bytes(64_000)))) == 0.0


def test_missing_audio_is_counted_in_seconds() -> None:
    data = wav(chunk(b"fmt ", FORMAT), chunk(b"data", bytes(64_000)))

    assert missing(data[:-48_000]) == 1.5


def test_other_chunks_are_stepped_over() -> None:
    extra = chunk(b"LIST", b"odd")
    data = wav(extra, chunk(b"fmt ", FORMAT), extra, chunk(b"data", bytes(64_000)))

    assert missing(data) == 0.0
    assert missing(data[:-32_000]) == 1.0


def test_chunks_behind_the_samples_do_not_matter() -> None:
    data = wav(chunk(b"fmt ", FORMAT), chunk(b"data", bytes(64_000)), chunk(b"id3 ", bytes(99)))

    assert missing(data) == 0.0


@pytest.mark.parametrize("length", [0, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7FFF_0000])
def test_unknown_length_promises_nothing(length: int) -> None:
    data = wav(chunk(b"fmt ", FORMAT), chunk(b"data", bytes(100), length=length))

    assert missing(data) == 0.0


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"OggS" + bytes(100), wav(chunk(b"data", bytes(10)))],
    ids=["empty", "short", "no chunks", "another kind", "no format"],
)
def test_what_is_no_whole_wav_header_promises_nothing(data: bytes) -> None:
    assert missing(data) == 0.0
