//! Progress on stderr: on a terminal a block of lines that is drawn again and again, elsewhere a line of the log now and
//! then. Not here: what is counted (`engine/gauge.rs`), and how block and log share the terminal (`logging.rs`).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::panic;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::engine::{Counts, Gauge, Snapshot};
use crate::logging::{self, sanitise};
use crate::pace::scaled;
use crate::report::Bytes;

/// The progress of a run, shown until this is dropped or the run is cancelled.
pub(crate) struct Progress {
    ended: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show what `gauge` says, until `cancel` is closed. `variable` looks up one of the environment: a
    /// terminal that is `dumb`, or does not say what it is, is none.
    pub(crate) fn start(
        gauge: Arc<Gauge>,
        cancel: Receiver<()>,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Self {
        let is_terminal = variable("TERM").is_some_and(|name| !name.is_empty() && name != "dumb")
            && std::io::stderr().is_terminal();
        let size = is_terminal.then(|| Size::of(variable));
        if is_terminal {
            // The block would be drawn over the message.
            let print = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                logging::hide();
                print(info);
            }));
        }
        let (sender, ended) = bounded(0);
        let thread = thread::Builder::new()
            .name("progress".into())
            .stack_size(STACK)
            .spawn(move || show(&gauge, size, &ended, &cancel));
        if let Err(error) = &thread {
            log::debug!("progress cannot be shown: {error}");
        }
        Self {
            ended: Some(sender),
            thread: thread.ok(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.ended.take());
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            log::debug!("the progress ended by a panic");
        }
    }
}

fn show(gauge: &Gauge, size: Option<Size>, ended: &Receiver<()>, cancel: &Receiver<()>) {
    let every = match size {
        Some(_) => scaled(DRAW_EVERY),
        None => scaled(LINE_EVERY),
    };
    let every = every.max(SHORTEST);
    let began = Instant::now();
    let mut rate = Rate::default();
    loop {
        select! {
            recv(ended) -> _ => break,
            recv(cancel) -> _ => break,
            default(every) => {}
        }
        let now = gauge.snapshot();
        let elapsed = began.elapsed();
        let bytes_per_second = rate.at(elapsed, now.moved);
        let line = summary(&now, bytes_per_second, elapsed);
        match size {
            Some(size) => logging::show(&block(&now, &line, size)),
            None => log::info!("{line}"),
        }
    }
    logging::hide();
}

/// Bytes a second, over the last `WINDOW` or the last two times that it was asked for.
struct Rate(VecDeque<(Duration, u64)>);

impl Default for Rate {
    fn default() -> Self {
        Self(VecDeque::from([(Duration::ZERO, 0)]))
    }
}

impl Rate {
    /// The rate when `moved` bytes have gone `now` after the start.
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    fn at(&mut self, now: Duration, moved: u64) -> f64 {
        while self.0.len() > 1 && self.0.get(1).is_some_and(|(then, _)| *then + WINDOW <= now) {
            self.0.pop_front();
        }
        let (then, before) = self.0.front().copied().unwrap_or_default();
        self.0.push_back((now, moved));
        (moved - before) as f64 / now.saturating_sub(then).as_secs_f64().max(f64::EPSILON)
    }
}

/// How long the rest takes at least; `None` where that cannot be told: rules may still mean anything, or nothing moves.
///
/// What is begun takes as long as its bytes at the present rate, and what waits as long as what was begun before took.
#[expect(clippy::cast_precision_loss, reason = "shown in seconds")]
fn time_left(counts: &Counts, bytes: u64, rate: f64, elapsed: Duration) -> Option<Duration> {
    let Counts { waiting, begun, .. } = *counts;
    let stands = bytes > 0 && rate < 1.0;
    if counts.unread_rules > 0 || stands || (waiting > 0 && begun == 0) {
        return None;
    }
    let for_bytes = bytes as f64 / rate.max(1.0);
    let for_waiting = elapsed.as_secs_f64() * waiting as f64 / begun.max(1) as f64;
    Duration::try_from_secs_f64(for_bytes.max(for_waiting).ceil()).ok()
}

/// One line: images, bytes, rate and time left.
fn summary(now: &Snapshot, rate: f64, elapsed: Duration) -> String {
    let counts = &now.counts;
    let more = if counts.unread_rules > 0 { "+" } else { "" };
    let mut parts = vec![format!("{} of {}{more} images", counts.done, counts.images)];
    if counts.failed > 0 {
        parts.push(format!("{} failed", counts.failed));
    }
    let moving: u64 = now.moving.iter().map(|moving| moving.at).sum();
    let (there, all) = (counts.sent + moving, counts.sent + counts.left);
    if all > 0 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is a positive number, far below 2^64"
        )]
        let rate = Bytes(rate as u64);
        parts.push(format!("{} of {}", Bytes(there), Bytes(all)));
        parts.push(format!("{rate}/s"));
    }
    let left = time_left(counts, all.saturating_sub(there), rate, elapsed);
    if let Some(left) = left.filter(|left| !left.is_zero()) {
        parts.push(format!("{} left", humantime::format_duration(left)));
    }
    parts.join(", ")
}

