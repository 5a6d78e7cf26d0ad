//! `bench demo`: generates the data set `shapes`, runs the suite `demo` on it, and writes a table and pictures.

use super::flags::{PlaceFlags, catch_ctrl_c};
use super::output::duration;
use super::pictures::{self, Picture};
use super::{CommandResult, Failure, data, print, suite, table};
use crate::data::shapes::ShapesSpec;
use crate::record::{RunStore, write_atomic};
use crate::registry::Registry;
use crate::suite::Suite;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Folder for the data, runs, table and pictures
    #[arg(long, value_name = "DIR", default_value = "bench_demo")]
    out: PathBuf,
    #[command(flatten)]
    place: PlaceFlags,
}

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
    let pictures = pictures::write(&runs, &records, &out).map_err(Failure::Run)?;

    print(format_args!("\n{shown}"))?;
    print(format_args!("done in {}; everything is in {}:", duration(began.elapsed()), out.display()))?;
    let line = |name: &str, content: &str| print(format_args!("  {name:<20} {content}"));
    line("table.md", "the table above")?;
    for Picture { file, shows } in &pictures {
        line(&file.file_name().unwrap_or_default().to_string_lossy(), shows)?;
    }
    line("runs/", "configurations, logs, weights, records")?;
    line("data/shapes/", "the images")?;
    Ok(())
}
