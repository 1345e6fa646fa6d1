//! The records file itself: its locks, its reading at the start, and the lines that are appended. Not here: what the lines
//! say (`record.rs`, `hints.rs`).

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::compact::compact;
use super::{Hints, Record};

/// The appending end of the file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// This run has its part of the lock.
    is_shared: bool,
}

impl Journal {
    /// A journal that keeps nothing.
    pub fn disabled() -> Self {
        Self {
            path: PathBuf::new(),
            file: Mutex::new(None),
        }
    }

    /// Reads what the file says and leaves it as it is: nothing is recorded.
    pub fn read(path: &Path) -> (Self, Hints, Vec<String>) {
        let mut hints = Hints::default();
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(O_NONBLOCK).open(path);
        let content = file.and_then(|file| read_lines(buffered(plain(&file)?), &mut hints));
        let warnings = match content {
            Ok(content) => content.warning(path).into_iter().collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => vec![cannot_read(path, &error)],
        };
        (Self::disabled(), hints, warnings)
    }

    /// Opens the file, made where it is missing, reads what it says, and makes it shorter where most of it says
    /// nothing any more. Whatever is wrong with it is a warning: the run goes on with fewer hints or without records.
    pub fn open(path: &Path) -> (Self, Hints, Vec<String>) {
        let mut hints = Hints::default();
        let mut warnings = Vec::new();
        let file = match open_locked(path) {
            Ok((mut file, is_alone)) => match read(&mut file, &mut hints) {
                Ok(content) => {
                    if is_alone {
                        file = shorten(path, file, &content, &hints);
                    } else {
                        hints.forget_uploads();
                    }
                    warnings.extend(content.warning(path));
                    // Other runs may join in from here on.
                    Some(Open::new(file))
                }
                Err(error) => {
                    warnings.push(cannot_read(path, &error));
                    None
                }
            },
            Err(error) => {
                let path = path.display();
                warnings.push(format!(
                    "cannot use the records {path}: {error}; the run goes on without them"
                ));
                None
            }
        };
        let journal = Self {
            path: path.to_owned(),
            file: Mutex::new(file),
        };
        (journal, hints, warnings)
    }

    /// Appends a line, written whole. After the first failure nothing more is recorded.
    pub fn append(&self, record: &Record) {
        let line = record.line();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = file.as_mut()
            && let Err(error) = open.append(&self.path, record, &line)
        {
            log::warn!("cannot write the records: {error}; nothing more is recorded in this run");
            *file = None;
        }
    }

    /// Whether records are still written.
    pub fn is_working(&self) -> bool {
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

impl Open {
    /// The file with this run's part of its lock, if that can be had.
    fn new(file: File) -> Self {
        let is_shared = share(&file);
        Self { file, is_shared }
    }

    /// A line in a file that is no longer in its place is lost: it is written again into the one that is there now.
    fn append(&mut self, path: &Path, record: &Record, line: &str) -> io::Result<()> {
        // Somebody else had the lock to himself when this run was begun.
        self.is_shared = self.is_shared || share(&self.file);
        for _ in 0..MAX_REPLACED {
            keep_private(&self.file, record)?;
            self.file.write_all(line.as_bytes())?;
            if is_at(&self.file, path) {
                break;
            }
            *self = Self::new(open_locked(path)?.0);
        }
        Ok(())
    }
}

/// Opens the file with its lock: alone where nobody else has it, else together with other runs, until the journal is
/// dropped. Whoever wants to put another file in its place has to be alone; where that has just happened, the new one
/// is opened. A lock that cannot be had, on a network or from a script that locks this very file, is gone without.
fn open_locked(path: &Path) -> io::Result<(File, bool)> {
    let mut file = open(path)?;
    for _ in 0..MAX_REPLACED {
        let is_alone = file.try_lock().is_ok();
        if !is_alone {
            share(&file);
        }
        if is_at(&file, path) {
            return Ok((file, is_alone));
        }
        file = open(path)?;
    }
    Ok((file, false))
}

fn share(file: &File) -> bool {
    file.try_lock_shared().is_ok()
}

/// The file without the lines that say nothing any more, where they are most of it. What was not understood does not
/// count for that: a file that is mostly something else is not ours to shorten.
fn shorten(path: &Path, file: File, content: &Content, hints: &Hints) -> File {
    if content.lines < MIN_LINES {
        return file;
    }
    let live = hints.live_lines();
    let stale = content.understood - live.len() as u64;
    if 2 * stale <= content.lines {
        return file;
    }
    let path_shown = path.display();
    match compact(path, &file, &live, content.end) {
        Ok(new) => {
            log::debug!("{path_shown}: left out {stale} lines that said nothing any more");
            new
        }
        Err(error) => {
            log::debug!("{path_shown} cannot be made shorter: {error}");
            file
        }
    }
}

/// The location of an upload opens it to whoever knows it (S09): a file with such lines is for its owner alone.
fn keep_private(file: &File, record: &Record) -> io::Result<()> {
    if record.is_upload() && file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Whether a path still names this file.
fn is_at(file: &File, path: &Path) -> bool {
    let number = |found: std::fs::Metadata| (found.dev(), found.ino());
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    number(open) == number(named)
}

/// Opens for reading and appending, without waiting for the other end of a pipe, and refuses what is no plain file.
fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(O_NONBLOCK);
    let file = options.open(path)?;
    plain(&file)?;
    Ok(file)
}

fn plain(file: &File) -> io::Result<&File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        let kind = io::ErrorKind::InvalidInput;
        Err(io::Error::new(kind, "not a plain file"))
    }
}

