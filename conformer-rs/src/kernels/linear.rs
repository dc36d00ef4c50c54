//! Linear layers: activations quantised per row, the rest of the layer fused in.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::packed::Packed;
use super::simd::{Simd, sigmoid, silu};
use super::{Ahead, CHUNK, Tile};
use crate::memory::Shared;

/// What becomes of a linear layer's outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Stored as they are.
    Store,
    /// max(y, 0).
    Relu,
    /// y * sigmoid(y).
    Silu,
    /// The first half times the sigmoid of the second half; half as many outputs.
    Glu,
    /// This much of them is added to what is there.
    Add(f32),
}

/// How a row of activations was quantised: value = scale * (quantised - zero).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowScale {
    pub scale: f32,
    pub zero: i32,
}

/// How M rows are cut into tiles: as few as possible, of nearly equal height.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    rows: usize,
    count: usize,
}

impl Tiles {
    /// Cuts `rows` into tiles of at most `most`.
    pub fn new(rows: usize, most: usize) -> Self {
        Self { rows, count: rows.div_ceil(most) }
    }

    /// First row and number of rows of a tile.
    fn tile(self, index: usize) -> (usize, usize) {
        let (low, taller) = (self.rows / self.count, self.rows % self.count);
        (index * low + index.min(taller), low + usize::from(index < taller))
    }

    /// First row and number of rows of the tile that holds `row`.
    pub fn holding(self, row: usize) -> (usize, usize) {
        let (low, taller) = (self.rows / self.count, self.rows % self.count);
        let split = taller * (low + 1);
        let index = if row < split { row / (low + 1) } else { taller + (row - split) / low };
        self.tile(index)
    }
}

/// One linear layer applied to some rows.
///
/// `acts` holds the rows in tiles (see `Tiles`), `scales` one entry per row, and `out` takes
/// `rows` rows of `weights.outputs()`, `stride` apart.
pub struct LinearJob<'a> {
    pub weights: &'a Packed,
    pub acts: *const u8,
    pub scales: *const RowScale,
    pub rows: usize,
    pub op: Op,
    pub out: Shared<f32>,
    pub stride: usize,
}

// SAFETY: addresses only; whoever calls a kernel answers for what they point to.
unsafe impl Sync for LinearJob<'_> {}

/// Inputs whose weights stay in the first-level cache while all tiles meet them.
const DEPTH: usize = 512;
/// Tiles whose sums are kept at once.
const TILES: usize = 8;
/// Largest tile, rows times outputs.
const TILE_SUMS: usize = 14 * 32;

/// See `Kernels::linear`.
#[inline(always)]
pub unsafe fn block<S: Simd>(job: &LinearJob<'_>, block: usize, next: *const i8, kernels: &[Tile]) {
    let tiles = Tiles::new(job.rows, kernels.len());
    let mut sums = [MaybeUninit::<i32>::uninit(); TILES * TILE_SUMS];
    let stride = kernels.len() * 2 * S::LANES;
    for first in (0..tiles.count).step_by(TILES) {
        let some = first..(first + TILES).min(tiles.count);
        // SAFETY: the job's pointers reach as far as its documentation says.
        unsafe {
            multiply::<S>(job, block, next, kernels, some.clone(), sums.as_mut_ptr().cast());
            for (index, tile) in some.enumerate() {
                let (row, rows) = tiles.tile(tile);
                let sums = sums.as_ptr().cast::<i32>().add(index * stride);
                for index in 0..rows {
                    finish::<S>(job, block, row + index, sums.add(index * 2 * S::LANES));
                }
            }
        }
    }
}

