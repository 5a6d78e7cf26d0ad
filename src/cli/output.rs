//! Standard output contains the result of the command. If it cannot be written, the command ends with an error.

use std::fmt::Display;
use std::io::{Error, Write};

/// Standard output cannot be written, for example because it is a file on a full disk.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct OutputError(#[source] Error);

/// Writes a line to standard output.
pub(super) fn print(line: impl Display) -> Result<(), OutputError> {
    writeln!(std::io::stdout(), "{line}").map_err(OutputError)
}
