//! Format `csv`: a table of images and labels, with or without a header line.
//!
//! Labels are class names of the manifest, names of class folders, or numbers from 0.

use super::super::{Annotation, Csv, DataError, Entry, Format, ImageRef, Index, SampleId, Split};
use super::image_folder::class_folders;
use std::path::Path;

/// Reads the table that `0` describes; `classes` are the manifest's class names, where it has any.
pub struct CsvTable<'a> {
    pub options: &'a Csv,
    pub classes: Option<&'a [String]>,
}

impl Format for CsvTable<'_> {
    fn index(&self, root: &Path, split: &Split) -> Result<Index, DataError> {
        let options = self.options;
        let path = root.join(&options.file);
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(options.delimiter as u8)
            .has_headers(options.columns.is_none())
            .from_path(&path)
            .map_err(|e| DataError::file(&path, e))?;
        let columns: Vec<String> = match &options.columns {
            Some(columns) => columns.clone(),
            None => {
                reader.headers().map_err(|e| DataError::file(&path, e))?.iter().map(String::from).collect()
            }
        };
        let column = |name: &str| {
            let known = || format!("no column `{name}`; there are: {}", columns.join(", "));
            columns.iter().position(|c| c == name).ok_or_else(|| DataError::file(&path, known()))
        };
        let (image, label) = (column(&options.image)?, column(&options.label)?);
        let folders = options.class_folders.as_ref().map(|f| class_folders(&root.join(f))).transpose()?;
        let names = folders.as_deref().or(self.classes);
        let (mut entries, mut most) = (vec![], 0);
        for (i, row) in reader.records().enumerate() {
            let row = row.map_err(|e| DataError::file(&path, e))?;
            let line = i + 1 + usize::from(options.columns.is_none());
            let fail = |message: String| DataError::file(&path, format!("line {line}: {message}"));
            let cell = |at: usize| row.get(at).map(str::trim).filter(|cell| !cell.is_empty());
            let (Some(file), Some(label)) = (cell(image), cell(label)) else {
                return Err(fail(format!("expected {} values, found {}", columns.len(), row.len())));
            };
            let label = match names.and_then(|names| names.iter().position(|name| name == label)) {
                Some(label) => label as u32,
                None if folders.is_some() => return Err(fail(format!("class `{label}` has no folder"))),
                None => label
                    .parse()
                    .map_err(|_| fail(format!("label `{label}` is no class name and no number")))?,
            };
            most = most.max(label);
            let below = split.images.join(file.trim_start_matches('/'));
            let id = below.to_string_lossy().replace('\\', "/");
            let annotation = Annotation::Label(label);
            entries.push(Entry {
                id: SampleId::new(id),
                image: ImageRef::File(root.join(below)),
                annotation,
            });
        }
        let classes = match names {
            Some(names) => names.to_vec(),
            None => (0..=most).map(|label| label.to_string()).collect(),
        };
        Ok(Index { entries, classes: Some(classes) })
    }
}
