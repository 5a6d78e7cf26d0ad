//! [`Heatmap`]: a matrix as colored cells under the names of its rows and columns.

use super::FONT;
use super::figure::{Figure, PAPER, TEXT};
use image::{Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_filled_rect_mut, draw_text_mut, text_size};
use imageproc::rect::Rect;

/// A matrix of values from 0 (white) to 1 (dark blue).
#[derive(Clone, Debug, Default)]
pub struct Heatmap {
    /// Text above everything; may be empty.
    pub title: String,
    /// What the rows are.
    pub row_axis: String,
    /// What the columns are.
    pub column_axis: String,
    /// Names of the rows, shown where cells are high enough.
    pub rows: Vec<String>,
    /// Names of the columns, shown where cells are wide enough.
    pub columns: Vec<String>,
    /// A row of values for each row: 0 to 1.
    pub values: Vec<Vec<f64>>,
    /// Texts of the cells, shown where they fit.
    pub texts: Vec<Vec<String>>,
}

/// Length of the longer side of the cells together in pixels, and the bounds of one cell.
const SIDE: u32 = 1000;
const CELL: (u32, u32) = (1, 44);
/// Smallest cell next to which names are legible.
const NAMED: u32 = 13;
/// Heights of text in pixels.
const NAME: f32 = 14.;
const AXIS: f32 = 16.;
/// Longest name in pixels; longer ones are cut.
const LONGEST: u32 = 220;
const GAP: u32 = 6;

impl Heatmap {
    /// Draws the matrix.
    pub fn draw(&self) -> RgbImage {
        let (height, width) = (self.rows.len() as u32, self.columns.len() as u32);
        let cell = (SIDE / height.max(width).max(1)).clamp(CELL.0, CELL.1);
        let named = cell >= NAMED;
        let name_size = NAME.min(cell as f32 + 1.);
        let label = |name: &String| {
            if named { written(&shortened(name, name_size), name_size) } else { RgbImage::new(0, 0) }
        };
        let rows: Vec<RgbImage> = self.rows.iter().map(label).collect();
        // From bottom to top.
        let columns: Vec<RgbImage> =
            self.columns.iter().map(|name| imageops::rotate270(&label(name))).collect();
        let row_axis = imageops::rotate270(&written(&self.row_axis, AXIS));
        let column_axis = written(&self.column_axis, AXIS);
        let left = row_axis.width() + GAP + rows.iter().map(RgbImage::width).max().unwrap_or(0) + GAP;
        let top = column_axis.height() + GAP + columns.iter().map(RgbImage::height).max().unwrap_or(0) + GAP;
        let (inner_width, inner_height) = (width * cell, height * cell);
        let content =
            (left + inner_width.max(column_axis.width()) + 1, top + inner_height.max(row_axis.height()) + 1);
        let mut paper = RgbImage::from_pixel(content.0, content.1, PAPER);
        let mut put = |picture: &RgbImage, x: u32, y: u32| {
            imageops::replace(&mut paper, picture, i64::from(x), i64::from(y));
        };
        put(&column_axis, left, 0);
        put(&row_axis, 0, top);
        let middle = |own: u32| cell.saturating_sub(own) / 2;
        for (k, name) in (0..).zip(&rows) {
            put(name, left - GAP - name.width(), top + k * cell + middle(name.height()));
        }
        for (k, name) in (0..).zip(&columns) {
            put(name, left + k * cell + middle(name.width()), top - GAP - name.height());
        }
        let frame = Rect::at(left as i32 - 1, top as i32 - 1).of_size(inner_width + 2, inner_height + 2);
        draw_filled_rect_mut(&mut paper, frame, Rgb([190; 3]));
        let line = u32::from(cell >= NAMED);
        for (y, (values, texts)) in (0..).zip(self.values.iter().zip(&self.texts)) {
            for (x, (value, text)) in (0..).zip(values.iter().zip(texts)) {
                let (x, y) = ((left + x * cell) as i32, (top + y * cell) as i32);
                let fill = shade(*value);
                draw_filled_rect_mut(&mut paper, Rect::at(x, y).of_size(cell - line, cell - line), fill);
                let (text_width, text_height) = text_size(NAME, &*FONT, text);
                if text_width + 4 <= cell && text_height <= cell {
                    let ink = if *value > 0.5 { PAPER } else { TEXT };
                    let place = |own: u32| middle(own) as i32;
                    let (x, y) = (x + place(text_width), y + place(text_height + 4));
                    draw_text_mut(&mut paper, ink, x, y, NAME, &*FONT, text);
                }
            }
        }
        let rows = vec![vec![paper]];
        Figure { title: self.title.clone(), rows, ..Figure::default() }.draw()
    }
}

