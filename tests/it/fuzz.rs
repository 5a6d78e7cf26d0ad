//! Readers on damaged input: a value or an error, and never a panic, a hang, or memory that the input does not fill.
//!
//! Input number n of a target is a function of n: one of its seeds, changed a few times. `BENCH_FUZZ` says how many there
//! are of all targets together (`scripts/check_fuzz`, which also bounds the memory).

use crate::program::repository;
use bench::config::{Choice, Library, ModelConfig, Stage};
use bench::data::formats::CocoJson;
use bench::data::{
    Annotation, DatasetInfo, Entry, Image, ImageRef, LabelEncoding, LabelTable, Objects, RasterFile, Rle,
    SampleId,
};
use bench::engine::{Control, Silent};
use bench::models::{BackboneUsage, Vit};
use bench::nn::Params;
use bench::registry::Registry;
use bench::rng::Rng;
use bench::weights::{HubFile, Inspection, WeightFile, load_backbone};
use candle_core::Device;
use rand::{Rng as _, RngCore as _};
use std::io::{Cursor, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Inputs where `BENCH_FUZZ` does not say how many.
const FEW: u64 = 4_000;
/// No input takes longer, on a machine that does other things too.
const LONGEST: Duration = Duration::from_secs(20);

/// What reads an input.
type Reader = Box<dyn Fn(&[u8])>;

struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    run: Reader,
}

fn target(name: &'static str, seeds: Vec<Vec<u8>>, run: impl Fn(&[u8]) + 'static) -> Target {
    Target { name, seeds, run: Box::new(run) }
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/golden").join(name)).unwrap()
}

/// Opens, inspects and reads a file.
fn weights(bytes: Vec<u8>) {
    if let Ok(file) = WeightFile::parse(Path::new("fuzzed"), bytes) {
        let _ = Inspection::of(&file);
        let _ = file.read(&Device::Cpu);
    }
}

/// A safetensors file of this header, and of the bytes that it describes.
fn with_header(header: &[u8], data: usize) -> Vec<u8> {
    [(header.len() as u64).to_le_bytes().as_slice(), header, &vec![0; data]].concat()
}

/// Tensors of zeros, listed as lines `name 2,3`; what is no such line, or large, is left out.
fn listed(lines: &[u8]) -> Vec<u8> {
    let (mut entries, mut end) = (vec![], 0);
    for line in String::from_utf8_lossy(lines).lines() {
        let Some((name, shape)) = line.split_once(' ') else { continue };
        let Ok(shape) = shape.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>() else { continue };
        let Some(count) = shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n)) else { continue };
        if count < 5_000 {
            let offsets = [end, end + 4 * count];
            let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets });
            entries.push((name.to_string(), entry));
            end += 4 * count;
        }
    }
    let header = serde_json::Value::Object(entries.into_iter().collect()).to_string();
    with_header(header.as_bytes(), end)
}

/// The tensors of a golden file as [`listed`] reads them.
fn list(name: &str) -> Vec<u8> {
    let file = golden(name);
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let shape = |shape: &[usize]| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let line = |(name, view): (&str, safetensors::tensor::TensorView)| {
        format!("{} {}\n", name.trim_start_matches("weights."), shape(view.shape()))
    };
    tensors.iter().map(line).collect::<String>().into_bytes()
}

/// The files of an archive.
fn members(bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let count = archive.len();
    let member = |i| {
        let (mut file, mut bytes) = (archive.by_index(i).unwrap(), vec![]);
        file.read_to_end(&mut bytes).unwrap();
        (file.name().unwrap().to_string(), bytes)
    };
    (0..count).map(member).collect()
}

