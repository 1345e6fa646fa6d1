//! Images for tests: blobs of any size from a seed, manifests of every kind, and the shapes that real clients write
//! (clients.md 1-11). Plain values: `FakeRegistry::push` puts them somewhere.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use image_syncer::oci::manifest::media_type;

use crate::registry::{payload_digest, sha256};

/// A blob.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl Blob {
    pub(crate) fn new(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self {
            media_type: media_type.to_string(),
            digest: sha256(&bytes),
            bytes: Arc::new(bytes),
        }
    }

    /// The empty config, `{}`.
    pub(crate) fn empty() -> Self {
        Self::new("application/vnd.oci.empty.v1+json", "{}")
    }

    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size()})
    }

    /// The descriptor with the bytes in it (M6).
    pub(crate) fn descriptor_with_data(&self) -> Value {
        with(
            self.descriptor(),
            json!({"data": BASE64.encode(&*self.bytes)}),
        )
    }
}

/// A manifest with everything that it refers to.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) children: Vec<Image>,
}

impl Image {
    /// Any manifest. `blobs` and `children` are what has to be put with it; what it says about them is its own affair.
    pub(crate) fn new(media_type: &str, manifest: &Value) -> Self {
        // Indented as most clients write it: bytes that are written anew would differ.
        let bytes = serde_json::to_vec_pretty(manifest).expect("a Value is always JSON");
        Self::from_bytes(media_type, bytes)
    }

    pub(crate) fn from_bytes(media_type: &str, bytes: Vec<u8>) -> Self {
        let document = serde_json::from_slice(&bytes).unwrap_or_default();
        Self {
            media_type: media_type.to_string(),
            digest: payload_digest(media_type, &document, &bytes).unwrap_or_else(|| sha256(&bytes)),
            bytes: Arc::new(bytes),
            blobs: Vec::new(),
            children: Vec::new(),
        }
    }

    pub(crate) fn holding<'a>(mut self, blobs: impl IntoIterator<Item = &'a Blob>) -> Self {
        self.blobs.extend(blobs.into_iter().cloned());
        self
    }

    /// A docker schema 2 image.
    pub(crate) fn docker(config: &Blob, layers: &[Blob]) -> Self {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::DOCKER_IMAGE,
            "config": config.descriptor(),
            "layers": descriptors(layers),
        });
        Self::new(media_type::DOCKER_IMAGE, &manifest)
            .holding([config])
            .holding(layers)
    }

    /// An OCI image.
    pub(crate) fn oci(config: &Blob, layers: &[Blob]) -> Self {
        Self::oci_with(config, layers, json!({"mediaType": media_type::OCI_IMAGE}))
    }

    /// An OCI image without `mediaType`, as helm and umoci write it (clients.md 1).
    pub(crate) fn oci_without_type(config: &Blob, layers: &[Blob]) -> Self {
        Self::oci_with(config, layers, json!({}))
    }

    /// An OCI image with more fields, or others.
    pub(crate) fn oci_with(config: &Blob, layers: &[Blob], fields: Value) -> Self {
        let manifest = json!({
            "schemaVersion": 2,
            "config": config.descriptor(),
            "layers": descriptors(layers),
        });
        Self::new(media_type::OCI_IMAGE, &with(manifest, fields))
            .holding([config])
            .holding(layers)
    }

    /// An OCI index of these images, each with its platform (`os/architecture[/variant]`) or none.
    pub(crate) fn index(children: &[(&Image, Option<&str>)]) -> Self {
        Self::list_of(media_type::OCI_INDEX, children)
    }

    /// A docker manifest list of these images.
    pub(crate) fn docker_list(children: &[(&Image, Option<&str>)]) -> Self {
        Self::list_of(media_type::DOCKER_LIST, children)
    }

    fn list_of(list_type: &str, children: &[(&Image, Option<&str>)]) -> Self {
        let entries: Vec<Value> = children
            .iter()
            .map(|(child, platform)| match platform {
                None => child.descriptor(),
                Some(text) => with(
                    child.descriptor(),
                    json!({"platform": platform_value(text)}),
                ),
            })
            .collect();
        Self::index_with(
            list_type,
            children.iter().map(|(child, _)| *child),
            json!({ "manifests": entries }),
        )
    }

    /// An index that holds these children and says what `fields` says.
    pub(crate) fn index_with<'a>(
        list_type: &str,
        children: impl IntoIterator<Item = &'a Image>,
        fields: Value,
    ) -> Self {
        let manifest = json!({"schemaVersion": 2, "mediaType": list_type, "manifests": []});
        let mut index = Self::new(list_type, &with(manifest, fields));
        index.children.extend(children.into_iter().cloned());
        index
    }

    /// A schema 1 manifest, signed as distribution signs: its digest is not the sha256 of its bytes (M22).
    pub(crate) fn schema1_signed(name: &str, tag: &str, layers: &[Blob]) -> Self {
        let mut bytes =
            serde_json::to_vec_pretty(&schema1(name, tag, layers)).expect("a Value is always JSON");
        let tail = "\n}";
        bytes.truncate(bytes.len() - tail.len());
        let protected = json!({
            "formatLength": bytes.len(),
            "formatTail": URL_SAFE_NO_PAD.encode(tail),
            "time": "2016-01-01T00:00:00Z",
        });
        let signatures = json!([{
            "header": {"alg": "ES256"},
            "signature": "bm90IGNoZWNrZWQ",
            "protected": URL_SAFE_NO_PAD.encode(protected.to_string()),
        }]);
        bytes.extend_from_slice(format!(",\n   \"signatures\": {signatures}{tail}").as_bytes());
        Self::from_bytes(media_type::SCHEMA1_SIGNED, bytes).holding(layers)
    }

    /// A schema 1 manifest without a signature.
    pub(crate) fn schema1_unsigned(name: &str, tag: &str, layers: &[Blob]) -> Self {
        Self::new(media_type::SCHEMA1, &schema1(name, tag, layers)).holding(layers)
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    /// All blobs of this image and of its children, each once.
    pub(crate) fn all_blobs(&self) -> Vec<Blob> {
        let mut blobs = self.blobs.clone();
        blobs.extend(self.children.iter().flat_map(Self::all_blobs));
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        blobs.dedup_by(|a, b| a.digest == b.digest);
        blobs
    }
}

