//! A file as a tree of values that know their places, whichever of the two formats it is written in. Duplicate keys are
//! kept, and several mistakes are found at once. Not here: the formats themselves (`json.rs`, `yaml.rs`), and what the
//! values mean.

use std::fmt;
use std::sync::Arc;

use super::syntax::SyntaxError;
use super::{json, yaml};

/// A place in a file, as messages show it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The file as the user named it, or `command line`.
    pub file: Arc<str>,
    /// The line, from 1; 0 stands for the file as a whole.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl Position {
    /// The file as a whole.
    pub(crate) fn whole(file: &Arc<str>) -> Self {
        Self {
            file: Arc::clone(file),
            line: 0,
            column: 0,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

/// A value and where it begins. There is no `Debug`: it may hold passwords.
#[derive(Clone)]
pub(crate) struct Node {
    /// Its first character.
    pub(crate) position: Position,
    /// The value.
    pub(crate) value: Value,
}

/// What a file can hold.
#[derive(Clone)]
pub(crate) enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number of JSON as it was written, so that `1.10` keeps its digits.
    Number(String),
    /// A text, escapes resolved.
    String(String),
    /// What YAML has without quotes, as it was written: a text, a number, `true` or `yes`, whichever is looked for.
    Word(String),
    /// A list.
    Array(Vec<Node>),
    /// Keys and values in the order of the file. A key may be there twice.
    Object(Vec<Member>),
}

impl Node {
    /// The same on one line, without comments. What YAML has without quotes becomes a number or a text, never a
    /// switch (`yes`).
    pub(crate) fn to_json(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(text) => text.clone(),
            // Where a text is wanted, a number is taken, but not `true`.
            Value::Word(text) if text.parse::<serde_json::Number>().is_ok() => text.clone(),
            Value::Word(text) | Value::String(text) => quoted(text),
            Value::Array(nodes) => {
                let nodes: Vec<String> = nodes.iter().map(Self::to_json).collect();
                format!("[{}]", nodes.join(", "))
            }
            Value::Object(members) => {
                let member = |member: &Member| {
                    format!("{}: {}", quoted(&member.key), member.value.to_json())
                };
                let members: Vec<String> = members.iter().map(member).collect();
                format!("{{{}}}", members.join(", "))
            }
        }
    }
}

impl Value {
    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Word(text) => Some(text),
            _ => None,
        }
    }

    /// The digits of what may be a number.
    pub(crate) fn number(&self) -> Option<&str> {
        match self {
            Self::Number(text) | Self::Word(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it says yes or no. Words for that are those of YAML 1.1, which the original reads.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Word(word) => match word.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => Some(true),
                "false" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) | Self::Word(_) => "a text",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// One key of an object with its value.
#[derive(Clone)]
pub(crate) struct Member {
    /// The key, escapes resolved.
    pub(crate) key: String,
    /// Where the key begins.
    pub(crate) position: Position,
    /// What it stands for.
    pub(crate) value: Node,
}

/// What is wrong with the form of a file, and where.
pub(crate) type Mistake = (Position, SyntaxError);

/// Reads a whole file, or says everything that is wrong with it. What the file holds is not quoted in errors, since it
/// may be a password, but for variables' names and single characters.
pub(crate) fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<Node, Vec<Mistake>> {
    let text = decode(file, bytes).map_err(|error| vec![error])?;
    if !json::begins(file, text) {
        return yaml::parse(file, text);
    }
    json::parse(file, text).or_else(|mistakes| {
        // Braces begin a file of YAML too, and then a name without quotes follows.
        let may_be_yaml = [".yaml", ".yml"].iter().any(|end| file.ends_with(end));
        match may_be_yaml.then(|| yaml::parse(file, text)) {
            Some(Ok(root)) => Ok(root),
            Some(Err(others)) if !text.contains('"') => Err(others),
            _ => Err(mistakes),
        }
    })
}

/// Whether a text begins with what git leaves where a merge failed.
pub(crate) fn is_merge_marker(text: &str) -> bool {
    ["<<<<<<<", "=======", ">>>>>>>", "|||||||"]
        .iter()
        .any(|marker| text.starts_with(marker))
}

/// The text of a file, without a byte order mark.
pub(crate) fn decode<'a>(file: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, Mistake> {
    let at = |line, column| Position {
        file: Arc::clone(file),
        line,
        column,
    };
    if matches!(
        bytes,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]
    ) {
        return Err((at(1, 1), SyntaxError::Utf16));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let (mut line, mut column) = (1, 1);
            for c in String::from_utf8_lossy(valid).chars() {
                advance(c, &mut line, &mut column);
            }
            Err((at(line, column), SyntaxError::NotUtf8))
        }
    }
}

/// The place behind a character.
pub(crate) fn advance(c: char, line: &mut u32, column: &mut u32) {
    if c == '\n' {
        *line = line.saturating_add(1);
        *column = 1;
    } else {
        *column = column.saturating_add(1);
    }
}

/// How deep objects and arrays may nest (decisions D8).
pub(crate) const MAX_DEPTH: usize = 128;

/// A text for a tree: each value with its place, in one line.
#[cfg(test)]
pub(crate) fn draw(node: &Node) -> String {
    let at = |position: &Position| format!("{}:{}", position.line, position.column);
    let value = match &node.value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(text) => format!("#{text}"),
        Value::String(text) => format!("{text:?}"),
        Value::Word(text) => text.clone(),
        Value::Array(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(draw).collect();
            format!("[{}]", nodes.join(" "))
        }
        Value::Object(members) => {
            let draw = |member: &Member| {
                format!(
                    "{}@{}={}",
                    member.key,
                    at(&member.position),
                    draw(&member.value)
                )
            };
            let members: Vec<_> = members.iter().map(draw).collect();
            format!("{{{}}}", members.join(" "))
        }
    };
    format!("{value}@{}", at(&node.position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_encodings_are_named() {
        let errors = |bytes: &[u8]| match parse(&"f".into(), bytes) {
            Ok(_) => panic!("accepted"),
            Err(errors) => errors
                .into_iter()
                .map(|(at, error)| (at.to_string(), error))
                .collect::<Vec<_>>(),
        };
        let utf16 = vec![("f:1:1".to_string(), SyntaxError::Utf16)];
        assert_eq!(errors(b"\xff\xfe{\0}\0"), utf16);
        assert_eq!(errors(b"\xfe\xff\0{\0}"), utf16);
        assert_eq!(errors(b"{\0}\0"), utf16);
        assert_eq!(errors(b"\0{\0}"), utf16);
        assert_eq!(
            errors(b"{\n\"\xc3\xa4\xff\"}"),
            vec![("f:2:3".to_string(), SyntaxError::NotUtf8)]
        );
    }
}
