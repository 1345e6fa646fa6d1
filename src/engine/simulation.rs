//! Whole runs without threads, sockets or waiting: random rules over random registries with random faults, in simulated
//! time. What must hold of every run is asserted here. Not here: examples of single rules (`tests/integration`), and
//! many images (`scale.rs`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::unbounded;

use super::dates::Dates;
use super::graph::Graph;
use super::image::TargetState;
use super::job::{Done, Job, Reply, Want};
use super::plan::Plan;
use super::referrers::{Referrer, Root};
use super::run::{Progress, Run};
use super::schedule::Time;
use super::{Counts, Gauge, Options, Policy, report};
use crate::config::{Position, Rule, RuleTarget, Selection, TagFilter};
use crate::oci::{Algorithm, Descriptor, Digest, Host, Manifest, Reference, Repository, Tag};
use crate::records::{Hints, Journal};
use crate::report::Report;
use crate::store::{
    Class, Found, Limits, Place, Presence, Prior, Quota, StoreError, Stores, Target,
};

/// xorshift64: a failing run is named by its seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Default)]
struct Repo {
    tags: BTreeMap<Tag, Digest>,
    manifests: HashMap<Digest, Arc<Manifest>>,
    blobs: HashSet<Digest>,
}

/// How registries behave in a run.
#[derive(Clone, Copy, Default)]
struct World {
    /// Requests in a hundred that fail and may succeed when tried again.
    transient: usize,
    /// Requests in a hundred that are answered by a wish for a pause.
    throttled: usize,
    /// Requests in a thousand at targets that are refused for good.
    refused: usize,
    /// Whether a mount is ever granted.
    mounts: bool,
    /// Requests in a hundred whose answers say that the quota is used up.
    rationed: usize,
    /// How many requests the user lets be at each host at once.
    concurrency: Option<usize>,
    /// Whether the user bounds the bytes of `NARROW`.
    narrows: bool,
}

const NARROW: &str = "d0.io";

/// All registries, strict: a manifest is refused where a part of it is missing.
struct Registries {
    repos: BTreeMap<Place, Repo>,
    world: World,
    random: Random,
    /// Until when each host wants to be left alone.
    paused: HashMap<String, Time>,
    /// What hosts said of their quotas.
    quotas: Arc<Mutex<HashMap<String, Quota>>>,
    /// Which manifest is about which other one.
    subjects: BTreeMap<Digest, Digest>,
    /// Reads of each blob and manifest at sources.
    reads: BTreeMap<Digest, usize>,
    requests: usize,
}

fn host(place: &Place) -> String {
    match place {
        Place::Registry(host, _) => host.to_string(),
        Place::Layout(path) => path.display().to_string(),
    }
}

pub(super) fn place(name: &str) -> Place {
    let (host, repository) = name.split_once('/').unwrap();
    Place::Registry(
        Host::parse(host).unwrap(),
        Repository::parse(repository).unwrap(),
    )
}

impl Registries {
    /// A fault, as often as the world has it.
    fn meet(&mut self, place: &Place, is_target: bool, now: Time) -> Result<(), StoreError> {
        self.requests += 1;
        if self.random.percent(self.world.rationed) {
            let reset = Duration::from_millis(100 + self.random.next() % 60_000);
            let until = self.paused.entry(host(place)).or_default();
            *until = (*until).max(now + reset);
            let quota = Quota {
                left: 0,
                reset: until.saturating_sub(now),
            };
            self.quotas.lock().unwrap().insert(host(place), quota);
        }
        if self.random.percent(self.world.throttled) {
            let wait = Duration::from_millis(100 + self.random.next() % 60_000);
            let until = self.paused.entry(host(place)).or_default();
            *until = (*until).max(now + wait);
            let mut error = StoreError::new(Class::Throttled, "429");
            error.retry_after = Some(wait);
            return Err(error);
        }
        if self.random.percent(self.world.transient) {
            let class = if self.random.percent(30) {
                Class::Unreachable
            } else {
                Class::Transient
            };
            return Err(StoreError::new(class, "broken off"));
        }
        if is_target && self.random.below(1000) < self.world.refused {
            return Err(StoreError::new(Class::Permanent, "refused"));
        }
        Ok(())
    }

