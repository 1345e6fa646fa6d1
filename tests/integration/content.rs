//! What is copied: manifests of every kind come through unchanged, each part of them once, and what must not be
//! copied is refused with a text that says why. Nothing wrong ever reaches a target, even one that takes anything.
//! Not here: rules (`sync`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use image_syncer::oci::manifest::media_type;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Blob, Image, Maker, with};
use crate::invariants::check_invariants;
use crate::registry::{Act, End, Entry, FakeRegistry, Fault, Habit, Kind, Nth, Options};

/// The run of one rule over all tags of `a` at the source, to `b` at the target. Its waits are short.
fn rule(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    Run::new()
        .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
        .rule(&source.name("a"), target.name("b"))
}

#[track_caller]
fn run(source: &FakeRegistry, target: &FakeRegistry, status: i32) -> Output {
    let output = rule(source, target).run().expect(status);
    check_invariants(&[source], &[target], &output);
    output
}

/// How often each digest was the subject of a request of this kind.
fn times(registry: &FakeRegistry, kind: Kind) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for entry in registry.history() {
        if entry.kind == kind {
            *times.entry(entry.digest.unwrap_or_default()).or_default() += 1;
        }
    }
    times
}

/// Asserts that each content was asked for once.
#[track_caller]
fn assert_read_once(source: &FakeRegistry) {
    for kind in [Kind::BlobGet, Kind::ManifestGet] {
        let again: Vec<_> = times(source, kind)
            .into_iter()
            .filter(|(_, times)| *times > 1)
            .collect();
        assert!(again.is_empty(), "read more than once: {again:?}");
    }
}

#[track_caller]
fn assert_says(output: &Output, words: &[&str]) {
    let failures = output.stderr.lines().filter(|l| l.contains("failed: "));
    let failures: Vec<&str> = failures.collect();
    for word in words {
        let is_said = failures.iter().any(|line| line.contains(word));
        assert!(is_said, "no {word:?} in {failures:#?}");
    }
}

#[test]
fn every_kind_of_image_arrives_unchanged_and_is_left_alone_afterwards() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let corpus = Maker::new(1).corpus();
    for (tag, image) in &corpus {
        source.push("a", tag, image);
    }
    let tags: Vec<&str> = corpus.iter().map(|(tag, _)| *tag).collect();
    let rule = rule(&source, &target);
    let output = rule.run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    assert_in_sync(&source, "a", &target, "b", &tags);
    // Read by tag or by digest: a child that has a tag of its own is read both ways.
    assert!(times(&source, Kind::BlobGet).values().all(|&n| n == 1));

    source.forget();
    target.forget();
    let output = rule.run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    let heads = |registry: &FakeRegistry| registry.count(Kind::ManifestHead);
    assert_eq!(heads(&source), tags.len());
    assert_eq!(source.total(), heads(&source) + 1);
    assert!(target.total() <= heads(&target) + 1);
    assert!(output.stderr.contains(&format!("{} unchanged", tags.len())));
}

