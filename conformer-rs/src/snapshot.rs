//! A stream's state as bytes, from one encoder to another with the same weights.
//!
//! Only what the next chunk can see is kept, in order of time and in little-endian numbers, so equal
//! streams give equal bytes whatever their slots and the processors they ran on.

use crate::encoder::Encoder;
use crate::kernels::KEY_BLOCK;
use crate::weights::{EncoderError, wrong};

const MAGIC: u64 = u64::from_le_bytes(*b"FCStrm01");

impl Encoder {
    /// The state of a slot's stream.
    ///
    /// # Errors
    ///
    /// There is no such slot.
    pub fn save(&self, slot: usize) -> Result<Vec<u8>, EncoderError> {
        self.check_slot(slot)?;
        let time = self.times[slot];
        let mut bytes = Vec::new();
        for number in self.header() {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend((time as u64).to_le_bytes());
        for layer in 0..self.layers.len() {
            let cache = &self.caches[layer];
            self.frames(slot, time, |key, value| {
                bytes.extend(cache.keys[key].to_le_bytes());
                bytes.extend(cache.values[value].to_le_bytes());
            });
            self.conv_frames(layer, slot, time, |at| {
                bytes.extend(cache.conv[at].to_le_bytes());
            });
        }
        Ok(bytes)
    }

    /// Puts a saved stream into a slot, in place of what is there.
    ///
    /// # Errors
    ///
    /// There is no such slot, or the bytes are not a state of such an encoder; nothing has changed.
    pub fn load(&mut self, slot: usize, state: &[u8]) -> Result<(), EncoderError> {
        self.check_slot(slot)?;
        let header = self.header();
        let (numbers, _) = state.as_chunks::<8>();
        if numbers.len() <= header.len()
            || numbers.iter().zip(header).any(|(bytes, number)| *bytes != number.to_le_bytes())
        {
            return wrong("this is no state of an encoder of these sizes");
        }
        let time = u64::from_le_bytes(numbers[header.len()]);
        let Ok(time) = usize::try_from(time.min(u64::MAX >> 2)) else {
            return wrong("the stream is too old for this machine");
        };
        let body = &state[(header.len() + 1) * 8..];
        if body.len() != self.body_len(slot, time) {
            return wrong("the state is cut off or too long");
        }
        let mut halves = body.as_chunks::<2>().0.iter();
        let mut next = || halves.next().copied().unwrap_or_default();
        let mut places = Vec::new();
        for layer in 0..self.layers.len() {
            places.clear();
            self.frames(slot, time, |key, value| places.push((key, value)));
            let cache = &mut self.caches[layer];
            for &(key, value) in &places {
                cache.keys[key] = u16::from_le_bytes(next());
                cache.values[value] = u16::from_le_bytes(next());
            }
            places.clear();
            self.conv_frames(layer, slot, time, |at| places.push((at, at)));
            for &(at, _) in &places {
                let ([a, b], [c, d]) = (next(), next());
                self.caches[layer].conv[at] = f32::from_le_bytes([a, b, c, d]);
            }
        }
        self.times[slot] = time;
        Ok(())
    }

    fn header(&self) -> [u64; 6] {
        let taps = self.layers.first().map_or(0, |layer| layer.taps());
        let sizes = [self.layers.len(), self.width, self.config.heads, self.config.left, taps];
        let [layers, width, heads, left, taps] = sizes.map(|size| size as u64);
        [MAGIC, layers, width, heads, left, taps]
    }

    fn body_len(&self, slot: usize, time: usize) -> usize {
        let conv = |layer| {
            let mut count = 0;
            self.conv_frames(layer, slot, time, |_| count += 1);
            count
        };
        let attention = self.layers.len() * time.min(self.config.left) * self.width;
        4 * attention + 4 * (0..self.layers.len()).map(conv).sum::<usize>()
    }

    /// Where the keys and values that a next chunk can see are.
    fn frames(&self, slot: usize, time: usize, mut visit: impl FnMut(usize, usize)) {
        let (shape, heads) = (self.shape, self.config.heads);
        for frame in time - time.min(self.config.left)..time {
            let at = frame % shape.ring;
            for head in 0..heads {
                let place = (slot * heads + head) * shape.ring;
                let block = (place + at) / KEY_BLOCK * shape.dk;
                for d in 0..shape.dk {
                    let key = (block + d) * KEY_BLOCK + at % KEY_BLOCK;
                    visit(key, (place + at) * shape.value_stride() + d);
                }
            }
        }
    }

    /// Where the convolution inputs that a next chunk can see are.
    fn conv_frames(&self, layer: usize, slot: usize, time: usize, mut visit: impl FnMut(usize)) {
        let ring = self.caches[layer].conv_ring;
        let kept = self.layers[layer].taps() - 1;
        for frame in time - time.min(kept)..time {
            let row = slot * ring + frame % ring;
            (row * self.width..(row + 1) * self.width).for_each(&mut visit);
        }
    }
}
