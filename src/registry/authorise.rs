//! Signing in: what a host demands, learned from its first challenge and kept for all of its repositories, and the
//! passwords and tokens that meet it. Not here: parsing of challenges and tokens (`auth.rs`), what passwords there
//! are (`credentials.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::auth::{
    Challenge, Scope, Token, TokenCache, TokenKey, choose, parse_challenges, parse_token, token_url,
};
use super::client::Client;
use super::credentials::Credential;
use super::error::{Failure, Login, RequestError};
use super::exchange::{MAX_ERROR, Response};
use super::hosts::lock;
use super::request::{Method, Request};
use super::url::{Purpose, Url, Verdict};
use crate::secret::Secret;

/// What is known of signing in at one host.
#[derive(Default)]
pub(super) struct SignIn {
    demand: Mutex<Option<Demand>>,
    tokens: TokenCache,
    trust: Mutex<HashMap<u64, Arc<Mutex<Trust>>>>,
}

/// What a host wants with a request.
#[derive(Clone, PartialEq, Eq)]
enum Demand {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// What a host made of a password so far.
enum Trust {
    /// Not accepted yet, and refused so many times.
    Untried(u8),
    Accepted,
    Refused,
}

/// What goes into the Authorization header.
pub(super) struct Authorization {
    header: Secret,
    /// The token, and whether it was got for this very request; a password otherwise.
    token: Option<(Secret, Freshness)>,
    /// The password that it was made of.
    password: Option<Secret>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Kept,
    New,
}

impl Authorization {
    fn basic(credential: &Credential) -> Result<Self, Failure> {
        Ok(Self {
            header: credential.basic().map_err(Failure::Credential)?,
            token: None,
            password: Some(credential.password.clone()),
        })
    }

    fn bearer(token: Secret, freshness: Freshness) -> Self {
        Self {
            header: Secret::new(format!("Bearer {}", token.expose())),
            token: Some((token, freshness)),
            password: None,
        }
    }

    /// The header's value.
    pub(super) fn header(&self) -> &Secret {
        &self.header
    }

    /// What may not be seen, should the answer repeat it.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let value = self
            .header
            .expose()
            .split_once(' ')
            .map_or("", |(_, value)| value);
        let mut secrets = vec![Secret::new(value.to_owned())];
        secrets.extend(self.password.clone());
        secrets
    }
}

/// One try of a request: what it is sent with, and what was demanded for it.
pub(super) struct Round {
    pub(super) authorization: Option<Authorization>,
    demand: Option<Demand>,
    scope: Scope,
    is_widened: bool,
}

impl Client {
    /// What the first try is sent with: what the host demanded of earlier requests.
    pub(super) fn first_round(
        &self,
        request: &Request<'_>,
        url: &Url,
    ) -> Result<Round, RequestError> {
        let scope = request.scope.clone();
        let demand = lock(&self.registry.sign_in.demand).clone();
        let authorization = match &demand {
            Some(demand) => self.meet(demand, &scope, None, &|failure| {
                request.failed(url, failure)
            })?,
            None => None,
        };
        Ok(Round {
            authorization,
            demand,
            scope,
            is_widened: false,
        })
    }

    /// What to try next after a 401, if there is anything that was not tried.
    pub(super) fn next_round(
        &self,
        last: Round,
        request: &Request<'_>,
        response: &Response,
    ) -> Result<Option<Round>, RequestError> {
        // Some say only at /v2/ what they want (E10). Those that never do are taken to want a password (A2).
        let challenge = match challenge_of(response) {
            Some(challenge) => challenge,
            None if request.is_optional => return Ok(None),
            None => self.ping().unwrap_or(Challenge::Basic),
        };
        let (demand, wanted) = match challenge {
            Challenge::Basic => (Demand::Basic, Vec::new()),
            Challenge::Bearer {
                realm,
                service,
                scopes,
                ..
            } => {
                let realm = self.judge(response, &realm, Purpose::Realm)?.url;
                (Demand::Bearer { realm, service }, scopes)
            }
        };
        *lock(&self.registry.sign_in.demand) = Some(demand.clone());

        let Round {
            authorization,
            demand: demanded,
            mut scope,
            mut is_widened,
        } = last;
        let sent = authorization.filter(|_| demanded.as_ref() == Some(&demand));
        let refused = match sent.map(|sent| sent.token) {
            // The password is refused.
            Some(None) => return Ok(None),
            // So is a token got for this very request: nothing but a wider scope can help, and that once (A10).
            Some(Some((token, Freshness::New))) => {
                let wider = scope.union(&wanted);
                if is_widened || wider == scope {
                    return Ok(None);
                }
                scope = wider;
                is_widened = true;
                Some(token)
            }
            Some(Some((token, Freshness::Kept))) => Some(token),
            None => None,
        };
        let failed = |failure| response.failed(failure);
        let authorization = self.meet(&demand, &scope, refused.as_ref(), &failed)?;
        // Without a password there is nothing that meets a demand for one.
        Ok(authorization.map(|authorization| Round {
            authorization: Some(authorization),
            demand: Some(demand),
            scope,
            is_widened,
        }))
    }

