//! Contradictions that no table is made from, and marks that tables show.

use super::*;
use crate::config::{ConfigError, ModelConfig, ObjectiveTable, Operation, Recipe, Run};
use crate::record::run::sample;
use crate::record::{DataCover, DataRecord, ErrorMethod, EvaluationSample, Processor};

/// An edit of a record, and what a message says of it.
type Edit<'a> = (&'a dyn Fn(&mut RunRecord), &'a str);

/// Leaves every table as it is.
struct Anyone;

impl Owners for Anyone {
    fn objective(&self, table: &ObjectiveTable, _: &Recipe) -> Result<ObjectiveTable, ConfigError> {
        Ok(table.clone())
    }

    fn model(&self, model: &ModelConfig) -> Result<ModelConfig, ConfigError> {
        Ok(model.clone())
    }

    fn operation(&self, operation: &Operation) -> Result<Operation, ConfigError> {
        Ok(operation.clone())
    }
}

const RECIPE: &str = "epochs = 10\nbatch = 8\n[optim]\nname = \"adamw\"\nbase_lr = 1e-3\nweight_decay = 0.1\n\
                      [schedule]\nname = \"cosine\"\n";

/// A library with one task, a model, and a recipe of each stage, and records that were made with it.
struct Project {
    folder: tempfile::TempDir,
    library: Library,
}

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::new(&[folder.path().to_path_buf()]).unwrap();
        let project = Self { folder, library };
        project.write(
            "configs/models/small.toml",
            "image = [8, 8]\npatch = 4\nwidth = 8\ndepth = 2\nheads = 2\n",
        );
        project.write("configs/pretrain/pre.toml", &format!("{RECIPE}[pretrain]\nobjective = \"mae\"\n"));
        project.write("configs/transfer/ft.toml", &format!("{RECIPE}[transfer]\ntune = \"all\"\n"));
        project.write("tasks/flowers/task.toml", "name = \"flowers\"\nversion = 1\nrecipe = \"ft\"\n");
        project
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The record of a run of today, from the weights of the run `before` if that is given.
    fn record(&self, stage: Stage, before: Option<&RunRecord>) -> RunRecord {
        let choice = Choice { library: &self.library, owners: &Anyone, overrides: &[] };
        let (task, recipe) = match stage {
            Stage::Pretrain => (None, "pre"),
            Stage::Transfer => (Some("flowers".to_string()), "ft"),
        };
        let init = before.map_or(SCRATCH.into(), |before| before.id.clone());
        let config = RunConfig {
            run: Run {
                stage,
                task: task.clone(),
                dataset: "tiny".into(),
                split: "train".into(),
                report: Default::default(),
                model: "small".into(),
                recipe: recipe.into(),
                init: init.clone(),
                init_hash: before.and_then(|before| before.weights_hash.clone()),
                tokenizer_hash: None,
                init_label: "label".into(),
                seed: 0,
                dtype: Default::default(),
                overrides: vec![],
                task_path: None,
                dataset_path: None,
                model_path: None,
                recipe_path: None,
                data: None,
                include: vec![],
            },
            model: choice.model("small", None).unwrap(),
            recipe: choice.recipe(stage, recipe, ("small", "")).unwrap(),
        };
        let manifest = self.library.text("tasks/flowers/task.toml").unwrap().0;
        let id = config.id().unwrap();
        let mut record = RunRecord {
            schema: RunRecord::SCHEMA,
            stage: stage.as_str().into(),
            task_version: task.as_ref().map(|_| 1),
            task_hash: task.as_ref().map(|_| task_hash(&manifest, "").unwrap()),
            task,
            model: "small".into(),
            recipe: recipe.into(),
            config_hash: config.hash().unwrap(),
            config: Some(config.to_json().unwrap()),
            weights_hash: Some(blake3::hash(id.as_bytes()).to_hex().to_string()),
            data: Some(DataRecord { hash: "d".into(), files: 1, bytes: 1, covers: DataCover::Contents }),
            ..sample(&id)
        };
        record.init.source = init;
        record.init.label = "label".into();
        record.init.hash = before.and_then(|before| before.weights_hash.clone());
        record.init.run = before.map(|before| before.id.clone());
        record.environment.sources = Some("today".into());
        record.environment.processor =
            Some(Processor { name: "p".into(), family: "f".into(), features: vec![] });
        record
    }

    /// A pre-training and a transfer from its weights.
    fn pair(&self) -> Vec<RunRecord> {
        let before = self.record(Stage::Pretrain, None);
        let after = self.record(Stage::Transfer, Some(&before));
        vec![before, after]
    }

    fn examine(&self, records: &mut [RunRecord]) -> Vec<String> {
        let today = Today { library: &self.library, owners: &Anyone, sources: Some("today") };
        today.examine(records, true).iter().map(ToString::to_string).collect()
    }
}

