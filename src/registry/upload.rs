//! Uploads: whether a blob is there or can be mounted, by the fewest requests. Not here: the session that takes what
//! is not there (`session.rs`), the one request that takes it without (`single.rs`), hashing, and the other end of the
//! stream.

mod session;
mod single;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use super::auth::Scope;
use super::blob::{self, Found as Head, is_passing};
use super::client::Client;
use super::error::RequestError;
use super::exchange::Response;
use super::hosts::{Ability, Knowledge};
use super::request::{Method, Request};
use crate::oci::{Descriptor, Digest, Repository};
use crate::store::{Begin, Found, Hint, Prior, StoreError, Upload};
pub(super) use session::{cancel, location, min_chunk};
use session::{reopen, session};
use single::{is_small, single_post};

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

    if let Some(upload) = hint
        .session
        .as_ref()
        .and_then(|session| reopen(client, descriptor, session))
    {
        return Ok(Begin::Upload {
            upload,
            mount_denied: false,
        });
    }
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

    let lacking = |upload| Begin::Upload {
        upload,
        mount_denied: candidate.is_some(),
    };
    // It was asked for, or there is nothing here yet and no mount that would tell. What is large is no guess.
    let is_lacking = match hint.prior {
        Prior::Distrusted => false,
        Prior::Empty => match client.registry.self_mount() {
            Knowledge::Yes => false,
            Knowledge::No => true,
            Knowledge::Unknown | Knowledge::Asked => is_small(descriptor),
        },
        Prior::Recorded | Prior::Unknown => asks_first && !is_broken,
    };
    if is_lacking
        && usable.is_none()
        && let Some(upload) = single_post(client, descriptor, asks_first)
    {
        return Ok(lacking(upload));
    }
    let from = match usable {
        Some(from) => Some(MountFrom::Repository(from)),
        None if hint.prior == Prior::Distrusted || is_broken => None,
        None if client.registry.self_mount() != Knowledge::No => Some(MountFrom::Repository(own)),
        // In place of the plain POST, and no dearer (E56).
        None => {
            Some(MountFrom::Anywhere).filter(|_| client.registry.can(Ability::MountFromAnywhere))
        }
    };
    if let Some(from) = from {
        let response = post(client, Some((&descriptor.digest, from)))?;
        match response.status {
            201 if from == MountFrom::Repository(own) => {
                client.registry.learn_self_mount(Knowledge::Yes);
                return Ok(Begin::Present(Found::Existing));
            }
            201 => return Ok(Begin::Present(Found::Mounted)),
            202 => return Ok(lacking(session(client, &response, descriptor, asks_first)?)),
            status if is_passing(status) => return Err(response.refuse().into()),
            // Neither a refused login nor a missing repository, here: a mount that is not to be had (E55).
            _ => match from {
                MountFrom::Anywhere => client.registry.forgo(Ability::MountFromAnywhere),
                MountFrom::Repository(from) if from == own => {
                    client.registry.learn_self_mount(Knowledge::No);
                }
                MountFrom::Repository(from) => client.registry.refuse_mount(from, own),
            },
        }
    }
    Ok(lacking(open(client, descriptor, asks_first)?))
}

/// Opens a session without a word about mounts.
fn open(
    client: &Arc<Client>,
    descriptor: &Descriptor,
    cost_a_question: bool,
) -> Result<Box<dyn Upload>, StoreError> {
    let response = post(client, None)?;
    if response.status != 202 {
        return Err(response.refuse().into());
    }
    session(client, &response, descriptor, cost_a_question)
}

/// Where a blob may be mounted from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MountFrom<'a> {
    Repository(&'a Repository),
    /// Wherever the registry finds it.
    Anywhere,
}

