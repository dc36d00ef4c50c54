//! The class `Subsampling`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{arrays, columns, matrix, tensors};
use crate::{EncoderError, Isa, MelChunk};

#[pyclass(module = "nemo_lite_cpu", frozen)]
pub struct Subsampling {
    core: Mutex<crate::Subsampling>,
}

#[pymethods]
impl Subsampling {
    #[new]
    #[pyo3(signature = (weights, *, n_mels, slots, threads, isa = None))]
    fn new(
        weights: &Bound<'_, PyAny>,
        n_mels: usize,
        slots: usize,
        threads: usize,
        isa: Option<&str>,
    ) -> PyResult<Self> {
        let isa = Isa::choose(isa)?;
        let arrays = arrays(weights)?;
        let tensors = tensors(&arrays)?;
        let core = weights
            .py()
            .detach(|| crate::Subsampling::new(&tensors, n_mels, slots, threads, isa))?;
        Ok(Self { core: Mutex::new(core) })
    }

    fn fork(&self, py: Python<'_>, slots: usize) -> PyResult<Self> {
        Ok(Self { core: Mutex::new(py.detach(|| self.lock().fork(slots))?) })
    }

    fn step<'py>(
        &self,
        py: Python<'py>,
        mel: PyReadonlyArray2<'py, f32>,
        slots: PyReadonlyArray1<'py, i64>,
        frames: PyReadonlyArray1<'py, i64>,
        mel_length: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let chunks: Vec<MelChunk> =
            columns("slots, frames and mel_length", [&slots, &frames, &mel_length])?
                .into_iter()
                .map(|[slot, frames, mel_length]| MelChunk { slot, frames, mel_length })
                .collect();
        let [rows, bins] = [mel.shape()[0], mel.shape()[1]];
        let mel = mel.as_slice()?;
        let (out, shape) = py.detach(|| {
            let mut core = self.lock();
            if bins != core.n_mels() {
                return Err(EncoderError(format!("mel is not (N, {})", core.n_mels())));
            }
            let shape = [rows / core.factor(), core.width()];
            let mut out = vec![0.0; shape[0] * shape[1]];
            core.step(mel, &chunks, &mut out)?;
            Ok((out, shape))
        })?;
        matrix(py, out, shape)
    }

    fn clear(&self, py: Python<'_>, slot: usize) -> PyResult<()> {
        Ok(py.detach(|| self.lock().clear(slot))?)
    }

    fn save<'py>(&self, py: Python<'py>, slot: usize) -> PyResult<Bound<'py, PyBytes>> {
        let state = py.detach(|| self.lock().save(slot))?;
        Ok(PyBytes::new(py, &state))
    }

    fn load(&self, py: Python<'_>, slot: usize, state: &[u8]) -> PyResult<()> {
        Ok(py.detach(|| self.lock().load(slot, state))?)
    }

    #[getter]
    fn slots(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().slots())
    }

    #[getter]
    fn d_model(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().width())
    }

    #[getter]
    fn factor(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().factor())
    }
}

impl Subsampling {
    /// Call it with the interpreter released: a step may hold the lock for long.
    fn lock(&self) -> MutexGuard<'_, crate::Subsampling> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
