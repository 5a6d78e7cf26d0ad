//! The pictures of a suite: reconstructions of the first pre-training, and for each task of detection and segmentation images
//! beside their annotation and the predictions from each kind of initial weights.

use super::reconstruct;
use crate::config::Stage;
use crate::data::Entry;
use crate::draw::{Canvas, Drawing, Figure};
use crate::engine::{IndexedSplits, Pretrained};
use crate::record::{RunRecord, write_atomic};
use crate::runs::{RunContext, TrainedModel, trained};
use crate::task::DrawOptions;
use anyhow::{Context, Error, Result, ensure};
use image::{ImageFormat, RgbImage};
use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Number of images of a picture of predictions, and of one of reconstructions.
const ROWS: usize = 4;
const RECONSTRUCTIONS: usize = 6;
/// Scores below which predictions are not drawn: the first one that leaves something to see in half of the pictures. Models
/// that were trained for minutes are rarely sure, and give all classes much the same score: a lower one would hide the image.
const THRESHOLDS: [f32; 10] = [0.5, 0.3, 0.2, 0.15, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05];
/// The kinds of task that are drawn, and the names of their pictures.
const DRAWN: [(&str, &str); 2] = [("detection", "detections"), ("segmentation", "segmentation")];

/// A picture that has been written.
pub(super) struct Picture {
    pub file: PathBuf,
    /// What it shows.
    pub shows: String,
}

/// The runs of one task that a picture compares.
#[derive(Debug, PartialEq)]
struct Compared<'a> {
    task: &'a str,
    /// The first run from each kind of initial weights.
    runs: Vec<&'a RunRecord>,
}

/// The transfers of each task, in the order of `records`: of several with the same kind of initial weights, the first.
fn compared(records: &[RunRecord]) -> Vec<Compared<'_>> {
    let mut tasks: Vec<Compared> = vec![];
    for record in records.iter().filter(|record| record.stage == Stage::Transfer.as_str()) {
        let Some(task) = record.task.as_deref() else { continue };
        let place = tasks.iter().position(|compared| compared.task == task).unwrap_or_else(|| {
            tasks.push(Compared { task, runs: vec![] });
            tasks.len() - 1
        });
        let runs = &mut tasks[place].runs;
        if !runs.iter().any(|run| run.init.label == record.init.label) {
            runs.push(record);
        }
    }
    tasks
}

/// The heading of the predictions of `run`, one of `runs`: with its recipe where the others have another one.
fn heading(run: &RunRecord, runs: &[&RunRecord]) -> String {
    let recipes_differ = runs.iter().any(|other| other.recipe != run.recipe);
    let recipe = if recipes_differ { format!("\n{}", run.recipe) } else { String::new() };
    format!("prediction, from {}{recipe}", run.init.label)
}

/// Draws what can be drawn of the runs of `records`, and writes the pictures to `folder`, which exists.
///
/// # Errors
/// Weights, images or annotations that cannot be read, and a picture that cannot be written.
pub(super) fn write(runs: &RunContext, records: &[RunRecord], folder: &Path) -> Result<Vec<Picture>> {
    let mut written: Vec<Picture> = vec![];
    if let Some(first) = records.iter().find(|record| record.stage == Stage::Pretrain.as_str()) {
        written.extend(reconstructions(runs, first, folder)?);
    }
    for compared in compared(records) {
        let kind = runs.manifest(compared.task)?.kind;
        let Some((_, name)) = DRAWN.iter().find(|(drawn, _)| *drawn == kind) else { continue };
        let mut file = folder.join(format!("{name}.png"));
        if written.iter().any(|picture| picture.file == file) {
            file = folder.join(format!("{name}_{}.png", compared.task));
        }
        let figure =
            figure(runs, &compared).with_context(|| format!("the picture of `{}`", compared.task))?;
        save(&figure.draw(), &file)?;
        let shows = format!("{name} of {} beside the annotation", compared.task);
        written.push(Picture { file, shows });
    }
    Ok(written)
}

