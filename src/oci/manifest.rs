//! Manifests and indexes: the bytes as they came, and what they refer to. The bytes are never written anew, or the
//! digest would change (decisions D3). Not here: fetching, and the choice of platforms.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::digest::{Algorithm, Digest, DigestError};

/// Media types of manifests, in the order of the Accept header (protocol.md E12).
pub mod media_type {
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image manifest, schema 2.
    pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// The artifact manifest of OCI 1.1's release candidates.
    pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    /// Docker schema 1, signed.
    pub const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// Docker schema 1, not signed.
    pub const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// All of them.
    pub const ALL: [&str; 7] = [
        OCI_INDEX,
        OCI_IMAGE,
        DOCKER_LIST,
        DOCKER_IMAGE,
        OCI_ARTIFACT,
        SCHEMA1_SIGNED,
        SCHEMA1,
    ];
}

/// What a manifest is, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A config and layers (docker or OCI).
    Image,
    /// A list of manifests (docker or OCI).
    Index,
    /// OCI 1.1 release candidate: blobs without a config.
    Artifact,
    /// Docker schema 1: layers by digest, without sizes.
    Schema1,
}

impl Kind {
    /// What a media type stands for, in lower case and without parameters; `None` of others than manifests.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        Some(match media_type {
            media_type::OCI_INDEX | media_type::DOCKER_LIST => Self::Index,
            media_type::OCI_IMAGE | media_type::DOCKER_IMAGE => Self::Image,
            media_type::OCI_ARTIFACT => Self::Artifact,
            media_type::SCHEMA1 | media_type::SCHEMA1_SIGNED => Self::Schema1,
            _ => return None,
        })
    }
}

/// A reference to content by digest and size (image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What the content is. Any text: unknown types are copied like known ones.
    pub media_type: Arc<str>,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes.
    pub size: u64,
}

impl Descriptor {
    /// Whether the media type says that registries need not hold the content: it is not copied, and the manifest
    /// stays as it is. The type decides, not the presence of `urls` (image-spec, layer.md; protocol.md M8).
    pub fn is_foreign(&self) -> bool {
        self.media_type
            .starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
            || self
                .media_type
                .starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
    }

    /// Whether the type is that of a manifest; of a child of an index, `false` leaves open what it is.
    pub fn is_manifest(&self) -> bool {
        Kind::of_media_type(&self.media_type).is_some()
    }

    /// Whether the type is that of an index.
    pub fn is_index(&self) -> bool {
        Kind::of_media_type(&self.media_type) == Some(Kind::Index)
    }

    /// Whether an index names a layer or a config where a manifest is usual (buildkit's caches do; protocol.md M12).
    fn is_blob(&self) -> bool {
        self.media_type
            .starts_with("application/vnd.oci.image.layer.")
            || self
                .media_type
                .starts_with("application/vnd.docker.image.rootfs.")
            || self
                .media_type
                .starts_with("application/vnd.buildkit.cacheconfig.")
            || matches!(
                &*self.media_type,
                "application/vnd.oci.image.config.v1+json"
                    | "application/vnd.docker.container.image.v1+json"
                    | "application/vnd.oci.empty.v1+json"
            )
    }
}

/// A manifest of any kind: its received bytes beside what was read in them.
#[derive(Clone, Debug)]
pub struct Manifest {
    bytes: Arc<[u8]>,
    media_type: Arc<str>,
    digest: Digest,
    kind: Kind,
    blobs: Vec<Descriptor>,
    children: Vec<Descriptor>,
    has_foreign: bool,
    /// The digest of the index that it was cut out of.
    cut_from: Option<Digest>,
    is_sparse: bool,
}

impl Manifest {
    /// Reads `bytes`, which hash to `digest` (for signed schema 1 the digest is its registry's word: protocol.md M22).
    /// `served_type` is the Content-Type that came with them, if any.
    ///
    /// Refused: what could be read as another kind of manifest (CVE-2021-41190; protocol.md V4, V5), structural keys
    /// that stand twice or in another case, descriptors without a usable digest and size, one digest with two sizes.
    pub fn parse(
        bytes: &[u8],
        served_type: Option<&str>,
        digest: Digest,
    ) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(bytes)?;
        let served_type = served_type
            .map(essence)
            .filter(|served| Kind::of_media_type(served).is_some());
        let media_type = match (&document.media_type, served_type) {
            (Some(embedded), Some(served)) if **embedded != *served => {
                return Err(ManifestError::TypeMismatch {
                    served,
                    embedded: embedded.clone(),
                });
            }
            (Some(embedded), _) => embedded.clone(),
            (None, Some(served)) => served,
            (None, None) => document.type_by_shape()?.into(),
        };
        let kind = Kind::of_media_type(&media_type)
            .ok_or_else(|| ManifestError::UnknownType(media_type.clone()))?;
        document.check_shape(kind)?;

