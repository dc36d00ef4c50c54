"""Lines out of a byte stream that is cut anywhere."""

from hypothesis import given
from hypothesis import strategies as st

from stt_server.protocols.parakeet_lines import LineSplitter

PING = b'{"type":"ping"}'


def pushed(*pieces: bytes, limit: int = 1_000) -> list[bytes]:
    splitter = LineSplitter(limit)
    return [line for piece in pieces for line in splitter.push(piece)]


@given(
    st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=6),
    st.data(),
)
def test_cuts_do_not_matter(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert pushed(*pieces) == lines


def test_half_a_line_waits() -> None:
    assert pushed(b'{"type":', b'"ping"}') == []


def test_a_snippets_mark_ends_an_object() -> None:
    assert pushed(PING + b"\\n") == [PING + b"\\n"]
    assert pushed(PING[:4], PING[4:] + b"\\", b"n", b"\nx\n") == [PING + b"\\n", b"", b"x"]


def test_the_mark_inside_a_string_ends_nothing() -> None:
    begin, end = b'{"note":"}\\n', b'","type":"ping"}\n'

    assert pushed(begin, end) == [begin + end[:-1]]


def test_too_long_a_line_comes_out_once_and_cut() -> None:
    lines = pushed(b"x" * 8, b"x" * 8, b"x" * 8, b"x\n", b"good\n", limit=10)

    assert lines == [b"x" * 11, b"good"]


def test_a_line_at_the_limit_is_whole() -> None:
    assert pushed(b"x" * 10 + b"\n", limit=10) == [b"x" * 10]


@given(st.lists(st.binary(max_size=20)))
def test_memory_is_bounded(pieces: list[bytes]) -> None:
    splitter = LineSplitter(12)

    assert all(len(line) <= 13 for piece in pieces for line in splitter.push(piece))


def test_limit_may_grow() -> None:
    splitter = LineSplitter(3)
    assert splitter.push(b"abc\n") == [b"abc"]

    splitter.limit = 6

    assert splitter.push(b"abcdef\n") == [b"abcdef"]
