//! What a rule can say, from the file to the registries: digests, lists, patterns, and what each costs. Not here: the
//! syntax of rules and their mistakes (unit tests of `config`).

use Kind::{
    BlobGet, Catalog, ManifestGet, ManifestHead, ManifestPut, TagsList, UploadPost, UploadPut,
};

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::economy::{assert_counts, one_worker, sync, with_habit};
use crate::harness::{assert_in_sync, assert_same};
use crate::image::{Blob, Image, Maker};
use crate::registry::{Act, FakeRegistry, Fault, Habit, Kind, Nth};

#[test]
fn a_digest_is_copied_by_itself_or_under_a_tag() {
    // (source, target, what it is called there); D stands for the digest.
    for (source_name, target_name, expected) in [
        ("a@D", "b", "D"),
        ("a@D", "b@D", "D"),
        ("a@D", "b:v2", "v2"),
        ("a@D", "b:v2@D", "v2"),
        ("a:v1@D", "b", "v1"),
        ("a:v1@D", "b:v2", "v2"),
        ("a:v1@D", "b@D", "D"),
    ] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(1);
        let image = maker.index(&["linux/amd64", "linux/arm64"], 100);
        source.push_untagged("a", &image);
        // What the tag is now does not matter.
        source.push("a", "v1", &maker.oci(&[50]));
        let with_digest = |text: &str| text.replace('D', &image.digest);
        let run = one_worker().rule(
            &with_digest(&source.name(source_name)),
            with_digest(&target.name(target_name)),
        );
        let case = format!("{source_name} -> {target_name}");
        sync(&run, &[&source], &[&target]);
        let name = with_digest(expected);
        assert_same((&source, "a", &image.digest), (&target, "b", &name));
        let tags = target.tags("b");
        assert_eq!(tags.len(), usize::from(expected != "D"), "{case}: {tags:?}");
        let read = [(ManifestGet, 3), (BlobGet, 5)];
        assert_counts(&source, &read, &case);

        // A digest cannot have changed: only the target is asked.
        sync(&run, &[&source], &[&target]);
        assert_counts(&source, &[], &case);
        assert_counts(&target, &[(ManifestHead, 1)], &case);
    }
}

#[test]
fn a_digest_that_the_source_lacks_fails_alone() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(2);
    let (image, absent) = (maker.oci(&[10]), maker.oci(&[20]));
    source.push("a", "v1", &image);
    let run = one_worker()
        .rule(
            &source.name(&format!("a@{}", absent.digest)),
            target.name("b"),
        )
        .rule(&source.name("a:v1"), target.name("b"));
    let output = run.run().expect(1);
    assert_eq!(output.finished(), Some((0, 1)));
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
}

#[test]
fn a_rule_waits_for_the_digest_that_another_one_brings() {
    for middle_name in ["m", "m:v1"] {
        let [source, middle, target] = [(); 3].map(|()| FakeRegistry::new());
        let image = Maker::new(3).oci(&[10]);
        source.push("a", "v1", &image);
        let digest = &image.digest;
        let run = one_worker()
            .rule(&middle.name(&format!("m@{digest}")), target.name("b:v1"))
            .rule(
                &source.name(&format!("a@{digest}")),
                middle.name(middle_name),
            );
        sync(&run, &[&source, &middle], &[&middle, &target]);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
    }
}

#[test]
fn tag_lists_are_mapped_one_to_one_at_no_further_cost() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(4);
    for tag in ["x", "y", "z"] {
        source.push("a", tag, &maker.oci(&[10]));
    }
    let run = one_worker().rule(&source.name("a:x,y,z"), target.name("b:1,2,3"));
    sync(&run, &[&source], &[&target]);
    for (tag, name) in [("x", "1"), ("y", "2"), ("z", "3")] {
        assert_same((&source, "a", tag), (&target, "b", name));
    }
    assert_eq!(target.tags("b"), ["1", "2", "3"]);
    assert_counts(&source, &[(ManifestGet, 3), (BlobGet, 6)], "source");
    let asked = target.count(ManifestHead);
    let written = [
        (ManifestHead, asked),
        (TagsList, 1),
        (UploadPost, 6),
        (UploadPut, 6),
        (ManifestPut, 3),
    ];
    assert!((1..=3).contains(&asked), "{asked}");
    assert_counts(&target, &written, "target");
}

#[test]
fn tags_that_are_swapped_in_one_repository_are_a_circle() {
    let registry = FakeRegistry::new();
    let mut maker = Maker::new(5);
    registry.push("a", "x", &maker.oci(&[10]));
    registry.push("a", "y", &maker.oci(&[20]));
    let run = one_worker().rule(&registry.name("a:x,y"), registry.name("a:y,x"));
    let output = run.run().expect(1);
    assert!(
        output.stderr.contains("rules feed each other in a circle"),
        "{}",
        output.stderr
    );
}

