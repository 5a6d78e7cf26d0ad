//! Settings of the Hugging Face Hub, from the environment variables that Python's `huggingface_hub` reads.

use crate::weights::HubSettings;
use std::path::PathBuf;

/// Reads `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN` and
/// `HF_HUB_OFFLINE`, which mean what they mean in Python. With `offline`, the Hub is not contacted in any case.
pub fn hub_settings(offline: bool) -> HubSettings {
    let variable = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    HubSettings {
        endpoint: std::env::var("HF_ENDPOINT").unwrap_or_else(|_| HubSettings::ENDPOINT.into()),
        cache: cache(&variable_of),
        token: token(&variable_of),
        offline: offline || ["1", "true", "yes", "on"].contains(&variable.as_str()),
    }
}

/// The value of an environment variable that is set and not blank.
fn variable_of(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Folder of the cache, given the environment.
fn cache(variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let given = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
    given.map_or_else(|| home(variable).join("hub"), |path| expanded(&path, variable))
}

/// Folder of the Hugging Face libraries, given the environment.
fn home(variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match (variable("HF_HOME"), variable("XDG_CACHE_HOME")) {
        (Some(home), _) => expanded(&home, variable),
        (None, Some(cache)) => expanded(&cache, variable).join("huggingface"),
        (None, None) => expanded("~/.cache/huggingface", variable),
    }
}

/// A path with the home folder in place of a leading `~` and the values of variables in place of `$NAME` and `${NAME}`, as
/// Python expands it. What is not set stays as it is.
fn expanded(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let user = variable("HOME").or_else(|| variable("USERPROFILE"));
    let path = match (path.strip_prefix('~'), user) {
        (Some(rest), Some(user)) if rest.is_empty() || rest.starts_with(['/', '\\']) => {
            user.trim_end_matches('/').to_string() + rest
        }
        _ => path.into(),
    };
    let (mut whole, mut rest) = (String::new(), path.as_str());
    while let Some(at) = rest.find('$') {
        whole += &rest[..at];
        let after = &rest[at + 1..];
        let plain = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, length) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => (&after[..plain], plain),
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => whole += &value,
            None => whole += &rest[at..=at + length],
        }
        rest = &after[length..];
    }
    (whole + rest).into()
}

/// The token in the environment, or the one that `hf auth login` has stored.
fn token(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let file = || {
        let path = variable("HF_TOKEN_PATH")
            .map_or_else(|| home(variable).join("token"), |path| expanded(&path, variable));
        std::fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(file)?;
    Some(token.trim().to_string()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
    }

    #[test]
    fn paths_are_expanded_as_in_python() {
        let variable = environment(&[("HOME", "/home/me"), ("D", "data"), ("D2", "/x")]);
        for (path, expected) in [
            ("~", "/home/me"),
            ("~/hf", "/home/me/hf"),
            ("~you/hf", "~you/hf"),
            ("/a/~/b", "/a/~/b"),
            ("$D/hf", "data/hf"),
            ("${D}hf", "datahf"),
            ("~/$D/${D2}", "/home/me/data//x"),
            ("$NONE/${NONE}/$", "$NONE/${NONE}/$"),
            ("${D", "${D"),
            ("ä$D", "ädata"),
        ] {
            assert_eq!(expanded(path, &variable), PathBuf::from(expected), "{path}");
        }
        assert_eq!(expanded("~/hf", &environment(&[])), PathBuf::from("~/hf"));
    }

    #[test]
    fn the_cache_and_the_token_lie_where_python_looks() {
        for (set, expected) in [
            (&[("HF_HOME", "~/x")][..], "/home/me/x/hub"),
            (&[("HF_HUB_CACHE", "~/c"), ("HF_HOME", "/h")], "/home/me/c"),
            (&[("HUGGINGFACE_HUB_CACHE", "$HOME/c")], "/home/me/c"),
            (&[("XDG_CACHE_HOME", "~/.c")], "/home/me/.c/huggingface/hub"),
            (&[], "/home/me/.cache/huggingface/hub"),
        ] {
            let all = [set, &[("HOME", "/home/me")]].concat();
            assert_eq!(cache(&environment(&all)), PathBuf::from(expected), "{set:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "hf_one\n").unwrap();
        for name in ["HF_HOME", "HF_TOKEN_PATH"] {
            let path = if name == "HF_HOME" { "~" } else { "~/token" };
            assert_eq!(token(&environment(&[("HOME", place), (name, path)])).as_deref(), Some("hf_one"));
        }
        assert_eq!(token(&environment(&[("HF_TOKEN", " hf_two ")])).as_deref(), Some("hf_two"));
    }
}
