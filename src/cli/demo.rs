//! `bench demo`: generates the data set `shapes`, runs the suite `demo` on it, and writes a table and a picture.

use super::flags::{PlaceFlags, catch_ctrl_c};
use super::progress::duration;
use super::{CommandResult, Failure, data, print, reconstruct, suite, table};
use crate::config::Stage;
use crate::data::shapes::ShapesSpec;
use crate::engine::Pretrained;
use crate::record::{RunStore, write_atomic};
use crate::registry::Registry;
use crate::suite::Suite;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Folder for the data, runs, table and picture
    #[arg(long, value_name = "DIR", default_value = "bench_demo")]
    out: PathBuf,
    #[command(flatten)]
    place: PlaceFlags,
}

/// Number of rows of the picture.
const ROWS: usize = 8;

pub(super) fn demo(registry: &Registry, args: DemoArgs) -> CommandResult {
    let began = Instant::now();
    let out = args.out;
    let context = args.place.context()?.with_store(RunStore::new(out.join("runs")));
    let demo = Suite::load(&context.library, "demo")?;
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
    let data_root = out.join("data");
    data::make_shapes(&ShapesSpec::default(), &data_root.join("shapes"))?;

    let mut runs = context.run_context(registry);
    runs.bench_data = Some(data_root);
    catch_ctrl_c()?;
    let records = suite::run(&demo, &context, &runs)?;

    let (shown, markdown) = table::of_suite(registry, &context.library, &demo.table, &records)?;
    write_atomic(&out.join("table.md"), markdown.as_bytes()).context("cannot write the table")?;
    let pretrained = records.iter().find(|record| record.stage == Stage::Pretrain.as_str());
    let pretrained = pretrained.context("the suite `demo` has no pre-training run")?;
    let weights = context.store.find(&pretrained.id)?.weights();
    let picture = out.join("reconstruction.png");
    let entries = reconstruct::trained_on(&runs, &weights, None, ROWS)?;
    let model = Pretrained::of(&weights, &registry.components().objectives)?
        .context("the weights do not name their model")?;
    reconstruct::write(&weights, &model, entries, &runs, &picture).map_err(Failure::Run)?;

    print(format_args!("\n{shown}"))?;
    print(format_args!("done in {}; everything is in {}:", duration(began.elapsed()), out.display()))?;
    print("  table.md             the table above")?;
    print("  reconstruction.png   reconstructions of masked images")?;
    print("  runs/                configurations, logs, weights, records")?;
    print("  data/shapes/         the images")?;
    Ok(())
}
