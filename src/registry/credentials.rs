//! Which credential is for which repository: the entries of `auth`, then docker's own config.json (protocol.md 3.4).
//! Not here: tokens (`auth.rs`), where a credential may go (`url.rs`), credential helpers.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde_json::Value;
use zeroize::Zeroizing;

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
    /// Who we are.
    pub(crate) username: Option<String>,
    /// How we prove it.
    pub(crate) password: Option<Secret>,
    /// The registry may be spoken to without TLS, or with a certificate that nobody vouches for.
    pub(crate) insecure: bool,
}

/// A user name and password.
#[derive(Debug)]
pub(crate) struct Credential {
    /// Tells logins apart in keys, without their content.
    pub(crate) id: u64,
    /// Who we are.
    pub(crate) username: String,
    /// How we prove it.
    pub(crate) password: Secret,
    /// Where this was written, for messages: `auth key "quay.io/coreos"`.
    pub(crate) origin: String,
}

impl Credential {
    /// The value of an `Authorization` header.
    pub(crate) fn basic(&self) -> Result<Secret, CredentialError> {
        // A password may hold line breaks (Google's JSON keys do), they are encoded; a colon would end the name early
        // and the rest would be taken for the password (A28, RFC 7617).
        let refused = |c: &char| *c == ':' || c.is_control();
        if let Some(character) = self.username.chars().find(refused) {
            return Err(CredentialError {
                origin: self.origin.clone(),
                character,
            });
        }
        let pair = Zeroizing::new(format!("{}:{}", self.username, self.password.expose()));
        let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        Ok(Secret::new(format!("Basic {}", *encoded)))
    }
}

/// A user name that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CredentialError {
    /// Where the credential was written.
    pub(crate) origin: String,
    /// What no user name may hold.
    pub(crate) character: char,
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, character } = self;
        write!(
            f,
            "the user name of {origin} holds {character:?}, which no user name may: is it \"user:password\" in one?"
        )
    }
}

impl std::error::Error for CredentialError {}

/// All credentials of a run.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    entries: Table<Chosen>,
    docker: Table<Arc<Credential>>,
}

/// What an entry of `auth` decides.
#[derive(Debug)]
struct Chosen {
    insecure: bool,
    credential: Option<Arc<Credential>>,
}

impl Credentials {
    /// The credentials of `auth`, and of docker's file at `docker`, if there is one. A file that cannot be read or
    /// understood gives a warning: many who run this program do not know that they have it.
    pub(crate) fn load(entries: Vec<Entry>, docker: Option<&Path>) -> (Self, Vec<String>) {
        let Some(path) = docker else {
            return Self::new(entries, None);
        };
        match read_bounded(path) {
            Ok(content) => Self::new(entries, Some(&content)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Self::new(entries, None)
            }
            Err(error) => {
                let (credentials, mut warnings) = Self::new(entries, None);
                warnings.push(format!(
                    "{} is not used: it cannot be read: {error}",
                    path.display()
                ));
                (credentials, warnings)
            }
        }
    }

    /// The credentials of `auth` and of the content of a docker config.json, with warnings about the latter. Of two
    /// entries for one path the later counts.
    pub(crate) fn new(entries: Vec<Entry>, docker: Option<&[u8]>) -> (Self, Vec<String>) {
        let mut credentials = Self::default();
        let mut warnings = Vec::new();
        let mut known: Vec<Arc<Credential>> = Vec::new();
        let mut credential = |username: String, password: Secret, origin: String| {
            // One login in two entries is one: an account is locked however often its password is written.
            let same = known.iter().find(|known| {
                known.username == username && known.password.expose() == password.expose()
            });
            let credential = Arc::new(Credential {
                id: same.map_or(known.len() as u64 + 1, |same| same.id),
                username,
                password,
                origin,
            });
            known.push(credential.clone());
            credential
        };
        for entry in entries {
            let pair = complete(entry.username, entry.password);
            let chosen = Chosen {
                credential: pair.map(|(username, password)| {
                    credential(username, password, format!("auth key {:?}", entry.key))
                }),
                insecure: entry.insecure,
            };
            credentials.entries.insert(entry.host, entry.path, chosen);
        }
        match docker.map(read_docker) {
            None => {}
            Some(Err(problem)) => {
                warnings.push(format!("docker's config.json is not used: {problem}"));
            }
            Some(Ok(found)) => {
                for DockerEntry {
                    key,
                    host,
                    path,
                    pair,
                } in found
                {
                    match pair {
                        Ok(Some((username, password))) => {
                            let origin = format!("docker's config.json, key {key:?}");
                            let credential = credential(username, password, origin);
                            credentials.docker.insert(host, path, credential);
                        }
                        Ok(None) => {}
                        Err(problem) => warnings.push(format!(
                            "docker's config.json: the entry {key:?} is not used: {problem}"
                        )),
                    }
                }
            }
        }
        (credentials, warnings)
    }

