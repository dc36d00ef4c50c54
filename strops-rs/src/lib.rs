//! Merge overlapping word sequences, such as the transcripts of overlapping pieces of audio.
//!
//! [`align_overlap`] says which suffix of the older sequence a prefix of the newer one repeats,
//! tolerating words that differ, were dropped or were inserted, and where to change over;
//! [`merge_by_overlap`] does so. Scores are integers and every tie has a rule, so results are the
//! same everywhere. The feature `python` adds the binding.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod align;
mod merge;
#[cfg(feature = "python")]
mod python;

pub use align::{MAX_WEIGHT, Pair, Scoring, ScoringError};
pub use merge::{HEAD_WORDS, Overlap, TAIL_WORDS, align_overlap, merge_by_overlap};
