//! `--dry-run`: what a run would do is told rule by rule, the figures are those of the run that follows, and no request
//! writes anything. Not here: how tags are chosen (`rules`).

use serde_json::json;

use crate::economy::{assert_counts, one_worker};
use crate::harness::{Output, Run};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, FakeRegistry, Fault, Kind};

/// A dry run of these rules. Registries are only read, and no file is made.
#[track_caller]
fn foresee(run: Run, registries: &[&FakeRegistry], status: i32) -> Output {
    for registry in registries {
        registry.forget();
    }
    let output = run.arg("--dry-run").run().expect(status);
    check_invariants(registries, &[], &output);
    assert!(output.written.is_empty(), "{:?}", output.written.keys());
    assert_eq!(output.records, output.records_before);
    output
}

/// What the summary in the log says of the run, or of the run that would be.
fn summary(output: &Output) -> &str {
    let mut lines = output.stderr.lines().rev();
    let line = lines
        .find(|line| line.contains(" copied, "))
        .expect("no summary");
    let line = line.split_once(" INFO ").expect("not in the log").1;
    line.rsplit(" come to: ").next().unwrap_or_default()
}

/// Rules in the file, each in a line of its own.
fn rules(rules: &[String]) -> Run {
    one_worker().config(format!("{{\"images\": {{\n{}\n}}}}", rules.join(",\n")))
}

