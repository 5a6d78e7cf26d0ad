//! Values of a recipe that fit the size of the data.

use crate::config::Recipe;

/// Steps that an epoch has at least.
const STEPS_PER_EPOCH: usize = 4;
/// Steps that a run has at least, unless that takes more than [`MOST_EPOCHS`].
const LEAST_STEPS: usize = 500;
/// Steps that a run has at most.
const MOST_STEPS: usize = 20_000;
/// Largest number of epochs that is chosen.
const MOST_EPOCHS: usize = 200;

/// Longer side in pixels up to which images are small: a model of small images sees them as they are.
const SMALL: usize = 96;
/// Input sizes for the detection of larger objects than those of a small image: multiples of patches of 7, 8, 14 and 16.
const INPUTS: [usize; 2] = [112, 224];
/// Quantiles of the sizes of objects at which the five levels of a pyramid have their anchors.
const QUANTILES: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];
/// Smallest difference between the anchors of two levels, and the smallest anchor, in pixels.
const LEAST_ANCHOR: usize = 4;

/// Number of training images from which on the recipes of the literature are used as they are.
pub(super) fn is_large(kind: &str, images: usize) -> bool {
    let least = match kind {
        "classification" => 100_000,
        "detection" => 50_000,
        _ => 10_000,
    };
    images >= least
}

/// What the choice of values looks at.
pub(super) struct Facts {
    /// Number of images to train on.
    pub images: usize,
    /// Medians of the shorter and the longer side of images.
    pub sides: Option<(usize, usize)>,
    /// Whether all objects have outlines.
    pub masks: bool,
    /// Sizes of objects as shares of the longer side of their image, sorted.
    pub object_sides: Vec<f64>,
}

/// Overrides of a recipe, and what they are in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `key=value`, as for `--set`.
    pub sets: Vec<String>,
    /// One sentence for the screen.
    pub said: String,
}

impl Facts {
    /// Values of `recipe` for these data, without the keys that are `given`. The head is `fitted` in one pass, or needs `least`
    /// images in a forward pass.
    pub fn defaults(
        &self,
        (name, recipe): (&str, &Recipe),
        given: &[String],
        (kind, fitted, least): (&str, bool, usize),
    ) -> Defaults {
        let images = self.images;
        if fitted {
            let said = format!("{images} training images: the head of recipe {name} is fitted in one pass");
            return Defaults { sets: vec![], said };
        }
        let open =
            |key: &str| !given.iter().any(|set| set.split('=').next().is_some_and(|k| k.trim() == key));
        let (mut batch, mut epochs, mut warmup) =
            (recipe.batch, recipe.epochs, recipe.schedule.warmup_epochs);
        let mut sets = vec![];
        if !is_large(kind, images) {
            while open("batch") && batch > least.max(1) && batch * STEPS_PER_EPOCH > images {
                batch = (batch / 2).max(least);
            }
            if batch != recipe.batch {
                sets.push(format!("batch={batch}"));
                let micro = recipe.micro_batch.filter(|_| open("micro_batch"));
                if micro.is_some_and(|micro| !batch.is_multiple_of(micro)) {
                    sets.push(format!("micro_batch={batch}"));
                }
            }
            let steps = (images / batch.max(1)).max(1);
            if open("epochs") {
                epochs = match steps * epochs {
                    few if few < LEAST_STEPS => LEAST_STEPS.div_ceil(steps).min(MOST_EPOCHS).max(epochs),
                    many if many > MOST_STEPS => (MOST_STEPS / steps).max(1),
                    _ => epochs,
                };
            }
            if epochs != recipe.epochs {
                sets.push(format!("epochs={epochs}"));
                if open("schedule.warmup_epochs") && warmup > 0. {
                    warmup = (100. * warmup * epochs as f64 / recipe.epochs as f64).round() / 100.;
                    sets.push(format!("schedule.warmup_epochs={warmup}"));
                }
            }
        }
        let mut said = format!(
            "{images} training images: batch {batch}, {epochs} epochs of {} steps, warm-up over {warmup}",
            images / batch.max(1)
        );
        let input_is_open = open("transfer.image") && open("model.image");
        if let Some((side, anchors)) = self.detection(kind, recipe).filter(|_| input_is_open) {
            sets.push(format!("transfer.image=[{side},{side}]"));
            said += &format!(", input {side} pixels");
            if open("transfer.head.anchor_sizes") {
                let anchors = anchors.map(|anchor| anchor.to_string()).join(",");
                sets.push(format!("transfer.head.anchor_sizes=[{anchors}]"));
                said += &format!(", anchors of {} pixels", anchors.replace(',', ", "));
            }
        }
        let unchanged = if sets.is_empty() { "the values of" } else { "otherwise as in" };
        said += &format!(" ({unchanged} recipe {name}; change them with --set)");
        Defaults { sets, said }
    }

