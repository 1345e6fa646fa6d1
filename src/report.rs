//! The end of a run: what became of each rule and image, as text and as exit status. Not here: the log of the run.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

/// The exit status of the program. Scripts depend on these numbers (README, "Exit status").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// All images are in sync.
    InSync,
    /// Some image or rule failed.
    Failed,
    /// The command line or the configuration cannot be used; nothing was touched.
    Usage,
    /// The run could not go on: a local target cannot be written, no threads, a bug.
    Broken,
    /// Interrupted by the signal of this number.
    Interrupted(u8),
}

impl ExitStatus {
    /// The number that the system gets.
    pub fn code(self) -> u8 {
        match self {
            Self::InSync => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Broken => 3,
            Self::Interrupted(signal) => 128 + signal,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}

/// Images by source, as an images file names them: a source may stand there with several targets, and with fields of a
/// rule object.
#[derive(Debug, Default)]
pub struct Images(BTreeMap<(String, String), Vec<String>>);

impl Images {
    /// Adds a target, unless it is there. `fields` are members of a JSON object, without `to`.
    pub fn add(&mut self, source: &str, fields: &str, target: &str) {
        let key = (source.to_owned(), fields.to_owned());
        let targets = self.0.entry(key).or_default();
        if !targets.iter().any(|known| known == target) {
            targets.push(target.to_owned());
        }
    }

    /// Sources in their order, each with its fields and its targets.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        let entries = self.0.iter();
        entries.map(|((source, fields), targets)| (&**source, &**fields, &**targets))
    }
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Image-to-target pairs that were brought up to date.
    pub copied: usize,
    /// Pairs that were up to date.
    pub unchanged: usize,
    /// Pairs that were left alone, since no platform of the image is wanted.
    pub skipped: usize,
    /// Pairs that failed, cancelled ones included (the original's N).
    pub failed_tasks: usize,
    /// Rules without images, and images whose source manifest could not be had (the original's M).
    pub failed_generations: usize,
    /// One text for each failure: what, why, and what to do.
    pub failures: Vec<String>,
    /// Images that are in sync, where they are wanted.
    pub succeeded: Images,
    /// Rules and images that a second run may bring about, where they are wanted.
    pub failed: Images,
    /// What was moved.
    pub totals: Totals,
    /// Why the run could not go on, if so.
    pub fatal: Option<String>,
    /// Records could not be written.
    pub records_lost: bool,
    /// What would be done for each rule; empty where it was done.
    pub previews: Vec<Preview>,
}

/// What a run would do for one rule. Where rules share a blob, it is the first one's that wanted it.
#[derive(Debug, Default)]
pub struct Preview {
    /// Where the rule stands, and what it copies where.
    pub title: String,
    /// Why it yields no images.
    pub failure: Option<String>,
    /// The tags or digests that it wants.
    pub kept: Vec<String>,
    /// The other tags of its source, by the reason.
    pub dropped: BTreeMap<String, Vec<String>>,
    /// Images that a target lacks; an image counts once for each target.
    pub new: usize,
    /// Images of which a target has another version.
    pub changed: usize,
    /// Images that a target has.
    pub equal: usize,
    /// Images of which no platform is wanted.
    pub skipped: usize,
    /// Images that cannot be had.
    pub failed: usize,
    /// Bytes to read from the source.
    pub pull: u64,
    /// Bytes to send to targets.
    pub push: u64,
    /// Bytes that targets have in other repositories.
    pub mount: u64,
}

/// Some lines, each with an end.
impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        if let Some(failure) = &self.failure {
            return writeln!(f, "  no images: {failure}");
        }
        writeln!(f, "  kept: {}", Listed(&self.kept))?;
        for (reason, tags) in &self.dropped {
            writeln!(f, "  dropped, {reason}: {}", Listed(tags))?;
        }
        let Self {
            new,
            changed,
            equal,
            skipped,
            failed,
            ..
        } = self;
        write!(f, "  images: {new} new, {changed} changed, {equal} equal, ")?;
        if *skipped > 0 {
            write!(f, "{skipped} skipped for their platforms, ")?;
        }
        writeln!(f, "{failed} failed")?;
        writeln!(
            f,
            "  blobs: {} to pull, {} to push, {} to mount",
            Bytes(self.pull),
            Bytes(self.push),
            Bytes(self.mount)
        )
    }
}

/// How many there are, and which.
struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.len())?;
        if !self.0.is_empty() {
            write!(f, " ({})", self.0.join(", "))?;
        }
        Ok(())
    }
}

/// What the run moved.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Bytes of blobs read from sources.
    pub pulled: u64,
    /// Bytes of blobs sent to targets.
    pub pushed: u64,
    /// Blobs sent to targets.
    pub sent: u64,
    /// Blobs mounted from another repository.
    pub mounted: u64,
    /// Blobs that a target had already.
    pub existing: u64,
}

impl Report {
    /// The exit status that the run deserves, interruptions apart.
    pub fn status(&self) -> ExitStatus {
        if self.fatal.is_some() {
            ExitStatus::Broken
        } else if self.failed_tasks + self.failed_generations > 0 {
            ExitStatus::Failed
        } else {
            ExitStatus::InSync
        }
    }

    /// What goes to stdout: what would be done for each rule, where it was not done, and the closing lines.
    pub fn results(&self) -> String {
        let previews = self.previews.iter().map(ToString::to_string);
        previews.chain([self.closing_lines()]).collect()
    }

    /// The original's last words, which scripts search for.
    pub fn closing_lines(&self) -> String {
        let (n, m) = (self.failed_tasks, self.failed_generations);
        let mark = if n + m > 0 {
            "failed tasks exist\n"
        } else {
            ""
        };
        format!("{mark}Finished, {n} sync tasks failed, {m} tasks generate failed\n")
    }
}

/// The summary in the log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals {
            pulled,
            pushed,
            sent,
            mounted,
            existing,
        } = &self.totals;
        if !self.previews.is_empty() {
            write!(f, "nothing was written; a run would come to: ")?;
        }
        write!(f, "{} copied, {} unchanged, ", self.copied, self.unchanged)?;
        if self.skipped > 0 {
            write!(f, "{} skipped for their platforms, ", self.skipped)?;
        }
        write!(
            f,
            "{} failed; blobs: {sent} sent, {mounted} mounted, {existing} already there; {} pulled, {} pushed",
            self.failed_tasks + self.failed_generations,
            Bytes(*pulled),
            Bytes(*pushed),
        )?;
        if self.records_lost {
            write!(f, "; records could not be written")?;
        }
        Ok(())
    }
}

/// A number of bytes for people.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1024.0 {
                return if unit == "B" {
                    write!(f, "{} B", self.0)
                } else {
                    write!(f, "{value:.1} {unit}")
                };
            }
            value /= 1024.0;
        }
        write!(f, "{value:.1} TiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_the_originals() {
        let mut report = Report::default();
        assert_eq!(
            report.closing_lines(),
            "Finished, 0 sync tasks failed, 0 tasks generate failed\n"
        );
        assert_eq!(report.status(), ExitStatus::InSync);
        report.failed_generations = 2;
        assert_eq!(
            report.closing_lines(),
            "failed tasks exist\nFinished, 0 sync tasks failed, 2 tasks generate failed\n"
        );
        assert_eq!(report.status().code(), 1);
    }

    #[test]
    fn bytes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
