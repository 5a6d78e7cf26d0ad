"""Tests of the parts of scripts/compare_pytorch that need neither cargo nor PyTorch."""

import contextlib
import io
import json
import pathlib
import struct
import tempfile
import unittest

from compare import machine, whole
from compare.measure import Case
from compare.process import Outcome, run
from compare.record import Record, obstacle

COMMON = {"machine": {"cpu": "CPU"}, "device": "cpu", "threads": 2, "versions": {"torch": "2.0", "bench": "0123456789ab"}}


class Fake:
    """A program that answers at once: `ms` for each variant, and no answer where that is text."""

    def __init__(self, name, ms, **facts):
        self.name, self.ms, self.versions, self.calls = name, ms, {}, []
        self.cases = {"mae": list(ms)}
        self.facts = {"images": 8, "parameters": 5, "trainable": 4} | facts

    def measure(self, case, variant, threads, compiles=False):
        self.calls.append((variant, compiles))
        ms = self.ms[variant]
        if isinstance(ms, str):
            return None, Outcome([], ms, 1.0, 0.1, 0.0)
        return {"case": case, "ms": [ms], "device_mb": None} | self.facts, Outcome([], None, 100.0, 0.1, 0.0)


def case(ours, theirs, kept):
    found = Case("mae", ours, theirs, 2, None, lambda: None)
    found.keep = lambda: kept.append(found.record())
    return found


class Measurements(unittest.TestCase):
    def setUp(self):
        quiet = contextlib.redirect_stderr(io.StringIO())
        quiet.__enter__()
        self.addCleanup(quiet.__exit__, None, None, None)
        self.ours = Fake("bench", {"f32": 10.0, "bf16": 8.0})
        self.theirs = Fake("pytorch", {"f32": 20.0, "bf16": 12.0, "f32_compiled": 15.0, "bf16_compiled": 9.0})

    def test_every_measurement_is_kept_and_the_faster_variant_is_compiled_first(self):
        kept = []
        found = case(self.ours, self.theirs, kept)
        found.measure(0)
        self.assertEqual([len(record["runs"]) for record in kept], [1, 2, 3, 4, 5])
        self.assertEqual(self.theirs.calls, [("f32", False), ("bf16", False), ("bf16_compiled", True), ("bf16_compiled", False)])
        self.assertEqual([run["median_ms"] for run in kept[-1]["runs"]], [10.0, 20.0, 8.0, 12.0, 9.0])
        self.assertEqual({key: kept[-1][key] for key in ("images", "parameters", "trainable")}, self.ours.facts)

    def test_a_restored_case_measures_only_what_is_missing(self):
        kept = []
        case(self.ours, self.theirs, kept).measure(0)
        again = case(self.ours, self.theirs, kept)
        again.restore(json.loads(json.dumps(kept[-1])))
        self.ours.calls.clear(), self.theirs.calls.clear()
        again.measure(0)
        self.assertEqual((self.ours.calls, self.theirs.calls), ([], []))
        again.measure(1)
        self.assertEqual([variant for variant, _ in self.theirs.calls], ["f32", "bf16", "bf16_compiled"])
        self.assertEqual([len(run["samples_ms"]) for run in again.record()["runs"]], [2] * 5)

    def test_a_variant_that_fails_is_skipped_with_its_reason(self):
        theirs = Fake("pytorch", {"f32": 20.0, "bf16": "no bf16 here"})
        found = case(self.ours, theirs, [])
        found.measure(0), found.measure(1)
        self.assertEqual(len(theirs.calls), 3)
        self.assertIn({"program": "pytorch", "variant": "bf16", "skipped": "no bf16 here"}, found.record()["runs"])

    def test_programs_with_different_models_are_not_compared(self):
        theirs = Fake("pytorch", {"f32": 20.0}, parameters=6)
        with self.assertRaisesRegex(SystemExit, "parameters of pytorch f32 is 6, of the others 5"):
            case(self.ours, theirs, []).measure(0)

    def test_work_that_differs_is_not_compared(self):
        ours = Fake("bench", {"f32": 1.0}, program={"steps": 3, "batch": 8, "evaluated": 1})
        theirs = Fake("pytorch", {"f32": 1.0}, program={"steps": 3, "batch": 8, "evaluated": 2})
        with self.assertRaisesRegex(SystemExit, "program"):
            case(ours, theirs, []).measure(0)


