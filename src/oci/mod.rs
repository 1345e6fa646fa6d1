//! The values of the OCI specifications: digests, references, manifests. Pure parsing and printing.
//! Not here: anything that reads a file, a socket or a clock.

pub mod created;
pub mod digest;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod referrers;
pub mod trim;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use manifest::{Descriptor, Kind, Manifest, ManifestError};
pub use platform::{Platform, PlatformError, PlatformFilter};
pub use reference::{Host, NameError, Reference, Repository, Tag};
