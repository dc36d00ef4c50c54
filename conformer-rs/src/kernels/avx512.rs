//! AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::simd::Simd;
use super::{Ahead, CHUNK, CHUNK_GROUPS};

pub struct Avx512;

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn recip(v: __m512) -> __m512 {
        unsafe {
            // 14 bits and one Newton step: a division would cost as much as the whole exponential.
            let r = _mm512_rcp14_ps(v);
            _mm512_mul_ps(r, _mm512_fnmadd_ps(v, r, _mm512_set1_ps(2.0)))
        }
    }

    #[inline(always)]
    unsafe fn round(v: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }

    #[inline(always)]
    unsafe fn pow2(v: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), v) }
    }

    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }

    #[inline(always)]
    unsafe fn maximum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    unsafe fn minimum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_min_ps(v) }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_half(to: *mut u16, v: __m512) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    unsafe fn store_u8(to: *mut u8, v: __m512) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
    }

    #[inline(always)]
    unsafe fn dequantise(a: *const i32, zero: i32, b: *const i32) -> __m512 {
        unsafe {
            let b = _mm512_mullo_epi32(_mm512_set1_epi32(zero), _mm512_loadu_si512(b.cast()));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(a.cast()), b))
        }
    }
}

/// See `super::Tile`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn tile<const R: usize>(
    acts: *const u8,
    weights: *const i8,
    chunks: usize,
    ahead: Ahead,
    more: bool,
    out: *mut i32,
) {
    // SAFETY: `Tile` says how far the pointers reach; prefetching cannot fault.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        if more {
            for (row, sums) in sums.iter_mut().enumerate() {
                sums[0] = _mm512_loadu_si512(out.add(row * 32).cast());
                sums[1] = _mm512_loadu_si512(out.add(row * 32 + 16).cast());
            }
        }
        for group in 0..chunks * CHUNK_GROUPS {
            let at = group / CHUNK_GROUPS * R * CHUNK + group % CHUNK_GROUPS * 4;
            let w0 = _mm512_loadu_si512(weights.add(group * 128).cast());
            let w1 = _mm512_loadu_si512(weights.add(group * 128 + 64).cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.start.wrapping_add(group * ahead.step));
            _mm_prefetch::<_MM_HINT_T1>(ahead.start.wrapping_add(group * ahead.step + 64));
            _mm_prefetch::<_MM_HINT_T0>(
                acts.wrapping_add(at + R * CHUNK + group % CHUNK_GROUPS * 60).cast(),
            );
            for (row, sums) in sums.iter_mut().enumerate() {
                let a: *const i32 = acts.add(at + row * CHUNK).cast();
                let a = _mm512_set1_epi32(a.read_unaligned());
                sums[0] = _mm512_dpbusd_epi32(sums[0], a, w0);
                sums[1] = _mm512_dpbusd_epi32(sums[1], a, w1);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_storeu_si512(out.add(row * 32).cast(), sums[0]);
            _mm512_storeu_si512(out.add(row * 32 + 16).cast(), sums[1]);
        }
    }
}
