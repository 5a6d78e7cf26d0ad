//! The text of `task.toml` for own data.

use super::defaults::is_large;
use crate::data::recognise::{Counted, Labelling, Purpose, SplitPart, quoted};
use crate::runs::command_line;

/// Shorter side in pixels up to which images are classified as a whole.
const WHOLE: usize = 96;

/// What the text depends on.
pub(super) struct TaskFacts<'a> {
    pub name: &'a str,
    pub labelling: Labelling,
    pub splits: &'a [SplitPart],
    pub counted: &'a [Counted],
    pub recipe: &'static str,
    /// Medians of the shorter and the longer side of images.
    pub sides: Option<(usize, usize)>,
    /// Whether all objects have outlines.
    pub masks: bool,
}

impl TaskFacts<'_> {
    fn images(&self, purpose: Purpose) -> usize {
        let splits = self.splits.iter().zip(self.counted);
        splits.filter(|(split, _)| split.purpose == purpose).map(|(_, counted)| counted.images).sum()
    }
}

/// Whether there is a split that is only reported.
pub(super) fn has_test(splits: &[SplitPart]) -> bool {
    splits.iter().any(|split| split.purpose == Purpose::Test)
}

/// The kind of task for images that are labelled in this way.
pub(super) fn kind_of(labelling: Labelling) -> &'static str {
    match labelling {
        Labelling::Classes => "classification",
        Labelling::Objects => "detection",
        Labelling::Pixels => "segmentation",
    }
}

/// The recipe for this number of training images: one of the literature, or one that a CPU can do.
pub(super) fn recipe_of(labelling: Labelling, images: usize) -> &'static str {
    let large = is_large(kind_of(labelling), images);
    match (labelling, large) {
        (Labelling::Classes, true) => "finetune",
        (Labelling::Classes, false) => "finetune_small",
        (Labelling::Objects, true) => "maskrcnn",
        (Labelling::Objects, false) => "maskrcnn_small",
        (Labelling::Pixels, true) => "upernet",
        (Labelling::Pixels, false) => "upernet_small",
    }
}

/// The text of `task.toml`, complete and with comments; `sets` are overrides of its recipe that fit the data.
pub(super) fn task_text(facts: &TaskFacts, sets: &[String]) -> String {
    let TaskFacts { name, labelling, recipe, .. } = facts;
    let kind = kind_of(*labelling);
    let eval = if has_test(facts.splits) { Purpose::Test } else { Purpose::Val };
    let primary = match labelling {
        Labelling::Classes => "top1",
        Labelling::Objects => "box_ap",
        Labelling::Pixels => "miou",
    };
    let mut command =
        vec!["transfer".to_string(), "--task".into(), name.to_string(), "--data".into(), "DIR".into()];
    command.extend(sets.iter().flat_map(|set| ["--set".to_string(), set.clone()]));
    let mut lines = vec![
        format!(
            "# {kind}: {} images to train on, {} to score.",
            facts.images(Purpose::Train),
            facts.images(eval)
        ),
        "# Every key is explained in docs/reference/task.md. Raise `version` after a change that can change a score.".into(),
        format!("name = {}", quoted(name)),
        "version = 1".into(),
        format!("kind = {}", quoted(kind)),
        format!("dataset = {}", quoted(name)),
        format!("primary = {}   # the score that ranks runs; docs/reference/scores.md has the others", quoted(primary)),
        "# The recipe that is used when --recipe is not given. With values that fit the number of images:".into(),
        format!("#   {}", command_line(command)),
        format!("recipe = {}", quoted(recipe)),
        String::new(),
        "[splits]".into(),
        "train = \"train\"".into(),
    ];
    if has_test(facts.splits) {
        lines.push("select = \"val\"   # to choose by: --report select; the best weights of a run".into());
    }
    lines.push(format!("eval = {}", quoted(eval.as_str())));
    lines.push(String::new());
    lines.push(protocol(facts));
    lines.join("\n")
}

/// `[options]` and `[[eval]]`: what is scored, and at which size.
fn protocol(facts: &TaskFacts) -> String {
    let whole = facts.sides.is_some_and(|(shorter, _)| shorter <= WHOLE);
    match facts.labelling {
        Labelling::Classes if whole => "[options]\n\
             pool = \"mean\"   # of the patch tokens; a recipe may say otherwise\n\n\
             [[eval]]   # small images: the whole image, at the size of the model's input\n\
             op = \"resize\"\n\
             interpolation = \"bicubic\"\n"
            .into(),
        Labelling::Classes => "[options]\n\
             pool = \"mean\"   # of the patch tokens; a recipe may say otherwise\n\n\
             [[eval]]   # the shorter side to input / 0.875 up to an input of 224, no margin above; then the centre\n\
             op = \"resize_short\"\n\
             crop_ratio = 0.875\n\
             margin_up_to = 224\n\
             interpolation = \"bicubic\"\n\n\
             [[eval]]\n\
             op = \"center_crop\"\n"
            .into(),
        Labelling::Objects => format!(
            "[options]\n\
             masks = {}   # {}\n\
             protocol = \"coco\"\n\n\
             [[eval]]   # the longer side to that of the input, padded to it\n\
             op = \"resize_longest\"\n\n\
             [[eval]]\n\
             op = \"pad\"\n",
            facts.masks,
            if facts.masks { "every object has an outline" } else { "not every object has an outline: boxes alone" }
        ),
        Labelling::Pixels => {
            let large = facts.recipe == "upernet";
            let (comment, size) = match large {
                true => ("# into short × 4 short for an input of `short` pixels, ratio kept", ""),
                false => (
                    "# the size at which `upernet_small` trains; without `short` and `long` that of the input",
                    "short = 180\nlong = 240\n",
                ),
            };
            format!(
                "[options]\n\
                 stride = 0.6667   # windows of the input size, two thirds of a window apart, logits averaged\n\n\
                 [[eval]]   {comment}\n\
                 op = \"resize_within\"\n{size}"
            )
        }
    }
}
