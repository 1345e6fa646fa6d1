//! Integration tests: the binary against registries that run in this process.
#![cfg(test)]

mod abilities;
mod auth;
mod certificates;
mod cli;
mod content;
mod credentials;
mod documents;
mod economy;
mod environment;
mod failures;
mod fanout;
mod golden;
mod habits;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod harness;
mod healing;
mod hostile;
mod hosts;
mod image;
mod interrupt;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod invariants;
mod layers;
mod moving;
mod proxies;
mod records;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod registry;
mod resume;
mod retries;
mod sweep;
mod sync;
mod traps;
mod trust;