    /// What a repository has about an image, its children, and what is found, as it is found.
    fn about(&self, place: &Place, root: &Digest) -> Vec<Referrer> {
        let repo = &self.repos[place];
        let mut subjects = vec![root.clone()];
        let mut found = Vec::new();
        let mut next = 0;
        while let Some(subject) = subjects.get(next).cloned() {
            next += 1;
            let children = repo.manifests[&subject].children().iter();
            subjects.extend(children.map(|child| child.digest.clone()));
            for (referrer, _) in self.subjects.iter().filter(|(_, of)| **of == subject) {
                if repo.manifests.contains_key(referrer) && !subjects.contains(referrer) {
                    subjects.push(referrer.clone());
                    found.push(Referrer {
                        name: Reference::from(referrer.clone()),
                        subject: Some(subject.clone()),
                    });
                }
            }
        }
        found
    }

    fn read(&mut self, digest: &Digest) {
        *self.reads.entry(digest.clone()).or_default() += 1;
    }

    fn serve(&mut self, job: Job, now: Time) {
        match job {
            Job::Tags { reply, place } => {
                let tags = self
                    .repos
                    .get(&place)
                    .map(|repo| repo.tags.keys().cloned().collect());
                reply.send(self.meet(&place, false, now).map(|()| Done::Tags(tags)));
            }
            Job::Head {
                reply,
                place,
                reference,
            } => self.head(reply, &place, &reference, now),
            Job::IsListed {
                reply,
                place,
                referrer,
                ..
            } => self.head(reply, &place, &Reference::from(referrer), now),
            Job::Referrers { reply, search } => {
                let root = match &search.root {
                    Root::Held(manifest) => manifest.digest(),
                    Root::Single(digest) | Root::Named(digest) | Root::Sparse(digest, _) => digest,
                };
                let found = self.about(&search.source, root);
                let met = self.meet(&search.source, false, now);
                reply.send(met.map(|()| Done::Referrers(found)));
            }
            Job::Catalog { reply, place } => {
                let repositories = self.repos.keys().filter_map(|repo| match (repo, &place) {
                    (Place::Registry(host, repository), Place::Registry(wanted, _)) => {
                        (host == wanted).then(|| repository.clone())
                    }
                    _ => None,
                });
                let repositories = repositories.collect();
                let met = self.meet(&place, false, now);
                reply.send(met.map(|()| Done::Repositories(repositories)));
            }
            Job::Date { reply, place, .. } => {
                reply.send(self.meet(&place, false, now).map(|()| Done::Dated(None)));
            }
            Job::Fetch {
                reply,
                place,
                reference,
                ..
            } => {
                let result = self.meet(&place, false, now).and_then(|()| {
                    let repo = self.repos.get(&place);
                    let digest = repo.and_then(|repo| repo.resolve(&reference));
                    let manifest = digest.and_then(|digest| repo?.manifests.get(&digest).cloned());
                    manifest.ok_or_else(|| StoreError::new(Class::NotFound, "404"))
                });
                if let Ok(manifest) = &result {
                    self.read(&manifest.digest().clone());
                }
                reply.send(result.map(Done::Manifest));
            }
            Job::Filter { .. } => panic!("nothing is filtered in a simulation"),
            Job::Copy {
                reply,
                source,
                descriptor,
                wants,
            } => self.copy(reply, &source, &descriptor, wants, now),
            Job::Put {
                reply,
                place,
                reference,
                manifest,
                ..
            } => {
                let result = self.meet(&place, true, now).and_then(|()| {
                    self.repos
                        .entry(place.clone())
                        .or_default()
                        .put(&reference, &manifest)
                });
                reply.send(result.map(|()| Done::Put));
            }
        }
    }

    fn head(&mut self, reply: Reply, place: &Place, reference: &Reference, now: Time) {
        let repo = self.repos.get(place);
        let digest = repo.and_then(|repo| repo.resolve(reference));
        let present = |digest| Presence::Present(digest, None);
        let presence = digest.map_or(Presence::Absent, present);
        let met = self.meet(place, false, now);
        reply.send(met.map(|()| Done::Presence(presence)));
    }