#[test]
fn foreign_layers_are_left_out_and_a_refusal_for_lack_of_them_says_so() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let corpus = Maker::new(2).corpus();
    let image = corpus.iter().find(|(tag, _)| *tag == "foreign-layer");
    let (_, image) = image.expect("no image with a foreign layer");
    source.push("a", "v1", image);
    run(&source, &target, 0);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(times(&source, Kind::BlobGet).len(), 2);

    // One that does is told why there is nothing to be done.
    let target = FakeRegistry::new();
    let document: Value = serde_json::from_slice(&image.bytes).unwrap();
    let foreign = document["layers"][0]["digest"].as_str().unwrap();
    let body = json!({"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "unknown", "detail": foreign}]});
    let refusal = Act::Status(400, Vec::new(), body.to_string().into_bytes());
    target.fault(Fault::on(Kind::ManifestPut, refusal));
    let output = run(&source, &target, 1);
    assert_says(&output, &["foreign"]);
    assert_eq!(target.count(Kind::ManifestPut), 1);
}

#[test]
fn schema_1_is_copied_by_tag_where_the_target_takes_it() {
    let habit = Habit::DISTRIBUTION_2_SCHEMA1;
    let registry = || FakeRegistry::start(Options::default().habit(habit.clone()));
    let (source, target) = (registry(), registry());
    let mut maker = Maker::new(3);
    let layers = [maker.docker_layer(100), maker.docker_layer(120)];
    source.push(
        "a",
        "signed",
        &Image::schema1_signed("a", "signed", &layers),
    );
    let again = [layers[0].clone(), layers[0].clone()];
    source.push("a", "plain", &Image::schema1_unsigned("a", "plain", &again));
    run(&source, &target, 0);
    assert_in_sync(&source, "a", &target, "b", &["signed", "plain"]);
    source.forget();
    run(&source, &target, 0);
    assert_eq!(source.count(Kind::ManifestGet), 0);
}

#[test]
fn schema_1_that_a_target_refuses_fails_at_once_and_says_why() {
    let with_habit = |habit| FakeRegistry::start(Options::default().habit(habit));
    for habit in [Habit::DISTRIBUTION_3, Habit::DISTRIBUTION_2] {
        let source = with_habit(Habit::DISTRIBUTION_2_SCHEMA1);
        let target = with_habit(habit);
        let layers = [Maker::new(4).docker_layer(100)];
        source.push("a", "old", &Image::schema1_signed("a", "old", &layers));
        let output = run(&source, &target, 1);
        assert_eq!(output.finished(), Some((1, 0)));
        assert_says(&output, &["the target does not take manifests of schema 1"]);
        assert_eq!(target.count(Kind::ManifestPut), 1);
    }
}

#[test]
fn an_index_whose_child_the_source_lacks_fails_and_names_it() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(5);
    let sparse = maker.index(&["linux/amd64", "linux/arm64"], 50);
    source.push("a", "sparse", &sparse);
    source.push("a", "whole", &maker.oci(&[60]));
    source.remove("a", &sparse.children[1].digest);
    let output = run(&source, &target, 1);
    assert_eq!(output.finished(), Some((1, 0)));
    assert_says(&output, &["a:sparse", &sparse.children[1].digest]);
    assert_in_sync(&source, "a", &target, "b", &["whole"]);
    assert_eq!(target.tags("b"), ["whole"]);
}

#[test]
fn an_image_whose_blob_the_source_lacks_fails_and_names_it() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(6);
    let broken = maker.oci(&[50, 70]);
    source.push("a", "broken", &broken);
    source.push("a", "whole", &maker.oci(&[60]));
    source.remove("a", &broken.blobs[1].digest);
    let output = run(&source, &target, 1);
    assert_eq!(output.finished(), Some((1, 0)));
    assert_says(&output, &["a:broken", &broken.blobs[1].digest]);
    assert_eq!(target.tags("b"), ["whole"]);
    // It is read again once, in case that the tag has moved, and no more.
    let gets = |entry: &&Entry| entry.reference == "broken" && entry.method == "GET";
    assert_eq!(source.history().iter().filter(gets).count(), 2);
}

/// An index with so many entries, all of them `child`.
fn repeating(child: &Image, times: usize) -> Image {
    let entries = vec![child.descriptor(); times];
    Image::index_with(
        media_type::OCI_INDEX,
        [child],
        json!({ "manifests": entries }),
    )
}