fn buffered(file: &File) -> BufReader<&File> {
    BufReader::with_capacity(64 * 1024, file)
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read the records {}: {error}", path.display())
}

/// What was found in the file beside hints.
#[derive(Debug, Default)]
pub(super) struct Content {
    lines: u64,
    understood: u64,
    unread: u64,
    first_unread: Option<u64>,
    /// How many bytes were read.
    end: u64,
    is_terminated: bool,
}

impl Content {
    /// The one warning about all lines that are no records.
    fn warning(&self, path: &Path) -> Option<String> {
        let (line, count, path) = (self.first_unread?, self.unread, path.display());
        let text = format!("{path}:{line}: no record (in all {count} such lines), skipped");
        Some(text)
    }
}

fn read(file: &mut File, hints: &mut Hints) -> io::Result<Content> {
    file.seek(SeekFrom::Start(0))?;
    let mut content = read_lines(buffered(file), hints)?;
    if !content.is_terminated {
        // Or the next record would be glued to a torn one, and both be lost.
        file.write_all(b"\n")?;
        content.end += 1;
    }
    Ok(content)
}

pub(super) fn read_lines(mut reader: impl BufRead, hints: &mut Hints) -> io::Result<Content> {
    let mut content = Content {
        is_terminated: true,
        ..Content::default()
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line of any length costs no more memory than the longest that is read.
        let length = reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            break;
        }
        let start = content.end;
        content.lines += 1;
        content.end += length;
        content.is_terminated = line.last() == Some(&b'\n');
        let is_whole = content.is_terminated || length < MAX_LINE;
        if !is_whole {
            let skipped;
            (skipped, content.is_terminated) = skip_line(&mut reader)?;
            content.end += skipped;
        }
        match str::from_utf8(&line).map(str::trim) {
            Ok("") => {}
            Ok(text) if is_whole && hints.add_line(text, start) => content.understood += 1,
            _ => {
                content.unread += 1;
                content.first_unread.get_or_insert(content.lines);
            }
        }
    }
    hints.complete();
    Ok(content)
}

/// Reads to the end of the line; tells how far that was, and whether the line has an end.
fn skip_line(reader: &mut impl BufRead) -> io::Result<(u64, bool)> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok((skipped, false));
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let length = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(length);
        skipped += length as u64;
        if end.is_some() {
            return Ok((skipped, true));
        }
    }
}

