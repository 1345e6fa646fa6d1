//! The task graph: what must happen before what. PURE: an answer goes in, ready tasks come out. One owner, no lock, no
//! clock, no channel; every rule of order is a few lines here, and is tested without a thread or a socket.
//!
//! This file starts and ends tasks; what they mean stands in `image.rs` (the way of an image from its first question to
//! its tag), `parts.rs`, `blobs.rs` and `children.rs`. Not here: attempts, limits and time (`schedule.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::arena::Arena;
use super::blobs::{Blob, BlobId, Doubts};
use super::children::{Child, ChildId, ChildState};
use super::dates::{Date, Dates};
use super::gauge::Counts;
use super::holders::Holders;
use super::image::{Image, ImageId, Outcome};
use super::job::{Beside, Done, Job, Reply};
use super::places::{HostId, HostKey, HostRow, PlaceId, PlaceRow, Tags};
use super::task::{Failure, Key, Kind, Readiness, State, Task, TaskId};
use crate::oci::{Digest, Reference, Repository};
use crate::records::Hints;
use crate::report::{Preview, Totals};
use crate::store::{Class, Place, StoreError};

/// All that the run knows and has still to do.
pub(super) struct Graph<'a> {
    pub(super) hints: &'a Hints,
    pub(super) hosts: Arena<HostRow>,
    pub(super) host_ids: HashMap<HostKey, HostId>,
    pub(super) places: Arena<PlaceRow>,
    pub(super) place_ids: HashMap<Place, PlaceId>,
    pub(super) dates: Dates,
    pub(super) tasks: Arena<Task>,
    pub(super) images: Arena<Image>,
    /// Images that were admitted and are not settled.
    pub(super) open_images: HashSet<ImageId>,
    /// Of these, those that wait for nothing but targets that are late.
    pub(super) late_images: HashSet<ImageId>,
    pub(super) blobs: Arena<Blob>,
    pub(super) blob_ids: HashMap<Digest, BlobId>,
    /// Blobs and children on their way to places, or not to be had there: each goes once to each place.
    pub(super) parts: HashMap<(PlaceId, Digest), TaskId>,
    pub(super) holders: Holders,
    pub(super) children: Arena<Child>,
    pub(super) child_ids: HashMap<Digest, ChildId>,
    pub(super) doubts: Doubts,
    /// Recorded uploads that were offered to their targets.
    pub(super) offered: HashSet<(PlaceId, Digest)>,
    /// Tasks whose readiness may have changed since the schedule last looked.
    pub(super) changed: Vec<TaskId>,
    /// Tasks that are done: their rows serve others as soon as the schedule has forgotten them.
    pub(super) finished: Vec<TaskId>,
    /// What happened since the coordinator last looked.
    pub(super) news: Vec<News>,
    /// Bytes of the manifests that are held for images.
    pub(super) held_bytes: usize,
    pub(super) totals: Totals,
    /// How far the run is, as far as it is known here.
    pub(super) counts: Counts,
    /// Nothing is written: what would be done is only foreseen.
    pub(super) is_dry: bool,
    /// What would be done for each rule; empty where it is done.
    pub(super) previews: Vec<Preview>,
}

/// What the coordinator has to hear about.
#[derive(Debug)]
pub(super) enum News {
    /// A host that was not known.
    Met(HostId),
    /// A target of an image is in sync, or has failed for this pass.
    Settled(ImageId, usize),
    /// The tags of a repository that somebody asked for.
    Listed(PlaceId),
    /// The repositories of the registry of a namespace, or why they are not known.
    Cataloged(PlaceId, Result<Vec<Repository>, Arc<Failure>>),
    /// The date of one of its tags, or that it cannot be had.
    Dated(PlaceId),
}

