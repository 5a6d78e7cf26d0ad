//! [`Curve`]: the file `log.jsonl` of a run, read back: losses and scores over the steps of training.

use super::{Scores, StoreError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Keys of a line with losses that are no losses.
const NO_LOSSES: [&str; 4] = ["step", "epoch", "lr", "grad_norm"];

/// The log of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Means of losses since the line before.
    pub losses: Vec<LossPoint>,
    /// Evaluations.
    pub scores: Vec<ScorePoint>,
}

/// The losses of some steps.
#[derive(Clone, Debug, PartialEq)]
pub struct LossPoint {
    /// Number of steps done.
    pub step: u64,
    /// Number of epochs done.
    pub epoch: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// The loss that is minimised: the sum of its parts.
    pub loss: f64,
    /// Everything that was logged by name: parts of the loss, metrics, `grad_norm`.
    pub values: BTreeMap<String, f64>,
}

/// The scores after some steps.
#[derive(Clone, Debug, PartialEq)]
pub struct ScorePoint {
    /// Number of steps done.
    pub step: u64,
    /// Whether the split was the one for choosing; otherwise it was the reported one.
    pub select: bool,
    /// The scores.
    pub scores: Scores,
}

impl Curve {
    /// Reads the log at `path`; a log that does not exist is empty. A last line that is not complete belongs to a run that is being
    /// written, or that was killed, and is left out.
    ///
    /// # Errors
    /// A file that cannot be read, and any other line that is not one of a log.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut curve = Self::default();
        for (number, line) in complete.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = |what: &str| StoreError::broken(path, format!("line {}: {what}", number + 1));
            let value: Value = serde_json::from_str(line).map_err(|_| wrong("not a line of a log (JSON)"))?;
            let step = value["step"].as_u64().ok_or_else(|| wrong("it has no `step`"))?;
            if let Some(scores) = value.get("scores") {
                let scores =
                    serde_json::from_value(scores.clone()).map_err(|_| wrong("`scores` cannot be read"))?;
                curve.scores.push(ScorePoint { step, select: value.get("split").is_some(), scores });
            } else if let Some(point) = loss_point(step, &value) {
                curve.losses.push(point);
            }
        }
        Ok(curve)
    }

    /// The point with the lowest loss.
    pub fn best(&self) -> Option<&LossPoint> {
        self.losses.iter().min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    /// The last point at or before `epoch`; `None` before the first.
    pub fn at_epoch(&self, epoch: f64) -> Option<&LossPoint> {
        self.losses.iter().rev().find(|point| point.epoch <= epoch + 1e-9)
    }
}

/// The losses of a line; `None` of a line that has none, such as one about a skipped image.
fn loss_point(step: u64, line: &Value) -> Option<LossPoint> {
    let number = |key: &str| line.get(key).and_then(Value::as_f64);
    let values =
        || line.as_object().into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_f64()?)));
    let first = values().find(|(key, _)| !NO_LOSSES.contains(&key.as_str())).map(|(_, value)| value);
    Some(LossPoint {
        step,
        epoch: number("epoch")?,
        lr: number("lr")?,
        loss: number("loss").or(first)?,
        values: values()
            .filter(|(key, _)| !NO_LOSSES[..3].contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Curve, StoreError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, text).unwrap();
        Curve::read(&path)
    }

    #[test]
    fn losses_scores_and_skips_are_told_apart() {
        let curve = read(
            "{\"step\":1,\"epoch\":0.5,\"lr\":0.1,\"reconstruction\":2.0,\"grad_norm\":9.0}\n\
             {\"step\":1,\"skipped\":\"a.png\"}\n\
             {\"step\":2,\"epoch\":1.0,\"lr\":0.2,\"loss\":1.5,\"box\":0.5,\"mask\":1.0}\n\
             {\"step\":2,\"split\":\"select\",\"scores\":{\"top1\":{\"value\":50.0}}}\n\
             {\"step\":2,\"scores\":{\"top1\":{\"value\":40.0}}}\n\
             {\"step\":3,\"epo",
        )
        .unwrap();
        let losses: Vec<_> = curve.losses.iter().map(|point| (point.step, point.loss)).collect();
        assert_eq!(losses, [(1, 2.), (2, 1.5)]);
        assert_eq!(curve.losses[0].values.keys().collect::<Vec<_>>(), ["grad_norm", "reconstruction"]);
        let scores: Vec<_> = curve.scores.iter().map(|point| (point.step, point.select)).collect();
        assert_eq!(scores, [(2, true), (2, false)]);
        assert_eq!(curve.best().unwrap().step, 2);
        assert_eq!(curve.at_epoch(0.9).unwrap().step, 1);
        assert_eq!(curve.at_epoch(0.4), None);
    }

    #[test]
    fn a_damaged_line_is_named_and_an_absent_log_is_empty() {
        let error = read("{\"step\":1,\"epoch\":1,\"lr\":1,\"a\":1}\nnonsense\n{\"step\":2}\n")
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("line 2: not a line of a log (JSON)"), "{error}");
        assert_eq!(Curve::read(Path::new("/nowhere/log.jsonl")).unwrap(), Curve::default());
        assert_eq!(read("").unwrap(), Curve::default());
    }
}
