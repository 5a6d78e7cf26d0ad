//! One table in all four renderings.

use super::{TableFormat, render};
use crate::record::run::sample;
use crate::record::table::{TableSpec, build_table};
use crate::record::{Origin, Reference, RunRecord, Status};

const SPEC: &str = r#"
    title = "Top-1 (%) on tiny_set"
    rows = ["init"]
    references = ["t3"]
    footnotes = ["50 % of the data."]
    filter = { init = ["scratch", "mae"] }
    [[column]]
    title = "fine-tuning"
    score = "top1"
    where = { recipe = ["finetune"] }
    [[column]]
    title = "linear"
    score = "top1"
    where = { recipe = ["linear"] }
    [[difference]]
    key = "init"
    of = "mae"
    minus = "scratch"
    title = "mae − scratch"
"#;

fn run(id: &str, init: &str, recipe: &str, seed: u64, top1: f64) -> RunRecord {
    let mut run = RunRecord { recipe: recipe.into(), seed, ..sample(id) };
    run.init.label = init.into();
    if init == "mae" {
        run.init.hash = Some(format!("weights {seed}"));
        run.init.seed = Some(seed);
    }
    run.scores.insert("top1", top1, Some(0.3));
    run
}

fn text(format: TableFormat) -> String {
    let mut records = vec![
        run("a", "mae", "finetune", 0, 83.5),
        run("b", "mae", "finetune", 1, 83.7),
        run("c", "mae", "linear", 0, 68.),
        run("d", "scratch", "finetune", 0, 82.),
        run("e", "scratch", "finetune", 0, 81.5),
        run("f", "scratch", "finetune", 1, 81.8),
    ];
    records[2].status = Status::Truncated;
    records[2].steps_done = 5;
    records[4].overrides = vec!["optim.betas=[0.9,0.95]".into(), "epochs=3".into()];
    records[4].environment.dirty = true;
    records[4].notes = vec!["cached features".into()];
    let reference = Reference {
        id: "t3".into(),
        task: "tiny".into(),
        origin: Origin::Published,
        source: "He & others".into(),
        place: "Table 3".into(),
        model: "vit_b16".into(),
        recipe: "finetune".into(),
        init: "mae".into(),
        variant: String::new(),
        score: "top1".into(),
        value: 83.6,
        spread: None,
        seeds: None,
        target: None,
        note: Some("1600 epochs".into()),
    };
    render(&build_table(&records, &[reference], &TableSpec::parse(SPEC, "spec").unwrap()).unwrap(), format)
}

#[test]
fn terminal() {
    let expected = "\
Top-1 (%) on tiny_set

 init            variant                           origin                    fine-tuning                     linear
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 scratch                                           ours                 81.9 ± 0.1 (n=2)                          –
 scratch         optim.betas=[0.9,0.95] epochs=3   ours            81.5 (eval 0.3) [1,2]                          –
 mae                                               ours                 83.6 ± 0.1 (2×1)   68.0 (1×1, eval 0.3) [3]
 mae − scratch                                     ours            +1.7 ± 0.2 (eval 0.4)                          –
 mae                                               published [4]                83.6 [5]                          –

 [1] built from a tree with uncommitted changes
 [2] cached features
 [3] truncated: 5 of 10 steps
 [4] He & others, Table 3
 [5] 1600 epochs
 (p×t): mean over p pre-trainings with t transfers each; ± is the standard deviation over pre-trainings
 (n=…): mean over n runs; ± is their standard deviation
 differences: mean over pairs of runs; ± is its standard error over pre-trainings and seeds
 eval: standard error of a single run or of a difference due to the size of the evaluation split
 50 % of the data.
";
    assert_eq!(text(TableFormat::Terminal), expected);
}

#[test]
fn markdown() {
    let expected = "\
**Top-1 (%) on tiny_set**

| init          | variant                         | origin                 |                    fine-tuning |                            linear |
|:--------------|:--------------------------------|:-----------------------|-------------------------------:|----------------------------------:|
| scratch       |                                 | ours                   |               81.9 ± 0.1 (n=2) |                                 – |
| scratch       | optim.betas=[0.9,0.95] epochs=3 | ours                   | 81.5 (eval 0.3) <sup>1,2</sup> |                                 – |
| mae           |                                 | ours                   |               83.6 ± 0.1 (2×1) | 68.0 (1×1, eval 0.3) <sup>3</sup> |
| mae − scratch |                                 | ours                   |          +1.7 ± 0.2 (eval 0.4) |                                 – |
| mae           |                                 | published <sup>4</sup> |              83.6 <sup>5</sup> |                                 – |

- <sup>1</sup> built from a tree with uncommitted changes
- <sup>2</sup> cached features
- <sup>3</sup> truncated: 5 of 10 steps
- <sup>4</sup> He & others, Table 3
- <sup>5</sup> 1600 epochs
- (p×t): mean over p pre-trainings with t transfers each; ± is the standard deviation over pre-trainings
- (n=…): mean over n runs; ± is their standard deviation
- differences: mean over pairs of runs; ± is its standard error over pre-trainings and seeds
- eval: standard error of a single run or of a difference due to the size of the evaluation split
- 50 % of the data.
";
    assert_eq!(text(TableFormat::Markdown), expected);
}

