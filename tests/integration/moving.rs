//! Things that move while they are copied: tags, images that are deleted, other writers at the target, tags that may
//! not be moved, and rules that feed rules. Not here: broken connections and servers.

use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync, assert_same};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Entry, FakeRegistry, Fault, Kind, Nth};

/// A run whose waits are short.
fn hasty() -> Run {
    Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.01")
}

/// The run of one rule, `a:v1` at the source to `b` at each target.
fn rule(source: &FakeRegistry, targets: &[&FakeRegistry]) -> Run {
    let targets: Vec<String> = targets.iter().map(|target| target.name("b")).collect();
    hasty().rule(&source.name("a:v1"), json!(targets))
}

#[track_caller]
fn run(source: &FakeRegistry, targets: &[&FakeRegistry], status: i32) -> Output {
    let output = rule(source, targets).run().expect(status);
    check_invariants(&[source], targets, &output);
    output
}

/// An image under `a:v1` at a new source, and the one that `a:v1` will be, which is there already.
fn source_of_two(seed: u64) -> (FakeRegistry, Image, Image) {
    let source = FakeRegistry::new();
    let mut maker = Maker::new(seed);
    let (old, new) = (maker.oci(&[300]), maker.oci(&[400]));
    source.push("a", "v1", &old);
    source.push_untagged("a", &new);
    (source, old, new)
}

fn move_tag(image: &Image) -> Act {
    Act::MoveTag("a".to_string(), "v1".to_string(), image.digest.clone())
}

fn puts_of(target: &FakeRegistry, image: &Image) -> usize {
    let is_put = |entry: &&Entry| {
        entry.kind == Kind::ManifestPut && entry.digest.as_ref() == Some(&image.digest)
    };
    target.history().iter().filter(is_put).count()
}

#[test]
fn of_a_tag_that_moves_between_head_and_get_what_was_got_counts() {
    let (source, old, new) = source_of_two(1);
    let target = FakeRegistry::new();
    // Something else is there, so that the source is asked by HEAD first.
    target.push("b", "v1", &Maker::new(2).oci(&[10]));
    source.fault(Fault::on(Kind::ManifestGet, move_tag(&new)).of("v1"));
    let output = run(&source, &[&target], 0);
    assert_eq!(source.count(Kind::ManifestHead), 1);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(target.tags("b"), ["v1"]);
    assert_eq!(puts_of(&target, &old), 0);
    for digest in [&old.digest, &new.digest] {
        assert!(output.stderr.contains(digest), "{digest} is not told");
    }
}

#[test]
fn a_tag_that_moves_after_it_was_read_is_what_it_was() {
    let (source, old, new) = source_of_two(3);
    let target = FakeRegistry::new();
    source.fault(Fault::on(Kind::BlobGet, move_tag(&new)).nth(Nth::Only(1)));
    run(&source, &[&target], 0);
    assert_eq!(target.manifest("b", "v1").unwrap().0, old.digest);
    // The next run brings the new one.
    run(&source, &[&target], 0);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
}

#[test]
fn an_image_that_is_replaced_and_deleted_meanwhile_is_read_once_more() {
    for number_of_targets in [1, 2] {
        let (source, old, new) = source_of_two(4);
        let targets = [FakeRegistry::new(), FakeRegistry::new()];
        let targets: Vec<&FakeRegistry> = targets.iter().take(number_of_targets).collect();
        let layer = &old.blobs[1].digest;
        let gone = Act::Gc("a".to_string(), layer.clone());
        for act in [move_tag(&new), gone] {
            source.fault(Fault::on(Kind::BlobGet, act).of(layer));
        }
        run(&source, &targets, 0);
        for target in targets {
            assert_in_sync(&source, "a", target, "b", &["v1"]);
            assert_eq!(target.manifest("b", "v1").unwrap().0, new.digest);
            assert_eq!(puts_of(target, &old), 0);
        }
    }
}

#[test]
fn an_index_that_is_replaced_and_loses_a_child_meanwhile_is_read_once_more() {
    let source = FakeRegistry::new();
    let target = FakeRegistry::new();
    let mut maker = Maker::new(5);
    let platforms = ["linux/amd64", "linux/arm64"];
    let (old, new) = (maker.index(&platforms, 30), maker.index(&platforms, 40));
    source.push("a", "v1", &old);
    source.push_untagged("a", &new);
    let child = &old.children[1].digest;
    let gone = Act::Gc("a".to_string(), child.clone());
    for act in [move_tag(&new), gone] {
        source.fault(Fault::on(Kind::ManifestGet, act).of(child));
    }
    run(&source, &[&target], 0);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(puts_of(&target, &old), 0);
}

#[test]
fn an_image_whose_blob_is_gone_for_good_fails_and_its_manifest_is_never_put() {
    let (source, old, _) = source_of_two(6);
    let target = FakeRegistry::new();
    let layer = &old.blobs[1].digest;
    let gone = Act::Gc("a".to_string(), layer.clone());
    source.fault(Fault::on(Kind::BlobGet, gone).of(layer));
    let output = run(&source, &[&target], 1);
    assert_eq!(output.finished(), Some((1, 0)));
    assert!(output.stderr.contains(layer), "{}", output.stderr);
    assert_eq!(target.count(Kind::ManifestPut), 0);
    assert_eq!(source.count(Kind::ManifestGet), 2);
}

