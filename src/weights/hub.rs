//! Weights files of the Hugging Face Hub, through `hf-hub`: its cache is the one that Python shares, its environment
//! variables (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`) are honoured, and a file that is there is not fetched again.

use hf_hub::HFClientSync;
use std::path::PathBuf;

/// What tells a reference from a path.
pub const PREFIX: &str = "hub:";

/// The file when a reference names none.
const FILE: &str = "model.safetensors";

/// `hub:owner/name[@revision][/file]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    pub owner: String,
    pub name: String,
    /// Branch, tag or commit; the main branch when absent.
    pub revision: Option<String>,
    pub file: String,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("`{0}`: expected hub:owner/name[@revision][/file]")]
    Reference(String),
    #[error("`{reference}`: {reason}")]
    Fetch { reference: String, reason: String },
}

impl HubFile {
    pub fn parse(reference: &str) -> Result<Self, HubError> {
        let fail = || HubError::Reference(reference.into());
        let path = reference.strip_prefix(PREFIX).ok_or_else(fail)?;
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(repository)) = (parts.next(), parts.next()) else { return Err(fail()) };
        let file = parts.next().unwrap_or(FILE);
        let (name, revision) = match repository.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (repository, None),
        };
        if [owner, name, file].contains(&"") || revision == Some("") {
            return Err(fail());
        }
        let (owner, name, file) = (owner.into(), name.into(), file.into());
        Ok(Self { owner, name, revision: revision.map(String::from), file })
    }

    /// The file in the cache, fetched when it is not there yet.
    pub fn fetch(&self) -> Result<PathBuf, HubError> {
        let fail =
            |e: hf_hub::HFError| HubError::Fetch { reference: self.to_string(), reason: e.to_string() };
        let repository = HFClientSync::new().map_err(fail)?.model(&self.owner, &self.name);
        let request = repository.download_file().filename(self.file.as_str());
        match &self.revision {
            Some(revision) => request.revision(revision.as_str()).send(),
            None => request.send(),
        }
        .map_err(fail)
    }
}

impl std::fmt::Display for HubFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let revision = self.revision.as_ref().map(|r| format!("@{r}")).unwrap_or_default();
        write!(f, "{PREFIX}{}/{}{revision}/{}", self.owner, self.name, self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_parts() {
        let full = HubFile::parse("hub:me/vit@v1/sub/weights.pth").unwrap();
        assert_eq!(full.to_string(), "hub:me/vit@v1/sub/weights.pth");
        assert_eq!((full.revision.as_deref(), full.file.as_str()), (Some("v1"), "sub/weights.pth"));
        assert_eq!(HubFile::parse("hub:me/vit").unwrap().to_string(), "hub:me/vit/model.safetensors");
        for bad in ["hub:vit", "hub:/vit", "hub:me/", "hub:me/vit@", "me/vit"] {
            assert!(HubFile::parse(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
