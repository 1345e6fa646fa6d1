//! What a platform filter leaves of an image, found out by blocking reads of the source: of the indexes inside an index,
//! and of the config of a single image. What is not wanted is not read. Not here: what a platform is and how an index is
//! cut (`oci`).

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::sync::Arc;

use super::origin::store_error;
use super::parts::MAX_DEPTH;
use super::worker::check_child;
use crate::oci::trim::{self, Entry, Fate};
use crate::oci::{
    Descriptor, Digest, Manifest, ManifestError, Platform, PlatformFilter, Reference,
};
use crate::store::{Class, Source, StoreError};

/// An image as a filter leaves it.
#[derive(Debug)]
pub(super) enum Left {
    /// The platforms that are wanted; all of them, if none was dropped.
    Some {
        manifest: Arc<Manifest>,
        /// Indexes inside it that were cut, too: the source does not have them.
        children: Vec<Arc<Manifest>>,
        dropped: Vec<Platform>,
    },
    /// None of the platforms that it has is wanted.
    Nothing { has: Vec<Platform> },
}

/// Leaves of `root`, which `source` has, what is wanted.
pub(super) fn filter(
    source: &dyn Source,
    root: Manifest,
    wanted: &PlatformFilter,
) -> Result<Left, StoreError> {
    let mut sieve = Sieve {
        source,
        wanted,
        looked_at: HashMap::new(),
        children: Vec::new(),
        dropped: Vec::new(),
    };
    let rest = match root.config() {
        Some(config) if is_platform_config(config) => sieve.image(config)?,
        _ => sieve.index(&root, 0)?,
    };
    let manifest = match rest {
        Rest::Nothing => return Ok(Left::Nothing { has: sieve.dropped }),
        Rest::All { .. } => root,
        Rest::Part(part) => part,
    };
    Ok(Left::Some {
        manifest: Arc::new(manifest),
        children: sieve.children,
        dropped: sieve.dropped,
    })
}

/// What is left of a manifest.
#[derive(Clone)]
enum Rest {
    All {
        /// It says which platforms it is for.
        is_told: bool,
    },
    Part(Manifest),
    Nothing,
}

struct Sieve<'a> {
    source: &'a dyn Source,
    wanted: &'a PlatformFilter,
    /// Indexes inside the index: each is read once.
    looked_at: HashMap<Digest, Rest>,
    children: Vec<Arc<Manifest>>,
    /// Each once, in the order of the entries.
    dropped: Vec<Platform>,
}

