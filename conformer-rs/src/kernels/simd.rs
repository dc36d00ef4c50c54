//! What the float kernels ask of a vector unit.

/// One vector unit. All kernels are written once over this trait and compiled once per unit.
///
/// Every method must be called in code that is compiled with the unit's instructions; pointers must
/// be good for `LANES` elements of their type and need no alignment.
pub trait Simd {
    /// `LANES` numbers of type f32.
    type V: Copy;
    /// At most 16, and a divisor of 16.
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c; rounded once or twice.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger one; `b` where either is NaN, as in all three below.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// 1 / v for normal numbers, to a relative error of 3e-7.
    unsafe fn recip(v: Self::V) -> Self::V;
    /// To the nearest integer; for |v| < 2^22.
    unsafe fn round(v: Self::V) -> Self::V;
    /// 2^v for integers from -126 to 127.
    unsafe fn pow2(v: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
    unsafe fn maximum(v: Self::V) -> f32;
    unsafe fn minimum(v: Self::V) -> f32;
    /// Halves (IEEE binary16, as bits) to floats.
    unsafe fn load_half(from: *const u16) -> Self::V;
    /// Floats to halves, to the nearest, ties to even.
    unsafe fn store_half(to: *mut u16, v: Self::V);
    /// The nearest integers; for 0 <= v <= 255.
    unsafe fn store_u8(to: *mut u8, v: Self::V);
    /// a - zero * b in integers, then as floats.
    unsafe fn dequantise(a: *const i32, zero: i32, b: *const i32) -> Self::V;
}

/// e^v to a relative error of 3e-7; below -87 and above 88 the result stays at the limit.
#[inline(always)]
pub unsafe fn exp<S: Simd>(v: S::V) -> S::V {
    // SAFETY: the caller vouches for the instructions; nothing here touches memory.
    unsafe {
        let v = S::min(S::max(v, S::splat(-87.0)), S::splat(88.0));
        let n = S::round(S::mul(v, S::splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts: n times the first one is exact.
        let r = S::fma(n, S::splat(-0.693_359_4), v);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let p = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
        S::mul(p, S::pow2(n))
    }
}

/// 1 / (1 + e^-v).
#[inline(always)]
pub unsafe fn sigmoid<S: Simd>(v: S::V) -> S::V {
    // SAFETY: as in `exp`.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), v));
        S::recip(S::add(S::splat(1.0), e))
    }
}

/// v * sigmoid(v).
#[inline(always)]
pub unsafe fn silu<S: Simd>(v: S::V) -> S::V {
    // SAFETY: as in `exp`.
    unsafe { S::mul(v, sigmoid::<S>(v)) }
}
