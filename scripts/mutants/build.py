"""A copy of the sources in which a variable of the environment chooses a mutant, and its tests."""

import collections
import json
import os
import pathlib
import subprocess
import sys

# In the copy, `crate::mutant(N)` says whether mutant N is the one to run.
SWITCH = """
/// Whether mutant `number` is chosen.
#[inline(always)]
pub(crate) fn mutant(number: u32) -> bool {
    static CHOSEN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| std::env::var("BENCH_MUTANT").map_or(0, |number| number.parse().expect("a number"))) == number
}
"""


def files_of(root):
    """The files of the repository as they are now, by path. What is edited later is no part of the copy."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.decode().split("\0")
    return {name: (root / name).read_bytes() for name in names if name and (root / name).is_file()}


class Copy:
    """The `files` of a repository in `folder`/source, which is compiled into the same folder."""

    def __init__(self, files, folder):
        self.files, self.folder, self.source = files, folder, folder / "source"
        self.source.mkdir(parents=True, exist_ok=True)

    def synchronise(self, changed):
        """Makes the copy equal to the files but for the `changed` ones (text by path), and leaves equal files untouched."""
        for path in list(self.source.rglob("*")):
            if path.is_file() and str(path.relative_to(self.source)) not in self.files:
                path.unlink()
        for name, content in self.files.items():
            content = changed[name].encode() if name in changed else content
            path = self.source / name
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def write(self, mutants):
        """The sources with these mutants. Returns where each stands in its file: (path, first byte, last byte, mutant)."""
        texts, places = {}, []
        by_path = collections.defaultdict(list)
        for mutant in mutants:
            by_path[mutant.path].append(mutant)
        for path, those in by_path.items():
            text, at, parts, length = self.files[path].decode(), 0, [], 0

            def add(part):
                nonlocal length
                parts.append(part)
                length += len(part.encode())

            for start, end, cluster in clusters(those):
                add(text[at:start])
                first = length
                statement = any(m.statement and (m.start, m.end) == (start, end) for m in cluster)
                add("" if statement else "(")
                for mutant in cluster:
                    add(f"if crate::mutant({mutant.number}) {{ ")
                    branch = length
                    add(text[start : mutant.start] + mutant.after + text[mutant.end : end])
                    places.append((path, branch, length, mutant))
                    add(" } else ")
                original = length
                add(f"{{ {text[start:end]} }}" + ("" if statement else ")"))
                # What is wrong with the whole concerns each.
                places += [(path, *place, mutant) for mutant in cluster for place in ((first, first + 1), (original, length))]
                at = end
            texts[path] = "".join(parts) + text[at:]
        texts["src/core.rs"] = self.files["src/core.rs"].decode().replace("#![deny(missing_docs)]", "#![allow(warnings)]") + SWITCH
        self.synchronise(texts)
        return places

    def build(self, mutants, log):
        """Compiles the unit tests; returns their program and the mutants that do not compile, with the error."""
        dropped = []
        while True:
            places = self.write(mutants)
            program, errors = self.cargo("--package", "bench-core", "--lib")
            if not errors:
                # Tests read the sources as they are.
                self.synchronise({})
                return program, dropped
            failed = {}
            for message, spans in errors:
                hit = [m for m in places if any(p == m[0] and a < m[2] and m[1] < b for p, a, b in spans)]
                # A message about a branch may also name the expression around it.
                branches = [m for m in hit if any(p == m[0] and m[1] <= a and b <= m[2] for p, a, b in spans)]
                hit = branches or hit
                for place in hit:
                    failed.setdefault(place[3].number, message)
                if not hit:
                    log(f"an error names no mutant: {message} at {spans[:1]}")
            if not failed:
                sys.exit("the mutated copy does not compile, and no error names a mutant")
            log(f"{len(failed)} mutants do not compile and are replaced")
            dropped += [(mutant, failed[mutant.number]) for mutant in mutants if mutant.number in failed]
            mutants = [mutant for mutant in mutants if mutant.number not in failed]

    def build_integration(self, mutants):
        """Compiles tests/it with mutants that compile."""
        self.write(mutants)
        program, errors = self.cargo("--package", "bench", "--test", "it")
        self.synchronise({})
        if errors:
            sys.exit(f"tests/it does not compile: {errors[0]}")
        return program

    def cargo(self, *target):
        """The program of the tests, or the compiler's errors as (message, [(path, first byte, last byte)])."""
        command = ["cargo", "test", "--release", "--locked", "--no-run", *target, "--message-format=json"]
        environment = os.environ | {"CARGO_TARGET_DIR": str(self.folder)}
        process = subprocess.run(command, cwd=self.source, env=environment, stdout=subprocess.PIPE, text=True)
        program, errors = None, []
        for line in process.stdout.splitlines():
            message = json.loads(line)
            if message["reason"] == "compiler-message" and message["message"]["level"].startswith("error"):
                errors.append((message["message"]["message"], list(spans(message["message"]))))
            if message["reason"] == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
                program = pathlib.Path(message["executable"])
        if process.returncode and not errors:
            sys.exit(f"{' '.join(command)} failed")
        return program, errors if process.returncode else []


def clusters(mutants):
    """Mutants of a file that change the same expression or statement, as (start, end, [mutant])."""
    found = []
    for mutant in sorted(mutants, key=lambda mutant: (mutant.start, -mutant.end, mutant.number)):
        if found and mutant.start < found[-1][1]:
            found[-1][2].append(mutant)
            found[-1][1] = max(found[-1][1], mutant.end)
        else:
            found.append([mutant.start, mutant.end, [mutant]])
    return found


def spans(message):
    for span in message["spans"]:
        while span:
            path = span["file_name"]
            # The package of the library is in src; its files are named from there or from the workspace.
            yield path if path.startswith("src/") else f"src/{path}", span["byte_start"], span["byte_end"]
            span = span["expansion"] and span["expansion"]["span"]
    for child in message["children"]:
        yield from spans(child)
