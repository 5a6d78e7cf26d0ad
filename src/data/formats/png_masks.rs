//! Format `png_masks`: one PNG of class ids beside each image (ADE20K, Cityscapes, CamVid, Pascal VOC).
//!
//! Images and masks are in folder trees of the same structure; the name of a mask is that of its image with another
//! ending. Classes are those of the manifest's list, or of the split's own. `encoding` and the keys next to it give the
//! meaning of the values. A mask is read together with its image; indexing only checks that it exists.

use super::super::{Annotation, Category, DataError, IGNORE, Index, LabelEncoding, LabelTable, RasterFile};
use super::format::{Format, SplitSource};
use super::pairs::Pairs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// `format = "png_masks"` of a manifest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PngMasks {
    /// Folder of the masks, relative to the data root.
    pub masks: PathBuf,
    /// The endings of the file names of images and of masks. Files with another ending are not images of the
    /// split.
    pub suffix: [String; 2],
    /// A file with the names of the split's images, one per line, without ending; all images when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<PathBuf>,
    /// The encoding of the pixels of a mask.
    #[serde(default)]
    pub encoding: PixelEncoding,
    /// `ids`: 0 means unlabelled, and 1 is the first class.
    #[serde(default)]
    pub reduce_zero_label: bool,
    /// `ids`: ids of pixels that training and evaluation ignore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<u32>,
    /// `ids`: the label of each id; when absent, the id is the label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, u16>,
    /// `colours`: red, green and blue of each class, in label order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub colours: Vec<[u8; 3]>,
    /// `colours`: colours of pixels that training and evaluation ignore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_colours: Vec<[u8; 3]>,
    /// `ade20k`: names of objects that belong to a class of another name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, String>,
    /// Class names in label order; those of the manifest when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// The encoding of the pixels of a mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PixelEncoding {
    /// Grey values of 8 or 16 bits, or indices of a palette.
    #[default]
    Ids,
    /// RGB by a table.
    Colours,
    /// RGB of ADE20K's full release.
    Ade20k,
}

impl Format for PngMasks {
    const NAME: &'static str = "png_masks";

    fn check(&self, class_names: Option<&[String]>) -> Result<(), String> {
        self.label_encoding(self.class_names(class_names)).map(drop)
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let names = self.class_names(split.class_names);
        let (encoding, ids) = self.label_encoding(names).map_err(|e| DataError::file(&split.folder(), e))?;
        let encoding = Arc::new(encoding);
        let list = self.list.as_deref();
        let (pairs, ignored) =
            Pairs { maps: &self.masks, suffix: &self.suffix, list, what: "mask" }.find(split)?;
        let entry = |(image, path)| {
            let mask = RasterFile { path, encoding: encoding.clone() };
            split.entry(image, Annotation::Raster(mask))
        };
        let category = |id| Category { id: u64::from(id).into(), frequency: None };
        Ok(Index {
            entries: pairs.into_iter().map(entry).collect(),
            classes: Some(names.to_vec()),
            categories: ids.into_iter().map(category).collect(),
            ignored,
            ..Index::default()
        })
    }
}

impl PngMasks {
    /// Class names of the split, in label order.
    fn class_names<'a>(&'a self, manifest: Option<&'a [String]>) -> &'a [String] {
        if self.names.is_empty() { manifest.unwrap_or_default() } else { &self.names }
    }

