//! The `auth` part of a file: which credentials are meant for which registry or part of it, and how much may be asked of
//! a registry. Not here: which entry serves a request (`registry/credentials.rs`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Problem, ProblemKind};
use super::rule::Rule;
use super::tree::{Member, Node, Position, Value};
use super::variables::{self, Expanded, Form};
use super::{Reading, fields};
use crate::nearest::nearest;
use crate::oci::{Host, NameError, Repository};
use crate::secret::Secret;
use crate::store::{Connection, Limits, Place};

/// Credentials and their reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthEntry {
    /// Where the key stands.
    pub position: Position,
    /// The key as written, for messages.
    pub key: String,
    /// The registry.
    pub host: Host,
    /// The whole first components of the repositories it serves; empty for all of the registry's.
    pub path: String,
    /// Nothing where there is no whole one.
    pub login: Option<Login>,
    /// Whether certificates are not checked, and http is spoken where there is no https.
    pub insecure: bool,
    /// How much may be asked; nothing is bounded for a part of a registry.
    pub limits: Limits,
    /// How it is reached; as usual for a part of a registry. Paths are as seen from the current folder.
    pub connection: Connection,
}

/// How an entry gives a login. No text is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A user name and its password.
    Password(String, Secret),
    /// A user name, and the file that holds its password.
    PasswordFile(String, PathBuf),
    /// A token for the registry itself.
    Token(Secret),
    /// The file that holds such a token.
    TokenFile(PathBuf),
    /// The name of a credential helper, without `docker-credential-`.
    Helper(String),
}

/// Whether a password or token is written in these entries, that of a proxy too, and not only the name of a variable
/// that has it.
pub(crate) fn holds_password(members: &[Member]) -> bool {
    let mut fields = members.iter().flat_map(|member| match &member.value.value {
        Value::Object(fields) => fields.as_slice(),
        _ => &[],
    });
    fields.any(|field| {
        let is = |name: &str| field.key.eq_ignore_ascii_case(name);
        let value = &field.value.value;
        match value.text().or(value.number()) {
            Some(text) if is("password") || is("token") => {
                !text.is_empty() && !variables::is_whole(text)
            }
            Some(url) => is("proxy") && url.contains('@'),
            None => false,
        }
    })
}

/// Reads all entries.
pub(super) fn read(members: &[Member], reading: &mut Reading<'_>) -> Vec<AuthEntry> {
    let mut entries: Vec<AuthEntry> = Vec::new();
    let mut indexes = HashMap::new();
    for member in members {
        let Some(fields) = read_fields(&member.value, reading) else {
            continue;
        };
        let position = &member.position;
        let key = member.key.trim();
        let Some((host, path)) = read_key(key, position, reading) else {
            continue;
        };
        let mut warn = |text: String| reading.warnings.push(format!("{position}: {text}"));
        if key.starts_with("http://") && !fields.insecure {
            warn(format!(
                "auth key {key:?} does not make {host} speak http: add \"insecure\": true"
            ));
        }
        if !path.is_empty()
            && let Some((field, position)) = fields.first_of_whole()
        {
            let what = ProblemKind::FieldOfPart { field, host };
            reading.problems.push(Problem::at(position, what));
            continue;
        }
        if fields.holds_variable {
            warn(format!(
                "auth key {key:?}: `${{` inside a longer text is kept as it is; a user name or password is replaced \
                 only if it is ${{NAME}} as a whole"
            ));
        }
        if !fields.empty.is_empty() {
            let names = fields.empty.join(" and ");
            warn(format!(
                "auth key {key:?}: {names} set but empty: {host} is asked without credentials of this file"
            ));
        } else if fields.left_empty() {
            warn(format!(
                "auth key {key:?} has no username or no password: {host} is asked without credentials of this file"
            ));
        }
        let entry = AuthEntry {
            position: position.clone(),
            key: key.into(),
            host,
            path,
            login: fields.login(),
            insecure: fields.insecure,
            limits: fields.limits,
            connection: fields.connection,
        };
        let reach = (entry.host.clone(), entry.path.clone());
        // Half a login is none, but another one than another half.
        let half = (fields.username, fields.password, fields.token);
        let known = indexes.get(&reach);
        let first = known.and_then(|(index, half)| Some((entries.get(*index)?, half)));
        let Some((first, first_half)) = first else {
            indexes.insert(reach, (entries.len(), half));
            entries.push(entry);
            continue;
        };
        let in_its_place = AuthEntry {
            position: first.position.clone(),
            key: first.key.clone(),
            ..entry.clone()
        };
        if *first == in_its_place && *first_half == half {
            warn(format!(
                "auth key {key:?} says the same again as {:?} at {}; delete one",
                first.key, first.position
            ));
        } else {
            let what = ProblemKind::AuthTwice {
                key: entry.key,
                first_key: first.key.clone(),
                first: first.position.clone(),
            };
            reading.problems.push(Problem::at(position, what));
        }
    }
    entries
}

