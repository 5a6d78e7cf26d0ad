//! What the values of masks mean: ids or colours, how many classes, which pixels are ignored, and what the classes are called.

use super::super::classes::names_in;
use super::super::formats::has_image_extension;
use super::super::raster::{StoredValues, decode};
use super::super::text::read_text;
use super::found::quoted;
use super::survey::{Survey, below};
use crate::files;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Number of masks that are read, evenly among all.
const READ: usize = 1000;
/// Largest number of colours: pixels of more are no labels.
const MOST_COLOURS: usize = 256;
/// The id that usually marks pixels without a label.
const VOID: u16 = 255;

/// Names of files of class names, one per line.
const NAME_FILES: [&str; 6] =
    ["classes.txt", "class_names.txt", "labels.txt", "label_names.txt", "names.txt", "classes.names"];
/// Names of tables of class names and colours.
const COLOUR_FILES: [&str; 3] = ["class_dict.csv", "classes.csv", "label_colors.csv"];

/// Keys and values of the table `annotations`, in TOML.
type Keys = Vec<(&'static str, String)>;

/// The values of masks.
#[derive(Default)]
struct Values {
    ids: BTreeSet<u16>,
    colours: BTreeSet<[u8; 3]>,
}

/// Keys of `annotations` that say what the pixels of `masks` mean, and notes on what was assumed. `homes` are the folders of the
/// masks.
///
/// # Errors
/// The reason why the files are no masks.
pub(super) fn annotation_keys(
    survey: &Survey,
    homes: &[&str],
    masks: &[&PathBuf],
) -> Result<(Keys, Vec<String>), String> {
    let sample: Vec<&&PathBuf> = masks.iter().step_by(masks.len().div_ceil(READ).max(1)).collect();
    let values = sample.par_iter().map(|file| values_of(file)).collect::<Result<Vec<_>, _>>()?;
    let mut all = Values::default();
    for Values { ids, colours } in values {
        all.ids.extend(ids);
        all.colours.extend(colours);
    }
    let mut notes = vec![];
    if sample.len() < masks.len() {
        notes.push(format!("{} of {} masks were read to find the classes", sample.len(), masks.len()));
    }
    let keys = match (all.ids.is_empty(), all.colours.is_empty()) {
        (false, true) => of_ids(&all.ids, names_file(survey, homes), &mut notes),
        (true, false) if all.colours.len() <= MOST_COLOURS => {
            of_colours(&all.colours, survey, homes, &mut notes)
        }
        (true, false) => {
            return Err(format!(
                "the masks have more than {MOST_COLOURS} colours; they are pictures, not labels"
            ));
        }
        _ => return Err("some masks have ids, others colours".into()),
    };
    Ok((keys, notes))
}

/// The values of a mask.
fn values_of(file: &Path) -> Result<Values, String> {
    let fail = |e: String| format!("mask `{}` {e}", file.display());
    let bytes = files::read(file).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let mut found = Values::default();
    match decode(&bytes).map_err(fail)?.pixels {
        StoredValues::Numbers(ids) => found.ids.extend(ids),
        StoredValues::Colours(colours) => {
            let mut last = None;
            for colour in colours.into_iter().filter(|colour| last.replace(*colour) != Some(*colour)) {
                found.colours.insert(colour);
                if found.colours.len() > MOST_COLOURS {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// Keys for masks of these ids. `names` are those of a file, with its name.
fn of_ids(ids: &BTreeSet<u16>, names: Option<(String, Vec<String>)>, notes: &mut Vec<String>) -> Keys {
    let void = ids.len() > 2 && ids.contains(&VOID);
    let classes: Vec<u16> = ids.iter().copied().filter(|id| !(void && *id == VOID)).collect();
    let count = usize::from(classes.last().copied().unwrap_or(0)) + 1;
    // Ids that count from 0, with some that the masks do not have; otherwise levels of grey.
    let counted = count <= 2 * classes.len() + 2;
    let mut keys = vec![];
    let found = if counted { count } else { classes.len() };
    let mut default: Vec<String> = match found {
        2 => vec!["background".into(), "foreground".into()],
        _ if counted => (0..found).map(|id| format!("class_{id}")).collect(),
        _ => classes.iter().map(|id| format!("level_{id}")).collect(),
    };
    match names {
        Some((file, names)) if names.len() >= found => {
            notes.push(format!("class names are those of `{file}`"));
            default = names;
        }
        Some((file, names)) => notes.push(format!(
            "`{file}` is not used: it has {} names, and the masks have {found} classes",
            names.len()
        )),
        None if found == 2 => {}
        None => notes.push(
            "no file of class names was found: write them to `classes.txt` in the folder, one per line in the order of ids, \
             or edit `names` in dataset.toml"
                .into(),
        ),
    }
    if void {
        keys.push(("ignore", format!("[{VOID}]")));
        notes.push(format!("pixels of id {VOID} are neither trained nor scored"));
    }
    if !counted {
        let map = classes.iter().enumerate().map(|(label, id)| format!("{id} = {label}"));
        keys.push(("classes", format!("{{ {} }}", map.collect::<Vec<_>>().join(", "))));
        default.truncate(found);
    }
    keys.push(("names", list(&default)));
    keys
}

/// Keys for masks of these colours.
fn of_colours(colours: &BTreeSet<[u8; 3]>, survey: &Survey, homes: &[&str], notes: &mut Vec<String>) -> Keys {
    let table = colour_table(survey, homes).filter(|(file, table)| {
        let fits = colours.iter().all(|colour| table.iter().any(|(_, other)| other == colour));
        notes.push(match fits {
            true => format!("class names and colours are those of `{file}`"),
            false => format!("`{file}` is not used: the masks have other colours"),
        });
        fits
    });
    let classes: Vec<(String, [u8; 3])> = match table {
        Some((_, table)) => table,
        None => colours.iter().map(|colour @ [r, g, b]| (format!("colour_{r}_{g}_{b}"), *colour)).collect(),
    };
    let colour = |(_, [r, g, b]): &(String, [u8; 3])| format!("[{r}, {g}, {b}]");
    let colours = classes.iter().map(colour).collect::<Vec<_>>().join(", ");
    let names: Vec<String> = classes.into_iter().map(|(name, _)| name).collect();
    vec![("encoding", quoted("colours")), ("colours", format!("[{colours}]")), ("names", list(&names))]
}

/// A list of names in TOML, one per line if there are many, so that they can be edited.
fn list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    match names.len() {
        ..=4 => format!("[{}]", names.join(", ")),
        _ => format!("[\n    {},\n]", names.join(",\n    ")),
    }
}

/// Files of one of these names in the root or beside the masks.
fn files(survey: &Survey, homes: &[&str], names: &[&str]) -> Vec<String> {
    let parents = homes.iter().filter_map(|home| home.split_once('/')).map(|(parent, _)| parent);
    let folders = std::iter::once(".").chain(homes.iter().copied()).chain(parents);
    let paths = folders.flat_map(|folder| names.iter().map(move |name| below(folder, name)));
    paths.filter(|path| survey.path(path).is_file()).collect()
}

/// The names in the first file of class names.
fn names_file(survey: &Survey, homes: &[&str]) -> Option<(String, Vec<String>)> {
    files(survey, homes, &NAME_FILES).into_iter().find_map(|file| {
        let names = names_in(&read_text(&survey.path(&file)).ok()?, '\t').ok()?;
        // A list of images is none of classes.
        let lists_images =
            |name: &String| name.split_whitespace().any(|word| has_image_extension(Path::new(word)));
        (!names.iter().any(lists_images)).then_some((file, names))
    })
}

/// Class names with their colours.
type ColourTable = Vec<(String, [u8; 3])>;

/// Names and colours of the first table with the columns `name`, `r`, `g` and `b`.
fn colour_table(survey: &Survey, homes: &[&str]) -> Option<(String, ColourTable)> {
    files(survey, homes, &COLOUR_FILES).into_iter().find_map(|file| {
        let text = read_text(&survey.path(&file)).ok()?;
        let mut reader = ::csv::ReaderBuilder::new().trim(::csv::Trim::All).from_reader(text.as_bytes());
        let header: Vec<String> = reader.headers().ok()?.iter().map(str::to_lowercase).collect();
        let column = |names: &[&str]| header.iter().position(|column| names.contains(&column.as_str()));
        let places = [column(&["r", "red"])?, column(&["g", "green"])?, column(&["b", "blue"])?];
        let name = column(&["name", "class", "class_name", "label"])?;
        let mut table = vec![];
        for record in reader.records() {
            let record = record.ok()?;
            let level = |place: usize| record.get(place)?.parse::<u8>().ok();
            let [r, g, b] = places;
            table.push((record.get(name)?.to_string(), [level(r)?, level(g)?, level(b)?]));
        }
        Some((file, table))
    })
}
