//! What a sync costs (decisions D4), by counting the requests of each kind: exact with one worker. Not here: several
//! repositories and several targets (`fanout`).

use std::collections::BTreeMap;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Blob, Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Bearer, Counts, FakeRegistry, Habit, Kind, Options};

use Kind::{
    BlobGet, BlobHead, ManifestGet, ManifestHead, ManifestPut, TagsList, Token, UploadDelete,
    UploadPatch, UploadPost, UploadPut,
};

/// A run whose requests come one after another.
pub(crate) fn one_worker() -> Run {
    Run::new().arg("--proc=1")
}

/// Runs to success, and forgets before that what the registries were asked by earlier runs.
#[track_caller]
pub(crate) fn sync(run: &Run, sources: &[&FakeRegistry], targets: &[&FakeRegistry]) -> Output {
    sources.iter().chain(targets).for_each(|r| r.forget());
    let output = run.run().expect(0);
    check_invariants(sources, targets, &output);
    output
}

/// Expects these requests and no others.
#[track_caller]
pub(crate) fn assert_counts(registry: &FakeRegistry, expected: &[(Kind, usize)], case: &str) {
    let expected: Counts = expected.iter().copied().collect();
    assert_eq!(registry.counts(), expected, "{case}: {}", registry.addr());
}

pub(crate) fn with_habit(habit: Habit) -> FakeRegistry {
    FakeRegistry::start(Options::default().habit(habit))
}

/// Puts so many images of three blobs each into `a`: `v0`, `v1` and so on.
fn fill(registry: &FakeRegistry, maker: &mut Maker, count: usize) -> Vec<String> {
    let tags: Vec<String> = (0..count).map(|number| format!("v{number}")).collect();
    for tag in &tags {
        registry.push("a", tag, &maker.oci(&[100, 200]));
    }
    tags
}

fn all_in_sync(source: &FakeRegistry, target: &FakeRegistry, tags: &[String]) {
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    assert_in_sync(source, "a", target, "b", &tags);
}

const K: usize = 6;

#[test]
fn a_first_copy_of_all_tags_costs_two_lists_and_the_bare_transfer() {
    // (habit, PUTs of blobs): where one POST takes a blob, there are none but those of the first image. Some registries
    // answer for a repository that is not there by an empty list.
    for (habit, puts) in [
        (Habit::DISTRIBUTION_3, 3 * K),
        (Habit::DISTRIBUTION_2, 3 * K),
        (Habit::FERRO, 3),
    ] {
        let name = habit.name;
        let (source, target) = (FakeRegistry::new(), with_habit(habit));
        let tags = fill(&source, &mut Maker::new(1), K);
        let run = one_worker().rule(&source.name("a"), target.name("b"));
        sync(&run, &[&source], &[&target]);
        let read = [(TagsList, 1), (ManifestGet, K), (BlobGet, 3 * K)];
        assert_counts(&source, &read, name);
        let written = [
            (TagsList, 1),
            (UploadPost, 3 * K),
            (UploadPut, puts),
            (ManifestPut, K),
        ];
        assert_counts(&target, &written, name);
        all_in_sync(&source, &target, &tags);
    }
}

#[test]
fn a_first_copy_by_tags_costs_a_list_and_at_most_one_question_a_tag_more() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let tags = fill(&source, &mut Maker::new(2), K);
    let from = format!("{}:{}", source.name("a"), tags.join(","));
    sync(
        &one_worker().rule(&from, target.name("b")),
        &[&source],
        &[&target],
    );
    assert_counts(&source, &[(ManifestGet, K), (BlobGet, 3 * K)], "source");
    let asked = target.count(ManifestHead);
    assert!((1..=K).contains(&asked), "{asked}");
    let written = [
        (ManifestHead, asked),
        (TagsList, 1),
        (UploadPost, 3 * K),
        (UploadPut, 3 * K),
        (ManifestPut, K),
    ];
    assert_counts(&target, &written, "target");
    all_in_sync(&source, &target, &tags);
}

