//! The referrers of a manifest, from the registries that list them (distribution-spec, "Listing Referrers"). A list is
//! whole or an error: one that is silently shorter would lose signatures. Not here: the tag that lists them elsewhere.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::client::Client;
use super::error::{Failure, Refusal, RequestError};
use super::exchange::Response;
use super::manifest::MAX_MANIFEST;
use super::request::{Method, Request};
use super::tags::{Pages, next_page};
use crate::oci::manifest::media_type;
use crate::oci::{Algorithm, Digest, Kind, Manifest, ManifestError};
use crate::store::StoreError;

/// All referrers of a manifest, each once; `None` where the repository does not list them, which is found out once
/// (protocol.md E61, E62).
pub(super) fn list(client: &Client, subject: &Digest) -> Result<Option<Vec<Digest>>, StoreError> {
    if !client.lists_referrers.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let path = client.path(&format!("referrers/{subject}"));
    let Some((mut response, mut index)) = first_page(client, &path)? else {
        return Ok(None);
    };
    let mut pages = Pages::default();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    loop {
        pages.enter(&response)?;
        let digests = index.children().iter().map(|child| &child.digest);
        found.extend(
            digests
                .filter(|digest| seen.insert((*digest).clone()))
                .cloned(),
        );
        if found.len() > MAX_REFERRERS {
            let how = Failure::EndlessList("over ten thousand referrers");
            return Err(response.failed(how).into());
        }
        let Some(next) = next_page(client, &response, &path, &client.scope())? else {
            return Ok(Some(found));
        };
        (response, index) = page(client, next)?;
    }
}

/// The first page; `None` where there is no such list.
fn first_page(client: &Client, path: &str) -> Result<Option<(Response, Manifest)>, StoreError> {
    let ask = || {
        let request = Request::new(Method::Get, path.to_owned(), client.scope());
        page(client, request.optional())
    };
    // What is no list is believed when it comes twice: one answer may be the moment's, and signatures would be left
    // behind for it. Something else may answer for all paths (E62).
    let is_doubtful = |error: &RequestError| match &error.failure {
        Failure::Html | Failure::Manifest(_) | Failure::Echo => true,
        Failure::Status(refusal) => matches!(refusal.status, 401 | 403),
        _ => false,
    };
    let answer = match ask() {
        Err(error) if is_doubtful(&error) => ask(),
        answer => answer,
    };
    let error = match answer {
        Ok(page) => return Ok(Some(page)),
        Err(error) => error,
    };
    let is_no_list = |refusal: &&Refusal| matches!(refusal.status, 400 | 404 | 405 | 406 | 501);
    if is_doubtful(&error) {
        forgo(client, Some(&error));
    } else if let Some(refusal) = error.refusal().filter(is_no_list) {
        // Of a repository that is not there yet it says nothing.
        if !refusal.has_code("NAME_UNKNOWN") && !refusal.has_code("MANIFEST_UNKNOWN") {
            forgo(client, None);
        }
    } else {
        return Err(error.into());
    }
    Ok(None)
}

fn page(client: &Client, request: Request<'_>) -> Result<(Response, Manifest), RequestError> {
    let mut response = client.send(&mut request.header("accept", media_type::OCI_INDEX))?;
    if response.status != 200 {
        return Err(response.refuse());
    }
    let bytes = response.bytes(MAX_MANIFEST)?;
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let error = match Manifest::parse(&bytes, response.header("content-type"), digest) {
        Ok(index) if index.kind() == Kind::Index => return Ok((response, index)),
        other => other.err().unwrap_or(ManifestError::Missing("manifests")),
    };
    Err(response.failed(Failure::Manifest(error)))
}

/// Asks the repository no more. It may know no such path and answer by a `refusal`, but it may as well want more rights
/// for it, and somebody has to know of that.
fn forgo(client: &Client, refusal: Option<&RequestError>) {
    if !client.lists_referrers.swap(false, Ordering::Relaxed) {
        return;
    }
    let (host, repository) = (&client.registry.host, &client.repository);
    match refusal {
        None => log::info!("{host}/{repository}: does not list referrers"),
        Some(error) => log::warn!(
            "{host}/{repository}: only referrers that tags list are found, since their own list is refused: {error}"
        ),
    }
}

