//! Rows in, rows out: one linear layer and the buffers it needs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernels::{
    CHUNK, Kernels, LinearJob, Matrix, Op, PAD, Packed, QuantisedRow, RowScale, Tiles,
};
use crate::memory::{Aligned, Shared};
use crate::team::Member;
use crate::{Isa, team::Team};

/// Rows quantised for a linear layer.
#[derive(Debug)]
pub(crate) struct Acts {
    bytes: Aligned<u8>,
    scales: Aligned<RowScale>,
}

impl Acts {
    /// Room for `rows` rows of at most `width` values.
    pub(crate) fn new(rows: usize, width: usize) -> Self {
        Self {
            bytes: Aligned::zeroed(rows * width.next_multiple_of(CHUNK)),
            scales: Aligned::zeroed(rows),
        }
    }

    /// Room for either.
    pub(crate) fn or_larger(self, other: Self) -> Self {
        let bytes = if self.bytes.len() < other.bytes.len() { other.bytes } else { self.bytes };
        let scales =
            if self.scales.len() < other.scales.len() { other.scales } else { self.scales };
        Self { bytes, scales }
    }

    pub(crate) fn shared(&mut self) -> SharedActs {
        SharedActs { bytes: Shared::new(&mut self.bytes), scales: Shared::new(&mut self.scales) }
    }
}

/// `Acts` as the threads see them.
#[derive(Clone, Copy)]
pub(crate) struct SharedActs {
    bytes: Shared<u8>,
    scales: Shared<RowScale>,
}

impl SharedActs {
    /// Quantises row `row` of `rows`, which has `n` values, a multiple of `PAD`.
    ///
    /// # Safety
    ///
    /// `from` is good for `n` values, there is room for all rows, and nobody else reads them or
    /// writes this row meanwhile.
    pub(crate) unsafe fn put(
        self,
        kernels: &Kernels,
        from: *const f32,
        n: usize,
        row: usize,
        rows: usize,
    ) {
        let (first, height) = Tiles::new(rows, kernels.tile_rows).holding(row);
        let to = QuantisedRow {
            n,
            to: self.bytes.at(first * n.next_multiple_of(CHUNK) + (row - first) * CHUNK),
            stride: height * CHUNK,
            act_max: kernels.act_max,
        };
        // SAFETY: as above.
        unsafe { *self.scales.at(row) = (kernels.quantise)(from, &to) };
    }

    /// Applies a linear layer to `rows` quantised rows, on all threads.
    ///
    /// # Safety
    ///
    /// The rows were quantised, and the threads have met since; `out` is good for `rows` rows,
    /// `stride` apart, which nobody else uses meanwhile.
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn linear(
        self,
        member: Member<'_>,
        kernels: &Kernels,
        weights: &Packed,
        rows: usize,
        op: Op,
        out: Shared<f32>,
        stride: usize,
    ) {
        let (acts, scales) = (self.bytes.at(0), self.scales.at(0));
        let job = LinearJob { weights, acts, scales, rows, op, out, stride };
        member.each(weights.blocks(), |block, next| {
            let next = weights.weights_of(next.unwrap_or(block));
            // SAFETY: as above; blocks are different columns.
            unsafe { (kernels.linear)(&job, block, next) };
        });
    }
}

/// A linear layer with 8-bit weights; its input is quantised row by row.
#[derive(Debug)]
pub struct Linear {
    isa: Isa,
    packed: Packed,
    crew: Arc<Mutex<Crew>>,
}

/// What layers that are never applied at the same time share.
#[derive(Debug)]
struct Crew {
    team: Team,
    /// Kept from call to call, with room for this many rows and this width.
    acts: (usize, usize, Acts),
}

impl Linear {
    /// Quantises `weight` (outputs, inputs) and `bias` (outputs,).
    ///
    /// # Panics
    ///
    /// When the sizes do not match.
    pub fn new(
        weight: &[f32],
        bias: Option<&[f32]>,
        inputs: usize,
        threads: usize,
        isa: Isa,
    ) -> Self {
        let crew = Crew { team: Team::new(threads), acts: (0, 0, Acts::new(0, 0)) };
        Self::pack(weight, bias, inputs, isa, Arc::new(Mutex::new(crew)))
    }

    /// Quantises another layer that computes on the same threads, in turns with this one.
    ///
    /// # Panics
    ///
    /// When the sizes do not match.
    pub fn beside(&self, weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Self {
        Self::pack(weight, bias, inputs, self.isa, Arc::clone(&self.crew))
    }

    fn pack(
        weight: &[f32],
        bias: Option<&[f32]>,
        inputs: usize,
        isa: Isa,
        crew: Arc<Mutex<Crew>>,
    ) -> Self {
        assert!(inputs > 0 && weight.len().is_multiple_of(inputs));
        assert!(bias.is_none_or(|bias| bias.len() == weight.len() / inputs));
        let matrix = Matrix { weight, bias };
        let packed = Packed::new(&[matrix], inputs, false, Kernels::of(isa), &mut lock(&crew).team);
        Self { isa, packed, crew }
    }

    /// Numbers per row of input.
    pub fn inputs(&self) -> usize {
        self.packed.inputs()
    }

    /// Numbers per row of output.
    pub fn outputs(&self) -> usize {
        self.packed.outputs()
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// Applies the layer to the rows of `x` and overwrites those of `out`.
    ///
    /// # Panics
    ///
    /// When the sizes do not match.
    pub fn apply(&self, x: &[f32], out: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let rows = x.len() / inputs;
        assert!(x.len() == rows * inputs && out.len() == rows * outputs);
        let (kernels, packed) = (Kernels::of(self.isa), &self.packed);
        let padded = inputs.next_multiple_of(PAD);
        let Crew { team, acts } = &mut *lock(&self.crew);
        if acts.0 < rows || acts.1 < inputs {
            let (most, widest) = (rows.max(acts.0), inputs.max(acts.1));
            *acts = (most, widest, Acts::new(most, widest));
        }
        let (acts, out) = (acts.2.shared(), Shared::new(out));
        team.run(&|member| {
            let mut copy = if inputs == padded { Vec::new() } else { vec![0.0; padded] };
            member.each(rows, |row, _| {
                let from = &x[row * inputs..][..inputs];
                if inputs != padded {
                    copy[..inputs].copy_from_slice(from);
                }
                let from = if inputs == padded { from.as_ptr() } else { copy.as_ptr() };
                // SAFETY: the row and its copy have `padded` values; every row is one thread's.
                unsafe { acts.put(kernels, from, padded, row, rows) };
            });
            // SAFETY: `each` ends with a barrier; `out` has exactly this many rows.
            unsafe { acts.linear(member, kernels, packed, rows, Op::Store, out, outputs) };
        });
    }
}

/// A layer that panicked left the crew in order: the team mends itself, the buffers hold no state.
fn lock(crew: &Mutex<Crew>) -> MutexGuard<'_, Crew> {
    crew.lock().unwrap_or_else(PoisonError::into_inner)
}
