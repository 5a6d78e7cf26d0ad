//! The branches against the composition, in f64 and by finite differences.

use super::*;
use crate::ops::{backward, gradient_check};
use candle_core::Var;

/// In f32: the norm of two or three values that lie close magnifies a rounding.
const TOLERANCE: f64 = 1e-5;

fn mlp(t: &[Tensor], scale: Option<&[f32]>, precision: Precision) -> Result<Tensor> {
    let weights = MlpWeights { norm: (&t[1], &t[2]), fc1: (&t[3], &t[4]), fc2: (&t[5], &t[6]) };
    mlp_branch(&t[0], &weights, &Branch { eps: 1e-6, precision, scale })
}

fn attention(t: &[Tensor], heads: usize, scale: Option<&[f32]>, precision: Precision) -> Result<Tensor> {
    let weights = AttentionWeights { norm: (&t[1], &t[2]), qkv: (&t[3], &t[4]), proj: (&t[5], &t[6]) };
    attention_branch(&t[0], &weights, heads, &Branch { eps: 1e-6, precision, scale })
}

fn inputs(b: usize, n: usize, c: usize, hidden: usize, out: usize) -> Vec<Tensor> {
    let shapes: [&[usize]; 7] = [&[b, n, c], &[c], &[c], &[hidden, c], &[hidden], &[c, out], &[c]];
    (0..).zip(shapes).map(|(i, shape)| gradient_check::random(shape, i)).collect()
}

#[test]
fn values_and_gradients_of_the_mlp_branch() {
    for (b, n, c, h) in [(1, 1, 2, 3), (2, 5, 4, 9), (3, 3, 17, 16)] {
        let inputs = inputs(b, n, c, h, h);
        gradient_check::operator(&inputs, |t| mlp(t, None, Precision::F32), TOLERANCE);
        let scale: Vec<f32> = (0..b).map(|i| i as f32 * 1.5).collect();
        gradient_check::operator(&inputs, |t| mlp(t, Some(&scale), Precision::F32), TOLERANCE);
        gradient_check::bf16(&inputs, 4, |t, precision| mlp(t, Some(&scale), precision));
    }
}

#[test]
fn values_and_gradients_of_the_attention_branch() {
    for (b, n, c, heads) in [(1, 1, 2, 1), (2, 5, 4, 2), (3, 3, 15, 3)] {
        let inputs = inputs(b, n, c, 3 * c, c);
        gradient_check::operator(&inputs, |t| attention(t, heads, None, Precision::F32), TOLERANCE);
        let scale: Vec<f32> = (0..b).map(|i| i as f32 * 1.5).collect();
        gradient_check::operator(&inputs, |t| attention(t, heads, Some(&scale), Precision::F32), TOLERANCE);
        gradient_check::bf16(&inputs, 8, |t, precision| attention(t, heads, Some(&scale), precision));
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        gradient_check::threads(&inputs(3, 50, 64, 256, 256), |t| mlp(t, None, precision));
        gradient_check::threads(&inputs(3, 50, 64, 192, 64), |t| attention(t, 4, None, precision));
    }
}

/// The inputs, the variable ones among them as such.
fn partly(inputs: &[Tensor], variable: &[usize]) -> (Vec<Tensor>, Vec<(usize, Var)>) {
    let mut tensors: Vec<Tensor> = inputs.iter().map(gradient_check::single).collect();
    let vars: Vec<(usize, Var)> =
        variable.iter().map(|&i| (i, Var::from_tensor(&tensors[i]).unwrap())).collect();
    for (i, var) in &vars {
        tensors[*i] = var.as_tensor().clone();
    }
    (tensors, vars)
}

#[test]
fn constants_get_no_gradient_and_variables_get_theirs() {
    let all = inputs(2, 5, 4, 12, 4);
    let (tensors, vars) = partly(&all, &[0, 1, 2, 3, 4, 5, 6]);
    let loss =
        |t: &[Tensor]| attention(t, 2, None, Precision::F32).unwrap().sqr().unwrap().sum_all().unwrap();
    let expected = backward(&loss(&tensors)).unwrap();
    for some in [&[0][..], &[3], &[6, 1], &[2, 5]] {
        let (tensors, found_vars) = partly(&all, some);
        let found = backward(&loss(&tensors)).unwrap();
        for (i, var) in &found_vars {
            let (found, expected) = (found.get(var).unwrap(), expected.get(&vars[*i].1).unwrap());
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(found), values(expected), "input {i}");
        }
        for (i, tensor) in tensors.iter().enumerate().filter(|(i, _)| !some.contains(i)) {
            assert!(found.get(tensor).is_none(), "input {i} is a constant");
        }
    }
}

#[test]
fn no_grad_gives_the_same_values_and_no_graph() {
    let (tensors, _) = partly(&inputs(2, 5, 4, 12, 4), &[0, 1, 2, 3, 4, 5, 6]);
    let with = attention(&tensors, 2, None, Precision::F32).unwrap();
    let without = crate::ops::no_grad(|| attention(&tensors, 2, None, Precision::F32)).unwrap();
    assert!(with.track_op() && !without.track_op());
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&with), values(&without));
}

#[test]
fn misuse_is_refused() {
    let (tensors, _) = partly(&inputs(2, 5, 4, 12, 4), &[0, 3]);
    let loss = attention(&tensors, 2, None, Precision::F32).unwrap().sum_all().unwrap();
    let error = loss.backward().unwrap_err().to_string();
    assert!(error.contains("ops::backward"), "{error}");
    let error = backward(&loss).unwrap_err().to_string();
    assert!(error.contains("second backward"), "{error}");
    let error = attention(&tensors, 3, None, Precision::F32).unwrap_err().to_string();
    assert!(error.contains("3 heads"), "{error}");
    let error = attention(&tensors, 2, Some(&[1.]), Precision::F32).unwrap_err().to_string();
    assert!(error.contains("1 scales for x [2, 5, 4]"), "{error}");
    let mut wrong = tensors.clone();
    wrong[5] = wrong[3].clone();
    let error = attention(&wrong, 2, None, Precision::F32).unwrap_err().to_string();
    assert!(error.contains("[12, 4]") && error.contains("[4, 4]"), "{error}");
}

