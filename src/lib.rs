//! image-syncer copies container images from registries to registries by a file of rules.
//!
//! There is no promise of stability for this library: it is the program, cut so that its tests can reach it.

#[cfg_attr(not(test), expect(dead_code, reason = "nothing opens a layout yet"))]
mod layout;
pub mod oci;
pub mod secret;
pub mod store;

/// Runs the program with its command line and gives its exit status.
pub fn run(_arguments: std::env::ArgsOs) -> u8 {
    2
}
