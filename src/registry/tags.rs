//! Lists that come page by page: the tags of a repository, the repositories of a registry. A list is whole or an error:
//! one that is silently shorter would make images vanish. Not here: which of them are wanted.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::auth::Scope;
use super::client::Client;
use super::error::{Failure, RequestError};
use super::exchange::Response;
use super::request::{Method, Request};
use super::url::{Purpose, Url, Verdict};
use crate::oci::{Repository, Tag};
use crate::store::{Class, StoreError};

/// All tags, each once and valid; `None` where the repository is not known (protocol.md E36).
pub(super) fn list(client: &Client) -> Result<Option<Vec<Tag>>, StoreError> {
    let list = List {
        path: client.path("tags/list"),
        scope: client.scope(),
        is_valid: |name| Tag::parse(name).is_ok(),
    };
    let names = list.read(client)?;
    Ok(names.map(|names| names.iter().flat_map(|name| Tag::parse(name)).collect()))
}

/// All repositories of the registry, each once and valid. Many registries do not tell (protocol.md E37).
pub(super) fn catalog(client: &Client) -> Result<Vec<Repository>, StoreError> {
    let list = List {
        path: "/v2/_catalog".to_owned(),
        scope: Scope::catalog(),
        is_valid: |name| Repository::parse(name).is_ok(),
    };
    let not_told = |why: &str| {
        let host = &client.registry.host;
        let text = format!("{host} does not list its repositories ({why}); write a rule for each");
        StoreError::new(Class::Permanent, text)
    };
    match list.read(client) {
        Ok(Some(names)) => Ok(names
            .iter()
            .flat_map(|name| Repository::parse(name))
            .collect()),
        Ok(None) => Err(not_told("404 Not Found")),
        Err(error) if error.class.is_final() => Err(not_told(&error.to_string())),
        Err(error) => Err(error),
    }
}

/// A list of names in pages.
struct List {
    path: String,
    scope: Scope,
    is_valid: fn(&str) -> bool,
}

impl List {
    /// All names, each once and valid; `None` where there is no such list.
    fn read(&self, client: &Client) -> Result<Option<Vec<String>>, StoreError> {
        let mut takes_n = true;
        let mut response = ask(client, self.own_page(None))?;
        if response.status == 400 {
            // Some do not take `n` (E30).
            takes_n = false;
            response.discard();
            let path = self.path.clone();
            response = ask(client, Request::new(Method::Get, path, self.scope.clone()))?;
        }
        if response.status == 404 {
            response.discard();
            return Ok(None);
        }

        let mut names = Names::default();
        let mut asked: HashSet<Url> = HashSet::new();
        for _ in 0..MAX_PAGES {
            if response.status != 200 {
                return Err(response.refuse().into());
            }
            let endless =
                |response: &Response, how| Err(response.failed(Failure::EndlessList(how)).into());
            if !asked.insert(response.url.clone()) {
                return endless(&response, "a page names itself as the next one");
            }
            let page = read_page(&mut response)?;
            let known = names.list.len();
            names.add(&page, self.is_valid);
            let is_new = names.list.len() > known;
            if names.list.len() > MAX_NAMES {
                return endless(&response, "over a million names");
            }

            let link = response.headers("link").find_map(next_link);
            let request = match link {
                // An empty page may have a next one (E29), one of old names goes in circles (E33).
                Some(_) if !is_new && !page.is_empty() => {
                    return endless(&response, "a page brings nothing new");
                }
                Some(link) => {
                    let next = next(client, &response, &self.path, &link)?;
                    Request::to(Method::Get, next, self.scope.clone())
                }
                // Cut off without a word, perhaps: some stop at `n` and say nothing (E34).
                None if takes_n && is_new && page.len() == PAGE => {
                    self.own_page(names.list.last().map(String::as_str))
                }
                None => return Ok(Some(names.finish(client, &self.path))),
            };
            response = ask(client, request)?;
        }
        Err(response
            .failed(Failure::EndlessList("too many pages"))
            .into())
    }

    fn own_page(&self, last: Option<&str>) -> Request<'static> {
        let last = last.map_or_else(String::new, |name| format!("&last={name}"));
        let path = format!("{}?n={PAGE}{last}", self.path);
        Request::new(Method::Get, path, self.scope.clone())
    }
}

/// Where the next page is. The path may be wrong, in front of registries whose proxies do not translate it: then the
/// query counts (E32).
pub(super) fn next(
    client: &Client,
    response: &Response,
    path: &str,
    link: &str,
) -> Result<Verdict, RequestError> {
    let mut verdict = client.judge(response, link, Purpose::Page)?;
    if verdict.url.path() != path {
        let query = verdict.url.query().unwrap_or_default();
        verdict.url = response
            .url
            .join(&format!("{path}?{query}"))
            .map_err(|error| response.failed(Failure::Url(error)))?;
    }
    Ok(verdict)
}

