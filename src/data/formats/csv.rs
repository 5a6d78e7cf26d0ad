//! Format `csv`: a table with one image per line, separated by commas, tabs or spaces.
//!
//! The header line names the columns or, if the file has none, the manifest does. Labels are class names, or indices
//! from 0 into the list of classes. The list of classes is the first column of the file `classes` if given, otherwise
//! the list of the manifest if it has one, otherwise the distinct values, sorted (by number if all are numbers).

use super::super::classes::{distinct, labels_of, names_in};
use super::super::text::read_text;
use super::super::{Annotation, DataError, Entry, Index};
use super::format::{Format, SplitSource};
use super::image_folder::has_image_extension;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `format = "csv"` of a manifest: a table with one image per line, its path below `images`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Csv {
    /// The table, relative to the data root.
    pub file: PathBuf,
    /// The column of image paths, by its name in the header line or in `columns`.
    pub image: String,
    /// The column of labels.
    pub label: String,
    /// Names of all columns, for a file without a header line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The separator of fields, an ASCII character; a comma when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// A file of the data set with class names in its first column, in label order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
}

impl Format for Csv {
    const NAME: &'static str = "csv";

    fn check(&self, _: Option<&[String]>) -> Result<(), String> {
        self.delimiter_byte().map(drop)
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let file = split.root.join(&self.file);
        let rows = self.rows(&file)?;
        let words = rows.iter().map(|(_, label)| label.as_str());
        let names = match &self.classes {
            Some(list) => {
                let list = split.root.join(list);
                let text = read_text(&list)?;
                names_in(&text, self.delimiter.unwrap_or(COMMA)).map_err(|e| DataError::file(&list, e))?
            }
            None => distinct(words.clone()),
        };
        let labels = labels_of(words, &names)
            .map_err(|e| DataError::file(&file, format!("labels in column `{}` are {e}", self.label)))?;
        let entry = |((image, _), label): (&(String, String), u32)| {
            split.entry(split.listed_image(image), Annotation::Label(label))
        };
        let entries: Vec<Entry> = rows.iter().zip(labels).map(entry).collect();
        let notes = repeated(&rows, &entries).map_err(|flaws| DataError::flaws(&file, flaws))?;
        Ok(Index { entries, classes: Some(names), notes, ..Index::default() })
    }
}

/// A note about images that are listed more than once, in whatever spelling of their paths.
///
/// # Errors
/// Images with two labels.
fn repeated(rows: &[(String, String)], entries: &[Entry]) -> Result<Vec<String>, Vec<String>> {
    let mut label_of = HashMap::new();
    let (mut flaws, mut repeated) = (vec![], vec![]);
    for ((image, label), entry) in rows.iter().zip(entries) {
        match label_of.insert(&entry.id, label) {
            None => {}
            Some(first) if first == label => repeated.push(image),
            Some(first) => flaws.push(format!("image `{image}` has two labels, `{first}` and `{label}`")),
        }
    }
    match (flaws.is_empty(), repeated.first()) {
        (false, _) => Err(flaws),
        (true, None) => Ok(vec![]),
        (true, Some(first)) => Ok(vec![format!(
            "images listed again, and counted again: {}; the first: `{first}`",
            repeated.len()
        )]),
    }
}

const COMMA: char = ',';

impl Csv {
    fn delimiter_byte(&self) -> Result<u8, String> {
        let delimiter = self.delimiter.unwrap_or(COMMA);
        let byte = u8::try_from(delimiter).ok().filter(u8::is_ascii);
        byte.ok_or_else(|| format!("delimiter `{delimiter}` is not an ASCII character"))
    }

    /// Why there is no column `name` among `columns`, and what to do; empty if that is not clear.
    fn advice(&self, name: &str, columns: &[String]) -> String {
        if let Some(near) = columns.iter().find(|column| column.eq_ignore_ascii_case(name)) {
            return format!("; did you mean `{near}`?");
        }
        let separators = [(',', ","), (';', ";"), ('\t', "\\t"), (' ', " ")];
        let other = separators.iter().find(|(other, _)| {
            *other != self.delimiter.unwrap_or(COMMA) && columns.len() == 1 && columns[0].contains(*other)
        });
        if let Some((_, written)) = other {
            return format!(
                "; its fields are separated otherwise: `delimiter = \"{written}\"` in `annotations`"
            );
        }
        if self.columns.is_empty() && columns.iter().any(|column| has_image_extension(Path::new(column))) {
            let count = columns.len();
            return format!(
                "; the file seems to have no header line: name its {count} columns in `annotations`, such as \
                 `columns = [\"image\", \"label\"]`"
            );
        }
        String::new()
    }

