"""Merge overlapping word lists, such as transcripts of overlapping pieces of audio."""

from strops._strops import HEAD_WORDS, TAIL_WORDS, Overlap, align_overlap

__all__ = ["HEAD_WORDS", "TAIL_WORDS", "Overlap", "align_overlap", "merge_by_overlap"]


def merge_by_overlap(prev: list[str], new: list[str]) -> list[str]:
    """Append `new` to `prev` in a new list, writing the words they share once.

    Words are compared exactly; to compare them loosely, pass keys to `align_overlap` and cut the
    words where it says. Without overlap the result is `prev + new`.

    >>> merge_by_overlap(["The", "quick", "brown", "fox"], ["brown", "fox", "jumps"])
    ['The', 'quick', 'brown', 'fox', 'jumps']
    """
    overlap = align_overlap(prev, new)
    if overlap is None:
        return prev + new
    # One list of the final size, then a few words out near its end: growing a copy of a long
    # `prev` would copy it twice.
    merged = prev + new[overlap.new_cut :]
    del merged[overlap.prev_cut : len(prev)]
    return merged
