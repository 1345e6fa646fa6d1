//! Rates that the user sets for a registry: whoever goes beyond waits for its turn (decisions D5). Not here: how many
//! requests run at once, which is the engine's to know.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::hosts::lock;
use crate::store::Limits;

/// The rates of one registry.
#[derive(Clone, Default)]
pub(super) struct Rates {
    pub(super) requests: Option<Arc<Rate>>,
    /// Of the bytes of blobs, both ways.
    pub(super) bytes: Option<Arc<Rate>>,
}

impl Rates {
    pub(super) fn new(limits: &Limits, cancel: &Receiver<()>) -> Self {
        let rate = |amount, time, credit| Arc::new(Rate::new(amount, time, credit, cancel.clone()));
        let second = Duration::from_secs(1);
        Self {
            requests: limits
                .interval
                .map(|interval| rate(1, interval, Duration::ZERO)),
            bytes: limits.bandwidth.map(|bytes| rate(bytes, second, CREDIT)),
        }
    }
}

/// A token bucket, told by the time at which all that was taken is paid for.
pub(super) struct Rate {
    /// So much in so much time.
    amount: u64,
    time: Duration,
    /// How much of an idle time may be made up for.
    credit: Duration,
    paid: Mutex<Instant>,
    /// Closed when the run ends early.
    cancel: Receiver<()>,
}

impl Rate {
    fn new(amount: u64, time: Duration, credit: Duration, cancel: Receiver<()>) -> Self {
        Self {
            amount,
            time,
            credit,
            paid: Mutex::new(Instant::now()),
            cancel,
        }
    }

    /// Takes so much, and waits until all that was taken before is paid for.
    pub(super) fn take(&self, amount: usize) -> Result<(), Interrupted> {
        let wait = self.turn(amount as u64, Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        match self.cancel.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Interrupted),
        }
    }

    /// Takes so much, and tells how long to wait for it.
    fn turn(&self, amount: u64, now: Instant) -> Duration {
        let mut paid = lock(&self.paid);
        let turn = paid.max(now.checked_sub(self.credit).unwrap_or(now));
        let nanos = self.time.as_nanos() * u128::from(amount) / u128::from(self.amount);
        *paid = turn + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        turn.saturating_duration_since(now)
    }

    /// How much to take at once at most, so that nobody waits for long.
    pub(super) fn piece(&self) -> usize {
        usize::try_from(self.amount / 8)
            .unwrap_or(usize::MAX)
            .max(1)
    }
}

/// The part of a buffer that is to be filled at once, where so many bytes are left in all.
pub(super) fn piece<'b>(rate: Option<&Rate>, left: u64, buffer: &'b mut [u8]) -> &'b mut [u8] {
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    let length = rate.map_or(left, Rate::piece).min(left).min(buffer.len());
    buffer.get_mut(..length).unwrap_or_default()
}

/// A wait that ended because the run ends early.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the run was interrupted")
    }
}

impl Error for Interrupted {}

impl From<Interrupted> for io::Error {
    fn from(interrupted: Interrupted) -> Self {
        Self::other(interrupted)
    }
}

/// Threads wake late by some time, which must not add up.
const CREDIT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(amount: u64, time: u64, credit: u64) -> (Rate, Instant) {
        let millis = Duration::from_millis;
        let rate = Rate::new(
            amount,
            millis(time),
            millis(credit),
            crossbeam_channel::never(),
        );
        let start = *lock(&rate.paid);
        (rate, start)
    }

    #[test]
    fn each_waits_for_what_was_taken_before() {
        // (amount, time, credit), then when so much is taken and how long that waits, in milliseconds.
        for ((amount, time, credit), steps) in [
            (
                (1, 500, 0),
                [
                    (0, 1, 0),
                    (0, 1, 500),
                    (200, 1, 800),
                    (9000, 1, 0),
                    (9000, 1, 500),
                ]
                .as_slice(),
            ),
            (
                (1000, 1000, 100),
                &[
                    (0, 50, 0),
                    (0, 50, 50),
                    (0, 10, 100),
                    (200, 10, 0),
                    (500, 90, 0),
                    (500, 20, 0),
                    (500, 1, 10),
                ],
            ),
            ((1, 1000, 0), &[(0, 3, 0), (1000, 1, 2000)]),
        ] {
            let (rate, start) = rate(amount, time, credit);
            for &(at, amount, wait) in steps {
                let now = start + Duration::from_millis(at);
                assert_eq!(
                    rate.turn(amount, now),
                    Duration::from_millis(wait),
                    "{amount} at {at}"
                );
            }
        }
    }

    #[test]
    fn a_piece_is_an_eighth_of_a_second() {
        for (amount, length, expected) in [(1, 100, 1_u64), (80, 100, 10), (8000, 100, 100)] {
            let (rate, _) = rate(amount, 1000, 0);
            for left in [u64::MAX, expected, 0] {
                let buffer = &mut vec![0; length];
                let piece = piece(Some(&rate), left, buffer);
                assert_eq!(piece.len() as u64, left.min(expected));
            }
        }
        assert_eq!(piece(None, 9, &mut [0; 10]).len(), 9);
        assert_eq!(piece(None, 10, &mut [0; 9]).len(), 9);
    }

    #[test]
    fn a_wait_ends_with_the_run() {
        let (running, cancel) = crossbeam_channel::bounded(0);
        let hour = Duration::from_hours(1);
        let rate = Rate::new(1, hour, Duration::ZERO, cancel);
        assert!(rate.take(1).is_ok());
        drop(running);
        assert!(rate.take(1).is_err());
    }
}
