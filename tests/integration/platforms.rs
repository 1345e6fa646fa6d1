//! Images of which only some platforms are wanted: what arrives, what it costs, and what a second run costs. Not here:
//! which platforms a filter takes (a table in `src/oci/platform.rs`), and how an index is cut (`src/oci/trim.rs`).

use image_syncer::oci::manifest::media_type;
use serde_json::{Value, json};

use crate::economy::sync;
use crate::harness::{Output, Run, assert_same};
use crate::image::{Blob, Image, Maker, platform_value, with};
use crate::invariants::check_invariants;
use crate::registry::{FakeRegistry, Habit, Kind, Options};

/// A source and a target.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
    maker: Maker,
}

impl World {
    fn new() -> Self {
        Self {
            source: FakeRegistry::new(),
            target: FakeRegistry::new(),
            maker: Maker::new(11),
        }
    }

    /// A target that takes an index whose children it lacks.
    fn with_lax_target() -> Self {
        let habit = Habit {
            missing_child: None,
            ..Habit::DISTRIBUTION_3
        };
        Self {
            target: FakeRegistry::start(Options::default().habit(habit)),
            ..Self::new()
        }
    }

    /// An image for each platform, with a layer of its own.
    fn images<const N: usize>(&mut self, platforms: [&str; N]) -> [Image; N] {
        platforms.map(|platform| self.maker.oci_for(platform, &[100]))
    }

    fn push(&self, tag: &str, image: &Image) {
        self.source.push("a", tag, image);
    }

    /// A run of one rule over `v1`, one request at a time.
    fn run(&self, arguments: &[&str]) -> Run {
        Run::new()
            .rule(&self.source.name("a:v1"), self.target.name("b"))
            .args(["--proc=1"])
            .args(arguments)
    }

    /// A run in the same folder, whose rule has these fields.
    fn of_rule(&self, run: Run, fields: Value) -> Run {
        let body = with(json!({"to": self.target.name("b")}), fields);
        run.rule(&self.source.name("a:v1"), body)
    }

    /// Begins the histories anew, and runs to success.
    #[track_caller]
    fn syncs(&self, run: &Run) -> Output {
        sync(run, &[&self.source], &[&self.target])
    }

    /// The same where the target holds an index that lacks children, which is what was asked for.
    #[track_caller]
    fn sparse_syncs(&self, run: &Run) -> Output {
        self.target.forget();
        sync(run, &[&self.source], &[])
    }

    /// The manifest under `v1` at the target, and what it names.
    #[track_caller]
    fn arrived(&self) -> (Vec<u8>, Vec<String>) {
        let (_, manifest) = self.target.manifest("b", "v1").expect("nothing arrived");
        let document: Value = serde_json::from_slice(&manifest.bytes).unwrap();
        let entries = document["manifests"].as_array().into_iter().flatten();
        let digests = entries.map(|entry| entry["digest"].as_str().unwrap().to_owned());
        (manifest.bytes.to_vec(), digests.collect())
    }

    #[track_caller]
    fn assert_images_arrived(&self, images: &[&Image]) {
        for image in images {
            let digest = image.digest.as_str();
            assert_same((&self.source, "a", digest), (&self.target, "b", digest));
        }
    }

    /// Nothing was read but digests, and nothing was put.
    #[track_caller]
    fn assert_only_asked(&self, source: usize, target: usize) {
        let heads =
            |registry: &FakeRegistry| (registry.count(Kind::ManifestHead), registry.total());
        assert_eq!(heads(&self.source), (source, source));
        assert_eq!(heads(&self.target), (target, target));
    }
}

/// An index of these, each under its platform, and with more than an index needs.
fn list(list_type: &str, images: &[(&Image, &str)]) -> Image {
    let entries = images.iter().map(|(image, platform)| {
        with(
            image.descriptor(),
            json!({"platform": platform_value(platform), "x-unknown": [1, {"b": null}]}),
        )
    });
    Image::index_with(
        list_type,
        images.iter().map(|(image, _)| *image),
        json!({
            "manifests": entries.collect::<Vec<_>>(),
            "annotations": {"z": "", "a": "ü"},
            "x-unknown": 1,
        }),
    )
}

/// An attestation about an image, with its entry in an index.
fn attestation(maker: &mut Maker, about: &Image) -> (Image, Value) {
    let statement = Blob::new("application/vnd.in-toto+json", maker.bytes(60));
    let image = Image::oci(&maker.config("unknown/unknown"), &[statement]);
    let entry = with(
        image.descriptor(),
        json!({
            "platform": platform_value("unknown/unknown"),
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": about.digest,
            },
        }),
    );
    (image, entry)
}