/// What is drawn on a terminal: the summary, and below it the blobs under way, as many as fit.
fn block(now: &Snapshot, summary: &str, size: Size) -> String {
    let mut lines = vec![summary.to_owned()];
    // Half of the screen is the log's. A number for the rest takes a line as well.
    let room = (size.rows / 2).saturating_sub(1).min(MAX_BLOBS);
    let shown = if now.moving.len() > room {
        room.saturating_sub(1)
    } else {
        room
    };
    for moving in now.moving.iter().take(shown) {
        let digest = moving.digest.encoded();
        let percent = (u128::from(moving.at) * 100).checked_div(moving.size.into());
        lines.push(format!(
            "{:>4}% of {:>10}  {}  {}",
            percent.unwrap_or(100),
            Bytes(moving.size).to_string(),
            digest.get(..12).unwrap_or(&digest),
            sanitise(&moving.place.to_string())
        ));
    }
    if now.moving.len() > shown && shown > 0 {
        lines.push(format!("  and {} more", now.moving.len() - shown));
    }
    // A terminal that is narrower than it says is told not to wrap, or the block would have more lines than it has.
    let mut text = String::from(NO_WRAP);
    for line in lines {
        text.extend(line.chars().take(size.columns));
        text.push('\n');
    }
    text.push_str(WRAP);
    text
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    columns: usize,
    rows: usize,
}

impl Size {
    /// What the environment says, or what most terminals have at least.
    fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let number = |name| {
            variable(name)?
                .to_str()?
                .parse()
                .ok()
                .filter(|number| *number > 0)
        };
        Self {
            columns: number("COLUMNS").unwrap_or(80),
            rows: number("LINES").unwrap_or(24),
        }
    }
}

