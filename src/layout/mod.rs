//! OCI image layouts (image-spec, image-layout.md) as source and target: a folder whose `index.json` names images
//! and whose `blobs` hold them. Whatever is written is written aside, flushed and renamed, so that a reader sees the
//! old file or the new one and never a part. Not here: archives of layouts, and the removal of content.

mod error;
mod files;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use log::warn;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::oci::manifest::media_type;
use crate::oci::{Descriptor, Digest, Kind, Manifest, Reference, Repository, Tag};
use crate::store::{
    Begin, Class, Contact, Examine, Found, Hint, Presence, Prior, SendError, Source, StoreError,
    Target, Trial, Upload,
};

use error::{LayoutError, reading, writing};
use files::{
    Temporary, check_folder, check_size, create_folder, is_temporary, open_as, open_file,
    read_file, read_open, write_file,
};

/// One layout. A target folder need not exist before its first write.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Serialises changes of `index.json` where the file system knows no locks.
    index: Mutex<()>,
}

impl Layout {
    /// The layout at `root`. Nothing is read or made yet.
    pub(crate) fn open(root: &Path) -> Self {
        Self {
            root: root.into(),
            index: Mutex::new(()),
        }
    }

    /// The image of a layout that holds just one and has no tag for it: what a rule without a tag means by it
    /// (protocol.md L3).
    pub(crate) fn sole(&self) -> Result<Option<Digest>, StoreError> {
        let Some(index) = self.read_index()? else {
            return Ok(None);
        };
        match index.entries.as_slice() {
            [entry] if name(entry).is_none_or(|name| Tag::parse(name).is_err()) => {
                Ok(Some(self.descriptor(entry)?.digest))
            }
            _ => Ok(None),
        }
    }

    /// Makes the folder a layout if it is none yet. `oci-layout` comes first, so that what a crash leaves behind is
    /// known again as a layout (protocol.md L7).
    fn create(&self) -> Result<(), LayoutError> {
        if !self.exists()? {
            if let Some(parent) = self.root.parent() {
                fs::create_dir_all(parent).map_err(writing(parent))?;
            }
            create_folder(&self.root)?;
            write_file(&self.root, "oci-layout", LAYOUT_FILE)?;
        }
        create_folder(&self.root.join("blobs"))
    }

