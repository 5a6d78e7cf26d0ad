//! Records of comparisons, old and new, and the tables made from them.

use super::*;
use crate::record::render::TableFormat;
use crate::record::table::Row;

const RECORD: &str = r#"{
    "schema": 1, "date": "2026-01-01", "device": "cpu", "threads": 2, "rounds": 3,
    "machine": {"cpu": "CPU", "cores": 2, "flags": ["avx2"], "memory_gb": 8.0, "system": "Linux"},
    "versions": {"torch": "2.0", "bench": "abc"}, "idle_mb": {"bench": 10.0, "pytorch": 500.0},
    "cases": [{"case": "mae", "images": 8, "parameters": 5, "trainable": 4, "threads": 2, "runs": [
        {"program": "bench", "variant": "f32", "median_ms": 1000.0, "min_ms": 900.0, "peak_mb": 700.4,
         "samples_ms": [[1000.0]], "samples_peak_mb": [700.4], "others": [0.2]},
        {"program": "pytorch", "variant": "f32", "median_ms": 2000.0, "min_ms": 1900.0, "peak_mb": 2000.0},
        {"program": "pytorch", "variant": "bf16", "median_ms": 800.0, "min_ms": 600.0, "peak_mb": 1900.0},
        {"program": "pytorch", "variant": "bf16_compiled", "skipped": "no compiler"}]}]}"#;

#[test]
fn ratios_are_to_the_same_numbers_and_to_the_fastest() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), RECORD).unwrap();
    std::fs::write(folder.path().join("b.txt"), "not read").unwrap();
    let records = SpeedRecord::read_all(folder.path()).unwrap();
    let text = render_speed(&records, SpeedRecord::tables, TableFormat::Markdown);
    for line in [
        "**Speed beside PyTorch 2.0 on cpu, 2 threads of CPU**",
        "| mae  | bench f32 <sup>1</sup>              | 1000.0 |                    2.00 |               0.80 |     700 |      8.0 |",
        "| mae  | PyTorch bf16 <sup>2</sup>           |  800.0 |                    1.00 |               1.00 |    1900 |     10.0 |",
        "| mae  | PyTorch bf16, compiled <sup>3</sup> |      – |                       – |                  – |       – |        – |",
        "- <sup>1</sup> other processes took up to 20 % of the machine",
        "- <sup>2</sup> unsteady: the median is more than 20 % above the fastest step",
        "- <sup>3</sup> skipped: no compiler",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn a_summary_has_one_row_per_case() {
    let record: SpeedRecord = serde_json::from_str(RECORD).unwrap();
    let tables = record.summaries();
    let [table] = &tables[..] else { panic!("{} tables", tables.len()) };
    assert_eq!(table.rows.len(), 1);
    // There is no bf16 of ours; the fastest are ours in f32 and PyTorch's in bf16.
    assert_eq!(values(&table.rows[0]), [Some(2.), None, Some(0.8), Some(700.4 / 1900.)]);
    assert_eq!(table.rows[0].marks.len(), 3);
    assert_eq!(table.remarks[0], "fastest: geometric mean 0.80, smallest 0.80 (mae)");
    assert!(table.remarks[1].starts_with("2 cores, avx2; "), "{}", table.remarks[1]);
}

/// A record with a whole program, a CUDA device and the identity of the processor.
fn with_a_program() -> SpeedRecord {
    let program = r#"{"case": "run_mae_small", "images": 6000, "parameters": 5, "trainable": 4, "threads": 2,
        "program": {"steps": 40, "batch": 128, "evaluated": 880}, "runs": [
        {"program": "bench", "variant": "f32", "median_ms": 5000.0, "min_ms": 4900.0, "peak_mb": 300.0},
        {"program": "pytorch", "variant": "f32", "median_ms": 10000.0, "min_ms": 9900.0, "peak_mb": 900.0}]},"#;
    let machine = r#""processor": "AuthenticAMD family 26 model 2 stepping 1", "accelerator": "NVIDIA H100",
        "driver": "580.1", "system""#;
    let text = RECORD.replace("\"cases\": [", &format!("\"cases\": [{program}"));
    serde_json::from_str(&text.replace("\"system\"", machine)).unwrap()
}