#[test]
fn a_copy_into_an_existing_repository_learns_once_how_to_ask_for_blobs() {
    // (habit, HEADs of blobs, POSTs, PUTs, DELETEs): one POST more teaches whether a mount from the repository itself
    // answers for a blob. Where it does not, each blob is asked for by a HEAD, and one POST may take it.
    let n = 3 * K;
    for (habit, heads, posts, puts, deletes) in [
        (Habit::DISTRIBUTION_3, 1, n + 1, n, 0),
        (Habit::NO_SELF_MOUNT, n, n + 1, n, 1),
        (Habit::FERRO, n, n + 1, 3, 1),
        // The first such mount is refused, before anything was learned: a plain POST follows.
        (Habit::CUE, n, n + 1, 3, 0),
        (Habit::PULP, n, n + 1, 3, 0),
    ] {
        let name = habit.name;
        let (source, target) = (FakeRegistry::new(), with_habit(habit));
        let mut maker = Maker::new(3);
        target.push("b", "old", &maker.oci(&[50]));
        let tags = fill(&source, &mut maker, K);
        let run = one_worker().rule(&source.name("a"), target.name("b"));
        sync(&run, &[&source], &[&target]);
        assert_eq!(source.total(), 1 + K + n, "{name}");
        let mut written = vec![
            (TagsList, 1),
            (BlobHead, heads),
            (UploadPost, posts),
            (UploadPut, puts),
            (ManifestPut, K),
        ];
        written.extend((deletes > 0).then_some((UploadDelete, deletes)));
        assert_counts(&target, &written, name);
        all_in_sync(&source, &target, &tags);
    }
}

#[test]
fn a_large_blob_costs_one_request_more_than_a_small_one() {
    const LIMIT: usize = 16 << 20;
    for (size, patches) in [(LIMIT, 0), (LIMIT + 1, 1)] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", vec![7; size]);
        let image = Image::oci(&layer, &[]);
        source.push("a", "v1", &image);
        let run = one_worker().rule(&source.name("a"), target.name("b"));
        sync(&run, &[&source], &[&target]);
        let transfer = [(UploadPost, 1), (UploadPatch, patches), (UploadPut, 1)];
        for (kind, count) in transfer {
            assert_eq!(target.count(kind), count, "{kind:?} of {size} bytes");
        }
        assert_eq!(source.count(BlobGet), 1);
    }
}

#[test]
fn an_unchanged_image_costs_two_questions() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    fill(&source, &mut Maker::new(4), K);
    let rule = |run: Run| run.rule(&source.name("a"), target.name("b"));
    let recorded = rule(one_worker());
    sync(&recorded, &[&source], &[&target]);

    sync(&recorded, &[&source], &[&target]);
    assert_counts(&source, &[(TagsList, 1), (ManifestHead, K)], "recorded");
    assert_counts(&target, &[(ManifestHead, K)], "recorded");

    let output = sync(&rule(one_worker()), &[&source], &[&target]);
    assert_counts(&source, &[(TagsList, 1), (ManifestHead, K)], "no records");
    assert_counts(&target, &[(TagsList, 1), (ManifestHead, K)], "no records");
    // What was found equal is recorded, so that the next run is spared the list.
    assert_eq!(output.new_records().len(), K);
}

#[test]
fn one_new_tag_of_many_costs_its_own_copy_and_two_questions_for_each_other() {
    // The new tag may be the first or the last that is looked at.
    for (new, has_records) in [("v9", true), ("v9", false), ("a", true), ("a", false)] {
        let case = format!("{new}, records: {has_records}");
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(5);
        let tags = fill(&source, &mut maker, 9);
        let rule = |run: Run| run.rule(&source.name("a"), target.name("b"));
        let first = rule(one_worker());
        sync(&first, &[&source], &[&target]);
        source.push("a", new, &maker.oci(&[100, 200]));
        let second = if has_records {
            first
        } else {
            rule(one_worker())
        };
        sync(&second, &[&source], &[&target]);
        let read = [
            (TagsList, 1),
            (ManifestHead, 9),
            (ManifestGet, 1),
            (BlobGet, 3),
        ];
        assert_counts(&source, &read, &case);
        // Either the list says that the tag is absent, or a HEAD does.
        let question = if has_records {
            [(ManifestHead, 10), (TagsList, 0)]
        } else {
            [(ManifestHead, 9), (TagsList, 1)]
        };
        let mut written = vec![
            (BlobHead, 1),
            (UploadPost, 3 + 1),
            (UploadPut, 3),
            (ManifestPut, 1),
        ];
        written.extend(question.into_iter().filter(|(_, count)| *count > 0));
        assert_counts(&target, &written, &case);
        all_in_sync(&source, &target, &[tags, vec![new.to_string()]].concat());
    }
}

