//! [`Hub::push`]: files into a repository, in one commit.

use super::{Hub, HubError, HubFile};
use hf_hub::RepoTypeModel;
use hf_hub::repository::CommitOperation;
use std::path::PathBuf;

/// A file to be sent.
#[derive(Clone, Debug)]
pub enum Upload {
    /// What lies on this disk.
    File(PathBuf),
    Text(String),
}

/// Where files went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Address of the repository.
    pub url: String,
    /// The new commit, where the Hub tells.
    pub commit: Option<String>,
}

impl Hub {
    /// Writes `files` (path in the repository, content) to the repository of `target`, which is made if it does not
    /// exist: `private` counts only then. `target.revision` is the branch.
    ///
    /// # Errors
    /// Offline, a token that may not write, a Hub that cannot be reached, a file that cannot be read.
    pub fn push(
        &self,
        target: &HubFile,
        files: &[(String, Upload)],
        message: &str,
        private: bool,
    ) -> Result<Pushed, HubError> {
        if self.offline {
            let reason = "nothing is sent offline (--offline or HF_HUB_OFFLINE)".into();
            return Err(HubError::Refused { reference: target.to_string(), reason });
        }
        let explain = |error| self.remote.explain(target, error);
        let name = target.repository();
        let made = self.client.create_repository().repo_id(&name).repo_type(RepoTypeModel);
        let url = made.private(private).exist_ok(true).send().map_err(explain)?.url;
        let operations = files.iter().map(|(path, upload)| match upload {
            Upload::File(file) => CommitOperation::add_file(path, file),
            Upload::Text(text) => CommitOperation::add_bytes(path, text.clone().into_bytes()),
        });
        let repository = self.client.model(&target.owner, &target.name);
        let commit = repository.create_commit().operations(operations.collect()).commit_message(message);
        let commit = commit.maybe_revision(target.revision.clone()).send().map_err(explain)?;
        Ok(Pushed { url, commit: commit.commit_oid })
    }
}