/// Warns of entries that no rule uses: most often the key has a typing error, and the registry would only say "denied".
pub(crate) fn warn_unused(entries: &[AuthEntry], rules: &[Rule], warnings: &mut Vec<String>) {
    let places = rules.iter().flat_map(|rule| {
        let targets = rule.targets.iter().map(|target| &target.place);
        targets.chain([&rule.source])
    });
    // Every part of a name that a key may have, so that each key is one look-up.
    let mut reached: HashSet<(&str, &str)> = HashSet::new();
    for place in places {
        if let Place::Registry(host, repository) = place {
            let path = repository.as_str();
            let ends = path.match_indices('/').map(|(at, _)| at);
            let parts = ends.chain([path.len()]).filter_map(|end| path.get(..end));
            reached.extend(parts.chain([""]).map(|part| (host.as_str(), part)));
        }
    }
    let hosts: BTreeSet<&str> = reached.iter().map(|(host, _)| *host).collect();
    for entry in entries {
        let host = entry.host.as_str();
        if reached.contains(&(host, entry.path.as_str())) {
            continue;
        }
        let hint = if hosts.contains(host) {
            format!("; rules name {host}, but not under {:?}", entry.path)
        } else {
            match nearest(host, hosts.iter().copied()) {
                Some(near) => format!("; is {near} meant?"),
                None => String::new(),
            }
        };
        warnings.push(format!(
            "{}: auth key {:?} matches no source and no target of any rule{hint}",
            entry.position, entry.key
        ));
    }
}

/// The registry and the path of a key, if it can match anything.
fn read_key(key: &str, position: &Position, reading: &mut Reading<'_>) -> Option<(Host, String)> {
    let mut name = key.to_owned();
    if !reading.expand(&mut name, Form::Any, position) {
        return None;
    }
    if name.contains('@') {
        // The key is not shown, since it may hold a password.
        reading.warnings.push(format!(
            "{position}: an auth key with a user name can never match and is ignored; write REGISTRY or \
             REGISTRY/NAMESPACE, and the user as `username`"
        ));
        return None;
    }
    match parse_key(&name) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            // The values of variables are not shown.
            let reason = if key == name {
                error.to_string()
            } else {
                "its variables make no such name".into()
            };
            reading.warnings.push(format!(
                "{position}: auth key {key:?} can never match and is ignored: {reason}; write REGISTRY or \
                 REGISTRY/NAMESPACE"
            ));
            None
        }
    }
}

/// The registry and the path of a key. A scheme is dropped, with the `/v1/` or `/v2/` that docker's own file writes
/// behind it (protocol.md G12, A25).
fn parse_key(key: &str) -> Result<(Host, String), NameError> {
    let bare = ["https://", "http://"]
        .iter()
        .find_map(|scheme| key.strip_prefix(scheme));
    let name = bare.unwrap_or(key).trim_end_matches('/');
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let path = match path {
        "v1" | "v2" if bare.is_some() => "",
        path => path,
    };
    let host = Host::parse(host)?;
    if !path.is_empty() {
        Repository::parse(path)?;
    }
    Ok((host, path.into()))
}

