//! The optimiser that `[optim]` of a recipe describes.

use super::{AdamW, Lars, Optimizer, ParamGroup, Sgd};
use crate::config::{Optim, OptimName};

/// The reason why no optimiser can be built from `[optim]`.
#[derive(Debug, thiserror::Error)]
pub enum OptimError {
    /// A key that the optimiser needs is absent.
    #[error("[optim] name = \"{name}\" needs the key `{key}`, which is absent")]
    Missing {
        /// Name of the optimiser.
        name: &'static str,
        /// The key of `[optim]`.
        key: &'static str,
    },
    /// A key that the optimiser does not read is set.
    #[error("[optim] name = \"{name}\" does not read the key `{key}`, which is set")]
    Unused {
        /// Name of the optimiser.
        name: &'static str,
        /// The key of `[optim]`.
        key: &'static str,
    },
    /// Memory for the state cannot be allocated.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The optimiser that `optim` names, over `groups` (see [`super::param_groups`]).
///
/// # Errors
/// A key that the optimiser needs is absent, or a key that it does not read is set.
pub fn build_optimizer(
    optim: &Optim,
    groups: Vec<ParamGroup>,
) -> std::result::Result<Box<dyn Optimizer>, OptimError> {
    let name = match optim.name {
        OptimName::Adamw => "adamw",
        OptimName::Sgd => "sgd",
        OptimName::Lars => "lars",
    };
    let (momentum, betas) = (
        optim.momentum.ok_or(OptimError::Missing { name, key: "momentum" }),
        optim.betas.ok_or(OptimError::Missing { name, key: "betas" }),
    );
    match optim.name {
        OptimName::Adamw if momentum.is_ok() => Err(OptimError::Unused { name, key: "momentum" }),
        OptimName::Sgd | OptimName::Lars if betas.is_ok() => Err(OptimError::Unused { name, key: "betas" }),
        OptimName::Adamw => Ok(Box::new(AdamW::new(groups, betas?, optim.eps)?)),
        OptimName::Sgd => Ok(Box::new(Sgd::new(groups, momentum?)?)),
        OptimName::Lars => Ok(Box::new(Lars::new(groups, momentum?, optim.trust)?)),
    }
}
