//! Integration tests: the binary against registries that run in this process.
#![cfg(test)]

mod cli;
mod economy;
mod fanout;
mod golden;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod harness;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod image;
mod interrupt;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod invariants;
mod layers;
mod records;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod registry;
mod resume;
