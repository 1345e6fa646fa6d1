//! The workers: each takes a job, does it with blocking calls, answers, and takes the next. Not here: state between
//! jobs, waiting for other workers' jobs, and trying again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime};

use crossbeam_channel::Receiver;

use super::beside::OwnTags;
use super::dates::Dated;
use super::filter::{MAX_CONFIG, filter, read_config};
use super::gauge::Gauge;
use super::job::{Beside, Done, Job, Reply, Want};
use super::marks::{MarkAfter, Marks};
use super::origin::Snapshots;
use super::parts::MAX_DEPTH;
use super::places::HostId;
use super::stream::{Patience, Reader, Stream};
use crate::oci::created::{self, Clue};
use crate::oci::{Descriptor, Manifest, Reference};
use crate::records::{Hints, Journal, Record};
use crate::store::{
    Begin, Class, Found, Place, Presence, SendError, Session, Source, StoreError, Stores, Target,
    Upload,
};

/// What all workers share.
pub(super) struct Worker<'a> {
    pub(super) stores: &'a dyn Stores,
    pub(super) hints: &'a Hints,
    pub(super) journal: &'a Journal,
    pub(super) gauge: &'a Gauge,
    /// Nothing is written: what would be sent or put is answered as if it were.
    pub(super) is_dry: bool,
    pub(super) own: OwnTags,
    pub(super) patience: Patience,
    pub(super) mark_after: MarkAfter,
}