fn entry(image: &Image, platform: &str) -> Value {
    with(
        image.descriptor(),
        json!({"platform": platform_value(platform)}),
    )
}

#[test]
fn lists_of_docker_and_of_oci_are_cut_and_what_stays_keeps_its_bytes() {
    for list_type in [media_type::DOCKER_LIST, media_type::OCI_INDEX] {
        let mut world = World::new();
        let [amd, arm, s390] = world.images(["linux/amd64", "linux/arm64", "linux/s390x"]);
        let parts = [
            (&amd, "linux/amd64"),
            (&arm, "linux/arm64"),
            (&s390, "linux/s390x"),
        ];
        let index = list(list_type, &parts);
        world.push("v1", &index);
        let run = world.run(&["--os=linux", "--arch=amd64,s390x"]);
        let output = world.syncs(&run);
        // As if there had never been another one.
        let (bytes, named) = world.arrived();
        assert_eq!(named, [amd.digest.clone(), s390.digest.clone()]);
        let expected = list(list_type, &[parts[0], parts[2]]);
        assert_eq!(
            String::from_utf8(bytes),
            String::from_utf8(expected.bytes.to_vec())
        );
        world.assert_images_arrived(&[&amd, &s390]);
        let (digest, manifest) = world.target.manifest("b", "v1").unwrap();
        assert_eq!(manifest.media_type, list_type);
        for word in ["goes without linux/arm64", &index.digest, &digest] {
            assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
        }
        // What is not wanted cost nothing: an index, two images with a config and a layer each.
        assert_eq!(world.source.count(Kind::ManifestGet), 3);
        assert_eq!(world.source.count(Kind::BlobGet), 4);
        assert_eq!(world.source.total(), 7);
        assert_eq!(world.target.count(Kind::ManifestPut), 3);
        // And once more it costs two digests.
        let output = world.syncs(&run);
        world.assert_only_asked(1, 1);
        assert!(output.new_records().is_empty());
        assert!(output.stderr.contains(" unchanged "), "{}", output.stderr);
    }
}

#[test]
fn an_index_of_which_all_is_wanted_stays_as_it_is() {
    let mut world = World::new();
    let index = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
    world.push("v1", &index);
    let run = world.run(&["--os", "linux"]);
    world.syncs(&run);
    assert_same((&world.source, "a", "v1"), (&world.target, "b", "v1"));
    world.syncs(&run);
    world.assert_only_asked(1, 1);
}

#[test]
fn attestations_follow_the_image_that_they_describe() {
    let mut world = World::new();
    let [amd, arm] = world.images(["linux/amd64", "linux/arm64"]);
    let (about_amd, amd_entry) = attestation(&mut world.maker, &amd);
    let (about_arm, arm_entry) = attestation(&mut world.maker, &arm);
    let (about_other, other_entry) = attestation(&mut world.maker, &about_arm);
    let index = Image::index_with(
        media_type::OCI_INDEX,
        [&amd, &arm, &about_amd, &about_arm, &about_other],
        json!({"manifests": [
            arm_entry,
            entry(&amd, "linux/amd64"),
            entry(&arm, "linux/arm64/v8"),
            amd_entry,
            other_entry,
        ]}),
    );
    world.push("v1", &index);
    world.syncs(&world.run(&["--arch=arm64"]));
    let (_, named) = world.arrived();
    // What describes nothing that is gone stays.
    assert_eq!(
        named,
        [&about_arm, &arm, &about_other].map(|image| image.digest.clone())
    );
    assert_eq!(world.source.count(Kind::ManifestGet), 4);
}

/// An index with an index of two platforms, one of a third, and an artifact in it.
fn nested(world: &mut World) -> (Image, [Image; 3]) {
    let images = world.images(["linux/amd64", "linux/arm64", "windows/amd64"]);
    let [amd, arm, windows] = &images;
    let both = list(
        media_type::OCI_INDEX,
        &[(amd, "linux/amd64"), (arm, "linux/arm64")],
    );
    let other = list(media_type::OCI_INDEX, &[(windows, "windows/amd64")]);
    let note = Blob::new("application/vnd.example.note", world.maker.bytes(20));
    let artifact = Image::oci(&Blob::empty(), &[note]);
    let entries = [&other, &both, &artifact].map(Image::descriptor);
    let index = Image::index_with(
        media_type::OCI_INDEX,
        [&other, &both, &artifact],
        json!({"manifests": entries}),
    );
    (index, images)
}

