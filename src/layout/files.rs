//! What a layout asks of the file system: opening that a hostile folder cannot trick, writing that a crash cannot tear.
//! Not here: what the files mean.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use log::warn;

use super::error::{LayoutError, reading, writing};

/// A file that is being written beside its final place. Dropped without `commit`, it is removed.
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
    committed: bool,
}

impl Temporary {
    /// The name is random: the number of a process is 1 in every container that shares the folder.
    pub(super) fn create(folder: &Path) -> Result<Self, LayoutError> {
        let random = RandomState::new().build_hasher().finish();
        let path = folder.join(format!("{TEMPORARY}{random:016x}"));
        let file = File::create_new(&path).map_err(writing(&path))?;
        Ok(Self {
            file,
            path,
            committed: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.file.write_all(bytes).map_err(writing(&self.path))
    }

    /// Makes the file durable, then visible, then its name durable.
    pub(super) fn commit(mut self, path: &Path) -> Result<(), LayoutError> {
        self.file.sync_all().map_err(writing(&self.path))?;
        fs::rename(&self.path, path).map_err(writing(path))?;
        self.committed = true;
        sync_parent(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

pub(super) fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
    let mut temporary = Temporary::create(folder)?;
    temporary.write(bytes)?;
    temporary.commit(&folder.join(name))
}

/// What a killed run may leave in an otherwise empty folder.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())
}

/// Makes one folder, unless it is there, and its name durable.
pub(super) fn create_folder(path: &Path) -> Result<(), LayoutError> {
    match fs::create_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_folder(path),
        Err(error) => Err(writing(path)(error)),
    }
}

/// A folder that is a link could lead anywhere (protocol.md L9).
pub(super) fn check_folder(path: &Path) -> Result<(), LayoutError> {
    let metadata = fs::symlink_metadata(path).map_err(reading(path))?;
    if metadata.is_dir() {
        Ok(())
    } else {
        Err(LayoutError::NotAFolder(path.into()))
    }
}

pub(super) fn sync_parent(path: &Path) -> Result<(), LayoutError> {
    let parent = path.parent().unwrap_or(path);
    match File::open(parent).and_then(|folder| folder.sync_all()) {
        // Some network file systems cannot flush a folder.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.map_err(writing(parent)),
    }
}

/// Opens a regular file for reading and tells its size.
pub(super) fn open_file(path: &Path) -> Result<(File, u64), LayoutError> {
    open_as(path, File::options().read(true))
}

/// The kind of file is looked at before it is opened, since opening a pipe waits and opening a device may do anything,
/// and once more afterwards, since the name may have changed hands.
pub(super) fn open_as(path: &Path, options: &OpenOptions) -> Result<(File, u64), LayoutError> {
    let before = fs::symlink_metadata(path).map_err(reading(path))?;
    if !before.is_file() {
        return Err(LayoutError::NotAFile(path.into()));
    }
    let file = options.open(path).map_err(reading(path))?;
    let after = file.metadata().map_err(reading(path))?;
    if (before.dev(), before.ino()) != (after.dev(), after.ino()) {
        return Err(LayoutError::NotAFile(path.into()));
    }
    Ok((file, after.len()))
}

pub(super) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let (file, size) = open_file(path)?;
    read_open(file, size, path, limit)
}

pub(super) fn read_open(
    file: File,
    size: u64,
    path: &Path,
    limit: u64,
) -> Result<Vec<u8>, LayoutError> {
    if size > limit {
        return Err(LayoutError::TooLarge {
            path: path.into(),
            size,
            limit,
        });
    }
    let mut bytes = Vec::new();
    file.take(size)
        .read_to_end(&mut bytes)
        .map_err(reading(path))?;
    Ok(bytes)
}

pub(super) fn check_size(path: &Path, wanted: u64, found: u64) -> Result<(), LayoutError> {
    if wanted == found {
        Ok(())
    } else {
        Err(LayoutError::Size {
            path: path.into(),
            wanted,
            found,
        })
    }
}

const TEMPORARY: &str = ".tmp-";