impl Worker<'_> {
    /// Works until the queue is closed.
    pub(super) fn run(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            // The job's replies are dropped by the unwinding and answer for it; the thread stays.
            if catch_unwind(AssertUnwindSafe(|| self.execute(job))).is_err() {
                log::error!("a worker panicked");
            }
        }
    }

    fn execute(&self, job: Job) {
        match job {
            Job::Tags { reply, place } => {
                reply.send(self.stores.open(&place).tags().map(Done::Tags));
            }
            Job::Catalog { reply, place } => {
                let repositories = self.stores.open(&place).repositories();
                reply.send(repositories.map(Done::Repositories));
            }
            Job::Head {
                reply,
                place,
                reference,
            } => {
                reply.send(
                    self.stores
                        .open(&place)
                        .head(&reference)
                        .map(Done::Presence),
                );
            }
            Job::IsListed {
                reply,
                place,
                subject,
                referrer,
            } => {
                let presence = self.is_listed(&place, &subject, &referrer);
                reply.send(presence.map(Done::Presence));
            }
            Job::Referrers { reply, search } => {
                reply.send(self.find(&search).map(Done::Referrers));
            }
            Job::Date {
                reply,
                place,
                reference,
            } => {
                reply.send(self.date(&place, &reference).map(Done::Dated));
            }
            Job::Fetch {
                reply,
                place,
                reference,
                expected,
            } => {
                reply.send(self.fetch(&place, &reference, expected.as_ref()));
            }
            Job::Filter {
                reply,
                place,
                reference,
                wanted,
            } => {
                let source = self.stores.open(&place);
                let root = source.manifest(&reference);
                let left = root.and_then(|root| filter(&*source as &dyn Source, root, &wanted));
                reply.send(left.map(Done::Filtered));
            }
            Job::Copy {
                reply,
                descriptor,
                wants,
                ..
            } if self.is_dry => self.weigh(reply, &descriptor, wants),
            Job::Copy {
                reply,
                source,
                descriptor,
                wants,
            } => self.copy(reply, &source, &descriptor, wants),
            Job::Put {
                reply,
                place,
                reference,
                manifest,
                record,
                beside,
            } => reply.send(self.put(&place, &reference, &manifest, record, &beside)),
        }
    }

    fn fetch(
        &self,
        place: &Place,
        reference: &Reference,
        expected: Option<&Descriptor>,
    ) -> Result<Done, StoreError> {
        let manifest = self.stores.open(place).manifest(reference)?;
        if let Some(expected) = expected {
            check_child(&manifest, expected)?;
        }
        Ok(Done::Manifest(Arc::new(manifest)))
    }

    /// Finds out when an image was made: its digest is asked for, and what that says is read where the records do not
    /// have it.
    fn date(&self, place: &Place, reference: &Reference) -> Result<Option<Dated>, StoreError> {
        let store = self.stores.open(place);
        if let Presence::Present(digest, _) = store.head(reference)?
            && let Some(created) = self.hints.created(&digest)
        {
            return Ok(Some(Dated { digest, created }));
        }
        // Whatever the HEAD said: some registries deny what a GET finds (protocol.md E15).
        let manifest = match store.manifest(reference) {
            Err(error) if error.class == Class::NotFound => return Ok(None),
            manifest => manifest?,
        };
        let digest = manifest.digest().clone();
        let created = read_created(&*store, manifest)?;
        self.journal.append(&Record::created(&digest, created));
        Ok(Some(Dated { digest, created }))
    }

    fn put(
        &self,
        place: &Place,
        reference: &Reference,
        manifest: &Manifest,
        record: Option<Record>,
        beside: &Beside,
    ) -> Result<Done, StoreError> {
        let store = self.stores.open(place);
        if let Beside::Layers(tag) = beside {
            let put = self.put_beside_layers(&*store, place, tag, manifest)?;
            if let (Some(digest), Some(record), false) = (&put, record, self.is_dry) {
                self.journal.append(&record.of(digest));
            }
            return Ok(put.map_or(Done::Kept, |_| Done::Put));
        }
        if self.is_dry {
            return Ok(Done::Put);
        }
        let is_listed = store.put_manifest(reference, manifest)?;
        if let Beside::Entries(subject) = beside
            && !is_listed
        {
            self.list_by_tag(&*store, place, subject, manifest)?;
        }
        if let Some(record) = record {
            self.journal.append(&record);
        }
        Ok(Done::Put)
    }

    /// Finds out what a copy would come to, by questions alone. A repository that is thought to hold the blob is taken
    /// at its word, for asking for the mount would write.
    fn weigh(&self, reply: Reply, descriptor: &Descriptor, wants: Vec<Want>) {
        let mut bytes = 0;
        for Want { reply, place, hint } in wants {
            let result = if hint.mount_from.is_some() {
                Ok(Done::BlobFound(Found::Mounted))
            } else {
                let is_there = self.stores.open(&place).has_blob(descriptor);
                is_there.map(|is_there| {
                    if is_there {
                        return Done::BlobFound(Found::Existing);
                    }
                    bytes = descriptor.size;
                    Done::BlobSent {
                        mount_denied: false,
                        detached: Vec::new(),
                        patience: None,
                    }
                })
            };
            reply.send(result);
        }
        reply.send(Ok(Done::WouldRead { bytes }));
    }

    /// Copies to the first target on this thread and to each other on one of its own, for the time of the copy.
    fn copy(&self, reply: Reply, source: &Place, descriptor: &Descriptor, wants: Vec<Want>) {
        let source = self.stores.open(source);
        let hosts: Vec<HostId> = wants.iter().map(|want| want.reply.host()).collect();
        let stream = Stream::new(
            &*source as &dyn Source,
            descriptor,
            wants.len(),
            self.patience,
            &self.gauge.pulled,
        );
        let slots = wants
            .into_iter()
            .enumerate()
            .map(|(number, want)| Mutex::new(Some((stream.reader(number), want))));
        let slots: Vec<_> = slots.collect();
        let reply = Mutex::new(Some(reply));
        let serve = |slot: &Mutex<Option<(Reader<'_, '_>, Want)>>| {
            if let Some((reader, want)) = slot.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                self.send(descriptor, reader, want, &hosts);
            }
            // The source is free for the others while a slow target finishes.
            if stream.is_over()
                && let Some(reply) = reply.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                reply.send(Ok(Done::Read));
            }
        };
        thread::scope(|scope| {
            let Some((first, others)) = slots.split_first() else {
                return;
            };
            for slot in others {
                let spawned =
                    thread::Builder::new()
                        .name("copy".into())
                        .spawn_scoped(scope, move || {
                            // A panic drops the reply, which answers, and the reader, which leaves the ring.
                            if catch_unwind(AssertUnwindSafe(|| serve(slot))).is_err() {
                                log::error!("a copy panicked");
                            }
                        });
                if let Err(error) = spawned
                    && let Some((reader, want)) =
                        slot.lock().unwrap_or_else(PoisonError::into_inner).take()
                {
                    drop(reader);
                    want.reply
                        .send(Err(StoreError::new(Class::Transient, error)));
                }
            }
            serve(first);
        });
        drop(slots);
        if let Some(reply) = reply.into_inner().unwrap_or_else(PoisonError::into_inner) {
            reply.send(stream.finish().map(|()| Done::Read));
        }
    }

    /// `hosts` are those of all targets of the stream.
    fn send(&self, descriptor: &Descriptor, reader: Reader<'_, '_>, want: Want, hosts: &[HostId]) {
        let Want { reply, place, hint } = want;
        let start = Instant::now();
        let begin = self.stores.open(&place).begin(descriptor, &hint);
        let result = begin.and_then(|begin| match begin {
            Begin::Present(found) => Ok(Done::BlobFound(found)),
            Begin::Upload {
                upload,
                mount_denied,
            } => {
                let session = hint.session.unwrap_or_default();
                let detached = self.upload(upload, reader, &place, descriptor, &session)?;
                Ok(detached.map_or(Done::NotSent, |detached| Done::BlobSent {
                    mount_denied,
                    detached: detached
                        .into_iter()
                        .filter_map(|target| hosts.get(target).copied())
                        .collect(),
                    patience: self.patience.after(start.elapsed()),
                }))
            }
        });
        if let Ok(Done::BlobFound(_) | Done::BlobSent { .. }) = result {
            self.journal.append(&Record::blob(&place, descriptor));
        }
        reply.send(result);
    }

    /// Sends a blob, going on where a broken upload can be gone on with. `None`: the common read of the source failed.
    /// Else tells which targets of the stream were too slow for the others until now.
    fn upload(
        &self,
        mut upload: Box<dyn Upload>,
        reader: Reader<'_, '_>,
        place: &Place,
        descriptor: &Descriptor,
        session: &Session,
    ) -> Result<Option<Vec<usize>>, StoreError> {
        let transfer = self.gauge.begin(place, descriptor);
        // It borrows what lives as long as this call.
        let mut reader: Reader<'_, '_> = reader;
        reader.show(&transfer);
        if upload.offset() > 0 {
            log::info!(
                "{place}: {} goes on at byte {}",
                descriptor.digest,
                upload.offset()
            );
            reader.go_on(
                &Snapshots::restored(descriptor.digest.algorithm(), &session.states),
                upload.offset(),
            );
        }
        let mut resumed_at = None;
        loop {
            if let Some(location) = upload.location() {
                reader.mark(Marks::new(self.mark_after, move |offset, hasher| {
                    let digest = &descriptor.digest;
                    let record = Record::upload(place, digest, &location, offset, hasher);
                    self.journal.append(&record);
                    log::debug!("{place}: {digest} is recorded up to byte {offset}");
                }));
            }
            match upload.send(&mut reader) {
                Ok(()) if reader.is_finished() => break,
                // The store sent less than the blob, or said so before the digest was known to be right.
                Ok(()) => {
                    return Err(StoreError::new(
                        Class::Transient,
                        "the target took less than the whole blob",
                    ));
                }
                Err(SendError::Body) => {
                    reader.mark_now();
                    return reader.take_failure().map_or(Ok(None), Err);
                }
                Err(SendError::Again) => reader.restart(upload.offset()),
                Err(SendError::Target(error)) => {
                    let offset = if error.class == Class::Transient {
                        upload.resume().unwrap_or(None)
                    } else {
                        None
                    };
                    // Once for each mebibyte of progress, or a target that takes nothing would be asked for ever.
                    let has_progress =
                        |offset| resumed_at.is_none_or(|last| offset >= last + RESUME_AFTER);
                    let Some(offset) = offset.filter(|&offset| has_progress(offset)) else {
                        reader.mark_now();
                        return Err(error);
                    };
                    log::info!(
                        "{place}: {} broke off and goes on at byte {offset}: {error}",
                        descriptor.digest
                    );
                    resumed_at = Some(offset);
                    reader.restart(offset);
                }
            }
        }
        let detached = reader.detached();
        // The ring is free for the others while this target finishes.
        drop(reader);
        upload.commit()?;
        Ok(Some(detached))
    }
}

