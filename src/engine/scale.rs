//! Runs of many images, in simulated time, over registries that remember nothing: what time and memory such a run takes
//! is the engine's own. `IMAGE_SYNCER_SCALE` says how many images, a million in the longest runs, and `--nocapture` shows
//! what they cost. Not here: what must hold of each moment (`simulation.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Policy;
use super::blobs::Blob;
use super::graph::Graph;
use super::image::{Image, Target};
use super::job::{Done, Job};
use super::schedule::Time;
use super::simulation::{NoStores, Random, Servers, drive, image, place, rule};
use super::task::Task;
use crate::config::{Rule, RuleTarget, Selection, TagFilter};
use crate::oci::{Algorithm, Digest, Manifest, Reference, Tag};
use crate::report::Report;
use crate::store::{Class, Place, Presence, StoreError};

/// Registries whose sources make what they are asked for, and whose targets take everything and are empty.
struct Endless {
    /// Tags of each source repository.
    tags: usize,
    /// Requests in a hundred that fail and may succeed when tried again.
    transient: usize,
    random: Random,
    requests: usize,
    /// The jobs that were answered.
    jobs: u32,
    /// The time that it took to answer them.
    busy: Duration,
    /// Bytes of all rows that images, their tasks and their blobs ever had at once.
    kept: usize,
}

impl Endless {
    fn meet(&mut self) -> Result<(), StoreError> {
        self.requests += 1;
        if self.random.percent(self.transient) {
            return Err(StoreError::new(Class::Transient, "broken off"));
        }
        Ok(())
    }

    fn answer(&mut self, job: Job) {
        match job {
            Job::Tags { reply, place } => {
                let tags = (0..self.tags).map(|number| Tag::parse(&format!("v{number}")).unwrap());
                let tags = repository(&place)
                    .starts_with("source")
                    .then(|| tags.collect());
                reply.send(self.meet().map(|()| Done::Tags(tags)));
            }
            Job::Head { reply, .. } => {
                reply.send(self.meet().map(|()| Done::Presence(Presence::Absent)));
            }
            Job::Fetch {
                reply,
                place,
                reference: Reference::Tag(tag),
                ..
            } => {
                let number: usize = tag.as_str()[1..].parse().unwrap();
                let repository: usize = repository(&place)["source".len()..].parse().unwrap();
                // A layer of its own, and one of fifty that the images of a repository share.
                let own = (repository + 1) * self.tags + number + 100;
                let manifest = image(&BTreeSet::from([own, number % SHARED]));
                reply.send(self.meet().map(|()| Done::Manifest(manifest)));
            }
            Job::Date { .. }
            | Job::Catalog { .. }
            | Job::Filter { .. }
            | Job::IsListed { .. }
            | Job::Referrers { .. } => {
                panic!("no rule asks for these here")
            }
            Job::Fetch { .. } => panic!("no image has children here"),
            Job::Copy { reply, wants, .. } => {
                let read = self.meet();
                for want in wants {
                    let sent = self.meet().map(|()| Done::BlobSent {
                        mount_denied: false,
                        detached: Vec::new(),
                        patience: None,
                    });
                    let not_sent = Ok(Done::NotSent);
                    want.reply.send(if read.is_ok() { sent } else { not_sent });
                }
                reply.send(read.map(|()| Done::Read));
            }
            Job::Put { reply, .. } => reply.send(self.meet().map(|()| Done::Put)),
        }
    }
}

impl Servers for Endless {
    fn serve(&mut self, job: Job, _: Time) {
        let began = Instant::now();
        self.jobs += 1;
        self.answer(job);
        self.busy += began.elapsed();
    }

    fn end(&mut self, graph: &Graph<'_>) {
        self.kept = graph.images.ids().count() * (size_of::<Image>() + size_of::<Target>())
            + graph.tasks.ids().count() * size_of::<Task>()
            + graph.blobs.ids().count() * size_of::<Blob>();
    }
}

fn repository(place: &Place) -> &str {
    match place {
        Place::Registry(_, repository) => repository.as_str(),
        Place::Layout(_) => panic!("no layouts here"),
    }
}

/// Rules for so many repositories, with all images in equal parts, to so many registries.
fn rules(repositories: usize, registries: usize) -> Vec<Rule> {
    let rule = |number| {
        let source = place(&format!("s{}.io/source{number}", number % 7));
        let target = RuleTarget {
            place: place(&format!("t{}.io/target{number}", number % registries)),
            names: Vec::new(),
        };
        rule(
            number,
            source,
            Selection::Listed(TagFilter::default()),
            vec![target],
        )
    };
    (0..repositories).map(rule).collect()
}

