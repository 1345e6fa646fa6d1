//! The sweep (reliability.md 5.3): a faultless run of a scenario is recorded, then each of its requests goes wrong in
//! each way, once and for ever, and several at once, and after every run all invariants hold. `cargo test` takes a sample
//! of the cases; `IMAGE_SYNCER_SWEEP=all` takes all of them, `IMAGE_SYNCER_SEED=N` the sample of a run that failed.

use std::collections::BTreeSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use image_syncer::oci::manifest::media_type;
use image_syncer::oci::{Digest, Tag};
use serde_json::json;

use crate::harness::{Output, Run};
use crate::image::{Blob, Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Bearer, End, Entry, FakeRegistry, Fault, Habit, Kind, Nth, Options};

/// Registries, rules between them, and the images that the rules mean.
struct World {
    /// The source first, then the targets.
    registries: Vec<FakeRegistry>,
    run: Run,
    images: Vec<(&'static str, Image)>,
    /// Where they go at each target.
    repositories: &'static [&'static str],
    referrers: Option<Referrers>,
}

/// What else is to be at the target.
struct Referrers {
    /// An artifact, by its digest.
    about: String,
    /// The tag that lists it, where the target does not.
    list: Option<String>,
    /// A tag of cosign's.
    signatures: String,
    /// The digests of the layers that it has then, one of them the target's own.
    layers: [String; 2],
}

impl World {
    /// All images of the source's one repository go to the same repository of each target.
    fn new(tags: &str, images: Vec<(&'static str, Image)>, registries: Vec<FakeRegistry>) -> Self {
        Self::to(&["b"], tags, images, registries)
    }

    /// The same with several repositories of each target.
    fn to(
        repositories: &'static [&'static str],
        tags: &str,
        images: Vec<(&'static str, Image)>,
        registries: Vec<FakeRegistry>,
    ) -> Self {
        for (tag, image) in &images {
            registries[0].push("a", tag, image);
        }
        let targets = registries[1..]
            .iter()
            .flat_map(|target| repositories.iter().map(|name| target.name(name)));
        let run = registries
            .iter()
            .filter_map(|registry| Some((registry, registry.login()?)))
            .fold(Run::new(), |run, (registry, login)| {
                run.auth(registry, &login.user, &login.password)
            })
            .rule(
                &format!("{}{tags}", registries[0].name("a")),
                json!(targets.collect::<Vec<_>>()),
            )
            .env("IMAGE_SYNCER_TIME_SCALE", "0.001");
        Self {
            registries,
            run,
            images,
            repositories,
            referrers: None,
        }
    }

    /// The tags that are not at a target as they are at the source, each with the number of the target.
    fn lacking(&self) -> BTreeSet<(usize, &'static str)> {
        let is_lacking = |target: &FakeRegistry, (tag, image): &(&'static str, Image)| {
            let is_there = |name: &&str| {
                let found = target.manifest(name, tag);
                found.is_some_and(|(digest, _)| digest == image.digest)
            };
            !self.repositories.iter().all(is_there)
        };
        let targets = self.registries.iter().enumerate().skip(1);
        let lacking = targets.flat_map(|(number, target)| {
            let lacking = self.images.iter().filter(|image| is_lacking(target, image));
            let lacking = lacking.map(move |(tag, _)| (number, *tag));
            let about = self.referrers.iter();
            lacking.chain(
                about
                    .flat_map(move |about| about.lacking(target))
                    .map(move |what| (number, what)),
            )
        });
        lacking.collect()
    }

    /// The same with so many passes after the first.
    fn retrying(self, retries: u32) -> Self {
        let run = self.run.arg(format!("--retries={retries}"));
        Self { run, ..self }
    }

    /// Runs, and checks all that must hold of any run.
    fn sync(&self) -> Output {
        let (source, targets) = self.registries.split_first().expect("no registry");
        let output = self.run.run();
        let targets: Vec<&FakeRegistry> = targets.iter().collect();
        check_invariants(&[source], &targets, &output);
        let lacking = self.lacking();
        let mut expected = i32::from(!lacking.is_empty());
        // What could not be looked at again after it was put has failed, too.
        if self.referrers.is_some() && output.status == Some(1) {
            expected = 1;
        }
        let text = &output.stderr;
        assert_eq!(output.status, Some(expected), "{lacking:?}\n{text}");
        output
    }

    /// The tags whose images need the request: all where that cannot be told.
    fn dependents(&self, registry: usize, entry: &Entry) -> BTreeSet<&'static str> {
        let history = self.registries[registry].history();
        let of_session = |session: &str| {
            let mut same = history
                .iter()
                .filter(|e| e.session.as_deref() == Some(session));
            same.find_map(|e| e.digest.clone())
        };
        let by_session = || entry.session.as_deref().and_then(of_session);
        let digest = entry.digest.clone().or_else(by_session);
        let needs = |(tag, image): &(&'static str, Image)| match entry.kind {
            Kind::ManifestHead | Kind::ManifestGet | Kind::ManifestPut => {
                entry.reference == *tag || holds_manifest(image, &entry.reference)
            }
            _ => digest
                .as_ref()
                .is_none_or(|digest| image.all_blobs().iter().any(|b| b.digest == *digest)),
        };
        let images = self.images.iter().filter(|image| needs(image));
        let images = images.map(|(tag, _)| *tag);
        // They need what their image needs, and most of the rest.
        let about = self.referrers.iter().flat_map(|_| [ABOUT, SIGNATURES]);
        images.chain(about).collect()
    }
}

