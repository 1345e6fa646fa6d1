//! What a registry can do is learned from one try and used for the rest of the run: the largest body, parts, ranges,
//! mounts from anywhere, blobs in one POST. By counting requests. Not here: that all works with each habit (`habits`), the numbers of a
//! registry that can do everything (`economy`).

use std::time::Duration;

use crate::economy::{one_worker, sync, with_habit};
use crate::harness::{Run, assert_in_sync};
use crate::image::{Blob, Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, End, Entry, FakeRegistry, Fault, Habit, Kind, Nth, SinglePost};

const MIB: usize = 1 << 20;

/// One worker, which copies all of `a` to `b`.
fn copy(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    one_worker().rule(&source.name("a"), target.name("b"))
}

/// The same with short waits.
fn hasty(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    copy(source, target).env("IMAGE_SYNCER_TIME_SCALE", "0.02")
}

/// An image of these blobs alone: the first is its config.
fn image(maker: &mut Maker, sizes: &[usize]) -> Image {
    let blobs: Vec<Blob> = sizes.iter().map(|&size| maker.layer(size)).collect();
    Image::oci(&blobs[0], &blobs[1..])
}

fn limited(habit: &Habit, max_body: usize) -> Habit {
    Habit {
        max_body: Some(max_body),
        ..habit.clone()
    }
}

fn of_kind(registry: &FakeRegistry, kind: Kind) -> Vec<Entry> {
    let mut history = registry.history();
    history.retain(|entry| entry.kind == kind);
    history
}

/// How many requests were answered by this status.
fn answered(registry: &FakeRegistry, status: u16) -> usize {
    let history = registry.history();
    history
        .iter()
        .filter(|entry| entry.status == status)
        .count()
}

/// Bytes of all bodies of uploads, refused ones too.
fn sent(registry: &FakeRegistry) -> usize {
    let kinds = [Kind::UploadPatch, Kind::UploadPut];
    let history = registry.history();
    let uploads = history.iter().filter(|entry| kinds.contains(&entry.kind));
    uploads.map(|entry| entry.bytes_in).sum()
}

#[test]
fn a_limit_on_bodies_is_found_once_a_host_and_costs_no_session() {
    for habit in Habit::ALL {
        if habit.name == Habit::PUT_ONLY.name {
            continue;
        }
        let name = habit.name;
        let (source, target) = (FakeRegistry::new(), with_habit(limited(&habit, 300 << 10)));
        let mut maker = Maker::new(1);
        let sizes = [500 << 10, 600 << 10, MIB + 3];
        for tag in ["v1", "v2"] {
            source.push("a", tag, &image(&mut maker, &sizes));
        }
        let output = sync(&copy(&source, &target), &[&source], &[&target]);
        assert_in_sync(&source, "a", &target, "b", &["v1", "v2"]);
        assert!(!output.stderr.contains("tried again"), "{}", output.stderr);
        // 1 MiB and a little more, and 1 MiB; or one that is smaller, if it was first.
        assert!((1..=2).contains(&answered(&target, 413)), "{name}");
        let sessions = of_kind(&target, Kind::UploadPost);
        let sessions = sessions.iter().filter(|entry| entry.status == 202);
        assert_eq!(sessions.count(), 2 * sizes.len(), "{name}");
    }
}

#[test]
fn the_first_size_below_the_limit_is_kept() {
    for (max_body, size, refused, part) in [
        (20 * MIB, 17 * MIB, 0, 17 * MIB),
        (17 * MIB, 18 * MIB, 1, 16 * MIB),
        (5 * MIB, 6 * MIB, 1, 4 * MIB),
        (2 * MIB, 6 * MIB, 2, MIB),
        (300 << 10, MIB + 1, 2, 256 << 10),
    ] {
        let (source, target) = (
            FakeRegistry::new(),
            with_habit(limited(&Habit::DISTRIBUTION_3, max_body)),
        );
        let content = Blob::new("application/vnd.oci.image.layer.v1.tar", vec![5; size]);
        source.push("a", "v1", &Image::oci(&content, &[]));
        sync(&copy(&source, &target), &[&source], &[&target]);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
        assert_eq!(answered(&target, 413), refused, "{max_body}");
        let parts = of_kind(&target, Kind::UploadPatch);
        let largest = parts
            .iter()
            .filter(|entry| entry.status == 202)
            .map(|entry| entry.bytes_in)
            .max();
        assert_eq!(largest, Some(part), "{max_body}");
    }
}

