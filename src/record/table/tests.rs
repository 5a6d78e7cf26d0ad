//! Which runs share a cell, which never do, and what a reader is told.

use super::*;
use crate::config::{Library, ReconstructionTarget};
use crate::record::run::sample;
use crate::record::{InitRecord, InitTraining, Status};

const SPEC: &str = r#"
    title = "t"
    rows = ["init"]
    [[column]]
    title = "ft"
    score = "top1"
    where = { recipe = ["finetune"] }
"#;

fn spec(text: &str) -> TableSpec {
    TableSpec::parse(text, "spec").unwrap()
}

fn run(id: &str, seed: u64, top1: f64) -> RunRecord {
    let mut run = RunRecord { seed, ..sample(id) };
    run.scores.insert("top1", top1, Some(0.5));
    run
}

fn init(label: &str, hash: &str) -> InitRecord {
    InitRecord {
        source: "x".into(),
        label: label.into(),
        hash: Some(hash.into()),
        run: None,
        seed: None,
        target: None,
        trained: None,
    }
}

/// Each row as `keys: mean ± spread (n) eval error [notes]` of its first cell.
fn rows(table: &Table) -> Vec<String> {
    let cell = |row: &Row| {
        let cell = &row.cells[0];
        let value = cell.value.as_ref().map_or("–".into(), |v| {
            let spread = v.spread.map_or(String::new(), |s| format!(" ± {s:.2}"));
            let evaluation =
                v.evaluation.filter(|_| row.difference).map_or(String::new(), |e| format!(" eval {e:.2}"));
            format!("{:.2}{spread} ({}){evaluation}", v.mean, v.n)
        });
        let notes: Vec<_> = cell.marks.iter().map(|i| table.footnotes[i - 1].as_str()).collect();
        format!("{value} [{}]", notes.join("; "))
    };
    table.rows.iter().map(|row| format!("{}: {}", row.keys.join(" "), cell(row))).collect()
}

/// The remark about [`Estimate::evaluation`].
const EVAL: &str =
    "eval: standard error of a single run or of a difference due to the size of the evaluation split";

#[test]
fn the_error_of_a_single_run_is_shown() {
    let one = build_table(&[run("a", 0, 50.)], &[], &spec(SPEC)).unwrap();
    assert_eq!(one.rows[0].cells[0].value.as_ref().unwrap().evaluation, Some(0.5));
    assert_eq!(one.remarks, [EVAL]);
    let two = build_table(&[run("a", 0, 50.), run("b", 1, 52.)], &[], &spec(SPEC)).unwrap();
    assert_eq!(two.rows[0].cells[0].value.as_ref().unwrap().evaluation, None);
}

#[test]
fn seeds_are_averaged_and_counted() {
    let records = [run("a", 0, 50.), run("b", 1, 52.), run("c", 2, 54.)];
    let table = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&table), ["scratch: 52.00 ± 2.00 (3) []"]);
    assert_eq!(table.remarks, ["(n=…): mean over n runs; ± is their standard deviation"]);
}

#[test]
fn one_seed_counts_once_and_a_committed_copy_of_a_record_too() {
    let mut dirty = run("c", 0, 60.);
    dirty.environment.dirty = true;
    let records = [run("a", 0, 50.), run("b", 0, 51.), run("b", 0, 51.), dirty];
    let result = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&result), ["scratch: 51.00 (1) [left out: 2 other runs of the same seed and weights]"]);
    let error = build_table(&[run("a", 0, 1.), run("a", 0, 2.)], &[], &spec(SPEC)).unwrap_err();
    assert!(matches!(error, TableError::Duplicate { id } if id == "a"));
}

#[test]
fn a_column_may_show_the_best_of_several_overrides() {
    let with = |id: &str, seed, top1, epochs: &str| RunRecord {
        overrides: vec![format!("epochs={epochs}")],
        ..run(id, seed, top1)
    };
    let records = [
        with("a", 0, 50., "50"),
        with("b", 0, 53., "100"),
        with("c", 1, 55., "100"),
        with("d", 0, 52., "200"),
    ];
    let spec = spec(&format!("group_overrides = true\n{SPEC}\nbest = true"));
    let table = build_table(&records, &[], &spec).unwrap();
    assert_eq!(rows(&table), ["scratch: 54.00 ± 1.41 (2) [best of 3: epochs=100]"]);
    let error = TableSpec::parse(&format!("{SPEC}\nbest = true"), "spec").unwrap_err().to_string();
    assert!(error.contains("group_overrides"), "{error}");
}

