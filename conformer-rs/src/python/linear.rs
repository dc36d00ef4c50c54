//! The class `Linear`.

use std::sync::{Mutex, PoisonError};

use numpy::{PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::matrix;
use crate::Isa;

#[pyclass(module = "nemo_lite_cpu", frozen)]
pub struct Linear {
    core: Mutex<crate::Linear>,
}

#[pymethods]
impl Linear {
    #[new]
    #[pyo3(signature = (weight, bias = None, *, threads, isa = None))]
    fn new(
        py: Python<'_>,
        weight: PyReadonlyArray2<'_, f32>,
        bias: Option<PyReadonlyArray1<'_, f32>>,
        threads: usize,
        isa: Option<&str>,
    ) -> PyResult<Self> {
        let isa = Isa::choose(isa)?;
        let inputs = weight.shape()[1];
        let fits = bias.as_ref().is_none_or(|bias| bias.len() == weight.shape()[0]);
        if weight.is_empty() || !fits || !(1..=256).contains(&threads) {
            return Err(PyValueError::new_err("weight is empty, or bias or threads does not fit"));
        }
        let weight = weight.as_slice()?;
        let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
        let core = py.detach(|| crate::Linear::new(weight, bias, inputs, threads, isa));
        Ok(Self { core: Mutex::new(core) })
    }

    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArray2<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let [rows, width] = [x.shape()[0], x.shape()[1]];
        let x = x.as_slice()?;
        let out = py.detach(|| {
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            let mut out = vec![0.0; rows * core.outputs()];
            (width == core.inputs()).then(|| {
                core.apply(x, &mut out);
                (core.outputs(), out)
            })
        });
        let Some((outputs, out)) = out else {
            return Err(PyValueError::new_err("x has the wrong number of columns"));
        };
        matrix(py, out, [rows, outputs])
    }
}
