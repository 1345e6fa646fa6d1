//! One verified blob read for several uploads (decisions D5). A ring of chunks lies between the source and the
//! targets: each target pulls at its own position, and whoever needs the next chunk reads it, outside the lock. There
//! is no pump thread and no leader, so a target that never reads cannot hold up the others by being the reader.
//! Not here: requests, and what a failure means for the run.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::oci::{Descriptor, Hasher};
use crate::store::{Class, Source, StoreError};

/// A blob on its way. The source is opened when the first byte is wanted, never if no target wants any.
pub(super) struct Stream<'a> {
    source: &'a dyn Source,
    descriptor: &'a Descriptor,
    ring: Mutex<Ring>,
    /// Told whenever a chunk came, a position moved past one, or the source ended.
    moved: Condvar,
}

struct Ring {
    /// Consecutive chunks, each of `CHUNK` bytes but the blob's last.
    chunks: VecDeque<Arc<Vec<u8>>>,
    /// The offset of the first byte in `chunks`.
    start: u64,
    /// The offset after the last one.
    end: u64,
    /// Where each target is; `None` once it has left.
    positions: Vec<Option<u64>>,
    /// The reading end; `None` while somebody reads.
    origin: Option<Origin>,
    state: State,
    /// A used chunk, to be filled again.
    spare: Option<Vec<u8>>,
}

enum State {
    Flowing,
    /// All bytes are in the ring or taken, and they are what the digest says.
    Verified,
    Failed(StoreError),
}

struct Origin {
    body: Option<Box<dyn Read + Send>>,
    hasher: Hasher,
    offset: u64,
    /// Where the body was last opened after a failure: once for each `REOPEN_AFTER` bytes of progress.
    reopened_at: Option<u64>,
}