impl Referrers {
    fn lacking(&self, target: &FakeRegistry) -> Vec<&'static str> {
        let text = |tag: &str| {
            let found = target.manifest("b", tag);
            found.map_or_else(String::new, |(_, found)| {
                String::from_utf8_lossy(&found.bytes).into_owned()
            })
        };
        let signatures = text(&self.signatures);
        let [ours, theirs] = &self.layers;
        assert!(
            signatures.contains(theirs.as_str()),
            "the target's own is gone"
        );
        let is_in = |list: &String| text(list).contains(&self.about);
        let is_listed = self.list.as_ref().is_none_or(is_in);
        let parts = [
            (is_listed && !text(&self.about).is_empty(), ABOUT),
            (signatures.contains(ours.as_str()), SIGNATURES),
        ];
        parts
            .into_iter()
            .filter(|(is_there, _)| !is_there)
            .map(|(_, what)| what)
            .collect()
    }
}

fn holds_manifest(image: &Image, digest: &str) -> bool {
    image.digest == digest || image.children.iter().any(|c| holds_manifest(c, digest))
}

/// A way to go wrong.
#[derive(Clone, Debug)]
struct Wrong {
    act: Act,
    /// Whether a single time may fail the images that need the request.
    may_fail: bool,
}

/// All acts that make sense for a request.
fn wrongs(entry: &Entry) -> Vec<Wrong> {
    let is_verified = matches!(entry.kind, Kind::BlobGet | Kind::ManifestGet);
    let has_body = entry.bytes_out > 0;
    let sends = entry.bytes_in > 0;
    let mut acts: Vec<(Act, bool)> = [500, 502, 503, 429]
        .map(|status| (Act::status(status), false))
        .into();
    for end in [End::Fin, End::Reset] {
        acts.push((Act::CutBefore(end), false));
        acts.push((Act::CommitThenClose(end), false));
        if has_body {
            acts.push((Act::CutBody(entry.bytes_out / 2, end), false));
        }
    }
    acts.push((Act::CommitThenStatus(500), false));
    acts.push((Act::CutHead(20), false));
    // There it means that the registry has no such list (E62).
    if entry.kind != Kind::Referrers {
        acts.push((Act::status(401), true));
    }
    if entry.authorization.is_some() && entry.kind != Kind::Token {
        acts.push((Act::ExpireTokens, false));
    }
    if is_verified {
        acts.push((Act::Flip(entry.bytes_out / 2), false));
        acts.push((Act::Shorten(1), false));
    }
    if sends {
        acts.push((Act::RefuseBody(401), true));
        acts.push((Act::RefuseBody(413), true));
        acts.push((Act::CutUpload(entry.bytes_in / 2), false));
    }
    let wrongs = acts.into_iter();
    wrongs
        .map(|(act, may_fail)| Wrong { act, may_fail })
        .collect()
}

/// Goes wrong once at every request, in every way.
fn sweep_once(scenario: &str, build: impl Fn() -> World) {
    sweep_once_in(11, scenario, build);
}

