//! What can be wrong with a layout, and what that means for the run. Not here: the checks.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::oci::{ManifestError, Reference, Tag};
use crate::store::{Class, StoreError};

/// What is wrong with a layout.
#[derive(Debug)]
pub(super) enum LayoutError {
    /// A file that is needed and not there (layouts may be sparse: protocol.md L4).
    NotFound(PathBuf),
    /// No layout, or no such image in it.
    Absent { path: PathBuf, reference: Reference },
    /// A file that cannot be read.
    Read { path: PathBuf, cause: io::Error },
    /// A file or folder that cannot be written.
    Write { path: PathBuf, cause: io::Error },
    /// A folder with other things in it.
    NotALayout(PathBuf),
    /// `oci-layout` of another version, or none in it.
    Version {
        path: PathBuf,
        version: Option<String>,
    },
    /// `index.json` cannot be understood.
    Index { path: PathBuf, what: String },
    /// Two images under one tag.
    Ambiguous { path: PathBuf, tag: Tag },
    /// A link, pipe, device or folder where a file should be.
    NotAFile(PathBuf),
    /// A link or a file where a folder should be.
    NotAFolder(PathBuf),
    /// Larger than what is read into memory.
    TooLarge {
        path: PathBuf,
        size: u64,
        limit: u64,
    },
    /// Not of the size that its descriptor says.
    Size {
        path: PathBuf,
        wanted: u64,
        found: u64,
    },
    /// Became shorter while it was read.
    Cut(PathBuf),
    /// Not what its name says.
    Corrupt(PathBuf),
    /// No manifest that can be copied.
    Manifest { path: PathBuf, cause: ManifestError },
    /// A manifest of docker's schema 1.
    Schema1,
}

impl LayoutError {
    /// A layout that cannot be read costs its images, one that cannot be written the run (architecture.md 3.8).
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) | Self::Absent { .. } => Class::NotFound,
            Self::Write { .. } => Class::Fatal,
            _ => Class::Permanent,
        }
    }
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(path) => write!(f, "{} does not exist", path.display()),
            Self::Absent { path, reference } => {
                write!(f, "no image {reference} in {}", path.display())
            }
            Self::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::Write { path, .. } => write!(f, "cannot write {}", path.display()),
            Self::NotALayout(path) => write!(
                f,
                "{} is no OCI layout: it has no oci-layout file but other files; name an empty or new folder",
                path.display()
            ),
            Self::Version { path, version } => match version {
                Some(version) => write!(
                    f,
                    "{} is of version {version:?}: 1.x is supported",
                    path.display()
                ),
                None => write!(f, "{} has no imageLayoutVersion", path.display()),
            },
            Self::Index { path, what } => write!(f, "invalid index {}: {what}", path.display()),
            Self::Ambiguous { path, tag } => {
                write!(f, "two images are called {tag} in {}", path.display())
            }
            Self::NotAFile(path) => {
                write!(f, "{} is no regular file", path.display())
            }
            Self::NotAFolder(path) => {
                write!(f, "{} is no folder", path.display())
            }
            Self::TooLarge { path, size, limit } => write!(
                f,
                "{} has {size} bytes, at most {limit} are read",
                path.display()
            ),
            Self::Size {
                path,
                wanted,
                found,
            } => write!(
                f,
                "{} has {found} bytes, its descriptor says {wanted}",
                path.display()
            ),
            Self::Cut(path) => write!(f, "{} became shorter while it was read", path.display()),
            Self::Corrupt(path) => write!(
                f,
                "{} is damaged: its bytes do not have the digest that is its name",
                path.display()
            ),
            Self::Manifest { path, .. } => write!(f, "cannot use {}", path.display()),
            Self::Schema1 => write!(
                f,
                "a manifest of docker's schema 1 cannot be kept in an OCI layout"
            ),
        }
    }
}

impl Error for LayoutError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { cause, .. } | Self::Write { cause, .. } => Some(cause),
            Self::Manifest { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<LayoutError> for StoreError {
    fn from(error: LayoutError) -> Self {
        Self::new(error.class(), error)
    }
}

pub(super) fn reading(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    move |cause| match cause.kind() {
        io::ErrorKind::NotFound => LayoutError::NotFound(path.into()),
        _ => LayoutError::Read {
            path: path.into(),
            cause,
        },
    }
}

pub(super) fn writing(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    move |cause| LayoutError::Write {
        path: path.into(),
        cause,
    }
}
