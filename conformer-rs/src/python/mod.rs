//! Conversions between Python objects and the core; documented in `_nemo_lite_cpu.pyi`.

mod encoder;
mod linear;
mod subsampling;

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use numpy::{PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::{EncoderError, Isa, IsaError, Tensor, Tensors};

#[pymodule]
mod _nemo_lite_cpu {
    #[pymodule_export]
    use super::encoder::Encoder;

    #[pymodule_export]
    use super::isas;

    #[pymodule_export]
    use super::linear::Linear;

    #[pymodule_export]
    use super::subsampling::Subsampling;
}

impl From<IsaError> for PyErr {
    fn from(error: IsaError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

impl From<EncoderError> for PyErr {
    fn from(error: EncoderError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

/// The names of the instruction sets that this processor has, the fastest first.
#[pyfunction]
fn isas() -> Vec<&'static str> {
    let all = Isa::ALL.into_iter().rev();
    all.filter(|isa| isa.is_available()).map(Isa::name).collect()
}

/// Name, shape and data.
type Array<'py> = (String, Vec<usize>, PyReadonlyArrayDyn<'py, f32>);

/// The items of a mapping as contiguous float32 arrays, copied only where they are not.
fn arrays<'py>(layer: &Bound<'py, PyAny>) -> PyResult<Vec<Array<'py>>> {
    let py = layer.py();
    let contiguous = py.import("numpy")?.getattr("ascontiguousarray")?;
    let options = PyDict::new(py);
    options.set_item("dtype", "float32")?;
    let items = layer.call_method0("items")?;
    items
        .try_iter()?
        .map(|item| {
            let (name, array): (String, Bound<'py, PyAny>) = item?.extract()?;
            let array = contiguous.call((array,), Some(&options))?;
            let array: PyReadonlyArrayDyn<'py, f32> = array.extract()?;
            Ok((name, array.shape().to_vec(), array))
        })
        .collect()
}

fn tensors<'a>(arrays: &'a [Array<'_>]) -> PyResult<Tensors<'a>> {
    arrays
        .iter()
        .map(|(name, shape, array)| Ok((name.clone(), Tensor { shape, data: array.as_slice()? })))
        .collect()
}

/// The rows of some columns of the same length, as numbers that are not negative.
fn columns<const N: usize>(
    names: &str,
    columns: [&PyReadonlyArray1<'_, i64>; N],
) -> PyResult<Vec<[usize; N]>> {
    let rows = columns[0].len();
    if columns.iter().any(|column| column.len() != rows) {
        return Err(PyValueError::new_err(format!("{names} differ in length")));
    }
    let columns = columns.map(|column| column.as_array());
    (0..rows)
        .map(|row| {
            let mut numbers = [0; N];
            for (number, column) in numbers.iter_mut().zip(&columns) {
                *number = usize::try_from(column[row]).map_err(|_| {
                    PyValueError::new_err(format!("{} among {names} is negative", column[row]))
                })?;
            }
            Ok(numbers)
        })
        .collect()
}

fn matrix(py: Python<'_>, data: Vec<f32>, shape: [usize; 2]) -> PyResult<Bound<'_, PyArray2<f32>>> {
    PyArray1::from_vec(py, data).reshape(shape)
}