/// An archive of these files, with `content` in place of that of the file whose name ends like this.
fn with(members: &[(String, Vec<u8>)], name_end: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in members {
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(if name.ends_with(name_end) { content } else { bytes }).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Files of PyTorch whose pickles are damaged and whose archives are sound.
fn pickles(file: &str) -> Target {
    let members = members(golden(file));
    let (_, pickle) = members.iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap();
    target("pickle", vec![pickle.clone()], move |bytes| weights(with(&members, "data.pkl", bytes)))
}

/// An archive of NumPy in which one array is damaged.
fn arrays(file: &str, kernel: &'static str) -> Target {
    let members = members(golden(file));
    let (_, array) = members.iter().find(|(name, _)| name.ends_with(kernel)).unwrap();
    target("array", vec![array.clone()], move |bytes| weights(with(&members, kernel, bytes)))
}

/// A pickle with an array of two numbers as Python 3 writes it in protocol 2.
fn protocol_2() -> Vec<u8> {
    b"\x80\x02}X\x05\x00\x00\x00modelcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x02\
      \x85cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89\
      c_codecs\nencode\nX\x0a\x00\x00\x00\x00\x00\xc2\x80?\x00\x00\xc3\x80@X\x06\x00\x00\x00latin1\x86Rtbs."
        .to_vec()
}

/// A file of PyTorch with this pickle and no storages.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    with(&[("archive/data.pkl".into(), vec![])], "data.pkl", pickle)
}

/// Names and shapes, translated and loaded into a small ViT.
fn names() -> Target {
    let files = [
        "mae_gray",
        "dialects/formats/deit_distilled_hf",
        "dialects/timm/deit_distilled",
        "dialects/vit",
        "dialects/vit_mae",
        "dialects/beit",
        "dialects/beit_model",
        "dvae",
        "relative",
    ];
    let seeds = files.iter().map(|name| list(&format!("{name}.safetensors"))).collect();
    let text = "image = [24, 24]\npatch = 4\nwidth = 16\ndepth = 2\nheads = 2\nnorm_eps = 1e-6\n\
                relative_positions = true\ndecoder = { width = 8, depth = 1, heads = 2 }\n";
    let model: ModelConfig = bench::config::parse(text, "fuzz").unwrap();
    let params = Params::new(0, &Device::Cpu);
    Vit::new(&model, BackboneUsage::default(), params.builder()).unwrap();
    target("names", seeds, move |bytes| {
        let Ok(file) = WeightFile::parse(Path::new("fuzzed"), listed(bytes)) else { return };
        let _ = Inspection::of(&file);
        if let Ok(tensors) = file.read(&Device::Cpu) {
            let _ = load_backbone(&params, &tensors, &model, None);
        }
    })
}

/// Names of several state dicts with prefixes and counters, in one file.
fn prefixes() -> Target {
    let names = |prefix: &str| {
        let text = String::from_utf8(list("mae_gray.safetensors")).unwrap();
        text.lines().map(|line| format!("{prefix}{line}\n")).collect::<String>()
    };
    let seeds = [
        names("model.") + &names("ema_model.module.") + "n_averaged 1\n",
        names("module.student.") + &names("module.teacher.") + "queue 3,4\n",
        names("_orig_mod.") + "criterion.weight 3\n",
    ];
    target("prefixes", seeds.map(String::into_bytes).to_vec(), |bytes| weights(listed(bytes)))
}

/// An index of weights that lists damaged names; none of its files is there.
fn indices() -> Target {
    let seed = br#"{"metadata":{"total_size":1},"weight_map":{"a.weight":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    target("index", vec![seed.to_vec()], |bytes| {
        let path = Path::new("no/such/folder/model.safetensors.index.json");
        assert!(WeightFile::parse(path, bytes.to_vec()).is_err());
    })
}

fn references() -> Target {
    let seeds =
        ["hub:facebook/vit-mae-base", "hub:me/vit@refs%2Fpr%2F1/sub/weights.pth", "hub:a/b@main/../c"];
    target("reference", seeds.map(|seed| seed.as_bytes().to_vec()).to_vec(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(file) = HubFile::parse(&text) else { return };
        assert_eq!(HubFile::parse(&file.to_string()).unwrap(), file, "comes back");
        let parts = [Some(file.owner), Some(file.name), file.revision, file.file];
        let leaves = |part: &str| matches!(part, "" | "." | "..") || part.contains(['\\', ':', '\0']);
        assert!(
            !parts.iter().flatten().flat_map(|part| part.split('/')).any(leaves),
            "leaves its folder: {text}"
        );
    })
}

fn runs() -> Target {
    let bitmap: Vec<u8> = (0..35).map(|i| u8::from(i % 3 > 0)).collect();
    let seed = Rle::encode(&bitmap, (5, 7)).to_coco().into_bytes();
    target("runs", vec![seed], |bytes| {
        let [height, width, counts @ ..] = bytes else { return };
        let (height, width) = (u32::from(*height), u32::from(*width));
        if let Ok(rle) = Rle::from_coco(&String::from_utf8_lossy(counts), height, width) {
            assert_eq!(rle.decode().len(), (height * width) as usize);
        }
    })
}

