//! The meaning of the values of a mask: ids, colours, or the encoding of the full ADE20K release.

use super::png::{StoredPixels, StoredValues};
use crate::files;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The label of pixels that training and evaluation ignore.
pub const IGNORE: u16 = u16::MAX;

/// Marks undefined values in a table; no label is this high.
const UNKNOWN: u16 = u16::MAX - 1;

/// The encoding of labels in the masks of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelEncoding {
    /// Grey values or palette indices.
    Ids(LabelTable),
    /// RGB pixels by a table of colours; [`IGNORE`] for those without a class.
    Colours(BTreeMap<[u8; 3], u16>),
    /// RGB pixels of ADE20K's full release: the number of an object class is ⌊R / 10⌋ · 256 + G, 0 for none. The file
    /// `<name>.json` next to `<name>_seg.png` gives the name of each number; names that are not a class are ignored.
    Ade20k(BTreeMap<String, u16>),
}

/// A label for each id.
#[derive(Clone, PartialEq, Eq)]
pub struct LabelTable {
    table: Vec<u16>,
    /// The contents of the table, for messages.
    known: String,
}

impl std::fmt::Debug for LabelTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.known)
    }
}

impl LabelTable {
    /// An encoding with the `labels` of ids; labels may be [`IGNORE`]. Later pairs replace earlier ones.
    ///
    /// # Errors
    /// An id that does not fit into a PNG, or the label that marks undefined ids.
    pub fn new(labels: impl IntoIterator<Item = (u32, u16)>) -> Result<Self, String> {
        let mut table = vec![UNKNOWN; 1 << 16];
        for (id, label) in labels {
            match table.get_mut(id as usize) {
                Some(place) if label != UNKNOWN => *place = label,
                _ => return Err(format!("id {id} of label {label} is outside of 16 bits")),
            }
        }
        let ids: Vec<usize> = (0..table.len()).filter(|id| table[*id] != UNKNOWN).collect();
        let mut runs: Vec<(usize, usize)> = vec![];
        for id in ids {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == id => *last = id,
                _ => runs.push((id, id)),
            }
        }
        let run = |(first, last): &(usize, usize)| match first == last {
            true => first.to_string(),
            false => format!("{first}–{last}"),
        };
        let known = runs.iter().map(run).collect::<Vec<_>>().join(", ");
        Ok(Self { table, known })
    }
}

/// The part of ADE20K's annotation that names object classes.
#[derive(Deserialize)]
struct Document {
    annotation: Objects,
}
#[derive(Deserialize)]
struct Objects {
    object: Vec<Named>,
}
#[derive(Deserialize)]
struct Named {
    name: String,
    name_ndx: u32,
}

impl LabelEncoding {
    /// The encoding in which label `l` is `labels[l]`.
    pub(in crate::data) fn relabelled(&self, labels: &[u32]) -> Self {
        // There are fewer classes than 16 bits.
        let other = |label: u16| labels.get(usize::from(label)).map_or(label, |label| *label as u16);
        match self {
            Self::Ids(ids) => {
                let table = ids.table.iter().map(|label| other(*label)).collect();
                Self::Ids(LabelTable { table, known: ids.known.clone() })
            }
            Self::Colours(table) => {
                Self::Colours(table.iter().map(|(key, label)| (*key, other(*label))).collect())
            }
            Self::Ade20k(table) => {
                Self::Ade20k(table.iter().map(|(key, label)| (key.clone(), other(*label))).collect())
            }
        }
    }

    /// The labels of a mask that lies at `path`.
    ///
    /// # Errors
    /// Pixels of another type than the encoding reads, or an undefined value.
    pub(in crate::data) fn labels(&self, stored: &StoredPixels, path: &Path) -> Result<Vec<u16>, String> {
        let place = |at: usize| format!("at column {}, row {}", at % stored.width, at / stored.width);
        match (self, &stored.pixels) {
            (Self::Ids(ids), StoredValues::Numbers(pixels)) => {
                let labels: Vec<u16> = pixels.iter().map(|v| ids.table[usize::from(*v)]).collect();
                match labels.iter().position(|label| *label == UNKNOWN) {
                    None => Ok(labels),
                    Some(at) => Err(format!(
                        "id {} {} is not among those of the data set: {}",
                        pixels[at],
                        place(at),
                        ids.known
                    )),
                }
            }
            (Self::Colours(table), StoredValues::Colours(pixels)) => {
                let mut labels = Vec::with_capacity(pixels.len());
                let mut last = None;
                for (at, colour) in pixels.iter().enumerate() {
                    // Neighbouring pixels usually have the same value.
                    let label = match last {
                        Some((same, label)) if same == *colour => label,
                        _ => *table.get(colour).ok_or_else(|| {
                            let [r, g, b] = colour;
                            format!("colour ({r}, {g}, {b}) {} is not in the data set's table", place(at))
                        })?,
                    };
                    last = Some((*colour, label));
                    labels.push(label);
                }
                Ok(labels)
            }
            (Self::Ade20k(classes), StoredValues::Colours(pixels)) => {
                let numbers = pixels.iter().map(|[r, g, _]| u32::from(r / 10) * 256 + u32::from(*g));
                let table = numbered(classes, path)?;
                let label = |(at, number): (usize, u32)| {
                    table.get(&number).copied().ok_or_else(|| {
                        format!("object class {number} {} has no name in the file beside it", place(at))
                    })
                };
                numbers.enumerate().map(label).collect()
            }
            (Self::Ids(_), StoredValues::Colours(_)) => {
                Err("has RGB colours, but the data set's masks are ids: grey, or indices of a palette".into())
            }
            (_, StoredValues::Numbers(_)) => {
                Err("has grey values or a palette, but the data set's masks are RGB colours".into())
            }
        }
    }
}

/// Labels by the numbers that the annotation beside a mask of ADE20K's full release gives to names.
fn numbered(classes: &BTreeMap<String, u16>, mask: &Path) -> Result<BTreeMap<u32, u16>, String> {
    let beside = with_ending(mask, "_seg.png", ".json").ok_or("its name does not end with `_seg.png`")?;
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", beside.display());
    let bytes = files::read(&beside).map_err(|e| fail(&e))?;
    // Names are ASCII; comments of annotators are in any encoding.
    let text = String::from_utf8_lossy(&bytes);
    let document: Document =
        serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| fail(&e))?;
    let mut table = BTreeMap::from([(0, IGNORE)]);
    for Named { name, name_ndx } in document.annotation.object {
        let label = classes.get(name.trim()).copied().unwrap_or(IGNORE);
        if table.insert(name_ndx, label).is_some_and(|other| other != label) {
            return Err(fail(&format!("object class {name_ndx} has two names")));
        }
    }
    Ok(table)
}

/// `path` with another ending; `None` when it does not end with `from`, in upper or lower case.
pub(in crate::data) fn with_ending(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (name, ending) = name.split_at_checked(name.len().checked_sub(from.len())?)?;
    ending.eq_ignore_ascii_case(from).then(|| path.with_file_name(format!("{name}{to}")))
}