/// The reconstructions of a pre-training run; `None` if its objective draws nothing.
fn reconstructions(runs: &RunContext, record: &RunRecord, folder: &Path) -> Result<Option<Picture>> {
    let weights = runs.store.find(&record.id)?.weights();
    let Some(model) = Pretrained::of(&weights, &runs.registry.components().objectives)? else {
        return Ok(None);
    };
    let entries = reconstruct::trained_on(runs, &weights, None, RECONSTRUCTIONS)?;
    let file = folder.join("reconstruction.png");
    let shows = reconstruct::write(&weights, &model, entries, runs, &file)?;
    Ok(shows.map(|shows| Picture { file, shows: shows.into() }))
}

fn figure(runs: &RunContext, compared: &Compared) -> Result<Figure> {
    let models = compared.runs.iter().map(|record| trained(runs, &record.id, None, None));
    let models: Vec<TrainedModel> = models.collect::<Result<_>>()?;
    let first = models.first().context("there are no runs")?;
    let split = first.manifest.split(first.config.run.report)?;
    let dataset = runs.dataset(&first.manifest.dataset)?;
    let root = dataset.root(first.config.run.data.as_deref(), runs.bench_data.as_deref())?;
    let entries = Arc::new(sample(dataset.index(&root, split)?.entries, ROWS));
    let mut figure = Figure {
        columns: vec!["image".into()],
        rows: entries.iter().map(|entry| Ok(vec![plain(entry)?])).collect::<Result<_>>()?,
        names: entries.iter().map(|entry| entry.id.as_str().to_string()).collect(),
        ..Figure::default()
    };
    add_column(&mut figure, "annotation".into(), first.task.draw_annotations(&entries)?)?;
    let draw = |threshold: f32| -> Result<Vec<Vec<Drawing>>> {
        let how = DrawOptions { threshold, truth: false };
        let splits = IndexedSplits::default();
        let one = |model: &TrainedModel| {
            let inputs = runs.inputs(&model.config, &splits, &model.manifest.eval);
            model.task.draw(&inputs, &model.weights, &entries, &how)
        };
        models.iter().map(one).collect()
    };
    let drawn = first_with_content(&draw)?;
    if let Some(drawing) = drawn.iter().flatten().next() {
        figure.title = format!("{}, split {split}: {}", compared.task, drawing.title);
    }
    for (record, drawings) in compared.runs.iter().zip(drawn) {
        add_column(&mut figure, heading(record, &compared.runs), drawings)?;
    }
    Ok(figure)
}

/// The drawings with the first threshold for which at least half of them show something, or with the last one.
fn first_with_content(draw: &dyn Fn(f32) -> Result<Vec<Vec<Drawing>>>) -> Result<Vec<Vec<Drawing>>> {
    let mut drawn = vec![];
    for threshold in THRESHOLDS {
        drawn = draw(threshold)?;
        let all: Vec<&Drawing> = drawn.iter().flatten().collect();
        let empty = all.iter().filter(|drawing| drawing.legend.is_empty()).count();
        if 2 * empty <= all.len() {
            break;
        }
    }
    Ok(drawn)
}

/// `count` entries, or all if there are fewer, in their order. They are spread by steps of the golden ratio and not evenly,
/// because a data set may repeat its classes at regular distances.
fn sample(entries: Vec<Entry>, count: usize) -> Vec<Entry> {
    if entries.len() <= count {
        return entries;
    }
    let total = entries.len() as f64;
    let place = |k: usize| ((k as f64 * 0.618_033_988_749_895).fract() * total) as usize;
    let mut chosen = BTreeSet::new();
    let mut step = 1;
    while chosen.len() < count {
        chosen.insert(place(step));
        step += 1;
    }
    let numbered = entries.into_iter().enumerate();
    numbered.filter(|(place, _)| chosen.contains(place)).map(|(_, entry)| entry).collect()
}

/// The image of an entry, enlarged as drawings are.
fn plain(entry: &Entry) -> Result<RgbImage> {
    let drawn = entry.image.decode(3).and_then(|image| Canvas::new(&image));
    Ok(drawn.map_err(Error::msg)?.into_image())
}

fn add_column(figure: &mut Figure, heading: String, drawings: Vec<Drawing>) -> Result<()> {
    let (found, rows) = (drawings.len(), figure.rows.len());
    ensure!(found == rows, "{found} drawings for {rows} images");
    figure.columns.push(heading);
    drawings.iter().for_each(|drawing| figure.add_legend(&drawing.legend));
    for (row, drawing) in figure.rows.iter_mut().zip(drawings) {
        row.push(drawing.picture);
    }
    Ok(())
}