fn annotations() -> Target {
    let seed = r#"{"images":[{"id":1,"width":20,"height":10,"file_name":"a.jpg"}],"categories":[{"id":3,"name":"cat"}],
        "annotations":[{"id":1,"image_id":1,"category_id":3,"segmentation":[[1,1,9,1,9.5,8e0,1,8]]},
        {"id":2,"image_id":1,"category_id":3,"bbox":[1,2,3,4],"iscrowd":1,"segmentation":{"size":[10,20],"counts":[5,190,5]}},
        {"id":3,"image_id":1,"category_id":3,"bbox":[1,2,3,4],"area":7,"segmentation":{"size":[10,20],"counts":"55e5"}}]}"#;
    let format = CocoJson { file: "some.json".into(), drop_empty: false, allowed_degenerate: 1 };
    let odd = "\u{feff}{\"images\":[{\"id\":\"img 1\",\"width\":20.0,\"height\":10,\"file_name\":\"a\\\\b.jpg\",\"x\":NaN}],
        \"annotations\":[{\"id\":\"7c1d\",\"image_id\":\"img 1\",\"category_id\":3.0,\"bbox\":[1,1,8,7],\"iscrowd\":null,
        \"segmentation\":[1,1,9,1,9,8]},{\"image_id\":\"img 1\",\"category_id\":3,\"bbox\":[1,2,3,4],\"iscrowd\":\"0\",
        \"segmentation\":[[2,2],[1,1,9,1,9,8],[]],\"score\":-Infinity},{\"id\":9,\"image_id\":\"img 1\",\"category_id\":4,
        \"bbox\":[1,2,0,4],\"segmentation\":{}}],\"categories\":[{\"id\":3,\"name\":\"cat\"},{\"id\":4,\"name\":\"cat\"}]}";
    let read = move |bytes: &[u8]| match format.read(bytes.to_vec()) {
        // What is accepted can be drawn, or says why not.
        Ok(content) => {
            content.images.iter().filter(|(_, image)| image.size.0 * image.size.1 < 1 << 20).for_each(
                |(_, image)| {
                    assert!(image.objects.iter().all(|object| object.mask(image.size).is_ok()));
                },
            )
        }
        Err(flaws) => assert!(!flaws.is_empty()),
    };
    let wide = format!("\u{feff}{seed}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    target("annotations", vec![seed.as_bytes().to_vec(), odd.as_bytes().to_vec(), wide], read)
}

/// Lists of results for two images, scored as boxes and masks: what is accepted has scores from 0 to 100, or -1 for masks if
/// there are none.
fn results() -> Target {
    let (library, registry) = (Library::default(), Registry::builtin());
    let manifest = bench::registry::manifest(&library, registry.components(), "shapes_detection").unwrap();
    let choice = Choice { library: &library, owners: registry.components(), overrides: &[] };
    let head = choice.recipe(Stage::Transfer, &manifest.recipe, ("", "")).unwrap().head();
    let truth = r#"{"images":[{"id":1,"width":20,"height":10,"file_name":"a.jpg"},{"id":7,"width":20,"height":10,
        "file_name":"b.jpg"}],"categories":[{"id":3,"name":"cat"},{"id":5,"name":"dog"}],
        "annotations":[{"id":1,"image_id":1,"category_id":3,"bbox":[1,1,8,7],"area":40,"segmentation":[[1,1,9,1,9,8,1,8]]},
        {"id":2,"image_id":7,"category_id":5,"bbox":[1,2,9,4],"area":36,"segmentation":[[1,2,10,2,10,6,1,6]]}]}"#;
    let format = CocoJson { file: "some.json".into(), drop_empty: false, allowed_degenerate: 0 };
    let truth = format.read(truth.into()).unwrap();
    let info = DatasetInfo { classes: truth.classes, categories: truth.categories, ..DatasetInfo::default() };
    let task = registry.task(&manifest, (&head, "the recipe"), &info).unwrap();
    let entry = |(name, objects): (String, Objects)| Entry {
        id: SampleId::new(&name),
        image: ImageRef::File(name.into()),
        annotation: Annotation::Objects(Arc::new(objects)),
    };
    let entries: Vec<Entry> = truth.images.into_iter().map(entry).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let seeds = [
        r#"[{"image_id":1,"category_id":3,"bbox":[1,1,8,7],"score":0.9,"segmentation":[[1,1,9,1,9,8,1,8]]},
        {"image_id":7.0,"category_id":5,"bbox":[1,2,9,4.5],"score":0.5,"segmentation":{"size":[10,20],"counts":[12,5,183]}}]"#,
        r#"[{"image_id":7,"category_id":5,"score":1e-1,"segmentation":{"size":[10,20],"counts":"55e5"}}]"#,
        r#"[{"image_id":1,"category_id":5,"bbox":[1,2,9,4],"score":0.25,"area":null,"x":NaN}]"#,
    ];
    target("results", seeds.map(|seed| seed.as_bytes().to_vec()).to_vec(), move |bytes| {
        let _ = &folder;
        std::fs::write(&path, bytes).unwrap();
        let control = Control { stop: &AtomicBool::new(false), observer: &Silent };
        if let Ok(found) = task.score_files(std::slice::from_ref(&path), &entries, &control) {
            let value = |name: &str| found.findings.scores.get(name).unwrap().value;
            for (boxes, masks) in [("box_ap", "mask_ap"), ("box_ar_100", "mask_ar_100")] {
                let (boxes, masks) = (value(boxes), value(masks));
                let within = |score: &f64| (0. ..=100.).contains(score);
                assert!(within(&boxes) && (within(&masks) || masks == -1.), "{boxes}, {masks}");
            }
        }
    })
}