#[test]
fn weights_of_one_pretraining_seed_count_as_one_pretraining() {
    let mut records = [run("a", 0, 50.), run("b", 0, 52.)];
    records[0].init = init("mae", "1");
    records[1].init = init("mae", "2");
    let table = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&table), ["mae: 51.00 ± 1.41 (2) []"], "of unknown seeds");
    records[0].init.seed = Some(7);
    records[1].init.seed = Some(7);
    let table = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&table), ["mae: 51.00 (2) [2 different initial weights from 1 pre-training seed]"]);
    records[1].init.seed = Some(8);
    let table = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&table), ["mae: 51.00 ± 1.41 (2) []"]);
}

#[test]
fn weights_that_were_trained_otherwise_are_rows_of_their_own() {
    let trained = |overrides: &[&str], steps_done| InitTraining {
        recipe: "mae_small".into(),
        dataset: "shapes".into(),
        overrides: overrides.iter().map(ToString::to_string).collect(),
        steps_done,
        steps_planned: 1200,
    };
    let mut records = [run("a", 0, 50.), run("b", 1, 52.), run("c", 0, 40.), run("d", 2, 30.)];
    for (record, trained) in records.iter_mut().zip([
        Some(trained(&[], 1200)),
        Some(trained(&[], 1200)),
        Some(trained(&["epochs=9"], 10)),
        None, // of an older record
    ]) {
        record.init = InitRecord { trained, ..init("mae", "1") };
    }
    assert_eq!(
        rows(&build_table(&records, &[], &spec(SPEC)).unwrap()),
        [
            "mae : 30.00 (1) []",
            "mae from mae_small on shapes: 51.00 (2) []",
            "mae from mae_small on shapes epochs=9, 10 of 1200 steps: 40.00 (1) []",
        ]
    );
    let [one, two, ..] = records;
    let alike = build_table(&[one, two], &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&alike), ["mae: 51.00 (2) []"]);
}

#[test]
fn a_run_that_did_not_finish_counts_only_where_none_did() {
    let mut short = run("a", 0, 10.);
    (short.status, short.steps_done) = (Status::Interrupted, 4);
    let alone = build_table(std::slice::from_ref(&short), &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&alone), ["scratch: 10.00 (1) [unfinished: 4 of 10 steps]"]);
    let beside = build_table(&[short.clone(), run("b", 1, 50.)], &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&beside), ["scratch: 50.00 (1) [left out: 1 run that did not finish]"]);
    short.status = Status::Failed;
    short.scores = Default::default();
    let failed = build_table(&[short], &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&failed), ["scratch: – [failed after 4 of 10 steps]"]);
}

#[test]
fn what_a_reader_must_know_is_a_footnote() {
    let mut run = run("a", 0, 50.);
    run.environment.dirty = true;
    run.skipped = 2;
    run.notes = vec!["reduced scale".into()];
    let result = build_table(&[run.clone()], &[], &spec(SPEC)).unwrap();
    let expected = "built from a tree with uncommitted changes; skipped: 2 unreadable images; reduced scale";
    assert_eq!(rows(&result), [format!("scratch: 50.00 (1) [{expected}]")]);
    run.notes = vec![];
    (run.environment.dirty, run.skipped) = (false, 0);
    run.environment.dtype = "f32".into();
    let other = spec(&SPEC.replace("\"top1\"", "\"top11\""));
    assert_eq!(
        rows(&build_table(&[run], &[], &other).unwrap()),
        ["scratch: – [no score `top11`; there is: top1]"]
    );
}

#[test]
fn versions_of_a_task_never_mix() {
    let mut records = [run("a", 0, 50.), run("b", 1, 60.), run("c", 2, 70.)];
    records[2].task_version = Some(2);
    let table = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&table), ["scratch: 70.00 (1) []"]);
    assert_eq!(table.remarks, ["task `tiny`: version 2 only; 2 runs of version 1 left out", EVAL]);
}

#[test]
fn runs_on_different_data_are_different_rows() {
    let mut records = [run("a", 0, 50.), run("b", 1, 60.)];
    records[1].dataset_fingerprint = "f2f2".into();
    records[1].task_hash = Some("bb".into());
    let table = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&table), ["scratch data f1f1: 50.00 (1) []", "scratch data f2f2: 60.00 (1) []"]);
    assert_eq!(
        table.remarks,
        [
            "`tiny` was measured on different data (f1f1, f2f2): those rows do not compare",
            "the manifest of `tiny` changed within its version (aa, bb)",
            EVAL
        ]
    );
}

