//! The weights of linear layers: quantised, and laid out for one instruction set.

use super::portable::nearest_byte;
use super::{CHUNK, Kernels};
use crate::memory::{Aligned, Shared};
use crate::team::Team;

/// A float matrix (outputs, inputs), row by row, and its bias.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// (outputs, inputs).
    pub weight: &'a [f32],
    /// (outputs,), or none.
    pub bias: Option<&'a [f32]>,
}

/// A linear layer, quantised per output and laid out for one instruction set.
///
/// Block after block of outputs; within a block group after group of 4 inputs; within a group the 4
/// weights of one output after those of another.
#[derive(Debug)]
pub struct Packed {
    weights: Aligned<i8>,
    /// Per output: what one step of its weights is worth.
    pub scales: Aligned<f32>,
    /// Per output: the sum of its quantised weights, which meets the activations' zero.
    pub sums: Aligned<i32>,
    pub bias: Aligned<f32>,
    outputs: usize,
    inputs: usize,
    block: usize,
    glu: bool,
}

impl Packed {
    /// Quantises and lays out the rows of all `parts`, one after another.
    ///
    /// With `glu` every block takes half of its outputs from the first half of the rows and the
    /// matching ones from the second half.
    pub fn new(
        parts: &[Matrix<'_>],
        inputs: usize,
        glu: bool,
        kernels: &Kernels,
        team: &mut Team,
    ) -> Self {
        let block = kernels.block;
        let outputs: usize = parts.iter().map(|part| part.weight.len() / inputs).sum();
        let blocks = if glu { (outputs / 2).div_ceil(block / 2) } else { outputs.div_ceil(block) };
        let padded = inputs.next_multiple_of(CHUNK);
        let mut packed = Self {
            weights: Aligned::zeroed(blocks * block * padded),
            scales: Aligned::zeroed(blocks * block),
            sums: Aligned::zeroed(blocks * block),
            bias: Aligned::zeroed(blocks * block),
            outputs,
            inputs,
            block,
            glu,
        };
        let weights = Shared::new(&mut packed.weights);
        let (scales, sums) = (Shared::new(&mut packed.scales), Shared::new(&mut packed.sums));
        let bias = Shared::new(&mut packed.bias);
        team.run(&|member| {
            let mut row = vec![0; padded];
            member.each(blocks * block, |column, _| {
                let Some((part, index)) = source(parts, inputs, column, block, glu, outputs) else {
                    return;
                };
                let from = &part.weight[index * inputs..][..inputs];
                // SAFETY: the processor has the kernels' instructions.
                let step = unsafe {
                    (kernels.quantise_weights)(from, &mut row[..inputs], kernels.pair_limit)
                };
                // SAFETY: `column` is this thread's alone, and all four buffers have room for it.
                unsafe {
                    *scales.at(column) = step;
                    *sums.at(column) = row.iter().map(|&w| i32::from(w)).sum();
                    *bias.at(column) = part.bias.map_or(0.0, |bias| bias[index]);
                    let to = weights.at(column / block * block * padded + column % block * 4);
                    for (group, values) in row.as_chunks::<4>().0.iter().enumerate() {
                        to.add(group * block * 4).cast::<[i8; 4]>().write(*values);
                    }
                }
            });
        });
        packed
    }

    /// Blocks of outputs; each is one call of the kernel.
    pub fn blocks(&self) -> usize {
        self.scales.len() / self.block
    }

    /// Numbers per row of input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers per row of output, after `Op::Glu` where the layer was packed for it.
    pub fn outputs(&self) -> usize {
        if self.glu { self.outputs / 2 } else { self.outputs }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.weights.len() + 12 * self.scales.len()
    }

    /// The weights of a block.
    pub fn weights_of(&self, block: usize) -> *const i8 {
        self.weights.as_ptr().wrapping_add(block * self.block * self.padded_inputs())
    }

    /// Quantised numbers per row of input.
    pub fn padded_inputs(&self) -> usize {
        self.inputs.next_multiple_of(CHUNK)
    }
}

/// The part, and the row in it, whose weights stand at `column` of the packed matrix.
fn source<'a, 'b>(
    parts: &'a [Matrix<'b>],
    inputs: usize,
    column: usize,
    block: usize,
    glu: bool,
    outputs: usize,
) -> Option<(&'a Matrix<'b>, usize)> {
    let mut row = column;
    if glu {
        let (half, lane) = (block / 2, column % block);
        let channel = column / block * half + lane % half;
        if channel >= outputs / 2 {
            return None;
        }
        row = channel + lane / half * (outputs / 2);
    }
    for part in parts {
        let rows = part.weight.len() / inputs;
        if row < rows {
            return Some((part, row));
        }
        row -= rows;
    }
    None
}

/// Rounds one row of weights to -127 ..= 127 and returns the step.
#[inline(always)]
pub fn quantise_weights(from: &[f32], to: &mut [i8], pair_limit: Option<u8>) -> f32 {
    // Magnitudes in the order of their bits: unlike `f32::max` that needs no care for NaN.
    let largest = from.iter().map(|w| w.abs().to_bits()).max().unwrap_or(0);
    let largest = f32::from_bits(largest);
    if !(largest > f32::MIN_POSITIVE && largest.is_finite()) {
        to.fill(0);
        return 0.0;
    }
    let mut range = 127.0;
    loop {
        let factor = range / largest;
        for (to, &w) in to.iter_mut().zip(from) {
            *to = nearest_byte(w * factor);
        }
        let Some(limit) = pair_limit else { break };
        let pairs = to.as_chunks::<2>().0;
        let pair = pairs.iter().map(|[a, b]| a.unsigned_abs() + b.unsigned_abs()).max();
        let Some(pair) = pair.filter(|&pair| pair > limit) else { break };
        // Rounding may leave the pair one above its share.
        range = (range * f32::from(limit) / f32::from(pair)).min(range - 0.25);
    }
    largest / range
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Numbers from -1 to 1 that look random.
    pub fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn weights_keep_their_limits() {
        let from = noise(1000, 1);
        for limit in [None, Some(160), Some(128)] {
            let mut to = vec![0; 1000];
            let step = quantise_weights(&from, &mut to, limit);
            for (&q, &w) in to.iter().zip(&from) {
                assert!((f32::from(q) * step - w).abs() <= 0.501 * step);
            }
            for [a, b] in to.as_chunks::<2>().0 {
                assert!(a.unsigned_abs() + b.unsigned_abs() <= limit.unwrap_or(254));
            }
        }
        let mut to = vec![1; 3];
        for broken in [[0.0; 3], [f32::NAN, 1.0, 1.0], [f32::INFINITY, 0.0, 1.0]] {
            assert_eq!(quantise_weights(&broken, &mut to, None), 0.0);
            assert_eq!(to, [0; 3]);
        }
    }
}
