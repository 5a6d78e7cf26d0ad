//! [`Counts`]: what is left out of a file, or used in part.

/// Numbers of what was left out or is used in part.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Rings without area beside others, and the first annotation with one.
    pub rings: (usize, String),
    /// Annotations without area.
    pub degenerate: (usize, String),
    /// Outlines that cannot be drawn, and why.
    pub flawed: Vec<String>,
}

impl Counts {
    /// A sentence for each kind of which there is any.
    pub(super) fn notes(self) -> impl Iterator<Item = String> {
        let Self { rings, degenerate, flawed } = self;
        let flawed = (flawed.len(), flawed.into_iter().next().unwrap_or_default());
        let lines = [
            (rings, "polygons of fewer than 3 points left out, their objects kept"),
            (
                degenerate,
                "annotations without area are not trained on and stay in scores (`allowed_degenerate`)",
            ),
            (flawed, "outlines cannot be drawn, which matters only to tasks with masks"),
        ];
        let line = |((count, first), what): ((usize, String), &str)| {
            (count > 0).then(|| format!("{what}: {count}; the first: {first}"))
        };
        lines.into_iter().filter_map(line)
    }

    /// Counts, and keeps the first.
    pub(super) fn count((count, first): &mut (usize, String), words: impl FnOnce() -> String) {
        *count += 1;
        if first.is_empty() {
            *first = words();
        }
    }
}