#[test]
fn an_image_that_is_deleted_with_its_tag_fails_alone() {
    let (source, old, _) = source_of_two(7);
    source.push("a", "v2", &Maker::new(8).oci(&[20]));
    let target = FakeRegistry::new();
    for digest in [&old.blobs[1].digest, &old.digest] {
        let gone = Act::Gc("a".to_string(), digest.clone());
        source.fault(Fault::on(Kind::BlobGet, gone).of(&old.blobs[1].digest));
    }
    let output = hasty()
        .rule(&source.name("a:v1,v2"), target.name("b"))
        .run()
        .expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(target.tags("b"), ["v2"]);
}

#[test]
fn another_writer_at_the_target_is_not_fought_with() {
    let (source, old, _) = source_of_two(9);
    let target = FakeRegistry::new();
    let foreign = Maker::new(10).oci(&[50]);
    target.push_untagged("b", &foreign);
    // It wins, after our manifest was put: what we did is told, and nothing is repaired in a loop.
    target.push("b", "else", &foreign);
    let taken = Act::MoveTag("b".to_string(), "v1".to_string(), foreign.digest.clone());
    let other = hasty()
        .rule(
            &source.name("a:v1"),
            json!([target.name("b"), target.name("c")]),
        )
        .args(["--proc", "1"]);
    target.fault(Fault::on(Kind::ManifestPut, taken).in_repository("c"));
    let output = other.run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(puts_of(&target, &old), 2);
    assert_eq!(target.manifest("b", "v1").unwrap().0, foreign.digest);

    // It wins before: its blobs are as good as ours, and the tag is ours.
    target.clear_faults();
    target.forget();
    run(&source, &[&target], 0);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(target.count(Kind::UploadPut), 0);
    assert_eq!(target.count(Kind::ManifestPut), 1);
}

#[test]
fn an_immutable_tag_is_success_where_it_names_the_image_and_failure_where_not() {
    let bodies = [
        (400, "TAG_INVALID", "the tag is immutable"),
        (403, "DENIED", "cannot overwrite tag"),
        (409, "CONFLICT", "tag already exists"),
        (412, "PRECONDITION", "configured as immutable"),
    ];
    for (status, code, message) in bodies {
        let refusal = json!({"errors": [{"code": code, "message": message}]});
        let refusal = refusal.to_string().into_bytes();
        let refuse = || {
            let act = Act::Status(status, Vec::new(), refusal.clone());
            Fault::on(Kind::ManifestPut, act).of("v1")
        };
        // Another writer has put the same image while our blobs were on their way.
        let (source, old, _) = source_of_two(11);
        let target = FakeRegistry::new();
        target.push_untagged("b", &old);
        let arrives = Act::MoveTag("b".to_string(), "v1".to_string(), old.digest.clone());
        target.fault(Fault::on(Kind::ManifestPut, arrives).of("v1"));
        target.fault(refuse());
        run(&source, &[&target], 0);
        assert_same((&source, "a", "v1"), (&target, "b", "v1"));

        // It names something else, and stays.
        let target = FakeRegistry::new();
        let other = Maker::new(12).oci(&[15]);
        target.push("b", "v1", &other);
        target.fault(refuse());
        let output = run(&source, &[&target], 1);
        assert_eq!(output.finished(), Some((1, 0)), "{status}");
        assert_eq!(target.manifest("b", "v1").unwrap().0, other.digest);
        let told = ["the tag may not be moved", &other.digest, message];
        for words in told {
            assert!(output.stderr.contains(words), "{status}: {}", output.stderr);
        }
        assert_eq!(target.count(Kind::ManifestPut), 1, "{status}: it is final");
    }
}

#[test]
fn what_a_rule_feeds_is_taken_up_when_the_second_pass_brought_it() {
    let (source, old, _) = source_of_two(13);
    let (middle, last) = (FakeRegistry::new(), FakeRegistry::new());
    // All attempts of the first pass fail.
    let fault = Fault::on(Kind::ManifestPut, Act::status(500)).nth(Nth::UpTo(5));
    middle.fault(fault);
    let output = hasty()
        .rule(&middle.name("b:v1"), last.name("c"))
        .rule(&source.name("a:v1"), middle.name("b"))
        .run()
        .expect(0);
    check_invariants(&[&source], &[&middle, &last], &output);
    assert_eq!(middle.faults_acted(), 5);
    assert_eq!(last.manifest("c", "v1").unwrap().0, old.digest);
    assert_in_sync(&source, "a", &last, "c", &["v1"]);
}

#[test]
fn a_pass_goes_on_with_what_it_holds_and_with_the_new_image_where_the_tag_moved() {
    for moves in [false, true] {
        let (source, old, new) = source_of_two(14);
        let targets = [FakeRegistry::new(), FakeRegistry::new()];
        let fault = Fault::on(Kind::ManifestPut, Act::status(503)).nth(Nth::UpTo(5));
        targets[1].fault(fault);
        if moves {
            source.fault(Fault::on(Kind::ManifestHead, move_tag(&new)));
        }
        let output = run(&source, &[&targets[0], &targets[1]], 0);
        // The finished target keeps what it has.
        assert_eq!(targets[0].manifest("b", "v1").unwrap().0, old.digest);
        let latest = if moves { &new } else { &old };
        assert_eq!(targets[1].manifest("b", "v1").unwrap().0, latest.digest);
        assert_eq!(source.count(Kind::ManifestGet), if moves { 2 } else { 1 });
        assert_eq!(output.stderr.contains("moved from"), moves);
    }
}
