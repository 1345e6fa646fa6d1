//! The logins that docker and podman keep: `config.json` and `auth.json`, which have one form (protocol.md 3.4). Not
//! here: which of them is used for what (`credentials.rs`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;
use zeroize::Zeroizing;

use super::credentials::{Credential, Proof, Table};
use super::helper::HUB_KEY;
use crate::oci::Host;
use crate::secret::Secret;

/// Where logins may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file that the user named: it is missed where it is not there.
    Named(PathBuf),
    /// A file that may be there.
    Usual(PathBuf),
    /// The content of `DOCKER_AUTH_CONFIG`.
    Variable(Secret),
}

/// Where other programs keep logins, the most specific first (A23). `variable` looks up one of the environment.
pub(crate) fn places(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    let below = |name, path| Some(Path::new(&given(name)?).join(path));
    let named = given("REGISTRY_AUTH_FILE").map(|path| Place::Named(path.into()));
    let content = given("DOCKER_AUTH_CONFIG")
        .map(|text| Place::Variable(Secret::new(text.to_string_lossy().into_owned())));
    let usual = [
        below("XDG_RUNTIME_DIR", "containers/auth.json"),
        below("XDG_CONFIG_HOME", "containers/auth.json")
            .or_else(|| below("HOME", ".config/containers/auth.json")),
        below("DOCKER_CONFIG", "config.json").or_else(|| below("HOME", ".docker/config.json")),
    ];
    let usual = usual.into_iter().flatten().map(Place::Usual);
    named.into_iter().chain(content).chain(usual).collect()
}

/// What one place holds.
#[derive(Debug, Default)]
pub(crate) struct AuthFile {
    /// Its path, or the name of the variable.
    pub(crate) name: String,
    /// The helpers that know the logins of some registries.
    pub(crate) helpers: HashMap<Host, String>,
    /// The helper that knows those of all others.
    pub(crate) store: Option<String>,
    /// The logins that stand there themselves.
    pub(super) logins: Table<Arc<Credential>>,
}

/// Reads a place, if there is anything. What cannot be read or understood is a warning, which tells no secret.
pub(crate) fn load(place: Place, warnings: &mut Vec<String>) -> Option<AuthFile> {
    let is_named = !matches!(place, Place::Usual(_));
    let (name, read) = match place {
        Place::Variable(text) => {
            let bytes = Zeroizing::new(text.expose().as_bytes().to_vec());
            ("DOCKER_AUTH_CONFIG".to_owned(), Ok(bytes))
        }
        Place::Named(path) | Place::Usual(path) => {
            (path.display().to_string(), read_bounded(&path, MAX_FILE))
        }
    };
    let content = match read {
        Ok(content) => content,
        Err(error) => {
            use io::ErrorKind::{NotADirectory, NotFound};
            if is_named || !matches!(error.kind(), NotFound | NotADirectory) {
                warnings.push(format!("{name} is not used: it cannot be read: {error}"));
            }
            return None;
        }
    };
    parse(&name, &content, warnings)
        .map_err(|error| warnings.push(format!("{name} is not used: {error}")))
        .ok()
}

/// Keys that are URLs count least, then names as they are, then the one key that docker itself uses for its Hub (A25).
fn parse(name: &str, content: &[u8], warnings: &mut Vec<String>) -> Result<AuthFile, FileError> {
    let file: Value = serde_json::from_slice(content).map_err(FileError::Json)?;
    let Value::Object(mut file) = file else {
        return Err(FileError::NotAnObject("it"));
    };
    let auths = object(file.remove("auths"), "`auths`")?;
    let mut auths: Vec<(String, Value)> = auths.into_iter().collect();
    auths.sort_by_key(|(key, _)| (key == HUB_KEY, !key.contains("://")));
    let mut logins = Table::default();
    for (key, value) in auths {
        let Some((host, path)) = split_key(&key) else {
            continue;
        };
        match read_entry(value) {
            Ok(Some(proof)) => {
                let credential = Credential::new(proof, format!("{name}, key {key:?}"));
                logins.insert(host, path, Arc::new(credential));
            }
            Ok(None) => {}
            Err(error) => {
                warnings.push(format!("{name}: the entry {key:?} is not used: {error}"));
            }
        }
    }
    let helpers = object(file.remove("credHelpers"), "`credHelpers`")?;
    let helpers = helpers.into_iter().filter_map(|(key, name)| {
        let (host, _) = split_key(&key)?;
        Some((host, helper(name)?))
    });
    Ok(AuthFile {
        name: name.to_owned(),
        helpers: helpers.collect(),
        store: file.remove("credsStore").and_then(helper),
        logins,
    })
}

/// The name of a helper; docker takes an empty one for none.
fn helper(name: Value) -> Option<String> {
    match name {
        Value::String(name) if !name.is_empty() => Some(name),
        _ => None,
    }
}

/// The members of a part, none if it is not there.
fn object(
    part: Option<Value>,
    what: &'static str,
) -> Result<serde_json::Map<String, Value>, FileError> {
    match part {
        None | Some(Value::Null) => Ok(serde_json::Map::new()),
        Some(Value::Object(members)) => Ok(members),
        Some(_) => Err(FileError::NotAnObject(what)),
    }
}