/// The fields of an entry as they were written.
#[derive(Default)]
struct Fields {
    username: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    helper: Option<String>,
    insecure: bool,
    limits: Limits,
    connection: Connection,
    /// The variables that are set and empty.
    empty: Vec<String>,
    /// Whether a text has a variable that is not replaced.
    holds_variable: bool,
    /// The names that were there.
    seen: Vec<(&'static str, Position)>,
}

impl Fields {
    /// The login, if there is a whole one.
    fn login(&self) -> Option<Login> {
        let given = |text: &Option<Secret>| text.clone().filter(|text| !text.is_empty());
        let user = self.username.clone().filter(|user| !user.is_empty());
        let password = user.clone().zip(given(&self.password));
        let file = user.zip(self.password_file.clone());
        password
            .map(|(user, password)| Login::Password(user, password))
            .or(file.map(|(user, path)| Login::PasswordFile(user, path)))
            .or(given(&self.token).map(Login::Token))
            .or(self.token_file.clone().map(Login::TokenFile))
            .or(self.helper.clone().map(Login::Helper))
    }

    /// Whether credentials were begun but not given: a field without text, as a missing variable leaves it, or one
    /// field of two.
    fn left_empty(&self) -> bool {
        let is_login = |name: &str| name == "username" || LOGINS.contains(&name);
        self.login().is_none() && self.seen.iter().any(|(name, _)| is_login(name))
    }

    /// What is wrong with two fields that are two logins, or with a user name that nothing has a use for.
    fn conflict(&self) -> Option<Problem> {
        let is_given = |name: &str| match name {
            "username" => self.username.is_some(),
            "password" => self.password.is_some(),
            "password_file" => self.password_file.is_some(),
            "token" => self.token.is_some(),
            "token_file" => self.token_file.is_some(),
            "helper" => self.helper.is_some(),
            _ => false,
        };
        let given = || self.seen.iter().filter(|(name, _)| is_given(name));
        let (login, place) = given().find(|(name, _)| LOGINS.contains(name))?;
        let has_user = login.starts_with("password");
        let mut others = given().filter(|(name, _)| name != login);
        let (field, position) = others.find(|(name, _)| !(has_user && *name == "username"))?;
        let what = ProblemKind::TwoLogins {
            field,
            login,
            place: place.clone(),
        };
        Some(Problem::at(position, what))
    }

    /// Takes a text that may be a variable as a whole.
    fn take_login(&mut self, field: &str, written: &str, expanded: Expanded<'_>) {
        let Expanded { text, empty } = expanded;
        self.empty.extend(empty.into_iter().map(String::from));
        self.holds_variable |= written == text && written.contains("${");
        match field {
            "username" => self.username = Some(text.into()),
            "password" => self.password = Some(Secret::new(text.into())),
            _ => self.token = Some(Secret::new(text.into())),
        }
    }

    /// The first field that is one of whole registries, and where it stands.
    fn first_of_whole(&self) -> Option<(&'static str, &Position)> {
        let is_of_whole = |name: &str| LIMITS.contains(&name) || OF_CONNECTION.contains(&name);
        let field = self.seen.iter().find(|(name, _)| is_of_whole(name));
        field.map(|(name, position)| (*name, position))
    }

    /// Takes a text that says how the registry is reached.
    fn read_connection(&mut self, field: &str, text: &str, file: &str) {
        let path = || Some(path_in(file, text)).filter(|_| !text.is_empty());
        let connection = &mut self.connection;
        match field {
            "ca" => connection.ca = path(),
            "cert" => connection.cert = path(),
            "key" => connection.key = path(),
            _ => connection.proxy = Some(Secret::new(text.to_owned())),
        }
    }