        let mut manifest = Self {
            bytes: bytes.into(),
            media_type: media_type.into(),
            digest,
            kind,
            blobs: Vec::new(),
            children: Vec::new(),
            has_foreign: false,
            cut_from: None,
            is_sparse: false,
        };
        match kind {
            Kind::Image => {
                manifest.add_blob(document.config.ok_or(ManifestError::Missing("config"))?)?;
                for layer in document.layers.unwrap_or_default() {
                    manifest.add_blob(layer)?;
                }
            }
            Kind::Artifact => {
                for blob in document.blobs.unwrap_or_default() {
                    manifest.add_blob(blob)?;
                }
            }
            Kind::Index => {
                for child in document.manifests.unwrap_or_default() {
                    if child.is_blob() || child.is_foreign() {
                        manifest.add_blob(child)?;
                    } else {
                        add_once(&mut manifest.children, child)?;
                    }
                }
            }
            Kind::Schema1 => {
                for layer in document.fs_layers.unwrap_or_default() {
                    let digest = Digest::parse(&layer.blob_sum)?;
                    add_once(
                        &mut manifest.blobs,
                        Descriptor {
                            media_type: "".into(),
                            digest,
                            size: 0,
                        },
                    )?;
                }
            }
        }
        Ok(manifest)
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The type to put it under: the embedded one, else the one it was served as (protocol.md E21).
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest that names it.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The blobs that must be there before it is put, each once, foreign layers left out. Of schema 1 they have no
    /// sizes until `set_sizes`.
    pub fn blobs(&self) -> &[Descriptor] {
        &self.blobs
    }

    /// The manifests that must be there before it is put, each once. A type that is no manifest's may turn out to be
    /// a blob (protocol.md M12).
    pub fn children(&self) -> &[Descriptor] {
        &self.children
    }

    /// Whether layers were left out because of their type.
    pub fn has_foreign(&self) -> bool {
        self.has_foreign
    }

    /// The digest of what the source has: another one where this is what a platform filter left of it.
    pub fn source_digest(&self) -> &Digest {
        self.cut_from.as_ref().unwrap_or(&self.digest)
    }

    /// Whether children that it names were left out because nobody wants them.
    pub fn is_sparse(&self) -> bool {
        self.is_sparse
    }

    /// The config; only images have one.
    pub fn config(&self) -> Option<&Descriptor> {
        self.blobs.first().filter(|_| self.kind == Kind::Image)
    }

    /// The same index, of which only these children are wanted. Its bytes go on naming the others.
    #[must_use]
    pub fn sparse(&self, is_wanted: impl Fn(&Digest) -> bool) -> Self {
        let mut sparse = self.clone();
        sparse.children.retain(|child| is_wanted(&child.digest));
        sparse.is_sparse = true;
        sparse
    }

    /// What a platform filter has left of it.
    pub(super) fn trimmed(&self, bytes: &[u8]) -> Result<Self, ManifestError> {
        let digest = Digest::of(self.digest.algorithm(), bytes);
        let trimmed = Self::parse(bytes, Some(&self.media_type), digest)?;
        Ok(Self {
            cut_from: Some(self.digest.clone()),
            ..trimmed
        })
    }

    /// Gives schema 1's blobs the sizes that its registry told, in the order of `blobs`.
    pub fn set_sizes(&mut self, sizes: impl IntoIterator<Item = u64>) {
        for (blob, size) in self.blobs.iter_mut().zip(sizes) {
            blob.size = size;
        }
    }

    /// A descriptor of this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.bytes.len() as u64,
        }
    }

    fn add_blob(&mut self, blob: Descriptor) -> Result<(), ManifestError> {
        if blob.is_foreign() {
            self.has_foreign = true;
            return Ok(());
        }
        add_once(&mut self.blobs, blob)
    }
}

/// The same digest may stand in a manifest more than once, but not with two sizes (protocol.md M4).
fn add_once(list: &mut Vec<Descriptor>, new: Descriptor) -> Result<(), ManifestError> {
    // Linear up to the sizes that real manifests have; an index bomb (28 000 entries) is sorted out by the same scan
    // in well under a second (R25).
    match list.iter().find(|known| known.digest == new.digest) {
        None => list.push(new),
        Some(known) if known.size == new.size => {}
        Some(known) => return Err(ManifestError::TwoSizes(known.digest.clone())),
    }
    Ok(())
}