#[test]
fn a_limit_that_is_told_before_the_body_costs_no_byte() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let image = image(&mut Maker::new(2), &[100, 3 * MIB]);
    source.push("a", "v1", &image);
    let fault = Fault::on(Kind::UploadPut, Act::RefuseBody(413)).of(&image.blobs[1].digest);
    target.fault(fault.nth(Nth::Only(1)));
    sync(&copy(&source, &target), &[&source], &[&target]);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(sent(&target), 100 + 3 * MIB);
    assert_eq!(source.count(Kind::BlobGet), 2);
    assert_eq!(target.count(Kind::UploadPost), 2);
}

#[test]
fn a_limit_that_parts_cannot_meet_is_told_with_what_to_look_for() {
    let (source, target) = (
        FakeRegistry::new(),
        with_habit(limited(&Habit::PUT_ONLY, MIB)),
    );
    source.push("a", "v1", &image(&mut Maker::new(3), &[100, 2 * MIB]));
    let output = hasty(&source, &target).run().expect(1);
    let advice = "the registry or a proxy before it limits the size of a request";
    assert!(output.stderr.contains(advice), "{}", output.stderr);
    assert_eq!((answered(&target, 413), answered(&target, 405)), (2, 1));
}

#[test]
fn a_part_that_breaks_off_is_gone_on_with() {
    let (source, target) = (
        FakeRegistry::new(),
        with_habit(limited(&Habit::DISTRIBUTION_3, 4 * MIB)),
    );
    source.push("a", "v1", &image(&mut Maker::new(4), &[100, 9 * MIB]));
    // The first goes in one PUT; of the parts, the second breaks.
    let fault = Fault::on(Kind::UploadPatch, Act::CutUpload(2 * MIB));
    target.fault(fault.nth(Nth::Only(2)));
    sync(&copy(&source, &target), &[&source], &[&target]);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(target.count(Kind::UploadGet), 1);
    assert_eq!(target.count(Kind::UploadPost), 2);
    let taken: Vec<usize> = of_kind(&target, Kind::UploadPatch)
        .iter()
        .map(|entry| entry.bytes_in)
        .collect();
    assert_eq!(taken, [4 * MIB, 2 * MIB, 3 * MIB]);
}

#[test]
fn an_upload_in_parts_is_gone_on_with_by_the_next_process() {
    const SIZE: usize = 17 * MIB;
    let (source, target) = (
        FakeRegistry::new(),
        with_habit(limited(&Habit::DISTRIBUTION_3, MIB)),
    );
    let image = image(&mut Maker::new(5), &[100, SIZE]);
    source.push("a", "v1", &image);
    // 17, 16 and 4 MiB are too large, and it is said at once.
    target.fault(Fault::on(Kind::UploadPatch, Act::RefuseBody(413)).nth(Nth::UpTo(3)));
    let drip = Act::Drip(MIB, Duration::from_millis(30));
    source.fault(Fault::on(Kind::BlobGet, drip));
    let run = hasty(&source, &target);
    let running = run.spawn();
    // A mark is good once it lies behind a part that was taken.
    target.wait_until(|all| {
        let records = std::fs::read_to_string(run.path("records")).unwrap_or_default();
        let taken = all.iter().filter(|entry| entry.status == 202).count();
        taken > 4 && records.contains("\"upload\"")
    });
    running.signal("KILL");
    running.wait();
    source.clear_faults();
    target.clear_faults();
    sync(&run, &[&source], &[&target]);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(target.count(Kind::UploadGet), 1);
    let taken: usize = of_kind(&target, Kind::UploadPatch)
        .iter()
        .filter(|entry| entry.status == 202)
        .map(|entry| entry.bytes_in)
        .sum();
    assert!((1..SIZE).contains(&taken), "{taken} bytes");
}

