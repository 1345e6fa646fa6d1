//! A request until its answer is final: the scheme is found out, redirects of reads are followed, a login is tried. Not
//! here: the exchanges themselves, and what is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::auth::Scope;
use super::authorise::Authorization;
use super::credentials::Credential;
use super::error::{Failure, RequestError};
use super::exchange::Response;
use super::hosts::Registry;
use super::request::{Method, Request, Target};
use super::url::{Purpose, Scheme, Url, Verdict, judge};
use crate::oci::Repository;

/// Sends requests about one repository.
pub(super) struct Client {
    pub(super) registry: Arc<Registry>,
    pub(super) repository: Repository,
    pub(super) credential: Option<Arc<Credential>>,
    /// Whether anything was written: from then on the repository's tokens are for both, so that there is one (A14).
    writes: AtomicBool,
}

impl Client {
    /// Nothing is sent yet.
    pub(super) fn new(
        registry: Arc<Registry>,
        repository: Repository,
        credential: Option<Arc<Credential>>,
    ) -> Self {
        Self {
            registry,
            repository,
            credential,
            writes: AtomicBool::new(false),
        }
    }

    /// Says that the repository is a target.
    pub(super) fn will_write(&self) {
        self.writes.store(true, Ordering::Relaxed);
    }

    /// The path of something in the repository.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// What ordinary requests need to be allowed.
    pub(super) fn scope(&self) -> Scope {
        if self.writes.load(Ordering::Relaxed) {
            Scope::push(&self.repository)
        } else {
            Scope::pull(&self.repository)
        }
    }

    /// Whether an answer came from the registry itself, not from where it led us.
    pub(super) fn is_own(&self, response: &Response) -> bool {
        let own = self.registry.url("/");
        own.is_ok_and(|own| own.origin() == response.url.origin())
    }

    /// Judges a URL that an answer names.
    pub(super) fn judge(
        &self,
        response: &Response,
        reference: &str,
        purpose: Purpose,
    ) -> Result<Verdict, RequestError> {
        let judged = self.registry.url("/").and_then(|registry| {
            let insecure = self.registry.may_be_plain();
            judge(&registry, insecure, &response.url, reference, purpose)
        });
        judged.map_err(|error| response.failed(Failure::Url(error)))
    }

    /// Sends a request and gives its answer, whatever its status. 401 is given back where signing in did not help.
    ///
    /// # Errors
    /// Where there is no answer, or one that is none: a page for people, encoded content, a write that was redirected.
    pub(super) fn send(&self, request: &mut Request<'_>) -> Result<Response, RequestError> {
        let mut first = self.probe(request)?;
        let (mut url, mut credentials) = match &request.target {
            Target::Path(path) => (self.own_url(request.method, path)?, true),
            Target::Judged(verdict) => (verdict.url.clone(), verdict.credentials),
        };
        for _ in 0..=MAX_REDIRECTS {
            let mut response = if credentials {
                self.ask(request, &url, first.take())?
            } else {
                self.exchange_twice(request, &url, None)?
            };
            if !(300..400).contains(&response.status) {
                response.check()?;
                return Ok(response);
            }
            let location = response.required_header("location")?.to_owned();
            let verdict = self.judge(&response, &location, Purpose::Redirect)?;
            if request.method.is_write() {
                // 307 and 308 keep method and body; with another origin or a body that is gone, nothing was written
                // and nothing may pretend that it was (E7, H27, H28).
                let repeats = matches!(response.status, 307 | 308)
                    && verdict.url.origin() == response.url.origin()
                    && request.body.is_untouched();
                if !repeats {
                    return Err(response.failed(Failure::Redirected {
                        status: response.status,
                        location: verdict.url.to_string(),
                    }));
                }
            }
            response.discard();
            Verdict { url, credentials } = verdict;
        }
        Err(request.failed(&url, Failure::TooManyRedirects))
    }

    /// One request with the registry's login, signing in as often as it makes sense (A10, A11).
    fn ask(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        first: Option<Response>,
    ) -> Result<Response, RequestError> {
        let mut round = self.first_round(request, url)?;
        let mut response = match first {
            // What the probe got without a login, if nothing else could have been sent.
            Some(response) => response,
            None => self.exchange_in(request, url, round.authorization.as_ref())?,
        };
        for _ in 0..MAX_ROUNDS {
            if response.status == 417 && request.body.is_untouched() && self.registry.heeds_expect()
            {
                self.registry.forgo_expect(); // N32
            } else if response.status == 401 && request.method != Method::Delete {
                let Some(next) = self.next_round(round, request, &response)? else {
                    return Ok(response);
                };
                round = next;
                if !request.body.is_untouched() {
                    return Err(response.failed(Failure::LoginRenewed));
                }
            } else {
                return Ok(response);
            }
            response.discard();
            response = self.exchange_in(request, url, round.authorization.as_ref())?;
        }
        Ok(response)
    }

    /// Finds out the scheme of a registry that may speak plain http: the first request goes without a login, to https,
    /// and to http only where nothing listens or what listens is not TLS (decisions D8). Gives the answer of that
    /// request, and nothing where the scheme is known.
    fn probe(&self, request: &mut Request<'_>) -> Result<Option<Response>, RequestError> {
        let Target::Path(path) = &request.target else {
            return Ok(None);
        };
        if self.registry.scheme().is_some() {
            return Ok(None);
        }
        let _others_wait = self.registry.probe();
        if self.registry.scheme().is_some() {
            return Ok(None);
        }
        let https = self.own_url(request.method, path)?;
        let in_the_clear = |error| request.failed(&https, Failure::Url(error));
        let http =
            Url::new(Scheme::Http, self.registry.host.authority(), path).map_err(in_the_clear)?;
        let (scheme, response) = match self.exchange_twice(request, &https, None) {
            Err(error) if error.suggests_plain_http() => {
                (Scheme::Http, self.exchange_twice(request, &http, None)?)
            }
            result => (Scheme::Https, result?),
        };
        self.registry.settle_scheme(scheme);
        Ok(Some(response))
    }

    fn own_url(&self, method: Method, path: &str) -> Result<Url, RequestError> {
        self.registry.url(path).map_err(|error| RequestError {
            method,
            url: path.to_owned(),
            failure: Failure::Url(error),
        })
    }

    /// One exchange, and a second one at once where the connection died before there was an answer: a kept connection
    /// may be closed by the server in the moment that we take it (N30). Not where the request is not to be repeated.
    pub(super) fn exchange_twice(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RequestError> {
        match self.exchange(request, url, authorization) {
            Err(error) if error.is_closed() && request.is_repeatable() => {
                self.exchange(request, url, authorization)
            }
            result => result,
        }
    }
}

const MAX_REDIRECTS: usize = 5;
/// A request without a login, one with a stale token, one with a fresh one, one with a wider one.
const MAX_ROUNDS: usize = 4;