#[test]
fn a_tag_that_moved_costs_its_manifest_and_its_new_blobs() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(6);
    let (config, base, own) = (
        maker.config("linux/amd64"),
        maker.layer(300),
        maker.layer(90),
    );
    source.push("a", "v1", &Image::oci(&config, &[base.clone(), own]));
    let rule = |run: Run| run.rule(&format!("{}:v1", source.name("a")), target.name("b"));
    let recorded = rule(one_worker());
    sync(&recorded, &[&source], &[&target]);
    for (run, case) in [(recorded, "recorded"), (rule(one_worker()), "no records")] {
        let next = Image::oci(
            &maker.config("linux/amd64"),
            &[base.clone(), maker.layer(80)],
        );
        source.push("a", "v1", &next);
        sync(&run, &[&source], &[&target]);
        let read = [(ManifestHead, 1), (ManifestGet, 1), (BlobGet, 2)];
        assert_counts(&source, &read, case);
        // The base is found by a HEAD, and is what self-mounting is learned from; the others are asked for by POST.
        let written = [
            (ManifestHead, 1),
            (BlobHead, 1),
            (UploadPost, 1 + 2),
            (UploadPut, 2),
            (ManifestPut, 1),
        ];
        assert_counts(&target, &written, case);
    }
}

#[test]
fn an_index_costs_its_manifests_and_blobs_once_and_unchanged_two_questions() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let index = Maker::new(7).index(&["linux/amd64", "linux/arm64", "linux/arm/v7"], 400);
    let blobs = index.all_blobs().len();
    assert_eq!(blobs, 3 * 2 + 1);
    source.push("a", "v1", &index);
    let run = one_worker().rule(&format!("{}:v1", source.name("a")), target.name("b"));
    sync(&run, &[&source], &[&target]);
    assert_counts(&source, &[(ManifestGet, 1 + 3), (BlobGet, blobs)], "first");
    let written = [
        (ManifestHead, 1),
        (TagsList, 1),
        (UploadPost, blobs),
        (UploadPut, blobs),
        (ManifestPut, 3 + 1),
    ];
    assert_counts(&target, &written, "first");
    sync(&run, &[&source], &[&target]);
    assert_counts(&source, &[(ManifestHead, 1)], "unchanged");
    assert_counts(&target, &[(ManifestHead, 1)], "unchanged");
}

#[test]
fn of_a_changed_index_only_the_changed_child_is_copied() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(8);
    let mut image = |platform: &str| maker.oci_for(platform, &[100, 200]);
    let (amd, arm) = (image("linux/amd64"), image("linux/arm64"));
    let index = |s390: &Image| {
        Image::index(&[
            (&amd, Some("linux/amd64")),
            (&arm, Some("linux/arm64")),
            (s390, Some("linux/s390x")),
        ])
    };
    source.push("a", "v1", &index(&image("linux/s390x")));
    let run = one_worker().rule(&format!("{}:v1", source.name("a")), target.name("b"));
    sync(&run, &[&source], &[&target]);
    source.push("a", "v1", &index(&image("linux/s390x")));
    sync(&run, &[&source], &[&target]);
    // Children are asked for at the target only, and those that are there are the end of their blobs.
    let read = [(ManifestHead, 1), (ManifestGet, 1 + 1), (BlobGet, 3)];
    assert_counts(&source, &read, "source");
    let written = [
        (ManifestHead, 1 + 3),
        (BlobHead, 1),
        (UploadPost, 3 + 1),
        (UploadPut, 3),
        (ManifestPut, 1 + 1),
    ];
    assert_counts(&target, &written, "target");
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
}

#[test]
fn two_tags_of_one_manifest_cost_its_blobs_once() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let index = Maker::new(9).index(&["linux/amd64", "linux/arm64"], 100);
    for tag in ["v1", "latest"] {
        source.push("a", tag, &index);
    }
    let run = one_worker().rule(&source.name("a"), target.name("b"));
    sync(&run, &[&source], &[&target]);
    let read = [(TagsList, 1), (ManifestGet, 2 + 2), (BlobGet, 5)];
    assert_counts(&source, &read, "source");
    let written = [
        (TagsList, 1),
        (UploadPost, 5),
        (UploadPut, 5),
        (ManifestPut, 2 + 2),
    ];
    assert_counts(&target, &written, "target");
    assert_in_sync(&source, "a", &target, "b", &["v1", "latest"]);
}

