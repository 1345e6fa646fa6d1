//! Places and their hosts as the run knows them: who answers, what tags a repository has. Not here: when a host may be
//! asked (`schedule.rs`).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::arena::Id;
use super::graph::{Graph, News};
use super::image::ImageId;
use super::task::{Failure, Kind, State};
use crate::oci::{Host, Tag};
use crate::store::Place;

pub(super) type PlaceId = Id<PlaceRow>;
pub(super) type HostId = Id<HostRow>;

/// Who a place's requests go to: limits and pauses are a host's. Each layout is a host of its own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum HostKey {
    Registry(Host),
    Layout(PathBuf),
}

pub(super) struct HostRow {
    pub(super) name: String,
    /// `None` for a layout, of which nothing is bounded.
    pub(super) registry: Option<Host>,
    /// The user bounds its bytes: it would hold up the other targets of a blob.
    pub(super) is_narrow: bool,
    /// A mount from a repository that surely had the blob was denied: not tried again in this run.
    pub(super) mounts: bool,
    /// It cannot be asked within the next half minute: images do not wait for it.
    pub(super) late: bool,
    /// Attempts that failed and were no pause: the first is told, the others are the same trouble until it is over.
    pub(super) failed_attempts: u32,
    /// Answers as they should be since the last of these.
    pub(super) good_answers: u32,
    /// How often it was too slow for the other targets of a blob: twice, and it gets its blobs alone.
    pub(super) detached: u32,
    /// Its uploads that run while the others of their streams were through with it long ago.
    pub(super) overdue: u32,
}

impl HostRow {
    /// Whether it gets its blobs in jobs of its own.
    pub(super) fn goes_alone(&self) -> bool {
        self.is_narrow || self.overdue > 0 || self.detached >= MAX_DETACHED
    }
}

pub(super) struct PlaceRow {
    pub(super) place: Place,
    pub(super) host: HostId,
    pub(super) tags: Tags,
    /// Images that wait for `tags`.
    pub(super) waiting: Vec<ImageId>,
}

/// What is known of a repository's tags.
pub(super) enum Tags {
    /// Nobody has asked.
    Unknown,
    /// The question is under way.
    Asked,
    /// It was not answered and will be put again: no other target waits for it.
    AskedAgain,
    /// All tags, and again in the order of the listing.
    Listed(Arc<HashSet<Tag>>, Vec<Tag>),
    /// There is no such repository.
    Missing,
    /// They could not be had in this pass.
    Failed(Arc<Failure>),
}

impl Tags {
    pub(super) fn are_open(&self) -> bool {
        matches!(self, Self::Unknown | Self::Asked | Self::AskedAgain)
    }
}

impl Graph<'_> {
    /// The row of a place, made at its first mention.
    pub(super) fn place(&mut self, place: &Place) -> PlaceId {
        if let Some(&id) = self.place_ids.get(place) {
            return id;
        }
        let (key, name, registry) = match place {
            Place::Registry(host, _) => (
                HostKey::Registry(host.clone()),
                host.to_string(),
                Some(host.clone()),
            ),
            Place::Layout(path) => (HostKey::Layout(path.clone()), place.to_string(), None),
        };
        let (hosts, news) = (&mut self.hosts, &mut self.news);
        let host = *self.host_ids.entry(key).or_insert_with(|| {
            let host = hosts.push(HostRow {
                name,
                mounts: registry.is_some(),
                registry,
                is_narrow: false,
                late: false,
                failed_attempts: 0,
                good_answers: 0,
                detached: 0,
                overdue: 0,
            });
            news.push(News::Met(host));
            host
        });
        let id = self.places.push(PlaceRow {
            place: place.clone(),
            host,
            tags: Tags::Unknown,
            waiting: Vec::new(),
        });
        self.place_ids.insert(place.clone(), id);
        id
    }

    /// Asks for the tags of a source. What is known of them is from before other rules wrote to it.
    pub(super) fn list_source(&mut self, place: PlaceId, order: u32) {
        if !matches!(self.places[place].tags, Tags::Asked | Tags::AskedAgain) {
            self.places[place].tags = Tags::Unknown;
        }
        self.list(place, order);
    }

    /// Asks for the tags of a repository, once a pass.
    pub(super) fn list(&mut self, place: PlaceId, order: u32) {
        if matches!(self.places[place].tags, Tags::Unknown) {
            self.places[place].tags = Tags::Asked;
            self.add_task(Kind::Tags(place), order, State::Ready);
        }
    }

    /// Asks for the tags of a repository and has the image looked at again when they are known.
    pub(super) fn list_for(&mut self, place: PlaceId, image: ImageId) {
        let order = self.images[image].order;
        self.list(place, order);
        if !self.places[place].waiting.contains(&image) {
            self.places[place].waiting.push(image);
        }
    }

    /// A repository did not answer for its tags, and will be asked again.
    pub(super) fn tags_delayed(&mut self, place: PlaceId) {
        self.places[place].tags = Tags::AskedAgain;
        for image in self.places[place].waiting.clone() {
            self.consider(image);
        }
    }

    pub(super) fn tags_known(&mut self, place: PlaceId, tags: Tags) {
        self.places[place].tags = tags;
        self.news.push(News::Listed(place));
        for image in std::mem::take(&mut self.places[place].waiting) {
            self.consider(image);
        }
    }

    /// Whether a place cannot be asked for long: nobody waits for it.
    pub(super) fn is_late(&self, place: PlaceId) -> bool {
        self.hosts[self.places[place].host].late
    }

    /// Whether images with other targets wait for what this one has to say.
    pub(super) fn is_awaited(&self, place: PlaceId) -> bool {
        !self.is_late(place) && !matches!(self.places[place].tags, Tags::AskedAgain)
    }

    /// Whether nothing is in a repository: it is new, or a first copy of it was cut off.
    pub(super) fn is_empty(&self, place: PlaceId) -> bool {
        match &self.places[place].tags {
            Tags::Missing => true,
            Tags::Listed(_, tags) => tags.is_empty(),
            Tags::Unknown | Tags::Asked | Tags::AskedAgain | Tags::Failed(_) => false,
        }
    }
}

/// Times that a host may hold up the other targets of a blob in a run.
const MAX_DETACHED: u32 = 2;