impl<'a> Graph<'a> {
    pub(super) fn new(hints: &'a Hints, dates: Dates) -> Self {
        Self {
            hints,
            hosts: Arena::new(),
            host_ids: HashMap::new(),
            places: Arena::new(),
            place_ids: HashMap::new(),
            dates,
            tasks: Arena::new(),
            images: Arena::new(),
            open_images: HashSet::new(),
            late_images: HashSet::new(),
            blobs: Arena::new(),
            blob_ids: HashMap::new(),
            parts: HashMap::new(),
            holders: Holders::new(),
            children: Arena::new(),
            child_ids: HashMap::new(),
            doubts: Doubts::new(),
            offered: HashSet::new(),
            changed: Vec::new(),
            finished: Vec::new(),
            news: Vec::new(),
            held_bytes: 0,
            totals: Totals::default(),
            counts: Counts::default(),
            is_dry: false,
            previews: Vec::new(),
        }
    }

    /// The task that is scheduled for this one: wants are served by their blob's copy.
    pub(super) fn scheduled(&self, task: TaskId) -> TaskId {
        match self.tasks[task].kind {
            Kind::Want(blob, _) => self.blobs[blob].copy(),
            _ => task,
        }
    }

    /// The host that a task's requests and failures count for.
    pub(super) fn host_of(&self, task: TaskId) -> HostId {
        let place = match &self.tasks[task].kind {
            Kind::Tags(place) | Kind::Catalog(place) | Kind::Want(_, place) => *place,
            Kind::Ask(image, target) | Kind::Root(image, target) => {
                self.images[*image].target(*target).place
            }
            Kind::Resolve(image) | Kind::Referrers(image) | Kind::Get(image) => {
                self.images[*image].source
            }
            Kind::Date(date) => self.dates.rows[*date].source,
            Kind::Child(child) => child.place,
            Kind::Fetch(child) => self.children[*child].source,
            Kind::Copy(blob) => self.blobs[*blob].source(),
        };
        self.places[place].host
    }

    /// What the schedule must know of `task`; `None` where it is not ready.
    pub(super) fn readiness(&self, task: TaskId) -> Option<Readiness> {
        let row = &self.tasks[task];
        match (&row.kind, &row.state) {
            (_, State::Done) => return None,
            (Kind::Copy(blob), _) => return self.copy_readiness(*blob),
            (_, State::Ready) => {}
            _ => return None,
        }
        let host = self.host_of(task);
        let (rank, source, targets) = match &row.kind {
            Kind::Root(..) => (0, None, vec![host]),
            Kind::Child(child) => (if child.had.is_some() { 0 } else { 2 }, None, vec![host]),
            Kind::Get(_) | Kind::Fetch(_) => (1, Some(host), Vec::new()),
            Kind::Resolve(_) | Kind::Referrers(_) | Kind::Date(_) => (2, Some(host), Vec::new()),
            Kind::Ask(..) => (2, None, vec![host]),
            // Nothing can begin before they are known.
            Kind::Tags(_) | Kind::Catalog(_) => (0, Some(host), Vec::new()),
            Kind::Want(..) | Kind::Copy(_) => return None,
        };
        Some(Readiness {
            key: Key {
                order: row.order,
                rank,
                smallness: 0,
            },
            source,
            targets,
            alone: Vec::new(),
        })
    }