#[test]
fn records_of_blobs_choose_a_question_before_an_upload() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let tags = fill(&source, &mut Maker::new(10), 1);
    let rule = |run: Run| run.rule(&source.name("a"), target.name("b"));
    let recorded = rule(one_worker());
    sync(&recorded, &[&source], &[&target]);
    for (run, question, learned) in [(recorded, BlobHead, 1), (rule(one_worker()), UploadPost, 0)] {
        // The blobs stay, as after a run that was killed before its first tag.
        target.with_state(|state| state.repositories.get_mut("b").unwrap().tags.clear());
        sync(&run, &[&source], &[&target]);
        assert_counts(&source, &[(TagsList, 1), (ManifestGet, 1)], "source");
        assert_eq!(target.count(question), 3);
        assert_eq!(target.count(UploadPut), 0);
        let lists = target.count(TagsList) + target.count(ManifestHead);
        assert_eq!(target.total(), lists + 3 + learned + 1, "{question:?}");
        all_in_sync(&source, &target, &tags);
    }
}

#[test]
fn a_hundred_small_images_cost_1114_requests_and_unchanged_201_or_202() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(11);
    let bases: Vec<Blob> = (0..4).map(|_| maker.layer(1000)).collect();
    let tags: Vec<String> = (0..100).map(|number| format!("v{number:02}")).collect();
    for (tag, base) in tags.iter().zip(bases.iter().cycle()) {
        let layers = [base.clone(), maker.layer(300), maker.layer(200)];
        source.push("a", tag, &Image::oci(&maker.config("linux/amd64"), &layers));
    }
    let rule = |run: Run| run.rule(&source.name("a"), target.name("b"));
    let recorded = rule(Run::new());
    let pair = [&source, &target];
    let requests = || pair.map(FakeRegistry::total).iter().sum::<usize>();

    sync(&recorded, &[&source], &[&target]);
    assert_eq!(source.count(BlobGet), 304);
    assert_eq!(requests(), 1114);
    all_in_sync(&source, &target, &tags);
    // Five workers, and the connection that found out that there is no TLS.
    for registry in pair {
        let connections = registry.connections();
        assert!(connections <= 5 + 1, "{connections} connections");
    }

    sync(&recorded, &[&source], &[&target]);
    assert_eq!(requests(), 201);
    sync(&rule(Run::new()), &[&source], &[&target]);
    assert_eq!(requests(), 202);
}

/// How often a token was asked for with each query.
fn token_requests(registry: &FakeRegistry) -> BTreeMap<String, usize> {
    let mut requests = BTreeMap::new();
    for entry in registry
        .history()
        .iter()
        .filter(|entry| entry.kind == Token)
    {
        *requests.entry(entry.target.clone()).or_default() += 1;
    }
    requests
}

fn with_tokens(password: &str) -> FakeRegistry {
    FakeRegistry::start(Options::default().bearer(Bearer::for_user("ada", password)))
}

#[test]
fn one_token_request_serves_a_scope_whatever_the_number_of_workers() {
    let (source, target) = (with_tokens("first secret"), with_tokens("second secret"));
    let tags = fill(&source, &mut Maker::new(12), 40);
    let run = Run::new()
        .arg("--proc=64")
        .auth(&source, "ada", "first secret")
        .auth(&target, "ada", "second secret")
        .rule(&source.name("a"), target.name("b"));
    sync(&run, &[&source], &[&target]);
    all_in_sync(&source, &target, &tags);
    // To read; and at the target, whose list is read before anything is written, to write.
    for (registry, scopes) in [(&source, 1), (&target, 2)] {
        let requests = token_requests(registry);
        assert_eq!(requests.len(), scopes, "{requests:?}");
        assert!(requests.values().all(|count| *count == 1), "{requests:?}");
    }
}

#[test]
fn only_the_first_request_to_a_registry_meets_its_challenge() {
    let (source, target) = (with_tokens("first secret"), with_tokens("second secret"));
    let mut maker = Maker::new(13);
    let mut run =
        one_worker()
            .auth(&source, "ada", "first secret")
            .auth(&target, "ada", "second secret");
    for repository in ["a", "b", "c"] {
        source.push(repository, "v1", &maker.oci(&[100]));
        run = run.rule(&source.name(repository), target.name(repository));
    }
    sync(&run, &[&source], &[&target]);
    for registry in [&source, &target] {
        let history = registry.history();
        let challenged: Vec<usize> = (0..history.len())
            .filter(|&at| history[at].is_challenged)
            .collect();
        assert_eq!(challenged, [0]);
        assert!(token_requests(registry).values().all(|count| *count == 1));
    }
}
