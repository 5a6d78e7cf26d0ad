//! Convolutions against finite differences and PyTorch.

use super::*;
use crate::ops::gradient_check;
use candle_core::{Device, Var};
use rstest::rstest;

/// Sums of a few hundred products in f32.
const TOLERANCE: f64 = 5e-6;

/// Batch, channels in and out, size, kernel, stride, padding.
type Case = (usize, [usize; 2], [usize; 2], [usize; 2], usize, usize);

fn inputs((batch, [channels, out], size, kernel, ..): Case) -> [Tensor; 3] {
    [
        gradient_check::random(&[batch, channels, size[0], size[1]], 0),
        gradient_check::random(&[out, channels, kernel[0], kernel[1]], 1),
        gradient_check::random(&[out], 2),
    ]
}

#[rstest]
#[case::pointwise((2, [3, 5], [4, 5], [1, 1], 1, 0))]
#[case::three((2, [3, 2], [5, 4], [3, 3], 1, 1))]
#[case::unpadded((1, [2, 3], [5, 6], [3, 3], 1, 0))]
#[case::strided((2, [2, 3], [7, 6], [3, 3], 2, 1))]
#[case::stride_beyond_kernel((1, [2, 3], [7, 8], [1, 1], 3, 0))]
#[case::stem((1, [3, 2], [11, 9], [7, 7], 2, 3))]
#[case::uneven_kernel((1, [2, 2], [6, 7], [2, 5], 3, 2))]
#[case::padding_beyond_kernel((1, [1, 2], [3, 2], [2, 2], 1, 3))]
#[case::one_pixel((3, [4, 3], [1, 1], [3, 3], 1, 1))]
#[case::patches((2, [3, 4], [8, 8], [4, 4], 4, 0))]
fn values_and_gradients(#[case] case: Case) {
    let (.., stride, padding) = case;
    let conv = |t: &[Tensor]| conv2d(&t[0], &t[1], t.get(2), stride, padding, Precision::F32);
    gradient_check::operator(&inputs(case), conv, TOLERANCE);
    gradient_check::composition(&inputs(case)[..2], conv, TOLERANCE);
}

#[rstest]
#[case::lanes_across_images((5, [9, 11], [14, 14], [3, 3], 1, 1))]
#[case::bands_of_images((70, [2, 17], [6, 7], [3, 3], 1, 1))]
#[case::bands_of_rows((2, [3, 8], [67, 61], [7, 7], 2, 3))]
#[case::blocks_of_channels((2, [37, 50], [17, 19], [3, 3], 1, 1))]
#[case::wide_rows((1, [2, 3], [3, 2500], [3, 3], 1, 1))]
fn larger_images(#[case] case: Case) {
    let (.., stride, padding) = case;
    gradient_check::composition(
        &inputs(case),
        |t| conv2d(&t[0], &t[1], Some(&t[2]), stride, padding, Precision::F32),
        TOLERANCE,
    );
}

/// Those that are transformed to points: the tiles reach beyond the image, several chunks of tiles, blocks of channels.
#[rstest]
#[case::whole_tiles((2, [24, 33], [16, 12], [3, 3], 1, 1))]
#[case::unpadded((1, [25, 24], [9, 67], [3, 3], 1, 0))]
#[case::padding_of_the_kernel((1, [24, 25], [7, 8], [3, 3], 1, 2))]
#[case::regions((90, [24, 24], [7, 7], [3, 3], 1, 1))]
#[case::chunks_of_rows((1, [24, 26], [90, 81], [3, 3], 1, 1))]
#[case::wide_rows((1, [24, 24], [4, 1301], [3, 3], 1, 1))]
#[case::blocks_of_channels((1, [400, 24], [8, 11], [3, 3], 1, 1))]
#[case::blocks_of_gradients((1, [24, 400], [11, 8], [3, 3], 1, 1))]
#[case::blocks_and_chunks((1, [385, 25], [82, 65], [3, 3], 1, 1))]
fn points_of_tiles(#[case] case: Case) {
    let (.., stride, padding) = case;
    let inputs = inputs(case);
    let geometry = Geometry::new(inputs[0].shape(), inputs[1].shape(), stride, padding).unwrap();
    assert!(winograd::possible(&geometry));
    let values = |t: &Tensor| gradient_check::single(t).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let [x, weight, bias] = inputs.each_ref().map(values);
    let Plane { channels, height, width } = geometry.output;
    let grad = values(&gradient_check::random(&[geometry.batch, channels, height, width], 3));
    for precision in [Precision::F32, Precision::Bf16] {
        let layer = Layer { geometry: &geometry, precision, weight: &weight, bias: None };
        let biased = Layer { bias: Some(&bias), ..layer };
        let sums = [
            correlate::forward(&biased, &x),
            correlate::backward(&layer, &grad),
            weight::gradient(&geometry, precision, &x, &grad),
        ];
        let points = [
            winograd::forward(&biased, &x),
            winograd::backward(&layer, &grad),
            winograd::gradient(&geometry, precision, &x, &grad),
        ];
        for (sums, points) in sums.iter().zip(&points) {
            assert_eq!(sums.len(), points.len());
            let largest = sums.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            for (a, b) in sums.iter().zip(points) {
                assert!((a - b).abs() < 5e-6 * largest, "{a} and {b}, of {largest}");
            }
        }
    }
}