    /// The meaning of the values, and the value of each label.
    fn label_encoding(&self, names: &[String]) -> Result<(LabelEncoding, Vec<u32>), String> {
        let count = names.len();
        if count == 0 {
            return Err(
                "format png_masks needs class names: give the manifest `classes`, or the split `names`"
                    .into(),
            );
        }
        if count >= usize::from(IGNORE) - 1 {
            return Err(format!("{count} classes are too many for a mask"));
        }
        self.unused()?;
        let label = |k: usize| k as u16; // fits, by the check above
        match self.encoding {
            PixelEncoding::Ids => self.ids(names),
            PixelEncoding::Colours => {
                let found = self.colours.len();
                if found != count {
                    return Err(format!("there are {found} colours for {count} classes"));
                }
                let labelled = self.colours.iter().enumerate().map(|(k, colour)| (*colour, label(k)));
                let ignored = self.ignore_colours.iter().map(|colour| (*colour, IGNORE));
                let mut table = BTreeMap::new();
                for (colour, label) in labelled.chain(ignored) {
                    if table.insert(colour, label).is_some() {
                        return Err(format!("colour {colour:?} occurs twice"));
                    }
                }
                Ok((LabelEncoding::Colours(table), (0..count as u32).collect()))
            }
            PixelEncoding::Ade20k => {
                let mut table: BTreeMap<String, u16> =
                    names.iter().enumerate().map(|(k, name)| (name.clone(), label(k))).collect();
                for (alias, name) in &self.aliases {
                    let Some(label) = table.get(name).copied() else {
                        return Err(format!("alias `{alias}` of `{name}`, which is not a class"));
                    };
                    table.insert(alias.clone(), label);
                }
                Ok((LabelEncoding::Ade20k(table), (1..=count as u32).collect()))
            }
        }
    }

    fn ids(&self, names: &[String]) -> Result<(LabelEncoding, Vec<u32>), String> {
        let count = names.len();
        let mut pairs: Vec<(u32, u16)> = match (self.classes.is_empty(), self.reduce_zero_label) {
            (false, true) => return Err("give `classes` or `reduce_zero_label`, not both".into()),
            (true, shifted) => {
                (0..count as u16).map(|label| (u32::from(label) + u32::from(shifted), label)).collect()
            }
            (false, false) => {
                let pair = |(id, label): (&String, &u16)| match id.parse::<u32>() {
                    Ok(id) if usize::from(*label) < count => Ok((id, *label)),
                    Ok(_) => {
                        Err(format!("`classes`: id {id} has label {label}, but there are {count} classes"))
                    }
                    Err(_) => Err(format!("`classes`: `{id}` is not an id")),
                };
                self.classes.iter().map(pair).collect::<Result<_, _>>()?
            }
        };
        pairs.sort_unstable();
        let mut ids = vec![None; count];
        for (id, label) in pairs.iter().rev() {
            ids[usize::from(*label)] = Some(*id); // the lowest of several
        }
        let missing = ids.iter().position(Option::is_none);
        if let Some(label) = missing {
            return Err(format!("`classes`: no id has label {label} (`{}`)", names[label]));
        }
        if let Some(id) = self.ignore.iter().find(|id| pairs.iter().any(|(other, _)| other == *id)) {
            return Err(format!("id {id} is both ignored and a class"));
        }
        pairs.extend(self.ignore.iter().map(|id| (*id, IGNORE)));
        if self.reduce_zero_label {
            pairs.push((0, IGNORE));
        }
        Ok((LabelEncoding::Ids(LabelTable::new(pairs)?), ids.into_iter().flatten().collect()))
    }

    /// Checks that no key of another encoding is set.
    fn unused(&self) -> Result<(), String> {
        let given = [
            ("reduce_zero_label", PixelEncoding::Ids, self.reduce_zero_label),
            ("ignore", PixelEncoding::Ids, !self.ignore.is_empty()),
            ("classes", PixelEncoding::Ids, !self.classes.is_empty()),
            ("colours", PixelEncoding::Colours, !self.colours.is_empty()),
            ("ignore_colours", PixelEncoding::Colours, !self.ignore_colours.is_empty()),
            ("aliases", PixelEncoding::Ade20k, !self.aliases.is_empty()),
        ];
        match given.iter().find(|(_, encoding, given)| *given && *encoding != self.encoding) {
            Some((key, ..)) => Err(format!("`{key}` does not belong to encoding {:?}", self.encoding)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
