//! Whole runs on a device: the losses of their first steps against the CPU, whether pre-training learns, and whether a
//! stopped run goes on as if it had not been stopped.

use super::{Check, relative_error};
use crate::config::{Dtype, Library, Stage};
use crate::data::shapes::{self, ShapesSpec};
use crate::engine::{Control, Event, Observer};
use crate::launch::{Request, Site, Start, prepare};
use crate::record::Store;
use crate::registry::Registry;
use anyhow::{Result, bail};
use candle_core::Device;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps that are compared with the CPU.
const COMPARED: usize = 2;
/// What the loss must fall to, as a share of where it began, within 200 steps.
const FALLS_TO: f64 = 0.8;

/// What all runs share.
struct Bench<'a> {
    registry: &'a Registry,
    library: &'a Library,
    folder: &'a Path,
    store: Store,
}

/// The losses of every step of a run, which is stopped after `last`: its evaluation would say nothing more.
struct Losses<'a> {
    values: Mutex<Vec<f64>>,
    last: usize,
    stop: &'a AtomicBool,
}

impl Observer for Losses<'_> {
    fn event(&self, event: &Event) {
        if let Event::Step { done, losses, .. } = event {
            let mut all = self.values.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            all.push(losses.iter().map(|(_, value)| value).sum());
            self.stop.store(*done >= self.last, Ordering::Relaxed);
        }
    }
}

/// Runs the demo's pre-training and every task on the synthetic images on `device`, in `folder`. `steps` of pre-training
/// show whether the loss falls; none skip that.
pub fn training(
    registry: &Registry,
    library: &Library,
    folder: &Path,
    device: &Device,
    steps: usize,
    tell: &mut dyn FnMut(&Check),
) -> Result<()> {
    shapes::make(&ShapesSpec::default(), &folder.join("data/shapes"), &mut |_, _| ())?;
    let bench = Bench { registry, library, folder, store: Store::new(folder.join("runs")) };
    let pretrain = Request {
        dataset: Some("shapes".into()),
        recipe: Some("mae_demo".into()),
        set: vec!["batch=8".into(), "schedule.warmup_epochs=0".into()],
        ..Request::default()
    };
    let mut runs = vec![("pretrain mae_demo".to_string(), Stage::Pretrain, pretrain.clone())];
    for task in library.list("tasks").into_iter().filter(|task| task.starts_with("shapes_")) {
        let request = Request {
            task: Some(task.clone()),
            init: Some("scratch".into()),
            set: vec!["batch=8".into(), "schedule.warmup_epochs=0".into()],
            ..Request::default()
        };
        runs.push((format!("transfer {task}"), Stage::Transfer, request));
    }
    for (name, stage, request) in &runs {
        let expected =
            bench.run((name, "cpu"), *stage, request, &Device::Cpu, Dtype::F32, COMPARED, false)?;
        for (dtype, limit) in [(Dtype::F32, 1e-4), (Dtype::Bf16, 2e-2)] {
            let place = (name.as_str(), dtype.as_str());
            let found = bench.run(place, *stage, request, device, dtype, COMPARED, false)?;
            let error = relative_error(&found, &expected);
            tell(&check(name, format!("{COMPARED} steps, losses"), dtype, error, limit));
        }
    }
    let request = Request { set: vec!["batch=8".into()], ..pretrain };
    let whole = bench.run(("whole", ""), Stage::Pretrain, &request, device, Dtype::Bf16, 4, false)?;
    let mut parts = bench.run(("parts", ""), Stage::Pretrain, &request, device, Dtype::Bf16, 2, false)?;
    parts.extend(bench.run(("parts", ""), Stage::Pretrain, &request, device, Dtype::Bf16, 4, true)?);
    let error = relative_error(&parts, &whole);
    tell(&check("pretrain mae_demo", "stopped and resumed, losses".into(), Dtype::Bf16, error, 1e-5));
    if steps > 0 {
        let request = Request { set: vec![], ..request };
        let losses =
            bench.run(("learns", ""), Stage::Pretrain, &request, device, Dtype::Bf16, steps, false)?;
        let part = (losses.len() / 10).max(1);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let fall = mean(&losses[losses.len() - part..]) / mean(&losses[..part]);
        let detail = format!("{steps} steps of 128, last over first losses");
        tell(&check("pretrain mae_demo", detail, Dtype::Bf16, fall, FALLS_TO));
    }
    Ok(())
}

fn check(name: &str, detail: String, dtype: Dtype, error: f64, limit: f64) -> Check {
    let dtype = dtype.as_str();
    Check { name: name.into(), detail, dtype, error, gradient_error: None, limit, failure: None }
}

impl Bench<'_> {
    /// The losses of the steps done, up to `steps` of the run, in a folder named by `place`.
    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        place: (&str, &str),
        stage: Stage,
        request: &Request,
        device: &Device,
        dtype: Dtype,
        steps: usize,
        resume: bool,
    ) -> Result<Vec<f64>> {
        let stop = AtomicBool::new(false);
        let losses = Losses { values: Mutex::default(), last: steps, stop: &stop };
        let site = Site {
            registry: self.registry,
            library: self.library,
            store: &self.store,
            bench_data: Some(self.folder.join("data")),
            device: device.clone(),
            device_name: if device.is_cuda() { "cuda".into() } else { "cpu".into() },
            workers: 2,
            command: "bench selftest".into(),
            control: Control { stop: &stop, observer: &losses },
            offline: true,
        };
        let request = Request { dtype: Some(dtype), ..request.clone() };
        let out = self.folder.join("runs").join(format!("{} {}", place.0, place.1).replace(' ', "_"));
        match prepare(&site, stage, &request, Some(&out), resume, &|_| ())? {
            Start::Ready(prepared) => prepared.run(&site, Some(steps + 1))?,
            Start::Done(_) => bail!("`{}` holds a finished run", out.display()),
        };
        Ok(losses.values.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}
