//! Marks of a long upload: now and then the state of its hash is noted, so that the next process can go on with it. Not
//! here: what a mark looks like in the records.

use std::time::{Duration, Instant};

use crate::oci::Hasher;

/// How often an upload is marked: after so many bytes or so much time, whichever is first.
#[derive(Clone, Copy, Debug)]
pub struct MarkAfter {
    /// Bytes since the last mark.
    pub bytes: u64,
    /// Time since the last mark.
    pub time: Duration,
}

/// Notes a state of the hash at an offset.
type Note<'a> = Box<dyn Fn(u64, &Hasher) + Send + 'a>;

/// The marks of one upload.
pub(super) struct Marks<'a> {
    after: MarkAfter,
    note: Note<'a>,
    /// Where and when the last one was made.
    last: (u64, Instant),
}

impl<'a> Marks<'a> {
    pub(super) fn new(after: MarkAfter, note: impl Fn(u64, &Hasher) + Send + 'a) -> Self {
        Self {
            after,
            note: Box::new(note),
            last: (0, Instant::now()),
        }
    }

    /// Whether it is time for one, at this offset.
    pub(super) fn are_due(&self, offset: u64) -> bool {
        offset >= self.last.0 + self.after.bytes || self.last.1.elapsed() >= self.after.time
    }

    /// Makes one, unless there is one for this offset.
    pub(super) fn make(&mut self, offset: u64, hasher: &Hasher) {
        if offset > self.last.0 {
            (self.note)(offset, hasher);
        }
        self.last = (offset.max(self.last.0), Instant::now());
    }
}