/// A media type in lower case without its parameters (protocol.md E4).
fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Why bytes are no manifest that can be copied. All of these are final: the bytes will not become better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// Not JSON, or a field of the wrong type.
    Json(String),
    /// The Content-Type and the `mediaType` inside differ.
    TypeMismatch {
        /// What it was served as.
        served: String,
        /// What it says itself.
        embedded: String,
    },
    /// A type that is no manifest's.
    UnknownType(String),
    /// Neither a type nor a shape that says what it is.
    Shapeless,
    /// `schemaVersion` does not fit the kind.
    SchemaVersion(Option<u64>),
    /// A key of another kind of manifest: it could be read as two things.
    Ambiguous {
        /// What it is by its type.
        kind: Kind,
        /// The key that does not belong.
        key: &'static str,
    },
    /// A field that the kind must have.
    Missing(&'static str),
    /// A descriptor's digest.
    Digest(DigestError),
    /// One digest, two sizes.
    TwoSizes(Digest),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "invalid manifest: {error}"),
            Self::TypeMismatch { served, embedded } => {
                write!(
                    f,
                    "ambiguous manifest: served as {served:?} but its mediaType is {embedded:?}"
                )
            }
            Self::UnknownType(media_type) => write!(
                f,
                "{media_type:?} is no type of manifest that can be copied"
            ),
            Self::Shapeless => write!(
                f,
                "neither its type nor its fields say what kind of manifest it is"
            ),
            Self::SchemaVersion(version) => {
                write!(f, "schemaVersion {version:?} does not fit its type")
            }
            Self::Ambiguous { kind, key } => write!(
                f,
                "ambiguous manifest: of kind {kind:?} but with a field {key:?}"
            ),
            Self::Missing(key) => write!(f, "manifest without {key:?}"),
            Self::Digest(error) => error.fmt(f),
            Self::TwoSizes(digest) => write!(f, "{digest} is named with two sizes"),
        }
    }
}

impl std::error::Error for ManifestError {}

impl From<serde_json::Error> for ManifestError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.to_string())
    }
}

impl From<DigestError> for ManifestError {
    fn from(error: DigestError) -> Self {
        Self::Digest(error)
    }
}

/// The top level of any manifest: the structural keys, each at most once and only in its own spelling, since Go
/// reads `Layers` as `layers` and the last of two (R22). Other keys are skipped.
#[derive(Default)]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    fs_layers: Option<Vec<FsLayer>>,
    history: bool,
}

const STRUCTURAL_KEYS: [&str; 8] = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "blobs",
    "fsLayers",
    "history",
];

impl Document {
    fn type_by_shape(&self) -> Result<&'static str, ManifestError> {
        match self.schema_version {
            Some(1) if self.fs_layers.is_some() => Ok(media_type::SCHEMA1_SIGNED),
            _ if self.manifests.is_some() => Ok(media_type::OCI_INDEX),
            _ if self.config.is_some() => Ok(media_type::OCI_IMAGE),
            _ => Err(ManifestError::Shapeless),
        }
    }

    fn check_shape(&self, kind: Kind) -> Result<(), ManifestError> {
        let version = if kind == Kind::Schema1 { 1 } else { 2 };
        // The artifact manifest has no schemaVersion.
        if self.schema_version != Some(version)
            && !(kind == Kind::Artifact && self.schema_version.is_none())
        {
            return Err(ManifestError::SchemaVersion(self.schema_version));
        }
        let present = [
            ("config", self.config.is_some()),
            ("layers", self.layers.is_some()),
            ("manifests", self.manifests.is_some()),
            ("blobs", self.blobs.is_some()),
            ("fsLayers", self.fs_layers.is_some()),
            ("history", self.history),
        ];
        let own: &[&str] = match kind {
            // `history` at the top of an image means nothing to anybody.
            Kind::Image => &["config", "layers", "history"],
            Kind::Index => &["manifests"],
            Kind::Artifact => &["blobs"],
            Kind::Schema1 => &["fsLayers", "history"],
        };
        match present
            .iter()
            .find(|(key, there)| *there && !own.contains(key))
        {
            Some((key, _)) => Err(ManifestError::Ambiguous { kind, key }),
            None => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopLevel;

        impl<'de> Visitor<'de> for TopLevel {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Document, M::Error> {
                let mut document = Document::default();
                let mut seen = [false; STRUCTURAL_KEYS.len()];
                while let Some(key) = map.next_key::<String>()? {
                    let Some(index) = strict_key(&key, &STRUCTURAL_KEYS, &mut seen)? else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    match index {
                        0 => document.schema_version = map.next_value()?,
                        1 => {
                            document.media_type = map
                                .next_value::<Option<String>>()?
                                .filter(|text| !text.is_empty());
                        }
                        2 => document.config = map.next_value()?,
                        3 => document.layers = Some(descriptors(&mut map)?),
                        4 => document.manifests = Some(descriptors(&mut map)?),
                        5 => document.blobs = Some(descriptors(&mut map)?),
                        6 => {
                            document.fs_layers = Some(
                                map.next_value::<Option<Vec<FsLayer>>>()?
                                    .unwrap_or_default(),
                            );
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            document.history = true;
                        }
                    }
                }
                Ok(document)
            }
        }

        deserializer.deserialize_map(TopLevel)
    }
}

