//! Challenges, scopes and tokens of the token protocol (protocol.md 3.1, 3.2): what a registry asks for, what we ask
//! of its token server, and the tokens that we have. Not here: requests (`client.rs`), passwords (`credentials.rs`).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::url::Url;
use crate::oci::Repository;
use crate::secret::Secret;

/// What a registry wants before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password.
    Basic,
    /// A token.
    Bearer {
        /// Where tokens are given, as written: it is to be judged against the request's URL.
        realm: String,
        /// What the token server calls this registry.
        service: Option<String>,
        /// What the token must allow.
        scopes: Vec<String>,
        /// Why the token that was sent did not do.
        error: Option<String>,
    },
}

/// All challenges that we can meet, in their order: those of all `WWW-Authenticate` headers, several in one header
/// included. Whatever else stands there is skipped (A1, A4; RFC 9110, 11.6.1).
pub(crate) fn parse_challenges<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<Challenge> {
    let mut drafts = Vec::new();
    for value in values.filter(|value| value.len() <= MAX_HEADER) {
        parse_header(&mut Cursor { rest: value }, &mut drafts);
    }
    drafts.into_iter().filter_map(Draft::finish).collect()
}

/// The challenge to meet: a token before a password, since the password then goes to one place only (A2).
pub(crate) fn choose(challenges: Vec<Challenge>) -> Option<Challenge> {
    challenges
        .into_iter()
        .min_by_key(|challenge| matches!(challenge, Challenge::Basic))
}

/// What a token is to allow: actions on some repositories, of which the first is the one that the request is about.
/// Equal scopes are the same set in canonical form (A12, A13).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    first: Access,
    /// Sorted, none twice.
    others: Vec<Access>,
}

/// Some actions on one resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Access {
    /// Type and name, such as `repository:library/nginx`.
    resource: String,
    actions: BTreeSet<String>,
}

impl Scope {
    /// To read a repository.
    pub(crate) fn pull(repository: &Repository) -> Self {
        Self {
            first: Access::new(repository, &["pull"]),
            others: Vec::new(),
        }
    }

    /// To read and write a repository.
    pub(crate) fn push(repository: &Repository) -> Self {
        Self {
            first: Access::new(repository, &["pull", "push"]),
            others: Vec::new(),
        }
    }

    /// To write a repository and to mount blobs of another one into it. Some servers look at the first part only, so
    /// that is the target; Docker Hub wants the second one even for public repositories.
    pub(crate) fn push_and_mount(repository: &Repository, from: &Repository) -> Self {
        let mut scope = Self::push(repository);
        scope.add(Access::new(from, &["pull"]));
        scope
    }

    /// This and what a challenge asks for (A11). What does not read as a scope says nothing (gitea sends `*`), and a
    /// challenge cannot make the scope grow without end.
    #[must_use]
    pub(crate) fn union(&self, scopes: &[String]) -> Self {
        let mut scope = self.clone();
        for access in scopes.iter().filter_map(|text| Access::parse(text)) {
            scope.add(access);
        }
        scope
    }

    /// The values of the request's `scope` parameters, the first repository first.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = String> {
        std::iter::once(&self.first)
            .chain(&self.others)
            .map(Access::to_string)
    }

    fn add(&mut self, access: Access) {
        if access.resource == self.first.resource {
            self.first.actions.extend(access.actions);
            return;
        }
        let key = |other: &Access| other.resource.cmp(&access.resource);
        match self.others.binary_search_by(key) {
            Ok(at) => {
                if let Some(other) = self.others.get_mut(at) {
                    other.actions.extend(access.actions);
                }
            }
            Err(at) if self.others.len() < MAX_ACCESSES => self.others.insert(at, access),
            Err(_) => {}
        }
    }
}

