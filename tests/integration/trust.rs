//! `--trust-records`: a tag that the records saw lately is not asked for at its target, as long as its source has not
//! changed. Not here: what records are good for without it (`economy`), and damaged ones (`records`).

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::economy::{assert_counts, one_worker, sync};
use crate::harness::{Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::registry::FakeRegistry;
use crate::registry::Kind::{
    BlobGet, BlobHead, ManifestGet, ManifestHead, ManifestPut, TagsList, UploadPost, UploadPut,
};

const K: usize = 4;

/// A repository of some images, copied to another registry by a run with records.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
    maker: Maker,
    run: Run,
}

impl World {
    fn new(count: usize) -> Self {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(21);
        for number in 0..count {
            source.push("a", &format!("v{number}"), &maker.oci(&[100]));
        }
        let run = one_worker().rule(&source.name("a"), target.name("b"));
        sync(&run, &[&source], &[&target]);
        let run = run.arg("--trust-records=12h");
        Self {
            source,
            target,
            maker,
            run,
        }
    }

    /// Runs with trust; gives the tags that were recorded by it.
    #[track_caller]
    fn sync(&self) -> Vec<Value> {
        let output = sync(&self.run, &[&self.source], &[&self.target]);
        let records = output.new_records().into_iter();
        records.filter(|record| record["kind"] == "image").collect()
    }

    /// A new image for a tag of the source.
    fn move_tag(&mut self, tag: &str) -> Image {
        let image = self.maker.oci(&[100]);
        self.source.push("a", tag, &image);
        image
    }

    /// Changes the times of all records.
    fn set_times(&self, time: &Value) {
        let path = self.run.path("records");
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            if record["kind"] == "image" {
                record["time"] = time.clone();
            }
            format!("{record}\n")
        });
        fs::write(&path, lines.collect::<String>()).unwrap();
    }
}

#[test]
fn a_hundred_unchanged_images_cost_101_requests() {
    let world = World::new(100);
    assert_eq!(world.sync(), [] as [Value; 0]);
    let read = [(TagsList, 1), (ManifestHead, 100)];
    assert_counts(&world.source, &read, "source");
    assert_counts(&world.target, &[], "target");
}

#[test]
fn only_a_time_within_the_duration_vouches_and_is_not_prolonged_by_that() {
    const HOUR: Duration = Duration::from_hours(1);
    let now = SystemTime::now();
    let time = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string().into();
    for (time, vouches) in [
        (time(now - 11 * HOUR), true),
        (time(now - 13 * HOUR), false),
        (time(now + HOUR), false),
        (time(SystemTime::UNIX_EPOCH), false),
        ("soon".into(), false),
        ("".into(), false),
    ] {
        let world = World::new(K);
        world.set_times(&time);
        let asked = if vouches { 0 } else { K };
        // What was asked for is recorded, with the time of that.
        assert_eq!(world.sync().len(), asked, "{time}");
        assert_eq!(world.target.count(ManifestHead), asked, "{time}");
        assert_eq!(world.target.total(), asked, "{time}");
        assert_eq!(world.sync().len(), 0, "{time}");
        assert_eq!(world.target.total(), 0, "{time}");
    }
}

#[test]
fn a_tag_that_moved_at_the_source_is_asked_for_and_copied() {
    let mut world = World::new(K);
    world.move_tag("v1");
    assert_eq!(world.sync().len(), 1);
    let read = [
        (TagsList, 1),
        (ManifestHead, K),
        (ManifestGet, 1),
        (BlobGet, 2),
    ];
    assert_counts(&world.source, &read, "source");
    // One HEAD and one POST are for learning to self-mount.
    let written = [
        (ManifestHead, 1),
        (BlobHead, 1),
        (UploadPost, 2 + 1),
        (UploadPut, 2),
        (ManifestPut, 1),
    ];
    assert_counts(&world.target, &written, "target");
    assert_in_sync(&world.source, "a", &world.target, "b", &["v0", "v1"]);
}

#[test]
fn a_tag_that_moved_on_both_sides_is_asked_for_and_not_read() {
    let mut world = World::new(K);
    let image = world.move_tag("v1");
    world.target.push("b", "v1", &image);
    assert_eq!(world.sync().len(), 1);
    let read = [(TagsList, 1), (ManifestHead, K)];
    assert_counts(&world.source, &read, "source");
    assert_counts(&world.target, &[(ManifestHead, 1)], "target");
    world.sync();
    assert_counts(&world.target, &[], "recorded");
}

#[test]
fn a_target_without_records_is_asked_beside_one_that_is_trusted() {
    let mut world = World::new(K);
    let other = FakeRegistry::new();
    let targets = [world.target.name("b"), other.name("b")];
    world.run = world.run.rule(&world.source.name("a"), targets.to_vec());
    sync(&world.run, &[&world.source], &[&world.target, &other]);
    assert_counts(&world.target, &[], "trusted");
    let written = [
        (TagsList, 1),
        (UploadPost, 2 * K),
        (UploadPut, 2 * K),
        (ManifestPut, K),
    ];
    assert_counts(&other, &written, "new");
    // Both are trusted now; what moved is read once for both.
    world.move_tag("v1");
    sync(&world.run, &[&world.source], &[&world.target, &other]);
    assert_eq!(world.source.count(BlobGet), 2);
    for target in [&world.target, &other] {
        assert_eq!(target.count(ManifestHead) + target.count(TagsList), 1);
        assert_in_sync(&world.source, "a", target, "b", &["v0", "v1"]);
    }
}

#[test]
fn what_somebody_else_removed_is_noticed_without_trust() {
    let world = World::new(K);
    let remove = |state: &mut crate::registry::State| {
        state.repositories.get_mut("b").unwrap().tags.remove("v0");
    };
    world.target.with_state(remove);
    world.sync();
    assert_counts(&world.target, &[], "trusted");
    assert!(world.target.manifest("b", "v0").is_none());
    let run = one_worker().rule(&world.source.name("a"), world.target.name("b"));
    let run = run.file("records", fs::read(world.run.path("records")).unwrap());
    sync(&run, &[&world.source], &[&world.target]);
    assert_in_sync(&world.source, "a", &world.target, "b", &["v0", "v1"]);
}

#[test]
fn a_layout_is_always_looked_at() {
    let world = World::new(1);
    let run = one_worker()
        .arg("--trust-records=12h")
        .rule(&world.source.name("a"), "oci:out");
    for _ in 0..2 {
        let output = sync(&run, &[&world.source], &[]);
        assert!(output.stderr.contains(" copied "), "{}", output.stderr);
        fs::remove_dir_all(run.path("out")).unwrap();
    }
}