class Records(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "new/record.json"
        self.case = lambda name, rounds: {"case": name, "runs": [{"samples_ms": [[1.0]] * rounds}, {"skipped": "why"}]}

    def record(self, resume=True, **common):
        return Record(self.path, COMMON | common, {"bench": 1.0}, resume)

    def test_a_record_grows_and_is_continued(self):
        first = self.record()
        first.write([self.case("a", 1)])
        first.write([self.case("a", 2), self.case("b", 1)])
        again = self.record()
        self.assertEqual(list(again.found), ["a", "b"])
        again.write([self.case("b", 3)])  # only `b` is asked for: `a` stays
        written = json.loads(self.path.read_text())
        self.assertEqual([case["case"] for case in written["cases"]], ["a", "b"])
        self.assertEqual((written["rounds"], written["schema"], written["device"]), (3, 1, "cpu"))
        self.assertEqual([path.name for path in self.path.parent.iterdir()], ["record.json"])

    def test_a_record_that_is_not_continued_begins_anew(self):
        self.record().write([self.case("a", 1)])
        self.assertEqual(self.record(resume=False).found, {})

    def test_other_machines_and_versions_are_an_error(self):
        self.record().write([self.case("a", 1)])
        with self.assertRaisesRegex(SystemExit, "machine was .*'CPU'.* and is .*'other'"):
            self.record(machine={"cpu": "other"})
        with self.assertRaisesRegex(SystemExit, "versions was"):
            self.record(versions={"torch": "2.1", "bench": "0123456789ab"})

    def test_a_changed_program_is_never_continued(self):
        changed = COMMON | {"versions": {"bench": "0123456789ab (changed)"}}
        self.assertIn("differs from its commit", obstacle(changed, changed))
        self.assertIsNone(obstacle(COMMON | {"schema": 1}, COMMON | {"schema": 1}))


class Machines(unittest.TestCase):
    def test_processors_are_identified_by_more_than_their_names(self):
        amd = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
        amd += "flags\t\t: fpu avx2 avx512f avx512_bf16\n\nprocessor\t: 1\nmodel\t: 9\n"
        found = machine.processor(amd)
        self.assertEqual(found["cpu"], "AMD EPYC")
        self.assertEqual(found["processor"], "AuthenticAMD family 26 model 2 stepping 1")
        self.assertEqual(found["flags"], ["avx2", "avx512f", "avx512_bf16"])
        arm = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd40\n"
        found = machine.processor(arm)
        self.assertEqual((found["processor"], found["flags"]), ("implementer 0x41 variant 0x1 part 0xd40", ["asimd", "bf16", "sve"]))
        self.assertIsNone(machine.processor("")["processor"])

    def test_commits_come_from_the_program(self):
        self.assertEqual(machine.commit("bench 0.1.0 (0123456789ab)\n"), "0123456789ab")
        self.assertEqual(machine.commit("bench 0.1.0 (0123456789ab, changed)\n"), "0123456789ab (changed)")
        self.assertEqual(machine.commit("bench 0.1.0 (0123456789ab)\n", changed=True), "0123456789ab (changed)")
        self.assertEqual(machine.commit("bench 0.1.0 (unknown commit, changed)\n"), "0.1.0, unknown commit (changed)")


class Processes(unittest.TestCase):
    def test_lines_errors_and_threads(self):
        shown = run(["sh", "-c", "echo $RAYON_NUM_THREADS; echo $TORCHINDUCTOR_COMPILE_THREADS"], threads=3)
        self.assertEqual((shown.lines, shown.error), (["3", "1"], None))
        self.assertGreater(shown.peak_mb, 0)
        compiling = run(["sh", "-c", "echo ${TORCHINDUCTOR_COMPILE_THREADS:-all}"], threads=3, compiles=True)
        self.assertEqual(compiling.lines, ["all"])
        self.assertEqual(run(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], 1).error, "last")
        self.assertEqual(run(["sh", "-c", "exit 3"], 1).error, "ended with status 3 and no message")


class WholePrograms(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_elements_of_a_file_of_tensors(self):
        tensor = lambda *shape: {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]}
        header = {"__metadata__": {"a": "b"}, "w": tensor(2, 3), "optim.w.exp_avg": tensor(4), "optim.w.exp_avg_sq": tensor(4)}
        text = json.dumps(header).encode()
        (self.folder / "file").write_bytes(struct.pack("<Q", len(text)) + text)
        self.assertEqual(whole.elements(self.folder / "file"), 14)
        self.assertEqual(whole.elements(self.folder / "file", ".exp_avg"), 4)

    def test_images_of_a_split(self):
        for name in ("val/cat/a.png", "val/dog/a.png", "val/dog/b.png"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).touch()
        self.assertEqual(whole.count(self.folder / "val"), 3)
        objects = [{"image_id": 1, "iscrowd": 0}, {"image_id": 1, "iscrowd": 0}, {"image_id": 2, "iscrowd": 1}]
        (self.folder / "instances.json").write_text(json.dumps({"annotations": objects}))
        self.assertEqual(whole.count(self.folder / "instances.json"), 1)

    def test_tasks_have_the_names_of_their_folders_and_belong_to_a_workload(self):
        whole.write_tasks(self.folder)
        for path in self.folder.iterdir():
            self.assertIn(f'name = "{path.name}"\n', (path / "task.toml").read_text())
        used = {argument for work in whole.WORKLOADS.values() for argument in work.arguments}
        self.assertLessEqual(set(whole.TASKS), used)

    def test_data_hold_a_batch_of_each_recipe(self):
        for name, work in whole.WORKLOADS.items():
            split = "pretrain" if work.arguments[0] == "pretrain" else "train"
            self.assertGreaterEqual(whole.IMAGES[work.side][split], 128 if split == "pretrain" else 64, name)


if __name__ == "__main__":
    unittest.main()