/// A repository `a` of a registry of its own with these tags, each another image of two blobs.
fn with_tags(tags: &str) -> FakeRegistry {
    let registry = FakeRegistry::new();
    let mut maker = Maker::new(6);
    for tag in tags.split(' ') {
        registry.push("a", tag, &maker.oci(&[10]));
    }
    registry
}

const TAGS: &str = "1.0.0 1.1.0 1.2.0 1.2.0-alpine 1.3.0-rc1 latest v1.3.0 v2.0.0";

#[test]
fn chosen_tags_cost_one_list_of_each_side_and_the_others_nothing() {
    for (name, tags, expected) in [
        ("a:/^v/", Value::Null, "v1.3.0 v2.0.0"),
        ("a:/1.2/", Value::Null, "1.2.0 1.2.0-alpine"),
        ("a", json!({"allow": ["v1.*", "latest"]}), "latest v1.3.0"),
        (
            "a",
            json!({"semver": ">=1.2, <2"}),
            "1.2.0 1.2.0-alpine v1.3.0",
        ),
        (
            "a",
            json!({"semver": ">=1", "deny": "/-/", "latest": 2}),
            "v1.3.0 v2.0.0",
        ),
        ("a", json!({"latest": 1, "min": 2}), "1.2.0-alpine v2.0.0"),
    ] {
        let (source, target) = (with_tags(TAGS), FakeRegistry::new());
        let run = one_worker().rule(
            &source.name(name),
            json!({"to": target.name("b"), "tags": tags}),
        );
        let case = format!("{name} {tags}");
        sync(&run, &[&source], &[&target]);
        assert_eq!(target.tags("b").join(" "), expected, "{case}");
        let expected: Vec<&str> = expected.split(' ').collect();
        assert_in_sync(&source, "a", &target, "b", &expected);
        let count = expected.len();
        let read = [(TagsList, 1), (ManifestGet, count), (BlobGet, 2 * count)];
        assert_counts(&source, &read, &case);
        let written = [
            (TagsList, 1),
            (UploadPost, 2 * count),
            (UploadPut, 2 * count),
            (ManifestPut, count),
        ];
        assert_counts(&target, &written, &case);

        // The records name all of them, which spares the list at the target.
        sync(&run, &[&source], &[&target]);
        assert_counts(&source, &[(TagsList, 1), (ManifestHead, count)], &case);
        assert_counts(&target, &[(ManifestHead, count)], &case);
    }
}

#[test]
fn rules_that_choose_of_one_repository_share_its_list_and_its_images() {
    let (source, target) = (with_tags(TAGS), FakeRegistry::new());
    let run = one_worker()
        .rule(&source.name("a:/^1.2/"), target.name("b"))
        .rule(
            &source.name("a"),
            json!({"to": [target.name("b"), target.name("c")], "tags": {"deny": "/[^0-9.]/"}}),
        );
    sync(&run, &[&source], &[&target]);
    assert_eq!(
        target.tags("b"),
        ["1.0.0", "1.1.0", "1.2.0", "1.2.0-alpine"]
    );
    assert_eq!(target.tags("c"), ["1.0.0", "1.1.0", "1.2.0"]);
    assert_counts(
        &source,
        &[(TagsList, 1), (ManifestGet, 4), (BlobGet, 8)],
        "source",
    );
}

#[test]
fn a_rule_with_too_few_tags_fails_and_says_why() {
    for (name, tags, cause) in [
        (
            "a:/^x/",
            Value::Null,
            "the rule wants 0 of 8 tags: 8 unmatched; it must be 1 at least",
        ),
        (
            "a",
            json!({"allow": "1.*", "semver": "1", "deny": "*.0.0", "latest": 1, "min": 3}),
            "the rule wants 2 of 8 tags: 3 unmatched, 1 out of range, 1 denied, 1 not among the latest; it must be 3 \
             at least",
        ),
    ] {
        let (source, target) = (with_tags(TAGS), FakeRegistry::new());
        let run = one_worker()
            .rule(
                &source.name(name),
                json!({"to": target.name("b"), "tags": tags}),
            )
            .rule(&source.name("a:latest"), target.name("c"));
        let output = run.run().expect(1);
        assert_eq!(output.finished(), Some((0, 1)), "{name}");
        let last = output.stderr.split("failed: ").last().unwrap_or_default();
        assert!(last.contains(cause), "{}", output.stderr);
        assert_eq!(target.tags("b"), [""; 0], "{name}");
        assert_in_sync(&source, "a", &target, "c", &["latest"]);
    }
}

