//! What commands print. Standard output contains the result of the command. If it cannot be written, the command ends with an error.

use std::fmt::Display;
use std::io::{Error, Write};
use std::time::Duration;

/// Standard output cannot be written, for example because it is a file on a full disk.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct OutputError(#[source] Error);

/// Writes a line to standard output.
pub(super) fn print(line: impl Display) -> Result<(), OutputError> {
    writeln!(std::io::stdout(), "{line}").map_err(OutputError)
}

/// Formats a duration as `2 h 05 m`, `4 m 12 s` or `9 s`.
pub(super) fn duration(duration: Duration) -> String {
    let s = duration.as_secs();
    match (s / 86_400, s / 3600, s / 60) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, minutes) => format!("{minutes} m {:02} s", s % 60),
        (0, hours, minutes) => format!("{hours} h {:02} m", minutes % 60),
        (days, hours, _) => format!("{days} d {:02} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown = [9, 252, 7500, 180_000].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(shown, ["9 s", "4 m 12 s", "2 h 05 m", "2 d 02 h"]);
    }
}