    /// Whether there is a layout; an absent or empty folder is none yet. Anything else in its place is an error.
    fn exists(&self) -> Result<bool, LayoutError> {
        // The listing comes first: who makes a layout at the same time makes `oci-layout` before anything else, so
        // it cannot be missing after a look that found more.
        let mut listing = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            listing => listing.map_err(reading(&self.root))?,
        };
        let foreign =
            listing.any(|entry| entry.is_ok_and(|entry| !is_temporary(&entry.file_name())));
        let path = self.root.join("oci-layout");
        let bytes = match read_file(&path, MAX_LAYOUT_FILE) {
            Err(LayoutError::NotFound(_)) if foreign => {
                return Err(LayoutError::NotALayout(self.root.clone()));
            }
            Err(LayoutError::NotFound(_)) => return Ok(false),
            bytes => bytes?,
        };
        let version = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|file| Some(file.get("imageLayoutVersion")?.as_str()?.to_owned()));
        match version {
            Some(version) if version.starts_with("1.") => Ok(true),
            version => Err(LayoutError::Version { path, version }),
        }
    }

    /// `None`: there is no layout.
    fn read_index(&self) -> Result<Option<Index>, LayoutError> {
        if !self.exists()? {
            return Ok(None);
        }
        let path = self.root.join("index.json");
        match read_file(&path, MAX_INDEX) {
            // A first copy was cut off before its first tag.
            Err(LayoutError::NotFound(_)) => Ok(Some(Index::default())),
            bytes => match Index::parse(&bytes?) {
                Ok(index) => Ok(Some(index)),
                Err(what) => Err(LayoutError::Index { path, what }),
            },
        }
    }

    /// What a reference names, and the entry that says so where it is a tag. `None`: no such tag, or no layout.
    fn look_up(
        &self,
        reference: &Reference,
    ) -> Result<Option<(Digest, Option<Descriptor>)>, LayoutError> {
        let tag = match reference {
            Reference::Digest(digest) => return Ok(Some(((**digest).clone(), None))),
            Reference::Tag(tag) => tag,
        };
        let mut found: Option<Descriptor> = None;
        for entry in self.read_index()?.iter().flat_map(|index| &index.entries) {
            if name(entry) != Some(tag.as_str()) {
                continue;
            }
            let descriptor = self.descriptor(entry)?;
            // Two entries of one name must agree (protocol.md L2).
            match &found {
                Some(first) if first.digest != descriptor.digest => {
                    return Err(LayoutError::Ambiguous {
                        path: self.root.clone(),
                        tag: tag.clone(),
                    });
                }
                _ => found = Some(descriptor),
            }
        }
        Ok(found.map(|entry| (entry.digest.clone(), Some(entry))))
    }

    fn descriptor(&self, entry: &Value) -> Result<Descriptor, LayoutError> {
        Descriptor::deserialize(entry).map_err(|error| LayoutError::Index {
            path: self.root.join("index.json"),
            what: error.to_string(),
        })
    }

    /// Opens a blob or manifest and tells its size. The path is made of a checked digest only (protocol.md L8), and
    /// neither the folders nor the file may be links out of the layout (L9).
    fn open_blob(&self, digest: &Digest) -> Result<(File, u64, PathBuf), LayoutError> {
        let (folder, path) = self.blob_path(digest);
        for folder in [&self.root.join("blobs"), &folder] {
            check_folder(folder)?;
        }
        let (file, size) = open_file(&path)?;
        Ok((file, size, path))
    }

    /// The size of a blob or manifest, where it is there and can be opened.
    fn size(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        match self.open_blob(digest) {
            Ok((_, size, _)) => Ok(Some(size)),
            Err(LayoutError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder of a blob, and its file.
    fn blob_path(&self, digest: &Digest) -> (PathBuf, PathBuf) {
        let folder = self.root.join("blobs").join(digest.algorithm().name());
        let path = folder.join(digest.encoded());
        (folder, path)
    }

    /// Sets a tag in `index.json`: read again, changed, renamed, under the lock that each writer of ours takes. Other
    /// tools take none, hence the fresh look (protocol.md L7).
    fn set_tag(&self, tag: &Tag, manifest: &Manifest) -> Result<(), LayoutError> {
        let _guard = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.root.join(LOCK);
        let lock = match File::create_new(&path) {
            // Opened like anything that may have come with the folder: the name could be a link or a pipe. For
            // writing, since NFS locks nothing else.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                open_as(&path, File::options().write(true))?.0
            }
            created => created.map_err(writing(&path))?,
        };
        if let Err(error) = lock.lock() {
            warn!("cannot lock {}, going on: {error}", path.display());
        }
        let mut index = self.read_index()?.unwrap_or_default();
        index.set(tag, manifest);
        write_file(&self.root, "index.json", index.into_text().as_bytes())
    }
}

impl Source for Layout {
    fn repositories(&self) -> Result<Vec<Repository>, StoreError> {
        Err(StoreError::new(
            Class::Permanent,
            "a layout is one repository",
        ))
    }

    fn tags(&self) -> Result<Option<Vec<Tag>>, StoreError> {
        let Some(index) = self.read_index()? else {
            return Ok(None);
        };
        let mut tags = Vec::new();
        let mut seen = HashSet::new();
        let mut others = Vec::new();
        for name in index.entries.iter().filter_map(name) {
            match Tag::parse(name) {
                Ok(tag) if seen.insert(tag.clone()) => tags.push(tag),
                Ok(_) => {}
                Err(error) => others.push(error),
            }
        }
        if let Some(first) = others.first() {
            let (root, count) = (self.root.display(), others.len());
            warn!("{root}: {count} images left out for their names, the first: {first}");
        }
        Ok(Some(tags))
    }

    fn referrers(&self, _: &Digest) -> Result<Option<Vec<Digest>>, StoreError> {
        Ok(None)
    }

    fn head(&self, reference: &Reference) -> Result<Presence, StoreError> {
        let Some((digest, entry)) = self.look_up(reference)? else {
            return Ok(Presence::Absent);
        };
        Ok(match self.size(&digest)? {
            Some(size) if entry.as_ref().is_none_or(|entry| entry.size == size) => {
                let kind = entry.and_then(|entry| Kind::of_media_type(&entry.media_type));
                Presence::Present(digest, kind)
            }
            _ => Presence::Absent,
        })
    }

    fn manifest(&self, reference: &Reference) -> Result<Manifest, StoreError> {
        let Some((digest, entry)) = self.look_up(reference)? else {
            return Err(LayoutError::Absent {
                path: self.root.clone(),
                reference: reference.clone(),
            }
            .into());
        };
        let (file, size, path) = self.open_blob(&digest)?;
        if let Some(entry) = &entry {
            check_size(&path, entry.size, size)?;
        }
        let bytes = read_open(file, size, &path, MAX_MANIFEST)?;
        if Digest::of(digest.algorithm(), &bytes) != digest {
            return Err(LayoutError::Corrupt(path).into());
        }
        let media_type = entry.as_ref().map(|entry| &*entry.media_type);
        let manifest = Manifest::parse(&bytes, media_type, digest)
            .map_err(|cause| LayoutError::Manifest { path, cause })?;
        refuse_schema1(&manifest)?;
        Ok(manifest)
    }

    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let (mut file, size, path) = self.open_blob(&descriptor.digest)?;
        check_size(&path, descriptor.size, size)?;
        file.seek(SeekFrom::Start(from)).map_err(reading(&path))?;
        Ok(Box::new(BlobReader {
            file: file.take(size.saturating_sub(from)),
            path,
        }))
    }
}

