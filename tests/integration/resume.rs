//! Transfers that break and go on: an upload where its registry kept what came, a download by range, and a target that
//! is too slow for the others. Not here: faults that cost a fresh transfer (`healing.rs`, `sweep.rs`).

use std::time::Duration;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, End, Entry, FakeRegistry, Fault, Habit, Kind, Nth, Options};

const LARGE: usize = (16 << 20) + (3 << 20);

fn pair(habit: Habit) -> (FakeRegistry, FakeRegistry) {
    let (source, target) = (
        FakeRegistry::new(),
        FakeRegistry::start(Options::default().habit(habit)),
    );
    source.push("a/b", "v1", &Maker::new(1).oci(&[LARGE, 1000]));
    (source, target)
}

fn rule(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    Run::new().rule(&source.name("a/b"), target.name("a/b"))
}

fn run(source: &FakeRegistry, target: &FakeRegistry) -> Output {
    let run = rule(source, target).env("IMAGE_SYNCER_TIME_SCALE", "0.01");
    run.run().expect(0)
}

/// The bytes that came by PATCH requests.
fn patched(target: &FakeRegistry) -> usize {
    let entries = target.history().into_iter();
    let patches = entries.filter(|entry| entry.kind == Kind::UploadPatch);
    patches.map(|entry| entry.bytes_in).sum()
}

#[test]
fn a_broken_upload_goes_on_where_the_registry_kept_it() {
    for habit in [
        Habit::DISTRIBUTION_3,
        Habit::FERRO,
        Habit::CUE,
        Habit::GITEA,
    ] {
        let (source, target) = pair(habit.clone());
        target.fault(Fault::on(Kind::UploadPatch, Act::CutUpload(10 << 20)).nth(Nth::Only(1)));
        let output = run(&source, &target);
        check_invariants(&[&source], &[&target], &output);
        assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
        assert_eq!(target.count(Kind::UploadGet), 1);
        assert_eq!(target.count(Kind::UploadPatch), 2, "{habit:?}");
        // What was kept is not sent again: less than a quarter of the blob is on the wire twice.
        let sent = patched(&target);
        assert!(sent < LARGE * 5 / 4, "{sent} bytes to {habit:?}");
    }
}

#[test]
fn a_session_that_is_gone_costs_one_fresh_upload() {
    for habit in [Habit::DISTRIBUTION_2, Habit::DISTRIBUTION_3] {
        let (source, target) = pair(habit.clone());
        target.fault(Fault::on(Kind::UploadPatch, Act::CutUpload(10 << 20)).nth(Nth::Only(1)));
        target.fault(Fault::on(Kind::UploadGet, Act::status(404)).nth(Nth::Always));
        run(&source, &target);
        assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
        assert_eq!(target.count(Kind::UploadPatch), 2);
    }
}

#[test]
fn a_status_that_lies_ends_in_a_whole_blob_all_the_same() {
    for range in [
        "0-5",
        "0-9999999",
        "bytes=0-1048575",
        "0-99999999999",
        "7-9",
        "x",
    ] {
        let (source, target) = pair(Habit::DISTRIBUTION_3);
        target.fault(Fault::on(Kind::UploadPatch, Act::CutUpload(10 << 20)).nth(Nth::Only(1)));
        target.fault(
            Fault::on(Kind::UploadGet, Act::SetHeader("Range", range.into())).nth(Nth::Always),
        );
        run(&source, &target);
        assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
    }
}

#[test]
fn a_broken_download_goes_on_by_range() {
    let (source, target) = pair(Habit::DISTRIBUTION_3);
    source.fault(Fault::on(Kind::BlobGet, Act::CutBody(7 << 20, End::Reset)).nth(Nth::Only(1)));
    let output = run(&source, &target);
    check_invariants(&[&source], &[&target], &output);
    assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
    // The upload never noticed.
    assert_eq!(target.count(Kind::UploadPatch), 1);
}

