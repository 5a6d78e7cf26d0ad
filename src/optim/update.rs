//! The step of all optimisers: one parallel loop over all parameters, with one pass over memory.
//!
//! A [`Rule`] says what happens to one value. The loop around it scales the gradient and updates the moving average
//! while both are in registers, so that clipping, the mean over micro-batches and the average need no separate pass.
//! Values do not depend on each other, so the result has the same bits for any number of threads and any instruction
//! set.

use super::groups::matched;
use super::storage::{CHUNK, array, read, restore, write, write_all, write_some};
use super::{Ema, Gradients, ParamGroup, Step};
#[cfg(feature = "cuda")]
use crate::ops::cuda::optimizer::{self, Update};
use crate::ops::simd::{Kernel, LANES, vectorized};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
#[cfg(feature = "cuda")]
use std::collections::HashSet;
use std::mem::take;

/// The update of one value of a parameter, which has `N` running values.
pub(super) trait Rule<const N: usize>: Copy + Send {
    /// The value and its running values after the step, from those before it and the gradient.
    /// Mark it `#[inline(always)]`: see [`Kernel`].
    fn apply(self, value: f32, gradient: f32, running: [f32; N]) -> (f32, [f32; N]);

    /// The CUDA kernel that computes the same.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    const KERNEL: &'static str;

    /// The constants of the rule, as the kernel reads them.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    fn numbers(self) -> [f32; 8];
}

/// Parameters and `N` running values (moments, momentum) for each of their values.
pub(super) struct Tracked<const N: usize> {
    pub groups: Vec<ParamGroup>,
    running: Vec<[Tensor; N]>,
    /// Names of the running values: saved state has them as `<parameter>.<name>`.
    names: [&'static str; N],
}

impl<const N: usize> Tracked<N> {
    /// Running values start at zero.
    pub fn new(groups: Vec<ParamGroup>, names: [&'static str; N]) -> Result<Self> {
        let zeros = |group: &ParamGroup| {
            array(names.iter().map(|_| group.parameter.var.zeros_like()).collect::<Result<Vec<_>>>()?)
        };
        let running = groups.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Self { groups, running, names })
    }

    /// One step of every parameter that has a gradient, and of the average of all parameters.
    /// `rule` makes the rule of a parameter from its index.
    pub fn step<R: Rule<N>>(
        &self,
        gradients: &Gradients,
        step: Step,
        rule: impl Fn(usize) -> R + Sync,
    ) -> Result<()> {
        let gradients = matched(&self.groups, gradients)?;
        #[cfg(feature = "cuda")]
        if self.groups.first().is_some_and(|group| group.parameter.var.device().is_cuda()) {
            return self.step_on_cuda(&gradients, step, rule);
        }
        let (scale, ema) = (step.scale as f32, step.ema.as_deref());
        let parameters = self.groups.par_iter().zip(&self.running).zip(&gradients).enumerate();
        parameters.try_for_each(|(i, ((group, running), gradient))| {
            let Some(gradient) = gradient else { return Ok(()) };
            let average = ema.and_then(|ema| ema.average(&group.parameter));
            read(gradient, |gradient| {
                write(group.parameter.var.as_tensor(), |value| {
                    let rule = rule(i);
                    write_all(running.each_ref(), |running| {
                        write_some(average, |average| {
                            let average = average.zip(ema.map(Ema::weights));
                            Span { rule, scale, value, gradient, running, average }.share();
                            Ok(())
                        })
                    })
                })
            })
        })?;
        let updated = self.groups.iter().zip(&gradients).filter(|(_, gradient)| gradient.is_some());
        let updated = updated.map(|(group, _)| group.parameter.var.id()).collect();
        step.ema.map_or(Ok(()), |ema| ema.update_others(&updated))
    }