impl Target for Layout {
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, StoreError> {
        Ok(self.size(&descriptor.digest)? == Some(descriptor.size))
    }

    fn begin(&self, descriptor: &Descriptor, hint: &Hint) -> Result<Begin, StoreError> {
        self.create()?;
        let (folder, path) = self.blob_path(&descriptor.digest);
        create_folder(&folder)?;
        if hint.prior != Prior::Distrusted && self.has_blob(descriptor)? {
            return Ok(Begin::Present(Found::Existing));
        }
        Ok(Begin::Upload {
            upload: Box::new(BlobUpload {
                temporary: Temporary::create(&folder)?,
                path,
                offset: 0,
            }),
            mount_denied: hint.mount_from.is_some(),
        })
    }

    fn put_manifest(&self, reference: &Reference, manifest: &Manifest) -> Result<bool, StoreError> {
        refuse_schema1(manifest)?;
        self.create()?;
        let digest = manifest.digest();
        let (folder, _) = self.blob_path(digest);
        create_folder(&folder)?;
        // Written even if it is there: a damaged one heals so.
        write_file(&folder, &digest.encoded(), manifest.bytes())?;
        if let Reference::Tag(tag) = reference {
            self.set_tag(tag, manifest)?;
        }
        Ok(false)
    }
}

impl Examine for Layout {
    fn contact(&self) -> Result<Option<Contact>, StoreError> {
        Ok(None)
    }

    fn login(&self) -> Option<String> {
        None
    }

    fn some_tags(&self) -> Result<Option<Vec<Tag>>, StoreError> {
        self.tags()
    }

    /// Makes a file and removes it: in the layout, or in the folder where its folders would be made.
    fn try_push(&self, _nowhere: Option<&Digest>) -> Result<Trial, StoreError> {
        self.read_index()?;
        let mut folders = self.root.ancestors();
        let folder = folders.find(|folder| !matches!(folder.try_exists(), Ok(false)));
        Temporary::create(folder.unwrap_or(&self.root))?;
        Ok(Trial {
            is_cancelled: true,
            ..Trial::default()
        })
    }
}

/// `index.json`. Fields and entries that mean nothing here are kept.
struct Index {
    fields: Map<String, Value>,
    entries: Vec<Value>,
}

impl Index {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut fields: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let entries = match fields.remove("manifests") {
            Some(Value::Array(entries)) => entries,
            None | Some(Value::Null) => Vec::new(),
            Some(_) => return Err("`manifests` is no list".into()),
        };
        Ok(Self { fields, entries })
    }

    /// The tag leaves the entry that had it. That entry goes: one without a name would stay for ever.
    fn set(&mut self, tag: &Tag, manifest: &Manifest) {
        self.entries
            .retain(|entry| name(entry) != Some(tag.as_str()));
        let entry = manifest.descriptor();
        self.entries.push(json!({
            "mediaType": &*entry.media_type,
            "digest": entry.digest.to_string(),
            "size": entry.size,
            "annotations": { REF_NAME: tag.as_str() },
        }));
    }

    fn into_text(mut self) -> String {
        self.fields.insert("manifests".into(), self.entries.into());
        Value::Object(self.fields).to_string()
    }
}

