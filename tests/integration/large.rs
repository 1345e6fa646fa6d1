//! Much of everything: tags in a repository (`IMAGE_SYNCER_SCALE` of them), layers in an image, workers. Nothing is lost
//! and nothing costs more than it has to. Not here: many images in the engine alone (`src/engine/scale.rs`), and large
//! blobs (`resume`).

use std::time::Duration;

use crate::economy::{assert_counts, sync};
use crate::harness::{Run, assert_in_sync};
use crate::image::Maker;
use crate::registry::{FakeRegistry, Kind};

use Kind::{BlobGet, ManifestGet, ManifestHead, ManifestPut, TagsList, UploadPost, UploadPut};

#[test]
fn many_tags_are_listed_in_pages_and_asked_for_once_each() {
    let scale = std::env::var("IMAGE_SYNCER_SCALE").ok();
    let count = scale.and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let image = Maker::new(90).oci(&[100]);
    let tags: Vec<String> = (0..count).map(|number| format!("v{number:05}")).collect();
    for tag in &tags {
        source.push("a", tag, &image);
        target.push("b", tag, &image);
    }
    // One that is new, on the last page.
    source.push("a", "w", &Maker::new(91).oci(&[100]));
    let run = Run::new()
        .rule(&source.name("a"), target.name("b"))
        .arg("--proc=16")
        .within(Duration::from_mins(2));
    let output = run.run();
    output.expect(0);
    let read = [
        (TagsList, count / 1000 + 1),
        (ManifestHead, tags.len()),
        (ManifestGet, 1),
        (BlobGet, 2),
    ];
    assert_counts(&source, &read, "source");
    assert_eq!(target.count(ManifestHead), tags.len());
    assert_eq!(target.count(ManifestPut), 1);
    assert_in_sync(&source, "a", &target, "b", &["v00000", "v01999", "w"]);
}

#[test]
fn an_image_of_127_layers_arrives_whole() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    source.push("a", "v1", &Maker::new(92).oci(&[200; 127]));
    let run = Run::new()
        .rule(&source.name("a"), target.name("b"))
        .arg("--proc=16");
    sync(&run, &[&source], &[&target]);
    let read = [(TagsList, 1), (ManifestGet, 1), (BlobGet, 128)];
    assert_counts(&source, &read, "source");
    let written = [
        (TagsList, 1),
        (UploadPost, 128),
        (UploadPut, 128),
        (ManifestPut, 1),
    ];
    assert_counts(&target, &written, "target");
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
}

#[test]
fn with_256_workers_nothing_is_done_twice() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(93);
    let tags: Vec<String> = (0..200).map(|number| format!("v{number}")).collect();
    for tag in &tags {
        source.push("a", tag, &maker.oci(&[100]));
    }
    let run = Run::new()
        .rule(&source.name("a"), target.name("b"))
        .arg("--proc=256");
    sync(&run, &[&source], &[&target]);
    let read = [(TagsList, 1), (ManifestGet, 200), (BlobGet, 400)];
    assert_counts(&source, &read, "source");
    let written = [
        (TagsList, 1),
        (UploadPost, 400),
        (UploadPut, 400),
        (ManifestPut, 200),
    ];
    assert_counts(&target, &written, "target");
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    assert_in_sync(&source, "a", &target, "b", &tags);
}
