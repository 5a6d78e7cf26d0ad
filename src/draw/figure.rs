//! [`Figure`]: pictures in rows under the headings of their columns, with a title and a legend of colors.

use super::{Color, FONT};
use ab_glyph::FontRef;
use image::{Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_filled_rect_mut, draw_text_mut, text_size};
use imageproc::rect::Rect;

/// What a color means.
#[derive(Clone, Debug, PartialEq)]
pub struct LegendEntry {
    /// The color; `None` for what is not colored.
    pub color: Option<Color>,
    /// Its meaning, such as the name of a class.
    pub name: String,
    /// A remark for a picture that stands alone, such as an area; not shown for several pictures.
    pub remark: String,
}

/// A drawing of one prediction.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// The image with the prediction on it.
    pub picture: RgbImage,
    /// What of the prediction is drawn, such as a threshold of scores; may be empty.
    pub title: String,
    /// The meaning of its colors.
    pub legend: Vec<LegendEntry>,
}

impl From<RgbImage> for Drawing {
    fn from(picture: RgbImage) -> Self {
        Self { picture, title: String::new(), legend: vec![] }
    }
}

/// Pictures in rows and columns.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// Text above everything; may be empty.
    pub title: String,
    /// Headings of the columns; a `\n` starts another line. None if there are no headings.
    pub columns: Vec<String>,
    /// The pictures, from top to bottom and from left to right; they may differ in size.
    pub rows: Vec<Vec<RgbImage>>,
    /// Text below each row, such as the name of its file; none if empty.
    pub names: Vec<String>,
    /// The meaning of colors, shown below the pictures.
    pub legend: Vec<LegendEntry>,
}

/// Pixels around the pictures, and between them.
const MARGIN: u32 = 16;
const GAP: u32 = 10;
/// Heights of text in pixels.
const TITLE: f32 = 22.;
const HEADING: f32 = 18.;
const LEGEND: f32 = 16.;
const NAME: f32 = 14.;
/// Distance of lines, as a multiple of the height of text.
const LINE: f32 = 1.35;
/// Minimum width of the content in pixels, so that a title has room above a narrow picture.
const NARROWEST: u32 = 320;
pub(super) const PAPER: Rgb<u8> = Rgb([255; 3]);
pub(super) const TEXT: Rgb<u8> = Rgb([25; 3]);

impl Figure {
    /// One drawing under its title, with its legend.
    pub fn single(drawing: Drawing) -> Self {
        let Drawing { picture, title, legend } = drawing;
        Self { title, columns: vec![], rows: vec![vec![picture]], names: vec![], legend }
    }

    /// A picture with lines of text below it, `width` pixels wide, to stand beside others in a row. Each line is broken at
    /// spaces where it would be wider, and cut after two lines; of a long word, such as a path, the end is shown.
    pub fn tile(picture: RgbImage, lines: &[&str], width: u32) -> RgbImage {
        let text: Vec<String> = lines
            .iter()
            .flat_map(|line| wrapped(line, width, NAME).into_iter().take(2))
            .map(|line| end(&line, width))
            .collect();
        let left = width.saturating_sub(picture.width()) / 2;
        let top = width.saturating_sub(picture.height()) / 2;
        let height = width + GAP / 2 + (text.len() as f32 * NAME * LINE).ceil() as u32;
        let mut paper = RgbImage::from_pixel(width, height, PAPER);
        imageops::replace(&mut paper, &picture, i64::from(left), i64::from(top));
        write_lines(&mut paper, &text, (0, width + GAP / 2), NAME);
        paper
    }

    /// Adds the entries of another legend that are new, without their remarks.
    pub fn add_legend(&mut self, legend: &[LegendEntry]) {
        for entry in legend {
            if !self.legend.iter().any(|known| known.name == entry.name) {
                self.legend.push(LegendEntry { remark: String::new(), ..entry.clone() });
            }
        }
    }

