//! [`TableError`]: why records do not make a table.

/// Why records do not make a table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    #[error(
        "column `{column}`: runs {runs} would share a cell, but differ in {key} ({values}); \
         add `{key}` to `rows`, to the filter or to the column's `where`"
    )]
    Mixed { column: String, key: &'static str, runs: String, values: String },
    #[error("two different records have the id `{id}`")]
    Duplicate { id: String },
    #[error("published table `{id}` is unknown; known: {known}")]
    UnknownReference { id: String, known: String },
    #[error(
        "column `{column}`: two numbers of published table `{id}` would share a cell ({}, {}); \
         add a key to `rows` or to the filter", values[0], values[1]
    )]
    Clash { column: String, id: String, values: [f64; 2] },
}