#[test]
fn a_rule_may_be_content_with_no_tag() {
    let (source, target) = (with_tags(TAGS), FakeRegistry::new());
    let empty = json!({"allow": "x*", "min": 0});
    let run = one_worker().rule(
        &source.name("a"),
        json!({"to": target.name("b"), "tags": empty}),
    );
    sync(&run, &[&source], &[&target]);
    assert_counts(&source, &[(TagsList, 1)], "source");
    assert_counts(&target, &[], "target");
}

#[test]
fn tags_of_a_layout_are_chosen_too() {
    let source = with_tags("v1 v2 w1");
    let target = FakeRegistry::new();
    let out = one_worker().rule(&source.name("a"), "oci:layout");
    sync(&out, &[&source], &[]);
    let back = out.config(json!({"images": {
        "oci:layout": {"to": target.name("b"), "tags": {"allow": "v*"}},
    }}));
    sync(&back, &[], &[&target]);
    assert_eq!(target.tags("b"), ["v1", "v2"]);
}

/// A time so many hours ago, as images write it.
fn hours_ago(hours: u64) -> String {
    let time = SystemTime::now() - Duration::from_secs(hours * 3600);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// An image whose config has these fields and whose manifest has those.
fn image_that_says(config: &Value, manifest: Value) -> Image {
    let config_type = "application/vnd.oci.image.config.v1+json";
    Image::oci_with(&Blob::new(config_type, config.to_string()), &[], manifest)
}

/// `a` with an image for each way of saying when it was made: the name ends with the hours since then.
fn dated_tags() -> FakeRegistry {
    let registry = FakeRegistry::new();
    let annotated = |hours| {
        let created = json!({"org.opencontainers.image.created": hours_ago(hours)});
        json!({ "annotations": created })
    };
    let made = |hours: u64| image_that_says(&json!({"created": hours_ago(hours)}), json!({}));
    let child = made(3);
    let attestation = image_that_says(&json!({}), json!({"n": 1}));
    registry.push("a", "z-100", &made(100));
    registry.push("a", "config-1", &made(1));
    registry.push(
        "a",
        "annotation-2",
        &image_that_says(&json!({"created": hours_ago(90)}), annotated(2)),
    );
    registry.push(
        "a",
        "index-3",
        &Image::index(&[
            (&attestation, Some("unknown/unknown")),
            (&child, Some("linux/amd64")),
        ]),
    );
    registry.push(
        "a",
        "undated",
        &image_that_says(&json!({}), json!({"n": 2})),
    );
    registry
}

#[test]
fn tags_are_chosen_by_their_age_and_each_digest_is_read_for_it_once_ever() {
    for (tags, expected) in [
        (
            json!({"newer_than": "24h"}),
            "annotation-2 config-1 index-3",
        ),
        (
            json!({"latest": 3, "latest_by": "created"}),
            "annotation-2 config-1 index-3",
        ),
        (
            json!({"deny": "c*", "newer_than": "7d", "latest": 1, "latest_by": "created"}),
            "annotation-2",
        ),
        // By the name: the date is a condition only.
        (json!({"newer_than": "24h", "latest": 1}), "index-3"),
    ] {
        let (source, target) = (dated_tags(), FakeRegistry::new());
        let run = one_worker().rule(
            &source.name("a"),
            json!({"to": target.name("b"), "tags": tags}),
        );
        let case = tags.to_string();
        sync(&run, &[&source], &[&target]);
        assert_eq!(target.tags("b").join(" "), expected, "{case}");
        let candidates = if tags.get("deny").is_some() { 4 } else { 5 };
        assert_eq!(source.count(ManifestHead), candidates, "{case}");

        // The digests are known, and the images are what was asked for already: nothing is read.
        sync(&run, &[&source], &[&target]);
        let asked = [(TagsList, 1), (ManifestHead, candidates)];
        assert_counts(&source, &asked, &case);
        let chosen = expected.split(' ').count();
        assert_counts(&target, &[(ManifestHead, chosen)], &case);

        // A tag that moved is asked for its new digest, and for nothing else.
        source.push(
            "a",
            "undated",
            &image_that_says(&json!({"created": "2001-01-01T00:00:00Z"}), json!({})),
        );
        sync(&run, &[&source], &[&target]);
        let asked = [
            (TagsList, 1),
            (ManifestHead, candidates),
            (ManifestGet, 1),
            (BlobGet, 1),
        ];
        assert_counts(&source, &asked, &case);
    }
}

#[test]
fn a_date_that_cannot_be_had_fails_the_rule_until_it_can() {
    let run_with = |retries: &str, fault: Fault| {
        let (source, target) = (dated_tags(), FakeRegistry::new());
        source.fault(fault);
        let run = one_worker()
            .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
            .arg(retries)
            .rule(
                &source.name("a"),
                json!({"to": target.name("b"), "tags": {"newer_than": "24h"}}),
            )
            .rule(&source.name("a:z-100"), target.name("b"));
        let output = run.run();
        (output, target.tags("b").len())
    };
    let reads = Fault::on(ManifestGet, Act::status(500)).of("config-1");
    let (output, count) = run_with("--retries=0", reads.clone().nth(Nth::UpTo(5)));
    let output = output.expect(1);
    assert_eq!((output.finished(), count), (Some((0, 1)), 1));
    assert!(
        output.stderr.contains("failed to find out when"),
        "{}",
        output.stderr
    );
    let (output, count) = run_with("--retries=1", reads.nth(Nth::UpTo(5)));
    output.expect(0);
    assert_eq!(count, 4);
}

/// Repositories of one image, `v1`, each with its own.
fn with_repositories(registry: &FakeRegistry, names: &[&str]) {
    let mut maker = Maker::new(7);
    for name in names {
        registry.push(name, "v1", &maker.oci(&[10]));
    }
}

fn repositories(registry: &FakeRegistry) -> Vec<String> {
    registry.with_state(|state| state.repositories.keys().cloned().collect())
}

#[test]
fn a_namespace_is_copied_with_the_rest_of_each_path() {
    // Pages of two: the registry has more than one list can hold.
    let pages = Habit {
        max_page: Some(2),
        ..Habit::DISTRIBUTION_3
    };
    for (habit, lists) in [(pages, 4), (Habit::DISTRIBUTION_2, 1)] {
        for (levels, expected) in [("*", &["m/x", "m/y"][..]), ("**", &["m/d/z", "m/x", "m/y"])] {
            let (source, target) = (with_habit(habit.clone()), FakeRegistry::new());
            with_repositories(
                &source,
                &["a", "n/d/z", "n/x", "n/y", "nn/x", "other/n/x", "z"],
            );
            let run = one_worker().rule(&source.name(&format!("n/{levels}")), target.name("m"));
            let case = format!("{} {levels}", habit.name);
            sync(&run, &[&source], &[&target]);
            assert_eq!(repositories(&target), expected, "{case}");
            for name in expected {
                let from = name.replacen('m', "n", 1);
                assert_in_sync(&source, &from, &target, name, &["v1"]);
            }
            let count = expected.len();
            let read = [
                (Catalog, lists),
                (TagsList, count),
                (ManifestGet, count),
                (BlobGet, 2 * count),
            ];
            assert_counts(&source, &read, &case);

            sync(&run, &[&source], &[&target]);
            let asked = [(Catalog, lists), (TagsList, count), (ManifestHead, count)];
            assert_counts(&source, &asked, &case);
            assert_counts(&target, &[(ManifestHead, count)], &case);
        }
    }
}

#[test]
fn a_namespace_goes_by_the_tags_that_its_rule_chooses() {
    let (source, target) = (with_tags("v1 v2"), FakeRegistry::new());
    let mut maker = Maker::new(8);
    for (name, tag) in [("n/x", "v1"), ("n/x", "w1"), ("n/y", "w1")] {
        source.push(name, tag, &maker.oci(&[10]));
    }
    let run = one_worker().rule(
        &source.name("n/*"),
        json!({"to": target.name("m"), "tags": {"allow": "v*", "min": 0}}),
    );
    sync(&run, &[&source], &[&target]);
    assert_eq!(repositories(&target), ["m/x"]);
    assert_eq!(target.tags("m/x"), ["v1"]);
}

#[test]
fn a_namespace_can_be_carried_in_layouts() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    with_repositories(&source, &["n/x", "n/d/y"]);
    let out = one_worker().rule(&source.name("n/**"), "oci:usb");
    sync(&out, &[&source], &[]);
    let back = out.config(json!({"images": {
        "oci:usb/x": target.name("m/x"),
        "oci:usb/d/y": target.name("m/y"),
    }}));
    sync(&back, &[], &[&target]);
    assert_in_sync(&source, "n/x", &target, "m/x", &["v1"]);
    assert_in_sync(&source, "n/d/y", &target, "m/y", &["v1"]);
}

