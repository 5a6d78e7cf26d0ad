//! What a search for a layout of files returns.

/// What the images of a folder are labelled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labelling {
    /// A class for each image.
    Classes,
    /// Boxes, and perhaps outlines, of objects.
    Objects,
    /// A class for each pixel.
    Pixels,
}

/// The use of a part of a data set that the name of its folder or file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// To train on.
    Train,
    /// To choose by.
    Val,
    /// To report.
    Test,
}

impl Purpose {
    /// The name of the split in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// The purpose of a folder of this name: one of the usual spellings, in any case, with or without a year behind it.
    pub(super) fn of_folder(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let word = name.trim_end_matches(|c: char| c.is_ascii_digit() || "_-. ".contains(c));
        match word {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Val),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    /// The purpose of a file of this name: that of the only word in it that tells one.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        let words = name.split(|c: char| !c.is_alphanumeric());
        let mut found: Vec<Self> = words.filter_map(Self::of_folder).collect();
        found.dedup();
        if let [purpose] = found[..] { Some(purpose) } else { None }
    }
}

/// Images with their annotations, as keys of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the part is for; `None` for all of the data.
    pub purpose: Option<Purpose>,
    /// Folder of the images, relative to the root, with `/`.
    pub images: String,
    /// Keys and values of the table `annotations`, in TOML.
    pub annotations: Vec<(&'static str, String)>,
}

/// A layout that the files have.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The name of the layout: `class folders`.
    pub layout: &'static str,
    /// What it says of an image.
    pub labelling: Labelling,
    /// The files that show it, in words.
    pub evidence: String,
    /// The images with their annotations: either all of the data, or at least those to train on.
    pub parts: Vec<Part>,
    /// What is left out, and what was assumed.
    pub notes: Vec<String>,
}

/// The result of looking for one layout.
#[derive(Clone, Debug)]
pub(super) enum Search {
    /// The files have it.
    Found(Fit),
    /// They do not, for this reason.
    Absent(String),
}

/// A string as a value of TOML.
pub fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Checks that no purpose occurs twice, and that there is something to train on if there are purposes at all. `name` tells the
/// name of the folder or file of a part.
///
/// # Errors
/// The reason why the parts are no data set.
pub(super) fn check_purposes(parts: &[(Option<Purpose>, String)]) -> Result<(), String> {
    for (place, (purpose, name)) in parts.iter().enumerate() {
        if let Some((_, other)) = parts[..place].iter().find(|(other, _)| other == purpose) {
            let what = purpose.map_or("all of the data", Purpose::as_str);
            return Err(format!("`{other}` and `{name}` are both {what}; leave one of them there"));
        }
    }
    let names: Vec<String> = parts.iter().map(|(_, name)| format!("`{name}`")).collect();
    match parts.iter().any(|(purpose, _)| matches!(purpose, None | Some(Purpose::Train))) {
        true => Ok(()),
        false => Err(format!("{} but nothing to train on (`train`)", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_spellings_of_splits() {
        for (name, purpose) in [
            ("train", Some(Purpose::Train)),
            ("Training", Some(Purpose::Train)),
            ("train2017", Some(Purpose::Train)),
            ("train_2017", Some(Purpose::Train)),
            ("VAL", Some(Purpose::Val)),
            ("valid", Some(Purpose::Val)),
            ("validation", Some(Purpose::Val)),
            ("test", Some(Purpose::Test)),
            ("trainer", None),
            ("2017", None),
            ("valve", None),
        ] {
            assert_eq!(Purpose::of_folder(name), purpose, "{name}");
        }
        for (name, purpose) in [
            ("instances_train2017", Some(Purpose::Train)),
            ("annotations-val", Some(Purpose::Val)),
            ("_annotations.coco", None),
            ("train_val", None),
            ("train_training", Some(Purpose::Train)),
        ] {
            assert_eq!(Purpose::of_file(name), purpose, "{name}");
        }
    }

    #[test]
    fn purposes_are_told_once_and_include_training() {
        let check = |parts: &[(Option<Purpose>, &str)]| {
            let parts: Vec<_> = parts.iter().map(|(purpose, name)| (*purpose, name.to_string())).collect();
            check_purposes(&parts)
        };
        assert!(check(&[(None, "a")]).is_ok());
        assert!(check(&[(Some(Purpose::Train), "a"), (Some(Purpose::Val), "b")]).is_ok());
        let twice = check(&[(Some(Purpose::Val), "val"), (Some(Purpose::Val), "valid")]).unwrap_err();
        assert!(twice.contains("`val` and `valid` are both val"), "{twice}");
        let alone = check(&[(Some(Purpose::Val), "val")]).unwrap_err();
        assert!(alone.contains("`val` but nothing to train on"), "{alone}");
    }
}
