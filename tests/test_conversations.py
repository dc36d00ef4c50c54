"""The embedded recogniser through a real server: words, turns and times of spoken conversations."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.server import MODULE, ServerProcess, run_server
from tests.speech import FOLDER, pcm
from tests.wire import Json, transcribe

MAX_WORD_ERROR_RATE = 0.2
TURN_EDGE_S = 0.25
"""How far a turn's edge may lie from where the synthesiser put it."""
POCKETSPHINX = (*MODULE, "--model", "pocketsphinx", "--port", "0", "--log-format", "json")
CONVERSATIONS = ("conversation-restaurant", "conversation-doctor", "conversation-delivery")


@pytest.fixture(scope="module")
def recogniser() -> Iterator[ServerProcess]:
    with run_server(command=POCKETSPHINX) as process:
        yield process


def manifest(name: str) -> Json:
    entries = json.loads((FOLDER / "manifest.json").read_text())
    return next(entry for entry in entries if Path(entry["file"]).stem == name)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Substitutions, insertions and deletions (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for index, expected in enumerate(reference, start=1):
        before, row[0] = row[0], index
        for column, word in enumerate(heard, start=1):
            substituted = before + (expected != word)
            before = row[column]
            row[column] = min(substituted, row[column] + 1, row[column - 1] + 1)
    return row[-1]


@pytest.fixture(scope="module")
def heard(recogniser: ServerProcess) -> dict[str, list[Json]]:
    """All messages for each conversation; the callers speak at the same time."""
    url = recogniser.url + "?features=all"

    async def converse() -> list[list[Json]]:
        return await asyncio.gather(*(transcribe(url, pcm(name)) for name in CONVERSATIONS))

    return dict(zip(CONVERSATIONS, asyncio.run(converse()), strict=True))


def finals(messages: list[Json]) -> list[Json]:
    return [message for message in messages if message.get("isEndOfTurn")]


def test_the_clips_are_a_fair_sample() -> None:
    turns = [turn for name in CONVERSATIONS for turn in manifest(name)["turns"]]
    assert len({turn["voice"] for turn in turns}) >= 3
    assert len(turns) >= 8
    assert sum(len(words(turn["text"])) == 1 for turn in turns) >= 2
    assert sum(bool(turn["pauses"]) for turn in turns) >= 4


def test_word_error_rate_over_all_conversations(heard: dict[str, list[Json]]) -> None:
    errors = total = 0
    for name, messages in heard.items():
        reference = words(" ".join(turn["text"] for turn in manifest(name)["turns"]))
        text = words(" ".join(final["text"] for final in finals(messages)))
        errors += word_errors(reference, text)
        total += len(reference)
    assert errors / total <= MAX_WORD_ERROR_RATE, (errors, total)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_turn_and_no_other_is_found(name: str, heard: dict[str, list[Json]]) -> None:
    turns, found = manifest(name)["turns"], finals(heard[name])
    assert len(found) == len(turns)
    for turn, final in zip(turns, found, strict=True):
        assert final["start"] == pytest.approx(turn["start_s"], abs=TURN_EDGE_S)
        assert final["end"] == pytest.approx(turn["end_s"], abs=TURN_EDGE_S)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_one_word_turns_arrive(name: str, heard: dict[str, list[Json]]) -> None:
    short = [turn["text"] for turn in manifest(name)["turns"] if len(words(turn["text"])) == 1]
    texts = [final["text"] for final in finals(heard[name])]
    assert short
    for text in short:
        assert words(text)[0] in texts


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_interims_come_before_the_final_of_their_turn(
    name: str, heard: dict[str, list[Json]]
) -> None:
    segments = [message for message in heard[name] if "isFinal" in message]
    turn_ids = [segment["turnId"] for segment in segments]
    assert turn_ids == sorted(turn_ids)
    for turn_id in set(turn_ids):
        of_turn = [segment for segment in segments if segment["turnId"] == turn_id]
        assert [segment["isFinal"] for segment in of_turn] == [False] * (len(of_turn) - 1) + [True]
        assert len(of_turn) > 1


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_words_have_times_within_their_turn_and_confidences(
    name: str, heard: dict[str, list[Json]]
) -> None:
    for final in finals(heard[name]):
        assert " ".join(word["word"] for word in final["words"]) == final["text"]
        times = [time for word in final["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert final["start"] <= times[0]
        assert times[-1] <= final["end"] + TURN_EDGE_S
        assert all(0.0 <= word["confidence"] <= 1.0 for word in final["words"])
