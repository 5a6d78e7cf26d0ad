#!/usr/bin/env python3
"""Builds a CUDA for machines without a GPU: the CUDA program runs completely, its kernels on the CPU.

    eval "$(tests/cuda_emulator/build.py target/cuda_emulator)"    # sets LD_LIBRARY_PATH
    cargo test --release --features cuda                            # or the program itself

Shared libraries with the names of NVIDIA's take their place. They run the kernels of candle and of src/ops/cuda from
the same .cu sources, compiled by g++ (12 or newer) with the headers of shim/. The Rust program itself is built as ever;
its PTX is not looked at. So it needs no toolkit either: `build.py --toolkit` prints what a build without one needs, with
an nvcc that writes empty files. Such a build runs nowhere else: give it a CARGO_TARGET_DIR of its own.

What it finds: memory written outside of an allocation or of dynamic shared memory, indices outside of an array,
misaligned accesses, values used before they are written (new memory is NaN), results that depend on the order of threads
(CUDA_EMULATOR_ORDER=forward, reverse, shuffle:SEED), barriers that not all threads reach, asynchronous copies that are
not waited for, launches and matrix products that the device would refuse, kernels that do not exist, faults in a kernel
(with the thread's position).

What it cannot show: time, occupancy and registers; races that need two threads of a warp between the same instructions,
or the memory model; a block that waits for another block (it may hang); too much static shared memory; the last bit, as
g++ does not contract to FMA and sums in another order; code that only nvcc refuses. CUDA graphs, cuDNN, NCCL, cuBLASLt,
NVRTC and candle's quantised kernels are absent: a call returns an error and says so.

CUDA_EMULATOR_THREADS limits the processors used; the device has 16 GiB and compute capability 9.0.
"""

import argparse
import concurrent.futures
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
COMPILER = [os.environ.get("CXX", "g++"), "-std=c++20", "-fPIC", "-g1", "-pthread", "-fvisibility=hidden", "-Wl,-z,defs"]
RUNTIME_FLAGS = ["-O3", "-Wall", "-Wextra", "-ftls-model=initial-exec"]  # loaded when the program starts
# Like device code: no contraction that the CPU would have to emulate, types may be punned, integers wrap.
KERNEL_FLAGS = ["-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-fno-gnu-unique", "-w",
                "-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error"]

# File name: its sources, cudarc's module with the names of its functions, what an absent function returns.
LIBRARIES = {
    "libcuda.so.1": (["fiber", "failure", "memory", "processors", "execution", "driver"], "driver", 801),
    "libcublas.so.13": (["cublas"], "cublas", 15),
    "libcublasLt.so.13": ([], "cublaslt", 15),
    "libcurand.so.10": (["curand"], "curand", 999),
    "libnvrtc.so.13": ([], "nvrtc", 11),
    "libcudart.so.13": (["cudart"], "runtime", 801),
}
# What nvcc's host code calls beyond cudarc's names.
HOST_CODE_FUNCTIONS = ["__cudaPushCallConfiguration", "__cudaPopCallConfiguration", "__cudaGetKernel", "__cudaLaunchKernel"]
# candle's quantised and mixture-of-experts kernels; they are no part of training.
SKIPPED = re.compile(r"quantized|mmq|mmvq|moe")

KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\((?P<a>[^()]*)\)\s*)?void\s+'
                    r'(?:__launch_bounds__\((?P<b>[^()]*)\)\s*)?(?P<name>\w+)\s*\(')
QUALIFIERS = re.compile(r"__global__|__launch_bounds__\([^()]*\)")
DYNAMIC_SHARED = re.compile(r"extern\s+thread_local\s+(?P<type>[^;\[\]{}=]+?)\s*\b(?P<name>\w+)\s*\[\s*\]\s*;")
BRACE = re.compile(r'\bnamespace\b[^;{}()=]*\{|\bextern\s+"C"\s*\{|[{}]')
ATTRIBUTES = re.compile(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)|alignas\s*\([^()]*\)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the libraries")
    parser.add_argument("--kernels", type=Path, metavar="FOLDER",
                        help="compile the .cu files of this folder, and neither candle's nor those of src/ops/cuda")
    parser.add_argument("--toolkit", action="store_true", help="print the exports for building without a CUDA toolkit, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at once (default: %(default)s)")
    options = parser.parse_args()

    out = options.out.resolve()
    (out / "kernels").mkdir(parents=True, exist_ok=True)
    cudarc, candle = crate("cudarc-0.19"), crate("candle-kernels-0.11")
    build_library(out, "libcuda.so.1", cudarc, candle)
    folders = [options.kernels] if options.kernels else [candle / "src", REPOSITORY / "src/ops/cuda"]
    sources = [source for folder in folders for source in sorted(folder.glob("*.cu"))
               if not (folder.is_relative_to(candle) and SKIPPED.search(source.name))]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        work = [pool.submit(build_library, out, name, cudarc, candle) for name in LIBRARIES if name != "libcuda.so.1"]
        work += [pool.submit(build_kernels, out, source) for source in sources]
        built = [job.result() for job in work][-len(sources):]
    for stale in set((out / "kernels").iterdir()) - set(built):
        stale.unlink()
    print(f"export LD_LIBRARY_PATH={shlex.quote(str(out))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}")
    if options.toolkit:
        print_toolkit(out)