    /// Image and label of each line.
    fn rows(&self, file: &Path) -> Result<Vec<(String, String)>, DataError> {
        let fail = |message: String| DataError::file(file, message);
        let delimiter = self.delimiter_byte().map_err(fail)?;
        let text = read_text(file)?;
        let mut reader = ::csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true) // so that every line of another length is told, not the first alone
            // Quotes belong to comma-separated files; elsewhere they are part of a name.
            .quoting(delimiter == b',')
            .has_headers(self.columns.is_empty())
            .trim(::csv::Trim::All)
            .from_reader(text.as_bytes());
        let columns = match self.columns.is_empty() {
            true => reader.headers().map_err(|e| fail(e.to_string()))?.iter().map(String::from).collect(),
            false => self.columns.clone(),
        };
        let column = |name: &String| {
            let places: Vec<usize> = (0..columns.len()).filter(|place| columns[*place] == *name).collect();
            match places[..] {
                [place] => Ok(place),
                [] => Err(fail(format!(
                    "there is no column `{name}`; there are: {}{}",
                    columns.join(", "),
                    self.advice(name, &columns)
                ))),
                _ => Err(fail(format!("{} columns are named `{name}`; rename all but one", places.len()))),
            }
        };
        let (image, label) = (column(&self.image)?, column(&self.label)?);
        let (mut rows, mut flaws) = (vec![], vec![]);
        for record in reader.records() {
            let record = record.map_err(|e| fail(e.to_string()))?;
            let line = record.position().map_or(0, ::csv::Position::line);
            match (record.get(image), record.get(label)) {
                (Some(image), Some(label)) if record.len() == columns.len() => {
                    if image.is_empty() || label.is_empty() {
                        flaws.push(format!("line {line}: an empty image or label"));
                    }
                    if image.starts_with("http://") || image.starts_with("https://") {
                        flaws.push(format!(
                            "line {line}: `{image}` is an address, and files are read here: download the images, and list \
                             their names"
                        ));
                    }
                    if record.iter().any(|field| field.contains(['\n', '\r'])) {
                        flaws.push(format!(
                            "line {line}: a line break within a field; is a quote not closed?"
                        ));
                    }
                    rows.push((image.to_string(), label.to_string()));
                }
                _ => {
                    let (found, expected) = (record.len(), columns.len());
                    flaws.push(format!("line {line} has {found} fields, expected {expected}"));
                }
            }
        }
        match (flaws.is_empty(), rows.is_empty()) {
            (false, _) => Err(DataError::flaws(file, flaws)),
            (_, true) => Err(fail("the file lists no images".into())),
            _ => Ok(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(columns: &[&str], delimiter: char, classes: Option<&str>) -> Csv {
        Csv {
            file: "list.txt".into(),
            image: "image".into(),
            label: "label".into(),
            columns: columns.iter().map(|c| c.to_string()).collect(),
            delimiter: Some(delimiter),
            classes: classes.map(PathBuf::from),
        }
    }

    fn read(csv: &Csv, text: &str, classes: &str) -> Result<Index, String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("list.txt"), text).unwrap();
        std::fs::write(root.path().join("classes.txt"), classes).unwrap();
        let split = SplitSource { root: root.path(), images: Path::new("train"), class_names: None };
        csv.index(&split).map_err(|e| e.to_string())
    }

    fn lines(index: &Index) -> Vec<String> {
        index.entries.iter().map(|e| format!("{} {:?}", e.id, e.annotation)).collect()
    }

    #[test]
    fn a_header_names_the_columns() {
        let text = "\u{feff}label,image,note\nwolf,\"b, c.jpg\",x\r\ncat,a.jpg,\n";
        let index = read(&csv(&[], ',', None), text, "").unwrap();
        assert_eq!(lines(&index), ["train/b, c.jpg Label(1)", "train/a.jpg Label(0)"]);
        assert_eq!(index.classes.unwrap(), ["cat", "wolf"]);
        let bare = csv(&["image", "label"], ' ', Some("classes.txt"));
        let index = read(&bare, "\u{feff}a.jpg cat\r\n", "\u{feff}cat\r\nwolf\r\n").unwrap();
        assert_eq!(lines(&index), ["train/a.jpg Label(0)"]);
    }