const NO_WRAP: &str = "\u{1b}[?7l";
const WRAP: &str = "\u{1b}[?7h";
const MAX_BLOBS: usize = 8;
const DRAW_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(30);
const SHORTEST: Duration = Duration::from_millis(10);
const WINDOW: Duration = Duration::from_secs(10);
/// Address space is scarce in some containers.
const STACK: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Moving;
    use crate::oci::{Algorithm, Digest};
    use crate::store::Place;

    const MIB: u64 = 1 << 20;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn counts(images: usize, done: usize) -> Counts {
        Counts {
            images,
            done,
            begun: images,
            ..Counts::default()
        }
    }

    /// So many blobs of 4 MiB, each further than the one before.
    fn moving(number: u64) -> Vec<Moving> {
        let moving = |number: u64| Moving {
            place: Place::Layout(format!("/folder/{number}").into()),
            digest: Digest::of(Algorithm::Sha256, b"x"),
            size: 4 * MIB,
            at: number * MIB,
        };
        (0..number).map(moving).collect()
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        for (samples, rate) in [
            ([].as_slice(), 0.0),
            (&[(0, 0)], 0.0),
            (&[(2, 10)], 5.0),
            (&[(1, 100), (2, 100), (12, 200)], 10.0),
            // What is long over does not count, but the time since the last look always does.
            (&[(1, 1000), (11, 1000), (12, 1000), (21, 1000)], 0.0),
            (&[(30, 600), (60, 600), (90, 900)], 10.0),
        ] {
            let mut all = Rate::default();
            let last = samples
                .iter()
                .map(|&(at, moved)| all.at(seconds(at), moved))
                .last();
            assert!(
                (last.unwrap_or_default() - rate).abs() < 1e-9,
                "{samples:?}: {last:?}"
            );
        }
    }

    #[test]
    fn the_time_left_is_that_of_the_bytes_or_of_the_images_that_wait() {
        let of = |unread_rules, waiting, begun| Counts {
            unread_rules,
            waiting,
            begun,
            ..Counts::default()
        };
        for (counts, bytes, rate, expected) in [
            (of(0, 0, 1), 100, 10.0, Some(10)),
            (of(0, 0, 1), 101, 10.0, Some(11)),
            (of(0, 0, 1), 0, 0.0, Some(0)),
            // 20 s for 4 images.
            (of(0, 8, 4), 0, 0.0, Some(40)),
            (of(0, 8, 4), 1000, 10.0, Some(100)),
            // Not to be told.
            (of(1, 8, 4), 1000, 10.0, None),
            (of(0, 0, 1), 100, 0.0, None),
            (of(0, 3, 0), 0, 0.0, None),
            // Longer than there is time.
            (of(0, 0, 1), u64::MAX, 1.0, None),
        ] {
            let left = time_left(&counts, bytes, rate, seconds(20));
            assert_eq!(
                left.map(|left| left.as_secs()),
                expected,
                "{counts:?} {bytes} {rate}"
            );
        }
    }

    #[test]
    fn the_summary_says_what_there_is_to_say() {
        for (counts, blobs, rate, line) in [
            (counts(0, 0), 0, 0.0, "0 of 0 images"),
            (counts(3, 3), 0, 0.0, "3 of 3 images"),
            (
                Counts {
                    unread_rules: 1,
                    failed: 2,
                    ..counts(40, 12)
                },
                0,
                0.0,
                "12 of 40+ images, 2 failed",
            ),
            (
                Counts {
                    sent: 10 * MIB,
                    left: 30 * MIB,
                    ..counts(2, 1)
                },
                3,
                1.5 * 1024.0 * 1024.0,
                "1 of 2 images, 13.0 MiB of 40.0 MiB, 1.5 MiB/s, 18s left",
            ),
            (
                Counts {
                    left: 4 * MIB,
                    waiting: 60,
                    begun: 2,
                    ..counts(62, 0)
                },
                1,
                0.0,
                "0 of 62 images, 0 B of 4.0 MiB, 0 B/s",
            ),
            (
                Counts {
                    waiting: 60,
                    begun: 20,
                    ..counts(80, 19)
                },
                0,
                0.0,
                "19 of 80 images, 1m left",
            ),
        ] {
            let now = Snapshot {
                counts,
                moving: moving(blobs),
                moved: 0,
            };
            assert_eq!(summary(&now, rate, seconds(20)), line);
        }
    }

    #[test]
    fn the_block_has_the_blobs_that_fit() {
        let digest = Digest::of(Algorithm::Sha256, b"x").encoded();
        let line = |number: u64| {
            let percent = number * 25;
            format!(
                "{percent:>4}% of    4.0 MiB  {}  oci:/folder/{number}",
                &digest[..12]
            )
        };
        for (blobs, columns, rows, expected) in [
            (0, 80, 24, vec!["summary".to_owned()]),
            (2, 80, 24, vec!["summary".to_owned(), line(0), line(1)]),
            (
                2,
                9,
                24,
                vec![
                    "summary".to_owned(),
                    line(0)[..9].to_owned(),
                    line(1)[..9].to_owned(),
                ],
            ),
            (2, 4, 2, vec!["summ".to_owned()]),
            (
                3,
                80,
                6,
                vec!["summary".to_owned(), line(0), "  and 2 more".to_owned()],
            ),
            (2, 80, 6, vec!["summary".to_owned(), line(0), line(1)]),
            (3, 80, 1, vec!["summary".to_owned()]),
        ] {
            let now = Snapshot {
                moving: moving(blobs),
                ..Snapshot::default()
            };
            let block = block(&now, "summary", Size { columns, rows });
            let lines = block
                .strip_prefix(NO_WRAP)
                .unwrap()
                .strip_suffix(WRAP)
                .unwrap();
            assert_eq!(
                lines.lines().collect::<Vec<_>>(),
                expected,
                "{blobs} {columns} {rows}"
            );
        }
        let many = Snapshot {
            moving: moving(1000),
            ..Snapshot::default()
        };
        let size = Size {
            columns: 200,
            rows: 500,
        };
        let block = block(&many, "summary", size);
        assert_eq!(block.lines().count(), 1 + MAX_BLOBS + 1);
        assert!(block.contains("\n  and 993 more\n"), "{block}");
    }

    #[test]
    fn what_a_name_could_do_to_the_terminal_is_not_done() {
        let mut now = Snapshot {
            moving: moving(1),
            ..Snapshot::default()
        };
        now.moving[0].place = Place::Layout("/a\u{1b}[2J\nb".into());
        let size = Size {
            columns: 80,
            rows: 24,
        };
        let block = block(&now, "", size);
        assert!(block.contains("oci:/a\\u{1b}[2J\\nb"), "{block:?}");
    }

    #[test]
    fn the_size_is_that_of_the_environment_or_a_usual_one() {
        for (columns, lines, expected) in [
            (None, None, (80, 24)),
            (Some("132"), Some("50"), (132, 50)),
            (Some(""), Some("x"), (80, 24)),
            (Some("0"), Some("-1"), (80, 24)),
        ] {
            let variable = |name: &str| match name {
                "COLUMNS" => columns.map(OsString::from),
                "LINES" => lines.map(OsString::from),
                _ => None,
            };
            let Size { columns, rows } = Size::of(&variable);
            assert_eq!((columns, rows), expected);
        }
    }
}
