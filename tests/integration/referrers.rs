//! What is about an image and goes where it goes: by the registries' lists of referrers, by the tags that stand in for
//! them, and by cosign's tags. Not here: how an entry of such a list is made (`src/oci/referrers.rs`).

use image_syncer::oci::manifest::media_type;
use image_syncer::oci::{Digest, Tag};
use serde_json::{Value, json};

use crate::economy::sync;
use crate::harness::{Output, Run, assert_same};
use crate::image::{Blob, Image, Maker, platform_value, with};
use crate::invariants::check_invariants;
use crate::registry::{Act, FakeRegistry, Fault, Habit, Kind, Nth, Options};

/// A registry that lists referrers.
const API: Habit = Habit::ZOT;
/// One that does not.
const TAGS: Habit = Habit::DISTRIBUTION_3;
/// One that lists them, and does not say so to who puts one.
const SILENT: Habit = Habit {
    tells_subject: false,
    ..API
};

/// One that says so and does not list them.
const TELLING: Habit = Habit {
    tells_subject: true,
    ..TAGS
};

/// A source and a target, and something about an image.
struct World {
    source: FakeRegistry,
    source_lists: bool,
    target: FakeRegistry,
    maker: Maker,
}

impl World {
    fn new(source: Habit, target: Habit) -> Self {
        Self {
            source_lists: source.lists_referrers,
            source: FakeRegistry::start(Options::default().habit(source)),
            target: FakeRegistry::start(Options::default().habit(target)),
            maker: Maker::new(17),
        }
    }

    /// The same with an image, `a:v1` of the source.
    fn of_image(source: Habit, target: Habit) -> (Self, Image) {
        let mut world = Self::new(source, target);
        let image = world.maker.oci(&[100]);
        world.source.push("a", "v1", &image);
        (world, image)
    }

    /// The same with an artifact about it.
    fn signed(source: Habit, target: Habit) -> (Self, Image, Image) {
        let (mut world, image) = Self::of_image(source, target);
        let signature = world.about(&image);
        world.attach(&image, &[&signature]);
        (world, image, signature)
    }

    /// A new artifact about an image.
    fn about(&mut self, subject: &Image) -> Image {
        let file = Blob::new("application/vnd.example.file", self.maker.bytes(40));
        Image::oci_with(
            &Blob::empty(),
            &[file],
            json!({
                "mediaType": media_type::OCI_IMAGE,
                "artifactType": "application/vnd.example.signature",
                "subject": subject.descriptor(),
                "annotations": {"org.example.by": "me"},
            }),
        )
    }

    /// Puts artifacts about an image to the source, and has the tag list them where the source does not.
    fn attach(&self, subject: &Image, artifacts: &[&Image]) {
        attach(&self.source, "a", self.source_lists, subject, artifacts);
    }

    fn run(&self) -> Run {
        Run::new()
            .rule(&self.source.name("a:v1"), self.target.name("b"))
            .args(["--proc=1", "--referrers"])
    }

    /// Begins the histories anew, and runs to success.
    #[track_caller]
    fn syncs(&self, run: &Run) -> Output {
        sync(run, &[&self.source], &[&self.target])
    }

    #[track_caller]
    fn assert_arrived(&self, images: &[&Image]) {
        for image in images {
            let digest = image.digest.as_str();
            assert_same((&self.source, "a", digest), (&self.target, "b", digest));
        }
    }

    /// What the target's tag lists about an image, sorted.
    fn listed(&self, subject: &Image) -> Vec<String> {
        listed(&self.target, "b", subject)
    }
}

fn attach(
    registry: &FakeRegistry,
    repository: &str,
    lists: bool,
    subject: &Image,
    artifacts: &[&Image],
) {
    for artifact in artifacts {
        registry.push_untagged(repository, artifact);
    }
    if !lists {
        registry.push(repository, &tag(subject, ""), &list_of(artifacts));
    }
}

/// The index that lists these.
fn list_of(artifacts: &[&Image]) -> Image {
    let entries = artifacts.iter().map(|artifact| {
        with(
            artifact.descriptor(),
            json!({"artifactType": "application/vnd.example.signature"}),
        )
    });
    Image::index_with(
        media_type::OCI_INDEX,
        artifacts.iter().copied(),
        json!({"manifests": entries.collect::<Vec<_>>()}),
    )
}

