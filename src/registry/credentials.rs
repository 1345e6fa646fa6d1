//! Which login is for which repository: the entries of `auth`, then what docker and podman keep (protocol.md 3.4). Not
//! here: their files (`auth_files.rs`), tokens (`auth.rs`), where a login may go (`url.rs`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::auth_files::{self, AuthFile, MAX_FILE, Place, read_bounded};
use super::google::{self, KeyError};
use super::helper::{Helper, HelperError};
use super::hosts::lock;
use super::url::encode;
use crate::oci::{Host, Repository};
use crate::secret::Secret;

/// One entry of `auth`, as the configuration has it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The key as it was written, for messages.
    pub(crate) key: String,
    /// The registry.
    pub(crate) host: Host,
    /// The first components of the repositories that the entry is for; empty for the whole registry.
    pub(crate) path: String,
    /// The login; `None`: it is looked for elsewhere.
    pub(crate) login: Option<Given>,
    /// The registry may be spoken to without TLS, or with a certificate that nobody vouches for.
    pub(crate) insecure: bool,
}

/// How an entry of `auth` gives a login.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// In so many words.
    Proof(Proof),
    /// In a file, which may change: the password of this user, or a token.
    File(Option<String>, PathBuf),
    /// By a helper of this name.
    Helper(String),
}

/// How we prove who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A user name and its password.
    Password(String, Secret),
    /// A refresh token: the token service takes it in place of a password (A6).
    IdentityToken(Secret),
    /// A token that the registry itself takes.
    Bearer(Secret),
}

impl Proof {
    /// Both or nothing: half a login is none. The user `<token>` says that the other half is an identity token (A27).
    pub(crate) fn password(username: Option<String>, password: Option<Secret>) -> Option<Self> {
        let username = username.filter(|username| !username.is_empty())?;
        let password = password.filter(|password| !password.is_empty())?;
        Some(match username.as_str() {
            "<token>" => Self::IdentityToken(password),
            _ => Self::Password(username, password),
        })
    }

    /// A token for the registry itself.
    pub(crate) fn bearer(token: &str) -> Option<Self> {
        (!token.is_empty()).then(|| Self::Bearer(Secret::new(token.to_owned())))
    }

    /// The key of a service account that signs in by access tokens.
    pub(super) fn service_key(&self) -> Option<&Secret> {
        match self {
            Self::Password(username, key) if username == google::KEY_USER => Some(key),
            _ => None,
        }
    }

    /// What must not be shown.
    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Self::Password(_, secret) | Self::IdentityToken(secret) | Self::Bearer(secret) => {
                secret
            }
        }
    }
}

/// A login, and where it is from.
#[derive(Debug)]
pub(crate) struct Credential {
    /// Tells logins apart in keys, without their content. One login in two places is one: an account is locked however
    /// often its password is written.
    pub(crate) id: u64,
    /// How we prove who we are.
    pub(crate) proof: Proof,
    /// Where this was written, for messages: `auth key "quay.io/coreos"`.
    pub(crate) origin: String,
}

impl Credential {
    pub(super) fn new(proof: Proof, origin: String) -> Self {
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        let (kind, name) = match &proof {
            Proof::Password(name, _) => (0, name.as_str()),
            Proof::IdentityToken(_) => (1, ""),
            Proof::Bearer(_) => (2, ""),
        };
        let id = KEYS
            .get_or_init(RandomState::new)
            .hash_one((kind, name, proof.secret().expose()));
        Self { id, proof, origin }
    }

    /// Whether the registry takes it in place of the tokens that it demands.
    pub(crate) fn is_token(&self) -> bool {
        matches!(self.proof, Proof::Bearer(_))
    }

    /// The value of an `Authorization` header.
    pub(crate) fn header(&self) -> Result<Secret, CredentialError> {
        let failed = |what| CredentialError {
            origin: self.origin.clone(),
            what,
        };
        let (username, password) = match &self.proof {
            Proof::Password(username, password) => (username, password),
            Proof::IdentityToken(_) => return Err(failed(Problem::WantsPassword)),
            Proof::Bearer(token) if token.expose().bytes().all(|b| b.is_ascii_graphic()) => {
                return Ok(Secret::new(format!("Bearer {}", token.expose())));
            }
            Proof::Bearer(_) => return Err(failed(Problem::Unsendable)),
        };
        // A password may hold line breaks (Google's JSON keys do), they are encoded; a colon would end the name early
        // and the rest would be taken for the password (A28, RFC 7617).
        let refused = |c: &char| *c == ':' || c.is_control();
        if let Some(character) = username.chars().find(refused) {
            return Err(failed(Problem::UserName(character)));
        }
        let password = self.json_key().unwrap_or_else(|| password.clone());
        let pair = Zeroizing::new(format!("{username}:{}", password.expose()));
        let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        Ok(Secret::new(format!("Basic {}", *encoded)))
    }

