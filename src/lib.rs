//! image-syncer copies container images from registries to registries by a file of rules.
//!
//! There is no promise of stability for this library: it is the program, cut so that its tests can reach it.

#[expect(dead_code, reason = "nothing is logged or printed yet")]
mod logging;
pub mod oci;
#[expect(dead_code, unused_imports, reason = "the adapter is not wired in yet")]
mod registry;
pub mod secret;
#[expect(dead_code, reason = "there is no run to interrupt yet")]
mod signal;
pub mod store;

/// Runs the program with its command line and gives its exit status.
pub fn run(_arguments: std::env::ArgsOs) -> u8 {
    2
}
