"""Multipart forms as clients send them, cut anywhere."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.rest import form as form_module
from stt_server.rest.errors import ApiError
from stt_server.rest.form import Form, received_form

BOUNDARY = "b0undary"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
MIB = 2**20


def part(name: str, content: bytes, *, more: str = "", head: str = "") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"{more}\r\n{head}\r\n'
    return f"--{BOUNDARY}\r\n{disposition}".encode() + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def file_part(content: bytes) -> bytes:
    return part(
        "file",
        content,
        more='; filename="a.wav"',
        head="Content-Type: application/octet-stream\r\n",
    )


async def chunks(data: bytes, sizes: Sequence[int]) -> AsyncIterator[bytes]:
    at = index = 0
    while at < len(data):
        size = sizes[index % len(sizes)]
        yield data[at : at + size]
        at += size
        index += 1


async def receive(
    data: bytes, *, kind: str | None = KIND, sizes: Sequence[int] = (65_536,), most: int = MIB
) -> tuple[Form, bytes]:
    """The form, and what the file held; the file is gone afterwards."""
    async with received_form(
        chunks(data, sizes), kind, max_file_bytes=most, receive_s=10.0
    ) as form:
        content = form.file.read_bytes()
    assert not form.file.exists()
    return form, content


async def refused(data: bytes, **arguments: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await receive(data, **arguments)  # pyright: ignore[reportArgumentType]
    return caught.value


async def test_file_and_fields_arrive() -> None:
    form, content = await receive(
        body(part("model", b"whisper-1"), part("language", "né".encode()), file_part(b"\0\1\2"))
    )

    assert content == b"\0\1\2"
    assert form.file_bytes == 3
    assert form.fields == {"model": ["whisper-1"], "language": ["né"]}


async def test_lists_come_with_brackets_or_without() -> None:
    form, _ = await receive(
        body(
            part("timestamp_granularities[]", b"word"),
            part("timestamp_granularities[]", b"segment"),
            part("include", b"logprobs"),
            part("chunking_strategy[type]", b"server_vad"),
            part("chunking_strategy[threshold]", b"0.5"),
            part("anything", b"else"),
            file_part(b"x"),
        )
    )

    assert form.fields == {
        "timestamp_granularities": ["word", "segment"],
        "include": ["logprobs"],
    }


async def test_a_file_needs_no_name() -> None:
    form, content = await receive(body(part("file", b"RIFF")))

    assert (form.file_bytes, content) == (4, b"RIFF")


async def test_an_empty_file_is_a_file() -> None:
    form, content = await receive(body(file_part(b"")))

    assert (form.file_bytes, content) == (0, b"")


@settings(max_examples=40)
@given(
    st.binary(max_size=3_000),
    st.lists(st.integers(1, 97), min_size=1, max_size=5),
    st.booleans(),
)
async def test_however_a_body_is_cut_it_gives_the_same(
    content: bytes, sizes: list[int], file_first: bool
) -> None:
    content = content.replace(b"\r\n--" + BOUNDARY.encode(), b"")
    parts = [part("prompt", b"p"), part("model", b"m\r\n--b0und"), file_part(content)]
    form, found = await receive(body(*(reversed(parts) if file_first else parts)), sizes=sizes)

    assert found == content
    assert form.fields == {"prompt": ["p"], "model": ["m\r\n--b0und"]}


async def test_a_large_file_goes_to_disk_in_portions() -> None:
    content = bytes(range(256)) * 20_000
    _, found = await receive(body(file_part(content)), most=6 * MIB)

    assert found == content


async def test_a_file_over_the_limit_is_refused_before_it_is_there() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        yield file_part(b"")[:-2]
        while True:
            read += 1
            yield bytes(65_536)

    with pytest.raises(ApiError) as caught:
        async with received_form(endless(), KIND, max_file_bytes=MIB, receive_s=10.0):
            pass
    assert (caught.value.status, caught.value.code) == (413, "file_too_large")
    assert read == 17


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{}", "application/json"),
        (b"", None),
        (b"", KIND),
        (b"nonsense", KIND),
        (body(part("model", b"m")), KIND),
        (body(file_part(b"x")), "multipart/form-data"),
        (body(file_part(b"x")), f"multipart/form-data; boundary={'b' * 500}"),
        (body(file_part(b"x"))[:-20], KIND),
        (body(part("file", b"x", head=f"X-Long: {'x' * 9_000}\r\n")), KIND),
        (body(part("file", b"x", head="X: y\r\n" * 40)), KIND),
    ],
    ids=[
        "json",
        "nothing",
        "empty",
        "nonsense",
        "no file",
        "no boundary",
        "long boundary",
        "cut off",
        "huge header",
        "many headers",
    ],
)
async def test_what_is_no_form_with_a_file_is_refused(data: bytes, kind: str | None) -> None:
    error = await refused(data, kind=kind)

    assert (error.status, error.code) == (400, "missing_required_parameter")
    assert error.param == "file"


async def test_two_files_are_refused() -> None:
    error = await refused(body(file_part(b"x"), file_part(b"y")))

    assert (error.status, error.param) == (400, "file")


async def test_a_field_that_is_too_long_is_refused() -> None:
    error = await refused(body(part("language", b"e" * 20_000), file_part(b"x")))

    assert (error.status, error.code, error.param) == (400, "invalid_value", "language")


async def test_fields_of_no_use_are_not_kept_but_bounded() -> None:
    voice = part("known_speaker_references[]", b"d" * MIB)
    form, _ = await receive(body(voice, voice, file_part(b"x")))
    assert form.fields == {}

    assert (await refused(body(*[voice] * 17, file_part(b"x")))).status == 413
    assert (await refused(body(*[part("x", b"")] * 300, file_part(b"x")))).status == 400


async def test_a_client_that_stops_sending_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_module, "STALL_S", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield file_part(b"")[:-2]
        await asyncio.Event().wait()

    with pytest.raises(ApiError) as caught:
        async with received_form(stalled(), KIND, max_file_bytes=MIB, receive_s=10.0):
            pass
    assert caught.value.status == 408


async def test_a_client_that_sends_too_slowly_is_given_up() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield file_part(b"")[:-2]
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    with pytest.raises(ApiError) as caught:
        async with received_form(slow(), KIND, max_file_bytes=MIB, receive_s=0.2):
            pass
    assert caught.value.status == 408