#[test]
fn a_registry_that_lists_nothing_fails_the_rule_and_says_what_to_write() {
    let (source, target) = (with_habit(Habit::GHCR), FakeRegistry::new());
    with_repositories(&source, &["n/x"]);
    let run = one_worker()
        .rule(&source.name("n/*"), target.name("m"))
        .rule(&source.name("n/x"), target.name("m/x"));
    let output = run.run().expect(1);
    assert_eq!(output.finished(), Some((0, 1)));
    let cause = "does not list its repositories (404 Not Found); write a rule for each";
    let last = output.stderr.split("failed: ").last().unwrap_or_default();
    assert!(last.contains(cause), "{}", output.stderr);
    assert_in_sync(&source, "n/x", &target, "m/x", &["v1"]);

    let empty = FakeRegistry::new();
    with_repositories(&empty, &["other/x"]);
    let run = one_worker().rule(&empty.name("n/*"), target.name("m"));
    let output = run.run().expect(1);
    assert_eq!(output.finished(), Some((0, 1)));
    let cause = "none of the 1 that the registry lists is there";
    assert!(output.stderr.contains(cause), "{}", output.stderr);
}

#[test]
fn a_catalog_that_fails_is_asked_for_again_in_the_next_pass() {
    for (retries, status, copied) in [(0, 1, 0), (1, 0, 2)] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        with_repositories(&source, &["n/x", "n/y"]);
        source.fault(Fault::on(Catalog, Act::status(500)).nth(Nth::UpTo(5)));
        let run = one_worker()
            .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
            .arg(format!("--retries={retries}"))
            .rule(&source.name("n/*"), target.name("m"));
        let output = run.run().expect(status);
        assert_eq!(repositories(&target).len(), copied);
        assert_eq!(output.finished(), Some((0, usize::from(status != 0))));
    }
}