#[test]
fn indexes_inside_an_index_are_cut_too() {
    let mut world = World::new();
    let (index, [_, arm, _]) = nested(&mut world);
    world.push("v1", &index);
    let run = world.run(&["--os=linux", "--arch=arm64"]);
    world.syncs(&run);
    let (_, named) = world.arrived();
    let inner = list(media_type::OCI_INDEX, &[(&arm, "linux/arm64")]);
    assert_eq!(
        named,
        [&inner.digest, &index.children[2].digest].map(Clone::clone)
    );
    let (_, arrived) = world
        .target
        .manifest("b", &inner.digest)
        .expect("no inner index");
    assert_eq!(arrived.bytes, inner.bytes);
    world.assert_images_arrived(&[&arm, &index.children[2]]);
    // The index, both in it, and the two images that are wanted.
    assert_eq!(world.source.count(Kind::ManifestGet), 5);
    world.syncs(&run);
    world.assert_only_asked(1, 1);
    // Nothing of it is wanted: what says no platform does not count.
    let world = World {
        target: FakeRegistry::new(),
        ..world
    };
    let output = world.syncs(&world.run(&["--arch=riscv64", "--records=other"]));
    assert_eq!(world.target.count(Kind::ManifestPut), 0);
    let has = "it has windows/amd64,linux/amd64,linux/arm64, wanted is */riscv64";
    assert!(output.stderr.contains(has), "{}", output.stderr);
}

#[test]
fn single_images_are_judged_by_their_config() {
    let mut world = World::new();
    let docker = Image::docker(
        &world.maker.docker_config("linux/arm64"),
        &[world.maker.docker_layer(50)],
    );
    let oci = world.maker.oci_for("linux/arm64", &[50]);
    for image in [docker, oci] {
        let world = World::new();
        world.push("v1", &image);
        // The source has a config and a manifest to say; the target says that it has nothing.
        let output = world.syncs(&world.run(&["--arch=amd64"]));
        assert_eq!(
            (world.source.total(), world.target.count(Kind::ManifestPut)),
            (2, 0)
        );
        assert!(
            output.stderr.contains("0 copied, 0 unchanged, 1 skipped"),
            "{}",
            output.stderr
        );
        assert!(
            output
                .stderr
                .contains("it has linux/arm64, wanted is */amd64")
        );
        let last = "Finished, 0 sync tasks failed, 0 tasks generate failed\n";
        assert_eq!(output.stdout, last);
        let foreseen = world.syncs(&world.run(&["--arch=amd64", "--dry-run"]));
        let skipped = "0 equal, 1 skipped for their platforms, 0 failed\n";
        assert!(foreseen.stdout.contains(skipped), "{}", foreseen.stdout);
        let run = world.run(&["--arch=amd64,arm64"]);
        world.syncs(&run);
        world.assert_images_arrived(&[&image]);
        world.syncs(&run);
        world.assert_only_asked(1, 1);
    }
}

#[test]
fn artifacts_are_for_all_platforms() {
    for (tag, image) in Maker::new(4).corpus() {
        let is_for_nobody = matches!(tag, "1.2.3_build.5" | "empty-artifact" | "artifact");
        if is_for_nobody {
            let world = World::new();
            world.push("v1", &image);
            world.syncs(&world.run(&["--os=windows", "--arch=arm64"]));
            world.assert_images_arrived(&[&image]);
        }
    }
}

#[test]
fn without_records_an_unchanged_image_costs_one_manifest_and_is_put_nowhere() {
    let mut world = World::new();
    let index = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
    world.push("v1", &index);
    world.syncs(&world.run(&["--arch=arm64"]));
    let run = world.run(&["--arch=arm64"]);
    world.syncs(&run);
    assert_eq!(
        (world.source.count(Kind::ManifestGet), world.source.total()),
        (1, 1)
    );
    assert_eq!(
        (world.target.count(Kind::ManifestHead), world.target.total()),
        (1, 1)
    );
    // From then on it is recorded.
    world.syncs(&run);
    world.assert_only_asked(1, 1);
}

