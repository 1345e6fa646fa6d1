//! An open upload session: a small state machine around its Location, which every answer may change. Not here: whether
//! a blob has to be sent at all.

use std::io::Read;
use std::sync::Arc;

use super::learn_self_mount;
use crate::oci::Descriptor;
use crate::registry::blob;
use crate::registry::body::Outgoing;
use crate::registry::client::Client;
use crate::registry::error::{Failure, RequestError};
use crate::registry::exchange::Response;
use crate::registry::hosts::{Ability, LARGE_PART, Registry};
use crate::registry::manifest::digest_header;
use crate::registry::request::{Method, Request};
use crate::registry::url::{Purpose, Verdict};
use crate::store::{Class, SendError, Session, StoreError, Upload};

/// The session that an answer opened for a blob.
pub(super) fn session(
    client: &Arc<Client>,
    response: &Response,
    descriptor: &Descriptor,
    cost_a_question: bool,
) -> Result<Box<dyn Upload>, StoreError> {
    let location = location(client, response)?;
    let min_chunk = min_chunk(response).filter(|&length| length <= MAX_MIN_CHUNK);
    let mut upload = RegistryUpload::new(client, descriptor, location);
    upload.min_chunk = min_chunk.unwrap_or(0);
    upload.cost_a_question = cost_a_question;
    upload.by_put = upload.fits_into_put();
    Ok(Box::new(upload))
}

/// Where the session is that an answer opened.
pub(in super::super) fn location(
    client: &Client,
    response: &Response,
) -> Result<Verdict, RequestError> {
    let location = response.required_header("location")?;
    client.judge(response, location, Purpose::Upload)
}

/// How many bytes each part of an upload is to have at least, but for the last.
pub(in super::super) fn min_chunk(response: &Response) -> Option<u64> {
    response.header("oci-chunk-min-length")?.trim().parse().ok()
}

/// Goes on with an upload that an earlier run left open. Whatever is wrong with it, a fresh one will do: the location
/// comes from a file, and is judged like one that a registry has just named (S09).
pub(super) fn reopen(
    client: &Arc<Client>,
    descriptor: &Descriptor,
    session: &Session,
) -> Option<Box<dyn Upload>> {
    let location = client.judge_recorded(&session.location)?;
    let mut upload = RegistryUpload::new(client, descriptor, location);
    match upload.resume() {
        Ok(Some(_)) => Some(Box::new(upload)),
        Ok(None) => None,
        Err(error) => {
            log::debug!("{error}");
            None
        }
    }
}

/// Ends a session that nobody will go on with. Registries that do not take it forget the session in their own time
/// (E58). Tells whether it is over.
pub(in super::super) fn cancel(client: &Client, location: Verdict) -> bool {
    let sent = client.send(&mut Request::to(Method::Delete, location, client.scope()));
    match sent {
        Ok(response) => (200..300).contains(&response.status),
        Err(error) => {
            log::debug!("{error}");
            false
        }
    }
}

