//! Why a configuration cannot be used: every problem with its place and a remedy. Not here: rules that fail alone
//! (`rule.rs`), and mistakes of the text's form (`syntax.rs`).

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::syntax::{GITHUB_EXPRESSION, SyntaxError};
use super::tree::{Node, Position};
use crate::oci::Host;

/// Why nothing can be done: all problems of the file, in its order. Displayed one a line.
#[derive(Debug)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
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
    /// A problem at a place.
    pub(crate) fn at(position: &Position, what: ProblemKind) -> Self {
        let position = position.clone();
        Self { position, what }
    }

    /// A value of the wrong kind.
    pub(crate) fn kind(node: &Node, name: &'static str, expected: &'static str) -> Self {
        let found = node.value.kind();
        let what = ProblemKind::Kind {
            name,
            expected,
            found,
        };
        Self::at(&node.position, what)
    }

    /// A value of the right kind, here as it is written, that says nothing of use.
    pub(crate) fn range(
        node: &Node,
        name: &'static str,
        expected: &'static str,
        found: &str,
    ) -> Self {
        let found = found.to_owned();
        let what = ProblemKind::Range {
            name,
            expected,
            found,
        };
        Self::at(&node.position, what)
    }
}

/// What makes a file unusable.
#[derive(Debug)]
pub enum ProblemKind {
    /// No file.
    Missing(Shape),
    /// Nothing but blanks and comments.
    Empty(Shape),
    /// A part of a configuration in a file that is such a part as a whole.
    Nested {
        /// The part.
        part: Shape,
        /// The file.
        shape: Shape,
    },
    /// No file of rules.
    NoRules,
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is neither JSON nor YAML.
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
    /// A field that such an object does not have.
    UnknownField {
        /// What the object is.
        owner: &'static str,
        /// As written.
        field: String,
        /// The field that it looks like.
        nearest: Option<&'static str>,
        /// All fields that it may have.
        known: &'static [&'static str],
    },
    /// A field that is there already.
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
    /// `${NAME}` without such a variable.
    UnsetVariable(String),
    /// A variable whose value is no text.
    VariableNotUtf8(String),
    /// `${` without a name and `}`.
    NoVariable,
    /// `${{ .. }}`
    GithubExpression,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(shape) => {
                write!(f, "there is no such file; name one with --{} FILE", shape.name())?;
                match shape {
                    Shape::Auth => Ok(()),
                    _ => f.write_str(", or give one rule as SOURCE TARGET"),
                }
            }
            Self::Empty(shape) => write!(
                f,
                "the file is empty and holds no {}; write {}, or look why nothing was written into it",
                if *shape == Shape::Auth { "credentials" } else { "rules" },
                shape.expected()
            ),
            Self::Nested { part, shape } => write!(
                f,
                "`{0}` in a file of --{1}; write what `{0}` holds without it, or name the file with --config",
                part.name(),
                shape.name()
            ),
            Self::NoRules => f.write_str(
                "--auth alone says nothing of images; name the rules with --images FILE, or give one as SOURCE TARGET",
            ),
            Self::Unreadable(error) => {
                write!(f, "cannot read the file: {error}; name a readable one")
            }
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
            Self::UnknownField {
                owner,
                field,
                nearest,
                known,
            } => {
                write!(f, "{owner} has no field {field:?}; ")?;
                match nearest {
                    Some(nearest) => write!(f, "write \"{nearest}\""),
                    None => write!(f, "it has {}", listed(known)),
                }
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
            Self::UnsetVariable(name) => {
                write!(f, "the variable {name} is not set; set it, or write the value itself")
            }
            Self::VariableNotUtf8(name) => {
                write!(f, "the variable {name} is not UTF-8; set it to a text in UTF-8")
            }
            Self::NoVariable => f.write_str(
                "`${` without the name of a variable and `}`; write ${NAME}",
            ),
            Self::GithubExpression => f.write_str(GITHUB_EXPRESSION),
        }
    }
}

impl std::error::Error for ProblemKind {}

/// Names in quotes: `"a", "b" and "c"`.
fn listed(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `auth` and `images`.
    Config,
    /// What stands under `auth`.
    Auth,
    /// What stands under `images`.
    Images,
}

impl Shape {
    /// What it is called in a configuration, and by the option that names such a file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Auth => "auth",
            Self::Images => "images",
        }
    }

    /// What to write, in words that fit both formats.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Config => "an object such as {\"images\": {\"SOURCE\": \"TARGET\"}}",
            Self::Auth => {
                "an object such as {\"REGISTRY\": {\"username\": \"NAME\", \"password\": \"WORD\"}}"
            }
            Self::Images => "an object such as {\"SOURCE\": \"TARGET\"}",
        }
    }
}
