//! The weights of one layer: named float arrays in, packed layers out.

use std::collections::HashMap;
use std::fmt;

use crate::kernels::{HeadShape, KEY_BLOCK, Kernels, Matrix, Norm, PAD, Packed, float_to_half};
use crate::memory::Aligned;
use crate::team::Team;

/// A float array, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// The length of each dimension.
    pub shape: &'a [usize],
    /// As many numbers as the shape says.
    pub data: &'a [f32],
}

/// The arrays of one layer by the names that NeMo gives them, and `positions`.
pub type Tensors<'a> = HashMap<String, Tensor<'a>>;

/// An argument that does not fit: the message says which and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderError(pub(crate) String);

impl fmt::Display for EncoderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EncoderError {}

pub(crate) fn wrong<T>(message: impl Into<String>) -> Result<T, EncoderError> {
    Err(EncoderError(message.into()))
}

/// The array of this name, if there is one; it must have this shape.
pub(crate) fn optional<'b>(
    tensors: &Tensors<'b>,
    name: &str,
    shape: &[usize],
) -> Result<Option<&'b [f32]>, EncoderError> {
    let Some(tensor) = tensors.get(name) else { return Ok(None) };
    if tensor.shape == shape {
        return Ok(Some(tensor.data));
    }
    wrong(format!("{name} has shape {:?}, not {shape:?}", tensor.shape))
}

/// The array of this name, which must be there and have this shape.
pub(crate) fn required<'b>(
    tensors: &Tensors<'b>,
    name: &str,
    shape: &[usize],
) -> Result<&'b [f32], EncoderError> {
    let tensor = optional(tensors, name, shape)?;
    tensor.ok_or_else(|| EncoderError(format!("{name} is missing")))
}

/// The length of a dimension that only the array itself knows.
pub(crate) fn length(
    tensors: &Tensors<'_>,
    name: &str,
    dimension: usize,
) -> Result<usize, EncoderError> {
    match tensors.get(name).and_then(|tensor| tensor.shape.get(dimension)) {
        Some(&length) if length > 0 => Ok(length),
        Some(_) => wrong(format!("{name} is empty")),
        None => wrong(format!("{name} is missing or has too few dimensions")),
    }
}

#[derive(Debug)]
pub(crate) struct Layer {
    pub feed_forward1: FeedForward,
    pub attention: Attention,
    pub conv: Conv,
    pub feed_forward2: FeedForward,
    pub norm_out: Norm,
}

#[derive(Debug)]
pub(crate) struct FeedForward {
    pub norm: Norm,
    pub up: Packed,
    pub down: Packed,
}

#[derive(Debug)]
pub(crate) struct Attention {
    pub norm: Norm,
    /// Query, key and value, one after another.
    pub qkv: Packed,
    pub out: Packed,
    /// (H, dk) each.
    pub bias_u: Vec<f32>,
    pub bias_v: Vec<f32>,
    /// (H, positions / 16, dk, 16) halves.
    pub positions: Aligned<u16>,
}

#[derive(Debug)]
pub(crate) struct Conv {
    pub norm: Norm,
    pub expand: Packed,
    /// (taps, D).
    pub depthwise: Vec<f32>,
    pub depthwise_bias: Vec<f32>,
    pub inner_norm: Norm,
    pub project: Packed,
}

/// Takes arrays by name and checks their shapes, then packs them.
pub(crate) struct Packer<'a, 'b> {
    pub tensors: &'a Tensors<'b>,
    pub kernels: &'static Kernels,
    pub team: &'a mut Team,
    pub width: usize,
}

impl Layer {
    pub(crate) fn pack(
        packer: &mut Packer<'_, '_>,
        shape: HeadShape,
        positions: usize,
    ) -> Result<Self, EncoderError> {
        Ok(Self {
            feed_forward1: packer.feed_forward("feed_forward1")?,
            attention: packer.attention(shape, positions)?,
            conv: packer.conv()?,
            feed_forward2: packer.feed_forward("feed_forward2")?,
            norm_out: packer.norm("norm_out")?,
        })
    }

    /// Frames that the convolution looks back, plus one.
    pub(crate) fn taps(&self) -> usize {
        self.conv.depthwise.len() / self.conv.depthwise_bias.len()
    }

    pub(crate) fn feed_forward_size(&self) -> usize {
        self.feed_forward1.up.outputs().max(self.feed_forward2.up.outputs())
    }

