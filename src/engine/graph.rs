//! The task graph: what must happen before what. PURE: an answer goes in, ready tasks come out. One owner, no lock, no
//! clock, no channel; every rule of order is a few lines here, and is tested without a thread or a socket.
//!
//! This file has the tasks and the parts of manifests (blobs and children at their places); `image.rs` has the way of
//! an image from its first question to its tag. Not here: attempts, limits and time (`schedule.rs`).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::arena::{Arena, Id};
use super::blobs::{Blob, BlobId, Doubt, Doubts};
use super::children::{Child, ChildAt, ChildId, ChildState};
use super::image::{Image, ImageId};
use super::job::{Done, Job, Reply};
use crate::oci::{Descriptor, Digest, Host, Manifest, Reference, Tag};
use crate::records::Hints;
use crate::store::{Class, Place, Presence, StoreError};

pub(super) type TaskId = Id<Task>;
pub(super) type PlaceId = Id<PlaceRow>;
pub(super) type HostId = Id<HostRow>;

/// All that the run knows and has still to do.
pub(super) struct Graph<'a> {
    pub(super) hints: &'a Hints,
    pub(super) hosts: Arena<HostRow>,
    host_ids: HashMap<HostKey, HostId>,
    pub(super) places: Arena<PlaceRow>,
    place_ids: HashMap<Place, PlaceId>,
    pub(super) tasks: Arena<Task>,
    pub(super) images: Arena<Image>,
    /// Images that were admitted and are not settled.
    pub(super) open_images: HashSet<ImageId>,
    pub(super) blobs: Arena<Blob>,
    pub(super) blob_ids: HashMap<Digest, BlobId>,
    /// Blobs and children at their places: each goes once to each place.
    parts: HashMap<(PlaceId, Digest), Part>,
    pub(super) children: Arena<Child>,
    pub(super) child_ids: HashMap<Digest, ChildId>,
    pub(super) doubts: Doubts,
    /// Tasks whose readiness may have changed since the schedule last looked.
    pub(super) changed: Vec<TaskId>,
    /// What happened since the coordinator last looked.
    pub(super) news: Vec<News>,
    /// Bytes of the manifests that are held for images.
    pub(super) held_bytes: usize,
    pub(super) totals: Totals,
}

/// What the coordinator has to hear about.
#[derive(Debug)]
pub(super) enum News {
    /// A target of an image is in sync, or has failed for this pass.
    Settled(ImageId, usize),
    /// The tags of a repository that somebody asked for.
    Listed(PlaceId),
}

/// What the run moved.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Bytes of blobs read from sources.
    pub pulled: u64,
    /// Bytes of blobs sent to targets.
    pub pushed: u64,
    /// Blobs sent to targets.
    pub sent: u64,
    /// Blobs mounted from another repository.
    pub mounted: u64,
    /// Blobs that a target had already.
    pub existing: u64,
}

/// Who a place's requests go to: limits and pauses are a host's. Each layout is a host of its own.
#[derive(Clone, PartialEq, Eq, Hash)]
enum HostKey {
    Registry(Host),
    Layout(PlaceKey),
}

type PlaceKey = std::path::PathBuf;

pub(super) struct HostRow {
    pub(super) name: String,
    /// A mount from a repository that surely had the blob was denied: not tried again in this run.
    pub(super) mounts: bool,
    /// It cannot be asked within the next half minute: images do not wait for it.
    pub(super) late: bool,
}

pub(super) struct PlaceRow {
    pub(super) place: Place,
    pub(super) host: HostId,
    pub(super) tags: Tags,
    /// Images that wait for `tags`.
    waiting: Vec<ImageId>,
}

/// What is known of a repository's tags.
pub(super) enum Tags {
    /// Nobody has asked.
    Unknown,
    /// The question is under way.
    Asked,
    /// All tags, and again in the order of the listing.
    Listed(HashSet<Tag>, Vec<Tag>),
    /// There is no such repository.
    Missing,
    /// They could not be had in this pass.
    Failed(Arc<Failure>),
}

impl Tags {
    pub(super) fn are_open(&self) -> bool {
        matches!(self, Self::Unknown | Self::Asked)
    }
}