fn tag(subject: &Image, suffix: &str) -> String {
    Tag::of_digest(&Digest::parse(&subject.digest).unwrap(), suffix).to_string()
}

fn listed(registry: &FakeRegistry, repository: &str, subject: &Image) -> Vec<String> {
    let Some((_, index)) = registry.manifest(repository, &tag(subject, "")) else {
        return Vec::new();
    };
    let index: Value = serde_json::from_slice(&index.bytes).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    let mut digests: Vec<String> = entries
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect();
    digests.sort_unstable();
    digests
}

fn digests(images: &[&Image]) -> Vec<String> {
    let mut digests: Vec<String> = images.iter().map(|image| image.digest.clone()).collect();
    digests.sort_unstable();
    digests
}

#[test]
fn referrers_arrive_whoever_lists_them() {
    for source in [API, TAGS] {
        for target in [API, TAGS, SILENT, TELLING] {
            let mut world = World::new(source.clone(), target.clone());
            let index = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
            world.source.push("a", "v1", &index);
            let signature = world.about(&index);
            let second = world.about(&index);
            let of_child = world.about(&index.children[0]);
            let nested = world.about(&of_child);
            world.attach(&index, &[&signature, &second]);
            world.attach(&index.children[0], &[&of_child]);
            world.attach(&of_child, &[&nested]);
            // The target's own, which is about the same image.
            world.target.push("b", "old", &index);
            let own = world.about(&index);
            attach(&world.target, "b", target.lists_referrers, &index, &[&own]);

            let run = world.run();
            world.syncs(&run);
            let case = format!("{} -> {}", source.name, target.name);
            world.assert_arrived(&[&index, &signature, &second, &of_child, &nested]);
            assert!(
                world.target.manifest("b", &own.digest).is_some(),
                "{case}: the target's own is gone"
            );
            let tagged: [&[&Image]; 3] = match (target.lists_referrers, target.tells_subject) {
                (true, true) => [&[], &[], &[]],
                (true, false) => [&[&signature, &second], &[&of_child], &[&nested]],
                _ => [&[&signature, &second, &own], &[&of_child], &[&nested]],
            };
            for (subject, expected) in [&index, &index.children[0], &of_child]
                .into_iter()
                .zip(tagged)
            {
                assert_eq!(world.listed(subject), digests(expected), "{case}");
            }
            let output = world.syncs(&run);
            assert_eq!(world.target.count(Kind::ManifestPut), 0, "{case}");
            assert_eq!(world.source.count(Kind::BlobGet), 0, "{case}");
            assert!(output.new_records().is_empty(), "{case}");
        }
    }
}

#[test]
fn an_unchanged_run_asks_once_for_each_list() {
    for (habit, has_children) in [(API, false), (API, true), (TAGS, false), (TAGS, true)] {
        let mut world = World::new(habit.clone(), habit.clone());
        let platforms = ["linux/amd64", "linux/arm64", "linux/s390x"];
        let image = if has_children {
            world.maker.index(&platforms, 50)
        } else {
            world.maker.oci(&[50])
        };
        world.source.push("a", "v1", &image);
        let subjects: Vec<&Image> = [&image].into_iter().chain(&image.children).collect();
        let count = if has_children { 3 } else { 10 };
        for subject in &subjects {
            let about: Vec<Image> = (0..count).map(|_| world.about(subject)).collect();
            world.attach(subject, &about.iter().collect::<Vec<_>>());
        }
        let run = world.run();
        world.syncs(&run);
        world.syncs(&run);
        let subjects = subjects.len();
        let (lists, tags) = if habit.lists_referrers {
            (subjects, 0)
        } else {
            // Once each side it is found out that there are none.
            (1, subjects)
        };
        let all = if habit.lists_referrers {
            subjects * (1 + count)
        } else {
            1
        };
        let counts = |registry: &FakeRegistry| {
            let kinds = [
                Kind::TagsList,
                Kind::ManifestHead,
                Kind::Referrers,
                Kind::ManifestGet,
            ];
            let counts = kinds.map(|kind| registry.count(kind));
            assert_eq!(counts.iter().sum::<usize>(), registry.total());
            counts
        };
        let case = format!("{} {has_children}", habit.name);
        // What is found may have referrers itself.
        assert_eq!(counts(&world.source), [1, 1, all, tags], "{case}");
        // An index is read where it was found to be: only that tells its children.
        let read = usize::from(has_children);
        assert_eq!(counts(&world.target), [0, 1, lists, tags + read], "{case}");
    }
}

