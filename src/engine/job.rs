//! What the coordinator hands to a worker and what comes back: one job out, one answer for each task in it. Not here:
//! how a job is done (`worker.rs`) and what its answer changes (`graph.rs`).

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::dates::Dated;
use super::filter::Left;
use super::places::HostId;
use super::referrers::{Referrer, Search};
use super::task::TaskId;
use crate::oci::{Descriptor, Digest, Manifest, PlatformFilter, Reference, Repository, Tag};
use crate::records::Record;
use crate::store::{Class, Found, Hint, Place, Presence, StoreError};

/// Work for one worker, complete in itself.
pub(super) enum Job {
    /// List the tags of a repository.
    Tags { reply: Reply, place: Place },
    /// List the repositories of a registry.
    Catalog { reply: Reply, place: Place },
    /// Ask whether a manifest is there.
    Head {
        reply: Reply,
        place: Place,
        reference: Reference,
    },
    /// Ask whether a target lists a referrer under its subject.
    IsListed {
        reply: Reply,
        place: Place,
        subject: Digest,
        referrer: Digest,
    },
    /// Find out what is about an image.
    Referrers { reply: Reply, search: Search },
    /// Find out when an image was made.
    Date {
        reply: Reply,
        place: Place,
        reference: Reference,
    },
    /// Read a manifest; a child of an index must be what its index says.
    Fetch {
        reply: Reply,
        place: Place,
        reference: Reference,
        expected: Option<Descriptor>,
    },
    /// Read a manifest, and what tells which of its platforms are wanted.
    Filter {
        reply: Reply,
        place: Place,
        reference: Reference,
        wanted: Arc<PlatformFilter>,
    },
    /// Bring one blob to some targets, in one stream. `reply` tells how the source did.
    Copy {
        reply: Reply,
        source: Place,
        descriptor: Descriptor,
        wants: Vec<Want>,
    },
    /// Store a manifest, and write a record of it.
    Put {
        reply: Reply,
        place: Place,
        reference: Reference,
        manifest: Arc<Manifest>,
        record: Option<Record>,
        beside: Beside,
    },
}

/// What of the target's own a manifest is put beside.
pub(super) enum Beside {
    Nothing,
    /// The entries of the list of this one's referrers, where it is to be listed, too.
    Entries(Digest),
    /// The layers of the manifest that the tag names: it is one of cosign's.
    Layers(Tag),
}

/// One target of a copy.
pub(super) struct Want {
    pub(super) reply: Reply,
    pub(super) place: Place,
    pub(super) hint: Hint,
}

/// What a worker found out or did.
#[derive(Debug)]
pub(super) enum Done {
    /// The tags; `None` where there is no such repository.
    Tags(Option<Vec<Tag>>),
    /// The repositories of the registry.
    Repositories(Vec<Repository>),
    /// Whether the manifest is there.
    Presence(Presence),
    /// What is about the image.
    Referrers(Vec<Referrer>),
    /// When the image was made; `None` where there is no such image.
    Dated(Option<Dated>),
    /// The manifest.
    Manifest(Arc<Manifest>),
    /// What is wanted of it.
    Filtered(Left),
    /// The blob was there or was mounted.
    BlobFound(Found),
    /// The blob was sent.
    BlobSent {
        /// A mount that was asked for first was not granted.
        mount_denied: bool,
        /// The hosts that were too slow for the others of this stream, as far as that was known by then.
        detached: Vec<HostId>,
        /// How long those may still take that are not through yet; `None`: as long as they like.
        patience: Option<Duration>,
    },
    /// The source broke off; this target is as it was before.
    NotSent,
    /// The source did its part of a copy, whatever became of the targets.
    Read,
    /// Of a dry run: it would have read so much.
    WouldRead { bytes: u64 },
    /// The manifest is stored.
    Put,
    /// What the target has there holds all of it already.
    Kept,
}

/// The answer for one task.
pub(super) struct Answer {
    pub(super) task: TaskId,
    /// The host that the task's requests went to.
    pub(super) host: HostId,
    pub(super) result: Result<Done, StoreError>,
}

/// The obligation to answer for one task: a reply that is dropped unsent, as by a panic, answers with a failure. So a
/// bug in a worker costs one image and never a hang.
pub(super) struct Reply {
    task: TaskId,
    host: HostId,
    answers: Option<Sender<Answer>>,
}

impl Reply {
    pub(super) fn new(task: TaskId, host: HostId, answers: Sender<Answer>) -> Self {
        Self {
            task,
            host,
            answers: Some(answers),
        }
    }

    /// The host that the task's requests go to.
    pub(super) fn host(&self) -> HostId {
        self.host
    }

    pub(super) fn send(mut self, result: Result<Done, StoreError>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<Done, StoreError>) {
        if let Some(answers) = self.answers.take()
            && answers
                .send(Answer {
                    task: self.task,
                    host: self.host,
                    result,
                })
                .is_err()
        {
            log::debug!("an answer came after the end of the run");
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.answers.is_some() {
            let bug = "a worker panicked: this is a bug, please report it with the lines above";
            self.answer(Err(StoreError::new(Class::Permanent, bug)));
        }
    }
}
