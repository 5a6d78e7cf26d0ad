//! Shell completions and the manual page, for packagers.

use super::{Cli, CommandResult, print};
use clap::{Args, CommandFactory};

#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub(super) fn completions(args: CompletionsArgs) -> CommandResult {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut Cli::command(), "bench", &mut script);
    Ok(print(String::from_utf8_lossy(&script).trim_end())?)
}

pub(super) fn man() -> CommandResult {
    let mut page = vec![];
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(print(String::from_utf8_lossy(&page).trim_end())?)
}
