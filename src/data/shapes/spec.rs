//! The specification of a `shapes` set, and the errors of making one.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The classes in label order, which is the order of their names.
pub const CLASSES: [&str; 10] =
    ["arrow", "circle", "crescent", "cross", "heart", "pentagon", "ring", "square", "star", "triangle"];

/// COCO category id of each class; with gaps, as in COCO.
pub const CATEGORY_IDS: [u32; 10] = [1, 2, 3, 5, 7, 11, 13, 17, 19, 23];

/// Distance between the first ids of successive splits.
pub(super) const IDS_PER_SPLIT: u64 = 10_000_000;

/// Version number, raised whenever the same [`ShapesSpec`] gives other bytes.
pub const GENERATOR: u32 = 1;

/// The specification of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapesSpec {
    /// Height and width of every image, in pixels.
    pub size: usize,
    /// Number of unlabelled images.
    pub pretrain: usize,
    /// Number of images with objects, a multiple of the number of classes; one image in 50 without
    /// any object is added to them ([`ShapesSpec::train_images`]).
    pub train: usize,
    /// Number of images with objects for choosing hyper-parameters; the rules of `train` apply, and 0 makes none.
    #[serde(default)]
    pub select: usize,
    /// Number of validation images with objects; the rules of `train` apply.
    pub val: usize,
    /// Seed of all random numbers.
    pub seed: u64,
}

impl Default for ShapesSpec {
    fn default() -> Self {
        Self { size: 64, pretrain: 4000, train: 1000, select: 500, val: 1000, seed: 0 }
    }
}

impl ShapesSpec {
    /// Files in `train/images`: those with objects and those without.
    pub fn train_images(&self) -> usize {
        self.train + empty_images(self.train)
    }

    /// Files in `select/images`.
    pub fn select_images(&self) -> usize {
        self.select + empty_images(self.select)
    }

    /// Files in `val/images`.
    pub fn val_images(&self) -> usize {
        self.val + empty_images(self.val)
    }

    /// Files in all folders `images`.
    pub fn images(&self) -> usize {
        self.pretrain + self.train_images() + self.select_images() + self.val_images()
    }

    pub(super) fn check(&self) -> Result<(), ShapesError> {
        let fail = |message: String| Err(ShapesError::Spec(message));
        if !(24..=1024).contains(&self.size) {
            return fail(format!("`size` is {}, expected 24 to 1024 pixels", self.size));
        }
        let classes = CLASSES.len();
        for (name, count) in [("train", self.train), ("val", self.val)] {
            if count == 0 || !count.is_multiple_of(classes) {
                return fail(format!(
                    "`{name}` is {count}, expected a positive multiple of {classes} classes"
                ));
            }
        }
        if !self.select.is_multiple_of(classes) {
            return fail(format!("`select` is {}, expected a multiple of {classes} classes", self.select));
        }
        let most = IDS_PER_SPLIT as usize;
        let splits = [self.pretrain, self.train_images(), self.select_images(), self.val_images()];
        if splits.into_iter().any(|images| images > most) {
            return fail(format!("a split of more than {most} images has no room for ids"));
        }
        Ok(())
    }
}

/// Images without objects that go with `count` images with objects.
pub(super) fn empty_images(count: usize) -> usize {
    count.div_ceil(50)
}

/// The set that [`super::make`] has made or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The folder of the data set.
    pub root: PathBuf,
    /// Distinct images in all splits.
    pub images: usize,
    /// Hash of the images, id maps and annotation files.
    pub content: String,
    /// Whether a set of the same specification already existed, so that nothing was written.
    pub already_there: bool,
}

/// The reason why a set cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ShapesError {
    /// An invalid specification.
    #[error("shapes: {0}")]
    Spec(String),
    /// A folder that contains other files.
    #[error(
        "`{0}` is not empty and holds no `shapes.json`: it is not a finished shapes set. Delete the folder `{0}` to \
         make one there, or choose another"
    )]
    Unfinished(PathBuf),
    /// A folder with a set of another specification.
    #[error(
        "`{root}` holds another shapes set ({found}; wanted: {wanted}). Delete the folder `{root}` \
         to replace it, or choose another"
    )]
    Other {
        /// The folder.
        root: PathBuf,
        /// The specification of the existing set.
        found: String,
        /// The requested specification.
        wanted: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        message: String,
    },
}