/// [`conv2d`] takes the faster way, and its gradients are right then.
#[test]
fn many_channels() {
    let case = (4, [128, 130], [32, 30], [3, 3], 1, 1);
    let inputs = inputs(case);
    let geometry = Geometry::new(inputs[0].shape(), inputs[1].shape(), 1, 1).unwrap();
    assert!(winograd::pays(&geometry, Precision::F32));
    let conv = |t: &[Tensor]| conv2d(&t[0], &t[1], Some(&t[2]), 1, 1, Precision::F32);
    gradient_check::composition(&inputs, conv, TOLERANCE);
}

/// Few channels, few tiles, tiles that are mostly beyond the image, and other kernels are not transformed.
#[test]
fn the_faster_way_is_chosen_by_shape() {
    let pays = |x: [usize; 4], out: usize, side: usize, precision| {
        let shape = Shape::from(x.to_vec());
        let geometry = Geometry::new(&shape, &Shape::from(vec![out, x[1], side, side]), 1, 1).unwrap();
        winograd::pays(&geometry, precision)
    };
    assert!(pays([1, 256, 64, 64], 256, 3, Precision::F32));
    assert!(pays([8, 64, 56, 56], 64, 3, Precision::F32));
    assert!(pays([64, 256, 14, 14], 256, 3, Precision::F32));
    assert!(!pays([8, 24, 48, 48], 24, 3, Precision::F32));
    assert!(!pays([1, 256, 8, 8], 256, 3, Precision::F32));
    assert!(!pays([64, 128, 5, 5], 128, 3, Precision::F32));
    assert!(!pays([1, 256, 64, 64], 256, 5, Precision::F32));
    let pairs = crate::ops::gemm::paired(Precision::Bf16);
    assert!(pays([1, 256, 64, 64], 256, 3, Precision::Bf16));
    assert!(pays([1, 3072, 64, 64], 768, 3, Precision::Bf16));
    assert_eq!(pays([64, 256, 14, 14], 256, 3, Precision::Bf16), !pairs);
    assert_eq!(pays([8, 64, 56, 56], 64, 3, Precision::Bf16), !pairs);
}

