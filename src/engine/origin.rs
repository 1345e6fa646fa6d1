//! The reading end of a blob: bytes from the source in chunks, hashed while they are in the cache, with snapshots of the
//! hash to go back to, and the last chunk held back until the digest is right. Not here: who gets the chunks
//! (`stream.rs`).

use std::collections::VecDeque;
use std::io::{self, Read};

use crate::oci::{Algorithm, Descriptor, Hasher};
use crate::store::{Class, Source, StoreError};

pub(super) struct Origin {
    body: Option<Box<dyn Read + Send>>,
    hasher: Hasher,
    /// Of the next byte to be read.
    offset: u64,
    /// Bytes that are read for the hash alone: the target has them.
    skip: u64,
    is_verified: bool,
    /// Where the body was last opened after a failure: once for each `REOPEN_AFTER` bytes of progress.
    reopened_at: Option<u64>,
    /// Of this read; the common read's stand in the ring.
    snapshots: Snapshots,
}

/// States of the hash at some offsets: one for each MiB of the last 16 (decisions D3).
#[derive(Clone, Default)]
pub(super) struct Snapshots(VecDeque<(u64, Hasher)>);

impl Snapshots {
    /// Those that a record tells. One that does not fit costs a read from further back and nothing else.
    pub(super) fn restored(algorithm: Algorithm, states: &[(u64, String)]) -> Self {
        let restore =
            |(offset, state): &(u64, String)| Some((*offset, Hasher::restore(algorithm, state)?));
        Self(states.iter().filter_map(restore).collect())
    }

    /// The newest one at or below `offset`.
    pub(super) fn before(&self, offset: u64) -> Option<&(u64, Hasher)> {
        self.0.iter().rev().find(|(at, _)| *at <= offset)
    }

    fn add(&mut self, offset: u64, hasher: &Hasher) {
        if self
            .0
            .back()
            .is_none_or(|(last, _)| offset / SNAPSHOT_EVERY > last / SNAPSHOT_EVERY)
        {
            if self.0.len() >= MAX_SNAPSHOTS {
                self.0.pop_front();
            }
            self.0.push_back((offset, hasher.clone()));
        }
    }
}

impl Origin {
    /// A read from the begin.
    pub(super) fn new(descriptor: &Descriptor) -> Self {
        Self {
            body: None,
            hasher: Hasher::new(descriptor.digest.algorithm()),
            offset: 0,
            skip: 0,
            is_verified: false,
            reopened_at: None,
            snapshots: Snapshots::default(),
        }
    }

    /// A read that gives the bytes from `offset` on. What lies between the newest snapshot and `offset` is read for the
    /// hash alone.
    pub(super) fn at(snapshots: &Snapshots, descriptor: &Descriptor, offset: u64) -> Self {
        let mut origin = Self::new(descriptor);
        if let Some((at, hasher)) = snapshots.before(offset) {
            origin.offset = *at;
            origin.hasher = hasher.clone();
        }
        origin.skip = offset - origin.offset;
        origin.snapshots = snapshots.clone();
        origin.snapshots.0.retain(|(at, _)| *at <= offset);
        origin
    }

    /// The offset of the next byte to be read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether all was read and is right.
    pub(super) fn is_verified(&self) -> bool {
        self.is_verified
    }

    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Enters where it is into the snapshots of the common read.
    pub(super) fn note(&self, snapshots: &mut Snapshots) {
        snapshots.add(self.offset, &self.hasher);
    }

    /// Fills `chunk` with the next bytes that are wanted, after those that only the hash needs.
    pub(super) fn fill_from(
        &mut self,
        source: &dyn Source,
        descriptor: &Descriptor,
        chunk: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        loop {
            let is_last = self.fill(source, descriptor, chunk)?;
            self.snapshots.add(self.offset, &self.hasher);
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            chunk.drain(..usize::try_from(skipped).unwrap_or(CHUNK));
            if is_last || !chunk.is_empty() {
                return Ok(());
            }
        }
    }

    /// Fills `chunk` with the next bytes. `true`: these were the last, and size and digest are right. On an error the
    /// chunk is not to be used: the last one is held back until the whole blob is known to be right, so a wrong blob
    /// never becomes complete at a target (protocol.md V2).
    pub(super) fn fill(
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
        self.is_verified = true;
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
pub(super) fn store_error(error: io::Error) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(error) => error,
        Err(error) => StoreError::new(Class::Transient, error),
    }
}

/// Bytes read at a time: one buffer of the HTTP client.
pub(super) const CHUNK: usize = 64 * 1024;
/// A broken source is opened again in place once for this much progress.
const REOPEN_AFTER: u64 = 1024 * 1024;
const SNAPSHOT_EVERY: u64 = 1024 * 1024;
const MAX_SNAPSHOTS: usize = 16;