pub(super) fn post(
    client: &Client,
    mount: Option<(&Digest, MountFrom<'_>)>,
) -> Result<Response, RequestError> {
    let mut path = client.path("blobs/uploads/");
    let mut scope = client.scope();
    if let Some((digest, from)) = mount {
        path = format!("{path}?mount={digest}");
        if let MountFrom::Repository(from) = from {
            path = format!("{path}&from={from}");
            if *from != client.repository {
                scope = Scope::push_and_mount(&client.repository, from);
            }
        }
    }
    let request = Request::new(Method::Post, path, scope);
    client.send(&mut match mount {
        Some(_) => request.optional(),
        None => request,
    })
}

/// Once a host: whether a mount of a blob from the repository that has it says so. Then later blobs need no HEAD
/// (protocol.md N2a). What goes wrong here is no harm to the blob.
fn learn_self_mount(client: &Arc<Client>, digest: &Digest) {
    if !client.registry.claim_self_mount() {
        return;
    }
    let knowledge = match post(
        client,
        Some((digest, MountFrom::Repository(&client.repository))),
    ) {
        Ok(response) if response.status == 201 => Knowledge::Yes,
        Ok(response) => {
            if response.status == 202
                && let Ok(location) = location(client, &response)
            {
                cancel(client, location);
            }
            Knowledge::No
        }
        Err(_) => Knowledge::Unknown,
    };
    client.registry.learn_self_mount(knowledge);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Reply, Server, descriptor};
    use super::testing::{CONTENT, SESSION, hint, open, opened, requests, start};
    use super::*;

    /// A registry that has the blob or not, and answers mounts by a status.
    fn mounting(has_blob: bool, status: u16) -> Server {
        start(move |seen| match seen.method.as_str() {
            "HEAD" if has_blob => Reply::new(200).header("content-length", CONTENT.len()),
            "POST" if seen.target.contains("mount=") && status != 202 => {
                Reply::new(status).header("www-authenticate", "Basic")
            }
            "POST" => opened(),
            "PUT" => Reply::new(201),
            "DELETE" => Reply::new(204),
            _ => Reply::new(404),
        })
    }

    #[test]
    fn mounts_cost_what_they_must() {
        let mount = "POST /v2/a/b/blobs/uploads/?mount=D&from=c";
        let own = "POST /v2/a/b/blobs/uploads/?mount=D&from=a/b";
        let plain = "POST /v2/a/b/blobs/uploads/";
        let head = "HEAD /v2/a/b/blobs/D";
        let cancel = format!("DELETE {SESSION}");
        let cancel = cancel.as_str();
        for (has_blob, status, prior, from, expected, outcome) in [
            (
                false,
                201,
                Prior::Unknown,
                Some("c"),
                vec![mount],
                "mounted",
            ),
            (false, 202, Prior::Unknown, Some("c"), vec![mount], "denied"),
            (
                false,
                404,
                Prior::Unknown,
                Some("c"),
                vec![mount, plain],
                "denied",
            ),
            (
                false,
                401,
                Prior::Unknown,
                Some("c"),
                vec![mount, plain],
                "denied",
            ),
            (
                false,
                500,
                Prior::Empty,
                Some("c"),
                vec![mount, plain],
                "denied",
            ),
            (false, 201, Prior::Empty, None, vec![own], "existing"),
            (false, 202, Prior::Empty, None, vec![own], "upload"),
            (false, 404, Prior::Empty, None, vec![own, plain], "upload"),
            (false, 202, Prior::Unknown, None, vec![head, own], "upload"),
            (
                false,
                201,
                Prior::Recorded,
                Some("c"),
                vec![head, mount],
                "mounted",
            ),
            (
                false,
                201,
                Prior::Distrusted,
                Some("c"),
                vec![plain],
                "upload",
            ),
            // A first hit is the occasion to learn about self-mounting.
            (true, 201, Prior::Unknown, None, vec![head, own], "existing"),
            (
                true,
                202,
                Prior::Recorded,
                Some("c"),
                vec![head, own, cancel],
                "existing",
            ),
        ] {
            let case = format!("{has_blob} {status} {prior:?} {from:?}");
            let server = mounting(has_blob, status);
            let begun = server
                .store("a/b")
                .begin(&descriptor(CONTENT), &hint(prior, from))
                .unwrap();
            let begun = match begun {
                Begin::Present(Found::Mounted) => "mounted",
                Begin::Present(Found::Existing) => "existing",
                Begin::Upload {
                    mount_denied: true, ..
                } => "denied",
                Begin::Upload { .. } => "upload",
            };
            assert_eq!(
                (begun, requests(&server)),
                (
                    outcome,
                    expected.iter().map(|&line| line.to_owned()).collect()
                ),
                "{case}"
            );
        }
    }

    #[test]
    fn what_a_host_cannot_do_is_not_asked_again() {
        let server = mounting(false, 404);
        let store = server.store("a/b");
        for _ in 0..2 {
            open(&*store, CONTENT, &hint(Prior::Unknown, Some("c")));
        }
        open(&*store, CONTENT, &hint(Prior::Empty, None));
        open(&*store, CONTENT, &hint(Prior::Empty, None));
        let mounts = requests(&server)
            .iter()
            .filter(|line| line.contains("mount="))
            .count();
        assert_eq!(
            (mounts, server.requests().len()),
            (3, 8),
            "{:?}",
            requests(&server)
        );
    }

    #[test]
    fn a_host_that_mounts_from_itself_is_asked_no_heads() {
        let server = mounting(true, 201);
        let store = server.store("a/b");
        for _ in 0..2 {
            store.begin(&descriptor(CONTENT), &Hint::default()).unwrap();
        }
        assert_eq!(server.requests().len(), 3, "{:?}", requests(&server));
    }

    #[test]
    fn a_blob_of_another_size_is_sent_again() {
        let server = start(|seen| match seen.method.as_str() {
            "HEAD" => Reply::new(200).header("content-length", 3),
            _ => opened(),
        });
        open(&*server.store("a/b"), CONTENT, &hint(Prior::Recorded, None));
        assert_eq!(requests(&server)[1], "POST /v2/a/b/blobs/uploads/");
    }
}