/// The same with one case in `stride`.
fn sweep_once_in(stride: u64, scenario: &str, build: impl Fn() -> World) {
    for_each_case(scenario, &build, stride, |registry, number, _, wrong| {
        let world = build().retrying(0);
        let fault = Fault::on_any(wrong.act.clone()).nth(Nth::Only(number));
        world.registries[registry].fault(fault);
        world.sync();
        let lacking = world.lacking();
        let history = world.registries[registry].history();
        // In another order of requests there may be one less of them.
        if let Some(met) = history.iter().find(|entry| entry.has_fault) {
            let dependents = world.dependents(registry, met);
            let is_hit = |(target, tag): &(usize, &str)| {
                (registry == 0 || registry == *target) && dependents.contains(tag)
            };
            let is_allowed = lacking.is_empty() || wrong.may_fail && lacking.iter().all(is_hit);
            assert!(is_allowed, "{lacking:?} failed, needing {met:?}");
        }
    });
}

/// Goes wrong at every request and its like for ever: the run ends, and what does not need the request is done.
fn sweep_for_ever(scenario: &str, build: impl Fn() -> World) {
    for_each_case(scenario, &build, 23, |registry, _, entry, wrong| {
        // What a tag names is what the registry says it is, time and again (E16).
        if matches!(wrong.act, Act::Flip(_)) && !entry.reference.contains(':') {
            return;
        }
        let world = build().retrying(1);
        let fault = Fault::on(entry.kind, wrong.act.clone());
        let name = match entry.kind {
            Kind::UploadPut => entry.digest.as_deref(),
            _ => Some(&*entry.reference).filter(|name| !name.is_empty()),
        };
        let fault = name.map_or(fault.clone(), |name| fault.of(name));
        world.registries[registry].fault(fault);
        let output = world.sync();
        let history = world.registries[registry].history();
        let met = history.iter().filter(|entry| entry.has_fault);
        let hit: BTreeSet<&str> = met
            .flat_map(|entry| world.dependents(registry, entry))
            .collect();
        let lacking = world.lacking();
        let is_hit = |(target, tag): &(usize, &str)| {
            (registry == 0 || registry == *target) && hit.contains(tag)
        };
        let text = &output.stderr;
        assert!(
            lacking.iter().all(is_hit),
            "{lacking:?}, hit {hit:?}\n{text}"
        );
    });
}

/// Records a faultless run, and tries every way to go wrong at each of its requests: of these cases one in `stride`,
/// unless all are asked for.
fn for_each_case(
    scenario: &str,
    build: &dyn Fn() -> World,
    stride: u64,
    run: impl Fn(usize, usize, &Entry, &Wrong),
) {
    let stride = if takes_all() { 1 } else { stride };
    let seed = seed();
    let mut turn = seed;
    let world = build();
    world.sync();
    assert!(world.lacking().is_empty(), "{scenario} fails by itself");
    for (registry, fake) in world.registries.iter().enumerate() {
        let entries = fake.history();
        let entries = entries.iter().filter(|entry| !entry.is_challenged);
        for (number, entry) in (1..).zip(entries) {
            for wrong in wrongs(entry) {
                turn += 1;
                if !turn.is_multiple_of(stride) {
                    continue;
                }
                let case = AssertUnwindSafe(|| run(registry, number, entry, &wrong));
                let outcome = catch_unwind(case);
                assert!(
                    outcome.is_ok(),
                    "{scenario}: {wrong:?} at request {number} of registry {registry}, which was {entry:?}; seed {seed}"
                );
            }
        }
    }
}

/// What is lacking where it is no tag.
const ABOUT: &str = "the artifact";
const SIGNATURES: &str = "the signatures";

fn takes_all() -> bool {
    env::var("IMAGE_SYNCER_SWEEP").is_ok_and(|which| which == "all")
}

fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = env::var("IMAGE_SYNCER_SEED").ok();
        given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()))
        })
    })
}

/// Two images that share a layer, by their tags.
fn two_images(registries: Vec<FakeRegistry>) -> World {
    let mut maker = Maker::new(41);
    let shared = maker.layer(900);
    let images = ["v1", "v2"].map(|tag| {
        let layers: [Blob; 2] = [shared.clone(), maker.layer(700)];
        (tag, Image::oci(&maker.config("linux/amd64"), &layers))
    });
    World::new(":v1,v2", images.into(), registries)
}

fn plain(count: usize) -> Vec<FakeRegistry> {
    (0..count).map(|_| FakeRegistry::new()).collect()
}

fn shared_layers() -> World {
    two_images(plain(2))
}

