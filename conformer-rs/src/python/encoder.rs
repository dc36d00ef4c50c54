//! The class `Encoder`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{arrays, columns, matrix, tensors};
use crate::{Chunk, Config, EncoderError, Isa, Tensors};

#[pyclass(module = "nemo_lite_cpu", frozen)]
pub struct Encoder {
    core: Mutex<crate::Encoder>,
}

#[pymethods]
impl Encoder {
    #[new]
    #[pyo3(signature = (layers, *, heads, left, max_chunk, slots, threads, isa = None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        layers: &Bound<'_, PyAny>,
        heads: usize,
        left: usize,
        max_chunk: usize,
        slots: usize,
        threads: usize,
        isa: Option<&str>,
    ) -> PyResult<Self> {
        let config = Config { heads, left, max_chunk, slots, threads, isa: Isa::choose(isa)? };
        let mut core: Option<crate::Encoder> = None;
        for layer in layers.try_iter()? {
            let arrays = arrays(&layer?)?;
            let tensors = tensors(&arrays)?;
            let encoder = match &mut core {
                Some(encoder) => encoder,
                None => core.insert(crate::Encoder::new(width(&tensors)?, config)?),
            };
            layers.py().detach(|| encoder.add_layer(&tensors))?;
        }
        let Some(core) = core else { return Err(PyValueError::new_err("there are no layers")) };
        Ok(Self { core: Mutex::new(core) })
    }

    fn fork(&self, py: Python<'_>, slots: usize) -> PyResult<Self> {
        Ok(Self { core: Mutex::new(py.detach(|| self.lock().fork(slots))?) })
    }

    fn step<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArray2<'py, f32>,
        slots: PyReadonlyArray1<'py, i64>,
        frames: PyReadonlyArray1<'py, i64>,
        valid: PyReadonlyArray1<'py, i64>,
        left: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let names = "slots, frames, valid and left";
        let chunks: Vec<Chunk> = columns(names, [&slots, &frames, &valid, &left])?
            .into_iter()
            .map(|[slot, frames, valid, left]| Chunk { slot, frames, valid, left })
            .collect();
        let [rows, width] = [x.shape()[0], x.shape()[1]];
        let x = x.as_slice()?;
        let mut out = vec![0.0; x.len()];
        py.detach(|| {
            let mut core = self.lock();
            if width != core.width() {
                return Err(EncoderError(format!("x is not (N, {})", core.width())));
            }
            core.step(x, &chunks, &mut out)
        })?;
        matrix(py, out, [rows, width])
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
        py.detach(|| self.lock().config().slots)
    }

    #[getter]
    fn d_model(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().width())
    }

    #[getter]
    fn isa(&self, py: Python<'_>) -> &'static str {
        py.detach(|| self.lock().config().isa.name())
    }

    #[getter]
    fn threads(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().config().threads)
    }

    #[getter]
    fn weight_bytes(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().weight_bytes())
    }

    #[getter]
    fn cache_bytes_per_slot(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().cache_bytes_per_slot())
    }
}

impl Encoder {
    /// Call it with the interpreter released: a step may hold the lock for long.
    fn lock(&self) -> MutexGuard<'_, crate::Encoder> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn width(tensors: &Tensors<'_>) -> Result<usize, EncoderError> {
    let norm = tensors.get("norm_out.weight").and_then(|norm| norm.shape.first());
    norm.copied().ok_or_else(|| EncoderError("norm_out.weight is missing".into()))
}
