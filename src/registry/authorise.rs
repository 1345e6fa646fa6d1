//! Signing in: what a host demands, learned from its first challenge and kept for all of its repositories, and the
//! passwords and tokens that meet it. Not here: parsing of challenges and tokens (`auth.rs`), what passwords there
//! are (`credentials.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use super::auth::{
    Challenge, Scope, Token, TokenCache, TokenKey, assertion_form, choose, parse_challenges,
    parse_token, refresh_form, token_url,
};
use super::client::Client;
use super::credentials::{Credential, CredentialError, Problem, Proof};
use super::error::{Failure, Login, RequestError};
use super::exchange::{MAX_ERROR, Response};
use super::google::{KeyError, ServiceKey, TOKEN_USER};
use super::hosts::{Registry, lock};
use super::request::{Method, Request};
use super::url::{Purpose, Url, Verdict, judge};
use crate::oci::{Host, Repository};
use crate::secret::Secret;

/// What is known of signing in at one host.
#[derive(Default)]
pub(super) struct SignIn {
    demand: Mutex<Option<Demand>>,
    tokens: TokenCache,
    trust: Mutex<HashMap<u64, Arc<Mutex<Trust>>>>,
    /// Where the logins were from that the log has told of.
    told: Mutex<HashSet<Option<String>>>,
}

impl SignIn {
    /// Tells once where the login for a host is from.
    fn tell(&self, host: &Host, credential: Option<&Credential>) {
        let origin = credential.map(|credential| credential.origin.clone());
        if lock(&self.told).insert(origin) {
            log::info!("{host}: {}", words(credential));
        }
    }

    fn is_wanted(&self) -> bool {
        !lock(&self.told).is_empty()
    }
}

fn words(credential: Option<&Credential>) -> String {
    match credential {
        Some(credential) => format!("the login is that of {}", credential.origin),
        None => "there is no login, it is asked without one".to_owned(),
    }
}

/// What a host wants with a request.
#[derive(Clone, PartialEq, Eq)]
enum Demand {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// What a host made of a login so far.
#[derive(Default)]
struct Trust {
    is_accepted: bool,
    /// How often it was refused, by the repository that it was sent for.
    refusals: HashMap<Repository, u32>,
}

impl Trust {
    /// Whether it is sent no more for a repository. One may be denied where the login is right; as long as nothing says
    /// that it is, all refusals count.
    fn is_used_up(&self, repository: &Repository) -> bool {
        let counts = |other| !self.is_accepted || other == repository;
        let refusals = self.refusals.iter().filter(|(other, _)| counts(*other));
        refusals.map(|(_, count)| count).sum::<u32>() >= MAX_REFUSALS
    }
}

/// What a request shows of us.
pub(super) enum Authorization {
    /// The login itself, with a header unless it is in the body.
    Login(Arc<Credential>, Option<Secret>),
    /// A token.
    Token {
        token: Secret,
        /// It was got for this very request.
        is_new: bool,
        /// What it was got with; `None`: anybody may have it.
        credential: Option<Arc<Credential>>,
    },
}

impl Authorization {
    fn of(credential: &Arc<Credential>) -> Result<Self, Failure> {
        let header = credential.header().map_err(Failure::Credential)?;
        Ok(Self::Login(credential.clone(), Some(header)))
    }

    /// The value of the Authorization header, if there is to be one.
    pub(super) fn header(&self) -> Option<Secret> {
        match self {
            Self::Login(_, header) => header.clone(),
            Self::Token { token, .. } => Some(Secret::new(format!("Bearer {}", token.expose()))),
        }
    }

    /// Whose request it is, for messages.
    pub(super) fn login(&self) -> Login {
        match self {
            Self::Login(known, _)
            | Self::Token {
                credential: Some(known),
                ..
            } => Login::Entry(known.origin.clone()),
            Self::Token {
                credential: None, ..
            } => Login::Anonymous,
        }
    }

    /// What may not be seen, should the answer repeat it.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        match self {
            Self::Login(known, _) => known.secrets(),
            Self::Token {
                token, credential, ..
            } => {
                let of_login = credential.iter().flat_map(|known| known.secrets());
                of_login.chain([token.clone()]).collect()
            }
        }
    }
}

