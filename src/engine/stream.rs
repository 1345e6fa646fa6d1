//! One verified blob read for several uploads (decisions D5). A ring of chunks lies between the source and the
//! targets: each target pulls at its own position, and whoever needs the next chunk reads it, outside the lock. There
//! is no pump thread and no leader, so a target that never reads cannot hold up the others by being the reader; one
//! that reads too slowly is detached and goes on with a read of its own. Not here: reading and hashing (`origin.rs`),
//! requests, and what a failure means for the run.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::gauge::Transfer;
use super::marks::Marks;
use super::origin::{CHUNK, Origin, Snapshots};
use crate::oci::Descriptor;
use crate::store::{Class, Source, StoreError};

/// A blob on its way. The source is opened when the first byte is wanted, never if no target wants any.
pub(super) struct Stream<'a> {
    source: &'a dyn Source,
    descriptor: &'a Descriptor,
    patience: Patience,
    /// Counts the bytes that are read from the source, by whomever.
    pulled: &'a AtomicU64,
    ring: Mutex<Ring>,
    /// Told whenever a chunk came, a position moved past one, or the source ended.
    moved: Condvar,
}

/// How long the others wait for a slow target before it is detached: both limits have to be passed.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// In all.
    pub at_least: Duration,
    /// As a part of the time since the blob's first byte was wanted.
    pub share: f64,
}

impl Patience {
    /// How long the others may still take when one is through that took so long; `None`: as long as they like.
    pub(super) fn after(&self, took: Duration) -> Option<Duration> {
        let part = self.share / (1.0 - self.share);
        (part >= 0.0 && part.is_finite()).then(|| self.at_least.max(took.mul_f64(part)))
    }
}

struct Ring {
    /// Consecutive chunks, each of `CHUNK` bytes but the blob's last.
    chunks: VecDeque<Arc<Vec<u8>>>,
    /// The offset of the first byte in `chunks`.
    start: u64,
    /// The offset after the last one.
    end: u64,
    targets: Vec<Place>,
    /// The reading end; `None` while somebody reads.
    origin: Option<Origin>,
    snapshots: Snapshots,
    state: State,
    /// A used chunk, to be filled again.
    spare: Option<Vec<u8>>,
    /// How many wait for `moved`.
    waiting: usize,
    /// When the first byte was wanted.
    began: Option<Instant>,
    /// Since when somebody has been waiting for the slowest target.
    full_since: Option<Instant>,
}

/// Where a target is in the stream.
#[derive(Clone, Copy, Default)]
struct Place {
    /// `None` once it has left.
    position: Option<u64>,
    /// How long others have waited for it.
    waited_for: Duration,
    /// The others went on without it.
    is_detached: bool,
    /// It reads for itself, or is to.
    is_apart: bool,
}

enum State {
    Flowing,
    /// All bytes are in the ring or taken, and they are what the digest says.
    Verified,
    Failed(StoreError),
}

/// What a target gets when it asks for its next chunk.
enum Next {
    Chunk(Arc<Vec<u8>>),
    End,
    /// The others could not wait any longer: it reads for itself from here on.
    Apart,
}

impl<'a> Stream<'a> {
    /// A stream to `targets` targets, each of which takes one reader.
    pub(super) fn new(
        source: &'a dyn Source,
        descriptor: &'a Descriptor,
        targets: usize,
        patience: Patience,
        pulled: &'a AtomicU64,
    ) -> Self {
        let place = Place {
            position: Some(0),
            ..Place::default()
        };
        Self {
            source,
            descriptor,
            patience,
            pulled,
            ring: Mutex::new(Ring {
                chunks: VecDeque::new(),
                start: 0,
                end: 0,
                targets: vec![place; targets],
                origin: Some(Origin::new(descriptor)),
                snapshots: Snapshots::default(),
                state: State::Flowing,
                spare: None,
                waiting: 0,
                began: None,
                full_since: None,
            }),
            moved: Condvar::new(),
        }
    }

