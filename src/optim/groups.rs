//! Hyperparameters of each parameter: learning-rate scale and weight decay.
//!
//! Layer-wise learning-rate decay is that of BEiT (arXiv:2106.08254) as used for fine-tuning by
//! MAE (arXiv:2111.06377 Table 9): scale = decay^(layers − layer), 1 for the head.

use super::Gradients;
use crate::{
    config::{Exempt, Optim},
    nn::Parameter,
};
use candle_core::{Result, Tensor, bail};

/// A parameter with its own hyperparameters: PyTorch's param group, here always of a single parameter.
#[derive(Clone, Debug)]
pub struct ParamGroup {
    /// The parameter.
    pub parameter: Parameter,
    /// Multiplies the scheduled learning rate.
    pub lr_scale: f64,
    /// Weight decay at the beginning of the run; 0 where the recipe exempts the parameter.
    pub weight_decay: f64,
}

/// The groups of `params`, one for each, in their order. `layer_of` gives the layer of a parameter (0 for embeddings),
/// `layers` that of the head (depth + 1). Parameters covered by `optim.exempt` and `optim.no_decay` are not decayed.
pub fn param_groups(
    params: &[Parameter],
    optim: &Optim,
    layer_of: &dyn Fn(&str) -> usize,
    layers: usize,
) -> Vec<ParamGroup> {
    // Only norms have weights of one dimension.
    let is_norm = |module: &str| {
        params.iter().any(|p| p.name.strip_suffix(".weight") == Some(module) && p.var.rank() <= 1)
    };
    let belongs_to_norm = |name: &str| name.rsplit_once('.').is_some_and(|(module, _)| is_norm(module));
    let group = |p: &Parameter| {
        let depth = layers.saturating_sub(layer_of(&p.name));
        let spared = match optim.exempt {
            Exempt::OneDimensional => p.var.rank() <= 1 || p.name.ends_with(".bias"),
            Exempt::Norms => belongs_to_norm(&p.name),
            Exempt::BlockNorms => (1..layers).contains(&layer_of(&p.name)) && belongs_to_norm(&p.name),
            Exempt::Nothing => false,
        };
        let exempt = spared || optim.no_decay.contains(&p.name);
        ParamGroup {
            parameter: p.clone(),
            lr_scale: (0..depth).fold(1., |scale, _| scale * optim.layer_decay),
            weight_decay: if exempt { 0. } else { optim.weight_decay },
        }
    };
    params.iter().map(group).collect()
}

/// The gradient of each group.
///
/// # Errors
/// When the gradients are not those of the groups, in order.
pub(super) fn matched<'a>(
    groups: &[ParamGroup],
    gradients: &'a Gradients,
) -> Result<Vec<Option<&'a Tensor>>> {
    if groups.len() != gradients.len() {
        bail!("an optimiser of {} parameters got {} gradients", groups.len(), gradients.len());
    }
    let gradient = |(group, (name, gradient)): (&ParamGroup, (&str, Option<&'a Tensor>))| {
        let Parameter { name: expected, var, .. } = &group.parameter;
        if expected != name {
            bail!("the optimiser expected the gradient of `{expected}`, got that of `{name}`");
        }
        match gradient {
            Some(gradient) if gradient.shape() != var.shape() => {
                bail!("`{name}` is {:?}, its gradient {:?}", var.shape(), gradient.shape())
            }
            _ => Ok(gradient),
        }
    };
    groups.iter().zip(gradients.iter()).map(gradient).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimName;
    use candle_core::{DType, Device, Var};

    #[test]
    fn scales_fall_towards_the_input_and_exemptions_hold() {
        let optim = Optim {
            name: OptimName::Adamw,
            base_lr: 1e-3,
            lr: None,
            betas: Some([0.9, 0.999]),
            eps: 1e-8,
            momentum: None,
            trust: 1e-3,
            weight_decay: 0.05,
            weight_decay_end: None,
            layer_decay: 0.5,
            exempt: Exempt::OneDimensional,
            no_decay: vec!["pos_embed".into()],
        };
        let parameter = |name: &str, shape: &[usize]| Parameter {
            name: name.into(),
            var: Var::zeros(shape, DType::F32, &Device::Cpu).unwrap(),
            trainable: true,
        };
        let params = [
            parameter("pos_embed", &[1, 4, 2]),
            parameter("blocks.0.mlp.fc1.weight", &[2, 2]),
            parameter("blocks.0.norm1.weight", &[2]),
            parameter("blocks.0.norm1.bias", &[2]),
            parameter("blocks.0.mlp.fc1.bias", &[2]),
            parameter("relative.bias", &[2, 2]),
            parameter("head.weight", &[2, 2]),
            parameter("head.norm.weight", &[2]),
            parameter("head.norm.bias", &[2]),
        ];
        let layer_of = |name: &str| match name.split('.').next() {
            Some("pos_embed") => 0,
            Some("blocks") => 1,
            _ => 2,
        };
        let found: Vec<f64> =
            param_groups(&params, &optim, &layer_of, 2).iter().map(|group| group.lr_scale).collect();
        assert_eq!(found, [0.25, 0.5, 0.5, 0.5, 0.5, 1., 1., 1., 1.]);
        let decayed = |exempt| -> Vec<bool> {
            let optim = Optim { exempt, ..optim.clone() };
            param_groups(&params, &optim, &layer_of, 2)
                .iter()
                .map(|group| group.weight_decay == 0.05)
                .collect()
        };
        let (t, f) = (true, false);
        assert_eq!(decayed(Exempt::OneDimensional), [f, t, f, f, f, f, t, f, f]);
        assert_eq!(decayed(Exempt::Norms), [f, t, f, f, t, t, t, f, f]);
        assert_eq!(decayed(Exempt::BlockNorms), [f, t, f, f, t, t, t, t, t]);
        assert_eq!(decayed(Exempt::Nothing), [f, t, t, t, t, t, t, t, t]);
    }
}