/// One try of a request: what it is sent with, and what was demanded for it.
pub(super) struct Round {
    pub(super) authorization: Option<Authorization>,
    demand: Option<Demand>,
    scope: Scope,
    is_widened: bool,
    is_renewed: bool,
}

impl Round {
    /// A try without a login.
    pub(super) fn anonymous(request: &Request<'_>) -> Self {
        Self {
            authorization: None,
            demand: None,
            scope: request.scope.clone(),
            is_widened: false,
            is_renewed: false,
        }
    }
}

impl Client {
    /// What the first try is sent with: what the host demanded of earlier requests.
    pub(super) fn first_round(
        &self,
        request: &Request<'_>,
        url: &Url,
    ) -> Result<Round, RequestError> {
        let demand = lock(&self.registry.sign_in.demand).clone();
        let failed = |failure| request.failed(url, failure);
        let authorization = match &demand {
            Some(demand) => self.meet(demand, &request.scope, None, &failed)?,
            None => None,
        };
        Ok(Round {
            authorization,
            demand,
            ..Round::anonymous(request)
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
            None if request.is_optional => return Ok(None),
            challenge => match challenge.or_else(|| challenge_of(&self.ping().ok()?)) {
                Some(challenge) => challenge,
                None if last.demand.is_some() => return Ok(None),
                None => Challenge::Basic,
            },
        };
        let (demand, wanted, is_invalid) = match challenge {
            Challenge::Basic => (Demand::Basic, Vec::new(), false),
            Challenge::Bearer {
                realm,
                service,
                scopes,
                error,
            } => {
                let realm = self.judge(response, &realm, Purpose::Realm)?.url;
                let is_invalid = error.as_deref() == Some("invalid_token");
                (Demand::Bearer { realm, service }, scopes, is_invalid)
            }
        };

        let Round {
            authorization,
            demand: demanded,
            mut scope,
            mut is_widened,
            mut is_renewed,
        } = last;
        let sent = authorization.filter(|_| demanded.as_ref() == Some(&demand));
        let refused = match sent {
            // The login itself is refused, unless there is another one by now: its file may have been written anew.
            Some(Authorization::Login(login, _)) if !is_renewed && self.has_changed(login.id) => {
                is_renewed = true;
                None
            }
            Some(Authorization::Login(..)) => return Ok(None),
            // So is a token got for this very request: nothing but a wider scope can help, and that once (A10), or
            // another token where this one died before it was used (H02).
            Some(Authorization::Token {
                token,
                is_new: true,
                ..
            }) => {
                let wider = scope.union(&wanted);
                if !is_widened && wider != scope {
                    scope = wider;
                    is_widened = true;
                } else if !is_invalid {
                    return Ok(None);
                } else if is_renewed {
                    return Err(response.failed(Failure::TokensInvalid));
                } else {
                    is_renewed = true;
                }
                Some(token)
            }
            Some(Authorization::Token { token, .. }) => Some(token),
            None => None,
        };
        let failed = |failure| response.failed(failure);
        let authorization = self.meet(&demand, &scope, refused.as_ref(), &failed)?;
        // Only now: one backend of many may name a token service that is none, and all later requests would go there.
        *lock(&self.registry.sign_in.demand) = Some(demand.clone());
        // Without a password there is nothing that meets a demand for one.
        Ok(authorization.map(|authorization| Round {
            authorization: Some(authorization),
            demand: Some(demand),
            scope,
            is_widened,
            is_renewed,
        }))
    }

    /// Whether there is another login than this one by now.
    fn has_changed(&self, id: u64) -> bool {
        let now = self.credential().ok().flatten();
        now.is_some_and(|credential| credential.id != id)
    }

    fn meet(
        &self,
        demand: &Demand,
        scope: &Scope,
        refused: Option<&Secret>,
        failed: &dyn Fn(Failure) -> RequestError,
    ) -> Result<Option<Authorization>, RequestError> {
        let known = self
            .credential()
            .map_err(|error| failed(Failure::Credential(error)))?;
        let credential = match &known {
            Some(account) if let Some(key) = account.proof.service_key() => {
                Some(self.access_token(account, key, failed)?)
            }
            known => known.clone(),
        };
        match (demand, &credential) {
            (_, Some(known)) if known.is_token() || *demand == Demand::Basic => {
                Authorization::of(known).map(Some).map_err(failed)
            }
            (Demand::Basic, _) => Ok(None),
            (Demand::Bearer { realm, service }, known) => {
                let token = self.token(realm, service.as_deref(), scope, known.as_ref(), refused);
                match (token, known) {
                    // There may be another login by now, as where the registry itself refuses one.
                    (Err(error), Some(known))
                        if error.refusal().is_some() && self.has_changed(known.id) =>
                    {
                        self.meet(demand, scope, refused, failed)
                    }
                    (token, _) => token.map(Some),
                }
            }
        }
    }

    /// The login for the repository, if there is one: the first time that it is needed, it is looked for.
    fn credential(&self) -> Result<Option<Arc<Credential>>, CredentialError> {
        let logins = self.sources.iter().map(|source| source.login().transpose());
        let credential = logins.flatten().next().transpose()?;
        let Registry { host, sign_in, .. } = &*self.registry;
        sign_in.tell(host, credential.as_deref());
        Ok(credential)
    }

    /// Where the login is from, in words, once the host has asked for one. One that cannot be had is told by the requests
    /// that want it.
    pub(super) fn login_in_words(&self) -> Option<String> {
        if !self.registry.sign_in.is_wanted() {
            return None;
        }
        let credential = self.credential().ok()?;
        Some(words(credential.as_deref()))
    }

    /// The login that a service account has for now: a token that is got by its key, and renewed before its end.
    fn access_token(
        &self,
        account: &Credential,
        key: &Secret,
        failed: &dyn Fn(Failure) -> RequestError,
    ) -> Result<Arc<Credential>, RequestError> {
        let login = |proof| {
            Arc::new(Credential {
                id: account.id,
                proof,
                origin: account.origin.clone(),
            })
        };
        let wrong = |error| {
            failed(Failure::Credential(CredentialError {
                origin: account.origin.clone(),
                what: Problem::Key(error),
            }))
        };
        let key = ServiceKey::parse(key).map_err(wrong)?;
        let own = self.registry.url("/");
        let own = own.map_err(|error| failed(Failure::Url(error)))?;
        // Who wrote the key need not be who uses it: what it names is judged as if the registry had named it.
        let insecure = self.registry.may_be_plain();
        let url = judge(&own, insecure, &own, &key.token_uri, Purpose::Realm)
            .map_err(|error| wrong(KeyError::TokenUri(error)))?
            .url;
        let token_key = TokenKey {
            realm: url.clone(),
            service: None,
            credential: Some(account.id),
            scope: None,
        };
        let tokens = &self.registry.sign_in.tokens;
        let token = tokens.get_or_fetch(token_key, None, || {
            let started = Instant::now();
            let assertion = key.assertion(SystemTime::now()).map_err(wrong)?;
            let form = assertion_form(&assertion);
            let login = login(Proof::Bearer(assertion));
            self.post_form(&url, &form, &login)
                .and_then(|response| read_token(response, started))
        })?;
        Ok(login(Proof::Password(TOKEN_USER.to_owned(), token)))
    }

    /// Sends a login to a token service in a form.
    fn post_form(
        &self,
        url: &Url,
        form: &Secret,
        login: &Arc<Credential>,
    ) -> Result<Response, RequestError> {
        let mut request = self
            .token_request(Method::Post, url)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .bytes(form.expose().as_bytes());
        let authorization = Authorization::Login(login.clone(), None);
        // 400 is what OAuth2 has for a token that is not known (RFC 6749, 5.2), 403 as below.
        let is_refused = |status| matches!(status, 400 | 401 | 403);
        self.with_login(&mut request, url, (&authorization, login), is_refused)
    }

    fn token_request<'a>(&self, method: Method, url: &Url) -> Request<'a> {
        let verdict = Verdict {
            url: url.clone(),
            credentials: true,
        };
        Request::to(method, verdict, self.scope())
    }

    /// Sends a request in a round. One with a password that the host has not accepted yet goes alone, so that a wrong
    /// one is not sent by every thread: accounts are locked for that (H05, decisions D7).
    pub(super) fn exchange_in(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RequestError> {
        match authorization {
            Some(login @ Authorization::Login(credential, _)) => {
                self.with_login(request, url, (login, credential), |status| status == 401)
            }
            _ => self.exchange_twice(request, url, authorization),
        }
    }

    fn with_login(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        (authorization, credential): (&Authorization, &Credential),
        is_refused: fn(u16) -> bool,
    ) -> Result<Response, RequestError> {
        let trust = lock(&self.registry.sign_in.trust)
            .entry(credential.id)
            .or_default()
            .clone();
        let known = lock(&trust);
        if known.is_used_up(&self.repository) {
            return Err(request.failed(url, Failure::LoginRefused(authorization.login())));
        }
        let alone = (!known.is_accepted).then_some(known);
        let was_accepted = alone.is_none();
        let response = self.exchange_twice(request, url, Some(authorization))?;
        let is_refused = is_refused(response.status);
        if is_refused && was_accepted {
            // Those of clouds live for hours (A27).
            let sources = self.sources.iter();
            sources.for_each(|source| source.replace(credential.id));
        }
        // These are refused for other reasons as well (E38, E55, E58).
        let may_be = request.is_optional || matches!(request.method, Method::Head | Method::Delete);
        let mut known = alone.unwrap_or_else(|| lock(&trust));
        if !is_refused {
            known.is_accepted |= response.status < 500 && response.status != 429;
        } else if !(was_accepted && may_be) {
            *known.refusals.entry(self.repository.clone()).or_default() += 1;
        }
        Ok(response)
    }

    fn token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scope: &Scope,
        credential: Option<&Arc<Credential>>,
        refused: Option<&Secret>,
    ) -> Result<Authorization, RequestError> {
        let key = TokenKey {
            realm: realm.clone(),
            service: service.map(str::to_owned),
            credential: credential.map(|credential| credential.id),
            scope: Some(scope.clone()),
        };
        let mut is_new = false;
        let token = self
            .registry
            .sign_in
            .tokens
            .get_or_fetch(key, refused, || {
                is_new = true;
                self.fetch_token(realm, service, scope, credential)
            })?;
        Ok(Authorization::Token {
            token,
            is_new,
            credential: credential.cloned(),
        })
    }

    /// Asks the token service. Redirects are refused: the request carries the login (H06).
    fn fetch_token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scope: &Scope,
        credential: Option<&Arc<Credential>>,
    ) -> Result<Token, RequestError> {
        let started = Instant::now();
        let by_get = token_url(realm, service, scope);
        let mut request = self.token_request(Method::Get, &by_get);
        let response = match credential {
            Some(known) if let Proof::IdentityToken(token) = &known.proof => {
                self.post_form(realm, &refresh_form(token, service, scope), known)?
            }
            Some(known) => {
                let login =
                    Authorization::of(known).map_err(|failure| request.failed(&by_get, failure))?;
                // Token services say 403 to a wrong password as well as to a missing repository (A16).
                let is_refused = |status| matches!(status, 401 | 403);
                self.with_login(&mut request, &by_get, (&login, known), is_refused)?
            }
            None => self.exchange_twice(&mut request, &by_get, None)?,
        };
        read_token(response, started)
    }
}

