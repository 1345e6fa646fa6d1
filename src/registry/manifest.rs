//! Manifests: asked for, fetched, put. Bytes are hashed here, since only here it is known what was asked for. Not
//! here: what manifests refer to.

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
            (Some(digest), Reference::Digest(asked)) if digest != *asked => Presence::Unknown,
            (Some(digest), _) => Presence::Present(digest),
            (None, _) => Presence::Unknown,
        },
        404 => Presence::Absent,
        status if is_passing(status) => return Err(response.refuse().into()),
        _ => Presence::Unknown,
    })
}

/// Fetches a manifest.
pub(super) fn get(client: &Client, reference: &Reference) -> Result<Manifest, StoreError> {
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
    let served_type = response.header("content-type");
    let parse = |digest| {
        Manifest::parse(&bytes, served_type, digest)
            .map_err(|error| response.failed(Failure::Manifest(error)))
    };

    match reference {
        Reference::Digest(asked) => {
            let manifest = parse(computed.clone());
            if manifest
                .as_ref()
                .is_ok_and(|manifest| manifest.kind() == Kind::Schema1)
            {
                return Err(response.failed(Failure::Schema1ByDigest).into());
            }
            // The header has no say in it (E16, V7).
            if computed != *asked {
                return Err(response
                    .failed(Failure::Digest {
                        expected: asked.clone(),
                        actual: computed,
                    })
                    .into());
            }
            Ok(manifest?)
        }
        Reference::Tag(tag) => {
            let told = digest_header(&response);
            let manifest = parse(computed)?;
            if manifest.kind() == Kind::Schema1 {
                return schema1(client, &response, manifest, parse);
            }
            if let Some(told) = told.filter(|told| told != manifest.digest()) {
                log::warn!(
                    "{}/{}:{tag}: the registry says {told}, the manifest is {}",
                    client.registry.host,
                    client.repository,
                    manifest.digest()
                );
            }
            Ok(manifest)
        }
    }
}

/// The digest of a signed one is that of a part of it, and registries sign anew each time: theirs counts (M22). Its
/// layers have no sizes in it, so they are asked for.
fn schema1(
    client: &Client,
    response: &Response,
    manifest: Manifest,
    parse: impl Fn(Digest) -> Result<Manifest, RequestError>,
) -> Result<Manifest, StoreError> {
    let mut manifest = match digest_header(response) {
        Some(digest) => parse(digest)?,
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

/// Stores a manifest, byte for byte.
pub(super) fn put(
    client: &Client,
    reference: &Reference,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    client.will_write();
    let is_stored = || {
        head(client, reference)
            .is_ok_and(|found| found == Presence::Present(manifest.digest().clone()))
    };
    let path = client.path(&format!("manifests/{reference}"));
    let mut request = Request::new(Method::Put, path, client.scope())
        .header("content-type", manifest.media_type())
        .bytes(manifest.bytes())
        .patiently();
    let response = match client.send(&mut request) {
        Ok(response) => response,
        // The connection may have died after the manifest was stored (N12).
        Err(error) if error.is_cut() && is_stored() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match response.status {
        201 => match digest_header(&response) {
            // The word of a registry that signs schema 1 anew says nothing about what was sent.
            Some(stored) if stored != *manifest.digest() && manifest.kind() != Kind::Schema1 => {
                Err(response
                    .failed(Failure::Changed {
                        sent: manifest.digest().clone(),
                        stored,
                    })
                    .into())
            }
            _ => Ok(()),
        },
        status @ 200..=299 if !is_stored() => {
            Err(response.failed(Failure::NotStored { status }).into())
        }
        200..=299 => Ok(()),
        500..=599 if is_stored() => Ok(()), // R17
        _ => refused(client, reference, manifest, response.refuse()),
    }
}

/// What a refused manifest means: an immutable tag, a part that is missing, or what the status says.
fn refused(
    client: &Client,
    reference: &Reference,
    manifest: &Manifest,
    error: RequestError,
) -> Result<(), StoreError> {
    let Some(refusal) = error.refusal() else {
        return Err(error.into());
    };
    if matches!(reference, Reference::Tag(_)) && is_immutable(refusal) {
        let names = match head(client, reference) {
            Ok(Presence::Present(digest)) if digest == *manifest.digest() => return Ok(()),
            Ok(Presence::Present(digest)) => Some(digest),
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
        let message = refusal.to_string();
        let failure = Failure::Schema1Refused(message);
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
    let parts = || manifest.blobs().iter().chain(manifest.children());
    let named = refusal.named.iter();
    let missing = named
        .filter(|named| parts().any(|part| part.digest == **named))
        .cloned()
        .collect();
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

fn digest_header(response: &Response) -> Option<Digest> {
    Digest::parse(response.header(DIGEST_HEADER)?.trim()).ok()
}

const DIGEST_HEADER: &str = "docker-content-digest";
/// Bytes. Registries take 4 MiB and more.
const MAX_MANIFEST: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::super::testing::{Reply, Server};
    use super::*;
    use crate::oci::Tag;

    const IMAGE: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;

    fn image() -> Manifest {
        Manifest::parse(
            IMAGE.as_bytes(),
            None,
            Digest::of(Algorithm::Sha256, IMAGE.as_bytes()),
        )
        .unwrap()
    }

    fn tag() -> Reference {
        Reference::Tag(Tag::parse("v1").unwrap())
    }

    #[test]
    fn a_manifest_by_tag_is_fetched_and_hashed() {
        let server = Server::start(|_| {
            Some(
                Reply::new(200)
                    .header("content-type", "text/plain")
                    .body(IMAGE),
            )
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
}
