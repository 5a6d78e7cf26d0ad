//! Completions and the manual page, for packagers.

use super::{Cli, CommandResult};
use clap::{Args, CommandFactory};

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub fn completions(args: CompletionsArgs) -> CommandResult {
    clap_complete::generate(args.shell, &mut Cli::command(), "bench", &mut std::io::stdout());
    Ok(())
}

pub fn man() -> CommandResult {
    clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
    Ok(())
}