    /// Marks a ready task as running and gives its job. `reply` makes the obligation to answer; `room` tells how much
    /// a target host takes now (`Schedule::room`).
    pub(super) fn start(
        &mut self,
        task: TaskId,
        reply: &dyn Fn(TaskId, HostId) -> Reply,
        room: &dyn Fn(HostId) -> Option<usize>,
    ) -> Option<Job> {
        let kind = self.tasks[task].kind.clone();
        if let Kind::Copy(blob) = kind {
            return self.start_copy(task, blob, reply, room);
        }
        self.tasks[task].state = State::Running;
        self.changed.push(task);
        let host = self.host_of(task);
        let reply = |task| reply(task, host);
        Some(match kind {
            Kind::Tags(place) => Job::Tags {
                reply: reply(task),
                place: self.places[place].place.clone(),
            },
            Kind::Catalog(place) => Job::Catalog {
                reply: reply(task),
                place: self.places[place].place.clone(),
            },
            Kind::Ask(image, target) => self.start_ask(image, target, reply(task)),
            Kind::Resolve(image) => Job::Head {
                reply: reply(task),
                place: self.places[self.images[image].source].place.clone(),
                reference: self.images[image].reference.clone(),
            },
            Kind::Referrers(image) => self.start_search(image, reply(task))?,
            Kind::Date(date) => {
                let date = &self.dates.rows[date];
                Job::Date {
                    reply: reply(task),
                    place: self.places[date.source].place.clone(),
                    reference: Reference::Tag(date.tag.clone()),
                }
            }
            Kind::Get(image) => {
                let row = &self.images[image];
                let place = self.places[row.source].place.clone();
                let reference = row.get_reference();
                match row.wanted.clone() {
                    Some(wanted) => Job::Filter {
                        reply: reply(task),
                        place,
                        reference,
                        wanted,
                    },
                    None => Job::Fetch {
                        reply: reply(task),
                        place,
                        reference,
                        expected: None,
                    },
                }
            }
            Kind::Root(image, target) => self.start_root(image, target, reply(task))?,
            Kind::Child(at) => {
                let place = self.places[at.place].place.clone();
                let child = &self.children[at.child];
                let reference = Reference::from(child.descriptor.digest.clone());
                if at.had.is_some() {
                    let manifest = child.manifest()?;
                    Job::Put {
                        reply: reply(task),
                        place,
                        reference,
                        manifest,
                        record: None,
                        beside: Beside::Nothing,
                    }
                } else {
                    Job::Head {
                        reply: reply(task),
                        place,
                        reference,
                    }
                }
            }
            Kind::Fetch(child) => {
                let child = &self.children[child];
                Job::Fetch {
                    reply: reply(task),
                    place: self.places[child.source].place.clone(),
                    reference: Reference::from(child.descriptor.digest.clone()),
                    expected: Some(child.descriptor.clone()),
                }
            }
            Kind::Want(..) | Kind::Copy(_) => return None,
        })
    }

    /// Takes in what a task found or did.
    pub(super) fn done(&mut self, task: TaskId, done: Done) {
        match (self.tasks[task].kind.clone(), done) {
            (Kind::Tags(place), Done::Tags(tags)) => {
                self.finish(task);
                let tags = match tags {
                    Some(tags) => Tags::Listed(Arc::new(tags.iter().cloned().collect()), tags),
                    None => Tags::Missing,
                };
                self.tags_known(place, tags);
            }
            (Kind::Catalog(namespace), Done::Repositories(repositories)) => {
                self.finish(task);
                self.news.push(News::Cataloged(namespace, Ok(repositories)));
            }
            (Kind::Ask(image, target), Done::Presence(presence)) => {
                self.finish(task);
                self.asked(image, target, presence);
            }
            (Kind::Resolve(image), Done::Presence(presence)) => {
                self.finish(task);
                self.resolved(image, presence);
            }
            (Kind::Referrers(image), Done::Referrers(found)) => {
                self.finish(task);
                self.referrers_known(image, found);
            }
            (Kind::Date(date), Done::Dated(dated)) => {
                self.finish(task);
                self.date_known(date, Date::Known(dated));
            }
            (Kind::Get(image), Done::Manifest(manifest)) => {
                self.finish(task);
                self.got(image, manifest);
            }
            (Kind::Get(image), Done::Filtered(filtered)) => {
                self.finish(task);
                self.got_filtered(image, filtered);
            }
            (Kind::Root(image, target), Done::Put) => {
                self.finish(task);
                self.root_done(task, image, target, Outcome::Copied);
            }
            (Kind::Root(image, target), Done::Kept) => {
                self.finish(task);
                self.root_done(task, image, target, Outcome::Kept);
            }
            (Kind::Child(at), Done::Presence(presence)) => {
                self.child_asked(task, at, &presence);
            }
            (Kind::Child(at), Done::Put) => self.child_done(task, at),
            (Kind::Fetch(child), Done::Manifest(manifest)) => {
                self.finish(task);
                self.child_read(child, ChildState::Held(manifest));
            }
            (Kind::Want(blob, place), done) => self.want_answered(task, blob, place, &done),
            (Kind::Copy(blob), Done::Read) => self.blob_read(blob),
            (Kind::Copy(blob), Done::WouldRead { bytes }) => self.preview_read(blob, bytes),
            (kind, done) => {
                let text = format!("{done:?} is no answer to {kind:?}: this is a bug");
                self.failed(task, &StoreError::new(Class::Permanent, text));
            }
        }
    }

