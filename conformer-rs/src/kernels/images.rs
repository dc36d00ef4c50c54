//! The 3x3 convolutions with stride 2 over time and frequency, causal in both: frame t of the output
//! sees the input's frames 2t - 1 to 2t + 1 (the first one may be the frame before the chunk), bin f
//! its bins 2f - 2 to 2f.
//!
//! A frame is (bins, channels), the channels padded to a multiple of `PAD`.

use super::simd::Simd;

/// One output frame of a convolution.
pub struct Image<'a> {
    /// (9, channels): tap (time, frequency) stands at 3 * time + frequency.
    pub weight: &'a [f32],
    /// (channels,).
    pub bias: &'a [f32],
    /// The three input frames; null where one is all zeros.
    pub frames: [*const f32; 3],
    /// Bins of an input frame.
    pub bins: usize,
}

impl Image<'_> {
    /// The input bin that a tap sees from an output bin.
    #[inline(always)]
    fn bin(&self, out: usize, tap: usize) -> Option<usize> {
        (2 * out + tap).checked_sub(2).filter(|&bin| bin < self.bins)
    }
}

/// Bins of the output.
pub fn halved(bins: usize) -> usize {
    bins / 2 + 1
}

/// See `Kernels::first_conv`: one input channel, all output channels, ReLU.
#[inline(always)]
pub unsafe fn first<S: Simd>(job: &Image<'_>, to: *mut f32) {
    let channels = job.bias.len();
    // SAFETY: input frames have `bins` values, `to` has `channels` for each of the halved bins.
    unsafe {
        for out in 0..halved(job.bins) {
            let mut inputs = [0.0; 9];
            for (tap, input) in inputs.iter_mut().enumerate() {
                let frame = job.frames[tap / 3];
                if let (false, Some(bin)) = (frame.is_null(), job.bin(out, tap % 3)) {
                    *input = *frame.add(bin);
                }
            }
            for at in (0..channels).step_by(S::LANES) {
                let mut sum = S::load(job.bias.as_ptr().add(at));
                for (tap, &input) in inputs.iter().enumerate() {
                    let weight = S::load(job.weight.as_ptr().add(tap * channels + at));
                    sum = S::fma(S::splat(input), weight, sum);
                }
                S::store(to.add(out * channels + at), S::max(sum, S::splat(0.0)));
            }
        }
    }
}

/// See `Kernels::depthwise_conv`: every channel by itself, at one output bin.
#[inline(always)]
pub unsafe fn depthwise<S: Simd>(job: &Image<'_>, out: usize, to: *mut f32) {
    let channels = job.bias.len();
    // SAFETY: input frames have `bins` times `channels` values, `to` has `channels`.
    unsafe {
        to.copy_from_nonoverlapping(job.bias.as_ptr(), channels);
        for tap in 0..9 {
            let frame = job.frames[tap / 3];
            let Some(bin) = job.bin(out, tap % 3).filter(|_| !frame.is_null()) else { continue };
            let from = frame.add(bin * channels);
            let weight = job.weight.as_ptr().add(tap * channels);
            for at in (0..channels).step_by(S::LANES) {
                let sum = S::load(to.add(at));
                S::store(to.add(at), S::fma(S::load(from.add(at)), S::load(weight.add(at)), sum));
            }
        }
    }
}