/// The sums of some tiles and one block, as far apart as the largest tile has sums.
#[inline(always)]
unsafe fn multiply<S: Simd>(
    job: &LinearJob<'_>,
    block: usize,
    next: *const i8,
    kernels: &[Tile],
    some: Range<usize>,
    sums: *mut i32,
) {
    let tiles = Tiles::new(job.rows, kernels.len());
    let padded = job.weights.padded_inputs();
    let width = 2 * S::LANES;
    // A single tile needs every weight once; otherwise the parts stay cached for the next tile.
    let depth = if some.len() == 1 { padded } else { DEPTH };
    // SAFETY: as in `block`.
    unsafe {
        for from in (0..padded).step_by(depth) {
            let inputs = depth.min(padded - from);
            let weights = job.weights.weights_of(block).add(from * width);
            for (index, tile) in some.clone().enumerate() {
                let (row, rows) = tiles.tile(tile);
                let acts = job.acts.add(row * padded + from * rows);
                // The first tile, or the first two by halves, fetch the next block's weights.
                let ahead = match (tile, tiles.count) {
                    (0, 1) => Ahead { start: next.wrapping_add(from * width), step: width * 4 },
                    (0 | 1, _) => {
                        let start = next.wrapping_add((from + tile * inputs / 2) * width);
                        Ahead { start, step: width * 2 }
                    }
                    _ => Ahead { start: weights, step: 0 },
                };
                let sums = sums.add(index * kernels.len() * width);
                kernels[rows - 1](acts, weights, inputs / CHUNK, ahead, from > 0, sums);
            }
        }
    }
}

/// Turns the sums of one row and block into outputs.
#[inline(always)]
unsafe fn finish<S: Simd>(job: &LinearJob<'_>, block: usize, row: usize, sums: *const i32) {
    // SAFETY: as in `block`.
    unsafe {
        let column = block * 2 * S::LANES;
        let a = value::<S>(job, row, column, sums);
        let b = value::<S>(job, row, column + S::LANES, sums.add(S::LANES));
        if job.op == Op::Glu {
            let y = S::mul(a, sigmoid::<S>(b));
            return put::<S, 1>(job, row, block * S::LANES, [y]);
        }
        put::<S, 2>(job, row, column, [a, b]);
    }
}

/// One vector of outputs. No closure: those are compiled without the vector unit's instructions.
#[inline(always)]
unsafe fn value<S: Simd>(job: &LinearJob<'_>, row: usize, column: usize, sums: *const i32) -> S::V {
    let Packed { sums: weight_sums, scales, bias, .. } = job.weights;
    // SAFETY: as in `block`; parameters are padded to whole blocks.
    unsafe {
        let RowScale { scale, zero } = *job.scales.add(row);
        let y = S::dequantise(sums, zero, weight_sums.as_ptr().add(column));
        let scale = S::mul(S::splat(scale), S::load(scales.as_ptr().add(column)));
        S::fma(y, scale, S::load(bias.as_ptr().add(column)))
    }
}

/// Applies the operation and writes what lies inside the row.
#[inline(always)]
unsafe fn put<S: Simd, const N: usize>(
    job: &LinearJob<'_>,
    row: usize,
    column: usize,
    values: [S::V; N],
) {
    // SAFETY: as in `block`; the last columns of a ragged layer go through a copy.
    unsafe {
        let to = job.out.at(row * job.stride + column);
        let width = (job.weights.outputs() - column).min(N * S::LANES);
        let whole = width == N * S::LANES;
        let mut copy = [0f32; 32];
        if !whole {
            copy.as_mut_ptr().copy_from_nonoverlapping(to, width);
        }
        let target = if whole { to } else { copy.as_mut_ptr() };
        for (index, y) in values.into_iter().enumerate() {
            let at = target.add(index * S::LANES);
            let y = match job.op {
                Op::Store | Op::Glu => y,
                Op::Relu => S::max(y, S::splat(0.0)),
                Op::Silu => silu::<S>(y),
                Op::Add(factor) => S::fma(y, S::splat(factor), S::load(at)),
            };
            S::store(at, y);
        }
        if !whole {
            to.copy_from_nonoverlapping(copy.as_ptr(), width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_rows_in_order() {
        for rows in 1..100 {
            for most in [1, 4, 14] {
                let tiles = Tiles::new(rows, most);
                let mut next = 0;
                for index in 0..tiles.count {
                    let (first, height) = tiles.tile(index);
                    assert!(first == next && (1..=most).contains(&height));
                    for row in first..first + height {
                        assert_eq!(tiles.holding(row), (first, height));
                    }
                    next += height;
                }
                assert_eq!(next, rows);
            }
        }
    }
}
