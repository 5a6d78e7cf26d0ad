//! [`Hub::push`]: uploads files to a repository in one commit.

use super::Hub;
use super::error::HubError;
use super::reference::HubFile;
use hf_hub::RepoTypeModel;
use hf_hub::repository::CommitOperation;
use std::path::PathBuf;

/// Content of a file to upload.
#[derive(Clone, Debug)]
pub enum UploadContent {
    /// The content of a local file.
    File(PathBuf),
    /// A text.
    Text(String),
}

/// Result of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Address of the repository.
    pub url: String,
    /// Hash of the new commit, if the Hub states it.
    pub commit: Option<String>,
}

impl Hub {
    /// Uploads `files` (path in the repository, content) to the repository of `target`, which is created if it does not
    /// exist; `private` applies only then. `target.revision` is the branch; `message` is the commit message.
    ///
    /// # Errors
    /// Offline mode, a token without write access, a Hub that cannot be reached, or a file that cannot be read.
    pub fn push(
        &self,
        target: &HubFile,
        files: &[(String, UploadContent)],
        message: &str,
        private: bool,
    ) -> Result<Pushed, HubError> {
        if self.offline {
            let reason = "cannot push in offline mode (--offline or HF_HUB_OFFLINE)".into();
            return Err(HubError::Refused { reference: target.to_string(), reason });
        }
        let explain = |error| self.remote.explain(target, error);
        let name = target.repository();
        let made = self.client.create_repository().repo_id(&name).repo_type(RepoTypeModel);
        let url = made.private(private).exist_ok(true).send().map_err(explain)?.url;
        let operations = files.iter().map(|(path, upload)| match upload {
            UploadContent::File(file) => CommitOperation::add_file(path, file),
            UploadContent::Text(text) => CommitOperation::add_bytes(path, text.clone().into_bytes()),
        });
        let repository = self.client.model(&target.owner, &target.name);
        let commit = repository.create_commit().operations(operations.collect()).commit_message(message);
        let commit = commit.maybe_revision(target.revision.clone()).send().map_err(explain)?;
        Ok(Pushed { url, commit: commit.commit_oid })
    }
}
