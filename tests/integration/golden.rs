//! G1 to G23: what image-syncer 1.0.5 answers to 23 situations, and what this program does in each: the same where the
//! original is right, better where it is not. `H` is the source's host and `D` the target's, as in the record of the
//! original's answers. Not here: the words of failures (`failures`), and the promises of the original's README that
//! other files prove:
//!
//! - many registries to many, memory and network only: `sync`, `layers` (no temporary files)
//! - incremental, records reusable and deletable: G3, G20, `records`, `economy`
//! - `--proc`, `--retries`, and all passes after everything ran once: G17, G18, `cli`, `sync`
//! - defaults of `--config`, `--log`, `--namespace`, `--registry`: G1, G7, G8, G22, `cli`
//! - `auth` by registry or namespace, the latter first; anonymous; `insecure`: G23, `failures`, `auth`
//! - every form of a rule, a source with several targets, renamed repositories and tags: `sync`, G5 to G11, G15, G16
//! - `-h` with present defaults, the closing line on stdout and in the log: `cli`, G22
//! - transient failures and wrong digests heal: G17, G18, G19, `sweep`
//! - schema 1 as it is, or a clear refusal: `failures`

use serde_json::json;

use image_syncer::oci::manifest::media_type;

use crate::harness::{Output, Run, assert_in_sync, assert_same};
use crate::image::{Blob, Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Bearer, Entry, FakeRegistry, Fault, Kind, Nth, Options};

/// The source `H`, with `ns/app:v1` (three layers), `v2`, and `ns/other:v1` of the same layers; and an empty `D`.
struct World {
    h: FakeRegistry,
    d: FakeRegistry,
    app: Image,
}

impl World {
    fn new() -> Self {
        Self::with(FakeRegistry::new())
    }

    fn with(h: FakeRegistry) -> Self {
        let mut maker = Maker::new(9);
        let app = maker.docker(&[1000, 2000, 3000]);
        let other = Image::docker(&maker.docker_config("linux/amd64"), &app.blobs[1..]);
        h.push("ns/app", "v1", &app);
        h.push("ns/app", "v2", &maker.docker(&[500]));
        h.push("ns/other", "v1", &other);
        let d = FakeRegistry::new();
        Self { h, d, app }
    }

    /// A run of one rule, in which `H` and `D` stand for the hosts. Its waits are short.
    fn rule(&self, source: &str, target: &str) -> Run {
        hasty().rule(&self.fill(source), self.fill(target))
    }

    fn fill(&self, text: &str) -> String {
        text.replace("H/", &self.h.name(""))
            .replace("D/", &self.d.name(""))
    }

    /// Runs, and expects an exit status and the two figures of the closing line.
    #[track_caller]
    fn ends(&self, run: &Run, status: i32, figures: (usize, usize)) -> Output {
        let output = run.run().expect(status);
        assert_eq!(output.finished(), Some(figures), "{}", output.stderr);
        check_invariants(&[&self.h], &[&self.d], &output);
        output
    }

    /// Expects a rule to fail before anything is asked, in words that hold these.
    #[track_caller]
    fn fails_unasked(&self, run: &Run, words: &[&str]) {
        let output = self.ends(run, 1, (0, 1));
        for word in words {
            assert!(
                output.stderr.contains(word),
                "{word:?} is not in:\n{}",
                output.stderr
            );
        }
        assert_eq!((self.h.history().len(), self.d.history().len()), (0, 0));
    }

    #[track_caller]
    fn assert_app_at(&self, repository: &str, tags: &[&str]) {
        assert_in_sync(&self.h, "ns/app", &self.d, repository, tags);
        assert_eq!(self.d.tags(repository), tags);
    }
}

fn hasty() -> Run {
    Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.01")
}

/// How many lines of the log hold a text.
fn lines_with(text: &str, output: &Output) -> usize {
    output
        .stderr
        .lines()
        .filter(|line| line.contains(text))
        .count()
}

#[test]
fn g1_a_missing_config_file_stops_all_and_is_named() {
    let output = Run::new().run().expect(2);
    assert_eq!(output.stdout, "");
    assert!(
        output.stderr.starts_with("./image-syncer.json: "),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("no such file") && output.stderr.contains("--config"));
    assert!(output.records.is_empty() && output.written.is_empty());
}

