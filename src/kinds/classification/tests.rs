//! Classification by hand: names of parameters, losses, k-NN, checks of options.

use super::*;
use crate::data::{ImageRef, SourceTransform};
use crate::models::Features;
use crate::nn::{Params, Pass};
use crate::task::Head;
use candle_core::{Device, Tensor};

fn task(config: &str) -> Result<ClassificationTask> {
    let dataset = DatasetInfo {
        name: "d".into(),
        version: "1".into(),
        classes: vec!["a".into(), "b".into()],
        ..DatasetInfo::default()
    };
    ClassificationTask::new(ClassificationOptions::default(), toml::from_str(config)?, &dataset)
}

fn batch(images: Tensor, targets: Vec<ClassTarget>) -> Batch<ClassTarget> {
    let ids = (0..targets.len()).map(|i| SampleId::new(i.to_string())).collect();
    Batch {
        ids,
        images,
        views: vec![],
        source_transforms: vec![SourceTransform::new((4, 4)); targets.len()],
        targets,
    }
}

fn features() -> Result<Features> {
    let tokens = Tensor::new(
        &[[[1f32, 2., 3., 4.], [3., 2., 1., 0.]], [[0., 0., 1., 1.], [4., 2., 0., 1.]]],
        &Device::Cpu,
    )?;
    let cls = Tensor::new(&[[1f32, 0., 0., 0.], [0., 1., 0., 0.]], &Device::Cpu)?;
    Ok(Features { taps: vec![tokens], cls: Some(cls), grid: (1, 2) })
}

const SPEC: BackboneSpec = BackboneSpec { width: 4, depth: 3, patch: 2 };

#[test]
fn each_classifier_has_the_names_of_the_reference() -> Result<()> {
    for (config, names, taps, cls) in [
        ("", &["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"][..], &[2usize][..], false),
        ("pool = \"cls\"", &["head.weight", "head.bias"], &[], true),
        (
            "classifier = \"probe\"\npool = \"cls\"",
            &["head.0.running_mean", "head.0.running_var", "head.1.weight", "head.1.bias"],
            &[],
            true,
        ),
        ("classifier = \"knn\"", &[], &[2], false),
    ] {
        let params = Params::new(0, &Device::Cpu);
        let head = task(config)?.head(&SPEC, params.builder())?;
        let found: Vec<String> = params.all().into_iter().map(|p| p.name).collect();
        assert_eq!(found, names, "{config}");
        assert_eq!((head.taps(), head.reads_cls()), (taps, cls), "{config}");
    }
    Ok(())
}

#[test]
fn a_zero_head_loses_log_k_and_mixing_keeps_it() -> Result<()> {
    let task = task("init_std = 0.0\nlabel_smoothing = 0.1\n[mix]\nmixup = 0.8")?;
    let head = task.head(&SPEC, Params::new(0, &Device::Cpu).builder())?;
    let images = Tensor::zeros((2, 3, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
    let mut batch = batch(images, vec![ClassTarget::Label(0), ClassTarget::Label(1)]);
    task.mix(&mut batch, &mut Rng::new(0, "mix", &[]))?;
    for target in &batch.targets {
        let ClassTarget::Soft(weights) = target else { panic!("mixing makes soft targets") };
        assert!((weights.iter().sum::<f32>() - 1.).abs() < 1e-6);
    }
    let mut rng = Rng::new(0, "pass", &[]);
    let loss = head.loss(&features()?, &batch, &mut Pass::train(&mut rng))?.total()?.to_scalar::<f32>()?;
    assert!((loss - 2f32.ln()).abs() < 1e-6, "{loss}");
    Ok(())
}

#[test]
fn knn_is_fitted_not_trained() -> Result<()> {
    let mut head =
        task("classifier = \"knn\"\npool = \"cls\"")?.head(&SPEC, Params::new(0, &Device::Cpu).builder())?;
    assert!(head.fits());
    let features = Features { taps: vec![], ..features()? };
    let batch = batch(
        Tensor::zeros((2, 1), candle_core::DType::F32, &Device::Cpu)?,
        vec![ClassTarget::Label(1), ClassTarget::Label(0)],
    );
    head.fit(&features, &batch)?;
    let predictions = head.predict(&features, &batch.source_transforms)?;
    assert!(predictions[0][1] > predictions[0][0] && predictions[1][0] > predictions[1][1]);
    Ok(())
}

#[test]
fn labels_and_options_are_checked() -> Result<()> {
    let entry = |annotation| Entry {
        id: SampleId::new("x/1.png"),
        image: ImageRef::File("x/1.png".into()),
        annotation,
    };
    let classes = task("")?;
    assert_eq!(classes.target(&entry(Annotation::Label(1)))?, ClassTarget::Label(1));
    for annotation in [Annotation::Label(2), Annotation::None] {
        assert!(classes.target(&entry(annotation)).unwrap_err().to_string().contains("x/1.png"));
    }
    assert!(task("label_smoothing = 1.0").is_err());
    assert!(toml::from_str::<ClassificationHeadConfig>("label_smothing = 0.1").is_err());
    Ok(())
}
