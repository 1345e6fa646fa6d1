//! What the records file said when the run began, in tables for a million lines. Not here: what follows from a hint.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::record::{Head, Line, MadeOf};
use crate::oci::{Digest, Host, PlatformFilter, Repository, Tag};
use crate::store::{Place, Session};

/// What the file said when the run began. The tables are sorted, and of lines that say the same the last counts.
#[derive(Debug, Default)]
pub struct Hints {
    /// The texts of places, checked, one behind the other: a file may name as many as it has lines.
    places: String,
    /// Where each of them ends.
    place_ends: Vec<u32>,
    /// The place of a text's hash. Of two texts with one hash the later counts, which costs hints and nothing else.
    place_numbers: HashMap<u64, u32>,
    hasher: RandomState,
    host_numbers: HashMap<Host, u32>,
    /// The places that were seen to have a blob.
    blobs: Vec<Seen>,
    /// The original's lines: a registry, some repository of which has the blob.
    somewhere: Vec<Seen>,
    /// The newest digest of each tag.
    tags: Vec<Tagged>,
    /// When images were made, as far as they say, and where the lines begin.
    created: HashMap<Digest, (Option<SystemTime>, u64)>,
    /// Uploads that were left open.
    uploads: HashMap<(u32, Digest), OpenUpload>,
    /// Where lines begin that a later version wrote.
    later: Vec<u64>,
    /// The times of the lines that vouch for their tags, in seconds since 1970.
    trusted: Option<RangeInclusive<u64>>,
}

/// A blob at the place or host of this number. The order of the fields is that of the table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    digest: Digest,
    at: u32,
    /// Where its line begins.
    start: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tagged {
    at: u32,
    tag: Tag,
    start: u64,
    digest: Digest,
    /// In seconds since 1970.
    time: u64,
    filtered: Option<Box<Filtered>>,
}

/// What a platform filter made a tag of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filtered {
    /// The filter's text.
    pub platforms: Box<str>,
    /// The digest at the source.
    pub source: Digest,
}

#[derive(Debug, Default)]
struct OpenUpload {
    session: Session,
    /// Where the line of each state begins.
    starts: Vec<u64>,
}

impl Hints {
    /// The places that have been seen to have a blob, in the order of their lines.
    pub fn holders(&self, digest: &Digest) -> Vec<Place> {
        let first = self.blobs.partition_point(|row| row.digest < *digest);
        let rows = self.blobs.iter().skip(first);
        let mut rows: Vec<&Seen> = rows.take_while(|row| row.digest == *digest).collect();
        rows.sort_unstable_by_key(|row| row.start);
        rows.iter()
            .filter_map(|row| parse_place(self.place_text(row.at)?))
            .collect()
    }

    /// Whether a place was seen to have a blob, or its registry was said to.
    pub fn has_blob(&self, place: &Place, digest: &Digest) -> bool {
        let has = |table: &[Seen], at: Option<u32>| {
            let find = |at| table.binary_search_by(|row| (&row.digest, row.at).cmp(&(digest, at)));
            at.is_some_and(|at| find(at).is_ok())
        };
        let host = match place {
            Place::Registry(host, _) => self.host_numbers.get(host).copied(),
            Place::Layout(_) => None,
        };
        has(&self.blobs, self.number(place)) || has(&self.somewhere, host)
    }

    /// The digest that a tag was last seen to have.
    pub fn tag(&self, place: &Place, tag: &Tag) -> Option<&Digest> {
        self.tagged(place, tag).map(|row| &row.digest)
    }

    /// Whether any tag of a place was seen.
    pub fn has_tags(&self, place: &Place) -> bool {
        let row = |at| self.tags.get(self.tags.partition_point(|row| row.at < at));
        let at = self.number(place);
        at.is_some_and(|at| row(at).is_some_and(|row| row.at == at))
    }

    /// What a tag was made of, where a filter was at it; with the digest that was made.
    pub fn filtered(&self, place: &Place, tag: &Tag) -> Option<(&Filtered, &Digest)> {
        let row = self.tagged(place, tag)?;
        Some((row.filtered.as_deref()?, &row.digest))
    }

    /// From now on the newest line of a registry's tag vouches for it where it was written within `time` before `now`.
    pub fn trust(&mut self, time: Duration, now: SystemTime) {
        let now = seconds(now);
        self.trusted = Some(now.saturating_sub(time.as_secs())..=now);
    }

