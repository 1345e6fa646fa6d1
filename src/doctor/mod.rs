//! `--doctor`: whether a run could read and write what the rules name, found out without leaving anything anywhere. Each
//! registry is looked at once, then its repositories. Not here: the requests themselves, and what a run would copy, which
//! `--dry-run` tells.

mod findings;

use std::iter;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, TryRecvError};

pub(crate) use findings::Findings;

use crate::config::{Rule, RuleError, Selection};
use crate::oci::{Algorithm, Digest, Host, Reference, Repository};
use crate::store::{Class, Examine, Examiner, Place, Presence, StoreError, Trial};
use findings::{Line, Section, bad, good, note};

/// Looks at everything that the rules name, on so many threads; `failed` are the rules that cannot be carried out. Ends
/// early, with less, once `cancel` is closed.
pub(crate) fn examine(
    rules: &[Rule],
    failed: &[RuleError],
    stores: &dyn Examiner,
    workers: usize,
    cancel: &Receiver<()>,
) -> Findings {
    let mut groups = Groups(Vec::new());
    for place in rules.iter().flat_map(places) {
        groups.of(place);
    }
    let contacts = in_parallel(workers, cancel, &groups.0, |_, group| {
        stores.examined(&group.first).contact()
    });
    for (group, contact) in groups.0.iter_mut().zip(contacts) {
        match contact {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(contact))) => group.lines = findings::reached(&contact, SystemTime::now()),
            Some(Err(error)) => {
                group.lines.push(findings::out_of_reach(&error));
                group.is_closed = true;
            }
        }
    }
    let mut catalogs = Vec::new();
    for rule in rules {
        if rule.levels.is_none() {
            groups.add(rule);
        } else {
            groups.add_namespace(rule, stores, &mut catalogs);
        }
    }

    // The threads are shared out among the registries; each gets one at least.
    let asked = |group: &&Group| matches!(group.first, Place::Registry(..)) && !group.is_closed;
    let threads = workers.div_ceil(groups.0.iter().filter(asked).count().max(1));
    let sections = in_parallel(workers, cancel, &groups.0, |_, group| {
        group.examine(stores, threads, cancel)
    });
    let mut findings = vec![Section {
        title: "rules".to_owned(),
        lines: failed.iter().map(|error| bad(error.to_string())).collect(),
    }];
    findings.extend(sections.into_iter().flatten());
    findings.retain(|section| !section.lines.is_empty());
    Findings { sections: findings }
}

fn places(rule: &Rule) -> impl Iterator<Item = &Place> {
    let targets = rule.targets.iter().map(|target| &target.place);
    iter::once(&rule.source).chain(targets)
}

/// The registries and layouts in the order of the rules.
struct Groups(Vec<Group>);

/// One registry, or one layout.
struct Group {
    /// Asked for what is true of all of it.
    first: Place,
    /// What was found so far.
    lines: Vec<Line>,
    /// Nothing more is to be asked.
    is_closed: bool,
    checks: Vec<Check>,
}

/// One repository or layout, and what a run would do there.
struct Check {
    place: Place,
    reads: Option<Reading>,
    writes: bool,
}

/// What a run would read.
#[derive(Clone)]
enum Reading {
    /// This image, perhaps among others.
    Named(Reference),
    /// The only image of a layout.
    Sole,
    /// What its list of tags has.
    Listed {
        /// None is enough.
        may_be_empty: bool,
    },
}

/// What became of a check.
#[derive(Default)]
struct Outcome {
    lines: Vec<Line>,
    is_read: bool,
    trial: Option<Trial>,
}

/// What registries tell of all of their repositories.
type Catalogs = Vec<(Host, Result<Vec<Repository>, StoreError>)>;

impl Groups {
    fn of(&mut self, place: &Place) -> Option<&mut Group> {
        let is_one = |group: &Group| match (&group.first, place) {
            (Place::Registry(known, _), Place::Registry(host, _)) => known == host,
            (known, place) => known == place,
        };
        if !self.0.iter().any(is_one) {
            self.0.push(Group {
                first: place.clone(),
                lines: Vec::new(),
                is_closed: false,
                checks: Vec::new(),
            });
        }
        self.0.iter_mut().find(|group| is_one(group))
    }

