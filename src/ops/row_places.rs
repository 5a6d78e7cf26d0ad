//! The inverse of a selection of rows: the positions of each row in it.

/// For each row of a matrix, the places of the selection that hold it, in order.
pub(super) struct RowPlaces {
    /// The places of row r are `places[starts[r]..starts[r + 1]]`.
    pub starts: Vec<usize>,
    pub places: Vec<u32>,
}

impl RowPlaces {
    /// The places of each of `count` rows in the selection `rows`.
    pub fn of(rows: &[u32], count: usize) -> Self {
        let mut starts = vec![0; count + 1];
        for &row in rows {
            starts[row as usize + 1] += 1;
        }
        for row in 0..count {
            starts[row + 1] += starts[row];
        }
        let (mut next, mut places) = (starts.clone(), vec![0; rows.len()]);
        for (place, &row) in (0..).zip(rows) {
            places[next[row as usize]] = place;
            next[row as usize] += 1;
        }
        Self { starts, places }
    }
}