def print_toolkit(out):
    """The folder as CUDA_HOME: an nvcc, and the libraries under the names that the linker looks for."""
    links = {"bin/nvcc": HERE / "nvcc.py", **{f"lib64/{name.partition('.so')[0]}.so": out / name for name in LIBRARIES}}
    for name, target in links.items():
        link = out / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    home = shlex.quote(str(out))
    print(f"export CUDA_HOME={home} CUDA_PATH={home} PATH={home}/bin:$PATH CUDA_COMPUTE_CAP=80 CUDARC_CUDA_VERSION=13000")
    print(f"export LIBRARY_PATH={home}/lib64${{LIBRARY_PATH:+:$LIBRARY_PATH}}")


def crate(name):
    """The unpacked source of a dependency."""
    registry = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry/src"
    found = sorted(registry.glob(f"*/{name}.*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
    if not found:
        sys.exit(f"no source of {name} in {registry}: run `cargo fetch` first")
    return found[-1]


def run(*command):
    """Runs a compiler; its diagnostics are ours."""
    if subprocess.run(list(map(str, command))).returncode != 0:
        raise SystemExit(f"failed: {shlex.join(map(str, command))}")


def is_current(target, *inputs):
    """Whether the target is newer than all the files and the files of all the folders, and than this program."""
    if not target.exists():
        return False
    files = [file for item in inputs for file in (item.rglob("*") if item.is_dir() else [item])]
    return all(file.stat().st_mtime <= target.stat().st_mtime for file in [*files, Path(__file__)])


def build_library(out, name, cudarc, candle):
    """One of NVIDIA's libraries: our sources, and for every other function one that says that it is absent."""
    sources, module, code = LIBRARIES[name]
    target = out / name
    if is_current(target, HERE / "runtime", HERE / "shim"):
        return
    bindings = (cudarc / f"src/{module}/sys/mod.rs").read_text()
    functions = set(re.findall(r'extern "C" \{\s*fn (\w+)\(', bindings))
    if module == "runtime":
        functions.update(HOST_CODE_FUNCTIONS)
        functions.update([f"{function}_ptsz" for function in functions])  # on the stream of the thread
        # candle's own host functions, which a build without nvcc does not have.
        functions.update(re.findall(r"fn (\w+)\(", (candle / "src/ffi.rs").read_text()))
    absent = out / f"absent_{module}.cpp"
    absent.write_text(f'#include "{HERE}/shim/emulator.h"\n' + "".join(
        f'extern "C" EMULATOR_EXPORT __attribute__((weak)) int {function}() '
        f'{{ return emulator::report_absent("{function}"), {code}; }}\n' for function in sorted(functions)))
    runtime = [] if name == "libcuda.so.1" else [out / "libcuda.so.1", "-Wl,-rpath,$ORIGIN"]
    version = out / f"{module}.map"
    version.write_text(f"{name} {{ global: *; }};\n")
    versioned = [f"-Wl,--version-script={version}"] if module == "runtime" else []
    run(*COMPILER, *RUNTIME_FLAGS, "-shared", f"-Wl,-soname,{name}", *versioned, absent,
        *(HERE / f"runtime/{source}.cpp" for source in sources), *runtime, "-o", target)
    absent.unlink()
    version.unlink()


def build_kernels(out, source):
    """The kernels of one .cu file as a library, which registers them when the driver loads it."""
    target = out / "kernels" / f"{source.parent.parent.name}_{source.stem}.so"
    if is_current(target, source, *source.parent.glob("*.cuh"), HERE / "shim", out / "libcuda.so.1"):
        return target
    preprocessed = target.with_suffix(".ii")
    run(*COMPILER, "-E", "-x", "c++", "-include", HERE / "shim/cuda_emulator.h", "-I", HERE / "shim", source, "-o", preprocessed)
    preprocessed.write_text(adapted(preprocessed.read_text()))
    run(*COMPILER, *KERNEL_FLAGS, "-shared", preprocessed, out / "libcuda.so.1", "-Wl,-rpath,$ORIGIN/..", "-o", target)
    preprocessed.unlink()
    return target


def adapted(text):
    """Preprocessed CUDA C++ as plain C++, with the registration of its kernels at the end."""
    kernels = list(KERNEL.finditer(text))
    if not kernels:
        raise SystemExit('no `extern "C" __global__ void` in the source')
    file_arrays = []

    def dynamic_shared(declaration):
        """`extern __shared__ T name[];`, whose size only the launch knows, as a pointer."""
        element, name = ATTRIBUTES.sub("", declaration["type"]).strip(), declaration["name"]
        if in_function(text[:declaration.start()]):
            return f"{element}* const {name} = static_cast<{element}*>(emulator::dynamic_shared());"
        file_arrays.append(f"{name} = static_cast<{element}*>(start); ")
        return f"static thread_local {element}* {name};"

    text = DYNAMIC_SHARED.sub(dynamic_shared, text)
    lines = ["", "static void* emulator_static_shared() { static thread_local char anchor; return &anchor; }",
             f"static void emulator_bind_shared([[maybe_unused]] void* start) {{ {''.join(file_arrays)}}}"]
    for kernel in kernels:
        name, bounds = kernel["name"], kernel["a"] or kernel["b"] or "1024"
        lines.append(f'static const emulator::Registration<{name}> emulator_{name}("{name}", emulator::first({bounds}), '
                     f"emulator_static_shared, emulator_bind_shared);")
    return QUALIFIERS.sub("", text) + "\n".join(lines) + "\n"


def in_function(text):
    """Whether the text ends in braces other than those of namespaces and `extern "C"`."""
    open_braces = []
    for brace in BRACE.finditer(text):
        if brace[0] != "}":
            open_braces.append(brace[0])
        elif open_braces:
            open_braces.pop()
    return "{" in open_braces


if __name__ == "__main__":
    main()