    /// The input size of a detector whose recipe leaves it to the model, and the anchors for it; `None` for small images, and for
    /// other tasks.
    fn detection(&self, kind: &str, recipe: &Recipe) -> Option<(usize, [usize; 5])> {
        let fixed = recipe.transfer.as_ref().is_some_and(|transfer| transfer.image.is_some());
        let (_, longer) = self.sides?;
        if kind != "detection" || fixed || longer <= SMALL || self.object_sides.is_empty() {
            return None;
        }
        let [small, large] = INPUTS;
        let side = if longer <= (small + large) / 2 { small } else { large };
        let mut last = 0;
        let anchors = QUANTILES.map(|quantile| {
            let place = (quantile * (self.object_sides.len() - 1) as f64).round() as usize;
            let pixels = (self.object_sides[place] * side as f64).round() as usize;
            last = pixels.max(last + LEAST_ANCHOR);
            last
        });
        Some((side, anchors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn recipe(more: &str) -> Recipe {
        parse(
            &format!(
                "epochs = 60\nbatch = 64\n{more}[optim]\nname = \"sgd\"\nbase_lr = 0.1\nweight_decay = 0.0\n\
                 [schedule]\nname = \"cosine\"\nwarmup_epochs = 5\n[transfer]\ntune = \"all\"\n"
            ),
            "test",
        )
        .unwrap()
    }

    fn facts(images: usize) -> Facts {
        Facts { images, sides: Some((300, 400)), masks: false, object_sides: vec![] }
    }

    fn sets(images: usize, given: &[&str], kind: &str) -> Vec<String> {
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        facts(images).defaults(("r", &recipe("")), &given, (kind, false, 1)).sets
    }

    #[test]
    fn values_by_hand() {
        // 160 images: 64 and 4 steps would need 256, 32 needs 128. 5 steps in an epoch, 500 in 100.
        let expected = ["batch=32", "epochs=100", "schedule.warmup_epochs=8.33"];
        assert_eq!(sets(160, &[], "classification"), expected);
        // 1000 images: 15 steps, 900 in 60 epochs: as in the recipe.
        assert_eq!(sets(1000, &[], "classification"), [""; 0]);
        // 50,000 images: 781 steps, 46,860 in 60 epochs, more than 20,000, which are 25 epochs.
        let expected = ["epochs=25", "schedule.warmup_epochs=2.08"];
        assert_eq!(sets(50_000, &[], "classification"), expected);
        // As large as ImageNet: as in the recipe.
        assert_eq!(sets(1_281_167, &[], "classification"), [""; 0]);
        // 3 images: no batch leaves 4 steps; at most 200 epochs.
        let expected = ["batch=1", "epochs=167", "schedule.warmup_epochs=13.92"];
        assert_eq!(sets(3, &[], "classification"), expected);
        let least = facts(3).defaults(("r", &recipe("")), &[], ("segmentation", false, 2));
        assert_eq!(least.sets, ["batch=2", "epochs=200", "schedule.warmup_epochs=16.67"]);
    }

    #[test]
    fn what_is_given_stays() {
        // Batches of 16 are 10 steps, 600 in 60 epochs.
        let smaller = Recipe { batch: 16, ..recipe("") };
        let given = ["batch = 16".to_string()];
        let found = facts(160).defaults(("r", &smaller), &given, ("classification", false, 1));
        assert_eq!(found.sets, [""; 0]);
        assert!(found.said.contains("batch 16, 60 epochs of 10 steps"), "{}", found.said);
        assert_eq!(sets(160, &["batch=64", "epochs=60"], "classification"), [""; 0]);
        assert_eq!(sets(160, &["epochs=3"], "classification"), ["batch=32"]);
        let warm = sets(160, &["schedule.warmup_epochs=1"], "classification");
        assert_eq!(warm, ["batch=32", "epochs=100"]);
        let micro =
            facts(160).defaults(("r", &recipe("micro_batch = 64\n")), &[], ("classification", false, 1));
        assert_eq!(micro.sets[..2], ["batch=32", "micro_batch=32"]);
        let fitted = facts(3).defaults(("knn", &recipe("")), &[], ("classification", true, 1));
        assert!(fitted.sets.is_empty() && fitted.said.contains("fitted in one pass"));
    }

    #[test]
    fn detection_has_an_input_for_its_images_and_anchors_for_its_objects() {
        let shares: Vec<f64> = (0..=10).map(|k| f64::from(k) / 20.).collect();
        let of = |longer: usize, object_sides: &[f64], given: &[&str]| {
            let facts = Facts {
                images: 1000,
                sides: Some((50, longer)),
                masks: true,
                object_sides: object_sides.to_vec(),
            };
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            facts.defaults(("r", &recipe("")), &given, ("detection", false, 1)).sets
        };
        // Tenths of a list of 11: shares 0.05, 0.15, 0.25, 0.35, 0.45 of 224 pixels.
        let expected = ["transfer.image=[224,224]", "transfer.head.anchor_sizes=[11,34,56,78,101]"];
        assert_eq!(of(640, &shares, &[]), expected);
        assert_eq!(of(128, &shares, &[])[0], "transfer.image=[112,112]");
        assert!(of(64, &shares, &[]).is_empty(), "small images are seen as they are");
        assert!(of(640, &shares, &["transfer.image=[64,64]"]).is_empty());
        assert!(of(640, &shares, &["model.image=[64,64]"]).is_empty());
        // Objects of one size: every level has anchors of its own.
        assert_eq!(of(640, &[0.01; 5], &[])[1], "transfer.head.anchor_sizes=[4,8,12,16,20]");
    }
}
