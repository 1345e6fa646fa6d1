//! What several repositories and several targets cost (decisions D4), by counting: a blob goes once over the wire from
//! the source, is mounted where a registry has it already, and what one target does is no other's business. Not here:
//! one repository to one target (`economy`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::economy::{assert_counts, one_worker, sync, with_habit};
use crate::harness::{Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Entry, FakeRegistry, Fault, Habit, Kind, Nth};

use Kind::{
    BlobGet, BlobHead, ManifestGet, ManifestHead, ManifestPut, TagsList, UploadPost, UploadPut,
};

/// The answers to mounts from other repositories.
fn mounts(registry: &FakeRegistry) -> Vec<u16> {
    let from_another = |entry: &Entry| {
        let from = entry.from.as_ref();
        from.is_some_and(|from| *from != entry.repository)
    };
    let history = registry.history();
    let mounts = history.iter().filter(|entry| from_another(entry));
    mounts.map(|entry| entry.status).collect()
}

/// How often each blob was read, in the order of the digests.
fn reads(source: &FakeRegistry) -> Vec<usize> {
    let mut reads = BTreeMap::<String, usize>::new();
    for entry in source.history().iter().filter(|e| e.kind == BlobGet) {
        *reads.entry(entry.reference.clone()).or_default() += 1;
    }
    reads.into_values().collect()
}

/// Repositories `a0`, `a1` and so on, whose images have a base in common and two blobs of their own.
fn fill_sharing(source: &FakeRegistry, count: usize) -> Vec<String> {
    let mut maker = Maker::new(20);
    let base = maker.layer(5000);
    let repositories: Vec<String> = (0..count).map(|number| format!("a{number}")).collect();
    for repository in &repositories {
        let layers = [base.clone(), maker.layer(100)];
        let image = Image::oci(&maker.config("linux/amd64"), &layers);
        source.push(repository, "v1", &image);
    }
    repositories
}

#[test]
fn a_blob_of_many_repositories_is_copied_once_and_mounted_elsewhere() {
    // POSTs that were refused before a host was known not to take mounts from itself, and whether one POST takes a blob.
    for (habit, refused, takes_post) in [
        (Habit::DISTRIBUTION_3, 0, false),
        (Habit::DISTRIBUTION_2, 0, false),
        (Habit::GITEA, 0, true),
        (Habit::NO_SELF_MOUNT, 0, false),
        (Habit::CUE, 1, true),
        (Habit::PULP, 1, true),
    ] {
        for workers in [1, 5] {
            let case = format!("{}, {workers} workers", habit.name);
            let (source, target) = (FakeRegistry::new(), with_habit(habit.clone()));
            let repositories = fill_sharing(&source, 4);
            let mut run = Run::new().arg(format!("--proc={workers}"));
            for name in &repositories {
                run = run.rule(&source.name(name), target.name(name));
            }
            sync(&run, &[&source], &[&target]);
            let read = [(TagsList, 4), (ManifestGet, 4), (BlobGet, 4 * 2 + 1)];
            assert_counts(&source, &read, &case);
            assert_eq!(mounts(&target), [201; 3], "{case}");
            // Workers that began before the first refusal was known may each meet one of their own.
            let posts = target.count(UploadPost) - 4 * 3;
            assert!(
                posts >= refused && posts <= refused * workers,
                "{case}: {posts}"
            );
            // A blob is a PUT until the first image is complete, and other workers may have begun some of theirs.
            let (puts, least) = (target.count(UploadPut), if takes_post { 3 } else { 9 });
            assert!(
                puts == least || workers > 1 && puts > least,
                "{case}: {puts}"
            );
            let written = [
                (TagsList, 4),
                (UploadPost, 4 * 3 + posts),
                (UploadPut, puts),
                (ManifestPut, 4),
            ];
            assert_counts(&target, &written, &case);
            for name in &repositories {
                assert_in_sync(&source, name, &target, name, &["v1"]);
            }
        }
    }
}

