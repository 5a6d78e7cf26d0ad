//! [`StateDicts`]: which tensors of a file are the model, judging by their names.
//!
//! A file may hold several state dicts: at different keys of a dictionary, as training programs save a model beside its
//! average, or in one list of names with a prefix for each, as PyTorch Lightning saves its modules. Known names identify
//! them, whatever the key and the prefix are. If there are several, the model is preferred to its average, and a teacher to
//! its student; if that does not decide, the user must choose.

use super::key_mapping;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Keys that programs use for the model, the preferred one first.
const USUAL: [&str; 4] = ["model", "state_dict", "module", "teacher"];
/// Words in the keys of averages of weights over training.
const AVERAGES: [&str; 12] = [
    "ema", "avg", "average", "averaged", "averages", "shadow", "swa", "polyak", "momentum", "modelema",
    "emamodel", "ewa",
];
/// Words in the keys of what is no model.
const NO_MODEL: [&str; 7] = ["optimizer", "optimizers", "optim", "scheduler", "scaler", "callbacks", "loops"];
/// Components that wrappers of PyTorch insert into names at any place.
const INSERTED: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// Prefix of DistributedDataParallel, and of averages by `torch.optim.swa_utils`.
const PARALLEL: &str = "module.";
/// Maximum number of wrappers around each other.
const MOST_WRAPPERS: usize = 4;
/// Maximum number of prefixes that are tried in a state dict.
const MOST_PREFIXES: usize = 64;
/// Separates the path of a file from the key of one of its state dicts.
pub(super) const KEY: char = '#';

/// Splits `FILE#KEY`, which names a state dict of a file, into the path and the key. A path that exists as it is has no key.
pub fn split_state_dict(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(KEY) {
        Some((path, key)) if !key.is_empty() && !Path::new(name).exists() => (path, Some(key)),
        _ => (name, None),
    }
}

/// The path `FILE#KEY`, which [`WeightFile::open`](super::WeightFile::open) reads.
pub fn with_state_dict(path: &Path, key: Option<&str>) -> PathBuf {
    match key {
        Some(key) => {
            let mut path = path.as_os_str().to_owned();
            path.push(format!("{KEY}{key}"));
            path.into()
        }
        None => path.into(),
    }
}

/// How the tensors of a file are read.
pub(super) enum Reading<'a> {
    /// The model among them, or the state dict with this key.
    Model(Option<&'a str>),
    /// All tensors with the names in the file.
    AsIs,
}

impl Reading<'_> {
    /// The state dict among `dicts` that is read.
    ///
    /// # Errors
    /// The errors of [`StateDicts::choose`].
    pub(crate) fn choose(&self, dicts: &StateDicts) -> Result<usize, String> {
        match self {
            Self::Model(key) => dicts.choose(*key),
            Self::AsIs => Ok(0),
        }
    }
}

/// A state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StateDict {
    /// The group of tensors that it is part of.
    group: usize,
    /// Prefix of its names.
    prefix: String,
    /// Key by which it can be chosen: that of its group, with the prefix if several prefixes have a model.
    key: String,
    /// Whether its names are known ones.
    known: bool,
}

/// The state dicts of a file.
#[derive(Debug)]
pub(super) struct StateDicts {
    /// Names of tensors by group, without [`INSERTED`].
    groups: Vec<Vec<String>>,
    all: Vec<StateDict>,
}

impl StateDicts {
    /// Finds the state dicts in groups of names; each group has a key, which is empty for the top of a file.
    pub(crate) fn new(groups: Vec<(String, Vec<String>)>) -> Self {
        let (mut all, mut cleaned) = (Vec::new(), Vec::new());
        for (group, (key, names)) in groups.into_iter().enumerate() {
            let names = without_inserted(names);
            let prefixes = known_prefixes(&names);
            let (known, prefixes) = match prefixes.is_empty() {
                true => (false, vec![parallel_prefix(&names)]),
                false => (true, prefixes),
            };
            let several = prefixes.len() > 1;
            for prefix in prefixes {
                let end = prefix.trim_end_matches(['.', '/']);
                let key = match (several && !end.is_empty(), key.is_empty()) {
                    (true, true) => end.into(),
                    (true, false) => format!("{key}.{end}"),
                    (false, _) => key.clone(),
                };
                all.push(StateDict { group, prefix, key, known });
            }
            cleaned.push(names);
        }
        Self { groups: cleaned, all }
    }

