//! How far a run is: what the coordinator and the workers note as they go, and what another thread may look at now and
//! then. Not here: what is made of it, and the report of the end (`report.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::oci::{Descriptor, Digest};
use crate::store::Place;

/// How far a run is, shared by those who work and those who look.
#[derive(Debug, Default)]
pub struct Gauge {
    state: Mutex<State>,
    /// Bytes of blobs given to uploads since the start, those included that were lost and went again.
    pub(super) moved: AtomicU64,
    /// Bytes of blobs read from sources.
    pub(super) pulled: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// In the order of their begin.
    moving: Vec<(Moving, Arc<AtomicU64>)>,
}

/// What the coordinator knows. An image counts once for each of its targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Images that the rules are known to mean.
    pub images: usize,
    /// Those that are in sync.
    pub done: usize,
    /// Those that failed in this pass.
    pub failed: usize,
    /// Rules of which it is not known yet which images they mean.
    pub unread_rules: usize,
    /// Images, tag lists and dates that are still to begin, whatever the number of their targets.
    pub waiting: usize,
    /// The same that were begun.
    pub begun: usize,
    /// Bytes of blobs that arrived at their targets.
    pub sent: u64,
    /// Bytes of blobs that targets may lack, of the images begun.
    pub left: u64,
}

/// A blob on its way to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Where to.
    pub place: Place,
    /// Which one.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The bytes of it that are there or on the wire.
    pub at: u64,
}

/// One moment of a run.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What the coordinator knows.
    pub counts: Counts,
    /// The blobs under way, the oldest first.
    pub moving: Vec<Moving>,
    /// Bytes of blobs given to uploads since the start.
    pub moved: u64,
}

impl Gauge {
    /// How far the run is now.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let moving = state.moving.iter().map(|(moving, at)| Moving {
            at: at.load(Ordering::Relaxed),
            ..moving.clone()
        });
        Snapshot {
            counts: state.counts,
            moving: moving.collect(),
            moved: self.moved.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set(&self, counts: Counts) {
        self.lock().counts = counts;
    }

    /// Shows a blob as moving until what this gives is dropped.
    pub(super) fn begin(&self, place: &Place, descriptor: &Descriptor) -> Transfer<'_> {
        let moving = Moving {
            place: place.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            at: 0,
        };
        let at = Arc::new(AtomicU64::new(0));
        self.lock().moving.push((moving, at.clone()));
        Transfer { gauge: self, at }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob that is shown as moving.
pub(super) struct Transfer<'a> {
    gauge: &'a Gauge,
    at: Arc<AtomicU64>,
}

impl Transfer<'_> {
    /// Notes that `length` more bytes are given to the upload, which begin at `offset` of the blob.
    pub(super) fn pass(&self, offset: u64, length: u64) {
        self.at.store(offset + length, Ordering::Relaxed);
        self.gauge.moved.fetch_add(length, Ordering::Relaxed);
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let moving = &mut self.gauge.lock().moving;
        moving.retain(|(_, at)| !Arc::ptr_eq(at, &self.at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_blob_is_shown_while_it_moves_and_its_bytes_count_each_time_they_go() {
        let gauge = Gauge::default();
        let place = |name: &str| Place::Layout(name.into());
        let descriptor = Descriptor {
            media_type: "m/t".into(),
            digest: Digest::of(Algorithm::Sha256, b"x"),
            size: 100,
        };
        let shown = || -> Vec<_> {
            let moving = gauge.snapshot().moving.into_iter();
            moving
                .map(|moving| (moving.place.to_string(), moving.at, moving.size))
                .collect()
        };
        let one = gauge.begin(&place("/1"), &descriptor);
        let two = gauge.begin(&place("/2"), &descriptor);
        one.pass(0, 60);
        two.pass(50, 10);
        one.pass(20, 30);
        let expected = [
            ("oci:/1".to_owned(), 50, 100),
            ("oci:/2".to_owned(), 60, 100),
        ];
        assert_eq!(shown(), expected);
        drop(one);
        assert_eq!(shown(), expected[1..]);
        drop(two);
        assert_eq!((shown(), gauge.snapshot().moved), (vec![], 100));
    }
}
