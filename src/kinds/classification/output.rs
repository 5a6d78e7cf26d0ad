//! Output of predictions: the most likely classes drawn on the image, and a CSV file.

use crate::data::Image;
use crate::draw::{Canvas, Drawing, color};
use crate::record::write_atomic;
use crate::task::{PredictedImage, PredictionWriter};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Number of classes that are shown for an image.
const SHOWN: usize = 5;
/// Name of the file that [`LabelWriter`] writes.
const FILE: &str = "labels.csv";

/// The most likely labels with their probabilities, best first. `scores` are logits, which are converted by softmax, or
/// (with `votes`) votes, which are divided by their sum; a class without votes (−∞) is not listed.
fn best(scores: &[f32], votes: bool) -> Vec<(usize, f32)> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |score: &f32| if votes { score.max(0.) } else { (score - most).exp() };
    let weights: Vec<f32> = scores.iter().map(weight).collect();
    let sum: f32 = weights.iter().sum();
    let listed = |label: &usize| !votes || scores[*label] != f32::NEG_INFINITY;
    let mut labels: Vec<usize> = (0..scores.len()).filter(listed).collect();
    labels.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
    labels.into_iter().take(SHOWN).map(|label| (label, weights[label] / sum)).collect()
}

fn name(classes: &[String], label: usize) -> &str {
    classes.get(label).map_or("?", String::as_str)
}

/// Writes the names of the most likely classes into the upper left corner of the image.
pub(super) fn draw(image: &Image, scores: &[f32], votes: bool, classes: &[String]) -> Result<Drawing> {
    let mut canvas = Canvas::new(image).map_err(anyhow::Error::msg)?;
    let mut y = 0.;
    for (label, share) in best(scores, votes) {
        let text = format!("{:.1} % {}", 100. * share, name(classes, label));
        let (_, height) = canvas.caption(&text, 0., y, color(label));
        y += height;
    }
    let title = "the most likely classes".into();
    Ok(Drawing { title, ..canvas.into_image().into() })
}

/// Writes the most likely labels of all images to a CSV file: image, rank from 1, label, class, share.
pub(super) struct LabelWriter {
    file: PathBuf,
    classes: Vec<String>,
    votes: bool,
    rows: Vec<[String; 5]>,
}

impl LabelWriter {
    pub(super) fn new(folder: &Path, classes: &[String], votes: bool) -> Self {
        Self { file: folder.join(FILE), classes: classes.to_vec(), votes, rows: vec![] }
    }
}

impl PredictionWriter for LabelWriter {
    type Prediction = Vec<f32>;

    fn files(&self, _: &[String]) -> Vec<PathBuf> {
        vec![FILE.into()]
    }

    fn write(&mut self, image: &PredictedImage, scores: &Vec<f32>) -> Result<()> {
        for (rank, (label, share)) in best(scores, self.votes).into_iter().enumerate() {
            let class = name(&self.classes, label).to_string();
            let [rank, label] = [rank + 1, label].map(|number| number.to_string());
            self.rows.push([image.name.into(), rank, label, class, share.to_string()]);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { file, rows, .. } = *self;
        let mut table = csv::Writer::from_writer(vec![]);
        table.write_record(["image", "rank", "label", "class", "share"])?;
        rows.iter().try_for_each(|row| table.write_record(row))?;
        let text = table.into_inner().context("cannot format the table of labels")?;
        write_atomic(&file, &text).with_context(|| format!("cannot write `{}`", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        let found = best(&[0., 2f32.ln(), f32::NEG_INFINITY], false);
        assert_eq!(found.iter().map(|(label, _)| *label).collect::<Vec<_>>(), [1, 0, 2]);
        assert!((found[0].1 - 2. / 3.).abs() < 1e-6 && found[2].1 == 0., "{found:?}");
        assert_eq!(best(&[1., 3.], true), [(1, 0.75), (0, 0.25)]);
        assert_eq!(best(&[1., f32::NEG_INFINITY, 3.], true), [(2, 0.75), (0, 0.25)]);
        assert_eq!(best(&[0.; 9], false).len(), SHOWN);
    }

    #[test]
    fn a_table_of_labels() {
        let folder = tempfile::tempdir().unwrap();
        let classes = ["cat, black".to_string(), "dog".into()];
        let mut writer = Box::new(LabelWriter::new(folder.path(), &classes, true));
        for number in 1..3 {
            let image = PredictedImage { path: Path::new("x.png"), name: "x", number, size: (1, 1) };
            writer.write(&image, &vec![1., 3.]).unwrap();
        }
        writer.finish().unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let rows = "x,1,1,dog,0.75\nx,2,0,\"cat, black\",0.25\n";
        assert_eq!(text, format!("image,rank,label,class,share\n{rows}{rows}"));
    }
}