impl<'a> Stream<'a> {
    /// A stream to `targets` targets, each of which takes one reader.
    pub(super) fn new(source: &'a dyn Source, descriptor: &'a Descriptor, targets: usize) -> Self {
        Self {
            source,
            descriptor,
            ring: Mutex::new(Ring {
                chunks: VecDeque::new(),
                start: 0,
                end: 0,
                positions: vec![Some(0); targets],
                origin: Some(Origin {
                    body: None,
                    hasher: Hasher::new(descriptor.digest.algorithm()),
                    offset: 0,
                    reopened_at: None,
                }),
                state: State::Flowing,
                spare: None,
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
        }
    }

    /// How many bytes were read from the source, and how that ended.
    pub(super) fn finish(self) -> (u64, Result<(), StoreError>) {
        let ring = self
            .ring
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match ring.state {
            State::Failed(error) => (ring.end, Err(error)),
            State::Flowing | State::Verified => (ring.end, Ok(())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk at `position`, which is a chunk's begin; `None` at the end of the verified blob.
    fn chunk(&self, target: usize, position: u64) -> io::Result<Option<Arc<Vec<u8>>>> {
        let mut ring = self.lock();
        if ring.move_to(target, Some(position)) {
            self.moved.notify_all();
        }
        loop {
            if let Some(chunk) = ring.chunk_at(position) {
                return Ok(Some(chunk));
            }
            match &ring.state {
                State::Verified => return Ok(None),
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
                None => {
                    ring = self
                        .moved
                        .wait(ring)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Reads the next chunk outside the lock and enters it.
    fn read_on(&self, origin: Origin, mut chunk: Vec<u8>) -> MutexGuard<'_, Ring> {
        // A panic below must not leave the others waiting for an origin that never comes back.
        let mut bail = Bail {
            stream: self,
            armed: true,
        };
        let mut origin = origin;
        let result = origin.fill(self.source, self.descriptor, &mut chunk);
        bail.armed = false;
        let mut ring = self.lock();
        match result {
            Ok(verified) => {
                if !chunk.is_empty() {
                    ring.end += chunk.len() as u64;
                    ring.chunks.push_back(Arc::new(chunk));
                }
                if verified {
                    ring.state = State::Verified;
                }
            }
            Err(error) => ring.state = State::Failed(error),
        }
        ring.origin = Some(origin);
        self.moved.notify_all();
        ring
    }
}

impl Ring {
    fn chunk_at(&self, position: u64) -> Option<Arc<Vec<u8>>> {
        if position >= self.end {
            return None; // also right after the last chunk, which may be a short one
        }
        let index = usize::try_from((position - self.start) / CHUNK as u64).ok()?;
        self.chunks.get(index).cloned()
    }

    /// Notes where a target is now and drops what nobody will read any more. Tells whether anything was dropped.
    fn move_to(&mut self, target: usize, position: Option<u64>) -> bool {
        if let Some(slot) = self.positions.get_mut(target) {
            *slot = position;
        }
        let Some(slowest) = self.positions.iter().flatten().min().copied() else {
            self.chunks.clear();
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
        dropped
    }
}

impl Origin {
    /// Fills `chunk` with the next bytes, hashed while they are in the cache. `true`: these were the last, and size
    /// and digest are right. On an error the chunk is not to be used: the last one is held back until the whole blob
    /// is known to be right, so a wrong blob never becomes complete at a target (protocol.md V2).
    fn fill(
        &mut self,
        source: &dyn Source,
        descriptor: &Descriptor,
        chunk: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let wanted = (descriptor.size - self.offset).min(CHUNK as u64);
        chunk.clear();
        while (chunk.len() as u64) < wanted {
            let at = self.offset + chunk.len() as u64;
            let body = match &mut self.body {
                Some(body) => body,
                None => self.body.insert(source.blob(descriptor, at)?),
            };
            // Read::take and read_to_end fill the chunk's spare capacity without writing zeros into it first.
            let missing = wanted - chunk.len() as u64;
            chunk.reserve_exact(usize::try_from(missing).unwrap_or(CHUNK));
            match body.take(missing).read_to_end(chunk) {
                Ok(read) if read as u64 == missing => {}
                Ok(_) => return Err(length_error(descriptor, self.offset + chunk.len() as u64)),
                Err(error) => {
                    let at = self.offset + chunk.len() as u64;
                    self.reopen_later(at, store_error(error))?;
                }
            }
        }
        self.hasher.update(chunk);
        self.offset += wanted;
        if self.offset < descriptor.size {
            return Ok(false);
        }
        self.check_end(source, descriptor)?;
        Ok(true)
    }

    /// Drops the broken body, so that the next read opens it again where it stopped; gives the error back where there
    /// was too little progress since the last time, or where trying again is pointless (decisions D7).
    fn reopen_later(&mut self, at: u64, error: StoreError) -> Result<(), StoreError> {
        let progress = self
            .reopened_at
            .is_none_or(|last| at >= last + REOPEN_AFTER);
        if error.class != Class::Transient || !progress || at == 0 {
            return Err(error);
        }
        log::debug!("source broke off at byte {at}, opened again there: {error}");
        self.reopened_at = Some(at);
        self.body = None;
        Ok(())
    }

    fn check_end(
        &mut self,
        source: &dyn Source,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        let body = match &mut self.body {
            Some(body) => body,
            None => self.body.insert(source.blob(descriptor, self.offset)?),
        };
        // Reading to the end also gives the connection back to the pool.
        let excess = body.read(&mut [0]).map_err(store_error)?;
        if excess > 0 {
            return Err(length_error(descriptor, descriptor.size + 1));
        }
        let digest = self.hasher.clone().finish();
        if digest != descriptor.digest {
            let text = format!(
                "the source sent other content than {}: it hashes to {digest}",
                descriptor.digest
            );
            return Err(StoreError::new(Class::Corrupt, text));
        }
        Ok(())
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
}

impl Reader<'_, '_> {
    /// Whether all of the blob was read, so that it was verified too.
    pub(super) fn is_finished(&self) -> bool {
        self.position == self.stream.descriptor.size
            && matches!(self.stream.lock().state, State::Verified)
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
                self.chunk = None;
            }
            match self.stream.chunk(self.target, self.position)? {
                Some(chunk) => {
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
        if self.stream.lock().move_to(self.target, None) {
            self.stream.moved.notify_all();
        }
    }
}

fn length_error(descriptor: &Descriptor, got: u64) -> StoreError {
    let relation = if got > descriptor.size {
        "more than"
    } else {
        "only"
    };
    let got = got.min(descriptor.size);
    let text = format!(
        "the source sent {relation} {got} of {} bytes of {}",
        descriptor.size, descriptor.digest
    );
    StoreError::new(Class::Corrupt, text)
}

/// The adapter's own error out of the `io::Error` that carried it.
fn store_error(error: io::Error) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(error) => error,
        Err(error) => StoreError::new(Class::Transient, error),
    }
}

/// Bytes read at a time: one buffer of the HTTP client.
const CHUNK: usize = 64 * 1024;
/// Chunks between the fastest and the slowest target: 1 MiB (decisions D8).
const RING_CHUNKS: usize = 16;
/// A broken source is opened again in place once for this much progress.
const REOPEN_AFTER: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;
    use crate::oci::{Algorithm, Digest, Manifest, Reference, Tag};
    use crate::store::Presence;

    /// A source of one blob, which breaks off at given offsets, once each.
    #[derive(Default)]
    struct Blob {
        content: Vec<u8>,
        breaks: Mutex<Vec<usize>>,
        opened: AtomicUsize,
        panics: bool,
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
                let stream = Stream::new(&source, &descriptor, targets);
                for (got, whole) in read_by(targets, &stream) {
                    assert!(
                        whole && got == source.content,
                        "{length} bytes for {targets}"
                    );
                }
                let (read, result) = stream.finish();
                assert!(read == length as u64 && result.is_ok());
                assert_eq!(source.opened.load(Ordering::SeqCst), 1);
            }
        }
    }

    #[test]
    fn a_source_that_nobody_reads_is_not_opened() {
        let (source, descriptor) = blob(5);
        let stream = Stream::new(&source, &descriptor, 2);
        drop((stream.reader(0), stream.reader(1)));
        assert!(stream.finish().1.is_ok());
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
                let stream = Stream::new(&source, &descriptor, 3);
                for (got, whole) in read_by(3, &stream) {
                    // The last chunk is held back until all is known to be right.
                    assert!(!whole && got.len() < length, "{} of {length}", got.len());
                }
                let (_, result) = stream.finish();
                assert_eq!(result.unwrap_err().class, Class::Corrupt);
            }
        }
    }

    #[test]
    fn a_source_that_breaks_off_is_opened_again_where_it_stopped() {
        let length = 60 * CHUNK;
        let (source, descriptor) = blob(length);
        *source.breaks.lock().unwrap() = vec![50 * CHUNK, 20 * CHUNK + 3];
        let stream = Stream::new(&source, &descriptor, 2);
        assert!(
            read_by(2, &stream)
                .iter()
                .all(|(got, whole)| *whole && *got == source.content)
        );
        assert_eq!(source.opened.load(Ordering::SeqCst), 3);
        // Without a mebibyte of progress in between it goes back to the coordinator.
        *source.breaks.lock().unwrap() = vec![20 * CHUNK + 9, 20 * CHUNK + 3];
        let stream = Stream::new(&source, &descriptor, 1);
        assert!(!read_by(1, &stream)[0].1);
        assert_eq!(stream.finish().1.unwrap_err().class, Class::Transient);
    }

    #[test]
    fn a_target_that_leaves_holds_up_nobody() {
        let (source, descriptor) = blob(60 * CHUNK);
        let stream = Stream::new(&source, &descriptor, 3);
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
    fn a_panic_of_the_reading_thread_ends_the_stream_for_all() {
        let (mut source, descriptor) = blob(3 * CHUNK);
        source.panics = true;
        let stream = Stream::new(&source, &descriptor, 2);
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
        assert!(stream.finish().1.is_err());
    }
}