    /// Takes the text of a limit, if it is one.
    fn read_limit(&mut self, field: &str, text: &str) -> bool {
        let limits = &mut self.limits;
        match field {
            "concurrency" => {
                limits.concurrency = text.parse().ok().filter(|number| *number > 0);
                limits.concurrency.is_some()
            }
            "requests_per_second" => {
                let rate = text.parse().ok().filter(|rate| (0.001..1e9).contains(rate));
                limits.interval = rate.map(|rate: f64| Duration::from_secs_f64(rate.recip()));
                limits.interval.is_some()
            }
            "bandwidth" => {
                limits.bandwidth = parse_bytes(text).filter(|bytes| *bytes > 0);
                limits.bandwidth.is_some()
            }
            _ => false,
        }
    }
}

fn read_fields(entry: &Node, reading: &mut Reading<'_>) -> Option<Fields> {
    let Reading {
        environment,
        problems,
        ..
    } = reading;
    let members = match &entry.value {
        Value::Object(members) => members.as_slice(),
        Value::Null => &[],
        _ => {
            problems.push(Problem::kind(
                entry,
                "an auth entry",
                "an object such as {\"username\": \"NAME\", \"password\": \"WORD\"}",
            ));
            return None;
        }
    };
    let mut fields = Fields::default();
    for (field, member) in fields::fields("an auth entry", &FIELDS, members, problems) {
        fields.seen.push((field, member.position.clone()));
        match (field, &member.value.value) {
            (_, Value::Null) => {}
            ("insecure", value) if let Some(insecure) = value.boolean() => {
                fields.insecure = insecure;
            }
            ("plain_http", value) if let Some(plain) = value.boolean() => {
                fields.connection.plain_http = plain;
            }
            ("ca" | "cert" | "key" | "proxy", value) if let Some(text) = value.text() => {
                fields.read_connection(field, text, &member.position.file);
            }
            // Some registries give their users numbers for names.
            ("username" | "password" | "token", value)
                if let Some(text) = value.text().or(value.number()) =>
            {
                match variables::whole(text, environment) {
                    Ok(expanded) => fields.take_login(field, text, expanded),
                    Err(what) => problems.push(Problem::at(&member.value.position, what)),
                }
            }
            ("password_file" | "token_file", value) if let Some(text) = value.text() => {
                let path = path_in(&member.position.file, text);
                match check_file(&path) {
                    Err(error) => {
                        let what = ProblemKind::LoginFile { field, path, error };
                        problems.push(Problem::at(&member.position, what));
                    }
                    Ok(()) if field == "token_file" => fields.token_file = Some(path),
                    Ok(()) => fields.password_file = Some(path),
                }
            }
            ("helper", value)
                if let Some(text) = value.text()
                    && is_helper(text) =>
            {
                fields.helper = Some(text.to_owned());
            }
            (field, value)
                if value
                    .number()
                    .is_some_and(|text| fields.read_limit(field, text)) => {}
            ("bandwidth", Value::String(text)) if fields.read_limit("bandwidth", text) => {}
            (field, value) => {
                let expected = match field {
                    "insecure" | "plain_http" => "true or false without quotes",
                    "helper" => {
                        "what follows \"docker-credential-\" in the name of the program, such as \"ecr-login\""
                    }
                    "concurrency" => "a whole number of requests at once, such as 4",
                    "requests_per_second" => "a number from 0.001 up, such as 10 or 0.5",
                    "bandwidth" => {
                        "bytes a second: a whole number or a text such as \"10MB\" or \"10MiB\""
                    }
                    _ => "a text in quotes",
                };
                problems.push(match value {
                    Value::Number(text) | Value::String(text) | Value::Word(text)
                        if field == "helper" || LIMITS.contains(&field) =>
                    {
                        Problem::range(&member.value, field, expected, text)
                    }
                    _ => Problem::kind(&member.value, field, expected),
                });
            }
        }
    }
    problems.extend(fields.conflict());
    Some(fields)
}

/// A path that stands in a file, where a relative one begins at the folder of the file.
fn path_in(file: &str, path: &str) -> PathBuf {
    let folder = Path::new(file).parent();
    folder.unwrap_or(Path::new("")).join(path)
}

/// Whether a file can be read, not only once.
fn check_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    if file.metadata()?.is_file() {
        Ok(())
    } else {
        Err(io::Error::other("it is not a file"))
    }
}

/// Whether a text can be part of a program's name, and is not the whole of it.
fn is_helper(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty() && name.bytes().all(fits) && !name.starts_with("docker-credential-")
}

/// A number of bytes with a unit of a thousand or of 1024, or without one.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim_start() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The fields of an entry.
pub(crate) const FIELDS: [&str; 15] = [
    "username",
    "password",
    "password_file",
    "token",
    "token_file",
    "helper",
    "insecure",
    "ca",
    "cert",
    "key",
    "plain_http",
    "proxy",
    "concurrency",
    "requests_per_second",
    "bandwidth",
];
/// Those that are a login, or all of one but the user name: there can be one.
const LOGINS: [&str; 5] = ["password", "password_file", "token", "token_file", "helper"];
/// Those that say how a registry is reached.
const OF_CONNECTION: [&str; 5] = ["ca", "cert", "key", "plain_http", "proxy"];
/// Those that bound what may be asked.
const LIMITS: [&str; 3] = ["concurrency", "requests_per_second", "bandwidth"];
