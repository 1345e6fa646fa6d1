//! Lists that come page by page: the tags of a repository, the repositories of a registry. A list is whole or an error:
//! one that is silently shorter would make images vanish. Not here: which of them are wanted.

use std::collections::HashSet;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::auth::Scope;
use super::client::Client;
use super::error::{Failure, RequestError};
use super::exchange::Response;
use super::request::{Method, Request};
use super::url::{Purpose, Url};
use crate::oci::{Repository, Tag};
use crate::store::{Class, StoreError};

/// All tags, each once and valid; `None` where the repository is not known (protocol.md E36).
pub(super) fn list(client: &Client) -> Result<Option<Vec<Tag>>, StoreError> {
    let names = List::of_tags(client).read(client)?;
    Ok(names.map(|names| names.iter().flat_map(|name| Tag::parse(name)).collect()))
}

/// The valid tags of the first page; `None` where the repository is not known.
pub(super) fn first_page(client: &Client) -> Result<Option<Vec<Tag>>, StoreError> {
    let list = List::of_tags(client);
    let Some((mut response, _)) = list.open(client)? else {
        return Ok(None);
    };
    if response.status != 200 {
        return Err(response.refuse().into());
    }
    let mut names = Names::new(list.is_valid);
    read_page(&mut response, &mut names)?;
    let tags = names.list.iter().flat_map(|name| Tag::parse(name));
    Ok(Some(tags.collect()))
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
    fn of_tags(client: &Client) -> Self {
        Self {
            path: client.path("tags/list"),
            scope: client.scope(),
            is_valid: |name| Tag::parse(name).is_ok(),
        }
    }

    /// The answer with the first page, and whether it was asked for by its length; `None` where there is no such list.
    fn open(&self, client: &Client) -> Result<Option<(Response, bool)>, RequestError> {
        let mut takes_n = true;
        let mut response = client.send(&mut self.own_page(None))?;
        if response.status == 400 {
            // Some do not take `n` (E30).
            takes_n = false;
            response.discard();
            let path = self.path.clone();
            response = client.send(&mut Request::new(Method::Get, path, self.scope.clone()))?;
        }
        if response.status == 404 {
            response.discard();
            return Ok(None);
        }
        Ok(Some((response, takes_n)))
    }

    /// All names, each once and valid; `None` where there is no such list.
    fn read(&self, client: &Client) -> Result<Option<Vec<String>>, StoreError> {
        let Some((mut response, takes_n)) = self.open(client)? else {
            return Ok(None);
        };
        let mut names = Names::new(self.is_valid);
        let mut pages = Pages::default();
        loop {
            if response.status != 200 {
                return Err(response.refuse().into());
            }
            pages.enter(&response)?;
            let known = names.list.len();
            let entries = read_page(&mut response, &mut names)?;
            let is_new = names.list.len() > known;
            let endless = |how| Err(response.failed(Failure::EndlessList(how)).into());
            if names.list.len() > MAX_NAMES {
                return endless("over a million names");
            }
            let mut request = match next_page(client, &response, &self.path, &self.scope)? {
                // An empty page may have a next one (E29), one of old names goes in circles (E33).
                Some(_) if !is_new && entries > 0 => return endless("a page brings nothing new"),
                Some(next) => next,
                // Cut off without a word, perhaps: some stop at `n` and say nothing (E34).
                None if takes_n && is_new && entries == PAGE => {
                    self.own_page(names.list.last().map(String::as_str))
                }
                None => return Ok(Some(names.finish(client, &self.path))),
            };
            response = client.send(&mut request)?;
        }
    }

    fn own_page(&self, last: Option<&str>) -> Request<'static> {
        let last = last.map_or_else(String::new, |name| format!("&last={name}"));
        let path = format!("{}?n={PAGE}{last}", self.path);
        Request::new(Method::Get, path, self.scope.clone())
    }
}

/// The pages of a list: none comes twice (E33), and they have an end.
#[derive(Default)]
pub(super) struct Pages(HashSet<Url>);

impl Pages {
    pub(super) fn enter(&mut self, page: &Response) -> Result<(), RequestError> {
        let how = if !self.0.insert(page.url.clone()) {
            "a page names itself as the next one"
        } else if self.0.len() > MAX_PAGES {
            "too many pages"
        } else {
            return Ok(());
        };
        Err(page.failed(Failure::EndlessList(how)))
    }
}

/// Asks for the page after this one, if there is one. Its path may be wrong, in front of registries whose proxies do not
/// translate it: then the query counts (E32).
pub(super) fn next_page(
    client: &Client,
    response: &Response,
    path: &str,
    scope: &Scope,
) -> Result<Option<Request<'static>>, RequestError> {
    let Some(link) = response.headers("link").find_map(next_link) else {
        return Ok(None);
    };
    let mut verdict = client.judge(response, &link, Purpose::Page)?;
    if verdict.url.path() != path {
        let query = verdict.url.query().unwrap_or_default();
        verdict.url = response
            .url
            .join(&format!("{path}?{query}"))
            .map_err(|error| response.failed(Failure::Url(error)))?;
    }
    Ok(Some(Request::to(Method::Get, verdict, scope.clone())))
}

/// Adds the names of a page, and gives the number of its entries.
fn read_page(response: &mut Response, names: &mut Names) -> Result<usize, RequestError> {
    let body = response.bytes(MAX_PAGE)?;
    let before = names.entries;
    let page: Result<Page<'_>, _> = serde_json::from_slice(&body);
    let read = page.and_then(|page| match page.names {
        Some(list) => serde_json::Deserializer::from_str(list.get()).deserialize_seq(&mut *names),
        None => Ok(()),
    });
    read.map_err(|error| response.failed(Failure::Json(error)))?;
    Ok(names.entries - before)
}

/// A page; with `null` for a list it has no names.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, alias = "tags", alias = "repositories")]
    names: Option<&'a RawValue>,
}

/// Takes an entry at a time: a page of anything but names has millions in few bytes (S10).
impl<'de> Visitor<'de> for &mut Names {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of names")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        // Some are null, or objects (E27).
        while let Some(entry) = list.next_element::<&RawValue>()? {
            self.add(serde_json::from_str(entry.get()).ok());
        }
        Ok(())
    }
}

/// What was listed so far.
struct Names {
    is_valid: fn(&str) -> bool,
    list: Vec<String>,
    seen: HashSet<String>,
    /// How many there were, those that are no names or were there before among them.
    entries: usize,
}

impl Names {
    fn new(is_valid: fn(&str) -> bool) -> Self {
        Self {
            is_valid,
            list: Vec::new(),
            seen: HashSet::new(),
            entries: 0,
        }
    }

    /// Adds an entry, if it is a name and not there yet. Nobody wants more than there may be.
    fn add(&mut self, entry: Option<String>) {
        self.entries += 1;
        if let Some(name) = entry.filter(|text| (self.is_valid)(text))
            && self.list.len() <= MAX_NAMES
            && self.seen.insert(name.clone())
        {
            self.list.push(name);
        }
    }

    fn finish(self, client: &Client, path: &str) -> Vec<String> {
        let dropped = self.entries - self.list.len();
        if dropped > 0 {
            log::warn!(
                "{}{path}: {} entries of the list are no names or there twice",
                client.registry.host,
                dropped
            );
        }
        self.list
    }
}

/// The target of `rel="next"` in a Link header (RFC 8288).
fn next_link(header: &[u8]) -> Option<String> {
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
const MAX_PAGES: usize = 10_000;
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
