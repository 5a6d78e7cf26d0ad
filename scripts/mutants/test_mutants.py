"""Tests of what counts as a mutant, and of the text that is compiled."""

import pathlib
import tempfile
import unittest

from mutants.build import Copy, clusters
from mutants.find import mutants_of, signatures_of


def changes(text):
    signatures = signatures_of(["fn g<T>(self, (x, y): (f32, f32), b: (f32, f32), c: Vec<(T, T)>) {}"])
    return {mutant.shown()[0] + " => " + mutant.shown()[1] for mutant in mutants_of("src/a.rs", text, signatures)}


class Find(unittest.TestCase):
    def test_operators_reach_as_far_as_their_precedence(self):
        found = changes("fn f(a: f32) -> f32 { a - b * -c.d(1.5)? / e as f32 + g }")
        self.assertIn("b * -c.d(1.5)? => b / -c.d(1.5)?", found)
        self.assertIn("b * -c.d(1.5)? / e as f32 => b * -c.d(1.5)? * e as f32", found)
        self.assertIn("a - b * -c.d(1.5)? / e as f32 => a + b * -c.d(1.5)? / e as f32", found)
        self.assertIn("-c.d(1.5)? => c.d(1.5)?", found)
        self.assertIn("1.5 => 0.75", found)
        found = changes("fn f() { let y = |x| x < 2 && !z.iter().any(|&v| v > 0); }")
        self.assertIn("x < 2 && !z.iter().any(|&v| v > 0) => x < 2 || !z.iter().any(|&v| v > 0)", found)
        self.assertIn("z.iter().any(|&v| v > 0) => z.iter().all(|&v| v > 0)", found)
        self.assertIn("v > 0 => v >= 0", found)

    def test_statements_ranges_names_and_arguments(self):
        found = changes("fn f() { for i in 0..n { x[i] += a.min(b); z.g(a, b, c); continue; } }")
        self.assertLessEqual(
            {
                "n => (n) - 1",
                "n => (n) + 1",
                "0 => 1",
                "x[i] += a.min(b); => (nothing)",
                "x[i] += a.min(b); => x[i] -= a.min(b);",
                "a.min(b) => a.max(b)",
                "z.g(a, b, c); => (nothing)",
                "z.g(a, b, c) => z.g(b, a, c)",
                "continue; => (nothing)",
            },
            found,
        )
        self.assertNotIn("z.g(a, b, c) => z.g(a, c, b)", found)

    def test_only_code_that_computes_is_changed(self):
        for text in [
            "const A: usize = 1 + 2;",
            "struct A { b: [f32; 3] }",
            '// a + b\nfn f() -> &str { "1 + 2" }',
            "fn f<const N: usize>(x: [f32; 4]) { x }",
            "fn f() { let [a, b]: [f32; 2] = x; }",
            "fn f() { match x { 0 | 1..=3 => a, Some(4) => b } }",
            "fn f() { a.b::<2>() }",
            "fn f() { let a = x.0.1 as f32; }",
            "fn f() { assert!(a < 1); bail!(\"{}\", a + 1) }",
            "fn f() { #[cfg(feature = \"cuda\")] if a < b { return c + d; } }",
            "#[cfg(test)] mod tests { fn f() { a + b } }",
            "impl Display for A { fn f() { a + b } }",
            "const fn f() { a + b }",
            "fn f() { if !a.device().is_cpu() { b + c; } match d { Some(e) if !e.is_cpu() => f + g, _ => h } }",
        ]:
            self.assertEqual(changes(text), set(), text)
        self.assertEqual(changes("fn f() { match x { Some(y) if y < 0 => 2, _ => 3 } }"), {"y < 0 => y <= 0", "0 => 1", "2 => 3", "3 => 4"})


class Build(unittest.TestCase):
    def test_mutants_of_the_same_expression_are_alternatives(self):
        text = "fn f() { é(a + b * c); d = 1; }"
        mutants = [m for m in mutants_of("src/a.rs", text, {}) if m.kind in ("operator", "constant")]
        for number, mutant in enumerate(mutants, 1):
            mutant.number = number
        self.assertEqual([len(cluster) for _, _, cluster in clusters(mutants)], [2, 1])
        files = {"src/a.rs": text.encode(), "src/core.rs": b"#![deny(missing_docs)]\n"}
        with tempfile.TemporaryDirectory() as folder:
            copy = Copy(files, pathlib.Path(folder))
            places = copy.write(mutants)
            written = (copy.source / "src/a.rs").read_text()
            self.assertIn("fn mutant(", (copy.source / "src/core.rs").read_text())
            copy.synchronise({})
            self.assertEqual((copy.source / "src/a.rs").read_text(), text)
        self.assertEqual(
            written,
            "fn f() { é((if crate::mutant(1) { a - b * c } else if crate::mutant(2) { a + b / c } else { a + b * c })); "
            "d = (if crate::mutant(3) { 2 } else { 1 }); }",
        )
        for _, start, end, mutant in places:
            self.assertIn(mutant.number, (1, 2, 3))
            self.assertLess(start, end)
        self.assertEqual({mutant.number for _, _, _, mutant in places}, {1, 2, 3})


if __name__ == "__main__":
    unittest.main()
