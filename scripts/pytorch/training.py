"""What measured steps and whole programs share: number types, compilation, groups of parameters, and the training step."""

import contextlib
import math

import torch

VARIANTS = ["f32", "bf16", "f32_compiled", "bf16_compiled"]


class Variant:
    """How numbers are represented and how a function is run: f32 or bf16 (autocast), eager or compiled."""

    def __init__(self, name, device):
        self.device = device
        self.bf16 = name.startswith("bf16")
        self.compiled = name.endswith("compiled")

    def prepare(self, function):
        return torch.compile(function) if self.compiled else function

    def autocast(self):
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def ieee_f32():
    """f32 means f32 on CUDA devices too: no TF32 in matrix products, nor in convolutions, where it is PyTorch's default."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def count_parameters(model):
    """Number of parameters and of those that are trained. Running statistics, which the other program holds as parameters that
    do not learn, are among the first."""
    parameters = list(model.parameters())
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    return sum(p.numel() for p in parameters + statistics), sum(p.numel() for p in parameters if p.requires_grad)


def decay_groups(model, lr, weight_decay):
    """Matrices decay, vectors do not."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learnt if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]


def layer_groups(model, lr, layer_decay, weight_decay, exempt=()):
    """Learning rates that fall by `layer_decay` with every layer below the head. Vectors and parameters of the backbone whose
    names are in `exempt` do not decay."""
    top, groups = model.backbone.depth + 1, {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        layer, decays = model.layer_of(name), p.ndim > 1 and name.removeprefix("backbone.") not in exempt
        group = {"params": [], "lr": lr * layer_decay ** (top - layer), "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((layer, decays), group)["params"].append(p)
    return list(groups.values())


class Trainer:
    """Forward, backward, norm of the gradients (clipped at `clip`) and fused AdamW. Loss and norm are checked in every step."""

    def __init__(self, variant, model, groups, betas, clip=None):
        self.variant, self.clip = variant, clip
        self.optimizer = torch.optim.AdamW(groups, betas=betas, fused=True)
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def step(self, loss):
        """A step down the gradient of `loss()`; returns its value."""
        with self.variant.autocast():
            value = loss()
        number = value.item()
        if not math.isfinite(number):
            raise ValueError("the loss is not finite")
        value.backward()
        if self.clip is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters])
        else:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if not math.isfinite(norm.item()):
            raise ValueError("a gradient is not finite")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return number