    fn copy(
        &mut self,
        reply: Reply,
        source: &Place,
        descriptor: &Descriptor,
        wants: Vec<Want>,
        now: Time,
    ) {
        let mut to_send: Vec<(Want, bool)> = Vec::new();
        for want in wants {
            if let Err(error) = self.meet(&want.place, true, now) {
                want.reply.send(Err(error));
                continue;
            }
            let has = |place: &Place| {
                self.repos
                    .get(place)
                    .is_some_and(|repo| repo.blobs.contains(&descriptor.digest))
            };
            let from = want
                .hint
                .mount_from
                .as_ref()
                .map(|repository| match &want.place {
                    Place::Registry(host, _) => Place::Registry(host.clone(), repository.clone()),
                    Place::Layout(_) => panic!("nothing is mounted in a layout"),
                });
            if want.hint.prior != Prior::Distrusted && has(&want.place) {
                want.reply.send(Ok(Done::BlobFound(Found::Existing)));
            } else if self.world.mounts && from.as_ref().is_some_and(has) {
                self.repos
                    .entry(want.place.clone())
                    .or_default()
                    .blobs
                    .insert(descriptor.digest.clone());
                want.reply.send(Ok(Done::BlobFound(Found::Mounted)));
            } else {
                to_send.push((want, from.is_some()));
            }
        }
        if to_send.is_empty() {
            return reply.send(Ok(Done::Read));
        }
        let read = self.meet(source, false, now).and_then(|()| {
            let there = self
                .repos
                .get(source)
                .is_some_and(|repo| repo.blobs.contains(&descriptor.digest));
            if there {
                Ok(())
            } else {
                Err(StoreError::new(Class::NotFound, "404"))
            }
        });
        if read.is_ok() {
            self.read(&descriptor.digest);
        }
        for (want, mount_denied) in to_send {
            if read.is_err() {
                want.reply.send(Ok(Done::NotSent));
            } else if let Err(error) = self.meet(&want.place, true, now) {
                want.reply.send(Err(error));
            } else {
                self.repos
                    .entry(want.place)
                    .or_default()
                    .blobs
                    .insert(descriptor.digest.clone());
                want.reply.send(Ok(Done::BlobSent {
                    mount_denied,
                    detached: Vec::new(),
                    patience: None,
                }));
            }
        }
        reply.send(read.map(|()| Done::Read));
    }
}

impl Repo {
    fn resolve(&self, reference: &Reference) -> Option<Digest> {
        match reference {
            Reference::Tag(tag) => self.tags.get(tag).cloned(),
            Reference::Digest(digest) => self
                .manifests
                .contains_key(digest)
                .then(|| (**digest).clone()),
        }
    }

    fn missing(&self, manifest: &Manifest) -> Vec<Digest> {
        let children = manifest
            .children()
            .iter()
            .filter(|child| !self.manifests.contains_key(&child.digest));
        let blobs = manifest
            .blobs()
            .iter()
            .filter(|blob| !self.blobs.contains(&blob.digest));
        children
            .chain(blobs)
            .map(|part| part.digest.clone())
            .collect()
    }

    fn put(&mut self, reference: &Reference, manifest: &Arc<Manifest>) -> Result<(), StoreError> {
        let missing = self.missing(manifest);
        if !missing.is_empty() {
            let mut error = StoreError::new(Class::Permanent, "MANIFEST_BLOB_UNKNOWN");
            error.missing_parts = Some(missing);
            return Err(error);
        }
        self.manifests
            .insert(manifest.digest().clone(), manifest.clone());
        if let Reference::Tag(tag) = reference {
            self.tags.insert(tag.clone(), manifest.digest().clone());
        }
        Ok(())
    }
}

/// Nothing is opened: jobs are served by `Registries`.
#[derive(Default)]
pub(super) struct NoStores {
    world: World,
    quotas: Arc<Mutex<HashMap<String, Quota>>>,
}

impl Stores for NoStores {
    fn open(&self, place: &Place) -> Arc<dyn Target> {
        panic!("{place} was opened in a simulation")
    }

    fn sole(&self, _: &Place) -> Result<Option<Digest>, StoreError> {
        Ok(None)
    }

    fn limits(&self, registry: &Host) -> Limits {
        Limits {
            concurrency: self.world.concurrency,
            bandwidth: (self.world.narrows && registry.as_str() == NARROW).then_some(1000),
            ..Limits::default()
        }
    }

    fn quota(&self, registry: &Host) -> Option<Quota> {
        self.quotas.lock().unwrap().remove(registry.as_str())
    }
}

