//! Runs that are ended from outside: by a signal, in order; by kill -9, at any moment. Whatever is at the target then is
//! whole, and the next run completes it without sending anything again. Not here: failures that the run itself sees
//! (`sweep`).

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Entry, FakeRegistry, Fault, Kind, Nth};

/// A source of images that share layers, one of them an index, and an empty target.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
}

impl World {
    fn new() -> Self {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(5);
        for number in 1..=9 {
            source.push("team/app", &format!("v{number}"), &maker.oci(&[400, 500]));
        }
        let index = maker.index(&["linux/amd64", "linux/arm64"], 300);
        let layers = &index.children[0].blobs[1..];
        let same = Image::oci(&maker.config("linux/amd64"), layers);
        source.push("team/base", "v1", &index);
        source.push("team/base", "v2", &same);
        Self { source, target }
    }

    /// One whose source holds back all blobs but the first ones, until what is given beside it is dropped.
    fn held() -> (Self, Sender<()>) {
        let world = Self::new();
        let (hold, until) = bounded(0);
        let fault = Fault::on(Kind::BlobGet, Act::Hold(until)).nth(Nth::From(5));
        world.source.fault(fault);
        (world, hold)
    }

    fn run(&self) -> Run {
        ["team/app", "team/base"]
            .into_iter()
            .fold(Run::new().args(["--proc", "2"]), |run, repository| {
                run.rule(&self.source.name(repository), self.target.name(repository))
            })
    }

    /// Waits until this many blobs are at the target.
    fn wait_for_blobs(&self, count: usize) {
        self.target
            .wait_until(|all| all.iter().filter(|entry| is_stored(entry)).count() >= count);
    }

    #[track_caller]
    fn assert_complete(&self) {
        for repository in ["team/app", "team/base"] {
            let tags = self.source.tags(repository);
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            assert_in_sync(&self.source, repository, &self.target, repository, &tags);
        }
    }

    /// What holds of a run that was asked to end, and of the next one.
    #[track_caller]
    fn assert_ended_in_order(&self, run: &Run, output: &Output, status: i32) {
        assert_eq!(output.status, Some(status), "{}", output.stderr);
        check_invariants(&[&self.source], &[&self.target], output);
        let lines: Vec<&str> = output.stdout.lines().collect();
        let (failed, not_begun) = output.finished().expect("no closing line");
        assert_eq!(lines[0], "failed tasks exist");
        assert_eq!(lines.len(), 2);
        let tags = self.target.tags("team/app").len() + self.target.tags("team/base").len();
        assert!(
            failed + not_begun > 0 && failed + tags <= 11,
            "{failed} {tags}"
        );
        for entry in self
            .target
            .history()
            .iter()
            .filter(|entry| is_stored(entry))
        {
            let digest = entry.digest.as_deref().expect("no digest");
            let is_recorded = output.records.iter().any(|line| line.contains(digest));
            assert!(is_recorded, "{digest} is not in the records");
        }
        self.assert_next_run_completes(run);
    }

    #[track_caller]
    fn assert_next_run_completes(&self, run: &Run) {
        self.source.clear_faults();
        self.target.clear_faults();
        let output = run.run().expect(0);
        check_invariants(&[&self.source], &[&self.target], &output);
        self.assert_complete();
        let mut sent = BTreeMap::<(String, Option<String>), usize>::new();
        for entry in self.target.history().into_iter().filter(is_stored) {
            *sent.entry((entry.repository, entry.digest)).or_default() += 1;
        }
        sent.retain(|_, count| *count > 1);
        assert!(sent.is_empty(), "sent again: {sent:?}");
    }
}

/// Whether an upload was completed by this request.
fn is_stored(entry: &Entry) -> bool {
    entry.kind == Kind::UploadPut && entry.status == 201
}

#[test]
fn each_signal_lets_what_runs_end_and_has_its_exit_status() {
    for (signal, status) in [("HUP", 129), ("INT", 130), ("TERM", 143)] {
        let (world, hold) = World::held();
        let run = world.run();
        let running = run.spawn();
        world.wait_for_blobs(3);
        running.signal(signal);
        running.wait_until_says("interrupted: ");
        drop(hold);
        world.assert_ended_in_order(&run, &running.wait(), status);
    }
}