/// Nobody looks at more of one manifest.
const MAX_REFERRERS: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::testing::{Reply, Server};
    use super::*;
    use crate::store::Class;

    const SUBJECT: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn subject() -> Digest {
        Digest::parse(SUBJECT).unwrap()
    }

    /// A page that lists the digests of these bytes.
    fn page(contents: &[&str]) -> Reply {
        let digest = |text: &&str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let entries = contents.iter().map(|text| {
            let (digest, image) = (digest(text), media_type::OCI_IMAGE);
            format!(r#"{{"mediaType":"{image}","digest":"{digest}","size":1}}"#)
        });
        let entries: Vec<String> = entries.collect();
        let entries = entries.join(",");
        Reply::new(200)
            .header("content-type", media_type::OCI_INDEX)
            .body(format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#))
    }

    #[test]
    fn a_repository_that_does_not_list_is_asked_once_or_in_doubt_twice() {
        type Case = (usize, fn() -> Reply);
        let cases: [Case; 6] = [
            (1, || Reply::new(404)),
            (1, || Reply::new(405)),
            (2, || Reply::new(200).body("{}")),
            // It may not know the path, although the same login reads manifests.
            (2, || Reply::new(200).header("content-type", "text/html")),
            (2, || Reply::new(401)),
            (2, || {
                Reply::new(403).body(r#"{"errors":[{"code":"DENIED"}]}"#)
            }),
        ];
        for (times, answer) in cases {
            let server = Server::start(move |_| Some(answer()));
            let registries = server.registries(None);
            for name in ["a/b", "a/b", "a/c"] {
                let repository = crate::oci::Repository::parse(name).unwrap();
                let store = registries.store(&server.host, &repository);
                assert_eq!(store.referrers(&subject()).unwrap(), None);
            }
            let asked = |name| vec![format!("GET /v2/{name}/referrers/{SUBJECT}"); times];
            assert_eq!(server.requests(), [asked("a/b"), asked("a/c")].concat());
        }
    }

    #[test]
    fn one_answer_that_is_no_list_does_not_hide_the_list() {
        for answer in [
            || Reply::new(401),
            || Reply::new(403),
            || Reply::new(200).body("{"),
            || Reply::new(200).header("content-type", "text/html"),
        ] {
            let asked = AtomicUsize::new(0);
            let server = Server::start(move |_| {
                let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
                Some(if is_first { answer() } else { page(&["a"]) })
            });
            let listed = server.store("a/b").referrers(&subject()).unwrap();
            assert_eq!(listed.map(|listed| listed.len()), Some(1));
        }
    }

    #[test]
    fn a_repository_that_is_not_there_may_list_once_it_is() {
        let unknown = r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#;
        let server = Server::start(move |_| Some(Reply::new(404).body(unknown)));
        let store = server.store("a/b");
        for _ in 0..2 {
            assert_eq!(store.referrers(&subject()).unwrap(), None);
        }
        assert_eq!(server.requests().len(), 2);
    }

    #[test]
    fn pages_are_put_together_or_the_list_fails() {
        type Rest = fn() -> Reply;
        let cases: [(Rest, Option<usize>); 4] = [
            (|| page(&["b", "c"]), Some(3)),
            (|| Reply::new(404), None),
            (|| Reply::new(200).body("{}"), None),
            (
                || page(&["d"]).header("link", "<?last=x>; rel=\"next\""),
                None,
            ),
        ];
        for (rest, expected) in cases {
            let server = Server::start(move |seen| {
                Some(if seen.line().contains('?') {
                    rest()
                } else {
                    page(&["a", "b"]).header("link", "<?last=x>; rel=\"next\"")
                })
            });
            let listed = server.store("a/b").referrers(&subject());
            match expected {
                Some(count) => assert_eq!(listed.unwrap().unwrap().len(), count),
                None => {
                    listed.unwrap_err();
                }
            }
        }
    }

    #[test]
    fn a_failure_is_no_lack_of_the_list() {
        let server = Server::start(move |_| Some(Reply::new(500)));
        let error = server.store("a/b").referrers(&subject()).unwrap_err();
        assert_eq!(error.class, Class::Transient);
    }
}