fn ask(client: &Client, mut request: Request<'_>) -> Result<Response, RequestError> {
    client.send(&mut request)
}

#[derive(Deserialize)]
struct Page {
    #[serde(default, alias = "tags", alias = "repositories")]
    names: Option<Vec<Value>>,
}

fn read_page(response: &mut Response) -> Result<Vec<Value>, RequestError> {
    let body = response.bytes(MAX_PAGE)?;
    let page: Page =
        serde_json::from_slice(&body).map_err(|error| response.failed(Failure::Json(error)))?;
    Ok(page.names.unwrap_or_default())
}

/// What was listed so far.
#[derive(Default)]
struct Names {
    list: Vec<String>,
    seen: HashSet<String>,
    dropped: usize,
}

impl Names {
    /// Adds the entries of a page. Some are null, digests or there twice (E27).
    fn add(&mut self, page: &[Value], is_valid: fn(&str) -> bool) {
        for entry in page {
            match entry.as_str().filter(|text| is_valid(text)) {
                Some(name) if self.seen.insert(name.to_owned()) => self.list.push(name.to_owned()),
                _ => self.dropped += 1,
            }
        }
    }

    fn finish(self, client: &Client, path: &str) -> Vec<String> {
        if self.dropped > 0 {
            log::warn!(
                "{}{path}: {} entries of the list are no names or there twice",
                client.registry.host,
                self.dropped
            );
        }
        self.list
    }
}

/// The target of `rel="next"` in a Link header (RFC 8288).
pub(super) fn next_link(header: &[u8]) -> Option<String> {
    let mut rest = std::str::from_utf8(header).ok()?;
    while let Some((_, link)) = rest.split_once('<') {
        let (target, parameters) = link.split_once('>')?;
        let parameters = parameters
            .split_once('<')
            .map_or(parameters, |(own, _)| own);
        let is_next = parameters.split([';', ',']).any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|relation| relation.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target.to_owned());
        }
        rest = link.split_once('>')?.1;
    }
    None
}

