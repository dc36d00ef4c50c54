"""Response formats, cues and events."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stt_server.events import SAMPLE_RATE, Word
from stt_server.files.transcription import Heard
from stt_server.rest import formats, sse
from stt_server.rest.parameters import Granularity, Parameters, ResponseFormat
from stt_server.rest.results import MAX_CUE_LETTERS, MAX_CUE_SAMPLES, FileTranscript


def words(
    text: str, *, start_s: float = 0.0, word_s: float = 0.25, confidence: float | None = None
) -> tuple[Word, ...]:
    """Words one after another without pauses."""
    step = round(word_s * SAMPLE_RATE)
    first = round(start_s * SAMPLE_RATE)
    return tuple(
        Word(word, first + index * step, first + (index + 1) * step, confidence)
        for index, word in enumerate(text.split())
    )


def transcript(*pieces: tuple[Word, ...], language: str | None = None) -> FileTranscript:
    out = FileTranscript()
    for piece in pieces:
        out.add(Heard(piece, ends_piece=True, language=language))
    return out


TWO = transcript(
    words("The quick brown fox.", confidence=0.9),
    words("It jumps & <runs>.", start_s=3_661.5, confidence=0.8),
    language="en",
)
SAMPLES = 3_700 * SAMPLE_RATE


def parsed(asked: Parameters) -> dict[str, object]:
    return json.loads(bytes(formats.answer(TWO, asked, samples=SAMPLES).body))


def test_json_has_text_and_seconds() -> None:
    assert parsed(Parameters()) == {
        "text": "The quick brown fox. It jumps & <runs>.",
        "usage": {"type": "duration", "seconds": 3_700.0},
        "languages": [{"code": "en"}],
    }


def test_log_probabilities_are_those_of_the_words() -> None:
    found = parsed(Parameters(logprobs=True))["logprobs"]

    assert isinstance(found, list)
    assert found[0] == {"token": "The", "bytes": [84, 104, 101], "logprob": -0.1054}
    assert len(found) == 8


def test_text_is_bare() -> None:
    answer = formats.answer(TWO, Parameters(ResponseFormat.TEXT), samples=SAMPLES)

    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert bytes(answer.body) == b"The quick brown fox. It jumps & <runs>.\n"


def test_verbose_json_has_segments_unless_words_are_asked_for() -> None:
    plain = parsed(Parameters(ResponseFormat.VERBOSE_JSON))
    assert plain["duration"] == 3_700.0
    assert plain["language"] == "en"
    assert "words" not in plain
    assert isinstance(plain["segments"], list)
    first = plain["segments"][0]
    assert set(first) == {
        "id",
        "seek",
        "start",
        "end",
        "text",
        "tokens",
        "temperature",
        "avg_logprob",
        "compression_ratio",
        "no_speech_prob",
    }
    assert (first["start"], first["end"], first["avg_logprob"]) == (0.0, 1.0, -0.1054)

    asked = Parameters(ResponseFormat.VERBOSE_JSON, granularities=frozenset({Granularity.WORD}))
    timed = parsed(asked)
    assert "segments" not in timed
    assert isinstance(timed["words"], list)
    assert timed["words"][4] == {"word": "It", "start": 3_661.5, "end": 3_661.75}


def test_srt_numbers_its_cues() -> None:
    assert formats.srt(TWO) == (
        "1\n00:00:00,000 --> 00:00:01,000\nThe quick brown fox.\n\n"
        "2\n01:01:01,500 --> 01:01:02,500\nIt jumps & <runs>.\n\n"
    )


def test_vtt_escapes_what_would_be_a_tag() -> None:
    assert formats.vtt(TWO) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.000\nThe quick brown fox.\n\n"
        "01:01:01.500 --> 01:01:02.500\nIt jumps &amp; &lt;runs&gt;.\n\n"
    )


def test_silence_is_a_success_in_every_format() -> None:
    nothing = FileTranscript()
    for name in (item for item in ResponseFormat if item is not ResponseFormat.DIARIZED_JSON):
        answer = formats.answer(nothing, Parameters(name), samples=SAMPLE_RATE)
        assert answer.status_code == 200
    body = json.loads(bytes(formats.answer(nothing, Parameters(), samples=16_000).body))
    assert body == {"text": "", "usage": {"type": "duration", "seconds": 1.0}}


def test_cues_end_with_sentences_pauses_and_pieces() -> None:
    found = transcript(
        words("One two. Three four"),
        words("five six") + words("seven", start_s=2.0),
    )

    assert [cue.text for cue in found.cues()] == ["One two.", "Three four", "five six", "seven"]


texts = st.lists(st.text("abc.", min_size=1, max_size=12), min_size=1, max_size=80)


@given(texts, st.lists(st.integers(0, 3 * SAMPLE_RATE), min_size=160, max_size=160))
def test_cues_hold_every_word_once_and_fit_under_a_picture(
    spelled: list[str], steps: list[int]
) -> None:
    at = 0
    heard: list[Word] = []
    for text, (gap, length) in zip(
        spelled, zip(steps[::2], steps[1::2], strict=True), strict=False
    ):
        heard.append(Word(text, at + gap, at + gap + length))
        at += gap + length
    cues = list(transcript(tuple(heard)).cues())

    assert [word for cue in cues for word in cue.words] == heard
    for cue in cues:
        assert len(cue.words) == 1 or cue.end - cue.start <= MAX_CUE_SAMPLES
        assert len(cue.words) == 1 or len(cue.text) <= MAX_CUE_LETTERS
        assert cue.start <= cue.end
    assert all(left.end <= right.start for left, right in pairwise(cues))


@given(st.lists(texts, min_size=1, max_size=5))
def test_deltas_add_up_to_the_text(pieces: list[list[str]]) -> None:
    found, sent = FileTranscript(), list[bytes]()
    for piece in pieces:
        heard = Heard(tuple(Word(text, 0, 1) for text in piece), ends_piece=True)
        sent += sse.deltas(heard.words, is_first=not found.words)
        found.add(heard)
    bodies = [json.loads(event.removeprefix(b"data: ")) for event in sent]

    assert "".join(body["delta"] for body in bodies) == found.text
    assert all(event.endswith(b"\n\n") and event.count(b"\n") == 2 for event in sent)
    assert json.loads(next(sse.done(found)).removeprefix(b"data: "))["text"] == found.text


def test_what_is_longer_than_a_few_words_comes_in_several_deltas() -> None:
    assert len(list(sse.deltas(words("a b c d e"), is_first=True))) == 2