/// Registry and path of a key. What follows the host in a URL is the version of an API that is long gone; without a
/// scheme it is a path, as podman writes it. A key that names no registry is not ours to judge.
fn split_key(key: &str) -> Option<(Host, String)> {
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

/// The login of an entry; nothing if it says that it is elsewhere (A24).
fn read_entry(entry: Value) -> Result<Option<Proof>, FileError> {
    let Value::Object(mut entry) = entry else {
        return Err(FileError::NotAnObject("it"));
    };
    let mut text = |name| match entry.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    // Beside a token the other fields are remains, or say that there is one (A24).
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Proof::Bearer(Secret::new(token))));
    }
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Proof::IdentityToken(Secret::new(token))));
    }
    let Some(auth) = text("auth").map(Zeroizing::new) else {
        let password = text("password").map(Secret::new);
        return Ok(Proof::password(text("username"), password));
    };
    let decoded = BASE64
        .decode(auth.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| FileError::Auth)?;
    let pair = std::str::from_utf8(&decoded).map_err(|_| FileError::Auth)?;
    let (username, password) = pair.split_once(':').ok_or(FileError::Auth)?;
    // Old versions of docker filled up with NUL.
    let password = Secret::new(password.trim_matches('\0').to_owned());
    Ok(Proof::password(Some(username.to_owned()), Some(password)))
}

/// A regular file, or one like it that is not endless: of so many bytes at most.
pub(super) fn read_bounded(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)?.take(max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// What is wrong in a file. It never holds what stands there.
#[derive(Debug)]
enum FileError {
    /// Not JSON.
    Json(serde_json::Error),
    /// A part that is no object.
    NotAnObject(&'static str),
    /// An `auth` that is not base64 of `user:password`.
    Auth,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "it is not JSON: {error}"),
            Self::NotAnObject(what) => write!(f, "{what} is not an object"),
            Self::Auth => write!(f, "its `auth` is not base64 of user:password"),
        }
    }
}

/// Bytes of a file that holds logins.
pub(super) const MAX_FILE: u64 = 1 << 20;
/// Some programs leave the padding out.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Repository;

    /// Whether a file has a login for `a.io`, and the warnings.
    fn read(content: &str) -> (bool, Vec<String>) {
        let mut warnings = Vec::new();
        let place = Place::Variable(Secret::new(content.into()));
        let file = load(place, &mut warnings).unwrap_or_default();
        let (host, repository) = (Host::parse("a.io"), Repository::parse("x"));
        let login = file.logins.longest(&host.unwrap(), &repository.unwrap());
        (login.is_some(), warnings)
    }

    #[test]
    fn an_odd_file_is_a_warning_that_tells_no_secret() {
        for (file, expected) in [
            (
                "{",
                "is not used: it is not JSON: EOF while parsing an object at line 1 column 1",
            ),
            ("[]", "is not used: it is not an object"),
            (
                r#"{"auths": "hunter2"}"#,
                "is not used: `auths` is not an object",
            ),
            (
                r#"{"auths": {"a.io": "hunter2"}}"#,
                ": the entry \"a.io\" is not used: it is not an object",
            ),
            (
                r#"{"auths": {"a.io": {"auth": "hunter2!"}}}"#,
                ": the entry \"a.io\" is not used: its `auth` is not base64 of user:password",
            ),
            (
                r#"{"auths": {"a.io": {"auth": "aHVudGVyMg=="}}}"#,
                ": the entry \"a.io\" is not used: its `auth` is not base64 of user:password",
            ),
        ] {
            let separator = if expected.starts_with(':') { "" } else { " " };
            let expected = format!("DOCKER_AUTH_CONFIG{separator}{expected}");
            assert_eq!(read(file), (false, vec![expected]), "{file}");
        }
        for file in ["{}", r#"{"auths": null}"#, r#"{"auths": {}}"#] {
            assert_eq!(read(file), (false, Vec::new()), "{file}");
        }
    }

    #[test]
    fn the_most_specific_place_is_first() {
        let all = [
            ("REGISTRY_AUTH_FILE", "/named"),
            ("DOCKER_AUTH_CONFIG", "{}"),
            ("XDG_RUNTIME_DIR", "/run"),
            ("XDG_CONFIG_HOME", "/config"),
            ("DOCKER_CONFIG", "/docker"),
            ("HOME", "/home"),
        ];
        let of = |variables: &[(&str, &str)]| {
            places(&|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            })
        };
        let usual = |path: &str| Place::Usual(path.into());
        assert_eq!(
            of(&all),
            [
                Place::Named("/named".into()),
                Place::Variable(Secret::new("{}".into())),
                usual("/run/containers/auth.json"),
                usual("/config/containers/auth.json"),
                usual("/docker/config.json"),
            ]
        );
        let of_home = [
            usual("/home/.config/containers/auth.json"),
            usual("/home/.docker/config.json"),
        ];
        assert_eq!(of(&all[5..]), of_home);
        let empty = all.map(|(name, value)| (name, if name == "HOME" { value } else { "" }));
        assert_eq!(of(&empty), of_home);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn only_a_file_that_was_named_is_missed() {
        let usual = |path: &str| Place::Usual(path.into());
        for (place, warned) in [
            (usual("/no/such/config.json"), false),
            (usual("/dev/null/config.json"), false),
            (usual("/proc"), true),
            (usual("/dev/zero"), true),
            (Place::Named("/no/such/auth.json".into()), true),
        ] {
            let mut warnings = Vec::new();
            assert!(load(place.clone(), &mut warnings).is_none());
            let count = usize::from(warned);
            assert_eq!(warnings.len(), count, "{place:?}: {warnings:?}");
        }
    }
}