    /// Finds the state dicts in groups of members, of which only the names count.
    pub(crate) fn of_members<T>(groups: &[(String, Vec<(String, T)>)]) -> Self {
        let names = |members: &[(String, T)]| members.iter().map(|(name, _)| name.clone()).collect();
        Self::new(groups.iter().map(|(key, members)| (key.clone(), names(members))).collect())
    }

    /// The state dict with the key `wanted`; if `None`, the model.
    ///
    /// # Errors
    /// No such key, or several state dicts of which none is preferred.
    pub(crate) fn choose(&self, wanted: Option<&str>) -> Result<usize, String> {
        let keys = |which: &[usize]| -> String {
            let shown = which.iter().map(|i| self.all[*i].key.as_str()).filter(|key| !key.is_empty());
            shown.map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
        };
        let every: Vec<usize> = (0..self.all.len()).collect();
        if let Some(wanted) = wanted {
            let ends = |i: &&usize| {
                let key = &self.all[**i].key;
                key == wanted || key.strip_suffix(wanted).is_some_and(|before| before.ends_with('.'))
            };
            let exact = every.iter().find(|i| self.all[**i].key == wanted);
            let fits: Vec<&usize> = every.iter().filter(ends).collect();
            return match (exact, fits.as_slice()) {
                (Some(one), _) => Ok(*one),
                (None, [one]) => Ok(**one),
                _ => Err(match keys(&every) {
                    keys if keys.is_empty() => {
                        format!("there is no state dict `{wanted}`: the file holds a single one, at its top")
                    }
                    keys => format!("there is no state dict `{wanted}`: the file holds {keys}"),
                }),
            };
        }
        let candidates: Vec<usize> = match every.iter().any(|i| self.all[*i].known) {
            true => every.into_iter().filter(|i| self.all[*i].known).collect(),
            false => self.large(every),
        };
        let best = candidates.iter().map(|i| rank(&self.all[*i].key)).min().unwrap_or_default();
        let chosen: Vec<usize> = candidates.into_iter().filter(|i| rank(&self.all[*i].key) == best).collect();
        match chosen.as_slice() {
            [one] => Ok(*one),
            [] => Err("no tensors found".into()),
            several => Err(format!(
                "the file holds several state dicts: {}. Choose one with FILE{KEY}KEY",
                keys(several)
            )),
        }
    }

    /// Those of `which` with at least half as many tensors as the largest one, or with a usual key.
    fn large(&self, which: Vec<usize>) -> Vec<usize> {
        let count = |i: &usize| self.groups[self.all[*i].group].len();
        let most = which.iter().map(count).max().unwrap_or(0);
        let usual = |i: &usize| matches!(rank(&self.all[*i].key), (0, place) if place < USUAL.len());
        which.into_iter().filter(|i| count(i) * 2 > most || usual(i)).collect()
    }

    /// The group of tensors that the state dict `chosen` is part of.
    pub(crate) fn group(&self, chosen: usize) -> usize {
        self.all[chosen].group
    }

    /// Its key; empty for one at the top of the file.
    pub(crate) fn key(&self, chosen: usize) -> &str {
        &self.all[chosen].key
    }

    /// Whether its names are known ones.
    pub(crate) fn is_known(&self, chosen: usize) -> bool {
        self.all[chosen].known
    }

    /// For each tensor of its group, the name in the state dict; `None` for a tensor beside it.
    pub(crate) fn names(&self, chosen: usize) -> Vec<Option<String>> {
        let StateDict { group, prefix, .. } = &self.all[chosen];
        self.groups[*group].iter().map(|name| name.strip_prefix(prefix).map(String::from)).collect()
    }

    /// Forgets the tensors at these places, which are sorted, of the group of the state dict `chosen`. Their names in the state
    /// dict; `None` for tensors beside it.
    pub(crate) fn forget(&mut self, chosen: usize, places: &[usize]) -> Vec<Option<String>> {
        let names = self.names(chosen);
        let group = &mut self.groups[self.all[chosen].group];
        places.iter().rev().for_each(|place| drop(group.remove(*place)));
        places.iter().map(|place| names[*place].clone()).collect()
    }

    /// Keys of the other models in the file, which may be chosen instead.
    pub(crate) fn others(&self, chosen: usize) -> Vec<String> {
        let like = |dict: &&StateDict| dict.known == self.all[chosen].known && !dict.key.is_empty();
        let others = self.all.iter().filter(|dict| **dict != self.all[chosen]).filter(like);
        others.filter(|dict| rank(&dict.key).0 < 3).map(|dict| dict.key.clone()).collect()
    }
}

