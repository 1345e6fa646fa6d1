//! The tags that cosign writes: signatures, attestations and SBOMs of an image, each kind in one manifest that gains a
//! layer with each. What a target has there of its own stays. Not here: lists of referrers (`referrers.rs`).

use image_syncer::oci::manifest::media_type;
use image_syncer::oci::{Digest, Tag};
use serde_json::{Value, json};

use crate::economy::sync;
use crate::harness::{Output, Run, assert_same};
use crate::image::{Blob, Image, Maker, with};
use crate::invariants::check_invariants;
use crate::registry::{Act, FakeRegistry, Fault, Habit, Kind, Nth, Options};

/// A source and a target, and an image that somebody signs.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
    image: Image,
    run: Run,
}

impl World {
    fn new() -> Self {
        let start = || FakeRegistry::start(Options::default().habit(Habit::DISTRIBUTION_3));
        let (source, target) = (start(), start());
        let image = Maker::new(5).oci(&[100]);
        source.push("a", "v1", &image);
        let run = Run::new()
            .rule(&source.name("a:v1"), target.name("b"))
            .args(["--proc=1", "--referrers"]);
        Self {
            source,
            target,
            image,
            run,
        }
    }

    fn run_dry(&self) -> Output {
        let rule = json!({self.source.name("a:v1"): self.target.name("b")});
        let run = Run::new().config(json!({ "images": rule }));
        run.args(["--referrers", "--dry-run"]).run().expect(0)
    }

    fn tag(&self, suffix: &str) -> String {
        Tag::of_digest(&Digest::parse(&self.image.digest).unwrap(), suffix).to_string()
    }

    /// Begins the histories anew, and runs to success.
    #[track_caller]
    fn syncs(&self) -> Output {
        sync(&self.run, &[&self.source], &[&self.target])
    }

    /// Runs once more, which writes nothing.
    #[track_caller]
    fn is_unchanged(&self) -> Output {
        let before = self.target.tags("b").into_iter();
        let before: Vec<_> = before.map(|tag| self.target.manifest("b", &tag)).collect();
        let output = self.syncs();
        for write in [Kind::ManifestPut, Kind::UploadPut, Kind::UploadPatch] {
            assert_eq!(self.target.count(write), 0, "{write:?}");
        }
        assert_eq!(output.new_records(), Vec::<Value>::new());
        let after = self.target.tags("b").into_iter();
        let after: Vec<_> = after.map(|tag| self.target.manifest("b", &tag)).collect();
        let digests = |found: &[Option<(String, _)>]| -> Vec<String> {
            found
                .iter()
                .flatten()
                .map(|(digest, _)| digest.clone())
                .collect()
        };
        assert_eq!(digests(&before), digests(&after));
        output
    }

