//! Manifests: asked for, fetched, put. Bytes are hashed here, since only here it is known what was asked for. Not
//! here: what manifests refer to.

use std::sync::atomic::Ordering;

use super::blob::{self, Found, is_passing};
use super::client::Client;
use super::error::{Failure, Refusal, RequestError};
use super::exchange::Response;
use super::request::{Method, Request};
use crate::oci::manifest::media_type;
use crate::oci::{Algorithm, Digest, Kind, Manifest, Reference};
use crate::store::{Class, Presence, StoreError};

/// Asks whether a manifest is there, and which one.
pub(super) fn head(client: &Client, reference: &Reference) -> Result<Presence, StoreError> {
    let response = client.send(&mut request(client, Method::Head, reference))?;
    Ok(match response.status {
        200..=299 => match (digest_header(&response), reference) {
            // It is not what was asked for, whatever it is (R15).
            (Some(digest), Reference::Digest(asked)) if digest != **asked => Presence::Unknown,
            (Some(digest), _) => {
                let kind = response
                    .header("content-type")
                    .and_then(Kind::of_media_type);
                Presence::Present(digest, kind)
            }
            (None, _) => Presence::Unknown,
        },
        404 => Presence::Absent,
        status if is_passing(status) => return Err(response.refuse().into()),
        _ => Presence::Unknown,
    })
}

/// Fetches a manifest.
pub(super) fn get(client: &Client, reference: &Reference) -> Result<Manifest, StoreError> {
    let mut served = Served::fetch(client, reference)?;
    match reference {
        Reference::Digest(asked) => {
            let manifest = served.parse(served.computed.clone());
            if manifest
                .as_ref()
                .is_ok_and(|manifest| manifest.kind() == Kind::Schema1)
            {
                return Err(served.response.failed(Failure::Schema1ByDigest).into());
            }
            // The header has no say in it (E16, V7).
            if served.computed != **asked {
                return Err(served.damaged((**asked).clone()).into());
            }
            Ok(manifest?)
        }
        Reference::Tag(tag) => {
            // Damaged on its way, or a registry that says wrong digests: what comes twice is what the registry has
            // (E16).
            if served.contradiction().is_some() {
                let first = served.computed;
                served = Served::fetch(client, reference)?;
                if let Some(told) = served.contradiction() {
                    if served.computed != first {
                        return Err(served.damaged(told).into());
                    }
                    log::warn!(
                        "{}/{}:{tag}: the registry says {told}, the manifest is {first}",
                        client.registry.host,
                        client.repository,
                    );
                }
            }
            let manifest = served.parse(served.computed.clone())?;
            if manifest.kind() == Kind::Schema1 {
                return schema1(client, &served, manifest);
            }
            Ok(manifest)
        }
    }
}

/// A manifest as it came.
struct Served {
    response: Response,
    bytes: Vec<u8>,
    /// The digest of the bytes.
    computed: Digest,
}

impl Served {
    fn fetch(client: &Client, reference: &Reference) -> Result<Self, StoreError> {
        let mut response = client.send(&mut request(client, Method::Get, reference))?;
        if response.status != 200 {
            return Err(response.refuse().into());
        }
        let bytes = response.bytes(MAX_MANIFEST)?;
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let computed = Digest::of(algorithm, &bytes);
        Ok(Self {
            response,
            bytes,
            computed,
        })
    }

    fn parse(&self, digest: Digest) -> Result<Manifest, RequestError> {
        Manifest::parse(&self.bytes, self.response.header("content-type"), digest)
            .map_err(|error| self.response.failed(Failure::Manifest(error)))
    }

    /// The digest that the registry says, where it is not that of the bytes and should be.
    fn contradiction(&self) -> Option<Digest> {
        let is_wrong = |told: &Digest| Digest::of(told.algorithm(), &self.bytes) != *told;
        let told = digest_header(&self.response).filter(is_wrong)?;
        let is_schema1 = |manifest: Manifest| manifest.kind() == Kind::Schema1;
        let is_signed = self.parse(self.computed.clone()).is_ok_and(is_schema1);
        (!is_signed).then_some(told)
    }

    fn damaged(&self, expected: Digest) -> RequestError {
        self.response.failed(Failure::Digest {
            expected,
            actual: self.computed.clone(),
        })
    }
}