/// When an image was made. Of an index, its first image says it.
fn read_created(
    store: &dyn Target,
    mut manifest: Manifest,
) -> Result<Option<SystemTime>, StoreError> {
    for _ in 0..MAX_DEPTH {
        match created::clue(manifest.bytes()) {
            Clue::Time(time) => return Ok(Some(time)),
            Clue::Child(child) => manifest = store.manifest(&Reference::from(child.digest))?,
            Clue::Config(config) if config.size <= MAX_CONFIG => {
                let config = read_config(store as &dyn Source, &config)?;
                return Ok(created::of_config(&config));
            }
            Clue::Config(_) | Clue::Nothing => return Ok(None),
        }
    }
    Ok(None)
}

/// A child must have the size and, where both say what they are, the type that its index gives (protocol.md M11).
pub(super) fn check_child(manifest: &Manifest, expected: &Descriptor) -> Result<(), StoreError> {
    if manifest.bytes().len() as u64 != expected.size {
        let text = format!(
            "has {} bytes, its index says {}",
            manifest.bytes().len(),
            expected.size
        );
        return Err(StoreError::new(Class::Permanent, text));
    }
    if expected.is_manifest() && *expected.media_type != *manifest.media_type() {
        let text = format!(
            "is of type {:?}, its index says {:?}",
            manifest.media_type(),
            expected.media_type
        );
        return Err(StoreError::new(Class::Permanent, text));
    }
    Ok(())
}

/// Bytes of progress between two times that a broken upload is gone on with.
const RESUME_AFTER: u64 = 1024 * 1024;