    fn add(&mut self, rule: &Rule) {
        let reading = match &rule.selection {
            Selection::Named(references) => references.first().cloned().map(Reading::Named),
            Selection::Sole => Some(Reading::Sole),
            Selection::Listed(filter) => Some(Reading::Listed {
                may_be_empty: filter.min() == 0,
            }),
        };
        for place in places(rule) {
            let Some(check) = self.of(place).and_then(|group| group.check(place)) else {
                continue;
            };
            if *place == rule.source && check.reads.is_none() {
                check.reads.clone_from(&reading);
            }
            check.writes |= rule.targets.iter().any(|target| target.place == *place);
        }
    }

    /// Takes in the rules that one for a namespace stands for.
    fn add_namespace(&mut self, rule: &Rule, stores: &dyn Examiner, catalogs: &mut Catalogs) {
        let (Place::Registry(host, namespace), Some(group)) = (&rule.source, self.of(&rule.source))
        else {
            return;
        };
        if group.is_closed {
            return;
        }
        if !catalogs.iter().any(|(known, _)| known == host) {
            let catalog = stores.open(&rule.source).repositories();
            catalogs.push((host.clone(), catalog));
        }
        let repositories = match catalogs.iter().find(|(known, _)| known == host) {
            Some((_, Ok(repositories))) => repositories,
            Some((_, Err(error))) => return group.lines.push(bad(error.to_string())),
            None => return,
        };
        let meant = repositories.iter();
        let meant: Result<Vec<Rule>, _> =
            meant.filter_map(|one| rule.for_repository(one)).collect();
        let (line, meant) = match meant {
            Ok(meant) if meant.is_empty() => {
                let text = format!("it lists its repositories, and none is in {namespace}");
                (bad(text), meant)
            }
            Ok(meant) => {
                let count = meant.len();
                let text = format!("it lists its repositories, {count} of them in {namespace}");
                (good(text), meant)
            }
            Err(error) => (bad(format!("the name of a target: {error}")), Vec::new()),
        };
        group.lines.push(line);
        for rule in &meant {
            self.add(rule);
        }
    }
}

impl Group {
    fn check(&mut self, place: &Place) -> Option<&mut Check> {
        let known = self.checks.iter().position(|check| check.place == *place);
        let number = known.unwrap_or(self.checks.len());
        if known.is_none() {
            self.checks.push(Check {
                place: place.clone(),
                reads: None,
                writes: false,
            });
        }
        self.checks.get_mut(number)
    }

    /// Does all checks, as many at once as the registry may have requests.
    fn examine(&self, stores: &dyn Examiner, threads: usize, cancel: &Receiver<()>) -> Section {
        let (title, at_once) = match &self.first {
            Place::Registry(host, _) => (host.to_string(), stores.limits(host).at_once()),
            Place::Layout(_) => (self.first.to_string(), None),
        };
        let mut lines = self.lines.clone();
        let checks = if self.is_closed {
            &[]
        } else {
            self.checks.as_slice()
        };
        let first_target = checks.iter().position(|check| check.writes);
        let nowhere = Digest::of(Algorithm::Sha256, NOWHERE);
        let leave_alone = AtomicBool::new(false);
        let is_left_alone = || leave_alone.load(Ordering::Relaxed);
        let threads = at_once.map_or(threads, |most| most.min(threads));
        let outcomes = in_parallel(threads, cancel, checks, |number, check| {
            let nowhere = (Some(number) == first_target).then_some(&nowhere);
            check.make(stores, nowhere, &leave_alone)
        });
        let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        if let Place::Registry(host, _) = &self.first
            && !self.is_closed
        {
            let login = |place| Some((place, stores.examined(place).login()?));
            let places = checks.iter().map(|check| &check.place);
            let logins: Vec<(&Place, String)> = places.filter_map(login).collect();
            lines.extend(findings::logins(&logins));
            lines.push(findings::quota(stores.quota(host)));
            let trials = outcomes.iter().filter_map(|outcome| outcome.trial.as_ref());
            lines.extend(findings::uploads(&trials.collect::<Vec<_>>()));
            // One that is there for certain, if there is one.
            let by_read = outcomes.iter().position(|outcome| outcome.is_read);
            let by_any = || outcomes.iter().position(|outcome| outcome.trial.is_some());
            let shows = by_read.or_else(by_any).filter(|_| !is_left_alone());
            if let Some(check) = shows.and_then(|number| checks.get(number)) {
                let referrers = stores.open(&check.place).referrers(&nowhere);
                lines.push(findings::referrers(&check.place, referrers));
            }
        }
        lines.extend(outcomes.into_iter().flat_map(|outcome| outcome.lines));
        Section { title, lines }
    }
}

