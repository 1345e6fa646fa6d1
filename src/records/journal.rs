//! The records file itself: its locks, its reading at the start, and the lines that are appended. Not here: what the lines
//! say (`record.rs`, `hints.rs`).

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{Hints, Record};

/// The appending end of the file.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<Option<File>>,
}

impl Journal {
    /// A journal that keeps nothing.
    pub fn disabled() -> Self {
        Self {
            file: Mutex::new(None),
        }
    }

    /// Opens the file, made where it is missing, and reads what it says. Whatever is wrong with it is a warning: the
    /// run goes on with fewer hints or without records.
    pub fn open(path: &Path) -> (Self, Hints, Vec<String>) {
        let mut hints = Hints::default();
        let mut warnings = Vec::new();
        let file = match open_locked(path) {
            Ok((mut file, is_alone)) => match read(&mut file, &mut hints) {
                Ok(unread) => {
                    if is_alone {
                        // Other runs may join in from here on.
                        share(&file);
                    } else {
                        hints.forget_uploads();
                    }
                    if let Some(line) = unread.first {
                        let count = unread.count;
                        let path = path.display();
                        warnings.push(format!(
                            "{path}:{line}: no record (in all {count} such lines), skipped"
                        ));
                    }
                    Some(file)
                }
                Err(error) => {
                    warnings.push(format!(
                        "cannot read the records {}: {error}",
                        path.display()
                    ));
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
        (
            Self {
                file: Mutex::new(file),
            },
            hints,
            warnings,
        )
    }

    /// Appends a line, written whole. After the first failure nothing more is recorded.
    pub fn append(&self, record: &Record) {
        let line = record.line();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = file.as_mut()
            && let Err(error) =
                keep_private(open, record).and_then(|()| open.write_all(line.as_bytes()))
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

fn share(file: &File) {
    if let Err(error) = file.try_lock_shared() {
        log::debug!("no lock on the records: {error}");
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
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file",
        ));
    }
    Ok(file)
}

/// Lines that could not be understood.
#[derive(Default)]
struct Unread {
    first: Option<u64>,
    count: u64,
}

fn read(file: &mut File, hints: &mut Hints) -> io::Result<Unread> {
    let mut unread = Unread::default();
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::with_capacity(64 * 1024, &*file);
    let mut line = Vec::new();
    let mut number = 0;
    let mut is_terminated = true;
    loop {
        line.clear();
        number += 1;
        // A line of any length costs no more memory than the longest that is read.
        let length = reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        is_terminated = line.last() == Some(&b'\n');
        let is_whole = is_terminated || (length as u64) < MAX_LINE;
        if !is_whole {
            is_terminated = skip_line(&mut reader)?;
        }
        let text = str::from_utf8(&line)
            .map(str::trim)
            .ok()
            .filter(|_| is_whole);
        if text.is_some_and(|text| text.is_empty() || hints.add_line(text)) {
            continue;
        }
        unread.first.get_or_insert(number);
        unread.count += 1;
    }
    if !is_terminated {
        // Or the next record would be glued to a torn one, and both be lost.
        file.write_all(b"\n")?;
    }
    Ok(unread)
}

/// Reads to the end of the line; tells whether it has one.
fn skip_line(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let length = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(length);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// How many times in a row another file is found in the place of the one just opened, before that is borne.
const MAX_REPLACED: u32 = 8;
/// A longer line is no record, in bytes.
const MAX_LINE: u64 = 1024 * 1024;
/// Opening a pipe that nobody writes to must not wait. The same number on every Linux that Rust builds for here.
const O_NONBLOCK: i32 = 0o4000;

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::super::tests::Folder;
    use super::*;

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
}
