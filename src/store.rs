//! The ports between the engine and the places that hold images: what can be asked of a source and a target, and
//! what may go wrong. Implemented by `registry` and `layout`. Not here: HTTP's words and paths' words.

use std::error::Error;
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::oci::{Descriptor, Digest, Host, Kind, Manifest, Reference, Repository, Tag};
use crate::secret::Secret;

/// Where images are: the key of wants, of limits and of records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A repository of a registry.
    Registry(Host, Repository),
    /// An OCI image layout: an absolute path with links resolved.
    Layout(PathBuf),
}

impl Place {
    /// Whether this is what `namespace` holds, at any depth.
    pub fn is_below(&self, namespace: &Self) -> bool {
        match (self, namespace) {
            (Self::Registry(host, repository), Self::Registry(other, path)) => {
                let rest = repository.as_str().strip_prefix(path.as_str());
                host == other && rest.is_some_and(|rest| rest.starts_with('/'))
            }
            (Self::Layout(path), Self::Layout(folder)) => {
                path != folder && path.starts_with(folder)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(host, repository) => write!(f, "{host}/{repository}"),
            Self::Layout(path) => write!(f, "oci:{}", path.display()),
        }
    }
}

/// Opens places. Cheap to call: the same place gives the same store.
pub trait Stores: Send + Sync {
    /// The store of a place. Nothing is asked of it yet.
    fn open(&self, place: &Place) -> Arc<dyn Target>;

    /// The only image of a layout, whether it has a name there or not; `None` where there are none or several.
    fn sole(&self, place: &Place) -> Result<Option<Digest>, StoreError>;

    /// How much the user lets be asked of a registry.
    fn limits(&self, registry: &Host) -> Limits;

    /// What a registry said last about its quota; `None` where it has said nothing new since this was called.
    fn quota(&self, registry: &Host) -> Option<Quota>;
}

/// How one registry is reached, where that is not as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// A file or folder of authorities that its certificate may be signed by, beside those of the system.
    pub ca: Option<PathBuf>,
    /// A file with the certificate that is shown to it.
    pub cert: Option<PathBuf>,
    /// A file with the key of `cert`; that one itself, if this is not given.
    pub key: Option<PathBuf>,
    /// Speak http to it and nothing else.
    pub plain_http: bool,
    /// The URL of a proxy, which may hold a password, or `none`.
    pub proxy: Option<Secret>,
}

/// How much may be asked of one registry. Nothing is bounded by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once, at least 1.
    pub concurrency: Option<usize>,
    /// The time from one request to the next.
    pub interval: Option<Duration>,
    /// Bytes of blobs a second, to it and from it together; at least 1.
    pub bandwidth: Option<u64>,
}

impl Limits {
    /// How many requests may run at once. More than can begin in a second would only wait for their turn, each of them
    /// in a worker that others could use.
    pub fn at_once(&self) -> Option<usize> {
        let in_a_second = |interval: Duration| {
            let count = SECOND.as_nanos().div_ceil(interval.as_nanos().max(1));
            usize::try_from(count).unwrap_or(usize::MAX)
        };
        let bounds = [self.concurrency, self.interval.map(in_a_second)];
        bounds.into_iter().flatten().min()
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// What a registry says about the requests that it still answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many are left.
    pub left: u64,
    /// How long until there are more.
    pub reset: Duration,
}

/// What images are read from.
pub trait Source: Send + Sync {
    /// All tags, each once and valid, in the order of the listing. `None`: there is no such repository (protocol.md
    /// E36).
    fn tags(&self) -> Result<Option<Vec<Tag>>, StoreError>;

    /// All repositories of the registry that this place is in, each once and valid. An error that is final where it
    /// does not tell.
    fn repositories(&self) -> Result<Vec<Repository>, StoreError>;

    /// Whether a manifest is there, and its digest, without its bytes.
    fn head(&self, reference: &Reference) -> Result<Presence, StoreError>;

