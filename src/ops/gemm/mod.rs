//! Matrix products in f32 or bf16, from operands that are packed directly from their source: transposes, slices of
//! heads and columns of convolutions need no copies. Sums are f32, in an order that depends on the shapes and the
//! processor but not on the number of threads.

mod destination;
mod elements;
mod kernel;
mod matrix;
mod operand;
mod pack;
mod panels;
mod rate;
mod units;
mod words;

pub(super) use destination::{MatrixMut, Shared};
pub use elements::Precision;
pub(super) use elements::{Element, Pairs, rounded, unpaired};
pub(super) use kernel::{Store, paired};
pub(super) use matrix::Matrix;
pub(super) use operand::Operand;
pub(super) use panels::{Panels, Scratch, Side, product_of};
pub use rate::ProductKernel;
