//! The inner loops, once per instruction set, behind one table of functions.
//!
//! This is where the unsafe code lives: kernels write into buffers that threads share, and call
//! instructions that not every processor has. The functions of a table may be called only where its
//! `Isa` is available, which [`Kernels::of`] checks.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod images;
mod linear;
mod packed;
mod portable;
mod products;
mod rows;
mod simd;
#[cfg(test)]
mod tests;

pub use attention::{Attend, AttendScratch, HeadShape, KEY_BLOCK};
pub use images::{Image, halved};
pub use linear::{LinearJob, Op, RowScale, Tiles};
pub use packed::{Matrix, Packed};
pub use portable::float_to_half;
pub use rows::{Depthwise, Norm, QuantisedRow};

use crate::isa::Isa;

/// Widths of rows are multiples of this, but for the inputs of a bare `Linear`.
pub const PAD: usize = 16;

/// Inputs whose quantised values lie side by side: a cache line of them. Inputs are padded to a
/// multiple of it.
pub const CHUNK: usize = 64;
/// Groups of 4 inputs per chunk.
const CHUNK_GROUPS: usize = CHUNK / 4;

/// Dot products of one tile: every row of a tile with the outputs of one block.
///
/// `acts` holds `chunks` times (rows, CHUNK) values, `weights` (block, 4) for every group of 4. The
/// (rows, block) sums are stored in `out`, or with `more` added to what is there. Meanwhile `ahead` is
/// fetched from memory.
pub type Tile = unsafe fn(
    acts: *const u8,
    weights: *const i8,
    chunks: usize,
    ahead: Ahead,
    more: bool,
    out: *mut i32,
);

/// What will be read soon: a cache line every `step` bytes, one per group.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 kernels fetch"))]
pub struct Ahead {
    pub start: *const i8,
    pub step: usize,
}

