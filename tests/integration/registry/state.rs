//! What a fake registry holds: blobs, manifests and tags by repository, and open upload sessions.
//! Not here: requests (`pull`, `push`) and tokens (`auth`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use image_syncer::oci::manifest::media_type;
use image_syncer::oci::{Algorithm, Digest};

/// All repositories of a registry.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) repositories: BTreeMap<String, Repository>,
    pub(crate) sessions: BTreeMap<String, Session>,
    /// Parts that were taken away behind the client's back, or of which a fault said that they are there: the client
    /// cannot know, so it is not blamed for a manifest that lacks them.
    pub(crate) doubtful: BTreeSet<(String, String)>,
    sessions_opened: u64,
}

/// One repository: blobs are linked into it, as distribution has them.
#[derive(Debug, Default)]
pub(crate) struct Repository {
    pub(crate) blobs: BTreeMap<String, Arc<Vec<u8>>>,
    pub(crate) manifests: BTreeMap<String, StoredManifest>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// A manifest as it was put.
#[derive(Clone, Debug)]
pub(crate) struct StoredManifest {
    pub(crate) media_type: String,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// An open upload.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) repository: String,
    pub(crate) bytes: Vec<u8>,
    /// How many times it was met by PATCH.
    pub(crate) patches: usize,
    /// The end of the first PATCH, which some registries never move from.
    pub(crate) first_end: usize,
}

impl State {
    pub(crate) fn open_session(&mut self, repository: &str) -> String {
        self.sessions_opened += 1;
        let name = format!("upload-{}", self.sessions_opened);
        let session = Session {
            repository: repository.to_string(),
            bytes: Vec::new(),
            patches: 0,
            first_end: 0,
        };
        self.sessions.insert(name.clone(), session);
        name
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        let repository = self.repositories.get(repository)?;
        repository.blobs.get(digest).cloned()
    }

    pub(crate) fn put_blob(&mut self, repository: &str, digest: &str, bytes: Arc<Vec<u8>>) {
        let blobs = &mut self.repository(repository).blobs;
        blobs.insert(digest.to_string(), bytes);
    }

    /// A manifest by tag or digest, with its digest.
    pub(crate) fn manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Option<(String, StoredManifest)> {
        let repository = self.repositories.get(repository)?;
        let digest = if reference.contains(':') {
            reference
        } else {
            repository.tags.get(reference)?
        };
        let manifest = repository.manifests.get(digest)?;
        Some((digest.to_string(), manifest.clone()))
    }

    pub(crate) fn put_manifest(&mut self, repository: &str, digest: &str, put: StoredManifest) {
        let manifests = &mut self.repository(repository).manifests;
        manifests.insert(digest.to_string(), put);
    }

    pub(crate) fn put_tag(&mut self, repository: &str, tag: &str, digest: &str) {
        let tags = &mut self.repository(repository).tags;
        tags.insert(tag.to_string(), digest.to_string());
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_string()).or_default()
    }

    /// Takes a blob or manifest away, as a garbage collection does.
    pub(crate) fn remove(&mut self, repository: &str, digest: &str) {
        if let Some(found) = self.repositories.get_mut(repository) {
            found.blobs.remove(digest);
            found.manifests.remove(digest);
            found.tags.retain(|_, tagged| tagged != digest);
        }
        self.doubtful
            .insert((repository.to_string(), digest.to_string()));
    }

    /// What a manifest refers to and its repository lacks.
    pub(crate) fn missing_parts(&self, repository: &str, parts: &Parts) -> Vec<String> {
        let found = self.repositories.get(repository);
        let lacks_blob =
            |digest: &&String| !found.is_some_and(|found| found.blobs.contains_key(*digest));
        // An index may name a blob where a manifest is usual (M12).
        let lacks_child = |digest: &&String| {
            lacks_blob(digest) && !found.is_some_and(|found| found.manifests.contains_key(*digest))
        };
        let blobs = parts.blobs.iter().filter(lacks_blob);
        let children = parts.children.iter().filter(lacks_child);
        let missing: BTreeSet<String> = blobs.chain(children).cloned().collect();
        missing.into_iter().collect()
    }
}

/// What a manifest refers to, foreign layers left out: they need not be in any registry (M8).
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) blobs: Vec<String>,
    pub(crate) children: Vec<String>,
}

impl Parts {
    /// Read with no code in common with the program under test.
    pub(crate) fn of(manifest: &Value) -> Self {
        let mut parts = Self::default();
        parts.blobs.extend(digest_of(&manifest["config"]));
        for list in ["layers", "blobs"] {
            let blobs = elements(&manifest[list]).filter(|blob| !is_foreign(blob));
            parts.blobs.extend(blobs.filter_map(digest_of));
        }
        for layer in elements(&manifest["fsLayers"]) {
            parts
                .blobs
                .extend(layer["blobSum"].as_str().map(str::to_string));
        }
        let children = elements(&manifest["manifests"]);
        parts.children.extend(children.filter_map(digest_of));
        parts
    }
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn digest_of(descriptor: &Value) -> Option<String> {
    descriptor["digest"].as_str().map(str::to_string)
}

fn is_foreign(descriptor: &Value) -> bool {
    let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

/// Whether this is one of the two types of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, media_type::OCI_INDEX | media_type::DOCKER_LIST)
}

/// Whether this is one of the types of schema 1.
pub(crate) fn is_schema1(media_type: &str) -> bool {
    matches!(media_type, media_type::SCHEMA1 | media_type::SCHEMA1_SIGNED)
}

/// The sha256 of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).to_string()
}

/// Whether bytes hash to a digest, under whichever algorithm it names.
pub(crate) fn matches(digest: &str, bytes: &[u8]) -> bool {
    Digest::parse(digest).is_ok_and(|digest| Digest::of(digest.algorithm(), bytes) == digest)
}
