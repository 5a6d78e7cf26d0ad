#!/usr/bin/env python3
"""Stands in for nvcc where there is no CUDA toolkit: PTX, objects and libraries without content.

Enough for a program that runs under the emulator, which does not read PTX. `build.py --toolkit` installs it as `nvcc`.
"""

import subprocess
import sys
from pathlib import Path

arguments = sys.argv[1:]


def value_of(option):
    return Path(arguments[arguments.index(option) + 1]) if option in arguments else None


if "--version" in arguments:
    print("nvcc of the CUDA emulator\n\n\nCuda compilation tools, release 13.0, V13.0.0")
elif "--ptx" in arguments or "-ptx" in arguments:
    source = next(Path(argument) for argument in arguments if argument.endswith(".cu"))
    target = value_of("-o") or (value_of("--output-directory") or Path()) / f"{source.stem}.ptx"
    target.write_text("// The kernels are compiled into the CUDA emulator.\n")
elif "--lib" in arguments:
    objects = [argument for argument in arguments if argument.endswith(".o")]
    sys.exit(subprocess.run(["ar", "crs", value_of("-o"), *objects]).returncode)
elif "-c" in arguments:
    sys.exit(subprocess.run(["cc", "-x", "c", "-c", "/dev/null", "-o", value_of("-o")]).returncode)
else:
    sys.exit(f"the emulator's nvcc does not know what to do with {arguments}")
