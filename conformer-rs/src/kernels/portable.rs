//! Plain Rust in loops that compilers vectorise.

use super::simd::Simd;
use super::{Ahead, CHUNK, CHUNK_GROUPS};

pub struct Portable;

/// As wide as two vectors of 128 bits.
#[derive(Clone, Copy)]
pub struct F8([f32; 8]);

#[inline(always)]
fn map(a: F8, b: F8, f: impl Fn(f32, f32) -> f32) -> F8 {
    F8(std::array::from_fn(|lane| f(a.0[lane], b.0[lane])))
}

impl Simd for Portable {
    type V = F8;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> F8 {
        F8([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> F8 {
        F8(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: F8) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v.0) }
    }

    #[inline(always)]
    unsafe fn add(a: F8, b: F8) -> F8 {
        map(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: F8, b: F8) -> F8 {
        map(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(a: F8, b: F8) -> F8 {
        map(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn fma(a: F8, b: F8, c: F8) -> F8 {
        // `mul_add` would be a function call where the processor has no such instruction.
        F8(std::array::from_fn(|lane| a.0[lane] * b.0[lane] + c.0[lane]))
    }

    #[inline(always)]
    unsafe fn max(a: F8, b: F8) -> F8 {
        map(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(a: F8, b: F8) -> F8 {
        map(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn recip(v: F8) -> F8 {
        F8(v.0.map(|x| 1.0 / x))
    }

    #[inline(always)]
    unsafe fn round(v: F8) -> F8 {
        F8(v.0.map(nearest))
    }

    #[inline(always)]
    unsafe fn pow2(v: F8) -> F8 {
        F8(v.0.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32)))
    }

    #[inline(always)]
    unsafe fn sum(v: F8) -> f32 {
        v.0.into_iter().sum()
    }

    #[inline(always)]
    unsafe fn maximum(v: F8) -> f32 {
        v.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn minimum(v: F8) -> f32 {
        v.0.into_iter().fold(f32::INFINITY, f32::min)
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> F8 {
        let halves = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        F8(halves.map(half_to_float))
    }

    #[inline(always)]
    unsafe fn store_half(to: *mut u16, v: F8) {
        unsafe { to.cast::<[u16; 8]>().write_unaligned(v.0.map(float_to_half)) }
    }

    #[inline(always)]
    unsafe fn store_u8(to: *mut u8, v: F8) {
        unsafe { to.cast::<[u8; 8]>().write_unaligned(v.0.map(|x| nearest(x) as u8)) }
    }

    #[inline(always)]
    unsafe fn dequantise(a: *const i32, zero: i32, b: *const i32) -> F8 {
        let (a, b) = unsafe {
            (a.cast::<[i32; 8]>().read_unaligned(), b.cast::<[i32; 8]>().read_unaligned())
        };
        F8(std::array::from_fn(|lane| (a[lane] - zero * b[lane]) as f32))
    }
}

/// 1.5 * 2^23.
const SHIFT: f32 = 12_582_912.0;

/// The nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits for fractions.
/// `round_ties_even` may be a function call.
#[inline(always)]
pub fn nearest(x: f32) -> f32 {
    (x + SHIFT) - SHIFT
}

/// `nearest` of -128 ..= 127: the lowest bits of the shifted number are the integer's.
#[inline(always)]
pub fn nearest_byte(x: f32) -> i8 {
    (x + SHIFT).to_bits() as i8
}

/// IEEE binary16 to binary32, exactly.
#[inline(always)]
pub fn half_to_float(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    let sign = u32::from(half & 0x8000) << 16;
    // Moving the exponent by a product makes subnormal numbers come out right.
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    // Infinities and NaNs keep the largest exponent.
    let bits = if half & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(bits | sign)
}

/// IEEE binary32 to binary16, to the nearest, ties to even.
#[inline(always)]
pub fn float_to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= 0x477f_f000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Subnormal: adding 0.5 leaves steps of 2^-24, which are those of the result.
        ((f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()) as u16
    } else {
        let even = (magnitude >> 13) & 1;
        ((magnitude - (112 << 23) + 0xfff + even) >> 13) as u16
    };
    sign | half
}

/// See `super::Tile`.
pub unsafe fn tile<const R: usize>(
    acts: *const u8,
    weights: *const i8,
    chunks: usize,
    _ahead: Ahead,
    more: bool,
    out: *mut i32,
) {
    // SAFETY: `Tile` says how far the pointers reach.
    let (acts, weights, out) = unsafe {
        (
            std::slice::from_raw_parts(acts.cast::<[[u8; CHUNK]; R]>(), chunks),
            std::slice::from_raw_parts(weights.cast::<[[[i8; 4]; 16]; CHUNK_GROUPS]>(), chunks),
            &mut *out.cast::<[[i32; 16]; R]>(),
        )
    };
    let mut sums = if more { *out } else { [[0; 16]; R] };
    for (acts, weights) in acts.iter().zip(weights) {
        for (group, weights) in weights.iter().enumerate() {
            for (sums, acts) in sums.iter_mut().zip(acts) {
                let acts = &acts[group * 4..][..4];
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    for (&a, &w) in acts.iter().zip(weights) {
                        *sum += i32::from(a) * i32::from(w);
                    }
                }
            }
        }
    }
    *out = sums;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_survive_a_round_trip() {
        for half in 0..=u16::MAX {
            let float = half_to_float(half);
            if float.is_nan() {
                assert!(half_to_float(float_to_half(float)).is_nan());
            } else {
                assert_eq!(float_to_half(float), half);
            }
        }
    }

    #[test]
    fn floats_round_to_the_nearest_half() {
        for (float, half) in [
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (65519.9, 0x7bff),
            (65520.0, 0x7c00),
            (-1e9, 0xfc00),
            (2f32.powi(-25), 0),
            (1.5 * 2f32.powi(-24), 2),
        ] {
            assert_eq!(float_to_half(float), half, "{float}");
        }
    }
}