#[test]
fn records_of_today_have_neither_faults_nor_marks() {
    let project = Project::new();
    let mut records = project.pair();
    assert_eq!(project.examine(&mut records), Vec::<String>::new());
    assert!(records.iter().all(|record| record.marks.is_empty()), "{:?}", records[1].marks);
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    let project = Project::new();
    let edits: [Edit; 8] = [
        (&|r| r.config_hash = "00".repeat(32), "its id ends in"),
        (
            &|r| r.config.as_mut().unwrap()["recipe"]["epochs"] = 11.into(),
            "`config_hash` is not the hash of `config`",
        ),
        (&|r| r.seed = 1, "`seed` is not that of `config`"),
        (&|r| r.init.hash = Some("ff".into()), "`init.hash` is not that of `config`"),
        (&|r| r.environment.dtype = "bf16".into(), "`environment.dtype` is not that of `config`"),
        (&|r| r.weights_hash = None, "`weights_hash` is missing"),
        (&|r| r.config = None, "`config` is missing"),
        (&|r| r.environment.processor = None, "`environment.processor` is missing"),
    ];
    for (edit, expected) in edits {
        let mut records = project.pair();
        edit(&mut records[1]);
        let faults = project.examine(&mut records);
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        assert!(faults.iter().all(|fault| fault.starts_with(&format!("record `{}`", records[1].id))));
    }
}

#[test]
fn an_old_version_and_an_edited_protocol_are_refused_and_a_comment_is_not() {
    let project = Project::new();
    let mut records = project.pair();
    let mut with = |text: &str| {
        project.write("tasks/flowers/task.toml", text);
        project.examine(&mut records)
    };
    let faults = with("name = \"flowers\"\nversion = 2\nrecipe = \"ft\"\n");
    assert!(
        faults[0].contains("it has version 1 of task `flowers`") && faults[0].contains("has version 2"),
        "{faults:?}"
    );
    let faults = with("name = \"flowers\"\nversion = 1\nprimary = \"top5\"\n");
    assert!(
        faults[0].contains("changed within version 1") && faults[0].contains("raise `version`"),
        "{faults:?}"
    );
    assert!(with("# a comment\nversion = 1\nname = \"flowers\"\n").is_empty());
}

#[test]
fn an_edited_recipe_and_other_operators_are_marked_also_behind_the_weights() {
    let project = Project::new();
    let mut records = project.pair();
    let recipe = format!("{}[pretrain]\nobjective = \"mae\"\n", RECIPE.replace("epochs = 10", "epochs = 20"));
    project.write("configs/pretrain/pre.toml", &recipe);
    assert!(project.examine(&mut records).is_empty());
    assert_eq!(records[0].marks, ["recipe `pre` has changed since: epochs"]);
    assert_eq!(records[1].marks, ["pre-training: recipe `pre` has changed since: epochs"]);

    project.write("configs/pretrain/pre.toml", &format!("{RECIPE}[pretrain]\nobjective = \"mae\"\n"));
    project
        .write("configs/models/small.toml", "image = [16, 16]\npatch = 4\nwidth = 8\ndepth = 3\nheads = 2\n");
    project.examine(&mut records);
    assert_eq!(records[0].marks, ["recipe `pre` has changed since: model.depth"]);
    std::fs::remove_file(project.folder.path().join("configs/pretrain/pre.toml")).unwrap();
    project.examine(&mut records);
    assert_eq!(records[0].marks, ["recipe `pre` with its overrides is not valid any more"]);

    let mut records = Project::new().pair();
    records[0].environment.sources = Some("earlier".into());
    Project::new().examine(&mut records);
    assert_eq!(records[0].marks, ["made by 0123456789ab; the program has changed since"]);
    assert_eq!(records[1].marks, ["pre-training: made by 0123456789ab; the program has changed since"]);
}

