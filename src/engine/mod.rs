//! The run: from rules to a report. `plan.rs` and `form.rs` make images of the rules, `graph.rs` and `image.rs` know what
//! must happen before what, `schedule.rs` when it may; `run.rs` puts them together, `coordinator.rs` drives it, and
//! `worker.rs` does the work. Not here: HTTP, paths and printing; the engine knows only the ports of `store.rs`.

mod admission;
mod arena;
mod beside;
mod blobs;
mod children;
mod coordinator;
mod dates;
mod dry;
mod filter;
mod form;
mod gauge;
mod graph;
mod holders;
mod image;
mod job;
mod marks;
mod namespaces;
mod origin;
mod parts;
mod places;
mod plan;
mod referrers;
mod run;
#[cfg(test)]
mod scale;
mod schedule;
#[cfg(test)]
mod simulation;
mod stream;
mod task;
mod wanted;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::SystemTime;

use crossbeam_channel::Receiver;

pub use gauge::{Counts, Gauge, Moving, Snapshot};
pub use marks::MarkAfter;
pub use schedule::Policy;
pub use stream::Patience;

use crate::config::{Rule, Selection};
use crate::records::{Hints, Journal};
use crate::report::Report;
use crate::store::Stores;
use beside::OwnTags;
use coordinator::coordinate;
use dates::Dates;
use dry::count;
use graph::Graph;
use image::{Outcome, TargetState};
use plan::Plan;
use run::Run;
use worker::Worker;

/// What a run needs beside its rules.
pub struct Options<'a> {
    /// Workers, waits and jitter.
    pub policy: Policy,
    /// Passes after the first over what failed.
    pub retries: u32,
    /// Everything is read and nothing written: the report tells what a run would do.
    pub is_dry: bool,
    /// What the records said at the start.
    pub hints: &'a Hints,
    /// Where records are written.
    pub journal: &'a Journal,
    /// When the run began, for rules that choose by age.
    pub now: SystemTime,
    /// Where the run tells how far it is.
    pub gauge: &'a Gauge,
    /// Whether the report is to name all images.
    pub names_images: bool,
    /// Closed when the run is to end early.
    pub cancel: Receiver<()>,
}

/// Copies what the rules ask for. Returns when every image has come to an end, or the run was cancelled or could not
/// go on; the report tells which.
pub fn run(rules: &[Rule], stores: &dyn Stores, options: &Options<'_>) -> Report {
    let (job_sender, jobs) = crossbeam_channel::bounded(options.policy.workers);
    let worker = Worker {
        patience: options.policy.patience,
        mark_after: options.policy.mark_after,
        stores,
        hints: options.hints,
        journal: options.journal,
        gauge: options.gauge,
        is_dry: options.is_dry,
        own: OwnTags::default(),
    };
    thread::scope(|scope| {
        let mut started = 0;
        let mut add_worker = || {
            let (worker, jobs) = (&worker, jobs.clone());
            let name = format!("worker-{started:02}");
            let thread = thread::Builder::new().name(name);
            let spawned = thread.spawn_scoped(scope, move || worker.run(&jobs));
            if let Err(error) = &spawned {
                log::warn!("only {started} workers could be started: {error}");
            }
            started += usize::from(spawned.is_ok());
            spawned.is_ok()
        };
        let workers = (0..options.policy.workers).take_while(|_| add_worker());
        let workers = workers.count();
        if workers == 0 {
            return Report {
                fatal: Some("no worker thread could be started".to_owned()),
                ..Report::default()
            };
        }
        let run = AssertUnwindSafe(|| {
            let policy = Policy {
                workers,
                ..options.policy
            };
            let (answer_sender, answers) = crossbeam_channel::unbounded();
            let mut graph = Graph::new(options.hints, Dates::new(options.now));
            graph.is_dry = options.is_dry;
            let plan = Plan::new(rules, &mut graph, stores);
            let mut run = Run::new(graph, plan, policy, options, stores, answer_sender);
            coordinate(&mut run, &job_sender, &answers, &options.cancel, add_worker);
            // The workers stop when the queue is closed.
            drop(job_sender);
            let fatal = run.fatal();
            let mut report = report(&mut run.graph, &run.plan, fatal);
            // What was read and sent is counted before the target is answered for: lost and repeated bytes, too.
            if !options.is_dry {
                report.totals.pulled = options.gauge.pulled.load(Ordering::Relaxed);
                report.totals.pushed = options.gauge.moved.load(Ordering::Relaxed);
            }
            if options.names_images {
                name_images(&mut report, &run.graph, &run.plan);
            }
            report
        });
        catch_unwind(run).unwrap_or_else(|_| Report {
            fatal: Some("the coordinator panicked: this is a bug, please report it".to_owned()),
            ..Report::default()
        })
    })
}