    /// Who has signed by what the target has under `.sig`, in the order of the layers; the config tells of each of them.
    #[track_caller]
    fn signers(&self, suffix: &str) -> String {
        let (_, manifest) = self.target.manifest("b", &self.tag(suffix)).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let config = manifest["config"]["digest"].as_str().unwrap();
        let config = self.target.blob("b", config).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        assert_eq!(json!(digests), config["rootfs"]["diff_ids"]);
        assert_eq!(layers.len(), config["history"].as_array().unwrap().len());
        let signer = |layer: &Value| {
            layer["annotations"]["signature"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        layers.iter().map(signer).collect()
    }
}

/// A manifest as cosign writes it, signed by each of these letters. A capital signs the same payload as the others.
fn signed(by: &str) -> Image {
    let payload = |signer: char| {
        let text = if signer.is_uppercase() {
            "payload".to_owned()
        } else {
            format!("of {signer}")
        };
        Blob::new("application/vnd.dev.cosign.simplesigning.v1+json", text)
    };
    let payloads: Vec<Blob> = by.chars().map(payload).collect();
    let entries = payloads.iter().zip(by.chars()).map(|(payload, signer)| {
        with(
            payload.descriptor(),
            json!({"annotations": {"signature": signer.to_string()}}),
        )
    });
    let entries: Vec<Value> = entries.collect();
    let diff_ids: Vec<&String> = payloads.iter().map(|payload| &payload.digest).collect();
    let config = json!({
        "architecture": "",
        "history": vec![json!({"created": "0001-01-01T00:00:00Z"}); payloads.len()],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = Blob::new(
        "application/vnd.oci.image.config.v1+json",
        config.to_string(),
    );
    let fields = json!({"mediaType": media_type::OCI_IMAGE, "layers": entries});
    Image::oci_with(&config, &payloads, fields)
}

#[test]
fn what_was_signed_at_the_target_stays_beside_what_was_signed_at_the_source() {
    let cases = [
        ("a", "", "a"),
        ("a", "a", "a"),
        // It has grown at the source.
        ("ab", "a", "ab"),
        ("ab", "b", "ab"),
        // And at the target.
        ("a", "ab", "ab"),
        ("b", "abc", "abc"),
        // And at both. Of one payload there are two signatures.
        ("ab", "ac", "abc"),
        ("a", "b", "ab"),
        ("A", "B", "AB"),
        ("aB", "AaC", "aBAC"),
    ];
    for ((source, target, expected), suffix) in
        cases.into_iter().zip([".sig", ".att"].iter().cycle())
    {
        let world = World::new();
        let tag = world.tag(suffix);
        world.source.push("a", &tag, &signed(source));
        world.target.push("b", "v1", &world.image);
        if !target.is_empty() {
            world.target.push("b", &tag, &signed(target));
        }
        let foreseen = world.run_dry();
        let output = world.syncs();
        let (new, changed) = (target.is_empty(), !target.is_empty() && expected != target);
        let counts = format!("{} new, {} changed,", u8::from(new), u8::from(changed));
        assert!(foreseen.stdout.contains(&counts), "{}", foreseen.stdout);
        assert_eq!(world.signers(suffix), expected, "{source} {target}");
        let is = |image: &str| signed(image).digest == world.target.manifest("b", &tag).unwrap().0;
        assert_eq!(is(source), source == expected);
        assert_eq!(is(target), target == expected);
        let records = output.new_records();
        let recorded = records.iter().rev().find(|record| record["tag"] == tag);
        let digest = world.target.manifest("b", &tag).unwrap().0;
        match recorded {
            Some(record) => assert_eq!(record["digest"], digest),
            None => assert_eq!(expected, target, "was put and not recorded"),
        }
        world.is_unchanged();
    }
}

#[test]
fn a_signature_more_on_either_side_arrives_beside_the_others() {
    let world = World::new();
    let tag = world.tag(".sig");
    world.source.push("a", &tag, &signed("a"));
    world.syncs();
    assert_same((&world.source, "a", &tag), (&world.target, "b", &tag));
    world.target.push("b", &tag, &signed("ax"));
    world.syncs();
    assert_eq!(world.signers(".sig"), "ax");
    world.is_unchanged();
    world.source.push("a", &tag, &signed("ab"));
    world.syncs();
    assert_eq!(world.signers(".sig"), "abx");
    world.source.push("a", &tag, &signed("abc"));
    world.syncs();
    assert_eq!(world.signers(".sig"), "abcx");
    world.is_unchanged();
}

#[test]
fn what_somebody_else_signs_meanwhile_is_not_lost() {
    for rounds in 1..=2 {
        let world = World::new();
        let tag = world.tag(".sig");
        world.source.push("a", &tag, &signed("a"));
        world.target.push("b", &tag, &signed("x"));
        let others = [signed("xy"), signed("xyz")];
        for (round, other) in others.iter().enumerate().take(rounds) {
            world.target.push_untagged("b", other);
            // It read what was there before, and writes after this program has.
            let moved = Act::MoveTag("b".to_owned(), tag.clone(), other.digest.clone());
            let look = Nth::Only(round + 2);
            world
                .target
                .fault(Fault::on(Kind::ManifestGet, moved).of(&tag).nth(look));
        }
        world.syncs();
        assert_eq!(world.signers(".sig"), ["axy", "axyz"][rounds - 1]);
        world.target.clear_faults();
        world.is_unchanged();
    }
}

#[test]
fn a_tag_that_is_always_changed_fails_its_image() {
    let world = World::new();
    let tag = world.tag(".sig");
    world.source.push("a", &tag, &signed("a"));
    world.target.push("b", &tag, &signed("x"));
    let moved = Act::MoveTag("b".to_owned(), tag.clone(), signed("x").digest);
    world
        .target
        .fault(Fault::on(Kind::ManifestGet, moved).of(&tag));
    let run = world
        .run
        .env("IMAGE_SYNCER_TIME_SCALE", "0")
        .arg("--retries=0");
    let output = run.run().expect(1);
    assert_eq!(output.finished(), Some((1, 0)));
    assert!(
        output.stderr.contains("is changed again and again"),
        "{}",
        output.stderr
    );
}

#[test]
fn an_sbom_of_the_targets_own_is_kept_and_one_that_was_brought_is_renewed() {
    let world = World::new();
    let tag = world.tag(".sbom");
    world.source.push("a", &tag, &signed("a"));
    world.target.push("b", &tag, &signed("x"));
    for _ in 0..2 {
        let output = world.syncs();
        assert_eq!(world.signers(".sbom"), "x");
        assert!(
            output.stderr.contains("is another SBOM than the source's"),
            "{}",
            output.stderr
        );
    }
    world.target.push("b", &tag, &signed("a"));
    world.syncs();
    world.source.push("a", &tag, &signed("b"));
    world.syncs();
    assert_same((&world.source, "a", &tag), (&world.target, "b", &tag));
}

#[test]
fn a_tag_of_which_a_head_does_not_tell_is_read_before_it_is_written() {
    let world = World::new();
    let tag = world.tag(".sig");
    world.source.push("a", &tag, &signed("a"));
    world.target.push("b", &tag, &signed("x"));
    world
        .target
        .fault(Fault::on(Kind::ManifestHead, Act::status(403)).of(&tag));
    world.syncs();
    assert_eq!(world.signers(".sig"), "ax");
}

#[test]
fn what_several_sources_have_signed_comes_together() {
    let world = World::new();
    let tag = world.tag(".sig");
    world.source.push("c", "v1", &world.image);
    for (repository, by) in [("a", "a"), ("c", "c")] {
        world.source.push(repository, &tag, &signed(by));
    }
    let rule = |repository, name| (world.source.name(repository), world.target.name(name));
    let [first, second] = [rule("a:v1", "b:v1"), rule("c:v1", "b:v2")];
    let run = Run::new()
        .rule(&first.0, first.1)
        .rule(&second.0, second.1)
        .arg("--referrers");
    for _ in 0..2 {
        world.target.forget();
        let output = run.run().expect(0);
        check_invariants(&[&world.source], &[&world.target], &output);
        let mut signers: Vec<char> = world.signers(".sig").chars().collect();
        signers.sort_unstable();
        assert_eq!(signers, ['a', 'c']);
    }
    assert_eq!(world.target.count(Kind::ManifestPut), 0);
}
