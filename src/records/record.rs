//! One line of the records file. Not here: reading (`hints.rs`) and writing (`journal.rs`) the file.

use std::borrow::Cow;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::oci::{Descriptor, Digest, Hasher, PlatformFilter, Tag};
use crate::store::Place;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    v: u64,
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
        /// Which platforms of it were wanted.
        #[serde(skip_serializing_if = "Option::is_none")]
        platforms: Option<String>,
        time: String,
    },
    /// When an image was made; empty where it does not say.
    Created { digest: String, created: String },
    /// An upload that another process can go on with.
    Upload {
        at: String,
        digest: String,
        location: String,
        offset: u64,
        hash: String,
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

    /// An upload to `place` that has come to `offset`, where the content so far hashes to what `hasher` holds.
    pub fn upload(
        place: &Place,
        digest: &Digest,
        location: &str,
        offset: u64,
        hasher: &Hasher,
    ) -> Self {
        let entry = Entry::Upload {
            at: place.to_string(),
            digest: digest.to_string(),
            location: location.to_owned(),
            offset,
            hash: hasher.state(),
            time: String::new(),
        };
        Self { v: VERSION, entry }
    }

    /// When the image of a digest was made, or that it does not say. That can never change.
    pub fn created(digest: &Digest, created: Option<SystemTime>) -> Self {
        let text = |time| humantime::format_rfc3339_nanos(time).to_string();
        let entry = Entry::Created {
            digest: digest.to_string(),
            created: created.map_or_else(String::new, text),
        };
        Self { v: VERSION, entry }
    }

    pub(super) fn is_upload(&self) -> bool {
        matches!(self.entry, Entry::Upload { .. })
    }

    /// The line as it is written now, its end included.
    pub(super) fn line(&self) -> String {
        let mut record = self.clone();
        if let Entry::Image { time, .. } | Entry::Upload { time, .. } = &mut record.entry {
            *time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        }
        let mut line = serde_json::to_string(&record).unwrap_or_default();
        line.push('\n');
        line
    }

    /// A tag of `place` that is `digest` now, which was made of `made_of`.
    pub fn image(place: &Place, tag: &Tag, digest: &Digest, made_of: &MadeOf<'_>) -> Self {
        let entry = Entry::Image {
            at: place.to_string(),
            tag: tag.to_string(),
            digest: digest.to_string(),
            from: format!("{}@{}", made_of.place, made_of.digest),
            platforms: made_of.wanted.map(ToString::to_string),
            time: String::new(),
        };
        Self { v: VERSION, entry }
    }

    /// The same of a tag that came to be another digest than its source.
    #[must_use]
    pub fn of(mut self, new: &Digest) -> Self {
        if let Entry::Image { digest, .. } = &mut self.entry {
            *digest = new.to_string();
        }
        self
    }
}

/// What the source of a tag is, and what of it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct MadeOf<'a> {
    /// The source's repository.
    pub place: &'a Place,
    /// The digest of its manifest.
    pub digest: &'a Digest,
    /// Which platforms; `None`: it was not filtered.
    pub wanted: Option<&'a PlatformFilter>,
}

/// A line as read: fields of other kinds are ignored, and nothing is copied out of the line that has no escapes in it.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(default)]
    pub(super) v: u64,
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) at: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) digest: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) from: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) platforms: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) tag: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) location: Cow<'a, str>,
    pub(super) offset: Option<u64>,
    #[serde(borrow, default)]
    pub(super) hash: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) time: Cow<'a, str>,
    pub(super) created: Option<Cow<'a, str>>,
}

/// What tells whether a line was written by a later version, which may mean anything by the other fields.
#[derive(Deserialize)]
pub(super) struct Head<'a> {
    #[serde(default)]
    v: u64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

impl Head<'_> {
    pub(super) fn is_later(&self) -> bool {
        is_later(self.v, &self.kind)
    }
}

impl Line<'_> {
    pub(super) fn is_later(&self) -> bool {
        is_later(self.v, &self.kind)
    }
}

fn is_later(version: u64, kind: &str) -> bool {
    version > VERSION || !matches!(kind, "blob" | "created" | "image" | "upload")
}

/// The version of the lines.
const VERSION: u64 = 1;
