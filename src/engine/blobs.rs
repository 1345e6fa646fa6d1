//! Blobs that are wanted (architecture.md 3.5): one entry a digest with the repositories that hold it, and one want for
//! each place that lacks it. A copy serves every want that is ready, at most one a host: the other places of a host wait
//! for that one without a worker and then mount. Not here: the transfer (`stream.rs`), and where a blob is that nobody
//! wants any more (`holders.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::arena::Id;
use super::graph::Graph;
use super::job::{Done, Job, Reply, Want};
use super::places::{HostId, HostRow, PlaceId};
use super::task::{Failure, Key, Kind, Readiness, State, TaskId};
use crate::oci::{Descriptor, Digest, Repository};
use crate::store::{Found, Hint, Place, Prior, StoreError};

pub(super) type BlobId = Id<Blob>;

pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Where it is read from; failed only if all others have, too.
    source: BlobSource,
    /// Other repositories that hold it by the word of a manifest.
    others: Vec<BlobSource>,
    /// One for each host where it is wanted.
    queues: Vec<Queue>,
    copy: TaskId,
    /// Jobs of the copy that run.
    running: u32,
    /// Wants that are not served, those that failed in this pass among them.
    open: u32,
    hold: Hold,
    /// Of a dry run: the rule that it would be sent for, where that was found out last.
    pub(super) sent_for: usize,
}

struct BlobSource {
    place: PlaceId,
    failure: Option<Arc<Failure>>,
}

/// Why no copy of a blob may start.
enum Hold {
    No,
    /// A source broke off, and what that means is not decided yet.
    Verdict,
    Timer,
}

/// The wants of one host, and its repositories that are known to have the blob.
struct Queue {
    host: HostId,
    idle: VecDeque<TaskId>,
    running: Vec<TaskId>,
    /// The others of its stream went on without it, and that is counted.
    is_detached: bool,
    holders: Vec<Holder>,
}

struct Holder {
    place: PlaceId,
    /// Seen in this run, and not just recorded.
    is_certain: bool,
}

/// How far a target's word about a blob is still trusted, after it refused a manifest for lack of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Ask once more.
    Ask,
    /// Send it whatever the target says.
    Send,
}

impl Blob {
    /// What is to be copied. What it is for does not matter any more.
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: "application/octet-stream".into(),
            digest: self.digest.clone(),
            size: self.size,
        }
    }

    pub(super) fn source(&self) -> PlaceId {
        self.source.place
    }

    pub(super) fn copy(&self) -> TaskId {
        self.copy
    }

    /// Has a source take the place of one that failed, as long as there is another.
    fn choose_source(&mut self) {
        if self.source.failure.is_some()
            && let Some(other) = self.others.iter_mut().find(|other| other.failure.is_none())
        {
            std::mem::swap(&mut self.source, other);
        }
    }

    fn queue(&mut self, host: HostId) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| queue.host == host)
    }

    /// Whether nobody wants it, and nothing was found out that the next who does should know.
    fn is_over(&self) -> bool {
        let mut sources = std::iter::once(&self.source).chain(&self.others);
        self.running == 0
            && self.open == 0
            && matches!(self.hold, Hold::No)
            && sources.all(|source| source.failure.is_none())
    }
}

impl Queue {
    /// Another repository of the host that has the blob.
    fn holder(&self, except: PlaceId) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.place != except)
    }

    fn add_holder(&mut self, place: PlaceId, is_certain: bool) {
        let certain = self.holders.iter().filter(|holder| holder.is_certain);
        let is_enough = certain.count() >= 2;
        match self.holders.iter_mut().find(|holder| holder.place == place) {
            Some(holder) => holder.is_certain |= is_certain,
            // One to offer to all, and another to offer to that one.
            None if is_enough => {}
            // What is certain comes first, since the first is offered.
            None if is_certain => self.holders.insert(0, Holder { place, is_certain }),
            None => self.holders.push(Holder { place, is_certain }),
        }
    }
}