#[test]
fn a_limit_on_parts_alone_is_tried_once_a_host() {
    const SIZE: usize = 17 * MIB;
    let (source, target) = (FakeRegistry::new(), with_habit(Habit::GHCR));
    source.push("a", "v1", &image(&mut Maker::new(6), &[SIZE, SIZE + 1]));
    // What a PATCH without a place brings may have any size, so the parts are those that follow a cut.
    let cut = |nth| Fault::on(Kind::UploadPatch, Act::CutUpload(8 * MIB)).nth(Nth::Only(nth));
    target.fault(cut(1));
    target.fault(cut(6));
    sync(&copy(&source, &target), &[&source], &[&target]);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(answered(&target, 416), 1);
    assert_eq!(target.count(Kind::UploadPost), 2);
    // A cut, the refused part, three small ones; a cut, three small ones.
    assert_eq!(target.count(Kind::UploadPatch), 5 + 4);
}

#[test]
fn a_registry_without_ranges_is_asked_for_one_once() {
    for (habit, most) in [(Habit::GITEA, 0), (Habit::FERRO, 0), (Habit::GGCR, 1)] {
        let name = habit.name;
        let (source, target) = (with_habit(habit), FakeRegistry::new());
        source.push(
            "a",
            "v1",
            &image(&mut Maker::new(7), &[MIB, MIB + 1, MIB + 2]),
        );
        // Every whole blob breaks off once.
        for number in [1, 3 + most, 5 + most] {
            let fault = Fault::on(Kind::BlobGet, Act::CutBody(MIB / 2, End::Reset));
            source.fault(fault.nth(Nth::Only(number)));
        }
        sync(&copy(&source, &target), &[&source], &[&target]);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
        let reads = of_kind(&source, Kind::BlobGet);
        let ranged = reads
            .iter()
            .filter(|entry| entry.head.to_ascii_lowercase().contains("range:"));
        assert_eq!((reads.len(), ranged.count()), (6 + most, 1), "{name}");
        assert_eq!(target.count(Kind::UploadPost), 3, "{name}");
    }
}

/// A registry that does not mount from the repository itself, perhaps from anywhere. It holds an image in `old`, and gets
/// it and another as `b`.
fn mounted(from_anywhere: bool) -> (FakeRegistry, FakeRegistry) {
    let (source, target) = (
        FakeRegistry::new(),
        with_habit(Habit {
            mounts_from_anywhere: from_anywhere,
            ..Habit::NO_SELF_MOUNT
        }),
    );
    let mut maker = Maker::new(8);
    let (known, base) = (image(&mut maker, &[100, 200]), image(&mut maker, &[300]));
    target.push("old", "v1", &known);
    // What is there already teaches that there is no self-mount.
    target.push("b", "v0", &base);
    let all = [base.blobs.as_slice(), &known.blobs, &[maker.layer(70)]].concat();
    source.push("a", "v1", &Image::oci(&all[0], &all[1..]));
    (source, target)
}

#[test]
fn a_blob_that_a_registry_finds_anywhere_is_not_sent() {
    for (from_anywhere, sent) in [(true, 1), (false, 3)] {
        let (source, target) = mounted(from_anywhere);
        sync(&copy(&source, &target), &[&source], &[&target]);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
        assert_eq!(source.count(Kind::BlobGet), sent);
        assert_eq!(target.count(Kind::UploadPut), sent);
        // One for each blob, and the one that taught.
        assert_eq!(target.count(Kind::UploadPost), 3 + 1);
    }
}

#[test]
fn a_registry_that_wants_to_know_where_from_is_asked_once_without() {
    let (source, target) = mounted(false);
    // The first POST is the one that teaches; old Quay refuses the second (E56).
    target.fault(Fault::on(Kind::UploadPost, Act::status(400)).nth(Nth::Only(2)));
    sync(&copy(&source, &target), &[&source], &[&target]);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_eq!(answered(&target, 400), 1);
    let posts = of_kind(&target, Kind::UploadPost);
    let asked = posts
        .iter()
        .filter(|entry| entry.target.contains("mount=") && entry.from.is_none());
    assert_eq!((asked.count(), posts.len()), (1, 3 + 1 + 1));
}

/// A source with so many images of three small blobs, and a target with this habit.
fn posting(count: usize, single_post: SinglePost) -> (FakeRegistry, FakeRegistry, Vec<String>) {
    let habit = Habit {
        single_post,
        ..Habit::GGCR
    };
    let (source, target) = (FakeRegistry::new(), with_habit(habit));
    let mut maker = Maker::new(9);
    let tags: Vec<String> = (0..count).map(|number| format!("v{number}")).collect();
    for tag in &tags {
        source.push("a", tag, &image(&mut maker, &[100, 200, 300]));
    }
    (source, target, tags)
}

