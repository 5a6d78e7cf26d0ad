//! Layout *table of labels*: a `.csv` or `.tsv` file with a column of image files and one of labels.

use super::super::DataError;
use super::super::formats::has_image_extension;
use super::super::text::read_text;
use super::found::{Fit, Labelling, Part, Purpose, Search, check_purposes, quoted};
use super::survey::{Survey, below};
use std::collections::BTreeSet;
use std::path::Path;

/// The name of the layout.
pub(super) const TABLE: &str = "table of labels";

/// Rows whose images are searched for.
const SAMPLED: usize = 50;
/// Fields of a row that a message shows.
const SHOWN: usize = 4;
/// Names of columns of labels, in lower case, the likeliest first.
const LABEL_NAMES: [&str; 14] = [
    "label",
    "labels",
    "class",
    "class_name",
    "classname",
    "category",
    "label_name",
    "target",
    "class_id",
    "label_id",
    "class_index",
    "category_id",
    "y",
    "species",
];
/// Names of columns that divide a table into splits.
const SPLIT_NAMES: [&str; 6] = ["split", "set", "subset", "partition", "fold", "is_train"];

/// A table that names images and labels.
struct Table {
    path: String,
    purpose: Option<Purpose>,
    images: String,
    rows: usize,
    labels: usize,
    annotations: Vec<(&'static str, String)>,
    /// A few images with their labels.
    sample: Vec<(String, String)>,
}

/// Looks for tables of labels. The second value is a few images with their labels.
///
/// # Errors
/// A folder that cannot be listed.
pub(super) fn look(survey: &Survey) -> Result<(Search, Vec<(String, String)>), DataError> {
    let absent = |reason: String| Ok((Search::Absent(reason), vec![]));
    let mut paths: Vec<(String, Option<Purpose>)> = survey
        .top
        .files
        .iter()
        .filter(|name| is_table(name))
        .map(|name| (name.clone(), Purpose::of_file(name)))
        .collect();
    for (purpose, folder) in survey.splits() {
        let files = survey.list(folder)?.files;
        paths.extend(
            files.iter().filter(|name| is_table(name)).map(|name| (below(folder, name), Some(purpose))),
        );
    }
    if paths.is_empty() {
        return absent("no .csv or .tsv file".into());
    }
    let (mut tables, mut reasons) = (vec![], vec![]);
    for (path, purpose) in paths {
        match table(survey, &path, purpose) {
            Ok(table) => tables.push(table),
            Err(reason) => reasons.push(format!("`{path}` {reason}")),
        }
    }
    if tables.is_empty() {
        return absent(reasons.join("; "));
    }
    if tables.iter().any(|table| table.purpose == Some(Purpose::Train)) {
        tables.retain(|table| table.purpose.is_some());
    }
    let purposes: Vec<_> = tables.iter().map(|table| (table.purpose, table.path.clone())).collect();
    if let Err(reason) = check_purposes(&purposes) {
        return absent(reason);
    }
    let evidence: Vec<String> = tables
        .iter()
        .map(|t| format!("`{}` gives {} images one of {} labels", t.path, t.rows, t.labels))
        .collect();
    let sample = tables.iter().flat_map(|table| table.sample.clone()).collect();
    let part = |Table { purpose, images, annotations, .. }| Part { purpose, images, annotations };
    let parts = tables.into_iter().map(part).collect();
    let notes = reasons.into_iter().map(|reason| format!("left out: {reason}")).collect();
    let fit =
        Fit { layout: TABLE, labelling: Labelling::Classes, evidence: evidence.join(", "), parts, notes };
    Ok((Search::Found(fit), sample))
}

fn is_table(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with(".csv") || name.ends_with(".tsv")
}

/// The table at `path`.
///
/// # Errors
/// The reason why it does not label images.
fn table(survey: &Survey, path: &str, purpose: Option<Purpose>) -> Result<Table, String> {
    let text = read_text(&survey.path(path)).map_err(|e| format!("cannot be read: {e}"))?;
    let delimiter = delimiter(&text);
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(delimiter as u8)
        .quoting(delimiter == ',')
        .flexible(true)
        .has_headers(false)
        .trim(::csv::Trim::All)
        .from_reader(text.as_bytes());
    let rows: Vec<Vec<String>> = reader
        .records()
        .map(|record| record.map(|record| record.iter().map(String::from).collect()))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("is no table: {e}"))?;
    let Some((first, rest)) = rows.split_first() else { return Err("is empty".into()) };
    // A header names no file.
    let header = !first.iter().any(|field| has_image_extension(Path::new(field)));
    let body = if header { rest } else { &rows };
    if body.is_empty() {
        return Err("has a header and no rows".into());
    }
    let columns: Vec<String> = match (header, first.len()) {
        (true, _) => first.clone(),
        (false, 2) => vec![],
        (false, n) => return Err(format!("has {n} columns without names; add a header line")),
    };
    let sample: Vec<&Vec<String>> = body.iter().step_by(body.len().div_ceil(SAMPLED)).collect();
    let (image, images) = image_column(survey, path, purpose, first.len(), &sample, &columns)?;
    let names = match columns.is_empty() {
        true => {
            (0..2).map(|place| if place == image { "image".to_string() } else { "label".into() }).collect()
        }
        false => columns.clone(),
    };
    if let Some(split) = columns.iter().find(|name| SPLIT_NAMES.contains(&name.to_lowercase().as_str())) {
        return Err(format!(
            "has the column `{split}`: write a table for each split (train.csv, val.csv, test.csv) instead"
        ));
    }
    let label = label_column(&names, image)?;
    let field = |row: &Vec<String>, place: usize| row.get(place).cloned().unwrap_or_default();
    let labels: BTreeSet<String> = body.iter().map(|row| field(row, label)).collect();
    if labels.len() < 2 {
        return Err(format!("has one label alone in column `{}`", names[label]));
    }
    if labels.len() == body.len() && body.len() > 2 {
        return Err(format!(
            "has another value in each row of column `{}`, which are no classes",
            names[label]
        ));
    }
    let mut annotations = vec![
        ("format", quoted("csv")),
        ("file", quoted(path)),
        ("image", quoted(&names[image])),
        ("label", quoted(&names[label])),
    ];
    if !header {
        let list = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        annotations.push(("columns", format!("[{list}]")));
    }
    if delimiter != ',' {
        annotations.push(("delimiter", quoted(&delimiter.to_string())));
    }
    let sample = sample.iter().map(|row| (field(row, image), field(row, label))).collect();
    Ok(Table {
        path: path.into(),
        purpose,
        images,
        rows: body.len(),
        labels: labels.len(),
        annotations,
        sample,
    })
}

