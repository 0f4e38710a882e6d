//! Memory by the page: of our own, for frames and large tables, or the kernel's, for the rings of a socket. It is unmapped
//! with its owner.
//!
//! Source: Linux, Documentation/admin-guide/mm/pagemap.rst.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// Pages that are asked about in one call.
const PAGES_AT_ONCE: usize = 4096;

/// Of a page, in /proc/self/pagemap: it is in memory, and nobody else has it. The page of zeroes everybody has.
const PRESENT: u64 = 1 << 63 | 1 << 56;

/// A mapping. What lies in it is the business of whoever made it; see `ring.rs`, `umem.rs` and `mapped.rs`.
pub(crate) struct Region {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread. The struct gives out addresses only, no access.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Zeroed pages of our own, made present at once: a page fault in the middle of a burst costs more than the burst.
    /// Large pages where the kernel has them to give; without, the same memory is only slower.
    pub(super) fn of_our_own(length: usize) -> io::Result<Region> {
        let region = Region::map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
        #[cfg(not(miri))]
        // SAFETY: the range is the mapping just made. Both calls are advice; nothing depends on their success.
        unsafe {
            libc::madvise(region.base.as_ptr().cast(), length, libc::MADV_HUGEPAGE);
            libc::madvise(region.base.as_ptr().cast(), length, libc::MADV_POPULATE_WRITE);
        }
        Ok(region)
    }

    /// Zeroed pages of our own, each made present when it is first touched, and not counted before.
    pub(crate) fn when_touched(length: usize) -> io::Result<Region> {
        Region::map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)
    }

    /// What a descriptor offers at an offset, shared with whoever else has it.
    pub(super) fn of_descriptor(fd: RawFd, length: usize, offset: i64) -> io::Result<Region> {
        Region::map(length, libc::MAP_SHARED | libc::MAP_POPULATE, fd, offset)
    }

    fn map(length: usize, flags: libc::c_int, fd: RawFd, offset: i64) -> io::Result<Region> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so no mapping that exists is touched.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Region { base, length })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Bytes of it that are in memory at present, of private pages: a page that was only read shows zeroes, and takes none. 0
    /// where the system does not tell.
    pub(crate) fn resident(&self) -> usize {
        let page = page_size();
        let (first, pages) = (self.base.as_ptr().addr() / page, self.length.div_ceil(page));
        let Ok(map) = File::open("/proc/self/pagemap") else { return 0 };
        let mut words = vec![0; PAGES_AT_ONCE.min(pages) * size_of::<u64>()];
        let mut resident = 0;
        for done in (0..pages).step_by(PAGES_AT_ONCE) {
            let words = &mut words[..PAGES_AT_ONCE.min(pages - done) * size_of::<u64>()];
            if map.read_exact_at(words, ((first + done) * size_of::<u64>()) as u64).is_err() {
                break;
            }
            let (words, _) = words.as_chunks();
            resident += words.iter().filter(|word| u64::from_ne_bytes(**word) & PRESENT == PRESENT).count();
        }
        resident * page
    }
}

fn page_size() -> usize {
    // SAFETY: the call has no conditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped. Every owner of a pointer into it owns the region too.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
