//! The files that name what is in sync and what failed, as scripts read them and as a second run is fed with them. With
//! `UPDATE_GOLDEN=1` the files under `fixtures/golden` are written anew. Not here: how a file is put into its place
//! (`src/output.rs`).

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, Entry, FakeRegistry, Fault, Kind};

/// A source with two tags of `a` and one each of `b`, `c` and `d`, and an empty target.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
}

impl World {
    fn new() -> Self {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(70);
        for (repository, tag) in [
            ("a", "v1"),
            ("a", "v2"),
            ("b", "v1"),
            ("c", "v1"),
            ("d", "v1"),
        ] {
            let image = maker.index(&["linux/amd64", "linux/arm64"], 50);
            source.push(repository, tag, &image);
        }
        Self { source, target }
    }

    fn run(&self, format: &str) -> Run {
        let (s, d) = (
            |name: &str| self.source.name(name),
            |name: &str| self.target.name(name),
        );
        Run::new()
            .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
            .args([
                "--output-success-images=good",
                "--output-failed-images=bad",
                "--retries=0",
            ])
            .arg(format!("--output-images-format={format}"))
            .rule(&s("a"), json!([d("x/a"), d("x/copy")]))
            .rule(&s("b:v1,v9"), d("x/b"))
            // Another source for a tag that is taken, and what is no rule: nothing to try again.
            .rule(&s("b:v1"), json!([d("x/a:v1"), d("x/b:one")]))
            .rule("https://wrong:word@h/x", "y")
            .rule(
                &s("c"),
                json!({"to": d("x/c"), "platforms": ["linux/amd64"], "tags": {"allow": "v*"}}),
            )
            .rule(
                &s("d"),
                json!({"to": [d("x/d")], "tags": {"allow": ["v*"], "latest": 1}, "force": true}),
            )
            .rule(
                &s("d:v1"),
                json!({"to": d("x/skipped"), "platforms": ["linux/s390x"]}),
            )
    }

    /// The target refuses one of its repositories, and the source the tags of another.
    fn refuse(&self) {
        let denied = Act::status(403);
        self.target
            .fault(Fault::on(Kind::ManifestPut, denied.clone()).in_repository("x/copy"));
        self.target
            .fault(Fault::on(Kind::ManifestPut, denied.clone()).in_repository("x/c"));
        self.source
            .fault(Fault::on(Kind::TagsList, denied).in_repository("d"));
    }

    /// A file of a run with `S/` and `D/` for the hosts.
    fn text(&self, output: &Output, name: &str) -> String {
        let text = &output.written[name];
        text.replace(&self.source.name(""), "S/")
            .replace(&self.target.name(""), "D/")
    }
}

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(
        text,
        fs::read_to_string(&path).unwrap_or_default(),
        "{name}"
    );
}

#[test]
fn both_files_have_the_shape_of_an_images_file() {
    for format in ["yaml", "json"] {
        let world = World::new();
        world.refuse();
        let output = world.run(format).run().expect(1);
        check_invariants(&[&world.source], &[&world.target], &output);
        assert_golden(
            &format!("success-images.{format}"),
            &world.text(&output, "good"),
        );
        assert_golden(
            &format!("failed-images.{format}"),
            &world.text(&output, "bad"),
        );
        assert_eq!(output.written.len(), 2, "{:?}", output.written.keys());
        // What is there already is in sync as well, and an old file is replaced.
        let again = world.run(format).file("good", "old").run().expect(1);
        assert_eq!(again.status, output.status);
    }
}

#[test]
fn a_second_run_is_fed_with_what_failed() {
    let world = World::new();
    world.refuse();
    let output = world.run("json").run().expect(1);
    let rules: serde_json::Value = serde_json::from_str(&output.written["bad"]).unwrap();
    world.source.clear_faults();
    world.target.clear_faults();
    // The one that is not there is there now.
    world.source.push("b", "v9", &Maker::new(71).oci(&[10]));
    world.target.forget();
    let run = Run::new().config(json!({"images": rules}));
    let output = run
        .args([
            "--output-success-images=good",
            "--output-images-format=json",
        ])
        .run()
        .expect(0);
    check_invariants(&[&world.source], &[&world.target], &output);
    assert_in_sync(&world.source, "a", &world.target, "x/copy", &["v1", "v2"]);
    assert_in_sync(&world.source, "b", &world.target, "x/b", &["v9"]);
    assert_in_sync(&world.source, "d", &world.target, "x/d", &["v1"]);
    let (_, cut) = world.target.manifest("x/c", "v1").unwrap();
    assert!(!String::from_utf8_lossy(&cut.bytes).contains("arm64"));
    // What was in sync before was not asked for.
    assert!(
        world
            .target
            .history()
            .iter()
            .all(|entry| entry.repository != "x/a")
    );
    let good: serde_json::Value = serde_json::from_str(&output.written["good"]).unwrap();
    assert_eq!(good.as_object().unwrap().len(), 5, "{good}");
}