#[test]
fn csv() {
    let text = text(TableFormat::Csv);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 5 * 2, "a line for each cell");
    assert_eq!(
        lines[0],
        "init,variant,origin,kind,column,value,spread,evaluation_error,pretrainings,n,notes"
    );
    assert_eq!(lines[2], "scratch,,ours,ours,linear,,,,,,");
    assert_eq!(
        lines[3],
        "scratch,\"optim.betas=[0.9,0.95] epochs=3\",ours,ours,fine-tuning,81.5,,0.3,,1,\
         built from a tree with uncommitted changes; cached features"
    );
    assert_eq!(
        lines[9],
        "mae,,published,published,fine-tuning,83.6,,,,1,\"He & others, Table 3; 1600 epochs\""
    );
    // Standard deviation of 83.5 and 83.7: √0.02. Differences by seed: 1.5 and 1.9.
    for (line, start, expected) in [
        (5, "mae,,ours,ours,fine-tuning,", [Some(83.6), Some(0.02_f64.sqrt()), None, Some(2.), Some(2.)]),
        (
            7,
            "mae − scratch,,ours,difference,fine-tuning,",
            [Some(1.7), Some(0.2), Some(0.18_f64.sqrt()), Some(2.), Some(2.)],
        ),
    ] {
        let numbers = lines[line].strip_prefix(start).unwrap().split(',');
        for (number, expected) in numbers.zip(expected) {
            let close = match expected {
                Some(expected) => (number.parse::<f64>().unwrap() - expected).abs() < 1e-12,
                None => number.is_empty(),
            };
            assert!(close, "{}", lines[line]);
        }
    }
}

#[test]
fn latex() {
    let expected = r"% \usepackage{booktabs}
\begin{table}
\centering
\caption{Top-1 (\%) on tiny\_set}
\begin{tabular}{lllrr}
\toprule
init & variant & origin & fine-tuning & linear \\
\midrule
scratch &  & ours & 81.9 $\pm$ 0.1 (n=2) & -- \\
scratch & optim.betas={[}0.9,0.95] epochs=3 & ours & 81.5 (eval 0.3)\textsuperscript{1,2} & -- \\
mae &  & ours & 83.6 $\pm$ 0.1 (2$\times$1) & 68.0 (1$\times$1, eval 0.3)\textsuperscript{3} \\
mae $-$ scratch &  & ours & +1.7 $\pm$ 0.2 (eval 0.4) & -- \\
mae &  & published\textsuperscript{4} & 83.6\textsuperscript{5} & -- \\
\bottomrule
\end{tabular}
\par{\footnotesize \textsuperscript{1} built from a tree with uncommitted changes}
\par{\footnotesize \textsuperscript{2} cached features}
\par{\footnotesize \textsuperscript{3} truncated: 5 of 10 steps}
\par{\footnotesize \textsuperscript{4} He \& others, Table 3}
\par{\footnotesize \textsuperscript{5} 1600 epochs}
\par{\footnotesize (p$\times$t): mean over p pre-trainings with t transfers each; $\pm$ is the standard deviation over pre-trainings}
\par{\footnotesize (n=…): mean over n runs; $\pm$ is their standard deviation}
\par{\footnotesize differences: mean over pairs of runs; $\pm$ is its standard error over pre-trainings and seeds}
\par{\footnotesize eval: standard error of a single run or of a difference due to the size of the evaluation split}
\par{\footnotesize 50 \% of the data.}
\end{table}
";
    assert_eq!(text(TableFormat::Latex), expected);
}

#[test]
fn markup_in_keys_is_escaped() {
    let mut run = run("a", "a|b*<c>_\\`", "finetune", 0, 1.);
    run.notes = vec!["50 % | `x_1` <b>".into()];
    let spec = SPEC.replace("references = [\"t3\"]", "").replace("[\"scratch\", \"mae\"]", "['a|b*<c>_\\`']");
    let table = build_table(&[run], &[], &TableSpec::parse(&spec, "spec").unwrap()).unwrap();
    let markdown = render(&table, TableFormat::Markdown);
    assert!(markdown.contains(r"| a\|b\*\<c>_\\\` |"), "{markdown}");
    assert!(markdown.contains("50 % | `x_1` \\<b>\n"), "{markdown}");
    let latex = render(&table, TableFormat::Latex);
    assert!(latex.contains(r"a|b*\textless{}c\textgreater{}\_\textbackslash{}\texttt{} &"), "{latex}");
    assert!(latex.contains(r"50 \% | \texttt{x\_1} \textless{}b\textgreater{}"), "{latex}");
}

#[test]
fn a_table_without_rows_says_so() {
    let spec = SPEC.replace("references = [\"t3\"]", "");
    let table = build_table(&[], &[], &TableSpec::parse(&spec, "spec").unwrap()).unwrap();
    for format in [TableFormat::Terminal, TableFormat::Markdown, TableFormat::Latex] {
        assert!(render(&table, format).contains("No runs yet."), "{format:?}");
    }
    assert_eq!(
        render(&table, TableFormat::Csv),
        "init,kind,column,value,spread,evaluation_error,pretrainings,n,notes\n"
    );
}

#[test]
fn a_rounded_zero_has_no_sign() {
    use super::text::fixed;
    assert_eq!([fixed(-0.04, 1), fixed(-0.05001, 1), fixed(2., 0)], ["0.0", "−0.1", "2"]);
}

#[test]
fn formats_have_names() {
    for name in TableFormat::NAMES {
        assert!(name.parse::<TableFormat>().is_ok(), "{name}");
    }
    assert!("html".parse::<TableFormat>().unwrap_err().contains("terminal, markdown, csv, latex"));
}