#[test]
fn each_rule_has_its_tags_images_and_bytes() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(1);
    let (config, shared) = (maker.config("linux/amd64"), maker.layer(5000));
    let images = [1000, 2000, 3000, 4000]
        .map(|size| Image::oci(&config, &[shared.clone(), maker.layer(size)]));
    for (number, image) in images.iter().enumerate() {
        source.push("a", &format!("v{number}"), image);
    }
    source.push("a", "v9-rc", &images[0]);
    source.push("b", "w", &images[3]);
    // One is there, one is an older one.
    target.push("x", "v0", &images[0]);
    target.push("x", "v1", &images[0]);
    let (s, t) = (source.addr(), target.addr());
    let run = rules(&[
        format!(r#""{s}/a": {{"to": "{t}/x", "tags": {{"deny": ["*-rc", "v3"]}}}}"#),
        format!(r#""{s}/b:w": "{t}/y:w2""#),
        format!(r#""{s}/b:none": "{t}/z""#),
        format!(r#""{s}/none": "{t}/z""#),
        format!(r#""{s}/a:b:c": "{t}/z""#),
    ]);
    let output = foresee(run, &[&source, &target], 1);
    // The second rule need not wait for a list: what it brings to y is mounted into x.
    let expected = format!(
        "\
./image-syncer.json:6:1
  no images: source: two colons; a tag follows the only one, and several are written :a,b,c
./image-syncer.json:2:1: {s}/a -> {t}/x
  kept: 3 (v0, v1, v2)
  dropped, denied: 2 (v3, v9-rc)
  images: 1 new, 1 changed, 1 equal, 0 failed
  blobs: 4.9 KiB to pull, 4.9 KiB to push, 5.0 KiB to mount
./image-syncer.json:3:1: {s}/b -> {t}/y
  kept: 1 (w)
  images: 1 new, 0 changed, 0 equal, 0 failed
  blobs: 8.9 KiB to pull, 8.9 KiB to push, 0 B to mount
./image-syncer.json:4:1: {s}/b -> {t}/z
  kept: 1 (none)
  images: 0 new, 0 changed, 0 equal, 1 failed
  blobs: 0 B to pull, 0 B to push, 0 B to mount
./image-syncer.json:5:1: {s}/none -> {t}/z
  no images: failed to find the images of {s}/none: there is no such repository, or no permission to see it
failed tasks exist
Finished, 0 sync tasks failed, 3 tasks generate failed
"
    );
    assert_eq!(output.stdout, expected);
    // Each lacking layer is asked for at the target once, and nothing is read but manifests.
    let asked =
        [Kind::BlobHead, Kind::BlobGet].map(|kind| (source.count(kind), target.count(kind)));
    assert_eq!(asked, [(0, 5), (0, 0)]);
}

#[test]
fn the_figures_are_those_of_the_run_that_follows() {
    let (source, target, other) = (
        FakeRegistry::new(),
        FakeRegistry::new(),
        FakeRegistry::new(),
    );
    for (number, (_, image)) in Maker::new(2).corpus().iter().enumerate() {
        if number % 3 == 0 {
            other.push("x", &format!("v{number}"), image);
        }
        source.push("a", &format!("v{number}"), image);
        source.push("b", &format!("w{number}"), image);
    }
    let run = || {
        let both = json!([target.name("x"), other.name("x")]);
        one_worker()
            .rule(&source.name("a"), both)
            .rule(&source.name("b"), target.name("y"))
    };
    let foreseen = foresee(run(), &[&source, &target, &other], 0);
    let mut expected = summary(&foreseen).to_owned();
    let run = run();
    let output = run.run().expect(0);
    assert_eq!(summary(&output), expected);
    // And when all is done, there is nothing to do.
    expected = summary(&run.run().expect(0)).to_owned();
    let records = output.records.join("\n") + "\n";
    let foreseen = foresee(run.file("records", records), &[&source, &target, &other], 0);
    assert_eq!(summary(&foreseen), expected);
    assert!(
        foreseen.stdout.contains(" 0 new, 0 changed, "),
        "{}",
        foreseen.stdout
    );
}

#[test]
fn what_one_rule_brings_another_takes_on() {
    let (source, hub, target) = (
        FakeRegistry::new(),
        FakeRegistry::new(),
        FakeRegistry::new(),
    );
    let mut maker = Maker::new(3);
    for tag in ["v1", "v2"] {
        source.push("a", tag, &maker.index(&["linux/amd64", "linux/arm64"], 100));
    }
    hub.push("m", "v2", &maker.oci(&[50]));
    hub.push("m", "v3", &maker.oci(&[60]));
    let run = |dry: &[&str]| {
        one_worker()
            .rule(&source.name("a"), hub.name("m"))
            .rule(&hub.name("m"), target.name("b"))
            .rule(&target.name("b:v1"), hub.name("back:w"))
            .args(dry.iter().copied())
    };
    let foreseen = foresee(run(&[]), &[&source, &hub, &target], 0);
    let stdout = &foreseen.stdout;
    assert!(
        stdout.contains("kept: 3 (v2, v3, v1)\n  images: 3 new"),
        "{stdout}"
    );
    let output = run(&[]).run().expect(0);
    let copied = |output: &Output| summary(output).split(';').next().unwrap().to_owned();
    assert_eq!(copied(&foreseen), copied(&output));
}

#[test]
fn what_one_rule_skips_another_does_not_find() {
    let (source, hub, target) = (
        FakeRegistry::new(),
        FakeRegistry::new(),
        FakeRegistry::new(),
    );
    let mut maker = Maker::new(7);
    source.push("a", "v1", &maker.oci_for("linux/amd64", &[50]));
    hub.push("m", "v0", &maker.oci(&[50]));
    let arm = json!({"to": hub.name("m"), "platforms": ["linux/arm64"]});
    let run = one_worker()
        .rule(&source.name("a"), arm)
        .rule(&hub.name("m"), target.name("b"));
    let foreseen = foresee(run, &[&source, &hub, &target], 0);
    assert!(
        foreseen.stdout.contains("  kept: 1 (v0)\n"),
        "{}",
        foreseen.stdout
    );
}

#[test]
fn what_one_rule_cuts_another_takes_on_as_it_is_then() {
    let (source, hub, target) = (
        FakeRegistry::new(),
        FakeRegistry::new(),
        FakeRegistry::new(),
    );
    let index = Maker::new(8).index(&["linux/amd64", "linux/arm64"], 5000);
    source.push("a", "v1", &index);
    let run = || {
        let arm = json!({"to": hub.name("m"), "platforms": ["linux/arm64"]});
        one_worker()
            .rule(&source.name("a:v1"), arm)
            .rule(&hub.name("m:v1"), target.name("b"))
    };
    let foreseen = foresee(run(), &[&source, &hub, &target], 0);
    let output = run().run().expect(0);
    let pushed = |output: &Output| summary(output).rsplit(", ").next().unwrap().to_owned();
    assert_eq!(pushed(&foreseen), pushed(&output));
}

#[test]
fn a_namespace_is_told_by_its_repositories() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(6);
    for repository in ["ns/a", "ns/b", "other/c"] {
        source.push(repository, "v1", &maker.oci(&[100]));
    }
    let (s, t) = (source.addr(), target.addr());
    let run = rules(&[
        format!(r#""{s}/ns/*": "{t}/m""#),
        format!(r#""{s}/none/*": "{t}/m""#),
    ]);
    let output = foresee(run, &[&source, &target], 1);
    let titles = output.stdout.lines().filter(|line| line.contains(" -> "));
    let expected = [
        format!("./image-syncer.json:3:1: {s}/none -> {t}/m"),
        format!("./image-syncer.json:2:1: {s}/ns/a -> {t}/m/a"),
        format!("./image-syncer.json:2:1: {s}/ns/b -> {t}/m/b"),
    ];
    assert!(titles.eq(expected), "{}", output.stdout);
    assert_eq!(output.stdout.matches("images: 1 new, 0 changed").count(), 2);
}

#[test]
fn a_layout_is_not_made_and_a_log_takes_the_results() {
    let source = FakeRegistry::new();
    source.push("a", "v1", &Maker::new(4).oci(&[100]));
    let run = one_worker()
        .rule(&source.name("a"), "oci:layout")
        .args(["--log", "log"]);
    let (layout, records) = (run.path("layout"), run.path("records"));
    let output = run.arg("--dry-run").run().expect(0);
    check_invariants(&[&source], &[], &output);
    assert!(!layout.exists() && !records.exists());
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    let log = &output.written["log"];
    assert!(
        log.contains("INFO   images: 1 new, 0 changed, 0 equal, 0 failed\n"),
        "{log}"
    );
    assert_counts(
        &source,
        &[(Kind::TagsList, 1), (Kind::ManifestGet, 1)],
        "all tags",
    );
}

#[test]
fn where_a_target_cannot_be_asked_the_status_says_so() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    source.push("a", "v1", &Maker::new(5).oci(&[100]));
    target.fault(Fault::on(Kind::BlobHead, Act::status(429)));
    let run = one_worker()
        .rule(&source.name("a:v1"), target.name("x"))
        .env("IMAGE_SYNCER_TIME_SCALE", "0");
    let output = foresee(run.arg("--retries=0"), &[&source, &target], 1);
    assert_eq!(output.finished(), Some((1, 0)));
    assert!(
        output.stdout.contains("0 equal, 1 failed\n"),
        "{}",
        output.stdout
    );
}
