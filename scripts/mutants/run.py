"""Runs tests until the first one fails."""

import dataclasses
import os
import re
import resource
import selectors
import signal
import subprocess
import time

# A mutant that allocates without end fails instead of taking the machine.
MEMORY = 12 << 30


@dataclasses.dataclass
class Outcome:
    """`failure` says what failed first, None if nothing did."""

    failure: str | None
    seconds: float
    passed: int = 0


def run(program, folder, mutant, limit, filters=(), skip=(), first_only=True):
    """Runs those tests of a program whose names contain one of the filters (all without one) for at most `limit` seconds."""
    command = [str(program), *filters]
    for name in skip:
        command += ["--skip", name]
    environment = os.environ | {"BENCH_MUTANT": str(mutant), "CARGO_MANIFEST_DIR": str(folder)}
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    failures, passed, rest = [], 0, b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = limit - (time.monotonic() - began)
                if left <= 0:
                    failures.append(f"no end after {limit:.0f} s")
                    break
                if not selector.select(min(left, 1)):
                    continue
                block = os.read(process.stdout.fileno(), 1 << 16)
                if not block:
                    break
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    match = re.match(r"test (\S+)(?: - should panic)? \.\.\. (ok|FAILED)", line.decode(errors="replace"))
                    if match:
                        passed += match[2] == "ok"
                        if match[2] == "FAILED":
                            failures.append(match[1])
                if failures and first_only:
                    break
            if not failures and process.wait():
                code = process.returncode
                failures.append(f"the tests ended with {signal.Signals(-code).name if code < 0 else f'status {code}'}")
    finally:
        # With the programs that the tests started.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        process.stdout.close()
    return Outcome(", ".join(failures) or None, time.monotonic() - began, passed)