#[test]
fn overrides_make_rows_unless_grouped() {
    let mut records = [run("a", 0, 50.), run("b", 1, 60.)];
    records[1].overrides = vec!["epochs=3".into()];
    let apart = build_table(&records, &[], &spec(SPEC)).unwrap();
    assert_eq!(rows(&apart), ["scratch : 50.00 (1) []", "scratch epochs=3: 60.00 (1) []"]);
    assert_eq!(apart.keys, ["init", "variant"]);
    let grouped = spec(&format!("group_overrides = true\n{SPEC}"));
    assert_eq!(rows(&build_table(&records, &[], &grouped).unwrap()), ["scratch: 55.00 ± 7.07 (2) []"]);
}

#[test]
fn what_would_mix_in_a_cell_is_an_error_that_says_how_to_part_it() {
    let mut records = [run("a", 0, 50.), run("b", 1, 60.)];
    records[1].model = "vit_l16".into();
    let error = build_table(&records, &[], &spec(SPEC)).unwrap_err().to_string();
    for part in ["column `ft`", "`a` and `b`", "differ in model (`vit_b16`, `vit_l16`)", "add `model`"] {
        assert!(error.contains(part), "{error}");
    }
    let apart = spec(&SPEC.replace("[\"init\"]", "[\"init\", \"model\"]"));
    assert_eq!(build_table(&records, &[], &apart).unwrap().rows.len(), 2);
}

#[test]
fn the_filter_chooses_and_orders() {
    let mut records = [run("a", 0, 50.), run("b", 0, 60.), run("c", 0, 70.), run("d", 0, 80.)];
    for (record, label) in records.iter_mut().zip(["beit", "mae", "scratch", "mae"]) {
        record.init.label = label.into();
    }
    records[3].stage = "pretrain".into();
    let ordered = spec(&format!("filter = {{ init = [\"scratch\", \"mae\"] }}\n{SPEC}"));
    assert_eq!(
        rows(&build_table(&records, &[], &ordered).unwrap()),
        ["scratch: 70.00 (1) []", "mae: 60.00 (1) []"]
    );
    let seeds = spec(&SPEC.replace("[\"init\"]", "[\"seed\"]"));
    let records = [run("a", 10, 1.), run("b", 9, 2.)];
    assert_eq!(rows(&build_table(&records, &[], &seeds).unwrap()), ["9: 2.00 (1) []", "10: 1.00 (1) []"]);
}

fn reference(init: &str, recipe: &str, value: f64) -> Reference {
    Reference {
        id: "t3".into(),
        task: "tiny".into(),
        origin: Origin::Published,
        source: "He".into(),
        place: "Table 3".into(),
        model: "vit_b16".into(),
        recipe: recipe.into(),
        init: init.into(),
        variant: String::new(),
        score: "top1".into(),
        value,
        spread: None,
        seeds: None,
        target: None,
        note: None,
    }
}

#[test]
fn published_numbers_stand_in_rows_of_their_own() {
    let spec = spec(&format!("references = [\"t3\"]\n{SPEC}"));
    let references = [
        reference("mae", "finetune", 83.6),
        reference("mae", "linear", 68.),
        reference("scratch", "finetune", 82.3),
    ];
    let result = build_table(&[run("a", 0, 80.)], &references, &spec).unwrap();
    assert_eq!(
        rows(&result),
        ["mae published: 83.60 (1) []", "scratch ours: 80.00 (1) []", "scratch published: 82.30 (1) []"]
    );
    assert_eq!(
        (result.rows[0].marks.as_slice(), result.footnotes.as_slice()),
        (&[1][..], &["He, Table 3".into()][..])
    );
    let twice = [references[0].clone(), references[0].clone()];
    assert!(matches!(build_table(&[], &twice, &spec), Err(TableError::Clash { .. })));
    let error = build_table(&[], &[], &spec).unwrap_err().to_string();
    assert!(error.starts_with("published table `t3` is unknown"), "{error}");
}

/// The notes of the comparison below the published number 83.6 of `init = "mae"`.
fn verdict(runs: &[RunRecord], change: impl Fn(&mut Reference)) -> String {
    let spec = spec(&format!("references = [\"t3\"]\ncompare = true\n{SPEC}"));
    let mut published = reference("mae", "finetune", 83.6);
    change(&mut published);
    let result = build_table(runs, &[published], &spec).unwrap();
    let shown = rows(&result);
    assert!(result.rows.len() == 3 && result.rows[2].difference, "{shown:?}");
    assert_eq!(result.rows[2].keys.last().unwrap(), "ours − published");
    shown[2].split_once(": ").unwrap().1.to_string()
}

