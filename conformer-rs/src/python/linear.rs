//! The class `Linear`.

use numpy::{
    PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::Isa;

#[pyclass(module = "nemo_lite_cpu", frozen)]
pub struct Linear {
    core: crate::Linear,
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
        if !(1..=256).contains(&threads) {
            return Err(PyValueError::new_err("threads is not within 1..=256"));
        }
        packed(py, &weight, bias.as_ref(), |weight, bias, inputs| {
            crate::Linear::new(weight, bias, inputs, threads, isa)
        })
    }

    #[pyo3(signature = (weight, bias = None))]
    fn beside(
        &self,
        py: Python<'_>,
        weight: PyReadonlyArray2<'_, f32>,
        bias: Option<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<Self> {
        packed(py, &weight, bias.as_ref(), |weight, bias, inputs| {
            self.core.beside(weight, bias, inputs)
        })
    }

    #[pyo3(signature = (x, out = None))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArray2<'py, f32>,
        out: Option<PyReadwriteArray2<'py, f32>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let shape = [x.shape()[0], self.core.outputs()];
        if x.shape()[1] != self.core.inputs() {
            return Err(PyValueError::new_err("x has the wrong number of columns"));
        }
        if !x.is_c_contiguous() || out.as_ref().is_some_and(|out| !out.is_c_contiguous()) {
            return Err(PyValueError::new_err("x or out is not contiguous"));
        }
        let from = x.as_slice()?;
        if let Some(mut out) = out {
            if out.shape() != shape {
                return Err(PyValueError::new_err("out has the wrong shape"));
            }
            let to = out.as_slice_mut()?;
            py.detach(|| self.core.apply(from, to));
            return Ok((**out).clone());
        }
        let mut data = vec![0.0; shape[0] * shape[1]];
        py.detach(|| self.core.apply(from, &mut data));
        PyArray1::from_vec(py, data).reshape(shape)
    }

    #[getter]
    fn weight_bytes(&self) -> usize {
        self.core.bytes()
    }
}

fn packed(
    py: Python<'_>,
    weight: &PyReadonlyArray2<'_, f32>,
    bias: Option<&PyReadonlyArray1<'_, f32>>,
    pack: impl Send + FnOnce(&[f32], Option<&[f32]>, usize) -> crate::Linear,
) -> PyResult<Linear> {
    let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
    if weight.is_empty() || bias.is_some_and(|bias| bias.len() != outputs) {
        return Err(PyValueError::new_err("weight is empty, or bias does not fit"));
    }
    if !weight.is_c_contiguous() {
        return Err(PyValueError::new_err("weight is not contiguous"));
    }
    let weight = weight.as_slice()?;
    let bias = bias.map(|bias| bias.as_slice()).transpose()?;
    let core = py.detach(|| pack(weight, bias, inputs));
    Ok(Linear { core })
}