fn save(picture: &RgbImage, file: &Path) -> Result<()> {
    let mut png = Cursor::new(vec![]);
    picture.write_to(&mut png, ImageFormat::Png)?;
    write_atomic(file, png.get_ref()).with_context(|| format!("cannot write `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Annotation, ImageRef, SampleId};
    use crate::draw::LegendEntry;

    fn record(id: &str, task: Option<&str>, recipe: &str, init: &str) -> RunRecord {
        let stage = if task.is_some() { "transfer" } else { "pretrain" };
        serde_json::from_value(serde_json::json!({
            "schema": 2, "id": id, "stage": stage, "command": "bench", "task": task, "dataset": "d",
            "dataset_fingerprint": "f", "model": "m", "recipe": recipe, "config_hash": "c", "seed": 0,
            "init": { "source": init, "label": init },
            "environment": { "version": "0", "dirty": false, "device": "cpu", "dtype": "f32", "world_size": 1, "threads": 1 },
            "throughput": { "wall_seconds": 1.0, "images_per_second": 1.0 },
            "steps_planned": 1, "steps_done": 1, "status": "finished"
        }))
        .unwrap()
    }

    #[test]
    fn the_first_run_from_each_kind_of_weights_is_drawn() {
        let records = [
            record("p", None, "mae_demo", "scratch"),
            record("a", Some("boxes"), "r", "scratch"),
            record("b", Some("boxes"), "r", "scratch"),
            record("c", Some("regions"), "r", "mae"),
            record("d", Some("boxes"), "r", "mae"),
            record("e", Some("boxes"), "other", "mae"),
        ];
        let found: Vec<(&str, Vec<&str>)> = compared(&records)
            .iter()
            .map(|compared| (compared.task, compared.runs.iter().map(|run| run.id.as_str()).collect()))
            .collect();
        assert_eq!(found, [("boxes", vec!["a", "d"]), ("regions", vec!["c"])]);
        assert_eq!(compared(&records[..1]), [], "pre-training is no task");
    }

    #[test]
    fn headings_name_what_differs() {
        let (a, b) = (record("a", Some("t"), "r", "scratch"), record("b", Some("t"), "other", "mae"));
        assert_eq!(heading(&a, &[&a, &a]), "prediction, from scratch");
        assert_eq!(heading(&b, &[&a, &b]), "prediction, from mae\nother");
    }

    #[test]
    fn entries_are_spread_but_not_evenly() {
        let entry = |k: usize| Entry {
            id: SampleId::new(k.to_string()),
            image: ImageRef::File("x.png".into()),
            annotation: Annotation::None,
        };
        let places = |n: usize| -> Vec<usize> {
            let chosen = sample((0..n).map(entry).collect(), 4);
            chosen.iter().map(|entry| entry.id.as_str().parse().unwrap()).collect()
        };
        assert_eq!(places(1020), [240, 481, 630, 871]);
        assert_eq!((places(5).len(), places(3), places(0)), (4, vec![0, 1, 2], vec![]));
    }

    #[test]
    fn the_threshold_is_lowered_until_half_of_the_pictures_show_something() {
        let drawing = |shows: bool, threshold: f32| {
            let entry = LegendEntry { color: None, name: "cat".into(), remark: String::new() };
            let legend = if shows { vec![entry] } else { vec![] };
            Drawing { title: threshold.to_string(), legend, ..RgbImage::new(1, 1).into() }
        };
        let used = |best: [f32; 4]| {
            let draw = |threshold: f32| {
                Ok(best
                    .chunks(2)
                    .map(|two| two.iter().map(|best| drawing(*best >= threshold, threshold)).collect())
                    .collect())
            };
            first_with_content(&draw).unwrap()[0][0].title.clone()
        };
        assert_eq!(used([0.6, 0.1, 0.1, 0.7]), "0.5");
        assert_eq!(used([0.6, 0.1, 0.25, 0.25]), "0.2");
        assert_eq!(used([0.; 4]), "0.05");
    }
}