/// Where a job goes, for what must hold of jobs that run at once.
fn footprint(job: &Job) -> (Vec<String>, Vec<(Place, Digest)>) {
    match job {
        Job::Tags { place, .. }
        | Job::Head { place, .. }
        | Job::Date { place, .. }
        | Job::Catalog { place, .. }
        | Job::Fetch { place, .. }
        | Job::Filter { place, .. }
        | Job::IsListed { place, .. }
        | Job::Put { place, .. } => (vec![host(place)], Vec::new()),
        Job::Referrers { search, .. } => (vec![host(&search.source)], Vec::new()),
        Job::Copy {
            source,
            wants,
            descriptor,
            ..
        } => {
            let hosts = wants
                .iter()
                .map(|want| host(&want.place))
                .chain([host(source)])
                .collect();
            let uploads = wants
                .iter()
                .map(|want| (want.place.clone(), descriptor.digest.clone()))
                .collect();
            (hosts, uploads)
        }
    }
}

fn slots(job: &Job) -> usize {
    if let Job::Copy { wants, .. } = job {
        wants.len()
    } else {
        1
    }
}

/// What must hold when a job begins beside those that run.
fn check_start(
    job: &Job,
    running: &BTreeMap<usize, Job>,
    registries: &Registries,
    workers: usize,
    now: Time,
    seed: u64,
) {
    let used: usize = running.values().map(slots).sum();
    assert!(used < workers, "seed {seed}: {used} slots were in use");
    let (hosts, uploads) = footprint(job);
    let others: Vec<String> = running.values().flat_map(|job| footprint(job).0).collect();
    for host in &hosts {
        let all = others.iter().chain(&hosts).filter(|at| *at == host);
        assert!(
            all.count() <= registries.world.concurrency.unwrap_or(usize::MAX),
            "seed {seed}: more at {host} than the user allows"
        );
        let paused = registries.paused.get(host).copied().unwrap_or_default();
        assert!(
            paused <= now,
            "seed {seed}: {host} was asked before its pause was over"
        );
    }
    let targets: HashSet<String> = uploads.iter().map(|(place, _)| host(place)).collect();
    assert!(
        !registries.world.narrows || !targets.contains(NARROW) || targets.len() == 1,
        "seed {seed}: a narrow target in a group"
    );
    let concurrent: HashSet<_> = running.values().flat_map(|job| footprint(job).1).collect();
    assert!(
        !uploads.iter().any(|upload| concurrent.contains(upload)),
        "seed {seed}: one blob twice at once"
    );
}

/// Who does the jobs of a run.
pub(super) trait Servers {
    /// A job begins beside those that run.
    fn begin(&self, _: &Job, _running: &BTreeMap<usize, Job>, _now: Time) {}

    /// How long a job takes; `None`: up to 200 ms.
    fn takes(&self, _: &Job) -> Option<Duration> {
        None
    }

    /// A job comes to its end, and is answered.
    fn serve(&mut self, job: Job, now: Time);

    /// The run is over, and has this left.
    fn end(&mut self, _: &Graph<'_>) {}
}

/// Registries in which what must hold of jobs is looked at.
struct Watched<'a> {
    registries: &'a mut Registries,
    workers: usize,
    seed: u64,
}

impl Servers for Watched<'_> {
    fn begin(&self, job: &Job, running: &BTreeMap<usize, Job>, now: Time) {
        check_start(job, running, self.registries, self.workers, now, self.seed);
    }

    fn serve(&mut self, job: Job, now: Time) {
        self.registries.serve(job, now);
    }
}

/// What is shown while a run goes on comes to its end with it.
fn check_counts(gauge: &Gauge, report: &Report, seed: u64) {
    let Counts {
        images,
        done,
        failed,
        unread_rules,
        waiting,
        left,
        ..
    } = gauge.snapshot().counts;
    let open = (unread_rules, waiting, left);
    assert_eq!((images, open), (done + failed, (0, 0, 0)), "seed {seed}");
    assert_eq!(report.copied + report.unchanged, done, "seed {seed}");
}

/// Runs rules in simulated time and asserts what must hold at every moment.
fn simulate(
    rules: &[Rule],
    registries: &mut Registries,
    workers: usize,
    retries: u32,
    seed: u64,
) -> Report {
    registries.paused.clear();
    let stores = NoStores {
        world: registries.world,
        quotas: registries.quotas.clone(),
    };
    let mut servers = Watched {
        registries,
        workers,
        seed,
    };
    drive(
        rules,
        &stores,
        &mut servers,
        Policy::of(workers, seed),
        retries,
    )
}

/// Asserts that what the schedule was told of each task is true, also where another task has changed it.
fn check_schedule(run: &Run<'_>, seed: u64) {
    for task in run.graph.tasks.ids() {
        let readiness = run.graph.readiness(task);
        let kind = &run.graph.tasks[task].kind;
        assert!(
            run.schedule.knows(task, readiness.as_ref()),
            "seed {seed}: {kind:?} is ready otherwise than the schedule knows"
        );
    }
}

