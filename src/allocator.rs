//! Keeps the pages of freed tensors in the process: the next step asks for the same sizes.
//!
//! As glibc is set, a tensor of more than 32 MB is mapped anew by every step and the kernel zeroes its pages; what is
//! free at the end of the heap is given back. A program that links this library sets two thresholds before its `main`
//! instead: blocks below 1 GB come from the heap, and the heap is not trimmed. Other systems and C libraries are left as
//! they are, and so is a program with an allocator of its own, which never asks glibc.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// Blocks from this size on are mapped on their own, and unmapped when they are freed.
    const MAPPED: libc::c_int = 1 << 30;

    /// Runs with the constructors of the program, before `main`: also in tests, benchmarks and plugins.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static KEEP_PAGES: extern "C" fn() = keep_pages;

    extern "C" fn keep_pages() {
        // SAFETY: constructors of a program run one after the other, before it has other threads.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }
}
