//! image-syncer copies container images from registries to registries by a file of rules.
//!
//! There is no promise of stability for this library: it is the program, cut so that its tests can reach it.

pub mod cli;
pub mod config;
mod nearest;
pub mod oci;
pub mod secret;
pub mod store;

/// Runs the program with its command line and gives its exit status.
pub fn run(_arguments: std::env::ArgsOs) -> u8 {
    2
}