    /// The body for target number `target`. Until it is dropped, the ring keeps what it has not read.
    pub(super) fn reader(&self, target: usize) -> Reader<'_, 'a> {
        Reader {
            stream: self,
            target,
            position: 0,
            chunk: None,
            within: 0,
            apart: None,
            failure: None,
            marks: None,
            transfer: None,
        }
    }

    /// Whether all was read and nobody reads for itself: the targets that are not through keep nothing but their own
    /// hosts busy, unless their uploads break off.
    pub(super) fn is_over(&self) -> bool {
        let ring = self.lock();
        matches!(ring.state, State::Verified) && !ring.targets.iter().any(|place| place.is_apart)
    }

    /// How the common read ended.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        let ring = self
            .ring
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match ring.state {
            State::Failed(error) => Err(error),
            State::Flowing | State::Verified => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk at `position`, which is a chunk's begin.
    fn next(&self, target: usize, position: u64) -> io::Result<Next> {
        let mut ring = self.lock();
        ring.began.get_or_insert_with(Instant::now);
        if ring.move_to(target, Some(position)) {
            self.tell(&ring);
        }
        loop {
            if ring
                .targets
                .get(target)
                .is_some_and(|place| place.is_detached)
            {
                return Ok(Next::Apart);
            }
            if let Some(chunk) = ring.chunk_at(position) {
                return Ok(Next::Chunk(chunk));
            }
            match &ring.state {
                State::Verified => return Ok(Next::End),
                State::Failed(_) => return Err(io::Error::other("the source failed")),
                State::Flowing => {}
            }
            let has_room = ring.chunks.len() < RING_CHUNKS;
            let origin = if has_room { ring.origin.take() } else { None };
            match origin {
                Some(origin) => {
                    let spare = ring.spare.take().unwrap_or_default();
                    drop(ring);
                    ring = self.read_on(origin, spare);
                }
                None if has_room => {
                    ring.waiting += 1;
                    ring = self
                        .moved
                        .wait(ring)
                        .unwrap_or_else(PoisonError::into_inner);
                    ring.waiting -= 1;
                }
                None => ring = self.wait_for_slowest(ring),
            }
        }
    }

    /// Waits until the ring has room, or the slowest target has held it up for too long and is detached.
    fn wait_for_slowest<'s>(&'s self, mut ring: MutexGuard<'s, Ring>) -> MutexGuard<'s, Ring> {
        ring.full_since.get_or_insert_with(Instant::now);
        if ring.detach_slowest(&self.patience) {
            self.tell(&ring);
            return ring;
        }
        let wait = self
            .patience
            .at_least
            .div_f64(8.0)
            .max(Duration::from_millis(1));
        ring.waiting += 1;
        ring = self
            .moved
            .wait_timeout(ring, wait)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        ring.waiting -= 1;
        ring
    }

    /// Wakes those who wait. A condvar goes to the kernel even where nobody does, which for one target is each time.
    fn tell(&self, ring: &Ring) {
        if ring.waiting > 0 {
            self.moved.notify_all();
        }
    }

    /// Reads the next chunk outside the lock and enters it.
    fn read_on(&self, mut origin: Origin, mut chunk: Vec<u8>) -> MutexGuard<'_, Ring> {
        // A panic below must not leave the others waiting for an origin that never comes back.
        let mut bail = Bail {
            stream: self,
            armed: true,
        };
        let result = origin.fill(self.source, self.descriptor, &mut chunk);
        bail.armed = false;
        let mut ring = self.lock();
        match result {
            Ok(verified) => {
                if !chunk.is_empty() {
                    self.pulled.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    ring.end += chunk.len() as u64;
                    ring.chunks.push_back(Arc::new(chunk));
                }
                if verified {
                    ring.state = State::Verified;
                }
            }
            Err(error) => ring.state = State::Failed(error),
        }
        origin.note(&mut ring.snapshots);
        ring.origin = Some(origin);
        self.tell(&ring);
        ring
    }
}

