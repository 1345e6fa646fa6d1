//! The lines of a YAML text, looked at one by one: what users write wrong in them, in words that help, and keys that are
//! longer than YAML allows. A file of rules is nearly always one `KEY: VALUE` a line, which this relies on. Not here: any
//! decision whether a text is YAML (`yaml.rs`): nothing is wrong with a file because of what is found here alone.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use super::syntax::{SyntaxError, meant_by};
use super::tree::{Mistake, Position, is_merge_marker};

/// What is wrong with the lines of a text that cannot be read.
pub(crate) fn mistakes(file: &Arc<str>, text: &str) -> Vec<Mistake> {
    let mut found = Vec::new();
    // How far the key of a text in block form (`|` or `>`) is indented: what is indented more belongs to the text.
    let mut block = None;
    // How many brackets of a value over several lines are open.
    let mut open = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if content.is_empty() || content.starts_with('#') || block.is_some_and(|of| indent > of) {
            continue;
        }
        block = None;
        if open > 0 {
            open = brackets(open, content);
            continue;
        }
        match Line::read(line, indent) {
            Ok(Line::Block) => block = Some(indent),
            Ok(Line::Brackets(value)) => open = brackets(0, value),
            Ok(Line::Other) => {}
            Err((at, error)) => {
                let before = line.get(..at).unwrap_or(line).chars().count();
                let position = Position {
                    file: Arc::clone(file),
                    line: number,
                    column: u32::try_from(before + 1).unwrap_or(u32::MAX),
                };
                found.push((position, error));
            }
        }
    }
    found
}

/// What stands where the grammar gives up, if that alone says what is wrong, and its place.
pub(crate) fn mistake_at(text: &str, place: &Position) -> Option<Mistake> {
    let line = text.lines().nth((place.line as usize).checked_sub(1)?)?;
    let column = (place.column as usize).checked_sub(1)?;
    let (at, c) = line.char_indices().nth(column)?;
    if c == '*' {
        return Some((place.clone(), SyntaxError::Alias));
    }
    // Braces in braces: `{password: ${NAME}}`.
    let at = line.get(..at)?.strip_suffix('$')?.len();
    let name = line.get(at..)?;
    let close = if name.starts_with("${{") { "}}" } else { "}" };
    let name = name.get(..name.find(close)? + close.len())?;
    let column = place.column - 1;
    let place = Position {
        column,
        ..place.clone()
    };
    Some((place, SyntaxError::bare(name)))
}

/// What a line leaves open for the next ones.
enum Line<'a> {
    Other,
    Block,
    Brackets(&'a str),
}

impl<'a> Line<'a> {
    /// Looks at a line. An error has its place in bytes.
    fn read(line: &'a str, indent: usize) -> Result<Self, (usize, SyntaxError)> {
        let (blank, mut content) = line.split_at(indent);
        if is_merge_marker(line) {
            return Err((0, SyntaxError::MergeMarker));
        }
        if let Some(at) = blank.find('\t') {
            return Err((at, SyntaxError::Tab));
        }
        if ["---", "...", "%"]
            .iter()
            .any(|mark| line.starts_with(mark))
        {
            return Ok(Self::Other);
        }
        let mut is_item = false;
        while let Some(item) = content.strip_prefix("- ") {
            (content, is_item) = (item.trim_start(), true);
        }
        let at = |rest: &str| line.len() - rest.len();
        if content.starts_with('[') && content.contains("](") {
            return Err((at(content), SyntaxError::MarkdownLink));
        }
        if content.starts_with(['{', '[']) {
            return Ok(Self::Brackets(content));
        }
        if content.starts_with(['?', '&', '*', '!', ':']) {
            return Ok(Self::Other);
        }
        let Some(end) = key_end(content) else {
            return if is_quoted(content) {
                Err((at(content), unclosed(content)))
            } else if let Some(colon) = content.find(":\"").or_else(|| content.find(":'")) {
                Err((at(content) + colon + 1, SyntaxError::MissingBlank))
            } else if let Some((place, c)) = content.char_indices().find(|(_, c)| *c == '：') {
                Err((at(content) + place, SyntaxError::Unexpected(c)))
            } else if is_item || content == "-" {
                Ok(Self::Other)
            } else {
                Err((at(content), SyntaxError::MissingTarget))
            };
        };
        let (key, rest) = content.split_at(end);
        if key.starts_with('"') {
            check_escapes(key).map_err(|(place, error)| (at(content) + place, error))?;
        }
        let rest = rest.trim_start();
        let Some(value) = rest.strip_prefix(':') else {
            return if is_item && is_end(rest) {
                Ok(Self::Other)
            } else {
                Err((at(rest), behind_quotes(rest)))
            };
        };
        if value.starts_with(|c: char| !c.is_whitespace()) {
            return Err((at(value), SyntaxError::MissingBlank));
        }
        Self::read_value(line, value.trim_start())
    }