    /// The credential for a repository; `None`: it is asked anonymously.
    ///
    /// The entry of `auth` with the longest path decides. If it lacks a user name or a password, or if there is no
    /// such entry, docker's file does, as the original program has it (original.md 1.1).
    pub(crate) fn lookup(&self, host: &Host, repository: &Repository) -> Option<Arc<Credential>> {
        self.entries
            .longest(host, repository)
            .and_then(|chosen| chosen.credential.as_ref())
            .or_else(|| self.docker.longest(host, repository))
            .cloned()
    }

    /// Whether the entry that decides for a repository says `insecure`.
    pub(crate) fn insecure(&self, host: &Host, repository: &Repository) -> bool {
        self.entries
            .longest(host, repository)
            .is_some_and(|chosen| chosen.insecure)
    }
}

/// Where docker keeps its credentials, given `$DOCKER_CONFIG` and `$HOME` (A23).
pub(crate) fn docker_config_path(
    docker_config: Option<OsString>,
    home: Option<OsString>,
) -> Option<PathBuf> {
    let given = |variable: Option<OsString>| variable.filter(|value| !value.is_empty());
    let folder = given(docker_config)
        .map(PathBuf::from)
        .or_else(|| given(home).map(|home| Path::new(&home).join(".docker")))?;
    Some(folder.join("config.json"))
}

/// Values by registry and by the first components of a repository.
#[derive(Debug)]
struct Table<T>(HashMap<Host, BTreeMap<String, T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Table<T> {
    fn insert(&mut self, host: Host, path: String, value: T) {
        self.0.entry(host).or_default().insert(path, value);
    }

    /// The value with the longest path that the repository begins with, by whole components (S03).
    fn longest(&self, host: &Host, repository: &Repository) -> Option<&T> {
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

/// An entry of docker's `auths`.
struct DockerEntry {
    key: String,
    host: Host,
    path: String,
    pair: Result<Option<(String, Secret)>, DockerError>,
}

/// What is wrong in docker's file. It never holds what stands there.
#[derive(Debug)]
enum DockerError {
    /// Not JSON.
    Json(serde_json::Error),
    /// A part that is no object.
    NotAnObject(&'static str),
    /// An `auth` that is not base64 of `user:password`.
    Auth,
}

impl fmt::Display for DockerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "it is not JSON: {error}"),
            Self::NotAnObject(what) => write!(f, "{what} is not an object"),
            Self::Auth => write!(f, "its `auth` is not base64 of user:password"),
        }
    }
}

/// The entries of `auths` in the order in which they are to count, the last one most: keys that are URLs, then names
/// as they are, then the one key that docker itself uses for its Hub (A25).
fn read_docker(content: &[u8]) -> Result<Vec<DockerEntry>, DockerError> {
    let file: Value = serde_json::from_slice(content).map_err(DockerError::Json)?;
    let Value::Object(mut file) = file else {
        return Err(DockerError::NotAnObject("it"));
    };
    let auths = match file.remove("auths") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(auths)) => auths,
        Some(_) => return Err(DockerError::NotAnObject("`auths`")),
    };
    let mut found: Vec<_> = auths
        .into_iter()
        .filter_map(|(key, value)| {
            let (host, path) = split_docker_key(&key)?;
            Some(DockerEntry {
                pair: read_docker_entry(value),
                key,
                host,
                path,
            })
        })
        .collect();
    found.sort_by_key(|entry| (entry.key == HUB_KEY, !entry.key.contains("://")));
    Ok(found)
}

/// Registry and path of a key of `auths`. What follows the host in a URL is the version of an API that is long gone;
/// without a scheme it is a path, as podman writes it. A key that names no registry is not ours to judge.
fn split_docker_key(key: &str) -> Option<(Host, String)> {
    let (scheme, name) = key.split_once("://").unwrap_or(("", key));
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let path = path.trim_end_matches('/');
    let path = if !scheme.is_empty() || matches!(path, "v1" | "v2") {
        ""
    } else {
        path
    };
    Some((Host::parse(host).ok()?, path.to_owned()))
}