impl Access {
    fn new(repository: &Repository, actions: &[&str]) -> Self {
        Self {
            resource: format!("repository:{repository}"),
            actions: actions.iter().map(|&action| action.to_owned()).collect(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (resource, actions) = text.rsplit_once(':')?;
        resource.contains(':').then(|| Self {
            resource: resource.to_owned(),
            actions: actions.split(',').map(str::to_owned).collect(),
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = ':';
        f.write_str(&self.resource)?;
        for action in &self.actions {
            write!(f, "{separator}{action}")?;
            separator = ',';
        }
        Ok(())
    }
}

/// The URL that asks for a token. An empty service is left out (A3, A5).
pub(crate) fn token_url(realm: &Url, service: Option<&str>, scope: &Scope) -> Url {
    let mut url = realm.clone();
    if let Some(service) = service.filter(|service| !service.is_empty()) {
        url = url.with_query_parameter("service", service);
    }
    for parameter in scope.parameters() {
        url = url.with_query_parameter("scope", &parameter);
    }
    url
}

/// A token and how long it is worth sending. What is inside it is the registry's business (A8).
#[derive(Clone, Debug)]
pub(crate) struct Token {
    secret: Secret,
    stale_at: Instant,
}

impl Token {
    /// Whether it can be sent: it will live on for some seconds at least.
    fn is_fresh(&self, now: Instant) -> bool {
        now < self.stale_at
    }
}

/// Reads a token server's answer to a request that began at `requested_at` (A7).
///
/// Its life counts from that moment by our own clock: `issued_at` is not read, for it is only as good as two clocks
/// agree. A life that is missing, not a number or below a minute is a minute, as the token specification says.
pub(crate) fn parse_token(body: &[u8], requested_at: Instant) -> Result<Token, TokenError> {
    // Serde's own message could quote the token.
    let answer: Answer = serde_json::from_slice(body).map_err(|_| TokenError::Malformed)?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .find_map(|value| match value {
            Value::String(text) if !text.is_empty() => Some(Secret::new(text)),
            _ => None,
        })
        .ok_or(TokenError::Missing)?;
    if !token.expose().bytes().all(|b| b.is_ascii_graphic()) {
        return Err(TokenError::Unsendable);
    }
    let seconds = match &answer.expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let life = seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map_or(MIN_LIFE, |life| life.clamp(MIN_LIFE, MAX_LIFE));
    Ok(Token {
        secret: token,
        stale_at: requested_at + life.saturating_sub(MAX_MARGIN.min(life / 10)), // A9
    })
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Value,
    #[serde(default)]
    access_token: Value,
    #[serde(default)]
    expires_in: Value,
}

/// Why an answer holds no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// Not a JSON object.
    Malformed,
    /// An object without a token.
    Missing,
    /// A token with characters that no header may hold.
    Unsendable,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the token server's answer is not a JSON object",
            Self::Missing => "the token server's answer holds no token",
            Self::Unsendable => {
                "the token server's token holds blanks, control characters or letters beyond ASCII"
            }
        })
    }
}

impl std::error::Error for TokenError {}

/// What a token is good for: it is sent for nothing else, and never for another user (S03).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    /// Who gave it.
    pub(crate) realm: Url,
    /// For which registry.
    pub(crate) service: Option<String>,
    /// The id of the credential that it was got with; `None` for an anonymous one.
    pub(crate) credential: Option<u64>,
    /// What it allows.
    pub(crate) scope: Scope,
}

/// The tokens of this run. They are in memory only.
#[derive(Default)]
pub(crate) struct TokenCache {
    slots: Mutex<HashMap<TokenKey, Arc<Mutex<Option<Token>>>>>,
}

impl TokenCache {
    /// The token of `key`, got by `fetch` if there is none that is fresh. `refused` is a token that the registry did
    /// not take: it is never given again.
    ///
    /// Threads that want the same token wait for the one that gets it (A15), so sixty-four that meet a 401 make one
    /// request. A failure is its finder's own; the next in line tries again.
    pub(crate) fn get_or_fetch<E>(
        &self,
        key: TokenKey,
        refused: Option<&Secret>,
        fetch: impl FnOnce() -> Result<Token, E>,
    ) -> Result<Secret, E> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(key).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = slot.as_ref()
            && token.is_fresh(Instant::now())
            && refused != Some(&token.secret)
        {
            return Ok(token.secret.clone());
        }
        // A token that is known to be of no use must not stay behind if the next one cannot be had.
        *slot = None;
        Ok(slot.insert(fetch()?).secret.clone())
    }
}

