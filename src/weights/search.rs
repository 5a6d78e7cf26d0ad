//! [`Search`]: the state dicts in a pickle, at any key of its dictionaries, objects and modules.

use super::entry::{Located, Stored, Unusable};
use super::pickle::{Pickle, Place, Value};
use super::state_dicts::StateDicts;
use std::collections::BTreeSet;

/// Maximum nesting depth of modules.
const MOST_LEVELS: usize = 64;
/// Maximum number of modules in a file; a shared module counts each time.
const MOST_MODULES: usize = 100_000;
/// Maximum nesting depth of state dicts in dictionaries and objects.
const DEEPEST: usize = 5;

/// Members of a state dict: their names and places.
pub(super) type Members = Vec<(String, Place)>;

/// The search for state dicts.
pub(super) struct Search<'p> {
    pickle: &'p Pickle<'p>,
    /// Whether the value at a place is a tensor.
    is_tensor: fn(&Pickle, Place) -> bool,
    /// Places that were visited: a dictionary may be shared.
    seen: BTreeSet<Place>,
    modules: usize,
    /// State dicts with their keys, joined by points.
    pub found: Vec<(String, Members)>,
}

impl<'p> Search<'p> {
    /// A search in `pickle` for the values that `is_tensor` accepts.
    pub(crate) fn new(pickle: &'p Pickle<'p>, is_tensor: fn(&Pickle, Place) -> bool) -> Self {
        Self { pickle, is_tensor, seen: BTreeSet::new(), modules: 0, found: vec![] }
    }

    /// Finds the state dicts at and below `place`, whose key is `key`.
    pub(crate) fn visit(&mut self, place: Place, key: &str, level: usize) -> Result<(), String> {
        if level > DEEPEST || !self.seen.insert(place) {
            return Ok(());
        }
        let pickle = self.pickle;
        let state = match pickle.value(place) {
            Value::Call { state: Some(state), .. } => pickle.named(*state).unwrap_or_default(),
            _ => vec![],
        };
        let members = pickle.named(place).unwrap_or_default();
        if state.iter().any(|(name, _)| *name == "_parameters" || *name == "_modules") {
            let mut tensors = Vec::new();
            walk(pickle, place, "", 0, &mut self.modules, &mut tensors)?;
            tensors.retain(|(_, place)| (self.is_tensor)(pickle, *place));
            if !tensors.is_empty() {
                self.found.push((key.into(), tensors));
            }
            return Ok(());
        }
        let (tensors, others): (Vec<_>, Vec<_>) =
            members.into_iter().chain(state).partition(|(_, place)| (self.is_tensor)(pickle, *place));
        if !tensors.is_empty() {
            let tensors = tensors.into_iter().map(|(name, place)| (name.to_string(), place)).collect();
            self.found.push((key.into(), tensors));
        }
        for (name, place) in others {
            let below = if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
            self.visit(place, &below, level + 1)?;
        }
        Ok(())
    }
}

/// Collects the parameters and buffers of a module and its submodules.
fn walk(
    pickle: &Pickle,
    place: Place,
    prefix: &str,
    level: usize,
    modules: &mut usize,
    found: &mut Vec<(String, Place)>,
) -> Result<(), String> {
    *modules += 1;
    if level > MOST_LEVELS || *modules > MOST_MODULES {
        return Err(format!(
            "modules are nested more than {MOST_LEVELS} deep, or there are more than {MOST_MODULES}"
        ));
    }
    let Value::Call { state: Some(state), .. } = pickle.value(place) else { return Ok(()) };
    for (key, members) in pickle.named(*state).unwrap_or_default() {
        for (name, member) in pickle.named(members).unwrap_or_default() {
            match key {
                "_parameters" | "_buffers" => found.push((format!("{prefix}{name}"), member)),
                "_modules" => walk(pickle, member, &format!("{prefix}{name}."), level + 1, modules, found)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Finds the values of `members`, the group of the state dict `chosen` among `dicts`, with `read`: a tensor, the reason why it
/// is of no use, or an error of the whole file. What is of no use is not among the `dicts` afterwards.
///
/// # Errors
/// Those of `read`.
pub(super) fn locate(
    members: &[(String, Place)],
    located: &mut Located,
    (dicts, chosen): (&mut StateDicts, usize),
    mut read: impl FnMut(&str, Place) -> Result<Result<Stored, String>, String>,
) -> Result<(), String> {
    let (mut places, mut reasons) = (Vec::new(), Vec::new());
    for (at, (name, place)) in members.iter().enumerate() {
        match read(name, *place).map_err(|e| format!("tensor `{name}`: {e}"))? {
            Ok(stored) => located.stored.push(stored),
            Err(reason) => {
                places.push(at);
                reasons.push((name, reason));
            }
        }
    }
    let names = dicts.forget(chosen, &places);
    located.unusable = std::iter::zip(names, reasons)
        .map(|(name, (stated, reason))| match name {
            Some(name) => Unusable::new(name, reason),
            None => Unusable { name: stated.clone(), reason, beside: true },
        })
        .collect();
    Ok(())
}