impl Graph<'_> {
    /// A new want of a blob at a place.
    pub(super) fn want(
        &mut self,
        descriptor: &Descriptor,
        place: PlaceId,
        source: PlaceId,
        order: u32,
    ) -> TaskId {
        let blob = match self.blob_ids.get(&descriptor.digest) {
            Some(&blob) => blob,
            None => self.add_blob(descriptor, source, order),
        };
        let task = self.add_task(Kind::Want(blob, place), order, State::Waiting);
        self.add_source(&descriptor.digest, source);
        if self.blobs[blob].size != descriptor.size {
            let failure = Failure::for_good(
                format!("copy blob {}", descriptor.digest),
                format!(
                    "it is named with two sizes, {} and {}",
                    self.blobs[blob].size, descriptor.size
                ),
            );
            self.tasks[task].state = State::Failed(Arc::new(failure));
            return task;
        }
        if let Some(failure) = self.blobs[blob].source.failure.clone() {
            self.tasks[task].state = State::Failed(failure);
            return task;
        }
        let host = self.places[place].host;
        if self.blobs[blob].queue(host).is_none() {
            let queue = self.new_queue(blob, host);
            self.blobs[blob].queues.push(queue);
        }
        if let Some(queue) = self.blobs[blob].queue(host) {
            queue.idle.push_back(task);
        }
        self.blobs[blob].open += 1;
        self.counts.left += descriptor.size;
        self.changed.push(self.blobs[blob].copy);
        task
    }

    fn add_blob(&mut self, descriptor: &Descriptor, source: PlaceId, order: u32) -> BlobId {
        let copy = self.add_task(Kind::Copy(self.blobs.next_id()), order, State::Waiting);
        let blob = self.blobs.push(Blob {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            source: BlobSource {
                place: source,
                failure: None,
            },
            others: Vec::new(),
            queues: Vec::new(),
            copy,
            running: 0,
            open: 0,
            hold: Hold::No,
            sent_for: 0,
        });
        self.blob_ids.insert(descriptor.digest.clone(), blob);
        blob
    }

    /// A host where the blob is wanted: who has it there by this run's word, or else by that of the records?
    fn new_queue(&mut self, blob: BlobId, host: HostId) -> Queue {
        let mut queue = Queue {
            host,
            idle: VecDeque::new(),
            running: Vec::new(),
            is_detached: false,
            holders: Vec::new(),
        };
        let row = &self.blobs[blob];
        let sources = std::iter::once(&row.source).chain(&row.others);
        let holders = sources.map(|source| source.place);
        let holders = holders.chain(self.holders.of(&row.digest));
        for place in holders
            .filter(|place| self.places[*place].host == host)
            .take(2)
        {
            queue.add_holder(place, true);
        }
        if queue.holders.is_empty() {
            for place in self.hints.holders(&self.blobs[blob].digest) {
                let place = self.place(&place);
                if self.places[place].host == host {
                    queue.add_holder(place, false);
                }
            }
        }
        queue
    }

    /// One more repository that holds a blob.
    pub(super) fn add_source(&mut self, digest: &Digest, place: PlaceId) {
        let Some(&blob) = self.blob_ids.get(digest) else {
            return;
        };
        let host = self.places[place].host;
        let row = &mut self.blobs[blob];
        if row.source.place != place && row.others.iter().all(|other| other.place != place) {
            row.others.push(BlobSource {
                place,
                failure: None,
            });
            row.choose_source();
            if let Some(queue) = row.queue(host) {
                queue.add_holder(place, true);
            }
            self.changed.push(self.blobs[blob].copy);
        }
    }

    /// How many of a queue's wants may go now: one that mounts, one that leads, or all where nothing can be mounted.
    fn ready_wants(&self, queue: &Queue) -> usize {
        let Some(&front) = queue.idle.front() else {
            return 0;
        };
        let Kind::Want(_, place) = self.tasks[front].kind else {
            return 0;
        };
        if self.hosts[queue.host].mounts {
            usize::from(queue.holder(place).is_some() || queue.running.is_empty())
        } else {
            queue.idle.len()
        }
    }

    pub(super) fn copy_readiness(&self, blob: BlobId) -> Option<Readiness> {
        let row = &self.blobs[blob];
        let source = self.places[row.source.place].host;
        if !matches!(row.hold, Hold::No) {
            return None;
        }
        let ready = || {
            row.queues
                .iter()
                .filter(|queue| self.ready_wants(queue) > 0)
        };
        let order = ready()
            .filter_map(|queue| queue.idle.front())
            .map(|&want| self.tasks[want].order)
            .min()?;
        let mut hosts: Vec<HostId> = ready().map(|queue| queue.host).collect();
        hosts.sort_unstable();
        let (alone, targets) = hosts
            .into_iter()
            .partition(|&host| self.hosts[host].goes_alone());
        let key = Key {
            order,
            rank: 3,
            smallness: u64::MAX - row.size,
        };
        Some(Readiness {
            key,
            source: Some(source),
            targets,
            alone,
        })
    }

    /// The next job of a copy: what is ready at the hosts that are open now, as soon as all of these have room.
    pub(super) fn start_copy(
        &mut self,
        copy: TaskId,
        blob: BlobId,
        reply: &dyn Fn(TaskId, HostId) -> Reply,
        room: &dyn Fn(HostId) -> Option<usize>,
    ) -> Option<Job> {
        let source = self.blobs[blob].source.place;
        let reads_at = self.places[source].host;
        let ready = self.blobs[blob].queues.iter().filter_map(|queue| {
            let room = room(queue.host)?;
            // The read takes its part of the host's room, but for the last.
            let room = match room {
                2.. if queue.host == reads_at => room - 1,
                room => room,
            };
            let wants = self.ready_wants(queue);
            (wants > 0).then_some((queue.host, wants.min(room)))
        });
        let (alone, mut counts): (Vec<_>, Vec<_>) =
            ready.partition(|(host, _)| self.hosts[*host].goes_alone());
        if counts.is_empty() || counts.iter().any(|(_, count)| *count == 0) {
            counts = alone
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .take(1)
                .collect();
        }
        let mut taken = Vec::new();
        for (host, count) in counts {
            if let Some(queue) = self.blobs[blob].queue(host) {
                let begin = queue.running.len();
                queue.running.extend(queue.idle.drain(..count));
                taken.extend(queue.running.iter().skip(begin).copied());
                queue.is_detached = false;
            }
        }
        let mut wants = Vec::new();
        for task in taken {
            let Kind::Want(_, place) = self.tasks[task].kind else {
                continue;
            };
            self.tasks[task].state = State::Running;
            let hint = self.hint(blob, place);
            wants.push(Want {
                reply: reply(task, self.places[place].host),
                place: self.places[place].place.clone(),
                hint,
            });
        }
        self.changed.push(copy);
        if wants.is_empty() {
            return None;
        }
        self.blobs[blob].running += 1;
        Some(Job::Copy {
            reply: reply(copy, self.places[source].host),
            source: self.places[source].place.clone(),
            descriptor: self.blobs[blob].descriptor(),
            wants,
        })
    }

    fn hint(&mut self, blob: BlobId, place: PlaceId) -> Hint {
        let digest = self.blobs[blob].digest.clone();
        let digest = &digest;
        // Offered once: an upload that could not be gone on with is not tried a second time.
        let session = self
            .hints
            .upload(&self.places[place].place, digest)
            .cloned();
        let session = session.filter(|_| self.offered.insert((place, digest.clone())));
        if let Some(doubt) = self.doubts.get(&(place, digest.clone())) {
            return Hint {
                mount_from: None,
                prior: match doubt {
                    Doubt::Send => Prior::Distrusted,
                    Doubt::Ask => Prior::Recorded,
                },
                session: None,
            };
        }
        let row = &self.places[place];
        let prior = if self.hints.has_blob(&row.place, digest) {
            Prior::Recorded
        } else if self.is_empty(place) {
            Prior::Empty
        } else {
            Prior::Unknown
        };
        let holder = self.blobs[blob]
            .queues
            .iter()
            .find(|queue| queue.host == row.host)
            .and_then(|q| q.holder(place));
        let mount_from = holder
            .filter(|_| self.hosts[row.host].mounts)
            .and_then(|holder| self.repository(holder.place));
        Hint {
            mount_from,
            prior,
            session,
        }
    }

    fn repository(&self, place: PlaceId) -> Option<Repository> {
        match &self.places[place].place {
            Place::Registry(_, repository) => Some(repository.clone()),
            Place::Layout(_) => None,
        }
    }

    /// A copy's source did its part.
    pub(super) fn blob_read(&mut self, blob: BlobId) {
        self.copy_answered(blob);
        self.close_blob(blob);
    }

    /// Gives away the row of a blob that nobody wants any more, and the task of its copy.
    fn close_blob(&mut self, blob: BlobId) {
        if self.blobs[blob].is_over() {
            let row = &mut self.blobs[blob];
            row.queues.clear();
            let (copy, digest) = (row.copy, row.digest.clone());
            self.blob_ids.remove(&digest);
            self.blobs.free(blob);
            self.finish(copy);
        }
    }

    /// A copy's source has answered, well or not.
    pub(super) fn copy_answered(&mut self, blob: BlobId) {
        let row = &mut self.blobs[blob];
        row.running = row.running.saturating_sub(1);
    }

    pub(super) fn want_answered(
        &mut self,
        task: TaskId,
        blob: BlobId,
        place: PlaceId,
        done: &Done,
    ) {
        let host = self.places[place].host;
        let copy = self.blobs[blob].copy;
        let Some(queue) = self.blobs[blob].queue(host) else {
            return;
        };
        queue.running.retain(|&running| running != task);
        self.changed.push(copy);
        match done {
            Done::BlobFound(Found::Existing) => self.totals.existing += 1,
            Done::BlobFound(Found::Mounted) => self.totals.mounted += 1,
            Done::BlobSent { detached, .. } => {
                // The first of a stream to end tells of all: who is slow would be known too late from its own end.
                for &slow in detached {
                    self.detached(blob, slow);
                }
                self.totals.sent += 1;
                self.totals.pushed += self.blobs[blob].size;
            }
            _ => {
                // The source broke off. Its own answer, which says what that means, is on its way.
                self.tasks[task].state = State::Waiting;
                queue.idle.push_front(task);
                self.blobs[blob].hold = Hold::Verdict;
                return;
            }
        }
        let Some(queue) = self.blobs[blob].queue(host) else {
            return;
        };
        let mut mounts = true;
        if matches!(done, Done::BlobSent { mount_denied, .. } if *mount_denied)
            && let Some(at) = queue
                .holders
                .iter()
                .position(|holder| holder.place != place)
        {
            // If the blob was there in this very run, this host does not mount.
            mounts = !queue.holders.remove(at).is_certain;
        }
        queue.add_holder(place, true);
        if !mounts {
            self.hosts[host].mounts = false;
            self.look_again(host);
        }
        self.preview(task, blob, done);
        let row = &mut self.blobs[blob];
        row.open -= 1;
        self.counts.left -= row.size;
        let digest = row.digest.clone();
        self.doubts.remove(&(place, digest.clone()));
        self.part_done(task, place, &digest);
        self.close_blob(blob);
    }

    /// The wants of a blob that run while one of it is served.
    pub(super) fn others_of(&self, task: TaskId) -> Vec<TaskId> {
        let Kind::Want(blob, _) = self.tasks[task].kind else {
            return Vec::new();
        };
        let queues = self.blobs[blob].queues.iter();
        let running = queues.flat_map(|queue| queue.running.iter().copied());
        running.filter(|&want| want != task).collect()
    }

    /// A want runs for too long after others of its stream were served: no other blob waits for its host meanwhile.
    pub(super) fn want_overdue(&mut self, task: TaskId) {
        if let Kind::Want(blob, place) = self.tasks[task].kind {
            let host = self.places[place].host;
            self.detached(blob, host);
            self.change_host(host, |host| host.overdue += 1);
        }
    }

    /// Such a want has come to its end.
    pub(super) fn caught_up(&mut self, host: HostId) {
        self.change_host(host, |host| host.overdue -= 1);
    }

    /// A host was too slow for the others of a stream, which is counted once a stream.
    fn detached(&mut self, blob: BlobId, host: HostId) {
        if let Some(queue) = self.blobs[blob].queue(host)
            && !std::mem::replace(&mut queue.is_detached, true)
        {
            let name = &self.hosts[host].name;
            log::info!("{name} holds up the other targets of a blob: they go on without it");
            self.change_host(host, |host| host.detached += 1);
        }
    }

    /// Changes what tells whether a host gets its blobs alone, and has them looked at where that has changed.
    fn change_host(&mut self, host: HostId, change: impl Fn(&mut HostRow)) {
        let went_alone = self.hosts[host].goes_alone();
        change(&mut self.hosts[host]);
        if went_alone != self.hosts[host].goes_alone() {
            self.look_again(host);
        }
    }

    /// What is ready of each blob that is wanted at a host may have changed.
    fn look_again(&mut self, host: HostId) {
        for blob in self.blobs.iter_mut() {
            if blob.queues.iter().any(|queue| queue.host == host) {
                self.changed.push(blob.copy);
            }
        }
    }

    /// A want of a job is given up for this pass, or waits for a timer: the next place of its host leads.
    pub(super) fn want_stopped(&mut self, task: TaskId, before: &State) {
        let Kind::Want(blob, place) = self.tasks[task].kind else {
            return;
        };
        let host = self.places[place].host;
        self.changed.push(self.blobs[blob].copy);
        if let Some(queue) = self.blobs[blob].queue(host) {
            if matches!(before, State::Running) {
                queue.running.retain(|&running| running != task);
            } else {
                queue.idle.retain(|&idle| idle != task);
            }
        }
    }

    pub(super) fn want_again(&mut self, task: TaskId) {
        let Kind::Want(blob, place) = self.tasks[task].kind else {
            return;
        };
        self.tasks[task].state = State::Waiting;
        let host = self.places[place].host;
        self.changed.push(self.blobs[blob].copy);
        if let Some(queue) = self.blobs[blob].queue(host) {
            queue.idle.push_front(task);
        }
    }

    pub(super) fn copy_delayed(&mut self, blob: BlobId) {
        self.blobs[blob].hold = Hold::Timer;
        self.changed.push(self.blobs[blob].copy);
    }

    pub(super) fn copy_again(&mut self, blob: BlobId) {
        let row = &mut self.blobs[blob];
        row.hold = Hold::No;
        self.tasks[row.copy].state = State::Waiting;
        self.changed.push(row.copy);
    }

    /// The source in use is given up for this pass. The wants go on from another, or fail with it.
    pub(super) fn source_failed(&mut self, blob: BlobId, error: &StoreError) {
        let failure = Arc::new(self.failure(&Kind::Copy(blob), error));
        self.copy_again(blob);
        let row = &mut self.blobs[blob];
        row.source.failure = Some(failure.clone());
        row.choose_source();
        // What fails with one want may end others, or find another source.
        while let row = &self.blobs[blob]
            && row.source.failure.is_some()
            && let Some(&want) = row.queues.iter().find_map(|queue| queue.idle.front())
        {
            self.fail(want, &failure);
        }
    }

    /// A copy cannot go on because a host that it needs is down: its source, or some of its targets.
    pub(super) fn copy_unsent(
        &mut self,
        blob: BlobId,
        is_down: &dyn Fn(HostId) -> bool,
        error: &StoreError,
    ) {
        if is_down(self.places[self.blobs[blob].source.place].host) {
            return self.source_failed(blob, error);
        }
        let queues = self.blobs[blob]
            .queues
            .iter()
            .filter(|queue| is_down(queue.host));
        let lost: Vec<TaskId> = queues
            .flat_map(|queue| queue.idle.iter().copied())
            .collect();
        for want in lost {
            self.fail_with(want, error);
        }
    }

    /// A new pass: sources that failed are tried again, but for those that failed for good.
    pub(super) fn forget_source_failures(&mut self) {
        for blob in self.blobs.iter_mut() {
            blob.hold = Hold::No;
            blob.open = 0;
            for source in std::iter::once(&mut blob.source).chain(&mut blob.others) {
                source.failure = source.failure.take().filter(|failure| failure.is_final);
            }
            blob.choose_source();
        }
    }

    /// A target refused a manifest for lack of this blob: what was believed of the repository is dropped.
    pub(super) fn doubt(&mut self, digest: &Digest, place: PlaceId, doubt: Doubt) {
        self.doubts.insert((place, digest.clone()), doubt);
        let host = self.places[place].host;
        if let Some(&blob) = self.blob_ids.get(digest)
            && let Some(queue) = self.blobs[blob].queue(host)
        {
            queue.holders.retain(|holder| holder.place != place);
            self.changed.push(self.blobs[blob].copy);
        }
    }
}

/// Doubts by place and blob (or child).
pub(super) type Doubts = HashMap<(PlaceId, Digest), Doubt>;