/// Names a page. ECR refuses more, others take less.
const PAGE: usize = 1000;
pub(super) const MAX_PAGES: usize = 10_000;
const MAX_NAMES: usize = 1_000_000;
/// Bytes a page.
const MAX_PAGE: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::super::testing::{Reply, Server};
    use super::*;

    fn page(tags: impl IntoIterator<Item = u32>) -> String {
        let tags: Vec<String> = tags.into_iter().map(|tag| format!("\"{tag}\"")).collect();
        format!("{{\"name\":\"a/b\",\"tags\":[{}]}}", tags.join(","))
    }

    /// A registry whose pages are chosen by the query.
    fn server(pages: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(move |seen| {
            let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
            assert_eq!(path, "/v2/a/b/tags/list");
            Some(pages(query))
        })
    }

    fn count(server: &Server) -> usize {
        server.store("a/b").tags().unwrap().unwrap().len()
    }

    #[test]
    fn links_of_all_forms_are_found() {
        for (header, next) in [
            ("</v2/x>; rel=\"next\"", Some("/v2/x")),
            ("<?last=b>;rel=next", Some("?last=b")),
            (
                "<a>; rel=\"prev\", <b>; foo=\"1\"; REL=\"last Next\"",
                Some("b"),
            ),
            ("<a>; rel=\"prev\"", None),
            ("<a; rel=next", None),
            ("</v2/x?q=a;rel=next>; rel=prev", None),
            ("", None),
        ] {
            assert_eq!(next_link(header.as_bytes()).as_deref(), next, "{header}");
        }
    }

    #[test]
    fn pages_are_followed_until_there_is_no_link() {
        let server = server(|query| match query {
            "n=1000" => Reply::new(200)
                .header("link", "</v2/a/b/tags/list?last=2&n=1000>; rel=\"next\"")
                .body(page(1..3)),
            // gitea's last page has a link to an empty one.
            "last=2&n=1000" => Reply::new(200)
                .header("link", "<?last=4>; rel=next")
                .body(page(3..5)),
            _ => Reply::new(200).body(r#"{"tags":null}"#),
        });
        assert_eq!(count(&server), 4);
        assert_eq!(server.requests().len(), 3);
    }

    #[test]
    fn a_link_with_an_inner_path_keeps_its_query_only() {
        let server = server(|query| match query {
            "n=1000" => Reply::new(200)
                .header(
                    "link",
                    "</repository/docker/v2/a/b/tags/list?last=1>; rel=\"next\"",
                )
                .body(page(1..2)),
            "last=1" => Reply::new(200).body(page(2..3)),
            _ => Reply::new(400),
        });
        assert_eq!(count(&server), 2);
    }

    #[test]
    fn a_list_cut_without_a_link_is_asked_on() {
        let server = server(|query| match query {
            "n=1000" => Reply::new(200).body(page(0..1000)),
            "n=1000&last=999" => Reply::new(200).body(page(1000..1010)),
            _ => Reply::new(400),
        });
        assert_eq!(count(&server), 1010);
        assert_eq!(server.requests().len(), 2);
    }

    #[test]
    fn a_registry_that_ignores_last_has_said_everything() {
        let server = server(|_| Reply::new(200).body(page(0..1000)));
        assert_eq!(count(&server), 1000);
        assert_eq!(server.requests().len(), 2);
    }

    #[test]
    fn n_is_left_out_where_it_is_refused() {
        let server = server(|query| match query {
            "" => Reply::new(200).body(page(0..1000)),
            _ => Reply::new(400).body(r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}"#),
        });
        assert_eq!(count(&server), 1000);
    }

    #[test]
    fn odd_entries_are_dropped() {
        let server = server(|_| {
            Reply::new(200).body(r#"{"tags":["a",null,"a","sha256:1","-x",7,"b"],"child":[{}]}"#)
        });
        let tags = server.store("a/b").tags().unwrap().unwrap();
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn no_repository_is_no_error_but_a_broken_page_is() {
        let missing = server(|_| Reply::new(404));
        assert!(missing.store("a/b").tags().unwrap().is_none());

        let next = |reply: fn() -> Reply| {
            let server = server(move |query| match query {
                "n=1000" => Reply::new(200)
                    .header("link", "<?last=1>; rel=\"next\"")
                    .body(page(1..2)),
                _ => reply(),
            });
            server.store("a/b").tags().unwrap_err()
        };
        assert_eq!(next(|| Reply::new(404)).class, Class::NotFound);
        assert_eq!(
            next(|| Reply::new(200).body(r#"{"tags":["2""#)).class,
            Class::Transient
        );
        let same = || {
            Reply::new(200)
                .header("link", "<?last=1>; rel=next")
                .body(page(2..3))
        };
        assert!(next(same).to_string().contains("does not end"));
        let old = || {
            Reply::new(200)
                .header("link", "<?last=0>; rel=next")
                .body(page(1..2))
        };
        assert!(next(old).to_string().contains("does not end"));
        let elsewhere = || {
            Reply::new(200)
                .header("link", "<https://evil.io/v2/>; rel=next")
                .body(page(2..3))
        };
        assert!(next(elsewhere).to_string().contains("another host"));
    }

    #[test]
    fn the_repositories_of_a_registry_are_listed_in_pages() {
        let server = Server::start(|seen| {
            Some(match seen.target.as_str() {
                "/v2/_catalog?n=1000" => Reply::new(200)
                    .header("link", "</v2/_catalog?last=b&n=1000>; rel=\"next\"")
                    .body(r#"{"repositories":["a/b","UPPER","../x",7]}"#),
                "/v2/_catalog?last=b&n=1000" => {
                    Reply::new(200).body(r#"{"repositories":["a/b","c"]}"#)
                }
                _ => Reply::new(500),
            })
        });
        let found = server.store("a/b").repositories().unwrap();
        let names: Vec<_> = found.iter().map(Repository::as_str).collect();
        assert_eq!(names, ["a/b", "c"]);
    }

    #[test]
    fn a_registry_that_lists_no_repositories_is_told_from_one_that_is_busy() {
        for (status, class) in [
            (401, Class::Permanent),
            (403, Class::Permanent),
            (404, Class::Permanent),
            (405, Class::Permanent),
            (500, Class::Transient),
            (503, Class::Transient),
        ] {
            let server = Server::start(move |_| Some(Reply::new(status)));
            let error = server.store("a/b").repositories().unwrap_err();
            assert_eq!(error.class, class, "{status}: {error}");
            let told = error.to_string().contains("does not list its repositories");
            assert_eq!(told, class == Class::Permanent, "{status}: {error}");
        }
    }

    #[test]
    fn what_came_in_place_of_a_list_is_not_repeated() {
        for body in [r#"{"tags":"hunter2"}"#, r#""hunter2""#, "hunter2"] {
            let server = Server::start(move |_| Some(Reply::new(200).body(body)));
            let error = server.store("a/b").tags().unwrap_err().to_string();
            assert!(
                error.contains("cannot be read") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