    pub(crate) fn bytes(&self) -> usize {
        let attention = &self.attention;
        let packed = [
            &self.feed_forward1.up,
            &self.feed_forward1.down,
            &attention.qkv,
            &attention.out,
            &self.conv.expand,
            &self.conv.project,
            &self.feed_forward2.up,
            &self.feed_forward2.down,
        ];
        let floats = self.conv.depthwise.len() + 15 * self.norm_out.weight.len();
        packed.iter().map(|packed| packed.bytes()).sum::<usize>()
            + 2 * attention.positions.len()
            + 4 * floats
    }
}

impl<'b> Packer<'_, 'b> {
    fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<&'b [f32]>, EncoderError> {
        optional(self.tensors, name, shape)
    }

    fn required(&self, name: &str, shape: &[usize]) -> Result<&'b [f32], EncoderError> {
        required(self.tensors, name, shape)
    }

    fn length(&self, name: &str, dimension: usize) -> Result<usize, EncoderError> {
        length(self.tensors, name, dimension)
    }

    fn norm(&self, name: &str) -> Result<Norm, EncoderError> {
        let copy = |part: &str| {
            let data = self.required(&format!("{name}.{part}"), &[self.width])?;
            let mut copy = Aligned::zeroed(data.len());
            copy.copy_from_slice(data);
            Ok(copy)
        };
        Ok(Norm { weight: copy("weight")?, bias: copy("bias")? })
    }

    fn matrix(&self, name: &str, shape: &[usize]) -> Result<Matrix<'b>, EncoderError> {
        let weight = self.required(&format!("{name}.weight"), shape)?;
        let bias = self.optional(&format!("{name}.bias"), &shape[..1])?;
        Ok(Matrix { weight, bias })
    }

    fn linear(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Packed, EncoderError> {
        let matrix = self.matrix(name, &[outputs, inputs])?;
        Ok(Packed::new(&[matrix], inputs, false, self.kernels, self.team))
    }

    fn feed_forward(&mut self, name: &str) -> Result<FeedForward, EncoderError> {
        let (up, down) = (format!("{name}.linear1"), format!("{name}.linear2"));
        let size = self.length(&format!("{up}.weight"), 0)?;
        if !size.is_multiple_of(PAD) {
            return wrong(format!("{up} has {size} outputs, which is no multiple of {PAD}"));
        }
        Ok(FeedForward {
            norm: self.norm(&format!("norm_{name}"))?,
            up: self.linear(&up, size, self.width)?,
            down: self.linear(&down, self.width, size)?,
        })
    }

    fn attention(&mut self, shape: HeadShape, positions: usize) -> Result<Attention, EncoderError> {
        let (width, dk) = (self.width, shape.dk);
        let heads = width / dk;
        let mut parts = Vec::new();
        for name in ["q", "k", "v"] {
            parts.push(self.matrix(&format!("self_attn.linear_{name}"), &[width, width])?);
        }
        let table = self.required("positions", &[positions, width])?;
        let mut packed = Aligned::zeroed(shape.positions * width);
        for (row, values) in table.chunks_exact(width).enumerate() {
            for (channel, &value) in values.iter().enumerate() {
                let (head, d) = (channel / dk, channel % dk);
                let block = head * shape.positions / KEY_BLOCK + row / KEY_BLOCK;
                packed[(block * dk + d) * KEY_BLOCK + row % KEY_BLOCK] = float_to_half(value);
            }
        }
        Ok(Attention {
            norm: self.norm("norm_self_att")?,
            qkv: Packed::new(&parts, width, false, self.kernels, self.team),
            out: self.linear("self_attn.linear_out", width, width)?,
            bias_u: self.required("self_attn.pos_bias_u", &[heads, dk])?.to_vec(),
            bias_v: self.required("self_attn.pos_bias_v", &[heads, dk])?.to_vec(),
            positions: packed,
        })
    }

    fn conv(&mut self) -> Result<Conv, EncoderError> {
        let width = self.width;
        let name = "conv.depthwise_conv";
        let taps = self.length(&format!("{name}.weight"), 2)?;
        let weight = self.required(&format!("{name}.weight"), &[width, 1, taps])?;
        let bias = self.optional(&format!("{name}.bias"), &[width])?;
        let expand = self.matrix("conv.pointwise_conv1", &[2 * width, width, 1])?;
        let project = self.matrix("conv.pointwise_conv2", &[width, width, 1])?;
        let transposed = (0..taps * width).map(|at| weight[at % width * taps + at / width]);
        Ok(Conv {
            norm: self.norm("norm_conv")?,
            expand: Packed::new(&[expand], width, true, self.kernels, self.team),
            depthwise: transposed.collect(),
            depthwise_bias: bias.map_or_else(|| vec![0.0; width], <[f32]>::to_vec),
            inner_norm: self.norm("conv.batch_norm")?,
            project: Packed::new(&[project], width, false, self.kernels, self.team),
        })
    }
}