/// Runs rules in simulated time: each job takes up to 200 ms. Asserts that the run ends, and every image with it.
pub(super) fn drive(
    rules: &[Rule],
    stores: &NoStores,
    servers: &mut impl Servers,
    policy: Policy,
    retries: u32,
) -> Report {
    let seed = policy.seed;
    let (hints, journal, gauge) = (Hints::default(), Journal::disabled(), Gauge::default());
    let options = Options {
        policy,
        retries,
        is_dry: false,
        hints: &hints,
        journal: &journal,
        gauge: &gauge,
        names_images: false,
        now: std::time::UNIX_EPOCH,
        cancel: crossbeam_channel::never(),
    };
    let (sender, answers) = unbounded();
    let mut graph = Graph::new(&hints, Dates::new(options.now));
    let plan = Plan::new(rules, &mut graph, stores);
    let mut run = Run::new(graph, plan, policy, &options, stores, sender);
    let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    let mut now = Duration::ZERO;
    let mut running: BTreeMap<usize, Job> = BTreeMap::new();
    let mut ends: BinaryHeap<Reverse<(Time, usize)>> = BinaryHeap::new();
    for number in 0.. {
        assert!(number < 40_000_000, "seed {seed}: the run does not end");
        while let Some(job) = run.next_job() {
            servers.begin(&job, &running, now);
            let key = running.last_key_value().map_or(0, |(last, _)| last + 1);
            let usual = Duration::from_millis(random.next() % 200);
            ends.push(Reverse((now + servers.takes(&job).unwrap_or(usual), key)));
            running.insert(key, job);
        }
        // Looking at everything takes long.
        if seed.is_multiple_of(10) {
            check_schedule(&run, seed);
        }
        match run.progress(now) {
            Progress::Over => break,
            Progress::Again => continue,
            Progress::Wait => {}
        }
        let end = ends.peek().map(|Reverse((end, _))| *end);
        let timer = run.next_timer();
        if let Some(timer) = timer
            && end.is_none_or(|end| timer < end)
        {
            now = now.max(timer);
            run.fire(now);
            continue;
        }
        let Some(Reverse((end, key))) = ends.pop() else {
            panic!("seed {seed}: nothing runs and no timer is armed")
        };
        now = now.max(end);
        servers.serve(running.remove(&key).unwrap(), now);
        while let Ok(answer) = answers.try_recv() {
            run.take(answer, now);
        }
    }
    for image in run.graph.images.ids() {
        let image = &run.graph.images[image];
        let settled = |state: &TargetState| {
            matches!(state, TargetState::Done(_) | TargetState::Failed { .. })
        };
        assert!(
            image.targets.iter().all(|target| settled(&target.state)),
            "seed {seed}: an image has no outcome"
        );
    }
    servers.end(&run.graph);
    let fatal = run.fatal();
    assert_eq!(fatal, None, "seed {seed}");
    let images = run.graph.images.ids();
    let held = images.filter_map(|image| run.graph.images[image].manifest());
    let held_bytes = held.map(|manifest| manifest.bytes().len()).sum::<usize>();
    assert_eq!(run.graph.held_bytes, held_bytes, "seed {seed}");
    let report = report(&mut run.graph, &run.plan, fatal);
    check_counts(&gauge, &report, seed);
    if report.failed_tasks + report.failed_generations == 0 {
        assert_eq!(
            held_bytes, 0,
            "seed {seed}: manifests of finished images are held"
        );
        let graph = &run.graph;
        let kept = [
            graph.blob_ids.len(),
            graph.child_ids.len(),
            graph.parts.len(),
        ];
        assert_eq!(
            kept, [0; 3],
            "seed {seed}: blobs, children and parts that nobody wants"
        );
    }
    report
}

/// Random content and random rules about it.
struct Scene {
    rules: Vec<Rule>,
    registries: Registries,
}

