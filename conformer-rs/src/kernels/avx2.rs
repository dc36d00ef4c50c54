//! AVX2, with and without 256-bit VNNI.

use std::arch::x86_64::*;

use super::simd::Simd;
use super::{Ahead, CHUNK, CHUNK_GROUPS};

pub struct Avx2;

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn recip(v: __m256) -> __m256 {
        unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), v) }
    }

    #[inline(always)]
    unsafe fn round(v: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }

    #[inline(always)]
    unsafe fn pow2(v: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    unsafe fn maximum(v: __m256) -> f32 {
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    unsafe fn minimum(v: __m256) -> f32 {
        unsafe {
            let v = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_min_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_min_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_half(to: *mut u16, v: __m256) {
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    unsafe fn store_u8(to: *mut u8, v: __m256) {
        unsafe {
            let v = _mm256_cvtps_epi32(v);
            let v = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(v, v));
        }
    }

    #[inline(always)]
    unsafe fn dequantise(a: *const i32, zero: i32, b: *const i32) -> __m256 {
        unsafe {
            let b = _mm256_mullo_epi32(_mm256_set1_epi32(zero), _mm256_loadu_si256(b.cast()));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256(a.cast()), b))
        }
    }
}

/// See `super::Tile`. Sums of two products must fit 16 bits: `PAIR_LIMIT` sees to it.
#[target_feature(enable = "avx2")]
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
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        if more {
            for (row, sums) in sums.iter_mut().enumerate() {
                sums[0] = _mm256_loadu_si256(out.add(row * 16).cast());
                sums[1] = _mm256_loadu_si256(out.add(row * 16 + 8).cast());
            }
        }
        for group in 0..chunks * CHUNK_GROUPS {
            let at = group / CHUNK_GROUPS * R * CHUNK + group % CHUNK_GROUPS * 4;
            let w0 = _mm256_loadu_si256(weights.add(group * 64).cast());
            let w1 = _mm256_loadu_si256(weights.add(group * 64 + 32).cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.start.wrapping_add(group * ahead.step));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a: *const i32 = acts.add(at + row * CHUNK).cast();
                let a = _mm256_set1_epi32(a.read_unaligned());
                let p0 = _mm256_madd_epi16(_mm256_maddubs_epi16(a, w0), ones);
                let p1 = _mm256_madd_epi16(_mm256_maddubs_epi16(a, w1), ones);
                sums[0] = _mm256_add_epi32(sums[0], p0);
                sums[1] = _mm256_add_epi32(sums[1], p1);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm256_storeu_si256(out.add(row * 16).cast(), sums[0]);
            _mm256_storeu_si256(out.add(row * 16 + 8).cast(), sums[1]);
        }
    }
}

/// See `super::Tile`.
#[target_feature(enable = "avx2,avxvnni")]
pub unsafe fn tile_vnni<const R: usize>(
    acts: *const u8,
    weights: *const i8,
    chunks: usize,
    ahead: Ahead,
    more: bool,
    out: *mut i32,
) {
    // SAFETY: `Tile` says how far the pointers reach; prefetching cannot fault.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        if more {
            for (row, sums) in sums.iter_mut().enumerate() {
                sums[0] = _mm256_loadu_si256(out.add(row * 16).cast());
                sums[1] = _mm256_loadu_si256(out.add(row * 16 + 8).cast());
            }
        }
        for group in 0..chunks * CHUNK_GROUPS {
            let at = group / CHUNK_GROUPS * R * CHUNK + group % CHUNK_GROUPS * 4;
            let w0 = _mm256_loadu_si256(weights.add(group * 64).cast());
            let w1 = _mm256_loadu_si256(weights.add(group * 64 + 32).cast());
            _mm_prefetch::<_MM_HINT_T1>(ahead.start.wrapping_add(group * ahead.step));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a: *const i32 = acts.add(at + row * CHUNK).cast();
                let a = _mm256_set1_epi32(a.read_unaligned());
                sums[0] = _mm256_dpbusd_avx_epi32(sums[0], a, w0);
                sums[1] = _mm256_dpbusd_avx_epi32(sums[1], a, w1);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm256_storeu_si256(out.add(row * 16).cast(), sums[0]);
            _mm256_storeu_si256(out.add(row * 16 + 8).cast(), sums[1]);
        }
    }
}