/// A unit of work. What waits for it is told when it ends.
pub(super) struct Task {
    pub(super) kind: Kind,
    pub(super) state: State,
    /// How many parts are still missing (children and roots).
    pending: u32,
    dependents: Vec<TaskId>,
    /// When the image that first wanted it was admitted: older images go first.
    pub(super) order: u32,
    /// How often missing parts were looked for after the target refused the manifest (decisions D6).
    rounds: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// List the tags of a repository.
    Tags(PlaceId),
    /// Ask a target for an image's tag.
    Ask(ImageId, usize),
    /// Ask the source which manifest the image is now.
    Resolve(ImageId),
    /// Read the image's manifest.
    Get(ImageId),
    /// Put the image's manifest under its tag at a target.
    Root(ImageId, usize),
    /// Bring the child of an index to a place: ask for it, then put it once its parts are there.
    Child(ChildAt),
    /// Read a child of an index.
    Fetch(ChildId),
    /// A blob that a place wants; done by the jobs of its `Copy`.
    Want(BlobId, PlaceId),
    /// The copying of a blob: each of its jobs serves some wants.
    Copy(BlobId),
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// For its parts, or for its turn among a blob's wants.
    Waiting,
    Ready,
    Running,
    /// For a timer of the schedule.
    Delayed,
    Done,
    Failed(Arc<Failure>),
}

/// Why something did not come about.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What was attempted, such as `put manifest at reg.io/a/b`.
    pub operation: String,
    /// The cause, with its remedy where one is known.
    pub cause: String,
    /// Whether trying again in this run is pointless.
    pub is_final: bool,
    /// Whether what was asked for does not exist at the source.
    pub not_found: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: {}", self.operation, self.cause)
    }
}

/// A blob or a child at a place.
enum Part {
    Done,
    Open(TaskId),
}

/// What the schedule must know of a ready task.
pub(super) struct Readiness {
    pub(super) key: Key,
    pub(super) source: Option<HostId>,
    pub(super) targets: Vec<HostId>,
}

/// The order of ready tasks: the oldest image first, then what ends an image, then larger blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) order: u32,
    pub(super) rank: u8,
    pub(super) smallness: u64,
}

impl<'a> Graph<'a> {
    pub(super) fn new(hints: &'a Hints) -> Self {
        Self {
            hints,
            hosts: Arena::new(),
            host_ids: HashMap::new(),
            places: Arena::new(),
            place_ids: HashMap::new(),
            tasks: Arena::new(),
            images: Arena::new(),
            open_images: HashSet::new(),
            blobs: Arena::new(),
            blob_ids: HashMap::new(),
            parts: HashMap::new(),
            children: Arena::new(),
            child_ids: HashMap::new(),
            doubts: Doubts::new(),
            changed: Vec::new(),
            news: Vec::new(),
            held_bytes: 0,
            totals: Totals::default(),
        }
    }

    /// The row of a place, made at its first mention.
    pub(super) fn place(&mut self, place: &Place) -> PlaceId {
        if let Some(&id) = self.place_ids.get(place) {
            return id;
        }
        let (key, name) = match place {
            Place::Registry(host, _) => (HostKey::Registry(host.clone()), host.to_string()),
            Place::Layout(path) => (HostKey::Layout(path.clone()), place.to_string()),
        };
        let hosts = &mut self.hosts;
        let is_registry = matches!(key, HostKey::Registry(_));
        let host = *self.host_ids.entry(key).or_insert_with(|| {
            hosts.push(HostRow {
                name,
                mounts: is_registry,
                late: false,
            })
        });
        let id = self.places.push(PlaceRow {
            place: place.clone(),
            host,
            tags: Tags::Unknown,
            waiting: Vec::new(),
        });
        self.place_ids.insert(place.clone(), id);
        id
    }

    /// The host that a task's requests and failures count for.
    pub(super) fn host_of(&self, task: TaskId) -> HostId {
        let place = match &self.tasks[task].kind {
            Kind::Tags(place) | Kind::Want(_, place) => *place,
            Kind::Ask(image, target) | Kind::Root(image, target) => {
                self.images[*image].target(*target).place
            }
            Kind::Resolve(image) | Kind::Get(image) => self.images[*image].source,
            Kind::Child(child) => child.place,
            Kind::Fetch(child) => self.children[*child].source,
            Kind::Copy(blob) => self.blobs[*blob].source(),
        };
        self.places[place].host
    }