    /// Takes in that a task has failed for this pass.
    pub(super) fn failed(&mut self, task: TaskId, error: &StoreError) {
        let kind = self.tasks[task].kind.clone();
        match &kind {
            Kind::Copy(blob) => {
                self.copy_answered(*blob);
                return self.source_failed(*blob, error);
            }
            Kind::Fetch(child) => {
                // A type that is no manifest's, and no such manifest: it is a blob (protocol.md M12).
                if error.class == Class::NotFound && !self.children[*child].descriptor.is_manifest()
                {
                    self.finish(task);
                    return self.child_read(*child, ChildState::Blob);
                }
                if self.next_child_source(*child) {
                    return self.set_ready(task);
                }
            }
            _ => {}
        }
        self.fail_with(task, error);
    }

    /// Fails a ready task unsent, since a host that it needs is down in this pass.
    pub(super) fn unsent(
        &mut self,
        task: TaskId,
        is_down: &dyn Fn(HostId) -> bool,
        error: &StoreError,
    ) {
        match self.tasks[task].kind {
            Kind::Copy(blob) => self.copy_unsent(blob, is_down, error),
            _ => self.fail_with(task, error),
        }
    }

    pub(super) fn fail_with(&mut self, task: TaskId, error: &StoreError) {
        let failure = self.failure(&self.tasks[task].kind, error);
        self.fail(task, &Arc::new(failure));
    }

    /// What an error means for a task of this kind.
    pub(super) fn failure(&self, kind: &Kind, error: &StoreError) -> Failure {
        let reads_source = matches!(
            kind,
            Kind::Resolve(_) | Kind::Get(_) | Kind::Fetch(_) | Kind::Copy(_)
        );
        Failure {
            operation: self.operation(kind),
            cause: error.to_string(),
            is_final: error.class.is_final(),
            not_found: error.class == Class::NotFound && reads_source,
        }
    }

    /// Ends a task and all that depends on it with `failure`.
    pub(super) fn fail(&mut self, task: TaskId, failure: &Arc<Failure>) {
        // A loop and not a recursion: an index may be nested, and many images may hang on one blob.
        let mut failing = vec![task];
        while let Some(task) = failing.pop() {
            if matches!(self.tasks[task].state, State::Failed(_) | State::Done) {
                continue;
            }
            let before =
                std::mem::replace(&mut self.tasks[task].state, State::Failed(failure.clone()));
            self.changed.push(task);
            failing.append(&mut self.tasks[task].dependents);
            if failure.is_final {
                failing.append(&mut self.abandon(task));
            }
            match self.tasks[task].kind.clone() {
                Kind::Tags(place) => self.tags_known(place, Tags::Failed(failure.clone())),
                Kind::Catalog(namespace) => {
                    let failure = Err(failure.clone());
                    self.news.push(News::Cataloged(namespace, failure));
                }
                Kind::Date(date) => self.date_known(date, Date::Failed(failure.clone())),
                Kind::Ask(image, target) => self.ask_failed(image, target, failure),
                Kind::Root(image, target) => self.root_failed(task, image, target, failure),
                Kind::Referrers(image) => self.referrers_failed(image, failure),
                Kind::Resolve(image) | Kind::Get(image) => {
                    self.source_of_image_failed(image, failure);
                }
                Kind::Child(at) if at.had.is_some() => {
                    failing.extend(self.leave_child(task, at.child));
                }
                Kind::Fetch(child) => failing.append(&mut self.child_unread(child)),
                Kind::Want(blob, _) => {
                    self.counts.left -= self.blobs[blob].size;
                    self.want_stopped(task, &before);
                }
                Kind::Child(_) | Kind::Copy(_) => {}
            }
        }
    }

