//! Buffers that start on a cache line, and on a huge page when they are large.

use std::ops::{Deref, DerefMut};

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of `T`, zero at first. Pages that are never written take no memory.
#[derive(Debug)]
pub struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let size = size_of::<T>();
        let align = if len * size >= HUGE_PAGE / 2 { HUGE_PAGE } else { CACHE_LINE };
        let data = vec![T::default(); len + align / size];
        let past = data.as_ptr().addr() % align;
        let start = if past == 0 { 0 } else { (align - past) / size };
        if align == HUGE_PAGE {
            want_huge_pages(&data[start..start + len]);
        }
        Self { data, start, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

/// Reading weights from memory is a third faster with huge pages, which most systems only give to
/// those who ask.
#[cfg(target_os = "linux")]
fn want_huge_pages<T>(memory: &[T]) {
    // SAFETY: the range is ours and starts on a page; the call only advises, so that its failure
    // changes nothing.
    unsafe {
        libc::madvise(memory.as_ptr().cast_mut().cast(), size_of_val(memory), libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn want_huge_pages<T>(_memory: &[T]) {}

/// A pointer that the threads of a team share; every use says why no two of them meet.
#[derive(Debug)]
pub struct Shared<T>(*mut T);

impl<T> Shared<T> {
    /// Shares `data` for as long as the caller keeps it borrowed.
    pub fn new(data: &mut [T]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// The element at `index`, which must lie inside the slice this was made from.
    pub fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: this is an address; reading or writing through it is unsafe, and justified there.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_aligned() {
        for (len, align) in [(1, CACHE_LINE), (1000, CACHE_LINE), (HUGE_PAGE, HUGE_PAGE)] {
            let buffer = Aligned::<u16>::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().addr() % align, 0);
            assert!(buffer.iter().all(|&value| value == 0));
        }
    }
}