/// Also where another number of tiles in the whole batch would pay.
#[test]
fn an_image_has_the_same_bits_in_every_batch() {
    let [x, weight, bias] = inputs((5, [96, 70], [14, 15], [3, 3], 1, 1)).map(|t| gradient_check::single(&t));
    for precision in [Precision::F32, Precision::Bf16] {
        let conv = |x: &Tensor| {
            let y = conv2d(x, &weight, Some(&bias), 1, 1, precision).unwrap();
            y.get(0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert!(conv(&x) == conv(&x.narrow(0, 0, 1).unwrap()));
    }
}

#[test]
fn a_transposed_convolution_of_points() {
    let inputs = [
        gradient_check::random(&[4, 97, 30, 31], 0),
        gradient_check::random(&[97, 96, 3, 3], 1),
        gradient_check::random(&[96], 2),
    ];
    let conv = |t: &[Tensor]| conv_transpose2d(&t[0], &t[1], t.get(2), 1, Precision::F32);
    gradient_check::composition(&inputs, conv, TOLERANCE);
}

#[rstest]
#[case::doubled((2, [3, 4], [3, 5], [2, 2], 2, 0))]
#[case::quadrupled((1, [3, 2], [2, 3], [4, 4], 4, 0))]
#[case::overlapping((1, [2, 3], [4, 3], [3, 3], 2, 0))]
#[case::gaps((1, [2, 3], [3, 4], [2, 1], 3, 0))]
#[case::same_size((2, [2, 3], [3, 4], [3, 2], 1, 0))]
#[case::one_pixel((2, [3, 2], [1, 1], [2, 2], 2, 0))]
fn transposed_values_and_gradients(#[case] case: Case) {
    let (_, [channels, out], _, kernel, stride, _) = case;
    let [x, _, bias] = inputs(case);
    let inputs = [x, gradient_check::random(&[channels, out, kernel[0], kernel[1]], 1), bias];
    let conv = |t: &[Tensor]| conv_transpose2d(&t[0], &t[1], t.get(2), stride, Precision::F32);
    gradient_check::operator(&inputs, conv, TOLERANCE);
    gradient_check::composition(&inputs[..2], conv, TOLERANCE);
}

#[test]
fn strided_inputs() {
    let inputs = [
        gradient_check::random(&[5, 6, 3, 2], 0),
        gradient_check::random(&[3, 3, 3, 4], 1),
        gradient_check::random(&[2, 4], 2),
    ];
    let permuted = |t: &[Tensor]| {
        let (x, bias) = (t[0].permute((3, 2, 0, 1))?, t[2].narrow(0, 1, 1)?.squeeze(0)?);
        conv2d(&x, &t[1].permute((3, 2, 0, 1))?, Some(&bias), 1, 1, Precision::F32)
    };
    gradient_check::operator(&inputs, permuted, TOLERANCE);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        for case in [
            (3, [20, 33], [41, 37], [3, 3], 1, 1),
            (9, [20, 33], [14, 14], [3, 3], 1, 1),
            (4, [96, 97], [32, 30], [3, 3], 1, 1),
            (2, [3, 16], [101, 90], [7, 7], 2, 3),
        ] {
            let (.., stride, padding) = case;
            gradient_check::threads(&inputs(case), |t| {
                conv2d(&t[0], &t[1], Some(&t[2]), stride, padding, precision)
            });
        }
        let inputs = [
            gradient_check::random(&[2, 20, 41, 37], 0),
            gradient_check::random(&[20, 9, 2, 2], 1),
            gradient_check::random(&[9], 2),
        ];
        gradient_check::threads(&inputs, |t| conv_transpose2d(&t[0], &t[1], Some(&t[2]), 2, precision));
    }
}

/// A product of rounded operands is that of f32 operands which bf16 holds exactly.
#[test]
fn bf16_rounds_the_operands_and_sums_in_f32() {
    let rounded = |t: &Tensor| t.to_dtype(candle_core::DType::BF16).unwrap().to_dtype(t.dtype()).unwrap();
    for case in [(2, [19, 21], [13, 15], [3, 3], 1, 1), (1, [3, 9], [31, 30], [7, 7], 2, 3)] {
        let (.., stride, padding) = case;
        let inputs = inputs(case);
        let [x, weight, _] =
            inputs.each_ref().map(|t| Var::from_tensor(&rounded(&gradient_check::single(t))).unwrap());
        let gradients = |precision| {
            let y = conv2d(&x, &weight, None, stride, padding, precision).unwrap();
            let probe = rounded(&gradient_check::single(&gradient_check::random(y.dims(), 3)));
            let store = (&y * probe).unwrap().sum_all().unwrap().backward().unwrap();
            [y, store.get(&x).unwrap().clone(), store.get(&weight).unwrap().clone()]
        };
        for (narrow, wide) in gradients(Precision::Bf16).iter().zip(gradients(Precision::F32)) {
            let error = gradient_check::relative_error(narrow, &wide);
            assert!(error < 5e-6, "{error:e}");
        }
    }
}

#[rstest]
#[case::no_images(0, 3, 2)]
#[case::no_channels(2, 0, 2)]
#[case::no_kernels(2, 3, 0)]
fn empty_sides(#[case] batch: usize, #[case] channels: usize, #[case] out: usize) {
    let var = |shape: &[usize]| {
        Var::from_tensor(&Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap())
    };
    let (x, bias) = (var(&[batch, channels, 4, 5]).unwrap(), var(&[out]).unwrap());
    let (weight, transposed) = (var(&[out, channels, 3, 3]).unwrap(), var(&[channels, out, 2, 2]).unwrap());
    let y = conv2d(&x, &weight, Some(&bias), 1, 1, Precision::F32).unwrap();
    assert_eq!(y.dims(), [batch, out, 4, 5]);
    let z = conv_transpose2d(&x, &transposed, Some(&bias), 2, Precision::F32).unwrap();
    assert_eq!(z.dims(), [batch, out, 8, 10]);
    let store = (y.sum_all().unwrap() + z.sum_all().unwrap()).unwrap().backward().unwrap();
    for variable in [&x, &weight, &transposed, &bias] {
        assert_eq!(store.get(variable).unwrap().dims(), variable.dims());
    }
    let total = store.get(&bias).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert_eq!(total, (batch * out * (20 + 80)) as f32);
}

#[test]
fn constants_get_no_gradient() {
    let [x, weight, bias] = inputs((1, [2, 3], [4, 4], [3, 3], 1, 1)).map(|t| gradient_check::single(&t));
    let weight = Var::from_tensor(&weight).unwrap();
    let y = conv2d(&x, &weight, Some(&bias), 1, 1, Precision::F32).unwrap();
    let store = y.sum_all().unwrap().backward().unwrap();
    assert!(store.get(&x).is_none() && store.get(&bias).is_none() && store.get(&weight).is_some());
}

/// A value that is not finite reaches the sums it belongs to and no others where they are sums over taps.
#[test]
fn infinities_stay_where_they_belong() {
    let mut image = vec![0f32; 2 * 60];
    (image[0], image[59]) = (f32::NAN, f32::INFINITY);
    let x = Tensor::from_vec(image, (2, 1, 6, 10), &Device::Cpu).unwrap();
    let weight = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let y = conv2d(&x, &weight, None, 1, 1, Precision::F32).unwrap().flatten_all().unwrap();
    let found: Vec<usize> = (0..120).filter(|&i| !y.to_vec1::<f32>().unwrap()[i].is_finite()).collect();
    assert_eq!(found, [0, 1, 10, 11, 48, 49, 58, 59]);
}

#[test]
fn wrong_shapes_are_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let (x, weight) = (zeros(&[1, 4, 5, 5]), zeros(&[2, 4, 3, 3]));
    let conv = |weight: &Tensor, bias: Option<&Tensor>, stride, padding| {
        conv2d(&x, weight, bias, stride, padding, Precision::F32).unwrap_err().to_string()
    };
    for message in [
        conv(&zeros(&[2, 2, 3, 3]), None, 1, 1),
        conv(&weight, None, 0, 1),
        conv(&zeros(&[2, 4, 7, 3]), None, 1, 0),
        conv(&zeros(&[2, 4, 0, 3]), None, 1, 0),
        conv(&weight, None, 1, usize::MAX / 2 + 1),
    ] {
        assert!(message.contains("conv2d: x [1, 4, 5, 5], weight [2, "), "{message}");
    }
    assert!(conv(&weight, None, 1, usize::MAX / 8).contains("exceeds the memory"));
    assert!(conv(&weight, Some(&zeros(&[3])), 1, 1).contains("weight [2, 4, 3, 3], bias [3]"));
    assert!(conv(&zeros(&[2, 4, 3]), None, 1, 1).contains("rank"));
    let transposed = |weight: &Tensor, stride| {
        conv_transpose2d(&x, weight, None, stride, Precision::F32).unwrap_err().to_string()
    };
    assert!(transposed(&weight, 2).contains("conv_transpose2d: x [1, 4, 5, 5], weight [2, 4, 3, 3]"));
    assert!(transposed(&zeros(&[4, 2, 2, 2]), 0).contains("stride 0"));
    assert!(transposed(&zeros(&[4, 2, 2, 2]), usize::MAX / 4).contains("exceeds the memory"));
}

