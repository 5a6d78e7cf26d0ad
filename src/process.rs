//! Settings of the process that suit training, made before `main`: the pages of freed tensors stay with it, because the
//! next step asks for the same sizes, and idle threads of candle's pool sleep.
//!
//! As glibc comes, large tensors are mapped anew by every step and the kernel zeroes their pages, and what is free at
//! the end of a heap is given back. A program that links this library sets three numbers before its `main` instead:
//! blocks below 1 GiB come from the heap, the heap is not trimmed, and the empty heap of a thread is kept. Other
//! systems and C libraries are left as they are, and so is a program with an allocator of its own, which does not ask
//! glibc. Deviation: memory that was needed once stays with the process until it ends.
//!
//! candle computes elementwise operators in a pool of its own, whose threads spin for a while after each before they
//! sleep, on the cores that our operators need next: on 2 cores a training step of Mask R-CNN takes a sixth longer for
//! it. Here they sleep at once, unless `CANDLE_BARRIER_POOL_SPIN_LIMIT` says otherwise.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use libc::c_int;

    /// Blocks from this size on are mapped on their own, and unmapped when they are freed.
    const MAPPED: c_int = 1 << 30;
    /// The size of the heap of a thread: with so much to spare an empty one is never unmapped.
    const SPARE: c_int = 64 << 20;

    /// Runs with the constructors of the program, before `main`: also in tests, benchmarks and plugins.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static PREPARE: extern "C" fn() = prepare;

    extern "C" fn prepare() {
        // SAFETY: constructors of a program run one after the other, before it has other threads.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
            libc::mallopt(libc::M_TRIM_THRESHOLD, c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, SPARE);
            libc::setenv(c"CANDLE_BARRIER_POOL_SPIN_LIMIT".as_ptr(), c"1".as_ptr(), 0);
        }
    }

    #[cfg(test)]
    mod tests {
        /// Pages that the kernel has given this thread so far.
        fn pages() -> i64 {
            let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
            // SAFETY: `usage` is writable, and all zeros are a valid value of it.
            unsafe {
                libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
                usage.assume_init().ru_minflt
            }
        }

        #[test]
        fn threads_of_candle_do_not_spin() {
            assert!(std::env::var_os("CANDLE_BARRIER_POOL_SPIN_LIMIT").is_some());
        }

        #[test]
        fn the_second_tensor_of_a_size_gets_the_pages_of_the_first() {
            let fill = || std::hint::black_box(vec![1u8; 48 << 20]);
            drop(fill());
            let before = pages();
            drop(fill());
            assert!(pages() - before < 100, "{} of {} pages are new", pages() - before, (48 << 20) / 4096);
        }
    }
}
