"""The simulation is what it says it is, and strops wins it."""

import random
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import merge
from report import machine, write_section

OVERLAPPING = merge.CONDITIONS[:-1]


@pytest.mark.parametrize(
    ("truth", "words", "errors"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b c", "a b x c", 1),
        ("a b", "b a", 2),
        ("a b", "", 2),
        ("", "a b c", 3),
        ("the cat sat on the mat", "the cat on a mat mat", 3),
    ],
)
def test_word_errors(truth: str, words: str, errors: int) -> None:
    assert merge.word_errors(truth.split(), words.split()) == errors


def test_the_simulation_repeats() -> None:
    assert merge.simulate("mixed", 2) == merge.simulate("mixed", 2)


@pytest.mark.parametrize("condition", merge.CONDITIONS)
def test_chunks_cover_the_text_and_overlap_where_they_should(condition: str) -> None:
    for recording in merge.simulate(condition, 5):
        said, recognised = len(recording.truth), sum(map(len, recording.chunks))
        assert all(len(chunk) >= 8 for chunk in recording.chunks)
        if condition == "no overlap":
            assert abs(recognised - said) <= 2 * len(recording.chunks)
        else:
            assert recognised > 1.2 * said


def test_clean_chunks_are_the_text() -> None:
    recording = merge.record(random.Random(1), "none")
    said = " ".join(merge.keys(recording.truth))
    assert all(" ".join(merge.keys(chunk)) in said for chunk in recording.chunks)


@pytest.mark.parametrize("condition", OVERLAPPING)
def test_strops_beats_concatenation_and_lower_casing(condition: str) -> None:
    recordings = merge.simulate(condition, 10)
    written, normalised = merge.error_rates(merge.aligned, recordings)
    for baseline in (merge.concatenate, merge.lower_and_join):
        baseline_written, baseline_normalised = merge.error_rates(baseline, recordings)
        assert written < baseline_written
        assert normalised <= baseline_normalised


@pytest.mark.parametrize("condition", OVERLAPPING)
def test_the_cut_beats_every_other_rule(condition: str) -> None:
    recordings = merge.simulate(condition, 10)
    *others, cut = (merge.error_rates(rule, recordings)[0] for rule in merge.RULES.values())
    assert cut < min(others)


def test_the_report_has_a_row_per_merger_and_rule() -> None:
    rows = re.findall(r"^\| (?!---)", merge.report(documents=1, runs=10), re.MULTILINE)
    assert len(rows) == 3 + len(merge.MERGERS) + len(merge.RULES) + 4


def test_a_section_is_created_then_replaced_in_place(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "benchmarks.md"
    write_section(path, "merge", "first")
    write_section(path, "asr", "other")
    write_section(path, "merge", "second\n")
    assert path.read_text() == (
        "# Benchmarks\n\n"
        "<!-- merge:begin -->\nsecond\n<!-- merge:end -->\n\n"
        "<!-- asr:begin -->\nother\n<!-- asr:end -->\n"
    )


def test_a_section_without_end_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text("<!-- merge:begin -->\nlost")
    with pytest.raises(ValueError, match="without"):
        write_section(path, "merge", "new")
    assert path.read_text() == "<!-- merge:begin -->\nlost"


def test_machine_names_processor_and_cores() -> None:
    assert re.fullmatch(r"\S.*, \d+ cores(, \w+)*", machine())