    /// The digest of a tag that need not be asked for. There is nothing to spare by that in a layout.
    pub fn vouched(&self, place: &Place, tag: &Tag) -> Option<&Digest> {
        let trusted = self.trusted.as_ref()?;
        let row = self.tagged(place, tag)?;
        let vouches = matches!(place, Place::Registry(..)) && trusted.contains(&row.time);
        vouches.then_some(&row.digest)
    }

    /// Whether a line that says that a tag is `digest` now, made of `made_of`, would tell nothing new.
    pub fn is_recorded(
        &self,
        place: &Place,
        tag: &Tag,
        digest: &Digest,
        made_of: &MadeOf<'_>,
    ) -> bool {
        let recorded = match self.trusted {
            Some(_) => self.vouched(place, tag),
            None => self.tag(place, tag),
        };
        let filtered = self.filtered(place, tag).map(|(filtered, _)| filtered);
        let is_same = match (made_of.wanted, filtered) {
            (Some(wanted), Some(filtered)) => {
                *filtered.platforms == *wanted.to_string() && filtered.source == *made_of.digest
            }
            (Some(_), None) => false,
            // Where nothing was left out, it does not matter that somebody might have.
            (None, filtered) => !filtered.is_some_and(Filtered::is_sparse),
        };
        is_same && recorded == Some(digest)
    }

    /// When the image of this digest was made; the inner `None` where it is known not to say.
    pub fn created(&self, digest: &Digest) -> Option<Option<SystemTime>> {
        self.created.get(digest).map(|(time, _)| *time)
    }

    /// An upload of a blob to a place that an earlier run left open. Only the run that had the file to itself at its
    /// start is told: no upload is gone on with by two.
    pub fn upload(&self, place: &Place, digest: &Digest) -> Option<&Session> {
        let key = (self.number(place)?, digest.clone());
        self.uploads.get(&key).map(|upload| &upload.session)
    }

    /// Forgets the uploads: another run may be going on with them.
    pub(super) fn forget_uploads(&mut self) {
        self.uploads.clear();
    }