fn descriptor(digest: &Digest, size: usize, media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

fn manifest(text: &str) -> Arc<Manifest> {
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
    Arc::new(Manifest::parse(text.as_bytes(), None, digest).unwrap())
}

pub(super) fn image(layers: &BTreeSet<usize>) -> Arc<Manifest> {
    let blobs: Vec<String> = layers
        .iter()
        .map(|layer| {
            let digest = Digest::of(Algorithm::Sha256, &layer.to_le_bytes());
            descriptor(
                &digest,
                1 + layer % 1000,
                "application/vnd.oci.image.layer.v1.tar",
            )
        })
        .collect();
    let config = descriptor(
        &Digest::of(Algorithm::Sha256, format!("{layers:?}").as_bytes()),
        9,
        "x/config",
    );
    manifest(&format!(
        r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
        blobs.join(",")
    ))
}

fn index(children: &[Arc<Manifest>]) -> Arc<Manifest> {
    let children: Vec<String> = children
        .iter()
        .map(|child| descriptor(child.digest(), child.bytes().len(), child.media_type()))
        .collect();
    manifest(&format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        children.join(",")
    ))
}

/// Puts a manifest and all of its parts into a repository.
fn fill(repo: &mut Repo, manifest: &Arc<Manifest>, parts: &[Arc<Manifest>]) {
    for part in parts.iter().chain([manifest]) {
        repo.blobs
            .extend(part.blobs().iter().map(|blob| blob.digest.clone()));
        repo.manifests.insert(part.digest().clone(), part.clone());
    }
}

pub(super) fn rule(
    number: usize,
    source: Place,
    selection: Selection,
    targets: Vec<RuleTarget>,
) -> Rule {
    let line = u32::try_from(number + 1).unwrap();
    Rule {
        position: Position {
            file: "rules".into(),
            line,
            column: 1,
        },
        levels: None,
        source,
        selection,
        targets,
        platforms: None,
        force: false,
        referrers: false,
        text: String::new(),
        tags: None,
    }
}

impl Scene {
    fn new(seed: u64, world: World) -> Self {
        let mut random = Random(seed | 1);
        let mut registries = Registries {
            repos: BTreeMap::new(),
            world,
            random: Random(random.next() | 1),
            paused: HashMap::new(),
            quotas: Arc::default(),
            subjects: BTreeMap::new(),
            reads: BTreeMap::new(),
            requests: 0,
        };
        let sources: Vec<Place> = (0..=random.below(4))
            .map(|n| place(&format!("s{}.io/a/r{n}", n % 2)))
            .collect();
        for source in &sources {
            let repo = registries.repos.entry(source.clone()).or_default();
            for tag in 0..=random.below(5) {
                let mut random_image =
                    || image(&(0..random.below(5)).map(|_| random.below(12)).collect());
                let children: Vec<_> = (0..3).map(|_| random_image()).collect();
                let (root, parts) = match tag % 3 {
                    0 => (random_image(), Vec::new()),
                    1 => (index(&children), children),
                    _ => {
                        let (inner, other) = (index(&children), random_image());
                        let root = index(&[inner.clone(), other.clone()]);
                        let mut parts = children;
                        parts.extend([inner, other]);
                        (root, parts)
                    }
                };
                fill(repo, &root, &parts);
                repo.tags.insert(
                    Tag::parse(&format!("t{tag}")).unwrap(),
                    root.digest().clone(),
                );
            }
        }
        let mut rules = Vec::new();
        for number in 0..=random.below(6) {
            let source = sources[random.below(sources.len())].clone();
            let targets = (0..=random.below(3))
                .map(|_| {
                    let name = format!("d{}.io/b/q{}", random.below(3), random.below(4));
                    RuleTarget {
                        place: place(&name),
                        names: Vec::new(),
                    }
                })
                .collect();
            let selection = if random.percent(50) {
                Selection::Listed(TagFilter::default())
            } else {
                let tag = |n| Tag::parse(&format!("t{n}")).unwrap();
                let tags = (0..=random.below(3)).map(tag);
                Selection::Named(tags.map(Reference::Tag).collect())
            };
            rules.push(rule(number, source, selection, targets));
        }
        Self { rules, registries }
    }

    /// The same where half of the images have something about them, or about a child of them, and half of that again.
    fn with_referrers(seed: u64, world: World) -> Self {
        let mut scene = Self::new(seed, world);
        let mut random = Random(seed | 1);
        let subjects = &mut scene.registries.subjects;
        for repo in scene.registries.repos.values_mut() {
            let mut open: Vec<Digest> = repo.tags.values().cloned().collect();
            while let Some(subject) = open.pop() {
                let children = repo.manifests[&subject].children().iter();
                open.extend(children.map(|child| child.digest.clone()));
                if random.percent(50) {
                    let about = image(&BTreeSet::from([random.below(12), 1000 + subjects.len()]));
                    fill(repo, &about, &[]);
                    subjects.insert(about.digest().clone(), subject);
                    open.push(about.digest().clone());
                }
            }
        }
        for rule in &mut scene.rules {
            rule.referrers = true;
        }
        scene
    }