#[test]
fn whole_programs_have_a_table_of_their_own_with_images_per_second() {
    let record = with_a_program();
    let tables = record.summaries();
    let titles: Vec<&str> = tables.iter().map(|table| table.title.as_str()).collect();
    let [steps, programs] = titles[..] else { panic!("{titles:?}") };
    assert!(steps.starts_with("Speed beside") && programs.starts_with("Whole programs beside"), "{titles:?}");
    let [row] = &tables[1].rows[..] else { panic!("{} rows", tables[1].rows.len()) };
    assert_eq!(row.keys, ["run_mae_small"]);
    assert_eq!(values(row), [Some(1200.), Some(600.), Some(2.), None, Some(2.), Some(300. / 900.)]);
    let notes: Vec<&str> = row.marks.iter().map(|mark| tables[1].footnotes[mark - 1].as_str()).collect();
    assert_eq!(notes, ["40 training steps of 128 images, evaluation of 880 images, checkpoint"]);
    let full = render_speed(&[record], SpeedRecord::tables, TableFormat::Markdown);
    assert!(full.contains("| run_mae_small | bench f32 <sup>1</sup>   |  5000.0 |"), "{full}");
}

#[test]
fn the_machine_is_described_as_precisely_as_the_record_is() {
    let record = with_a_program();
    let expected =
        "2 cores, AuthenticAMD family 26 model 2 stepping 1, avx2, NVIDIA H100, driver 580.1; 2026-01-01";
    let remarks = &record.tables()[0].remarks;
    assert!(remarks[0].starts_with(expected), "{remarks:?}");
    assert!(remarks[1].contains("of the process, of which 10 (bench) and 500 (PyTorch)"), "{remarks:?}");
    let on_cuda = SpeedRecord { device: "cuda".into(), ..record };
    let remarks = &on_cuda.tables()[0].remarks;
    assert!(remarks[1].ends_with("on the device") && remarks[2].contains("TF32"), "{remarks:?}");
}

#[test]
fn a_record_survives_being_written_and_read() {
    let record = with_a_program();
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<SpeedRecord>(&text).unwrap(), record);
}

#[test]
fn the_mean_is_geometric_and_cases_without_both_programs_do_not_count() {
    let mut record: SpeedRecord = serde_json::from_str(RECORD).unwrap();
    let mae = &record.cases[0];
    let faster = |run: &SpeedRun| SpeedRun { median_ms: run.median_ms.map(|ms| ms / 4.), ..run.clone() };
    let probe = SpeedCase {
        case: "probe".into(),
        runs: vec![faster(&mae.runs[0]), mae.runs[1].clone(), mae.runs[2].clone()],
        ..mae.clone()
    };
    let alone = SpeedCase { case: "alone".into(), runs: mae.runs[..1].to_vec(), ..mae.clone() };
    record.cases.extend([probe, alone]);
    // √(0.8 · 3.2)
    assert_eq!(record.summaries()[0].remarks[0], "fastest: geometric mean 1.60, smallest 0.80 (mae)");
    record.cases.drain(..2);
    let remarks = &record.summaries()[0].remarks;
    assert!(!remarks.iter().any(|remark| remark.contains("geometric")), "{remarks:?}");
}

fn values(row: &Row) -> Vec<Option<f64>> {
    row.cells.iter().map(|cell| cell.value.as_ref().map(|value| value.mean)).collect()
}

#[test]
fn another_layout_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    for (from, to, expected) in
        [("\"schema\": 1", "\"schema\": 9", "schema 9"), ("\"rounds\"", "\"round\"", "unknown field `round`")]
    {
        std::fs::write(&path, RECORD.replace(from, to)).unwrap();
        let error = SpeedRecord::read_all(&path).unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains(expected), "{error}");
    }
}
