//! Challenges, scopes and tokens of the token protocol (protocol.md 3.1, 3.2): what a registry asks for, what we ask
//! of its token server, and the tokens that we have. Not here: requests (`authorise.rs`), logins (`credentials.rs`).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::hosts::lock;
use super::url::{Url, encode};
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
    /// To list the repositories of a registry.
    pub(crate) fn catalog() -> Self {
        Self {
            first: Access {
                resource: "registry:catalog".to_owned(),
                actions: BTreeSet::from(["*".to_owned()]),
            },
            others: Vec::new(),
        }
    }

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

/// The form that asks for a token by a refresh token (A6).
pub(crate) fn refresh_form(token: &Secret, service: Option<&str>, scope: &Scope) -> Secret {
    let scopes: Vec<String> = scope.parameters().collect();
    form(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", token.expose()),
        ("service", service.unwrap_or_default()),
        ("scope", &scopes.join(" ")),
        ("client_id", "image-syncer"),
    ])
}

/// The form that asks for an access token by an assertion (RFC 7523, 2.1).
pub(crate) fn assertion_form(assertion: &Secret) -> Secret {
    form(&[
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", assertion.expose()),
    ])
}

/// A form without the fields that are empty.
fn form(fields: &[(&str, &str)]) -> Secret {
    let given = fields.iter().filter(|(_, value)| !value.is_empty());
    let fields: Vec<String> = given
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    Secret::new(fields.join("&"))
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
    /// What it allows; `None`: all that its user may do.
    pub(crate) scope: Option<Scope>,
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
        let slot = lock(&self.slots).entry(key).or_default().clone();
        let mut slot = lock(&slot);
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn parse(headers: &[&str]) -> Vec<Challenge> {
        parse_challenges(headers.iter().map(|header| header.as_bytes()))
    }

    fn bearer(realm: &str, service: &str, scopes: &[&str], error: &str) -> Challenge {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Challenge::Bearer {
            realm: realm.into(),
            service: given(service),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            error: given(error),
        }
    }

    #[test]
    fn challenges_of_real_registries_and_of_the_standard() {
        let hub = bearer(
            "https://auth.docker.io/token",
            "registry.docker.io",
            &["repository:a/b:pull,push"],
            "",
        );
        let plain = || bearer("R", "", &[], "");
        let cases: Vec<(&[&str], Vec<Challenge>)> = vec![
            (&[], vec![]),
            (&[""], vec![]),
            (&["Basic realm=\"x\""], vec![Challenge::Basic]),
            (&["basic"], vec![Challenge::Basic]),
            (
                &["BASIC realm=x, charset=\"UTF-8\""],
                vec![Challenge::Basic],
            ),
            (
                &[
                    "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"",
                ],
                vec![hub.clone()],
            ),
            // Names in any case, blanks around the sign and the commas, values without quotes.
            (
                &[
                    "bEARER\tREALM = https://auth.docker.io/token , Service= registry.docker.io ,,\tSCOPE =\"repository:a/b:pull,push\" ,",
                ],
                vec![hub.clone()],
            ),
            (
                &["Bearer realm=https://a.io/t?x=1&y=2,service=s"],
                vec![bearer("https://a.io/t?x=1&y=2", "s", &[], "")],
            ),
            // Several scopes, in one parameter and in two.
            (
                &[
                    "Bearer realm=\"R\",scope=\"repository:s:pull  repository:t:pull,push\",scope=\"x\"",
                ],
                vec![bearer(
                    "R",
                    "",
                    &["repository:s:pull", "repository:t:pull,push", "x"],
                    "",
                )],
            ),
            (
                &["Bearer realm=\"R\",service=\"\",error=\"insufficient_scope\""],
                vec![bearer("R", "", &[], "insufficient_scope")],
            ),
            // Escapes, and what looks like another challenge inside quotes.
            (
                &[r#"Bearer realm="a\"b\\c, Basic realm=\"x\"",service="s""#],
                vec![bearer(r#"a"b\c, Basic realm="x""#, "s", &[], "")],
            ),
            // Several challenges in a header, several headers, several schemes that are not ours.
            (
                &["Bearer realm=\"R\", Basic realm=\"x\""],
                vec![plain(), Challenge::Basic],
            ),
            (
                &["Basic realm=\"x\", Bearer realm=\"R\""],
                vec![Challenge::Basic, plain()],
            ),
            (&["Negotiate, NTLM, Basic"], vec![Challenge::Basic]),
            (
                &["Negotiate YIIJvwYGKwYBBQUCoIIJszCC==, Bearer realm=\"R\""],
                vec![plain()],
            ),
            (
                &["Digest realm=\"d\", nonce=\"n\", qop=\"auth,auth-int\", Bearer realm=\"R\""],
                vec![plain()],
            ),
            (
                &["Bearer realm=\"R\"", "Bearer realm=\"S\"", "Basic"],
                vec![plain(), bearer("S", "", &[], ""), Challenge::Basic],
            ),
            (
                &[
                    "AWS4-HMAC-SHA256",
                    "Basic realm=\"https://x.dkr.ecr.eu-west-1.amazonaws.com/\",service=\"ecr.amazonaws.com\"",
                ],
                vec![Challenge::Basic],
            ),
        ];
        for (headers, expected) in cases {
            assert_eq!(parse(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_is_broken_is_left_out() {
        let plain = || bearer("R", "", &[], "");
        let cases: Vec<(&[&str], Vec<Challenge>)> = vec![
            // Parameters belong to the challenge before them in their own header.
            (&["Bearer", "realm=\"R\""], vec![]),
            (&["realm=\"R\""], vec![]),
            // The first realm counts, an empty one is none, one that was cut off is not guessed.
            (
                &["Bearer realm=\"\",realm=\"R\",realm=\"S\""],
                vec![plain()],
            ),
            (&["Bearer service=\"s\""], vec![]),
            (&["Bearer realm=\"https://a.io/tok"], vec![]),
            (&["Bearer realm=\"https://a.io\\"], vec![]),
            (&["Bearer realm=\"R\",scope=\"repository:a"], vec![plain()]),
            (
                &["\"quoted\", Bearer realm=\"R\"", "=, Basic"],
                vec![plain(), Challenge::Basic],
            ),
        ];
        for (headers, expected) in cases {
            assert_eq!(parse(headers), expected, "{headers:?}");
        }
        let latin = parse_challenges(std::iter::once(
            b"Bearer realm=\"R\",service=\"\xe9\"".as_slice(),
        ));
        assert_eq!(latin, [bearer("R", "\u{fffd}", &[], "")]);
    }

    #[test]
    fn challenges_are_bounded() {
        let long = format!("Bearer realm=\"{}\"", "a".repeat(MAX_HEADER));
        assert_eq!(parse(&[&long, "Basic"]), [Challenge::Basic]);
        let many = "Basic,".repeat(100);
        assert_eq!(parse(&[&many, &many]).len(), MAX_CHALLENGES);
    }

    #[test]
    fn no_header_makes_the_parser_panic_or_stand_still() {
        let pieces: [&[u8]; 14] = [
            b"Bearer", b"basic", b"realm", b"scope", b"=", b"\"", b"\\", b",", b" ", b"\t", b"x",
            b"\xff", b"\0", b"==",
        ];
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut found = HashSet::new();
        for _ in 0..20_000 {
            let mut header = Vec::new();
            for _ in 0..16 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                header.extend_from_slice(pieces[usize::try_from(state % 14).unwrap()]);
            }
            found.insert(parse_challenges(std::iter::once(header.as_slice())).len());
        }
        assert!(found.len() > 3, "the headers are too tame: {found:?}");
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        assert_eq!(choose(vec![]), None);
        assert_eq!(choose(parse(&["Basic"])), Some(Challenge::Basic));
        assert_eq!(
            choose(parse(&["Bearer service=s, Basic"])),
            Some(Challenge::Basic)
        );
        for headers in [
            "Basic, Bearer realm=R, Bearer realm=S",
            "Bearer realm=R, Bearer realm=S, Basic",
        ] {
            assert_eq!(
                choose(parse(&[headers])),
                Some(bearer("R", "", &[], "")),
                "{headers}"
            );
        }
    }

    fn repository(path: &str) -> Repository {
        Repository::parse(path).unwrap()
    }

    fn union(scope: &Scope, scopes: &[&str]) -> Scope {
        scope.union(
            &scopes
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn scopes_are_canonical_with_the_target_first() {
        let push = Scope::push(&repository("t"));
        let mount = Scope::push_and_mount(&repository("t"), &repository("a"));
        let cases = [
            (Scope::pull(&repository("a/b")), vec!["repository:a/b:pull"]),
            (push.clone(), vec!["repository:t:pull,push"]),
            (
                mount.clone(),
                vec!["repository:t:pull,push", "repository:a:pull"],
            ),
            (
                Scope::push_and_mount(&repository("t"), &repository("t")),
                vec!["repository:t:pull,push"],
            ),
            // A challenge that says less, or the same in another order, changes nothing.
            (
                union(&push, &["repository:t:push", "repository:t:push,pull"]),
                vec!["repository:t:pull,push"],
            ),
            (
                union(&mount, &["repository:a:pull", "repository:t:push,pull"]),
                vec!["repository:t:pull,push", "repository:a:pull"],
            ),
            (
                union(&push, &["repository:t:*"]),
                vec!["repository:t:*,pull,push"],
            ),
            (
                union(
                    &push,
                    &[
                        "repository:b:pull",
                        "repository:a:pull",
                        "registry:catalog:*",
                        "repository:a:push",
                    ],
                ),
                vec![
                    "repository:t:pull,push",
                    "registry:catalog:*",
                    "repository:a:pull,push",
                    "repository:b:pull",
                ],
            ),
            // A port in the name; what says nothing.
            (
                union(&push, &["repository:h:5000/a:pull"]),
                vec!["repository:t:pull,push", "repository:h:5000/a:pull"],
            ),
            (
                union(&push, &["*", "", "pull", "a:b"]),
                vec!["repository:t:pull,push"],
            ),
        ];
        for (scope, expected) in &cases {
            assert_eq!(&scope.parameters().collect::<Vec<_>>(), expected);
        }
        let distinct: HashSet<&Scope> = cases.iter().map(|(scope, _)| scope).collect();
        assert_eq!(distinct.len(), 6);

        let many: Vec<String> = (0..100).map(|n| format!("repository:r{n}:pull")).collect();
        assert_eq!(push.union(&many).parameters().count(), 1 + MAX_ACCESSES);
    }

    #[test]
    fn token_urls() {
        let scope = Scope::push_and_mount(&repository("t"), &repository("a"));
        let scopes = "scope=repository%3At%3Apull%2Cpush&scope=repository%3Aa%3Apull";
        for (realm, service, expected) in [
            (
                "https://a.io/token",
                Some("a.io:5000"),
                format!("https://a.io/token?service=a.io%3A5000&{scopes}"),
            ),
            (
                "https://a.io/token",
                None,
                format!("https://a.io/token?{scopes}"),
            ),
            ("https://a.io", Some(""), format!("https://a.io/?{scopes}")),
            (
                "https://a.io/t?x=%2f+",
                Some("a b"),
                format!("https://a.io/t?x=%2f+&service=a%20b&{scopes}"),
            ),
        ] {
            let url = token_url(&Url::parse(realm).unwrap(), service, &scope);
            assert_eq!(url.to_request_string(), expected);
        }
    }

    #[test]
    fn the_form_of_a_refresh_token() {
        let scope = Scope::push_and_mount(&repository("t"), &repository("a"));
        let token = Secret::new("a/b+c&d".into());
        let begin = "grant_type=refresh_token&refresh_token=a%2Fb%2Bc%26d";
        let end =
            "scope=repository%3At%3Apull%2Cpush%20repository%3Aa%3Apull&client_id=image-syncer";
        for (service, expected) in [
            (
                Some("a.io:5000"),
                format!("{begin}&service=a.io%3A5000&{end}"),
            ),
            (Some(""), format!("{begin}&{end}")),
            (None, format!("{begin}&{end}")),
        ] {
            assert_eq!(refresh_form(&token, service, &scope).expose(), expected);
        }
    }

    #[test]
    fn token_answers() {
        let now = Instant::now();
        // What the token is, and for how many seconds it is sent.
        let cases = [
            (r#"{"token":"t"}"#, Ok(("t", 54))),
            (r#"{"access_token":"a"}"#, Ok(("a", 54))),
            (r#"{"token":"t","access_token":"a"}"#, Ok(("t", 54))),
            (r#"{"token":"","access_token":"a"}"#, Ok(("a", 54))),
            (r#"{"token":null,"access_token":"a"}"#, Ok(("a", 54))),
            (r#"{"token":7,"access_token":"a"}"#, Ok(("a", 54))),
            (
                r#"{"token":"t","expires_in":300,"issued_at":"2999-01-01T00:00:00Z","refresh_token":"r"}"#,
                Ok(("t", 290)),
            ),
            (r#"{"token":"t","expires_in":"300"}"#, Ok(("t", 290))),
            (r#"{"token":"t","expires_in":100}"#, Ok(("t", 90))),
            (r#"{"token":"t","expires_in":80.0}"#, Ok(("t", 72))),
            (r#"{"token":"t","expires_in":59}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":0}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":-1}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":null}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":"soon"}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":"NaN"}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":"1e999"}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":[]}"#, Ok(("t", 54))),
            (r#"{"token":"t","expires_in":100000}"#, Ok(("t", 86_390))),
            (r#"{"token":"t","expires_in":1e18}"#, Ok(("t", 86_390))),
            ("", Err(TokenError::Malformed)),
            ("<html>", Err(TokenError::Malformed)),
            ("\"t\"", Err(TokenError::Malformed)),
            ("{\"token\":\"t\"", Err(TokenError::Malformed)),
            ("{}", Err(TokenError::Missing)),
            (r#"{"token":""}"#, Err(TokenError::Missing)),
            (r#"{"errors":[]}"#, Err(TokenError::Missing)),
            (r#"{"token":"a\r\nX: y"}"#, Err(TokenError::Unsendable)),
            (r#"{"token":"a b"}"#, Err(TokenError::Unsendable)),
            (r#"{"token":"a\u0000"}"#, Err(TokenError::Unsendable)),
            (r#"{"token":"ä"}"#, Err(TokenError::Unsendable)),
        ];
        for (body, expected) in cases {
            let token = parse_token(body.as_bytes(), now);
            let got = token
                .as_ref()
                .map(|token| (token.secret.expose(), (token.stale_at - now).as_secs()));
            assert_eq!(got.map_err(|&error| error), expected, "{body}");
        }
        assert!(format!("{:?}", token("hunter2", 60)).contains("***"));
    }

    fn key(credential: Option<u64>, path: &str) -> TokenKey {
        TokenKey {
            realm: Url::parse("https://a.io/token").unwrap(),
            service: None,
            credential,
            scope: Some(Scope::pull(&repository(path))),
        }
    }

    fn token(text: &str, life: u64) -> Token {
        Token {
            secret: Secret::new(text.into()),
            stale_at: Instant::now() + Duration::from_secs(life),
        }
    }

    /// What the cache gives where a request would bring `fetched`.
    fn get(
        cache: &TokenCache,
        key: TokenKey,
        refused: Option<&str>,
        fetched: Result<Token, &'static str>,
    ) -> Result<String, &'static str> {
        let refused = refused.map(|text| Secret::new(text.into()));
        cache
            .get_or_fetch(key, refused.as_ref(), || fetched)
            .map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn tokens_are_kept_until_they_are_stale_or_refused() {
        let cache = TokenCache::default();
        let key = || key(Some(1), "a");
        assert_eq!(get(&cache, key(), None, Err("down")), Err("down"));
        assert_eq!(get(&cache, key(), None, Ok(token("1", 60))), Ok("1".into()));
        assert_eq!(get(&cache, key(), None, Ok(token("2", 60))), Ok("1".into()));
        // A token that was refused before the one that we have is no reason to get another.
        assert_eq!(
            get(&cache, key(), Some("0"), Ok(token("2", 60))),
            Ok("1".into())
        );
        assert_eq!(
            get(&cache, key(), Some("1"), Ok(token("2", 0))),
            Ok("2".into())
        );
        assert_eq!(get(&cache, key(), None, Ok(token("3", 60))), Ok("3".into()));
        // A refused token does not come back when the next one cannot be had.
        assert_eq!(get(&cache, key(), Some("3"), Err("down")), Err("down"));
        assert_eq!(get(&cache, key(), None, Ok(token("4", 60))), Ok("4".into()));
    }

    #[test]
    fn tokens_are_for_one_user_service_and_scope() {
        let cache = TokenCache::default();
        let mut other_service = key(None, "a");
        other_service.service = Some("s".into());
        let mut other_realm = key(None, "a");
        other_realm.realm = Url::parse("https://a.io/token?x").unwrap();
        let keys = [
            key(None, "a"),
            key(Some(1), "a"),
            key(Some(2), "a"),
            key(None, "b"),
            other_service,
            other_realm,
        ];
        for round in 0..2 {
            for (n, key) in keys.iter().enumerate() {
                let fetched = if round == 0 {
                    Ok(token(&n.to_string(), 60))
                } else {
                    Err("asked again")
                };
                assert_eq!(get(&cache, key.clone(), None, fetched), Ok(n.to_string()));
            }
        }
    }

    #[test]
    fn threads_that_meet_a_refusal_make_one_request() {
        let cache = TokenCache::default();
        get(&cache, key(None, "a"), None, Ok(token("old", 60))).unwrap();
        let requests = AtomicUsize::new(0);
        let start = Barrier::new(64);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    start.wait();
                    let refused = Secret::new("old".into());
                    let got = cache.get_or_fetch(key(None, "a"), Some(&refused), || {
                        requests.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, ()>(token("new", 60))
                    });
                    assert_eq!(got.unwrap().expose(), "new");
                });
            }
        });
        assert_eq!(requests.into_inner(), 1);
    }

    #[test]
    fn a_request_holds_up_its_own_key_only() {
        let cache = TokenCache::default();
        let outer = cache.get_or_fetch(key(None, "a"), None, || {
            get(&cache, key(None, "b"), None, Ok(token("b", 60)))?;
            Ok::<_, &str>(token("a", 60))
        });
        assert_eq!(outer.unwrap().expose(), "a");
    }

    #[test]
    fn a_thread_that_died_while_asking_blocks_nobody() {
        let cache = TokenCache::default();
        std::thread::scope(|scope| {
            let dies = || {
                cache.get_or_fetch(key(None, "a"), None, || -> Result<Token, ()> {
                    panic!("a bug")
                })
            };
            assert!(scope.spawn(dies).join().is_err());
        });
        assert_eq!(
            get(&cache, key(None, "a"), None, Ok(token("1", 60))),
            Ok("1".into())
        );
    }
}
