//! `configs/catalogue.toml`: well-known backbones on the Hugging Face Hub and elsewhere, so that tables can label them and show
//! them beside the published rows that they belong to. All other weights can be used too.

use super::{ConfigError, Library, Normalize, ReconstructionTarget, parse};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;

const PATH: &str = "configs/catalogue.toml";

/// A well-known backbone: on the Hub, or in a file that its authors publish.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownBackbone {
    /// Repository on the Hub: `owner/name`; `None` if it is not there.
    pub hub: Option<String>,
    /// Address of its file, if it is not on the Hub. A file of this name that holds tensors of `program` is taken for it.
    pub url: Option<String>,
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
    /// A file that does not parse, lists a repository or the name of a file twice, or an entry without a place or with two.
    pub fn load(library: &Library) -> Result<Self, ConfigError> {
        let (text, origin) = library.text(PATH)?;
        let File { backbone } = parse(&text, &origin)?;
        let mut seen = BTreeSet::new();
        for known in &backbone {
            if known.hub.is_some() == known.url.is_some() {
                let init = &known.init;
                return Err(ConfigError::new(
                    origin,
                    format!("a backbone `{init}` needs either `hub` or `url`"),
                ));
            }
            let place = known.hub.as_deref().or(known.file_name()).unwrap_or_default();
            if !seen.insert(place) {
                return Err(ConfigError::new(origin, format!("`{place}` is listed twice")));
            }
        }
        Ok(Self(backbone))
    }

    /// The entry of the repository `owner/name`, if it is listed.
    pub fn find(&self, repository: &str) -> Option<&KnownBackbone> {
        self.0.iter().find(|known| known.hub.as_deref() == Some(repository))
    }

    /// The entry of a file called `name` that holds tensors of `program`, if it is listed.
    pub fn find_file(&self, name: &str, program: Option<&str>) -> Option<&KnownBackbone> {
        let fits = |known: &&KnownBackbone| {
            known.file_name() == Some(name) && program == Some(known.program.as_str())
        };
        self.0.iter().find(fits)
    }
}

impl KnownBackbone {
    /// Where it is: `hub:owner/name`, or the address of its file.
    pub fn place(&self) -> String {
        match &self.hub {
            Some(hub) => format!("hub:{hub}"),
            None => self.url.clone().unwrap_or_default(),
        }
    }

    /// The name of its file, if it is not on the Hub.
    fn file_name(&self) -> Option<&str> {
        self.url.as_deref()?.rsplit('/').next()
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
            let (place, model) = (known.place(), &known.model);
            assert!(known.hub.iter().all(|hub| hub.split('/').count() == 2), "{place}");
            assert!(known.url.iter().all(|url| url.starts_with("https://")), "{place}");
            assert!(model.iter().all(|model| models.contains(model)), "{place}: no model {model:?}");
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

    /// MoCo v3's ViT-S has twelve heads, unlike other ViT-S (its `vits.py`).
    #[test]
    fn files_are_known_by_name_and_program() {
        let library = Library::default();
        let catalogue = Catalogue::load(&library).unwrap();
        for (file, heads) in [("vit-s-300ep.pth.tar", 12), ("vit-b-300ep.pth.tar", 12)] {
            let known = catalogue.find_file(file, Some("MoCo v3 or DINO")).unwrap();
            assert_eq!((known.init.as_str(), known.target), ("moco_v3", None));
            let (text, _) =
                library.text(&format!("configs/models/{}.toml", known.model.as_ref().unwrap())).unwrap();
            assert!(text.contains(&format!("heads = {heads}\n")), "{text}");
            assert_eq!(catalogue.find_file(file, Some("timm")), None);
            assert_eq!(catalogue.find_file(file, None), None);
        }
        assert_eq!(catalogue.find_file("linear-vit-b-300ep.pth.tar", Some("MoCo v3 or DINO")), None);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("configs")).unwrap();
        let place = "program = \"x\"\nlicense = \"x\"\ninit = \"x\"\ndata = \"x\"\nrows = []\n";
        for more in ["", "hub = \"a/b\"\nurl = \"https://a/b\"\n"] {
            std::fs::write(folder.path().join(PATH), format!("[[backbone]]\n{place}{more}")).unwrap();
            let library = Library::new(&[folder.path().into()]).unwrap();
            let error = Catalogue::load(&library).unwrap_err().to_string();
            assert!(error.contains("either `hub` or `url`"), "{error}");
        }
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