/// The functions of one instruction set.
///
/// # Safety of all of them
///
/// The pointers in a job must be good for what the job's documentation says, and nobody else may
/// read what is written or write what is read.
pub struct Kernels {
    /// What the functions need.
    pub isa: Isa,
    /// Outputs per block of packed weights.
    pub block: usize,
    /// Most rows per tile.
    pub tile_rows: usize,
    /// Largest quantised activation.
    pub act_max: u8,
    /// Largest sum of the magnitudes of two neighbouring weights.
    pub pair_limit: Option<u8>,
    /// One block of outputs of a linear layer, for all rows.
    pub linear: unsafe fn(job: &LinearJob<'_>, block: usize, next: *const i8),
    /// Layer norm of a row of `n` values; `to` may be `from`.
    pub norm: unsafe fn(norm: &Norm, from: *const f32, to: *mut f32),
    /// Rounds a row of weights to -127 ..= 127, within a `pair_limit`, and gives the step.
    pub quantise_weights: unsafe fn(from: &[f32], to: &mut [i8], pair_limit: Option<u8>) -> f32,
    /// Quantises a row of values, a multiple of `PAD`, into its tile.
    pub quantise: unsafe fn(from: *const f32, to: &QuantisedRow) -> RowScale,
    /// Attention of one stream and head.
    pub attend: unsafe fn(job: &Attend<'_>, scratch: &mut AttendScratch),
    /// Depthwise convolution of one frame.
    pub depthwise: unsafe fn(job: &Depthwise<'_>, to: *mut f32),
    /// The first convolution of the subsampling, one output frame.
    pub first_conv: unsafe fn(job: &Image<'_>, to: *mut f32),
    /// A depthwise convolution of the subsampling, one output bin.
    pub depthwise_conv: unsafe fn(job: &Image<'_>, bin: usize, to: *mut f32),
    /// SiLU of `n` values in place, a multiple of `PAD`.
    pub silu: unsafe fn(row: *mut f32, n: usize),
}

impl Kernels {
    /// The table of an instruction set; the portable one where the processor lacks it.
    pub fn of(isa: Isa) -> &'static Self {
        if !isa.is_available() {
            return &portable_table::TABLE;
        }
        match isa {
            Isa::Portable => &portable_table::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2_table::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => &avxvnni_table::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &avx512vnni_table::TABLE,
            #[cfg(not(target_arch = "x86_64"))]
            _ => &portable_table::TABLE,
        }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.isa.name())
    }
}

/// Compiles every kernel for one instruction set. The list counts the rows that a tile may have: as
/// many as the registers hold sums for.
macro_rules! table {
    (
        $module:ident, $isa:ident, $simd:ty, $unit:ident::$tile:ident, [$($rows:literal)+],
        act_max: $act_max:expr, pair_limit: $pair_limit:expr $(, #[$features:meta])?
    ) => {
        mod $module {
            use super::*;

            static TILES: &[Tile] = &[$($unit::$tile::<$rows>),+];

            $(#[$features])?
            unsafe fn linear(job: &LinearJob<'_>, block: usize, next: *const i8) {
                // SAFETY: passed on to the caller, as in all functions of a table.
                unsafe { linear::block::<$simd>(job, block, next, TILES) }
            }

            $(#[$features])?
            unsafe fn norm(norm: &Norm, from: *const f32, to: *mut f32) {
                unsafe { rows::norm::<$simd>(norm, from, to) }
            }

            $(#[$features])?
            unsafe fn quantise_weights(from: &[f32], to: &mut [i8], limit: Option<u8>) -> f32 {
                packed::quantise_weights(from, to, limit)
            }

            $(#[$features])?
            unsafe fn quantise(from: *const f32, to: &QuantisedRow) -> RowScale {
                unsafe { rows::quantise::<$simd>(from, to) }
            }

            $(#[$features])?
            unsafe fn attend(job: &Attend<'_>, scratch: &mut AttendScratch) {
                unsafe { attention::attend::<$simd>(job, scratch) }
            }

            $(#[$features])?
            unsafe fn depthwise(job: &Depthwise<'_>, to: *mut f32) {
                unsafe { rows::depthwise::<$simd>(job, to) }
            }

            $(#[$features])?
            unsafe fn first_conv(job: &Image<'_>, to: *mut f32) {
                unsafe { images::first::<$simd>(job, to) }
            }

            $(#[$features])?
            unsafe fn depthwise_conv(job: &Image<'_>, bin: usize, to: *mut f32) {
                unsafe { images::depthwise::<$simd>(job, bin, to) }
            }

            $(#[$features])?
            unsafe fn silu(row: *mut f32, n: usize) {
                unsafe { rows::silu::<$simd>(row, n) }
            }

            pub static TABLE: Kernels = Kernels {
                isa: Isa::$isa,
                block: 2 * <$simd as simd::Simd>::LANES,
                tile_rows: TILES.len(),
                act_max: $act_max,
                pair_limit: $pair_limit,
                linear,
                norm,
                quantise_weights,
                quantise,
                attend,
                depthwise,
                first_conv,
                depthwise_conv,
                silu,
            };
        }
    };
}

table!(
    portable_table, Portable, portable::Portable, portable::tile, [1 2 3 4],
    act_max: 255, pair_limit: None
);

// Without VNNI the products of two neighbours are summed in 16 bits. 204 times 160 just fits, and
// costs less accuracy than 7-bit activations: few pairs of weights are both near the largest.
#[cfg(target_arch = "x86_64")]
table!(
    avx2_table, Avx2, avx2::Avx2, avx2::tile, [1 2 3 4 5],
    act_max: 204, pair_limit: Some(160), #[target_feature(enable = "avx2,fma,f16c")]
);

#[cfg(target_arch = "x86_64")]
table!(
    avxvnni_table, AvxVnni, avx2::Avx2, avx2::tile_vnni, [1 2 3 4 5 6],
    act_max: 255, pair_limit: None, #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
);

#[cfg(target_arch = "x86_64")]
table!(
    avx512vnni_table, Avx512Vnni, avx512::Avx512, avx512::tile,
    [1 2 3 4 5 6 7 8 9 10 11 12 13 14], act_max: 255, pair_limit: None,
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vnni")]
);