/// An image for a version 1 engine: the topmost layer comes first.
fn schema1(name: &str, tag: &str, layers: &[Blob]) -> Value {
    let layers = layers.iter().rev();
    json!({
        "schemaVersion": 1,
        "name": name,
        "tag": tag,
        "architecture": "amd64",
        "fsLayers": layers.clone().map(|l| json!({"blobSum": l.digest})).collect::<Vec<_>>(),
        "history": layers.map(|_| json!({"v1Compatibility": "{}"})).collect::<Vec<_>>(),
    })
}

/// `object` with the fields of `more` added or replaced.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn descriptors(blobs: &[Blob]) -> Vec<Value> {
    blobs.iter().map(Blob::descriptor).collect()
}

/// `os/architecture[/variant]` as the object of a descriptor.
pub(crate) fn platform_value(text: &str) -> Value {
    let mut parts = text.split('/');
    let mut platform = json!({"os": parts.next(), "architecture": parts.next()});
    if let Some(variant) = parts.next() {
        platform["variant"] = variant.into();
    }
    platform
}

/// Makes new content from a seed: the same calls give the same bytes, and no two calls do.
#[derive(Clone, Debug)]
pub(crate) struct Maker(u64);

impl Maker {
    pub(crate) fn new(seed: u64) -> Self {
        // xorshift stays at zero for ever, and small seeds begin alike.
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// The next number (xorshift64).
    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn bytes(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }

    /// A layer of an OCI image.
    pub(crate) fn layer(&mut self, size: usize) -> Blob {
        Blob::new(OCI_LAYER, self.bytes(size))
    }

    /// A layer of a docker image.
    pub(crate) fn docker_layer(&mut self, size: usize) -> Blob {
        Blob::new(DOCKER_LAYER, self.bytes(size))
    }

    /// A config of an OCI image.
    pub(crate) fn config(&mut self, platform: &str) -> Blob {
        Blob::new(
            "application/vnd.oci.image.config.v1+json",
            self.config_text(platform),
        )
    }

    /// A config of a docker image.
    pub(crate) fn docker_config(&mut self, platform: &str) -> Blob {
        Blob::new(
            "application/vnd.docker.container.image.v1+json",
            self.config_text(platform),
        )
    }

    fn config_text(&mut self, platform: &str) -> String {
        let unique = json!({
            "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Labels": {"number": self.number().to_string()}},
        });
        with(platform_value(platform), unique).to_string()
    }

    /// A docker image with layers of these sizes.
    pub(crate) fn docker(&mut self, sizes: &[usize]) -> Image {
        let config = self.docker_config("linux/amd64");
        let layers: Vec<Blob> = sizes.iter().map(|size| self.docker_layer(*size)).collect();
        Image::docker(&config, &layers)
    }

    /// An OCI image with layers of these sizes.
    pub(crate) fn oci(&mut self, sizes: &[usize]) -> Image {
        self.oci_for("linux/amd64", sizes)
    }

    /// An OCI image for a platform with layers of these sizes.
    pub(crate) fn oci_for(&mut self, platform: &str, sizes: &[usize]) -> Image {
        let config = self.config(platform);
        let layers: Vec<Blob> = sizes.iter().map(|size| self.layer(*size)).collect();
        Image::oci(&config, &layers)
    }

    /// An OCI index of an image for each platform, each with a layer of its own and one that all share.
    pub(crate) fn index(&mut self, platforms: &[&str], size: usize) -> Image {
        let shared = self.layer(size);
        let images: Vec<Image> = platforms
            .iter()
            .map(|platform| Image::oci(&self.config(platform), &[shared.clone(), self.layer(size)]))
            .collect();
        let children: Vec<(&Image, Option<&str>)> = images
            .iter()
            .zip(platforms.iter().map(|platform| Some(*platform)))
            .collect();
        Image::index(&children)
    }

