//! The inverse of a selection of rows: the positions of each row in it.

use super::fresh::to_overwrite;
use super::storage::for_rows;

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

    /// For each of the first `count` rows the sum of its places in `values` [places, width]. [count, width]
    pub fn sums(&self, count: usize, values: &[f32], width: usize) -> Vec<f32> {
        let mut sums = to_overwrite(count * width);
        for_rows(&mut sums, width, |rows, sums| {
            for (sums, row) in sums.chunks_exact_mut(width.max(1)).zip(rows) {
                let mut places = self.places[self.starts[row]..self.starts[row + 1]].iter();
                let value = |&place: &u32| &values[place as usize * width..][..width];
                match places.next().map(value) {
                    Some(first) => sums.copy_from_slice(first),
                    None => sums.fill(0.),
                }
                places.map(value).for_each(|value| sums.iter_mut().zip(value).for_each(|(sum, x)| *sum += x));
            }
        });
        sums
    }
}
