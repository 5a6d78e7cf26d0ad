use super::*;
use crate::data::{ImageRef, Rle, SampleId};

fn object(segmentation: Segmentation, bbox: [f64; 4]) -> Object {
    Object { label: 1, bbox, segmentation, crowd: false, area: bbox[2] * bbox[3] }
}

fn entry(size: Size, objects: Vec<Object>) -> Entry {
    let objects = Objects { image_id: 7, size, objects, absent: vec![], not_exhaustive: vec![] };
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
    assert!(error.unwrap_err().to_string().contains("label 1 of `a.jpg` is outside the 1 classes"));
    let label = Entry { annotation: Annotation::Label(0), ..entry((4, 4), vec![]) };
    assert!(DetectionTarget::new(&label, 1).unwrap_err().to_string().contains("has no objects"));
    let error = target((4, 5), vec![]).fits((5, 4)).unwrap_err();
    assert_eq!(error, "the image has 5x4 pixels, its annotation says 4x5");
}
