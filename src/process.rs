//! Settings of a process that trains: subnormal numbers are zero, freed memory stays with the process, and there is one
//! pool of threads, to which the calling thread belongs.
//!
//! A program must request these settings: [`prepare_process`] is the first call of `bench`, of the benchmarks and of a
//! plugin's `main` (`bench::cli::main`). Merely linking the library changes nothing.
//!
//! **Subnormal numbers.** Saturated losses give gradients below 1.2e-38, and many processors add and multiply such
//! numbers a hundred times more slowly than others. [`flush_subnormals`] makes operations read and write them as zero
//! (`FTZ` and `DAZ` of MXCSR on x86-64, `FZ` of FPCR on AArch64), as CUDA kernels and other training programs do. The
//! setting belongs to a thread, and a new thread inherits it from the thread that starts it.
//!
//! **Memory.** By default, glibc maps large allocations anew in every step, the kernel zeroes their pages, and the
//! unused end of a heap is returned to the system. With these settings, blocks below 1 GiB come from the heap, the heap
//! is not trimmed, and the empty heap of a thread is kept. Nothing changes on other systems and C libraries, or in a
//! program with its own allocator. In return, memory that was needed once stays with the process.
//!
//! **Threads.** Our operators run in the global pool of rayon. A thread outside that pool that calls an operator sleeps
//! while the pool works, so that every operator costs two changes between threads; [`join_the_pool`] makes the calling
//! thread one of the pool's. candle computes elementwise operators in a pool of its own, whose threads compete with
//! ours for the cores: the caller of an operator spins until candle's last thread is done, even if that thread has no
//! core. With these settings that pool has no threads ([`leave_candle_one_thread`]), and our operators do what is worth
//! more than one thread. The program `bench` does not change the variable [`CANDLE_THREADS`] if the user has set it.

/// Applies all settings of this module. Call it at the start of `main`, before the program starts other threads.
pub fn prepare_process() {
    flush_subnormals();
    keep_memory();
    leave_candle_one_thread();
    join_the_pool();
}

/// Keeps freed memory in the process. Does nothing where the C library is not glibc.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_memory();
}

/// The variable of the environment in which candle looks up the number of threads of its own pools.
pub const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

/// Leaves the pools of candle without threads besides the caller's: sets [`CANDLE_THREADS`] to 1. To be called before the
/// program has other threads.
pub fn leave_candle_one_thread() {
    // SAFETY: no other thread reads or writes the environment, because there is none yet.
    unsafe { std::env::set_var(CANDLE_THREADS, "1") };
}

/// Makes the calling thread one of the threads of rayon's global pool. To be called by the thread that will compute,
/// before anything has used the pool; does nothing afterwards. A pool of one thread keeps a thread of its own: other
/// threads that use the pool would otherwise wait until the calling thread uses it, too.
pub fn join_the_pool() {
    // A pool whose threads are not started says how many rayon would start.
    let planned = rayon::ThreadPoolBuilder::new().spawn_handler(|_| Ok(())).build();
    if planned.is_ok_and(|pool| pool.current_num_threads() > 1) {
        // An error means that the pool exists already.
        let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    }
}

/// Makes subnormal numbers zero in this thread and in those that it starts: call it before anything is computed, so
/// that the threads of every pool inherit the mode. Does nothing on other processors than x86-64 and AArch64.
pub fn flush_subnormals() {
    mode::set(true);
}

/// Restores IEEE 754 arithmetic with subnormal numbers, the default of a new process. Meant for measuring its cost.
pub fn keep_subnormals() {
    mode::set(false);
}

/// Whether this thread treats subnormal numbers as zero.
pub fn flushes_subnormals() -> bool {
    let least = std::hint::black_box(f32::MIN_POSITIVE);
    least * std::hint::black_box(0.5) == 0.
}

#[cfg(target_arch = "x86_64")]
mod mode {
    use std::arch::asm;

    /// Flush to zero (results) and denormals are zero (operands).
    const FTZ_DAZ: u32 = 1 << 15 | 1 << 6;

