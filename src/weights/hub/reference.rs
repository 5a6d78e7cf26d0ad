//! [`HubFile`]: a reference to a file on the Hub, checked before it becomes part of an address or a path.

use super::error::HubError;

/// Prefix that distinguishes references from paths.
pub const HUB: &str = "hub:";

/// Maximum length of a repository name on the Hub.
const LONGEST: usize = 96;

/// A reference `hub:owner/name[@revision][/file]`. A `/` in the revision is written `%2F`: `hub:me/vit@refs%2Fpr%2F1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// User or organization that owns the repository.
    pub owner: String,
    /// Name of the repository.
    pub name: String,
    /// Branch, tag or commit; the main branch if `None`.
    pub revision: Option<String>,
    /// Path in the repository; its weights if `None`.
    pub file: Option<String>,
}

impl HubFile {
    /// Parses a reference.
    ///
    /// # Errors
    /// Missing parts, characters that the Hub does not allow in names, or paths that leave the repository.
    pub fn parse(reference: &str) -> Result<Self, HubError> {
        let fail = |reason: &str| HubError::Reference { reference: reference.into(), reason: reason.into() };
        let path = reference.strip_prefix(HUB).ok_or_else(|| fail("not a reference to the Hub"))?;
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(repository)) = (parts.next(), parts.next()) else {
            return Err(fail("owner or name is missing"));
        };
        let (name, revision) = match repository.split_once('@') {
            Some((name, revision)) => (name, Some(revision.replace("%2F", "/"))),
            None => (repository, None),
        };
        let file = parts.next();
        if !is_name(owner) || !is_name(name) || owner.len() + name.len() >= LONGEST {
            return Err(fail("not the name of a repository (letters, digits, `-`, `_`, single `.`)"));
        }
        if revision.as_deref().is_some_and(|revision| !stays_inside(revision)) {
            return Err(fail("not a revision"));
        }
        if file.is_some_and(|file| !stays_inside(file)) {
            return Err(fail("not the path of a file in a repository"));
        }
        Ok(Self { owner: owner.into(), name: name.into(), revision, file: file.map(String::from) })
    }

    /// `owner/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

impl std::fmt::Display for HubFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{HUB}{}/{}", self.owner, self.name)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{}", revision.replace('/', "%2F"))?;
        }
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// Whether the Hub allows this name of an owner or repository; `--` separates them in the cache.
fn is_name(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: char| "-.".contains(c);
    !text.is_empty()
        && text.chars().all(letters)
        && !text.starts_with(ends)
        && !text.ends_with(ends)
        && !text.contains("--")
        && !text.contains("..")
}

/// Whether a path with `/` as separator stays below the folder to which it is joined, on any system.
fn stays_inside(path: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && !part.ends_with(".lock");
    let plain = |c: char| !c.is_control() && !"\\:%?#*".contains(c);
    path.chars().all(plain) && path.split('/').all(part)
}

/// Whether `text` is `length` hexadecimal digits.
pub(super) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `revision` is the hash of a commit.
pub(super) fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_parts() {
        let full = HubFile::parse("hub:me/vit@v1/sub/weights.pth").unwrap();
        assert_eq!(full.to_string(), "hub:me/vit@v1/sub/weights.pth");
        assert_eq!((full.revision.as_deref(), full.file.as_deref()), (Some("v1"), Some("sub/weights.pth")));
        let short = HubFile::parse("hub:timm/vit_base_patch16_224.mae").unwrap();
        assert_eq!((short.to_string().as_str(), short.file), ("hub:timm/vit_base_patch16_224.mae", None));
        let request = HubFile::parse("hub:me/vit@refs%2Fpr%2F1/a").unwrap();
        assert_eq!(request.revision.as_deref(), Some("refs/pr/1"));
        assert_eq!(request.to_string(), "hub:me/vit@refs%2Fpr%2F1/a");
    }

    #[test]
    fn what_leaves_the_repository_or_the_cache_is_refused() {
        for bad in [
            "hub:vit",
            "hub:/vit",
            "hub:me/",
            "hub:me/vit@",
            "hub:me/vit/",
            "me/vit",
            "hub:../vit",
            "hub:me/..",
            "hub:me/a--b",
            "hub:me/vi t",
            "hub:me/vit/../../../etc/passwd",
            "hub:me/vit/a/./b",
            "hub:me/vit//etc/passwd",
            "hub:me/vit/a\\..\\b",
            "hub:me/vit/C:b",
            "hub:me/vit/%2e%2e/b",
            "hub:me/vit@../../b/model.safetensors",
            "hub:me/vit@..%2F..%2Fb/model.safetensors",
            "hub:me/vit@%2Fb/model.safetensors",
            "hub:me/vit/a\n",
        ] {
            let error = HubFile::parse(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("expected hub:owner/name"), "{error}");
        }
        let long = format!("hub:me/{}", "a".repeat(LONGEST));
        assert!(HubFile::parse(&long).is_err());
    }
}
