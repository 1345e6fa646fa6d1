//! Bodies under way: what is sent ends neither early nor late, what comes has exactly its length, and neither creeps.
//! Not here: what the bytes are.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::rate::{Rate, piece};
use crate::pace::limit;

/// The body of an upload as ureq reads it.
///
/// ureq 3.5 asks a reader that ends before the announced length again and again, for ever and at full speed. So here
/// an early end is an error, and it is remembered which side broke the transfer.
pub(super) struct Outgoing<'a> {
    inner: &'a mut dyn Read,
    rate: Option<&'a Rate>,
    left: u64,
    first_read: Option<Instant>,
    last_read: Option<Instant>,
    is_broken: bool,
    floor: Floor,
    last_length: usize,
}

impl<'a> Outgoing<'a> {
    /// A body of exactly `length` bytes of `inner`, not faster than `rate`.
    pub(super) fn new(inner: &'a mut dyn Read, length: u64, rate: Option<&'a Rate>) -> Self {
        Self {
            inner,
            rate,
            left: length,
            first_read: None,
            last_read: None,
            is_broken: false,
            floor: Floor::default(),
            last_length: 0,
        }
    }

    /// How many bytes have not been read yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// When the first bytes were asked for; `None`: it can still be sent as if nothing had happened.
    pub(super) fn first_read(&self) -> Option<Instant> {
        self.first_read
    }

    /// Whether the body itself failed, not the connection that it went to.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let now = Instant::now();
        self.first_read.get_or_insert(now);
        // What lies between two reads is the time that sending took.
        if let Some(last) = self.last_read
            && self.floor.is_missed(now - last, self.last_length)
        {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "less than 1 KiB/s for a minute",
            ));
        }
        let buffer = piece(self.rate, self.left, buffer);
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                result => break result,
            }
        };
        self.is_broken |= length.is_err();
        let length = length?;
        if let Some(rate) = self.rate {
            rate.take(length)?;
        }
        self.left -= length as u64;
        self.last_length = length;
        self.last_read = Some(Instant::now());
        Ok(length)
    }
}

/// The lowest rate that is put up with: a limit of one read alone lets a body creep for ever, a byte a minute (M2).
/// Only the time that the other side took counts.
#[derive(Default)]
pub(super) struct Floor {
    time: Duration,
    bytes: u64,
}

impl Floor {
    /// Counts a step; `true` once a whole minute passed with less than 1 KiB/s.
    pub(super) fn is_missed(&mut self, took: Duration, bytes: usize) -> bool {
        self.time += took;
        self.bytes += bytes as u64;
        if self.time < limit(FLOOR_TIME) {
            return false;
        }
        let missed =
            u128::from(self.bytes) * 1000 < u128::from(FLOOR_RATE) * limit(FLOOR_TIME).as_millis();
        *self = Self::default();
        missed
    }
}

const FLOOR_TIME: Duration = Duration::from_mins(1);
/// Bytes a second.
const FLOOR_RATE: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outgoing_body_is_cut_to_its_length() {
        let mut inner: &[u8] = b"abcdef";
        let mut body = Outgoing::new(&mut inner, 4, None);
        assert!(body.first_read().is_none());
        let mut sent = Vec::new();
        body.read_to_end(&mut sent).unwrap();
        assert_eq!((sent.as_slice(), body.left()), (&b"abcd"[..], 0));
        assert!(!body.is_broken() && body.first_read().is_some());
    }

    #[test]
    fn an_outgoing_body_that_ends_early_is_an_error() {
        let mut inner: &[u8] = b"abc";
        let mut body = Outgoing::new(&mut inner, 4, None);
        let error = body.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(body.is_broken());
    }

    #[test]
    fn the_floor_cuts_what_creeps_and_nothing_else() {
        let second = Duration::from_secs(1);
        let mut floor = Floor::default();
        assert!((0..600).all(|_| !floor.is_missed(second, 1024)));
        // A pause of the size of one read limit is no creeping if the rest was fast.
        assert!(!floor.is_missed(60 * second, 1 << 20));
        let cut = (0..60).position(|_| floor.is_missed(second, 1023));
        assert_eq!(cut, Some(59));
    }
}
