"""Cases, and the programs that run them."""

import json
import statistics
import sys

from compare.process import run

# Share of the machine that other processes may take before a measurement is repeated, and how often it is.
BUSY, REPEATS = 0.1, 1
# Facts that both programs must agree on.
FACTS = ("images", "parameters", "trainable", "program")


class Program:
    """One side of single steps: a command that takes --case, --batch and --seconds, and prints a line of JSON."""

    def __init__(self, name, command, variant_flags, arguments):
        self.name, self.command, self.variant_flags, self.arguments = name, command, variant_flags, arguments
        listed = run([*command, "--list"], threads=1)
        if listed.error:
            sys.exit(f"{name}: {listed.error}")
        facts = json.loads(listed.lines[-1])
        self.cases, self.versions = facts["cases"], facts.get("versions", {})
        self.idle_mb = listed.peak_mb  # before there is a model

    def measure(self, case, variant, threads, compiles=False):
        """What one process measured (a line with `ms` and FACTS), and how it ended."""
        command = [*self.command, "--case", case, *self.variant_flags(variant), *self.arguments(case, threads)]
        outcome = run(command, threads, compiles)
        return (None if outcome.error else json.loads(outcome.lines[-1])), outcome


class Case:
    """One case in all variants of both programs. `keep` is called after every measurement."""

    def __init__(self, name, ours, theirs, threads, variants, keep):
        self.name, self.theirs, self.threads, self.keep = name, theirs, threads, keep
        self.facts = {}
        wanted = variants or ["f32", "bf16", "compiled"]
        self.runs = [
            Run(program, variant)
            for variant in ("f32", "bf16")
            for program in (ours, theirs)
            if variant in wanted and variant in program.cases[name]
        ]
        self.compiles = "compiled" in wanted and "f32_compiled" in theirs.cases[name]

    def restore(self, record):
        """Takes over what a record holds of this case."""
        self.facts = {key: record[key] for key in FACTS if record.get(key) is not None}
        for found in record["runs"]:
            run = next((run for run in self.runs if run.matches(found)), None)
            if run is None and self.compiles and found["variant"].endswith("_compiled"):
                run = Run(self.theirs, found["variant"])
                self.runs.append(run)
            if run is not None:
                run.restore(found)

    def measure(self, round):
        """Measures what has not been measured as often."""
        for run in list(self.runs):
            self.measure_run(run, round)
        if self.compiles and not any(run.variant.endswith("_compiled") for run in self.runs):
            eager = [run for run in self.runs if run.program is self.theirs and not run.skipped]
            if eager:
                compiled = Run(self.theirs, min(eager, key=Run.median).variant + "_compiled")
                self.runs.append(compiled)
                self.tell(f"{compiled.label}: compiling")
                compiled.start(self, compiles=True)  # leaves its code in PyTorch's cache
                self.measure_run(compiled, round)

    def measure_run(self, run, round):
        if run.skipped or len(run.ms) > round:
            return
        for _ in range(1 + REPEATS):
            line, outcome = run.start(self)
            if outcome.error:
                run.skipped = outcome.error
                self.tell(f"{run.label}: {outcome.error}")
                return self.keep()
            if (outcome.others or 0) <= BUSY:
                break
            self.tell(f"{run.label}: other processes take {outcome.others:.0%} of the machine")
        for key in FACTS:
            # Where a program does not know a fact, the other one has it.
            if line.get(key) is not None and self.facts.setdefault(key, line[key]) != line[key]:
                sys.exit(f"{self.name}: {key} of {run.label} is {line[key]}, of the others {self.facts[key]}")
        peak_mb = line.get("device_mb") or outcome.peak_mb
        run.add(line["ms"], peak_mb, outcome.others)
        rate = self.facts["images"] / statistics.median(line["ms"]) * 1e3
        found = "".join(f", {key} {line[key]}" for key in ("loss", "scores") if line.get(key))
        median = f"{statistics.median(line['ms']):9.1f} ms {rate:8.1f} images/s {peak_mb:7.0f} MB"
        self.tell(f"{run.label:<24}round {round + 1}: {median}{found}")
        self.keep()

    def tell(self, text):
        print(f"{self.name:<22}{text}", file=sys.stderr)

    def record(self):
        """This case of the record; None before anything is measured."""
        runs = [run.record() for run in self.runs if run.ms or run.skipped]
        if not self.facts or not runs:
            return None
        return {"case": self.name, **self.facts, "threads": self.threads, "runs": runs}


class Run:
    """One program in one variant."""

    def __init__(self, program, variant):
        self.program, self.variant, self.skipped = program, variant, None
        self.label = f"{program.name} {variant}"
        self.ms, self.peak_mb, self.others = [], [], []

    def start(self, case, compiles=False):
        return self.program.measure(case.name, self.variant, case.threads, compiles)

    def add(self, ms, peak_mb, others):
        self.ms.append([round(sample, 3) for sample in ms])
        self.peak_mb.append(peak_mb)
        self.others.append(others)

    def median(self):
        return statistics.median(statistics.median(ms) for ms in self.ms)

    def matches(self, record):
        return (record["program"], record["variant"]) == (self.program.name, self.variant)

    def restore(self, record):
        self.skipped = record.get("skipped")
        self.ms, self.peak_mb = record.get("samples_ms", []), record.get("samples_peak_mb", [])
        self.others = record.get("others", [])

    def record(self):
        run = {"program": self.program.name, "variant": self.variant}
        if self.skipped:
            return run | {"skipped": self.skipped}
        return run | {
            "median_ms": self.median(),
            "min_ms": min(min(ms) for ms in self.ms),
            "peak_mb": statistics.median(self.peak_mb),
            "samples_ms": self.ms,
            "samples_peak_mb": self.peak_mb,
            "others": self.others,
        }
