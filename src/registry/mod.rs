//! Registries as places of images: the OCI distribution API over HTTP. Not here: rules, the order of work, attempts.

mod auth;
pub(crate) mod auth_files;
mod authorise;
mod blob;
mod body;
mod certificate;
mod client;
mod connect;
pub(crate) mod credentials;
mod error;
mod examine;
mod exchange;
mod google;
mod helper;
mod hosts;
mod manifest;
mod network;
mod proxy;
mod rate;
mod referrers;
mod request;
mod tags;
#[cfg(test)]
mod testing;
mod transport;
mod trust;
mod upload;
mod url;

use std::io::Read;
use std::sync::Arc;

pub(crate) use hosts::Registries;
pub(crate) use network::Reach;

use crate::oci::{Descriptor, Digest, Manifest, Reference, Repository, Tag};
use crate::store::{Begin, Hint, Presence, Source, StoreError, Target};
use client::Client;

/// One repository of a registry.
struct RegistryStore {
    client: Arc<Client>,
}

impl Source for RegistryStore {
    fn tags(&self) -> Result<Option<Vec<Tag>>, StoreError> {
        tags::list(&self.client)
    }

    fn repositories(&self) -> Result<Vec<Repository>, StoreError> {
        tags::catalog(&self.client)
    }

    fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Digest>>, StoreError> {
        referrers::list(&self.client, subject)
    }

    fn head(&self, reference: &Reference) -> Result<Presence, StoreError> {
        manifest::head(&self.client, reference)
    }

    fn manifest(&self, reference: &Reference) -> Result<Manifest, StoreError> {
        manifest::get(&self.client, reference)
    }

    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        blob::open(&self.client, descriptor, from)
    }
}

impl Target for RegistryStore {
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, StoreError> {
        Ok(blob::is_there(&self.client, descriptor)?)
    }

    fn begin(&self, descriptor: &Descriptor, hint: &Hint) -> Result<Begin, StoreError> {
        upload::begin(&self.client, descriptor, hint)
    }

    fn put_manifest(&self, reference: &Reference, manifest: &Manifest) -> Result<bool, StoreError> {
        let tells_referrers = manifest::put(&self.client, reference, manifest)?;
        self.client.registry.note_manifest();
        Ok(tells_referrers)
    }
}
