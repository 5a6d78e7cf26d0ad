//! The text of `dataset.toml` for a layout that was recognised.

use super::found::{Fit, Part, Purpose, quoted};

/// Every image of this number is held out where the data have no validation split.
pub const HELD_OUT: usize = 5;

/// One split of a manifest to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPart {
    /// Its use, which is its name.
    pub purpose: Purpose,
    /// Where its images are.
    pub part: Part,
    /// The folds that it keeps, if it is a part of the images of another one.
    pub folds: Option<Vec<usize>>,
}

/// What the index of a split holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Number of images.
    pub images: usize,
    /// Names of all classes, in label order.
    pub classes: Vec<String>,
    /// Number of annotated objects.
    pub objects: usize,
    /// Number of images that have no object, or crowds alone; 0 where images have no objects at all.
    pub empty: usize,
}

/// The splits of `fit`: those of the files and, if none is for validation, every [`HELD_OUT`]th image of the training split. A
/// test split is never used in its place.
pub fn splits_of(fit: &Fit) -> Vec<SplitPart> {
    let of = |purpose: Purpose| fit.parts.iter().find(|part| part.purpose == Some(purpose));
    let whole = fit.parts.iter().find(|part| part.purpose.is_none());
    let given = |purpose| of(purpose).map(|part| SplitPart { purpose, part: part.clone(), folds: None });
    let held_out = |purpose, folds: Vec<usize>| {
        let part = of(Purpose::Train).or(whole)?.clone();
        Some(SplitPart { purpose, part, folds: Some(folds) })
    };
    let (train, val) = match of(Purpose::Val) {
        Some(_) => (given(Purpose::Train), given(Purpose::Val)),
        None => (
            held_out(Purpose::Train, (0..HELD_OUT - 1).collect()),
            held_out(Purpose::Val, vec![HELD_OUT - 1]),
        ),
    };
    [train, val, given(Purpose::Test)].into_iter().flatten().collect()
}

/// The text of `dataset.toml`, complete and with comments. `counted` has the splits in their order, if they are known; `root` is
/// where the data are.
pub fn dataset_text(name: &str, fit: &Fit, splits: &[SplitPart], counted: &[Counted], root: &str) -> String {
    let mut lines = vec![
        format!("# {}: {}.", fit.layout, fit.evidence),
        "# Every key is explained in docs/reference/dataset.md.".to_string(),
        format!("name = {}", quoted(name)),
        "version = \"1\"".into(),
        "license = \"unknown\"            # of your data, in words".into(),
        format!("get = {}", quoted(&format!("the folder {root}, by --data"))),
    ];
    if let Some(classes) = counted.first().map(|split| &split.classes).filter(|classes| !classes.is_empty()) {
        const SHOWN: usize = 20;
        let more = if classes.len() > SHOWN { ", …" } else { "" };
        let shown =
            classes.iter().take(SHOWN).map(|class| class.replace(['\n', '\r'], " ")).collect::<Vec<_>>();
        let noun = if classes.len() == 1 { "class" } else { "classes" };
        lines.push(format!("# {} {noun}: {}{more}", classes.len(), shown.join(", ")));
    }
    for (place, SplitPart { purpose, part, folds }) in splits.iter().enumerate() {
        let counted = counted.get(place);
        lines.push(String::new());
        let objects = counted.filter(|counted| counted.objects > 0);
        let comment = objects.map(|counted| format!("   # {} objects", counted.objects)).unwrap_or_default();
        lines.push(format!("[split.{}]{comment}", purpose.as_str()));
        lines.push(format!("images = {}", quoted(&part.images)));
        if let Some(kept) = folds {
            let kept = kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let comment = match purpose {
                Purpose::Train => {
                    format!("all but every {HELD_OUT}th image (of each class, if images have one)")
                }
                _ => format!("every {HELD_OUT}th image: held out, never trained on"),
            };
            lines.push(format!("folds = {{ of = {HELD_OUT}, keep = [{kept}] }}   # {comment}"));
        }
        // Splits that share images must number them alike, so that both keep the empty ones.
        let empty = counted.map_or(0, |counted| counted.empty);
        let dropped = if *purpose == Purpose::Train && folds.is_none() { empty } else { 0 };
        if let Some(counted) = counted {
            lines.push(format!("count = {}", counted.images - dropped));
        }
        lines.push(format!("[split.{}.annotations]", purpose.as_str()));
        lines.extend(part.annotations.iter().map(|(key, value)| format!("{key} = {value}")));
        if dropped > 0 {
            lines.push(format!("drop_empty = true   # {dropped} images without objects are not trained on"));
        }
    }
    lines.join("\n") + "\n"
}