#[test]
fn what_changes_is_seen_through_the_filter() {
    let mut world = World::new();
    let [amd, arm, newer] = world.images(["linux/amd64", "linux/arm64", "linux/arm64"]);
    let index = Image::index(&[(&amd, Some("linux/amd64")), (&arm, Some("linux/arm64"))]);
    world.push("v1", &index);
    let run = world.of_rule(world.run(&[]), json!({"platforms": "linux/amd64"}));
    world.syncs(&run);
    let (_, before) = world.target.manifest("b", "v1").unwrap();
    // At the source only what is not wanted: nothing is put, and it is recorded that this is the same.
    let moved = Image::index(&[(&amd, Some("linux/amd64")), (&newer, Some("linux/arm64"))]);
    world.push("v1", &moved);
    world.syncs(&run);
    assert_eq!(world.target.total(), 1);
    world.syncs(&run);
    world.assert_only_asked(1, 1);
    assert_eq!(
        world.target.manifest("b", "v1").unwrap().1.bytes,
        before.bytes
    );
    // Another one is wanted, then all, then less.
    let mut run = run;
    for (platforms, expected) in [
        (vec!["linux/arm64"], vec![&newer]),
        (vec!["linux/amd64", "linux/arm64/v8"], vec![&amd, &newer]),
        (vec!["linux/amd64"], vec![&amd]),
    ] {
        run = world.of_rule(run, json!({"platforms": platforms}));
        world.syncs(&run);
        let expected: Vec<_> = expected.iter().map(|image| image.digest.clone()).collect();
        assert_eq!(world.arrived().1, expected);
        world.syncs(&run);
        world.assert_only_asked(1, 1);
    }
}

#[test]
fn a_rule_may_choose_for_itself() {
    let mut world = World::new();
    let index = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
    world.push("v1", &index);
    world.push("v2", &index);
    let (v1, v2) = (world.source.name("a:v1"), world.source.name("a:v2"));
    let body = |platform: &str| json!({"to": world.target.name("b"), "platforms": [platform]});
    // What it says counts for it, the command line for all others; of two rules for one tag the later fails.
    let run = Run::new()
        .rule(&v1, body("linux/arm64"))
        .rule(&v2, world.target.name("b"))
        .arg("--arch=amd64");
    world.syncs(&run);
    assert_eq!(world.arrived().1, [index.children[1].digest.clone()]);
    let (_, other) = world.target.manifest("b", "v2").unwrap();
    assert!(String::from_utf8_lossy(&other.bytes).contains(&index.children[0].digest));
    let text = format!(
        r#"{{"images": {{"{v1}": {}, "{v1}": {}}}}}"#,
        body("linux/arm64"),
        body("linux/amd64")
    );
    let output = Run::new().config(text).run().expect(1);
    check_invariants(&[&world.source], &[&world.target], &output);
    assert!(
        output.stderr.contains("writes the same tag"),
        "{}",
        output.stderr
    );
    // A text that is no platform costs its rule, and what is no text the run.
    let run = Run::new()
        .rule(&v1, body("linux"))
        .rule(&v2, body("linux/amd64"));
    let output = run.run().expect(1);
    assert_eq!(output.finished(), Some((0, 1)));
    let words = "\"linux\" is no platform; write one such as linux/amd64 or linux/arm64/v8";
    assert!(output.stderr.contains(words), "{}", output.stderr);
    let wrong = json!({"to": "x/y", "platforms": [true], "sparse": "no", "force": 0});
    let output = Run::new().rule(&v1, wrong).run().expect(2);
    assert_eq!(output.stderr.lines().count(), 3, "{}", output.stderr);
}

#[test]
fn a_digest_that_is_asked_for_at_the_target_cannot_be_cut() {
    let mut world = World::new();
    let index = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
    world.push("v1", &index);
    let source = format!("{}@{}", world.source.name("a"), index.digest);
    let run = Run::new()
        .rule(&source, world.target.name("b"))
        .arg("--arch=amd64");
    let output = run.run().expect(1);
    check_invariants(&[&world.source], &[&world.target], &output);
    assert_eq!(output.finished(), Some((1, 0)));
    let words = "name a tag at the target, or keep the index whole with `sparse`";
    assert!(output.stderr.contains(words), "{}", output.stderr);
    assert_eq!(world.target.count(Kind::ManifestPut), 0);
    // A tag may be another index, and what it was made of cannot move.
    let run = Run::new()
        .rule(&source, world.target.name("b:v1"))
        .arg("--arch=amd64");
    world.syncs(&run);
    assert_eq!(world.arrived().1, [index.children[0].digest.clone()]);
    world.syncs(&run);
    world.assert_only_asked(0, 1);
}

