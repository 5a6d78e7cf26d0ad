//! Tests of the whole: the program, its files, and its public interface.

#![allow(clippy::unwrap_used)]

mod architecture;
mod bad_input;
mod commands;
mod contract;
mod datasets;
mod detection;
mod dialects;
mod dinov2;
mod foreign_backbone;
mod foreign_task;
mod hub;
mod program;
mod resume;
mod segmentation;