impl Sieve<'_> {
    fn takes(&mut self, platform: &Platform) -> bool {
        let is_taken = self.wanted.takes(platform);
        if !is_taken && !self.dropped.contains(platform) {
            self.dropped.push(platform.clone());
        }
        is_taken
    }

    /// A single image says in its config what it is for (protocol.md M5).
    fn image(&mut self, config: &Descriptor) -> Result<Rest, StoreError> {
        let platform = Platform::of_config(&read_config(self.source, config)?);
        Ok(if self.takes(&platform) {
            Rest::All {
                is_told: platform.is_told(),
            }
        } else {
            Rest::Nothing
        })
    }

    /// What says nothing of its platform is kept, as long as something is left that does.
    fn index(&mut self, index: &Manifest, depth: u8) -> Result<Rest, StoreError> {
        let mut entries = trim::entries(index).map_err(broken)?;
        let inner: HashMap<&Digest, &Descriptor> = index
            .children()
            .iter()
            .filter(|child| child.is_index())
            .map(|child| (&child.digest, child))
            .collect();
        let (mut is_told, mut is_whole) = (false, true);
        for entry in entries.iter_mut().filter(|entry| entry.describes.is_none()) {
            let rest = if !self.takes(&entry.platform) {
                Rest::Nothing
            } else if let Some(child) = inner.get(&entry.digest) {
                self.inner_index(child, depth)?
            } else {
                Rest::All {
                    is_told: entry.platform.is_told(),
                }
            };
            is_whole &= matches!(rest, Rest::All { .. });
            match rest {
                Rest::All { is_told: inner } => is_told |= inner,
                Rest::Part(part) => {
                    is_told = true;
                    entry.fate = Fate::Changed(part);
                }
                Rest::Nothing => entry.fate = Fate::Dropped,
            }
        }
        if is_whole {
            return Ok(Rest::All { is_told });
        }
        if !is_told {
            return Ok(Rest::Nothing);
        }
        // Attestations go with the image that they describe.
        let (kept, dropped): (Vec<&Entry>, Vec<&Entry>) = entries
            .iter()
            .filter(|entry| entry.describes.is_none())
            .partition(|entry| entry.is_kept());
        let (kept, dropped) = (digests(&kept), digests(&dropped));
        for entry in &mut entries {
            if let Some(image) = &entry.describes
                && dropped.contains(image)
                && !kept.contains(image)
            {
                entry.fate = Fate::Dropped;
            }
        }
        let part = if self.wanted.is_sparse() {
            let kept: Vec<&Entry> = entries.iter().filter(|entry| entry.is_kept()).collect();
            let kept = digests(&kept);
            index.sparse(|digest| kept.contains(digest))
        } else {
            trim::cut(index, &entries).map_err(broken)?
        };
        Ok(Rest::Part(part))
    }

    fn inner_index(&mut self, child: &Descriptor, depth: u8) -> Result<Rest, StoreError> {
        if let Some(rest) = self.looked_at.get(&child.digest) {
            return Ok(rest.clone());
        }
        let limit = if depth + 1 >= MAX_DEPTH {
            Some(format!("indexes are nested more than {MAX_DEPTH} deep"))
        } else if self.looked_at.len() >= MAX_INNER {
            Some(format!("there are more than {MAX_INNER} indexes in it"))
        } else {
            None
        };
        if let Some(limit) = limit {
            return Err(StoreError::new(Class::Permanent, limit));
        }
        let reference = Reference::from(child.digest.clone());
        let manifest = self.source.manifest(&reference)?;
        check_child(&manifest, child)?;
        let dropped = self.dropped.len();
        let mut rest = self.index(&manifest, depth + 1)?;
        if let Rest::Part(part) = &rest {
            if self.wanted.is_sparse() {
                // Its digest would stand for less than it names, and others may bring the same index whole.
                rest = Rest::All { is_told: true };
                self.dropped.truncate(dropped);
            } else {
                self.children.push(Arc::new(part.clone()));
            }
        }
        self.looked_at.insert(child.digest.clone(), rest.clone());
        Ok(rest)
    }
}

fn digests(entries: &[&Entry]) -> HashSet<Digest> {
    entries.iter().map(|entry| entry.digest.clone()).collect()
}

/// Whether a config is that of something that runs. Artifacts are for all platforms.
fn is_platform_config(config: &Descriptor) -> bool {
    matches!(
        &*config.media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    )
}

/// The bytes of a config, verified.
pub(super) fn read_config(source: &dyn Source, config: &Descriptor) -> Result<Vec<u8>, StoreError> {
    if config.size > MAX_CONFIG {
        let text = format!(
            "its config of {} bytes is too large to look into; at most {MAX_CONFIG} are",
            config.size
        );
        return Err(StoreError::new(Class::Permanent, text));
    }
    let mut bytes = Vec::new();
    let mut body = source.blob(config, 0)?;
    body.read_to_end(&mut bytes).map_err(store_error)?;
    if Digest::of(config.digest.algorithm(), &bytes) != config.digest {
        let text = format!("the config is not {} as its manifest says", config.digest);
        return Err(StoreError::new(Class::Corrupt, text));
    }
    Ok(bytes)
}

fn broken(error: ManifestError) -> StoreError {
    StoreError::new(Class::Permanent, error)
}

/// Bytes of a config that is read: as many as a manifest may have (decisions D8).
pub(super) const MAX_CONFIG: u64 = 8 << 20;
/// Indexes inside an index.
const MAX_INNER: usize = 1000;
