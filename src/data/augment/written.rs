//! The TOML text of every operation with its defaults written out: `config.toml` of a run, whose hash names the run, holds
//! it. A change of this text gives every run that uses the operation another name.

use super::Augmentations;
use crate::config::{Operation, parse, schema_with};
use std::collections::BTreeSet;

/// What a recipe says, and what `config.toml` says then.
const WRITTEN: [(&str, &str); 29] = [
    (
        "op = \"random_resized_crop\"\nscale = [0.08, 1]",
        "op = \"random_resized_crop\"\nscale = [0.08, 1.0]\nratio = [0.75, 1.3333333333333333]\ninterpolation = \"bicubic\"\nsingle_draw = false\n",
    ),
    (
        "ratio = [0.5, 2.0]\nsingle_draw = true\ninterpolation = \"lanczos\"\nscale = [0.2, 1.0]\nsize = [48, 40]\nop = \"random_resized_crop\"",
        "op = \"random_resized_crop\"\nsize = [48, 40]\nscale = [0.2, 1.0]\nratio = [0.5, 2.0]\ninterpolation = \"lanczos\"\nsingle_draw = true\n",
    ),
    ("op = \"random_crop\"", "op = \"random_crop\"\npadding = 0\nreflect = false\n"),
    (
        "op = \"random_crop\"\nreflect = true\npadding = 4\nsize = [32, 32]",
        "op = \"random_crop\"\nsize = [32, 32]\npadding = 4\nreflect = true\n",
    ),
    ("op = \"flip\"\np = 1", "op = \"flip\"\np = 1.0\n"),
    ("op = \"resize\"", "op = \"resize\"\ninterpolation = \"bicubic\"\n"),
    (
        "interpolation = \"nearest\"\nop = \"resize\"\nsize = [20, 30]",
        "op = \"resize\"\nsize = [20, 30]\ninterpolation = \"nearest\"\n",
    ),
    ("op = \"resize_short\"", "op = \"resize_short\"\ninterpolation = \"bicubic\"\n"),
    (
        "op = \"resize_short\"\nsize = 256\ninterpolation = \"bilinear\"",
        "op = \"resize_short\"\nsize = 256\ninterpolation = \"bilinear\"\n",
    ),
    (
        "op = \"resize_short\"\nmargin_up_to = 224\ncrop_ratio = 0.875",
        "op = \"resize_short\"\ncrop_ratio = 0.875\nmargin_up_to = 224\ninterpolation = \"bicubic\"\n",
    ),
    ("op = \"center_crop\"", "op = \"center_crop\"\n"),
    ("op = \"center_crop\"\nsize = [224, 224]", "op = \"center_crop\"\nsize = [224, 224]\n"),
    (
        "op = \"resize_scale\"\nscale = [0.1, 2.0]",
        "op = \"resize_scale\"\nscale = [0.1, 2.0]\ninterpolation = \"bilinear\"\n",
    ),
    (
        "op = \"resize_scale\"\nscale = [0.1, 2.0]\nsize = [64, 64]\ninterpolation = \"bicubic\"",
        "op = \"resize_scale\"\nsize = [64, 64]\nscale = [0.1, 2.0]\ninterpolation = \"bicubic\"\n",
    ),
    ("op = \"fixed_size_crop\"", "op = \"fixed_size_crop\"\n"),
    (
        "op = \"fixed_size_crop\"\nfill = [1, 2, 3]\nsize = [64, 48]",
        "op = \"fixed_size_crop\"\nsize = [64, 48]\nfill = [1, 2, 3]\n",
    ),
    ("op = \"resize_longest\"", "op = \"resize_longest\"\ninterpolation = \"bilinear\"\n"),
    (
        "op = \"resize_longest\"\nsize = 96\ninterpolation = \"nearest\"",
        "op = \"resize_longest\"\nsize = 96\ninterpolation = \"nearest\"\n",
    ),
    ("op = \"pad\"", "op = \"pad\"\n"),
    ("op = \"pad\"\nfill = [128]\nsize = [120, 130]", "op = \"pad\"\nsize = [120, 130]\nfill = [128]\n"),
    (
        "op = \"color_jitter\"\nhue = 0.1\nsaturation = 0.2\ncontrast = 0.3\nbrightness = 0.4",
        "op = \"color_jitter\"\nbrightness = 0.4\ncontrast = 0.3\nsaturation = 0.2\nhue = 0.1\n",
    ),
    ("op = \"resize_within\"", "op = \"resize_within\"\nscale = [1.0, 1.0]\ninterpolation = \"bilinear\"\n"),
    (
        "op = \"resize_within\"\nshort = 64\nlong = 128\nscale = [0.5, 2.0]\ninterpolation = \"bicubic\"",
        "op = \"resize_within\"\nshort = 64\nlong = 128\nscale = [0.5, 2.0]\ninterpolation = \"bicubic\"\n",
    ),
    ("op = \"scene_crop\"", "op = \"scene_crop\"\nclass_share = 1.0\n"),
    (
        "op = \"scene_crop\"\nclass_share = 0.75\nsize = [50, 60]",
        "op = \"scene_crop\"\nsize = [50, 60]\nclass_share = 0.75\n",
    ),
    (
        "op = \"photometric\"",
        "op = \"photometric\"\nbrightness = 32.0\ncontrast = [0.5, 1.5]\nsaturation = [0.5, 1.5]\nhue = 18\n",
    ),
    (
        "op = \"photometric\"\nbrightness = 16\ncontrast = [0.25, 1.75]\nsaturation = [0.75, 1.25]\nhue = 9",
        "op = \"photometric\"\nbrightness = 16.0\ncontrast = [0.25, 1.75]\nsaturation = [0.75, 1.25]\nhue = 9\n",
    ),
    (
        "op = \"rand_augment\"\nmagnitude = 9",
        "op = \"rand_augment\"\nlayers = 2\nmagnitude = 9.0\nmagnitude_std = 0.0\np = 0.5\ninterpolation = \"bicubic\"\n",
    ),
    (
        "op = \"rand_augment\"\nlayers = 3\nmagnitude = 5.5\nmagnitude_std = 0.5\np = 0.75\ninterpolation = \"bilinear\"",
        "op = \"rand_augment\"\nlayers = 3\nmagnitude = 5.5\nmagnitude_std = 0.5\np = 0.75\ninterpolation = \"bilinear\"\n",
    ),
];

