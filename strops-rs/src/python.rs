//! Conversions between Python objects and the core; documented in `_strops.pyi`.

use std::ops::Range;

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use crate::{HEAD_WORDS, Scoring, ScoringError, TAIL_WORDS};

#[pymodule]
mod _strops {
    #[pymodule_export]
    use super::{Overlap, align_overlap};

    #[pymodule_export]
    const TAIL_WORDS: usize = crate::TAIL_WORDS;

    #[pymodule_export]
    const HEAD_WORDS: usize = crate::HEAD_WORDS;
}

#[pyclass(module = "strops", frozen, eq, hash, get_all)]
#[derive(PartialEq, Eq, Hash)]
struct Overlap {
    prev_start: usize,
    prev_end: usize,
    new_start: usize,
    new_end: usize,
    prev_match: usize,
    new_match: usize,
    prev_cut: usize,
    new_cut: usize,
    score: i64,
}

#[pymethods]
impl Overlap {
    fn __repr__(&self) -> String {
        format!(
            "Overlap(prev_start={}, prev_end={}, new_start={}, new_end={}, prev_match={}, \
             new_match={}, prev_cut={}, new_cut={}, score={})",
            self.prev_start,
            self.prev_end,
            self.new_start,
            self.new_end,
            self.prev_match,
            self.new_match,
            self.prev_cut,
            self.new_cut,
            self.score,
        )
    }
}

/// A Python `int`, saturated: what does not fit is out of every range of weights.
struct Weight(i64);

impl<'py> FromPyObject<'_, 'py> for Weight {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract() {
            Ok(weight) => Ok(Self(weight)),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                Ok(Self(i64::MAX))
            }
            Err(error) => Err(error),
        }
    }
}

impl From<ScoringError> for PyErr {
    fn from(error: ScoringError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

/// Find which suffix of `prev` a prefix of `new` repeats, or None.
#[pyfunction]
#[pyo3(
    signature = (
        prev,
        new,
        *,
        match_reward = Weight(Scoring::DEFAULT.match_reward),
        mismatch_penalty = Weight(Scoring::DEFAULT.mismatch_penalty),
        gap_penalty = Weight(Scoring::DEFAULT.gap_penalty),
    ),
    text_signature = "(prev, new, *, match_reward=10, mismatch_penalty=9, gap_penalty=10)"
)]
fn align_overlap(
    prev: &Bound<'_, PyList>,
    new: &Bound<'_, PyList>,
    match_reward: Weight,
    mismatch_penalty: Weight,
    gap_penalty: Weight,
) -> PyResult<Option<Overlap>> {
    let py = prev.py();
    let scoring = Scoring::new(match_reward.0, mismatch_penalty.0, gap_penalty.0)?;
    let skipped = prev.len().saturating_sub(TAIL_WORDS);
    let ids = PyDict::new(py);
    let tail = intern(&ids, prev, skipped..prev.len())?;
    let head = intern(&ids, new, 0..new.len().min(HEAD_WORDS))?;
    let overlap = py.detach(|| crate::align_overlap(&tail, &head, scoring));
    Ok(overlap.map(|overlap| Overlap {
        prev_start: overlap.prev.start + skipped,
        prev_end: overlap.prev.end + skipped,
        new_start: overlap.new.start,
        new_end: overlap.new.end,
        prev_match: overlap.first_match.prev + skipped,
        new_match: overlap.first_match.new,
        prev_cut: overlap.cut.prev + skipped,
        new_cut: overlap.cut.new,
        score: overlap.score,
    }))
}

/// Numbers equal words alike. A Python dict does it: `str` caches its hash, and lone surrogates,
/// which have no UTF-8, are words like any other.
fn intern(
    ids: &Bound<'_, PyDict>,
    words: &Bound<'_, PyList>,
    range: Range<usize>,
) -> PyResult<Vec<usize>> {
    range
        .map(|index| {
            let word = words.get_item(index)?.cast_into::<PyString>()?;
            if let Some(id) = ids.get_item(&word)? {
                return id.extract();
            }
            let id = ids.len();
            ids.set_item(word, id)?;
            Ok(id)
        })
        .collect()
}
