//! One step through all layers, as every thread of the team walks it.
//!
//! Between two barriers every thread writes rows, columns or heads of its own and reads only what
//! was written before the last barrier; that is what makes the shared buffers sound.

use crate::cache::SharedCache;
use crate::encoder::Chunk;
use crate::kernels::{Attend, AttendScratch, Depthwise, HeadShape, Kernels, Norm, Op, PAD, Packed};
use crate::linear::{Acts, SharedActs};
use crate::memory::{Aligned, Shared};
use crate::team::Member;
use crate::weights::{Attention, Conv, FeedForward, Layer};

/// Working memory of a step; it grows with the largest step so far.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    rows: usize,
    size: usize,
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Memory {
    acts: Acts,
    wide: Aligned<f32>,
    narrow: Aligned<f32>,
}

impl Buffers {
    /// Room for `rows` rows of the model's width and of `size`, the widest that a layer needs.
    pub(crate) fn reserve(&mut self, rows: usize, width: usize, size: usize) -> SharedBuffers {
        if rows > self.rows || size > self.size {
            self.memory = None;
        }
        let (rows, size) = (rows.max(self.rows), size.max(self.size));
        (self.rows, self.size) = (rows, size);
        let memory = self.memory.get_or_insert_with(|| Memory {
            acts: Acts::new(rows, size),
            // Attention reads whole vectors and may do so beyond the last row.
            wide: Aligned::zeroed(rows * size + PAD),
            narrow: Aligned::zeroed(rows * width),
        });
        SharedBuffers {
            acts: memory.acts.shared(),
            wide: Shared::new(&mut memory.wide),
            narrow: Shared::new(&mut memory.narrow),
        }
    }
}

/// `Buffers` as the threads see them.
#[derive(Clone, Copy)]
pub(crate) struct SharedBuffers {
    acts: SharedActs,
    /// Rows of the feed-forward size, of query, key and value, or of the gated convolution input.
    wide: Shared<f32>,
    /// Rows of the model's width: what attention gives.
    narrow: Shared<f32>,
}

/// Everything a step needs. All chunks have been checked.
pub(crate) struct Pass<'a> {
    pub kernels: &'static Kernels,
    pub layers: &'a [Layer],
    pub caches: Vec<SharedCache>,
    pub shape: HeadShape,
    pub width: usize,
    pub chunks: &'a [Chunk],
    pub times: &'a [usize],
    /// Per row: its chunk and its frame in it.
    pub rows: Vec<(usize, usize)>,
    /// (rows, D): the input at first, the output in the end.
    pub residual: Shared<f32>,
    pub buffers: SharedBuffers,
}

impl Pass<'_> {
    /// One thread's share of the step.
    pub(crate) fn run(&self, member: Member<'_>) {
        let mut thread = Thread {
            pass: self,
            member,
            row: Aligned::zeroed(self.width),
            scratch: AttendScratch::new(self.shape),
        };
        let mut before = None;
        for (layer, &cache) in self.layers.iter().zip(&self.caches) {
            thread.feed_forward(&layer.feed_forward1, before);
            thread.attention(&layer.attention, cache);
            thread.conv(&layer.conv, cache);
            thread.feed_forward(&layer.feed_forward2, None);
            before = Some(&layer.norm_out);
        }
        if let Some(norm) = before {
            thread.finish(norm);
        }
    }
}

struct Thread<'a> {
    pass: &'a Pass<'a>,
    member: Member<'a>,
    row: Aligned<f32>,
    scratch: AttendScratch,
}