impl Default for Index {
    fn default() -> Self {
        let fields = [
            ("schemaVersion".into(), json!(2)),
            ("mediaType".into(), json!(media_type::OCI_INDEX)),
        ];
        Self {
            fields: fields.into_iter().collect(),
            entries: Vec::new(),
        }
    }
}

/// What `index.json` calls an entry. Often a tag; some tools write whole references (protocol.md L2).
fn name(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

/// The layout format has no place for schema 1: its digest is not that of its bytes.
fn refuse_schema1(manifest: &Manifest) -> Result<(), LayoutError> {
    match manifest.kind() {
        Kind::Schema1 => Err(LayoutError::Schema1),
        Kind::Image | Kind::Index | Kind::Artifact => Ok(()),
    }
}

/// Reads a blob to its end. A file that was cut meanwhile is an error, never a short blob.
struct BlobReader {
    file: io::Take<File>,
    path: PathBuf,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let error = match self.file.read(buffer) {
            Ok(0) if self.file.limit() > 0 && !buffer.is_empty() => {
                LayoutError::Cut(self.path.clone())
            }
            Ok(count) => return Ok(count),
            Err(error) => reading(&self.path)(error),
        };
        Err(io::Error::other(StoreError::from(error)))
    }
}

struct BlobUpload {
    temporary: Temporary,
    path: PathBuf,
    offset: u64,
}

impl Upload for BlobUpload {
    fn offset(&self) -> u64 {
        self.offset
    }

    /// A file that could not be written is the end of the run.
    fn resume(&mut self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    fn location(&self) -> Option<String> {
        None
    }

    /// Not `io::copy`, which does not tell which side failed.
    fn send(&mut self, body: &mut dyn Read) -> Result<(), SendError> {
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(SendError::Body),
            };
            let chunk = buffer.get(..count).unwrap_or(&buffer);
            self.temporary.write(chunk).map_err(StoreError::from)?;
            self.offset += count as u64;
        }
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(self.temporary.commit(&self.path)?)
    }
}

