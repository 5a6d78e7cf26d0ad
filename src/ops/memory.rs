//! Memory for results that a kernel writes completely.
//!
//! `vec![0.; n]` writes all values on one thread before the kernel writes them on all threads.

/// `count` values, for a kernel that overwrites all of them: what they are is not specified. In tests they are NaN, so
/// that a kernel that leaves one out does not pass.
pub(super) fn to_overwrite(count: usize) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(count);
    // SAFETY: the memory has room for `count` values, and `set_arbitrarily` has set them.
    unsafe {
        set_arbitrarily(values.as_mut_ptr(), count);
        values.set_len(count);
    }
    values
}

/// Sets `count` values from `first` to numbers that are not specified: where the compiler supports it, to those whose bits
/// the memory has.
///
/// # Safety
/// They can be written.
unsafe fn set_arbitrarily(first: *mut f32, count: usize) {
    if cfg!(any(test, debug_assertions)) {
        // SAFETY: passed on to the caller; all bits 1 are NaN.
        return unsafe { first.write_bytes(0xff, count) };
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: there are no instructions. The compiler takes them for some that may write any memory that the pointer leads
    // to, so that it can no longer assume that the values are not initialised; every bit pattern is a number.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) first, options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    // SAFETY: passed on to the caller.
    unsafe {
        first.write_bytes(0, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_overwritten_are_seen_in_tests() {
        let values = to_overwrite(1000);
        assert!(values.len() == 1000 && values.iter().all(|x| x.is_nan()));
        assert!(to_overwrite(0).is_empty());
    }
}
