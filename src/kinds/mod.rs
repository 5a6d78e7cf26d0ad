//! The built-in kinds of task. They use only the plugin interface ([`crate::task`]), as external kinds do.

pub mod classification;
pub mod detection;
pub mod segmentation;

pub use classification::ClassificationTask;
pub use detection::DetectionTask;
pub use segmentation::SegmentationTask;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Task;
    use schemars::schema_for;

    /// The keys that `[options]` and `[transfer.head]` of a kind may have, by their schemas.
    fn keys<T: Task>() -> [Vec<String>; 2] {
        [schema_for!(T::Options), schema_for!(T::HeadConfig)].map(|schema| {
            let properties = schema.get("properties").and_then(serde_json::Value::as_object);
            properties.into_iter().flatten().map(|(key, _)| key.clone()).collect()
        })
    }

    #[test]
    fn options_of_every_kind_have_a_schema() {
        for (found, option, head) in [
            (keys::<ClassificationTask>(), "pool", "label_smoothing"),
            (keys::<DetectionTask>(), "protocol", "fpn_norm"),
            (keys::<SegmentationTask>(), "stride", "pool_scales"),
        ] {
            assert!(found[0].iter().any(|key| key == option), "{found:?}");
            assert!(found[1].iter().any(|key| key == head), "{found:?}");
        }
    }
}