#[test]
fn without_the_flag_nothing_more_is_asked_or_copied() {
    let (world, _, signature) = World::signed(API, API);
    let run = Run::new()
        .rule(&world.source.name("a:v1"), world.target.name("b"))
        .arg("--proc=1");
    world.syncs(&run);
    assert!(world.target.manifest("b", &signature.digest).is_none());
    assert_eq!(world.source.count(Kind::Referrers), 0);
    assert_eq!(world.source.count(Kind::TagsList), 0);
    world.syncs(&run);
    assert_eq!((world.source.total(), world.target.total()), (1, 1));
}

#[test]
fn a_rule_object_asks_for_referrers_of_its_own_images() {
    let mut world = World::new(API, API);
    let image = world.maker.oci(&[100]);
    let other = world.maker.oci(&[100]);
    world.source.push("a", "v1", &image);
    world.source.push("a", "v2", &other);
    let [signature, not_wanted] = [world.about(&image), world.about(&other)];
    world.attach(&image, &[&signature]);
    world.attach(&other, &[&not_wanted]);
    let run = Run::new()
        .rule(
            &world.source.name("a:v1"),
            json!({"to": world.target.name("b"), "referrers": true}),
        )
        .rule(&world.source.name("a:v2"), world.target.name("b"));
    world.syncs(&run);
    world.assert_arrived(&[&image, &other, &signature]);
    assert!(world.target.manifest("b", &not_wanted.digest).is_none());
}

#[test]
fn cosigns_tags_travel_with_their_image_and_are_renewed() {
    let (mut world, image) = World::of_image(TAGS, TAGS);
    let of = |suffix| tag(&image, suffix);
    let signature = world.maker.oci(&[50]);
    for suffix in [".sig", ".att", ".sbom"] {
        world.source.push("a", &of(suffix), &signature);
    }
    let other = world.maker.oci(&[60]);
    let about_other = tag(&other, ".sig");
    world.source.push("a", &about_other, &other);
    let run = world.run();
    world.syncs(&run);
    for suffix in [".sig", ".att", ".sbom"] {
        let tag = of(suffix);
        assert_same((&world.source, "a", &tag), (&world.target, "b", &tag));
    }
    assert!(world.target.manifest("b", &about_other).is_none());
    // A signature more: the tag has moved, and the image has not.
    let config = world.maker.config("linux/amd64");
    let layers = [signature.blobs[1].clone(), world.maker.layer(50)];
    let more = Image::oci(&config, &layers);
    world.source.push("a", &of(".sig"), &more);
    world.syncs(&run);
    assert_same(
        (&world.source, "a", &of(".sig")),
        (&world.target, "b", &of(".sig")),
    );
    world.syncs(&run);
    // The image and its three tags; the tag list and the missing list of referrers beside them at the source.
    assert_eq!(world.source.count(Kind::ManifestHead), 4);
    assert_eq!(world.source.total(), 6);
    assert_eq!(world.target.count(Kind::ManifestHead), 4);
    assert_eq!(world.target.total(), 4);
}

#[test]
fn a_rule_over_all_tags_leaves_the_targets_own_list_alone() {
    let (mut world, image, signature) = World::signed(TAGS, TAGS);
    world.target.push("b", "old", &image);
    let own = world.about(&image);
    attach(&world.target, "b", false, &image, &[&own]);
    let run = Run::new()
        .rule(&world.source.name("a"), world.target.name("b"))
        .arg("--referrers");
    world.syncs(&run);
    assert_eq!(world.listed(&image), digests(&[&signature, &own]));
    assert_eq!(world.target.tags("b"), ["old", &tag(&image, ""), "v1"]);
}

