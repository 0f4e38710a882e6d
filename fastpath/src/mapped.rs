//! Large tables in memory: zeroed and mapped where they are touched, in huge pages where that pays; and prefetching.
//!
//! A table of a gigabyte costs nothing until it is used, because the system hands out zero pages one by one. What is
//! written by every packet should not wait for that: `prefault` touches all of it at once, and asks for huge pages.
//!
//! Invariant: nothing here changes what a program computes. Both kinds of advice may be ignored by the machine.
//! Sources: madvise(2); Intel 64 and IA-32 Architectures Optimization Reference Manual, "Software-Controlled Prefetch".

use std::iter::Sum;
use std::marker::PhantomData;
use std::ops::Deref;

use zerocopy::FromZeros;

use crate::io::region::Region;

/// Elements that are all zero at first, in pages of their own: no allocator clears them, keeps them, or touches them.
pub struct Zeroed<T> {
    region: Region,
    count: usize,
    _elements: PhantomData<T>,
}

/// That many elements, all zero. Pages are mapped when they are first touched.
pub fn zeroed<T: FromZeros>(count: usize) -> Zeroed<T> {
    const { assert!(!std::mem::needs_drop::<T>() && align_of::<T>() <= 4096) };
    // The kernel maps nothing of no length.
    let bytes = count.checked_mul(size_of::<T>()).map(|bytes| bytes.max(1));
    match bytes.map(Region::when_touched) {
        Some(Ok(region)) => Zeroed { region, count, _elements: PhantomData },
        _ => std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>()),
    }
}

/// What a structure takes: bytes that it asked for, and those of them that are in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    pub allocated: usize,
    pub resident: usize,
}

impl Extent {
    /// Of something that lies on the heap, all of it in use.
    pub fn of_heap(bytes: usize) -> Self {
        Self { allocated: bytes, resident: bytes }
    }
}

impl Sum for Extent {
    fn sum<I: Iterator<Item = Self>>(extents: I) -> Self {
        extents.fold(Self::default(), |sum, one| Self {
            allocated: sum.allocated + one.allocated,
            resident: sum.resident + one.resident,
        })
    }
}

impl<T> Zeroed<T> {
    /// To be asked by who has time: the system looks at every page.
    pub fn extent(&self) -> Extent {
        Extent { allocated: self.region.len(), resident: self.region.resident() }
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the region holds `count` elements, page-aligned and zero, which is a value of `T` (`FromZeros`); it is ours
        // alone until we are dropped, and elements need no drop (`zeroed`).
        unsafe { std::slice::from_raw_parts(self.region.base().cast::<T>().as_ptr(), self.count) }
    }
}

impl<T> std::fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} elements", self.count)
    }
}

/// Asks for huge pages under a table that will be used all over. Before it is touched, or it does nothing.
pub fn huge_pages<T>(table: &[T]) {
    let page = 1 << 21;
    let (start, bytes) = (table.as_ptr().addr(), size_of_val(table));
    let (first, end) = (start.next_multiple_of(page), (start + bytes) / page * page);
    if first < end {
        let place = table.as_ptr().cast::<u8>().wrapping_add(first - start);
        // SAFETY: the range lies within `table`, and MADV_HUGEPAGE changes how it is mapped, never what it holds. An
        // error means that there are no huge pages to be had, which is no harm.
        unsafe { libc::madvise(place.cast_mut().cast(), end - first, libc::MADV_HUGEPAGE) };
    }
}

/// Asks for the cache line at which a value starts. Never faults, never waits.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it reads nothing that the program could see, and the address is that of a value.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn zeroed_is_zero_and_costs_what_is_touched() {
        // A terabyte would not fit: only what is touched counts.
        let table = zeroed::<AtomicU32>(1 << 28);
        huge_pages(&table[1 << 20..1 << 21]);
        assert_eq!(table[1 << 27].load(Ordering::Relaxed), 0);
        table[7].store(7, Ordering::Relaxed);
        prefetch(&table[7]);
        assert_eq!(table[7].load(Ordering::Relaxed), 7);
        let extent = table.extent();
        assert_eq!(extent.allocated, 4 << 28);
        // A page for what was written to, a huge one where the system hands them out unasked; none for what was read.
        assert!((4096..=1 << 21).contains(&extent.resident), "{extent:?}");
    }

    #[test]
    fn no_huge_page_fits_into_little() {
        huge_pages(&zeroed::<u8>(4096));
        huge_pages::<u8>(&[]);
    }
}
