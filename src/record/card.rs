//! [`model_card`]: the README of the weights of a run on the Hugging Face Hub, made from records alone.

use super::render::{TableFormat, render};
use super::table::{Column, Key, Selection, TableError, TableSpec, build_table};
use super::{RunRecord, Status};

/// The model card in Markdown for the weights of `run` at `reference` (`hub:me/name`): how they were made, how to use them,
/// and the scores of those runs in `records` that start from them or, for a transfer run, its own scores.
///
/// `library` is the program that loads the weights; `license` is an identifier of the Hub, and is omitted if `None`.
///
/// # Errors
/// Records that do not fit into one table.
pub fn model_card(
    run: &RunRecord,
    records: &[RunRecord],
    reference: &str,
    (library, license): (&str, Option<&str>),
) -> Result<String, TableError> {
    let pretrained = run.task.is_none();
    let mut head = format!("---\nlibrary_name: {library}\n");
    head += &license.map(|license| format!("license: {}\n", quoted(license))).unwrap_or_default();
    head += &format!("tags:\n- vision-transformer\n- {}\n---\n", quoted(&run.recipe));
    let title = reference.rsplit('/').next().unwrap_or(reference);
    let what = match &run.task {
        Some(task) => {
            format!("`{}`, transferred to the task `{task}` by the recipe `{}`", run.model, run.recipe)
        }
        None => format!("`{}`, pre-trained on `{}` by the recipe `{}`", run.model, run.dataset, run.recipe),
    };
    let usage = match &run.task {
        Some(task) => format!("bench predict --task {task} --weights model.safetensors photos/ --out seen"),
        None => format!("bench transfer --task imagenet --init {reference}"),
    };
    let commit = run.environment.commit.as_deref().unwrap_or("unknown");
    let dirty = if run.environment.dirty { ", with uncommitted changes" } else { "" };
    let rows = [
        ("run", format!("`{}`", run.id)),
        ("command", format!("`{}`", run.command)),
        ("commit", format!("`{commit}`{dirty}")),
        ("initial weights", format!("`{}`", run.init.source)),
        ("weights", run.weights_hash.as_ref().map_or(String::new(), |hash| format!("blake3 `{hash}`"))),
        ("data set", format!("`{}`, fingerprint `{}`", run.dataset, run.dataset_fingerprint)),
        ("configuration", format!("`config.toml`, hash `{}`", run.config_hash)),
        ("overrides", format!("`{}`", run.overrides.join(" "))),
        ("seed", run.seed.to_string()),
        ("steps", format!("{} of {}", run.steps_done, run.steps_planned)),
        ("device", format!("{}, matrix products in {}", run.environment.device, run.environment.dtype)),
        ("notes", run.notes.join("; ")),
    ];
    let rows = rows.iter().filter(|(_, value)| !matches!(value.as_str(), "" | "``"));
    let rows: String =
        rows.map(|(key, value)| format!("| {key} | {} |\n", value.replace('|', "\\|"))).collect();
    let warning = match run.status {
        Status::Finished => "",
        _ => "**This run ended before all planned steps were done.**\n\n",
    };
    let scored: Vec<RunRecord> = match pretrained {
        true => records.iter().filter(|other| other.init.run.as_ref() == Some(&run.id)).cloned().collect(),
        false => vec![run.clone()],
    };
    let scores = match scored.is_empty() {
        true => "No run has been made from these weights yet.\n".to_string(),
        false => render(&build_table(&scored, &[], &scores_of(title))?, TableFormat::Markdown),
    };
    Ok(format!(
        "{head}\n# {title}\n\n{warning}{what}.\n\n```sh\n{usage}\n```\n\n## Scores\n\n{scores}\n## Record\n\n\
         | what | value |\n|:--|:--|\n{rows}\n`run.json` holds the whole record.\n"
    ))
}

fn scores_of(title: &str) -> TableSpec {
    let score = Column { title: "score".into(), score: None, selection: Selection::default(), best: false };
    TableSpec {
        title: format!("Runs from {title}: primary scores"),
        rows: vec![Key::Task, Key::Primary, Key::Model, Key::Recipe],
        filter: Selection::default(),
        columns: vec![score],
        references: vec![],
        compare: false,
        differences: vec![],
        group_overrides: false,
        decimals: 1,
        footnotes: vec![],
    }
}

/// `text` as a YAML string, quoted if necessary.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match text.chars().all(plain) {
        true => text.into(),
        false => serde_json::Value::from(text).to_string(), // JSON strings are YAML strings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::run::sample;

    #[test]
    fn a_card_holds_the_record_and_the_scores_of_what_follows() {
        let mut run = sample("pre");
        (run.task, run.stage, run.recipe) = (None, "pretrain".into(), "mae: \"new\"".into());
        run.command = "bench pretrain | tee log".into();
        let mut after = sample("after");
        after.init.run = Some("pre".into());
        let text =
            model_card(&run, &[run.clone(), after, sample("other")], "hub:me/vit", ("bench", Some("mit")))
                .unwrap();
        for part in [
            "license: mit\n",
            "- \"mae: \\\"new\\\"\"\n",
            "# vit\n",
            "--init hub:me/vit\n",
            "| command | `bench pretrain \\| tee log` |\n",
            "| tiny ",
            "50.0",
            "| seed | 0 |\n",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(!text.contains("n=2"), "{text}");
        let alone = model_card(&run, &[], "hub:me/vit", ("timm", None)).unwrap();
        assert!(alone.contains("No run has been made") && !alone.contains("license"), "{alone}");
        assert!(alone.starts_with("---\nlibrary_name: timm\n"), "{alone}");
    }

    #[test]
    fn a_transfer_shows_its_own_score_and_how_it_ended() {
        let mut run = sample("t");
        run.status = Status::Interrupted;
        let text = model_card(&run, &[], "hub:me/vit", ("timm", None)).unwrap();
        for part in
            ["ended before all planned steps", "bench predict --task tiny", "top1", "50.0", "unfinished"]
        {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }
}