    /// The key that Google takes as JSON only, however it was written.
    fn json_key(&self) -> Option<Secret> {
        match &self.proof {
            Proof::Password(username, key) if username == google::JSON_USER => google::plain(key),
            _ => None,
        }
    }

    /// All forms in which whoever got it may repeat it.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let secret = self.proof.secret();
        let header = self.header().ok();
        let value = header
            .as_ref()
            .and_then(|header| header.expose().split_once(' '));
        let written = [Some(secret.clone()), self.json_key()];
        let encoded = [
            Some(encode(secret.expose())),
            value.map(|(_, value)| value.to_owned()),
        ];
        let encoded = encoded.into_iter().flatten().map(Secret::new);
        written.into_iter().flatten().chain(encoded).collect()
    }
}

/// A login that is of no use.
#[derive(Debug)]
pub(crate) struct CredentialError {
    /// Where it was written.
    pub(crate) origin: String,
    /// What is wrong with it.
    pub(crate) what: Problem,
}

/// What may be wrong with a login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A file without it.
    File(PathBuf, String),
    /// A helper that gave none.
    Helper(HelperError),
    /// A service account's key that is none.
    Key(KeyError),
    /// A character that no user name may hold.
    UserName(char),
    /// An identity token for a registry without a token service.
    WantsPassword,
    /// A token with characters that no header may hold.
    Unsendable,
}

impl CredentialError {
    /// Whether it may be better later: a file may be about to be written.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.what, Problem::File(..))
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, what } = self;
        match what {
            Problem::File(path, error) => write!(
                f,
                "{} of {origin} cannot be read: {error}; write the login into it again",
                path.display()
            ),
            Problem::Helper(error) => write!(f, "{origin}, gave no login: {error}"),
            Problem::Key(error) => {
                write!(f, "the password of {origin} gives no access token: {error}")
            }
            Problem::UserName(character) => write!(
                f,
                "the user name of {origin} holds {character:?}, which no user name may: is it \"user:password\" in one?"
            ),
            Problem::WantsPassword => write!(
                f,
                "{origin} has an identity token, and the registry has no token service that takes it: sign in with a \
                 password"
            ),
            Problem::Unsendable => write!(
                f,
                "the token of {origin} holds blanks, control characters or letters beyond ASCII: was it copied whole?"
            ),
        }
    }
}

impl std::error::Error for CredentialError {}

/// All logins of a run.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    entries: Table<Chosen>,
    files: Vec<AuthFile>,
    /// One for each program and registry, however many name it.
    helpers: Mutex<HashMap<(String, Host), Arc<Helper>>>,
}

/// What may know the login for a repository.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// It is known.
    Known(Arc<Credential>),
    /// It is in a file.
    File(Arc<LoginFile>),
    /// A program may know it.
    Helper(Arc<Helper>),
}

impl Source {
    /// The login, if there is one here.
    pub(super) fn login(&self) -> Result<Option<Arc<Credential>>, CredentialError> {
        match self {
            Self::Known(credential) => Ok(Some(credential.clone())),
            Self::File(file) => file.read().map(Some),
            Self::Helper(helper) => helper.ask(),
        }
    }

    /// Says that a login which was good is refused.
    pub(super) fn replace(&self, id: u64) {
        if let Self::Helper(helper) = self {
            helper.replace(id);
        }
    }
}

/// A file that holds a password or a token. It is read whenever a login is needed: others write it anew.
#[derive(Debug)]
pub(super) struct LoginFile {
    path: PathBuf,
    username: Option<String>,
    origin: String,
}

