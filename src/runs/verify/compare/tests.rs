//! What must agree, and when.

use super::*;
use crate::record::{Processor, RunRecord};
use serde_json::json;

/// An edit of a run, and what a message says of it.
type Edit<'a> = (&'a dyn Fn(&mut RunRecord), &'a str);

fn run() -> RunRecord {
    serde_json::from_value(json!({
        "schema": 2, "id": "r", "stage": "transfer", "command": "bench", "dataset": "d", "dataset_fingerprint": "f",
        "model": "m", "recipe": "r", "config_hash": "c", "seed": 0, "init": { "source": "scratch", "label": "scratch" },
        "weights_hash": "aa", "environment": {
            "version": "0.1.0", "commit": "0123456789ab", "dirty": false, "device": "cpu", "dtype": "f32",
            "world_size": 1, "threads": 2, "sources": "s1", "versions": { "rustc": "1.91.0" },
            "processor": { "name": "P", "family": "x86_64 A 26 2", "features": ["avx2"] }
        },
        "throughput": { "wall_seconds": 1.0, "images_per_second": 1.0, "peak_memory_mb": null },
        "steps_planned": 1, "steps_done": 1, "status": "finished",
        "scores": { "top1": { "value": 50.0, "stderr": 1.0 }, "ap": { "value": 20.0 } }
    }))
    .unwrap()
}

#[test]
fn the_same_build_and_processor_must_give_the_same_bytes() {
    let found = compare(&run(), &run(), true);
    assert_eq!((found.basis, found.agrees()), (Basis::Bytes, true));
    // Another weight, and another score, are found even within the tolerance.
    let weights = RunRecord { weights_hash: Some("bb".into()), ..run() };
    assert!(!compare(&run(), &weights, true).agrees());
    let mut score = run();
    score.scores.insert("top1", 50.1, Some(1.));
    let found = compare(&run(), &score, true);
    assert!(found.same_weights && !found.agrees() && found.pairs.iter().all(Pair::agrees));
}

#[test]
fn whatever_differs_between_the_machines_is_named_and_leads_to_the_tolerance() {
    let edits: [Edit; 5] = [
        (&|run| run.environment.sources = Some("s2".into()), "other sources"),
        (
            &|run| run.environment.versions = [("rustc".into(), "1.92.0".into())].into(),
            "rustc 1.92.0, not 1.91.0",
        ),
        (
            &|run| {
                let features = vec![];
                run.environment.processor =
                    Some(Processor { name: "P".into(), family: "aarch64".into(), features });
            },
            "processor aarch64 (), not x86_64 A 26 2 (avx2)",
        ),
        (&|run| run.environment.device = "cuda".into(), "a CUDA device"),
        (&|run| run.environment.jpeg_decoder = Some("libjpeg-turbo".into()), "another JPEG decoder"),
    ];
    for (edit, because) in edits {
        let mut made = RunRecord { weights_hash: Some("bb".into()), ..run() };
        edit(&mut made);
        let found = compare(&run(), &made, true);
        assert_eq!(found.basis, Basis::Scores);
        assert!(found.because.len() == 1 && found.because[0].starts_with(because), "{:?}", found.because);
        assert!(found.agrees() && !found.same_weights);
    }
    assert_eq!(compare(&run(), &run(), false).because.len(), 1);
}

#[test]
fn every_score_must_be_within_its_tolerance() {
    let agrees = |name: &str, value: f64, stderr: Option<f64>| {
        let mut made = RunRecord { weights_hash: Some("bb".into()), ..run() };
        made.environment.sources = Some("s2".into());
        made.scores.insert(name, value, stderr);
        compare(&run(), &made, true).agrees()
    };
    assert!(agrees("top1", 54.2, None) && !agrees("top1", 54.3, None), "3·√2 standard errors");
    assert!(agrees("ap", 23., None) && !agrees("ap", 16.9, None), "3 points");
    assert!(!agrees("new", 1., None), "a score that the record does not have");
}

#[test]
fn pre_training_is_compared_by_its_losses() {
    let pretrained = |loss: f64, norm: f64, sources: &str| {
        let mut run = RunRecord { weights_hash: Some(sources.into()), ..run() };
        run.scores = Default::default();
        run.environment.sources = Some(sources.into());
        run.losses = [("reconstruction".into(), loss), ("grad_norm".into(), norm)].into();
        run
    };
    let record = pretrained(0.5, 1., "s1");
    assert!(compare(&record, &pretrained(0.52, 3., "s2"), true).agrees());
    assert!(!compare(&record, &pretrained(0.53, 1., "s2"), true).agrees());
}
