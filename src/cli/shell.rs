//! Shell completions and the manual page, for packagers.

use super::{CommandResult, print};
use clap::{Args, Command};

#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub(super) fn completions(mut program: Command, args: CompletionsArgs) -> CommandResult {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut program, "bench", &mut script);
    Ok(print(String::from_utf8_lossy(&script).trim_end())?)
}

pub(super) fn man(program: Command) -> CommandResult {
    let mut page = vec![];
    clap_mangen::Man::new(program).render(&mut page)?;
    Ok(print(String::from_utf8_lossy(&page).trim_end())?)
}