    /// Draws the figure.
    pub fn draw(&self) -> RgbImage {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0).max(self.columns.len());
        let widest = |column: usize| {
            let pictures = self.rows.iter().filter_map(|row| row.get(column)).map(RgbImage::width);
            let words = self.columns.get(column).map_or(0, |text| widest_word(text, HEADING));
            pictures.max().unwrap_or(0).max(words)
        };
        let widths: Vec<u32> = (0..count).map(widest).collect();
        let pictures = widths.iter().sum::<u32>() + GAP * (count.max(1) as u32 - 1);
        let content = pictures.max(NARROWEST);
        let title = wrapped(&self.title, content, TITLE);
        let headings: Vec<Vec<String>> =
            self.columns.iter().zip(&widths).map(|(text, width)| wrapped(text, *width, HEADING)).collect();
        let legend = self.placed_legend(content);
        let lines = |count: usize, size: f32| (count as f32 * size * LINE).ceil() as u32;
        let heading_lines = headings.iter().map(Vec::len).max().unwrap_or(0);
        let title_height = spaced(lines(title.len(), TITLE));
        let heading_height = spaced(lines(heading_lines, HEADING));
        let heights: Vec<u32> =
            self.rows.iter().map(|row| row.iter().map(RgbImage::height).max().unwrap_or(0)).collect();
        let names: Vec<Vec<String>> = (0..heights.len())
            .map(|row| wrapped(self.names.get(row).map_or("", String::as_str), content, NAME))
            .collect();
        let name_heights: Vec<u32> = names.iter().map(|text| lines(text.len(), NAME)).collect();
        let rows = heights.iter().chain(&name_heights).sum::<u32>() + GAP * (heights.len().max(1) as u32 - 1);
        let legend_lines = legend.last().map_or(0, |(line, ..)| line + 1);
        let legend_height = if legend.is_empty() { 0 } else { GAP + lines(legend_lines, LEGEND) };
        let height = 2 * MARGIN + title_height + heading_height + rows + legend_height;
        let mut paper = RgbImage::from_pixel(content + 2 * MARGIN, height, PAPER);
        let mut top = MARGIN;
        write_lines(&mut paper, &title, (MARGIN, top), TITLE);
        top += title_height;
        let lefts: Vec<u32> = (0..count)
            .map(|column| MARGIN + widths[..column].iter().map(|width| width + GAP).sum::<u32>())
            .collect();
        for (text, left) in headings.iter().zip(&lefts) {
            // Short headings stand directly above their pictures.
            let down = lines(heading_lines - text.len(), HEADING);
            write_lines(&mut paper, text, (*left, top + down), HEADING);
        }
        top += heading_height;
        for (place, (row, height)) in self.rows.iter().zip(&heights).enumerate() {
            for (picture, left) in row.iter().zip(&lefts) {
                imageops::replace(&mut paper, picture, i64::from(*left), i64::from(top));
            }
            write_lines(&mut paper, &names[place], (MARGIN, top + height + 1), NAME);
            top += height + name_heights[place] + GAP;
        }
        for (line, left, entry) in &legend {
            let y = top + (*line as f32 * LEGEND * LINE) as u32;
            write_entry(&mut paper, entry, (MARGIN + left, y));
        }
        paper
    }

    /// Each entry of the legend with its line and its distance from the left edge of the content.
    fn placed_legend(&self, width: u32) -> Vec<(usize, u32, &LegendEntry)> {
        let (mut line, mut left) = (0, 0);
        let mut placed = vec![];
        for entry in &self.legend {
            let own = swatch() * 3 / 2 + text_width(&entry_text(entry), LEGEND);
            if left > 0 && left + own > width {
                (line, left) = (line + 1, 0);
            }
            placed.push((line, left, entry));
            left += own + 2 * GAP;
        }
        placed
    }
}

/// Height of a block of text with the distance to what is below it; 0 without text.
fn spaced(height: u32) -> u32 {
    if height == 0 { 0 } else { height + GAP / 2 }
}

/// Side of the colored square of a legend.
fn swatch() -> u32 {
    LEGEND as u32
}

fn entry_text(entry: &LegendEntry) -> String {
    let space = if entry.remark.is_empty() { "" } else { " " };
    format!("{}{space}{}", entry.name, entry.remark)
}

fn write_entry(paper: &mut RgbImage, entry: &LegendEntry, (left, top): (u32, u32)) {
    let side = swatch();
    let square = |inset: u32| {
        Rect::at((left + inset) as i32, (top + inset) as i32).of_size(side - 2 * inset, side - 2 * inset)
    };
    match entry.color {
        Some(color) => draw_filled_rect_mut(paper, square(0), Rgb(color)),
        None => {
            draw_filled_rect_mut(paper, square(0), Rgb([150; 3]));
            draw_filled_rect_mut(paper, square(1), PAPER);
        }
    }
    write_lines(paper, &[entry_text(entry)], (left + side * 3 / 2, top), LEGEND);
}

fn write_lines(paper: &mut RgbImage, lines: &[String], (left, top): (u32, u32), size: f32) {
    for (line, text) in lines.iter().enumerate() {
        let y = top as f32 + line as f32 * size * LINE;
        draw_text_mut(paper, TEXT, left as i32, y as i32, size, font(), text);
    }
}

fn font() -> &'static FontRef<'static> {
    &FONT
}

fn text_width(text: &str, size: f32) -> u32 {
    text_size(size, font(), text).0
}

fn widest_word(text: &str, size: f32) -> u32 {
    text.split_whitespace().map(|word| text_width(word, size)).max().unwrap_or(0)
}

/// The end of a line, after `…` if all of it would be wider than `width` pixels.
fn end(line: &str, width: u32) -> String {
    if text_width(line, NAME) <= width {
        return line.to_string();
    }
    let ends = line.char_indices().skip(1).map(|(at, _)| format!("…{}", &line[at..]));
    ends.into_iter().find(|text| text_width(text, NAME) <= width).unwrap_or_default()
}