#[test]
fn g2_an_image_is_copied_and_recorded_with_fewer_requests() {
    let world = World::new();
    let run = world.rule("H/ns/app:v1", "D/x/app").args(["--proc", "1"]);
    let output = world.ends(&run, 0, (0, 0));
    world.assert_app_at("x/app", &["v1"]);
    let last = output.stdout.lines().last();
    assert_eq!(
        last,
        Some("Finished, 0 sync tasks failed, 0 tasks generate failed")
    );
    assert_eq!(
        lines_with(&world.fill("copied H/ns/app:v1 -> D/x/app:v1"), &output),
        1
    );
    // A manifest and four blobs; two questions for the tag, a POST and a PUT for each blob, the manifest. The original
    // sends 26.
    assert_eq!((world.h.total(), world.d.total()), (5, 11));
    let records = output.new_records();
    let blobs = records.iter().filter(|record| record["kind"] == "blob");
    assert_eq!((blobs.count(), records.len()), (4, 5));
}

#[test]
fn g3_an_image_that_is_there_costs_two_requests() {
    let world = World::new();
    let run = world.rule("H/ns/app:v1", "D/x/app");
    world.ends(&run, 0, (0, 0));
    world.h.forget();
    world.d.forget();
    let output = world.ends(&run, 0, (0, 0));
    assert_eq!((world.h.count(Kind::ManifestHead), world.h.total()), (1, 1));
    assert_eq!((world.d.count(Kind::ManifestHead), world.d.total()), (1, 1));
    assert!(output.new_records().is_empty());
    assert_eq!(lines_with("unchanged ", &output), 1);
}

#[test]
fn g4_layers_that_another_repository_has_are_mounted() {
    let world = World::new();
    let first = world.rule("H/ns/app:v1", "D/x/app");
    let run = first.rule(&world.fill("H/ns/app:v1"), world.fill("D/x/app"));
    world.ends(&run, 0, (0, 0));
    world.h.forget();
    let run = run.rule(&world.fill("H/ns/other:v1"), world.fill("D/y/app"));
    world.ends(&run, 0, (0, 0));
    assert_in_sync(&world.h, "ns/other", &world.d, "y/app", &["v1"]);
    // Its config only: the three layers are at D.
    assert_eq!(world.h.count(Kind::BlobGet), 1);
}

#[test]
fn g5_several_tags_do_not_become_one() {
    let world = World::new();
    let run = world.rule("H/ns/app:v1,v2", "D/m/m:zz");
    world.fails_unasked(&run, &["image-syncer.json:1:", "2 tags", "the target 1"]);
}

#[test]
fn g6_all_tags_do_not_become_one() {
    let world = World::new();
    let run = world.rule("H/ns/app", "D/m/m:zz");
    world.fails_unasked(
        &run,
        &["the target has a tag and the source has none", ":latest"],
    );
}

#[test]
fn g7_an_empty_target_needs_both_defaults() {
    let world = World::new();
    let rule = || world.rule("H/ns/app:v1", "");
    let words = ["--registry", "--namespace"];
    world.fails_unasked(&rule(), &words);
    world.fails_unasked(&rule().args(["--registry", world.d.addr()]), &words);
    world.fails_unasked(&rule().env("DEFAULT_NAMESPACE", "envns"), &words);
}

#[test]
fn g8_a_default_of_the_environment_and_one_of_the_command_line_go_together() {
    let world = World::new();
    let run = world
        .rule("H/ns/app:v1", "")
        .env("DEFAULT_NAMESPACE", "envns")
        .args(["--registry", world.d.addr()]);
    world.ends(&run, 0, (0, 0));
    world.assert_app_at("envns/app", &["v1"]);
}

#[test]
fn g9_an_empty_source_fails() {
    let world = World::new();
    world.fails_unasked(&world.rule("", "D/m/m"), &["the source is empty"]);
}

#[test]
fn g10_two_tags_in_a_row_fail() {
    let world = World::new();
    let run = world.rule("H/ns/app:v1:v2", "D/m/m");
    world.fails_unasked(&run, &["source:", "v1:v2"]);
}

#[test]
fn g11_upper_case_letters_fail() {
    let world = World::new();
    let run = world.rule("H/NS/App:v1", "D/m/m");
    world.fails_unasked(&run, &["source:", "repository name must be lowercase"]);
}

