//! What is written beside what a target has of its own under the same tag: entries of a list of referrers, and the layers
//! of a manifest of cosign's. Both are read, changed, written and looked at again. Not here: what is to be written
//! (`referrers.rs`), and how the two go together (`oci`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::filter::read_config;
use super::referrers::{SBOM, index, named};
use super::worker::Worker;
use crate::oci::manifest::media_type;
use crate::oci::referrers::{Union, add, append, append_to_config, entry, unite};
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, Reference, Tag};
use crate::store::{Begin, Class, Hint, Place, SendError, Source, StoreError, Target};

impl Worker<'_> {
    /// Lists a referrer under the tag of its subject's referrers, beside all that the place has there (protocol.md E64).
    /// One thread at a time for each list; of other programs it is seen by reading again whether they were faster.
    pub(super) fn list_by_tag(
        &self,
        store: &dyn Target,
        place: &Place,
        subject: &Digest,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        let Some(entry) = entry(manifest) else {
            log::warn!(
                "{place}@{}: is listed as a referrer of {subject}, and does not say so",
                manifest.digest()
            );
            return Ok(());
        };
        let tag = Tag::of_digest(subject, "");
        let own = self.own.lock(place, &tag);
        let _guard = own.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..MAX_ROUNDS {
            let old = index(store as &dyn Source, &tag)?;
            let mut listed = old.iter().flat_map(Manifest::children);
            if listed.any(|child| child.digest == *manifest.digest()) {
                return Ok(());
            }
            let new = parse(&add(old.as_ref(), entry.clone()), media_type::OCI_INDEX)?;
            store.put_manifest(&Reference::Tag(tag.clone()), &new)?;
        }
        Err(restless(place, &tag))
    }

    /// Puts a manifest under a tag of cosign's, with the layers that the place has there for itself: whoever signs there
    /// adds one. Tells what was put; `None` where the place has it all. As with lists, one thread at a time, and it is
    /// looked at again, unless there was nothing.
    pub(super) fn put_beside_layers(
        &self,
        store: &dyn Target,
        place: &Place,
        tag: &Tag,
        manifest: &Manifest,
    ) -> Result<Option<Digest>, StoreError> {
        let reference = Reference::Tag(tag.clone());
        let own = self.own.lock(place, tag);
        let _guard = own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut put = None;
        for _ in 0..MAX_ROUNDS {
            let held = named(store as &dyn Source, tag)?;
            let is_new = held.is_none();
            let union = held.map(|held| (unite(manifest, &held), held));
            let new = match union {
                // It has come, or has more by now. By force it is put once, though it is there.
                Some((Union::Held, held))
                    if put.is_some() || held.digest() != manifest.digest() =>
                {
                    return Ok(put);
                }
                // cosign reads an SBOM of one layer alone.
                Some((Union::Both(_), held)) if tag.as_str().ends_with(SBOM) => {
                    if self.hints.tag(place, tag) != Some(held.digest()) {
                        log::warn!(
                            "{place}:{tag} is kept: it is another SBOM than the source's; delete it to have that one"
                        );
                        return Ok(None);
                    }
                    manifest.clone()
                }
                Some((Union::Both(own), held)) if !self.is_dry => {
                    log::info!("{place}:{tag} keeps {} layers of its own", own.len());
                    united(store, manifest, &held, &own)?
                }
                _ => manifest.clone(),
            };
            put = Some(new.digest().clone());
            if !self.is_dry {
                store.put_manifest(&reference, &new)?;
            }
            if self.is_dry || is_new {
                return Ok(put);
            }
        }
        Err(restless(place, tag))
    }
}

/// Tags at targets that are read, changed and written, each by its place. Whoever does so holds the lock.
#[derive(Default)]
pub(super) struct OwnTags(Mutex<HashMap<(Place, Tag), OwnTag>>);

/// Of the referrers of a manifest, what the place listed when it was asked.
type OwnTag = Arc<Mutex<Option<Vec<Digest>>>>;

impl OwnTags {
    pub(super) fn lock(&self, place: &Place, tag: &Tag) -> OwnTag {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tag = tags.entry((place.clone(), tag.clone()));
        tag.or_default().clone()
    }
}

/// The manifest with these layers of the other one. Both have their parts in `store`; the config that tells of all
/// layers is put there.
fn united(
    store: &dyn Target,
    manifest: &Manifest,
    held: &Manifest,
    own: &[usize],
) -> Result<Manifest, StoreError> {
    let read = |manifest: &Manifest| match manifest.config() {
        Some(config) => read_config(store as &dyn Source, config),
        None => Ok(Vec::new()),
    };
    let config = read(manifest)?;
    let told = append_to_config(&config, &read(held)?, own);
    if let (Some(told), Some(old)) = (&told, manifest.config()) {
        put_config(store, old, told)?;
    }
    let bytes = append(manifest, held, own, told.as_ref().unwrap_or(&config));
    parse(&bytes, manifest.media_type())
}

/// Puts a config in place of an `old` one.
fn put_config(store: &dyn Target, old: &Descriptor, bytes: &[u8]) -> Result<(), StoreError> {
    let descriptor = Descriptor {
        media_type: old.media_type.clone(),
        digest: Digest::of(old.digest.algorithm(), bytes),
        size: bytes.len() as u64,
    };
    let Begin::Upload { mut upload, .. } = store.begin(&descriptor, &Hint::default())? else {
        return Ok(());
    };
    let mut body = bytes;
    upload.send(&mut body).map_err(|error| match error {
        SendError::Target(error) => error,
        SendError::Body | SendError::Again => {
            StoreError::new(Class::Transient, "the target took no config")
        }
    })?;
    upload.commit()
}

fn parse(bytes: &[u8], media_type: &str) -> Result<Manifest, StoreError> {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    Manifest::parse(bytes, Some(media_type), digest)
        .map_err(|error| StoreError::new(Class::Permanent, error))
}

fn restless(place: &Place, tag: &Tag) -> StoreError {
    let text = format!("{place}:{tag} is changed again and again by somebody else");
    StoreError::new(Class::Transient, text)
}

/// Times that a tag is written and looked at.
const MAX_ROUNDS: u32 = 4;