    /// The manifests that are about this one, each once; `None` where they cannot be asked for, so that a tag lists
    /// them (distribution-spec, "Referrers Tag Schema").
    fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Digest>>, StoreError>;

    /// A manifest, its bytes verified against the digest asked for.
    fn manifest(&self, reference: &Reference) -> Result<Manifest, StoreError>;

    /// The bytes of a blob from offset `from` on, not verified. Reading to the end gives exactly `size - from` bytes
    /// or an error; the error inside the `io::Error` is a [`StoreError`].
    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>, StoreError>;
}

/// What images are written to.
pub trait Target: Source {
    /// Whether the blob is there, in its whole length: a question that changes nothing.
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, StoreError>;

    /// Finds out whether the blob is there, and opens an upload if not: by a mount, by asking, or by the upload
    /// itself, whatever costs the fewest requests (decisions D4).
    fn begin(&self, descriptor: &Descriptor, hint: &Hint) -> Result<Begin, StoreError>;

    /// Stores a manifest under a tag or its digest. Everything that it refers to is there already. Tells whether the
    /// target says that it lists it as a referrer of its subject.
    fn put_manifest(&self, reference: &Reference, manifest: &Manifest) -> Result<bool, StoreError>;
}

/// Opens places for `--doctor`.
pub trait Examiner: Stores {
    /// The store of a place, as it is looked at before a run.
    fn examined(&self, place: &Place) -> Arc<dyn Examine>;
}

/// A place as it is looked at before a run. Nothing of this leaves anything behind.
pub trait Examine: Target {
    /// Reaches the registry by one request without a login. `None`: the place is in none.
    fn contact(&self) -> Result<Option<Contact>, StoreError>;

    /// What the log tells of the registry's login; `None` as long as it has not asked for one.
    fn login(&self) -> Option<String>;

    /// As [`Source::tags`], but it may end with the first page.
    fn some_tags(&self) -> Result<Option<Vec<Tag>>, StoreError>;

    /// Opens an upload and gives it up again, where the place would take one. With the digest of a blob that is nowhere it
    /// is asked for by a mount.
    fn try_push(&self, nowhere: Option<&Digest>) -> Result<Trial, StoreError>;
}

/// How a registry was reached.
#[derive(Clone, Debug)]
pub struct Contact {
    /// Where its name leads; empty behind a proxy.
    pub addresses: Vec<IpAddr>,
    /// The proxy between, and who named it.
    pub proxy: Option<String>,
    /// What is between here and there.
    pub channel: Channel,
    /// By how many seconds its clock is ahead of this machine's; `None` where it does not tell the time.
    pub ahead: Option<i64>,
}

/// What is between here and a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Plain http.
    Plain,
    /// TLS.
    Encrypted {
        /// Of its certificate, where that can be read.
        certificate: Option<Certificate>,
        /// The certificate was accepted; it is not looked at where the registry is `insecure`.
        is_verified: bool,
    },
}

/// What is told of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of who signed it, else the organisation.
    pub issuer: String,
    /// When it runs out.
    pub expires: SystemTime,
}

/// What opening an upload showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// The status of the answer to a mount of a blob that is nowhere, if one was asked for.
    pub mount: Option<u16>,
    /// How many bytes each part of an upload is to have at least, if the place says so.
    pub min_chunk: Option<u64>,
    /// Nothing is open any more.
    pub is_cancelled: bool,
}

/// What a [`Source::head`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No such manifest or repository.
    Absent,
    /// It is there under this digest, and what it is, where the answer tells.
    Present(Digest, Option<Kind>),
    /// The answer does not tell (protocol.md E38, E71; H09): taken as lacking.
    Unknown,
}

/// What is known before a blob is begun.
#[derive(Clone, Debug, Default)]
pub struct Hint {
    /// Another repository of the target's host that is thought to hold the blob.
    pub mount_from: Option<Repository>,
    /// What is thought of the target repository itself.
    pub prior: Prior,
    /// An upload of this blob that an earlier run left open.
    pub session: Option<Session>,
}