#[test]
fn a_registry_that_does_not_mount_is_asked_for_it_once() {
    for habit in [Habit::GGCR, Habit::FERRO, Habit::ECR] {
        let name = habit.name;
        let (source, target) = (FakeRegistry::new(), with_habit(habit));
        let image = Maker::new(21).oci(&[4000, 3000, 2000]);
        source.push("a", "v1", &image);
        let targets = ["b1", "b2", "b3"].map(|repository| target.name(repository));
        let run = one_worker().rule(&source.name("a"), targets.to_vec());
        sync(&run, &[&source], &[&target]);
        assert_eq!(mounts(&target), [202], "{name}");
        // The first blob shows it, in one repository after another; the others go to all three in one stream each.
        let mut reads = reads(&source);
        reads.sort_unstable();
        assert_eq!(reads, [1, 1, 1, 3], "{name}");
        let written = [
            (TagsList, 3),
            (UploadPost, 3 * 4),
            (UploadPut, 3 * 4),
            (ManifestPut, 3),
        ];
        assert_counts(&target, &written, name);
    }
}

#[test]
fn a_copy_within_a_registry_moves_no_blob() {
    let registry = FakeRegistry::new();
    let image = Maker::new(22).index(&["linux/amd64", "linux/arm64"], 500);
    registry.push("a", "v1", &image);
    let run = one_worker().rule(&registry.name("a"), registry.name("b"));
    sync(&run, &[&registry], &[&registry]);
    assert_eq!(mounts(&registry), [201; 5]);
    let counts = [
        (TagsList, 2),
        (ManifestGet, 3),
        (UploadPost, 5),
        (ManifestPut, 3),
    ];
    assert_counts(&registry, &counts, "one registry");
    assert_in_sync(&registry, "a", &registry, "b", &["v1"]);
}

#[test]
fn a_copy_within_a_registry_that_does_not_mount_costs_the_bare_transfer() {
    let registry = with_habit(Habit::GGCR);
    registry.push("a", "v1", &Maker::new(23).oci(&[400, 300]));
    let run = one_worker().rule(&registry.name("a"), registry.name("b"));
    sync(&run, &[&registry], &[&registry]);
    assert_eq!(mounts(&registry), [202]);
    let counts = [
        (TagsList, 2),
        (ManifestGet, 1),
        (BlobGet, 3),
        (UploadPost, 3),
        (UploadPut, 3),
        (ManifestPut, 1),
    ];
    assert_counts(&registry, &counts, "one registry");
}

#[test]
fn records_name_repositories_to_mount_from() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    source.push("a", "v1", &Maker::new(24).oci(&[400, 300]));
    let run = one_worker().rule(&source.name("a"), target.name("x"));
    sync(&run, &[&source], &[&target]);
    let run = run.rule(&source.name("a"), target.name("y"));
    sync(&run, &[&source], &[&target]);
    assert_eq!(mounts(&target), [201; 3]);
    assert_counts(&source, &[(TagsList, 1), (ManifestGet, 1)], "source");
    let written = [(TagsList, 1), (UploadPost, 3), (ManifestPut, 1)];
    assert_counts(&target, &written, "target");
    assert_in_sync(&source, "a", &target, "y", &["v1"]);
}

#[test]
fn a_mount_from_a_repository_that_is_gone_is_refused_once() {
    // (habit, answers to mounts from the repository, POSTs of three blobs): a 202 is a session, so it costs nothing.
    for (habit, answers, posts) in [
        (Habit::DISTRIBUTION_3, vec![202; 3], 3),
        (Habit::CUE, vec![404], 3 + 2),
        (Habit::PULP, vec![401], 3 + 2),
    ] {
        let name = habit.name;
        let (source, target) = (FakeRegistry::new(), with_habit(habit));
        source.push("a", "v1", &Maker::new(25).oci(&[400, 300]));
        let run = one_worker().rule(&source.name("a"), target.name("x"));
        sync(&run, &[&source], &[&target]);
        target.with_state(|state| state.repositories.remove("x"));
        let run = run.rule(&source.name("a"), target.name("y"));
        sync(&run, &[&source], &[&target]);
        assert_eq!(mounts(&target), answers, "{name}");
        let written = [
            (TagsList, 1),
            (UploadPost, posts),
            (UploadPut, 3),
            (ManifestPut, 1),
        ];
        assert_counts(&target, &written, name);
        assert_in_sync(&source, "a", &target, "y", &["v1"]);
    }
}

