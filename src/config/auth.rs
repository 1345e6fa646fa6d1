//! The `auth` part of a file: which credentials are meant for which registry or part of it, and how much may be asked of
//! a registry. Not here: which entry serves a request (`registry/credentials.rs`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use super::error::{Problem, ProblemKind};
use super::rule::Rule;
use super::tree::{Member, Node, Position, Value};
use crate::nearest::nearest;
use crate::oci::{Host, NameError, Repository};
use crate::secret::Secret;
use crate::store::{Connection, Limits, Place};

/// Credentials and their reach.
#[derive(Clone, Debug)]
pub struct AuthEntry {
    /// Where the key stands.
    pub position: Position,
    /// The key as written, for messages.
    pub key: String,
    /// The registry.
    pub host: Host,
    /// The whole first components of the repositories it serves; empty for all of the registry's.
    pub path: String,
    /// Never empty.
    pub username: Option<String>,
    /// Never empty.
    pub password: Option<Secret>,
    /// Whether certificates are not checked, and http is spoken where there is no https.
    pub insecure: bool,
    /// How much may be asked; nothing is bounded for a part of a registry.
    pub limits: Limits,
    /// How it is reached; as usual for a part of a registry. Paths are as seen from the current folder.
    pub connection: Connection,
}

/// Reads all entries. What stops the program goes to `problems`, what does not to `warnings`.
pub(crate) fn read(
    members: &[Member],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) -> Vec<AuthEntry> {
    let mut entries: Vec<AuthEntry> = Vec::new();
    let mut indexes = HashMap::new();
    for member in members {
        let Some(fields) = read_fields(&member.value, problems) else {
            continue;
        };
        let position = &member.position;
        let mut warn = |text: String| warnings.push(format!("{position}: {text}"));
        let key = member.key.trim();
        if key.contains('@') {
            // The key is not shown, since it may hold a password.
            warn(
                "an auth key with a user name can never match and is ignored; write REGISTRY or \
                  REGISTRY/NAMESPACE, and the user as `username`"
                    .into(),
            );
            continue;
        }
        let (host, path) = match parse_key(key) {
            Ok(parsed) => parsed,
            Err(error) => {
                warn(format!(
                    "auth key {key:?} can never match and is ignored: {error}; write REGISTRY or REGISTRY/NAMESPACE"
                ));
                continue;
            }
        };
        if key.starts_with("http://") && !fields.insecure {
            warn(format!(
                "auth key {key:?} does not make {host} speak http: add \"insecure\": true"
            ));
        }
        if !path.is_empty()
            && let Some((field, position)) = fields.first_of_whole()
        {
            problems.push(Problem {
                position: position.clone(),
                what: ProblemKind::FieldOfPart { field, host },
            });
            continue;
        }
        if fields.left_empty() {
            warn(format!(
                "auth key {key:?} has no username or no password: {host} is asked without credentials of this file"
            ));
        }
        let entry = AuthEntry {
            position: position.clone(),
            key: key.into(),
            host,
            path,
            username: fields.username.filter(|text| !text.is_empty()),
            password: fields.password.filter(|text| !text.is_empty()),
            insecure: fields.insecure,
            limits: fields.limits,
            connection: fields.connection,
        };
        let reach = (entry.host.clone(), entry.path.clone());
        let first = indexes.get(&reach).and_then(|index| entries.get(*index));
        let Some(first) = first else {
            indexes.insert(reach, entries.len());
            entries.push(entry);
            continue;
        };
        let same = first.username == entry.username
            && first.password == entry.password
            && first.insecure == entry.insecure
            && first.limits == entry.limits
            && first.connection == entry.connection;
        if same {
            warn(format!(
                "auth key {key:?} says the same again as {:?} at {}; delete one",
                first.key, first.position
            ));
        } else {
            problems.push(Problem {
                position: position.clone(),
                what: ProblemKind::AuthTwice {
                    key: entry.key,
                    first_key: first.key.clone(),
                    first: first.position.clone(),
                },
            });
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
    insecure: bool,
    limits: Limits,
    connection: Connection,
    /// The names that were there.
    seen: Vec<(&'static str, Position)>,
}

impl Fields {
    /// Whether credentials were begun but not given: a field without text, as a missing variable leaves it, or one
    /// field of two.
    fn left_empty(&self) -> bool {
        let is_login = |name: &str| matches!(name, "username" | "password");
        let begun = self.seen.iter().any(|(name, _)| is_login(name));
        let whole = self.username.as_ref().is_some_and(|text| !text.is_empty())
            && self.password.as_ref().is_some_and(|text| !text.is_empty());
        begun && !whole
    }

    /// The first field that is one of whole registries, and where it stands.
    fn first_of_whole(&self) -> Option<(&'static str, &Position)> {
        let is_of_whole = |name: &str| LIMITS.contains(&name) || OF_CONNECTION.contains(&name);
        let field = self.seen.iter().find(|(name, _)| is_of_whole(name));
        field.map(|(name, position)| (*name, position))
    }

    /// Takes a text that says how the registry is reached. A relative path begins at the folder of the file that it
    /// stands in.
    fn read_connection(&mut self, field: &str, text: &str, file: &str) {
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        let path = || Some(folder.join(text)).filter(|_| !text.is_empty());
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

fn read_fields(entry: &Node, problems: &mut Vec<Problem>) -> Option<Fields> {
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
    for member in members {
        let position = &member.position;
        let mut report = |what| {
            problems.push(Problem {
                position: position.clone(),
                what,
            });
        };
        let field = FIELDS
            .into_iter()
            .find(|field| field.eq_ignore_ascii_case(&member.key));
        let Some(field) = field else {
            report(ProblemKind::UnknownField {
                field: member.key.clone(),
                nearest: nearest(&member.key.to_ascii_lowercase(), FIELDS),
            });
            continue;
        };
        if let Some((_, first)) = fields.seen.iter().find(|(name, _)| *name == field) {
            let first = first.clone();
            report(ProblemKind::FieldTwice { field, first });
            continue;
        }
        fields.seen.push((field, position.clone()));
        match (field, &member.value.value) {
            (_, Value::Null) => {}
            ("insecure", Value::Bool(insecure)) => fields.insecure = *insecure,
            ("plain_http", Value::Bool(plain)) => fields.connection.plain_http = *plain,
            ("ca" | "cert" | "key" | "proxy", Value::String(text)) => {
                fields.read_connection(field, text, &position.file);
            }
            // Some registries give their users numbers for names.
            ("username", Value::String(text) | Value::Number(text)) => {
                fields.username = Some(text.clone());
            }
            ("password", Value::String(text) | Value::Number(text)) => {
                fields.password = Some(Secret::new(text.clone()));
            }
            (field, Value::Number(text)) if fields.read_limit(field, text) => {}
            ("bandwidth", Value::String(text)) if fields.read_limit(field, text) => {}
            (field, value) => {
                let expected = match field {
                    "insecure" | "plain_http" => "true or false without quotes",
                    "concurrency" => "a whole number of requests at once, such as 4",
                    "requests_per_second" => "a number from 0.001 up, such as 10 or 0.5",
                    "bandwidth" => {
                        "bytes a second: a whole number or a text such as \"10MB\" or \"10MiB\""
                    }
                    _ => "a text in quotes",
                };
                problems.push(match value {
                    Value::Number(text) | Value::String(text) if LIMITS.contains(&field) => {
                        Problem {
                            position: member.value.position.clone(),
                            what: ProblemKind::Range {
                                name: field,
                                expected,
                                found: text.clone(),
                            },
                        }
                    }
                    _ => Problem::kind(&member.value, field, expected),
                });
            }
        }
    }
    Some(fields)
}

/// A number of bytes with a unit of a thousand or of 1024, or without one.
fn parse_bytes(text: &str) -> Option<u64> {
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

/// What an entry may have.
pub(super) const FIELDS: [&str; 11] = [
    "username",
    "password",
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
/// Those that say how a registry is reached.
const OF_CONNECTION: [&str; 5] = ["ca", "cert", "key", "plain_http", "proxy"];
/// Those that bound what may be asked.
const LIMITS: [&str; 3] = ["concurrency", "requests_per_second", "bandwidth"];
