//! Metadata of the weights of a transfer run: enough to predict from the file alone.

use super::{RunInputs, pretrain};
use crate::config::{RunConfig, parse};
use crate::data::DatasetInfo;
use crate::weights::WeightFile;
use crate::weights::metadata::{CONFIG, DATASET};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// The configuration of the run that trained the weights, and the names of their classes.
#[derive(Clone, Debug)]
pub struct TransferMetadata {
    /// The configuration of the run.
    pub config: RunConfig,
    /// The data set that it was trained on, with the names of its classes.
    pub dataset: DatasetInfo,
}

impl TransferMetadata {
    /// Reads the metadata of a file of weights; `None` if it has none, as in a checkpoint of another program or
    /// of a pre-training run.
    pub fn of(weights: &Path) -> Result<Option<Self>> {
        let file = WeightFile::open(weights)?;
        let found = file.metadata();
        let (Some(config), Some(dataset)) = (found.get(CONFIG), found.get(DATASET)) else { return Ok(None) };
        let config = parse(config, weights.display())?;
        let dataset = serde_json::from_str(dataset)
            .with_context(|| format!("`{}`: its metadata `{DATASET}`", weights.display()))?;
        Ok(Some(Self { config, dataset }))
    }

    /// Metadata for the weights of `run`. The path of the data is left out, because it does not affect the run.
    pub(super) fn add(mut self, run: &RunInputs) -> Result<BTreeMap<String, String>> {
        self.config.run = self.config.run.without_paths();
        let mut metadata = pretrain::metadata(run)?;
        metadata.insert(CONFIG.into(), self.config.to_toml()?);
        metadata.insert(DATASET.into(), serde_json::to_string(&self.dataset)?);
        Ok(metadata)
    }
}
