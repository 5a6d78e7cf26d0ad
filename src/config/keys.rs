//! Suggestions for keys of `--set` that do not exist: near misses, and the words of other programs.

use super::{ModelConfig, Recipe};
use schemars::schema_for;
use serde_json::Value;
use std::collections::BTreeSet;

/// Words of other programs, and what they are here.
const ELSEWHERE: [(&str, &str); 27] = [
    ("accum_iter", "micro_batch"),
    ("accumulation_steps", "micro_batch"),
    ("batch_size", "batch"),
    ("blr", "optim.base_lr"),
    ("clip_grad", "clip"),
    ("crop_size", "model.image"),
    ("drop_path_rate", "drop_path"),
    ("ema_decay", "ema"),
    ("grad_clip", "clip"),
    ("image_size", "model.image"),
    ("img_size", "model.image"),
    ("input_size", "model.image"),
    ("learning_rate", "optim.lr"),
    ("lr", "optim.lr"),
    ("max_epochs", "epochs"),
    ("min_lr", "schedule.min_lr"),
    ("mixup", "transfer.head.mixup"),
    ("model_ema_decay", "ema"),
    ("num_epochs", "epochs"),
    ("opt", "optim.name"),
    ("optimizer", "optim.name"),
    ("patience", "early_stop"),
    ("sched", "schedule.name"),
    ("scheduler", "schedule.name"),
    ("smoothing", "transfer.head.label_smoothing"),
    ("warmup_epochs", "schedule.warmup_epochs"),
    ("wd", "optim.weight_decay"),
];

/// Settings of a run that are flags and no keys.
const FLAGS: [&str; 9] = ["data", "device", "dtype", "init", "model", "recipe", "seed", "task", "workers"];

/// `; did you mean …?` for the key of an assignment `key=value` that is not a key of a recipe or model; empty if nothing is similar or
/// the key exists.
pub(super) fn suggestion(assignment: &str) -> String {
    let key = assignment.split_once('=').map_or(assignment, |(key, _)| key).trim();
    let last = key.rsplit('.').next().unwrap_or(key).replace('-', "_");
    let known = known_keys();
    if known.contains(key) {
        return String::new();
    }
    if !key.contains('.') && FLAGS.contains(&last.as_str()) {
        return format!("; did you mean --{last}?");
    }
    let last_of = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let elsewhere = ELSEWHERE.iter().find(|(word, _)| *word == last).map(|(_, here)| vec![here.to_string()]);
    let same = || known.iter().filter(|path| last_of(path) == last).cloned().collect::<Vec<_>>();
    let near = || {
        let distances = |path: &String| {
            let whole = strsim::damerau_levenshtein(path, key);
            (strsim::damerau_levenshtein(&last_of(path), &last).min(whole), whole)
        };
        let nearest = known.iter().map(|path| (distances(path), path)).min();
        let near = nearest.filter(|((distance, _), path)| *distance <= 1 + last_of(path).len() / 4);
        near.map(|(_, path)| vec![path.clone()])
    };
    let found = elsewhere.or_else(|| Some(same()).filter(|same| !same.is_empty())).or_else(near);
    match found {
        None => "; `bench config keys` lists all keys".into(),
        Some(paths) => format!(
            "; did you mean {}?",
            paths.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(" or ")
        ),
    }
}

/// The paths of all keys of recipes and, after `model.`, of models, but not those of registered parts.
fn known_keys() -> BTreeSet<String> {
    let (recipe, model) = (schema_for!(Recipe).to_value(), schema_for!(ModelConfig).to_value());
    let mut found = BTreeSet::new();
    collect(&recipe, &recipe, "", &mut found);
    collect(&model, &model, "model.", &mut found);
    found
}

fn collect(root: &Value, schema: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    let schema = match schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|name| root.pointer(name.strip_prefix('#')?))
    {
        Some(definition) => definition,
        None => schema,
    };
    let choices =
        ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    choices.for_each(|choice| collect(root, choice, prefix, found));
    for (key, value) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{prefix}{key}");
        if path.matches('.').count() < 4 && found.insert(path.clone()) {
            collect(root, value, &format!("{path}."), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_programs_and_near_misses_are_suggested() {
        for (typed, expected) in [
            ("lr=1", "; did you mean `optim.lr`?"),
            ("batch-size=4", "; did you mean `batch`?"),
            ("base_lr=1", "; did you mean `optim.base_lr`?"),
            ("optim.bas_lr=1", "; did you mean `optim.base_lr`?"),
            ("epoch=3", "; did you mean `epochs`?"),
            ("seed=1", "; did you mean --seed?"),
            ("model.heds=3", "; did you mean `model.heads`?"),
            ("optim.base_lr=1", ""),
            ("zzzzzzzz=1", "; `bench config keys` lists all keys"),
        ] {
            assert_eq!(suggestion(typed), expected, "{typed}");
        }
    }

    #[test]
    fn the_words_of_other_programs_lead_to_keys() {
        let known = known_keys();
        let head = |key: &&str| !key.starts_with("transfer.head.");
        for key in ELSEWHERE.iter().map(|(_, key)| *key).filter(|key| head(key)) {
            assert!(known.contains(key), "{key}");
        }
    }
}
