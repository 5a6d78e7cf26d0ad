"""What several programs here need: models with random weights, saved as users of a library get them."""
import shutil
import tempfile
from pathlib import Path

import torch


def randomize(model, scale=0.3):
    """Trainable weights away from their initial values, norms and layer scales around 1; in evaluation mode."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * (scale if parameter.dim() > 1 else 0.1)
            if "norm" in name and name.endswith("weight") or "lambda1" in name:
                parameter.data += 1
    return model.eval()


def save(model, path):
    """As a user of the library gets it."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shutil.copyfile(Path(folder) / "model.safetensors", path)