#[test]
fn g12_a_missing_tag_fails_for_good() {
    let world = World::new();
    let output = world.ends(&world.rule("H/ns/app:nope", "D/m/m"), 1, (0, 1));
    assert!(lines_with("ns/app:nope", &output) > 0);
    assert!(output.stderr.contains("MANIFEST_UNKNOWN"));
    // The original asks in every pass.
    assert_eq!(world.h.count(Kind::ManifestGet), 1);
    assert_eq!(world.d.count(Kind::ManifestPut), 0);
}

#[test]
fn g13_a_missing_repository_fails_for_good() {
    let world = World::new();
    let output = world.ends(&world.rule("H/ns/nope", "D/m/m"), 1, (0, 1));
    assert_eq!(
        lines_with("ns/nope: there is no such repository", &output),
        1
    );
    assert_eq!(world.h.count(Kind::TagsList), 1);
}

#[test]
fn g14_manifest_lists_and_oci_images_are_copied() {
    let world = World::new();
    for (tag, image) in Maker::new(14).corpus() {
        world.h.push("all/kinds", tag, &image);
    }
    let tags = world.h.tags("all/kinds");
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    world.ends(&world.rule("H/all/kinds", "D/all/kinds"), 0, (0, 0));
    assert_in_sync(&world.h, "all/kinds", &world.d, "all/kinds", &tags);
}

#[test]
fn g15_a_source_that_stands_twice_goes_to_both_targets() {
    let world = World::new();
    let text = r#"{"images": {"H/ns/app:v1": "D/one/app", "H/ns/app:v1": "D/two/app"}}"#;
    world.ends(&hasty().config(world.fill(text)), 0, (0, 0));
    world.assert_app_at("one/app", &["v1"]);
    world.assert_app_at("two/app", &["v1"]);
}

#[test]
fn g16_an_empty_tag_in_a_list_is_dropped_in_words() {
    let world = World::new();
    let output = world.ends(&world.rule("H/ns/app:v1,", "D/m/app"), 0, (0, 0));
    world.assert_app_at("m/app", &["v1"]);
    assert_eq!(lines_with("WARN", &output), 1);
    assert_eq!(lines_with("an empty tag", &output), 1);
}

#[test]
fn g17_a_registry_that_is_busy_is_waited_for() {
    for kind in [Kind::BlobGet, Kind::ManifestGet] {
        let world = World::new();
        world
            .h
            .fault(Fault::on(kind, Act::status(429)).nth(Nth::UpTo(3)));
        let run = world
            .rule("H/ns/app:v1", "D/m/app")
            .args(["--retries", "2"]);
        world.ends(&run, 0, (0, 0));
        world.assert_app_at("m/app", &["v1"]);
        assert_eq!(world.h.faults_acted(), 3);
    }
}

#[test]
fn g18_one_refusal_of_the_first_request_costs_nothing() {
    let world = World::new();
    world
        .d
        .fault(Fault::on_any(Act::status(503)).nth(Nth::Only(1)));
    let run = world
        .rule("H/ns/app:v1", "D/m/app")
        .args(["--retries", "5"]);
    world.ends(&run, 0, (0, 0));
    world.assert_app_at("m/app", &["v1"]);
    assert_eq!(world.d.faults_acted(), 1);
}

#[test]
fn g19_a_blob_with_a_wrong_byte_is_read_again_and_not_recorded() {
    for nth in [Nth::Only(1), Nth::Always] {
        let world = World::with(FakeRegistry::new());
        let layer = &world.app.blobs[2].digest;
        let wrong = Fault::on(Kind::BlobGet, Act::Flip(7)).of(layer).nth(nth);
        world.h.fault(wrong);
        let run = world.rule("H/ns/app:v1", "D/m/app");
        let output = match nth {
            Nth::Always => world.ends(&run, 1, (1, 0)),
            _ => world.ends(&run, 0, (0, 0)),
        };
        assert!(lines_with(layer, &output) > 0);
        let is_there = world.d.blob("m/app", layer).is_some();
        let is_recorded = output
            .records
            .iter()
            .any(|line| line.contains(layer.as_str()));
        assert_eq!(
            (is_there, is_recorded),
            (matches!(nth, Nth::Only(_)), is_there)
        );
    }
}

#[test]
fn g20_a_target_that_was_wiped_is_filled_again_in_one_run() {
    let world = World::new();
    let run = world.rule("H/ns/app", "D/x/app");
    world.ends(&run, 0, (0, 0));
    world.d.with_state(|state| state.repositories.clear());
    let output = run.run().expect(0);
    assert_eq!(output.finished(), Some((0, 0)));
    world.assert_app_at("x/app", &["v1", "v2"]);
}

