//! Uploads: whether a blob is there or can be mounted, the session that takes it, and its closing. A small state
//! machine around the session's Location, which every answer may change. Not here: hashing, and the other end of the
//! stream.

use std::io::Read;
use std::sync::Arc;

use super::auth::Scope;
use super::blob::{self, Found as Head, is_passing};
use super::body::Outgoing;
use super::client::Client;
use super::error::{Failure, RequestError};
use super::exchange::Response;
use super::hosts::Knowledge;
use super::request::{Method, Request};
use super::url::{Purpose, Verdict};
use crate::oci::{Descriptor, Digest, Repository};
use crate::store::{Begin, Class, Found, Hint, Prior, SendError, StoreError, Upload};

/// Finds out whether a blob is there, and opens a session if it is not, by the fewest requests that are known to work
/// (decisions D4).
pub(super) fn begin(
    client: &Arc<Client>,
    descriptor: &Descriptor,
    hint: &Hint,
) -> Result<Begin, StoreError> {
    client.will_write();
    let own = &client.repository;
    let candidate = hint
        .mount_from
        .as_ref()
        .filter(|from| hint.prior != Prior::Distrusted && *from != own);
    let usable = candidate.filter(|from| !client.registry.is_mount_refused(from, own));

    let mut is_broken = false;
    let asks_first = match hint.prior {
        Prior::Distrusted | Prior::Empty => false,
        Prior::Recorded => true,
        Prior::Unknown => usable.is_none() && client.registry.self_mount() != Knowledge::Yes,
    };
    if asks_first && let Head::Present(length) = blob::head(client, &descriptor.digest)? {
        if length.is_none_or(|length| length == descriptor.size) {
            learn_self_mount(client, &descriptor.digest);
            return Ok(Begin::Present(Found::Existing));
        }
        is_broken = true; // E39
        log::warn!(
            "{}/{own}: {} has {} bytes there in place of {}: it is sent again",
            client.registry.host,
            descriptor.digest,
            length.unwrap_or(0),
            descriptor.size
        );
    }

    let from = match usable {
        Some(from) => Some(from),
        None if hint.prior == Prior::Distrusted || is_broken => None,
        None => Some(own).filter(|_| client.registry.self_mount() != Knowledge::No),
    };
    let opened = |response: &Response| {
        let upload = session(client, response, descriptor, asks_first)?;
        Ok(Begin::Upload {
            upload,
            mount_denied: candidate.is_some(),
        })
    };
    if let Some(from) = from {
        let response = post(client, Some((&descriptor.digest, from)))?;
        match response.status {
            201 if from == own => {
                client.registry.learn_self_mount(Knowledge::Yes);
                return Ok(Begin::Present(Found::Existing));
            }
            201 => return Ok(Begin::Present(Found::Mounted)),
            202 => return opened(&response),
            status if is_passing(status) => return Err(response.refuse().into()),
            // Neither a refused login nor a missing repository, here: a mount that is not to be had (E55).
            _ if from == own => client.registry.learn_self_mount(Knowledge::No),
            _ => client.registry.refuse_mount(from, own),
        }
    }
    let response = post(client, None)?;
    if response.status != 202 {
        return Err(response.refuse().into());
    }
    opened(&response)
}

fn post(client: &Client, mount: Option<(&Digest, &Repository)>) -> Result<Response, RequestError> {
    let mut path = client.path("blobs/uploads/");
    let mut scope = client.scope();
    if let Some((digest, from)) = mount {
        path = format!("{path}?mount={digest}&from={from}");
        if *from != client.repository {
            scope = Scope::push_and_mount(&client.repository, from);
        }
    }
    let request = Request::new(Method::Post, path, scope);
    client.send(&mut match mount {
        Some(_) => request.optional(),
        None => request,
    })
}

fn session(
    client: &Arc<Client>,
    response: &Response,
    descriptor: &Descriptor,
    cost_a_question: bool,
) -> Result<Box<dyn Upload>, StoreError> {
    let location = response.required_header("location")?;
    let location = client.judge(response, location, Purpose::Upload)?;
    Ok(Box::new(RegistryUpload {
        client: client.clone(),
        descriptor: descriptor.clone(),
        location,
        offset: 0,
        is_stored: false,
        cost_a_question,
    }))
}

/// Once a host: whether a mount of a blob from the repository that has it says so. Then later blobs need no HEAD
/// (protocol.md N2a). What goes wrong here is no harm to the blob.
fn learn_self_mount(client: &Arc<Client>, digest: &Digest) {
    if !client.registry.claim_self_mount() {
        return;
    }
    let knowledge = match post(client, Some((digest, &client.repository))) {
        Ok(response) if response.status == 201 => Knowledge::Yes,
        Ok(response) => {
            if response.status == 202
                && let Some(location) = response.header("location")
                && let Ok(verdict) = client.judge(&response, location, Purpose::Upload)
            {
                cancel(client, verdict);
            }
            Knowledge::No
        }
        Err(_) => Knowledge::Unknown,
    };
    client.registry.learn_self_mount(knowledge);
}

/// Ends a session that nobody will go on with. Registries that do not take it forget the session in their own time
/// (E58).
fn cancel(client: &Client, location: Verdict) {
    let sent = client.send(&mut Request::to(Method::Delete, location, client.scope()));
    if let Err(error) = sent {
        log::debug!("{error}");
    }
}

/// An open session.
struct RegistryUpload {
    client: Arc<Client>,
    descriptor: Descriptor,
    location: Verdict,
    offset: u64,
    /// The blob is complete at the registry: there is nothing left to close.
    is_stored: bool,
    /// A HEAD had asked for the blob, which a self-mount may spare the next ones.
    cost_a_question: bool,
}