fn report(graph: &mut Graph<'_>, plan: &Plan, fatal: Option<String>) -> Report {
    let mut previews = std::mem::take(&mut graph.previews);
    let mut report = Report {
        totals: graph.totals.clone(),
        fatal,
        ..Report::default()
    };
    for (number, rule, failure) in plan.failures() {
        report.failed_generations += 1;
        let cause = failure.map_or_else(
            || "cancelled before it was begun".to_owned(),
            ToString::to_string,
        );
        report.failures.push(format!("{}: {cause}", rule.position));
        if let Some(preview) = previews.get_mut(number) {
            preview.failure = Some(cause);
        }
    }
    for image in graph.images.ids() {
        let mut source_failure = None;
        for (index, target) in graph.images[image].targets.iter().enumerate() {
            if let Some(preview) = previews.get_mut(target.rule) {
                count(preview, target);
            }
            let pair = || {
                format!(
                    "{} -> {}",
                    graph.image_source(image),
                    graph.image_target(image, index)
                )
            };
            match &target.state {
                TargetState::Done(Outcome::Copied) => report.copied += 1,
                TargetState::Done(Outcome::Unchanged | Outcome::Kept) => report.unchanged += 1,
                TargetState::Done(Outcome::Skipped) => report.skipped += 1,
                TargetState::Failed {
                    failure,
                    at_source: true,
                } => source_failure = Some(failure),
                TargetState::Failed {
                    failure,
                    at_source: false,
                } => {
                    report.failed_tasks += 1;
                    report.failures.push(format!("{}: {failure}", pair()));
                }
                _ => {
                    report.failed_tasks += 1;
                    report.failures.push(format!("{}: cancelled", pair()));
                }
            }
        }
        if let Some(failure) = source_failure {
            report.failed_generations += 1;
            report
                .failures
                .push(format!("{}: {failure}", graph.image_source(image)));
        }
    }
    // A rule for a namespace is told by those that it stands for.
    let told = previews.into_iter().zip(&plan.rules);
    let told = told.filter(|(preview, rule)| rule.levels.is_none() || preview.failure.is_some());
    report.previews = told.map(|(preview, _)| preview).collect();
    report
}

/// Names what is in sync, and what a second run may bring about: not what rules ask for that contradict each other.
fn name_images(report: &mut Report, graph: &Graph<'_>, plan: &Plan) {
    for (_, rule, _) in plan.failures() {
        for target in &rule.targets {
            let target = target.to_string();
            report.failed.add(&rule.text, &rule.members(false), &target);
        }
    }
    for image in graph.images.ids() {
        let row = &graph.images[image];
        for (index, target) in row.targets.iter().enumerate() {
            let name = graph.image_target(image, index);
            match &target.state {
                TargetState::Done(Outcome::Skipped) => {}
                TargetState::Done(_) if row.subject.is_some() => {}
                TargetState::Done(_) => {
                    report.succeeded.add(&graph.image_source(image), "", &name);
                }
                _ => {
                    if let Some(subject) = &row.subject {
                        // A rule has it copied and listed by naming what it is about.
                        let about = graph.images[subject.image].targets.iter().enumerate();
                        let mut about = about.filter(|(_, about)| about.place == target.place);
                        if let (Some(rule), Some((index, _))) =
                            (plan.rules.get(target.rule), about.next())
                        {
                            let source = graph.image_source(subject.image);
                            let name = graph.image_target(subject.image, index);
                            report.failed.add(&source, &rule.members(true), &name);
                        }
                    } else if let Some(rule) = plan.rule_of(image, target) {
                        // The only image of a layout has no name there.
                        let source = match rule.selection {
                            Selection::Sole => rule.source.to_string(),
                            _ => graph.image_source(image),
                        };
                        report.failed.add(&source, &rule.members(true), &name);
                    }
                }
            }
        }
    }
}