#[test]
fn other_weights_than_those_of_the_pre_training_run_are_refused() {
    let project = Project::new();
    let mut records = project.pair();
    records[0].weights_hash = Some("another".into());
    let faults = project.examine(&mut records);
    assert!(
        faults[0].contains("its initial weights") && faults[0].contains("are not the weights of"),
        "{faults:?}"
    );
    // The path of a file may be that of another checkpoint of the run.
    let path = format!("runs/{}/epoch_5.safetensors", records[0].id);
    records[1].config.as_mut().unwrap()["run"]["init"] = path.clone().into();
    records[1].init.source = path;
    let faults = project.examine(&mut records);
    assert!(faults.iter().all(|fault| !fault.contains("its initial weights")), "{faults:?}");
    assert!(records[1].marks[0].starts_with("initial weights: not the last weights of run"));

    let mut alone = vec![project.pair().remove(1)];
    assert!(project.examine(&mut alone).is_empty());
    assert!(alone[0].marks[0].ends_with("has no record here"), "{:?}", alone[0].marks);
}

#[test]
fn errors_that_take_video_frames_as_independent_are_marked() {
    let project = Project::new();
    project.write("datasets/tiny/dataset.toml", "sequences = { separator = \"_\", fields = 1 }\n");
    let mut records = project.pair();
    assert!(project.examine(&mut records).is_empty());
    assert!(records[1].marks.iter().any(|mark| mark == FRAMES), "{:?}", records[1].marks);
    let sample = |unit| {
        let sample = EvaluationSample { method: ErrorMethod::Bootstrap, unit, units: 7 };
        Score { value: 50., stderr: Some(1.), sample: Some(sample) }
    };
    for (unit, marked) in [(SampleUnit::Image, true), (SampleUnit::Sequence, false)] {
        records[1].scores.insert_score("top1", sample(unit));
        project.examine(&mut records);
        assert_eq!(records[1].marks.iter().any(|mark| mark == FRAMES), marked, "{unit:?}");
    }
}

#[test]
fn records_of_the_old_layout_are_read_and_marked() {
    let project = Project::new();
    let old = |id: &str, hash: &str| {
        let mut record = sample(id);
        record.init.run = Some("pre-training".into());
        record.init.hash = Some(hash.into());
        record
    };
    let mut records = vec![old("a", "11111111"), old("b", "11111111"), old("c", "22222222")];
    records.iter_mut().for_each(|record| record.task = Some("unknown".into()));
    assert!(project.examine(&mut records).is_empty());
    let made = "made by 0123456789ab, before records held configurations and hashes of weights";
    assert_eq!(records[0].marks[0], made);
    assert!(
        records[2].marks.iter().any(|mark| mark.contains("22222222; other records of the same")),
        "{:?}",
        records[2]
    );
    // The text of the manifest was hashed.
    let text = project.library.text("tasks/flowers/task.toml").unwrap().0;
    let mut record = sample("d");
    record.task = Some("flowers".into());
    record.task_hash = Some(blake3::hash(text.as_bytes()).to_hex().to_string());
    assert!(project.examine(&mut [record.clone()]).is_empty());
    record.task_hash = Some("other".into());
    assert_eq!(project.examine(&mut [record.clone()]).len(), 1);
    record.id = "ft-flowers-small-scratch-s0-12345678".into();
    assert!(project.examine(&mut [record])[0].contains("its id ends in `12345678`"));
}