/// What separates the fields of the first line.
fn delimiter(text: &str) -> char {
    let line = text.lines().next().unwrap_or_default();
    let count = |delimiter: &char| line.matches(*delimiter).count();
    [',', '\t', ';'].into_iter().rev().max_by_key(count).unwrap_or(',')
}

/// The column whose values are files, and the folder of these files.
///
/// # Errors
/// The reason why there is none.
fn image_column(
    survey: &Survey,
    path: &str,
    purpose: Option<Purpose>,
    columns: usize,
    rows: &[&Vec<String>],
    names: &[String],
) -> Result<(usize, String), String> {
    let home = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
    let mut folders = vec![home.to_string(), ".".into()];
    let of_purpose = |name: &&String| purpose.is_none() || Purpose::of_folder(name) == purpose;
    folders.extend(survey.top.folders.iter().filter(of_purpose).cloned());
    folders.extend(survey.top.folders.iter().cloned());
    for folder in survey.top.folders.clone() {
        let inner = survey.list(&folder).map(|listing| listing.folders).unwrap_or_default();
        folders.extend(inner.iter().filter(of_purpose).map(|name| below(&folder, name)));
    }
    let file = |folder: &String, name: &str| {
        let name = name.replace('\\', "/");
        !name.is_empty() && survey.path(folder).join(name.trim_start_matches('/')).is_file()
    };
    let mut best = (0, 0, String::new());
    for column in 0..columns {
        for folder in &folders {
            let values = rows.iter().filter_map(|row| row.get(column));
            let found = values.filter(|value| file(folder, value)).count();
            if found > best.0 {
                best = (found, column, folder.clone());
            }
        }
    }
    if best.0 == rows.len() {
        return Ok((best.1, best.2));
    }
    if best.0 > 0 {
        return Err(format!(
            "names images, but {} of {} that were looked for do not exist",
            rows.len() - best.0,
            rows.len()
        ));
    }
    // Names without ending, as in many competitions.
    let bare = (0..columns).find(|column| {
        let values = rows.iter().filter_map(|row| row.get(*column));
        let mut values =
            values.take(1).map(|value| ["jpg", "png", "jpeg"].map(|ending| format!("{value}.{ending}")));
        values.any(|names| names.iter().any(|name| folders.iter().any(|folder| file(folder, name))))
    });
    Err(match bare.and_then(|column| names.get(column)) {
        Some(name) => format!("names images without the ending of their files in column `{name}`; add it"),
        None => {
            let first: Vec<String> = rows
                .first()
                .into_iter()
                .flat_map(|row| row.iter().take(SHOWN))
                .map(|field| format!("`{field}`"))
                .collect();
            format!("names no file of this folder; the first row has {}", first.join(", "))
        }
    })
}

/// The column of labels.
///
/// # Errors
/// Several columns that may be it.
fn label_column(names: &[String], image: usize) -> Result<usize, String> {
    let others: Vec<usize> = (0..names.len()).filter(|place| *place != image).collect();
    if let [only] = others[..] {
        return Ok(only);
    }
    let called =
        |wanted: &&str| others.iter().copied().find(|place| names[*place].eq_ignore_ascii_case(wanted));
    LABEL_NAMES.iter().find_map(called).ok_or_else(|| match others.is_empty() {
        true => "has a column of images and none of labels".into(),
        false => {
            let listed: Vec<String> = others.iter().map(|place| format!("`{}`", names[*place])).collect();
            format!("has no column called `label`; there are {}: rename the one of labels", listed.join(", "))
        }
    })
}