/// One source with some images, and so many registries that it goes to.
fn spread(targets: usize) -> (FakeRegistry, Vec<FakeRegistry>, Run) {
    let source = FakeRegistry::new();
    let mut maker = Maker::new(26);
    for tag in TAGS {
        source.push("a", tag, &maker.oci(&[100_000, 200]));
    }
    let targets: Vec<FakeRegistry> = (0..targets).map(|_| FakeRegistry::new()).collect();
    let names: Vec<String> = targets.iter().map(|target| target.name("b")).collect();
    let run = Run::new().rule(&source.name("a"), names);
    (source, targets, run)
}

const TAGS: [&str; 3] = ["v1", "v2", "v3"];

#[track_caller]
fn assert_spread(source: &FakeRegistry, targets: &[FakeRegistry], case: &str) {
    let read = [(TagsList, 1), (ManifestGet, 3), (BlobGet, 3 * 3)];
    assert_counts(source, &read, case);
    for target in targets {
        let written = [
            (TagsList, 1),
            (UploadPost, 3 * 3),
            (UploadPut, 3 * 3),
            (ManifestPut, 3),
        ];
        assert_counts(target, &written, case);
        assert_in_sync(source, "a", target, "b", &TAGS);
    }
}

#[test]
fn what_goes_to_several_registries_is_read_once() {
    for (targets, workers) in [(1, 1), (1, 5), (2, 1), (2, 5), (3, 1), (3, 5), (10, 1)] {
        let case = format!("{targets} targets, {workers} workers");
        let (source, targets, run) = spread(targets);
        let run = run.arg(format!("--proc={workers}"));
        let all: Vec<&FakeRegistry> = targets.iter().collect();
        sync(&run, &[&source], &all);
        assert_spread(&source, &targets, &case);
    }
}

#[test]
fn a_slow_answer_keeps_no_target_from_the_common_stream() {
    for kind in [TagsList, ManifestHead] {
        let (source, targets, run) = spread(3);
        let slow = Act::Delay(Duration::from_millis(300));
        targets[2].fault(Fault::on(kind, slow).nth(Nth::Only(1)));
        let all: Vec<&FakeRegistry> = targets.iter().collect();
        sync(&run, &[&source], &all);
        assert_eq!(reads(&source), [1; 9], "{kind:?}");
    }
}

#[test]
fn small_blobs_that_one_target_is_slow_to_take_hold_up_no_image_of_the_others() {
    for workers in [2, 3, 8] {
        let source = FakeRegistry::new();
        let targets = [(); 3].map(|()| FakeRegistry::new());
        let (mut maker, mut run) = (Maker::new(26), Run::new());
        let repositories = ["a", "b", "c", "d"];
        for repository in repositories {
            source.push(repository, "v1", &maker.oci(&[1000, 2000, 3000]));
            let names: Vec<String> = targets.iter().map(|to| to.name(repository)).collect();
            run = run.rule(&source.name(repository), names);
        }
        let (hold, until) = crossbeam_channel::bounded(0);
        targets[1].fault(Fault::on(UploadPut, Act::Hold(until)).nth(Nth::Always));
        let run = run.args([
            &format!("--proc={workers}"),
            "--detach-after=20ms",
            "--detach-share=0%",
        ]);
        let running = run.spawn();
        for fast in [&targets[0], &targets[2]] {
            fast.wait_until(|entries| {
                let tags = entries.iter().filter(|entry| entry.kind == ManifestPut);
                tags.count() == repositories.len()
            });
        }
        assert_eq!(targets[1].count(ManifestPut), 0, "{workers} workers");
        drop(hold);
        running.wait().expect(0);
        for target in &targets {
            for repository in repositories {
                assert_in_sync(&source, repository, target, repository, &["v1"]);
            }
        }
        // What it was too slow for is sent to it once, all the same.
        let blobs = 4 * repositories.len();
        assert_eq!(targets[1].count(UploadPut), blobs, "{workers} workers");
    }
}