    /// Asserts that what is about an image goes where the image goes, of places that are written from one source: else a
    /// rule may have failed for another, which brought the same image.
    fn check_referrers(&self, seed: u64) {
        let is_shared = |rule: &Rule, place: &Place| {
            let mut others = self
                .rules
                .iter()
                .filter(|other| other.source != rule.source);
            others.any(|other| other.targets.iter().any(|target| target.place == *place))
        };
        for rule in &self.rules {
            let Some(source) = self.registries.repos.get(&rule.source) else {
                continue;
            };
            let targets = rule.targets.iter();
            for target in targets.filter(|target| !is_shared(rule, &target.place)) {
                let Some(repo) = self.registries.repos.get(&target.place) else {
                    continue;
                };
                let tags = source.tags.iter();
                for (_, root) in tags.filter(|(tag, root)| repo.tags.get(tag) == Some(root)) {
                    for referrer in self.registries.about(&rule.source, root) {
                        let is_there = repo.resolve(&referrer.name).is_some();
                        assert!(
                            is_there,
                            "seed {seed}: {} at {}",
                            referrer.name, target.place
                        );
                    }
                }
            }
        }
    }

    /// Asserts that whatever is tagged at a target is complete there.
    fn check_targets(&self, seed: u64) {
        for (place, repo) in &self.registries.repos {
            for digest in repo.tags.values() {
                let mut open = vec![digest.clone()];
                while let Some(digest) = open.pop() {
                    let manifest = repo.manifests.get(&digest);
                    let Some(manifest) = manifest else {
                        panic!("seed {seed}: {place} lacks {digest}")
                    };
                    let blobs = manifest.blobs();
                    assert!(
                        blobs.iter().all(|blob| repo.blobs.contains(&blob.digest)),
                        "seed {seed}: {place}"
                    );
                    open.extend(manifest.children().iter().map(|child| child.digest.clone()));
                }
            }
        }
    }
}

fn workers(seed: u64) -> usize {
    [1, 2, 5, 16][usize::try_from(seed % 4).unwrap()]
}

#[test]
fn a_calm_run_does_everything_once_and_a_second_one_nothing() {
    for seed in 1..600 {
        let mut scene = Scene::new(
            seed,
            World {
                mounts: seed % 3 > 0,
                ..World::default()
            },
        );
        let report = simulate(&scene.rules, &mut scene.registries, workers(seed), 2, seed);
        scene.check_targets(seed);
        let failed = (report.failed_tasks, report.failed_generations);
        let again = simulate(&scene.rules, &mut scene.registries, workers(seed), 2, seed);
        assert_eq!(
            (again.copied, again.totals.pushed, again.unchanged),
            (0, 0, report.copied),
            "seed {seed}"
        );
        assert_eq!(
            (again.failed_tasks, again.failed_generations),
            failed,
            "seed {seed}"
        );
    }
}

#[test]
fn referrers_go_where_their_images_go() {
    let mut copied = 0;
    for seed in 1..100 {
        let storm = World {
            transient: 10,
            throttled: 2,
            refused: 10 * usize::from(seed % 3 > 0),
            mounts: seed % 2 > 0,
            ..World::default()
        };
        let mut scene = Scene::with_referrers(seed, storm);
        simulate(&scene.rules, &mut scene.registries, workers(seed), 1, seed);
        scene.check_targets(seed);
        scene.registries.world = World::default();
        let healed = simulate(&scene.rules, &mut scene.registries, workers(seed), 1, seed);
        scene.check_referrers(seed);
        copied += healed.copied;
        let again = simulate(&scene.rules, &mut scene.registries, workers(seed), 1, seed);
        assert_eq!((again.copied, again.totals.pushed), (0, 0), "seed {seed}");
    }
    assert!(copied > 0, "the storm left nothing to do");
}

#[test]
fn a_stormy_run_ends_whole_and_heals_in_its_passes() {
    let mut healed = 0;
    for seed in 1..400 {
        let world = World {
            transient: 10,
            throttled: 2,
            mounts: seed % 3 > 0,
            ..World::default()
        };
        let mut scene = Scene::new(seed, world);
        let report = simulate(&scene.rules, &mut scene.registries, workers(seed), 3, seed);
        scene.check_targets(seed);
        scene.registries.world = World {
            mounts: true,
            ..World::default()
        };
        let calm = simulate(&scene.rules, &mut scene.registries, 5, 2, seed);
        healed += usize::from(calm.copied == 0);
        assert!(
            report.copied + report.unchanged <= calm.copied + calm.unchanged,
            "seed {seed}"
        );
    }
    // Five attempts in each of four passes leave practically nothing to a later run.
    assert!(healed > 395, "{healed} of 399 runs healed by themselves");
}