fn tokens() -> World {
    let start = |address, user, password| {
        let bearer = Bearer::for_user(user, password);
        FakeRegistry::start(Options::default().at(address).bearer(bearer))
    };
    two_images(vec![
        start("127.0.0.1", "ada", "the-source's-password"),
        start("127.0.0.2", "bob", "the-target's-password"),
    ])
}

fn two_targets() -> World {
    let registries = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let start = |address| FakeRegistry::start(Options::default().at(address));
    let image = Maker::new(42).docker(&[600, 800]);
    World::new(":v1", vec![("v1", image)], registries.map(start).into())
}

fn index_and_artifact() -> World {
    let mut maker = Maker::new(43);
    let index = maker.index(&["linux/amd64", "linux/arm64", "linux/arm/v7"], 500);
    let file = Blob::new("application/vnd.example.file", maker.bytes(300));
    let about = json!({"artifactType": "application/vnd.example.file"});
    let artifact = Image::oci_with(&Blob::empty(), &[file], about);
    World::new("", vec![("index", index), ("file", artifact)], plain(2))
}

/// An index, what is about its child, and a signature of cosign's beside which the target has another one. Either the
/// source lists referrers and the target has a tag for that, or the other way round.
fn with_referrers(source: Habit, target: Habit) -> World {
    let start = |habit| FakeRegistry::start(Options::default().habit(habit));
    let (source_lists, target_lists) = (source.lists_referrers, target.lists_referrers);
    let registries = vec![start(source), start(target)];
    let mut maker = Maker::new(46);
    let index = maker.index(&["linux/amd64"], 500);
    let child = index.children[0].clone();
    let mut world = World::new(":v1", vec![("v1", index)], registries);
    world.run = world.run.arg("--referrers");
    let source = &world.registries[0];
    let file = Blob::new("application/vnd.example.file", maker.bytes(300));
    let fields = json!({"mediaType": media_type::OCI_IMAGE, "subject": child.descriptor()});
    let about = Image::oci_with(&Blob::empty(), &[file], fields);
    source.push_untagged("a", &about);
    let tag = |suffix| {
        let digest = Digest::parse(&child.digest).unwrap();
        Tag::of_digest(&digest, suffix).to_string()
    };
    if !source_lists {
        source.push("a", &tag(""), &Image::index(&[(&about, None)]));
    }
    let config = maker.config("linux/amd64");
    let layers = [maker.layer(50), maker.layer(50)];
    source.push("a", &tag(".sig"), &Image::oci(&config, &layers[..1]));
    world.registries[1].push("b", &tag(".sig"), &Image::oci(&config, &layers[1..]));
    world.referrers = Some(Referrers {
        about: about.digest,
        list: (!target_lists).then(|| tag("")),
        signatures: tag(".sig"),
        layers: layers.map(|layer| layer.digest),
    });
    world
}

fn referrers_to_tags() -> World {
    with_referrers(Habit::ZOT, Habit::DISTRIBUTION_3)
}

fn referrers_from_tags() -> World {
    with_referrers(Habit::DISTRIBUTION_3, Habit::ZOT)
}

fn unchanged() -> World {
    let world = shared_layers();
    world.sync();
    world.registries.iter().for_each(FakeRegistry::forget);
    world
}

/// The second repository gets its blobs by mounts from the first.
fn mounts() -> World {
    let image = Maker::new(44).oci(&[800, 600]);
    World::to(&["b", "c"], ":v1", vec![("v1", image)], plain(2))
}

/// The target takes a blob in one POST, which is known from the second image on.
fn single_posts() -> World {
    let mut maker = Maker::new(46);
    let images = ["v1", "v2", "v3"].map(|tag| (tag, maker.oci(&[700])));
    let target = FakeRegistry::start(Options::default().habit(Habit::FERRO));
    World::new(
        ":v1,v2,v3",
        images.into(),
        vec![FakeRegistry::new(), target],
    )
}

/// A blob so large that its upload can be gone on with.
fn large_blob() -> World {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    let image = IMAGE.get_or_init(|| Maker::new(45).oci(&[(16 << 20) + 100_000]));
    World::new(":v1", vec![("v1", image.clone())], plain(2))
}

#[test]
fn one_fault_in_a_copy_of_shared_layers_fails_nothing() {
    sweep_once("shared layers", shared_layers);
}

#[test]
fn one_fault_in_a_copy_with_tokens_fails_nothing() {
    sweep_once("tokens", tokens);
}

#[test]
fn one_fault_in_a_copy_of_an_index_fails_nothing() {
    sweep_once("index", index_and_artifact);
}