    #[cfg(feature = "cuda")]
    fn step_on_cuda<R: Rule<N>>(
        &self,
        gradients: &[Option<&Tensor>],
        step: Step,
        rule: impl Fn(usize) -> R,
    ) -> Result<()> {
        let mut updates = vec![];
        let mut updated = HashSet::new();
        for (i, ((group, running), gradient)) in
            self.groups.iter().zip(&self.running).zip(gradients).enumerate()
        {
            if gradient.is_some() {
                updates.push(Update {
                    value: group.parameter.var.as_tensor(),
                    gradient: *gradient,
                    running,
                    average: step.ema.as_deref().and_then(|ema| ema.average(&group.parameter)),
                    numbers: rule(i).numbers(),
                });
                updated.insert(group.parameter.var.id());
            }
        }
        let weights = step.ema.as_deref().map_or([0.; 2], Ema::weights);
        optimizer::step(R::KERNEL, &updates, step.scale as f32, weights)?;
        step.ema.map_or(Ok(()), |ema| ema.update_others(&updated))
    }

    /// (`<parameter>.<name>`, running values): views of live state.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.groups.iter().zip(&self.running).flat_map(|(group, running)| {
            let named = |(name, t): (&&str, &Tensor)| (format!("{}.{name}", group.parameter.name), t.clone());
            self.names.iter().zip(running).map(named)
        })
    }

    /// Loads saved running values; `what` names the optimiser in errors.
    pub fn load_state(&self, saved: &dyn Fn(&str) -> Option<Tensor>, what: &str) -> Result<()> {
        let live = self.state();
        live.into_iter().try_for_each(|(name, live)| restore(&live, &name, saved, what))
    }
}

/// The slices that a step reads and writes for one parameter, all of the same length.
struct Span<'a, R, const N: usize> {
    rule: R,
    /// Factor of the gradient.
    scale: f32,
    value: &'a mut [f32],
    gradient: &'a [f32],
    running: [&'a mut [f32]; N],
    /// The moving average and its weights: what it keeps and what it takes of the new value.
    average: Option<(&'a mut [f32], [f32; 2])>,
}

impl<R: Rule<N>, const N: usize> Span<'_, R, N> {
    /// Runs the step in pieces of at most [`CHUNK`] values, in parallel.
    fn share(self) {
        if self.value.len() <= CHUNK {
            vectorized(self);
        } else {
            let (left, right) = self.halves();
            rayon::join(|| left.share(), || right.share());
        }
    }

    fn halves(self) -> (Self, Self) {
        let Self { rule, scale, value, gradient, running, average } = self;
        let middle = (value.len() / 2).next_multiple_of(LANES);
        let (value, values) = value.split_at_mut(middle);
        let (gradient, gradients) = gradient.split_at(middle);
        let mut halves = running.map(|running| running.split_at_mut(middle));
        let running = halves.each_mut().map(|(left, _)| take(left));
        let (average, averages) = match average {
            None => (None, None),
            Some((average, weights)) => {
                let (left, right) = average.split_at_mut(middle);
                (Some((left, weights)), Some((right, weights)))
            }
        };
        let left = Self { rule, scale, value, gradient, running, average };
        let running = halves.map(|(_, right)| right);
        (left, Self { rule, scale, value: values, gradient: gradients, running, average: averages })
    }
}

