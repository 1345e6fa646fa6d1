//! Tasks: the units of work of a run, their states and their failures. Not here: what one task makes of another
//! (`graph.rs`, `image.rs`, `parts.rs`).

use std::fmt;
use std::sync::Arc;

use super::arena::Id;
use super::blobs::BlobId;
use super::children::{ChildAt, ChildId};
use super::dates::DateId;
use super::image::ImageId;
use super::places::{HostId, PlaceId};

pub(super) type TaskId = Id<Task>;

/// A unit of work. What waits for it is told when it ends.
pub(super) struct Task {
    pub(super) kind: Kind,
    pub(super) state: State,
    /// How many parts are still missing (children and roots).
    pub(super) pending: u32,
    pub(super) dependents: Vec<TaskId>,
    /// When the image that first wanted it was admitted: older images go first.
    pub(super) order: u32,
    /// How often missing parts were looked for after the target refused the manifest (decisions D6).
    pub(super) rounds: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// List the tags of a repository.
    Tags(PlaceId),
    /// List the repositories of the registry of a namespace.
    Catalog(PlaceId),
    /// Ask a target for an image's tag.
    Ask(ImageId, usize),
    /// Ask the source which manifest the image is now.
    Resolve(ImageId),
    /// Find out when the image behind a tag was made.
    Date(DateId),
    /// Find out what is about the image.
    Referrers(ImageId),
    /// Read the image's manifest.
    Get(ImageId),
    /// Put the image's manifest under its tag at a target.
    Root(ImageId, usize),
    /// Bring the child of an index to a place: ask for it, then put it once its parts are there.
    Child(ChildAt),
    /// Read a child of an index.
    Fetch(ChildId),
    /// A blob that a place wants; done by the jobs of its `Copy`.
    Want(BlobId, PlaceId),
    /// The copying of a blob: each of its jobs serves some wants.
    Copy(BlobId),
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// For its parts, or for its turn among a blob's wants.
    Waiting,
    Ready,
    Running,
    /// For a timer of the schedule.
    Delayed,
    Done,
    Failed(Arc<Failure>),
}

/// Why something did not come about.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What was attempted, such as `put manifest at reg.io/a/b`.
    pub operation: String,
    /// The cause, with its remedy where one is known.
    pub cause: String,
    /// Whether trying again in this run is pointless.
    pub is_final: bool,
    /// Whether what was asked for does not exist at the source.
    pub not_found: bool,
}

impl Failure {
    /// One that trying again in this run cannot mend.
    pub(super) fn for_good(operation: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            cause: cause.into(),
            is_final: true,
            not_found: false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: {}", self.operation, self.cause)
    }
}

/// What the schedule must know of a ready task.
pub(super) struct Readiness {
    pub(super) key: Key,
    pub(super) source: Option<HostId>,
    pub(super) targets: Vec<HostId>,
    /// Targets that go without any other.
    pub(super) alone: Vec<HostId>,
}

/// The order of ready tasks: the oldest image first, then what ends an image, then larger blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) order: u32,
    pub(super) rank: u8,
    pub(super) smallness: u64,
}
