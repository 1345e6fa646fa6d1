//! What the records file said when the run began. Not here: what follows from a hint.

use std::collections::HashMap;

use super::record::Line;
use crate::oci::{Digest, Host, Repository, Tag};
use crate::store::{Place, Session};

/// What the file said when the run began.
#[derive(Debug, Default)]
pub struct Hints {
    places: Vec<Place>,
    numbers: HashMap<String, Option<u32>>,
    /// The places that were seen to have a blob.
    blobs: HashMap<Digest, Vec<u32>>,
    /// The newest digest of each tag.
    tags: HashMap<(u32, Tag), Digest>,
    /// Uploads that were left open.
    uploads: HashMap<(u32, Digest), Session>,
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

    /// An upload of a blob to a place that an earlier run left open. Only the run that had the file to itself at its
    /// start is told: no upload is gone on with by two.
    pub fn upload(&self, place: &Place, digest: &Digest) -> Option<&Session> {
        let number = self.numbers.get(&place.to_string()).copied().flatten()?;
        self.uploads.get(&(number, digest.clone()))
    }

    /// Forgets the uploads: another run may be going on with them.
    pub(super) fn forget_uploads(&mut self) {
        self.uploads.clear();
    }

    /// Takes in a line; `false` where it cannot be understood.
    pub(super) fn add_line(&mut self, line: &str) -> bool {
        if !line.starts_with('{') {
            return self.add_line_of_original(line);
        }
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            return false;
        };
        if !matches!(line.kind.as_str(), "blob" | "image" | "upload") {
            return true; // a later version's
        }
        let digest = line
            .digest
            .as_deref()
            .and_then(|digest| Digest::parse(digest).ok());
        let place = line.at.as_deref().and_then(|at| self.place(at));
        let (Some(digest), Some(place)) = (digest, place) else {
            return false;
        };
        match line.kind.as_str() {
            "blob" => {
                self.uploads.remove(&(place, digest.clone()));
                let places = self.blobs.entry(digest).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
                true
            }
            "image" => {
                let tag = line.tag.as_deref().and_then(|tag| Tag::parse(tag).ok());
                tag.is_some_and(|tag| {
                    self.tags.insert((place, tag), digest);
                    true
                })
            }
            _ => {
                let (Some(location), Some(offset), Some(hash)) =
                    (line.location, line.offset, line.hash)
                else {
                    return false;
                };
                self.add_upload(place, digest, location, (offset, hash));
                true
            }
        }
    }

    fn add_upload(&mut self, place: u32, digest: Digest, location: String, state: (u64, String)) {
        let session = self.uploads.entry((place, digest)).or_default();
        // A smaller offset: the upload was begun anew.
        if session
            .states
            .last()
            .is_some_and(|(offset, _)| *offset >= state.0)
        {
            session.states.clear();
        }
        if session.states.len() >= MAX_STATES {
            session.states.remove(0);
        }
        session.states.push(state);
        session.location = location;
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

/// States that are kept of an upload. Registries have practically all that was sent, so the newest ones matter.
const MAX_STATES: usize = 16;
