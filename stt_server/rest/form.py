"""A multipart form with a file, read as it arrives: the file goes to disk, the rest is small."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from stt_server.rest.errors import ApiError, bad_value, missing, too_large
from stt_server.rest.parameters import KNOWN

MAX_FIELDS = 256
MAX_FIELD_BYTES = 16_384
MAX_HEADER_BYTES = 8_192
MAX_HEADERS = 16
MAX_OTHER_BYTES = 16 * 2**20
"""Of a body beside its file: clients may send voices of known speakers along."""
WRITE_BYTES = 2**20
STALL_S = 30.0
"""A client that sends nothing for so long has stopped."""
NOT_A_FORM = "the request must be multipart/form-data with a field `file`"


@dataclass(frozen=True, slots=True)
class Form:
    """A form that has arrived whole."""

    fields: Mapping[str, list[str]]
    """Values of the fields in `KNOWN`, names without brackets."""
    file: Path
    file_bytes: int


@asynccontextmanager
async def received_form(
    chunks: AsyncIterator[bytes],
    content_type: str | None,
    *,
    max_file_bytes: int,
    receive_s: float,
) -> AsyncGenerator[Form]:
    """The form in a request's body; its file is gone at the end of the context.

    Args:
        chunks: The body as it arrives.

    Raises:
        ApiError: it is not such a form, it is too large, or it does not arrive in time.
    """
    parts = _Parts(_boundary(content_type), max_file_bytes)
    spool = await asyncio.to_thread(tempfile.NamedTemporaryFile, prefix="stt-upload-")
    try:
        try:
            async with asyncio.timeout(receive_s):
                await _read(chunks, parts, spool)
        except TimeoutError:
            raise ApiError(408, "timeout", "the request did not arrive in time") from None
        yield Form(parts.fields, Path(spool.name), parts.finish())
    finally:
        # Which deletes it, and that of a large file takes a while.
        await asyncio.to_thread(spool.close)


async def _read(chunks: AsyncIterator[bytes], parts: "_Parts", spool: IO[bytes]) -> None:
    while True:
        async with asyncio.timeout(STALL_S):
            chunk = await anext(chunks, None)
        if chunk is None:
            break
        parts.push(chunk)
        if parts.pending_bytes >= WRITE_BYTES:
            await asyncio.to_thread(spool.write, parts.take())
    await asyncio.to_thread(spool.write, parts.take())
    await asyncio.to_thread(spool.flush)


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise missing(NOT_A_FORM)
    return options[b"boundary"]


class _Parts:
    """Takes a form apart. Does no I/O."""

    def __init__(self, boundary: bytes, max_file_bytes: int) -> None:
        self.fields: defaultdict[str, list[str]] = defaultdict(list)
        self._max_file_bytes = max_file_bytes
        self._file: list[bytes] = []
        self.pending_bytes = 0
        """Of the file, not taken yet."""
        self._file_bytes: int | None = None
        self._other_bytes = self._count = 0
        self._header, self._header_value = b"", b""
        self._name = ""
        self._value = bytearray()
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._take_header,
                    "on_header_value": self._take_header_value,
                    "on_header_end": self._end_header,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end,
                    "on_end": self._complete,
                },
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise missing(NOT_A_FORM) from error

    def push(self, chunk: bytes) -> None:
        """The next bytes of the body.

        Raises:
            ApiError: they are no form, or too many.
        """
        self._other_bytes += len(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise missing("the body is not well-formed multipart/form-data") from error
        if self._other_bytes > MAX_OTHER_BYTES:
            raise too_large("the fields beside the file are too large")

    def take(self) -> bytes:
        """Bytes of the file since the last call."""
        data = b"".join(self._file)
        self._file, self.pending_bytes = [], 0
        return data

    def finish(self) -> int:
        """Bytes of the file.

        Raises:
            ApiError: it is missing, or the body broke off.
        """
        if not self._is_complete:
            raise missing("the body ends before the form does")
        if self._file_bytes is None:
            raise missing(NOT_A_FORM)
        return self._file_bytes

    # Called by the parser

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_FIELDS:
            raise ApiError(400, "invalid_value", "the form has too many fields")
        self._name, self._value = "", bytearray()

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            name = options.get(b"name", b"").decode("utf-8", "replace")
            base, _, inner = name.partition("[")
            # Objects come as one field per key, `chunking_strategy[type]`: of no use here.
            self._name = base if inner in ("", "]") else ""
            if name == "file":
                if self._file_bytes is not None:
                    raise bad_value("file", "the form has more than one file")
                self._file_bytes = 0
        self._header = self._header_value = b""

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        count = end - start
        if self._name == "file" and self._file_bytes is not None:
            self._file_bytes += count
            self._other_bytes -= count
            if self._file_bytes > self._max_file_bytes:
                most = self._max_file_bytes // 2**20
                raise too_large(f"the file is larger than {most} MiB")
            self._file.append(data[start:end])
            self.pending_bytes += count
        elif self._name in KNOWN:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD_BYTES:
                raise bad_value(self._name, f"{self._name} is too long")

    def _end(self) -> None:
        if self._name in KNOWN:
            self.fields[self._name].append(self._value.decode("utf-8", "replace"))

    def _complete(self) -> None:
        self._is_complete = True