const LAYOUT_FILE: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LOCK: &str = ".lock";
/// Read into memory at most, in bytes (decisions D8: a manifest, a list of tags).
const MAX_MANIFEST: u64 = 8 << 20;
const MAX_INDEX: u64 = 16 << 20;
const MAX_LAYOUT_FILE: u64 = 4 << 10;
const COPY_BUFFER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::oci::Algorithm;
    use crate::store::Class;

    /// A folder that is removed at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let random = RandomState::new().build_hasher().finish();
            let path = std::env::temp_dir().join(format!("image-syncer-layout-{random:016x}"));
            fs::create_dir(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }

        /// A layout with one image under the tag `a`; its only blob is an empty config.
        fn with_image() -> (Self, Layout, Manifest) {
            let folder = Self::new();
            let layout = Layout::open(&folder.0.join("layout"));
            let image = image("a");
            put_blob(&layout, b"{}");
            layout.put_manifest(&tag("a"), &image).unwrap();
            (folder, layout, image)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn tag(text: &str) -> Reference {
        Reference::Tag(Tag::parse(text).unwrap())
    }

    fn blob(bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: "application/octet-stream".into(),
            digest: Digest::of(Algorithm::Sha256, bytes),
            size: bytes.len() as u64,
        }
    }

    fn manifest(text: &str) -> Manifest {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        Manifest::parse(text.as_bytes(), None, digest).unwrap()
    }

    fn image(note: &str) -> Manifest {
        let config = blob(b"{}").digest;
        manifest(&format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[],"note":"{note}"}}"#
        ))
    }

    fn upload(layout: &Layout, descriptor: &Descriptor) -> Box<dyn Upload> {
        match layout.begin(descriptor, &Hint::default()).unwrap() {
            Begin::Upload { upload, .. } => upload,
            Begin::Present(_) => panic!("{} is there already", descriptor.digest),
        }
    }

    fn put_blob(layout: &Layout, mut bytes: &[u8]) {
        let mut upload = upload(layout, &blob(bytes));
        upload.send(&mut bytes).unwrap();
        upload.commit().unwrap();
    }

    fn read_blob(layout: &Layout, descriptor: &Descriptor, from: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut reader = layout.blob(descriptor, from).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn file_of(layout: &Layout, digest: &Digest) -> PathBuf {
        layout.blob_path(digest).1
    }

    fn index_of(layout: &Layout) -> Value {
        serde_json::from_slice(&fs::read(layout.root.join("index.json")).unwrap()).unwrap()
    }

    fn write_index(layout: &Layout, entries: &Value) {
        let text = json!({ "schemaVersion": 2, "manifests": entries }).to_string();
        fs::write(layout.root.join("index.json"), text).unwrap();
    }

    fn temporaries(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .filter(|entry| is_temporary(&entry.as_ref().unwrap().file_name()))
            .count()
    }

    #[track_caller]
    fn check<T>(result: Result<T, StoreError>, class: Class, text: &str) {
        let error = result.err().expect("an error");
        assert_eq!(error.class, class, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let folder = Folder::new();
        let layout = Layout::open(&folder.0.join("new/deep/layout"));
        assert_eq!(layout.tags().unwrap(), None);
        assert_eq!(layout.head(&tag("v1")).unwrap(), Presence::Absent);
        check(layout.manifest(&tag("v1")), Class::NotFound, "no image v1");

        let image = image("");
        let by_digest = Reference::from(image.digest().clone());
        assert_eq!(layout.head(&by_digest).unwrap(), Presence::Absent);
        for bytes in [&b"{}"[..], b"", b"0123456789"] {
            put_blob(&layout, bytes);
            let again = layout.begin(&blob(bytes), &Hint::default()).unwrap();
            assert!(matches!(again, Begin::Present(Found::Existing)));
            assert_eq!(read_blob(&layout, &blob(bytes), 0), bytes);
        }
        assert_eq!(read_blob(&layout, &blob(b"0123456789"), 4), b"456789");
        layout.put_manifest(&by_digest, &image).unwrap();
        assert_eq!(layout.tags().unwrap(), Some(vec![]));
        layout.put_manifest(&tag("v1"), &image).unwrap();

        for (reference, kind) in [(tag("v1"), Some(Kind::Image)), (by_digest, None)] {
            let present = Presence::Present(image.digest().clone(), kind);
            assert_eq!(layout.head(&reference).unwrap(), present);
            let read = layout.manifest(&reference).unwrap();
            assert_eq!(read.bytes(), image.bytes());
            assert_eq!(read.media_type(), media_type::OCI_IMAGE);
        }
        let tags = layout.tags().unwrap().unwrap();
        assert_eq!(tags, [Tag::parse("v1").unwrap()]);
        assert_eq!(layout.head(&tag("v2")).unwrap(), Presence::Absent);
        let oci_layout = fs::read(layout.root.join("oci-layout")).unwrap();
        assert_eq!(oci_layout, LAYOUT_FILE);
        for folder in [&layout.root, &layout.root.join("blobs/sha256")] {
            assert_eq!(temporaries(folder), 0);
        }
    }

    #[test]
    fn the_shipped_layout_is_whole() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/layout");
        let layout = Layout::open(&root);
        let tags = layout.tags().unwrap().unwrap();
        assert_eq!(tags, ["1.0", "2.0"].map(|tag| Tag::parse(tag).unwrap()));
        let mut wanted: Vec<_> = tags.into_iter().map(Reference::Tag).collect();
        let mut images = 0;
        while let Some(reference) = wanted.pop() {
            let manifest = layout.manifest(&reference).unwrap();
            for blob in manifest.blobs() {
                let bytes = read_blob(&layout, blob, 0);
                assert_eq!(Digest::of(Algorithm::Sha256, &bytes), blob.digest);
            }
            images += usize::from(manifest.kind() == Kind::Image);
            let children = manifest.children().iter();
            wanted.extend(children.map(|child| Reference::from(child.digest.clone())));
        }
        assert_eq!(images, 3);
    }

    #[test]
    fn a_tag_moves_and_everything_else_stays() {
        let (_folder, layout, old) = Folder::with_image();
        let kept = [
            json!({"mediaType": "application/x", "digest": "blake3:00", "size": 1}),
            json!({"mediaType": "m", "digest": old.digest().to_string(), "size": 1, "annotations": {REF_NAME: "docker.io/a/b:c"}}),
            json!("no entry at all"),
        ];
        let mut index = index_of(&layout);
        index["x-unknown"] = json!({"deep": [1, 2.5, null]});
        let entries = index["manifests"].as_array_mut().unwrap();
        entries.splice(0..0, kept.clone());
        fs::write(layout.root.join("index.json"), index.to_string()).unwrap();

        let new = image("new");
        layout.put_manifest(&tag("a"), &new).unwrap();
        layout.put_manifest(&tag("b"), &old).unwrap();
        let index = index_of(&layout);
        assert_eq!(index["x-unknown"], json!({"deep": [1, 2.5, null]}));
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries[..3], kept);
        let entry = |name, manifest: &Manifest| {
            json!({
                "mediaType": media_type::OCI_IMAGE,
                "digest": manifest.digest().to_string(),
                "size": manifest.bytes().len(),
                "annotations": {REF_NAME: name},
            })
        };
        assert_eq!(entries[3..], [entry("a", &new), entry("b", &old)]);
        let tags = layout.tags().unwrap().unwrap();
        assert_eq!(tags, ["a", "b"].map(|tag| Tag::parse(tag).unwrap()));
    }

    #[test]
    fn a_sole_image_needs_no_tag() {
        let (_folder, layout, image) = Folder::with_image();
        let entry = |name: Value| json!({"mediaType": "", "digest": image.digest().to_string(), "size": image.bytes().len(), "annotations": {REF_NAME: name}});
        let unnamed = entry(Value::Null);
        let reference = entry(json!("docker.io/library/nginx:1"));
        assert_eq!(layout.sole().unwrap(), None);
        for (entries, sole) in [
            (json!([unnamed]), true),
            (json!([reference]), true),
            (json!([entry(json!("a"))]), false),
            (json!([unnamed, unnamed]), false),
            (json!([]), false),
        ] {
            write_index(&layout, &entries);
            let expected = sole.then(|| image.digest().clone());
            assert_eq!(layout.sole().unwrap(), expected, "{entries}");
        }
    }

    #[test]
    fn one_name_for_two_images_is_refused_until_it_is_put_again() {
        let (_folder, layout, first) = Folder::with_image();
        let second = image("second");
        layout.put_manifest(&tag("b"), &second).unwrap();
        let mut index = index_of(&layout);
        index["manifests"][1]["annotations"][REF_NAME] = json!("a");
        fs::write(layout.root.join("index.json"), index.to_string()).unwrap();
        check(
            layout.head(&tag("a")),
            Class::Permanent,
            "two images are called a",
        );
        layout.put_manifest(&tag("a"), &first).unwrap();
        let present = Presence::Present(first.digest().clone(), Some(Kind::Image));
        assert_eq!(layout.head(&tag("a")).unwrap(), present);
    }

    #[test]
    fn damaged_content_is_never_used() {
        let (_folder, layout, image) = Folder::with_image();
        let file = file_of(&layout, image.digest());
        let by_digest = Reference::from(image.digest().clone());

        let mut flipped = image.bytes().to_vec();
        flipped[40] ^= 1;
        fs::write(&file, &flipped).unwrap();
        check(layout.manifest(&tag("a")), Class::Permanent, "is damaged");
        layout.put_manifest(&by_digest, &image).unwrap();
        layout.manifest(&tag("a")).unwrap();

        fs::write(&file, b"{}").unwrap();
        assert_eq!(layout.head(&tag("a")).unwrap(), Presence::Absent);
        check(layout.manifest(&tag("a")), Class::Permanent, "has 2 bytes");
        let huge = File::create(&file).unwrap();
        huge.set_len(MAX_MANIFEST + 1).unwrap();
        check(
            layout.manifest(&by_digest),
            Class::Permanent,
            "at most 8388608 are read",
        );
        fs::remove_file(&file).unwrap();
        assert_eq!(layout.head(&tag("a")).unwrap(), Presence::Absent);
        check(
            layout.manifest(&tag("a")),
            Class::NotFound,
            "does not exist",
        );

        let mut config = blob(b"{}");
        config.size = 3;
        check(
            layout.blob(&config, 0),
            Class::Permanent,
            "has 2 bytes, its descriptor says 3",
        );
        let begun = layout.begin(&config, &Hint::default()).unwrap();
        assert!(matches!(begun, Begin::Upload { .. }));
        check(
            layout.blob(&blob(b"missing"), 0),
            Class::NotFound,
            "does not exist",
        );
    }

    #[test]
    fn a_blob_that_shrinks_while_it_is_read_is_an_error() {
        let folder = Folder::new();
        let layout = Layout::open(&folder.0);
        put_blob(&layout, b"0123456789");
        let mut reader = layout.blob(&blob(b"0123456789"), 0).unwrap();
        reader.read_exact(&mut [0; 4]).unwrap();
        let path = file_of(&layout, &blob(b"0123456789").digest);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(6)
            .unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        let error = error.downcast::<StoreError>().unwrap();
        assert!(
            error
                .to_string()
                .ends_with("became shorter while it was read")
        );
    }

    #[test]
    fn links_pipes_and_devices_are_not_opened() {
        let (folder, layout, image) = Folder::with_image();
        let config = blob(b"{}");
        let outside = folder.0.join("outside");
        fs::write(&outside, b"{}").unwrap();
        for path in [
            file_of(&layout, &config.digest),
            layout.root.join("blobs/sha256"),
            layout.root.join("blobs"),
        ] {
            let aside = folder.0.join("aside");
            fs::rename(&path, &aside).unwrap();
            let target = if aside.is_dir() { &aside } else { &outside };
            symlink(target, &path).unwrap();
            check(layout.blob(&config, 0), Class::Permanent, "is no ");
            assert!(layout.begin(&config, &Hint::default()).is_err());
            fs::remove_file(&path).unwrap();
            fs::rename(&aside, &path).unwrap();
        }
        for name in ["index.json", "oci-layout", LOCK] {
            let path = layout.root.join(name);
            let aside = folder.0.join("aside");
            fs::rename(&path, &aside).unwrap();
            symlink(&aside, &path).unwrap();
            let put = layout.put_manifest(&tag("a"), &image);
            check(put, Class::Permanent, "is no regular file");
            fs::remove_file(&path).unwrap();
            symlink("/dev/zero", &path).unwrap();
            let put = layout.put_manifest(&tag("a"), &image);
            check(put, Class::Permanent, "is no regular file");
            fs::remove_file(&path).unwrap();
            // Where the program is missing, the pipe is; the links above were tried all the same.
            if Command::new("mkfifo").arg(&path).status().is_ok() {
                let put = layout.put_manifest(&tag("a"), &image);
                check(put, Class::Permanent, "is no regular file");
                fs::remove_file(&path).unwrap();
            }
            fs::rename(&aside, &path).unwrap();
        }
        layout.put_manifest(&tag("a"), &image).unwrap();
    }

    #[test]
    fn broken_layouts_are_refused_with_their_path() {
        let (_folder, layout, _) = Folder::with_image();
        let digest = format!("sha256:{}", "0".repeat(64));
        let traversal = json!([{"mediaType": "", "digest": "sha256:../../../etc/passwd", "size": 1, "annotations": {REF_NAME: "a"}}]);
        write_index(&layout, &traversal);
        check(layout.head(&tag("a")), Class::Permanent, "is no digest");
        let index = layout.root.join("index.json");
        for (text, what) in [
            ("", "EOF"),
            ("[]", "invalid type"),
            (r#"{"manifests": {}}"#, "`manifests` is no list"),
            (
                &format!(
                    r#"{{"manifests": [{{"digest": "{digest}", "annotations": {{"{REF_NAME}": "a"}}}}]}}"#
                ),
                "size",
            ),
            (&"[".repeat(1000), "index.json"),
        ] {
            fs::write(&index, text).unwrap();
            check(layout.head(&tag("a")), Class::Permanent, what);
        }
        File::create(&index).unwrap().set_len(1 << 30).unwrap();
        check(layout.tags(), Class::Permanent, "at most 16777216 are read");
        fs::remove_file(&index).unwrap();
        assert_eq!(layout.tags().unwrap(), Some(vec![]));

        for (text, what) in [
            (r#"{"imageLayoutVersion":"2.0.0"}"#, "version \"2.0.0\""),
            ("{}", "no imageLayoutVersion"),
            ("", "no imageLayoutVersion"),
        ] {
            fs::write(layout.root.join("oci-layout"), text).unwrap();
            check(layout.tags(), Class::Permanent, what);
        }
        fs::remove_file(layout.root.join("oci-layout")).unwrap();
        check(layout.tags(), Class::Permanent, "no OCI layout");
    }

    #[test]
    fn a_folder_of_other_things_is_no_target() {
        let folder = Folder::new();
        fs::write(folder.0.join("thesis.tex"), "").unwrap();
        let layout = Layout::open(&folder.0);
        let text = "is no OCI layout";
        check(layout.tags(), Class::Permanent, text);
        check(
            layout.begin(&blob(b""), &Hint::default()),
            Class::Permanent,
            text,
        );
        check(
            layout.put_manifest(&tag("a"), &image("")),
            Class::Permanent,
            text,
        );
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_leaves_does_no_harm() {
        let folder = Folder::new();
        let layout = Layout::open(&folder.0);
        // Killed while it wrote `oci-layout`, then before the first tag, then in a blob.
        fs::write(folder.0.join(".tmp-0123"), "{").unwrap();
        assert_eq!(layout.tags().unwrap(), None);
        put_blob(&layout, b"{}");
        assert_eq!(layout.tags().unwrap(), Some(vec![]));
        let folder = folder.0.join("blobs/sha256");
        fs::write(folder.join(".tmp-4567"), "half").unwrap();
        put_blob(&layout, b"half a blob");
        layout.put_manifest(&tag("a"), &image("")).unwrap();
        layout.manifest(&tag("a")).unwrap();
    }

    #[test]
    fn an_upload_that_fails_leaves_nothing_and_goes_on_from_its_offset() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("source"))
            }
        }
        let folder = Folder::new();
        let layout = Layout::open(&folder.0);
        let whole = b"0123456789";
        let mut begun = upload(&layout, &blob(whole));
        let broken = begun.send(&mut whole[..4].chain(Broken));
        assert!(matches!(broken, Err(SendError::Body)));
        assert_eq!(begun.offset(), 4);
        begun.send(&mut &whole[4..]).unwrap();
        begun.commit().unwrap();
        assert_eq!(read_blob(&layout, &blob(whole), 0), whole);

        let mut dropped = upload(&layout, &blob(b"other"));
        dropped.send(&mut &b"oth"[..]).unwrap();
        assert_eq!(temporaries(&folder.0.join("blobs/sha256")), 1);
        drop(dropped);
        assert_eq!(temporaries(&folder.0.join("blobs/sha256")), 0);
        check(
            layout.blob(&blob(b"other"), 0),
            Class::NotFound,
            "does not exist",
        );
    }

    #[test]
    fn a_distrusted_blob_is_written_again() {
        let (_folder, layout, _) = Folder::with_image();
        let config = blob(b"{}");
        fs::write(file_of(&layout, &config.digest), b"xx").unwrap();
        let hint = Hint {
            prior: Prior::Distrusted,
            ..Hint::default()
        };
        let Begin::Upload { mut upload, .. } = layout.begin(&config, &hint).unwrap() else {
            panic!("trusted");
        };
        upload.send(&mut &b"{}"[..]).unwrap();
        upload.commit().unwrap();
        assert_eq!(read_blob(&layout, &config, 0), b"{}");
    }

    #[test]
    fn what_cannot_be_written_ends_the_run() {
        let folder = Folder::new();
        fs::write(folder.0.join("file"), "").unwrap();
        let layout = Layout::open(&folder.0.join("file/layout"));
        check(
            layout.begin(&blob(b""), &Hint::default()),
            Class::Permanent,
            "cannot read",
        );
        let (_folder, layout, image) = Folder::with_image();
        let path = file_of(&layout, image.digest());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        check(
            layout.put_manifest(&tag("a"), &image),
            Class::Fatal,
            "cannot write",
        );
    }

    #[test]
    fn schema_1_is_refused() {
        let folder = Folder::new();
        let layout = Layout::open(&folder.0);
        let schema1 = manifest(r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#);
        check(
            layout.put_manifest(&tag("a"), &schema1),
            Class::Permanent,
            "schema 1",
        );
    }

    #[test]
    fn tags_put_at_once_are_all_there() {
        let folder = Folder::new();
        let image = image("");
        // Two layouts, as two processes would have: the lock on the file keeps them apart, not the mutex.
        let layouts = [Layout::open(&folder.0), Layout::open(&folder.0)];
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for (number, layout) in layouts.iter().chain(&layouts).enumerate() {
                let (start, image) = (&start, &image);
                scope.spawn(move || {
                    start.wait();
                    for count in 0..10 {
                        let name = format!("t{number}-{count}");
                        layout.put_manifest(&tag(&name), image).unwrap();
                    }
                });
            }
        });
        assert_eq!(layouts[0].tags().unwrap().unwrap().len(), 40);
    }
}
