//! The tags of a repository, page by page. A list is whole or an error: one that is silently shorter would make tags
//! vanish. Not here: which tags are wanted.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::client::Client;
use super::error::{Failure, RequestError};
use super::exchange::Response;
use super::request::{Method, Request};
use super::url::{Purpose, Url, Verdict};
use crate::oci::Tag;
use crate::store::StoreError;

/// All tags, each once and valid; `None` where the repository is not known (protocol.md E36).
pub(super) fn list(client: &Client) -> Result<Option<Vec<Tag>>, StoreError> {
    let mut response = ask(
        client,
        Request::new(Method::Get, own_path(client, None), client.scope()),
    )?;
    if response.status == 400 {
        // Some do not take `n` (E30).
        response.discard();
        let path = client.path("tags/list");
        response = ask(client, Request::new(Method::Get, path, client.scope()))?;
    }
    if response.status == 404 {
        response.discard();
        return Ok(None);
    }

    let mut listing = Listing::default();
    let mut asked: HashSet<Url> = HashSet::new();
    for _ in 0..MAX_PAGES {
        if response.status != 200 {
            return Err(response.refuse().into());
        }
        let endless =
            |response: &Response, how| Err(response.failed(Failure::EndlessTags(how)).into());
        if !asked.insert(response.url.clone()) {
            return endless(&response, "a page names itself as the next one");
        }
        let page = read_page(&mut response)?;
        let known = listing.tags.len();
        listing.add(&page);
        let is_new = listing.tags.len() > known;
        if listing.tags.len() > MAX_TAGS {
            return endless(&response, "over a million tags");
        }

        let link = response.headers("link").find_map(next_link);
        let request = match link {
            // An empty page may have a next one (E29), one of old tags goes in circles (E33).
            Some(_) if !is_new && !page.is_empty() => {
                return endless(&response, "a page brings no new tag");
            }
            Some(link) => Request::to(Method::Get, next(client, &response, &link)?, client.scope()),
            // Cut off without a word, perhaps: some stop at `n` and say nothing (E34).
            None if is_new && page.len() == PAGE => {
                let path = own_path(client, listing.tags.last());
                Request::new(Method::Get, path, client.scope())
            }
            None => return Ok(Some(listing.finish(client))),
        };
        response = ask(client, request)?;
    }
    Err(response
        .failed(Failure::EndlessTags("too many pages"))
        .into())
}

fn ask(client: &Client, mut request: Request<'_>) -> Result<Response, RequestError> {
    client.send(&mut request)
}

fn own_path(client: &Client, last: Option<&Tag>) -> String {
    let last = last.map_or_else(String::new, |tag| format!("&last={tag}"));
    client.path(&format!("tags/list?n={PAGE}{last}"))
}

/// Where the next page is. The path may be wrong, in front of registries whose proxies do not translate it: then the
/// query counts (E32).
fn next(client: &Client, response: &Response, link: &str) -> Result<Verdict, RequestError> {
    let mut verdict = client.judge(response, link, Purpose::Page)?;
    let path = client.path("tags/list");
    if verdict.url.path() != path {
        let query = verdict.url.query().unwrap_or_default();
        verdict.url = response
            .url
            .join(&format!("{path}?{query}"))
            .map_err(|error| response.failed(Failure::Url(error)))?;
    }
    // The question went to the registry, and the host is still the same.
    verdict.credentials = client.is_own(response);
    Ok(verdict)
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<Value>>,
}

fn read_page(response: &mut Response) -> Result<Vec<Value>, RequestError> {
    let body = response.bytes(MAX_PAGE)?;
    let page: Page =
        serde_json::from_slice(&body).map_err(|error| response.failed(Failure::Json(error)))?;
    Ok(page.tags.unwrap_or_default())
}

/// What was listed so far.
#[derive(Default)]
struct Listing {
    tags: Vec<Tag>,
    seen: HashSet<Tag>,
    dropped: usize,
}

impl Listing {
    /// Adds the entries of a page. Some are null, digests or there twice (E27).
    fn add(&mut self, page: &[Value]) {
        for entry in page {
            match entry.as_str().and_then(|text| Tag::parse(text).ok()) {
                Some(tag) if self.seen.insert(tag.clone()) => self.tags.push(tag),
                _ => self.dropped += 1,
            }
        }
    }

    fn finish(self, client: &Client) -> Vec<Tag> {
        if self.dropped > 0 {
            log::warn!(
                "{}/{}: {} entries of the tag list are no tags or there twice",
                client.registry.host,
                client.repository,
                self.dropped
            );
        }
        self.tags
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

/// Tags a page. ECR refuses more, others take less.
const PAGE: usize = 1000;
const MAX_PAGES: usize = 10_000;
const MAX_TAGS: usize = 1_000_000;
/// Bytes a page.
const MAX_PAGE: u64 = 16 << 20;
