//! `configs/catalogue.toml`: well-known backbones on the Hugging Face Hub, so that tables can label them and show them
//! beside the published rows that they belong to. All other weights on the Hub can be used too.

use super::{ConfigError, Library, Normalize, ReconstructionTarget, parse};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;

const PATH: &str = "configs/catalogue.toml";

/// A well-known backbone on the Hub.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownBackbone {
    /// Repository on the Hub: `owner/name`.
    pub hub: String,
    /// Name of the model in `configs/models`; `None` for models that are not there.
    pub model: Option<String>,
    /// The program whose names the tensors have.
    pub program: String,
    /// The former name of `program`.
    #[serde(default)]
    dialect: RenamedToProgram,
    /// License of the weights, as the Hub spells it.
    pub license: String,
    /// Label of its rows in tables.
    pub init: String,
    /// The target of pre-training; `None` if it does not predict parts of the image.
    pub target: Option<ReconstructionTarget>,
    /// Normalization of its inputs; that of ImageNet if `None`.
    pub normalize: Option<Normalize>,
    /// Data of its pre-training.
    pub data: String,
    /// Ids of the published tables that list it.
    pub rows: Vec<String>,
    /// Further remarks for readers.
    pub note: Option<String>,
}

/// A former key, which is always an error.
#[derive(Clone, Debug, Default, PartialEq)]
struct RenamedToProgram;

impl<'de> Deserialize<'de> for RenamedToProgram {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("`dialect` is now called `program`"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    backbone: Vec<KnownBackbone>,
}

/// All well-known backbones, in the order of the file.
#[derive(Clone, Debug)]
pub struct Catalogue(pub Vec<KnownBackbone>);

impl Catalogue {
    /// Reads the catalogue; a file in an included folder replaces the built-in one.
    ///
    /// # Errors
    /// A file that does not parse, or lists a repository twice.
    pub fn load(library: &Library) -> Result<Self, ConfigError> {
        let (text, origin) = library.text(PATH)?;
        let File { backbone } = parse(&text, &origin)?;
        let mut seen = BTreeSet::new();
        match backbone.iter().find(|known| !seen.insert(&known.hub)) {
            Some(twice) => Err(ConfigError::new(origin, format!("`{}` is listed twice", twice.hub))),
            None => Ok(Self(backbone)),
        }
    }

    /// The entry of the repository `owner/name`, if it is listed.
    pub fn find(&self, repository: &str) -> Option<&KnownBackbone> {
        self.0.iter().find(|known| known.hub == repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_names_models_that_exist() {
        let library = Library::default();
        let catalogue = Catalogue::load(&library).unwrap();
        let models = library.list("configs/models");
        for known in &catalogue.0 {
            let (hub, model) = (&known.hub, &known.model);
            assert!(hub.split('/').count() == 2, "{hub}");
            assert!(model.iter().all(|model| models.contains(model)), "{hub}: no model {model:?}");
        }
    }

    #[test]
    fn the_two_kinds_of_mae_on_the_hub_are_apart() {
        let catalogue = Catalogue::load(&Library::default()).unwrap();
        for (hub, target, row) in [
            ("timm/vit_base_patch16_224.mae", ReconstructionTarget::NormPixel, "mae_table3"),
            ("facebook/vit-mae-base", ReconstructionTarget::Pixel, "mae_table7"),
        ] {
            let known = catalogue.find(hub).unwrap();
            assert_eq!((known.target, known.init.as_str()), (Some(target), "mae"));
            assert!(known.rows.iter().any(|id| id == row), "{known:?}");
        }
        assert_eq!(catalogue.find("facebook/vit-mae"), None);
    }

    #[test]
    fn a_repository_that_is_listed_twice_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("configs")).unwrap();
        let (text, _) = Library::default().text(PATH).unwrap();
        std::fs::write(folder.path().join(PATH), format!("{text}\n{text}")).unwrap();
        let library = Library::new(&[folder.path().into()]).unwrap();
        let error = Catalogue::load(&library).unwrap_err().to_string();
        assert!(error.contains("catalogue.toml") && error.contains("is listed twice"), "{error}");
        std::fs::write(folder.path().join(PATH), text.replace("program =", "dialect =")).unwrap();
        let error = Catalogue::load(&library).unwrap_err().to_string();
        assert!(error.contains("`dialect` is now called `program`"), "{error}");
    }
}