#[test]
fn what_failed_needs_no_options_of_the_run_that_it_failed_in() {
    let world = World::new();
    let denied = Act::status(403);
    world.target.fault(Fault::on(Kind::ManifestPut, denied));
    let rule = [world.source.name("a:v1"), world.target.name("x/a")];
    let options = [
        "--os=linux",
        "--arch=amd64",
        "--force",
        "--referrers",
        "--output-failed-images=bad",
    ];
    let output = Run::new().args(&rule).args(options).run().expect(1);
    let fields = "\"platforms\": [\"linux/amd64\"], \"force\": true, \"referrers\": true";
    let bad = format!(
        "\"{}\": {{\"to\": [\"{}:v1\"], {fields}}}\n",
        rule[0], rule[1]
    );
    assert_eq!(output.written["bad"], bad);
    world.target.clear_faults();
    let run = Run::new().file("bad", &bad);
    run.arg("--images=bad").run().expect(0);
    let (_, cut) = world.target.manifest("x/a", "v1").unwrap();
    assert!(!String::from_utf8_lossy(&cut.bytes).contains("arm64"));
}

#[test]
fn images_that_were_there_already_are_in_sync() {
    let world = World::new();
    let rule = [world.source.name("a:v1"), world.target.name("x/a")];
    let run = Run::new().args(&rule).args([
        "--output-success-images",
        "good",
        "--output-failed-images",
        "bad",
    ]);
    let first = run.run().expect(0);
    let again = run.run().expect(0);
    let expected = format!("\"{}\":\n- \"{}:v1\"\n", rule[0], rule[1]);
    assert_eq!(
        (&first.written["good"], &again.written["good"]),
        (&expected, &expected)
    );
    assert_eq!(again.written["bad"], "{}\n");
}

#[test]
fn a_run_that_is_interrupted_writes_them_too() {
    let world = World::new();
    let (hold, until) = crossbeam_channel::bounded(0);
    let fault = Fault::on(Kind::ManifestPut, Act::Hold(until));
    world.target.fault(fault);
    let run = world.run("json").arg("--proc=1");
    let running = run.env("IMAGE_SYNCER_TIME_SCALE", "1").spawn();
    let is_put = |entry: &Entry| entry.kind == Kind::ManifestPut;
    world
        .target
        .wait_until(|history| history.iter().any(is_put));
    running.signal("TERM");
    running.wait_until_says("interrupted: ");
    drop(hold);
    let output = running.wait().expect(143);
    check_invariants(&[&world.source], &[&world.target], &output);
    // What was never begun can be fed to the next run.
    let bad: serde_json::Value = serde_json::from_str(&output.written["bad"]).unwrap();
    let expected = json!([world.target.name("x/b:v9")]);
    assert_eq!(bad[world.source.name("b:v9")], expected, "{bad}");
    assert!(output.written.contains_key("good"));
}

#[test]
fn a_file_that_cannot_be_written_stops_the_run_before_it_begins() {
    let world = World::new();
    for (flag, path) in [
        ("--output-success-images", "none/good"),
        ("--output-failed-images", "/dev/null"),
    ] {
        let rule = [world.source.name("a:v1"), world.target.name("x/a")];
        let output = Run::new().args(&rule).args([flag, path]).run().expect(2);
        assert_eq!(output.stderr.lines().count(), 1);
        let words = format!("name another file with {flag}");
        assert!(
            output.stderr.contains(path) && output.stderr.contains(&words),
            "{}",
            output.stderr
        );
        assert_eq!(world.source.connections() + world.target.connections(), 0);
        assert!(output.written.is_empty());
    }
    let rule = [world.source.name("a:v1"), world.target.name("x/a")];
    let both = ["--output-success-images=o", "--output-failed-images=o"];
    let output = Run::new().args(&rule).args(both).run().expect(2);
    assert!(output.stderr.contains("name two"), "{}", output.stderr);
    assert!(output.written.is_empty());
}