/// An open session.
struct RegistryUpload {
    client: Arc<Client>,
    descriptor: Descriptor,
    location: Verdict,
    offset: u64,
    /// What the registry wants a part to have at least, but for the last.
    min_chunk: u64,
    /// All of it goes in the PUT that completes it.
    by_put: bool,
    /// The offset where the login was last renewed with a body under way.
    renewed_at: Option<u64>,
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
        if self.offset == size {
            if body.read(&mut [0]).is_err() {
                // There is nothing to read for a request, and yet the body may say that something is wrong with it.
                self.cancel();
                return Err(SendError::Body);
            }
            if size > 0 {
                return Ok(());
            }
        }
        loop {
            self.send_part(body)?;
            if self.offset == size {
                return Ok(());
            }
        }
    }

    fn resume(&mut self) -> Result<Option<u64>, StoreError> {
        // What went by PUT was to be complete with it, and its session may be anything now (E60).
        if self.by_put || self.is_stored {
            return Ok(None);
        }
        let mut request = Request::to(Method::Get, self.location.clone(), self.client.scope());
        let response = self.client.send(&mut request)?;
        if !(200..=299).contains(&response.status) {
            return Ok(None);
        }
        let Some(kept) = response.header("range").and_then(kept_bytes) else {
            return Ok(None);
        };
        if kept > self.descriptor.size {
            return Ok(None);
        }
        self.move_on(&response)?;
        self.offset = kept;
        Ok(Some(kept))
    }

    fn location(&self) -> Option<String> {
        let url = &self.location.url;
        (!self.by_put && !url.is_hidden()).then(|| url.to_request_string())
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
    fn new(client: &Arc<Client>, descriptor: &Descriptor, location: Verdict) -> Self {
        Self {
            client: client.clone(),
            descriptor: descriptor.clone(),
            location,
            offset: 0,
            min_chunk: 0,
            by_put: false,
            renewed_at: None,
            is_stored: false,
            cost_a_question: false,
        }
    }

    fn fits_into_put(&self) -> bool {
        fits_into_put(&self.client.registry, self.descriptor.size)
    }

    /// How much of the blob the next PATCH sends: all that is left, or as much as the host takes at once. Whether it says
    /// which part that is, too: the first PATCH need not, if there is no other (decisions D4).
    fn next_part(&self) -> (u64, bool) {
        let left = self.descriptor.size - self.offset;
        let is_part = self.offset > 0 || left > self.client.registry.max_body(false);
        let max = self.client.registry.max_body(is_part).max(self.min_chunk);
        // Another upload may have lowered the limit in between.
        (left.min(max), is_part || max < left)
    }

    /// One request: all of the rest, or a part of it. Where nothing was sent and the next request may do better, the
    /// offset stays.
    fn send_part(&mut self, body: &mut dyn Read) -> Result<(), SendError> {
        if self.offset == 0 {
            // Other uploads may have learned something since this one was opened.
            self.by_put = self.fits_into_put();
        }
        let (method, location, (length, is_part)) = if self.by_put {
            let whole = (self.descriptor.size, false);
            (Method::Put, self.closing_location(), whole)
        } else {
            (Method::Patch, self.location.clone(), self.next_part())
        };
        let mut request = Request::to(method, location, self.client.scope());
        if self.by_put && length > MAX_SMALL {
            request = request.patiently();
        }
        if is_part {
            let last = self.offset + length - 1;
            request = request.header("content-range", format!("{}-{last}", self.offset));
        }
        let (result, fate) =
            send_body(&self.client, request, body, length).inspect_err(|_| self.cancel())?;
        let sends_again = match &result {
            Ok(response) => self.takes_less(response.status, length, is_part),
            // A registry asks for the login first: it has taken nothing. Once for each part, or a login that never lasts
            // would be renewed for ever (A11).
            Err(error) => {
                matches!(error.failure, Failure::LoginRenewed)
                    && self.renewed_at.replace(self.offset) != Some(self.offset)
            }
        };
        if sends_again {
            return if fate.is_untouched {
                Ok(())
            } else {
                Err(SendError::Again)
            };
        }
        if self.by_put {
            self.close(method, result, fate.is_all_sent)?;
        } else {
            let response = result.map_err(StoreError::from)?;
            if !(200..=204).contains(&response.status) {
                return Err(self.refused(method, response.refuse()).into());
            }
            self.move_on(&response).map_err(StoreError::from)?;
        }
        // Our own count: the Range of an answer may be stale, or of this part alone (E52).
        self.offset += length;
        Ok(())
    }

    /// Whether a body of `length` bytes was refused for its length, and the next one will be shorter.
    fn takes_less(&self, status: u16, length: u64, is_part: bool) -> bool {
        let registry = &self.client.registry;
        match status {
            413 if registry.refused_upload() != Some(Method::Patch) => {
                registry.lower_max_body(length);
            }
            // Or it begins at the wrong place; then the shorter one is refused as well (E53).
            416 if is_part && length > LARGE_PART => registry.forgo(Ability::LargeParts),
            _ => return false,
        }
        self.next_part().0 < length
    }

    /// Where the closing PUT goes. The Location's query stays as it is (E46).
    fn closing_location(&self) -> Verdict {
        let digest = &self.descriptor.digest.to_string();
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

    /// Reads the result of the PUT that completes the blob.
    fn close(
        &mut self,
        method: Method,
        result: Result<Response, RequestError>,
        is_all_sent: bool,
    ) -> Result<(), StoreError> {
        stored(&self.client, &self.descriptor, result, is_all_sent)
            .map_err(|error| self.refused(method, error))?;
        self.is_stored = true;
        Ok(())
    }

    /// What a refusal means for the next attempt.
    fn refused(&self, method: Method, error: RequestError) -> StoreError {
        let Some(refusal) = error.refusal() else {
            return error.into();
        };
        if self.offset > 0 {
            // It does not go on as it said it would: a fresh session may be taken all the same (E53).
            return error.with_class(Class::Transient);
        }
        let status = refusal.status;
        let code = refusal.code.as_deref().unwrap_or_default();
        // The session is lost: with a restart, or behind a balancer that leads each request elsewhere (R11). Or the
        // content was damaged on its way, for its digest was right here (R14).
        let session_is_lost = matches!(status, 400 | 404)
            && (code.starts_with("BLOB_UPLOAD_")
                || matches!(code, "DIGEST_INVALID" | "SIZE_INVALID" | "BLOB_UNKNOWN"));
        let method_is_refused = match status {
            // Some want bytes by PATCH only, and say it in the words of a lost session (E45).
            400 => {
                let words = ["", "UNSUPPORTED", "BLOB_UPLOAD_INVALID"];
                method == Method::Put && words.contains(&code)
            }
            404 => !session_is_lost,
            _ => matches!(status, 405 | 411 | 413 | 415 | 416 | 501),
        };
        if method_is_refused && self.client.registry.refuse_upload(method) {
            return RequestError {
                failure: Failure::OtherMethodNext { status },
                ..error
            }
            .into();
        }
        if session_is_lost || status == 404 {
            return error.with_class(Class::Transient); // the session again
        }
        error.into()
    }

    fn cancel(&self) {
        cancel(&self.client, self.location.clone());
    }
}

/// What became of a body.
pub(super) struct Fate {
    /// It can still be sent as it is.
    pub(super) is_untouched: bool,
    pub(super) is_all_sent: bool,
}

/// Sends a request with a body of `length` bytes.
///
/// # Errors
/// Where the body failed. What the target did is inside.
pub(super) fn send_body<'a>(
    client: &'a Client,
    request: Request<'a>,
    body: &'a mut dyn Read,
    length: u64,
) -> Result<(Result<Response, RequestError>, Fate), SendError> {
    let rate = client.registry.rates.bytes.as_deref();
    let mut request = request
        .header("content-type", "application/octet-stream")
        .stream(Outgoing::new(body, length, rate));
    let result = client.send(&mut request);
    if request.sent().is_some_and(Outgoing::is_broken) {
        return Err(SendError::Body);
    }
    let fate = Fate {
        is_untouched: request.body.is_untouched(),
        is_all_sent: request.body.length() == Some(0),
    };
    Ok((result, fate))
}

