//! Writes the set to disk: images, id maps, class folders, COCO files, and `shapes.json` last.
//!
//! Images are made in parallel, each from its own random stream, and no existing file is reused: the bytes depend on
//! the specification alone, and nothing is ever overwritten. `shapes.json` appears in one step when everything else is
//! there. Until then everything is in the folder `.unfinished`, which the next attempt deletes.

use super::annotation::{Annotation, annotate, semantic};
use super::paint::paint;
use super::scene::{Request, Scene};
use super::spec::{
    CATEGORY_IDS, CLASSES, GENERATOR, IDS_PER_SPLIT, ShapesError, ShapesSpec, Summary, empty_images,
};
use crate::record::write_atomic;
use crate::rng::Rng;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rand::Rng as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs::DirEntry;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Images between two calls of `progress`.
const CHUNK: usize = 256;
/// The folder below the root in which the set is made.
const UNFINISHED: &str = ".unfinished";
/// The file that is written last.
const SEAL: &str = "shapes.json";

/// Content of `shapes.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    generator: u32,
    spec: ShapesSpec,
    images: usize,
    content: String,
}

#[derive(Clone, Copy, Debug)]
struct Split {
    name: &'static str,
    /// Id of the image before the first.
    base: u64,
    /// Images with objects.
    scenes: usize,
    /// Images without.
    empty: usize,
    labelled: bool,
}

/// Facts about one finished image, for the files that list all images.
struct Made {
    id: u64,
    annotations: Vec<Annotation>,
    hashes: Vec<blake3::Hash>,
}

/// Makes the set below `root`, unless it already exists.
///
/// ```text
/// pretrain/images/<id>.png                unlabelled
/// {train,select,val}/images/<id>.png
/// annotations/instances_{train,select,val}.json  COCO
/// semantic/{train,select,val}/<id>.png    8-bit ids: 0 background, 1 + label
/// classification/{train,select,val}/<class>/<id>.png   by the largest visible object; hard links or copies
/// classes.txt                             in label order
/// shapes.json                             specification and hash of the content, written last
/// ```
///
/// `progress(done, total)` counts images. The bytes do not depend on the number of threads.
///
/// # Errors
/// When the specification is out of range; when `root` is neither absent, empty, nor a finished set
/// of the same specification; when a file cannot be written. The leftovers of an interrupted call are replaced.
pub fn make(
    spec: &ShapesSpec,
    root: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, ShapesError> {
    spec.check()?;
    if let Some(seal) = find(spec, root)? {
        let Seal { images, content, .. } = seal;
        return Ok(Summary { root: root.into(), images, content, already_there: true });
    }
    let labelled = |name, place, scenes| Split {
        name,
        base: place * IDS_PER_SPLIT,
        scenes,
        empty: empty_images(scenes),
        labelled: true,
    };
    let splits = [
        Split { name: "pretrain", base: 0, scenes: spec.pretrain, empty: 0, labelled: false },
        labelled("train", 1, spec.train),
        labelled("val", 2, spec.val),
        labelled("select", 3, spec.select),
    ];
    let splits = splits.into_iter().filter(|split| split.images() > 0 || !split.labelled);
    let splits: Vec<Split> = splits.collect();
    let total = splits.iter().map(Split::images).sum();
    progress(0, total);
    let making = &root.join(UNFINISHED);
    if making.exists() {
        std::fs::remove_dir_all(making).map_err(|e| failed(making, e))?;
    }
    let mut done = 0;
    let mut content = blake3::Hasher::new();
    for split in &splits {
        split.create_folders(making)?;
        let mut made = Vec::with_capacity(split.images());
        while made.len() < split.images() {
            let chunk = made.len()..split.images().min(made.len() + CHUNK);
            done += chunk.len();
            let images: Result<Vec<Made>, ShapesError> =
                chunk.into_par_iter().map(|index| split.image(spec, making, index)).collect();
            made.extend(images?);
            progress(done, total);
        }
        for hash in made.iter().flat_map(|image| &image.hashes) {
            content.update(hash.as_bytes());
        }
        if split.labelled {
            let text = split.instances(spec, made);
            content.update(&text);
            create(&making.join(format!("annotations/instances_{}.json", split.name)), &text)?;
        }
    }
    create(&making.join("classes.txt"), (CLASSES.join("\n") + "\n").as_bytes())?;
    move_entries(making, root).map_err(|e| failed(root, e))?;
    let content = content.finalize().to_hex().to_string();
    let seal = Seal { generator: GENERATOR, spec: *spec, images: total, content };
    let text = serde_json::to_string_pretty(&seal).map_err(|e| failed(&root.join(SEAL), e))? + "\n";
    write_atomic(&root.join(SEAL), text.as_bytes()).map_err(|e| failed(&root.join(SEAL), e))?;
    Ok(Summary { root: root.into(), images: total, content: seal.content, already_there: false })
}

/// Reads `shapes.json` of a finished set of the same specification; `None` if the folder is empty or missing.
fn find(spec: &ShapesSpec, root: &Path) -> Result<Option<Seal>, ShapesError> {
    let path = root.join(SEAL);
    if path.exists() {
        let text = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
        let seal: Seal = serde_json::from_str(&text).map_err(|e| failed(&path, e))?;
        if (seal.generator, seal.spec) == (GENERATOR, *spec) {
            return Ok(Some(seal));
        }
        let describe = |generator, spec: &ShapesSpec| format!("generator {generator}, {spec:?}");
        return Err(ShapesError::Other {
            root: root.into(),
            found: describe(seal.generator, &seal.spec),
            wanted: describe(GENERATOR, spec),
        });
    }
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(root, e)),
    };
    let foreign = |entry: std::io::Result<DirEntry>| entry.is_ok_and(|entry| entry.file_name() != UNFINISHED);
    if entries.into_iter().any(foreign) { Err(ShapesError::Unfinished(root.into())) } else { Ok(None) }
}

