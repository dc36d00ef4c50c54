//! Streaming FastConformer layers on the CPU with 8-bit weights.
//!
//! [`Subsampling`] turns mel frames into encoder frames, [`Encoder`] advances many streams by one
//! chunk through a stack of cache-aware layers; [`Linear`] is one linear layer by itself. The feature `python` adds the binding.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

mod cache;
mod encoder;
mod isa;
mod kernels;
mod linear;
mod memory;
mod pass;
#[cfg(feature = "python")]
mod python;
mod snapshot;
mod subsampling;
mod subsampling_pass;
mod subsampling_weights;
mod team;
mod weights;

pub use encoder::{Chunk, Config, Encoder};
pub use isa::{Isa, IsaError};
pub use linear::Linear;
pub use subsampling::{MelChunk, Subsampling};
pub use weights::{EncoderError, Tensor, Tensors};