/// A challenge while it is read.
struct Draft {
    scheme: AuthScheme,
    realm: Option<String>,
    service: Option<String>,
    scopes: Vec<String>,
    error: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AuthScheme {
    Basic,
    Bearer,
    Unknown,
}

impl Draft {
    fn new(scheme: &[u8]) -> Self {
        Self {
            scheme: if scheme.eq_ignore_ascii_case(b"basic") {
                AuthScheme::Basic
            } else if scheme.eq_ignore_ascii_case(b"bearer") {
                AuthScheme::Bearer
            } else {
                AuthScheme::Unknown
            },
            realm: None,
            service: None,
            scopes: Vec::new(),
            error: None,
        }
    }

    /// Takes a parameter; of one that may stand once, the first counts.
    fn set(&mut self, name: &[u8], value: String) {
        let slot = if name.eq_ignore_ascii_case(b"realm") {
            &mut self.realm
        } else if name.eq_ignore_ascii_case(b"service") {
            &mut self.service
        } else if name.eq_ignore_ascii_case(b"error") {
            &mut self.error
        } else {
            if name.eq_ignore_ascii_case(b"scope") {
                self.scopes
                    .extend(value.split_ascii_whitespace().map(str::to_owned));
            }
            return;
        };
        if slot.is_none() && !value.is_empty() {
            *slot = Some(value);
        }
    }

    fn finish(self) -> Option<Challenge> {
        match self.scheme {
            AuthScheme::Basic => Some(Challenge::Basic),
            AuthScheme::Bearer => Some(Challenge::Bearer {
                realm: self.realm?,
                service: self.service,
                scopes: self.scopes,
                error: self.error,
            }),
            AuthScheme::Unknown => None,
        }
    }
}

/// Reads one header. A comma separates both challenges and parameters, so what decides is the `=`: a word with one is
/// a parameter of the challenge before it, a word without one begins a challenge.
fn parse_header(cursor: &mut Cursor<'_>, drafts: &mut Vec<Draft>) {
    // Parameters belong to a challenge of their own header.
    let mut current: Option<usize> = None;
    loop {
        cursor.take_while(|b| b == b',' || is_blank(b));
        if cursor.rest.is_empty() {
            return;
        }
        let word = cursor.take_while(|b| !is_blank(b) && !b",=\"".contains(&b));
        cursor.take_while(is_blank);
        if cursor.take(b'=') {
            cursor.take_while(is_blank);
            let value = cursor.value();
            if let (Some(value), Some(draft)) = (value, current.and_then(|at| drafts.get_mut(at))) {
                draft.set(word, value);
            }
        } else if word.is_empty() {
            // A quoted text where a word should be: nothing to learn from it.
            cursor.value();
        } else if drafts.len() < MAX_CHALLENGES {
            current = Some(drafts.len());
            drafts.push(Draft::new(word));
        } else {
            return;
        }
    }
}

/// What is still to be read of a header. Each byte is passed once.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&b| !wanted(b));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((&first, rest)) if first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// A quoted string, or a bare word up to a comma or blank; a bare one may be an unquoted URL with a query. `None`
    /// if the closing quote is missing: what was cut off there is not to be guessed.
    fn value(&mut self) -> Option<String> {
        if !self.take(b'"') {
            let word = self.take_while(|b| b != b',' && !is_blank(b));
            return Some(String::from_utf8_lossy(word).into_owned());
        }
        let mut value = Vec::new();
        loop {
            value.extend_from_slice(self.take_while(|b| b != b'"' && b != b'\\'));
            if self.take(b'"') {
                return Some(String::from_utf8_lossy(&value).into_owned());
            }
            self.take(b'\\');
            let (&escaped, rest) = self.rest.split_first()?;
            value.push(escaped);
            self.rest = rest;
        }
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Bytes of one header (A4).
const MAX_HEADER: usize = 8 * 1024;
const MAX_CHALLENGES: usize = 10;
/// Repositories that one token is asked for beside the first: it lists them all and travels in a header (A13).
const MAX_ACCESSES: usize = 9;
const MIN_LIFE: Duration = Duration::from_mins(1);
/// Longer than any registry's; a token that is said to live on beyond the run needs no more.
const MAX_LIFE: Duration = Duration::from_hours(24);
/// How long before its end a token is renewed.
const MAX_MARGIN: Duration = Duration::from_secs(10);