/// The files of a golden file of images.
fn image_files(name: &str) -> Vec<Vec<u8>> {
    let file = golden(name);
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let files = tensors.iter().filter(|(name, _)| name.starts_with("file."));
    files.map(|(_, view)| view.data().to_vec()).collect()
}

/// Image files: what is read has its pixels.
fn images(name: &'static str, golden: &str) -> Target {
    target(name, image_files(golden), |bytes| {
        if let Ok(image) = Image::decode_upright(bytes, 3) {
            assert_eq!(image.data.len(), image.height * image.width * 3);
        }
    })
}

/// Masks, of which the values are read as they are stored.
fn masks() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mask.png");
    let labels = LabelTable::new((0..256).map(|id| (id, id as u16))).unwrap();
    let mask = RasterFile { path: path.clone(), encoding: Arc::new(LabelEncoding::Ids(labels)) };
    let files = image_files("images.safetensors");
    let pngs = files.into_iter().filter(|bytes| bytes.starts_with(b"\x89PNG")).collect();
    target("mask", pngs, move |bytes| {
        let _ = &folder;
        std::fs::write(&path, bytes).unwrap();
        if let Ok(raster) = mask.read() {
            assert_eq!(raster.labels.len(), raster.height * raster.width);
        }
    })
}

fn targets() -> Vec<Target> {
    let header = |name: &str| {
        let bytes = golden(name);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        (bytes[8..8 + length].to_vec(), bytes.len() - 8 - length)
    };
    let (seed, data) = header("dialects/vit.safetensors");
    let format = |name: &str| golden(&format!("dialects/formats/{name}"));
    vec![
        target(
            "safetensors",
            vec![golden("mae_parts.safetensors"), golden("relative.safetensors")],
            |bytes| weights(bytes.to_vec()),
        ),
        target("header", vec![seed], move |bytes| weights(with_header(bytes, data))),
        target("archive", vec![golden("mae_nested.pth"), golden("dialects/timm/augreg.npz")], |bytes| {
            weights(bytes.to_vec())
        }),
        target("compressed", vec![golden("dialects/timm/augreg_compressed.npz")], |bytes| {
            weights(bytes.to_vec())
        }),
        target(
            "big_vision",
            vec![format("big_vision.npz"), format("siglip.npz"), format("sincos.npz")],
            |bytes| weights(bytes.to_vec()),
        ),
        target("numpy", vec![format("vitdet.pkl"), format("vitdet_5.pkl"), protocol_2()], |bytes| {
            weights(bytes.to_vec())
        }),
        arrays("dialects/timm/augreg.npz", "encoderblock_0/MlpBlock_3/Dense_0/kernel.npy"),
        arrays("dialects/formats/big_vision_scan.npz", "encoderblock/MlpBlock_0/Dense_0/kernel.npy"),
        pickles("mae_nested.pth"),
        pickles("dvae_encoder.pkl"),
        target("numpy member", vec![protocol_2()], |bytes| weights(with_pickle(bytes))),
        names(),
        prefixes(),
        indices(),
        references(),
        runs(),
        annotations(),
        results(),
        images("jpeg", "jpeg.safetensors"),
        images("image", "images.safetensors"),
        images("turned", "orientation.safetensors"),
        masks(),
    ]
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
const WORDS: [&str; 15] = [
    "0",
    "-1",
    "1e999",
    "4294967296",
    "18446744073709551615",
    "[",
    "{",
    "\"",
    ",",
    "../",
    "\n",
    ".",
    "NaN",
    "null",
    "-Infinity",
];

/// One of the seeds, changed.
fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..1 + rng.next_u32() % 6 {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..=40)).min(bytes.len());
        match rng.next_u32() % 9 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (rng.next_u32() % 8),
            1 if at < bytes.len() => bytes[at] = rng.next_u32() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => bytes.insert(at, rng.next_u32() as u8),
            5 => {
                let copied = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, copied);
            }
            6 => {
                let edge = EDGES[rng.random_range(0..EDGES.len())].to_le_bytes();
                let length = (1 << (rng.next_u32() % 4)).min(bytes.len() - at);
                bytes[at..at + length].copy_from_slice(&edge[..length]);
            }
            7 => {
                let word = WORDS[rng.random_range(0..WORDS.len())].bytes();
                bytes.splice(at..(at + 1).min(bytes.len()), word);
            }
            _ => {
                // Another number in its place.
                let digits = bytes[at..].iter().position(u8::is_ascii_digit).map(|first| at + first);
                let Some(first) = digits else { continue };
                let count = bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = EDGES[rng.random_range(0..EDGES.len())].to_string();
                bytes.splice(first..first + count, number.bytes());
            }
        }
    }
    bytes
}

