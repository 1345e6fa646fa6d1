//! A whole blob in the POST that would open its session (distribution-spec 1.1, "Pushing a blob monolithically", "Single
//! POST"): half of the requests. Many registries take it, but not distribution, of which most are made. Not here: the
//! session that takes the blob where this does not.

use std::io::Read;
use std::sync::Arc;

use super::session::{Fate, MAX_SMALL, fits_into_put, send_body, session, stored};
use super::{learn_self_mount, open};
use crate::oci::Descriptor;
use crate::registry::blob::is_passing;
use crate::registry::client::Client;
use crate::registry::error::{Failure, RequestError};
use crate::registry::hosts::Knowledge;
use crate::registry::request::{Method, Request};
use crate::store::{Class, SendError, StoreError, Upload};

/// An upload that has asked nothing yet; `None` where the registry is not thought to take this blob so.
pub(super) fn single_post(
    client: &Arc<Client>,
    descriptor: &Descriptor,
    cost_a_question: bool,
) -> Option<Box<dyn Upload>> {
    let registry = &client.registry;
    if descriptor.size > MAX_SMALL || !fits_into_put(registry, descriptor.size) {
        return None;
    }
    let is_try = match registry.single_post() {
        Knowledge::Yes => false,
        Knowledge::Unknown if is_small(descriptor) && registry.claim_single_post() => true,
        _ => return None,
    };
    Some(Box::new(SinglePost {
        client: client.clone(),
        descriptor: descriptor.clone(),
        is_try,
        cost_a_question,
        offset: 0,
        session: None,
    }))
}

/// So small that it is held for a second request, and that sending it in vain costs no more than asking.
pub(super) fn is_small(descriptor: &Descriptor) -> bool {
    descriptor.size <= MAX_KEPT
}

struct SinglePost {
    client: Arc<Client>,
    descriptor: Descriptor,
    /// It finds out whether the registry takes blobs so.
    is_try: bool,
    /// A HEAD had asked for the blob, which a self-mount may spare the next ones.
    cost_a_question: bool,
    offset: u64,
    /// What takes the blob in place of the POST.
    session: Option<Box<dyn Upload>>,
}

impl Upload for SinglePost {
    fn offset(&self) -> u64 {
        self.session
            .as_ref()
            .map_or(self.offset, |session| session.offset())
    }

    fn send(&mut self, body: &mut dyn Read) -> Result<(), SendError> {
        if let Some(session) = &mut self.session {
            return session.send(body);
        }
        if !is_small(&self.descriptor) {
            let fate = self.post(body)?;
            return match &mut self.session {
                None => Ok(()),
                Some(session) if fate.is_untouched => session.send(body),
                Some(_) => Err(SendError::Again),
            };
        }
        let mut kept = Vec::new();
        let read = body.take(MAX_KEPT).read_to_end(&mut kept);
        if read.is_err() || kept.len() as u64 != self.descriptor.size {
            self.learn(Knowledge::Unknown);
            return Err(SendError::Body);
        }
        self.post(&mut kept.as_slice())?;
        match &mut self.session {
            None => Ok(()),
            Some(session) => session.send(&mut kept.as_slice()),
        }
    }

    fn resume(&mut self) -> Result<Option<u64>, StoreError> {
        self.session
            .as_mut()
            .map_or(Ok(None), |session| session.resume())
    }

    fn location(&self) -> Option<String> {
        self.session.as_ref()?.location()
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        if let Some(session) = self.session {
            return session.commit();
        }
        if self.cost_a_question {
            learn_self_mount(&self.client, &self.descriptor.digest);
        }
        Ok(())
    }
}

impl SinglePost {
    /// Sends all of `body`. Where the registry does not take it so, a session follows at once: its own, if the answer has
    /// one.
    fn post(&mut self, body: &mut dyn Read) -> Result<Fate, SendError> {
        let (client, descriptor) = (&self.client, &self.descriptor);
        let path = format!("blobs/uploads/?digest={}", descriptor.digest);
        let request = Request::new(Method::Post, client.path(&path), client.scope()).optional();
        let (result, fate) = send_body(client, request, body, descriptor.size)
            .inspect_err(|_| self.learn(Knowledge::Unknown))?;
        let session = match result {
            Ok(response) if response.status == 202 => {
                self.learn(Knowledge::No);
                session(client, &response, descriptor, self.cost_a_question)?
            }
            result => match stored(client, descriptor, result, fate.is_all_sent) {
                Ok(()) => {
                    self.learn(Knowledge::Yes);
                    self.offset = descriptor.size;
                    return Ok(fate);
                }
                Err(error) => {
                    self.learn(self.lesson(&error));
                    if is_for_later(&error) {
                        return Err(StoreError::from(error).into());
                    }
                    log::debug!("{error}");
                    open(client, descriptor, self.cost_a_question)?
                }
            },
        };
        self.session = Some(session);
        Ok(fate)
    }