#[test]
fn one_fault_in_a_copy_to_two_targets_fails_nothing() {
    sweep_once("two targets", two_targets);
}

#[test]
fn one_fault_in_a_copy_with_mounts_fails_nothing() {
    sweep_once("mounts", mounts);
}

#[test]
fn one_fault_in_a_copy_by_single_posts_fails_nothing() {
    sweep_once("single posts", single_posts);
}

#[test]
fn one_fault_in_a_copy_of_a_large_blob_fails_nothing() {
    sweep_once_in(41, "large blob", large_blob);
}

#[test]
fn one_fault_in_a_copy_of_referrers_fails_nothing() {
    sweep_once_in(23, "referrers to tags", referrers_to_tags);
    sweep_once_in(23, "referrers from tags", referrers_from_tags);
}

#[test]
fn one_fault_in_an_unchanged_rerun_fails_nothing() {
    sweep_once("unchanged", unchanged);
}

#[test]
fn lasting_faults_in_a_copy_of_shared_layers_fail_what_needs_the_request() {
    sweep_for_ever("shared layers", shared_layers);
}

#[test]
fn lasting_faults_in_a_copy_of_an_index_fail_what_needs_the_request() {
    sweep_for_ever("index", index_and_artifact);
}

#[test]
fn lasting_faults_in_a_copy_to_two_targets_fail_what_needs_the_request() {
    sweep_for_ever("two targets", two_targets);
}

#[test]
fn lasting_faults_in_a_copy_with_mounts_fail_what_needs_the_request() {
    sweep_for_ever("mounts", mounts);
}

#[test]
fn lasting_faults_in_a_copy_by_single_posts_fail_what_needs_the_request() {
    sweep_for_ever("single posts", single_posts);
}

#[test]
fn lasting_faults_in_a_copy_with_tokens_fail_what_needs_the_request() {
    sweep_for_ever("tokens", tokens);
}

/// Any faults of a run, on both sides, end in a complete copy or in a failure that is told, and nothing that they leave
/// behind is in the way of the next run.
#[test]
fn any_faults_end_in_a_whole_copy_or_in_a_failure_that_is_told() {
    type Scenario = (&'static str, fn() -> World);
    let scenarios: [Scenario; 9] = [
        ("shared layers", shared_layers),
        ("tokens", tokens),
        ("index", index_and_artifact),
        ("two targets", two_targets),
        ("mounts", mounts),
        ("single posts", single_posts),
        ("large blob", large_blob),
        ("referrers to tags", referrers_to_tags),
        ("referrers from tags", referrers_from_tags),
    ];
    let walks = if takes_all() { 8 } else { 4 };
    for (scenario, build) in scenarios {
        let calm = build();
        calm.sync();
        let histories: Vec<Vec<Entry>> = calm
            .registries
            .iter()
            .map(|registry| {
                let entries = registry.history().into_iter();
                entries.filter(|entry| !entry.is_challenged).collect()
            })
            .collect();
        for walk in 0..walks {
            let seed = seed() + walk;
            let mut random = Maker::new(seed);
            let mut faults = Vec::new();
            for (registry, history) in histories.iter().enumerate() {
                for _ in 0..below(&mut random, 4) {
                    let number = below(&mut random, history.len());
                    let wrongs = wrongs(&history[number]);
                    let Wrong { act, .. } = wrongs[below(&mut random, wrongs.len())].clone();
                    // Time and again, a tag names what the registry says (E16).
                    let may_last = !matches!(act, Act::Flip(_));
                    let nth = match below(&mut random, 4) {
                        0 if may_last => Nth::Every(2 + number % 5),
                        _ => Nth::Only(number + 1),
                    };
                    faults.push((registry, act, nth));
                }
            }
            let case = AssertUnwindSafe(|| {
                let world = build().retrying(1);
                for (registry, act, nth) in &faults {
                    world.registries[*registry].fault(Fault::on_any(act.clone()).nth(*nth));
                }
                world.sync();
                world.registries.iter().for_each(FakeRegistry::clear_faults);
                world.sync();
                assert!(
                    world.lacking().is_empty(),
                    "it is not healed without faults"
                );
            });
            assert!(
                catch_unwind(case).is_ok(),
                "{scenario}: {faults:?}; seed {seed}"
            );
        }
    }
}

fn below(random: &mut Maker, limit: usize) -> usize {
    usize::try_from(random.number() % limit as u64).expect("less than a usize")
}