impl Upload for RegistryUpload {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn send(&mut self, body: &mut dyn Read) -> Result<(), SendError> {
        let size = self.descriptor.size;
        let by_put = match self.client.registry.refused_upload() {
            Some(refused) => refused == Method::Patch,
            None => size <= MAX_SMALL,
        };
        if size == 0 && body.read(&mut [0]).is_err() {
            // A body without bytes is not read by the request, and yet it may say that something is wrong with it.
            self.cancel();
            return Err(SendError::Body);
        }
        let method = if by_put { Method::Put } else { Method::Patch };
        let location = if by_put {
            self.closing_location()
        } else {
            self.location.clone()
        };
        let mut request = Request::to(method, location, self.client.scope())
            .header("content-type", "application/octet-stream")
            .stream(Outgoing::new(body, size - self.offset));
        let result = self.client.send(&mut request);
        let (is_broken, is_all_sent) = request
            .sent()
            .map_or((false, false), |sent| (sent.is_broken(), sent.left() == 0));
        drop(request);
        if is_broken {
            self.cancel();
            return Err(SendError::Body);
        }
        if by_put {
            self.close(method, result, is_all_sent)?;
        } else {
            let response = result.map_err(StoreError::from)?;
            if !(200..=204).contains(&response.status) {
                return Err(self.refused(method, response.refuse()).into());
            }
            self.move_on(&response).map_err(StoreError::from)?;
        }
        self.offset = size;
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if !self.is_stored {
            let mut request =
                Request::to(Method::Put, self.closing_location(), self.client.scope())
                    .header("content-type", "application/octet-stream")
                    .patiently()
                    .once();
            let result = self.client.send(&mut request);
            self.close(Method::Put, result, true)?;
        }
        if self.cost_a_question {
            learn_self_mount(&self.client, &self.descriptor.digest);
        }
        Ok(())
    }
}

impl RegistryUpload {
    /// Where the closing PUT goes. The Location's query stays as it is (E46).
    fn closing_location(&self) -> Verdict {
        let digest = self.descriptor.digest.as_str();
        Verdict {
            url: self.location.url.with_query_parameter("digest", digest),
            ..self.location.clone()
        }
    }

    /// Takes up the Location of an answer, if it has one.
    fn move_on(&mut self, response: &Response) -> Result<(), RequestError> {
        if let Some(location) = response.header("location") {
            self.location = self.client.judge(response, location, Purpose::Upload)?;
        }
        Ok(())
    }

    /// Reads the result of the PUT that completes the blob. What is in doubt is looked at before anything is sent
    /// again: a registry that lost its answer may have stored the blob all the same (N10, R10).
    fn close(
        &mut self,
        method: Method,
        result: Result<Response, RequestError>,
        is_all_sent: bool,
    ) -> Result<(), StoreError> {
        let error = match result {
            Ok(response) => match response.status {
                201 => {
                    let told = response
                        .header("docker-content-digest")
                        .and_then(|text| Digest::parse(text.trim()).ok());
                    if let Some(stored) = told.filter(|told| *told != self.descriptor.digest) {
                        return Err(response
                            .failed(Failure::Changed {
                                sent: self.descriptor.digest.clone(),
                                stored,
                            })
                            .into()); // R09
                    }
                    self.is_stored = true;
                    return Ok(());
                }
                status @ 200..=299 => response.failed(Failure::NotStored { status }),
                _ => response.refuse(),
            },
            Err(error) => error,
        };
        let is_in_doubt = match error.refusal() {
            Some(refusal) => refusal.status == 404 || refusal.status >= 500,
            None => error.is_cut() || matches!(error.failure, Failure::NotStored { .. }),
        };
        if is_in_doubt && is_all_sent && self.is_there() {
            self.is_stored = true;
            return Ok(());
        }
        Err(self.refused(method, error))
    }

    fn is_there(&self) -> bool {
        match blob::head(&self.client, &self.descriptor.digest) {
            Ok(Head::Present(length)) => length.is_none_or(|length| length == self.descriptor.size),
            _ => false,
        }
    }

    /// What a refusal means for the next attempt.
    fn refused(&self, method: Method, error: RequestError) -> StoreError {
        let Some(refusal) = error.refusal() else {
            return error.into();
        };
        let code = refusal.code.as_deref().unwrap_or_default();
        // The session is lost: with a restart, or behind a balancer that leads each request elsewhere (R11). Or the
        // content was damaged on its way, for its digest was right here (R14).
        let session_is_lost = code.starts_with("BLOB_UPLOAD_")
            || matches!(code, "DIGEST_INVALID" | "SIZE_INVALID" | "BLOB_UNKNOWN");
        if session_is_lost && matches!(refusal.status, 400 | 404) {
            return error.with_class(Class::Transient);
        }
        let status = refusal.status;
        let method_is_refused = matches!(status, 404 | 405 | 411 | 413 | 415 | 416 | 501);
        if method_is_refused && self.offset == 0 && self.client.registry.refuse_upload(method) {
            return RequestError {
                failure: Failure::OtherMethodNext { status },
                ..error
            }
            .into();
        }
        if status == 404 {
            return error.with_class(Class::Transient); // the session again
        }
        error.into()
    }

    fn cancel(&self) {
        cancel(&self.client, self.location.clone());
    }
}

/// Bytes that go in one PUT; more are sent by a PATCH first, which can be gone on with.
const MAX_SMALL: u64 = 16 << 20;
