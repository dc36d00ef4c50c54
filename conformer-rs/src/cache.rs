//! What the layers keep of the streams.

use crate::encoder::Config;
use crate::kernels::HeadShape;
use crate::memory::{Aligned, Shared};

/// What a layer keeps of all streams. Frame t of a stream stands at t % ring.
#[derive(Debug)]
pub(crate) struct Cache {
    /// (slots, H, ring / 16, dk, 16) halves.
    pub keys: Aligned<u16>,
    /// (slots, H, ring, value stride) halves.
    pub values: Aligned<u16>,
    /// (slots, conv ring, D).
    pub conv: Aligned<f32>,
    pub conv_ring: usize,
}

impl Cache {
    pub(crate) fn new(config: Config, shape: HeadShape, taps: usize) -> Self {
        let Config { heads, max_chunk, slots, .. } = config;
        let rows = slots * heads * shape.ring;
        let conv_ring = taps - 1 + max_chunk;
        Self {
            keys: Aligned::zeroed(rows * shape.dk),
            values: Aligned::zeroed(rows * shape.value_stride()),
            conv: Aligned::zeroed(slots * conv_ring * heads * shape.dk),
            conv_ring,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.keys) + size_of_val(&*self.values) + size_of_val(&*self.conv)
    }

    pub(crate) fn shared(&mut self) -> SharedCache {
        SharedCache {
            keys: Shared::new(&mut self.keys),
            values: Shared::new(&mut self.values),
            conv: Shared::new(&mut self.conv),
            conv_ring: self.conv_ring,
        }
    }
}

/// `Cache` as the threads see it.
#[derive(Clone, Copy)]
pub(crate) struct SharedCache {
    pub keys: Shared<u16>,
    pub values: Shared<u16>,
    pub conv: Shared<f32>,
    pub conv_ring: usize,
}