/// The digest of a signed one is that of a part of it, and registries sign anew each time: theirs counts (M22). Its
/// layers have no sizes in it, so they are asked for.
fn schema1(client: &Client, served: &Served, manifest: Manifest) -> Result<Manifest, StoreError> {
    let response = &served.response;
    let mut manifest = match digest_header(response) {
        Some(digest) => served.parse(digest)?,
        None if manifest.media_type() == media_type::SCHEMA1 => manifest,
        None => return Err(response.failed(Failure::Header(DIGEST_HEADER)).into()),
    };
    let mut sizes = Vec::new();
    for layer in manifest.blobs() {
        match blob::head(client, &layer.digest)? {
            Found::Present(Some(size)) => sizes.push(size),
            Found::Present(None) | Found::Unknown => {
                return Err(response
                    .failed(Failure::NoSize(layer.digest.clone()))
                    .into());
            }
            Found::Absent => {
                let missing = response.failed(Failure::NoSize(layer.digest.clone()));
                return Err(missing.with_class(Class::NotFound));
            }
        }
    }
    manifest.set_sizes(sizes);
    Ok(manifest)
}

/// Stores a manifest, byte for byte. Tells whether the registry says that it lists it among the referrers of its subject.
pub(super) fn put(
    client: &Client,
    reference: &Reference,
    manifest: &Manifest,
) -> Result<bool, StoreError> {
    client.will_write();
    let is_stored = || {
        head(client, reference).is_ok_and(
            |found| matches!(found, Presence::Present(digest, _) if digest == *manifest.digest()),
        )
    };
    let path = client.path(&format!("manifests/{reference}"));
    let mut request = Request::new(Method::Put, path, client.scope())
        .header("content-type", manifest.media_type())
        .bytes(manifest.bytes())
        .patiently();
    let response = match client.send(&mut request) {
        Ok(response) => response,
        // The connection may have died after the manifest was stored (N12).
        Err(error) if error.is_cut() && is_stored() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match response.status {
        // The word of a registry that signs schema 1 anew says nothing about what was sent.
        201 => {
            if let Some(stored) = digest_header(&response)
                && stored != *manifest.digest()
                && manifest.kind() != Kind::Schema1
            {
                let sent = manifest.digest().clone();
                return Err(response.failed(Failure::Changed { sent, stored }).into());
            }
        }
        status @ 200..=299 if !is_stored() => {
            return Err(response.failed(Failure::NotStored { status }).into());
        }
        200..=299 => {}
        500..=599 if is_stored() => return Ok(false), // R17
        _ => return refused(client, reference, manifest, response.refuse()),
    }
    // A repository that was asked for a list and has none may say so all the same: then nobody would find it.
    let is_listed = client.lists_referrers.load(Ordering::Relaxed);
    Ok(is_listed && response.header(SUBJECT_HEADER).is_some())
}

/// What a refused manifest means: an immutable tag, a part that is missing, or what the status says.
fn refused(
    client: &Client,
    reference: &Reference,
    manifest: &Manifest,
    error: RequestError,
) -> Result<bool, StoreError> {
    let Some(refusal) = error.refusal() else {
        return Err(error.into());
    };
    if matches!(reference, Reference::Tag(_)) && is_immutable(refusal) {
        let names = match head(client, reference) {
            Ok(Presence::Present(digest, _)) if digest == *manifest.digest() => return Ok(false),
            Ok(Presence::Present(digest, _)) => Some(digest),
            _ => None,
        };
        let failure = Failure::Immutable {
            names,
            message: refusal.to_string(),
        };
        return Err(RequestError { failure, ..error }.into());
    }
    let status = refusal.status;
    // distribution 2.8 answers 500 where it no longer takes schema 1, version 3 400.
    if manifest.kind() == Kind::Schema1 && (status == 500 || error.class() == Class::Permanent) {
        let failure = Failure::Schema1Refused(refusal.to_string());
        return Err(RequestError { failure, ..error }.into());
    }
    // "Unknown blob" has many forms, so nearly every refusal may be one (registries.md, "What follows" 6).
    let may_lack_parts = match status {
        401 | 403 | 408 | 409 | 413 | 425 | 429 | 499 => false,
        404 => !refusal.has_code("NAME_UNKNOWN"),
        _ => status <= 500,
    };
    if !may_lack_parts {
        return Err(error.into());
    }
    if manifest.has_foreign() && status != 500 {
        let failure = Failure::ForeignWanted(refusal.to_string());
        return Err(RequestError { failure, ..error }.into());
    }
    let parts = manifest.blobs().iter().chain(manifest.children());
    let parts: Vec<&Digest> = parts.map(|part| &part.digest).collect();
    let named = parts.iter().filter(|part| refusal.named.contains(part));
    let mut missing: Vec<Digest> = named.map(|part| (*part).clone()).collect();
    // Of those that were left out there are always some.
    if manifest.is_sparse() && missing.is_empty() && status != 500 {
        let failure = Failure::ChildrenWanted(refusal.to_string());
        return Err(RequestError { failure, ..error }.into());
    }
    if missing.is_empty() && refusal.says_blob_unknown() {
        missing = parts.into_iter().cloned().collect();
    }
    let class = if status == 500 {
        Class::Transient
    } else {
        Class::Permanent
    };
    Err(StoreError {
        missing_parts: Some(missing),
        ..error.with_class(class)
    })
}

/// Whether the refusal is about a tag that may not be moved. Registries use nearly every status for it, so their words
/// decide (R20).
fn is_immutable(refusal: &Refusal) -> bool {
    let text = refusal.to_string().to_ascii_lowercase();
    let words = [
        "immutab",
        "overwrit",
        "already exists",
        "locked",
        "protected",
        "redeploy",
    ];
    matches!(refusal.status, 400 | 403 | 405 | 409 | 412)
        && words.iter().any(|word| text.contains(word))
}

fn request(client: &Client, method: Method, reference: &Reference) -> Request<'static> {
    let path = client.path(&format!("manifests/{reference}"));
    // All types, in one header and without `*/*`: a server that misses one of them answers with something else (E12
    // to E14).
    Request::new(method, path, client.scope()).header("accept", media_type::ALL.join(", "))
}

