//! [`MomentumTeacher`]: a copy of a network whose parameters follow the trained ones by an exponential moving average.

use super::params::{Parameter, Params, TEACHER};
use candle_core::{Result, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

/// The link between a student and its teacher, a second network of the same parameters that is not trained but follows
/// the student: teacher = m·teacher + (1 − m)·student (mean teacher, arXiv:1703.01780; MoCo, BYOL, DINO).
///
/// The variable of the teacher for the parameter `name` is `teacher.<name>` in the same [`Params`], so that it is
/// saved, resumed and exported with the others. It is never trainable. Run the teacher within [`crate::ops::no_grad`].
#[derive(Clone, Debug)]
pub struct MomentumTeacher {
    /// Student and teacher.
    pairs: Vec<(Parameter, Parameter)>,
}

impl MomentumTeacher {
    /// Builds the teacher by `build`, which gets a builder that puts `teacher.` before all names, and starts it with
    /// the values of the student, whose parameters must be in `params` already. The student may have more parameters
    /// than the teacher.
    ///
    /// # Errors
    /// `build` fails, or the teacher has a parameter that the student lacks or has in another shape.
    pub fn new<T>(
        params: &Params,
        build: impl FnOnce(VarBuilder<'static>) -> Result<T>,
    ) -> Result<(Self, T)> {
        let before = params.all().len();
        let network = build(params.builder().pp(TEACHER.trim_end_matches('.')))?;
        let pair = |teacher: Parameter| {
            let name = teacher.name.strip_prefix(TEACHER).unwrap_or(&teacher.name);
            match params.get(name).filter(|_| name != teacher.name) {
                Some(student) if student.var.shape() == teacher.var.shape() => Ok((student, teacher)),
                Some(student) => bail!(
                    "`{name}` has shape {:?} in the student and {:?} in the teacher",
                    student.var.dims(),
                    teacher.var.dims()
                ),
                None => bail!("the student has no parameter `{name}`"),
            }
        };
        let teacher = Self { pairs: params.all().into_iter().skip(before).map(pair).collect::<Result<_>>()? };
        teacher.copy_from_student()?;
        Ok((teacher, network))
    }

    /// Copies the values of the student to the teacher; call it after loading initial weights into the student.
    ///
    /// # Errors
    /// The device fails.
    pub fn copy_from_student(&self) -> Result<()> {
        self.pairs.par_iter().try_for_each(|(student, teacher)| teacher.var.set(student.var.as_tensor()))
    }

    /// Moves the teacher towards the student: m·teacher + (1 − m)·student with `momentum` m, for running statistics
    /// too.
    ///
    /// # Errors
    /// The device fails.
    pub fn follow(&self, momentum: f64) -> Result<()> {
        self.pairs.par_iter().try_for_each(|(student, teacher)| {
            let (student, old) = (student.var.as_detached_tensor(), teacher.var.as_detached_tensor());
            teacher.var.set(&((old * momentum)? + (student * (1. - momentum))?)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{BatchNorm, Linear};
    use candle_core::{Device, Tensor};

    fn fill(params: &Params, value: f64) {
        for p in params.all().iter().filter(|p| !p.name.starts_with(TEACHER)) {
            p.var.set(&p.var.ones_like().unwrap().affine(value, 0.).unwrap()).unwrap();
        }
    }

    fn values(params: &Params, name: &str) -> Vec<f32> {
        params.get(name).unwrap().var.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_teacher_starts_as_a_copy_and_follows_by_averages() -> Result<()> {
        let params = Params::new(0, &Device::Cpu);
        let build = |vb: VarBuilder| {
            Ok((Linear::new(2, 1, vb.pp("map"))?, BatchNorm::new(1, 1e-5, false, vb.pp("norm"))?))
        };
        build(params.builder())?;
        Linear::new(2, 2, params.builder().pp("predictor"))?; // of the student alone
        let (teacher, (map, _)) = MomentumTeacher::new(&params, build)?;
        assert_eq!(values(&params, "teacher.map.weight"), values(&params, "map.weight"));
        assert!(params.get("teacher.predictor.weight").is_none());
        params.set_trainable(|_| true);
        let trainable = params.trainable();
        assert!(trainable.iter().all(|p| !p.name.starts_with(TEACHER)) && trainable.len() == 4);

        fill(&params, 1.);
        teacher.copy_from_student()?;
        fill(&params, 5.);
        teacher.follow(0.75)?; // 0.75·1 + 0.25·5
        for name in ["map.weight", "map.bias", "norm.running_mean", "norm.running_var"] {
            assert!(values(&params, &format!("teacher.{name}")).iter().all(|&v| v == 2.), "{name}");
            assert!(values(&params, name).iter().all(|&v| v == 5.), "{name}");
        }
        // The layers of the teacher see the new values: 2 + 2·1 + 2·1.
        let y = map.forward(&Tensor::new(&[[1f32, 1.]], &Device::Cpu)?)?;
        assert_eq!(y.to_vec2::<f32>()?, [[6.]]);
        Ok(())
    }

    #[test]
    fn a_teacher_needs_the_parameters_of_its_student() -> Result<()> {
        let params = Params::new(0, &Device::Cpu);
        Linear::new(2, 1, params.builder().pp("map"))?;
        let fails = |name: &'static str, outputs| {
            let built = MomentumTeacher::new(&params, |vb| Linear::new(2, outputs, vb.pp(name)));
            built.err().unwrap().to_string()
        };
        assert!(fails("mop", 1).contains("the student has no parameter `mop.weight`"));
        let error = fails("map", 3);
        assert!(error.contains("`map.weight` has shape [1, 2] in the student and [3, 2]"), "{error}");
        Ok(())
    }
}
