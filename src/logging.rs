//! The log, standard output and standard error: everything that this program says leaves through here or through what
//! is built on it. Not here: what is said.
//!
//! A log or a terminal that cannot be written changes nothing about a run: the loss is borne in silence, where
//! `println!` and `eprintln!` would panic (reliability.md M8, L13).

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use env_logger::{Builder, Target};
use log::LevelFilter;

/// Starts the log: one line a record, in UTC, into `file`, which is begun anew, or to standard error.
///
/// `level` is what the command line says, `rust_log` what the environment says: a level, or `image_syncer=level`. The
/// command line wins, and `info` is the default; `quiet` lets neither have more than warnings. Fails if the file cannot
/// be opened, or if a log was started before.
pub(crate) fn init(
    level: Option<LevelFilter>,
    rust_log: Option<&str>,
    quiet: bool,
    file: Option<&Path>,
) -> io::Result<()> {
    let most = if quiet {
        LevelFilter::Warn
    } else {
        LevelFilter::Trace
    };
    let level = level
        .or_else(|| rust_log.and_then(level_in))
        .unwrap_or(LevelFilter::Info)
        .min(most);
    let target = match file {
        Some(path) => {
            let mut options = File::options();
            // Nobody else writes it, whatever the umask.
            options.write(true).create(true).truncate(true).mode(0o644);
            Target::Pipe(Box::new(options.open(path)?))
        }
        None => Target::Pipe(Box::new(OverBlock)),
    };
    builder(level, target).try_init().map_err(io::Error::other)
}

/// Remote text made safe to print: what could move a terminal's cursor, begin a line or turn the direction of reading
/// is escaped (reliability.md S12).
pub(crate) fn sanitise(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Where results and messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Results.
    Stdout,
    /// Everything else.
    Stderr,
}

/// Prints text as it is. After the first failure, such as a closed pipe or a full disk, that stream gets nothing more:
/// a reader is not to find a gap.
pub(crate) fn print(stream: Stream, text: &str) {
    static STDOUT_FAILED: AtomicBool = AtomicBool::new(false);
    static STDERR_FAILED: AtomicBool = AtomicBool::new(false);
    match stream {
        Stream::Stdout => print_to(&mut io::stdout().lock(), &STDOUT_FAILED, text),
        Stream::Stderr => print_to(&mut io::stderr().lock(), &STDERR_FAILED, text),
    }
}

fn print_to(stream: &mut dyn Write, has_failed: &AtomicBool, text: &str) {
    if has_failed.load(Ordering::Relaxed) {
        return;
    }
    let written = stream.write_all(text.as_bytes());
    if written.and_then(|()| stream.flush()).is_err() {
        has_failed.store(true, Ordering::Relaxed);
    }
}

/// Draws a block of whole lines at the end of standard error, in place of the one that is there. It stays below the log:
/// a line of the log goes where the block begins, and the block is drawn again after it.
pub(crate) fn show(block: &str) {
    let mut shown = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(before) = &mut *shown {
        to_stderr(&[&erase(before), block]);
        block.clone_into(before);
    }
}

/// Removes the block for good.
pub(crate) fn hide() {
    let mut shown = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(before) = shown.take() {
        to_stderr(&[&erase(&before)]);
    }
}

/// The block as it was drawn; `None`: none is to be drawn any more.
static BLOCK: Mutex<Option<String>> = Mutex::new(Some(String::new()));

/// What removes a block from a terminal whose cursor stands below it: up by its lines, and the rest of the screen empty.
fn erase(block: &str) -> String {
    match block.matches('\n').count() {
        0 => String::new(),
        lines => format!("\r\u{1b}[{lines}A\u{1b}[J"),
    }
}

/// Writes text in one piece. A loss is borne in silence.
fn to_stderr(parts: &[&str]) {
    drop(io::stderr().lock().write_all(parts.concat().as_bytes()));
}

/// Standard error with the block that is shown there.
struct OverBlock;

