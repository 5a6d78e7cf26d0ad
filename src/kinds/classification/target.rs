//! The target of an image: a class or, after mixup and cutmix, a distribution over classes.

use crate::data::{Geometric, Geometry};

/// A class, or a distribution over classes.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassTarget {
    /// Class index.
    Label(u32),
    /// One weight per class, from mixup and cutmix; label smoothing is already applied.
    Soft(Vec<f32>),
}

impl ClassTarget {
    /// The class with the largest weight.
    pub fn label(&self) -> u32 {
        match self {
            Self::Label(label) => *label,
            Self::Soft(weights) => {
                let heavier = |best: usize, i: usize| if weights[i] > weights[best] { i } else { best };
                (0..weights.len()).reduce(heavier).unwrap_or(0) as u32
            }
        }
    }

    /// One weight per class, with sum 1. With label smoothing s and K classes, the label gets 1 − s + s/K and every other
    /// class s/K.
    pub fn distribution(&self, classes: usize, smoothing: f64) -> Vec<f32> {
        match self {
            Self::Soft(weights) => weights.clone(),
            Self::Label(label) => {
                let off = smoothing / classes as f64;
                let mut weights = vec![off as f32; classes];
                weights[*label as usize] = (1. - smoothing + off) as f32;
                weights
            }
        }
    }
}

/// Geometry does not change the class.
impl Geometric for ClassTarget {
    fn apply(&mut self, _: &Geometry) {}
}

#[cfg(test)]
mod tests {
    use super::ClassTarget;

    #[test]
    fn smoothing_takes_from_the_label_and_gives_to_all() {
        assert_eq!(ClassTarget::Label(1).distribution(4, 0.1), [0.025, 0.925, 0.025, 0.025]);
        let soft = ClassTarget::Soft(vec![0.3, 0.7]);
        assert_eq!((soft.label(), soft.distribution(2, 0.5)), (1, vec![0.3, 0.7]));
    }
}