#[test]
fn ours_is_compared_with_the_band_of_the_published_number() {
    let ours = |id: &str, seed: u64, top1: f64, target: Option<ReconstructionTarget>| RunRecord {
        init: InitRecord { target, ..init("mae", "1") },
        ..run(id, seed, top1)
    };
    let near = [ours("a", 0, 83.5, None)];
    let spread = |reference: &mut Reference| (reference.spread, reference.seeds) = (Some(0.08), Some(4));
    assert_eq!(
        verdict(&near, spread),
        "-0.10 (1) [inside the band 83.60 ± 0.18, 2 standard errors of the difference; ours is taken to vary over seeds as the \
         other number does]"
    );
    let far = verdict(&[ours("a", 0, 83.4, None)], spread);
    assert!(far.starts_with("-0.20 (1) [outside the band 83.60 ± 0.18"), "{far}");
    // Two pre-trainings of ours: 0.14/√2. The other number has no spread.
    let mut seeds = [ours("a", 0, 83.4, None), ours("b", 1, 83.6, None)];
    assert_eq!(
        verdict(&seeds, |_| ()),
        "-0.10 (2) [no band: neither number has a spread over seeds]",
        "two transfers of one pre-training"
    );
    seeds[1].init.hash = Some("2".into());
    assert_eq!(
        verdict(&seeds, |_| ()),
        "-0.10 (2) [inside the band 83.60 ± 0.20, 2 standard errors of the difference; the other number is taken as exact]"
    );
    // √(0.14²/2 + 0.08²/4) = 0.108
    let both = verdict(&seeds, spread);
    assert_eq!(both, "-0.10 (2) [inside the band 83.60 ± 0.22, 2 standard errors of the difference]");
    assert_eq!(verdict(&near, |_| ()), "-0.10 (1) [no band: neither number has a spread over seeds]");
    // Another variant is no reproduction, near or far.
    let pixels = [ours("a", 0, 83.5, Some(ReconstructionTarget::Pixel))];
    let normalised = |reference: &mut Reference| {
        spread(reference);
        reference.target = Some(ReconstructionTarget::NormPixel);
    };
    let marked = verdict(&pixels, normalised);
    assert!(
        marked.contains("another variant")
            && marked.contains("predict pixels")
            && marked.contains("normalised pixels"),
        "{marked}"
    );
    assert!(
        verdict(&[ours("a", 0, 83.5, Some(ReconstructionTarget::NormPixel))], normalised).contains("inside")
    );
    // A row that names no more than its target is compared with ours of that target.
    let named = |reference: &mut Reference| {
        spread(reference);
        (reference.target, reference.variant) = (Some(ReconstructionTarget::Pixel), "target pixel".into());
    };
    assert!(verdict(&pixels, named).contains("inside"));
}

#[test]
fn nothing_is_compared_where_keys_or_variants_differ() {
    let spec = spec(&format!("references = [\"t3\"]\ncompare = true\n{SPEC}"));
    let mut published = reference("scratch", "finetune", 50.);
    published.variant = "448 px".into();
    let result =
        build_table(&[run("a", 0, 50.)], &[published, reference("mae", "finetune", 50.)], &spec).unwrap();
    assert!(result.rows.len() == 3 && result.rows.iter().all(|row| !row.difference), "{:?}", rows(&result));
}

#[test]
fn a_difference_stands_below_its_rows_and_only_where_both_exist() {
    let text = SPEC.replace("[\"init\"]", "[\"model\", \"init\"]");
    let spec = spec(&format!(
        "{text}\n[[difference]]\nkey = \"init\"\nof = \"mae\"\nminus = \"scratch\"\ntitle = \"gain\""
    ));
    let mut records = [run("a", 0, 50.), run("b", 0, 40.), run("c", 0, 70.)];
    records[0].init = init("mae", "1");
    records[2].init = init("mae", "1");
    records[2].model = "vit_l16".into();
    let result = build_table(&records, &[], &spec).unwrap();
    // √(0.5² + 0.5²) = 0.71
    assert_eq!(
        rows(&result),
        [
            "vit_b16 mae: 50.00 (1) []",
            "vit_b16 scratch: 40.00 (1) []",
            "vit_b16 gain: 10.00 (1) eval 0.71 [one pre-training]",
            "vit_l16 mae: 70.00 (1) []"
        ]
    );
    assert!(result.rows[2].difference && result.remarks[1].starts_with("eval: standard error"));
}

