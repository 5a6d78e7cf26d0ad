//! The text of `dataset.toml` for a layout that was recognised.

use super::super::Folds;
use super::found::{Fit, Labelling, Part, Purpose, quoted};

/// Of this many images one is held out where the data have no validation split, if classes are large enough.
const HELD_OUT: usize = 5;

/// One split of a manifest to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPart {
    /// Its use, which is its name.
    pub purpose: Purpose,
    /// Where its images are.
    pub part: Part,
    /// The folds that it keeps, if it is a part of the images of another one.
    pub folds: Option<Folds>,
}

impl SplitPart {
    /// Number of images without objects that the split leaves out. Splits that share images must number them alike, so that both
    /// keep the empty ones.
    pub fn left_out(&self, counted: &Counted) -> usize {
        if self.purpose == Purpose::Train && self.folds.is_none() { counted.empty } else { 0 }
    }
}

/// What the index of a split holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Number of images, without those that are left out.
    pub images: usize,
    /// Names of all classes, in label order.
    pub classes: Vec<String>,
    /// Number of annotated objects.
    pub objects: usize,
    /// Number of images that have no object, or crowds alone; 0 where images have no objects at all.
    pub empty: usize,
}

/// The splits of the files of `fit`, the first of which is to train on: `train`, or all of the data.
pub fn splits_of(fit: &Fit) -> Vec<SplitPart> {
    let split = |purpose: Purpose, part: &Part| SplitPart { purpose, part: part.clone(), folds: None };
    let whole =
        fit.parts.iter().filter(|part| part.purpose.is_none()).map(|part| split(Purpose::Train, part));
    let named = fit.parts.iter().filter_map(|part| Some(split(part.purpose?, part)));
    let mut splits: Vec<SplitPart> = whole.chain(named).collect();
    splits.sort_by_key(|split| split.purpose);
    splits
}

/// Divides the training split if there is no split for validation: of five images of each class, one is held out. Where the
/// median of `sizes`, the numbers of its images of each class, is smaller, it is one of so many. A test split is never used in
/// its place.
pub fn hold_out(splits: Vec<SplitPart>, mut sizes: Vec<usize>) -> Vec<SplitPart> {
    if splits.iter().any(|split| split.purpose == Purpose::Val) {
        return splits;
    }
    sizes.sort_unstable();
    let of = sizes.get(sizes.len() / 2).map_or(HELD_OUT, |median| (*median).clamp(2, HELD_OUT));
    let divided = |split: SplitPart| match split.purpose {
        Purpose::Train => {
            let keep = |keep| Some(Folds { of, keep });
            let val = SplitPart { purpose: Purpose::Val, folds: keep(vec![of - 1]), ..split.clone() };
            vec![SplitPart { folds: keep((0..of - 1).collect()), ..split }, val]
        }
        _ => vec![split],
    };
    splits.into_iter().flat_map(divided).collect()
}

/// The text of `dataset.toml`, complete and with comments. `counted` has the splits in their order, if they are known; `root` is
/// where the data are.
pub fn dataset_text(name: &str, fit: &Fit, splits: &[SplitPart], counted: &[Counted], root: &str) -> String {
    let mut lines = vec![
        format!("# {}: {}.", fit.layout, one_line(&fit.evidence)),
        "# Every key is explained in docs/reference/dataset.md.".to_string(),
        format!("name = {}", quoted(name)),
        "version = \"1\"".into(),
        "license = \"unknown\"            # of your data, in words".into(),
        format!("get = {}", quoted(&format!("the folder {root}, by --data"))),
    ];
    if fit.labelling == Labelling::Classes {
        lines.push("orientation = \"apply\"          # turned as viewers show them; \"ignore\": as PyTorch's loaders do".into());
    }
    if let Some(classes) = counted.first().map(|split| &split.classes).filter(|classes| !classes.is_empty()) {
        const SHOWN: usize = 20;
        let more = if classes.len() > SHOWN { ", …" } else { "" };
        let shown = classes.iter().take(SHOWN).map(|class| one_line(class)).collect::<Vec<_>>();
        let noun = if classes.len() == 1 { "class" } else { "classes" };
        lines.push(format!("# {} {noun}: {}{more}", classes.len(), shown.join(", ")));
    }
    for (place, split) in splits.iter().enumerate() {
        let SplitPart { purpose, part, folds } = split;
        let counted = counted.get(place);
        lines.push(String::new());
        let objects = counted.filter(|counted| counted.objects > 0);
        let comment = objects.map(|counted| format!("   # {} objects", counted.objects)).unwrap_or_default();
        lines.push(format!("[split.{}]{comment}", purpose.as_str()));
        lines.push(format!("images = {}", quoted(&part.images)));
        if let Some(Folds { of, keep }) = folds {
            let comment = match purpose {
                Purpose::Train => format!("all images but 1 of {of} (of each class, if images have one)"),
                _ => format!("1 of {of} images: held out, never trained on"),
            };
            lines.push(format!("folds = {{ of = {of}, keep = {keep:?} }}   # {comment}"));
        }
        let left_out = counted.map_or(0, |counted| split.left_out(counted));
        if let Some(counted) = counted {
            lines.push(format!("count = {}", counted.images));
        }
        lines.push(format!("[split.{}.annotations]", purpose.as_str()));
        lines.extend(part.annotations.iter().map(|(key, value)| format!("{key} = {value}")));
        if left_out > 0 {
            lines.push(format!("drop_empty = true   # {left_out} images without objects are not trained on"));
        }
    }
    lines.join("\n") + "\n"
}

/// The text without line breaks, for a comment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