/// Moves the contents of `from` to `to`, and removes `from`.
fn move_entries(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::rename(entry.path(), to.join(entry.file_name()))?;
    }
    std::fs::remove_dir(from)
}

impl Split {
    fn images(&self) -> usize {
        self.scenes + self.empty
    }

    fn create_folders(&self, root: &Path) -> Result<(), ShapesError> {
        let name = self.name;
        let mut folders = vec![root.join(name).join("images")];
        if self.labelled {
            folders.push(root.join("annotations"));
            folders.push(root.join("semantic").join(name));
            folders.extend(CLASSES.map(|class| self.class_folder(root, class)));
        }
        folders.iter().try_for_each(|folder| std::fs::create_dir_all(folder).map_err(|e| failed(folder, e)))
    }

    fn class_folder(&self, root: &Path, class: &str) -> PathBuf {
        root.join("classification").join(self.name).join(class)
    }

    /// The requirements of image `index`: empty images are spread evenly, and classes and crowds alternate.
    fn request(&self, index: usize, rng: &mut Rng) -> Request {
        let empty_before = |index: usize| index * self.empty / self.images();
        if empty_before(index + 1) > empty_before(index) {
            return Request { main: None, crowd: false };
        }
        let rank = index - empty_before(index);
        let main = if self.labelled { rank } else { rng.random_range(0..CLASSES.len() as u32) as usize };
        // One in 50; the factor 7 lets it meet every class.
        let crowd = rank % 50 == rank / 50 * 7 % 50;
        Request { main: Some(main % CLASSES.len()), crowd }
    }

    /// Makes image `index` and writes its files.
    fn image(&self, spec: &ShapesSpec, root: &Path, index: usize) -> Result<Made, ShapesError> {
        let mut rng = Rng::new(spec.seed, &format!("shapes/{}", self.name), &[index as u64]);
        let (mut layout, mut colours) = (rng.fork(), rng.fork());
        let request = self.request(index, &mut layout);
        let scene = Scene::compose(spec.size, request, &mut layout);

        let id = self.base + index as u64 + 1;
        let file = file_name(id);
        let path = root.join(self.name).join("images").join(&file);
        let png = encode(&path, &paint(&scene, &mut colours), spec.size, ExtendedColorType::Rgb8)?;
        create(&path, &png)?;
        let mut made = Made { id, annotations: Vec::new(), hashes: vec![blake3::hash(&png)] };
        if self.labelled {
            if let Some(label) = request.main {
                let copy = self.class_folder(root, CLASSES[label]).join(&file);
                // Not every file system supports hard links.
                std::fs::hard_link(&path, &copy).or_else(|_| create(&copy, &png))?;
            }
            let path = root.join("semantic").join(self.name).join(&file);
            let ids = encode(&path, &semantic(&scene), spec.size, ExtendedColorType::L8)?;
            create(&path, &ids)?;
            made.hashes.push(blake3::hash(&ids));
            made.annotations = annotate(&scene, id);
        }
        Ok(made)
    }

    /// The COCO file of the split.
    fn instances(&self, spec: &ShapesSpec, made: Vec<Made>) -> Vec<u8> {
        let image = |image: &Made| {
            json!({ "id": image.id, "file_name": file_name(image.id),
                    "width": spec.size, "height": spec.size, "license": 1 })
        };
        let images: Vec<_> = made.iter().map(image).collect();
        let mut annotations: Vec<Annotation> = made.into_iter().flat_map(|m| m.annotations).collect();
        for (k, annotation) in annotations.iter_mut().enumerate() {
            annotation.id = k as u64 + 1;
        }
        let category = |(name, id)| json!({ "id": id, "name": name, "supercategory": "shape" });
        let categories: Vec<_> = CLASSES.iter().zip(CATEGORY_IDS).map(category).collect();
        let instances = json!({
            "info": { "description": format!("shapes {}, seed {}", self.name, spec.seed),
                      "version": GENERATOR.to_string() },
            "licenses": [{ "id": 1, "name": "MIT OR Apache-2.0", "url": "" }],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        });
        (instances.to_string() + "\n").into_bytes()
    }
}

/// Eight digits, so that the order of names is the order of ids.
fn file_name(id: u64) -> String {
    format!("{id:08}.png")
}

fn encode(
    path: &Path,
    pixels: &[u8],
    size: usize,
    colour: ExtendedColorType,
) -> Result<Vec<u8>, ShapesError> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::Adaptive)
        .write_image(pixels, size as u32, size as u32, colour)
        .map_err(|e| failed(path, e))?;
    Ok(png)
}

/// Writes a file that must not exist yet.
fn create(path: &Path, bytes: &[u8]) -> Result<(), ShapesError> {
    let mut file = std::fs::File::create_new(path).map_err(|e| failed(path, e))?;
    file.write_all(bytes).map_err(|e| failed(path, e))
}

fn failed(path: &Path, error: impl std::fmt::Display) -> ShapesError {
    ShapesError::File { path: path.into(), message: error.to_string() }
}