#[test]
fn an_index_bomb_costs_one_request_for_each_digest() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut levels = vec![Maker::new(7).oci(&[40])];
    // Followed entry by entry it is 10^31 images.
    for times in [1000; 9].into_iter().chain([20_000]) {
        let level = repeating(&levels[levels.len() - 1], times);
        levels.push(level);
    }
    // Pushing each with its children would follow every entry.
    for level in &mut levels {
        level.children.clear();
        source.push_untagged("a", level);
    }
    let bomb = &levels[levels.len() - 1];
    source.push("a", "bomb", bomb);
    run(&source, &target, 0);
    assert_eq!(target.manifest("b", "bomb").unwrap().0, bomb.digest);
    for level in &levels {
        let (_, arrived) = target.manifest("b", &level.digest).unwrap();
        assert!(arrived.bytes == level.bytes);
    }
    assert_read_once(&source);
    assert_eq!(target.count(Kind::ManifestPut), levels.len());
}

#[test]
fn indexes_may_be_nested_sixteen_deep_and_no_deeper() {
    for (depth, status) in [(16, 0), (17, 1)] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut image = Maker::new(8).oci(&[40]);
        for _ in 0..depth {
            image = Image::index(&[(&image, None)]);
        }
        source.push("a", "deep", &image);
        let output = run(&source, &target, status);
        if status == 0 {
            assert_in_sync(&source, "a", &target, "b", &["deep"]);
        } else {
            assert_says(&output, &["a:deep", "nested more than 16 deep"]);
            assert_eq!(target.tags("b"), [""; 0]);
        }
    }
}

#[test]
fn content_that_a_manifest_names_many_times_is_moved_once() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(9);
    let layer = maker.layer(80);
    let config = maker.config("linux/amd64");
    source.push(
        "a",
        "same-layer",
        &Image::oci(&config, &vec![layer.clone(); 127]),
    );
    let both = Blob::new(&layer.media_type, "{}");
    source.push(
        "a",
        "config-is-layer",
        &Image::oci(&both, &[both.clone(), layer]),
    );
    run(&source, &target, 0);
    assert_in_sync(
        &source,
        "a",
        &target,
        "b",
        &["same-layer", "config-is-layer"],
    );
    assert_read_once(&source);
    assert_eq!(times(&source, Kind::BlobGet).len(), 3);
}

#[test]
fn manifests_have_a_size_limit() {
    let mut maker = Maker::new(10);
    let mut of_size = |size| {
        let layer = maker.layer(10);
        let fields = json!({"annotations": {"x": "y".repeat(size)}});
        Image::oci_with(&maker.config("linux/amd64"), &[layer], fields)
    };
    // Over 4 MiB it is tried: the registry decides.
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    source.push("a", "large", &of_size(5 << 20));
    run(&source, &target, 0);
    assert_in_sync(&source, "a", &target, "b", &["large"]);

    let refusing = FakeRegistry::new();
    refusing.fault(Fault::on(Kind::ManifestPut, Act::status(413)));
    let output = run(&source, &refusing, 1);
    assert_says(&output, &["limits the size"]);

    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    source.push("a", "huge", &of_size(8 << 20));
    source.push("a", "small", &of_size(1));
    let output = run(&source, &target, 1);
    assert_eq!(output.finished(), Some((0, 1)));
    assert_says(&output, &["a:huge", "more than 8388608 bytes"]);
    assert_eq!(target.tags("b"), ["small"]);
}

#[test]
fn manifests_that_could_be_read_in_two_ways_are_refused() {
    let mut maker = Maker::new(11);
    let image = maker.oci(&[10]);
    let document: Value = serde_json::from_slice(&image.bytes).unwrap();
    let changed = |fields| Image::new(media_type::OCI_IMAGE, &with(document.clone(), fields));
    let text = String::from_utf8(image.bytes.to_vec()).unwrap();
    let from_text = |text: String| Image::from_bytes(media_type::OCI_IMAGE, text.into_bytes());
    let index = json!([image.descriptor()]);
    let table = [
        ("both-kinds", changed(json!({ "manifests": index }))),
        (
            "other-case",
            from_text(text.replace("\"layers\"", "\"Layers\"")),
        ),
        (
            "key-twice",
            from_text(text.replacen('{', "{\"layers\": [],", 1)),
        ),
        (
            "other-type",
            changed(json!({"mediaType": media_type::OCI_INDEX})),
        ),
        ("cut", from_text(text[..text.len() - 2].to_string())),
    ];
    let (source, target) = (
        FakeRegistry::new(),
        FakeRegistry::start(Options::default().gullible()),
    );
    for (tag, bad) in table {
        source.push("a", tag, &bad.holding(&image.blobs));
    }
    source.push("a", "good", &image);
    let output = run(&source, &target, 1);
    assert_eq!(output.finished(), Some((0, 5)), "{}", output.stderr);
    assert_eq!(target.tags("b"), ["good"]);
}

