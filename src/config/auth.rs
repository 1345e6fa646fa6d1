//! The `auth` part of a file: which credentials are meant for which registry or part of it. Not here: which entry
//! serves a request (`registry/credentials.rs`).

use std::collections::{BTreeSet, HashMap, HashSet};

use super::error::{Problem, ProblemKind};
use super::rule::Rule;
use super::tree::{Member, Node, Position, Value};
use crate::nearest::nearest;
use crate::oci::{Host, NameError, Repository};
use crate::secret::Secret;
use crate::store::Place;

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
            && first.insecure == entry.insecure;
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
    /// The names that were there.
    seen: Vec<(&'static str, Position)>,
}

impl Fields {
    /// Whether credentials were begun but not given: a field without text, as a missing variable leaves it, or one
    /// field of two.
    fn left_empty(&self) -> bool {
        let begun = self.seen.iter().any(|(name, _)| *name != "insecure");
        let whole = self.username.as_ref().is_some_and(|text| !text.is_empty())
            && self.password.as_ref().is_some_and(|text| !text.is_empty());
        begun && !whole
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
            // Some registries give their users numbers for names.
            ("username", Value::String(text) | Value::Number(text)) => {
                fields.username = Some(text.clone());
            }
            ("password", Value::String(text) | Value::Number(text)) => {
                fields.password = Some(Secret::new(text.clone()));
            }
            (field, _) => {
                let expected = match field {
                    "insecure" => "true or false without quotes",
                    _ => "a text in quotes",
                };
                problems.push(Problem::kind(&member.value, field, expected));
            }
        }
    }
    Some(fields)
}

const FIELDS: [&str; 3] = ["username", "password", "insecure"];
