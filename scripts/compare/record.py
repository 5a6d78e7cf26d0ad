"""The record of a comparison: a file that is complete after every measurement, and from which a comparison goes on."""

import datetime
import json
import os
import sys

SCHEMA = 1
# What must be equal for measurements to belong into one record.
COMMON = ("schema", "machine", "device", "threads", "versions")


class Record:
    """The file `path`, with the facts COMMON. With `resume`, measurements that it holds are kept."""

    def __init__(self, path, common, idle_mb, resume):
        self.path, self.common, self.idle_mb = path, {"schema": SCHEMA, **common}, idle_mb
        self.found = {}
        if resume and path.exists():
            previous = json.loads(path.read_text())
            if reason := obstacle(previous, self.common):
                sys.exit(f"{path} cannot be continued: {reason}. Remove it, or name another file")
            self.found = {case["case"]: case for case in previous["cases"]}

    def write(self, cases):
        """Writes `cases`, and those that were in the file and are not measured now."""
        measured = {case["case"]: case for case in cases}
        kept = [case for name, case in self.found.items() if name not in measured]
        cases = kept + list(measured.values())
        record = {
            **self.common,
            "date": datetime.date.today().isoformat(),
            "rounds": max((rounds(case) for case in cases), default=0),
            "idle_mb": self.idle_mb,
            "cases": cases,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(part, self.path)


def rounds(case):
    """How often the runs of a case were measured at most."""
    return max(len(run.get("samples_ms", [])) for run in case["runs"])


def obstacle(previous, common):
    """Why a comparison with the facts `common` cannot go on in a record; None if it can."""
    if "(changed)" in common["versions"]["bench"]:
        return "the program differs from its commit, so nobody can tell whether it is the one that was measured"
    for key in COMMON:
        if previous.get(key) != common[key]:
            return f"{key} was {previous.get(key)} and is {common[key]}"
    return None
