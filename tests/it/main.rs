//! Tests of the whole: the program, its files, and its public interface.

#![allow(clippy::unwrap_used)]

mod architecture;
mod bad_input;
mod commands;
mod contract;
mod datasets;
mod dense_dialects;
mod detection;
mod dialects;
mod dinov2;
mod foreign_backbone;
mod foreign_task;
mod fuzz;
mod guides;
mod hub;
mod program;
mod published;
mod resume;
mod segmentation;
mod timm_dialects;
