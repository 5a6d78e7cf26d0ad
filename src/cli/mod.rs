//! The command-line program. The only module that prints, exits, or reads arguments and the environment.
//!
//! Exit codes: 0 done, 1 the run failed (or was stopped), 2 the request was wrong.

mod config;
mod convert;
mod data;
mod demo;
mod doctor;
mod eval;
mod flags;
mod hub;
mod inspect;
mod model;
mod output;
mod predict;
mod progress;
mod pull;
mod push;
mod recipe;
mod reconstruct;
mod run;
mod selftest;
mod shell;
mod speed;
mod suite;
mod table;
mod task;

pub use hub::hub_settings;

use crate::registry::Registry;
use clap::{Parser, Subcommand};
use output::{OutputError, print};
use std::ffi::OsString;
use std::process::ExitCode;

/// Downstream transfer-learning benchmark for masked autoencoders, on candle.
#[derive(Parser, Debug)]
#[command(name = "bench", version = env!("BENCH_VERSION"), about, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Start with `bench demo`: it needs no data and ends with a table.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Pre-train a backbone on unlabelled images
    Pretrain(run::PretrainArgs),
    /// Transfer a backbone to a task: train a head (and the backbone), evaluate, write the record
    Transfer(run::TransferArgs),
    /// Evaluate the weights of a transfer run again, or files of predictions
    Eval(eval::EvalArgs),
    /// Predict images of your own: pictures and files of predictions
    Predict(predict::PredictArgs),
    /// Suites, which are files of runs: list, plan, run
    Suite(suite::SuiteArgs),
    /// Make a table from records, or list the tables
    Table(table::TableArgs),
    /// Tasks: list, show, check
    Task(task::TaskArgs),
    /// Data sets: list, check, make
    Data(data::DataArgs),
    /// Recipes: list, show
    Recipe(recipe::RecipeArgs),
    /// Models: list, show sizes and cost
    Model(model::ModelArgs),
    /// Show a resolved configuration with its arithmetic, or the schema of the files
    Config(config::ConfigArgs),
    /// Say what a file of weights is
    Inspect(inspect::InspectArgs),
    /// Write weights in the names of other programs (facebookresearch/mae, timm, transformers)
    Convert(convert::ConvertArgs),
    /// Fetch weights from the Hugging Face Hub
    Pull(pull::PullArgs),
    /// Send the weights of a run to the Hugging Face Hub, with its record and a card
    Push(push::PushArgs),
    /// Draw what a masked autoencoder fills in
    Reconstruct(reconstruct::ReconstructArgs),
    /// Measure loader, model and both together
    Speed(speed::SpeedArgs),
    /// Compare a device with the CPU: every operator, whole runs
    Selftest(selftest::SelftestArgs),
    /// Show what this program finds on this machine
    Doctor(doctor::DoctorArgs),
    /// Make a data set, pre-train, transfer, and print the table: minutes, no download
    Demo(demo::DemoArgs),
    /// Print completions of a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// Why a command ends early.
enum Failure {
    /// Exit code 2.
    Request(anyhow::Error),
    /// Exit code 1.
    Run(anyhow::Error),
}

/// A request that is wrong, whatever the error; only an answer that cannot be written is not its fault.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        if error.is::<OutputError>() { Self::Run(error) } else { Self::Request(error) }
    }
}

type CommandResult = Result<(), Failure>;

/// The program with the kinds of `registry`: the whole `main` of a plugin.
pub fn main(registry: Registry) -> ExitCode {
    crate::process::prepare();
    end_with_the_pipe();
    ExitCode::from(run(&registry, std::env::args_os()))
}

/// Runs one command line, program name first, and returns its exit code.
pub fn run(registry: &Registry, args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    crate::process::flush_subnormals();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return error.exit_code() as u8;
        }
    };
    if let Err(error) = registry.check() {
        eprintln!("error: {error}");
        return 2;
    }
    let outcome = match cli.command {
        Command::Pretrain(args) => run::pretrain(registry, args),
        Command::Transfer(args) => run::transfer(registry, args),
        Command::Eval(args) => eval::eval(registry, args),
        Command::Predict(args) => predict::predict(registry, args),
        Command::Suite(args) => suite::suite(registry, args),
        Command::Table(args) => table::table(args),
        Command::Task(args) => task::task(registry, args),
        Command::Data(args) => data::data(args),
        Command::Recipe(args) => recipe::recipe(args),
        Command::Model(args) => model::model(registry, args),
        Command::Config(args) => config::config(registry, args),
        Command::Inspect(args) => inspect::inspect(registry, args),
        Command::Convert(args) => convert::convert(args),
        Command::Pull(args) => pull::pull(args),
        Command::Push(args) => push::push(args),
        Command::Reconstruct(args) => reconstruct::reconstruct(registry, args),
        Command::Speed(args) => speed::speed(registry, args),
        Command::Selftest(args) => selftest::selftest(registry, args),
        Command::Doctor(args) => doctor::doctor(registry, args),
        Command::Demo(args) => demo::demo(registry, args),
        Command::Completions(args) => shell::completions(args),
        Command::Man => shell::man(),
    };
    let (error, code) = match outcome {
        Ok(()) => return 0,
        Err(Failure::Request(error)) => (error, 2),
        Err(Failure::Run(error)) => (error, 1),
    };
    eprintln!("error: {error:#}");
    code
}

/// `bench table | head` ends in silence, as other programs do; Rust would make the closed pipe a panic of `println!`.
fn end_with_the_pipe() {
    #[cfg(unix)]
    // SAFETY: the default action runs no code of ours, and no other thread exists yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
