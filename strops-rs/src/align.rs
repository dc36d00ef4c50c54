//! The dynamic programme: a suffix of one sequence against a prefix of another.

use std::fmt;

/// Largest value a reward or penalty may take: scores stay far inside `i64`.
pub const MAX_WEIGHT: i64 = 1_000_000;

/// What an alignment earns and pays. Every weight is in `1..=MAX_WEIGHT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    pub(crate) match_reward: i64,
    pub(crate) mismatch_penalty: i64,
    pub(crate) gap_penalty: i64,
}

impl Scoring {
    /// An equal pair earns 10, a differing pair costs 9, a skipped word 10.
    ///
    /// So an overlap needs about as many equal words as differing ones, and more than skipped
    /// ones. A lone equal word makes one at the seam or beside a single garbled word, not farther
    /// from the seam. Chosen by the word errors that `benchmarks/merge.py` counts.
    pub const DEFAULT: Self = Self { match_reward: 10, mismatch_penalty: 9, gap_penalty: 10 };

    /// Refuses a weight outside `1..=MAX_WEIGHT`.
    pub fn new(
        match_reward: i64,
        mismatch_penalty: i64,
        gap_penalty: i64,
    ) -> Result<Self, ScoringError> {
        for (name, value) in [
            ("match_reward", match_reward),
            ("mismatch_penalty", mismatch_penalty),
            ("gap_penalty", gap_penalty),
        ] {
            if !(1..=MAX_WEIGHT).contains(&value) {
                return Err(ScoringError { name });
            }
        }
        Ok(Self { match_reward, mismatch_penalty, gap_penalty })
    }
}

impl Default for Scoring {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A weight outside `1..=MAX_WEIGHT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoringError {
    name: &'static str,
}

impl fmt::Display for ScoringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be in 1..={MAX_WEIGHT}", self.name)
    }
}

impl std::error::Error for ScoringError {}

/// A position in each of the two sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Index into the older sequence.
    pub prev: usize,
    /// Index into the newer sequence.
    pub new: usize,
}

/// The best alignment of `prev[prev_start..]` with `new[..new_end]`.
pub(crate) struct Alignment {
    pub(crate) prev_start: usize,
    pub(crate) new_end: usize,
    /// Equal pairs in order, never empty.
    pub(crate) matches: Vec<Pair>,
    pub(crate) score: i64,
}

#[derive(Clone, Copy)]
enum Step {
    Pair,
    SkipPrev,
    SkipNew,
}

/// Aligns a suffix of `prev` with a prefix of `new`; `None` if no alignment scores above zero.
///
/// Ties are broken as [`align_overlap`](crate::align_overlap) says. Takes O(n·m) time and O(n·m)
/// bytes; callers bound both sides.
pub(crate) fn align<T: PartialEq>(prev: &[T], new: &[T], scoring: Scoring) -> Option<Alignment> {
    let (last_row, steps) = fill(prev, new, scoring);
    let (mut new_end, mut score) = (0, 0);
    for (end, &candidate) in last_row.iter().enumerate() {
        if candidate > score {
            (new_end, score) = (end, candidate);
        }
    }
    if score == 0 {
        return None;
    }

    let mut matches = Vec::new();
    let (mut i, mut j) = (prev.len(), new_end);
    while i > 0 && j > 0 {
        match steps[(i - 1) * new.len() + j - 1] {
            Step::Pair => {
                (i, j) = (i - 1, j - 1);
                if prev[i] == new[j] {
                    matches.push(Pair { prev: i, new: j });
                }
            }
            Step::SkipPrev => i -= 1,
            Step::SkipNew => j -= 1,
        }
    }
    matches.reverse();
    Some(Alignment { prev_start: i, new_end, matches, score })
}

/// The scores of all of `prev` against each prefix of `new`, and the best step into every cell.
fn fill<T: PartialEq>(prev: &[T], new: &[T], scoring: Scoring) -> (Vec<i64>, Vec<Step>) {
    let Scoring { match_reward, mismatch_penalty, gap_penalty } = scoring;
    let mut steps = vec![Step::Pair; prev.len() * new.len()];
    let mut row: Vec<i64> = (0..=new.len() as i64).map(|j| -gap_penalty * j).collect();
    for (old, steps) in prev.iter().zip(steps.chunks_exact_mut(new.len().max(1))) {
        // Column 0 stays 0 in every row: an alignment may start after any word of `prev`.
        let (mut diagonal, mut left) = (0, 0);
        for ((fresh, cell), step) in new.iter().zip(&mut row[1..]).zip(steps) {
            let pair =
                if old == fresh { diagonal + match_reward } else { diagonal - mismatch_penalty };
            let skip_prev = *cell - gap_penalty;
            let skip_new = left - gap_penalty;
            diagonal = *cell;
            left = pair.max(skip_prev).max(skip_new);
            *cell = left;
            *step = if pair == left {
                Step::Pair
            } else if skip_prev == left {
                Step::SkipPrev
            } else {
                Step::SkipNew
            };
        }
    }
    (row, steps)
}
