//! What `--doctor` asks of a registry. All of it is a read, but for an upload that is opened and cancelled before anything
//! is sent. Not here: what it means, and the requests of a run.

use std::time::SystemTime;

use super::RegistryStore;
use super::blob::is_passing;
use super::certificate;
use super::error::Failure;
use super::tags;
use super::upload::{MountFrom, cancel, location, min_chunk, post};
use super::url::Scheme;
use crate::oci::{Digest, Tag};
use crate::store::{Channel, Contact, Examine, StoreError, Trial};

impl Examine for RegistryStore {
    fn contact(&self) -> Result<Option<Contact>, StoreError> {
        let registry = &self.client.registry;
        let response = self.client.ping()?;
        let now = SystemTime::now();
        if is_passing(response.status) || response.status >= 500 {
            return Err(response.refuse().into());
        }
        let proxy = registry.route.proxy(&response.url);
        let proxy = proxy.map_err(|error| response.failed(Failure::Url(error)))?;
        let channel = match response.url.origin().scheme() {
            Scheme::Http => Channel::Plain,
            Scheme::Https => Channel::Encrypted {
                certificate: registry.route.certificate().and_then(certificate::read),
                is_verified: !registry.insecure,
            },
        };
        Ok(Some(Contact {
            addresses: match proxy {
                Some(_) => Vec::new(),
                None => registry.route.addresses(response.url.origin().port()),
            },
            proxy: proxy.map(ToString::to_string),
            channel,
            ahead: response.date().map(|date| seconds_between(now, date)),
        }))
    }

    fn login(&self) -> Option<String> {
        self.client.login_in_words()
    }

    fn some_tags(&self) -> Result<Option<Vec<Tag>>, StoreError> {
        tags::first_page(&self.client)
    }

    fn try_push(&self, nowhere: Option<&Digest>) -> Result<Trial, StoreError> {
        let client = &*self.client;
        client.will_write();
        let mut mount = None;
        let mut opened = None;
        if let Some(nowhere) = nowhere {
            let from = MountFrom::Repository(&client.repository);
            let response = post(client, Some((nowhere, from)))?;
            if is_passing(response.status) {
                return Err(response.refuse().into());
            }
            mount = Some(response.status);
            opened = Some(response).filter(|response| response.status == 202);
        }
        let response = match opened {
            Some(response) => response,
            None => post(client, None)?,
        };
        if response.status != 202 {
            return Err(response.refuse().into());
        }
        Ok(Trial {
            mount,
            min_chunk: min_chunk(&response),
            is_cancelled: cancel(client, location(client, &response)?),
        })
    }
}

/// From the one time to the other, negative where that was before.
fn seconds_between(from: SystemTime, to: SystemTime) -> i64 {
    let seconds = |difference: std::time::Duration| difference.as_secs().cast_signed();
    match to.duration_since(from) {
        Ok(later) => seconds(later),
        Err(earlier) => -seconds(earlier.duration()),
    }
}
