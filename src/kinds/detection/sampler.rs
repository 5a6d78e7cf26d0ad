//! Randomly samples boxes for the loss, with a limited fraction of positives (arXiv:1506.01497 §3.1.3).

use super::matcher::Match;
use crate::rng::Rng;
use rand::seq::index::sample;

/// Number of boxes per image that are sampled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampler {
    pub count: usize,
    /// Maximum fraction of positives (boxes that match objects); the rest is background.
    pub positive_fraction: f64,
}

/// Indices of the sampled boxes, in increasing order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sampled {
    pub positive: Vec<usize>,
    pub negative: Vec<usize>,
}

impl Sampler {
    pub(crate) fn draw(self, matches: &[Match], rng: &mut Rng) -> Sampled {
        let those = |wanted: fn(&Match) -> bool| -> Vec<usize> {
            matches.iter().enumerate().filter(|(_, found)| wanted(found)).map(|(i, _)| i).collect()
        };
        let most = (self.count as f64 * self.positive_fraction) as usize;
        let positive = some(those(|found| matches!(found, Match::Object(_))), most, rng);
        let negative = some(those(|found| *found == Match::Background), self.count - positive.len(), rng);
        Sampled { positive, negative }
    }
}

/// A random selection of at most `most` of `from`, in their order.
fn some(from: Vec<usize>, most: usize, rng: &mut Rng) -> Vec<usize> {
    if from.len() <= most {
        return from;
    }
    let mut chosen: Vec<usize> = sample(rng, from.len(), most).into_iter().map(|i| from[i]).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_draws_depend_on_the_stream_alone() {
        let matches: Vec<Match> = (0..100)
            .map(|i| match i % 4 {
                0 => Match::Object(i),
                1 => Match::Ignored,
                _ => Match::Background,
            })
            .collect();
        let draw = |count, positive_fraction, seed| {
            Sampler { count, positive_fraction }.draw(&matches, &mut Rng::new(seed, "test", &[]))
        };
        let Sampled { positive, negative } = draw(20, 0.25, 0);
        assert_eq!((positive.len(), negative.len()), (5, 15));
        assert!(positive.iter().all(|i| i % 4 == 0) && negative.iter().all(|i| i % 4 > 1));
        assert!(positive.is_sorted() && negative.is_sorted());
        assert_eq!(draw(20, 0.25, 0), draw(20, 0.25, 0));
        assert_ne!(draw(20, 0.25, 0), draw(20, 0.25, 1));
        // With few positives more background is sampled; if more boxes are requested than exist, all are returned.
        let Sampled { positive, negative } = draw(80, 0.5, 0);
        assert_eq!((positive.len(), negative.len()), (25, 50));
    }
}