#[test]
fn differences_are_paired_and_say_what_stands_behind_them() {
    let text = format!(
        "{SPEC}[[difference]]\nkey = \"init\"\nof = \"mae\"\nminus = \"scratch\"\ntitle = \"gain\"\n"
    );
    let spec = spec(&format!("filter = {{ init = [\"scratch\", \"mae\"] }}\n{text}"));
    let mut records = vec![];
    for (seed, scratch) in [(0, 40.), (1, 42.)] {
        records.push(run(&format!("scratch{seed}"), seed, scratch));
        for pretraining in [3, 4] {
            let top1 = 45. + pretraining as f64 + seed as f64;
            let mut mae = run(&format!("mae{pretraining}{seed}"), seed, top1);
            mae.init = InitRecord { seed: Some(pretraining), ..init("mae", &pretraining.to_string()) };
            records.push(mae);
        }
    }
    let table = build_table(&records, &[], &spec).unwrap();
    let shown = rows(&table);
    assert_eq!(shown[0], "scratch: 41.00 ± 1.41 (2) []");
    assert_eq!(shown[1], "mae: 49.00 ± 0.71 (4) []");
    // Differences 8, 7 (pre-training 3) and 9, 8 (4): variances by pre-training 0.25, by seed 0.25, by pair 2/3/4.
    let error = (0.25_f64 + 0.25 - 2. / 3. / 4.).sqrt();
    assert_eq!(shown[2], format!("gain: 8.00 ± {error:.2} (4) eval 0.71 []"));
    records[0].marks = vec![crate::record::today::FRAMES.into()];
    let table = build_table(&records, &[], &spec).unwrap();
    assert_eq!(rows(&table)[2], format!("gain: 8.00 ± {error:.2} (4) [no evaluation error in its records]"));
}

#[test]
fn a_wrong_specification_is_refused() {
    for (from, to, expected) in [
        ("[\"init\"]", "[]", "at least one entry"),
        ("[\"init\"]", "[\"init\", \"init\"]", "names a key twice"),
        ("[\"init\"]", "[\"inti\"]", "inti"),
        ("title = \"t\"", "titel = \"t\"", "titel"),
        ("where = { recipe", "where = { recipee", "recipee"),
        ("score = \"top1\"", "", "needs a `score`"),
    ] {
        let text = format!("references = [\"t3\"]\n{SPEC}").replacen(from, to, 1);
        let error = TableSpec::parse(&text, "x.toml").unwrap_err().to_string();
        assert!(error.starts_with("x.toml: ") && error.contains(expected), "{error}");
    }
    let text = format!("{SPEC}\n[[difference]]\nkey = \"model\"\nof = \"a\"\nminus = \"b\"\ntitle = \"d\"");
    let error = TableSpec::parse(&text, "x.toml").unwrap_err().to_string();
    assert!(error.contains("key `model` is not in rows; rows: init"), "{error}");
}

#[test]
fn every_built_in_table_works_without_runs() {
    let library = Library::default();
    let references = Reference::all(&library).unwrap();
    let names = library.list("configs/tables");
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        let spec = TableSpec::load(&library, name).unwrap();
        let table = build_table(&[], &references, &spec).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(table.rows.is_empty(), spec.references.is_empty(), "{name}");
    }
    let imagenet = build_table(&[], &references, &TableSpec::load(&library, "imagenet").unwrap()).unwrap();
    let row = imagenet.rows.iter().find(|r| r.keys == ["vit_l16", "mae − scratch", "", "published"]).unwrap();
    let gain = row.cells[0].value.as_ref().unwrap();
    assert!((gain.mean - 3.3).abs() < 1e-9, "85.9 − 82.6, from one table");
    let error = TableSpec::load(&library, "imagnet").unwrap_err().to_string();
    assert!(error.contains("did you mean `imagenet`"), "{error}");
}

#[test]
fn a_mark_stands_beside_the_number_and_below_the_table_if_all_numbers_have_it() {
    let marked = |id: &str, label: &str, marks: &[&str]| {
        let mut record = run(id, 0, 50.);
        record.init.label = label.into();
        record.marks = marks.iter().map(|mark| mark.to_string()).collect();
        record
    };
    let records = [marked("a", "mae", &["old", "changed"]), marked("b", "scratch", &["old"])];
    let difference = "[[difference]]\nkey = \"init\"\nof = \"mae\"\nminus = \"scratch\"\ntitle = \"gain\"\n";
    let table = build_table(&records, &[], &spec(&format!("{SPEC}{difference}"))).unwrap();
    assert_eq!(rows(&table)[0], "mae: 50.00 (1) [changed]");
    assert_eq!(rows(&table)[1], "scratch: 50.00 (1) []");
    assert!(
        rows(&table)[2].ends_with("[one seed]"),
        "the marks stand beside the two numbers: {:?}",
        rows(&table)
    );
    assert_eq!(table.remarks[0], "old");
}