/// Runs inputs `0..count` of a target.
fn fuzz(target: &Target, count: u64) {
    for n in 0..count {
        let mut rng = Rng::new(0, target.name, &[n]);
        let bytes = mutated(&target.seeds, &mut rng);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes)));
        let seconds = began.elapsed();
        let input = || format!("{} input {n}: {}", target.name, bytes.escape_ascii());
        assert!(outcome.is_ok(), "panics: {}", input());
        assert!(seconds < LONGEST, "takes {seconds:?}: {}", input());
    }
}

#[test]
fn no_reader_breaks_on_damaged_input() {
    let count = std::env::var("BENCH_FUZZ").map_or(FEW, |count| count.parse().expect("BENCH_FUZZ: a number"));
    let targets = targets();
    for target in &targets {
        let began = Instant::now();
        let each = count.div_ceil(targets.len() as u64);
        fuzz(target, each);
        println!("{:<12} {each} inputs, {:.1} s", target.name, began.elapsed().as_secs_f64());
    }
}

#[test]
fn seeds_are_read_whole() {
    for target in targets() {
        target.seeds.iter().for_each(|seed| (target.run)(seed));
    }
    let lists = names().seeds;
    let read =
        |list: &Vec<u8>| WeightFile::parse(Path::new("list"), listed(list)).map(|file| file.entries().len());
    assert!(lists.iter().all(|list| read(list).unwrap() > 0), "names");
    assert!(WeightFile::parse(Path::new("archive"), golden("mae_nested.pth")).is_ok());
    let entries = |bytes: Vec<u8>| WeightFile::parse(Path::new("some"), bytes).unwrap().entries().len();
    assert_eq!((entries(protocol_2()), entries(with_pickle(&protocol_2()))), (1, 1));
    assert!(entries(golden("dialects/timm/augreg_compressed.npz")) > 10);
    let members = members(golden("dvae_encoder.pkl"));
    let (_, pickle) = members.iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap();
    assert!(WeightFile::parse(Path::new("pickle"), with(&members, "data.pkl", pickle)).is_ok());
}

#[test]
#[should_panic(expected = "panics: fragile input")]
fn a_reader_that_breaks_is_found() {
    let fragile = target("fragile", vec![b"hub:me/vit".to_vec()], |bytes| assert!(bytes.len() >= 4));
    fuzz(&fragile, 10_000);
}