#[test]
fn what_is_refused_fails_and_the_rest_is_done() {
    for seed in 1..300 {
        let world = World {
            transient: 5,
            refused: 60,
            mounts: true,
            throttled: 1,
            ..World::default()
        };
        let mut scene = Scene::new(seed, world);
        let report = simulate(&scene.rules, &mut scene.registries, workers(seed), 1, seed);
        scene.check_targets(seed);
        assert_eq!(
            report.failures.is_empty(),
            report.failed_tasks + report.failed_generations == 0,
            "seed {seed}"
        );
    }
}

#[test]
fn the_limits_of_the_user_and_the_quotas_of_hosts_are_kept() {
    for seed in 1..200 {
        let world = World {
            transient: 5,
            throttled: 1,
            mounts: seed % 2 > 0,
            rationed: 3,
            concurrency: [Some(1), Some(2), Some(3), None][seed % 4],
            narrows: seed % 5 > 0,
            ..World::default()
        };
        let seed = seed as u64;
        let mut scene = Scene::new(seed, world);
        simulate(&scene.rules, &mut scene.registries, 16, 1, seed);
        scene.check_targets(seed);
    }
}

/// Registries of which one does not answer, for two targets of each image.
struct Away {
    class: Class,
    attempts: usize,
    /// When the other target had its last image.
    last_put: Time,
}

const AWAY: &str = "d9.io";

impl Servers for Away {
    fn takes(&self, job: &Job) -> Option<Duration> {
        let (places, _) = footprint(job);
        let is_away = places.iter().any(|host| host == AWAY);
        is_away.then(|| Duration::from_secs(10))
    }

    fn serve(&mut self, job: Job, now: Time) {
        let mut reach = |at: &Place| {
            let is_away = host(at) == AWAY;
            self.attempts += usize::from(is_away);
            if is_away {
                return Err(StoreError::new(self.class, "no answer"));
            }
            Ok(())
        };
        match job {
            Job::Tags { reply, place } => {
                let tags = (0..30).map(|number| Tag::parse(&format!("v{number}")).unwrap());
                let tags = (host(&place) == "s0.io").then(|| tags.collect());
                reply.send(reach(&place).map(|()| Done::Tags(tags)));
            }
            Job::Head { reply, place, .. } => {
                reply.send(reach(&place).map(|()| Done::Presence(Presence::Absent)));
            }
            Job::Fetch { reply, .. } => {
                reply.send(Ok(Done::Manifest(image(&BTreeSet::from([1])))));
            }
            Job::Copy { reply, wants, .. } => {
                for want in wants {
                    let sent = Done::BlobSent {
                        mount_denied: false,
                        detached: Vec::new(),
                        patience: None,
                    };
                    want.reply.send(reach(&want.place).map(|()| sent));
                }
                reply.send(Ok(Done::Read));
            }
            Job::Put { reply, place, .. } => {
                reply.send(reach(&place).map(|()| Done::Put));
                self.last_put = now;
            }
            _ => panic!("no rule asks for this here"),
        }
    }
}

#[test]
fn a_target_that_does_not_answer_holds_up_no_other_target() {
    let selection = Selection::Listed(TagFilter::default());
    for class in [Class::Unreachable, Class::Transient] {
        let targets = [AWAY, "d0.io"].map(|host| RuleTarget {
            place: place(&format!("{host}/a")),
            names: Vec::new(),
        });
        let rules = [rule(
            0,
            place("s0.io/a"),
            selection.clone(),
            targets.to_vec(),
        )];
        let mut servers = Away {
            class,
            attempts: 0,
            last_put: Time::ZERO,
        };
        let policy = Policy::of(8, 1);
        let report = drive(&rules, &NoStores::default(), &mut servers, policy, 0);
        let ends = (report.copied, report.failed_tasks);
        assert_eq!(ends, (30, 30), "{class:?}");
        assert!(servers.attempts >= 5, "{class:?}: {}", servers.attempts);
        let last = servers.last_put;
        assert!(last < Duration::from_secs(20), "{class:?}: {last:?}");
    }
}