    fn meet(
        &self,
        demand: &Demand,
        scope: &Scope,
        refused: Option<&Secret>,
        failed: &dyn Fn(Failure) -> RequestError,
    ) -> Result<Option<Authorization>, RequestError> {
        match (demand, self.credential.as_deref()) {
            (Demand::Basic, None) => Ok(None),
            (Demand::Basic, Some(credential)) => {
                Authorization::basic(credential).map(Some).map_err(failed)
            }
            (Demand::Bearer { realm, service }, _) => self
                .token(realm, service.as_deref(), scope, refused)
                .map(Some),
        }
    }

    /// Sends a request in a round. One with a password that the host has not accepted yet goes alone, so that a wrong
    /// one is not sent by every thread: accounts are locked for that (H05, decisions D7).
    pub(super) fn exchange_in(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RequestError> {
        match (authorization, &self.credential) {
            (Some(basic), Some(credential)) if basic.token.is_none() => {
                self.with_password(credential, request, url, basic, |status| status == 401)
            }
            _ => self.exchange_twice(request, url, authorization),
        }
    }

    fn with_password(
        &self,
        credential: &Credential,
        request: &mut Request<'_>,
        url: &Url,
        basic: &Authorization,
        is_refused: fn(u16) -> bool,
    ) -> Result<Response, RequestError> {
        let trust = lock(&self.registry.sign_in.trust)
            .entry(credential.id)
            .or_insert_with(|| Arc::new(Mutex::new(Trust::Untried(0))))
            .clone();
        let mut trust = lock(&trust);
        let refusals = match *trust {
            Trust::Accepted => {
                drop(trust);
                return self.exchange_twice(request, url, Some(basic));
            }
            Trust::Refused => {
                let login = Login::Entry(credential.origin.clone());
                return Err(request.failed(url, Failure::LoginRefused(login)));
            }
            Trust::Untried(refusals) => refusals,
        };
        let response = self.exchange_twice(request, url, Some(basic))?;
        if is_refused(response.status) {
            // One repository may be denied where the password is right, three in a row are a wrong password.
            *trust = if refusals + 1 < MAX_REFUSALS {
                Trust::Untried(refusals + 1)
            } else {
                Trust::Refused
            };
        } else if response.status < 500 && response.status != 429 {
            *trust = Trust::Accepted;
        }
        Ok(response)
    }

    fn token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scope: &Scope,
        refused: Option<&Secret>,
    ) -> Result<Authorization, RequestError> {
        let url = token_url(realm, service, scope);
        let key = TokenKey {
            realm: realm.clone(),
            service: service.map(str::to_owned),
            credential: self.credential.as_ref().map(|credential| credential.id),
            scope: scope.clone(),
        };
        let mut freshness = Freshness::Kept;
        let token = self
            .registry
            .sign_in
            .tokens
            .get_or_fetch(key, refused, || {
                freshness = Freshness::New;
                self.fetch_token(&url, scope)
            })?;
        Ok(Authorization::bearer(token, freshness))
    }

    /// Asks the token service. Redirects are refused: the request carries the password (H06).
    fn fetch_token(&self, url: &Url, scope: &Scope) -> Result<Token, RequestError> {
        let started = Instant::now();
        let verdict = Verdict {
            url: url.clone(),
            credentials: true,
        };
        let mut request = Request::to(Method::Get, verdict, scope.clone());
        let mut response = match &self.credential {
            Some(credential) => {
                let basic = Authorization::basic(credential)
                    .map_err(|failure| request.failed(url, failure))?;
                // Token services say 403 to a wrong password as well as to a missing repository (A16).
                let is_refused = |status| matches!(status, 401 | 403);
                self.with_password(credential, &mut request, url, &basic, is_refused)?
            }
            None => self.exchange_twice(&mut request, url, None)?,
        };
        if response.status != 200 {
            return Err(response.refuse());
        }
        let body = response.bytes(MAX_ERROR)?;
        parse_token(&body, started).map_err(|error| response.failed(Failure::Token(error)))
    }

    fn ping(&self) -> Option<Challenge> {
        let url = self.registry.url("/v2/").ok()?;
        let mut request = Request::new(Method::Get, "/v2/".to_owned(), self.scope());
        let mut response = self.exchange_twice(&mut request, &url, None).ok()?;
        response.discard();
        challenge_of(&response)
    }
}

fn challenge_of(response: &Response) -> Option<Challenge> {
    choose(parse_challenges(response.headers("www-authenticate")))
}

const MAX_REFUSALS: u8 = 3;