impl<R: Rule<N>, const N: usize> Kernel for Span<'_, R, N> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { rule, scale, value, gradient, running, average } = self;
        let (values, value_rest) = value.as_chunks_mut::<LANES>();
        let (gradients, gradient_rest) = gradient.as_chunks::<LANES>();
        let mut running = running.map(|running| running.as_chunks_mut::<LANES>());
        let mut average = average.map(|(average, weights)| (average.as_chunks_mut::<LANES>(), weights));
        for (i, (value, gradient)) in values.iter_mut().zip(gradients).enumerate() {
            let old = running.each_ref().map(|(groups, _)| groups[i]);
            let (new, moved) = group(rule, scale, value, gradient, &old);
            *value = new;
            for ((groups, _), moved) in running.iter_mut().zip(moved) {
                groups[i] = moved;
            }
            if let Some(((groups, _), [keep, take])) = &mut average {
                let old = groups[i];
                groups[i] = std::array::from_fn(|l| *keep * old[l] + *take * new[l]);
            }
        }
        for (i, (value, gradient)) in value_rest.iter_mut().zip(gradient_rest).enumerate() {
            let state = running.each_ref().map(|(_, rest)| rest[i]);
            let (new, moved) = rule.apply(*value, gradient * scale, state);
            *value = new;
            for ((_, rest), moved) in running.iter_mut().zip(moved) {
                rest[i] = moved;
            }
            if let Some(((_, rest), [keep, take])) = &mut average {
                rest[i] = *keep * rest[i] + *take * new;
            }
        }
    }
}

/// The step of [`LANES`] values. Input and output are different arrays, so that the compiler can vectorise the loop.
#[inline(always)]
fn group<R: Rule<N>, const N: usize>(
    rule: R,
    scale: f32,
    value: &[f32; LANES],
    gradient: &[f32; LANES],
    running: &[[f32; LANES]; N],
) -> ([f32; LANES], [[f32; LANES]; N]) {
    let (mut new, mut moved) = ([0.; LANES], [[0.; LANES]; N]);
    for l in 0..LANES {
        let (value, state) = rule.apply(value[l], gradient[l] * scale, running.each_ref().map(|r| r[l]));
        new[l] = value;
        for n in 0..N {
            moved[n][l] = state[n];
        }
    }
    (new, moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something of each kind of arithmetic that rules do.
    #[derive(Clone, Copy)]
    struct Mixed;

    impl Rule<2> for Mixed {
        #[inline(always)]
        fn apply(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
            let (m, v) = (m * 0.9 + g * 0.1, v * 0.99 + g * g * 0.01);
            (p * 0.999 - 0.3 * (m / (v.sqrt() * 1.7 + 1e-8)), [m, v])
        }

        const KERNEL: &'static str = "";

        fn numbers(self) -> [f32; 8] {
            [0.; 8]
        }
    }

    #[test]
    fn instruction_sets_and_groups_give_the_same_bits() {
        let wave = |f: f32| (0..1003).map(|i| (i as f32 * f).sin()).collect::<Vec<f32>>();
        let run = |kernel: &dyn Fn(Span<Mixed, 2>)| {
            let (mut value, gradient, mut average) = (wave(0.1), wave(0.7), wave(0.2));
            let mut running = [wave(0.3), wave(0.4).iter().map(|x| x * x).collect()];
            let [m, v] = running.each_mut().map(|values| &mut values[..]);
            kernel(Span {
                rule: Mixed,
                scale: 0.7,
                value: &mut value,
                gradient: &gradient,
                running: [m, v],
                average: Some((&mut average, [0.9, 0.1])),
            });
            let [m, v] = running;
            [value, m, v, average].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let expected = run(&|span| span.run());
        assert_eq!(run(&|span| vectorized(span)), expected);
        assert_eq!(run(&|span| span.share()), expected);
        // One value at a time.
        fn single(span: Span<Mixed, 2>) {
            if span.value.len() > 1 {
                let Span { rule, scale, value, gradient, running: [m, v], average } = span;
                let (average, weights) = average.unwrap();
                let rest = m.iter_mut().zip(v).zip(average);
                for ((value, gradient), ((m, v), average)) in value.iter_mut().zip(gradient).zip(rest) {
                    let [value, m, v, average] = [value, m, v, average].map(std::slice::from_mut);
                    let (gradient, average) = (std::slice::from_ref(gradient), Some((average, weights)));
                    Span { rule, scale, value, gradient, running: [m, v], average }.run();
                }
            }
        }
        assert_eq!(run(&single), expected);
    }
}