impl Ring {
    fn chunk_at(&self, position: u64) -> Option<Arc<Vec<u8>>> {
        if position >= self.end || position < self.start {
            return None; // also right after the last chunk, which may be a short one
        }
        let index = usize::try_from((position - self.start) / CHUNK as u64).ok()?;
        self.chunks.get(index).cloned()
    }

    /// Notes that a target leaves the ring, and whether it reads for itself from here on. Tells whether anything was
    /// dropped.
    fn leave(&mut self, target: usize, is_apart: bool) -> bool {
        if let Some(place) = self.targets.get_mut(target) {
            place.is_apart = is_apart;
        }
        self.move_to(target, None)
    }

    /// Notes where a target is now and drops what nobody will read any more. Tells whether anything was dropped.
    fn move_to(&mut self, target: usize, position: Option<u64>) -> bool {
        if let Some(place) = self.targets.get_mut(target)
            && !place.is_detached
        {
            place.position = position;
        }
        let Some(slowest) = self.targets.iter().filter_map(|place| place.position).min() else {
            self.chunks.clear();
            self.start = self.end;
            return true;
        };
        let mut dropped = false;
        while let Some(first) = self.chunks.front()
            && self.start + first.len() as u64 <= slowest
        {
            self.start += first.len() as u64;
            if let Some(chunk) = self.chunks.pop_front() {
                self.spare = Arc::into_inner(chunk).or(self.spare.take());
            }
            dropped = true;
        }
        if dropped {
            self.charge_slowest();
            self.full_since = None;
        }
        dropped
    }

    /// Puts the time since the ring was full on the account of whoever is behind.
    fn charge_slowest(&mut self) {
        let Some(since) = &mut self.full_since else {
            return;
        };
        let waited = since.elapsed();
        *since = Instant::now();
        let start = self.start;
        for place in self
            .targets
            .iter_mut()
            .filter(|place| place.position.is_some_and(|at| at <= start))
        {
            place.waited_for += waited;
        }
    }

    /// Detaches the target that is behind, where the others have waited for it for too long. Never the last one.
    fn detach_slowest(&mut self, patience: &Patience) -> bool {
        self.charge_slowest();
        let since = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        let limit = patience.at_least.max(since.mul_f64(patience.share));
        let start = self.start;
        let is_late = |place: &Place| {
            place.position.is_some_and(|at| at <= start) && place.waited_for > limit
        };
        let Some(slowest) = self.targets.iter().position(is_late) else {
            return false;
        };
        if let Some(place) = self.targets.get_mut(slowest) {
            *place = Place {
                is_detached: true,
                is_apart: true,
                ..Place::default()
            };
        }
        self.move_to(slowest, None);
        true
    }
}

/// Ends the stream when the thread that reads for all panics.
struct Bail<'s, 'a> {
    stream: &'s Stream<'a>,
    armed: bool,
}

impl Drop for Bail<'_, '_> {
    fn drop(&mut self) {
        if self.armed {
            self.stream.lock().state = State::Failed(StoreError::new(
                Class::Permanent,
                "reading the source panicked",
            ));
            self.stream.moved.notify_all();
        }
    }
}

/// One target's view of the blob: the body of its upload. An error means that the source failed.
pub(super) struct Reader<'s, 'a> {
    stream: &'s Stream<'a>,
    target: usize,
    position: u64,
    chunk: Option<Arc<Vec<u8>>>,
    within: usize,
    /// A read of its own, after it was detached or had to go back.
    apart: Option<Origin>,
    /// Why that failed.
    failure: Option<StoreError>,
    marks: Option<Marks<'s>>,
    /// Where it shows how far it is.
    transfer: Option<&'s Transfer<'s>>,
}