/// A lax target with a sparse index of two platforms, of which it has only amd64.
fn sparse() -> (World, Image, Run) {
    let mut world = World::with_lax_target();
    let index = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
    world.push("v1", &index);
    let run = world.of_rule(world.run(&[]), sparse_wish());
    world.sparse_syncs(&run);
    (world, index, run)
}

fn sparse_wish() -> Value {
    json!({"platforms": ["linux/amd64"], "sparse": true})
}

#[test]
fn a_sparse_index_keeps_its_digest_and_only_its_wanted_children_are_copied() {
    let (world, index, run) = sparse();
    let (digest, arrived) = world.target.manifest("b", "v1").unwrap();
    assert_eq!(
        (digest, arrived.bytes),
        (index.digest.clone(), index.bytes.clone())
    );
    world.assert_images_arrived(&[&index.children[0]]);
    assert_eq!(
        world
            .target
            .manifest("b", &index.children[1].digest)
            .map(|(digest, _)| digest),
        None
    );
    assert_eq!(world.source.count(Kind::ManifestGet), 2);
    world.sparse_syncs(&run);
    world.assert_only_asked(1, 1);
    // Without records the index is read and its child asked for, and nothing is put.
    world.sparse_syncs(&world.of_rule(world.run(&[]), sparse_wish()));
    assert_eq!(
        (world.source.count(Kind::ManifestGet), world.source.total()),
        (1, 1)
    );
    assert_eq!(
        (world.target.count(Kind::ManifestHead), world.target.total()),
        (2, 2)
    );
}

#[test]
fn a_sparse_index_is_completed_when_more_of_it_is_wanted() {
    for wish in [
        json!({"platforms": ["linux/amd64", "linux/arm64"], "sparse": true}),
        json!({"platforms": ["linux/amd64", "linux/arm64"]}),
        json!({}),
    ] {
        let (world, index, run) = sparse();
        let run = world.of_rule(run, wish);
        world.sparse_syncs(&run);
        world.assert_images_arrived(&[&index]);
        assert_eq!(world.source.count(Kind::ManifestGet), 2);
        world.sparse_syncs(&run);
        world.assert_only_asked(1, 1);
    }
}

#[test]
fn an_index_that_is_sparse_somewhere_is_never_taken_for_the_whole() {
    for is_one_run in [true, false] {
        let mut world = World::with_lax_target();
        let inner = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
        let [other] = world.images(["linux/s390x"]);
        let outer = Image::index(&[(&inner, None), (&other, Some("linux/s390x"))]);
        world.push("v1", &inner);
        world.push("v2", &outer);
        world.push("v3", &outer);
        let whole_to = ["b", "c"].map(|name| world.target.name(name));
        let whole = |run: Run| run.rule(&world.source.name("a:v3"), whole_to.to_vec());
        let mut run = world.of_rule(Run::new().arg("--proc=1"), sparse_wish());
        if !is_one_run {
            world.sparse_syncs(&run);
            let has = |image: &Image| world.target.manifest("b", &image.digest).is_some();
            assert_eq!(
                [0, 1].map(|child| has(&inner.children[child])),
                [true, false]
            );
        }
        let wish = with(sparse_wish(), json!({"to": world.target.name("b")}));
        run = run.rule(&world.source.name("a:v2"), wish);
        if !is_one_run {
            // What is inside comes whole or not at all.
            world.sparse_syncs(&run);
            world.assert_images_arrived(&[&inner]);
            assert!(world.target.manifest("b", &other.digest).is_none());
        }
        world.sparse_syncs(&whole(run));
        world.assert_images_arrived(&[&outer]);
        assert_same((&world.source, "a", "v3"), (&world.target, "c", "v3"));
    }
}

#[test]
fn a_target_that_wants_all_children_is_told_to_the_user() {
    let mut world = World::new();
    let index = world.maker.index(&["linux/amd64", "linux/arm64"], 100);
    world.push("v1", &index);
    let output = world.of_rule(world.run(&[]), sparse_wish());
    let output = output.run().expect(1);
    let words = "the target wants every child of an index; leave out `sparse`";
    assert!(output.stderr.contains(words), "{}", output.stderr);
    assert_eq!(output.finished(), Some((1, 0)));
    // One PUT of the child, one of the index.
    assert_eq!(world.target.count(Kind::ManifestPut), 2);
}
