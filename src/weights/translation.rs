//! [`Translation`]: the tensors of a file in other programs' names, as ours.

use super::WeightEntry;
use super::names::{ALL, DEIT_III, Names};
use candle_core::{Result, Tensor};

/// Named tensors, in order.
type Tensors = Vec<(String, Tensor)>;
/// A tensor of the file by its place, and which third of ours it is.
type Part = (Option<usize>, usize);

/// Our tensors, each made of one or three of the file's.
#[derive(Debug)]
pub(super) struct Translation {
    title: &'static str,
    entries: Vec<WeightEntry>,
    /// For each of `entries` the tensors of the file, to be joined along the first dimension.
    parts: Vec<Vec<usize>>,
    /// Tensors of the file that are read over.
    unread: Vec<String>,
}

impl Translation {
    /// `None` when the names are ours, or nobody's that we know.
    ///
    /// # Errors
    /// Names of two programs, a tensor with no name here, queries without keys or values, two tensors of one name.
    pub fn of(entries: &[WeightEntry]) -> std::result::Result<Option<Self>, String> {
        let fits = |names: &'static Names| Some((names, names.prefix(entries)?));
        let found: Vec<(&Names, &str)> = ALL.iter().filter_map(fits).collect();
        match found.as_slice() {
            [] if lacks_class_alone(entries) => Self::new(&DEIT_III, "", entries).map(Some),
            [] => Ok(None),
            [(names, prefix)] => Self::new(names, prefix, entries).map(Some),
            [(first, _), (second, _), ..] => Err(format!(
                "the names are those of {} and of {}: which are meant is not clear",
                first.title, second.title
            )),
        }
    }

    fn new(names: &Names, prefix: &str, entries: &[WeightEntry]) -> std::result::Result<Self, String> {
        let title = names.title;
        let (mut taken, mut unread): (Vec<(String, Vec<Part>)>, _) = (Vec::new(), Vec::new());
        for (i, entry) in entries.iter().enumerate() {
            let Some((name, third)) = names.ours(prefix, &entry.name) else {
                if names.ignores(prefix, &entry.name) {
                    unread.push(entry.name.clone());
                    continue;
                }
                return Err(format!("`{}` has no place in a ViT in the names of {title}", entry.name));
            };
            match taken.iter_mut().find(|(known, _)| *known == name) {
                Some((_, parts)) => parts.push((third, i)),
                None => taken.push((name, vec![(third, i)])),
            }
        }
        let mut translation = Self { title, entries: vec![], parts: vec![], unread };
        for (name, mut parts) in taken {
            parts.sort_unstable();
            let thirds: Vec<Option<usize>> = parts.iter().map(|(third, _)| *third).collect();
            if thirds != [None] && thirds != [Some(0), Some(1), Some(2)] {
                let held: Vec<&str> = parts.iter().map(|(_, i)| entries[*i].name.as_str()).collect();
                return Err(format!("`{name}` cannot be made of `{}` alone", held.join("`, `")));
            }
            let parts: Vec<usize> = parts.into_iter().map(|(_, i)| i).collect();
            let first = &entries[parts[0]];
            if let Some(other) = parts.iter().find(|i| entries[**i].shape != first.shape) {
                let other = &entries[*other];
                return Err(format!(
                    "`{}` has shape {:?} and `{}` {:?}",
                    first.name, first.shape, other.name, other.shape
                ));
            }
            let mut shape = first.shape.clone();
            if let Some(rows) = shape.first_mut() {
                *rows = rows.saturating_mul(parts.len());
            }
            if lacks_class(&name, &shape) {
                shape[1] += 1;
            }
            translation.entries.push(WeightEntry { name, shape, dtype: first.dtype });
            translation.parts.push(parts);
        }
        Ok(translation)
    }

    pub fn title(&self) -> &'static str {
        self.title
    }

    /// Tensors of the file that are read over, by its names.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// Ours.
    pub fn entries(&self) -> &[WeightEntry] {
        &self.entries
    }

    /// `tensors` are those of the file, in its order.
    pub fn apply(&self, tensors: &[(String, Tensor)]) -> Result<Tensors> {
        let joined = |(entry, parts): (&WeightEntry, &Vec<usize>)| {
            let tensor = match parts.as_slice() {
                [one] if lacks_class(&entry.name, tensors[*one].1.dims()) => {
                    tensors[*one].1.pad_with_zeros(1, 1, 0)?
                }
                [one] => tensors[*one].1.clone(),
                parts => Tensor::cat(&parts.iter().map(|i| &tensors[*i].1).collect::<Vec<_>>(), 0)?,
            };
            Ok((entry.name.clone(), tensor))
        };
        self.entries.iter().zip(&self.parts).map(joined).collect()
    }
}

/// Whether `name` is a table of positions without one for the class token, as in DeiT III: none adds nothing. Of n² and
/// n² + 1 rows only one can be a square.
fn lacks_class(name: &str, shape: &[usize]) -> bool {
    let square = |n: usize| n > 1 && n.isqrt() * n.isqrt() == n;
    name == "pos_embed" && shape.len() == 3 && square(shape[1])
}

/// Whether names that are ours come with such a table: layer scale tells DeiT III from others, whose images need be no
/// squares.
fn lacks_class_alone(entries: &[WeightEntry]) -> bool {
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    has("cls_token") && has("blocks.0.gamma_1") && entries.iter().any(|e| lacks_class(&e.name, &e.shape))
}

/// `tensors` of ours in the names of another program. Tensors that it has no name for are returned by name.
pub(super) fn renamed(names: &Names, tensors: &[(String, Tensor)]) -> Result<(Tensors, Vec<String>)> {
    let (mut renamed, mut left) = (Vec::new(), Vec::new());
    for (name, tensor) in tensors {
        let theirs = names.theirs(name);
        if theirs.is_empty() {
            left.push(name.clone());
        }
        for (theirs, third) in theirs {
            let tensor = match third {
                None => tensor.clone(),
                Some(third) => {
                    let rows = tensor.dim(0)? / 3;
                    tensor.narrow(0, third * rows, rows)?.contiguous()?
                }
            };
            renamed.push((theirs, tensor));
        }
    }
    Ok((renamed, left))
}
