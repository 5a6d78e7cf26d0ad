//! A pickled `torch.nn.Module`, as OpenAI's dVAE is published: its object graph is walked for tensors, nothing is run.
//!
//! A pickle is a program; here it only builds a tree of data. Every class and function that it names is looked at before
//! anything is taken from it, and one that a module has no business with refuses the file.

use super::WeightEntry;
use candle_core::pickle::{Object, Stack, TensorInfo};
use candle_core::{Result, Tensor, bail};
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// Modules whose classes and functions may occur, with everything below them.
const KNOWN_MODULES: [&str; 2] = ["torch.nn", "dall_e"];
/// Single names that may occur.
const KNOWN_NAMES: [(&str, &str); 9] = [
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "device"),
    ("torch", "FloatStorage"),
    ("torch", "HalfStorage"),
    ("torch", "LongStorage"),
    ("builtins", "set"),
    ("__builtin__", "set"),
];
/// Modules in modules.
const MOST_LEVELS: usize = 64;

/// The tensors of a pickled module, read when asked for.
pub(super) struct ModuleFile {
    path: PathBuf,
    tensors: Vec<TensorInfo>,
}

impl ModuleFile {
    /// `None` when the zip file holds something else than a module, such as a state dict.
    ///
    /// # Errors
    /// A file that is truncated or no pickle, or names what a module has no business with.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let mut archive = archive(path)?;
        let pickle = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        let Some(name) = pickle.into_iter().find(|name| name.ends_with("data.pkl")) else { return Ok(None) };
        let mut reader = BufReader::new(archive.by_name(&name).map_err(candle_core::Error::wrap)?);
        let mut stack = Stack::empty();
        stack.read_loop(&mut reader)?;
        let object = stack.finalize()?;
        let Object::Build { .. } = &object else { return Ok(None) };
        if let Some((module, class)) = stranger(&object) {
            bail!("the pickle names `{module}.{class}`, which no module needs: refused, nothing was run");
        }
        let folder = PathBuf::from(name.strip_suffix(".pkl").unwrap_or(&name));
        let mut tensors = Vec::new();
        walk(&object, "", &folder, 0, &mut tensors)?;
        Ok(Some(Self { path: path.into(), tensors }))
    }

    /// Names and shapes, in the order of the module.
    pub fn entries(&self) -> Vec<WeightEntry> {
        let entry = |info: &TensorInfo| WeightEntry {
            name: info.name.clone(),
            shape: info.layout.dims().to_vec(),
            dtype: info.dtype,
        };
        self.tensors.iter().map(entry).collect()
    }

    /// One tensor, on the CPU.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(info) = self.tensors.iter().find(|info| info.name == name) else { return Ok(None) };
        if !info.layout.is_contiguous() {
            bail!("its values do not lie in order: {:?}", info.layout);
        }
        let mut archive = archive(&self.path)?;
        let mut reader = archive.by_name(&info.path).map_err(candle_core::Error::wrap)?;
        let start = info.layout.start_offset(); // in bytes here
        let count = info.layout.shape().elem_count() * info.dtype.size_in_bytes();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        match bytes.get(start..start + count) {
            Some(values) => {
                Tensor::from_raw_buffer(values, info.dtype, info.layout.dims(), &candle_core::Device::Cpu)
                    .map(Some)
            }
            None => bail!("its values end early"),
        }
    }
}

fn archive(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    ZipArchive::new(BufReader::new(File::open(path)?)).map_err(candle_core::Error::wrap)
}

/// A class or function that a module has no business with.
fn stranger(object: &Object) -> Option<(&str, &str)> {
    match object {
        Object::Class { module_name, class_name } => {
            let below = |known: &&str| {
                module_name.strip_prefix(*known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let known = KNOWN_MODULES.iter().any(below)
                || KNOWN_NAMES.contains(&(module_name.as_str(), class_name.as_str()));
            (!known).then_some((module_name, class_name))
        }
        Object::Tuple(items) | Object::List(items) => items.iter().find_map(stranger),
        Object::Dict(pairs) => {
            pairs.iter().find_map(|(key, value)| stranger(key).or_else(|| stranger(value)))
        }
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            stranger(callable).or_else(|| stranger(args))
        }
        Object::PersistentLoad(id) => stranger(id),
        _ => None,
    }
}

/// Collects the parameters and buffers of a module and those below it, named as its state dict names them.
fn walk(
    object: &Object,
    prefix: &str,
    folder: &Path,
    level: usize,
    tensors: &mut Vec<TensorInfo>,
) -> Result<()> {
    if level > MOST_LEVELS {
        bail!("modules lie more than {MOST_LEVELS} deep");
    }
    let Object::Build { args, .. } = object else { return Ok(()) };
    let Object::Dict(state) = args.as_ref() else { return Ok(()) };
    for (key, value) in state {
        let (Object::Unicode(key), Object::Dict(members)) = (key, value) else { continue };
        for (name, member) in members {
            let Object::Unicode(name) = name else { continue };
            let name = format!("{prefix}{name}");
            match key.as_str() {
                "_parameters" | "_buffers" => {
                    let named = Object::Unicode(name);
                    tensors.extend(member.clone().into_tensor_info(named, folder)?);
                }
                "_modules" => walk(member, &format!("{name}."), folder, level + 1, tensors)?,
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::WeightFile;
    use candle_core::Device;

    fn golden(name: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)
    }

    #[test]
    fn a_pickled_module_has_the_tensors_of_its_state_dict() {
        let file = WeightFile::open(&golden("dvae_encoder.pkl")).unwrap();
        let expected = candle_core::safetensors::load(golden("dvae.safetensors"), &Device::Cpu).unwrap();
        let found = file.read(&Device::Cpu).unwrap();
        assert_eq!(found.len(), expected.keys().filter(|key| key.starts_with("encoder.")).count());
        for (name, tensor) in found {
            let expected = &expected[&format!("encoder.{name}")];
            assert_eq!(tensor.dims(), expected.dims(), "{name}");
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&tensor), values(expected), "{name}");
        }
    }

    #[test]
    fn strangers_are_refused() {
        let error = WeightFile::open(&golden("dvae_stranger.pkl")).err().unwrap().to_string();
        assert!(error.contains("posix.system") && error.contains("nothing was run"), "{error}");
    }

    #[test]
    fn truncated_files_are_errors() {
        let bytes = std::fs::read(golden("dvae_encoder.pkl")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encoder.pkl");
        for length in [5, 100, bytes.len() / 2, bytes.len() - 30] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = WeightFile::open(&path).err().unwrap().to_string();
            assert!(error.contains("encoder.pkl"), "{error}");
        }
    }
}