    /// Makes a delayed or running task ready again.
    pub(super) fn again(&mut self, task: TaskId) {
        match self.tasks[task].kind {
            Kind::Copy(blob) => self.copy_again(blob),
            Kind::Want(..) => self.want_again(task),
            _ => self.set_ready(task),
        }
    }

    /// Makes a task ready that its host answered by asking for a pause.
    pub(super) fn again_after_pause(&mut self, task: TaskId) {
        match self.tasks[task].kind {
            Kind::Copy(_) | Kind::Want(..) => {
                self.delay(task);
                self.again(task);
            }
            _ => self.set_ready(task),
        }
    }

    pub(super) fn operation_of(&self, task: TaskId) -> String {
        self.operation(&self.tasks[task].kind)
    }

    /// Notes that a task waits for a timer.
    pub(super) fn delay(&mut self, task: TaskId) {
        let before = std::mem::replace(&mut self.tasks[task].state, State::Delayed);
        match self.tasks[task].kind {
            Kind::Copy(blob) => {
                self.copy_answered(blob);
                self.copy_delayed(blob);
            }
            Kind::Want(..) => self.want_stopped(task, &before),
            Kind::Ask(image, target) => self.ask_delayed(image, target),
            Kind::Tags(place) => self.tags_delayed(place),
            _ => {}
        }
    }

    /// A new task. `Ready` ones are offered to the schedule.
    pub(super) fn add_task(&mut self, kind: Kind, order: u32, state: State) -> TaskId {
        let task = self.tasks.push(Task {
            kind,
            state,
            pending: 0,
            dependents: Vec::new(),
            order,
            rounds: 0,
        });
        self.changed.push(task);
        task
    }

    pub(super) fn set_ready(&mut self, task: TaskId) {
        self.tasks[task].state = State::Ready;
        self.changed.push(task);
    }

    pub(super) fn has_failed(&self, task: TaskId) -> bool {
        matches!(self.tasks[task].state, State::Failed(_))
    }

    /// A task is done, and nobody knows it any more: its row serves another one. (One that failed may still be known to
    /// parts that it waited for.)
    pub(super) fn finish(&mut self, task: TaskId) {
        self.tasks[task].state = State::Done;
        self.changed.push(task);
        self.finished.push(task);
    }

    pub(super) fn operation(&self, kind: &Kind) -> String {
        match kind {
            Kind::Tags(place) => format!("list the tags of {}", self.places[*place].place),
            Kind::Catalog(place) => {
                format!("list the repositories below {}", self.places[*place].place)
            }
            Kind::Ask(image, target) => {
                let target = self.images[*image].target(*target);
                let kind = target.name.tag().map_or("", |_| "tag ");
                format!(
                    "ask {} for {kind}{}",
                    self.places[target.place].place, target.name
                )
            }
            Kind::Date(date) => {
                let date = &self.dates.rows[*date];
                let place = &self.places[date.source].place;
                format!("find out when {place}:{} was made", date.tag)
            }
            Kind::Resolve(image) | Kind::Get(image) => {
                format!("read the manifest of {}", self.image_source(*image))
            }
            Kind::Referrers(image) => {
                format!("find the referrers of {}", self.image_source(*image))
            }
            Kind::Root(image, target) => {
                format!("put the manifest {}", self.image_target(*image, *target))
            }
            Kind::Child(at) => {
                let digest = &self.children[at.child].descriptor.digest;
                format!("put the manifest {}@{digest}", self.places[at.place].place)
            }
            Kind::Fetch(child) => {
                let child = &self.children[*child];
                format!(
                    "read the manifest {}@{}",
                    self.places[child.source].place, child.descriptor.digest
                )
            }
            Kind::Want(blob, place) => {
                format!(
                    "copy blob {} to {}",
                    self.blobs[*blob].digest, self.places[*place].place
                )
            }
            Kind::Copy(blob) => {
                let blob = &self.blobs[*blob];
                format!(
                    "read blob {} of {}",
                    blob.digest,
                    self.places[blob.source()].place
                )
            }
        }
    }
}