    fn read_value(line: &'a str, value: &'a str) -> Result<Self, (usize, SyntaxError)> {
        let at = line.len() - value.len();
        match value.chars().next() {
            Some('|' | '>') => Ok(Self::Block),
            Some('{' | '[') => Ok(Self::Brackets(value)),
            Some(c @ ('@' | '`' | '%')) => Err((at, SyntaxError::Reserved(c))),
            Some('"' | '\'') => {
                let Some(end) = quote_end(value) else {
                    return Err((at, unclosed(value)));
                };
                let (text, rest) = value.split_at(end);
                check_escapes(text).map_err(|(place, error)| (at + place, error))?;
                let rest = rest.trim_start();
                if is_end(rest) {
                    Ok(Self::Other)
                } else {
                    Err((line.len() - rest.len(), behind_quotes(rest)))
                }
            }
            _ => {
                let text = value.split(" #").next().unwrap_or(value);
                match text
                    .find(": ")
                    .or_else(|| text.trim_end().strip_suffix(':').map(str::len))
                {
                    Some(colon) => Err((at + colon, SyntaxError::SecondColon)),
                    None => Ok(Self::Other),
                }
            }
        }
    }
}

fn is_quoted(text: &str) -> bool {
    text.starts_with(['"', '\''])
}

/// Whether nothing but a comment follows.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('#')
}

fn unclosed(text: &str) -> SyntaxError {
    SyntaxError::UnclosedString(if text.starts_with('"') { '"' } else { '\'' })
}

fn behind_quotes(rest: &str) -> SyntaxError {
    match rest.chars().next() {
        None => SyntaxError::MissingTarget,
        Some(',') => SyntaxError::Comma,
        Some(c) if meant_by(c).is_some() => SyntaxError::Unexpected(c),
        Some(_) if is_quoted(rest) => SyntaxError::MissingColon,
        Some(_) => SyntaxError::BehindQuotes,
    }
}

/// How many bytes the key of a line has, if it has one. Behind a key in quotes there may be something else than a colon.
fn key_end(content: &str) -> Option<usize> {
    if is_quoted(content) {
        return quote_end(content);
    }
    let inside = content.match_indices(':').find(|(at, _)| {
        let next = content.get(at + 1..).and_then(|rest| rest.chars().next());
        next.is_none_or(char::is_whitespace)
    });
    inside.map(|(at, _)| at)
}

/// How many bytes a text in quotes has, with both of them.
fn quote_end(text: &str) -> Option<usize> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next()?;
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote == '"' {
            chars.next();
        } else if c == quote {
            if quote == '\'' && chars.as_str().starts_with('\'') {
                chars.next();
            } else {
                return Some(at + 1);
            }
        }
    }
    None
}

/// The first escape that a text in double quotes cannot have (YAML 1.2.2, 5.7).
fn check_escapes(text: &str) -> Result<(), (usize, SyntaxError)> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && text.starts_with('"') {
            match chars.next() {
                Some((_, c)) if !"0abtnvfre \"/\\N_LPxuU\t".contains(c) => {
                    return Err((at, SyntaxError::QuotedEscape(c)));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn brackets(open: usize, text: &str) -> usize {
    text.chars().fold(open, |open, c| match c {
        '{' | '[' => open + 1,
        '}' | ']' => open.saturating_sub(1),
        _ => open,
    })
}

/// The lines that [`with_explicit_keys`] has added, each with what it takes to find a place in the text as it was.
#[derive(Default)]
pub(crate) struct Added(Vec<AddedLine>);

struct AddedLine {
    /// Its number, from 1, among the old and the new ones.
    number: usize,
    /// In which column the key began.
    start: usize,
    /// How many characters the key has.
    key: usize,
}

impl Added {
    /// Where a place of the text with explicit keys was before.
    pub(crate) fn place(&self, line: usize, column: usize) -> (u32, u32) {
        let before = self.0.partition_point(|added| added.number <= line);
        let last = before.checked_sub(1).and_then(|last| self.0.get(last));
        let column = match (last, self.0.get(before)) {
            (Some(added), _) if added.number == line => column + added.key,
            // Behind the `? ` that was put in front of the key.
            (_, Some(added)) if added.number == line + 1 && column > added.start => column - 2,
            _ => column,
        };
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        (number(line - before), number(column))
    }
}

/// The text with its longest keys in the form `? KEY` and their values on a line of their own. `KEY: VALUE` ends at 1,024
/// characters (YAML 1.2.2, 7.4.2), and a rule with a list of some hundred tags has more; the other form has no limit.
pub(crate) fn with_explicit_keys(text: &str) -> (Cow<'_, str>, Added) {
    let mut added = Vec::new();
    if text.lines().all(|line| line.len() <= LONG_KEY) {
        return (text.into(), Added(added));
    }
    let mut written = String::with_capacity(text.len() + 64);
    let mut number = 0;
    for line in text.split_inclusive('\n') {
        number += 1;
        let content = line.trim_start_matches(' ');
        let (blank, _) = line.split_at(line.len() - content.len());
        let end = key_end(content)
            .filter(|end| *end > LONG_KEY && !content.starts_with(['{', '[', '#', '?', '-']));
        let Some(end) = end else {
            written.push_str(line);
            continue;
        };
        let (key, rest) = content.split_at(end);
        number += 1;
        added.push(AddedLine {
            number,
            start: blank.len() + 1,
            key: key.chars().count(),
        });
        // Writing to a `String` does not fail.
        write!(written, "{blank}? {key}\n{blank}{rest}").ok();
    }
    (written.into(), Added(added))
}

/// Keys of more bytes are written anew: fewer than 1,024 characters, for what stands between a key and its colon.
const LONG_KEY: usize = 1000;