/// Breaks `text` at `\n`, and at spaces where a line would be wider than `width` pixels.
fn wrapped(text: &str, width: u32, size: f32) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let longer = if line.is_empty() { word.to_string() } else { format!("{line} {word}") };
            if line.is_empty() || text_width(&longer, size) <= width {
                line = longer;
            } else {
                lines.push(std::mem::replace(&mut line, word.to_string()));
            }
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILE: Color = [10, 120, 30];

    fn tile(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb(TILE))
    }

    /// Whether something is written between these rows and columns.
    fn written(picture: &RgbImage, columns: std::ops::Range<u32>, rows: std::ops::Range<u32>) -> bool {
        let mut pixels = columns.flat_map(|x| rows.clone().map(move |y| (x, y)));
        pixels.any(|(x, y)| picture.get_pixel(x, y).0.iter().all(|v| *v < 100))
    }

    #[test]
    fn headings_stand_above_their_columns_and_the_legend_below() {
        let figure = Figure {
            title: String::new(),
            columns: vec!["left".into(), "right\nof it".into()],
            rows: vec![vec![tile(200, 100), tile(250, 90)], vec![tile(200, 50)]],
            ..Figure::default()
        };
        let picture = figure.draw();
        let headings = spaced((2. * HEADING * LINE).ceil() as u32);
        let top = MARGIN + headings;
        assert_eq!(picture.dimensions(), (2 * MARGIN + 200 + GAP + 250, top + 100 + GAP + 50 + MARGIN));
        let right = MARGIN + 200 + GAP;
        assert_eq!(picture.get_pixel(MARGIN, top).0, TILE);
        assert_eq!(picture.get_pixel(right, top).0, TILE);
        assert_eq!(picture.get_pixel(right, top - 1), &PAPER);
        assert_eq!(picture.get_pixel(MARGIN, top + 100 + GAP).0, TILE, "second row");
        assert!(
            written(&picture, MARGIN..MARGIN + 60, MARGIN..top)
                && written(&picture, right..right + 60, MARGIN..top)
        );
        let first_line = MARGIN..MARGIN + (HEADING * LINE) as u32;
        assert!(!written(&picture, MARGIN..right, first_line.clone()), "one line stands next to its picture");
        assert!(written(&picture, right..right + 60, first_line));

        let named = Figure { names: vec!["a.png".into(), "b.png".into()], ..figure.clone() }.draw();
        let name = (NAME * LINE).ceil() as u32;
        assert_eq!(named.height(), picture.height() + 2 * name);
        assert!(written(&named, MARGIN..MARGIN + 60, top + 100..top + 100 + name), "below the first row");
        assert_eq!(named.get_pixel(MARGIN, top + 100 + name + GAP).0, TILE);

        let entry = |color, name: &str| LegendEntry { color, name: name.into(), remark: "9 %".into() };
        let mut with_legend = figure.clone();
        with_legend.add_legend(&[entry(Some([200, 0, 0]), "cat"), entry(None, "ground")]);
        with_legend.add_legend(&[entry(Some([200, 0, 0]), "cat")]);
        assert_eq!(with_legend.legend.len(), 2);
        assert!(with_legend.legend.iter().all(|entry| entry.remark.is_empty()));
        let legend = with_legend.draw();
        let below = picture.height() - MARGIN + GAP;
        assert_eq!(legend.height(), picture.height() + GAP + (LEGEND * LINE).ceil() as u32);
        assert_eq!(legend.get_pixel(MARGIN + 4, below + 4).0, [200, 0, 0]);
        assert!(written(&legend, MARGIN + 20..MARGIN + 60, below..below + LEGEND as u32));
    }

    #[test]
    fn long_texts_are_broken_into_lines() {
        let title = "a title that is far too long for the narrow picture that stands below it";
        let single =
            |title: &str| Figure::single(Drawing { title: title.into(), ..tile(64, 64).into() }).draw();
        let (bare, titled) = (single(""), single(title));
        assert_eq!(bare.dimensions(), (NARROWEST + 2 * MARGIN, 64 + 2 * MARGIN));
        assert_eq!(titled.width(), bare.width());
        let lines = wrapped(title, NARROWEST, TITLE);
        assert!(lines.len() >= 3 && lines.join(" ") == title, "{lines:?}");
        assert!(lines.iter().all(|line| text_width(line, TITLE) <= NARROWEST), "{lines:?}");
        assert_eq!(
            titled.height() - bare.height(),
            spaced((lines.len() as f32 * TITLE * LINE).ceil() as u32)
        );
        let mut long = Figure::single(tile(64, 64).into());
        let names =
            (0..30).map(|k| LegendEntry { color: None, name: format!("class {k}"), remark: "1 %".into() });
        long.legend = names.collect();
        let placed = long.placed_legend(NARROWEST);
        assert!(placed.last().unwrap().0 > 5 && placed.iter().all(|(_, left, _)| *left < NARROWEST));
    }

    #[test]
    fn of_a_long_path_the_end_is_shown() {
        assert_eq!(end("a/b.png", 200), "a/b.png");
        let cut = end("classification/validation/pentagon/20001005.png", 200);
        assert!(cut.starts_with('…') && cut.ends_with("/20001005.png"), "{cut}");
        assert!(text_width(&cut, NAME) <= 200);
    }

    #[test]
    fn an_empty_figure_is_a_sheet_of_paper() {
        assert!(Figure::default().draw().pixels().all(|pixel| *pixel == PAPER));
    }
}
