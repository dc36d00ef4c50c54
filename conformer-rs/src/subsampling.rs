//! The causal `dw_striding` front: mel frames in, encoder frames out.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Isa;
use crate::kernels::Kernels;
use crate::memory::{Aligned, Shared};
use crate::subsampling_pass::{Buffers, SubsamplingPass};
use crate::subsampling_weights::Weights;
use crate::team::Team;
use crate::weights::{EncoderError, Tensors, wrong};

/// One stream's part in a subsampling step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MelChunk {
    /// Where the stream's state is.
    pub slot: usize,
    /// Encoder frames; the chunk has `factor` times as many mel frames.
    pub frames: usize,
    /// Mel frames that the stream will have had, or more if it has not ended.
    pub mel_length: usize,
}

/// Causal subsampling of many streams, each with one cached frame per convolution.
///
/// Encoder frame i needs mel frames up to factor * i, so a chunk of n encoder frames brings the
/// factor * n mel frames that end there; of a stream's first chunk the first factor - 1 lie before
/// the stream and are ignored, as are those at or beyond the stream's length.
#[derive(Debug)]
pub struct Subsampling {
    weights: Arc<Weights>,
    kernels: &'static Kernels,
    caches: Vec<Aligned<f32>>,
    /// Per slot: encoder frames so far.
    times: Vec<usize>,
    buffers: Option<(usize, Buffers)>,
    team: Arc<Mutex<Team>>,
}

impl Subsampling {
    /// Packs NeMo's parameters: `conv.0`, `conv.2`, `conv.3`, ... and `out`, weight and bias.
    ///
    /// # Errors
    ///
    /// An array is missing or has the wrong shape, or a size is zero.
    pub fn new(
        tensors: &Tensors<'_>,
        n_mels: usize,
        slots: usize,
        threads: usize,
        isa: Isa,
    ) -> Result<Self, EncoderError> {
        if n_mels == 0 || !(1..=1 << 20).contains(&slots) || !(1..=256).contains(&threads) {
            return wrong("n_mels, slots or threads is zero or too large");
        }
        let (kernels, mut team) = (Kernels::of(isa), Team::new(threads));
        let weights = Weights::pack(tensors, n_mels, kernels, &mut team)?;
        let caches = caches(&weights, slots);
        Ok(Self {
            weights: Arc::new(weights),
            kernels,
            caches,
            times: vec![0; slots],
            buffers: None,
            team: Arc::new(Mutex::new(team)),
        })
    }

    /// The same weights and threads, shared, with fresh state for `slots` streams.
    ///
    /// # Errors
    ///
    /// `slots` is zero or too large.
    pub fn fork(&self, slots: usize) -> Result<Self, EncoderError> {
        if !(1..=1 << 20).contains(&slots) {
            return wrong("slots is zero or too large");
        }
        Ok(Self {
            weights: Arc::clone(&self.weights),
            kernels: self.kernels,
            caches: caches(&self.weights, slots),
            times: vec![0; slots],
            buffers: None,
            team: Arc::clone(&self.team),
        })
    }

    /// Advances every chunk's stream.
    ///
    /// `mel` is (factor * N, n_mels), `out` (N, D): the rows of the chunks, one after another.
    ///
    /// # Errors
    ///
    /// The arguments do not fit; no stream has advanced.
    pub fn step(
        &mut self,
        mel: &[f32],
        chunks: &[MelChunk],
        out: &mut [f32],
    ) -> Result<(), EncoderError> {
        let rows: Vec<(usize, usize)> = chunks
            .iter()
            .enumerate()
            .flat_map(|(index, chunk)| (0..chunk.frames).map(move |frame| (index, frame)))
            .collect();
        self.check(mel, chunks, out, rows.len())?;
        if self.buffers.as_ref().is_none_or(|(room, _)| *room < rows.len()) {
            self.buffers = None;
            self.buffers = Some((rows.len(), Buffers::new(&self.weights, rows.len())));
        }
        let Some((_, buffers)) = &mut self.buffers else { return Ok(()) };
        let pass = SubsamplingPass {
            kernels: self.kernels,
            weights: &self.weights,
            caches: self.caches.iter_mut().map(|cache| Shared::new(cache)).collect(),
            mel,
            chunks,
            times: &self.times,
            rows,
            out: Shared::new(out),
            outputs: buffers.outputs.iter_mut().map(|output| Shared::new(output)).collect(),
            acts: buffers.acts.shared(),
        };
        self.team.lock().unwrap_or_else(PoisonError::into_inner).run(&|member| pass.run(member));
        for chunk in chunks {
            self.times[chunk.slot] += chunk.frames;
        }
        Ok(())
    }

