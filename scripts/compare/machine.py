"""What a record says about the machine and the programs."""

import os
import platform
import re
import subprocess

# Instructions that matrix products and elementwise kernels are written for.
FLAGS = ["avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "i8mm", "sve"]
# Fields of /proc/cpuinfo that identify a processor, on x86-64 and on arm64.
IDENTITY = {
    "vendor_id": "{}",
    "cpu family": "family {}",
    "model": "model {}",
    "stepping": "stepping {}",
    "CPU implementer": "implementer {}",
    "CPU variant": "variant {}",
    "CPU part": "part {}",
    "CPU revision": "revision {}",
}


def machine(device):
    """The machine of a record; with the name and driver of the CUDA device if that is measured."""
    facts = processor(read("/proc/cpuinfo"))
    memory = None
    if "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    facts |= {"cores": os.cpu_count(), "memory_gb": memory, "system": platform.system()}
    return facts | (accelerator() if device == "cuda" else {})


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def processor(cpuinfo):
    """Name, identity and instruction sets of the first processor that /proc/cpuinfo describes."""
    lines = [line.partition(":") for line in cpuinfo.split("\n\n")[0].splitlines()]
    fields = {key.strip(): value.strip() for key, _, value in lines}
    identity = [text.format(fields[key]) for key, text in IDENTITY.items() if key in fields]
    known = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "processor": " ".join(identity) or None,
        "flags": [flag for flag in FLAGS if flag in known],
    }


def accelerator():
    """Name and driver of the first CUDA device."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except OSError:
        return {}
    name, _, driver = (lines or [""])[0].partition(", ")
    return {"accelerator": name or None, "driver": driver or None}


def rustc():
    try:
        return subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[1]
    except (OSError, IndexError):
        return "elsewhere"


def bench_version(bench, root):
    """The commit that the program names, which needs no repository, marked if the source differed from it: when it was built,
    or now in the repository `root`, from which it was built (None if elsewhere)."""
    printed = subprocess.run([bench, "--version"], capture_output=True, text=True, check=True).stdout
    return commit(printed, root is not None and has_changes(root))


def commit(printed, changed=False):
    """From `bench 0.1.0 (0123456789ab, changed)`: `0123456789ab (changed)`."""
    version, name, mark = re.fullmatch(r"\S+ (\S+) \((.*?)(, changed)?\)\s*", printed).groups()
    name = f"{version}, {name}" if " " in name else name
    return name + (" (changed)" if mark or changed else "")


def has_changes(root):
    """Whether files of the repository `root` differ from its last commit; False without git."""
    try:
        command = ["git", "status", "--porcelain", "--untracked-files=no"]
        return bool(subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip())
    except OSError:
        return False
