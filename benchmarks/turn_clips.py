"""Clips of one turn each, whose true end is known: recorded digits and synthetic English.

Between words of a turn lie pauses of every length, made by inserting the clip's own background;
after the last word comes background until nothing more can happen.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from turn_voices import Voice

from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Samples

SEED = 20_261_121
LEAD_S, TAIL_S = 0.5, 4.0
HESITATION_S = (0.4, 1.2)
BETWEEN_SENTENCES_S = (0.3, 0.8)
FLOOR_DBFS, PEAK_DBFS = -65.0, -6.0
KEPT_S = 0.05
FADE = 160

SENTENCES = """
What time does the next flight to Chicago leave?
I would like to change my reservation.
Can you tell me how much it costs to send a package to Canada?
The heating in my apartment has stopped working.
Please call me back after five.
I'd prefer a seat near the window.
My account number is four seven one nine two.
How do I get to the central station from here?
That sounds good to me.
I need a doctor's appointment for tomorrow morning.
Could you repeat the last part?
The delivery was supposed to arrive on Tuesday.
""".strip().splitlines()
# The speaker stops at "|". Each is spoken as a whole, so that the melody does not end there.
HESITATIONS = """
I'd like to book a table for | four people on Friday.
I wanted to ask about the | bill I got last month.
We are looking for a hotel near | the old harbor.
My phone number is | five five two | three four nine.
So the problem is that | the screen stays black.
It should be delivered to | twenty two Park Street.
I think it was | on Tuesday evening.
Do you know if the | shop is open on Sunday?
Can I have the, um, | large one with extra cheese?
We need it for, uh, | the whole week.
I would rather, um, | pay in cash.
Well, | I am not sure if that is the right size.
I tried to restart it, | but it still does not work.
My name is Peter | and my last name is Brown.
""".strip().splitlines()
WORDS = ["Yes.", "No.", "Okay.", "Sure.", "Hello?", "Right.", "Thanks.", "Tomorrow."]
LONG = """
I am calling because the package that you sent me last week was delivered to my neighbor, and when \
I went to pick it up the box was already open.
We would like to stay for three nights from the second of April, in a quiet room on the upper \
floor with two beds and a view of the garden if you have one.
The machine makes a strange noise every time I turn it on in the morning, and after a few minutes \
it stops by itself and does not start again before the evening.
I was told that somebody would come and look at the window on Monday, but nobody came and nobody \
called me, so now I would like to know when I can expect you.
When I try to open my account it says that the password is wrong, although I changed it only \
yesterday and wrote it down on a piece of paper.
""".strip().splitlines()
# Each sentence is spoken by itself: where one ends, nothing tells whether another one follows.
SENTENCES_IN_A_ROW = """
Hi, I am calling about an order from last week. | I ordered two chairs and a table. | Only the \
table has arrived so far.
Last summer we stayed in a small hotel by the lake. | It was very quiet, and the food was good. | \
Do you know if it is still open?
First I went to the bank, but it was closed. | Then I tried the machine at the station. | That one \
kept my card.
We need somebody who can fix the roof before winter. | Could you come and have a look next week?
The train was two hours late, so I missed my connection. | I would like to have that money back.
""".strip().splitlines()
IN_A_ROW = "in a row"


@dataclass(frozen=True, slots=True)
class Clip:
    """One turn. Times are samples since the clip began."""

    name: str
    kind: str
    """`sentence`, `hesitant`, `one word`, `long` or `in a row` (of sentences)."""
    samples: Samples
    end: int
    """Where speech ends, and with it the turn."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Samples from `start` to `end` that background of `length` samples replaces."""

    start: int
    end: int
    length: int


def english(voices: Sequence[Voice]) -> list[Clip]:
    """Every text by two of the voices, or twice by the only one."""
    rng = random.Random(SEED)
    noise = np.random.default_rng(SEED).standard_normal(30 * SAMPLE_RATE).astype(np.float32)
    floor = noise * np.float32(10 ** (FLOOR_DBFS / 20))
    kinds = {
        "sentence": SENTENCES,
        "hesitant": HESITATIONS,
        "one word": WORDS,
        "long": LONG,
        IN_A_ROW: SENTENCES_IN_A_ROW,
    }
    return [
        _spoken(
            f"{kind} {index} {take}", kind, text, voices[(index + take) % len(voices)], floor, rng
        )
        for kind, texts in kinds.items()
        for index, text in enumerate(texts)
        for take in range(2)
    ]