/// Copies all images, and prints what it took.
fn copy(
    repositories: usize,
    registries: usize,
    transient: usize,
    workers: usize,
) -> (Report, Endless) {
    let mut servers = Endless {
        tags: scale() / repositories,
        transient,
        random: Random(7),
        requests: 0,
        jobs: 0,
        busy: Duration::ZERO,
        kept: 0,
    };
    let rules = rules(repositories, registries);
    let (before, began, worked_before) = (resident(), Instant::now(), worked());
    let report = drive(
        &rules,
        &NoStores::default(),
        &mut servers,
        Policy::of(workers, 1),
        2,
    );
    // The registries' part of the processor's time is taken to be their part of all time: others may use it, too.
    let part = servers.busy.as_secs_f64() / began.elapsed().as_secs_f64();
    let time = (worked() - worked_before) * (1.0 - part);
    let line = format!(
        "{} images of {repositories} repositories: {time:.1} s, {:.1} us a job, {} MB",
        servers.tags * repositories,
        time * 1e6 / f64::from(servers.jobs),
        (resident() - before) / 1000,
    );
    show(&line);
    (report, servers)
}

#[expect(clippy::print_stdout, reason = "shown by --nocapture")]
fn show(line: &str) {
    println!("{line}");
}

/// The time that the processor has spent on this thread, in seconds.
fn worked() -> f64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent: Option<f64> = spent.split(' ').next().and_then(|text| text.parse().ok());
    spent.unwrap_or_default() / 1e9
}

/// The most memory that this process had so far, in KiB. Of other tests that run beside this one, theirs too.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let size = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    size.unwrap_or_default()
}

fn scale() -> usize {
    let given = std::env::var("IMAGE_SYNCER_SCALE").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

const SHARED: usize = 50;
/// Bytes for each image and its target, and one task: of a short run all images wait for the target's tags at once.
const MOST_KEPT: usize = 300;

#[test]
fn many_images_cost_each_the_same() {
    let (report, servers) = copy(1, 1, 0, 8);
    let images = servers.tags;
    let blobs = 2 * images + SHARED;
    assert_eq!((report.copied, report.totals.sent), (images, blobs as u64));
    // One list of each side, a read and a put of each manifest, a read and a write of each blob: nothing else.
    assert_eq!(servers.requests, 2 + 2 * images + 2 * blobs);
    assert!(servers.kept < MOST_KEPT * images, "{} bytes", servers.kept);
}

#[test]
fn fifty_hosts_with_faults_bring_every_image_to_an_end() {
    let (report, servers) = copy(50, 50, 1, 64);
    let (images, failed) = (
        servers.tags * 50,
        report.failed_tasks + report.failed_generations,
    );
    assert_eq!(report.copied + failed, images);
    // Five attempts in each of three passes leave nothing.
    assert_eq!(failed, 0, "{report}");
    assert!(servers.kept < MOST_KEPT * images, "{} bytes", servers.kept);
}

#[test]
fn a_layer_of_many_repositories_is_no_dearer_for_the_last_of_them() {
    let images = scale();
    let (report, servers) = copy(images, 3, 0, 8);
    // The registries mount nothing.
    assert_eq!(
        (report.copied, report.totals.sent),
        (images, 3 * images as u64)
    );
    assert!(servers.kept < MOST_KEPT * images, "{} bytes", servers.kept);
}

/// A source that has one manifest, and targets that take nothing.
struct Refusing {
    manifest: Arc<Manifest>,
    class: Class,
}

impl Servers for Refusing {
    fn serve(&mut self, job: Job, _: Time) {
        match job {
            Job::Head { reply, .. } => reply.send(Ok(Done::Presence(Presence::Absent))),
            Job::Tags { reply, .. } => reply.send(Ok(Done::Tags(None))),
            Job::Fetch { reply, .. } => reply.send(Ok(Done::Manifest(self.manifest.clone()))),
            Job::Copy { reply, wants, .. } => {
                for want in wants {
                    want.reply.send(Err(StoreError::new(self.class, "no")));
                }
                reply.send(Ok(Done::Read));
            }
            _ => panic!("nothing gets so far here"),
        }
    }
}

#[test]
fn images_that_fail_leave_room_for_the_rest() {
    let mut bytes = image(&BTreeSet::from([1])).bytes().to_vec();
    bytes.resize(4 << 20, b' ');
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let manifest = Arc::new(Manifest::parse(&bytes, None, digest).unwrap());
    // Twice of what may be held.
    let tag = |number| Reference::Tag(Tag::parse(&format!("v{number}")).unwrap());
    let tags: Vec<Reference> = (0..32).map(tag).collect();
    let target = RuleTarget {
        place: place("t.io/target"),
        names: Vec::new(),
    };
    let selection = Selection::Named(tags.clone());
    let rule = rule(0, place("s.io/source"), selection, vec![target]);
    for class in [Class::Permanent, Class::Transient] {
        let manifest = manifest.clone();
        let mut servers = Refusing { manifest, class };
        let (rules, stores) = ([rule.clone()], NoStores::default());
        let report = drive(&rules, &stores, &mut servers, Policy::of(4, 1), 1);
        assert_eq!(report.failed_tasks, tags.len(), "{class:?}: {report}");
    }
}