/// User name and password of an entry; nothing if it says that they are elsewhere (A24).
fn read_docker_entry(entry: Value) -> Result<Option<(String, Secret)>, DockerError> {
    let Value::Object(mut entry) = entry else {
        return Err(DockerError::NotAnObject("it"));
    };
    let mut text = |name| match entry.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    let Some(auth) = text("auth").map(Zeroizing::new) else {
        return Ok(complete(
            text("username"),
            text("password").map(Secret::new),
        ));
    };
    let decoded = BASE64
        .decode(auth.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| DockerError::Auth)?;
    let pair = std::str::from_utf8(&decoded).map_err(|_| DockerError::Auth)?;
    let (username, password) = pair.split_once(':').ok_or(DockerError::Auth)?;
    // Old versions of docker filled up with NUL.
    let password = Secret::new(password.trim_matches('\0').to_owned());
    Ok(complete(Some(username.to_owned()), Some(password)))
}

/// Both or nothing: half a credential is none.
fn complete(username: Option<String>, password: Option<Secret>) -> Option<(String, Secret)> {
    let username = username.filter(|username| !username.is_empty())?;
    let password = password.filter(|password| !password.is_empty())?;
    Some((username, password))
}

fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

const HUB_KEY: &str = "https://index.docker.io/v1/";
const MAX_FILE: u64 = 1024 * 1024;
/// Some programs leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn entry(key: &str, username: &str, password: &str, insecure: bool) -> Entry {
        let (host, path) = key.split_once('/').unwrap_or((key, ""));
        let given = |text: &str| (text != "-").then(|| text.to_owned());
        Entry {
            key: key.into(),
            host: Host::parse(host).unwrap(),
            path: path.into(),
            username: given(username),
            password: given(password).map(Secret::new),
            insecure,
        }
    }

    /// Where the credential for an image comes from, and its parts: `origin user password`.
    fn found(credentials: &Credentials, name: &str) -> String {
        let (host, repository) = crate::oci::reference::split_name(name).unwrap();
        match credentials.lookup(&host, &repository) {
            Some(c) => format!("{} {} {}", c.origin, c.username, c.password.expose()),
            None => "none".into(),
        }
    }

    #[test]
    fn the_longest_path_of_whole_components_decides() {
        let (credentials, warnings) = Credentials::new(
            vec![
                entry("quay.io", "all", "1", false),
                entry("quay.io/coreos", "coreos", "2", true),
                entry("quay.io/coreos/etcd/v3", "v3", "3", false),
                entry("quay.io/empty", "-", "-", true),
                entry("index.docker.io", "hub", "4", false),
                entry("only.io/ns", "ns", "5", false),
                entry("half.io", "user", "", false),
            ],
            Some(br#"{"auths": {"quay.io/empty": {"auth": "ZDo2"}, "half.io": {"auth": "ZDo3"}, "d.io": {"auth": "ZDo4"}}}"#),
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
            // An entry without a complete credential is no credential, but docker's file may have one.
            (
                "quay.io/empty/x",
                "docker's config.json, key \"quay.io/empty\" d 6",
            ),
            ("half.io/x", "docker's config.json, key \"half.io\" d 7"),
            ("d.io/x", "docker's config.json, key \"d.io\" d 8"),
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
        let file = br#"{
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
                "half.io": {"username": "u"},
                "not a host": {"auth": "dTpw"},
                "null.io": {"auth": null}
            },
            "credsStore": "desktop",
            "HttpHeaders": {"User-Agent": "x"}
        }"#;
        let (credentials, warnings) = Credentials::new(Vec::new(), Some(file));
        assert_eq!(warnings, Vec::<String>::new());
        let key = |key: &str, pair: &str| format!("docker's config.json, key {key:?} {pair}");
        for (name, expected) in [
            ("nginx", key("https://index.docker.io/v1/", "hub pw")),
            ("ghcr.io/x", key("ghcr.io", "name pw")),
            ("lan:5000/x", key("http://lan:5000/v2/", "lan pw:")),
            ("quay.io/x/y", key("QUAY.io/v1", "nul pw")),
            ("pod.man/ns/repo", key("pod.man/ns/repo/", "u p")),
            ("pod.man/ns/other", key("pod.man", "v p")),
            ("store.io/x", "none".into()),
            ("token.io/x", "none".into()),
            ("half.io/x", "none".into()),
            ("null.io/x", "none".into()),
        ] {
            assert_eq!(found(&credentials, name), expected, "{name}");
        }
    }

    #[test]
    fn an_odd_docker_file_is_a_warning_that_tells_no_secret() {
        for (file, expected) in [
            (
                "",
                "docker's config.json is not used: it is not JSON: EOF while parsing a value at line 1 column 0",
            ),
            (
                "[]",
                "docker's config.json is not used: it is not an object",
            ),
            (
                "{\"auths\": \"hunter2\"}",
                "docker's config.json is not used: `auths` is not an object",
            ),
            (
                "{\"auths\": {\"a.io\": \"hunter2\"}}",
                "docker's config.json: the entry \"a.io\" is not used: it is not an object",
            ),
            (
                "{\"auths\": {\"a.io\": {\"auth\": \"hunter2!\"}}}",
                "docker's config.json: the entry \"a.io\" is not used: its `auth` is not base64 of user:password",
            ),
            (
                "{\"auths\": {\"a.io\": {\"auth\": \"aHVudGVyMg==\"}}}",
                "docker's config.json: the entry \"a.io\" is not used: its `auth` is not base64 of user:password",
            ),
        ] {
            let (credentials, warnings) = Credentials::new(Vec::new(), Some(file.as_bytes()));
            assert_eq!(warnings, [expected], "{file}");
            assert_eq!(found(&credentials, "a.io/x"), "none", "{file}");
        }
        for file in ["{}", "{\"auths\": null}", "{\"auths\": {}}"] {
            assert!(
                Credentials::new(Vec::new(), Some(file.as_bytes()))
                    .1
                    .is_empty(),
                "{file}"
            );
        }
    }

    #[test]
    fn the_docker_file_is_where_docker_has_it() {
        let path = |docker_config: &str, home: &str| {
            docker_config_path(Some(docker_config.into()), Some(home.into()))
        };
        assert_eq!(path("/d", "/h"), Some("/d/config.json".into()));
        assert_eq!(path("", "/h"), Some("/h/.docker/config.json".into()));
        assert_eq!(path("", ""), None);
        assert_eq!(docker_config_path(None, None), None);
    }

    #[test]
    fn a_docker_file_that_is_not_there_is_nothing_to_speak_of() {
        let own = || vec![entry("a.io", "u", "p", false)];
        for (path, warned) in [
            (None, false),
            (Some("/no/such/config.json"), false),
            (Some("/dev/null/config.json"), false),
            (Some("/proc"), true),
            (Some("/dev/zero"), true),
        ] {
            let (credentials, warnings) = Credentials::load(own(), path.map(Path::new));
            assert_eq!(
                warnings.len(),
                usize::from(warned),
                "{path:?}: {warnings:?}"
            );
            assert_eq!(found(&credentials, "a.io/x"), "auth key \"a.io\" u p");
        }
    }

    #[test]
    fn basic_refuses_names_that_would_be_read_differently() {
        let basic = |username: &str, password: &str| {
            let (credentials, _) =
                Credentials::new(vec![entry("a.io", username, password, false)], None);
            let host = Host::parse("a.io").unwrap();
            let credential = credentials
                .lookup(&host, &Repository::parse("x").unwrap())
                .unwrap();
            assert!(!format!("{credential:?}").contains(password));
            credential.basic().map(|secret| secret.expose().to_owned())
        };
        assert_eq!(
            basic("Aladdin", "open sesame").unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(
            basic("_json_key", "{\n}").unwrap(),
            "Basic X2pzb25fa2V5OnsKfQ=="
        );
        for (username, character) in [
            ("a:b", ':'),
            ("a\r\nX: y", '\r'),
            ("a\n", '\n'),
            ("\0", '\0'),
        ] {
            let error = basic(username, "hunter2").unwrap_err();
            assert_eq!(
                (error.origin.as_str(), error.character),
                ("auth key \"a.io\"", character)
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
            let (credentials, _) = Credentials::new(own, Some(file.as_bytes()));

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
                (_, Some(key)) => format!("docker's config.json, key {key:?} d p"),
                _ => "none".to_owned(),
            };
            chosen[match expected.as_bytes()[0] {
                b'a' => 0,
                b'd' => 1,
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
    fn each_login_has_an_id_wherever_it_is_written() {
        let (credentials, _) = Credentials::new(
            vec![
                entry("a.io/x", "u", "p", false),
                entry("a.io/y", "v", "p", false),
                entry("a.io/z", "u", "q", false),
            ],
            Some(br#"{"auths": {"b.io": {"auth": "dTpw"}}}"#),
        );
        let ids: Vec<u64> = ["a.io/x/a", "a.io/y/a", "a.io/z/a", "b.io/a"]
            .into_iter()
            .map(|name| {
                let (host, repository) = crate::oci::reference::split_name(name).unwrap();
                credentials.lookup(&host, &repository).unwrap().id
            })
            .collect();
        assert_eq!(ids[0], ids[3]);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3);
    }
}
