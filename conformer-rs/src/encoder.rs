//! The stack of layers and what it keeps of every stream.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Isa;
use crate::cache::Cache;
use crate::kernels::{HeadShape, KEY_BLOCK, Kernels, PAD};
use crate::memory::Shared;
use crate::pass::{Buffers, Pass};
use crate::team::Team;
use crate::weights::{EncoderError, Layer, Packer, Tensors, wrong};

/// The sizes of an encoder that its weights do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Attention heads.
    pub heads: usize,
    /// Most frames that a stream attends to before its chunk.
    pub left: usize,
    /// Most frames in a chunk.
    pub max_chunk: usize,
    /// Streams that have a place.
    pub slots: usize,
    /// Threads to compute on, the calling one included.
    pub threads: usize,
    /// Which kernels.
    pub isa: Isa,
}

/// One stream's part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where the stream's state is.
    pub slot: usize,
    /// Rows of the input; those at or beyond `valid` are padding.
    pub frames: usize,
    /// Rows that belong to the stream.
    pub valid: usize,
    /// Frames before the chunk to attend to, if there were as many.
    pub left: usize,
}

/// A stack of cache-aware FastConformer layers with the state of `slots` streams.
///
/// Activations are quantised row by row and nothing else is shared between rows of different
/// streams, so a stream's result does not depend on its slot or on who shares the step.
#[derive(Debug)]
pub struct Encoder {
    pub(crate) config: Config,
    pub(crate) kernels: &'static Kernels,
    pub(crate) width: usize,
    pub(crate) shape: HeadShape,
    /// Shared with forks.
    pub(crate) layers: Arc<Vec<Layer>>,
    pub(crate) caches: Vec<Cache>,
    /// Per slot: frames so far.
    pub(crate) times: Vec<usize>,
    buffers: Buffers,
    team: Arc<Mutex<Team>>,
}

impl Encoder {
    /// An encoder of the given width without layers.
    ///
    /// # Errors
    ///
    /// A size is zero or does not fit the others.
    pub fn new(width: usize, config: Config) -> Result<Self, EncoderError> {
        let Config { heads, left, max_chunk, slots, threads, isa } = config;
        if heads == 0 || max_chunk == 0 {
            return wrong("heads and max_chunk must be at least 1");
        }
        check_slots(slots)?;
        if !(1..=256).contains(&threads) {
            return wrong("threads must be from 1 to 256");
        }
        if left > 1 << 20 || max_chunk > 1 << 20 {
            return wrong("left or max_chunk is too large");
        }
        if width == 0 || !width.is_multiple_of(PAD) {
            return wrong(format!("the width is {width}, which is no multiple of {PAD}"));
        }
        if !width.is_multiple_of(heads) || !(width / heads).is_multiple_of(8) {
            return wrong(format!("{heads} heads do not cut {width} into multiples of 8"));
        }
        let shape = HeadShape {
            dk: width / heads,
            ring: (left + max_chunk).next_multiple_of(KEY_BLOCK),
            positions: (left + 2 * max_chunk - 1).next_multiple_of(KEY_BLOCK),
            origin: left + max_chunk - 1,
            max_chunk,
        };
        Ok(Self {
            config,
            kernels: Kernels::of(isa),
            width,
            shape,
            layers: Arc::default(),
            caches: Vec::new(),
            times: vec![0; slots],
            buffers: Buffers::default(),
            team: Arc::new(Mutex::new(Team::new(threads))),
        })
    }

    /// Packs the weights of the next layer.
    ///
    /// # Errors
    ///
    /// An array is missing or has the wrong shape, or there are forks; the encoder is as before.
    pub fn add_layer(&mut self, tensors: &Tensors<'_>) -> Result<(), EncoderError> {
        let Config { left, max_chunk, .. } = self.config;
        let Some(layers) = Arc::get_mut(&mut self.layers) else {
            return wrong("an encoder with forks takes no more layers");
        };
        let team = &mut self.team.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packer = Packer { tensors, kernels: self.kernels, team, width: self.width };
        let layer = Layer::pack(&mut packer, self.shape, left + 2 * max_chunk - 1)?;
        if layers.first().is_some_and(|first| first.taps() != layer.taps()) {
            return wrong("the layers' convolutions differ in length");
        }
        self.caches.push(Cache::new(self.config, self.shape, layer.taps()));
        layers.push(layer);
        Ok(())
    }

