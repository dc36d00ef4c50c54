from typing import Final, final

TAIL_WORDS: Final[int]
"""Words at the end of `prev` that take part in an alignment (48: 8 s at 6 words per second)."""

HEAD_WORDS: Final[int]
"""Words at the start of `new` that take part in an alignment (48)."""

@final
class Overlap:
    """A suffix of `prev` and a prefix of `new` that say the same. Immutable and hashable.

    Ranges are half-open, and all indices count from the start of the lists that were aligned.
    """

    @property
    def prev_start(self) -> int:
        """Start of the suffix of `prev`."""
    @property
    def prev_end(self) -> int:
        """`len(prev)`."""
    @property
    def new_start(self) -> int:
        """0."""
    @property
    def new_end(self) -> int:
        """End of the prefix of `new`."""
    @property
    def prev_match(self) -> int:
        """Where the first word that is equal on both sides stands in `prev`."""
    @property
    def new_match(self) -> int:
        """Where that word stands in `new`."""
    @property
    def prev_cut(self) -> int:
        """Words of `prev` that a merged text keeps."""
    @property
    def new_cut(self) -> int:
        """Words of `new` that a merged text leaves out."""
    @property
    def score(self) -> int:
        """Rewards less penalties, at least 1."""

def align_overlap(
    prev: list[str],
    new: list[str],
    *,
    match_reward: int = 10,
    mismatch_penalty: int = 9,
    gap_penalty: int = 10,
) -> Overlap | None:
    """Find which suffix of `prev` a prefix of `new` repeats.

    Semi-global alignment: what stands before the suffix and after the prefix is free; within them
    an equal pair earns `match_reward`, a differing pair costs `mismatch_penalty`, and a word that
    the other side lacks costs `gap_penalty`. Words are compared exactly; align keys (say, lower
    case without punctuation) and cut the words the keys were made from:

        overlap = align_overlap(prev_keys, new_keys)
        if overlap is None:
            merged = prev + new
        else:
            merged = prev[: overlap.prev_cut] + new[overlap.new_cut :]

    - Evidence: the score must be above zero. With the defaults that takes about as many equal
      words as differing ones and more than skipped ones, so that one word in common, away from
      the seam, is no overlap. A single equal word is one at the seam itself or beside one garbled
      word, as in `the quick brown fox` + `wn fox jumps`.
    - Repetition counts as overlap as far as it matches: `no no no` + `no no yes` is
      `no no no yes`.
    - Ties: the shortest prefix of `new`, which drops the fewest words; then, read from the end, a
      pair before a skipped word of `prev` before a skipped word of `new`.
    - Cut: next to an equal word, as far as possible from both the end of `prev`, whose last words
      were heard without what follows, and the start of `new`, whose first word may be cut in half.
      Of the words it discards on either side the smaller number is the largest possible; between
      equals the later cut, which keeps more of `prev`.

    Reads only the last `TAIL_WORDS` of `prev` and the first `HEAD_WORDS` of `new`: O(1) in both
    lengths, at most about 20 µs and 2304 bytes of steps. Aligns with the GIL released.

    Raises:
        TypeError: `prev` or `new` is not a list, one of the words read is not a `str`, or a weight
            is not an `int`.
        ValueError: a weight is not in 1..=1,000,000.
    """
