//! Integration tests: the binary against registries that run in this process.
#![cfg(test)]

mod abilities;
mod auth;
mod cli;
mod content;
mod documents;
mod dry_run;
mod economy;
mod environment;
mod failures;
mod fanout;
mod files;
mod golden;
mod habits;
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
mod large;
mod layers;
mod moving;
mod outputs;
mod platforms;
mod progress;
mod records;
mod referrers;
#[expect(
    dead_code,
    reason = "the tests that need the rest of it come with the program"
)]
mod registry;
mod resume;
mod retries;
mod rules;
mod sweep;
mod sync;
mod traps;
mod trust;
