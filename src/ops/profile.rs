//! Where the time of a training step goes: the wall time of every operator, forward and backward, and how much of the
//! process worked meanwhile.
//!
//! [`record`] switches the measurement on for the calling thread. Every operator of this crate then runs in a
//! [`scope`] with its name; so do the stages of a training step. Times are exclusive: what a scope contains is counted
//! for the inner scopes, so that the rows of a profile add up to the recorded time. Operators of candle have no scope of
//! their own and count for the scope around them. Otherwise a scope costs the look at one flag.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The direction in which an operator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The values, or the whole of a stage that is no operator.
    Forward,
    /// The gradients.
    Backward,
}

/// Calls of an operator or stage in one direction, and their time without that of scopes inside.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Number of calls.
    pub calls: usize,
    /// Time that passed.
    pub wall: Duration,
    /// Processor time that all threads of the process spent meanwhile; zero where the system does not tell.
    pub processor: Duration,
}

impl Spent {
    /// Adds the calls and times of `other`.
    pub fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.wall += other.wall;
        self.processor += other.processor;
    }

    /// Threads that were at work on average: processor time divided by wall time.
    pub fn threads(&self) -> f64 {
        self.processor.as_secs_f64() / self.wall.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// The time of every operator and stage, by name and direction.
pub type Profile = BTreeMap<(&'static str, Direction), Spent>;

thread_local! {
    static RECORDS: Cell<bool> = const { Cell::new(false) };
    static PROFILE: RefCell<Profile> = const { RefCell::new(BTreeMap::new()) };
    /// What the scopes inside of the current one have spent.
    static INSIDE: Cell<(Duration, Duration)> = const { Cell::new((Duration::ZERO, Duration::ZERO)) };
}

/// Runs `work` and returns its result with the time of all scopes that this thread has entered meanwhile.
pub fn record<T>(work: impl FnOnce() -> T) -> (T, Profile) {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDS.set(self.0);
        }
    }
    let outer = PROFILE.take();
    let restore = Restore(RECORDS.replace(true));
    let result = work();
    drop(restore);
    (result, PROFILE.replace(outer))
}

/// Runs `work`, whose time counts for `name` while a profile is recorded.
pub fn scope<T>(name: &'static str, direction: Direction, work: impl FnOnce() -> T) -> T {
    if !RECORDS.get() {
        return work();
    }
    let before = INSIDE.replace((Duration::ZERO, Duration::ZERO));
    let (began, used) = (Instant::now(), processor_time());
    let result = work();
    let (wall, processor) = (began.elapsed(), processor_time().saturating_sub(used));
    let inside = INSIDE.replace((before.0 + wall, before.1 + processor));
    let own = Spent {
        calls: 1,
        wall: wall.saturating_sub(inside.0),
        processor: processor.saturating_sub(inside.1),
    };
    PROFILE.with_borrow_mut(|profile| profile.entry((name, direction)).or_default().add(own));
    result
}

/// Processor time of all threads of the process since it was started.
#[cfg(unix)]
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    match unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) } {
        0 => Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
        _ => Duration::ZERO,
    }
}

#[cfg(not(unix))]
fn processor_time() -> Duration {
    Duration::ZERO
}

/// An operator that runs in scopes with its name.
pub(super) struct Timed<O>(pub(super) O);

impl<O: CustomOp1> CustomOp1 for Timed<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        scope(self.name(), Direction::Forward, || self.0.cpu_fwd(x, layout))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        scope(self.name(), Direction::Forward, || self.0.cuda_fwd(x, layout))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        scope(self.name(), Direction::Backward, || self.0.bwd(x, y, grad))
    }
}

impl<O: CustomOp2> CustomOp2 for Timed<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        scope(self.name(), Direction::Forward, || self.0.cpu_fwd(a, a_layout, b, b_layout))
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        scope(self.name(), Direction::Forward, || self.0.cuda_fwd(a, a_layout, b, b_layout))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        scope(self.name(), Direction::Backward, || self.0.bwd(a, b, y, grad))
    }
}

impl<O: CustomOp3> CustomOp3 for Timed<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        c: &CpuStorage,
        c_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let run = || self.0.cpu_fwd(a, a_layout, b, b_layout, c, c_layout);
        scope(self.name(), Direction::Forward, run)
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
        c: &CudaStorage,
        c_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let run = || self.0.cuda_fwd(a, a_layout, b, b_layout, c, c_layout);
        scope(self.name(), Direction::Forward, run)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        scope(self.name(), Direction::Backward, || self.0.bwd(a, b, c, y, grad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{backward, gelu, gradient_check, linear};
    use candle_core::Var;

    /// Works for at least `milliseconds`.
    fn spin(milliseconds: u64) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(milliseconds) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn times_are_exclusive_and_add_up() {
        let began = Instant::now();
        let ((), profile) = record(|| {
            scope("outer", Direction::Forward, || {
                spin(4);
                (0..3).for_each(|_| scope("inner", Direction::Forward, || spin(8)));
            });
        });
        let (all, own) = (began.elapsed(), |name| profile[&(name, Direction::Forward)]);
        let (outer, inner) = (own("outer"), own("inner"));
        assert_eq!((outer.calls, inner.calls), (1, 3));
        assert!(outer.wall >= Duration::from_millis(4) && inner.wall >= Duration::from_millis(24));
        assert!(outer.wall + inner.wall <= all, "{outer:?} {inner:?} {all:?}");
        assert!(outer.wall < inner.wall, "{outer:?} {inner:?}");
    }

    #[test]
    fn operators_are_recorded_in_both_directions_but_only_on_demand() {
        let [x, w] = [gradient_check::random(&[3, 4], 0), gradient_check::random(&[2, 4], 1)]
            .map(|t| Var::from_tensor(&gradient_check::single(&t)).unwrap());
        let step = || {
            let y = gelu(&linear(&x, &w, None, Default::default()).unwrap()).unwrap();
            backward(&y.sum_all().unwrap()).unwrap();
        };
        step();
        let ((), profile) = record(step);
        step();
        for key in [
            ("linear", Direction::Forward),
            ("linear", Direction::Backward),
            ("gelu", Direction::Forward),
            ("gelu", Direction::Backward),
        ] {
            assert_eq!(profile.get(&key).map(|spent| spent.calls), Some(1), "{key:?}");
        }
        let ((), nothing) = record(|| ());
        assert!(nothing.is_empty());
    }
}
