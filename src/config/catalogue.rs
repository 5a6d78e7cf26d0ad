//! `configs/catalogue.toml`: backbones of the Hugging Face Hub that are known by name, so that tables can name what
//! they are and put them beside the published rows that they belong to. Everything else on the Hub can be used too.

use super::{ConfigError, Library, Normalize, ReconstructionTarget, parse};
use serde::Deserialize;
use std::collections::BTreeSet;

const PATH: &str = "configs/catalogue.toml";

/// One backbone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownBackbone {
    /// `owner/name`.
    pub hub: String,
    /// File of `configs/models`; absent for models not in `configs/models`.
    pub model: Option<String>,
    /// Whose names the tensors have.
    pub dialect: String,
    /// As the Hub spells it.
    pub license: String,
    /// Label of its rows in tables.
    pub init: String,
    /// What its pre-training predicts, where it predicts something of the image.
    pub target: Option<ReconstructionTarget>,
    /// Statistics of its inputs, where they are not ImageNet's.
    pub normalize: Option<Normalize>,
    /// What it has seen.
    pub data: String,
    /// Ids of the published tables that it belongs to.
    pub rows: Vec<String>,
    pub note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    backbone: Vec<KnownBackbone>,
}

/// All known backbones, in the order of the file.
#[derive(Clone, Debug)]
pub struct Catalogue(pub Vec<KnownBackbone>);

impl Catalogue {
    /// The file of an included folder stands in place of the built-in one.
    ///
    /// # Errors
    /// A file that does not parse, or names a repository twice.
    pub fn load(library: &Library) -> Result<Self, ConfigError> {
        let (text, origin) = library.text(PATH)?;
        let File { backbone } = parse(&text, &origin)?;
        let mut seen = BTreeSet::new();
        match backbone.iter().find(|known| !seen.insert(&known.hub)) {
            Some(twice) => Err(ConfigError::new(origin, format!("`{}` is there twice", twice.hub))),
            None => Ok(Self(backbone)),
        }
    }

    /// What is known of the repository `owner/name`.
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
    fn a_repository_that_is_there_twice_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("configs")).unwrap();
        let (text, _) = Library::default().text(PATH).unwrap();
        std::fs::write(folder.path().join(PATH), format!("{text}\n{text}")).unwrap();
        let library = Library::new(&[folder.path().into()]).unwrap();
        let error = Catalogue::load(&library).unwrap_err().to_string();
        assert!(error.contains("catalogue.toml") && error.contains("is there twice"), "{error}");
    }
}