/// Against `scripts/golden/conv.py`. The sums have up to 1000 terms of unit variance, in f32 here and in f64 there; in
/// bf16 every operand is off by at most 2⁻⁸ of its value, and the errors of the terms cancel.
#[rstest]
#[case(Precision::F32, 2e-6)]
#[case(Precision::Bf16, 6e-3)]
fn pytorch_agrees(#[case] precision: Precision, #[case] tolerance: f64) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/conv.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let cases: Vec<&str> = golden.keys().filter_map(|key| key.strip_suffix(".options")).collect();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let expected = |name: &str| &golden[&format!("{case}.{name}")];
        let [stride, padding] = expected("options").to_vec1::<u32>().unwrap()[..] else { panic!("{case}") };
        let [x, weight, bias] = ["x", "weight", "bias"].map(|name| Var::from_tensor(expected(name)).unwrap());
        let (stride, padding) = (stride as usize, padding as usize);
        let y = match case.starts_with("transposed") {
            true => conv_transpose2d(&x, &weight, Some(&bias), stride, precision).unwrap(),
            false => conv2d(&x, &weight, Some(&bias), stride, padding, precision).unwrap(),
        };
        let store = (&y * expected("probe")).unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = |variable: &Var| store.get(variable).unwrap().clone();
        for (name, found) in
            [("y", y), ("dx", gradient(&x)), ("dweight", gradient(&weight)), ("dbias", gradient(&bias))]
        {
            let error = gradient_check::relative_error(&found, expected(name));
            assert!(error < tolerance, "{case}: {name} is off by {error:e}");
        }
    }
}
