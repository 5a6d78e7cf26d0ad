//! Compares whole runs on a device with the CPU: the losses of their first steps, whether pre-training reduces the
//! loss, and whether a stopped run continues as if it had not been stopped.

use super::{Check, relative_error};
use crate::config::{Dtype, Library, Stage};
use crate::data::shapes::{self, ShapesSpec};
use crate::engine::{Control, Event, Observer};
use crate::record::{Build, RunStore};
use crate::registry::Registry;
use crate::runs::{Request, RunContext, Start, prepare};
use crate::weights::HubSettings;
use anyhow::{Result, bail};
use candle_core::Device;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Number of steps that are compared with the CPU.
const COMPARED: usize = 2;
/// The share of its initial value to which the loss must fall within 200 steps.
const FALLS_TO: f64 = 0.8;

/// Limits of the losses of detection, in f32 and bf16. Which proposals a step sees depends on which scores are the largest
/// and which boxes overlap by 0.7, so that a last bit, which devices compute in another way, can exchange some of them.
const CHOICES: [f64; 2] = [1e-2, 5e-2];
/// Largest number of kernels, matrix products, copies and fills of a step of `mae_demo`, a few more than there are: a fused
/// operator that is left by mistake exceeds it.
const QUEUED: usize = 450;
/// Largest number of times at which the host waits for the device in such a step: for the norm of the gradients and for the
/// loss, which is there by then, and twice in the thread that copies batches.
const STOPS: usize = 4;

/// The inputs that all runs share.
struct Bench<'a> {
    registry: &'a Registry,
    library: &'a Library,
    folder: &'a Path,
    store: RunStore,
}

/// A run that is stopped after some steps.
struct Trial<'a> {
    /// Folder of the run; trials that continue another one share it.
    folder: String,
    stage: Stage,
    request: &'a Request,
    device: &'a Device,
    dtype: Dtype,
    /// Number of steps, including those of earlier trials in the folder.
    steps: usize,
    resume: bool,
}

/// A step that has been done.
struct Step {
    /// The sum of its losses.
    loss: f64,
    /// Kernels, matrix products, copies and fills that were queued on the device so far.
    queued: usize,
    /// Times at which the host has waited for the device so far.
    stops: usize,
}

/// [`Step::queued`] and [`Step::stops`].
#[cfg(feature = "cuda")]
fn calls() -> (usize, usize) {
    let made = crate::ops::cuda::calls();
    (made.kernels + made.products + made.writes, made.reads + made.waits)
}

#[cfg(not(feature = "cuda"))]
fn calls() -> (usize, usize) {
    (0, 0)
}

/// The losses of every step of a run, which is stopped after step `last` to skip its evaluation.
struct Losses<'a> {
    steps: Mutex<Vec<Step>>,
    last: usize,
    stop: &'a AtomicBool,
}

impl Observer for Losses<'_> {
    fn event(&self, event: &Event) {
        if let Event::Step { done, losses, .. } = event {
            let mut all = self.steps.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (queued, stops) = calls();
            all.push(Step { loss: losses.iter().map(|(_, value)| value).sum(), queued, stops });
            self.stop.store(*done >= self.last, Ordering::Relaxed);
        }
    }
}

/// Runs pre-training and every task of the demo on the synthetic images on `device`, in `folder`, and compares them
/// with the CPU. Pre-training of `steps` steps checks that the loss falls; 0 skips that check.
pub fn training(
    registry: &Registry,
    library: &Library,
    folder: &Path,
    device: &Device,
    steps: usize,
    tell: &mut dyn FnMut(&Check),
) -> Result<()> {
    shapes::make(&ShapesSpec::default(), &folder.join("data/shapes"), &mut |_, _| ())?;
    let bench = Bench { registry, library, folder, store: RunStore::new(folder.join("runs")) };
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
        let trial = |place: &str, device, dtype| {
            let folder = format!("{name} {place}").replace(' ', "_");
            Trial { folder, stage: *stage, request, device, dtype, steps: COMPARED, resume: false }
        };
        let expected = bench.losses(&trial("cpu", &Device::Cpu, Dtype::F32))?;
        let limits = if name.ends_with("detection") { CHOICES } else { [1e-4, 2e-2] };
        for (dtype, limit) in [Dtype::F32, Dtype::Bf16].into_iter().zip(limits) {
            let error = relative_error(&bench.losses(&trial(dtype.as_str(), device, dtype))?, &expected);
            tell(&check(name, format!("{COMPARED} steps, losses"), dtype, error, limit));
        }
    }
    let request = Request { set: vec!["batch=8".into()], ..pretrain };
    let pretraining = |folder: &str, steps| Trial {
        folder: folder.into(),
        stage: Stage::Pretrain,
        request: &request,
        device,
        dtype: Dtype::Bf16,
        steps,
        resume: false,
    };
    let done = bench.steps(&pretraining("whole", 4))?;
    if let ([.., before, last], true) = (&done[..], device.is_cuda()) {
        let mut limited = |detail: &str, number: usize, limit: usize| {
            let (number, limit) = (number as f64, limit as f64);
            tell(&check("pretrain mae_demo", detail.into(), Dtype::Bf16, number, limit));
        };
        limited("work queued in a step", last.queued - before.queued, QUEUED);
        limited("waits for the device in a step", last.stops - before.stops, STOPS);
    }
    let whole: Vec<f64> = done.iter().map(|step| step.loss).collect();
    let mut parts = bench.losses(&pretraining("parts", 2))?;
    parts.extend(bench.losses(&Trial { resume: true, ..pretraining("parts", 4) })?);
    let error = relative_error(&parts, &whole);
    tell(&check("pretrain mae_demo", "stopped and resumed, losses".into(), Dtype::Bf16, error, 1e-5));
    if steps > 0 {
        let request = Request { set: vec![], ..request.clone() };
        let losses = bench.losses(&Trial { request: &request, ..pretraining("learns", steps) })?;
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
    /// The losses of the steps that the trial does.
    fn losses(&self, trial: &Trial) -> Result<Vec<f64>> {
        Ok(self.steps(trial)?.iter().map(|step| step.loss).collect())
    }

    /// The steps that the trial does.
    fn steps(&self, trial: &Trial) -> Result<Vec<Step>> {
        let Trial { stage, device, steps, resume, .. } = *trial;
        let stop = AtomicBool::new(false);
        let losses = Losses { steps: Mutex::default(), last: steps, stop: &stop };
        let context = RunContext {
            registry: self.registry,
            library: self.library,
            store: &self.store,
            bench_data: Some(self.folder.join("data")),
            device: device.clone(),
            device_name: if device.is_cuda() { "cuda".into() } else { "cpu".into() },
            workers: 2,
            build: Build::unknown(),
            control: Control { stop: &stop, observer: &losses },
            hub: HubSettings { offline: true, ..HubSettings::new(self.folder.join("hub")) },
        };
        let request = Request { dtype: Some(trial.dtype), ..trial.request.clone() };
        let out = self.folder.join("runs").join(&trial.folder);
        match prepare(&context, stage, &request, Some(&out), resume, &|_| ())? {
            Start::Ready(prepared) => prepared.run(&context, Some(steps + 1))?,
            Start::Done(_) => bail!("`{}` holds a finished run", out.display()),
        };
        Ok(losses.steps.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}
