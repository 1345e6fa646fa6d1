//! The images that are copied: made of noise, the same each time, and pushed straight into the source. Not here: how many
//! there are, and how large.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

use crate::Outcome;

// Docker's types: every program that is measured takes them.
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// An image to be made.
pub(crate) struct Image {
    pub(crate) repository: String,
    pub(crate) tag: String,
    /// What each layer is made from: the same name is the same content.
    layers: Vec<String>,
    /// Of each layer, in bytes.
    size: u64,
}

impl Image {
    /// An image of so many layers, the first `shared` of which are those of all images with layers of this size.
    pub(crate) fn new(
        repository: &str,
        tag: &str,
        layers: usize,
        shared: usize,
        size: u64,
    ) -> Self {
        let name = |n| {
            if n < shared {
                format!("{n} of {size}")
            } else {
                format!("{n} of {repository}:{tag}")
            }
        };
        Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            layers: (0..layers).map(name).collect(),
            size,
        }
    }

    /// What its layers have, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.layers.len() as u64 * self.size
    }
}

/// Makes these images in the registry at `address`. Gives the digest of each.
pub(crate) fn push(images: &[Image], address: &str) -> Outcome<Vec<String>> {
    let agent = Agent::new_with_defaults();
    let mut pushed: BTreeMap<(&str, &str), Value> = BTreeMap::new();
    let mut digests = Vec::new();
    for image in images {
        let repository = format!("http://{address}/v2/{}", image.repository);
        let mut layers = Vec::new();
        for name in &image.layers {
            let key = (image.repository.as_str(), name.as_str());
            let layer = match pushed.entry(key) {
                Entry::Occupied(there) => there.get().clone(),
                Entry::Vacant(place) => {
                    let mut content = Noise::new(name).take(image.size);
                    let digest = push_blob(&agent, &repository, &mut content)?;
                    let layer = json!({"mediaType": LAYER, "size": image.size, "digest": digest});
                    place.insert(layer).clone()
                }
            };
            layers.push(layer);
        }
        let diff_ids: Vec<_> = layers.iter().filter_map(|it| it.get("digest")).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": image.tag}],
        })
        .to_string();
        let digest = push_blob(&agent, &repository, &mut config.as_bytes())?;
        let config = json!({"mediaType": CONFIG, "size": config.len(), "digest": digest});
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let stored = agent
            .put(format!("{repository}/manifests/{}", image.tag))
            .content_type(MANIFEST)
            .send(manifest.to_string())?;
        digests.push(field(&stored, "docker-content-digest")?);
    }
    Ok(digests)
}

/// How many of these images the registry at `address` has, by their digests.
pub(crate) fn count(images: &[Image], digests: &[String], address: &str) -> usize {
    let agent = Agent::new_with_defaults();
    let has = |(image, digest): &(&Image, &String)| {
        let Image {
            repository, tag, ..
        } = image;
        agent
            .head(format!("http://{address}/v2/{repository}/manifests/{tag}"))
            .header("accept", MANIFEST)
            .call()
            .is_ok_and(|answer| {
                field(&answer, "docker-content-digest").is_ok_and(|is| is == **digest)
            })
    };
    images.iter().zip(digests).filter(has).count()
}

/// Sends a blob whose digest is known only at its end, and gives the digest.
fn push_blob(agent: &Agent, repository: &str, content: &mut dyn Read) -> Outcome<String> {
    let opened = agent
        .post(format!("{repository}/blobs/uploads/"))
        .send_empty()?;
    let mut content = Hashed(content, Sha256::new());
    let kept = agent
        .patch(field(&opened, "location")?)
        .content_type("application/octet-stream")
        .send(SendBody::from_reader(&mut content))?;
    let digest = content.1.finalize();
    let hex = digest.iter().map(|byte| format!("{byte:02x}"));
    let digest = format!("sha256:{}", hex.collect::<String>());
    let upload = field(&kept, "location")?;
    agent
        .put(format!("{upload}&digest={digest}")) // the registry's state is in the query already
        .send_empty()?;
    Ok(digest)
}

/// A field of an answer.
fn field(answer: &Response<Body>, name: &str) -> Outcome<String> {
    let value = answer.headers().get(name);
    let value = value.ok_or_else(|| format!("a registry answered without {name}"))?;
    Ok(value.to_str()?.to_owned())
}

/// What is read, and its hash.
struct Hashed<'a>(&'a mut dyn Read, Sha256);

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Bytes without end that do not compress, made from a name (`SplitMix64`).
struct Noise(u64);

impl Noise {
    fn new(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for bytes in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            for (byte, made) in bytes.iter_mut().zip(word.to_le_bytes()) {
                *byte = made;
            }
        }
        Ok(buffer.len())
    }
}
