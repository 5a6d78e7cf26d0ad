"""Processes that are measured: their output, peak memory, wall time, and what others took of the machine meanwhile."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time


@dataclasses.dataclass
class Outcome:
    """How a process ended: its lines of output, or an `error`. `others` is the share of the machine that other processes
    took, None where the system does not say."""

    lines: list
    error: str | None
    peak_mb: float
    seconds: float
    others: float | None


def run(command, threads, compiles=False):
    """Runs a process alone, of so many threads. One that `compiles` may do so on all cores; in any other PyTorch must not keep a
    pool of compiling processes beside what is measured."""
    environment = os.environ | {name: str(threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if not compiles:
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began, busy = time.monotonic(), busy_seconds()
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        others = None
        if busy is not None:
            foreign = busy_seconds() - busy - used.ru_utime - used.ru_stime
            others = round(max(0.0, foreign / (seconds * os.cpu_count())), 3)
        out.seek(0), err.seek(0)
        lines, errors = out.read().splitlines(), err.read().strip().splitlines()
    error = None
    if process.returncode != 0:
        error = (errors or [f"ended with status {process.returncode} and no message"])[-1]
    kilo = 1024 if sys.platform == "darwin" else 1
    return Outcome(lines, error, round(used.ru_maxrss / kilo / 1024, 1), seconds, others)


def busy_seconds():
    """CPU time of all processes since the start of the machine, those that give way (`nice`) and what a hypervisor took
    included: both hold up a program whose threads wait for each other. None where the system does not say."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