#[test]
fn referrers_go_to_all_targets_and_are_read_once() {
    let mut world = World::new(API, TAGS);
    let third = FakeRegistry::start(Options::default().habit(API));
    let image = world.maker.oci(&[100]);
    world.source.push("a", "v1", &image);
    let artifacts: Vec<Image> = (0..8).map(|_| world.about(&image)).collect();
    let artifacts: Vec<&Image> = artifacts.iter().collect();
    world.attach(&image, &artifacts);
    let targets = [world.target.name("b"), third.name("c")];
    let run = Run::new()
        .rule(&world.source.name("a:v1"), targets.to_vec())
        .args(["--proc=8", "--referrers"]);
    let output = run.run().expect(0);
    check_invariants(&[&world.source], &[&world.target, &third], &output);
    // Eight workers write one list: none of them loses an entry of another.
    assert_eq!(world.listed(&image), digests(&artifacts));
    for artifact in artifacts {
        let digest = artifact.digest.as_str();
        assert_same((&world.source, "a", digest), (&world.target, "b", digest));
        assert_same((&world.source, "a", digest), (&third, "c", digest));
    }
    assert_eq!(world.source.count(Kind::Referrers), 9);
}

#[test]
fn a_list_in_pages_is_read_to_its_end() {
    let paged = Habit {
        max_page: Some(2),
        ..API
    };
    let (mut world, image) = World::of_image(paged, API);
    let artifacts: Vec<Image> = (0..5).map(|_| world.about(&image)).collect();
    let artifacts: Vec<&Image> = artifacts.iter().collect();
    world.attach(&image, &artifacts);
    world.syncs(&world.run());
    world.assert_arrived(&artifacts);
}

#[test]
fn only_what_is_about_a_wanted_platform_is_copied() {
    let mut world = World::new(API, API);
    let [amd, arm] =
        ["linux/amd64", "linux/arm64"].map(|platform| world.maker.oci_for(platform, &[90]));
    let index = Image::index_with(
        media_type::OCI_INDEX,
        [&amd, &arm],
        json!({"manifests": [
            with(amd.descriptor(), json!({"platform": platform_value("linux/amd64")})),
            with(arm.descriptor(), json!({"platform": platform_value("linux/arm64")})),
        ]}),
    );
    world.source.push("a", "v1", &index);
    let [of_index, of_amd, of_arm] = [world.about(&index), world.about(&amd), world.about(&arm)];
    for (subject, artifact) in [(&index, &of_index), (&amd, &of_amd), (&arm, &of_arm)] {
        world.attach(subject, &[artifact]);
    }
    let run = world.run().arg("--arch=amd64");
    for _ in 0..2 {
        world.syncs(&run);
        world.assert_arrived(&[&amd, &of_amd]);
        for not_wanted in [&of_index, &of_arm] {
            assert!(world.target.manifest("b", &not_wanted.digest).is_none());
        }
    }
}

#[test]
fn a_list_that_cannot_be_had_fails_its_image_and_the_next_pass_mends_it() {
    let broken = Act::Status(500, Vec::new(), Vec::new());
    let (world, image, signature) = World::signed(API, API);
    world
        .source
        .fault(Fault::on(Kind::Referrers, broken.clone()).nth(Nth::UpTo(5)));
    let run = world.run().env("IMAGE_SYNCER_TIME_SCALE", "0");
    let output = run.run().expect(0);
    check_invariants(&[&world.source], &[&world.target], &output);
    world.assert_arrived(&[&image, &signature]);
    world.source.fault(Fault::on(Kind::Referrers, broken));
    let output = run.arg("--retries=0").run().expect(1);
    assert_eq!(output.finished(), Some((1, 0)));
    assert!(
        output.stderr.contains("failed to find the referrers of"),
        "{}",
        output.stderr
    );
}

