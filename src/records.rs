//! The records file: what was done, one JSON object a line, appended after each acknowledgement and read once at the
//! start (decisions D6). Records are hints: they choose the order of questions and never replace one. A file that
//! cannot be read or written never fails an image. Not here: what follows from a hint.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::oci::{Descriptor, Digest, Host, Repository, Tag};
use crate::store::Place;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    v: u32,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Entry {
    /// A blob that a place acknowledged.
    Blob {
        at: String,
        digest: String,
        size: u64,
    },
    /// A tag that was put, or seen equal.
    Image {
        at: String,
        tag: String,
        digest: String,
        from: String,
        time: String,
    },
}

impl Record {
    /// A blob that `place` has.
    pub fn blob(place: &Place, descriptor: &Descriptor) -> Self {
        let (at, digest) = (place.to_string(), descriptor.digest.to_string());
        Self {
            v: VERSION,
            entry: Entry::Blob {
                at,
                digest,
                size: descriptor.size,
            },
        }
    }

    /// A tag of `place` that is `digest` now, as the source is.
    pub fn image(place: &Place, tag: &Tag, digest: &Digest, source: &Place) -> Self {
        let entry = Entry::Image {
            at: place.to_string(),
            tag: tag.to_string(),
            digest: digest.to_string(),
            from: format!("{source}@{digest}"),
            time: String::new(),
        };
        Self { v: VERSION, entry }
    }
}

/// What the file said when the run began.
#[derive(Debug, Default)]
pub struct Hints {
    places: Vec<Place>,
    numbers: HashMap<String, Option<u32>>,
    /// The places that were seen to have a blob.
    blobs: HashMap<Digest, Vec<u32>>,
    /// The newest digest of each tag.
    tags: HashMap<(u32, Tag), Digest>,
    /// The original's lines: a registry, some repository of which has the blob.
    somewhere: HashMap<Digest, Vec<Host>>,
}

impl Hints {
    /// The places that have been seen to have a blob.
    pub fn holders(&self, digest: &Digest) -> Vec<Place> {
        let numbers = self
            .blobs
            .get(digest)
            .map(Vec::as_slice)
            .unwrap_or_default();
        numbers
            .iter()
            .filter_map(|&number| self.places.get(number as usize).cloned())
            .collect()
    }

    /// Whether a place was seen to have a blob, or its registry was said to.
    pub fn has_blob(&self, place: &Place, digest: &Digest) -> bool {
        let recorded = || {
            let number = self.numbers.get(&place.to_string()).copied().flatten();
            number.is_some_and(|number| {
                self.blobs
                    .get(digest)
                    .is_some_and(|places| places.contains(&number))
            })
        };
        let said = || match place {
            Place::Registry(host, _) => self
                .somewhere
                .get(digest)
                .is_some_and(|hosts| hosts.contains(host)),
            Place::Layout(_) => false,
        };
        recorded() || said()
    }

    /// The digest that a tag was last seen to have.
    pub fn tag(&self, place: &Place, tag: &Tag) -> Option<&Digest> {
        let number = self.numbers.get(&place.to_string()).copied().flatten()?;
        self.tags.get(&(number, tag.clone()))
    }

