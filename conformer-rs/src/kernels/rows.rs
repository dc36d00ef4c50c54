//! What happens to one row at a time: norms, quantisation, the depthwise convolution.

use super::CHUNK;
use super::linear::RowScale;
use super::portable::nearest;
use super::simd::{self, Simd};
use crate::memory::Aligned;

/// A layer norm over a multiple of `PAD` channels, epsilon 1e-5.
#[derive(Debug)]
pub struct Norm {
    /// (D,).
    pub weight: Aligned<f32>,
    /// (D,).
    pub bias: Aligned<f32>,
}

const EPSILON: f32 = 1e-5;

/// See `Kernels::norm`. Both pointers are good for as many values as the norm has channels.
#[inline(always)]
pub unsafe fn norm<S: Simd>(norm: &Norm, from: *const f32, to: *mut f32) {
    let n = norm.weight.len();
    // SAFETY: all accesses lie below `n`, a multiple of LANES.
    unsafe {
        let mut sum = S::splat(0.0);
        for at in (0..n).step_by(S::LANES) {
            sum = S::add(sum, S::load(from.add(at)));
        }
        let mean = S::splat(S::sum(sum) / n as f32);
        let mut squares = S::splat(0.0);
        for at in (0..n).step_by(S::LANES) {
            let x = S::sub(S::load(from.add(at)), mean);
            squares = S::fma(x, x, squares);
        }
        let scale = S::splat(1.0 / (S::sum(squares) / n as f32 + EPSILON).sqrt());
        for at in (0..n).step_by(S::LANES) {
            let x = S::mul(S::sub(S::load(from.add(at)), mean), scale);
            let weight = S::load(norm.weight.as_ptr().add(at));
            S::store(to.add(at), S::fma(x, weight, S::load(norm.bias.as_ptr().add(at))));
        }
    }
}

/// Where the quantised values of a row go: the first chunk to `to`, the others `stride` apart.
pub struct QuantisedRow {
    /// Values, a multiple of `PAD`.
    pub n: usize,
    pub to: *mut u8,
    pub stride: usize,
    pub act_max: u8,
}

/// See `Kernels::quantise`. The range runs from the smallest to the largest value, zero included.
#[inline(always)]
pub unsafe fn quantise<S: Simd>(from: *const f32, row: &QuantisedRow) -> RowScale {
    // SAFETY: all reads lie below `n`, a multiple of PAD; the writes are those of this row.
    unsafe {
        let (low, high) = range::<S>(from, row.n);
        let most = f32::from(row.act_max);
        let range = high - low;
        // Also false for NaN; a row of zeros stays one.
        let inverse = if range > 1e-30 { most / range } else { 0.0 };
        let zero = nearest(-low * inverse);
        for at in (0..row.n).step_by(S::LANES) {
            let x = S::fma(S::load(from.add(at)), S::splat(inverse), S::splat(zero));
            let x = S::min(S::max(x, S::splat(0.0)), S::splat(most));
            S::store_u8(row.to.add(at / CHUNK * row.stride + at % CHUNK), x);
        }
        // What pads the last chunk meets weights of zero.
        RowScale { scale: if inverse > 0.0 { range / most } else { 0.0 }, zero: zero as i32 }
    }
}

/// The smallest and the largest value, zero included.
#[inline(always)]
unsafe fn range<S: Simd>(from: *const f32, n: usize) -> (f32, f32) {
    // SAFETY: all reads lie below `n`, a multiple of LANES.
    unsafe {
        let mut low = [S::splat(0.0); 4];
        let mut high = [S::splat(0.0); 4];
        let vectors = n / S::LANES;
        for vector in (0..vectors / 4 * 4).step_by(4) {
            for (lane, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                let x = S::load(from.add((vector + lane) * S::LANES));
                *low = S::min(x, *low);
                *high = S::max(x, *high);
            }
        }
        for vector in vectors / 4 * 4..vectors {
            let x = S::load(from.add(vector * S::LANES));
            low[0] = S::min(x, low[0]);
            high[0] = S::max(x, high[0]);
        }
        let low = S::min(S::min(low[0], low[1]), S::min(low[2], low[3]));
        let high = S::max(S::max(high[0], high[1]), S::max(high[2], high[3]));
        (S::minimum(low), S::maximum(high))
    }
}

/// Causal depthwise convolution at one frame of a chunk.
pub struct Depthwise<'a> {
    /// (taps, D), the oldest tap first.
    pub weight: &'a [f32],
    /// (D,).
    pub bias: &'a [f32],
    /// (frames, D): the chunk.
    pub chunk: *const f32,
    /// The frame of the chunk to compute.
    pub frame: usize,
    /// Frames of the chunk that are not padding.
    pub valid: usize,
    /// (ring, D): frame t of the stream stands at t % ring.
    pub ring: *const f32,
    pub ring_frames: usize,
    /// Frames of the stream before the chunk.
    pub time: usize,
}

/// See `Kernels::depthwise`. `to` is good for D values.
#[inline(always)]
pub unsafe fn depthwise<S: Simd>(job: &Depthwise<'_>, to: *mut f32) {
    let n = job.bias.len();
    let taps = job.weight.len() / n;
    // SAFETY: sources are rows of D values of the chunk or of the ring, where the caller keeps at
    // least the taps - 1 newest frames.
    unsafe {
        to.copy_from_nonoverlapping(job.bias.as_ptr(), n);
        for tap in 0..taps {
            let frame = job.time + job.frame + tap;
            let Some(frame) = frame.checked_sub(taps - 1) else { continue };
            let from = if frame < job.time {
                job.ring.add(frame % job.ring_frames * n)
            } else if frame - job.time < job.valid {
                job.chunk.add((frame - job.time) * n)
            } else {
                continue;
            };
            let weight = job.weight.as_ptr().add(tap * n);
            for at in (0..n).step_by(S::LANES) {
                let sum = S::load(to.add(at));
                S::store(to.add(at), S::fma(S::load(from.add(at)), S::load(weight.add(at)), sum));
            }
        }
    }
}

/// See `Kernels::silu`.
#[inline(always)]
pub unsafe fn silu<S: Simd>(row: *mut f32, n: usize) {
    // SAFETY: all accesses lie below `n`, a multiple of LANES.
    unsafe {
        for at in (0..n).step_by(S::LANES) {
            S::store(row.add(at), simd::silu::<S>(S::load(row.add(at))));
        }
    }
}