fn read_token(mut response: Response, started: Instant) -> Result<Token, RequestError> {
    if response.status != 200 {
        return Err(response.refuse());
    }
    let body = response.bytes(MAX_ERROR)?;
    parse_token(&body, started).map_err(|error| response.failed(Failure::Token(error)))
}

fn challenge_of(response: &Response) -> Option<Challenge> {
    choose(parse_challenges(response.headers("www-authenticate")))
}

const MAX_REFUSALS: u32 = 3;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, OnceLock};
    use std::thread;

    use serde_json::json;

    use super::super::credentials::Given;
    use super::super::testing::{Reply, Seen, Server};
    use super::*;
    use crate::oci::{Digest, Reference, Repository, Tag};
    use crate::store::{Class, Examine, Presence, StoreError, Target};

    const BASIC: &str = "Basic dTpw"; // u:p

    fn ask(store: &dyn Target) -> Result<bool, StoreError> {
        let found = store.head(&Reference::Tag(Tag::parse("v1").unwrap()))?;
        Ok(matches!(found, Presence::Present(..)))
    }

    fn found() -> Reply {
        Reply::new(200).header(
            "docker-content-digest",
            Digest::of(crate::oci::Algorithm::Sha256, b""),
        )
    }

    fn bearer(seen: &Seen, rest: &str) -> Reply {
        let host = seen.header("host").unwrap();
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"{rest}");
        Reply::new(401).header("www-authenticate", challenge)
    }

    fn repositories(server: &Server, password: Option<&str>) -> [Arc<dyn Examine>; 2] {
        let registries = server.registries(password);
        ["a/b", "c"].map(|name| registries.store(&server.host, &Repository::parse(name).unwrap()))
    }

    #[test]
    fn basic_is_learned_once_a_host_and_never_sent_unasked() {
        let server = Server::start(|seen| {
            Some(match seen.header("authorization") {
                Some(BASIC) => found(),
                _ => Reply::new(401).header("www-authenticate", "basic"),
            })
        });
        for store in repositories(&server, Some("p")) {
            assert!(ask(&*store).unwrap());
        }
        let logins: Vec<bool> = server
            .seen()
            .iter()
            .map(|seen| seen.header("authorization").is_some())
            .collect();
        assert_eq!(logins, [false, true, true]);
    }

    #[test]
    fn tokens_are_got_for_what_is_done_and_without_a_401_the_second_time() {
        let server = Server::start(|seen| {
            Some(
                match (
                    seen.target.starts_with("/token"),
                    seen.header("authorization"),
                ) {
                    (true, Some(BASIC)) => Reply::new(200).body(r#"{"access_token":"t"}"#),
                    (true, _) => Reply::new(401),
                    (false, Some("Bearer t")) => found(),
                    _ => bearer(seen, ",scope=\"*\""),
                },
            )
        });
        for store in repositories(&server, Some("p")) {
            assert!(ask(&*store).unwrap());
            assert!(ask(&*store).unwrap());
        }
        let token = |name| format!("GET /token?service=s&scope=repository%3A{name}%3Apull");
        let (one, two) = ("HEAD /v2/a/b/manifests/v1", "HEAD /v2/c/manifests/v1");
        assert_eq!(
            server.requests(),
            [one, &token("a%2Fb"), one, one, &token("c"), two, two]
        );
    }

    #[test]
    fn a_token_that_dies_is_renewed_and_a_fresh_one_that_is_refused_is_not() {
        let given = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::new(AtomicUsize::new(1));
        let (counter, newest) = (given.clone(), accepted.clone());
        let server = Server::start(move |seen| {
            if seen.target.starts_with("/token") {
                let nth = counter.fetch_add(1, Ordering::Relaxed) + 1;
                return Some(
                    Reply::new(200).body(format!(r#"{{"token":"t{nth}","expires_in":900}}"#)),
                );
            }
            let good = format!("Bearer t{}", newest.load(Ordering::Relaxed));
            Some(match seen.header("authorization") {
                Some(sent) if sent == good => found(),
                _ => bearer(seen, ""),
            })
        });
        let [store, _] = repositories(&server, None);
        assert!(ask(&*store).unwrap());
        accepted.store(2, Ordering::Relaxed);
        assert!(ask(&*store).unwrap());
        assert_eq!(given.load(Ordering::Relaxed), 2);
        // None will do any more: the kept one, then one new one, and that is the answer.
        accepted.store(99, Ordering::Relaxed);
        assert_eq!(
            store
                .head(&Reference::Tag(Tag::parse("v1").unwrap()))
                .unwrap(),
            Presence::Unknown
        );
        assert_eq!(given.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_wider_scope_is_asked_for_once() {
        let server = Server::start(|seen| {
            Some(
                match (
                    seen.target.starts_with("/token"),
                    seen.header("authorization"),
                ) {
                    (true, _) if seen.target.contains("delete") => {
                        Reply::new(200).body(r#"{"token":"wide"}"#)
                    }
                    (true, _) => Reply::new(200).body(r#"{"token":"narrow"}"#),
                    (false, Some("Bearer wide")) => found(),
                    _ => bearer(
                        seen,
                        ",scope=\"repository:a/b:delete\",error=\"insufficient_scope\"",
                    ),
                },
            )
        });
        let [store, _] = repositories(&server, None);
        assert!(ask(&*store).unwrap());
        assert_eq!(server.requests().len(), 5);
    }

    #[test]
    fn new_tokens_that_are_called_invalid_may_be_taken_later() {
        let server = Server::start(|seen| {
            let is_token = seen.target.starts_with("/token");
            Some(if is_token {
                Reply::new(200).body(r#"{"token":"t"}"#)
            } else {
                bearer(seen, ",error=\"invalid_token\"")
            })
        });
        let [store, _] = repositories(&server, None);
        let error = ask(&*store).unwrap_err();
        assert_eq!(error.class, Class::Transient, "{error}");
        assert_eq!(server.requests().len(), 5, "{error}");
    }

    #[test]
    fn tokens_that_others_renewed_and_that_die_again_are_no_denial() {
        let (given, dead) = (AtomicUsize::new(0), Mutex::new(String::new()));
        let other: Arc<OnceLock<Arc<dyn Target>>> = Arc::default();
        let beside = Arc::clone(&other);
        let server = Server::start(move |seen| {
            let number = given.fetch_add(1, Ordering::Relaxed);
            let token = seen.header("authorization").unwrap_or_default();
            Some(if seen.target.starts_with("/token") {
                Reply::new(200).body(format!("{{\"token\":\"t{number}\"}}"))
            } else if token.is_empty() {
                bearer(seen, "")
            } else if seen.target.ends_with("/v1") {
                // Before the answer comes, another request finds the token dead and renews it for both.
                token.clone_into(&mut lock(&dead));
                let tag = Reference::Tag(Tag::parse("v2").unwrap());
                beside.get().unwrap().head(&tag).unwrap();
                bearer(seen, ",error=\"invalid_token\"")
            } else if token == *lock(&dead) {
                bearer(seen, ",error=\"invalid_token\"")
            } else {
                found()
            })
        });
        let registries = server.registries(None);
        let store = || registries.store(&server.host, &Repository::parse("a/b").unwrap());
        assert!(other.set(store()).is_ok());
        let error = ask(&*store()).unwrap_err();
        assert_eq!(error.class, Class::Transient, "{error}");
    }

    #[test]
    fn a_wrong_password_is_sent_three_times_in_all_however_many_ask() {
        for realm in [true, false] {
            let server = Server::start(move |seen| {
                Some(match realm {
                    true if seen.target.starts_with("/token") => Reply::new(403),
                    true => bearer(seen, ""),
                    false => Reply::new(401).header("www-authenticate", "Basic realm=x"),
                })
            });
            let registries = server.registries(Some("wrong"));
            let together = Barrier::new(4);
            thread::scope(|scope| {
                for name in ["a", "b", "c", "d"] {
                    let store = registries.store(&server.host, &Repository::parse(name).unwrap());
                    let together = &together;
                    scope.spawn(move || {
                        together.wait();
                        for _ in 0..3 {
                            let error = store
                                .manifest(&Reference::Tag(Tag::parse("v").unwrap()))
                                .unwrap_err();
                            assert_eq!(error.class, Class::Permanent, "{error}");
                            assert!(error.to_string().contains("auth"), "{error}");
                        }
                    });
                }
            });
            let seen = server.seen();
            let sent = seen.iter().filter(|seen| {
                seen.header("authorization")
                    .is_some_and(|value| value.starts_with("Basic"))
            });
            assert_eq!(sent.count(), 3);
        }
    }

    #[test]
    fn an_identity_token_is_for_the_token_service_alone() {
        let token = || Proof::IdentityToken(Secret::new("i+d".into()));
        let identity = || Some(Given::Proof(token()));
        let server = Server::start(|seen| {
            let form = String::from_utf8_lossy(&seen.body).into_owned();
            Some(
                match (
                    seen.target.starts_with("/token"),
                    seen.header("authorization"),
                ) {
                    (true, None) if form.contains("refresh_token=i%2Bd&service=s&") => {
                        Reply::new(200).body(r#"{"access_token":"t"}"#)
                    }
                    (true, _) => Reply::new(500),
                    (false, Some("Bearer t")) => found(),
                    _ => bearer(seen, ""),
                },
            )
        });
        let store = |server: &Server, name| {
            let repository = Repository::parse(name).unwrap();
            server
                .registries_by(identity())
                .store(&server.host, &repository)
        };
        assert!(ask(&*store(&server, "a/b")).unwrap());
        let asked = "HEAD /v2/a/b/manifests/v1";
        assert_eq!(server.requests(), [asked, "POST /token", asked]);

        let basic =
            Server::start(|_| Some(Reply::new(401).header("www-authenticate", "Basic realm=x")));
        let error = ask(&*store(&basic, "a")).unwrap_err();
        assert!(
            error.to_string().contains("has an identity token"),
            "{error}"
        );

        // What the service says of the token is not repeated.
        let echo = Server::start(|seen| {
            let is_token = seen.target.starts_with("/token");
            Some(if is_token {
                Reply::new(400).body(seen.body.clone())
            } else {
                bearer(seen, "")
            })
        });
        let registries = echo.registries_by(identity());
        let store = registries.store(&echo.host, &Repository::parse("a").unwrap());
        for _ in 0..5 {
            let error = ask(&*store).unwrap_err().to_string();
            assert!(
                !error.contains("i+d") && !error.contains("i%2Bd"),
                "{error}"
            );
        }
        let posts = echo.requests().into_iter();
        assert_eq!(posts.filter(|line| line == "POST /token").count(), 3);
    }

    #[test]
    fn a_token_of_the_user_goes_to_the_registry_whatever_it_demands() {
        for challenge in ["Basic realm=x", "Bearer realm=\"/token\""] {
            let server = Server::start(move |seen| {
                Some(match seen.header("authorization") {
                    Some("Bearer abc") => found(),
                    _ => Reply::new(401).header("www-authenticate", challenge),
                })
            });
            for (token, expected) in [("abc", Some(true)), ("wrong", Some(false)), ("a b", None)] {
                let proof = Proof::Bearer(Secret::new(token.into()));
                let registries = server.registries_by(Some(Given::Proof(proof)));
                let store = registries.store(&server.host, &Repository::parse("a").unwrap());
                assert_eq!(ask(&*store).ok(), expected, "{challenge} {token}");
            }
            let asked = server.seen();
            assert!(asked.iter().all(|seen| seen.method == "HEAD"));
        }
    }

    #[test]
    fn a_file_that_is_written_anew_is_read_again() {
        let name = format!("image-syncer-token-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "one\n").unwrap();
        let (file, accepted) = (path.clone(), Arc::new(Mutex::new("Bearer one")));
        let good = accepted.clone();
        let server = Server::start(move |seen| {
            let sent = seen.header("authorization");
            let is_good = sent == Some(*lock(&good));
            if sent.is_some() && !is_good {
                // Whoever let the old one die has a new one.
                std::fs::write(&file, "two\n").unwrap();
            }
            Some(if is_good {
                found()
            } else {
                Reply::new(401).header("www-authenticate", "Basic realm=x")
            })
        });
        let registries = server.registries_by(Some(Given::File(None, path.clone())));
        let store = registries.store(&server.host, &Repository::parse("a").unwrap());
        assert!(ask(&*store).unwrap());
        *lock(&accepted) = "Bearer two";
        assert!(ask(&*store).unwrap());
        // None will do any more, and none comes: that is the answer.
        *lock(&accepted) = "Bearer three";
        assert!(!ask(&*store).unwrap());
        assert_eq!(server.requests().len(), 5);
        // A file that is about to be written is no reason to give up.
        for content in ["", "\n", "a b"] {
            std::fs::write(&path, content).unwrap();
            let error = ask(&*store).unwrap_err();
            let is_passing = content != "a b";
            assert_eq!(error.class == Class::Transient, is_passing, "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ask(&*store).unwrap_err().class, Class::Transient);
    }

    #[test]
    fn a_service_account_signs_in_by_one_access_token_for_all() {
        let pem = include_str!("../../fixtures/service-account.pem");
        let server = Server::start(|seen| {
            let form = String::from_utf8_lossy(&seen.body).into_owned();
            let grant =
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=ey";
            Some(match seen.header("authorization") {
                None if seen.target == "/google" && form.starts_with(grant) => {
                    Reply::new(200).body(r#"{"access_token":"t","expires_in":3599}"#)
                }
                // oauth2accesstoken:t
                Some("Basic b2F1dGgyYWNjZXNzdG9rZW46dA==") => found(),
                _ => Reply::new(401).header("www-authenticate", "Basic realm=x"),
            })
        });
        let ask_by = |token_uri: &str, names: &[&str]| {
            let key = json!({"client_email": "e", "private_key": pem, "token_uri": token_uri});
            let login = Proof::Password("_oauth2_".into(), Secret::new(key.to_string()));
            let registries = server.registries_by(Some(Given::Proof(login)));
            let ask = |name: &&str| {
                let repository = Repository::parse(name).unwrap();
                ask(&*registries.store(&server.host, &repository))
            };
            names.iter().map(ask).collect::<Vec<_>>()
        };
        let own = format!("http://{}/google", server.host);
        for found in ask_by(&own, &["a", "b"]) {
            assert!(found.unwrap());
        }
        let [one, two] = ["a", "b"].map(|name| format!("HEAD /v2/{name}/manifests/v1"));
        assert_eq!(server.requests(), [&one, "POST /google", &one, &two]);
        for (uri, why) in [
            ("http://127.0.0.2/google", "over plain http"),
            ("file:///etc/passwd", "neither http nor https"),
            ("https://u:p@a.example/", "user name or password"),
        ] {
            let [Err(error)] = &ask_by(uri, &["a"])[..] else {
                panic!("{uri} was asked");
            };
            let error = error.to_string();
            assert!(
                error.contains("token_uri") && error.contains(why),
                "{error}"
            );
        }
    }

    #[test]
    fn one_denied_repository_spoils_nothing() {
        let server = Server::start(|seen| {
            Some(match seen.header("authorization") {
                Some(BASIC) if seen.target.starts_with("/v2/c/") => found(),
                _ => Reply::new(401).header("www-authenticate", "Basic realm=x"),
            })
        });
        let [denied, open] = repositories(&server, Some("p"));
        assert!(!ask(&*denied).unwrap());
        assert!(ask(&*open).unwrap());
        for _ in 0..4 {
            assert!(!ask(&*denied).unwrap());
        }
        assert!(ask(&*open).unwrap());
    }

    #[test]
    fn a_challenge_may_stand_at_the_root_only() {
        let server = Server::start(|seen| {
            Some(match (seen.target.as_str(), seen.header("authorization")) {
                ("/v2/", _) => bearer(seen, ""),
                (target, _) if target.starts_with("/token") => {
                    Reply::new(200).body(r#"{"token":"t"}"#)
                }
                (_, Some("Bearer t")) => found(),
                _ => Reply::new(401),
            })
        });
        let [store, _] = repositories(&server, None);
        assert!(ask(&*store).unwrap());
    }

    #[test]
    fn a_token_service_is_not_followed_and_not_believed_in_everything() {
        for reply in [
            || Reply::new(302).header("location", "/token2"),
            || Reply::new(200).body("<html>"),
            || Reply::new(200).body("x".repeat(65537)),
            || Reply::new(404),
        ] {
            let server = Server::start(move |seen| {
                let is_token = seen.target.starts_with("/token");
                Some(if is_token { reply() } else { bearer(seen, "") })
            });
            let [store, _] = repositories(&server, Some("p"));
            let error = ask(&*store).unwrap_err();
            assert!(error.to_string().starts_with("GET http://"), "{error}");
            assert_eq!(server.requests().len(), 2, "{error}");
        }
    }
}