/// The POSTs that brought a blob.
fn posts(target: &FakeRegistry) -> Vec<Entry> {
    let mut posts = of_kind(target, Kind::UploadPost);
    posts.retain(|entry| entry.bytes_in > 0);
    posts
}

fn all_in_sync(source: &FakeRegistry, target: &FakeRegistry, tags: &[String]) {
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    assert_in_sync(source, "a", target, "b", &tags);
}

#[test]
fn a_blob_is_one_request_where_one_post_takes_it_and_else_one_try_is_lost() {
    const K: usize = 8;
    // (habit, POSTs and PUTs of blobs with one worker): the first image shows what is there, and the try is one of the
    // next.
    for (single_post, posts_in_all, puts, tried) in [
        (SinglePost::Taken, 3 * K, 3, 3 * (K - 1)),
        (SinglePost::Ignored, 3 * K, 3 * K, 1),
        (SinglePost::Refused(405), 3 * K + 1, 3 * K, 1),
        (SinglePost::Refused(400), 3 * K + 1, 3 * K, 1),
    ] {
        for workers in [1, 5] {
            let case = format!("{single_post:?}, {workers} workers");
            let (source, target, tags) = posting(K, single_post);
            let run = copy(&source, &target).arg(format!("--proc={workers}"));
            sync(&run, &[&source], &[&target]);
            all_in_sync(&source, &target, &tags);
            // The blob of the try is not read again.
            assert_eq!(source.count(Kind::BlobGet), 3 * K, "{case}");
            assert_eq!(target.count(Kind::UploadPost), posts_in_all, "{case}");
            if workers == 1 {
                assert_eq!(target.count(Kind::UploadPut), puts, "{case}");
                assert_eq!(posts(&target).len(), tried, "{case}");
            } else if single_post != SinglePost::Taken {
                assert_eq!(posts(&target).len(), 1, "{case}");
            }
        }
    }
}

#[test]
fn a_registry_that_closes_the_connection_to_a_whole_blob_is_tried_once() {
    let (source, target, tags) = posting(4, SinglePost::Refused(405));
    let whole =
        |number| Fault::on(Kind::UploadPost, Act::CutBefore(End::Reset)).nth(Nth::Only(number));
    // After the three of the first image.
    target.fault(whole(4));
    sync(&copy(&source, &target), &[&source], &[&target]);
    all_in_sync(&source, &target, &tags);
    assert_eq!(posts(&target).len(), 1);
    assert_eq!(source.count(Kind::BlobGet), 3 * 4);
    assert_eq!(target.count(Kind::BlobHead), 1);
}

#[test]
fn a_post_whose_answer_was_lost_is_looked_at_and_not_sent_again() {
    let (source, target, tags) = posting(4, SinglePost::Taken);
    for number in [4, 6] {
        let lost = Fault::on(Kind::UploadPost, Act::CommitThenClose(End::Fin));
        target.fault(lost.nth(Nth::Only(number)));
    }
    sync(&copy(&source, &target), &[&source], &[&target]);
    all_in_sync(&source, &target, &tags);
    assert_eq!(posts(&target).len(), 3 * 3);
    assert_eq!(target.count(Kind::UploadPut), 3);
    assert_eq!(target.count(Kind::BlobHead), 2);
}

#[test]
fn what_is_not_what_its_digest_says_is_not_posted() {
    let (source, target, tags) = posting(2, SinglePost::Taken);
    let damaged = image(&mut Maker::new(10), &[70, 80]);
    source.push("a", "v9", &damaged);
    let digest = &*damaged.blobs[1].digest;
    source.fault(Fault::on(Kind::BlobGet, Act::Flip(5)).of(digest));
    let run = hasty(&source, &target).arg("--retries=0");
    let output = run.run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert!(target.blob("b", digest).is_none());
    assert!(
        posts(&target)
            .iter()
            .all(|entry| entry.digest.as_deref() != Some(digest))
    );
    assert_eq!(target.tags("b"), tags);
}
