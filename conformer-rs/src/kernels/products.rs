//! The two matrix products of attention, in tiles that fit the registers.

use super::attention::{Attend, AttendScratch, KEY_BLOCK, Run};
use super::simd::Simd;

/// out[t][n] = sum over d of queries[t][d] * blocks[n / 16][d][n % 16], for `count` blocks.
#[inline(always)]
pub unsafe fn scores<S: Simd>(
    job: &Attend<'_>,
    queries: *const f32,
    blocks: *const u16,
    count: usize,
    out: *mut f32,
    stride: usize,
) {
    let dk = job.shape.dk;
    // SAFETY: the tiles cover exactly `frames` rows and `count` blocks.
    unsafe {
        let mut frame = 0;
        while frame < job.frames {
            let wide = S::LANES == 16 && job.frames - frame >= 4;
            let rows = if wide { 4 } else { (job.frames - frame).min(2) };
            let queries = queries.add(frame * dk);
            let mut at = 0;
            while at < count * KEY_BLOCK {
                let vectors = vectors_of::<S>(count * KEY_BLOCK - at);
                let blocks = blocks.add(at * dk);
                let out = out.add(frame * stride + at);
                match (rows, vectors) {
                    (4, 4) => dots::<S, 4, 4>(queries, dk, blocks, out, stride),
                    (4, 2) => dots::<S, 4, 2>(queries, dk, blocks, out, stride),
                    (4, _) => dots::<S, 4, 1>(queries, dk, blocks, out, stride),
                    (2, 4) => dots::<S, 2, 4>(queries, dk, blocks, out, stride),
                    (2, 2) => dots::<S, 2, 2>(queries, dk, blocks, out, stride),
                    (2, _) => dots::<S, 2, 1>(queries, dk, blocks, out, stride),
                    (_, 4) => dots::<S, 1, 4>(queries, dk, blocks, out, stride),
                    (_, 2) => dots::<S, 1, 2>(queries, dk, blocks, out, stride),
                    (_, _) => dots::<S, 1, 1>(queries, dk, blocks, out, stride),
                }
                at += vectors * S::LANES;
            }
            frame += rows;
        }
    }
}

/// The widest tile that fits into `numbers`, a multiple of 16.
#[inline(always)]
fn vectors_of<S: Simd>(numbers: usize) -> usize {
    match numbers / S::LANES {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => 4,
    }
}

#[inline(always)]
unsafe fn dots<S: Simd, const T: usize, const N: usize>(
    queries: *const f32,
    dk: usize,
    blocks: *const u16,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: see `scores`.
    unsafe {
        let place = |n: usize| {
            let at = n * S::LANES;
            at / KEY_BLOCK * dk * KEY_BLOCK + at % KEY_BLOCK
        };
        let mut sums = [[S::splat(0.0); N]; T];
        for d in 0..dk {
            let mut keys = [S::splat(0.0); N];
            for (n, key) in keys.iter_mut().enumerate() {
                *key = S::load_half(blocks.add(place(n) + d * KEY_BLOCK));
            }
            for (t, sums) in sums.iter_mut().enumerate() {
                let q = S::splat(*queries.add(t * dk + d));
                for (sum, &key) in sums.iter_mut().zip(&keys) {
                    *sum = S::fma(q, key, *sum);
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                S::store(out.add(t * stride + n * S::LANES), sum);
            }
        }
    }
}

/// The values, weighted, of all queries.
#[inline(always)]
pub unsafe fn mix<S: Simd>(job: &Attend<'_>, runs: &[Run; 2], scratch: &mut AttendScratch) {
    let width = job.shape.value_stride();
    // SAFETY: as in `scores`; outputs are copied from padded rows.
    unsafe {
        let (weights, out) = (scratch.weights.as_ptr(), scratch.outputs.as_mut_ptr());
        let mut frame = 0;
        while frame < job.frames {
            let wide = S::LANES == 16 && job.frames - frame >= 4;
            let rows = if wide { 4 } else { (job.frames - frame).min(2) };
            let weights = weights.add(frame * (job.shape.ring + KEY_BLOCK));
            let mut d = 0;
            while d < width {
                let vectors = vectors_of::<S>(width - d);
                let out = out.add(frame * width + d);
                match (rows, vectors) {
                    (4, 4) => weighted::<S, 4, 4>(job, runs, weights, d, out),
                    (4, 2) => weighted::<S, 4, 2>(job, runs, weights, d, out),
                    (4, _) => weighted::<S, 4, 1>(job, runs, weights, d, out),
                    (2, 4) => weighted::<S, 2, 4>(job, runs, weights, d, out),
                    (2, 2) => weighted::<S, 2, 2>(job, runs, weights, d, out),
                    (2, _) => weighted::<S, 2, 1>(job, runs, weights, d, out),
                    (_, 4) => weighted::<S, 1, 4>(job, runs, weights, d, out),
                    (_, 2) => weighted::<S, 1, 2>(job, runs, weights, d, out),
                    (_, _) => weighted::<S, 1, 1>(job, runs, weights, d, out),
                }
                d += vectors * S::LANES;
            }
            frame += rows;
        }
        for frame in 0..job.frames {
            let row = out.add(frame * width);
            job.out.add(frame * job.out_stride).copy_from_nonoverlapping(row, job.shape.dk);
        }
    }
}

#[inline(always)]
unsafe fn weighted<S: Simd, const T: usize, const N: usize>(
    job: &Attend<'_>,
    runs: &[Run; 2],
    weights: *const f32,
    d: usize,
    out: *mut f32,
) {
    let width = job.shape.value_stride();
    // SAFETY: see `mix`.
    unsafe {
        let mut sums = [[S::splat(0.0); N]; T];
        for run in runs {
            for at in 0..run.len {
                let row = job.values.add((run.at + at) * width + d);
                let mut values = [S::splat(0.0); N];
                for (n, value) in values.iter_mut().enumerate() {
                    *value = S::load_half(row.add(n * S::LANES));
                }
                for (t, sums) in sums.iter_mut().enumerate() {
                    let weight = *weights.add(t * (job.shape.ring + KEY_BLOCK) + run.key + at);
                    let weight = S::splat(weight);
                    for (sum, &value) in sums.iter_mut().zip(&values) {
                        *sum = S::fma(weight, value, *sum);
                    }
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                S::store(out.add(t * width + n * S::LANES), sum);
            }
        }
    }
}