/// Reads the result of the request that completes a blob. What is in doubt is looked at before anything is sent again: a
/// registry that lost its answer may have stored the blob all the same (N10, R10).
pub(super) fn stored(
    client: &Client,
    descriptor: &Descriptor,
    result: Result<Response, RequestError>,
    is_all_sent: bool,
) -> Result<(), RequestError> {
    let error = match result {
        Ok(response) => match response.status {
            201 => {
                if let Some(stored) = digest_header(&response)
                    && stored != descriptor.digest
                {
                    return Err(response.failed(Failure::Changed {
                        sent: descriptor.digest.clone(),
                        stored,
                    })); // R09
                }
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
    if is_in_doubt && is_all_sent && blob::is_there(client, descriptor).unwrap_or(false) {
        return Ok(());
    }
    Err(error)
}

/// Whether a blob of `size` bytes goes in the request that completes it.
pub(super) fn fits_into_put(registry: &Registry, size: u64) -> bool {
    match registry.refused_upload() {
        Some(refused) => refused == Method::Patch,
        None => size <= MAX_SMALL.min(registry.max_body(false)),
    }
}

/// How much of an upload the `Range` of its status says was kept: `0-N`, also as `bytes=0-N`. `0-0` is said of nothing
/// and of one byte, so it says nothing (E52).
fn kept_bytes(range: &str) -> Option<u64> {
    let range = range.trim();
    let (start, last) = range
        .strip_prefix("bytes=")
        .unwrap_or(range)
        .split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (start == "0" && last > 0).then_some(last + 1)
}

/// Bytes that go in one PUT; more are sent by a PATCH first, which can be gone on with.
pub(super) const MAX_SMALL: u64 = 16 << 20;
/// A registry that wants larger parts is not heeded (E51).
const MAX_MIN_CHUNK: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::testing::{CONTENT, SESSION, hint, open, opened, requests, start};
    use super::*;
    use crate::oci::Repository;
    use crate::registry::testing::{Reply, Seen, Server, descriptor};
    use crate::store::Prior;

    #[test]
    fn a_small_blob_is_one_post_and_one_put_with_the_query_kept() {
        let server = start(|seen| match seen.method.as_str() {
            "POST" => opened(),
            "PUT" => Reply::new(201),
            _ => Reply::new(404),
        });
        let store = server.store("a/b");
        let mut upload = open(&*store, CONTENT, &hint(Prior::Distrusted, None));
        upload.send(&mut { CONTENT }).unwrap();
        assert_eq!(
            requests(&server),
            [
                "POST /v2/a/b/blobs/uploads/".to_owned(),
                format!("PUT {SESSION}&digest=D"),
            ]
        );
        let seen = server.seen();
        assert_eq!(seen[0].header("content-length"), Some("0"));
        assert_eq!(
            (seen[1].body.as_slice(), seen[1].header("expect")),
            (CONTENT, None)
        );
        upload.commit().unwrap();
    }

    #[test]
    fn an_empty_blob_is_sent_like_any_other() {
        let server = start(|seen| match seen.method.as_str() {
            "POST" => opened(),
            _ => Reply::new(201),
        });
        let mut upload = open(&*server.store("a/b"), b"", &hint(Prior::Distrusted, None));
        upload.send(&mut io::empty()).unwrap();
        assert_eq!(server.seen()[1].header("content-length"), Some("0"));
    }

    #[test]
    fn a_large_blob_is_a_patch_and_a_put_to_the_newest_location() {
        let server = start(|seen| match seen.method.as_str() {
            "POST" => opened(),
            "PATCH" => Reply::new(202).header("location", "/v2/a/b/blobs/uploads/2"),
            "PUT" => Reply::new(201),
            _ => Reply::new(404),
        });
        let content = vec![7; 17 << 20];
        let mut upload = open(
            &*server.store("a/b"),
            &content,
            &hint(Prior::Distrusted, None),
        );
        upload.send(&mut content.as_slice()).unwrap();
        assert_eq!(upload.offset(), content.len() as u64);
        upload.commit().unwrap();
        let seen = server.seen();
        assert_eq!(seen[1].line(), format!("PATCH {SESSION}"));
        assert_eq!(seen[1].header("expect"), Some("100-continue"));
        assert_eq!(seen[1].header("content-range"), None);
        assert!(seen[1].body == content);
        assert!(
            seen[2]
                .line()
                .starts_with("PUT /v2/a/b/blobs/uploads/2?digest=")
        );
        assert_eq!(seen[2].header("content-length"), Some("0"));
    }

    #[test]
    fn a_body_that_fails_is_not_completed_and_not_the_targets_fault() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = self.0.min(buffer.len());
                if length == 0 {
                    return Err(io::Error::other("the source is gone"));
                }
                self.0 -= length;
                Ok(length)
            }
        }
        for size in [1 << 20, 17 << 20] {
            let server = start(|seen| match seen.method.as_str() {
                "POST" => opened(),
                "DELETE" => Reply::new(204),
                _ => Reply::new(201),
            });
            let content = vec![0; size];
            // One fails, the other ends early: ureq alone would ask it for more until the end of time.
            let bodies: [Box<dyn Read>; 2] =
                [Box::new(Failing(size / 2)), Box::new(&content[..size / 2])];
            for mut body in bodies {
                let store = server.store("a/b");
                let mut upload = open(&*store, &content, &hint(Prior::Distrusted, None));
                let error = upload.send(&mut *body).unwrap_err();
                assert!(matches!(error, SendError::Body), "{error:?}");
            }
            let seen = server.seen();
            let writes = |seen: &&Seen| matches!(seen.method.as_str(), "PUT" | "PATCH");
            assert!(seen.iter().filter(writes).all(|seen| !seen.is_complete));
            assert_eq!(
                seen.iter().filter(|seen| seen.method == "DELETE").count(),
                2
            );
        }
    }

    #[test]
    fn a_put_without_an_answer_is_looked_at_before_it_is_sent_again() {
        for (status, stored) in [
            (0, true),
            (0, false),
            (404, true),
            (500, true),
            (503, false),
            (200, true),
            (202, false),
        ] {
            let server = start(move |seen| match seen.method.as_str() {
                "POST" => opened(),
                "PUT" if status == 0 => Reply::nothing(),
                "PUT" => Reply::new(status),
                "HEAD" if stored => Reply::new(200).header("content-length", CONTENT.len()),
                _ => Reply::new(404),
            });
            let mut upload = open(
                &*server.store("a/b"),
                CONTENT,
                &hint(Prior::Distrusted, None),
            );
            let result = upload.send(&mut { CONTENT });
            match result {
                Ok(()) => assert!(stored, "{status}"),
                Err(SendError::Target(error)) => {
                    assert!(!stored, "{error}");
                    assert_eq!(error.class, Class::Transient, "{error}");
                }
                Err(error) => panic!("{status}: {error:?}"),
            }
            assert_eq!(requests(&server)[2], "HEAD /v2/a/b/blobs/D");
            assert_eq!(server.requests().len(), 3);
        }
    }

    #[test]
    fn another_digest_is_an_error() {
        let server = start(|seen| match seen.method.as_str() {
            "POST" => opened(),
            _ => Reply::new(201).header("docker-content-digest", descriptor(b"x").digest),
        });
        let mut upload = open(
            &*server.store("a/b"),
            CONTENT,
            &hint(Prior::Distrusted, None),
        );
        assert!(upload.send(&mut { CONTENT }).is_err());
    }

    #[test]
    fn a_refused_method_is_switched_once() {
        let server = start(|seen| match seen.method.as_str() {
            "POST" => opened(),
            "PUT" if !seen.body.is_empty() => Reply::new(405),
            "PUT" => Reply::new(201),
            "PATCH" => Reply::new(202),
            _ => Reply::new(404),
        });
        let store = server.store("a/b");
        let mut upload = open(&*store, CONTENT, &hint(Prior::Distrusted, None));
        let Err(SendError::Target(error)) = upload.send(&mut { CONTENT }) else {
            panic!("it was stored");
        };
        assert_eq!(error.class, Class::Transient, "{error}");
        let mut upload = open(&*store, CONTENT, &hint(Prior::Distrusted, None));
        upload.send(&mut { CONTENT }).unwrap();
        upload.commit().unwrap();
        assert_eq!(requests(&server)[3], format!("PATCH {SESSION}"));
    }

    #[test]
    fn a_host_that_takes_neither_method_is_an_error_for_good() {
        let server = start(|seen| match seen.method.as_str() {
            "POST" => opened(),
            _ => Reply::new(413),
        });
        let store = server.store("a/b");
        let classes = [(); 3].map(|()| {
            let mut upload = open(&*store, CONTENT, &hint(Prior::Distrusted, None));
            match upload.send(&mut { CONTENT }) {
                Err(SendError::Target(error)) => error.class,
                _ => panic!("it was stored"),
            }
        });
        assert_eq!(
            classes,
            [Class::Transient, Class::Permanent, Class::Permanent]
        );
    }

    #[test]
    fn parts_are_as_large_as_the_registry_wants_them() {
        // (least, sizes of parts): a least that no registry can mean is not heeded.
        for (least, expected) in [
            (
                "x",
                ["0-262143", "262144-524287", "524288-599999"].as_slice(),
            ),
            ("400000", &["0-399999", "400000-599999"]),
            ("134217729", &["0-262143", "262144-524287", "524288-599999"]),
        ] {
            let server = start(move |seen| match seen.method.as_str() {
                "POST" => opened().header("oci-chunk-min-length", least),
                _ if seen.body.len() > 500_000 => Reply::new(413),
                // Only of the newest part (E52).
                "PATCH" => Reply::new(202).header("range", "0-0"),
                _ => Reply::new(201),
            });
            let content = vec![3; 600_000];
            let store = server.store("a/b");
            let mut upload = open(&*store, &content, &hint(Prior::Distrusted, None));
            // Its body is gone when it is refused.
            let again = upload.send(&mut content.as_slice());
            assert!(matches!(again, Err(SendError::Again)), "{again:?}");
            assert_eq!(upload.offset(), 0);
            upload.send(&mut content.as_slice()).unwrap();
            upload.commit().unwrap();
            let seen = server.seen();
            let parts = seen.iter().filter(|seen| seen.method == "PATCH");
            let parts: Vec<&str> = parts
                .filter_map(|seen| seen.header("content-range"))
                .collect();
            assert_eq!(parts, expected, "{least}");
        }
    }

    #[test]
    fn an_upload_that_a_registry_has_whole_is_only_closed() {
        let server = start(|seen| match seen.method.as_str() {
            "POST" => opened(),
            "PATCH" => Reply::nothing(),
            "GET" => Reply::new(204).header("range", format!("0-{}", (17 << 20) - 1)),
            _ => Reply::new(201),
        });
        let content = vec![7; 17 << 20];
        let store = server.store("a/b");
        let mut upload = open(&*store, &content, &hint(Prior::Distrusted, None));
        upload.send(&mut content.as_slice()).unwrap_err();
        assert_eq!(upload.resume().unwrap(), Some(17 << 20));
        upload.send(&mut io::empty()).unwrap();
        upload.commit().unwrap();
        let methods: Vec<String> = server.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(methods, ["POST", "PATCH", "GET", "PUT"]);
    }

    #[test]
    fn a_write_led_elsewhere_is_not_stored() {
        // Behind the redirect is a page that says 200 to everything (M1, H27).
        let server = start(|seen| match seen.line().as_str() {
            line if line.starts_with("PUT /v2/") => {
                Reply::new(302).header("location", "/login?next=1")
            }
            line if line.starts_with("POST") => opened(),
            _ => Reply::new(200),
        });
        let mut upload = open(
            &*server.store("a/b"),
            CONTENT,
            &hint(Prior::Distrusted, None),
        );
        let Err(SendError::Target(error)) = upload.send(&mut { CONTENT }) else {
            panic!("it was stored");
        };
        assert_eq!(error.class, Class::Permanent);
        assert!(
            error.to_string().contains("/login and nothing was stored"),
            "{error}"
        );
        assert_eq!(server.requests().len(), 2);
    }

    #[test]
    fn a_login_that_ran_out_is_renewed_before_a_waiting_body_comes() {
        let is_new = Arc::new(AtomicBool::new(false));
        let renewed = is_new.clone();
        let server = Server::start(move |seen| {
            let is_good = seen.header("authorization") == Some("Bearer new")
                || (seen.method == "POST" && seen.header("authorization") == Some("Bearer old"));
            Some(match seen.method.as_str() {
                "GET" if renewed.load(Ordering::Relaxed) => {
                    Reply::new(200).body(r#"{"token":"new"}"#)
                }
                "GET" => Reply::new(200).body(r#"{"token":"old"}"#),
                _ if !is_good => Reply::new(401).header(
                    "www-authenticate",
                    format!(
                        "Bearer realm=\"http://{}/token\"",
                        seen.header("host").unwrap()
                    ),
                ),
                "POST" => {
                    renewed.store(true, Ordering::Relaxed);
                    opened()
                }
                _ if !seen.is_complete => return None,
                _ => Reply::new(201),
            })
        });
        assert!(!is_new.load(Ordering::Relaxed));
        let content = vec![1; 2 << 20];
        let store = server
            .registries(Some("p"))
            .store(&server.host, &Repository::parse("a/b").unwrap());
        let mut upload = open(&*store, &content, &hint(Prior::Distrusted, None));
        upload.send(&mut content.as_slice()).unwrap();
        let lines: Vec<String> = server
            .seen()
            .iter()
            .map(|seen| format!("{} {}", seen.method, seen.body.len()))
            .collect();
        assert_eq!(
            lines,
            ["POST 0", "GET 0", "POST 0", "PUT 0", "GET 0", "PUT 2097152"]
        );
    }
}
