//! Puts a file with only the live lines of the records into their place. Not here: which lines those are (`hints.rs`),
//! and when it is worth it (`journal.rs`).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Writes the lines of `old` that begin at `live`, and all that stands behind `end`, into a new file, and puts that
/// into the place of the old one. Whoever calls this has the exclusive lock of the old file, and gets the new one with
/// its own.
pub(super) fn compact(path: &Path, old: &File, live: &[u64], end: u64) -> io::Result<File> {
    // The file itself is replaced, not a link to it.
    let path = fs::canonicalize(path)?;
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(SUFFIX);
    let beside = path.with_file_name(name);
    // What a killed run left: nobody else is here under the lock.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create_new(true).mode(0o600);
    let new = options.open(&beside)?;
    let replaced = fill(&new, old, live).and_then(|()| fs::rename(&beside, &path));
    if let Err(error) = replaced {
        fs::remove_file(&beside).ok();
        return Err(error);
    }
    // Runs that were begun under the exclusive lock have none, and may have written to the old file until now. From
    // here on they see that it is no longer in its place.
    copy_tail(old, end, &new)?;
    Ok(new)
}

fn fill(new: &File, mut old: &File, live: &[u64]) -> io::Result<()> {
    let (mine, before) = (new.metadata()?, old.metadata()?);
    if (mine.uid(), mine.gid()) != (before.uid(), before.gid()) {
        return Err(io::Error::other("the file belongs to somebody else"));
    }
    new.set_permissions(before.permissions())?;
    new.try_lock()?;
    old.seek(SeekFrom::Start(0))?;
    let mut writer = BufWriter::new(new);
    copy_lines(BufReader::with_capacity(64 * 1024, old), live, &mut writer)?;
    writer.flush()?;
    // The old lines were on the disk already.
    new.sync_all()
}

/// Copies the lines that begin at these offsets, from first to last. The reader is at its start.
pub(super) fn copy_lines(
    mut reader: impl BufRead + Seek,
    starts: &[u64],
    writer: &mut impl Write,
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut position = 0;
    for &start in starts {
        reader.seek_relative((start - position).cast_signed())?;
        line.clear();
        position = start + reader.read_until(b'\n', &mut line)? as u64;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        writer.write_all(&line)?;
    }
    Ok(())
}

/// Copies the whole lines behind `end`. One that is being written is written once more by its writer.
fn copy_tail(mut old: &File, end: u64, mut new: &File) -> io::Result<()> {
    let mut tail = Vec::new();
    old.seek(SeekFrom::Start(end))?;
    old.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n');
    tail.truncate(whole.map_or(0, |at| at + 1));
    new.write_all(&tail)
}

/// What the name of the new file ends with until it is in its place.
const SUFFIX: &str = ".compacted";

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::Hints;
    use super::super::journal::read_lines;
    use super::super::tests::{descriptor, place};
    use super::*;
    use crate::oci::Tag;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const LATER: &str = r#"{"v":1,"kind":"later","at":7}"#;

    fn lines() -> [String; 13] {
        let line = |fields: &str| format!(r#"{{"v":1,"digest":"{A}",{fields}}}"#);
        [
            line(r#""kind":"blob","at":"a.b/c","size":7"#),
            line(r#""kind":"blob","at":"a.b/d","size":7"#),
            line(r#""kind":"image","at":"a.b/c","tag":"t","time":"2026-01-01T00:00:00Z""#),
            line(r#""kind":"image","at":"a.b/c","tag":"t""#).replace("aaa", "bbb"),
            line(r#""kind":"upload","at":"a.b/c","location":"x","offset":5,"hash":"h""#),
            line(r#""kind":"upload","at":"a.b/c","location":"y","offset":9,"hash":"i""#),
            line(r#""kind":"created","created":"2026-01-01T00:00:00.5Z""#),
            line(r#""kind":"created","created":"""#),
            format!("e.f,{A},7"),
            LATER.to_owned(),
            line(r#""kind":"blob","at":"a.b/c""#).replace(r#""v":1"#, r#""v":2"#),
            r#"{"v":1,"kind":"blo"#.to_owned(),
            String::new(),
        ]
    }

    fn read(text: &[u8]) -> Hints {
        let mut hints = Hints::default();
        read_lines(text, &mut hints).unwrap();
        hints
    }

    /// All that can be asked of hints about these lines.
    fn answers(hints: &Hints) -> impl PartialEq + std::fmt::Debug {
        let (digest, tag) = (descriptor().digest, Tag::parse("t").unwrap());
        let at = ["a.b/c", "a.b/d", "e.f/g"].map(place);
        (
            hints.holders(&digest),
            hints.created(&digest),
            at.clone().map(|place| hints.has_blob(&place, &digest)),
            at.clone().map(|place| hints.tag(&place, &tag).cloned()),
            at.map(|place| hints.upload(&place, &digest).cloned()),
        )
    }

    /// Leaves the stale lines out, expects the rest to say the same, and gives it.
    #[track_caller]
    fn check(whole: &str) -> String {
        let hints = read(whole.as_bytes());
        let mut rest = Vec::new();
        copy_lines(Cursor::new(whole), &hints.live_lines(), &mut rest).unwrap();
        let again = read(&rest);
        assert_eq!(answers(&again), answers(&hints), "{whole}");
        // Each line that is left is needed, and those of later versions are all there.
        let rest = String::from_utf8(rest).unwrap();
        assert_eq!(again.live_lines().len(), rest.lines().count(), "{whole}");
        let later = |text: &str| {
            let is_later = |line: &&str| *line == LATER || line.contains(r#""v":2"#);
            text.lines().filter(is_later).count()
        };
        assert_eq!(later(&rest), later(whole), "{whole}");
        // The newest line of a tag counts.
        let newest = |text: &str| {
            let image = text.lines().rfind(|line| line.contains(r#""image""#));
            image.map(str::to_owned)
        };
        let tag = hints.tag(&place("a.b/c"), &Tag::parse("t").unwrap());
        assert_eq!(newest(&rest), newest(whole), "{whole}");
        assert_eq!(newest(whole).is_some(), tag.is_some(), "{whole}");
        rest
    }

    #[test]
    fn every_short_file_says_the_same_without_its_stale_lines() {
        let lines = lines();
        // Of the longest, only those of the first lines: the others have nothing to do with each other.
        for (length, kinds) in [(0, 13), (1, 13), (2, 13), (3, 13), (4, 6)] {
            for number in 0..usize::pow(kinds, length) {
                let chosen = (0..length).map(|at| &lines[number / kinds.pow(at) % kinds]);
                check(&chosen.map(|line| line.clone() + "\n").collect::<String>());
            }
        }
    }

    #[test]
    fn of_a_long_upload_the_newest_states_are_left() {
        let upload = &lines()[4];
        let line = |offset| upload.replace(":5", &format!(":{offset}")) + "\n";
        let whole: String = (1..=40).map(line).collect();
        assert_eq!(check(&whole), (25..=40).map(line).collect::<String>());
    }
}
