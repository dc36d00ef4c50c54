import json
from pathlib import Path

import pytest

from stt_server.clients.transcript import Transcript
from stt_server.protocols.native_messages import TranscriptionSegment, WordMessage


def segment(
    text: str,
    start: float,
    end: float,
    *,
    final: bool = True,
    end_of_turn: bool = True,
    word_s: float | None = None,
) -> TranscriptionSegment:
    words = None
    if word_s is not None:
        words = [
            WordMessage(word=word, start=start + at * word_s, end=start + (at + 1) * word_s)
            for at, word in enumerate(text.split())
        ]
    return TranscriptionSegment(
        text=text, is_final=final, is_end_of_turn=end_of_turn, start=start, end=end, words=words
    )


LONG = "one two three four five six seven eight nine"
TURNS = [
    segment("Hi", 0.0, 0.4, final=False, end_of_turn=False),
    segment("Hi <you> & me.", 0.5, 2.0),
    segment("", 2.0, 2.0),
    segment(LONG, 3661.0, 3670.0, word_s=1.0),
]


def saved(name: str, segments: list[TranscriptionSegment], folder: Path) -> str:
    transcript = Transcript()
    for each in segments:
        transcript.add(each)
    transcript.save(folder / name)
    assert [path.name for path in folder.iterdir()] == [name]
    return (folder / name).read_text(encoding="utf-8")


def test_text_has_a_line_per_turn(tmp_path: Path) -> None:
    assert saved("a.txt", TURNS, tmp_path) == f"Hi <you> & me.\n{LONG}\n"


OPEN = [
    segment("first piece", 0, 1, end_of_turn=False),
    segment("still", 1, 1.5, final=False, end_of_turn=False),
    segment("still open", 1, 2, final=False, end_of_turn=False, word_s=0.5),
]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a.txt", "first piece … still open\n"),
        ("a.srt", "00:00:01,000 --> 00:00:02,000\n… still open\n"),
        ("a.vtt", "00:00:01.000 --> 00:00:02.000\n… still open\n"),
    ],
)
def test_text_that_has_no_final_is_marked(name: str, kept: str, tmp_path: Path) -> None:
    assert kept in saved(name, OPEN, tmp_path)


def test_text_that_has_no_final_is_a_segment_in_json(tmp_path: Path) -> None:
    rows = json.loads(saved("a.json", OPEN, tmp_path))
    assert [(row["text"], row["isFinal"]) for row in rows] == [
        ("first piece", True),
        ("still open", False),
    ]


def test_text_that_was_taken_back_is_not_saved(tmp_path: Path) -> None:
    gone = segment("", 1, 2, final=False, end_of_turn=False)
    assert saved("a.txt", [*OPEN, gone], tmp_path) == "first piece\n"


def test_the_pieces_of_a_turn_are_one_line(tmp_path: Path) -> None:
    pieces = [
        segment("first piece", 0, 1, end_of_turn=False),
        segment("second", 1, 2, end_of_turn=False),
        segment("", 2, 2),
        segment("open", 3, 4, end_of_turn=False),
    ]
    assert saved("a.txt", pieces, tmp_path) == "first piece second\nopen\n"


def test_subrip(tmp_path: Path) -> None:
    assert saved("a.SRT", TURNS, tmp_path) == (
        "1\n00:00:00,500 --> 00:00:02,000\nHi <you> & me.\n\n"
        "2\n01:01:01,000 --> 01:01:08,000\none two three four five six seven\n\n"
        "3\n01:01:08,000 --> 01:01:10,000\neight nine\n\n"
    )


def test_webvtt_is_escaped(tmp_path: Path) -> None:
    assert saved("a.vtt", TURNS[:2], tmp_path) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nHi &lt;you&gt; &amp; me.\n\n"
    )


def test_cues_are_split_by_length_too(tmp_path: Path) -> None:
    text = "abcdefghi " * 10
    written = saved("a.srt", [segment(text, 0.0, 1.0, word_s=0.1)], tmp_path)
    assert [len(line) for line in written.splitlines() if line.startswith("abc")] == [79, 19]


def test_without_word_times_a_long_turn_stays_whole(tmp_path: Path) -> None:
    assert saved("a.srt", [segment(LONG, 0.0, 9.0)], tmp_path).count("-->") == 1


def test_json_has_the_final_segments_as_they_came(tmp_path: Path) -> None:
    assert json.loads(saved("a.json", TURNS[:2], tmp_path)) == [
        {"text": "Hi <you> & me.", "isFinal": True, "isEndOfTurn": True, "start": 0.5, "end": 2.0}
    ]


@pytest.mark.parametrize(
    ("name", "empty"), [("a.txt", ""), ("a.srt", ""), ("a.vtt", "WEBVTT\n\n"), ("a.json", "[]\n")]
)
def test_silence_is_a_legal_transcript(name: str, empty: str, tmp_path: Path) -> None:
    assert saved(name, [], tmp_path) == empty


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    old = tmp_path / "a.txt"
    old.write_text("old")
    (tmp_path / ".a.txt.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        Transcript().save(old)
    assert old.read_text() == "old"


def test_a_reader_of_the_old_file_sees_nothing_half_written(tmp_path: Path) -> None:
    old, link = tmp_path / "a.txt", tmp_path / "link"
    old.write_text("old")
    link.hardlink_to(old)
    Transcript().save(old)
    assert (old.read_text(), link.read_text()) == ("", "old")


@pytest.mark.parametrize(("text", "expected"), [("", False), ("  ", False), ("word", True)])
def test_has_text(text: str, expected: bool) -> None:
    transcript = Transcript()
    transcript.add(segment(text, 0, 1))
    assert transcript.has_text is expected
