//! Relative-position attention of one stream and head over its cached keys and values.
//!
//! Keys and positions are kept in blocks of 16 frames, (dk, 16), so that one vector holds a number
//! of several frames and no sum runs across lanes.

use super::products::{mix, scores};
use super::simd::{Simd, exp};

/// Frames per block of keys or positions.
pub const KEY_BLOCK: usize = 16;

/// The sizes that all streams and heads of an encoder share.
#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    /// Width of a head.
    pub dk: usize,
    /// Frames in the ring of keys and values, a multiple of `KEY_BLOCK`.
    pub ring: usize,
    /// Rows of positions, a multiple of `KEY_BLOCK`.
    pub positions: usize,
    /// The row of positions that belongs to distance 0.
    pub origin: usize,
    /// Most frames in a chunk.
    pub max_chunk: usize,
}

impl HeadShape {
    /// Halves per value frame.
    pub fn value_stride(self) -> usize {
        self.dk.next_multiple_of(KEY_BLOCK)
    }
}

/// One stream and head. `query`, `key` and `value` are rows of `dk` floats, `stride` apart, with 16
/// readable floats behind the last.
pub struct Attend<'a> {
    pub shape: HeadShape,
    pub query: *const f32,
    pub key: *const f32,
    pub value: *const f32,
    pub stride: usize,
    /// (dk,) each.
    pub bias_u: &'a [f32],
    pub bias_v: &'a [f32],
    /// (positions / 16, dk, 16) halves.
    pub positions: &'a [u16],
    /// (ring / 16, dk, 16) halves: frame t of the stream stands at t % ring.
    pub keys: *mut u16,
    /// (ring, value_stride) halves.
    pub values: *mut u16,
    /// Frames of the stream before the chunk, how many of them to attend to, and the chunk's.
    pub time: usize,
    pub cached: usize,
    pub frames: usize,
    pub valid: usize,
    /// Rows of `dk` floats, `out_stride` apart.
    pub out: *mut f32,
    pub out_stride: usize,
}

/// A thread's working memory.
#[derive(Debug)]
pub struct AttendScratch {
    /// (max_chunk, dk) each, the second one also for outputs.
    with_u: Vec<f32>,
    with_v: Vec<f32>,
    /// (max_chunk, ring), (max_chunk, positions) and, in order of time, (max_chunk, ring).
    content: Vec<f32>,
    position: Vec<f32>,
    pub weights: Vec<f32>,
    halves: Vec<u16>,
    /// (max_chunk, value_stride).
    pub outputs: Vec<f32>,
}

impl AttendScratch {
    /// Enough for any chunk of this shape.
    pub fn new(shape: HeadShape) -> Self {
        // Vectors may run over the end of a row.
        let rows = |width: usize| vec![0.0; shape.max_chunk * width + 2 * KEY_BLOCK];
        Self {
            with_u: rows(shape.dk),
            with_v: rows(shape.dk),
            content: rows(shape.ring),
            position: rows(shape.positions),
            weights: rows(shape.ring + KEY_BLOCK),
            halves: vec![0; shape.value_stride() + KEY_BLOCK],
            outputs: rows(shape.value_stride()),
        }
    }
}

/// A run of frames that lies in one piece in the ring.
#[derive(Clone, Copy)]
pub struct Run {
    /// First key, in order of time, and its place in the ring.
    pub key: usize,
    pub at: usize,
    pub len: usize,
}

