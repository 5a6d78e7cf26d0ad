//! An objective of another crate that uses every seam which contrastive learning and distillation need: two views of an
//! image, a teacher that follows the student, calls before and after the optimiser, and schedules of temperature, momentum
//! and weight decay. What it learns does not matter here (its student may collapse); what it does in each step does.

use crate::program::{Sandbox, fixture};
use bench::config::Ramp;
use bench::data::Batch;
use bench::models::Backbone;
use bench::nn::{Linear, Losses, MomentumTeacher, Params, Pass};
use bench::optim::Gradients;
use bench::pretrain::{Moment, Objective, ObjectiveInputs, PretrainObjective, Pretraining, RecipeFacts};
use bench::registry::Registry;
use candle_core::{Device, Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A backbone and a projector, and their teacher.
struct Agreement {
    student: Network,
    teacher: Network,
    link: MomentumTeacher,
    options: AgreementOptions,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgreementOptions {
    /// Share of the teacher that stays in each step.
    momentum: Ramp,
    /// Divides the features of both.
    temperature: Ramp,
    /// Epochs in which the projector stands still.
    frozen_epochs: f64,
}

struct Network {
    backbone: Box<dyn Backbone>,
    projector: Linear,
}

impl Network {
    /// [B, C, H, W] -> [B, 8]
    fn forward(&self, images: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let last = self.backbone.spec().depth - 1;
        let features = self.backbone.forward(images, &[last], pass)?;
        self.projector.forward(&features.taps[0].mean(1)?)
    }
}

impl Objective for Agreement {
    type Target = ();

    fn losses(&self, batch: &Batch<()>, pass: &mut Pass) -> Result<Losses> {
        let temperature = match pass {
            Pass::Train { progress, epoch, .. } => self.options.temperature.at(*progress, *epoch),
            Pass::Eval => self.options.temperature.at(1., f64::INFINITY),
        };
        let found = (self.student.forward(&batch.images, pass)? / temperature)?;
        let wanted = bench::ops::no_grad(|| self.teacher.forward(&batch.views[0], &mut Pass::Eval))?;
        let wanted = (wanted.detach() / temperature)?;
        let loss = (found - wanted)?.sqr()?.mean_all()?;
        Ok(Losses::of("agreement", loss).with_metric("temperature", temperature))
    }

    fn layer_of(&self, parameter: &str) -> usize {
        self.student.backbone.layer_of(parameter)
    }

    fn before_optimizer(&self, gradients: &mut Gradients, at: &Moment) -> Result<()> {
        if at.epoch < self.options.frozen_epochs {
            gradients.remove(|name| name.starts_with("projector."));
        }
        Ok(())
    }

    fn after_optimizer(&self, at: &Moment) -> Result<()> {
        self.link.follow(self.options.momentum.at(at.progress, at.epoch))
    }
}

impl Pretraining for Agreement {
    fn initialize(&self, _: &Params, _: &dyn Fn(usize) -> Result<Tensor>) -> Result<()> {
        self.link.copy_from_student()
    }
}

impl PretrainObjective for Agreement {
    const NAME: &'static str = "agreement";
    type Options = AgreementOptions;

    fn new(options: &AgreementOptions, inputs: &ObjectiveInputs) -> Result<Self> {
        let width = inputs.model.width;
        let backbone = inputs.backbone(false)?;
        let projector = Linear::new(width, 8, inputs.builder().pp("projector"))?;
        let student = Network { backbone, projector };
        let (link, teacher) = MomentumTeacher::new(inputs.params, |vb| {
            let backbone = inputs.backbone_in(vb.clone(), false)?;
            Ok(Network { backbone, projector: Linear::new(width, 8, vb.pp("projector"))? })
        })?;
        Ok(Self { student, teacher, link, options: options.clone() })
    }

    fn check(options: &AgreementOptions, _: &RecipeFacts) -> std::result::Result<(), String> {
        options.momentum.check("pretrain.momentum")?;
        options.temperature.check("pretrain.temperature")
    }

    fn views(_: &AgreementOptions) -> usize {
        2
    }
}

const RECIPE: &str = r#"
default_model = "vit_tiny_test"
epochs = 2
batch = 5
keep_epochs = 1
save_steps = 1
augment = [{ op = "random_resized_crop", scale = [0.3, 1.0] }]
[optim]
name = "adamw"
base_lr = 0.05
betas = [0.9, 0.95]
weight_decay = 0.04
weight_decay_end = 0.4
[schedule]
name = "constant"
[pretrain]
objective = "agreement"
momentum = { name = "cosine", from = 0.9, to = 1.0 }
temperature = { name = "linear", from = 0.5, to = 0.1, epochs = 1 }
frozen_epochs = 1.0
[[views]]
augment = [{ op = "random_resized_crop", scale = [0.1, 0.5] }, { op = "flip", p = 0.5 }]
"#;

type Tensors = HashMap<String, Tensor>;

struct Program {
    sandbox: Sandbox,
    registry: Registry,
}

impl Program {
    fn new(recipe: &str) -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("mine/configs/pretrain/agreement.toml", recipe);
        Self { sandbox, registry: Registry::builtin().with_objective::<Agreement>() }
    }

    fn run(&self, words: &[&str]) -> u8 {
        let path = |name: &str| self.sandbox.path(name).display().to_string();
        let (include, data) = (path("mine"), fixture("shapes"));
        let mut args = vec!["bench", "pretrain", "--dataset", "shapes", "--recipe", "agreement"];
        args.extend(["--include", &include, "--data", &data, "--workers", "1"]);
        args.extend(words);
        bench::cli::run(&self.registry, args)
    }

    fn tensors(&self, file: &str) -> Tensors {
        candle_core::safetensors::load(self.sandbox.path(file), &Device::Cpu).unwrap()
    }
}

fn values(tensors: &Tensors, name: &str) -> Vec<f32> {
    tensors[name].flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_seam_of_distillation_is_used_saved_and_resumed() {
    let program = Program::new(RECIPE);
    let folder = |name: &str| program.sandbox.path(name).display().to_string();
    assert_eq!(program.run(&["--out", &folder("whole")]), 0);

    // Before the optimiser: the projector stands still in the first epoch, and only then.
    let (first, last) =
        (program.tensors("whole/epoch_1.safetensors"), program.tensors("whole/model.safetensors"));
    let start = Params::new(0, &Device::Cpu);
    let width = first["projector.weight"].dims()[1];
    Linear::new(width, 8, start.builder().pp("projector")).unwrap();
    let start: Vec<f32> =
        start.get("projector.weight").unwrap().var.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(values(&first, "projector.weight"), start);
    assert_ne!(values(&last, "projector.weight"), start);

    // After it: the teacher is between where the student began and where it is.
    let name = "blocks.0.mlp.fc1.weight";
    let teacher = values(&last, &format!("teacher.{name}"));
    assert_ne!(teacher, values(&first, &format!("teacher.{name}")));
    assert_ne!(teacher, values(&last, name));

    // Schedules: the temperature is in the log and ends where it should.
    let log = std::fs::read_to_string(program.sandbox.path("whole/log.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let temperature = |line: &serde_json::Value| line["temperature"].as_f64().unwrap();
    assert!(temperature(&lines[0]) > 0.4 && (temperature(lines.last().unwrap()) - 0.1).abs() < 1e-9, "{log}");

    // A run that stops after every step and goes on computes the same bytes.
    let steps = lines.last().unwrap()["step"].as_u64().unwrap();
    let parts = folder("parts");
    for step in 1..=steps {
        let step = step.to_string();
        assert_eq!(program.run(&["--out", &parts, "--resume", "--max-steps", &step]), 0);
    }
    assert_eq!(program.run(&["--out", &parts, "--resume"]), 0);
    let bytes = |run: &str| std::fs::read(program.sandbox.path(run).join("model.safetensors")).unwrap();
    assert!(bytes("whole") == bytes("parts"), "the weights differ");

    // The schedule of weight decay has a part in them.
    assert_eq!(program.run(&["--out", &folder("constant"), "--set", "optim.weight_decay_end=0.04"]), 0);
    assert!(bytes("whole") != bytes("constant"));
}

#[test]
fn what_an_objective_needs_of_its_recipe_is_checked_before_the_first_step() {
    let recipe = &RECIPE[..RECIPE.find("[[views]]").unwrap()];
    let program = Program::new(recipe);
    assert_eq!(program.run(&[]), 2, "one view");
    let program = Program::new(RECIPE);
    assert_eq!(program.run(&["--set", "pretrain.momentum.epochs=0"]), 2);
    assert_eq!(program.run(&["--set", "pretrain.momentums=0"]), 2);
    let twice = Registry::builtin().with_objective::<Agreement>().with_objective::<Agreement>();
    assert_eq!(bench::cli::run(&twice, ["bench", "recipe", "list"]), 2);
}
