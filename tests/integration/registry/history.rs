//! The history of a fake registry: every request, what came of it, and in which order. Not here: the state that the
//! requests changed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::http::Head;
use super::server::lock;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ping,
    TagsList,
    Catalog,
    ManifestHead,
    ManifestGet,
    ManifestPut,
    Referrers,
    BlobHead,
    BlobGet,
    UploadPost,
    UploadPatch,
    UploadPut,
    UploadGet,
    UploadDelete,
    Token,
    Other,
}

/// A request with its path taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) kind: Kind,
    pub(crate) repository: String,
    /// A tag or digest of a manifest, the digest of a blob, the name of an upload session, or nothing.
    pub(crate) reference: String,
}

impl Request {
    pub(crate) fn new(head: Head) -> Self {
        let (kind, repository, reference) = route(&head.method, &head.path);
        Self {
            kind,
            repository: repository.to_string(),
            reference: reference.to_string(),
            head,
        }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.head.method == "HEAD"
    }
}

/// Takes a path apart (protocol.md 2.1). Names contain slashes, so it is read from its end.
fn route<'a>(method: &str, path: &'a str) -> (Kind, &'a str, &'a str) {
    let other = (Kind::Other, "", "");
    if path == "/v2/" && method == "GET" {
        return (Kind::Ping, "", "");
    }
    if path == "/v2/_catalog" && method == "GET" {
        return (Kind::Catalog, "", "");
    }
    if path.starts_with("/token") && matches!(method, "GET" | "POST") {
        return (Kind::Token, "", "");
    }
    // A storage host serves the blobs of its registry under a path of its own.
    let path = path.strip_prefix("/storage").unwrap_or(path);
    let Some(path) = path.strip_prefix("/v2/") else {
        return other;
    };
    if let Some(repository) = path.strip_suffix("/tags/list")
        && method == "GET"
    {
        return (Kind::TagsList, repository, "");
    }
    if let Some((repository, session)) = path.rsplit_once("/blobs/uploads/") {
        let kind = match (method, session) {
            ("POST", "") => Kind::UploadPost,
            (_, "") => Kind::Other,
            ("PATCH", _) => Kind::UploadPatch,
            ("PUT", _) => Kind::UploadPut,
            ("GET", _) => Kind::UploadGet,
            ("DELETE", _) => Kind::UploadDelete,
            _ => Kind::Other,
        };
        return (kind, repository, session);
    }
    let Some((rest, reference)) = path.rsplit_once('/') else {
        return other;
    };
    if let Some(repository) = rest.strip_suffix("/manifests") {
        let kind = match method {
            "HEAD" => Kind::ManifestHead,
            "GET" => Kind::ManifestGet,
            "PUT" => Kind::ManifestPut,
            _ => Kind::Other,
        };
        return (kind, repository, reference);
    }
    if let Some(repository) = rest.strip_suffix("/referrers")
        && method == "GET"
    {
        return (Kind::Referrers, repository, reference);
    }
    if let Some(repository) = rest.strip_suffix("/blobs") {
        let kind = match method {
            "HEAD" => Kind::BlobHead,
            "GET" => Kind::BlobGet,
            _ => Kind::Other,
        };
        return (kind, repository, reference);
    }
    other
}

/// One request in the history.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// When its head had come, in the order of all requests to all fake registries of the process.
    pub(crate) began: u64,
    /// When it was answered or given up, on the same scale; 0 while it goes on.
    pub(crate) ended: u64,
    pub(crate) kind: Kind,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) repository: String,
    /// A tag or digest of a manifest, the digest of a blob, the name of an upload session, or nothing.
    pub(crate) reference: String,
    /// The digest that the request is about, where it or the registry knows one: also of uploads and of tags.
    pub(crate) digest: Option<String>,
    /// The upload session that it opened or used.
    pub(crate) session: Option<String>,
    /// Where a mount was asked from.
    pub(crate) from: Option<String>,
    /// The status answered; 0 for none.
    pub(crate) status: u16,
    /// Bytes of the request's body that came.
    pub(crate) bytes_in: usize,
    /// Bytes of the answer's body that went.
    pub(crate) bytes_out: usize,
    pub(crate) authorization: Option<String>,
    /// The request's head as it came.
    pub(crate) head: String,
    /// It was let in by nobody: its answer is a challenge.
    pub(crate) is_challenged: bool,
    /// A fault rule acted on it.
    pub(crate) has_fault: bool,
    /// What a manifest that was to be put refers to and its repository lacked.
    pub(crate) missing: Vec<String>,
}

impl Entry {
    pub(crate) fn new(request: &Request) -> Self {
        let head = &request.head;
        let parameter = |name| head.parameter(name).map(str::to_string);
        let is_digest = request.reference.contains(':');
        Self {
            began: next_moment(),
            ended: 0,
            kind: request.kind,
            method: head.method.clone(),
            target: head.target.clone(),
            repository: request.repository.clone(),
            reference: request.reference.clone(),
            digest: parameter("digest")
                .or_else(|| parameter("mount"))
                .or_else(|| is_digest.then(|| request.reference.clone())),
            session: None,
            from: parameter("from"),
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            authorization: head.header("authorization").map(str::to_string),
            head: head.text.clone(),
            is_challenged: false,
            has_fault: false,
            missing: Vec::new(),
        }
    }

    /// Whether the registry answered that it did what was asked.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// All requests of one registry.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: Mutex<Vec<Entry>>,
    changed: Condvar,
}

impl History {
    /// Puts a request in, or what has become of it in its place; one that was forgotten meanwhile stays so.
    pub(crate) fn note(&self, entry: &Entry) {
        let mut entries = lock(&self.entries);
        match entries.iter_mut().rev().find(|e| e.began == entry.began) {
            Some(known) => known.clone_from(entry),
            None if entry.ended == 0 => entries.push(entry.clone()),
            None => {}
        }
        self.changed.notify_all();
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        lock(&self.entries).clone()
    }

    pub(crate) fn clear(&self) {
        lock(&self.entries).clear();
    }

    /// Waits until `condition` holds of the history. False if it does not within 30 s.
    pub(crate) fn wait_until(&self, mut condition: impl FnMut(&[Entry]) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut entries = lock(&self.entries);
        while !condition(&entries) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let woken = self.changed.wait_timeout(entries, left);
            entries = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// How many requests of each kind there were.
pub(crate) type Counts = BTreeMap<Kind, usize>;

/// The next moment in the order of everything.
pub(crate) fn next_moment() -> u64 {
    MOMENT.fetch_add(1, Ordering::SeqCst)
}

static MOMENT: AtomicU64 = AtomicU64::new(1);