/// Order of preference: usual keys, other keys, averages, what is no model.
fn rank(key: &str) -> (usize, usize) {
    let lower = key.to_ascii_lowercase();
    let has =
        |list: &[&str]| lower.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| list.contains(&word));
    if has(&NO_MODEL) {
        return (3, 0);
    }
    if has(&AVERAGES) {
        return (2, 0);
    }
    let usual = |part: &str| USUAL.iter().position(|usual| *usual == part);
    match lower.rsplit('.').find_map(usual) {
        Some(place) => (0, place),
        None if lower.is_empty() => (0, USUAL.len()),
        None => (1, 0),
    }
}

/// The names without what wrappers insert; unchanged if two would become one.
fn without_inserted(names: Vec<String>) -> Vec<String> {
    let clean = |name: &String| {
        let mut name = name.clone();
        for part in INSERTED.repeat(MOST_WRAPPERS) {
            if let Some(at) = name.find(part).filter(|at| *at == 0 || name[..*at].ends_with('.')) {
                name.replace_range(at..at + part.len(), "");
            }
        }
        name
    };
    let cleaned: Vec<String> = names.iter().map(clean).collect();
    let distinct = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len();
    if distinct(&cleaned) == distinct(&names) { cleaned } else { names }
}

/// The prefixes below which names are known ones, in order of appearance, without those that key mappings have themselves
/// after another one.
fn known_prefixes(names: &[String]) -> Vec<String> {
    let anchors = key_mapping::probes();
    let (mut seen, mut tried) = (BTreeSet::new(), Vec::new());
    for name in names {
        for anchor in anchors.iter().filter(|anchor| name.len() >= anchor.len()) {
            let prefix = name.strip_suffix(anchor.as_str());
            let prefix = prefix.filter(|prefix| prefix.is_empty() || prefix.ends_with(['.', '/']));
            if let Some(prefix) =
                prefix.filter(|prefix| tried.len() < MOST_PREFIXES && !seen.contains(prefix))
            {
                seen.insert(prefix);
                tried.push(prefix);
            }
        }
    }
    let held: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let known = |prefix: &str| key_mapping::knows(&|name| held.contains(format!("{prefix}{name}").as_str()));
    let known: Vec<&str> = tried.into_iter().filter(|prefix| known(prefix)).collect();
    let own = |prefix: &&&str| {
        let mapped = |other: &&str| prefix.strip_prefix(other).is_some_and(key_mapping::starts_prefix);
        !known.iter().any(mapped)
    };
    known.iter().filter(own).map(ToString::to_string).collect()
}

