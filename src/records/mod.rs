//! The records file: what was done, one JSON object a line, appended after each acknowledgement and read once at the
//! start (decisions D6). Records are hints: they choose the order of questions and never replace one. A file that
//! cannot be read or written never fails an image. Not here: what follows from a hint.

mod compact;
mod hints;
mod journal;
mod record;

pub use hints::{Filtered, Hints};
pub use journal::Journal;
pub use record::{MadeOf, Record};

#[cfg(test)]
mod tests {

    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::oci::{Algorithm, Descriptor, Digest, Hasher, Tag};
    use crate::store::Place;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    pub(super) struct Folder(pub(super) std::path::PathBuf);

    impl Folder {
        pub(super) fn new(name: &str) -> Self {
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

    pub(super) fn place(text: &str) -> Place {
        let (host, repository) = crate::oci::reference::split_name(text).unwrap();
        Place::Registry(host, repository)
    }

    pub(super) fn descriptor() -> Descriptor {
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
        let origin = MadeOf {
            place: &place("s.b/c"),
            digest: &descriptor().digest,
            wanted: None,
        };
        journal.append(&Record::image(&at, &tag, &descriptor().digest, &origin));
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
    fn an_open_upload_is_told_to_the_run_that_is_alone() {
        let folder = Folder::new("upload");
        let path = folder.0.join("records");
        let (at, digest) = (place("a.b/c"), descriptor().digest);
        std::fs::write(&path, "").unwrap();
        let (journal, ..) = Journal::open(&path);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut expected = Vec::new();
        for offset in [5, 9] {
            hasher.update(b"x");
            journal.append(&Record::upload(
                &at,
                &digest,
                &format!("https://a.b/u{offset}"),
                offset,
                &hasher,
            ));
            expected.push((offset, hasher.state()));
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the locations are for the owner alone");
        assert_eq!(
            Journal::open(&path).1.upload(&at, &digest),
            None,
            "another run may be at it"
        );
        drop(journal);
        let (journal, hints, _) = Journal::open(&path);
        let session = hints.upload(&at, &digest).unwrap();
        assert_eq!(
            (session.location.as_str(), &session.states),
            ("https://a.b/u9", &expected)
        );
        // Begun anew, and then done.
        journal.append(&Record::upload(&at, &digest, "https://a.b/v", 3, &hasher));
        drop(journal);
        let (journal, hints, _) = Journal::open(&path);
        assert_eq!(hints.upload(&at, &digest).unwrap().states.len(), 1);
        journal.append(&Record::blob(&at, &descriptor()));
        drop(journal);
        assert_eq!(Journal::open(&path).1.upload(&at, &digest), None);
    }

    #[test]
    fn foreign_files_are_skipped_or_refused() {
        let folder = Folder::new("foreign");
        let path = folder.0.join("records");
        let original = format!("registry.hub.docker.com,{A},1000\n");
        let mut content =
            b"[1,2]\n{\"kind\":\"later\",\"v\":9,\"at\":\"x\"}\n\xff\xfe\n\n".to_vec();
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