#[test]
fn where_the_list_is_refused_the_tags_are_read_and_it_is_said_once() {
    let html = ("Content-Type", "text/html".to_owned());
    let basic = ("WWW-Authenticate", "Basic realm=\"r\"".to_owned());
    for refusal in [
        Act::status(401),
        Act::Status(401, vec![basic], Vec::new()),
        Act::status(403),
        Act::Status(200, vec![html], b"<html>".to_vec()),
    ] {
        let source = Options::default().habit(TAGS).basic("ada", "secret");
        let mut world = World {
            source: FakeRegistry::start(source),
            ..World::new(TAGS, API)
        };
        world.source.fault(Fault::on(Kind::Referrers, refusal));
        let images = [world.maker.oci(&[100]), world.maker.oci(&[100])];
        let mut signatures = Vec::new();
        for (image, tag) in images.iter().zip(["v1", "v2"]) {
            world.source.push("a", tag, image);
            let signature = world.about(image);
            world.attach(image, &[&signature]);
            signatures.push(signature);
        }
        let run = Run::new()
            .auth(&world.source, "ada", "secret")
            .rule(&world.source.name("a:v1,v2"), world.target.name("b"))
            .args(["--proc=1", "--referrers"]);
        let output = world.syncs(&run);
        world.assert_arrived(&signatures.iter().collect::<Vec<_>>());
        assert_eq!(world.source.count(Kind::Referrers), 2);
        let told = output.stderr.matches("their own list is refused").count();
        assert_eq!(told, 1, "{}", output.stderr);
    }
}

#[test]
fn a_target_that_cannot_be_read_is_not_taken_for_the_source() {
    let mut world = World::new(API, API);
    let index = world.maker.index(&["linux/amd64"], 50);
    world.source.push("a", "v1", &index);
    let run = world.run();
    world.syncs(&run);
    let signature = world.about(&index.children[0]);
    world.attach(&index.children[0], &[&signature]);
    let busy = Fault::on(Kind::ManifestGet, Act::throttle(60));
    world.target.fault(busy.of(&index.digest));
    let output = world.syncs(&run);
    assert!(!output.stderr.contains("left alone"), "{}", output.stderr);
    world.assert_arrived(&[&signature]);
}

#[test]
fn an_entry_that_was_lost_is_brought_again() {
    let (world, image, signature) = World::signed(TAGS, TAGS);
    // An earlier run was cut off before it listed what it had put.
    world.target.push("b", "v1", &image);
    world.target.push_untagged("b", &signature);
    world.syncs(&world.run());
    assert_eq!(world.listed(&image), digests(&[&signature]));
}

#[test]
fn a_dry_run_tells_of_referrers_and_writes_none() {
    let (world, ..) = World::signed(API, TAGS);
    let output = world.syncs(&world.run().arg("--dry-run"));
    assert!(output.stdout.contains("2 new"), "{}", output.stdout);
    assert_eq!(world.target.tags("b"), Vec::<String>::new());
    assert_eq!(world.target.count(Kind::ManifestPut), 0);
}

#[test]
fn a_layout_lists_referrers_by_tag() {
    let (world, image, signature) = World::signed(API, API);
    let run = Run::new()
        .rule(&world.source.name("a:v1"), "oci:./layout:v1")
        .arg("--referrers");
    run.run().expect(0);
    let index = std::fs::read_to_string(run.path("layout/index.json")).unwrap();
    assert!(index.contains(&tag(&image, "")), "{index}");
    let back = run.config(json!({"images": {"oci:./layout:v1": world.target.name("b")}}));
    let output = back.run().expect(0);
    check_invariants(&[&world.source], &[&world.target], &output);
    world.assert_arrived(&[&image, &signature]);
}

#[test]
fn a_circle_of_referrers_comes_to_an_end() {
    let (world, image, signature) = World::signed(TAGS, API);
    attach(&world.source, "a", false, &signature, &[&image, &signature]);
    world.syncs(&world.run());
    world.assert_arrived(&[&image, &signature]);
}

#[test]
fn referrers_of_referrers_have_an_end() {
    for (length, status) in [(16, 0), (17, 1)] {
        let (mut world, image) = World::of_image(API, API);
        let mut chain = vec![image];
        for _ in 0..length {
            let about = world.about(chain.last().unwrap());
            world.attach(chain.last().unwrap(), &[&about]);
            chain.push(about);
        }
        let output = world.run().run().expect(status);
        check_invariants(&[&world.source], &[&world.target], &output);
        if status == 0 {
            world.assert_arrived(&chain.iter().collect::<Vec<_>>());
        } else {
            let text = "more than 16 of one another";
            assert!(output.stderr.contains(text), "{}", output.stderr);
        }
    }
}

