//! The `bench` program with the built-in kinds of task.

use bench::registry::Registry;
use std::process::ExitCode;

fn main() -> ExitCode {
    bench::cli::main(Registry::builtin())
}