/// See `Kernels::attend`.
#[inline(always)]
pub unsafe fn attend<S: Simd>(job: &Attend<'_>, scratch: &mut AttendScratch) {
    // SAFETY: `Attend` says how far the pointers reach, `AttendScratch::new` made room.
    unsafe {
        append::<S>(job, &mut scratch.halves);
        let shape = job.shape;
        let keys = job.cached + job.valid;
        let at = (job.time - job.cached) % shape.ring;
        let head = keys.min(shape.ring - at);
        let runs = [Run { key: 0, at, len: head }, Run { key: head, at: 0, len: keys - head }];
        for frame in 0..job.frames {
            for d in 0..shape.dk {
                let q = *job.query.add(frame * job.stride + d);
                scratch.with_u[frame * shape.dk + d] = q + job.bias_u[d];
                scratch.with_v[frame * shape.dk + d] = q + job.bias_v[d];
            }
        }
        for run in runs {
            let (first, last) = (run.at / KEY_BLOCK, (run.at + run.len).div_ceil(KEY_BLOCK));
            if run.len > 0 {
                let content = scratch.content.as_mut_ptr().add(first * KEY_BLOCK);
                let blocks = job.keys.add(first * shape.dk * KEY_BLOCK);
                let queries = scratch.with_u.as_ptr();
                scores::<S>(job, queries, blocks, last - first, content, shape.ring);
            }
        }
        // Key j is job.cached + frame - j frames before the query.
        let newest = shape.origin - job.cached;
        let first = (newest + 1 - job.frames) / KEY_BLOCK;
        let last = (newest + keys).div_ceil(KEY_BLOCK);
        let blocks = job.positions.as_ptr().add(first * shape.dk * KEY_BLOCK);
        let (queries, position) = (scratch.with_v.as_ptr(), scratch.position.as_mut_ptr());
        scores::<S>(job, queries, blocks, last - first, position, shape.positions);
        for frame in 0..job.frames {
            let offset = newest - frame - first * KEY_BLOCK;
            softmax::<S>(job, frame, &runs, offset, scratch);
        }
        mix::<S>(job, &runs, scratch);
    }
}

/// Adds the chunk's keys and values to the ring.
#[inline(always)]
unsafe fn append<S: Simd>(job: &Attend<'_>, halves: &mut [u16]) {
    let HeadShape { dk, ring, .. } = job.shape;
    // SAFETY: rows are read in whole vectors, at most 15 floats too far, into padded halves.
    unsafe {
        for frame in 0..job.valid {
            let at = (job.time + frame) % ring;
            for d in (0..dk).step_by(S::LANES) {
                let key = S::load(job.key.add(frame * job.stride + d));
                S::store_half(halves.as_mut_ptr().add(d), key);
            }
            let block = job.keys.add(at / KEY_BLOCK * dk * KEY_BLOCK + at % KEY_BLOCK);
            for (d, &half) in halves[..dk].iter().enumerate() {
                *block.add(d * KEY_BLOCK) = half;
            }
            let row = job.values.add(at * job.shape.value_stride());
            for d in (0..dk).step_by(S::LANES) {
                let value = S::load(job.value.add(frame * job.stride + d));
                S::store_half(row.add(d), value);
            }
        }
    }
}

/// The attention of one query to all keys, in order of time; it sums to 1.
#[inline(always)]
unsafe fn softmax<S: Simd>(
    job: &Attend<'_>,
    frame: usize,
    runs: &[Run; 2],
    offset: usize,
    scratch: &mut AttendScratch,
) {
    let shape = job.shape;
    // SAFETY: rows of the scratch are followed by at least one vector of padding; a run that
    // writes past its end does so before the next one, or the tail, writes there.
    unsafe {
        let scale = S::splat(1.0 / (shape.dk as f32).sqrt());
        let content = scratch.content.as_ptr().add(frame * shape.ring);
        let position = scratch.position.as_ptr().add(frame * shape.positions + offset);
        let weights = scratch.weights.as_mut_ptr().add(frame * (shape.ring + KEY_BLOCK));
        for run in runs {
            for at in (0..run.len).step_by(S::LANES) {
                let content = S::load(content.add(run.at + at));
                let score = S::add(content, S::load(position.add(run.key + at)));
                S::store(weights.add(run.key + at), S::mul(score, scale));
            }
        }
        let keys = job.cached + job.valid;
        let padded = keys.next_multiple_of(S::LANES);
        for tail in keys..padded {
            *weights.add(tail) = f32::NEG_INFINITY;
        }
        let mut largest = S::load(weights);
        for at in (0..padded).step_by(S::LANES) {
            largest = S::max(largest, S::load(weights.add(at)));
        }
        let largest = S::splat(S::maximum(largest));
        let mut sum = S::splat(0.0);
        for at in (0..padded).step_by(S::LANES) {
            let e = exp::<S>(S::sub(S::load(weights.add(at)), largest));
            S::store(weights.add(at), e);
            sum = S::add(sum, e);
        }
        let inverse = S::splat(1.0 / S::sum(sum));
        for at in (0..padded).step_by(S::LANES) {
            S::store(weights.add(at), S::mul(S::load(weights.add(at)), inverse));
        }
    }
}