#[test]
fn a_list_without_measure_is_refused_and_read_once() {
    let (world, image) = World::of_image(TAGS, TAGS);
    let entries = (0..10_000).map(|number| {
        let digest = format!("sha256:{number:064x}");
        json!({"mediaType": media_type::OCI_IMAGE, "digest": digest, "size": 1})
    });
    let entries = json!({"manifests": entries.collect::<Vec<_>>()});
    let list = Image::index_with(media_type::OCI_INDEX, [], entries);
    world.source.push("a", &tag(&image, ""), &list);
    let output = world.run().run().expect(1);
    check_invariants(&[&world.source], &[&world.target], &output);
    let text = "there are more than 1000";
    assert!(output.stderr.contains(text), "{}", output.stderr);
    // The image, and its list.
    assert_eq!(world.source.count(Kind::ManifestGet), 2);
}

#[test]
fn what_others_list_meanwhile_stays_listed() {
    for rounds in 1..=2 {
        let (mut world, image, signature) = World::signed(TAGS, TAGS);
        let (list, old) = (tag(&image, ""), world.about(&image));
        attach(&world.target, "b", false, &image, &[&old]);
        let mut theirs = vec![old];
        for round in 0..rounds {
            theirs.push(world.about(&image));
            let listed: Vec<&Image> = theirs.iter().collect();
            // It read what was there before, and writes after this program has.
            let index = list_of(&listed);
            world.target.push_untagged("b", &index);
            let moved = Act::MoveTag("b".to_owned(), list.clone(), index.digest);
            // The first read finds out whether it is listed already.
            let look = Nth::Only(round + 3);
            world
                .target
                .fault(Fault::on(Kind::ManifestGet, moved).of(&list).nth(look));
        }
        world.syncs(&world.run());
        let mut all: Vec<&Image> = theirs.iter().collect();
        all.push(&signature);
        assert_eq!(world.listed(&image), digests(&all), "{rounds}");
    }
}

#[test]
fn a_sparse_index_has_its_own_referrers_and_those_of_what_is_wanted() {
    let lax = Options::default().habit(TAGS).gullible();
    let mut world = World {
        target: FakeRegistry::start(lax),
        ..World::new(API, TAGS)
    };
    let index = world.maker.index(&["linux/amd64", "linux/arm64"], 50);
    world.source.push("a", "v1", &index);
    let (amd, arm) = (&index.children[0], &index.children[1]);
    let [of_index, of_amd, of_arm] = [world.about(&index), world.about(amd), world.about(arm)];
    for (subject, artifact) in [(&index, &of_index), (amd, &of_amd), (arm, &of_arm)] {
        world.attach(subject, &[artifact]);
    }
    let sparse = json!({"to": world.target.name("b"), "platforms": "linux/amd64", "sparse": true});
    let run = Run::new()
        .rule(&world.source.name("a:v1"), sparse)
        .args(["--proc=1", "--referrers"]);
    for puts in [6, 0] {
        world.target.forget();
        // The target holds an index that lacks a child, which is what was asked for.
        let output = run.run().expect(0);
        check_invariants(&[&world.source], &[], &output);
        assert_eq!(world.listed(&index), digests(&[&of_index]));
        assert_eq!(world.listed(amd), digests(&[&of_amd]));
        assert_eq!(world.listed(arm), digests(&[]));
        assert!(world.target.manifest("b", &of_arm.digest).is_none());
        // The child, the index, and of two referrers each itself and its list.
        assert_eq!(world.target.count(Kind::ManifestPut), puts);
    }
}

#[test]
fn by_force_all_is_put_again_and_listed_once() {
    for target in [API, TAGS] {
        let (world, image, signature) = World::signed(API, target.clone());
        world.source.push("a", &tag(&image, ".sig"), &signature);
        let run = world.run().arg("--force");
        for _ in 0..2 {
            world.syncs(&run);
            world.assert_arrived(&[&image, &signature]);
            let mut puts: Vec<String> = world
                .target
                .history()
                .iter()
                .filter(|entry| entry.kind == Kind::ManifestPut)
                .map(|entry| entry.reference.clone())
                .collect();
            puts.retain(|name| *name != tag(&image, ""));
            puts.sort_unstable();
            let mut expected = [
                "v1".to_owned(),
                tag(&image, ".sig"),
                signature.digest.clone(),
            ];
            expected.sort_unstable();
            assert_eq!(puts, expected);
        }
        let listed: &[&Image] = if target.lists_referrers {
            &[]
        } else {
            &[&signature]
        };
        assert_eq!(world.listed(&image), digests(listed));
    }
}