#[test]
fn g21_a_run_that_is_ended_by_term_keeps_what_is_done() {
    let world = World::new();
    let last = &world.app.blobs[3].digest;
    world.h.fault(Fault::on(Kind::BlobGet, Act::Stall).of(last));
    // Its time is not shortened: the grace period would be too.
    let run = Run::new().rule(&world.fill("H/ns/app:v1"), world.fill("D/x/app"));
    let running = run.spawn();
    let is_stored = |entry: &Entry| entry.kind == Kind::UploadPut && entry.status == 201;
    world
        .d
        .wait_until(|all| all.iter().filter(|entry| is_stored(entry)).count() == 3);
    // The first asks the run to end, the second ends what hangs.
    running.signal("TERM");
    running.wait_until_says("interrupted: ");
    running.signal("TERM");
    let output = running.wait().expect(143);
    check_invariants(&[&world.h], &[&world.d], &output);
    assert_eq!((output.records.len(), output.finished()), (3, Some((1, 0))));
}

#[test]
fn g22_a_log_file_holds_the_last_run_only() {
    let world = World::new();
    let run = world.rule("H/ns/app", "D/x/app").args(["--log", "log"]);
    let first = world.ends(&run, 0, (0, 0));
    let second = world.ends(&run.args(["--log-level", "error"]), 0, (0, 0));
    let [first, second] = [first, second].map(|output| {
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
        output.written["log"].clone()
    });
    assert!(first.contains("copied") && !second.contains("copied"));
    assert!(second.len() < first.len());
    assert!(second.ends_with("Finished, 0 sync tasks failed, 0 tasks generate failed\n"));
}

#[test]
fn g23_indexes_of_every_kind_are_copied_or_fail_in_words() {
    let mut maker = Maker::new(23);
    let bare = maker.oci(&[70]);
    let plain = Image::index(&[(&bare, None)]);
    let nested = Image::index(&[(&plain, None), (&maker.docker(&[80]), Some("linux/amd64"))]);
    let like_an_image = Image::oci_with(&bare.blobs[0], &[], json!({"mediaType": UNKNOWN}));
    let like_an_image = Image::from_bytes(UNKNOWN, like_an_image.bytes.to_vec());
    let like_nothing = Image::new(UNKNOWN, &json!({"thing": 1}));
    let file = Blob::new(UNKNOWN, "a file");
    let of_a_file = Image::index_with(
        media_type::OCI_INDEX,
        [],
        json!({"manifests": [file.descriptor()]}),
    );
    let with_strange = Image::index(&[(&bare, Some("linux/amd64")), (&like_an_image, None)]);
    let with_nothing = Image::index(&[(&bare, Some("linux/amd64")), (&like_nothing, None)]);

    let options = Options::default().bearer(Bearer::for_user("me", "secret-of-h"));
    let world = World::with(FakeRegistry::start(options));
    let tags = ["plain", "nested", "file"];
    let images = [plain, nested, of_a_file.holding([&file])];
    for (tag, image) in tags.iter().zip(&images) {
        world.h.push("ns/deep/app", tag, image);
    }
    world.h.push("ns/deep/app", "strange", &with_strange);
    world.h.push("ns/deep/app", "nothing", &with_nothing);
    let entry = |password| json!({"username": "me", "password": password, "insecure": true});
    let config = json!({
        "auth": {
            world.h.addr(): entry("wrong"),
            world.h.name("ns/deep/app"): entry("secret-of-h"),
        },
        "images": {world.h.name("ns/deep/app"): world.d.name("x/app")},
    });
    let output = world.ends(&hasty().config(config), 1, (2, 0));
    for tag in ["plain", "nested"] {
        assert_same((&world.h, "ns/deep/app", tag), (&world.d, "x/app", tag));
    }
    assert_eq!(world.d.tags("x/app").len(), tags.len());
    assert_eq!(world.d.blob("x/app", &file.digest), Some(file.bytes));
    for tag in ["strange", "nothing"] {
        let failed = format!("failed: {}:{tag} -> ", world.h.name("ns/deep/app"));
        assert_eq!(lines_with(&failed, &output), 1, "{}", output.stderr);
    }
}

const UNKNOWN: &str = "application/vnd.example.unknown";
