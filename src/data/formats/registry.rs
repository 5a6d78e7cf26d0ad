//! [`Formats`]: the layouts of files by the names that manifests give them.

use super::super::{DataError, Index, Orientation};
use super::coco_json::CocoJson;
use super::coco_labels::CocoLabels;
use super::csv::Csv;
use super::dense_maps::DenseMaps;
use super::format::{Annotations, Format, SplitSource};
use super::idx::Idx;
use super::image_folder::ImageFolder;
use super::png_masks::PngMasks;
use crate::config::{ConfigError, Named};
use schemars::{Schema, SchemaGenerator};

/// Formats by name, in order of registration.
#[derive(Clone, Debug)]
pub struct Formats(Named<Registered>);

/// Parses the options at a path of keys of a file.
type Parse = fn(&Annotations, &str, &str) -> Result<Box<dyn AnyFormat>, ConfigError>;

/// A registered format with its type erased.
#[derive(Clone, Debug)]
struct Registered {
    parse: Parse,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

/// A [`Format`] without its type.
pub(in crate::data) trait AnyFormat {
    fn check(&self, class_names: Option<&[String]>) -> Result<(), String>;
    fn orientation(&self) -> Orientation;
    fn index(&self, split: &SplitSource) -> Result<Index, DataError>;
}

impl<F: Format> AnyFormat for F {
    fn check(&self, class_names: Option<&[String]>) -> Result<(), String> {
        Format::check(self, class_names)
    }

    fn orientation(&self) -> Orientation {
        Format::orientation(self)
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        Format::index(self, split)
    }
}

impl Default for Formats {
    /// A registry without formats, like [`Formats::empty`].
    fn default() -> Self {
        Self::empty()
    }
}

impl Formats {
    /// A registry without formats.
    pub fn empty() -> Self {
        Self(Named::new("format"))
    }

    /// The formats that come with this crate.
    pub fn builtin() -> Self {
        Self::empty()
            .with::<ImageFolder>()
            .with::<Csv>()
            .with::<Idx>()
            .with::<CocoJson>()
            .with::<CocoLabels>()
            .with::<PngMasks>()
            .with::<DenseMaps>()
    }

    /// Registers `F` under its name. A name that is registered twice is an error of [`Formats::check`].
    #[must_use]
    pub fn with<F: Format>(self) -> Self {
        let registered = Registered {
            parse: |annotations, origin, key| Ok(Box::new(annotations.parse_at::<F>(origin, key)?)),
            schema: F::json_schema,
        };
        Self(self.0.with(F::NAME, registered))
    }

    /// Checks that no two formats share a name.
    ///
    /// # Errors
    /// Two formats with the same name.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.0.check()
    }

    /// Names of the formats, in order of registration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.names()
    }

    /// Makes `generator` define [`Annotations`] as the tables of the registered formats, for
    /// [`schema_with`](crate::config::schema_with).
    pub fn define(&self, generator: &mut SchemaGenerator) {
        Annotations::define(generator, &self.0, |registered, generator| (registered.schema)(generator));
    }

    /// The format that the table `annotations`, at the path `key` of the file `origin`, selects.
    ///
    /// # Errors
    /// An unknown format; an option that is unknown, missing or of the wrong type, by its path.
    pub(in crate::data) fn parse(
        &self,
        annotations: &Annotations,
        origin: &str,
        key: &str,
    ) -> Result<Box<dyn AnyFormat>, ConfigError> {
        let unknown = |e: ConfigError| ConfigError::new(origin, format!("`{key}.format`: {e}"));
        (self.0.get(&annotations.name).map_err(unknown)?.parse)(annotations, origin, key)
    }
}