#[test]
fn what_other_rules_bring_into_a_namespace_belongs_to_it() {
    // A chain of three, in each order of the file.
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
        let [source, first, second, target] = [(); 4].map(|()| FakeRegistry::new());
        with_repositories(&source, &["a"]);
        with_repositories(&first, &["n/old"]);
        let rules = [
            (source.name("a"), first.name("n/new")),
            (first.name("n/*"), second.name("m")),
            (second.name("m/new"), target.name("end")),
        ];
        let rules = order.map(|number| {
            let (from, to) = &rules[number];
            format!("{from:?}: {to:?}")
        });
        let run = one_worker().config(format!("{{\"images\": {{{}}}}}", rules.join(",\n")));
        sync(&run, &[&source], &[&first, &second, &target]);
        assert_eq!(repositories(&second), ["m/new", "m/old"], "{order:?}");
        assert_in_sync(&source, "a", &target, "end", &["v1"]);
        assert_eq!(first.count(Catalog), 1, "{order:?}");
    }
}

#[test]
fn of_a_namespace_and_a_rule_for_one_tag_the_later_in_the_file_fails() {
    for namespace_first in [true, false] {
        let [one, other, target] = [(); 3].map(|()| FakeRegistry::new());
        one.push("n/x", "v1", &Maker::new(9).oci(&[10]));
        other.push("a", "v1", &Maker::new(10).oci(&[10]));
        let namespace = format!("{:?}: {:?}", one.name("n/*"), target.name("m"));
        let single = format!("{:?}: {:?}", other.name("a:v1"), target.name("m/x"));
        let rules = if namespace_first {
            [namespace, single]
        } else {
            [single, namespace]
        };
        let run = one_worker().config(format!("{{\"images\": {{{}}}}}", rules.join(",\n")));
        let output = run.run().expect(1);
        assert_eq!(output.finished(), Some((1, 0)), "{}", output.stderr);
        let (winner, repository) = if namespace_first {
            (&one, "n/x")
        } else {
            (&other, "a")
        };
        assert_same((winner, repository, "v1"), (&target, "m/x", "v1"));
    }
}

#[test]
fn namespaces_that_feed_each_other_are_a_circle() {
    let (one, other, target) = (
        FakeRegistry::new(),
        FakeRegistry::new(),
        FakeRegistry::new(),
    );
    with_repositories(&one, &["n/x"]);
    with_repositories(&other, &["n/y"]);
    let run = one_worker()
        .rule(&one.name("n/*"), other.name("n"))
        .rule(&other.name("n/*"), one.name("n"))
        .rule(&one.name("n/x"), target.name("x"));
    let output = run.run().expect(1);
    assert_eq!(output.finished(), Some((0, 2)), "{}", output.stderr);
    let told = output.stderr.matches("ERROR failed: ").count();
    assert_eq!(told, 2, "{}", output.stderr);
    assert_in_sync(&one, "n/x", &target, "x", &["v1"]);
}