    /// Takes in the line that begins at `start`; `false` where it cannot be understood.
    pub(super) fn add_line(&mut self, text: &str, start: u64) -> bool {
        if !text.starts_with('{') {
            return self.add_line_of_original(text, start).is_some();
        }
        let is_later = |text| serde_json::from_str::<Head<'_>>(text).is_ok_and(|h| h.is_later());
        match serde_json::from_str::<Line<'_>>(text) {
            Ok(line) if !line.is_later() => return self.add(&line, start).is_some(),
            Err(_) if !is_later(text) => return false,
            _ => self.later.push(start),
        }
        true
    }

    /// All lines were taken in: brings the tables in order.
    pub(super) fn complete(&mut self) {
        let is_same = |one: &Seen, other: &Seen| (&one.digest, one.at) == (&other.digest, other.at);
        sort(&mut self.blobs, is_same);
        sort(&mut self.somewhere, is_same);
        sort(&mut self.tags, |one, other| {
            (one.at, &one.tag) == (other.at, &other.tag)
        });
    }

    /// Where the lines begin without which the file would say less, in their order.
    pub(super) fn live_lines(&self) -> Vec<u64> {
        let seen = self.blobs.iter().chain(&self.somewhere);
        let uploads = self.uploads.values().flat_map(|upload| &upload.starts);
        let mut live: Vec<u64> = seen
            .map(|row| row.start)
            .chain(self.tags.iter().map(|row| row.start))
            .chain(self.created.values().map(|(_, start)| *start))
            .chain(uploads.chain(&self.later).copied())
            .collect();
        live.sort_unstable();
        live
    }

    fn add(&mut self, line: &Line<'_>, start: u64) -> Option<()> {
        let digest = Digest::parse(&line.digest).ok()?;
        if line.kind == "created" {
            let created = match line.created.as_deref()? {
                "" => None,
                text => Some(humantime::parse_rfc3339(text).ok()?),
            };
            self.created.insert(digest, (created, start));
            return Some(());
        }
        let at = self.place(&line.at)?;
        match &*line.kind {
            "blob" => {
                self.uploads.remove(&(at, digest.clone()));
                self.blobs.push(Seen { digest, at, start });
            }
            "image" => self.tags.push(Tagged {
                at,
                tag: Tag::parse(&line.tag).ok()?,
                start,
                digest,
                time: humantime::parse_rfc3339(&line.time).map_or(NEVER, seconds),
                filtered: line.platforms.as_deref().and_then(|platforms| {
                    let (_, source) = line.from.rsplit_once('@')?;
                    Some(Box::new(Filtered {
                        platforms: platforms.into(),
                        source: Digest::parse(source).ok()?,
                    }))
                }),
            }),
            _ => {
                let is_whole = !line.location.is_empty() && !line.hash.is_empty();
                let state = (line.offset.filter(|_| is_whole)?, line.hash.to_string());
                let upload = self.uploads.entry((at, digest)).or_default();
                upload.add(&line.location, state, start);
            }
        }
        Some(())
    }

    /// `registry,digest,size`, as image-syncer 1.0 wrote it.
    fn add_line_of_original(&mut self, line: &str, start: u64) -> Option<()> {
        let mut fields = line.split(',');
        let (Some(host), Some(digest), Some(_), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        let (host, digest) = (Host::parse(host).ok()?, Digest::parse(digest).ok()?);
        let next = u32::try_from(self.host_numbers.len()).ok()?;
        let at = *self.host_numbers.entry(host).or_insert(next);
        self.somewhere.push(Seen { digest, at, start });
        Some(())
    }

    fn place(&mut self, text: &str) -> Option<u32> {
        if let Some(number) = self.place_number(text) {
            return Some(number);
        }
        parse_place(text)?;
        let number = u32::try_from(self.place_ends.len()).ok()?;
        let end = u32::try_from(self.places.len() + text.len()).ok()?;
        self.places.push_str(text);
        self.place_ends.push(end);
        let hash = self.hasher.hash_one(text);
        self.place_numbers.insert(hash, number);
        Some(number)
    }

    fn number(&self, place: &Place) -> Option<u32> {
        self.place_number(&place.to_string())
    }

    fn place_number(&self, text: &str) -> Option<u32> {
        let number = *self.place_numbers.get(&self.hasher.hash_one(text))?;
        (self.place_text(number) == Some(text)).then_some(number)
    }

    fn place_text(&self, number: u32) -> Option<&str> {
        let number = number as usize;
        let end = *self.place_ends.get(number)? as usize;
        let before = number.checked_sub(1).and_then(|at| self.place_ends.get(at));
        self.places.get(before.map_or(0, |&end| end as usize)..end)
    }

    fn tagged(&self, place: &Place, tag: &Tag) -> Option<&Tagged> {
        let at = self.number(place)?;
        let find = |row: &Tagged| (row.at, &row.tag).cmp(&(at, tag));
        self.tags.get(self.tags.binary_search_by(find).ok()?)
    }
}

impl Filtered {
    /// Whether children of the index were left out.
    pub fn is_sparse(&self) -> bool {
        PlatformFilter::is_sparse_text(&self.platforms)
    }
}

impl OpenUpload {
    fn add(&mut self, location: &str, state: (u64, String), start: u64) {
        let states = &mut self.session.states;
        // A smaller offset: the upload was begun anew.
        if states.last().is_some_and(|(offset, _)| *offset >= state.0) {
            states.clear();
            self.starts.clear();
        }
        if states.len() >= MAX_STATES {
            states.remove(0);
            self.starts.remove(0);
        }
        states.push(state);
        self.starts.push(start);
        location.clone_into(&mut self.session.location);
    }
}

fn parse_place(text: &str) -> Option<Place> {
    if let Some(path) = text.strip_prefix("oci:") {
        return Some(Place::Layout(path.into()));
    }
    let (host, repository) = text.split_once('/')?;
    let repository = Repository::parse(repository).ok()?;
    Some(Place::Registry(Host::parse(host).ok()?, repository))
}

fn sort<T: Ord>(table: &mut Vec<T>, is_same: impl Fn(&T, &T) -> bool) {
    table.sort_unstable();
    table.dedup_by(|later, earlier| {
        let is_same = is_same(later, earlier);
        if is_same {
            std::mem::swap(later, earlier);
        }
        is_same
    });
    table.shrink_to_fit();
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// States that are kept of an upload. Registries have practically all that was sent, so the newest ones matter.
const MAX_STATES: usize = 16;
/// The time of a line that has none: such a line vouches for nothing.
const NEVER: u64 = u64::MAX;