    pub fn set(flush: bool) {
        let mut control = 0u32;
        // SAFETY: both instructions access the 4 bytes of `control`, which outlive them. No other bits than the two are
        // changed. The compiler takes the default mode for granted only where it computes constants, and a constant of
        // this crate is never subnormal.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack));
            control = if flush { control | FTZ_DAZ } else { control & !FTZ_DAZ };
            asm!("ldmxcsr [{}]", in(reg) &control, options(nostack));
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod mode {
    use std::arch::asm;

    /// Flush to zero (operands and results).
    const FZ: u64 = 1 << 24;

    pub fn set(flush: bool) {
        let mut control: u64;
        // SAFETY: the register is readable and writable in user mode, and no other bit is changed; see x86-64.
        unsafe {
            asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack));
            control = if flush { control | FZ } else { control & !FZ };
            asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack));
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod mode {
    pub fn set(_: bool) {}
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use libc::c_int;

    /// Blocks of at least this size are mapped separately, and unmapped when they are freed.
    const MAPPED: c_int = 1 << 30;
    /// The size of a thread's heap: with this limit an empty heap is never unmapped.
    const SPARE: c_int = 64 << 20;

    pub fn keep_memory() {
        // SAFETY: `mallopt` may be called at any time; it locks the allocator itself.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
            libc::mallopt(libc::M_TRIM_THRESHOLD, c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, SPARE);
        }
    }
}

/// The tests of this crate compute as the program does: their harness starts its threads after this constructor. They do
/// not run in the thread that calls it, so that it must not join the pool.
#[cfg(all(test, any(target_os = "linux", target_os = "macos")))]
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static PREPARE: extern "C" fn() = {
    extern "C" fn prepare_tests() {
        flush_subnormals();
        keep_memory();
        leave_candle_one_thread();
    }
    prepare_tests
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_mode_can_be_switched() {
        std::thread::spawn(|| {
            assert!(flushes_subnormals(), "taken over from the thread that starts it");
            keep_subnormals();
            assert!(!flushes_subnormals());
            let small = std::hint::black_box(f32::MIN_POSITIVE) * 0.25;
            assert!(small > 0. && small.to_bits() == 1 << 21, "IEEE 754: {small:e}");
            flush_subnormals();
            assert_eq!(std::hint::black_box(small) + 0., 0., "a subnormal operand is zero");
        })
        .join()
        .unwrap();
    }

    /// Rayon's pool, both pools of candle, and a pool made now; `tests/it/external_augmentation.rs` asks the loader's threads.
    #[test]
    fn threads_of_every_pool_flush_subnormals() {
        assert!(flushes_subnormals(), "the test itself");
        assert!(rayon::broadcast(|_| flushes_subnormals()).into_iter().all(|mode| mode));
        let of_candle = candle_core::utils::with_threadpool(|| rayon::broadcast(|_| flushes_subnormals()));
        assert!(of_candle.into_iter().all(|mode| mode));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert!(pool.broadcast(|_| flushes_subnormals()).into_iter().all(|mode| mode));
        let (seen, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
        candle_core::utils::barrier_pool().execute_chunked(64, |range| {
            seen.fetch_add(range.len(), Ordering::Relaxed);
            kept.fetch_add(usize::from(!flushes_subnormals()), Ordering::Relaxed);
        });
        assert_eq!((seen.into_inner(), kept.into_inner()), (64, 0));
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn the_second_tensor_of_a_size_gets_the_pages_of_the_first() {
        /// Pages that the kernel has given this thread so far.
        fn pages() -> i64 {
            let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
            // SAFETY: `usage` is writable, and all zeros are a valid value of it.
            unsafe {
                libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
                usage.assume_init().ru_minflt
            }
        }
        let fill = || std::hint::black_box(vec![1u8; 48 << 20]);
        drop(fill());
        let before = pages();
        drop(fill());
        assert!(pages() - before < 100, "{} of {} pages are new", pages() - before, (48 << 20) / 4096);
    }

    #[test]
    fn the_pools_of_candle_have_no_threads() {
        assert_eq!(candle_core::utils::barrier_pool().n_workers(), 0);
    }

    /// In a process of its own, because the global pool is made once.
    #[test]
    fn the_calling_thread_joins_the_pool() {
        const ROLE: &str = "BENCH_TEST_JOIN_THE_POOL";
        if std::env::var_os(ROLE).is_some() {
            join_the_pool();
            let found = (rayon::current_num_threads(), rayon::current_thread_index());
            let alone = std::env::var("RAYON_NUM_THREADS").unwrap() == "1";
            assert_eq!(found, if alone { (1, None) } else { (3, Some(0)) });
            // Another thread gets its work done while this one waits.
            let other = std::thread::spawn(|| rayon::join(|| 1, || 2));
            assert_eq!(other.join().unwrap(), (1, 2));
            return;
        }
        for threads in ["1", "3"] {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "process::tests::the_calling_thread_joins_the_pool"])
                .env(ROLE, "")
                .env("RAYON_NUM_THREADS", threads)
                .status();
            assert!(status.unwrap().success(), "{threads} threads");
        }
    }
}
