//! [`TableError`]: why no table can be built.

/// Why no table can be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Runs that differ too much would share a cell.
    #[error(
        "column `{column}`: runs {runs} would share a cell, but differ in {key} ({values}); \
         add `{key}` to `rows`, to the filter or to the column's `where`"
    )]
    Mixed {
        /// Title of the column.
        column: String,
        /// The key in which the runs differ.
        key: &'static str,
        /// Ids of two such runs.
        runs: String,
        /// Their values of the key.
        values: String,
    },
    /// Runs of different files with one name would share a cell.
    #[error(
        "column `{column}`: runs {runs} would share a cell, but their models or recipes come from different files with the \
         same name; rename one of the files and run it again, or leave one run out"
    )]
    SameName {
        /// Title of the column.
        column: String,
        /// Ids of two such runs.
        runs: String,
    },
    /// Two different records have the same id.
    #[error("two different records have the id `{id}`")]
    Duplicate {
        /// The id.
        id: String,
    },
    /// The specification names a published table that does not exist.
    #[error("published table `{id}` is unknown; known: {known}")]
    UnknownReference {
        /// The unknown id.
        id: String,
        /// All known ids.
        known: String,
    },
    /// Two published numbers would share a cell.
    #[error(
        "column `{column}`: two numbers of published table `{id}` would share a cell ({}, {}); \
         add a key to `rows` or to the filter", values[0], values[1]
    )]
    Clash {
        /// Title of the column.
        column: String,
        /// Id of the published table.
        id: String,
        /// The two numbers.
        values: [f64; 2],
    },
}