/// An open upload, as it can be gone on with by another process (decisions D6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Where it is, as the target named it. Judged anew before it is used.
    pub location: String,
    /// States of the hash by offset, oldest first: what was sent up to there hashes so.
    pub states: Vec<(u64, String)>,
}

/// How likely the target repository has a blob already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prior {
    /// Nothing is known.
    #[default]
    Unknown,
    /// The records say that it was put there.
    Recorded,
    /// The repository has no tags: it is new, or a first copy was cut off.
    Empty,
    /// The target denied a blob that it had before: send it, whatever it says now (decisions D6, R12).
    Distrusted,
}

/// What [`Target::begin`] came to.
pub enum Begin {
    /// The blob is there.
    Present(Found),
    /// It is not, and here is where it goes.
    Upload {
        /// The open upload.
        upload: Box<dyn Upload>,
        /// A mount from the hinted repository was asked for and not granted.
        mount_denied: bool,
    },
}

/// How a blob came to be at its target without being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was there.
    Existing,
    /// It was mounted from another repository.
    Mounted,
}

/// One upload of one blob: an object with an offset and a session, which a retry or the next process can go on with.
pub trait Upload {
    /// How many bytes the target has. The body given to `send` begins here.
    fn offset(&self) -> u64;

    /// Sends the rest of the blob. `body` gives exactly the bytes from `offset` to the descriptor's size, or fails; an
    /// error of its own comes back as [`SendError::Body`].
    fn send(&mut self, body: &mut dyn Read) -> Result<(), SendError>;

    /// After a `send` that failed and may succeed when tried again: asks the target how much it has kept, and gives the
    /// offset at which the next `send` goes on. `None`: nothing can be gone on with.
    fn resume(&mut self) -> Result<Option<u64>, StoreError>;

    /// Where the upload is, for another process to go on with; `None` where it ends with this one.
    fn location(&self) -> Option<String>;

    /// Makes the blob visible. Called only after the whole of it was sent and its digest was right.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Which side broke a transfer.
#[derive(Debug)]
pub enum SendError {
    /// The body that was to be sent: the source's side, which remembers its own error.
    Body,
    /// Nobody: the target took nothing of what it was sent from the upload's offset on, and would take it once more. Said
    /// a few times for one offset at most.
    Again,
    /// The target.
    Target(StoreError),
}

impl From<StoreError> for SendError {
    fn from(error: StoreError) -> Self {
        Self::Target(error)
    }
}

/// What a failure means for what comes next (architecture.md 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Another attempt may well succeed.
    Transient,
    /// The host asks for a pause (429, or 503 with Retry-After): uses no attempt while the host answers others.
    Throttled,
    /// No connection could be had: refused, no route, no address, time limit. Ten in a row: the host is down.
    Unreachable,
    /// The content is not what its digest or size says: one more attempt, then it stays so.
    Corrupt,
    /// What was asked for is not there.
    NotFound,
    /// Will not become better in this run.
    Permanent,
    /// The run cannot go on: a local target cannot be written.
    Fatal,
}

impl Class {
    /// Whether trying again in this run is pointless.
    pub fn is_final(self) -> bool {
        match self {
            Self::Transient | Self::Throttled | Self::Unreachable => false,
            Self::Corrupt | Self::NotFound | Self::Permanent | Self::Fatal => true,
        }
    }
}

/// A failure of one operation at one place.
#[derive(Debug)]
pub struct StoreError {
    /// What it means for what comes next.
    pub class: Class,
    /// How long the other side asked to be left alone.
    pub retry_after: Option<Duration>,
    /// The target refused a manifest, perhaps for lack of these parts; empty where it did not name any. `None`: the
    /// failure has nothing to do with missing parts.
    pub missing_parts: Option<Vec<Digest>>,
    /// What happened, with the request and the answer, and nothing secret.
    pub cause: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// A failure without a wait.
    pub fn new(class: Class, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            class,
            retry_after: None,
            missing_parts: None,
            cause: cause.into(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        let mut source = self.cause.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl Error for StoreError {}
