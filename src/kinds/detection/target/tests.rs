//! Targets by hand, and on random moves.

use super::*;
use crate::data::{ImageRef, Rle, SampleId};
use proptest::prelude::*;

fn object(segmentation: Segmentation, bbox: [f64; 4]) -> Object {
    Object { label: 1, bbox, segmentation, crowd: false, area: bbox[2] * bbox[3] }
}

fn entry(size: Size, objects: Vec<Object>) -> Entry {
    let objects = Objects { image_id: 7.into(), size, objects, absent: vec![], not_exhaustive: vec![] };
    Entry {
        id: SampleId::new("a.jpg"),
        image: ImageRef::File("a.jpg".into()),
        annotation: Annotation::Objects(Arc::new(objects)),
    }
}

fn target(size: Size, objects: Vec<Object>) -> DetectionTarget {
    DetectionTarget::new(&entry(size, objects), 2).unwrap()
}

fn square(x1: f64, y1: f64, x2: f64, y2: f64) -> Vec<f64> {
    vec![x1, y1, x2, y1, x2, y2, x1, y2]
}

fn boxes(target: &DetectionTarget) -> Vec<[f32; 4]> {
    target.instances().iter().map(|instance| instance.bbox).collect()
}

/// Rows of `#` and `.`.
fn drawn(mask: &[f32], side: usize) -> Vec<String> {
    let pixel = |v: &f32| if *v == 1. { '#' } else { '.' };
    mask.chunks(side).map(|row| row.iter().map(pixel).collect()).collect()
}

#[test]
fn boxes_follow_from_the_outlines_that_are_shown() {
    let polygons = Segmentation::Polygons(vec![square(2., 2., 6., 6.), square(8., 2., 9., 3.)]);
    // A column of three pixels at x = 4 and two more at the top of the next one, in 10×12.
    let runs = Segmentation::Rle(Rle::new(10, 12, vec![47, 5, 68]).unwrap());
    let mut target = target(
        (10, 12),
        vec![
            object(polygons, [2., 2., 7., 4.]),
            object(runs, [4., 0., 2., 10.]),
            object(Segmentation::None, [10., 8., 2., 2.]),
        ],
    );
    assert_eq!(boxes(&target), [[2., 2., 9., 6.], [4., 0., 6., 10.], [10., 8., 12., 10.]]);
    target.apply(&Geometry::flip((10, 12)));
    assert_eq!(boxes(&target), [[3., 2., 10., 6.], [6., 0., 8., 10.], [0., 8., 2., 10.]]);
    // The middle, enlarged twice: x from 3.5, y from 0 to 5.
    target.apply(&Geometry::crop_resize((10, 12), 0., 3.5, 5., 4., (10, 8)));
    assert_eq!(boxes(&target), [[0., 4., 8., 10.], [5., 0., 7., 4.]]);
    assert_eq!(target.instances()[1].object, 1);
    // Padding brings nothing back; predictions still refer to the source.
    target.apply(&Geometry::crop_resize((10, 8), 0., -10., 20., 30., (20, 30)));
    assert_eq!(boxes(&target), [[10., 4., 18., 10.], [15., 0., 17., 4.]]);
    assert_eq!(target.source().len(), 3);
    target.apply(&Geometry::crop_resize((20, 30), 15., 0., 5., 5., (5, 5)));
    assert!(target.instances().is_empty());
}

#[test]
fn the_box_of_a_bitmap_ends_at_its_pixels() {
    // One column, two neighbouring ones and three, in 10×12: each run begins at row 2 and ends before row 7.
    for (runs, expected) in [
        (vec![52, 5, 63], [5., 2., 6., 7.]),
        (vec![52, 5, 5, 5, 53], [5., 2., 7., 7.]),
        (vec![92, 5, 5, 5, 5, 5, 3], [9., 2., 12., 7.]),
    ] {
        let bitmap = Segmentation::Rle(Rle::new(10, 12, runs).unwrap());
        let target = target((10, 12), vec![object(bitmap, [0., 0., 12., 10.])]);
        assert_eq!(boxes(&target), [expected]);
    }
}

#[test]
fn objects_of_one_pixel_and_many_objects_live_on() {
    let one = |k: usize| {
        let (x, y) = ((k % 20) as f64, (k / 20) as f64);
        object(Segmentation::Polygons(vec![square(x, y, x + 1., y + 1.)]), [x, y, 1., 1.])
    };
    let mut target = target((10, 20), (0..200).map(one).collect());
    target.apply(&Geometry::crop_resize((10, 20), 0., 0., 10., 20., (1, 2)));
    assert_eq!(target.instances().len(), 200);
    assert_eq!(target.instances()[21].bbox, [0.1, 0.1, 0.2, 0.2]);
    assert_eq!(target.mask_in(21, [0., 0., 2., 1.], 4).unwrap().len(), 16);
    assert_eq!(target.mask_in(21, [0.1, 0.1, 0.2, 0.2], 2).unwrap(), [1.; 4]);
    assert_eq!(target.mask_in(21, [f32::NAN, 0., 1., 1.], 2).unwrap(), [0.; 4]);
    assert_eq!(target.mask_in(21, [5., 5., 5., 5.], 2).unwrap(), [0.; 4]);
}

