"""Word error rate and cost of merging simulated transcripts of overlapping chunks.

Run `python benchmarks/merge.py`; `--write docs/benchmarks.md` replaces the section `merge` there.
The text, the cuts and the errors are generated from a seed; nothing is downloaded.
"""

import argparse
import difflib
import platform
import random
import statistics
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from importlib.metadata import version
from pathlib import Path

import numpy as np
import strops
from report import machine, write_section

SEED = 20_260_101
DOCUMENT_WORDS = 300
EDGE_WORDS = 3
ERRORS = ("none", "dropped", "inserted", "garbled")
CONDITIONS = (*ERRORS, "mixed", "no overlap")

Words = list[str]
Merger = Callable[[Words, Words], Words]


def phrases(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split("|")]


SUBJECTS = phrases("""
    I|you|we|they|she|he|the doctor|the driver|my sister|our neighbour|Anna|Mr. Brown|the old man|
    the people in the office|everyone|the children|nobody|Peter|a friend of mine|the manager|it
""")
VERBS = phrases("""
    saw|wanted|found|called|needed|booked|thought about|talked about|was looking for|gave up|sold|
    would like|could not find|asked for|remembered|paid for|brought|forgot|heard about|moved
""")
OBJECTS = phrases("""
    the house|a table for two|the red car|some water|a ticket to Boston|the number|the same thing|
    that|it|the meeting on Monday|three or four boxes|a cup of tea|the other one|the first train|
    an appointment|the bill|his keys|the report|a new phone|the big one|the answer
""")
PLACES = phrases("""
    in the morning|at the station|before the end of the week|on the way to the airport|in London|
    in the middle of the night|for the first time|with the others|at ten o'clock|last year|
    after the meeting|near the river|for a long time|at the same time|again and again|on the table
""")
OPENERS = phrases("""
    Well,|You know,|No, no,|And then|But|So|I mean,|Yes,|Of course|At the end of the day|
    Very, very often|The thing is,
""")
JOINERS = [", and", ", but", ", because", ", so", ", when"]


@dataclass(frozen=True, slots=True)
class Recording:
    """What was said, and what was recognised in each of its overlapping chunks."""

    truth: Words
    chunks: list[Words]


def speak(rng: random.Random, length: int) -> Words:
    """At least `length` words of whole sentences with case, punctuation and repetition."""
    words: Words = []
    while len(words) < length:
        sentence = clause(rng)
        if rng.random() < 0.4:
            sentence += rng.choice(JOINERS) + " " + clause(rng)
        if rng.random() < 0.3:
            sentence = rng.choice(OPENERS) + " " + sentence
        words += (sentence[0].upper() + sentence[1:] + rng.choice("....?!")).split()
    return words


def clause(rng: random.Random) -> str:
    parts = [rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(OBJECTS)]
    if rng.random() < 0.6:
        parts.append(rng.choice(PLACES))
    return " ".join(parts)


def record(rng: random.Random, condition: str) -> Recording:
    """Cut a text at random into chunks of 20-40 words that overlap by 3-20, none at 'no overlap'.

    Each inner end of a chunk gets one error of the condition's kind, any kind if 'mixed', within
    `EDGE_WORDS` of it.
    """
    truth = speak(rng, DOCUMENT_WORDS)
    chunks: list[Words] = []
    start, end = 0, rng.randint(20, 40)
    while True:
        if len(truth) - end < 10:
            end = len(truth)
        chunks.append(recognise(rng, truth, start, end, condition))
        if end == len(truth):
            return Recording(truth, chunks)
        start = end if condition == "no overlap" else end - rng.randint(3, 20)
        end = max(end, start) + rng.randint(10, 25)


def recognise(rng: random.Random, truth: Words, start: int, end: int, condition: str) -> Words:
    """The words of one chunk, written as a sentence of its own, with its seam errors."""
    words = truth[start:end]
    if start > 0:
        words = seam_error(rng, words, condition)
        words[0] = words[0][0].upper() + words[0][1:]
    if end < len(truth):
        words = seam_error(rng, words[::-1], condition, reverse=True)[::-1]
        words[-1] = words[-1].rstrip(string.punctuation) + "."
    return words