    /// What a failure says of the registry. A connection that breaks is no answer, but to a try: there may be a proxy that
    /// answers such requests by that.
    fn lesson(&self, error: &RequestError) -> Knowledge {
        let says_nothing = is_for_later(error)
            || matches!(error.failure, Failure::LoginRenewed)
            || error.is_cut() && !self.is_try;
        if says_nothing {
            Knowledge::Unknown
        } else {
            Knowledge::No
        }
    }

    /// Keeps what was found out; `Unknown` is nothing, and another blob may try.
    fn learn(&self, knowledge: Knowledge) {
        if self.is_try || knowledge == Knowledge::No {
            self.client.registry.learn_single_post(knowledge);
        }
    }
}

/// Whether the same request may be answered otherwise later, so that a session would not fare better now.
fn is_for_later(error: &RequestError) -> bool {
    match error.refusal() {
        Some(refusal) => is_passing(refusal.status),
        None => error.class() == Class::Unreachable,
    }
}

/// Bytes of a blob that are held for a second request.
const MAX_KEPT: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::testing::{CONTENT, SESSION, hint, open, opened, requests, start};
    use super::*;
    use crate::oci::{Manifest, Reference};
    use crate::registry::testing::{Reply, Seen, Server, descriptor};
    use crate::store::{Prior, Target};

    const SINGLE: &str = "POST /v2/a/b/blobs/uploads/?digest=D";
    const OWN: &str = "POST /v2/a/b/blobs/uploads/?mount=D&from=a/b";
    const PLAIN: &str = "POST /v2/a/b/blobs/uploads/";
    const HEAD: &str = "HEAD /v2/a/b/blobs/D";

    fn put() -> String {
        format!("PUT {SESSION}&digest=D")
    }

    /// What a registry answers, but for blobs in one POST.
    fn usual(seen: &Seen, has_blob: bool) -> Reply {
        match seen.method.as_str() {
            "POST" => opened(),
            "PUT" => Reply::new(201),
            "HEAD" if has_blob => Reply::new(200).header("content-length", CONTENT.len()),
            _ => Reply::new(404),
        }
    }

    fn is_single(seen: &Seen) -> bool {
        seen.method == "POST" && seen.target.contains("?digest=")
    }

    /// Answers blobs in one POST by a status, or by nothing.
    fn answering(status: u16, has_blob: bool) -> Server {
        start(move |seen| match status {
            _ if !is_single(seen) => usual(seen, has_blob),
            0 => Reply::nothing(),
            202 => opened(),
            status => Reply::new(status).header("location", "/elsewhere"),
        })
    }

    /// A repository where one image is complete.
    fn begun(server: &Server) -> Arc<dyn Target> {
        let store = server.store("a/b");
        let manifest = br#"{"schemaVersion":2,"manifests":[]}"#;
        let digest = descriptor(manifest).digest;
        let media_type = Some("application/vnd.oci.image.index.v1+json");
        let manifest = Manifest::parse(manifest.as_slice(), media_type, digest.clone()).unwrap();
        store
            .put_manifest(&Reference::from(digest), &manifest)
            .unwrap();
        store
    }

    /// Uploads a blob of which nothing is there, and gives the class of the failure, if it fails, and the requests.
    fn upload(server: &Server, store: &dyn Target) -> (Option<Class>, Vec<String>) {
        let before = server.requests().len();
        let mut upload = open(store, CONTENT, &hint(Prior::Empty, None));
        let sent = match upload.send(&mut { CONTENT }) {
            Ok(()) => upload.commit(),
            Err(SendError::Target(error)) => Err(error),
            Err(error) => panic!("{error:?}"),
        };
        let new = requests(server).split_off(before);
        (sent.err().map(|error| error.class), new)
    }

    #[test]
    fn a_registry_is_tried_once_and_what_it_does_not_take_goes_on_at_once() {
        let put = put();
        let put = put.as_str();
        // (status, whether a HEAD finds the blob; requests of the first blob and of the second)
        for (status, has_blob, first, second) in [
            (201, false, vec![SINGLE], vec![SINGLE]),
            (202, false, vec![SINGLE, put], vec![OWN, put]),
            (400, false, vec![SINGLE, PLAIN, put], vec![OWN, put]),
            (401, false, vec![SINGLE, PLAIN, put], vec![OWN, put]),
            (403, false, vec![SINGLE, PLAIN, put], vec![OWN, put]),
            (405, false, vec![SINGLE, PLAIN, put], vec![OWN, put]),
            (413, false, vec![SINGLE, PLAIN, put], vec![OWN, put]),
            (302, false, vec![SINGLE, PLAIN, put], vec![OWN, put]),
            (404, false, vec![SINGLE, HEAD, PLAIN, put], vec![OWN, put]),
            (500, false, vec![SINGLE, HEAD, PLAIN, put], vec![OWN, put]),
            // A proxy may answer what it does not know by this.
            (0, false, vec![SINGLE, HEAD, PLAIN, put], vec![OWN, put]),
            // The answer was lost, or is odd.
            (0, true, vec![SINGLE, HEAD], vec![SINGLE, HEAD]),
            (200, true, vec![SINGLE, HEAD], vec![SINGLE, HEAD]),
        ] {
            let server = answering(status, has_blob);
            let store = begun(&server);
            for expected in [first, second] {
                let (failure, requests) = upload(&server, &*store);
                assert_eq!(
                    (failure, requests),
                    (None, expected.iter().map(|&line| line.to_owned()).collect()),
                    "{status}"
                );
            }
            let bodies = server.seen().into_iter().filter(is_single);
            assert!(bodies.clone().all(|seen| seen.body == CONTENT
                && seen.header("content-type") == Some("application/octet-stream")));
        }
    }

    #[test]
    fn a_registry_that_has_no_time_is_tried_again_later() {
        let server = answering(429, false);
        let store = begun(&server);
        for _ in 0..2 {
            let expected = (Some(Class::Throttled), vec![SINGLE.to_owned()]);
            assert_eq!(upload(&server, &*store), expected);
        }
    }

    #[test]
    fn nothing_is_tried_before_an_image_is_complete_or_where_a_mount_tells() {
        let server = answering(201, false);
        let store = server.store("a/b");
        assert_eq!(upload(&server, &*store).1, [OWN.to_owned(), put()]);
        let store = begun(&server);
        for (prior, from, content) in [
            (Prior::Empty, Some("c"), CONTENT.to_vec()),
            (Prior::Distrusted, None, CONTENT.to_vec()),
            (Prior::Empty, None, vec![0; (64 << 10) + 1]),
        ] {
            drop(open(&*store, &content, &hint(prior, from)));
            let requests = requests(&server);
            assert!(!requests.last().unwrap().contains("?digest="), "{prior:?}");
        }
        // It was asked for.
        let before = server.requests().len();
        let mut upload = open(&*store, CONTENT, &hint(Prior::Recorded, None));
        upload.send(&mut { CONTENT }).unwrap();
        assert_eq!(requests(&server)[before..], [HEAD, SINGLE]);
    }

    #[test]
    fn a_body_that_fails_is_no_verdict() {
        let server = answering(201, false);
        let store = begun(&server);
        let before = server.requests().len();
        // One fails, the other ends early.
        let failing: Box<dyn Read> = Box::new(CONTENT.chain(Failing));
        for mut body in [failing, Box::new(&CONTENT[1..])] {
            let mut upload = open(&*store, CONTENT, &hint(Prior::Empty, None));
            let error = upload.send(&mut *body).unwrap_err();
            assert!(matches!(error, SendError::Body), "{error:?}");
        }
        assert_eq!(server.requests().len(), before);
        assert_eq!(upload(&server, &*store).1, [SINGLE]);
    }

    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the source is gone"))
        }
    }

    #[test]
    fn a_large_blob_is_sent_as_it_comes_and_again_where_it_is_not_taken() {
        // (bytes, whether the body was asked for before it was refused)
        for (size, is_read) in [(1 << 20, true), (2 << 20, false)] {
            let server = Server::start(move |seen| {
                let length = seen.header("content-length").map(str::to_owned);
                let is_large = length == Some(size.to_string());
                if is_single(seen) && is_large {
                    return Some(Reply::new(405));
                }
                let waits = seen.header("expect").is_some() && !seen.is_complete;
                (!waits).then(|| {
                    if is_single(seen) {
                        Reply::new(201)
                    } else {
                        usual(seen, false)
                    }
                })
            });
            let store = begun(&server);
            upload(&server, &*store);
            let content = vec![7; size];
            let mut upload = open(&*store, &content, &hint(Prior::Recorded, None));
            let mut body = content.as_slice();
            if is_read {
                let again = upload.send(&mut body).unwrap_err();
                assert!(matches!(again, SendError::Again), "{again:?}");
                body = &content;
            }
            assert_eq!(upload.offset(), 0);
            upload.send(&mut body).unwrap();
            assert_eq!(upload.offset(), size as u64);
            upload.commit().unwrap();
            let seen = server.seen();
            let puts = seen
                .iter()
                .filter(|seen| seen.target.starts_with(SESSION) && seen.method == "PUT");
            let puts: Vec<usize> = puts.map(|seen| seen.body.len()).collect();
            assert_eq!(puts, [size], "{:?}", requests(&server));
        }
    }
}
