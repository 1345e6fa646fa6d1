//! Signals: the first one asks the run to end, a second one or the end of the grace period ends it. Not here: how the
//! run ends in order, and what the exit statuses mean.

use std::fs;
use std::io::{self, Read};
use std::mem;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};

use crate::pace::scaled;

/// Whether a signal came, readable from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// The number of the newest HUP, INT or TERM: 1, 2 or 15. `None`: none came.
    pub(crate) fn signal(&self) -> Option<u8> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => u8::try_from(signal).ok(),
        }
    }
}

/// Takes over HUP, INT and TERM. To be called before any other thread starts.
///
/// `on_first` runs at the first signal and is to make the run end by itself. If the process still lives 10 s later, or
/// a second signal comes, `on_deadline` runs and is to break off what hangs; 1 s after that the process exits, for a
/// thread that waits for a name or a connection cannot be woken.
///
/// A signal that was ignored when we were started stays so, as `nohup` and shells want it. A file that meets the limit
/// of its size is an error of the write and does not kill the process (reliability.md M8).
pub(crate) fn watch(
    on_first: impl FnOnce() + Send + 'static,
    on_deadline: impl FnOnce() + Send + 'static,
) -> io::Result<Interrupt> {
    let interrupt = Interrupt(Arc::default());
    let (mut wake, bell) = UnixStream::pair()?;
    let process = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (signal, number) in [(SIGHUP, 1), (SIGINT, 2), (SIGTERM, 15)] {
        if !is_ignored(signal, &process) {
            // Handlers run in this order, so who is woken finds the number.
            flag::register_usize(signal, Arc::clone(&interrupt.0), number)?;
            pipe::register(signal, bell.try_clone()?)?;
        }
    }
    flag::register(SIGXFSZ, Arc::default())?;

    let received = interrupt.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if !see_through(
                &mut wake,
                [scaled(GRACE), scaled(LAST_GRACE)],
                on_first,
                on_deadline,
            ) {
                return;
            }
            #[expect(
                clippy::exit,
                reason = "the run did not end when asked, and its threads cannot be woken"
            )]
            process::exit(
                received
                    .signal()
                    .map_or(1, |signal| 128 + i32::from(signal)),
            );
        })?;
    Ok(interrupt)
}

/// From the first signal to the moment when the process is to exit. `false`: no signal will ever come.
fn see_through(
    wake: &mut UnixStream,
    [grace, last_grace]: [Duration; 2],
    on_first: impl FnOnce(),
    on_deadline: impl FnOnce(),
) -> bool {
    if !signal_within(wake, None) {
        // What it holds, once dropped, would end the run as a signal does.
        mem::forget(on_first);
        return false;
    }
    on_first();
    signal_within(wake, Some(grace));
    on_deadline();
    signal_within(wake, Some(last_grace));
    true
}

/// Waits for a signal, for ever or for some time, and tells whether one came.
fn signal_within(wake: &mut UnixStream, limit: Option<Duration>) -> bool {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A time limit of zero is refused here, which means what it should.
        if wake.set_read_timeout(left).is_err() {
            return false;
        }
        match wake.read(&mut [0]) {
            Ok(bytes) => return bytes > 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Whether the process's status file says that a signal is ignored. Where there is no such file, none is.
fn is_ignored(signal: i32, process: &str) -> bool {
    process
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

const GRACE: Duration = Duration::from_secs(10);
const LAST_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    /// What happens after `signals` signals, and whether the process would exit.
    fn seen(signals: &[u8], graces: [Duration; 2]) -> (Vec<&'static str>, bool) {
        let (mut wake, mut bell) = UnixStream::pair().unwrap();
        bell.write_all(signals).unwrap();
        if signals.is_empty() {
            drop(bell);
        }
        let (first, events) = mpsc::channel();
        let deadline = first.clone();
        let exits = see_through(
            &mut wake,
            graces,
            move || first.send("first").unwrap(),
            move || deadline.send("deadline").unwrap(),
        );
        (events.try_iter().collect(), exits)
    }

    #[test]
    fn a_run_that_does_not_end_is_ended() {
        let instant = [Duration::from_millis(1), Duration::from_millis(1)];
        assert_eq!(seen(b"X", instant), (vec!["first", "deadline"], true));
    }

    #[test]
    fn a_second_signal_ends_the_grace_at_once() {
        let hour = Duration::from_hours(1);
        let begun = Instant::now();
        assert_eq!(
            seen(b"XX", [hour, Duration::ZERO]),
            (vec!["first", "deadline"], true)
        );
        assert_eq!(
            seen(b"XXX", [hour, hour]),
            (vec!["first", "deadline"], true)
        );
        assert!(begun.elapsed() < hour);
    }

    #[test]
    fn without_any_handler_the_thread_ends_and_the_run_does_not() {
        assert_eq!(seen(b"", [Duration::ZERO; 2]), (vec![], false));
        let (running, ended) = mpsc::channel::<()>();
        let (mut wake, bell) = UnixStream::pair().unwrap();
        drop(bell);
        assert!(!see_through(
            &mut wake,
            [Duration::ZERO; 2],
            move || drop(running),
            || {}
        ));
        assert_eq!(ended.try_recv(), Err(mpsc::TryRecvError::Empty));
    }

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let nohup = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004002\n";
        assert!(is_ignored(SIGHUP, nohup));
        assert!(!is_ignored(SIGINT, nohup));
        assert!(!is_ignored(SIGTERM, nohup));
        assert!(is_ignored(SIGTERM, "SigIgn:\t0000000000004000\n"));
        assert!(!is_ignored(SIGHUP, ""));
        assert!(!is_ignored(SIGHUP, "SigIgn:\tzz\n"));
    }

    #[test]
    fn the_signal_is_the_newest() {
        let interrupt = Interrupt(Arc::default());
        assert_eq!(interrupt.signal(), None);
        interrupt.0.store(15, Ordering::SeqCst);
        assert_eq!(interrupt.signal(), Some(15));
    }
}