/// How many times in a row another file is found in the place of the one just opened, before that is borne.
const MAX_REPLACED: u32 = 8;
/// A longer line is no record, in bytes.
const MAX_LINE: u64 = 1024 * 1024;
/// A shorter file is not worth being made shorter, in lines.
const MIN_LINES: u64 = 1000;
/// Opening a pipe that nobody writes to must not wait. The same number on every Linux that Rust builds for here.
const O_NONBLOCK: i32 = 0o4000;

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::super::tests::{Folder, descriptor, place};
    use super::*;
    use crate::oci::Tag;
    use crate::records::MadeOf;

    #[test]
    fn runs_share_the_lock_and_nobody_else_has_it_meanwhile() {
        let folder = Folder::new("lock");
        let path = folder.0.join("records");
        let (one, ..) = Journal::open(&path);
        let (two, ..) = Journal::open(&path);
        let other = open(&path).unwrap();
        drop(one);
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(two);
        other.try_lock().unwrap();
        // Somebody else's lock, such as that of a script around the run, is not waited for.
        let (journal, _, warnings) = Journal::open(&path);
        assert!(journal.is_working() && warnings.is_empty());
    }

    #[test]
    fn reading_alone_leaves_everything_as_it_is() {
        let folder = Folder::new("read");
        let path = folder.0.join("none/records");
        let (journal, hints, warnings) = Journal::read(&path);
        assert!(!journal.is_working() && warnings.is_empty() && !folder.0.join("none").exists());
        assert_eq!(hints.live_lines().len(), 0);

        let path = folder.0.join("records");
        let line = Record::blob(&place("r.io/a"), &descriptor()).line();
        let torn = format!("{line}nonsense\n{{\"v\":1");
        std::fs::write(&path, &torn).unwrap();
        let (journal, hints, warnings) = Journal::read(&path);
        journal.append(&Record::blob(&place("r.io/b"), &descriptor()));
        assert_eq!(hints.live_lines().len(), 1);
        let warning = format!(
            "{}:2: no record (in all 2 such lines), skipped",
            path.display()
        );
        assert_eq!(warnings, [warning]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), torn);

        let (.., warnings) = Journal::read(&folder.0);
        assert!(warnings[0].ends_with("not a plain file"), "{warnings:?}");
    }

    #[test]
    fn a_file_that_was_replaced_is_told_from_its_successor() {
        let folder = Folder::new("replaced");
        let path = folder.0.join("records");
        let (file, is_alone) = open_locked(&path).unwrap();
        assert!(is_alone);
        assert!(is_at(&file, &path));
        std::fs::rename(&path, folder.0.join("old")).unwrap();
        assert!(!is_at(&file, &path));
        std::fs::write(&path, "").unwrap();
        assert!(!is_at(&file, &path));
        assert!(is_at(&open_locked(&path).unwrap().0, &path));
    }

    /// Lines about tags of their own, and so many repetitions of the first.
    fn content(tags: usize, repeated: usize) -> String {
        let at = place("a.b/c");
        let origin = MadeOf {
            place: &at,
            digest: &descriptor().digest,
            wanted: None,
        };
        let line = |number: usize| {
            let tag = Tag::parse(&format!("v{number}")).unwrap();
            Record::image(&at, &tag, &descriptor().digest, &origin).line()
        };
        (0..tags).map(line).collect::<String>() + &line(0).repeat(repeated)
    }

    /// How many tags of `content` are known.
    fn known(hints: &Hints) -> usize {
        let is_known = |number: &usize| {
            let tag = Tag::parse(&format!("v{number}")).unwrap();
            hints.tag(&place("a.b/c"), &tag).is_some()
        };
        (0..2000).filter(is_known).count()
    }

    fn lines(path: &Path) -> usize {
        std::fs::read_to_string(path).unwrap().lines().count()
    }

    #[test]
    fn a_file_is_made_shorter_where_most_of_it_says_nothing_any_more() {
        for (live, repeated, foreign, left) in [
            (499, 501, 0, 499),
            (500, 500, 0, 1000),
            (1, 998, 0, 999),
            (1, 999, 0, 1),
            (1500, 0, 0, 1500),
            // Something else, into which somebody had records written.
            (1, 1200, 1200, 2401),
            (0, 0, 3000, 3000),
        ] {
            let case = format!("{live} {repeated} {foreign}");
            let folder = Folder::new("shorter");
            let path = folder.0.join("records");
            let text = "precious\n".repeat(foreign) + &content(live, repeated);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            let (journal, hints, _) = Journal::open(&path);
            assert_eq!((lines(&path), known(&hints)), (left, live), "{case}");
            let mode = std::fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o777, 0o640, "{case}");
            // It goes on in the file that is in the place, and under its lock.
            journal.append(&Record::blob(&place("a.b/c"), &descriptor()));
            let other = open(&path).unwrap();
            assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
            drop(journal);
            assert_eq!(lines(&path), left + 1, "{case}");
            assert_eq!(known(&Journal::open(&path).1), live, "{case}");
            assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "{case}");
        }
    }

    #[test]
    fn what_a_killed_run_left_or_a_stranger_put_beside_does_no_harm() {
        let folder = Folder::new("left");
        let (path, beside) = (folder.0.join("records"), folder.0.join("records.compacted"));
        let victim = folder.0.join("victim");
        std::fs::write(&victim, "mine").unwrap();
        let plain = || std::fs::write(&beside, content(7, 0)).unwrap();
        let link = || std::os::unix::fs::symlink(&victim, &beside).unwrap();
        for put in [&plain as &dyn Fn(), &link] {
            put();
            std::fs::write(&path, content(1, 2000)).unwrap();
            let (_, hints, warnings) = Journal::open(&path);
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!((lines(&path), known(&hints)), (1, 1));
            assert!(std::fs::symlink_metadata(&beside).is_err());
            assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
        }
        // Where it cannot be made shorter, the file stays as it is, and in use.
        let is_left_alone = || {
            let (journal, hints, warnings) = Journal::open(&path);
            assert!(warnings.is_empty() && journal.is_working());
            assert_eq!((lines(&path), known(&hints)), (2001, 1));
        };
        std::fs::write(&path, content(1, 2000)).unwrap();
        std::fs::create_dir(&beside).unwrap();
        is_left_alone();
        std::fs::remove_dir(&beside).unwrap();
        // Only root can give a file away.
        if std::os::unix::fs::chown(&path, Some(1), None).is_ok() {
            is_left_alone();
            assert!(!beside.exists());
        }
    }

    #[test]
    fn the_file_is_replaced_and_not_a_link_to_it() {
        let folder = Folder::new("link");
        let (path, link) = (folder.0.join("records"), folder.0.join("link"));
        std::fs::write(&path, content(1, 2000)).unwrap();
        std::os::unix::fs::symlink("records", &link).unwrap();
        drop(Journal::open(&link));
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(lines(&path), 1);
    }

    #[test]
    fn a_run_that_comes_while_the_file_is_made_shorter_loses_no_line() {
        let folder = Folder::new("meanwhile");
        let path = folder.0.join("records");
        std::fs::write(&path, content(3, 2000)).unwrap();
        let (mut file, is_alone) = open_locked(&path).unwrap();
        assert!(is_alone);
        let mut hints = Hints::default();
        let read = read(&mut file, &mut hints).unwrap();
        let append = |journal: &Journal, repository: &str| {
            journal.append(&Record::blob(&place(repository), &descriptor()));
        };
        // It has no lock, and writes behind what was read: to the old file, and to the new one.
        let (late, late_hints, warnings) = Journal::open(&path);
        assert!(warnings.is_empty());
        assert_eq!(known(&late_hints), 3);
        append(&late, "a.b/before");
        let file = shorten(&path, file, &read, &hints);
        append(&late, "a.b/after");
        assert_eq!(lines(&path), 3 + 2);
        // Once it can be had, it has its part of the lock.
        share(&file);
        append(&late, "a.b/shared");
        drop(file);
        let other = open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(late);
        let (_, hints, warnings) = Journal::open(&path);
        assert!(warnings.is_empty());
        assert_eq!(known(&hints), 3);
        let holders = hints.holders(&descriptor().digest);
        assert_eq!(
            holders,
            ["a.b/before", "a.b/after", "a.b/shared"].map(place)
        );
    }

    #[test]
    fn runs_that_come_and_go_lose_no_line_and_make_the_file_shorter() {
        let folder = Folder::new("runs");
        let path = folder.0.join("records");
        let run = |name: &str| {
            for round in 0..6 {
                let (journal, ..) = Journal::open(&path);
                let at = place(&format!("a.b/{name}{round}"));
                journal.append(&Record::blob(&at, &descriptor()));
                for _ in 0..500 {
                    journal.append(&Record::blob(&place("a.b/same"), &descriptor()));
                }
            }
        };
        std::thread::scope(|scope| {
            for name in ["one", "two", "three"] {
                std::thread::Builder::new()
                    .spawn_scoped(scope, move || run(name))
                    .unwrap();
            }
        });
        let (_, hints, warnings) = Journal::open(&path);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(hints.holders(&descriptor().digest).len(), 3 * 6 + 1);
        assert!(lines(&path) < 3 * 6 * 501);
    }

    #[test]
    fn a_file_that_was_taken_away_is_made_again() {
        let folder = Folder::new("away");
        let path = folder.0.join("records");
        let (journal, ..) = Journal::open(&path);
        std::fs::rename(&path, folder.0.join("old")).unwrap();
        journal.append(&Record::blob(&place("a.b/c"), &descriptor()));
        assert!(journal.is_working());
        let holders = Journal::open(&path).1.holders(&descriptor().digest);
        assert_eq!(holders, [place("a.b/c")]);
    }
}
