//! Weighted k-nearest-neighbour classifier on frozen features (Wu et al., arXiv:1805.01978): each of the k training
//! images of the largest cosine similarity s votes for its class with exp(s / T). Similarities are shifted by the largest,
//! which does not change the ranking. A class without a vote has the score −∞ and therefore no rank.

use candle_core::{D, Result, Tensor};

/// Features and labels of the training split.
pub(super) struct Neighbours {
    k: usize,
    temperature: f64,
    classes: usize,
    /// Unit rows. [n, C] each
    features: Vec<Tensor>,
    labels: Vec<u32>,
}

impl Neighbours {
    pub(super) fn new(k: usize, temperature: f64, classes: usize) -> Self {
        Self { k, temperature, classes, features: vec![], labels: vec![] }
    }

    /// Adds features [n, C].
    pub(super) fn add(&mut self, features: &Tensor, labels: impl Iterator<Item = u32>) -> Result<()> {
        self.features.push(unit(&features.detach())?);
        self.labels.extend(labels);
        Ok(())
    }

    /// Votes per class for queries [B, C] -> [B, K].
    pub(super) fn vote(&self, queries: &Tensor) -> Result<Tensor> {
        if self.labels.is_empty() {
            candle_core::bail!("k-NN: the classifier has not been fitted");
        }
        let bank = Tensor::cat(&self.features, 0)?;
        let similarities: Vec<Vec<f32>> = unit(queries)?.matmul(&bank.t()?)?.to_vec2()?;
        let votes: Vec<f32> = similarities.iter().flat_map(|row| self.votes(row)).collect();
        Tensor::from_vec(votes, (similarities.len(), self.classes), queries.device())
    }

    fn votes(&self, similarities: &[f32]) -> Vec<f32> {
        let mut order: Vec<usize> = (0..similarities.len()).collect();
        order.sort_by(|a, b| similarities[*b].total_cmp(&similarities[*a]));
        let best = f64::from(similarities[order[0]]);
        let mut votes = vec![f64::NEG_INFINITY; self.classes];
        for &i in order.iter().take(self.k) {
            let vote = ((f64::from(similarities[i]) - best) / self.temperature).exp();
            let votes = &mut votes[self.labels[i] as usize];
            *votes = votes.max(0.) + vote;
        }
        votes.into_iter().map(|v| v as f32).collect()
    }
}

/// Rows scaled to length 1.
fn unit(x: &Tensor) -> Result<Tensor> {
    let length = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
    x.broadcast_div(&length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn near_neighbours_outvote_far_ones() -> Result<()> {
        let mut knn = Neighbours::new(2, 0.5, 3);
        let bank = Tensor::new(&[[2f32, 0.], [0., 1.], [-3., 0.]], &Device::Cpu)?;
        knn.add(&bank, [2, 1, 0].into_iter())?;
        let votes = knn.vote(&Tensor::new(&[[1f32, 0.], [0., 5.]], &Device::Cpu)?)?.to_vec2::<f32>()?;
        // Similarities 1, 0, −1: class 2 with weight 1, class 1 with exp(−1 / 0.5).
        assert!((votes[0][1] - (-2f32).exp()).abs() < 1e-6 && votes[0][2] == 1.);
        assert_eq!(votes[0][0], f32::NEG_INFINITY, "no vote");
        assert_eq!(votes[1][1], 1.);
        assert!(Neighbours::new(2, 0.5, 3).vote(&bank).is_err());
        Ok(())
    }
}
