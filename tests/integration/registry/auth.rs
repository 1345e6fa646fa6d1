//! Who may do what at a fake registry: challenges, Basic credentials, Bearer tokens and the endpoint that gives them.
//! Not here: what happens once a request is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use super::habit::Habit;
use super::history::{Kind, Request, next_moment};
use super::http::{Answer, Body, parse_query};
use super::server::lock;

/// A user name and a password.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Login {
    pub(crate) fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.to_string(),
            password: password.to_string(),
        }
    }

    /// The Authorization header of Basic.
    pub(crate) fn basic(&self) -> String {
        let pair = format!("{}:{}", self.user, self.password);
        format!("Basic {}", BASE64.encode(pair))
    }
}

/// How a token server gives tokens.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    pub(crate) login: Option<Login>,
    /// Whether a request without credentials gets a token that may pull.
    pub(crate) anonymous_pull: bool,
    /// For how many requests a token is good.
    pub(crate) requests: Option<u32>,
    /// For how long a token is good.
    pub(crate) lifetime: Duration,
    /// What `expires_in` says, true or not.
    pub(crate) expires_in: i64,
    /// Rights that nobody gets, each a repository and an action; they are left out without an error (A10).
    pub(crate) denied: Vec<(String, String)>,
}

impl Bearer {
    /// Tokens for this user only, for an hour.
    pub(crate) fn for_user(user: &str, password: &str) -> Self {
        Self {
            login: Some(Login::new(user, password)),
            anonymous_pull: false,
            ..Self::anonymous()
        }
    }

    /// Tokens that may pull, for everybody.
    pub(crate) fn anonymous() -> Self {
        Self {
            login: None,
            anonymous_pull: true,
            requests: None,
            lifetime: Duration::from_hours(1),
            expires_in: 3600,
            denied: Vec::new(),
        }
    }
}

/// Actions by repository.
type Rights = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug)]
struct Token {
    rights: Rights,
    requests_left: Option<u32>,
    until: Instant,
}

/// A token server: the tokens it gave, and for how long they are good.
#[derive(Debug)]
pub(crate) struct TokenServer {
    bearer: Bearer,
    realm: String,
    tokens: Mutex<BTreeMap<String, Option<Token>>>,
}

impl TokenServer {
    pub(crate) fn new(bearer: Bearer, addr: &str) -> Self {
        Self {
            bearer,
            realm: format!("http://{addr}/token"),
            tokens: Mutex::default(),
        }
    }

    pub(crate) fn login(&self) -> Option<&Login> {
        self.bearer.login.as_ref()
    }

    /// Every token that was ever given.
    pub(crate) fn all_tokens(&self) -> Vec<String> {
        lock(&self.tokens).keys().cloned().collect()
    }

    /// Makes all tokens given so far invalid.
    pub(crate) fn expire_all(&self) {
        lock(&self.tokens)
            .values_mut()
            .for_each(|token| *token = None);
    }

    /// Answers a token request in its GET form (A5) or its POST form (A6).
    pub(super) fn give(&self, request: &Request, body: &Body, habit: &Habit) -> Answer {
        let form = parse_query(&String::from_utf8_lossy(&body.bytes));
        let field = |name: &str| {
            let found = form.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        let authorization = request.head.header("authorization");
        let shows_login = match (authorization, self.login()) {
            (Some(given), Some(login)) => given == login.basic(),
            (None, Some(login)) if request.head.method == "POST" => {
                field("refresh_token").or(field("password")) == Some(&login.password)
            }
            _ => false,
        };
        let shows_nothing = authorization.is_none() && form.is_empty();
        if !(shows_login || shows_nothing && self.bearer.anonymous_pull) {
            return Answer::error(401, "UNAUTHORIZED", "authentication required")
                .header("WWW-Authenticate", "Basic realm=\"token\"");
        }
        let scopes = request.head.parameters("scope").chain(field("scope"));
        let mut rights = Rights::new();
        for scope in scopes.flat_map(str::split_whitespace) {
            let mut parts = scope.splitn(2, ':').skip(1);
            let Some((repository, actions)) = parts.next().and_then(|s| s.rsplit_once(':')) else {
                return Answer::error(400, "UNSUPPORTED", scope);
            };
            let granted = actions.split(',').filter(|action| {
                let is_denied = self
                    .bearer
                    .denied
                    .iter()
                    .any(|(name, denied)| name == repository && denied == action);
                !is_denied && (shows_login || *action == "pull")
            });
            let granted = granted.map(str::to_string);
            rights
                .entry(repository.to_string())
                .or_default()
                .extend(granted);
        }
        let mut tokens = lock(&self.tokens);
        let name = format!("{TOKEN_CANARY}-{}-end", next_moment());
        let token = Token {
            rights,
            requests_left: self.bearer.requests,
            until: Instant::now() + self.bearer.lifetime,
        };
        tokens.insert(name.clone(), Some(token));
        let mut answer = json!({ habit.token_name: name });
        if habit.tells_expiry {
            answer["expires_in"] = self.bearer.expires_in.into();
        }
        Answer::json(200, &answer)
    }

    /// Uses a token for a request that needs `needed`. `Err` is the `error` of the challenge.
    fn admit(&self, token: &str, needed: &Rights) -> Result<(), &'static str> {
        let mut tokens = lock(&self.tokens);
        let Some(Some(token)) = tokens.get_mut(token) else {
            return Err("invalid_token");
        };
        if token.until <= Instant::now() || token.requests_left == Some(0) {
            return Err("invalid_token");
        }
        let is_allowed = needed.iter().all(|(repository, actions)| {
            let granted = token.rights.get(repository);
            granted.is_some_and(|granted| granted.is_superset(actions))
        });
        if !is_allowed {
            return Err("insufficient_scope");
        }
        if let Some(left) = &mut token.requests_left {
            *left -= 1;
        }
        Ok(())
    }
}