impl Write for OverBlock {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shown = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let block = shown.as_deref().unwrap_or_default();
        to_stderr(&[&erase(block), &String::from_utf8_lossy(line), block]);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Our records up to `level`; of other crates never more than warnings, for what they would say below holds headers.
fn builder(level: LevelFilter, target: Target) -> Builder {
    let mut builder = Builder::new();
    builder
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module(CRATE, level)
        .filter_module(RESULTS, LevelFilter::Info)
        .target(target)
        .format(|line, record| {
            let time = humantime::format_rfc3339_seconds(SystemTime::now());
            let message = record.args().to_string();
            writeln!(line, "{time} {} {}", record.level(), sanitise(&message))
        });
    builder
}

/// The level that `RUST_LOG` sets for this crate. Read here and not by `env_logger`, which lets the variable raise the
/// level of other crates and complains by a macro that can panic.
fn level_in(rust_log: &str) -> Option<LevelFilter> {
    rust_log
        .split(',')
        .filter_map(|directive| match directive.split_once('=') {
            None => directive.trim().parse().ok(),
            Some((name, level)) if name.trim() == CRATE => level.trim().parse().ok(),
            Some(_) => None,
        })
        .next_back()
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Marks, embeddings and isolates of bidirectional text; between them the line and paragraph separators.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The target of records that are results and not messages: they are in the log at every level.
pub(crate) const RESULTS: &str = "image_syncer::results";

/// The first part of the target of each of our records.
const CRATE: &str = "image_syncer";

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use log::{Level, Log, Record};

    use super::*;

    #[test]
    fn sanitise_escapes_what_terminals_obey() {
        for (text, safe) in [
            ("", ""),
            ("v1.2_x: wörld 镜像 \\", "v1.2_x: wörld 镜像 \\"),
            ("\u{1b}]0;x\u{7}", "\\u{1b}]0;x\\u{7}"),
            ("a\r\nb\tc\0", "a\\r\\nb\\tc\\u{0}"),
            (
                "\u{7f}\u{80}\u{9b}2J\u{9f}",
                "\\u{7f}\\u{80}\\u{9b}2J\\u{9f}",
            ),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202a}\u{202e}gnp", "\\u{202a}\\u{202e}gnp"),
            ("\u{2066}\u{2069}\u{61c}", "\\u{2066}\\u{2069}\\u{61c}"),
            ("\u{200e}\u{200f}", "\\u{200e}\\u{200f}"),
            (
                "\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}",
                "\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}",
            ),
        ] {
            assert_eq!(sanitise(text), safe, "{text:?}");
        }
        assert!(matches!(sanitise("plain"), Cow::Borrowed("plain")));
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that a log of some level makes of one record of each level, times cut off.
    fn logged(level: LevelFilter, target: &str) -> Vec<String> {
        let output = Shared::default();
        let logger = builder(level, Target::Pipe(Box::new(output.clone()))).build();
        for level in Level::iter() {
            logger.log(
                &Record::builder()
                    .level(level)
                    .target(target)
                    .args(format_args!("a\nb {}", level as usize))
                    .build(),
            );
        }
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| {
                let (time, rest) = line.split_once(' ').unwrap();
                assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
                assert_eq!(time.len(), "2026-11-24T11:02:03Z".len(), "{line}");
                rest.to_owned()
            })
            .collect()
    }

    #[test]
    fn records_are_single_lines_of_our_level() {
        let all = [
            "ERROR a\\nb 1",
            "WARN a\\nb 2",
            "INFO a\\nb 3",
            "DEBUG a\\nb 4",
            "TRACE a\\nb 5",
        ];
        for (level, shown) in [
            (LevelFilter::Error, 1),
            (LevelFilter::Warn, 2),
            (LevelFilter::Info, 3),
            (LevelFilter::Trace, 5),
        ] {
            assert_eq!(logged(level, "image_syncer::registry"), all[..shown]);
            // Other crates say warnings and errors at most.
            for other in ["ureq::run", "rustls::client", "image"] {
                assert_eq!(logged(level, other), all[..shown.min(2)], "{level} {other}");
            }
        }
    }

    #[test]
    fn a_log_that_cannot_be_written_is_borne() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let logger = builder(LevelFilter::Info, Target::Pipe(Box::new(full))).build();
        for _ in 0..3 {
            logger.log(
                &Record::builder()
                    .level(Level::Error)
                    .target(CRATE)
                    .args(format_args!("lost"))
                    .build(),
            );
        }
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_an_error() {
        let error = init(None, None, false, Some(Path::new("/proc/no/such/log"))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn rust_log_sets_our_level_only() {
        for (text, level) in [
            ("", None),
            ("debug", Some(LevelFilter::Debug)),
            (" TRACE ", Some(LevelFilter::Trace)),
            ("off", Some(LevelFilter::Off)),
            ("ureq=trace", None),
            ("warn,image_syncer=debug", Some(LevelFilter::Debug)),
            ("image_syncer=debug, ureq=trace", Some(LevelFilter::Debug)),
            ("nonsense", None),
            ("image_syncer=loud", None),
        ] {
            assert_eq!(level_in(text), level, "{text:?}");
        }
    }

    #[test]
    fn results_are_in_the_log_at_every_level() {
        assert_eq!(logged(LevelFilter::Error, RESULTS).len(), 3);
        assert_eq!(logged(LevelFilter::Trace, RESULTS).len(), 3);
    }

    #[test]
    fn a_stream_that_failed_gets_nothing_more() {
        /// Fails once, as a disk that is full for a while.
        struct Flaky {
            failures: usize,
            written: Vec<u8>,
        }
        impl Write for Flaky {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.failures > 0 {
                    self.failures -= 1;
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                self.written.write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut stream = Flaky {
            failures: 0,
            written: Vec::new(),
        };
        let has_failed = AtomicBool::new(false);
        print_to(&mut stream, &has_failed, "one\n");
        stream.failures = 1;
        print_to(&mut stream, &has_failed, "two\n");
        print_to(&mut stream, &has_failed, "three\n");
        assert_eq!(stream.written, b"one\n");
    }
}