#[test]
fn what_records_vouch_for_gets_its_new_referrers() {
    for target in [API, TAGS] {
        let mut world = World::new(API, target);
        let index = world.maker.index(&["linux/amd64", "linux/arm64"], 50);
        world.source.push("a", "v1", &index);
        let run = world.run().arg("--trust-records=1h");
        world.syncs(&run);
        let signature = world.about(&index.children[1]);
        world.attach(&index.children[1], &[&signature]);
        world.syncs(&run);
        assert_eq!(world.target.count(Kind::ManifestHead), 0);
        world.assert_arrived(&[&signature]);
    }
}

#[test]
fn a_referrer_that_fails_is_a_failure_of_its_own_and_is_brought_by_the_file_of_failures() {
    let (mut world, image) = World::of_image(TAGS, TAGS);
    let (lost, signature) = (world.about(&image), world.about(&image));
    world.attach(&image, &[&lost, &signature]);
    let sig = tag(&image, ".sig");
    world.source.push("a", &sig, &world.maker.oci(&[70]));
    let gone = Fault::on(Kind::BlobGet, Act::status(404));
    world.source.fault(gone.clone().of(&lost.blobs[1].digest));
    world
        .source
        .fault(Fault::on(Kind::ManifestGet, Act::status(403)).of(&sig));
    let rule = json!({"to": world.target.name("b"), "referrers": true});
    let run = Run::new().rule(&world.source.name("a:v1"), rule).args([
        "--proc=1",
        "--output-failed-images=failed.json",
        "--output-images-format=json",
    ]);
    let output = run.run().expect(1);
    check_invariants(&[&world.source], &[&world.target], &output);
    assert_eq!(output.finished(), Some((1, 1)));
    world.assert_arrived(&[&image, &signature]);
    assert_eq!(world.listed(&image), digests(&[&signature]));
    // The file of failures names the image, and brings both with it.
    world.source.clear_faults();
    let failed: Value = serde_json::from_str(&output.written["failed.json"]).unwrap();
    let again = Run::new().config(json!({ "images": failed }));
    world.syncs(&again);
    world.assert_arrived(&[&lost]);
    assert_same((&world.source, "a", &sig), (&world.target, "b", &sig));
}

#[test]
fn of_two_targets_only_the_one_that_lacks_referrers_gets_them() {
    let mut world = World::new(API, TAGS);
    let second = FakeRegistry::start(Options::default().habit(TAGS));
    let image = world.maker.oci(&[100]);
    world.source.push("a", "v1", &image);
    let signature = world.about(&image);
    world.attach(&image, &[&signature]);
    world.syncs(&world.run());
    second.push("c", "v1", &image);
    let run = Run::new()
        .rule(
            &world.source.name("a:v1"),
            json!([world.target.name("b"), second.name("c")]),
        )
        .args(["--proc=1", "--referrers"]);
    world.source.forget();
    world.target.forget();
    let output = run.run().expect(0);
    check_invariants(&[&world.source], &[&world.target, &second], &output);
    assert_eq!(world.target.count(Kind::ManifestPut), 0);
    assert_eq!(listed(&second, "c", &image), digests(&[&signature]));
    assert_eq!(world.source.count(Kind::ManifestGet), 1);
}

#[test]
fn referrers_go_on_to_where_another_rule_brings_the_image() {
    for between in [API, TAGS] {
        let mut world = World::new(API, between);
        let last = FakeRegistry::start(Options::default().habit(TAGS));
        let image = world.maker.oci(&[100]);
        world.source.push("a", "v1", &image);
        let [first, second] = [world.about(&image), world.about(&image)];
        world.attach(&image, &[&first, &second]);
        let sig = tag(&image, ".sig");
        world.source.push("a", &sig, &world.maker.oci(&[50]));
        let run = Run::new()
            .rule(&world.source.name("a:v1"), world.target.name("b"))
            .rule(&world.target.name("b:v1"), last.name("c"))
            .args(["--referrers"]);
        let output = run.run().expect(0);
        check_invariants(&[&world.source], &[&world.target, &last], &output);
        assert_eq!(listed(&last, "c", &image), digests(&[&first, &second]));
        assert_same((&world.source, "a", &sig), (&last, "c", &sig));
    }
}