impl Thread<'_> {
    /// `before`: the previous layer's last norm, which replaces the residual.
    fn feed_forward(&mut self, layer: &FeedForward, before: Option<&Norm>) {
        let SharedBuffers { wide, .. } = self.pass.buffers;
        self.norm(&layer.norm, before);
        self.linear(&layer.up, Op::Silu, wide);
        self.quantise(wide, layer.up.outputs());
        self.linear(&layer.down, Op::Add(0.5), self.pass.residual);
    }

    fn attention(&mut self, layer: &Attention, cache: SharedCache) {
        let SharedBuffers { wide, narrow, .. } = self.pass.buffers;
        self.norm(&layer.norm, None);
        self.linear(&layer.qkv, Op::Store, wide);
        self.attend(layer, cache);
        self.quantise(narrow, self.pass.width);
        self.linear(&layer.out, Op::Add(1.0), self.pass.residual);
    }

    fn conv(&mut self, layer: &Conv, cache: SharedCache) {
        self.norm(&layer.norm, None);
        self.linear(&layer.expand, Op::Glu, self.pass.buffers.wide);
        self.depthwise(layer, cache);
        self.linear(&layer.project, Op::Add(1.0), self.pass.residual);
    }

    fn linear(&self, weights: &Packed, op: Op, out: Shared<f32>) {
        let Pass { kernels, rows, buffers, .. } = self.pass;
        let (rows, stride) = (rows.len(), weights.outputs());
        // SAFETY: the rows were quantised before the last barrier, and `out` has room for them.
        unsafe { buffers.acts.linear(self.member, kernels, weights, rows, op, out, stride) };
    }

    /// Normalises the residual's rows and quantises the result.
    fn norm(&mut self, norm: &Norm, before: Option<&Norm>) {
        let Pass { kernels, rows, width, residual, buffers, .. } = self.pass;
        let to = self.row.as_mut_ptr();
        self.member.each(rows.len(), |row, _| {
            let from = residual.at(row * width);
            // SAFETY: a row of the residual and its place in `acts` are one thread's.
            unsafe {
                if let Some(before) = before {
                    (kernels.norm)(before, from, from);
                }
                (kernels.norm)(norm, from, to);
                buffers.acts.put(kernels, to, *width, row, rows.len());
            }
        });
    }

    fn quantise(&self, from: Shared<f32>, n: usize) {
        let Pass { kernels, rows, buffers, .. } = self.pass;
        self.member.each(rows.len(), |row, _| {
            // SAFETY: `from` was written before the last barrier.
            unsafe { buffers.acts.put(kernels, from.at(row * n), n, row, rows.len()) };
        });
    }

    fn attend(&mut self, layer: &Attention, cache: SharedCache) {
        let Pass { kernels, shape, width, chunks, times, buffers, .. } = *self.pass;
        let SharedBuffers { wide, narrow, .. } = buffers;
        let dk = shape.dk;
        let heads = width / dk;
        let firsts: Vec<usize> = chunks
            .iter()
            .scan(0, |next, chunk| Some(std::mem::replace(next, *next + chunk.frames)))
            .collect();
        let scratch = &mut self.scratch;
        // Head by head, so that the positions of one head stay close.
        self.member.each(chunks.len() * heads, |item, _| {
            let (head, index) = (item / chunks.len(), item % chunks.len());
            let Chunk { slot, frames, valid, left } = chunks[index];
            let query = firsts[index] * 3 * width + head * dk;
            let place = slot * heads + head;
            let positions = shape.positions * dk;
            let job = Attend {
                shape,
                query: wide.at(query),
                key: wide.at(query + width),
                value: wide.at(query + 2 * width),
                stride: 3 * width,
                bias_u: &layer.bias_u[head * dk..][..dk],
                bias_v: &layer.bias_v[head * dk..][..dk],
                positions: &layer.positions[head * positions..][..positions],
                keys: cache.keys.at(place * shape.ring * dk),
                values: cache.values.at(place * shape.ring * shape.value_stride()),
                time: times[slot],
                cached: left.min(times[slot]),
                frames,
                valid,
                out: narrow.at(firsts[index] * width + head * dk),
                out_stride: width,
            };
            // SAFETY: a stream's head is one thread's, in the caches and in `narrow`.
            unsafe { (kernels.attend)(&job, scratch) };
        });
    }

    fn depthwise(&mut self, layer: &Conv, cache: SharedCache) {
        let Pass { kernels, width, chunks, times, buffers, .. } = *self.pass;
        let rows = &self.pass.rows;
        let to = self.row.as_mut_ptr();
        self.member.each(rows.len(), |row, _| {
            let (index, frame) = rows[row];
            let Chunk { slot, valid, .. } = chunks[index];
            let time = times[slot];
            let ring = cache.conv.at(slot * cache.conv_ring * width);
            let job = Depthwise {
                weight: &layer.depthwise,
                bias: &layer.depthwise_bias,
                chunk: buffers.wide.at((row - frame) * width),
                frame,
                valid,
                ring,
                ring_frames: cache.conv_ring,
                time,
            };
            // SAFETY: the ring has room for the chunk and the frames that its rows look back to,
            // so nobody reads the frame that this row leaves there.
            unsafe {
                if frame < valid {
                    let kept = ring.add((time + frame) % cache.conv_ring * width);
                    kept.copy_from_nonoverlapping(buffers.wide.at(row * width), width);
                }
                (kernels.depthwise)(&job, to);
                (kernels.norm)(&layer.inner_norm, to, to);
                (kernels.silu)(to, width);
                buffers.acts.put(kernels, to, width, row, rows.len());
            }
        });
    }

    /// The last layer's last norm.
    fn finish(&self, norm: &Norm) {
        let Pass { kernels, rows, width, residual, .. } = self.pass;
        self.member.each(rows.len(), |row, _| {
            let row = residual.at(row * width);
            // SAFETY: a row of the residual is one thread's.
            unsafe { (kernels.norm)(norm, row, row) };
        });
    }
}
