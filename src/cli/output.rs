//! Standard output: what a command was asked for. Where it cannot be written, the command ends with an error.

use std::fmt::Display;
use std::io::{Error, Write};

/// Standard output takes no more, such as a file on a full disk.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct OutputError(#[source] Error);

/// Writes a line to standard output.
pub fn print(line: impl Display) -> Result<(), OutputError> {
    writeln!(std::io::stdout(), "{line}").map_err(OutputError)
}