def _spoken(
    name: str, kind: str, text: str, voice: Voice, floor: Samples, rng: random.Random
) -> Clip:
    spoken = voice.speak(text.replace("| ", ""))
    lengths = BETWEEN_SENTENCES_S if kind == IN_A_ROW else HESITATION_S
    holes: list[Hole] = []
    count = 0
    for phrase in text.split("| ")[:-1]:
        count += len(phrase.split())
        holes.append(_hole(spoken.words[count - 1].end, spoken.words[count].start, lengths, rng))
    speech = spoken.samples * np.float32(10 ** (PEAK_DBFS / 20) / np.abs(spoken.samples).max())
    return _clip(name, kind, speech + floor[: len(speech)], holes, floor)


def digits(folder: Path) -> list[Clip]:
    """Each turn of the recordings, and half of those of several words once more with pauses."""
    rng = random.Random(SEED)
    clips: list[Clip] = []
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] in ("empty", "cut"):
            continue
        samples, _ = soundfile.read(folder / entry["file"], dtype="float32")
        floor = _background(samples, entry["words"])
        for number, turn in enumerate(entry["turns"]):
            words = [
                word for word in entry["words"] if turn["start"] <= word["start"] < turn["end"]
            ]
            name = f"{Path(entry['file']).stem} {number}"
            clips += _digit_clips(name, entry["kind"], samples, words, floor, rng)
    return clips


def _digit_clips(
    name: str,
    kind: str,
    samples: Samples,
    words: Sequence[dict[str, Any]],
    floor: Samples,
    rng: random.Random,
) -> Iterator[Clip]:
    start, end = _at(words[0]["start"]), _at(words[-1]["end"])
    speech = samples[start:end]
    plain = "one word" if len(words) == 1 else "long" if len(words) > 6 else "sentence"
    yield _clip(name, "hesitant" if kind == "hesitant" else plain, speech, [], floor)
    if len(words) == 1 or kind == "hesitant" or rng.random() < 0.5:
        return
    gaps = [
        (_at(before["end"]) - start, _at(after["start"]) - start)
        for before, after in pairwise(words)
    ]
    chosen = sorted(rng.sample(gaps, k=min(len(gaps), rng.choice((1, 1, 2)))))
    holes = [_hole(*gap, HESITATION_S, rng) for gap in chosen]
    yield _clip(f"{name} hesitant", "hesitant", speech, holes, floor)


def _background(samples: Samples, words: Sequence[dict[str, Any]]) -> Samples:
    """30 s of what the recording's longest stretch without words sounds like."""
    edges = [0, *(_at(word[edge]) for word in words for edge in ("start", "end")), len(samples)]
    start, end = max(zip(edges[::2], edges[1::2], strict=True), key=lambda gap: gap[1] - gap[0])
    # There and back again: a seam would click.
    piece = np.concatenate((samples[start:end], samples[start:end][::-1]))
    return np.resize(piece, 30 * SAMPLE_RATE)


def _at(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _hole(end: int, start: int, lengths_s: tuple[float, float], rng: random.Random) -> Hole:
    """A pause instead of the one between two words; what is close to them stays."""
    keep = min((start - end) // 2, _at(KEPT_S))
    return Hole(end + keep, start - keep, _at(rng.uniform(*lengths_s)) - 2 * keep)


def _clip(name: str, kind: str, speech: Samples, holes: Sequence[Hole], floor: Samples) -> Clip:
    """`speech` between background, which also fills the holes."""
    parts, at = [floor[: _at(LEAD_S)]], 0
    for hole in holes:
        parts += [_faded(speech[at : hole.start]), floor[: hole.length]]
        at = hole.end
    parts.append(_faded(speech[at:]))
    end = sum(len(part) for part in parts)
    parts.append(floor[: (end + _at(TAIL_S)) // WINDOW_SAMPLES * WINDOW_SAMPLES - end])
    return Clip(name, kind, np.concatenate(parts), end)


def _faded(piece: Samples) -> Samples:
    """Without a click at either end."""
    ramp = np.minimum(1.0, np.arange(len(piece), dtype=np.float32) / FADE)
    return piece * ramp * ramp[::-1]