    fn check(
        &self,
        mel: &[f32],
        chunks: &[MelChunk],
        out: &[f32],
        rows: usize,
    ) -> Result<(), EncoderError> {
        if mel.len() != rows * self.factor() * self.weights.n_mels {
            let (factor, bins) = (self.factor(), self.weights.n_mels);
            return wrong(format!("mel must have {factor} * {rows} rows of {bins}"));
        }
        if out.len() != rows * self.width() {
            return wrong("out has the wrong size");
        }
        let mut seen = vec![false; self.times.len()];
        for chunk in chunks {
            self.check_slot(chunk.slot)?;
            if std::mem::replace(&mut seen[chunk.slot], true) {
                return wrong(format!("slot {} is there twice", chunk.slot));
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: usize) -> Result<(), EncoderError> {
        if slot < self.times.len() {
            return Ok(());
        }
        wrong(format!("slot {slot} is not below {}", self.times.len()))
    }

    /// Forgets a slot's stream: the next chunk is a stream's first.
    ///
    /// # Errors
    ///
    /// There is no such slot.
    pub fn clear(&mut self, slot: usize) -> Result<(), EncoderError> {
        self.check_slot(slot)?;
        self.times[slot] = 0;
        for (stage, cache) in self.caches.iter_mut().enumerate() {
            let size = self.weights.frame(stage);
            cache[slot * size..][..size].fill(0.0);
        }
        Ok(())
    }

    /// The state of a slot's stream.
    ///
    /// # Errors
    ///
    /// There is no such slot.
    pub fn save(&self, slot: usize) -> Result<Vec<u8>, EncoderError> {
        self.check_slot(slot)?;
        let mut bytes = (self.times[slot] as u64).to_le_bytes().to_vec();
        for (stage, cache) in self.caches.iter().enumerate() {
            let size = self.weights.frame(stage);
            bytes.extend(cache[slot * size..][..size].iter().flat_map(|x| x.to_le_bytes()));
        }
        Ok(bytes)
    }

    /// Puts a saved stream into a slot, in place of what is there.
    ///
    /// # Errors
    ///
    /// There is no such slot, or the state has the wrong size; nothing has changed.
    pub fn load(&mut self, slot: usize, state: &[u8]) -> Result<(), EncoderError> {
        self.check_slot(slot)?;
        let sizes: Vec<usize> = (0..self.caches.len()).map(|at| self.weights.frame(at)).collect();
        let Some((time, mut floats)) = state
            .split_first_chunk()
            .map(|(time, rest)| (u64::from_le_bytes(*time), rest.as_chunks::<4>().0))
            .filter(|_| state.len() == 8 + 4 * sizes.iter().sum::<usize>())
        else {
            return wrong("this is no state of a subsampling of these sizes");
        };
        for (cache, &size) in self.caches.iter_mut().zip(&sizes) {
            let (head, rest) = floats.split_at(size);
            for (to, &from) in cache[slot * size..][..size].iter_mut().zip(head) {
                *to = f32::from_le_bytes(from);
            }
            floats = rest;
        }
        self.times[slot] = usize::try_from(time.min(1 << 40)).unwrap_or(usize::MAX >> 8);
        Ok(())
    }

    /// Mel frames per encoder frame.
    pub fn factor(&self) -> usize {
        self.weights.factor()
    }

    /// Numbers per encoder frame.
    pub fn width(&self) -> usize {
        self.weights.out.outputs()
    }

    /// Mel bins.
    pub fn n_mels(&self) -> usize {
        self.weights.n_mels
    }

    /// Streams that have a place.
    pub fn slots(&self) -> usize {
        self.times.len()
    }
}

fn caches(weights: &Weights, slots: usize) -> Vec<Aligned<f32>> {
    let stages = 0..=weights.stages.len();
    stages.map(|stage| Aligned::zeroed(slots * weights.frame(stage))).collect()
}