    /// What the schedule must know of `task`; `None` where it is not ready.
    pub(super) fn readiness(&self, task: TaskId) -> Option<Readiness> {
        let row = &self.tasks[task];
        if let Kind::Copy(blob) = row.kind {
            return self.copy_readiness(blob);
        }
        if !matches!(row.state, State::Ready) {
            return None;
        }
        let host = self.host_of(task);
        let (rank, source, targets) = match &row.kind {
            Kind::Root(..) => (0, None, vec![host]),
            Kind::Child(child) => (if child.is_lacking { 0 } else { 2 }, None, vec![host]),
            Kind::Get(_) | Kind::Fetch(_) => (1, Some(host), Vec::new()),
            Kind::Resolve(_) => (2, Some(host), Vec::new()),
            Kind::Ask(..) => (2, None, vec![host]),
            // Nothing of a repository can begin before its tags are known.
            Kind::Tags(_) => (0, Some(host), Vec::new()),
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
        })
    }

    /// Marks a ready task as running and gives its job. `reply` makes the obligation to answer; `is_open` tells which
    /// target hosts a copy may go to now.
    pub(super) fn start(
        &mut self,
        task: TaskId,
        reply: &dyn Fn(TaskId, HostId) -> Reply,
        is_open: &dyn Fn(HostId) -> bool,
    ) -> Option<Job> {
        let kind = self.tasks[task].kind.clone();
        if let Kind::Copy(blob) = kind {
            return self.start_copy(task, blob, reply, is_open);
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
            Kind::Ask(image, target) => {
                let target = self.images[image].target(target);
                Job::Head {
                    reply: reply(task),
                    place: self.places[target.place].place.clone(),
                    reference: Reference::Tag(target.tag.clone()),
                }
            }
            Kind::Resolve(image) => Job::Head {
                reply: reply(task),
                place: self.places[self.images[image].source].place.clone(),
                reference: self.images[image].reference.clone(),
            },
            Kind::Get(image) => Job::Fetch {
                reply: reply(task),
                place: self.places[self.images[image].source].place.clone(),
                reference: self.images[image].get_reference(),
                expected: None,
            },
            Kind::Root(image, target) => self.start_root(image, target, reply(task))?,
            Kind::Child(at) => {
                let place = self.places[at.place].place.clone();
                let child = &self.children[at.child];
                let reference = Reference::Digest(child.descriptor.digest.clone());
                if at.is_lacking {
                    let manifest = child.manifest()?;
                    Job::Put {
                        reply: reply(task),
                        place,
                        reference,
                        manifest,
                        record: None,
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
                    reference: Reference::Digest(child.descriptor.digest.clone()),
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
                    Some(tags) => Tags::Listed(tags.iter().cloned().collect(), tags),
                    None => Tags::Missing,
                };
                self.tags_known(place, tags);
            }
            (Kind::Ask(image, target), Done::Presence(presence)) => {
                self.finish(task);
                self.asked(image, target, presence);
            }
            (Kind::Resolve(image), Done::Presence(presence)) => {
                self.finish(task);
                self.resolved(image, presence);
            }
            (Kind::Get(image), Done::Manifest(manifest)) => {
                self.finish(task);
                self.got(image, manifest);
            }
            (Kind::Root(image, target), Done::Put) => {
                self.finish(task);
                self.root_put(task, image, target);
            }
            (Kind::Child(at), Done::Presence(presence)) => match presence {
                Presence::Present(_) => self.child_done(task, at),
                Presence::Absent | Presence::Unknown => self.need_child(task),
            },
            (Kind::Child(at), Done::Put) => self.child_done(task, at),
            (Kind::Fetch(child), Done::Manifest(manifest)) => {
                self.finish(task);
                self.child_read(child, ChildState::Held(manifest));
            }
            (Kind::Want(blob, place), done) => self.want_answered(task, blob, place, &done),
            (Kind::Copy(_), Done::Read { bytes }) => self.totals.pulled += bytes,
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
            Kind::Copy(blob) => return self.source_failed(*blob, error),
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
        let kind = self.tasks[task].kind.clone();
        let failure = Failure {
            operation: self.operation(&kind),
            not_found: error.class == Class::NotFound
                && matches!(kind, Kind::Resolve(_) | Kind::Get(_) | Kind::Fetch(_)),
            is_final: error.class.is_final(),
            cause: error.to_string(),
        };
        self.fail(task, &Arc::new(failure));
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
            match self.tasks[task].kind.clone() {
                Kind::Tags(place) => self.tags_known(place, Tags::Failed(failure.clone())),
                Kind::Ask(image, target) => self.ask_failed(image, target, failure),
                Kind::Root(image, target) => self.root_failed(task, image, target, failure),
                Kind::Resolve(image) | Kind::Get(image) => {
                    self.source_of_image_failed(image, failure);
                }
                Kind::Child(at) if at.is_lacking => self.release_child(at.child),
                Kind::Fetch(child) => failing.append(&mut self.child_unread(child)),
                Kind::Want(..) => self.want_stopped(task, &before),
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
        self.delay(task);
        self.again(task);
    }

    pub(super) fn operation_of(&self, task: TaskId) -> String {
        self.operation(&self.tasks[task].kind)
    }

    /// Notes that a task waits for a timer.
    pub(super) fn delay(&mut self, task: TaskId) {
        let before = std::mem::replace(&mut self.tasks[task].state, State::Delayed);
        match self.tasks[task].kind {
            Kind::Copy(blob) => self.copy_delayed(blob),
            Kind::Want(..) => self.want_stopped(task, &before),
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

    fn finish(&mut self, task: TaskId) {
        self.tasks[task].state = State::Done;
        self.changed.push(task);
    }

    /// Asks for the tags of a repository, once a pass.
    pub(super) fn list(&mut self, place: PlaceId, order: u32) {
        if matches!(self.places[place].tags, Tags::Unknown) {
            self.places[place].tags = Tags::Asked;
            self.add_task(Kind::Tags(place), order, State::Ready);
        }
    }

    /// Asks for the tags of a repository and has the image looked at again when they are known.
    pub(super) fn list_for(&mut self, place: PlaceId, image: ImageId) {
        let order = self.images[image].order;
        self.list(place, order);
        if !self.places[place].waiting.contains(&image) {
            self.places[place].waiting.push(image);
        }
    }

    fn tags_known(&mut self, place: PlaceId, tags: Tags) {
        self.places[place].tags = tags;
        self.news.push(News::Listed(place));
        for image in std::mem::take(&mut self.places[place].waiting) {
            self.consider(image);
        }
    }

    /// Whether nothing is in a repository: it is new, or a first copy of it was cut off.
    pub(super) fn is_empty(&self, place: PlaceId) -> bool {
        match &self.places[place].tags {
            Tags::Missing => true,
            Tags::Listed(_, tags) => tags.is_empty(),
            Tags::Unknown | Tags::Asked | Tags::Failed(_) => false,
        }
    }

    /// Has `parent` wait for all parts of its manifest at `place`, and makes it ready when they are there already.
    pub(super) fn require(
        &mut self,
        parent: TaskId,
        place: PlaceId,
        source: PlaceId,
        manifest: &Manifest,
        depth: u8,
    ) {
        let mut failure = None;
        let order = self.tasks[parent].order;
        if depth >= MAX_DEPTH && !manifest.children().is_empty() {
            failure = Some(Arc::new(Failure {
                operation: format!("copy the index {}", manifest.digest()),
                cause: format!("indexes are nested more than {MAX_DEPTH} deep"),
                is_final: true,
                not_found: false,
            }));
        }
        let children = if failure.is_some() {
            &[]
        } else {
            manifest.children()
        };
        for child in children {
            let key = (place, child.digest.clone());
            let row = self.child(child, source);
            if !self.parts.contains_key(&key) {
                let at = ChildAt {
                    child: row,
                    place,
                    source,
                    depth: depth + 1,
                    is_lacking: false,
                };
                let task = self.add_task(Kind::Child(at), order, State::Waiting);
                self.parts.insert(key.clone(), Part::Open(task));
                if self.is_empty(place) || self.doubts.get(&key) == Some(&Doubt::Send) {
                    self.need_child(task);
                } else {
                    self.set_ready(task);
                }
            }
            self.depend(parent, &key, &mut failure);
        }
        for blob in manifest.blobs() {
            self.depend_on_blob(parent, place, source, blob, &mut failure);
        }
        if let Some(failure) = failure {
            self.fail(parent, &failure);
        } else if self.tasks[parent].pending == 0 {
            self.set_ready(parent);
        } else {
            self.tasks[parent].state = State::Waiting;
        }
    }

    fn depend_on_blob(
        &mut self,
        parent: TaskId,
        place: PlaceId,
        source: PlaceId,
        descriptor: &Descriptor,
        failure: &mut Option<Arc<Failure>>,
    ) {
        let order = self.tasks[parent].order;
        let key = (place, descriptor.digest.clone());
        if self.parts.contains_key(&key) {
            self.add_source(&descriptor.digest, source);
        } else {
            let task = self.want(descriptor, place, source, order);
            self.parts.insert(key.clone(), Part::Open(task));
        }
        self.depend(parent, &key, failure);
    }

    fn depend(
        &mut self,
        parent: TaskId,
        part: &(PlaceId, Digest),
        failure: &mut Option<Arc<Failure>>,
    ) {
        if let Some(&Part::Open(task)) = self.parts.get(part) {
            if let State::Failed(cause) = &self.tasks[task].state {
                failure.get_or_insert_with(|| cause.clone());
            } else {
                self.wait_for(parent, task);
            }
        }
    }

    pub(super) fn wait_for(&mut self, parent: TaskId, part: TaskId) {
        self.tasks[part].dependents.push(parent);
        self.tasks[parent].pending += 1;
    }

    fn child_done(&mut self, task: TaskId, at: ChildAt) {
        if at.is_lacking {
            self.release_child(at.child);
        }
        let digest = self.children[at.child].descriptor.digest.clone();
        self.doubts.remove(&(at.place, digest.clone()));
        self.part_done(task, at.place, &digest);
    }

    /// A blob or child has arrived at its place.
    pub(super) fn part_done(&mut self, task: TaskId, place: PlaceId, digest: &Digest) {
        self.finish(task);
        self.parts.insert((place, digest.clone()), Part::Done);
        for dependent in std::mem::take(&mut self.tasks[task].dependents) {
            let row = &mut self.tasks[dependent];
            row.pending = row.pending.saturating_sub(1);
            if row.pending == 0 && matches!(row.state, State::Waiting) {
                match row.kind {
                    // What an index called a child was a blob: there is nothing to put.
                    Kind::Child(at) if self.children[at.child].is_blob() => {
                        self.child_done(dependent, at);
                    }
                    _ => self.set_ready(dependent),
                }
            }
        }
    }

    /// A target that refuses a manifest may lack parts of it, whatever it says (decisions D6): what this run believed
    /// of them is dropped and they are brought again, in two rounds at most. Gives false where that is pointless.
    pub(super) fn heal(&mut self, task: TaskId, error: &StoreError) -> bool {
        let Some(missing) = &error.missing_parts else {
            return false;
        };
        let (place, source, depth, manifest) = match self.tasks[task].kind.clone() {
            Kind::Root(image, target) => {
                let row = &self.images[image];
                let Some(manifest) = row.manifest() else {
                    return false;
                };
                (row.target(target).place, row.source, 0, manifest)
            }
            Kind::Child(at) => {
                let Some(manifest) = self.children[at.child].manifest() else {
                    return false;
                };
                (at.place, at.source, at.depth, manifest)
            }
            _ => return false,
        };
        // The first look is free of charge for every refusal; sending blobs again that the target says it has needs
        // a refusal that names them. Foreign layers that were left out are the cause themselves (protocol.md M9).
        let rounds = self.tasks[task].rounds;
        if rounds >= 2 || (rounds == 1 && missing.is_empty()) || manifest.has_foreign() {
            return false;
        }
        self.tasks[task].rounds += 1;
        let doubt = if rounds == 0 { Doubt::Ask } else { Doubt::Send };
        let named = |digest: &Digest| missing.is_empty() || missing.contains(digest);
        log::info!(
            "{} refused {}: looking for its parts again",
            self.places[place].place,
            manifest.digest()
        );
        for part in manifest
            .children()
            .iter()
            .chain(manifest.blobs())
            .filter(|part| named(&part.digest))
        {
            self.parts.remove(&(place, part.digest.clone()));
            self.doubt(&part.digest, place, doubt);
        }
        self.require(task, place, source, &manifest, depth);
        true
    }

    /// Forgets the failures of the last pass, but for those that are final.
    pub(super) fn forget_failures(&mut self) {
        let tasks = &self.tasks;
        self.parts.retain(|_, part| match part {
            Part::Done => true,
            Part::Open(task) => match &tasks[*task].state {
                State::Failed(failure) => failure.is_final,
                _ => true,
            },
        });
        for place in self.places.iter_mut() {
            if matches!(&place.tags, Tags::Failed(failure) if !failure.is_final) {
                place.tags = Tags::Unknown;
            }
        }
        self.forget_source_failures();
    }

    pub(super) fn operation(&self, kind: &Kind) -> String {
        match kind {
            Kind::Tags(place) => format!("list the tags of {}", self.places[*place].place),
            Kind::Ask(image, target) => {
                let target = self.images[*image].target(*target);
                format!(
                    "ask {} for tag {}",
                    self.places[target.place].place, target.tag
                )
            }
            Kind::Resolve(image) | Kind::Get(image) => {
                format!("read the manifest of {}", self.image_source(*image))
            }
            Kind::Root(image, target) => {
                let target = self.images[*image].target(*target);
                format!(
                    "put the manifest {}:{}",
                    self.places[target.place].place, target.tag
                )
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
                    self.blobs[*blob].descriptor.digest, self.places[*place].place
                )
            }
            Kind::Copy(blob) => {
                let blob = &self.blobs[*blob];
                format!(
                    "read blob {} of {}",
                    blob.descriptor.digest,
                    self.places[blob.source()].place
                )
            }
        }
    }
}

/// Indexes may be nested this deep (decisions D8).
const MAX_DEPTH: u8 = 16;