/// The prefix of DistributedDataParallel, if all names have it but those of single values such as counters.
fn parallel_prefix(names: &[String]) -> String {
    let mut prefix = String::new();
    for _ in 0..MOST_WRAPPERS {
        let below = format!("{prefix}{PARALLEL}");
        let outside = |name: &&String| name.starts_with(&prefix) && !name.starts_with(&below);
        let single = |name: &String| !name[prefix.len()..].contains('.');
        let inside = names.iter().any(|name| name.len() > below.len() && name.starts_with(&below));
        if !inside || !names.iter().filter(outside).all(single) {
            break;
        }
        prefix = below;
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIT: [&str; 3] = ["cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"];

    fn below(prefix: &str, names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("{prefix}{name}")).collect()
    }

    fn dicts(groups: &[(&str, Vec<String>)]) -> StateDicts {
        StateDicts::new(groups.iter().map(|(key, names)| (key.to_string(), names.clone())).collect())
    }

    #[test]
    fn any_prefix_before_known_names_is_found() {
        for prefix in [
            "",
            "model.",
            "module.",
            "module.model.",
            "net.encoder.",
            "_orig_mod.model.",
            "model._orig_mod.module.",
            "learner.student_2.vit.",
        ] {
            let mut names = below(prefix, &VIT);
            names.extend(["n_averaged".to_string(), "criterion.weight".to_string()]);
            let dicts = dicts(&[("", names)]);
            let chosen = dicts.choose(None).unwrap();
            let found: Vec<String> = dicts.names(chosen).into_iter().flatten().collect();
            let expected: Vec<&str> = match prefix {
                "" => VIT.iter().copied().chain(["n_averaged", "criterion.weight"]).collect(),
                _ => VIT.to_vec(),
            };
            assert_eq!(found, expected, "{prefix}");
            assert!(dicts.is_known(chosen) && dicts.others(chosen).is_empty());
        }
        let checkpointed =
            ["cls_token", "patch_embed.proj.weight", "blocks.0._checkpoint_wrapped_module.attn.qkv.weight"];
        let dicts = dicts(&[("", below("model.", &checkpointed))]);
        assert_eq!(dicts.names(0).into_iter().flatten().collect::<Vec<_>>(), VIT);
        // A detector, whose backbone alone would be known too.
        let detector = below("backbone.net.", &VIT[1..]);
        let dicts = StateDicts::new(vec![("model".into(), detector.clone())]);
        assert_eq!(
            dicts.names(dicts.choose(None).unwrap()).into_iter().flatten().collect::<Vec<_>>(),
            detector
        );
    }

    #[test]
    fn a_model_is_preferred_to_its_average_and_each_can_be_chosen() {
        let vit = || below("", &VIT);
        for (keys, expected) in [
            (vec!["model", "model_ema"], "model"),
            (vec!["model_ema", "model"], "model"),
            (vec!["ema.module", "net"], "net"),
            (vec!["student", "teacher"], "teacher"),
            (vec!["teacher", "state_dict"], "state_dict"),
            (vec!["optimizer.state", "weights"], "weights"),
            (vec!["ema_state_dict"], "ema_state_dict"),
            (vec!["emails", "ema"], "emails"),
        ] {
            let groups: Vec<_> = keys.iter().map(|key| (*key, vit())).collect();
            let dicts = dicts(&groups);
            assert_eq!(dicts.key(dicts.choose(None).unwrap()), expected, "{keys:?}");
            for key in &keys {
                assert_eq!(dicts.key(dicts.choose(Some(key)).unwrap()), *key);
            }
        }
        let both = dicts(&[("model", vit()), ("model_ema", vit())]);
        assert_eq!(both.others(both.choose(None).unwrap()), ["model_ema"]);
        let error = both.choose(Some("ema")).unwrap_err();
        assert!(error.contains("`ema`") && error.contains("`model`, `model_ema`"), "{error}");
        let flat = dicts(&[("state_dict", [below("model.", &VIT), below("ema_model.", &VIT)].concat())]);
        let chosen = flat.choose(None).unwrap();
        assert_eq!(
            (flat.key(chosen), flat.others(chosen)),
            ("state_dict.model", vec!["state_dict.ema_model".into()])
        );
        assert_eq!(flat.key(flat.choose(Some("ema_model")).unwrap()), "state_dict.ema_model");
        assert_eq!(flat.names(chosen).into_iter().flatten().count(), VIT.len());
    }

    #[test]
    fn what_names_do_not_decide_is_asked() {
        let two = dicts(&[("", [below("encoder_q.", &VIT), below("encoder_k.", &VIT)].concat())]);
        let error = two.choose(None).unwrap_err();
        assert!(error.contains("`encoder_q`, `encoder_k`") && error.contains("FILE#KEY"), "{error}");
        let beside = dicts(&[("", [below("", &VIT), below("momentum_encoder.", &VIT)].concat())]);
        let chosen = beside.choose(None).unwrap();
        assert_eq!((beside.key(chosen), beside.others(chosen)), ("", vec!["momentum_encoder".into()]));
        let two = dicts(&[("encoder", below("module.", &VIT)), ("target_encoder", below("module.", &VIT))]);
        assert!(two.choose(None).unwrap_err().contains("`encoder`, `target_encoder`"));
        assert_eq!(two.key(two.choose(Some("target_encoder")).unwrap()), "target_encoder");
    }

    #[test]
    fn unknown_names_are_taken_by_key_and_number() {
        let net = || (0..9).map(|i| format!("module.layer.{i}.weight")).collect::<Vec<_>>();
        let few = || vec!["loss".to_string()];
        for (keys, expected) in [
            (vec![("net", net()), ("", few()), ("metrics", few())], "net"),
            (vec![("model", few()), ("net", net())], "model"),
            (vec![("net", net()), ("net_ema", net())], "net"),
        ] {
            let dicts = dicts(&keys);
            assert_eq!(dicts.key(dicts.choose(None).unwrap()), expected);
        }
        let two = dicts(&[("generator", net()), ("discriminator", net())]);
        assert!(two.choose(None).unwrap_err().contains("`generator`, `discriminator`"));
        let mut counted = net();
        counted.insert(0, "n_averaged".into());
        let counted = dicts(&[("", counted)]);
        assert_eq!(counted.names(0)[..2], [None, Some("layer.0.weight".to_string())]);
        let mixed = dicts(&[("", vec!["module.weight".into(), "head.weight".into()])]);
        assert_eq!(mixed.names(0), [Some("module.weight".to_string()), Some("head.weight".to_string())]);
    }
}
