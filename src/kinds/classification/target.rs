//! What is to be predicted for an image: a class, or after mixing a distribution over classes.

use crate::data::{Geometric, Geometry};

/// A class index, or one weight per class.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassTarget {
    Label(u32),
    /// As mixup and cutmix make them; smoothing is folded in.
    Soft(Vec<f32>),
}

impl ClassTarget {
    /// The class, or the heaviest one.
    pub fn label(&self) -> u32 {
        match self {
            Self::Label(label) => *label,
            Self::Soft(weights) => {
                let heavier = |best: usize, i: usize| if weights[i] > weights[best] { i } else { best };
                (0..weights.len()).reduce(heavier).unwrap_or(0) as u32
            }
        }
    }

    /// One weight per class, Σ = 1. A label keeps 1 − s + s/K, the others get s/K.
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

/// A class does not move.
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