/// Copies a large blob to three targets, one of which takes its upload in this way the first time; gives how often the
/// blob was read.
fn reads_beside(act: Act, odd: usize, arguments: &[&str], scale: &str) -> usize {
    let source = FakeRegistry::new();
    let image = Maker::new(1).oci(&[LARGE]);
    source.push("a/b", "v1", &image);
    let targets = [(); 3].map(|()| FakeRegistry::new());
    targets[odd].fault(Fault::on(Kind::UploadPatch, act).nth(Nth::Only(1)));
    let names: Vec<String> = targets.iter().map(|target| target.name("a/b")).collect();
    let run = Run::new()
        .rule(&source.name("a/b"), names)
        .args(arguments)
        .env("IMAGE_SYNCER_TIME_SCALE", scale);
    let output = run.run().expect(0);
    check_invariants(&[&source], &targets.each_ref(), &output);
    for target in &targets {
        assert_in_sync(&source, "a/b", target, "a/b", &["v1"]);
    }
    let history = source.history();
    let blob = history
        .iter()
        .filter(|e| e.kind == Kind::BlobGet && e.reference == image.blobs[1].digest);
    blob.count()
}

#[test]
fn a_target_that_never_reads_does_not_hold_up_the_others_whichever_it_is() {
    for odd in 0..3 {
        // It is left behind first, and its stalled upload is noticed some time later.
        let reads = reads_beside(Act::NoRead, odd, &["--detach-after=100ms"], "0.01");
        assert!(reads > 1, "target {odd}");
    }
}

#[test]
fn a_slow_target_is_waited_for_as_long_as_the_user_says() {
    for arguments in [
        ["--detach-after=0s", "--detach-share=100%"],
        ["--detach-after=1h", "--detach-share=0%"],
    ] {
        let slowly = Act::ReadSlowly(256 << 10, Duration::from_millis(15));
        assert_eq!(
            reads_beside(slowly, 1, &arguments, "0.1"),
            1,
            "{arguments:?}"
        );
    }
}

#[test]
fn the_user_says_how_often_an_upload_is_recorded() {
    for (size, marks) in [("4MiB", 4), ("1GiB", 0)] {
        let (source, target) = pair(Habit::DISTRIBUTION_3);
        let run = rule(&source, &target).args([
            &format!("--checkpoint-bytes={size}"),
            "--checkpoint-time=1h",
        ]);
        run.run().expect(0);
        let found = records(&run).matches("\"upload\"").count();
        assert_eq!(found, marks, "{size}");
    }
}

#[test]
fn a_target_that_stalls_takes_no_worker_from_the_others() {
    let (source, fast, slow) = (
        FakeRegistry::new(),
        FakeRegistry::new(),
        FakeRegistry::new(),
    );
    source.push("a/b", "v1", &Maker::new(1).oci(&[LARGE; 5]));
    slow.fault(Fault::on(Kind::UploadPatch, Act::NoRead).nth(Nth::Always));
    let run = Run::new()
        .rule(
            &source.name("a/b"),
            vec![fast.name("a/b"), slow.name("a/b")],
        )
        .args(["--proc=4", "--detach-after=200ms"]);
    let running = run.spawn();
    // What the other one has begun with stalls for longer than this waits.
    running.wait_until_says(&format!("-> {}", fast.name("a/b")));
    running.signal("KILL");
    running.wait();
    assert_eq!(slow.count(Kind::ManifestPut), 0);
    assert!(slow.faults_acted() > 0);
    let puts = fast.history();
    let put = puts.iter().find(|entry| entry.kind == Kind::ManifestPut);
    let is_before = |entry: &Entry| put.is_some_and(|put| entry.began < put.began);
    let patches = slow.history();
    let patches = patches.iter().filter(|e| e.kind == Kind::UploadPatch);
    // On a slow machine as many as there are slots may begin before the first of them counts as slow, and no more.
    assert!(patches.filter(|patch| is_before(patch)).count() <= 4);
}

