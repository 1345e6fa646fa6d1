//! What a rule can say, from the file to the registries: digests, lists, patterns, and what each costs. Not here: the
//! syntax of rules and their mistakes (unit tests of `config`).

use Kind::{BlobGet, ManifestGet, ManifestHead, ManifestPut, TagsList, UploadPost, UploadPut};

use crate::economy::{assert_counts, one_worker, sync};
use crate::harness::{assert_in_sync, assert_same};
use crate::image::Maker;
use crate::registry::{FakeRegistry, Kind};

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
