//! The weights of the subsampling: named float arrays in, channels last and packed out.

use crate::kernels::{Kernels, Matrix, PAD, Packed, halved};
use crate::team::Team;
use crate::weights::{EncoderError, Tensors, length, optional, required};

#[derive(Debug)]
pub(crate) struct Weights {
    pub n_mels: usize,
    /// Padded.
    pub channels: usize,
    pub first: Filter,
    pub stages: Vec<Stage>,
    pub out: Packed,
}

/// A 3x3 convolution: (9, channels) and (channels,).
#[derive(Debug)]
pub(crate) struct Filter {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

#[derive(Debug)]
pub(crate) struct Stage {
    pub depthwise: Filter,
    pub pointwise: Packed,
}

impl Weights {
    /// Mel frames per encoder frame.
    pub(crate) fn factor(&self) -> usize {
        2 << self.stages.len()
    }

    /// Bins of the input of convolution `stage`, or of the last one's output.
    pub(crate) fn bins(&self, stage: usize) -> usize {
        (0..stage).fold(self.n_mels, |bins, _| halved(bins))
    }

    /// Floats per frame at the input of convolution `stage`.
    pub(crate) fn frame(&self, stage: usize) -> usize {
        if stage == 0 { self.n_mels } else { self.bins(stage) * self.channels }
    }

    /// Takes NeMo's arrays by name, checks their shapes and packs them.
    pub(crate) fn pack(
        tensors: &Tensors<'_>,
        n_mels: usize,
        kernels: &Kernels,
        team: &mut Team,
    ) -> Result<Self, EncoderError> {
        let channels = length(tensors, "conv.0.weight", 0)?;
        let padded = channels.next_multiple_of(PAD);
        let mut stages = Vec::new();
        while tensors.contains_key(&format!("conv.{}.weight", 2 + 3 * stages.len())) {
            let at = 2 + 3 * stages.len();
            let depthwise = filter(tensors, &format!("conv.{at}"), channels)?;
            let name = format!("conv.{}", at + 1);
            let weight = required(tensors, &format!("{name}.weight"), &[channels, channels, 1, 1])?;
            let mut wide = vec![0.0; padded * padded];
            for (row, weights) in weight.chunks_exact(channels).enumerate() {
                wide[row * padded..][..channels].copy_from_slice(weights);
            }
            let bias = bias(tensors, &name, channels)?;
            let matrix = Matrix { weight: &wide, bias: Some(&bias) };
            let pointwise = Packed::new(&[matrix], padded, false, kernels, team);
            stages.push(Stage { depthwise, pointwise });
        }
        let bins = (0..=stages.len()).fold(n_mels, |bins, _| halved(bins));
        let width = length(tensors, "out.weight", 0)?;
        let weight = required(tensors, "out.weight", &[width, channels * bins])?;
        // NeMo flattens (channels, bins), the kernels (bins, channels).
        let mut wide = vec![0.0; width * bins * padded];
        for (row, weights) in weight.chunks_exact(channels * bins).enumerate() {
            for (at, &weight) in weights.iter().enumerate() {
                wide[(row * bins + at % bins) * padded + at / bins] = weight;
            }
        }
        let matrix = Matrix { weight: &wide, bias: optional(tensors, "out.bias", &[width])? };
        let out = Packed::new(&[matrix], bins * padded, false, kernels, team);
        let first = filter(tensors, "conv.0", channels)?;
        Ok(Self { n_mels, channels: padded, first, stages, out })
    }
}

/// The bias of a convolution, or zeros, padded.
fn bias(tensors: &Tensors<'_>, name: &str, channels: usize) -> Result<Vec<f32>, EncoderError> {
    let bias = optional(tensors, &format!("{name}.bias"), &[channels])?;
    let mut padded = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
    padded.resize(channels.next_multiple_of(PAD), 0.0);
    Ok(padded)
}

fn filter(tensors: &Tensors<'_>, name: &str, channels: usize) -> Result<Filter, EncoderError> {
    let weight = required(tensors, &format!("{name}.weight"), &[channels, 1, 3, 3])?;
    let padded = channels.next_multiple_of(PAD);
    let mut transposed = vec![0.0; 9 * padded];
    for (at, &weight) in weight.iter().enumerate() {
        transposed[at % 9 * padded + at / 9] = weight;
    }
    Ok(Filter { weight: transposed, bias: bias(tensors, name, channels)? })
}