    /// Every shape of manifest that a registry like distribution takes, each with a tag that says what it is.
    pub(crate) fn corpus(&mut self) -> Vec<(&'static str, Image)> {
        let mut corpus = self.image_corpus();
        corpus.extend(self.artifact_corpus());
        corpus.extend(self.index_corpus());
        corpus
    }

    fn image_corpus(&mut self) -> Vec<(&'static str, Image)> {
        let config = self.config("linux/amd64");
        let docker_config = self.docker_config("linux/amd64");
        let layer = self.layer(500);
        let docker_layer = self.docker_layer(600);
        let nothing = Blob::new(OCI_LAYER, "");
        let foreign = Blob::new(FOREIGN_LAYER, self.bytes(300)).descriptor();
        let foreign = with(foreign, json!({"urls": ["https://foreign.invalid/layer"]}));
        let docker_manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::DOCKER_IMAGE,
            "config": docker_config.descriptor(),
            "layers": [docker_layer.descriptor()],
        });
        let docker_with = |fields| {
            let manifest = with(docker_manifest.clone(), fields);
            Image::new(media_type::DOCKER_IMAGE, &manifest).holding([&docker_config, &docker_layer])
        };
        let annotations = json!({"org.example.note": "x", "org.example.empty": ""});
        vec![
            ("docker", self.docker(&[700, 1300])),
            ("oci", self.oci(&[900])),
            ("no-media-type", Image::oci_without_type(&config, &[layer])),
            ("no-layers", Image::oci(&config, &[])),
            ("zero-size-layer", Image::oci(&config, &[nothing])),
            (
                "layer-twice",
                Image::docker(
                    &docker_config,
                    &[docker_layer.clone(), docker_layer.clone()],
                ),
            ),
            (
                "annotations-in-docker",
                docker_with(json!({ "annotations": annotations })),
            ),
            (
                "foreign-layer",
                docker_with(json!({"layers": [foreign, docker_layer.descriptor()]})),
            ),
        ]
    }

    fn artifact_corpus(&mut self) -> Vec<(&'static str, Image)> {
        let empty = Blob::empty();
        let chart_config = Blob::new(
            "application/vnd.cncf.helm.config.v1+json",
            r#"{"name":"c"}"#,
        );
        let chart = [
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "application/vnd.cncf.helm.chart.provenance.v1.prov",
        ];
        let chart = chart.map(|media_type| Blob::new(media_type, self.bytes(120)));
        let nothing = json!({
            "mediaType": media_type::OCI_IMAGE,
            "artifactType": "application/vnd.example.nothing",
            "config": empty.descriptor_with_data(),
            "layers": [empty.descriptor_with_data()],
        });
        let file = Blob::new("application/vnd.example.file", self.bytes(77));
        let about = json!({
            "mediaType": media_type::OCI_IMAGE,
            "artifactType": "application/vnd.example.file",
            "subject": Blob::new(media_type::OCI_IMAGE, "absent").descriptor(),
        });
        vec![
            (
                "1.2.3_build.5",
                Image::oci_without_type(&chart_config, &chart),
            ),
            (
                "empty-artifact",
                Image::oci_with(&empty, std::slice::from_ref(&empty), nothing),
            ),
            ("artifact", Image::oci_with(&empty, &[file], about)),
        ]
    }

    fn index_corpus(&mut self) -> Vec<(&'static str, Image)> {
        let multi = self.index(&["linux/amd64", "linux/arm64", "linux/arm/v7"], 400);
        let oci = self.oci(&[90]);
        let docker = self.docker(&[95]);
        let docker_arm =
            Image::docker(&self.docker_config("linux/arm64"), &[self.docker_layer(80)]);
        let statement = Blob::new("application/vnd.in-toto+json", self.bytes(60));
        let attestation = Image::oci(&self.config("unknown/unknown"), &[statement]);
        let annotations = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": oci.digest,
        });
        let about =
            json!({"platform": platform_value("unknown/unknown"), "annotations": annotations});
        let attested = json!({"manifests": [
            with(oci.descriptor(), json!({"platform": platform_value("linux/amd64")})),
            with(attestation.descriptor(), about),
        ]});
        let config_type = json!({"artifactType": oci.blobs[0].media_type});
        let appended = json!({
            "manifests": [with(oci.descriptor(), config_type), docker.descriptor()],
        });
        let docker_list = Image::docker_list(&[
            (&docker, Some("linux/amd64")),
            (&docker_arm, Some("linux/arm64/v8")),
        ]);
        let index_with = |children: [&Image; 2], fields| {
            Image::index_with(media_type::OCI_INDEX, children, fields)
        };
        vec![
            ("docker-list", docker_list),
            ("attested-index", index_with([&oci, &attestation], attested)),
            ("appended-index", index_with([&oci, &docker], appended)),
            (
                "nested-index",
                Image::index(&[(&multi, None), (&docker, Some("linux/amd64"))]),
            ),
            ("empty-index", Image::index(&[])),
            ("multi", multi),
        ]
    }
}

/// A docker layer that registries need not hold.
pub(crate) const FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