impl Check {
    /// `nowhere` is offered for a mount. Nothing is asked once `leave_alone` is set, which happens where the registry asks
    /// for a pause, or is gone.
    fn make(
        &self,
        stores: &dyn Examiner,
        nowhere: Option<&Digest>,
        leave_alone: &AtomicBool,
    ) -> Outcome {
        let name = match &self.place {
            Place::Registry(_, repository) => repository.as_str(),
            Place::Layout(_) => "it",
        };
        let store = stores.examined(&self.place);
        let mut outcome = Outcome::default();
        let refused = |error: &StoreError, what| {
            if matches!(error.class, Class::Unreachable | Class::Throttled) {
                leave_alone.store(true, Ordering::Relaxed);
            }
            bad(format!("{name} cannot be {what}: {error}"))
        };
        let is_asked = || !leave_alone.load(Ordering::Relaxed);
        if !is_asked() {
            let text = format!("{name} was not asked for any more");
            outcome.lines.push(note(text));
        }
        if let Some(reading) = self.reads.as_ref().filter(|_| is_asked()) {
            let read = self.read(name, reading, stores, &*store);
            let line = read.unwrap_or_else(|error| refused(&error, "read"));
            outcome.is_read = line.is_good();
            outcome.lines.push(line);
        }
        if self.writes && is_asked() {
            match store.try_push(nowhere) {
                Ok(trial) => {
                    outcome.lines.push(good(format!("{name} can be written")));
                    outcome.trial = Some(trial);
                }
                Err(error) => outcome.lines.push(refused(&error, "written")),
            }
        }
        outcome
    }

    fn read(
        &self,
        name: &str,
        reading: &Reading,
        stores: &dyn Examiner,
        store: &dyn Examine,
    ) -> Result<Line, StoreError> {
        // What another rule brings need not be there yet.
        let lacking = |what: &str| {
            if self.writes {
                note(format!(
                    "{name} {what}; it is a target too, so a rule may bring it"
                ))
            } else {
                bad(format!("{name} {what}"))
            }
        };
        let reference = match reading {
            Reading::Named(reference) => reference.clone(),
            Reading::Sole => match stores.sole(&self.place)? {
                Some(digest) => Reference::from(digest),
                None => return Ok(lacking("does not hold exactly one image: name a tag")),
            },
            Reading::Listed { may_be_empty } => {
                let Some(tags) = store.some_tags()? else {
                    let what = "is not there, or may not be seen: check its name, and the login";
                    return Ok(lacking(what));
                };
                match tags.into_iter().next() {
                    Some(tag) => Reference::Tag(tag),
                    None if *may_be_empty => {
                        return Ok(good(format!("{name} can be read, and has no tags")));
                    }
                    None => return Ok(lacking("has no tags")),
                }
            }
        };
        let is_there = match store.head(&reference)? {
            Presence::Present(..) => true,
            Presence::Absent => false,
            // Some have words for a GET only.
            Presence::Unknown => store.manifest(&reference).map(|_| true)?,
        };
        Ok(if is_there {
            good(format!("{name} can be read: {reference} is there"))
        } else {
            lacking(&format!(
                "has no {reference}, or does not let it be seen: check its name, and the login"
            ))
        })
    }
}

/// Does something with each item, on so many threads at most, and gives the results in the order of the items: nothing for
/// those that were not begun when `cancel` was closed.
fn in_parallel<T: Sync, R: Send>(
    threads: usize,
    cancel: &Receiver<()>,
    items: &[T],
    work: impl Fn(usize, &T) -> R + Sync,
) -> Vec<Option<R>> {
    let done: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    share_out(threads, cancel, items.len(), &|number| {
        if let (Some(item), Some(done)) = (items.get(number), done.get(number)) {
            let result = work(number, item);
            *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    });
    let results = done.into_iter().map(Mutex::into_inner);
    results
        .map(|result| result.unwrap_or_else(PoisonError::into_inner))
        .collect()
}

/// Calls for each number below `count`. The part of the above that is the same whatever is done.
fn share_out(threads: usize, cancel: &Receiver<()>, count: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    let run = || {
        while cancel.try_recv() != Err(TryRecvError::Disconnected) {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < count => work(number),
                _ => return,
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            // Where no more threads can be had, those that there are do it all.
            thread::Builder::new().spawn_scoped(scope, run).ok();
        }
        run();
    });
}

/// The bytes of a blob that nobody has.
const NOWHERE: &[u8] = b"image-syncer asks whether this can be mounted, and nobody has it";