/// The color of a value: from white at 0 to dark blue at 1.
fn shade(value: f64) -> Rgb<u8> {
    const DARK: [f64; 3] = [8., 48., 107.];
    let value = if value.is_finite() { value.clamp(0., 1.) } else { 0. };
    Rgb(DARK.map(|dark| (255. + value.sqrt() * (dark - 255.)).round() as u8))
}

/// `name`, with `…` at its end if it would be longer than [`LONGEST`].
fn shortened(name: &str, size: f32) -> String {
    let fits = |text: &str| text_size(size, &*FONT, text).0 <= LONGEST;
    if fits(name) {
        return name.to_string();
    }
    let letters: Vec<char> = name.chars().collect();
    let cut = |count: usize| letters[..count].iter().collect::<String>() + "…";
    (0..letters.len()).rev().map(cut).find(|text| fits(text)).unwrap_or_default()
}

/// One line of text on paper.
fn written(text: &str, size: f32) -> RgbImage {
    let (width, _) = text_size(size, &*FONT, text);
    let height = (size * 1.3).ceil() as u32;
    let mut paper = RgbImage::from_pixel(width.max(1) + 1, height, PAPER);
    draw_text_mut(&mut paper, TEXT, 0, 0, size, &*FONT, text);
    paper
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heatmap(classes: usize) -> Heatmap {
        let names: Vec<String> = (0..classes).map(|k| format!("class {k}")).collect();
        let row = |y: usize| (0..classes).map(|x| if x == y { 1. } else { 0. }).collect();
        Heatmap {
            row_axis: "class".into(),
            column_axis: "predicted".into(),
            rows: names.clone(),
            columns: names,
            values: (0..classes).map(row).collect(),
            texts: vec![vec!["7".into(); classes]; classes],
            ..Heatmap::default()
        }
    }

    #[test]
    fn shares_become_darker() {
        assert_eq!(shade(0.), PAPER);
        assert_eq!(shade(1.), Rgb([8, 48, 107]));
        assert_eq!(shade(f64::NAN), PAPER);
        assert!(shade(0.1).0[0] > shade(0.5).0[0]);
    }

    #[test]
    fn the_diagonal_is_dark_at_every_size() {
        for classes in [2, 20, 100, 1000] {
            let picture = heatmap(classes).draw();
            let dark = picture.pixels().filter(|pixel| pixel.0 == shade(1.).0).count();
            let cell = (1000 / classes).clamp(1, 44);
            assert!(dark >= classes * cell * cell / 2, "{classes} classes: {dark} dark pixels");
            assert!(picture.width() < 1300 && picture.height() < 1300, "{:?}", picture.dimensions());
        }
    }

    #[test]
    fn long_names_are_cut() {
        let long = "a name that is far longer than any matrix can bear at its side";
        let cut = shortened(long, NAME);
        assert!(cut.ends_with('…') && long.starts_with(cut.trim_end_matches('…')), "{cut}");
        assert!(text_size(NAME, &*FONT, &cut).0 <= LONGEST);
        assert_eq!(shortened("cat", NAME), "cat");
    }
}
