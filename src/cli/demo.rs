//! `bench demo`: the suite `demo` on the data set `shapes`, made on the spot; table and picture, all in one folder.

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
pub struct DemoArgs {
    /// Folder for data, runs, table and picture
    #[arg(long, value_name = "DIR", default_value = "bench_demo")]
    out: PathBuf,
    #[command(flatten)]
    place: PlaceFlags,
}

/// Rows of the picture.
const ROWS: usize = 8;

pub fn demo(registry: &Registry, args: DemoArgs) -> CommandResult {
    let began = Instant::now();
    let out = args.out;
    let context = args.place.context()?.with_store(RunStore::new(out.join("runs")));
    let demo = Suite::load(&context.library, "demo")?;
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make `{}`", out.display()))?;
    let data_root = out.join("data");
    data::make_shapes(&ShapesSpec::default(), &data_root.join("shapes"))?;

    let mut runs = context.run_context(registry);
    runs.bench_data = Some(data_root);
    catch_ctrl_c()?;
    let records = suite::run(&demo, &context, &runs)?;

    let shown = table::show(&context.library, &demo.table, &records)?;
    let markdown = table::markdown(&context.library, &demo.table, &records)?;
    write_atomic(&out.join("table.md"), markdown.as_bytes()).context("cannot write the table")?;
    let pretrained = records.iter().find(|record| record.stage == Stage::Pretrain.as_str());
    let pretrained = pretrained.context("the suite `demo` pre-trains")?;
    let weights = context.store.find(&pretrained.id)?.weights();
    let picture = out.join("reconstruction.png");
    let entries = reconstruct::trained_on(&runs, &weights, None, ROWS)?;
    let model = Pretrained::of(&weights, &registry.components().objectives)?
        .context("weights of our own name their model")?;
    reconstruct::write(&weights, &model, entries, &runs, &picture).map_err(Failure::Run)?;

    print(format_args!("\n{shown}"))?;
    print(format_args!("done in {}; everything is in {}:", duration(began.elapsed()), out.display()))?;
    print("  table.md             the table above")?;
    print("  reconstruction.png   what the autoencoder fills in")?;
    print("  runs/                configurations, logs, weights, records")?;
    print("  data/shapes/         the images")?;
    Ok(())
}
