//! The resolved configuration of one run.
/// Placeholder.
#[derive(Clone, Debug)]
pub struct RunConfig;
/// Placeholder.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    Pretrain,
    Transfer,
}
