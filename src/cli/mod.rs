//! The command-line program. This is the only module that prints, exits, or reads arguments and the environment.
//!
//! Exit codes: 0 if the command succeeded, 1 if a run failed or was stopped or a record does not hold, 2 if the request was wrong,
//! 3 if records cannot be verified here.

mod compare;
mod config;
mod convert;
mod data;
mod demo;
mod docs;
mod doctor;
mod eval;
mod flags;
mod hub;
mod inspect;
mod model;
mod outcome;
mod output;
mod overall;
mod own;
mod pictures;
mod predict;
mod progress;
mod pull;
mod push;
mod recipe;
mod reconstruct;
mod record;
mod run;
mod runs;
mod schema_page;
mod schemas;
mod selftest;
mod shell;
mod speed;
mod suite;
mod table;
mod task;
mod version;

pub use hub::hub_settings;
pub use version::build;

use crate::process;
use crate::registry::Registry;
use clap::{CommandFactory, Parser, Subcommand};
use outcome::{CommandResult, Failure};
use output::{OutputError, print};
use std::ffi::OsString;
use std::process::ExitCode;

/// A transfer-learning benchmark for masked autoencoders: pre-train vision transformers, and evaluate them on
/// classification, detection and segmentation.
#[derive(Parser, Debug)]
#[command(name = "bench", version = version::VERSION, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Start with `bench demo`: it needs no data and prints a table at the end.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Pre-train a backbone on unlabelled images
    Pretrain(run::PretrainArgs),
    /// Train a head (and usually the backbone) on a task, evaluate it, and write a record
    Transfer(run::TransferArgs),
    /// Evaluate a finished transfer run again, or score files of predictions
    Eval(eval::EvalArgs),
    /// List runs: state, steps, losses and scores
    Runs(runs::RunsArgs),
    /// Compare two runs: settings, losses and scores
    Compare(compare::CompareArgs),
    /// Apply a trained model to your own images: draw its predictions and write them to files
    Predict(predict::PredictArgs),
    /// List, plan and run suites (files that describe many runs)
    Suite(suite::SuiteArgs),
    /// Print a table of results, or check and update the tables of a document
    Table(table::TableArgs),
    /// Publish, list, show and verify the committed records of runs
    Record(record::RecordArgs),
    /// List, show and check tasks
    Task(task::TaskArgs),
    /// List and check data sets, or generate the synthetic one
    Data(data::DataArgs),
    /// List and show recipes
    Recipe(recipe::RecipeArgs),
    /// List models, or show the size and cost of one
    Model(model::ModelArgs),
    /// Show the configuration that a command line resolves to, or the JSON schema of a kind of file
    Config(config::ConfigArgs),
    /// Describe a weights file: its origin, sizes, hashes and uses
    Inspect(inspect::InspectArgs),
    /// Convert weights to the tensor names of another program (facebookresearch/mae, timm, transformers)
    Convert(convert::ConvertArgs),
    /// Download weights from the Hugging Face Hub
    Pull(pull::PullArgs),
    /// Upload the weights of a run to the Hugging Face Hub, with its record and a model card
    Push(push::PushArgs),
    /// Draw the reconstructions of a masked autoencoder or a tokenizer
    Reconstruct(reconstruct::ReconstructArgs),
    /// Measure the throughput of the loader, the model, and both together
    Speed(speed::SpeedArgs),
    /// Compare a device with the CPU: every operator, and whole training runs
    Selftest(selftest::SelftestArgs),
    /// Show what the program finds on this machine: devices, data sets, runs
    Doctor(doctor::DoctorArgs),
    /// Generate a data set, pre-train, transfer, and print a table: takes minutes, downloads nothing
    Demo(demo::DemoArgs),
    /// Write the reference of commands, configuration keys and scores as Markdown
    Docs(docs::DocsArgs),
    /// Print the completion script for a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// Runs the command line of this process with the parts of `registry`, and returns its exit code. This is the whole `main`
/// of a program with its own kinds of task.
pub fn main(registry: Registry) -> ExitCode {
    process::flush_subnormals();
    process::keep_memory();
    if std::env::var_os(process::CANDLE_THREADS).is_none() {
        process::leave_candle_one_thread();
    }
    process::join_the_pool();
    end_with_the_pipe();
    ExitCode::from(run(&registry, std::env::args_os()))
}

/// Runs one command line, program name first, and returns its exit code.
pub fn run(registry: &Registry, args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    process::flush_subnormals();
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
        Command::Runs(args) => runs::runs(args),
        Command::Compare(args) => compare::compare(args),
        Command::Predict(args) => predict::predict(registry, args),
        Command::Suite(args) => suite::suite(registry, args),
        Command::Table(args) => table::table(registry, args),
        Command::Record(args) => record::record(registry, args),
        Command::Task(args) => task::task(registry, args),
        Command::Data(args) => data::data(registry, args),
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
        Command::Docs(args) => docs::docs(registry, Cli::command(), args),
        Command::Completions(args) => shell::completions(Cli::command(), args),
        Command::Man => shell::man(Cli::command()),
    };
    let (error, code) = match outcome {
        Ok(()) => return 0,
        Err(Failure::Request(error)) => (error, 2),
        Err(Failure::Run(error)) => (error, 1),
        Err(Failure::NotVerifiable(error)) => (error, 3),
    };
    eprintln!("error: {error:#}");
    code
}

/// Restores the default action of SIGPIPE, so that `bench table | head` ends silently instead of with a panic of `println!`.
fn end_with_the_pipe() {
    #[cfg(unix)]
    // SAFETY: the default action runs no code of ours, and no other thread exists yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
