//! How a command ends: well, or with an exit code that says why not.

use super::output::OutputError;

/// Why a command ends early.
pub(super) enum Failure {
    /// Exit code 2.
    Request(anyhow::Error),
    /// Exit code 1.
    Run(anyhow::Error),
    /// Exit code 3: records that can be neither confirmed nor refuted here.
    NotVerifiable(anyhow::Error),
}

/// Every error means that the request was wrong, except a failure to write to standard output.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        if error.is::<OutputError>() { Self::Run(error) } else { Self::Request(error) }
    }
}

pub(super) type CommandResult = Result<(), Failure>;