#[test]
fn operations_are_written_out_with_their_defaults() {
    let augmentations = Augmentations::builtin();
    augmentations.check().unwrap();
    let mut seen = BTreeSet::new();
    for (recipe, written) in WRITTEN {
        let operation: Operation = parse(recipe, "recipe").unwrap();
        let completed = augmentations.completed(&operation).unwrap();
        assert_eq!(toml::to_string(&completed).unwrap(), written);
        assert_eq!(augmentations.completed(&completed).unwrap(), completed, "completed once more");
        seen.insert(operation.name);
    }
    assert_eq!(seen.len(), augmentations.names().count(), "every operation has a row");
}

#[test]
fn operations_that_draw_nothing_are_known() {
    let augmentations = Augmentations::builtin();
    let fixed = |name: &&str| !augmentations.is_random(&Operation::new(name, &toml::Table::new()).unwrap());
    let fixed: Vec<&str> = augmentations.names().filter(fixed).collect();
    assert_eq!(fixed, ["resize", "resize_short", "center_crop", "resize_longest", "pad"]);
}

#[test]
fn unknown_operations_and_options_are_refused_by_name() {
    let error = |text: &str| {
        let operation: Operation = parse(text, "recipe").unwrap();
        Augmentations::builtin().completed(&operation).unwrap_err().to_string()
    };
    let unknown = error("op = \"flipp\"\np = 0.5");
    assert!(unknown.starts_with("operation `flipp`: unknown; did you mean `flip`?"), "{unknown}");
    let misspelt = error("op = \"flip\"\np = 0.5\nq = 1");
    assert!(misspelt.contains("op = \"flip\"") && misspelt.contains("expected `p`"), "{misspelt}");
    assert!(error("op = \"flip\"").contains("missing field `p`"));
    let twice = Augmentations::builtin().with::<super::crop::Flip>().check().unwrap_err().to_string();
    assert!(twice.starts_with("operation `flip`: is registered twice"), "{twice}");
}

#[test]
fn the_schema_allows_the_registered_operations() {
    let schema = schema_with::<crate::config::Recipe>(|generator| Augmentations::builtin().define(generator));
    let tables = schema.pointer("/$defs/table_with_op/oneOf").and_then(|tables| tables.as_array()).unwrap();
    let names: Vec<&str> =
        tables.iter().filter_map(|table| table.pointer("/properties/op/const")?.as_str()).collect();
    assert!(Augmentations::builtin().names().eq(names));
    let flip = tables.iter().find(|table| table["properties"]["op"]["const"] == "flip").unwrap();
    assert_eq!(flip["required"], serde_json::json!(["op", "p"]));
    assert_eq!(flip["additionalProperties"], false);
}
