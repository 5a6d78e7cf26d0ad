"""Weights that our program wrote (`model.safetensors`), in PyTorch."""

import hashlib
import json
import math
import pathlib

import torch

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What a file of MAE has beside the encoder that transfer keeps: as in our program.
LEFT_OUT = ("decoder_", "mask_token", "norm.")


def read(path):
    """The tensors of a file of safetensors, in f32."""
    data = bytearray(pathlib.Path(path).read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, fact in json.loads(data[8:begin]).items():
        if name == "__metadata__":
            continue
        kind, shape, (start, _) = TYPES[fact["dtype"]], fact["shape"], fact["data_offsets"]
        values = torch.frombuffer(data, dtype=kind, count=math.prod(shape), offset=begin + start)
        tensors[name] = values.reshape(shape).float()
    return tensors


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def load(backbone, path):
    """Puts the encoder of a file into a `vit.Vit`. Relative positions, which pre-training has not, keep their zeros; any other
    parameter that the file lacks, has in another shape, or has and the backbone does not, is an error."""
    found = {name: value for name, value in read(path).items() if not name.startswith(LEFT_OUT)}
    missing, unknown = backbone.load_state_dict(found, strict=False)
    missing = [name for name in missing if "relative_position_bias_table" not in name]
    if missing or unknown:
        raise ValueError(f"{path}: missing {missing}, not known {unknown}")