def seam_error(rng: random.Random, words: Words, condition: str, *, reverse: bool = False) -> Words:
    """A copy with one word near its start lost, added or misheard."""
    words = words.copy()
    error = rng.choice(ERRORS) if condition in ("mixed", "no overlap") else condition
    at = rng.randrange(EDGE_WORDS)
    if error == "dropped":
        del words[at]
    elif error == "inserted":
        words.insert(at, rng.choice(speak(rng, 10)))
    elif error == "garbled":
        half = (len(words[at]) + 1) // 2
        words[at] = words[at][:half] if reverse else words[at][-half:]
    return words


def key(word: str) -> str:
    """What alignment compares: lower case, no punctuation at either end."""
    return word.lower().strip(string.punctuation)


def keys(words: Sequence[str]) -> Words:
    return [key(word) for word in words]


def concatenate(prev: Words, new: Words) -> Words:
    return prev + new


def lower_and_join(prev: Words, new: Words) -> Words:
    """The naive one: lower-case the text, align that, keep that."""
    merged = strops.merge_by_overlap(" ".join(prev).lower().split(), " ".join(new).lower().split())
    return " ".join(merged).split()


def exact_suffix(prev: Words, new: Words) -> Words:
    """The longest suffix of the old keys that equals a prefix of the new ones."""
    old, fresh = keys(prev[-strops.TAIL_WORDS :]), keys(new)
    for size in range(min(len(old), len(fresh)), 0, -1):
        if old[-size:] == fresh[:size]:
            return prev + new[size:]
    return prev + new


def longest_block(prev: Words, new: Words) -> Words:
    """difflib's longest common block of the same tail and head, changing over in its middle."""
    skipped = max(0, len(prev) - strops.TAIL_WORDS)
    tail, head = keys(prev[skipped:]), keys(new[: strops.HEAD_WORDS])
    block = difflib.SequenceMatcher(None, tail, head, autojunk=False).find_longest_match()
    if not block.size:
        return prev + new
    middle = (block.size + 1) // 2
    return prev[: skipped + block.a + middle] + new[block.b + middle :]


def aligned(prev: Words, new: Words, *, rule: str = "cut") -> Words:
    """strops: align keys, keep words; `rule` says where the merged text changes over."""
    overlap = strops.align_overlap(keys(prev), keys(new))
    if overlap is None:
        return prev + new
    kept, left_out = {
        "keep prev": (overlap.prev_end, overlap.new_end),
        "keep new": (overlap.prev_start, overlap.new_start),
        "first match": (overlap.prev_match, overlap.new_match),
        "cut": (overlap.prev_cut, overlap.new_cut),
    }[rule]
    return prev[:kept] + new[left_out:]


MERGERS: dict[str, Merger] = {
    "plain concatenation": concatenate,
    "lower-cased text, joined": lower_and_join,
    "longest exact suffix, keys and words": exact_suffix,
    "difflib's longest block, keys and words": longest_block,
    "**strops**, keys and words": aligned,
}
RULES: dict[str, Merger] = {
    "all of the old words (`prev_end`, `new_end`)": partial(aligned, rule="keep prev"),
    "all of the new words (`prev_start`, `new_start`)": partial(aligned, rule="keep new"),
    "new words from the first match": partial(aligned, rule="first match"),
    "**both, up to the cut** (`prev_cut`, `new_cut`)": aligned,
}


def word_errors(truth: Words, words: Words) -> int:
    """Fewest substitutions, deletions and insertions that turn `truth` into `words`."""
    ids: dict[str, int] = {}
    target = np.array([ids.setdefault(word, len(ids)) for word in words], dtype=np.int64)
    columns = np.arange(len(words) + 1)
    row = columns
    for count, word in enumerate(truth, 1):
        paired = row[:-1] + (target != ids.get(word, -1))
        best = np.concatenate(([count], np.minimum(paired, row[1:] + 1)))
        row = np.minimum.accumulate(best - columns) + columns
    return int(row[-1])


