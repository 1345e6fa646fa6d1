//! Why a configuration cannot be used: every problem with its place and a remedy. Not here: rules that fail alone
//! (`rule.rs`), and mistakes of the text's form (`syntax.rs`).

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::auth::FIELDS;
use super::syntax::{GITHUB_EXPRESSION, SyntaxError};
use super::tree::{Node, Position};
use crate::oci::Host;

/// Why nothing can be done: all problems of the file, in its order. Displayed one a line.
#[derive(Debug)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// A problem of the file as a whole.
    pub(crate) fn whole(file: &Arc<str>, what: ProblemKind) -> Self {
        let position = Position::whole(file);
        Self {
            problems: vec![Problem { position, what }],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", problem.position, problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that makes a file unusable.
#[derive(Debug)]
pub struct Problem {
    /// Where.
    pub position: Position,
    /// What, and what to write instead.
    pub what: ProblemKind,
}

impl Problem {
    /// A value of the wrong kind.
    pub(crate) fn kind(node: &Node, name: &'static str, expected: &'static str) -> Self {
        Self {
            position: node.position.clone(),
            what: ProblemKind::Kind {
                name,
                expected,
                found: node.value.kind(),
            },
        }
    }
}

/// What makes a file unusable.
#[derive(Debug)]
pub enum ProblemKind {
    /// No file.
    Missing,
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is no JSON.
    Syntax(SyntaxError),
    /// A value of the wrong kind.
    Kind {
        /// What it is the value of.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value of the right kind that says nothing of use.
    Range {
        /// What it is the value of.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
        /// As written.
        found: String,
    },
    /// A field of whole registries in the entry of a part of one.
    FieldOfPart {
        /// The field.
        field: &'static str,
        /// The registry.
        host: Host,
    },
    /// A key of the file that looks like one of its parts.
    Misspelt {
        /// As written.
        key: String,
        /// What it looks like.
        meant: &'static str,
    },
    /// A field that no entry of `auth` has.
    UnknownField {
        /// As written.
        field: String,
        /// The field that it looks like.
        nearest: Option<&'static str>,
    },
    /// A field of an entry of `auth` that is there already.
    FieldTwice {
        /// Its name.
        field: &'static str,
        /// Where the first one is.
        first: Position,
    },
    /// A field of an entry of `auth` beside a login that it does not go with.
    TwoLogins {
        /// Its name.
        field: &'static str,
        /// The field of the login.
        login: &'static str,
        /// Where that is.
        place: Position,
    },
    /// A file that should hold a login.
    LoginFile {
        /// The field that names it.
        field: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why it cannot be read.
        error: io::Error,
    },
    /// A registry, or part of one, with two different entries.
    AuthTwice {
        /// The key as written.
        key: String,
        /// The first key as written.
        first_key: String,
        /// Where the first one is.
        first: Position,
    },
    /// `${NAME}`
    Variable,
    /// `${{ .. }}`
    GithubExpression,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "there is no such file; name one with --config FILE, or give one rule as SOURCE TARGET",
            ),
            Self::Unreadable(error) => write!(f, "cannot read the file: {error}; name a readable one with --config FILE"),
            Self::Syntax(error) => error.fmt(f),
            Self::Kind {
                name,
                expected,
                found,
            } => write!(f, "{name} is {found}; write {expected}"),
            Self::Range {
                name,
                expected,
                found,
            } => write!(f, "{name} is {found:?}; write {expected}"),
            Self::FieldOfPart { field, host } => write!(
                f,
                "\"{field}\" is for a whole registry; write it in the entry \"{host}\""
            ),
            Self::Misspelt { key, meant } => {
                write!(f, "the key {key:?} looks like `{meant}`; write \"{meant}\"")
            }
            Self::UnknownField { field, nearest } => {
                write!(f, "an auth entry has no field {field:?}; ")?;
                if let Some(nearest) = nearest {
                    return write!(f, "write \"{nearest}\"");
                }
                let (last, others) = FIELDS.split_last().unwrap_or((&"", &[]));
                write!(f, "it has \"{}\" and \"{last}\"", others.join("\", \""))
            }
            Self::FieldTwice { field, first } => {
                write!(f, "\"{field}\" is there already at {first}; delete one")
            }
            Self::TwoLogins {
                field: "username",
                login,
                place,
            } => write!(
                f,
                "\"username\" does not go with \"{login}\" at {place}; delete it, or write \"password\" in place of \"{login}\""
            ),
            Self::TwoLogins {
                field,
                login,
                place,
            } => write!(f, "\"{field}\" is a second login beside \"{login}\" at {place}; delete one"),
            Self::LoginFile { field, path, error } => write!(
                f,
                "\"{field}\" names {}, which cannot be read: {error}; name a file that holds nothing but the {} (a \
                 relative path begins at the folder of this file)",
                path.display(),
                field.trim_end_matches("_file"),
            ),
            Self::AuthTwice {
                key,
                first_key,
                first,
            } => write!(
                f,
                "auth key {key:?} means the same as {first_key:?} at {first} and says something else; delete one"
            ),
            Self::Variable => {
                f.write_str("variables are not supported yet; write the value itself in place of ${..}")
            }
            Self::GithubExpression => f.write_str(GITHUB_EXPRESSION),
        }
    }
}

impl std::error::Error for ProblemKind {}
