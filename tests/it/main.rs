//! Tests of the whole: the program, its files, and its public interface.

#![allow(clippy::unwrap_used)]

mod annotations;
mod architecture;
mod bad_input;
mod build_script;
mod commands;
mod contract;
mod datasets;
mod dense_key_mappings;
mod detection;
mod dinov2;
mod dinov3;
mod external_augmentation;
mod external_backbone;
mod external_objective;
mod external_task;
mod first_hour;
mod fuzz;
mod guides;
mod hub;
mod key_mappings;
mod own_data;
mod paths;
mod program;
mod protocols;
mod provenance;
mod published;
mod records;
mod resume;
mod segmentation;
mod select;
mod statistics;
mod suite;
mod timm_key_mappings;
mod weight_files;
mod weight_formats;