def error_rates(merger: Merger, recordings: Sequence[Recording]) -> tuple[float, float]:
    """Word errors per hundred words: as written, and of keys (neither case nor punctuation)."""
    written = normalised = total = 0
    for recording in recordings:
        merged = reduce(merger, recording.chunks)
        written += word_errors(recording.truth, merged)
        normalised += word_errors(keys(recording.truth), keys(merged))
        total += len(recording.truth)
    return 100 * written / total, 100 * normalised / total


def error_table(title: str, mergers: dict[str, Merger], documents: int) -> str:
    """One row per merger, one column per kind of seam error: WER as written / normalised."""
    recordings = {condition: simulate(condition, documents) for condition in CONDITIONS}
    rows = [
        [name, *("{:.1f} / {:.1f}".format(*error_rates(merge, r)) for r in recordings.values())]
        for name, merge in mergers.items()
    ]
    return table([title, *CONDITIONS], rows)


def simulate(condition: str, documents: int) -> list[Recording]:
    rng = random.Random(SEED)
    return [record(rng, condition) for _ in range(documents)]


def cost_table(runs: int) -> str:
    """Median and 99th percentile of appending 100 words, 20 of them known, to 10,000 others."""
    rng = random.Random(SEED)
    spoken = speak(rng, 10_080)
    prev, new = spoken[:10_000], spoken[9_980:10_080]
    skipped = len(prev) - strops.TAIL_WORDS

    def difflib_merge() -> Words:
        matcher = difflib.SequenceMatcher(None, prev[skipped:], new[: strops.HEAD_WORDS], False)
        block = matcher.find_longest_match()
        return prev[: skipped + block.a] + new[block.b :]

    tasks: dict[str, Callable[[], object]] = {
        "**strops** `merge_by_overlap`": lambda: strops.merge_by_overlap(prev, new),
        "of which `align_overlap`": lambda: strops.align_overlap(prev, new),
        "`prev + new` (copies, does not merge)": lambda: prev + new,
        "difflib on the same tail and head": difflib_merge,
    }
    timings = {name: microseconds(task, runs) for name, task in tasks.items()}
    base = statistics.median(next(iter(timings.values())))
    rows = []
    for name, times in timings.items():
        median, p99 = statistics.median(times), statistics.quantiles(times, n=100)[-1]
        rows.append([name, f"{median:.1f}", f"{p99:.1f}", f"{median / base:.2f}"])
    return table(["100 words onto 10,000", "median µs", "p99 µs", "ratio"], rows)


def microseconds(task: Callable[[], object], runs: int) -> list[float]:
    times: list[float] = []
    for _ in range(runs):
        started = time.perf_counter_ns()
        task()
        times.append((time.perf_counter_ns() - started) / 1_000)
    return times


def table(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


REPORT = """\
## Merging overlapping transcripts (`strops`)

{machine}; Python {python}, strops {strops}; `python benchmarks/merge.py`.

{documents} generated texts of {words} words per column, in chunks of 20-40 words. Consecutive
chunks share 3-20 words; near each end at a seam one word is dropped, inserted or cut in half, and
every chunk is written as a sentence of its own. `mixed` draws one of the four kinds per end; so
does `no overlap`, where chunks share nothing and an equal word at the seam is taken for an overlap.
Cells: % word errors as written / without case and punctuation.

{errors}

Which words of the overlap to keep, given the same alignments:

{rules}

Cost of one merge, called from Python:

{costs}
"""


def report(documents: int, runs: int) -> str:
    return REPORT.format(
        machine=machine(),
        python=platform.python_version(),
        strops=version("strops"),
        documents=documents,
        words=DOCUMENT_WORDS,
        errors=error_table("merged by", MERGERS, documents),
        rules=error_table("kept", RULES, documents),
        costs=cost_table(runs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100, help="texts per kind of error")
    parser.add_argument("--runs", type=int, default=5_000, help="timed calls per row")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the section there")
    args = parser.parse_args()
    markdown = report(args.documents, args.runs)
    print(markdown)
    if args.write:
        write_section(args.write, "merge", markdown)


if __name__ == "__main__":
    main()