    /// Takes in a line; `false` where it cannot be understood.
    fn add_line(&mut self, line: &str) -> bool {
        if !line.starts_with('{') {
            return self.add_line_of_original(line);
        }
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            return false;
        };
        match (
            line.kind.as_str(),
            line.at,
            line.digest.as_deref().map(Digest::parse),
            line.tag,
        ) {
            ("blob", Some(at), Some(Ok(digest)), _) => {
                let Some(place) = self.place(&at) else {
                    return false;
                };
                let places = self.blobs.entry(digest).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
                true
            }
            ("image", Some(at), Some(Ok(digest)), Some(tag)) => {
                let (Some(place), Ok(tag)) = (self.place(&at), Tag::parse(&tag)) else {
                    return false;
                };
                self.tags.insert((place, tag), digest);
                true
            }
            ("blob" | "image", ..) => false,
            // A later version's.
            _ => true,
        }
    }

    /// `registry,digest,size`, as image-syncer 1.0 wrote it.
    fn add_line_of_original(&mut self, line: &str) -> bool {
        let mut fields = line.split(',');
        let (Some(host), Some(digest), Some(_), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        let (Ok(host), Ok(digest)) = (Host::parse(host), Digest::parse(digest)) else {
            return false;
        };
        let hosts = self.somewhere.entry(digest).or_default();
        if !hosts.contains(&host) {
            hosts.push(host);
        }
        true
    }

    fn place(&mut self, text: &str) -> Option<u32> {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let place = match text.strip_prefix("oci:") {
            Some(path) => Some(Place::Layout(path.into())),
            None => text.split_once('/').and_then(|(host, repository)| {
                Some(Place::Registry(
                    Host::parse(host).ok()?,
                    Repository::parse(repository).ok()?,
                ))
            }),
        };
        let number = place.and_then(|place| {
            self.places.push(place);
            u32::try_from(self.places.len() - 1).ok()
        });
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

/// A line as read: fields of other kinds and versions are ignored.
#[derive(Deserialize)]
struct Line {
    kind: String,
    at: Option<String>,
    digest: Option<String>,
    tag: Option<String>,
}

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
        let file = match open_shared(path) {
            Ok(mut file) => match read(&mut file, &mut hints) {
                Ok(unread) => {
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
        let mut record = record.clone();
        if let Entry::Image { time, .. } = &mut record.entry {
            *time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        }
        let Ok(mut line) = serde_json::to_string(&record) else {
            return;
        };
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = file.as_mut()
            && let Err(error) = open.write_all(line.as_bytes())
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

/// Opens the file and holds its lock together with all other runs, until the journal is dropped: whoever wants to put
/// another file in its place has to wait for the exclusive lock. Where that has just happened, the new one is opened. A
/// lock that cannot be had, on a network or from a script that locks this very file, is gone without.
fn open_shared(path: &Path) -> io::Result<File> {
    let mut file = open(path)?;
    for _ in 0..MAX_REPLACED {
        if let Err(error) = file.try_lock_shared() {
            log::debug!("no lock on the records: {error}");
        }
        if is_at(&file, path) {
            break;
        }
        file = open(path)?;
    }
    Ok(file)
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
/// The version of the lines.
const VERSION: u32 = 1;
/// A longer line is no record, in bytes.
const MAX_LINE: u64 = 1024 * 1024;
/// Opening a pipe that nobody writes to must not wait. The same number on every Linux that Rust builds for here.
const O_NONBLOCK: i32 = 0o4000;

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("records-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn place(text: &str) -> Place {
        let (host, repository) = crate::oci::reference::split_name(text).unwrap();
        Place::Registry(host, repository)
    }

    fn descriptor() -> Descriptor {
        Descriptor {
            media_type: "x".into(),
            digest: Digest::parse(A).unwrap(),
            size: 7,
        }
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let folder = Folder::new("again");
        let path = folder.0.join("records");
        let (journal, _, warnings) = Journal::open(&path);
        assert!(warnings.is_empty());
        let (at, tag) = (place("a.b/c"), Tag::parse("v1").unwrap());
        journal.append(&Record::blob(&at, &descriptor()));
        journal.append(&Record::image(
            &at,
            &tag,
            &descriptor().digest,
            &place("s.b/c"),
        ));
        let (_, hints, warnings) = Journal::open(&path);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(
            hints.holders(&descriptor().digest),
            std::slice::from_ref(&at)
        );
        assert!(hints.has_blob(&at, &descriptor().digest));
        assert!(!hints.has_blob(&place("a.b/d"), &descriptor().digest));
        assert_eq!(hints.tag(&at, &tag), Some(&descriptor().digest));
        // Each line has more than two commas, so the original never takes one for its own.
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            assert!(line.matches(',').count() > 2, "{line}");
        }
    }

    #[test]
    fn a_torn_tail_costs_one_line_and_glues_nothing() {
        let folder = Folder::new("torn");
        let path = folder.0.join("records");
        let (journal, ..) = Journal::open(&path);
        let places = [place("a.b/c1"), place("a.b/c2"), place("a.b/c3")];
        journal.append(&Record::blob(&places[0], &descriptor()));
        journal.append(&Record::blob(&places[1], &descriptor()));
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (journal, ..) = Journal::open(&path);
            journal.append(&Record::blob(&places[2], &descriptor()));
            let (_, hints, warnings) = Journal::open(&path);
            let kept = if length + 1 >= whole.len() {
                2
            } else {
                usize::from(length + 1 >= first)
            };
            let mut expected = places[..kept].to_vec();
            expected.push(places[2].clone());
            assert_eq!(hints.holders(&descriptor().digest), expected, "at {length}");
            assert!(warnings.len() <= 1);
        }
    }

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
        let file = open_shared(&path).unwrap();
        assert!(is_at(&file, &path));
        std::fs::rename(&path, folder.0.join("old")).unwrap();
        assert!(!is_at(&file, &path));
        std::fs::write(&path, "").unwrap();
        assert!(!is_at(&file, &path));
        assert!(is_at(&open_shared(&path).unwrap(), &path));
    }

    #[test]
    fn foreign_files_are_skipped_or_refused() {
        let folder = Folder::new("foreign");
        let path = folder.0.join("records");
        let original = format!("registry.hub.docker.com,{A},1000\n");
        let mut content =
            b"[1,2]\n{\"kind\":\"upload\",\"v\":1,\"at\":\"x\"}\n\xff\xfe\n\n".to_vec();
        content.extend(vec![b'x'; 3 * 1024 * 1024]);
        content.extend(format!("\n{original}").into_bytes());
        std::fs::write(&path, content).unwrap();
        let (journal, hints, warnings) = Journal::open(&path);
        assert!(journal.is_working());
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains(":1: no record (in all 3 such lines)"),
            "{warnings:?}"
        );
        assert!(hints.has_blob(&place("docker.io/a/b"), &descriptor().digest));
        for bad in [
            folder.0.as_path(),
            Path::new("/dev/zero"),
            Path::new("/proc/nonexistent/records"),
        ] {
            let (journal, _, warnings) = Journal::open(bad);
            assert!(
                !journal.is_working() && warnings.len() == 1,
                "{}",
                bad.display()
            );
        }
    }
}
