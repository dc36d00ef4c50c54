//! The policy: how far to look, what counts as an overlap, and where to cut.

use std::ops::Range;

use crate::align::{Alignment, Pair, Scoring, align};

/// Words at the end of the older sequence that take part in an alignment: 8 s of fast speech at 6
/// words per second.
pub const TAIL_WORDS: usize = 48;

/// Words at the start of the newer sequence that take part in an alignment.
pub const HEAD_WORDS: usize = 48;

/// What two sequences have in common: a suffix of the older and a prefix of the newer one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Overlap {
    /// The suffix of `prev`; ends at `prev.len()`.
    pub prev: Range<usize>,
    /// The prefix of `new`; starts at 0.
    pub new: Range<usize>,
    /// The first pair of equal words.
    pub first_match: Pair,
    /// The merged sequence is `prev[..cut.prev]` followed by `new[cut.new..]`.
    pub cut: Pair,
    /// Sum of rewards less penalties, at least 1.
    pub score: i64,
}

/// Finds the suffix of `prev` that a prefix of `new` repeats; `None` if no alignment of the two
/// scores above zero.
///
/// Words that differ, were dropped or were inserted cost a penalty each, wherever they stand; the
/// rest of `prev` and of `new` is free. A phrase that is repeated at the seam counts as overlap as
/// far as it matches. Between equal scores the shortest prefix of `new` wins, which drops the
/// fewest words; then, read from the end, a pair before a skipped word of `prev` before a skipped
/// word of `new`.
///
/// Only the last [`TAIL_WORDS`] of `prev` and the first [`HEAD_WORDS`] of `new` are read, so the
/// cost does not grow with either: at most 2304 comparisons and 2304 bytes of steps. Indices
/// count from the start of `prev` and of `new`.
pub fn align_overlap<T: PartialEq>(prev: &[T], new: &[T], scoring: Scoring) -> Option<Overlap> {
    let skipped = prev.len().saturating_sub(TAIL_WORDS);
    let tail = &prev[skipped..];
    let head = &new[..new.len().min(HEAD_WORDS)];
    let alignment = align(tail, head, scoring)?;
    let in_prev = |pair: Pair| Pair { prev: pair.prev + skipped, ..pair };
    Some(Overlap {
        prev: alignment.prev_start + skipped..prev.len(),
        new: 0..alignment.new_end,
        first_match: in_prev(*alignment.matches.first()?),
        cut: in_prev(cut(&alignment, tail.len())?),
        score: alignment.score,
    })
}

/// Appends `new` to `prev`, writing the words they share once. Without overlap, concatenates.
///
/// ```
/// let merged = strops::merge_by_overlap(&["the", "brown", "fox"], &["brown", "fox", "jumps"]);
/// assert_eq!(merged, ["the", "brown", "fox", "jumps"]);
/// ```
pub fn merge_by_overlap<T: PartialEq + Clone>(prev: &[T], new: &[T]) -> Vec<T> {
    match align_overlap(prev, new, Scoring::DEFAULT) {
        Some(Overlap { cut, .. }) => [&prev[..cut.prev], &new[cut.new..]].concat(),
        None => [prev, new].concat(),
    }
}

/// The cut beside an equal pair that drops the most words on the side that drops fewer.
///
/// The last words of `prev` lack their right context and the first words of `new` their left one,
/// so the best place to change over is the one farthest from both. Between equals the later cut
/// wins: it keeps more of what may have been published.
fn cut(alignment: &Alignment, prev_len: usize) -> Option<Pair> {
    let around = |&pair: &Pair| {
        let after = Pair { prev: pair.prev + 1, new: pair.new + 1 };
        [pair, after]
    };
    alignment.matches.iter().flat_map(around).max_by_key(|cut| cut.new.min(prev_len - cut.prev))
}