    /// The same weights and threads, shared, with fresh state for `slots` streams.
    ///
    /// # Errors
    ///
    /// `slots` is zero or too large.
    pub fn fork(&self, slots: usize) -> Result<Self, EncoderError> {
        check_slots(slots)?;
        let config = Config { slots, ..self.config };
        let caches = self.layers.iter().map(|layer| Cache::new(config, self.shape, layer.taps()));
        Ok(Self {
            config,
            kernels: self.kernels,
            width: self.width,
            shape: self.shape,
            layers: Arc::clone(&self.layers),
            caches: caches.collect(),
            times: vec![0; slots],
            buffers: Buffers::default(),
            team: Arc::clone(&self.team),
        })
    }

    /// Advances every chunk's stream.
    ///
    /// `x` and `out` are (N, D): the rows of the chunks, one after another.
    ///
    /// # Errors
    ///
    /// The arguments do not fit each other or the encoder; no stream has advanced.
    pub fn step(
        &mut self,
        x: &[f32],
        chunks: &[Chunk],
        out: &mut [f32],
    ) -> Result<(), EncoderError> {
        self.check(x, chunks, out)?;
        let rows = x.len() / self.width;
        if rows == 0 {
            return Ok(());
        }
        let size = self.layers.iter().map(Layer::feed_forward_size).max().unwrap_or(0);
        let buffers = self.buffers.reserve(rows, self.width, size.max(3 * self.width));
        out.copy_from_slice(x);
        let rows = chunks
            .iter()
            .enumerate()
            .flat_map(|(index, chunk)| (0..chunk.frames).map(move |frame| (index, frame)));
        let pass = Pass {
            kernels: self.kernels,
            layers: &self.layers,
            caches: self.caches.iter_mut().map(Cache::shared).collect(),
            shape: self.shape,
            width: self.width,
            chunks,
            times: &self.times,
            rows: rows.collect(),
            residual: Shared::new(out),
            buffers,
        };
        self.team.lock().unwrap_or_else(PoisonError::into_inner).run(&|member| pass.run(member));
        for chunk in chunks {
            self.times[chunk.slot] += chunk.valid;
        }
        Ok(())
    }

    fn check(&self, x: &[f32], chunks: &[Chunk], out: &[f32]) -> Result<(), EncoderError> {
        let rows: usize = chunks.iter().map(|chunk| chunk.frames).sum();
        if x.len() != rows * self.width || out.len() != x.len() {
            return wrong(format!("x must have {rows} rows of {}", self.width));
        }
        let mut seen = vec![false; self.config.slots];
        for chunk in chunks {
            self.check_slot(chunk.slot)?;
            if std::mem::replace(&mut seen[chunk.slot], true) {
                return wrong(format!("slot {} is there twice", chunk.slot));
            }
            if chunk.frames > self.config.max_chunk {
                return wrong(format!("{} frames are more than max_chunk", chunk.frames));
            }
            if chunk.valid == 0 || chunk.valid > chunk.frames {
                return wrong(format!("valid is {}, frames {}", chunk.valid, chunk.frames));
            }
            if chunk.left > self.config.left {
                return wrong(format!("left is {}, at most {}", chunk.left, self.config.left));
            }
        }
        Ok(())
    }

    pub(crate) fn check_slot(&self, slot: usize) -> Result<(), EncoderError> {
        if slot < self.config.slots {
            return Ok(());
        }
        wrong(format!("slot {slot} is not below {}", self.config.slots))
    }

    /// Forgets a slot's stream: the next chunk is a stream's first.
    ///
    /// # Errors
    ///
    /// There is no such slot.
    pub fn clear(&mut self, slot: usize) -> Result<(), EncoderError> {
        self.check_slot(slot)?;
        // Frames before a stream's first are never read, so nothing needs to be overwritten.
        self.times[slot] = 0;
        Ok(())
    }

    /// The sizes it was made with.
    pub fn config(&self) -> Config {
        self.config
    }

    /// Numbers per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.layers.iter().map(Layer::bytes).sum()
    }

    /// Bytes of state per slot.
    pub fn cache_bytes_per_slot(&self) -> usize {
        self.caches.iter().map(Cache::bytes).sum::<usize>() / self.config.slots
    }
}

fn check_slots(slots: usize) -> Result<(), EncoderError> {
    if (1..=1 << 20).contains(&slots) {
        return Ok(());
    }
    wrong("slots must be at least 1 and not huge")
}