/// What a registry asks of a request before it does anything.
#[derive(Debug, Default)]
pub(crate) enum Guard {
    #[default]
    None,
    Basic(Login),
    Bearer(Arc<TokenServer>),
}

impl Guard {
    /// `None`: the request may go on. Else the refusal with its challenge.
    pub(super) fn refuse(&self, request: &Request, habit: &Habit) -> Option<Answer> {
        let given = request.head.header("authorization");
        let refused = |challenge: String| {
            Answer::error(401, "UNAUTHORIZED", "authentication required")
                .header("WWW-Authenticate", challenge)
        };
        match self {
            Self::None => None,
            Self::Basic(login) => (given != Some(&login.basic()))
                .then(|| refused("Basic realm=\"registry\"".to_string())),
            Self::Bearer(server) => {
                let needed = needed_rights(request, habit);
                let error = match given.and_then(|given| given.strip_prefix("Bearer ")) {
                    Some(token) => match server.admit(token, &needed) {
                        Ok(()) => return None,
                        Err(error) => format!(",error=\"{error}\""),
                    },
                    None => String::new(),
                };
                let by_basic = server.login().is_some_and(|l| given == Some(&l.basic()));
                if habit.offers_basic && by_basic {
                    return None;
                }
                let scope = if habit.offers_basic {
                    "*".to_string()
                } else {
                    scope_text(&needed)
                };
                let answer = refused(format!(
                    "Bearer realm=\"{}\",service=\"fake\",scope=\"{scope}\"{error}",
                    server.realm
                ));
                Some(if habit.offers_basic {
                    answer.header("WWW-Authenticate", "Basic realm=\"registry\"")
                } else {
                    answer
                })
            }
        }
    }
}

/// What a token must allow for a request, as distribution asks for it.
fn needed_rights(request: &Request, habit: &Habit) -> Rights {
    let actions: &[&str] = match request.kind {
        Kind::Ping | Kind::Catalog | Kind::Token | Kind::Other => return Rights::new(),
        Kind::TagsList
        | Kind::Referrers
        | Kind::ManifestHead
        | Kind::ManifestGet
        | Kind::BlobHead
        | Kind::BlobGet => &["pull"],
        Kind::UploadDelete if habit.cancel_wants_delete => &["delete"],
        _ => &["pull", "push"],
    };
    let mut rights = Rights::new();
    let mut add = |repository: &str, actions: &[&str]| {
        let actions = actions.iter().map(ToString::to_string);
        rights
            .entry(repository.to_string())
            .or_default()
            .extend(actions);
    };
    add(&request.repository, actions);
    if let Some(from) = request.head.parameter("from") {
        add(from, &["pull"]);
    }
    rights
}

fn scope_text(rights: &Rights) -> String {
    let scopes = rights.iter().map(|(repository, actions)| {
        let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
        format!("repository:{repository}:{}", actions.join(","))
    });
    scopes.collect::<Vec<_>>().join(" ")
}

/// How every token begins, so that one search finds any of them where it must not be.
pub(crate) const TOKEN_CANARY: &str = "canary-token";