impl<'s> Reader<'s, '_> {
    /// Has those who look at the run see how far it is.
    pub(super) fn show(&mut self, transfer: &'s Transfer<'s>) {
        self.transfer = Some(transfer);
    }

    /// Has the upload marked now and then from here on.
    pub(super) fn mark(&mut self, marks: Marks<'s>) {
        self.marks = Some(marks);
    }

    /// Marks how far it came, unless there is a mark for that: another process may go on there.
    pub(super) fn mark_now(&mut self) {
        let Some(marks) = &mut self.marks else { return };
        let ring = self.stream.lock();
        let snapshots = self
            .apart
            .as_ref()
            .map_or(&ring.snapshots, Origin::snapshots);
        let newest = snapshots.before(self.position).cloned();
        drop(ring);
        if let Some((offset, hasher)) = newest {
            marks.make(offset, &hasher);
        }
    }

    /// Whether all of the blob was read, so that it was verified too.
    pub(super) fn is_finished(&self) -> bool {
        let is_verified = match &self.apart {
            Some(origin) => origin.is_verified(),
            None => matches!(self.stream.lock().state, State::Verified),
        };
        self.position == self.stream.descriptor.size && is_verified
    }

    /// The numbers of the targets that the others went on without, until now.
    pub(super) fn detached(&self) -> Vec<usize> {
        let ring = self.stream.lock();
        let targets = ring.targets.iter().enumerate();
        targets
            .filter_map(|(number, place)| place.is_detached.then_some(number))
            .collect()
    }

    /// Why its own read of the source failed, if it had one. The common read's failure is the stream's.
    pub(super) fn take_failure(&mut self) -> Option<StoreError> {
        self.failure.take()
    }

    /// Goes on at `offset`, which may lie before what was read: the target has no more than that. From here on it reads
    /// for itself, beginning where the newest snapshot of the hash allows (decisions D3).
    pub(super) fn restart(&mut self, offset: u64) {
        let ring = self.stream.lock();
        let snapshots = self
            .apart
            .as_ref()
            .map_or(&ring.snapshots, Origin::snapshots)
            .clone();
        drop(ring);
        self.go_on(&snapshots, offset);
    }

    /// Goes on at `offset` with snapshots from elsewhere.
    pub(super) fn go_on(&mut self, snapshots: &Snapshots, offset: u64) {
        if self.stream.lock().leave(self.target, true) {
            self.stream.moved.notify_all();
        }
        self.apart = Some(Origin::at(snapshots, self.stream.descriptor, offset));
        self.position = offset;
        self.chunk = None;
        self.within = 0;
        self.failure = None;
    }

    /// The next chunk: from the ring, or by a read of its own.
    fn next(&mut self) -> io::Result<Option<Arc<Vec<u8>>>> {
        if self
            .marks
            .as_ref()
            .is_some_and(|marks| marks.are_due(self.position))
        {
            self.mark_now();
        }
        let mut used = self.chunk.take();
        if self.apart.is_none() {
            // The ring fills it again, once nobody has it.
            used = None;
            match self.stream.next(self.target, self.position)? {
                Next::Chunk(chunk) => return Ok(Some(chunk)),
                Next::End => return Ok(None),
                Next::Apart => self.restart(self.position),
            }
        }
        let Some(origin) = &mut self.apart else {
            return Ok(None);
        };
        if origin.is_verified() {
            return Ok(None);
        }
        let mut chunk = used.and_then(Arc::into_inner).unwrap_or_default();
        let before = origin.offset();
        let result = origin.fill_from(self.stream.source, self.stream.descriptor, &mut chunk);
        let read = origin.offset() - before;
        self.stream.pulled.fetch_add(read, Ordering::Relaxed);
        match result {
            Ok(()) => Ok(Some(Arc::new(chunk))),
            Err(error) => {
                self.failure = Some(error);
                Err(io::Error::other("the source failed"))
            }
        }
    }
}

impl Read for Reader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &self.chunk {
                let rest = chunk.get(self.within..).unwrap_or_default();
                let length = rest.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
                    to.copy_from_slice(from);
                }
                self.within += length;
                self.position += length as u64;
                if length > 0 || buffer.is_empty() {
                    return Ok(length);
                }
            }
            match self.next()? {
                Some(chunk) => {
                    if let Some(transfer) = self.transfer {
                        transfer.pass(self.position, chunk.len() as u64);
                    }
                    self.chunk = Some(chunk);
                    self.within = 0;
                }
                None => return Ok(0),
            }
        }
    }
}