    #[test]
    fn without_header_the_manifest_names_them_and_a_file_the_classes() {
        let places = csv(&["image", "label"], ' ', Some("classes.txt"));
        let index =
            read(&places, "/b/bar/1.jpg 1\n/a/attic/2.jpg 0\n", "/a/attic 0\n/b/bar 1\n/c/cave 2\n").unwrap();
        assert_eq!(lines(&index), ["train/b/bar/1.jpg Label(1)", "train/a/attic/2.jpg Label(0)"]);
        assert_eq!(index.classes.unwrap().len(), 3);
        let tiny = csv(&["image", "label", "x", "y"], '\t', None);
        let index = read(&tiny, "v \"0.JPEG\tn2\t0\t5\nv1.JPEG\tn1\t0\t5\n", "").unwrap();
        assert_eq!(lines(&index), ["train/v \"0.JPEG Label(1)", "train/v1.JPEG Label(0)"]);
    }

    #[test]
    fn errors_name_the_line() {
        let comma = csv(&[], ',', None);
        let error = read(&comma, "picture,label\na.jpg,1\n", "").unwrap_err();
        assert!(error.contains("no column `image`; there are: picture, label"), "{error}");
        for (text, words) in [
            ("Image,label\na.jpg,1\n", "there are: Image, label; did you mean `Image`?"),
            ("image;label\na.jpg;1\n", "its fields are separated otherwise: `delimiter = \";\"`"),
            ("image\tlabel\na.jpg\t1\n", "`delimiter = \"\\t\"`"),
            ("a.JPG,1\nb.jpg,2\n", "no header line: name its 2 columns in `annotations`"),
            ("image,label\nhttps://x.org/a.jpg,1\n", "line 2: `https://x.org/a.jpg` is an address"),
        ] {
            let error = read(&comma, text, "").unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        let error = read(&comma, "image,label\na.jpg,cat\n./a.jpg,dog\n", "").unwrap_err();
        assert!(error.contains("image `./a.jpg` has two labels"), "{error}");
        let old = read(&comma, "image,label\ra.jpg,cat\rb.jpg,dog\r", "").unwrap();
        assert_eq!(old.entries.len(), 2, "lines of old Macintosh programs");
        let error = read(&comma, "image,label\na.jpg,1\nb.jpg\n", "").unwrap_err();
        assert!(error.contains("line 3 has 1 fields, expected 2"), "{error}");
        let error = read(&comma, "image,label\na.jpg\nb.jpg,\nc.jpg,1\nd.jpg,1,2\n", "").unwrap_err();
        assert!(
            error.contains("3 flaws\n  line 2 has 1 fields") && error.contains("line 5 has 3"),
            "{error}"
        );
        let error = read(&comma, "image,label\na.jpg,\n", "").unwrap_err();
        assert!(error.contains("line 2: an empty"), "{error}");
        assert!(read(&comma, "image,label\n", "").unwrap_err().contains("no images"));
        let error = read(&comma, "image,label\na.jpg,cat\nb.jpg,\"dog\nc.jpg,cat\n", "").unwrap_err();
        assert!(error.contains("line 3: a line break within a field; is a quote not closed?"), "{error}");
        let error = read(&comma, "image,label,label\na.jpg,1,2\n", "").unwrap_err();
        assert!(error.contains("2 columns are named `label`; rename all but one"), "{error}");
        let error = read(&comma, "image,label\na.jpg,cat\na.jpg,dog\n", "").unwrap_err();
        assert!(error.contains("image `a.jpg` has two labels, `cat` and `dog`"), "{error}");
        let twice = read(&comma, "image,label\na.jpg,cat\nb.jpg,dog\na.jpg,cat\n", "").unwrap();
        assert_eq!(twice.notes, ["images listed again, and counted again: 1; the first: `a.jpg`"]);
        let error = read(&csv(&["image"], ' ', None), "a.jpg\n", "").unwrap_err();
        assert!(error.contains("no column `label`"), "{error}");
        let error = read(&csv(&["image", "label", "x"], ' ', None), "a.jpg 0\n", "").unwrap_err();
        assert!(error.contains("line 1 has 2 fields, expected 3"), "{error}");
        let error =
            read(&csv(&["image", "label"], ' ', Some("classes.txt")), "a 7\n", "x 0\ny 1\n").unwrap_err();
        assert!(error.contains("not among the 2 classes: `7`"), "{error}");
    }
}