#[test]
fn wrong_bytes_never_reach_a_target_that_would_take_them() {
    // What comes, and whether it is the blob in the end where it always comes like this.
    let table: [(&str, &[Act], bool); 8] = [
        ("first byte", &[Act::Flip(0)], false),
        ("last byte", &[Act::Flip(999)], false),
        ("short", &[Act::Shorten(1)], false),
        ("long", &[Act::Lengthen(1)], false),
        (
            "short, no length",
            &[Act::Shorten(1), Act::RemoveHeader("content-length")],
            false,
        ),
        (
            "long, no length",
            &[Act::Lengthen(1), Act::RemoveHeader("content-length")],
            false,
        ),
        // The rest is asked for, and is short enough to come.
        ("cut", &[Act::CutBody(500, End::Fin)], true),
        ("reset", &[Act::CutBody(500, End::Reset)], true),
    ];
    for (name, acts, heals) in table {
        for nth in [Nth::Only(1), Nth::Always] {
            let source = FakeRegistry::new();
            let target = FakeRegistry::start(Options::default().gullible());
            let mut maker = Maker::new(12);
            let image = maker.oci(&[1000]);
            source.push("a", "v1", &image);
            source.push("a", "other", &maker.oci(&[400]));
            let layer = &image.blobs[1].digest;
            for act in acts {
                source.fault(Fault::on(Kind::BlobGet, act.clone()).of(layer).nth(nth));
            }
            if heals || matches!(nth, Nth::Only(_)) {
                run(&source, &target, 0);
                assert_in_sync(&source, "a", &target, "b", &["v1", "other"]);
            } else {
                let output = run(&source, &target, 1);
                assert_eq!(target.tags("b"), ["other"], "{name}");
                assert_eq!(target.blob("b", layer), None, "{name}");
                assert_says(&output, &["a:v1", layer]);
            }
        }
    }
}

#[test]
fn a_large_blob_whose_last_byte_is_wrong_is_never_completed() {
    let source = FakeRegistry::new();
    let target = FakeRegistry::start(Options::default().gullible());
    let image = Maker::new(13).oci(&[(16 << 20) + 1]);
    source.push("a", "v1", &image);
    let layer = &image.blobs[1];
    let fault = Fault::on(Kind::BlobGet, Act::Flip(layer.size() - 1));
    source.fault(fault.of(&layer.digest).nth(Nth::Only(1)));
    run(&source, &target, 0);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    let commits = times(&target, Kind::UploadPut);
    assert_eq!(commits.get(&layer.digest), Some(&1));
}

#[test]
fn a_child_that_is_not_what_its_index_names_is_never_put() {
    for act in [Act::Flip(usize::MAX - 1), Act::Lengthen(1)] {
        let source = FakeRegistry::new();
        let target = FakeRegistry::start(Options::default().gullible());
        let image = Maker::new(14).index(&["linux/amd64", "linux/arm64"], 30);
        source.push("a", "v1", &image);
        let child = &image.children[0].digest;
        source.fault(Fault::on(Kind::ManifestGet, act).of(child));
        let output = run(&source, &target, 1);
        assert_says(&output, &["a:v1", child]);
        assert_eq!(target.manifest("b", child).map(|(digest, _)| digest), None);
        assert_eq!(target.tags("b"), [""; 0]);
    }
}