impl LoginFile {
    fn read(&self) -> Result<Arc<Credential>, CredentialError> {
        let failed = |error: String| CredentialError {
            origin: self.origin.clone(),
            what: Problem::File(self.path.clone(), error),
        };
        let bytes =
            read_bounded(&self.path, MAX_FILE).map_err(|error| failed(error.to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not UTF-8".into()))?;
        let proof = match &self.username {
            Some(username) => {
                let password = Secret::new(text.trim_end_matches(['\r', '\n']).into());
                Proof::password(Some(username.clone()), Some(password))
            }
            None => Proof::bearer(text.trim()),
        };
        let proof = proof.ok_or_else(|| failed("it is empty".into()))?;
        Ok(Arc::new(Credential::new(proof, self.origin.clone())))
    }
}

/// What an entry of `auth` decides.
#[derive(Debug)]
struct Chosen {
    insecure: bool,
    source: Option<Source>,
}

impl Credentials {
    /// The logins of `auth`, and of the other places in their order. What of these cannot be read or understood gives a
    /// warning: many who run this program do not know that they have them.
    pub(crate) fn load(entries: Vec<Entry>, places: Vec<Place>) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let files = places
            .into_iter()
            .filter_map(|place| auth_files::load(place, &mut warnings))
            .collect();
        (Self::new(entries, files), warnings)
    }

    /// Of two entries for one path the later counts.
    pub(crate) fn new(entries: Vec<Entry>, files: Vec<AuthFile>) -> Self {
        let mut credentials = Self {
            files,
            ..Self::default()
        };
        for entry in entries {
            let origin = format!("auth key {:?}", entry.key);
            let source = entry.login.map(|login| match login {
                Given::Proof(proof) => Source::Known(Arc::new(Credential::new(proof, origin))),
                Given::File(username, path) => Source::File(Arc::new(LoginFile {
                    path,
                    username,
                    origin,
                })),
                Given::Helper(name) => {
                    Source::Helper(credentials.helper(&name, &entry.host, &origin))
                }
            });
            let chosen = Chosen {
                insecure: entry.insecure,
                source,
            };
            credentials.entries.insert(entry.host, entry.path, chosen);
        }
        credentials
    }

    /// What may know the login for a repository: the first that has one counts. If none has, it is asked anonymously.
    ///
    /// The entry of `auth` with the longest path comes first. If it has no login, or if there is no such entry, the
    /// other places follow, as the original program has it (original.md 1.1). In each of them a helper comes before
    /// what is written there: what docker left in a file that has a helper by now is old (A26).
    pub(super) fn lookup(&self, host: &Host, repository: &Repository) -> Vec<Source> {
        let entry = self.entries.longest(host, repository);
        let mut sources: Vec<Source> = entry
            .and_then(|chosen| chosen.source.clone())
            .into_iter()
            .collect();
        for file in &self.files {
            let own = file.helpers.get(host).map(|name| (name, "credHelpers"));
            let store = file.store.as_ref().map(|name| (name, "credsStore"));
            if let Some((name, part)) = own.or(store) {
                let origin = format!("{part} of {}", file.name);
                sources.push(Source::Helper(self.helper(name, host, &origin)));
            }
            let login = file.logins.longest(host, repository);
            sources.extend(login.cloned().map(Source::Known));
        }
        sources
    }

    fn helper(&self, name: &str, host: &Host, origin: &str) -> Arc<Helper> {
        lock(&self.helpers)
            .entry((name.to_owned(), host.clone()))
            .or_insert_with(|| Arc::new(Helper::new(name, host, origin)))
            .clone()
    }

    /// Whether the entry that decides for a repository says `insecure`.
    pub(crate) fn insecure(&self, host: &Host, repository: &Repository) -> bool {
        self.entries
            .longest(host, repository)
            .is_some_and(|chosen| chosen.insecure)
    }
}

/// Values by registry and by the first components of a repository.
#[derive(Debug)]
pub(super) struct Table<T>(HashMap<Host, BTreeMap<String, T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Table<T> {
    pub(super) fn insert(&mut self, host: Host, path: String, value: T) {
        self.0.entry(host).or_default().insert(path, value);
    }

    /// The value with the longest path that the repository begins with, by whole components (S03).
    pub(super) fn longest(&self, host: &Host, repository: &Repository) -> Option<&T> {
        let paths = self.0.get(host)?;
        let mut path = repository.as_str();
        loop {
            if let Some(value) = paths.get(path) {
                return Some(value);
            }
            match path.rsplit_once('/') {
                Some((shorter, _)) => path = shorter,
                None => return paths.get(""),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn entry(key: &str, username: &str, password: &str, insecure: bool) -> Entry {
        let (host, path) = key.split_once('/').unwrap_or((key, ""));
        let given = |text: &str| (text != "-").then(|| text.to_owned());
        Entry {
            key: key.into(),
            host: Host::parse(host).unwrap(),
            path: path.into(),
            login: Proof::password(given(username), given(password).map(Secret::new))
                .map(Given::Proof),
            insecure,
        }
    }

    /// The logins of entries and of one other place.
    fn load(entries: Vec<Entry>, file: &str) -> (Credentials, Vec<String>) {
        let place = Place::Variable(Secret::new(file.into()));
        Credentials::load(entries, vec![place])
    }

    fn login(
        credentials: &Credentials,
        host: &Host,
        repository: &Repository,
    ) -> Option<Arc<Credential>> {
        let sources = credentials.lookup(host, repository);
        sources.iter().find_map(|source| source.login().unwrap())
    }

    /// Where the credential for an image comes from, and its parts: `origin user password`.
    fn found(credentials: &Credentials, name: &str) -> String {
        let (host, repository) = crate::oci::reference::split_name(name).unwrap();
        match login(credentials, &host, &repository) {
            Some(found) => {
                let login = match &found.proof {
                    Proof::Password(username, password) => {
                        format!("{username} {}", password.expose())
                    }
                    Proof::IdentityToken(token) => format!("identity {}", token.expose()),
                    Proof::Bearer(token) => format!("bearer {}", token.expose()),
                };
                format!("{} {login}", found.origin)
            }
            None => "none".into(),
        }
    }

    #[test]
    fn the_longest_path_of_whole_components_decides() {
        let (credentials, warnings) = load(
            vec![
                entry("quay.io", "all", "1", false),
                entry("quay.io/coreos", "coreos", "2", true),
                entry("quay.io/coreos/etcd/v3", "v3", "3", false),
                entry("quay.io/empty", "-", "-", true),
                entry("index.docker.io", "hub", "4", false),
                entry("only.io/ns", "ns", "5", false),
                entry("half.io", "user", "", false),
            ],
            r#"{"auths": {"quay.io/empty": {"auth": "ZDo2"}, "half.io": {"auth": "ZDo3"}, "d.io": {"auth": "ZDo4"}}}"#,
        );
        assert_eq!(warnings, Vec::<String>::new());
        for (name, expected) in [
            ("quay.io/a", "auth key \"quay.io\" all 1"),
            (
                "quay.io/coreos/etcd",
                "auth key \"quay.io/coreos\" coreos 2",
            ),
            (
                "quay.io/coreos/etcd/v3/x",
                "auth key \"quay.io/coreos/etcd/v3\" v3 3",
            ),
            (
                "quay.io/coreos/etcd/v33",
                "auth key \"quay.io/coreos\" coreos 2",
            ),
            ("quay.io/coreosx/etcd", "auth key \"quay.io\" all 1"),
            ("quay.io/coreos", "auth key \"quay.io/coreos\" coreos 2"),
            ("nginx", "auth key \"index.docker.io\" hub 4"),
            ("only.io/ns/x", "auth key \"only.io/ns\" ns 5"),
            ("only.io/nsx/x", "none"),
            ("other.io/ns/x", "none"),
            // An entry without a complete credential is no credential, but another place may have one.
            (
                "quay.io/empty/x",
                "DOCKER_AUTH_CONFIG, key \"quay.io/empty\" d 6",
            ),
            ("half.io/x", "DOCKER_AUTH_CONFIG, key \"half.io\" d 7"),
            ("d.io/x", "DOCKER_AUTH_CONFIG, key \"d.io\" d 8"),
        ] {
            assert_eq!(found(&credentials, name), expected, "{name}");
        }
        for (name, insecure) in [
            ("quay.io/a", false),
            ("quay.io/coreos/etcd", true),
            ("quay.io/coreos/etcd/v3/x", false),
            ("quay.io/empty/x", true),
            ("nowhere.io/x", false),
        ] {
            let (host, repository) = crate::oci::reference::split_name(name).unwrap();
            assert_eq!(credentials.insecure(&host, &repository), insecure, "{name}");
        }
    }

    #[test]
    fn docker_keys_and_entries_of_all_kinds() {
        let file = r#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
                "https://index.docker.io/v1/access-token": {"auth": "b3RoZXI6cHc="},
                "index.docker.io": {"auth": "b3RoZXI6cHc="},
                "docker.io": {"auth": "b3RoZXI6cHc="},
                "https://ghcr.io": {"auth": "dXJsOnB3"},
                "ghcr.io": {"auth": "bmFtZTpwdw=="},
                "http://lan:5000/v2/": {"auth": "bGFuOnB3Og"},
                "QUAY.io/v1": {"auth": "bnVsOnB3AAA="},
                "pod.man/ns/repo/": {"username": "u", "password": "p", "email": "e"},
                "pod.man": {"auth": "", "username": "v", "password": "p"},
                "store.io": {},
                "token.io": {"auth": "PHRva2VuPjo=", "identitytoken": "t"},
                "acr.io": {"auth": "MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==", "identitytoken": "t"},
                "brackets.io": {"username": "<token>", "password": "t"},
                "bearer.io": {"auth": "dTpw", "identitytoken": "", "registrytoken": "r"},
                "half.io": {"username": "u"},
                "not a host": {"auth": "dTpw"},
                "null.io": {"auth": null}
            },
            "HttpHeaders": {"User-Agent": "x"}
        }"#;
        let (credentials, warnings) = load(Vec::new(), file);
        assert_eq!(warnings, Vec::<String>::new());
        let key = |key: &str, pair: &str| format!("DOCKER_AUTH_CONFIG, key {key:?} {pair}");
        for (name, expected) in [
            ("nginx", key("https://index.docker.io/v1/", "hub pw")),
            ("ghcr.io/x", key("ghcr.io", "name pw")),
            ("lan:5000/x", key("http://lan:5000/v2/", "lan pw:")),
            ("quay.io/x/y", key("QUAY.io/v1", "nul pw")),
            ("pod.man/ns/repo", key("pod.man/ns/repo/", "u p")),
            ("pod.man/ns/other", key("pod.man", "v p")),
            ("store.io/x", "none".into()),
            ("token.io/x", key("token.io", "identity t")),
            ("acr.io/x", key("acr.io", "identity t")),
            ("brackets.io/x", key("brackets.io", "identity t")),
            ("bearer.io/x", key("bearer.io", "bearer r")),
            ("half.io/x", "none".into()),
            ("null.io/x", "none".into()),
        ] {
            assert_eq!(found(&credentials, name), expected, "{name}");
        }
    }

    #[test]
    fn basic_refuses_names_that_would_be_read_differently() {
        let basic = |username: &str, password: &str| {
            let entry = entry("a.io", username, password, false);
            let credentials = Credentials::new(vec![entry], Vec::new());
            let host = Host::parse("a.io").unwrap();
            let repository = Repository::parse("x").unwrap();
            let credential = login(&credentials, &host, &repository).unwrap();
            assert!(!format!("{credential:?}").contains(password));
            credential.header().map(|secret| secret.expose().to_owned())
        };
        assert_eq!(
            basic("Aladdin", "open sesame").unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(
            basic("_json_key", "{\n}").unwrap(),
            "Basic X2pzb25fa2V5OnsKfQ=="
        );
        assert_eq!(
            basic("_json_key", "ewp9").unwrap(),
            "Basic X2pzb25fa2V5OnsKfQ=="
        );
        assert_eq!(
            basic("_json_key_base64", "ewp9").unwrap(),
            "Basic X2pzb25fa2V5X2Jhc2U2NDpld3A5"
        );
        for (username, character) in [
            ("a:b", ':'),
            ("a\r\nX: y", '\r'),
            ("a\n", '\n'),
            ("\0", '\0'),
        ] {
            let error = basic(username, "hunter2").unwrap_err();
            assert_eq!(
                (error.origin.as_str(), error.what),
                ("auth key \"a.io\"", Problem::UserName(character))
            );
        }
        assert!(
            basic("a:hunter2", "hunter3")
                .unwrap_err()
                .to_string()
                .starts_with("the user name of auth key \"a.io\" holds ':'")
        );
    }

    /// S03: for tables and names at random, the choice is that of an oracle that knows nothing but text.
    #[test]
    fn random_tables_agree_with_a_naive_oracle() {
        let mut state: u64 = 0x2545_f491_4f6c_dd1d;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let hosts = ["a.io", "a.io:5000", "ab.io"];
        let words = ["a", "b", "ab", "a-b"];
        let mut chosen = [0; 3];
        for round in 0..3000 {
            let mut name = |longest: u64| {
                let mut text = hosts[usize::try_from(random(3)).unwrap()].to_owned();
                for _ in 0..random(longest) {
                    text.push('/');
                    text.push_str(words[usize::try_from(random(4)).unwrap()]);
                }
                text
            };
            let mut seen = HashSet::new();
            let keys: Vec<String> = (0..6)
                .map(|_| name(4))
                .filter(|key| seen.insert(key.clone()))
                .collect();
            let docker_keys: HashSet<String> = (0..3).map(|_| name(3)).collect();
            let wanted = format!("{}/a", name(4));
            let entries: Vec<(String, bool)> =
                keys.into_iter().map(|key| (key, random(4) > 0)).collect();

            let own = entries
                .iter()
                .map(|(key, complete)| {
                    entry(key, "u", if *complete { "p" } else { "-" }, *complete)
                })
                .collect();
            let auths: serde_json::Map<String, Value> = docker_keys
                .iter()
                .map(|key| {
                    (
                        key.clone(),
                        serde_json::json!({"username": "d", "password": "p"}),
                    )
                })
                .collect();
            let file = serde_json::json!({ "auths": auths }).to_string();
            let (credentials, _) = load(own, &file);

            let covers = |key: &str| format!("{wanted}/").starts_with(&format!("{key}/"));
            let best = entries
                .iter()
                .filter(|(key, _)| covers(key))
                .max_by_key(|(key, _)| key.len());
            let docker_best = docker_keys
                .iter()
                .filter(|key| covers(key))
                .max_by_key(|key| key.len());
            let expected = match (best, docker_best) {
                (Some((key, true)), _) => format!("auth key {key:?} u p"),
                (_, Some(key)) => format!("DOCKER_AUTH_CONFIG, key {key:?} d p"),
                _ => "none".to_owned(),
            };
            chosen[match expected.as_bytes()[0] {
                b'a' => 0,
                b'D' => 1,
                _ => 2,
            }] += 1;
            assert_eq!(
                found(&credentials, &wanted),
                expected,
                "round {round}: {wanted} {entries:?} {docker_keys:?}"
            );
            let (host, repository) = crate::oci::reference::split_name(&wanted).unwrap();
            assert_eq!(
                credentials.insecure(&host, &repository),
                best.is_some_and(|(_, complete)| *complete)
            );
        }
        assert!(chosen.iter().all(|&times| times > 300), "{chosen:?}");
    }

    #[test]
    fn a_login_is_known_in_every_form_in_which_it_may_come_back() {
        let key = r#"{"a":"b/c"}"#;
        let written = STANDARD.encode(key);
        for (proof, forms) in [
            (
                Proof::Password("u".into(), Secret::new("p/".into())),
                &["p/", "p%2F", "dTpwLw=="][..],
            ),
            (
                Proof::Password("_json_key".into(), Secret::new(written.clone())),
                &[
                    &written,
                    key,
                    &encode(&written),
                    &STANDARD.encode(format!("_json_key:{key}")),
                ],
            ),
            (
                Proof::Bearer(Secret::new("t/".into())),
                &["t/", "t%2F", "t/"],
            ),
            (Proof::IdentityToken(Secret::new("i".into())), &["i", "i"]),
        ] {
            let secrets = Credential::new(proof, String::new()).secrets();
            let found: Vec<&str> = secrets.iter().map(Secret::expose).collect();
            assert_eq!(found, forms);
        }
    }

    #[test]
    fn each_login_has_an_id_wherever_it_is_written() {
        let (credentials, _) = load(
            vec![
                entry("a.io/x", "u", "p", false),
                entry("a.io/y", "v", "p", false),
                entry("a.io/z", "u", "q", false),
            ],
            r#"{"auths": {"b.io": {"auth": "dTpw"}}}"#,
        );
        let ids: Vec<u64> = ["a.io/x/a", "a.io/y/a", "a.io/z/a", "b.io/a"]
            .into_iter()
            .map(|name| {
                let (host, repository) = crate::oci::reference::split_name(name).unwrap();
                login(&credentials, &host, &repository).unwrap().id
            })
            .collect();
        assert_eq!(ids[0], ids[3]);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3);
    }
}