#[test]
fn a_second_signal_ends_what_hangs_at_once() {
    for (first, second, status) in [("HUP", "INT", 130), ("INT", "TERM", 143)] {
        let world = World::new();
        let hangs = Fault::on(Kind::BlobGet, Act::StallBody(100)).nth(Nth::From(4));
        world.source.fault(hangs);
        // The grace period is 10 s.
        let run = world.run().within(Duration::from_secs(9));
        let running = run.spawn();
        world.wait_for_blobs(3);
        world
            .source
            .wait_until(|all| all.iter().filter(|entry| entry.has_fault).count() == 2);
        running.signal(first);
        running.wait_until_says("interrupted: ");
        running.signal(second);
        world.assert_ended_in_order(&run, &running.wait(), status);
    }
}

#[test]
fn a_signal_ends_a_wait_at_once() {
    let world = World::new();
    world.target.fault(Fault::on_any(Act::throttle(500)));
    let run = world.run().within(Duration::from_secs(9));
    let running = run.spawn();
    world
        .target
        .wait_until(|all| all.iter().any(|entry| entry.status == 429));
    running.signal("TERM");
    world.assert_ended_in_order(&run, &running.wait(), 143);
}

#[test]
fn a_hangup_that_is_ignored_changes_nothing() {
    for line in [r#"trap "" HUP; exec "$@""#, r#"exec nohup "$@""#] {
        let (world, hold) = World::held();
        let running = world.run().in_shell(line).spawn();
        world.wait_for_blobs(3);
        running.signal("HUP");
        drop(hold);
        let output = running.wait().expect(0);
        check_invariants(&[&world.source], &[&world.target], &output);
        world.assert_complete();
    }
}

#[test]
fn where_all_signals_are_ignored_the_run_comes_to_its_end() {
    let world = World::new();
    let output = world
        .run()
        .in_shell(r#"trap "" HUP INT TERM; exec "$@""#)
        .run()
        .expect(0);
    check_invariants(&[&world.source], &[&world.target], &output);
    world.assert_complete();
}

#[test]
fn as_the_first_process_of_a_container_it_heeds_signals_too() {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
    let can = Command::new(unshare[0])
        .args(&unshare[1..])
        .arg("true")
        .status();
    if !can.is_ok_and(|status| status.success()) {
        // Straight to the terminal, past the test harness.
        writeln!(
            std::io::stderr(),
            "SKIPPED: no process can be number 1 here"
        )
        .unwrap();
        return;
    }
    let (world, hold) = World::held();
    let run = world.run();
    let in_container = world
        .run()
        .under(unshare)
        .env("PATH", std::env::var_os("PATH").unwrap());
    let running = in_container.spawn();
    world.wait_for_blobs(3);
    running.signal_child("TERM");
    running.wait_until_says("interrupted: ");
    drop(hold);
    let output = running.wait();
    world.assert_ended_in_order(&run, &output, 143);
}

/// Kills a run when it has sent `moment` requests to a registry, then the next one a little later, and lets the third
/// come to its end. `holds`: the registry answers no more from that moment on; else the run goes on until it is hit.
fn kill_at(moment: usize, holds: bool, side: fn(&World) -> &FakeRegistry) {
    let world = World::new();
    let run = world.run();
    // Even a run that finds all done sends a question for each of the eleven tags.
    for moment in [moment, 1 + moment % 8] {
        side(&world).clear_faults();
        let before = side(&world).history().len();
        if holds {
            let hold = Fault::on_any(Act::Stall).nth(Nth::From(moment));
            side(&world).fault(hold);
        }
        let running = run.spawn();
        side(&world).wait_until(|all| all.len() >= before + moment);
        // It may have come to its end by itself, where it is not held.
        assert!(running.try_signal("KILL") || !holds);
        let output = running.wait();
        check_invariants(&[&world.source], &[&world.target], &output);
    }
    world.assert_next_run_completes(&run);
}

#[test]
fn killed_at_any_request_to_the_target_the_next_run_completes_it() {
    for moment in (1..=25).step_by(2) {
        kill_at(moment, true, |world| &world.target);
    }
}

#[test]
fn killed_while_the_target_works_the_next_run_completes_it() {
    for moment in (2..=22).step_by(4) {
        kill_at(moment, false, |world| &world.target);
    }
}

#[test]
fn killed_at_any_request_to_the_source_the_next_run_completes_it() {
    for moment in (1..=21).step_by(4) {
        kill_at(moment, true, |world| &world.source);
    }
}