#[test]
fn masks_on_a_grid_by_hand() {
    let triangle = Segmentation::Polygons(vec![vec![0., 0., 8., 0., 0., 8.]]);
    let bitmap: Vec<u8> = (0..64).map(|k| u8::from(k % 8 + k / 8 < 8)).collect();
    let runs = Segmentation::Rle(Rle::encode(&bitmap, (8, 8)));
    let mut target = target(
        (8, 8),
        vec![
            object(triangle, [0., 0., 8., 8.]),
            object(runs, [0., 0., 8., 8.]),
            object(Segmentation::None, [0., 0., 8., 8.]),
        ],
    );
    let whole = [0., 0., 8., 8.];
    // A cell that the slope halves is outside by pycocotools' rounding.
    assert_eq!(drawn(&target.mask_in(0, whole, 4).unwrap(), 4), ["###.", "##..", "#...", "...."]);
    assert_eq!(drawn(&target.mask_in(1, whole, 4).unwrap(), 4), ["####", "###.", "##..", "#..."]);
    assert_eq!(target.mask_in(2, whole, 4), None);
    target.apply(&Geometry::flip((8, 8)));
    assert_eq!(drawn(&target.mask_in(1, whole, 4).unwrap(), 4), ["####", ".###", "..##", "...#"]);
    // The right half of the mirrored one, in a box that reaches beyond what is shown.
    target.apply(&Geometry::crop_resize((8, 8), 0., 4., 8., 4., (8, 4)));
    target.apply(&Geometry::crop_resize((8, 4), 0., 0., 8., 8., (8, 8)));
    assert_eq!(drawn(&target.mask_in(0, whole, 4).unwrap(), 4), ["##..", "##..", ".#..", "...."]);
    assert_eq!(drawn(&target.mask_in(1, whole, 4).unwrap(), 4), ["##..", "##..", "##..", ".#.."]);
}

#[test]
fn what_does_not_fit_is_told() {
    let error = DetectionTarget::new(&entry((4, 4), vec![object(Segmentation::None, [0., 0., 1., 1.])]), 1);
    assert!(error.unwrap_err().to_string().contains("label 1 of `a.jpg` is out of range for 1 classes"));
    let label = Entry { annotation: Annotation::Label(0), ..entry((4, 4), vec![]) };
    assert!(DetectionTarget::new(&label, 1).unwrap_err().to_string().contains("has no objects"));
    let error = target((4, 5), vec![]).fits((5, 4)).unwrap_err();
    assert_eq!(
        error,
        "the image has 5x4 pixels, but its annotation says 4x5: height and width are exchanged"
    );
}

/// One of the moves that images make: flips, crops with scaling that may reach outside, turns.
fn moved(target: &mut DetectionTarget, step: (u8, f64, f64, f64)) {
    let (kind, a, b, c) = step;
    let (height, width) = target.geometry.to;
    let (h, w) = (height as f64, width as f64);
    let geometry = match kind % 3 {
        0 => Geometry::flip((height, width)),
        1 => {
            let to = ((3. + 30. * a) as usize, (3. + 30. * b) as usize);
            Geometry::crop_resize(
                (height, width),
                (c - 0.5) * h,
                (a - 0.5) * w,
                (0.3 + b) * h,
                (0.3 + c) * w,
                to,
            )
        }
        _ => {
            let (sin, cos) = (a - 0.5).sin_cos();
            let forward =
                [cos, -sin, w / 2. * (1. - cos) + sin * h / 2., sin, cos, h / 2. * (1. - cos) - sin * w / 2.];
            Geometry { from: (height, width), to: (height, width), forward }
        }
    };
    target.apply(&geometry);
}

proptest! {
    #[test]
    fn boxes_stay_inside_and_masks_in_boxes(
        rings in proptest::collection::vec(proptest::collection::vec((0f64..20., 0f64..16.), 3..7), 1..3),
        bits in proptest::collection::vec(any::<bool>(), 16 * 20),
        steps in proptest::collection::vec((any::<u8>(), 0f64..1., 0f64..1., 0f64..1.), 0..4),
        bbox in [-3f32..20., -3f32..20., 0f32..25., 0f32..25.],
    ) {
        let flat = rings.iter().map(|ring| ring.iter().flat_map(|(x, y)| [*x, *y]).collect()).collect();
        let bitmap: Vec<u8> = bits.iter().map(|bit| u8::from(*bit)).collect();
        let mut target = target((16, 20), vec![
            object(Segmentation::Polygons(flat), [0., 0., 20., 16.]),
            object(Segmentation::Rle(Rle::encode(&bitmap, (16, 20))), [0., 0., 20., 16.]),
            object(Segmentation::None, [3., 4., 5., 6.]),
        ]);
        for step in steps {
            moved(&mut target, step);
        }
        let (height, width) = target.geometry.to;
        let whole = [0., 0., width as f32, height as f32];
        for (i, instance) in target.instances().iter().enumerate() {
            let [x1, y1, x2, y2] = instance.bbox;
            prop_assert!(x1 >= -1e-3 && y1 >= -1e-3 && x2 <= width as f32 + 1e-3 && y2 <= height as f32 + 1e-3);
            prop_assert!(x1 < x2 && y1 < y2, "{:?}", instance);
            let side = 32;
            let Some(mask) = target.mask_in(i, whole, side) else { continue };
            // A cell of margin for rounding, and half a pixel of the source for what is linear between pixels.
            let (cell_x, cell_y) = (width as f32 / side as f32, height as f32 / side as f32);
            let [a, b, _, d, e, _] = target.geometry.forward.map(|v| v.abs() as f32);
            let (mx, my) = (cell_x + a + b, cell_y + d + e);
            for k in (0..mask.len()).filter(|k| mask[*k] == 1.) {
                let (x, y) = ((k % side) as f32 * cell_x + cell_x / 2., (k / side) as f32 * cell_y + cell_y / 2.);
                prop_assert!(x > x1 - mx && x < x2 + mx && y > y1 - my && y < y2 + my, "{} {} {:?}", x, y, instance);
            }
            let [x, y, w, h] = bbox;
            prop_assert_eq!(target.mask_in(i, [x, y, x + w, y + h], 7).unwrap().len(), 49);
        }
    }
}
