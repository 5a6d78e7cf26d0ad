//! The names that the pickles of training programs usually hold. Any other name is reported; none is ever imported or called.

/// Modules whose classes are expected, including their submodules.
const MODULES: [&str; 2] = ["torch.nn", "dall_e"];
/// Classes and functions that are expected: tensors, containers, and objects that training programs save.
const NAMES: [(&str, &[&str]); 20] = [
    ("torch", &TORCH),
    (
        "torch._utils",
        &["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"],
    ),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch.serialization", &["_get_layout"]),
    ("builtins", &BUILTINS),
    ("__builtin__", &BUILTINS),
    ("collections", &["OrderedDict", "defaultdict", "Counter", "deque"]),
    ("argparse", &["Namespace"]),
    ("types", &["SimpleNamespace"]),
    ("pathlib", &["Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
    ("_codecs", &["encode"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy.core.numeric", &["_frombuffer"]),
    ("numpy._core.numeric", &["_frombuffer"]),
    ("copyreg", &["_reconstructor"]),
    ("copy_reg", &["_reconstructor"]),
    ("mmengine.logging.history_buffer", &["HistoryBuffer"]),
    ("mmengine.config.config", &["ConfigDict"]),
];
const BUILTINS: [&str; 12] = [
    "object",
    "set",
    "frozenset",
    "list",
    "dict",
    "tuple",
    "int",
    "float",
    "bool",
    "str",
    "complex",
    "slice",
];
const TORCH: [&str; 24] = [
    "Tensor",
    "Size",
    "device",
    "FloatStorage",
    "DoubleStorage",
    "HalfStorage",
    "BFloat16Storage",
    "ByteStorage",
    "CharStorage",
    "ShortStorage",
    "IntStorage",
    "LongStorage",
    "BoolStorage",
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "bool",
    "strided",
];

/// Whether weights, or the objects that training programs save with them, usually need this name.
pub(super) fn is_usual(module: &str, name: &str) -> bool {
    let below = |known: &&str| {
        module.strip_prefix(*known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    MODULES.iter().any(below) || NAMES.iter().any(|(known, names)| *known == module && names.contains(&name))
}