#[test]
fn rules_of_one_source_read_it_once() {
    let (source, target, other) = (
        FakeRegistry::new(),
        FakeRegistry::new(),
        FakeRegistry::new(),
    );
    let mut maker = Maker::new(27);
    source.push("a", "v1", &maker.oci(&[100, 200]));
    source.push("a", "v2", &maker.oci(&[100, 200]));
    let run = one_worker()
        .rule(&source.name("a"), target.name("b"))
        .rule(&format!("{}:v1", source.name("a")), other.name("c:one"))
        .rule(&format!("{}:v1,v2", source.name("a")), other.name("d"));
    sync(&run, &[&source], &[&target, &other]);
    let read = [(TagsList, 1), (ManifestGet, 2), (BlobGet, 2 * 3)];
    assert_counts(&source, &read, "source");
    assert_eq!(target.count(UploadPut), 2 * 3);
    // What both repositories of the other registry want is sent once and mounted.
    assert_eq!(other.count(UploadPut), 2 * 3);
    assert_eq!(mounts(&other), [201; 3]);
    assert_in_sync(&source, "a", &target, "b", &["v1", "v2"]);
    assert_in_sync(&source, "a", &other, "d", &["v1", "v2"]);
}

#[test]
fn each_target_has_its_own_outcome() {
    let source = FakeRegistry::new();
    let [equal, partly, paused, closed] = [(); 4].map(|()| FakeRegistry::new());
    let mut maker = Maker::new(28);
    let base = maker.layer(3000);
    let image = Image::oci(
        &maker.config("linux/amd64"),
        &[base.clone(), maker.layer(200)],
    );
    source.push("a", "v1", &image);
    equal.push("b", "v1", &image);
    let older = Image::oci(&maker.config("linux/amd64"), &[base]);
    partly.push("b", "v0", &older);
    paused.fault(Fault::on(ManifestHead, Act::throttle(1)).nth(Nth::Only(1)));
    closed.fault(Fault::on(UploadPost, Act::status(403)));
    let targets = [&equal, &partly, &paused, &closed];
    let names: Vec<String> = targets.iter().map(|target| target.name("b")).collect();
    let run = one_worker().rule(&format!("{}:v1", source.name("a")), names);
    let output = run.run().expect(1);
    check_invariants(&[&source], &targets, &output);
    assert_eq!(output.finished(), Some((1, 0)));

    assert_eq!(source.count(ManifestGet), 1);
    // Once for those that could take it, and once for the one that paused.
    assert!(reads(&source).iter().all(|count| *count <= 2));
    assert_counts(&equal, &[(ManifestHead, 1)], "up to date");
    let written = [
        (ManifestHead, 1),
        (TagsList, 1),
        (BlobHead, 1),
        (UploadPost, 1 + 2),
        (UploadPut, 2),
        (ManifestPut, 1),
    ];
    assert_counts(&partly, &written, "partly there");
    let written = [
        (ManifestHead, 1 + 1),
        (TagsList, 1),
        (UploadPost, 3),
        (UploadPut, 3),
        (ManifestPut, 1),
    ];
    assert_counts(&paused, &written, "paused");
    assert_eq!(closed.count(UploadPut) + closed.count(ManifestPut), 0);
    for target in [&equal, &partly, &paused] {
        assert_in_sync(&source, "a", target, "b", &["v1"]);
    }
}