fn records(run: &Run) -> String {
    std::fs::read_to_string(run.path("records")).unwrap_or_default()
}

/// Kills a run in the middle of a blob, once a mark of its upload stands in the records. Gives the run, to be run again.
fn killed_in_the_middle(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    // The source sends the first part and then nothing: the marks are made in time, not in bytes.
    source.fault(
        Fault::on(Kind::BlobGet, Act::Drip(1 << 20, Duration::from_millis(30))).nth(Nth::Always),
    );
    let run = rule(source, target).env("IMAGE_SYNCER_TIME_SCALE", "0.01");
    let run = run.arg("--log-level=debug");
    let running = run.spawn();
    running.wait_until_says(" is recorded up to byte ");
    running.signal("KILL");
    running.wait();
    source.clear_faults();
    source.forget();
    target.forget();
    run
}

#[test]
fn the_next_process_goes_on_with_an_upload() {
    let (source, target) = pair(Habit::DISTRIBUTION_3);
    let run = killed_in_the_middle(&source, &target);
    run.run().expect(0);
    assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
    assert_eq!(target.count(Kind::UploadGet), 1);
    let sent = patched(&target);
    assert!(sent < LARGE, "{sent} bytes were sent in the second run");
}

#[test]
fn a_run_that_is_asked_to_end_records_how_far_its_uploads_came() {
    let (source, target) = pair(Habit::DISTRIBUTION_3);
    let large = Maker::new(1).oci(&[LARGE, 1000]).blobs[1].digest.clone();
    let stalls = Fault::on(Kind::BlobGet, Act::StallBody(10 << 20));
    source.fault(stalls.of(&large).nth(Nth::Always));
    // What runs has 10 s to end, and takes them; no mark is due before.
    let run = rule(&source, &target).args(["--checkpoint-bytes=1GiB", "--checkpoint-time=1h"]);
    let running = run.spawn();
    source.wait_until(|all| all.iter().any(|entry| entry.has_fault));
    assert_eq!(records(&run).matches("\"upload\"").count(), 0);
    running.signal("TERM");
    assert_eq!(running.wait().status, Some(143));
    assert_eq!(records(&run).matches("\"upload\"").count(), 1);
    source.clear_faults();
    source.forget();
    target.forget();
    run.run().expect(0);
    assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
    let sent = patched(&target);
    assert!(
        sent <= LARGE - (9 << 20),
        "{sent} bytes were sent in the second run"
    );
}

#[test]
fn an_upload_that_is_gone_costs_one_question_and_a_fresh_one() {
    let (source, target) = pair(Habit::DISTRIBUTION_2);
    let run = killed_in_the_middle(&source, &target);
    target.fault(Fault::on(Kind::UploadGet, Act::status(404)).nth(Nth::Always));
    run.run().expect(0);
    assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
    assert_eq!(
        (
            target.count(Kind::UploadGet),
            target.count(Kind::UploadPatch)
        ),
        (1, 1)
    );
}

#[test]
fn a_recorded_upload_is_followed_nowhere_else() {
    let elsewhere = FakeRegistry::new();
    let hostile = [
        format!("http://{}/v2/a/b/blobs/uploads/x", elsewhere.addr()),
        "file:///etc/passwd".into(),
        "http://169.254.169.254/latest".into(),
    ];
    for location in hostile {
        let (source, target) = pair(Habit::DISTRIBUTION_3);
        let text = records(&killed_in_the_middle(&source, &target));
        let start = text.find("\"location\":\"").unwrap() + "\"location\":\"".len();
        let end = start + text[start..].find('"').unwrap();
        let text = text.replace(&text[start..end], &location);
        let run = rule(&source, &target).file("records", text);
        run.run().expect(0);
        assert_in_sync(&source, "a/b", &target, "a/b", &["v1"]);
    }
    assert!(elsewhere.history().is_empty());
}
