//! Memory of kernels: for results that they write completely, and for what a task needs meanwhile.
//!
//! `vec![0.; n]` writes all values on one thread before the kernel writes them on all threads. Neither results nor the
//! scratch memory of tasks need that.

use half::bf16;
use std::cell::Cell;
use std::mem::size_of;
use std::thread::LocalKey;

/// A type of which every bit pattern is a value.
///
/// # Safety
/// It has no invalid bit pattern and no padding.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: every bit pattern is a number.
unsafe impl Plain for f32 {}
// SAFETY: every bit pattern is a number.
unsafe impl Plain for bf16 {}
// SAFETY: every bit pattern is a number.
unsafe impl Plain for u32 {}

/// `count` values, for a kernel that overwrites all of them: what they are is not specified. In tests they are NaN, so
/// that a kernel that leaves one out does not pass.
pub(super) fn to_overwrite<T: Plain>(count: usize) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(count);
    // SAFETY: the memory has room for `count` values, and `set_arbitrarily` has set all their bytes.
    unsafe {
        set_arbitrarily(values.as_mut_ptr().cast::<u8>(), count * size_of::<T>());
        values.set_len(count);
    }
    values
}

/// Sets `bytes` bytes from `first` to values that are not specified: where the compiler supports it, to those that the
/// memory has.
///
/// # Safety
/// They can be written.
unsafe fn set_arbitrarily(first: *mut u8, bytes: usize) {
    if cfg!(any(test, debug_assertions)) {
        // SAFETY: passed on to the caller.
        return unsafe { first.write_bytes(0xff, bytes) };
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let _ = bytes;
        // SAFETY: there are no instructions. The compiler takes them for some that may write any memory that the pointer
        // leads to, so that it can no longer assume that the bytes are not initialised.
        unsafe { std::arch::asm!("/* {0} */", in(reg) first, options(nostack, preserves_flags)) };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    // SAFETY: passed on to the caller.
    unsafe {
        first.write_bytes(0, bytes);
    }
}

/// Runs `run` with the memory in `place`, which the thread keeps for the next task. A task that starts inside of `run`
/// gets memory of its own.
pub(super) fn with_kept<M: Default, R>(
    place: &'static LocalKey<Cell<M>>,
    run: impl FnOnce(&mut M) -> R,
) -> R {
    let mut memory = place.take();
    let result = run(&mut memory);
    place.set(memory);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_overwritten_are_seen_in_tests() {
        let values = to_overwrite::<f32>(1000);
        assert!(values.len() == 1000 && values.iter().all(|x| x.is_nan()));
        assert!(to_overwrite::<bf16>(3).iter().all(|x| x.is_nan()));
        assert!(to_overwrite::<u32>(0).is_empty());
    }

    #[test]
    fn the_memory_of_a_thread_is_kept_and_never_shared() {
        thread_local!(static PLACE: Cell<Vec<u32>> = const { Cell::new(Vec::new()) });
        with_kept(&PLACE, |outer| {
            outer.push(1);
            with_kept(&PLACE, |inner| assert!(inner.is_empty()));
        });
        with_kept(&PLACE, |kept| assert_eq!(*kept, [1]));
        std::thread::spawn(|| with_kept(&PLACE, |new| assert!(new.is_empty()))).join().unwrap();
    }
}