impl Drop for Reader<'_, '_> {
    fn drop(&mut self) {
        self.chunk = None;
        if self.stream.lock().leave(self.target, false) {
            self.stream.moved.notify_all();
        }
    }
}

/// Chunks between the fastest and the slowest target: 1 MiB (decisions D8).
const RING_CHUNKS: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;
    use crate::oci::{Algorithm, Digest, Manifest, Reference, Repository, Tag};
    use crate::store::Presence;

    const PATIENCE: Patience = Patience {
        at_least: Duration::from_secs(1),
        share: 0.25,
    };

    /// A source of one blob, which breaks off at given offsets, once each.
    #[derive(Default)]
    struct Blob {
        content: Vec<u8>,
        breaks: Mutex<Vec<usize>>,
        opened: AtomicUsize,
        /// The bytes that streams say they read.
        pulled: AtomicU64,
        panics: bool,
    }

    impl Blob {
        fn pulled(&self) -> u64 {
            self.pulled.load(Ordering::Relaxed)
        }
    }

    struct Body {
        content: io::Cursor<Vec<u8>>,
        end: usize,
        breaks: bool,
        panics: bool,
    }

    impl Read for Body {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!self.panics, "as the test wants it");
            let position = usize::try_from(self.content.position()).unwrap();
            let room = buffer.len().min(self.end - position);
            if room == 0 && self.breaks {
                return Err(io::Error::other(StoreError::new(Class::Transient, "cut")));
            }
            self.content.read(&mut buffer[..room])
        }
    }

    impl Source for Blob {
        fn referrers(&self, _: &Digest) -> Result<Option<Vec<Digest>>, StoreError> {
            unreachable!()
        }

        fn repositories(&self) -> Result<Vec<Repository>, StoreError> {
            unreachable!()
        }

        fn tags(&self) -> Result<Option<Vec<Tag>>, StoreError> {
            unreachable!("a stream reads blobs only")
        }

        fn head(&self, _: &Reference) -> Result<Presence, StoreError> {
            unreachable!("a stream reads blobs only")
        }

        fn manifest(&self, _: &Reference) -> Result<Manifest, StoreError> {
            unreachable!("a stream reads blobs only")
        }

        fn blob(&self, _: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>, StoreError> {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let mut content = io::Cursor::new(self.content.clone());
            content.set_position(from);
            let cut = self.breaks.lock().unwrap().pop();
            let end = cut.unwrap_or(self.content.len());
            Ok(Box::new(Body {
                content,
                end,
                breaks: cut.is_some(),
                panics: self.panics,
            }))
        }
    }

    fn blob(length: usize) -> (Blob, Descriptor) {
        let content: Vec<u8> = (0..length)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let digest = Digest::of(Algorithm::Sha256, &content);
        let descriptor = Descriptor {
            media_type: "x".into(),
            digest,
            size: length as u64,
        };
        (
            Blob {
                content,
                ..Blob::default()
            },
            descriptor,
        )
    }

    /// Reads with each of `targets` targets on a thread of its own; gives what each got.
    fn read_by(targets: usize, stream: &Stream<'_>) -> Vec<(Vec<u8>, bool)> {
        let read = |number: usize| {
            let mut got = Vec::new();
            let mut reader = stream.reader(number);
            let whole = reader.read_to_end(&mut got).is_ok() && reader.is_finished();
            (got, whole)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..targets)
                .map(|number| {
                    thread::Builder::new()
                        .spawn_scoped(scope, move || read(number))
                        .unwrap()
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    #[test]
    fn both_limits_of_patience_have_to_be_passed() {
        let seconds = Duration::from_secs;
        for (at_least, share, took, may_take) in [
            (1, 0.25, 1, Some(1)),
            (1, 0.25, 3, Some(1)),
            (1, 0.25, 30, Some(10)),
            (1, 0.5, 30, Some(30)),
            (60, 0.5, 30, Some(60)),
            (0, 0.0, 30, Some(0)),
            (0, 1.0, 30, None),
        ] {
            let at_least = seconds(at_least);
            let patience = Patience { at_least, share };
            assert_eq!(patience.after(seconds(took)), may_take.map(seconds));
        }
    }

    #[test]
    fn every_target_gets_the_whole_of_one_read() {
        for length in [
            0,
            1,
            CHUNK - 1,
            CHUNK,
            CHUNK + 1,
            40 * CHUNK,
            40 * CHUNK + 7,
        ] {
            for targets in [1, 2, 7] {
                let (source, descriptor) = blob(length);
                let stream = Stream::new(&source, &descriptor, targets, PATIENCE, &source.pulled);
                for (got, whole) in read_by(targets, &stream) {
                    assert!(
                        whole && got == source.content,
                        "{length} bytes for {targets}"
                    );
                }
                assert!(stream.finish().is_ok());
                assert_eq!(source.pulled(), length as u64);
                assert_eq!(source.opened.load(Ordering::SeqCst), 1);
            }
        }
    }

    #[test]
    fn a_source_that_nobody_reads_is_not_opened() {
        let (source, descriptor) = blob(5);
        let stream = Stream::new(&source, &descriptor, 2, PATIENCE, &source.pulled);
        drop((stream.reader(0), stream.reader(1)));
        assert!(stream.finish().is_ok());
        assert_eq!(source.opened.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_wrong_blob_is_never_whole_at_a_target() {
        for length in [1, CHUNK, 3 * CHUNK + 5] {
            for spoil in [
                |content: &mut Vec<u8>| content[0] ^= 1,
                |content: &mut Vec<u8>| content.push(0),
                |content: &mut Vec<u8>| content.truncate(content.len() - 1),
            ] {
                let (mut source, descriptor) = blob(length);
                spoil(&mut source.content);
                let stream = Stream::new(&source, &descriptor, 3, PATIENCE, &source.pulled);
                for (got, whole) in read_by(3, &stream) {
                    // The last chunk is held back until all is known to be right.
                    assert!(!whole && got.len() < length, "{} of {length}", got.len());
                }
                assert_eq!(stream.finish().unwrap_err().class, Class::Corrupt);
            }
        }
    }

    #[test]
    fn a_source_that_breaks_off_is_opened_again_where_it_stopped() {
        let length = 60 * CHUNK;
        let (source, descriptor) = blob(length);
        *source.breaks.lock().unwrap() = vec![50 * CHUNK, 20 * CHUNK + 3];
        let stream = Stream::new(&source, &descriptor, 2, PATIENCE, &source.pulled);
        assert!(
            read_by(2, &stream)
                .iter()
                .all(|(got, whole)| *whole && *got == source.content)
        );
        assert_eq!(source.opened.load(Ordering::SeqCst), 3);
        // Without a mebibyte of progress in between it goes back to the coordinator.
        *source.breaks.lock().unwrap() = vec![20 * CHUNK + 9, 20 * CHUNK + 3];
        let stream = Stream::new(&source, &descriptor, 1, PATIENCE, &source.pulled);
        assert!(!read_by(1, &stream)[0].1);
        assert_eq!(stream.finish().unwrap_err().class, Class::Transient);
    }

    #[test]
    fn a_target_that_leaves_holds_up_nobody() {
        let (source, descriptor) = blob(60 * CHUNK);
        let stream = Stream::new(&source, &descriptor, 3, PATIENCE, &source.pulled);
        let mut early = stream.reader(2);
        assert_eq!(early.read(&mut [0; 10]).unwrap(), 10);
        let waiting = Mutex::new(Some(early));
        thread::scope(|scope| {
            let read = |number| {
                let mut got = vec![0; RING_CHUNKS * CHUNK];
                let mut reader = stream.reader(number);
                reader.read_exact(&mut got).unwrap();
                // The ring is full now: only when the third has left, there is more.
                waiting.lock().unwrap().take();
                reader.read_to_end(&mut got).unwrap();
                assert!(reader.is_finished() && got == source.content);
            };
            for number in 0..2 {
                thread::Builder::new()
                    .spawn_scoped(scope, move || read(number))
                    .unwrap();
            }
        });
    }

    #[test]
    fn a_target_that_is_too_slow_goes_on_alone() {
        let (source, descriptor) = blob(60 * CHUNK + 9);
        let patience = Patience {
            at_least: Duration::from_millis(2),
            share: 0.01,
        };
        let stream = Stream::new(&source, &descriptor, 2, patience, &source.pulled);
        let mut slow = stream.reader(1);
        let mut got = vec![0; CHUNK + 5];
        slow.read_exact(&mut got).unwrap();
        // The other one is held up at the end of the ring, until it is not.
        let mut fast = stream.reader(0);
        let mut whole = Vec::new();
        fast.read_to_end(&mut whole).unwrap();
        assert!(fast.is_finished() && whole == source.content);
        assert_eq!(fast.detached(), [1]);
        drop(fast);
        // It has not noticed yet.
        assert!(!stream.is_over());
        slow.read_to_end(&mut got).unwrap();
        assert!(slow.is_finished() && got == source.content);
        drop(slow);
        assert!(stream.is_over());
        assert_eq!(source.opened.load(Ordering::SeqCst), 2);
        // It did not begin at the begin: the hash was taken up where it was.
        assert!(stream.finish().is_ok());
        let (read, size) = (source.pulled(), descriptor.size);
        assert!(
            (size + 1..=2 * size - CHUNK as u64).contains(&read),
            "{read}"
        );
    }

    #[test]
    fn a_target_that_lost_bytes_goes_back_to_any_offset() {
        for length in [3 * CHUNK + 1, 40 * CHUNK] {
            for back_to in [0, 1, CHUNK, length / 2, length - 1] {
                let (source, descriptor) = blob(length);
                let stream = Stream::new(&source, &descriptor, 2, PATIENCE, &source.pulled);
                let (mut one, mut other) = (stream.reader(0), stream.reader(1));
                let read_other = || other.read_to_end(&mut Vec::new()).unwrap();
                let mut lost = Vec::new();
                thread::scope(|scope| {
                    thread::Builder::new()
                        .spawn_scoped(scope, read_other)
                        .unwrap();
                    one.read_to_end(&mut lost).unwrap();
                });
                let before = source.pulled();
                one.restart(back_to as u64);
                assert!(!one.is_finished());
                let mut again = Vec::new();
                one.read_to_end(&mut again).unwrap();
                assert!(
                    one.is_finished() && again == source.content[back_to..],
                    "{back_to} of {length}"
                );
                assert!(source.pulled() >= before + again.len() as u64);
            }
        }
    }

    #[test]
    fn a_read_apart_finds_what_is_wrong_too() {
        let (mut source, descriptor) = blob(5 * CHUNK);
        source.content[4 * CHUNK] ^= 1;
        let stream = Stream::new(&source, &descriptor, 1, PATIENCE, &source.pulled);
        let mut reader = stream.reader(0);
        reader.restart(2 * CHUNK as u64);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert_eq!(reader.take_failure().unwrap().class, Class::Corrupt);
        drop(reader);
        // The common read never began, so nothing is wrong with it.
        assert!(stream.finish().is_ok());
    }

    #[test]
    fn a_panic_of_the_reading_thread_ends_the_stream_for_all() {
        let (mut source, descriptor) = blob(3 * CHUNK);
        source.panics = true;
        let stream = Stream::new(&source, &descriptor, 2, PATIENCE, &source.pulled);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|number| {
                    let stream = &stream;
                    let read = move || stream.reader(number).read_to_end(&mut Vec::new()).is_err();
                    thread::Builder::new().spawn_scoped(scope, read).unwrap()
                })
                .collect();
            let ends: Vec<_> = threads
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect();
            assert_eq!(ends.iter().filter(|end| end.is_err()).count(), 1);
            assert!(ends.iter().flatten().all(|failed| *failed));
        });
        assert!(stream.finish().is_err());
    }
}