/// Tables of relative positions, windows that fit and windows that are padded, and a class token.
#[test]
fn values_and_gradients_of_attention_within_reach() {
    let (c, heads) = (6, 2);
    for (grid, window, class, table) in [
        ((2, 3), None, false, true),
        ((2, 2), None, true, true),
        ((4, 2), Some(2), false, false),
        ((3, 4), Some(2), false, true),
        ((2, 3), Some(4), false, true),
    ] {
        let n = grid.0 * grid.1 + usize::from(class);
        let size = window.map_or(grid, |side| (side, side));
        let mut inputs = inputs(2, n, c, 3 * c, c);
        if table {
            inputs.push(gradient_check::random(&[crate::ops::relative_offsets(size, class), heads], 9));
        }
        let run = |t: &[Tensor], scale: Option<&[f32]>, precision| {
            let weights =
                AttentionWeights { norm: (&t[1], &t[2]), qkv: (&t[3], &t[4]), proj: (&t[5], &t[6]) };
            let window = crate::ops::AttentionWindow { grid, side: window, table: t.get(7), rotary: None };
            windowed_attention_branch(
                &t[0],
                &weights,
                heads,
                &window,
                &Branch { eps: 1e-6, precision, scale },
            )
        };
        gradient_check::operator(&inputs, |t| run(t, None, Precision::F32), TOLERANCE);
        gradient_check::composition(&inputs, |t| run(t, Some(&[0.5, 2.]), Precision::F32), TOLERANCE);
        gradient_check::bf16(&inputs, 8, |t, precision| run(t, None, precision));
        gradient_check::threads(&inputs, |t| run(t, None, Precision::F32));
    }
}

#[test]
fn tokens_and_tables_that_do_not_fit_their_window_are_refused() {
    let t: Vec<Tensor> = inputs(1, 5, 4, 12, 4).iter().map(gradient_check::single).collect();
    let weights = AttentionWeights { norm: (&t[1], &t[2]), qkv: (&t[3], &t[4]), proj: (&t[5], &t[6]) };
    let table = gradient_check::single(&gradient_check::random(&[9, 2], 0));
    let branch = Branch { eps: 1e-6, precision: Precision::F32, scale: None };
    let error = |grid, window, table| {
        let window = crate::ops::AttentionWindow { grid, side: window, table, rotary: None };
        windowed_attention_branch(&t[0], &weights, 2, &window, &branch).unwrap_err().to_string()
    };
    assert!(error((2, 3), None, None).contains("5 tokens for a 2×3 grid"));
    assert!(error((2, 2), Some(2), None).contains("class token"));
    assert!(error((1, 5), Some(0), None).contains("size 0"));
    assert!(error((2, 2), None, Some(&table)).contains("[9, 2], expected [12, 2]"));
}

/// Rotations of all tokens, of windows that fit, and of windows that are padded.
#[test]
fn values_and_gradients_of_attention_with_rotations() {
    let (c, heads) = (8, 2);
    for (grid, side, windows, tokens) in
        [((1, 5), None, 1, 5), ((4, 2), Some(2), 2, 4), ((2, 3), Some(2), 2, 4)]
    {
        let angles: Vec<f64> = (0..windows * tokens * 2).map(|i| (i as f64 * 0.7).sin() * 3.).collect();
        let rotary = crate::ops::Rotary::new(&angles, 2, tokens, &candle_core::Device::Cpu).unwrap();
        let inputs = inputs(2, grid.0 * grid.1, c, 3 * c, c);
        let run = |t: &[Tensor], scale: Option<&[f32]>, precision| {
            let weights =
                AttentionWeights { norm: (&t[1], &t[2]), qkv: (&t[3], &t[4]), proj: (&t[5], &t[6]) };
            let window = crate::ops::AttentionWindow { grid, side, table: None, rotary: Some(&rotary) };
            let branch = Branch { eps: 1e-6, precision, scale };
            windowed_attention_branch(&t[0], &weights, heads, &window, &branch)
        };
        gradient_check::operator(&inputs, |t| run(t, None, Precision::F32), TOLERANCE);
        gradient_check::composition(&inputs, |t| run(t, Some(&[0.5, 2.]), Precision::F32), TOLERANCE);
        gradient_check::bf16(&inputs, 8, |t, precision| run(t, None, precision));
        for precision in [Precision::F32, Precision::Bf16] {
            gradient_check::threads(&inputs, |t| run(t, None, precision));
        }
        let wrong = crate::ops::Rotary::new(&angles, 1, 2 * tokens, &candle_core::Device::Cpu).unwrap();
        let t: Vec<Tensor> = inputs.iter().map(gradient_check::single).collect();
        let weights = AttentionWeights { norm: (&t[1], &t[2]), qkv: (&t[3], &t[4]), proj: (&t[5], &t[6]) };
        let window = crate::ops::AttentionWindow { grid, side, table: None, rotary: Some(&wrong) };
        let branch = Branch { eps: 1e-6, precision: Precision::F32, scale: None };
        let error = windowed_attention_branch(&t[0], &weights, heads, &window, &branch).unwrap_err();
        assert!(error.to_string().contains("rotary"), "{error}");
    }
}