/// An array of descriptors; `null` is an empty one (protocol.md M2).
fn descriptors<'de, M: MapAccess<'de>>(map: &mut M) -> Result<Vec<Descriptor>, M::Error> {
    Ok(map
        .next_value::<Option<Vec<Descriptor>>>()?
        .unwrap_or_default())
}

/// The index of `key` in `known`. Refused where it is one of them in another case, or comes a second time.
fn strict_key<E: de::Error>(
    key: &str,
    known: &[&str],
    seen: &mut [bool],
) -> Result<Option<usize>, E> {
    let Some(index) = known.iter().position(|name| name.eq_ignore_ascii_case(key)) else {
        return Ok(None);
    };
    if known.get(index) != Some(&key) {
        return Err(E::custom(format_args!(
            "{key:?} could be read as another field"
        )));
    }
    match seen.get_mut(index) {
        Some(seen) if !*seen => *seen = true,
        _ => return Err(E::custom(format_args!("duplicate field {key:?}"))),
    }
    Ok(Some(index))
}

#[derive(Deserialize)]
struct FsLayer {
    #[serde(rename = "blobSum")]
    blob_sum: String,
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Descriptor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a descriptor")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Descriptor, M::Error> {
                let mut media_type: Option<String> = None;
                let mut digest: Option<String> = None;
                let mut size: Option<u64> = None;
                let mut data: Option<String> = None;
                let mut seen = [false; DESCRIPTOR_KEYS.len()];
                while let Some(key) = map.next_key::<String>()? {
                    match strict_key(&key, &DESCRIPTOR_KEYS, &mut seen)? {
                        Some(0) => media_type = map.next_value()?,
                        Some(1) => digest = map.next_value()?,
                        Some(2) => size = map.next_value()?,
                        Some(_) => data = map.next_value()?,
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                let digest = digest.ok_or_else(|| de::Error::missing_field("digest"))?;
                let descriptor = Descriptor {
                    media_type: media_type.unwrap_or_default().into(),
                    digest: Digest::parse(&digest).map_err(de::Error::custom)?,
                    size: size.ok_or_else(|| de::Error::missing_field("size"))?,
                };
                if let Some(data) = data {
                    check_data(&descriptor, &data).map_err(de::Error::custom)?;
                }
                Ok(descriptor)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, _: S) -> Result<Descriptor, S::Error> {
                Err(de::Error::custom("a descriptor is an object, not a list"))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

const DESCRIPTOR_KEYS: [&str; 4] = ["mediaType", "digest", "size", "data"];

/// Embedded content must be the content that the descriptor names (image-spec, descriptor.md; protocol.md M6).
fn check_data(descriptor: &Descriptor, data: &str) -> Result<(), &'static str> {
    let data = BASE64.decode(data).map_err(|_| "`data` is not base64")?;
    let algorithm: Algorithm = descriptor.digest.algorithm();
    if data.len() as u64 == descriptor.size && Digest::of(algorithm, &data) == descriptor.digest {
        Ok(())
    } else {
        Err("`data` is not what digest and size say")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn parse(text: &str, served: Option<&str>) -> Result<Manifest, ManifestError> {
        let text = text.replace("$A", A).replace("$B", B);
        Manifest::parse(
            text.as_bytes(),
            served,
            Digest::of(Algorithm::Sha256, text.as_bytes()),
        )
    }

    fn descriptor(digest: &str, size: u64, media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    }

    #[test]
    fn an_image_without_media_type_takes_the_served_one() {
        // clients.md 1: Helm and umoci write none.
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}]}}"#,
            descriptor("$A", 2, "application/vnd.cncf.helm.config.v1+json"),
            descriptor(
                "$B",
                10,
                "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
            ),
            descriptor(
                "$B",
                10,
                "application/vnd.cncf.helm.chart.provenance.v1.prov"
            ),
        );
        let manifest = parse(
            &text,
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
        )
        .unwrap();
        assert_eq!(manifest.media_type(), media_type::OCI_IMAGE);
        assert_eq!(manifest.blobs().len(), 2);
        // A CDN's word is no type: the shape decides (E19).
        assert_eq!(
            parse(&text, Some("text/plain")).unwrap().kind(),
            Kind::Image
        );
    }

    #[test]
    fn foreign_layers_are_left_out_by_type_alone() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{},{}]}}"#,
            media_type::DOCKER_IMAGE,
            descriptor("$A", 2, "application/vnd.docker.container.image.v1+json"),
            descriptor(
                "$B",
                10,
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            ),
            format_args!(
                r#"{{"mediaType":"x","digest":"{}","size":1,"urls":["http://h/"]}}"#,
                "$B".replace("$B", A)
            )
            .to_string()
            .replace("\"size\":1", "\"size\":2"),
        );
        let manifest = parse(&text, None).unwrap();
        assert!(manifest.has_foreign());
        assert_eq!(manifest.blobs().len(), 1);
    }

    #[test]
    fn an_index_keeps_any_child() {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{},{}],"annotations":{{"a":""}}}}"#,
            descriptor("$A", 2, media_type::OCI_INDEX),
            descriptor("$A", 2, media_type::OCI_INDEX),
            descriptor("$B", 3, "application/vnd.oci.image.layer.v1.tar+gzip"),
            descriptor(
                "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
                3,
                "x/y"
            ),
        );
        let manifest = parse(&text, Some(media_type::OCI_INDEX)).unwrap();
        assert_eq!((manifest.children().len(), manifest.blobs().len()), (2, 1));
        assert_eq!(
            parse(r#"{"schemaVersion":2,"manifests":null}"#, None)
                .unwrap()
                .children()
                .len(),
            0
        );
    }

    #[test]
    fn schema_1_has_blobs_without_sizes() {
        let text = r#"{"schemaVersion":1,"name":"a","tag":"b","architecture":"x",
            "fsLayers":[{"blobSum":"$A"},{"blobSum":"$A"},{"blobSum":"$B"}],"history":[{},{},{}]}"#;
        let mut manifest = parse(text, Some(media_type::SCHEMA1_SIGNED)).unwrap();
        assert_eq!(manifest.kind(), Kind::Schema1);
        manifest.set_sizes([7, 8]);
        assert_eq!(
            manifest.blobs().iter().map(|b| b.size).collect::<Vec<_>>(),
            [7, 8]
        );
    }

    #[test]
    fn what_could_be_two_things_is_refused() {
        let config = descriptor("$A", 2, "c");
        let cases = [
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"Layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"fsLayers":[]}}"#),
            format!(r#"{{"schemaVersion":1,"config":{config},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, descriptor("$A", 3, "c")),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"$A","Digest":"$B","size":2}}"#.into(),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"$A","size":2,"size":2}}"#.into(),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"$A","size":-1}}"#.into(),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"$A","size":1.5}}"#.into(),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"$A","size":"5"}}"#.into(),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"sha256:../x","size":5}}"#.into(),
            r#"{"schemaVersion":2,"config":{"mediaType":"c","digest":"$A","size":2,"data":"e30="}}"#.into(),
            r#"{"schemaVersion":2,"manifests":[["c","$A",2]]}"#.into(),
            r#"{"schemaVersion":2,"layers":[]}"#.into(),
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::OCI_IMAGE),
            r#"{"schemaVersion":2,"mediaType":"text/html","manifests":[]}"#.into(),
            "[]".into(),
            "{} x".into(),
            "[".repeat(100_000),
        ];
        for text in cases {
            assert!(parse(&text, None).is_err(), "{text}");
        }
        let image = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config}}}"#,
            media_type::DOCKER_IMAGE
        );
        assert!(matches!(
            parse(&image, Some(media_type::OCI_IMAGE)),
            Err(ManifestError::TypeMismatch { .. })
        ));
    }

    #[test]
    fn embedded_data_must_be_the_content() {
        // clients.md 3: oras embeds `{}`, and an empty artifact names it as config and as layer.
        let empty = r#"{"mediaType":"application/vnd.oci.empty.v1+json","size":2,"data":"e30=",
            "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;
        let text = format!(
            r#"{{"schemaVersion":2,"config":{empty},"layers":[{empty}],"artifactType":"x/y"}}"#
        );
        assert_eq!(parse(&text, None).unwrap().blobs().len(), 1);
    }
}
