//! Integration tests: the binary against registries that run in this process.
#![cfg(test)]

mod economy;
mod fanout;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod harness;
mod healing;
mod hostile;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod image;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod invariants;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod registry;
mod resume;
mod retries;
mod sweep;
mod traps;