/// The digest that the registry says.
pub(super) fn digest_header(response: &Response) -> Option<Digest> {
    Digest::parse(response.header(DIGEST_HEADER)?.trim()).ok()
}

const DIGEST_HEADER: &str = "docker-content-digest";
const SUBJECT_HEADER: &str = "oci-subject";
/// Bytes. Registries take 4 MiB and more.
pub(super) const MAX_MANIFEST: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::testing::{Reply, Seen, Server};
    use super::*;
    use crate::oci::Tag;

    const IMAGE: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    const SCHEMA1: &str = r#"{"schemaVersion":1,"name":"a/b","fsLayers":[{"blobSum":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}"#;

    fn image() -> Manifest {
        let digest = Digest::of(Algorithm::Sha256, IMAGE.as_bytes());
        Manifest::parse(IMAGE.as_bytes(), None, digest).unwrap()
    }

    fn other_digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"other")
    }

    fn tag() -> Reference {
        Reference::Tag(Tag::parse("v1").unwrap())
    }

    fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(move |seen| Some(answer(seen)))
    }

    fn error(code: &str, rest: &str) -> String {
        format!(r#"{{"errors":[{{"code":"{code}",{rest}}}]}}"#)
    }

    #[test]
    fn a_manifest_by_tag_is_fetched_and_hashed() {
        let server = start(|_| {
            Reply::new(200)
                .header("content-type", "text/plain")
                .header("docker-content-digest", image().digest())
                .body(IMAGE)
        });
        let manifest = server.store("a/b").manifest(&tag()).unwrap();
        assert_eq!(manifest.digest(), image().digest());
        assert_eq!(server.requests(), ["GET /v2/a/b/manifests/v1"]);
        let accept = server.seen()[0].header("accept").unwrap().to_owned();
        assert!(
            accept.contains(media_type::OCI_INDEX) && !accept.contains('*'),
            "{accept}"
        );
    }

    #[test]
    fn a_manifest_that_is_not_what_its_header_says_is_read_twice() {
        let serve = |first: &'static str, second: &'static str, told: Digest| {
            let requests = AtomicUsize::new(0);
            let server = start(move |_| {
                let is_first = requests.fetch_add(1, Ordering::Relaxed) == 0;
                Reply::new(200)
                    .header("docker-content-digest", &told)
                    .body(if is_first { first } else { second })
            });
            let manifest = server.store("a/b").manifest(&tag());
            assert_eq!(server.requests().len(), 2);
            manifest.map(|manifest| manifest.digest().clone())
        };
        // Damaged on its way; served with a wrong header; never twice the same.
        let right = image().digest().clone();
        assert_eq!(serve("{", IMAGE, right.clone()).unwrap(), right);
        assert_eq!(serve(IMAGE, IMAGE, other_digest()).unwrap(), right);
        let error = serve("{", IMAGE, other_digest()).unwrap_err();
        assert_eq!(error.class, Class::Transient);
    }

    #[test]
    fn a_manifest_by_digest_is_that_or_an_error() {
        // The header says what was asked for, the bytes are something else (V7).
        let server = start(|_| {
            Reply::new(200)
                .header("docker-content-digest", other_digest())
                .body(IMAGE)
        });
        let store = server.store("a/b");
        store
            .manifest(&Reference::from(image().digest().clone()))
            .unwrap();
        let error = store
            .manifest(&Reference::from(other_digest()))
            .unwrap_err();
        assert!(error.to_string().contains("the bytes are"), "{error}");
    }

    #[test]
    fn what_cannot_be_a_manifest_is_refused() {
        for (reply, text) in [
            (
                Reply::new(200).header("content-length", 9 << 20).close(),
                "more than 8388608",
            ),
            (
                Reply::new(200)
                    .header("content-type", "Text/HTML; charset=utf-8")
                    .body("hi"),
                "web page",
            ),
            (
                Reply::new(200)
                    .header("content-encoding", "gzip")
                    .body(IMAGE),
                "gzip",
            ),
            (Reply::new(200).body("{}"), "not a manifest"),
            (
                Reply::new(403).body(error("DENIED", r#""message":"no""#)),
                "no `auth` entry",
            ),
            (Reply::new(999), "999"),
        ] {
            let reply = std::sync::Mutex::new(Some(reply));
            let server = start(move |_| reply.lock().unwrap().take().unwrap_or(Reply::new(404)));
            let error = server.store("a/b").manifest(&tag()).unwrap_err();
            assert_eq!(error.class, Class::Permanent, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn schema_1_has_the_digest_of_its_header_and_the_sizes_of_its_blobs() {
        let server = start(|seen| match seen.method.as_str() {
            "HEAD" => Reply::new(200).header("content-length", 2),
            _ => Reply::new(200)
                .header("content-type", media_type::SCHEMA1_SIGNED)
                .header("docker-content-digest", other_digest())
                .body(SCHEMA1),
        });
        let store = server.store("a/b");
        let manifest = store.manifest(&tag()).unwrap();
        assert_eq!(*manifest.digest(), other_digest());
        assert_eq!(manifest.blobs()[0].size, 2);
        let error = store
            .manifest(&Reference::from(other_digest()))
            .unwrap_err();
        assert!(error.to_string().contains("schema 1"), "{error}");
    }

    #[test]
    fn heads_tell_what_they_can() {
        for (reply, presence) in [
            (
                Reply::new(200).header("docker-content-digest", other_digest()),
                Some(Presence::Present(other_digest(), None)),
            ),
            (
                Reply::new(200)
                    .header("docker-content-digest", other_digest())
                    .header("content-type", media_type::DOCKER_LIST),
                Some(Presence::Present(other_digest(), Some(Kind::Index))),
            ),
            (Reply::new(200), Some(Presence::Unknown)),
            (
                Reply::new(200).header("docker-content-digest", "sha256:xyz"),
                Some(Presence::Unknown),
            ),
            (Reply::new(404), Some(Presence::Absent)),
            (Reply::new(400), Some(Presence::Unknown)),
            (Reply::new(401), Some(Presence::Unknown)),
            (Reply::new(403), Some(Presence::Unknown)),
            (Reply::new(405), Some(Presence::Unknown)),
            (Reply::new(500), Some(Presence::Unknown)),
            (Reply::new(429), None),
            (Reply::new(503), None),
            (Reply::new(522), None),
        ] {
            let case = reply.status();
            let reply = std::sync::Mutex::new(Some(reply));
            let server = start(move |_| reply.lock().unwrap().take().unwrap_or(Reply::new(404)));
            let found = server.store("a/b").head(&tag());
            assert_eq!(found.ok(), presence, "{case}");
        }
    }

    /// Puts the image and gives the result and the requests.
    fn put(
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> (Result<bool, StoreError>, Vec<String>) {
        let server = start(answer);
        let result = server.store("a/b").put_manifest(&tag(), &image());
        (result, server.requests())
    }

    /// Answers the PUT so and finds this digest afterwards.
    fn then_names(
        reply: impl Fn() -> Reply + Send + Sync + 'static,
        digest: Digest,
    ) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
        move |seen| match seen.method.as_str() {
            "PUT" => reply(),
            _ => Reply::new(200).header("docker-content-digest", &digest),
        }
    }

    #[test]
    fn a_manifest_is_put_as_it_is() {
        let server = start(|_| Reply::new(201));
        server.store("a/b").put_manifest(&tag(), &image()).unwrap();
        let seen = &server.seen()[0];
        assert_eq!(seen.line(), "PUT /v2/a/b/manifests/v1");
        assert_eq!(seen.header("content-type"), Some(media_type::OCI_IMAGE));
        assert_eq!(seen.body, IMAGE.as_bytes());
    }

    #[test]
    fn what_was_stored_is_what_counts() {
        let same = image().digest().clone();
        let told =
            |digest: Digest| move || Reply::new(201).header("docker-content-digest", &digest);
        assert!(
            put(then_names(told(same.clone()), other_digest()))
                .0
                .is_ok()
        );
        let (changed, requests) = put(then_names(told(other_digest()), same.clone()));
        let changed = changed.unwrap_err();
        assert!(
            changed.to_string().contains("changed the manifest"),
            "{changed}"
        );
        assert_eq!(requests.len(), 1);
        // In doubt it is looked at: another success, a failed server, a connection that dies (N12, R17).
        for reply in [
            || Reply::new(200),
            || Reply::new(502),
            || Reply::new(500),
            Reply::nothing,
        ] {
            assert!(put(then_names(reply, same.clone())).0.is_ok());
            let error = put(then_names(reply, other_digest())).0.unwrap_err();
            assert_eq!(error.class, Class::Transient, "{error}");
        }
    }

    #[test]
    fn an_immutable_tag_is_an_error_unless_it_is_right_already() {
        for (status, body) in [
            (
                400,
                error(
                    "TAG_INVALID",
                    r#""message":"The image tag 'v1' already exists""#,
                ),
            ),
            (403, error("DENIED", r#""message":"cannot overwrite tag""#)),
            (
                412,
                error("PRECONDITION", r#""message":"configured as immutable""#),
            ),
        ] {
            let reply = move || Reply::new(status).body(body.clone());
            assert!(
                put(then_names(reply.clone(), image().digest().clone()))
                    .0
                    .is_ok()
            );
            let error = put(then_names(reply, other_digest())).0.unwrap_err();
            assert_eq!(
                (error.class, &error.missing_parts),
                (Class::Permanent, &None)
            );
            assert!(
                error.to_string().contains(&other_digest().to_string()),
                "{error}"
            );
        }
    }

    #[test]
    fn most_refusals_may_be_about_missing_parts() {
        let config = image().blobs()[0].digest.clone();
        let named = format!(r#""detail":{{"digest":"{config}"}}"#);
        let foreign = format!(r#""message":"{}""#, other_digest());
        for (status, code, rest, parts, class) in [
            (
                400,
                "MANIFEST_BLOB_UNKNOWN",
                named.as_str(),
                Some(vec![&config]),
                Class::Permanent,
            ),
            (
                404,
                "BLOB_UNKNOWN",
                named.as_str(),
                Some(vec![&config]),
                Class::Permanent,
            ),
            (
                404,
                "BLOB_UNKNOWN",
                foreign.as_str(),
                Some(vec![&config]),
                Class::Permanent,
            ),
            (
                400,
                "MANIFEST_INVALID",
                foreign.as_str(),
                Some(vec![]),
                Class::Permanent,
            ),
            (
                500,
                "UNKNOWN",
                r#""message":"""#,
                Some(vec![]),
                Class::Transient,
            ),
            (404, "NAME_UNKNOWN", named.as_str(), None, Class::NotFound),
            (403, "DENIED", named.as_str(), None, Class::Permanent),
            (413, "X", named.as_str(), None, Class::Permanent),
            (429, "X", named.as_str(), None, Class::Throttled),
            (503, "X", named.as_str(), None, Class::Transient),
        ] {
            let body = error(code, rest);
            let (result, _) = put(move |seen| match seen.method.as_str() {
                "PUT" => Reply::new(status).body(body.clone()),
                _ => Reply::new(404),
            });
            let error = result.unwrap_err();
            let found = error
                .missing_parts
                .as_ref()
                .map(|parts| parts.iter().collect());
            assert_eq!((found, error.class), (parts, class), "{error}");
        }
    }

    #[test]
    fn schema_1_that_is_refused_is_refused_for_good() {
        let server = start(|seen| match seen.method.as_str() {
            "PUT" => Reply::new(500).body(error("UNKNOWN", r#""message":"unknown error""#)),
            _ => Reply::new(404),
        });
        let manifest = Manifest::parse(SCHEMA1.as_bytes(), None, other_digest()).unwrap();
        let error = server
            .store("a/b")
            .put_manifest(&tag(), &manifest)
            .unwrap_err();
        assert_eq!(
            (error.class, &error.missing_parts),
            (Class::Permanent, &None)
        );
        assert!(error.to_string().contains("schema 1"), "{error}");
    }
}
