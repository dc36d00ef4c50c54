//! One step of the subsampling, as every thread of the team walks it; see `pass`.

use std::ptr;

use crate::kernels::{Image, Kernels, Op, Packed, halved};
use crate::linear::{Acts, SharedActs};
use crate::memory::{Aligned, Shared};
use crate::subsampling::MelChunk;
use crate::subsampling_weights::{Filter, Weights};
use crate::team::Member;

/// Working memory for some encoder frames.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Per convolution its output, (frames, bins, channels).
    pub outputs: Vec<Aligned<f32>>,
    pub acts: Acts,
}

impl Buffers {
    pub(crate) fn new(weights: &Weights, rows: usize) -> Self {
        let frames = |stage: usize| (rows * weights.factor()) >> (stage + 1);
        let stages = 0..=weights.stages.len();
        let size = |stage: usize| frames(stage) * weights.frame(stage + 1);
        let outputs = stages.clone().map(|stage| Aligned::zeroed(size(stage))).collect();
        let pixels = stages.map(|stage| frames(stage) * weights.bins(stage + 1)).max();
        let pixels = Acts::new(pixels.unwrap_or(0), weights.channels);
        let whole = Acts::new(rows, weights.out.inputs());
        Self { outputs, acts: pixels.or_larger(whole) }
    }
}

/// Everything a step needs. All chunks have been checked.
pub(crate) struct SubsamplingPass<'a> {
    pub kernels: &'static Kernels,
    pub weights: &'a Weights,
    /// Per convolution: (slots, its input frame).
    pub caches: Vec<Shared<f32>>,
    pub mel: &'a [f32],
    pub chunks: &'a [MelChunk],
    pub times: &'a [usize],
    /// Per encoder frame: its chunk and its place in it.
    pub rows: Vec<(usize, usize)>,
    pub out: Shared<f32>,
    pub outputs: Vec<Shared<f32>>,
    pub acts: SharedActs,
}

impl SubsamplingPass<'_> {
    /// One thread's share of the step.
    pub(crate) fn run(&self, member: Member<'_>) {
        let Self { kernels, weights, outputs, out, .. } = self;
        let mut row = Aligned::zeroed(weights.channels);
        member.each(self.frames(1), |frame, _| {
            let to = outputs[0].at(frame * weights.frame(1));
            // SAFETY: an output frame is one thread's.
            unsafe { (kernels.first_conv)(&self.image(&weights.first, 0, frame), to) };
        });
        for (index, stage) in weights.stages.iter().enumerate() {
            let at = index + 1;
            let pixels = self.frames(at + 1) * weights.bins(at + 1);
            member.each(self.frames(at + 1), |frame, _| {
                let image = self.image(&stage.depthwise, at, frame);
                self.depthwise(&image, frame * weights.bins(at + 1), pixels, &mut row);
            });
            self.linear(member, &stage.pointwise, pixels, Op::Relu, outputs[at]);
        }
        let size = weights.out.inputs();
        let last = outputs[weights.stages.len()];
        member.each(self.rows.len(), |row, _| {
            // SAFETY: the convolution's output was written before the last barrier.
            unsafe { self.acts.put(kernels, last.at(row * size), size, row, self.rows.len()) };
        });
        self.linear(member, &weights.out, self.rows.len(), Op::Store, *out);
        member.each(self.chunks.len(), |chunk, _| self.keep(chunk));
    }

    fn linear(&self, member: Member<'_>, packed: &Packed, rows: usize, op: Op, out: Shared<f32>) {
        // SAFETY: the rows were quantised before the last barrier, and `out` has room for them.
        unsafe { self.acts.linear(member, self.kernels, packed, rows, op, out, packed.outputs()) };
    }

    /// The depthwise convolution of one frame, quantised bin by bin; `first` is its first row.
    fn depthwise(&self, image: &Image<'_>, first: usize, rows: usize, row: &mut [f32]) {
        for bin in 0..halved(image.bins) {
            // SAFETY: the input was written before the last barrier, a frame's rows are one
            // thread's.
            unsafe {
                (self.kernels.depthwise_conv)(image, bin, row.as_mut_ptr());
                self.acts.put(self.kernels, row.as_ptr(), row.len(), first + bin, rows);
            }
        }
    }

    /// Frames of all chunks at the input of convolution `stage`.
    fn frames(&self, stage: usize) -> usize {
        (self.rows.len() * self.weights.factor()) >> stage
    }

    /// What convolution `stage` sees for its output frame `frame`, counted over all chunks.
    fn image<'a>(&'a self, filter: &'a Filter, stage: usize, frame: usize) -> Image<'a> {
        let per_row = self.weights.factor() >> (stage + 1);
        let row = frame / per_row;
        let (index, encoder_frame) = self.rows[row];
        let local = encoder_frame * per_row + frame % per_row;
        let first = (row - encoder_frame) * 2 * per_row;
        Image {
            weight: &filter.weight,
            bias: &filter.bias,
            frames: [0, 1, 2].map(|tap| self.input(stage, index, first, 2 * local + tap)),
            bins: self.weights.bins(stage),
        }
    }

    /// The input frame before frame `next` of a chunk whose first one is `first` over all chunks;
    /// null where it lies outside the stream.
    fn input(&self, stage: usize, index: usize, first: usize, next: usize) -> *const f32 {
        let MelChunk { slot, mel_length, .. } = self.chunks[index];
        let size = self.weights.frame(stage);
        let Some(local) = next.checked_sub(1) else {
            return self.caches[stage].at(slot * size);
        };
        let per_row = self.weights.factor() >> stage;
        let length = (0..stage).fold(mel_length, |length, _| length / 2 + 1);
        // The chunk's first frame is per_row - 1 before encoder frame `time`.
        let after = per_row * self.times[slot] + local + 1;
        if after < per_row || after - per_row >= length {
            return ptr::null();
        }
        match stage.checked_sub(1) {
            None => self.mel[(first + local) * size..].as_ptr(),
            Some(before) => self.outputs[before].at((first + local) * size),
        }
    }

    /// Caches the last input frame of every convolution for the next chunk.
    fn keep(&self, index: usize) {
        let MelChunk { slot, frames, .. } = self.chunks[index];
        let before: usize = self.chunks[..index].iter().map(|chunk| chunk.frames).sum();
        for (stage, cache) in self.caches.iter().enumerate() {
            let (per_row, size) = (self.weights.factor() >> stage, self.weights.frame(stage));
            if frames == 0 {
                continue;
            }
            let from = self.input(stage, index, before * per_row, frames * per_row);
            let to = cache.at(slot * size);
            // SAFETY: nobody reads the caches any more, and a slot is one chunk's.
            unsafe {
                if from.is_null() {
                    to.write_bytes(0, size);
                } else {
                    to.copy_from_nonoverlapping(from, size);
                }
            }
        }
    }
}
