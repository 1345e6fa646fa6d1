//! The mistakes of form that a file may have, in the user's words. Not here: how they are found (`json.rs`, `yaml.rs` and
//! `lines.rs`).

use std::fmt;

use super::tree::MAX_DEPTH;

/// Why a text is neither JSON nor YAML, even in the forgiving reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// Nothing but blanks and comments.
    Empty,
    /// Two bytes a character.
    Utf16,
    /// Neither UTF-8 nor UTF-16.
    NotUtf8,
    /// What git leaves where a merge failed.
    MergeMarker,
    /// `/*` without `*/`.
    UnclosedComment,
    /// No quote, which is this, before the end of the line.
    UnclosedString(char),
    /// An object or array without its end, which is this.
    Unclosed(char),
    /// The file ends before a value.
    End,
    /// Something behind the outermost value.
    Trailing,
    /// More nested than any configuration.
    Depth,
    /// Two items without a comma.
    MissingComma,
    /// A key and a value without a colon.
    MissingColon,
    /// A key without a value.
    MissingValue,
    /// A key without quotes.
    BareKey,
    /// `${{ .. }}` without quotes.
    BareExpression,
    /// A variable without quotes.
    BareVariable(String),
    /// A word without quotes, and the word of JSON that may be meant.
    BareWord(Option<&'static str>),
    /// A backslash before a character that needs none.
    Escape(char),
    /// `\u` without four hex digits, or half of a pair.
    Unicode,
    /// A control character in a text.
    Control(char),
    /// A character that has no business here.
    Unexpected(char),
    /// Not YAML, in the parser's words.
    NoYaml(String),
    /// A line of YAML that is indented with a tab.
    Tab,
    /// A colon of YAML with something right behind it.
    MissingBlank,
    /// A line of YAML that is neither a key nor an item.
    MissingTarget,
    /// A backslash in double quotes before a character that makes no escape of YAML.
    QuotedEscape(char),
    /// A comma at the end of a line of YAML.
    Comma,
    /// Something else behind a text in quotes.
    BehindQuotes,
    /// A colon in a value without quotes.
    SecondColon,
    /// A character that cannot begin a value without quotes.
    Reserved(char),
    /// `[name](name)`
    MarkdownLink,
    /// An alias without its anchor.
    Alias,
    /// Aliases that make too much of a file.
    Aliases,
    /// `<<` with something that has no keys.
    Merge,
    /// A type that no configuration has.
    Tag,
    /// An object or array as a key.
    KeyIsNoText,
    /// More than one document.
    Documents,
}

impl SyntaxError {
    /// The error for a word without quotes.
    pub(crate) fn bare(word: &str) -> Self {
        if word.starts_with("${{") {
            return Self::BareExpression;
        }
        if word.starts_with('$') {
            return Self::BareVariable(word.into());
        }
        Self::BareWord(match word.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some("true"),
            "false" | "no" | "off" => Some("false"),
            "null" | "none" | "nil" => Some("null"),
            _ => None,
        })
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty; write something into it"),
            Self::Utf16 => f.write_str("the file is in UTF-16; save it as UTF-8"),
            Self::NotUtf8 => f.write_str("a byte that is no UTF-8; save the file as UTF-8"),
            Self::MergeMarker => {
                f.write_str("a conflict marker of git; finish the merge and delete the line")
            }
            Self::UnclosedComment => f.write_str("the comment has no end; close it with `*/`"),
            Self::UnclosedString(quote) => write!(
                f,
                "the text has no closing quote on its line; write a `{quote}` at its end"
            ),
            Self::Unclosed(close) => write!(f, "no end of what begins here; close it with `{close}`"),
            Self::End => f.write_str("the file ends in the middle; write the rest"),
            Self::Trailing => {
                f.write_str("text behind the end; a file is one JSON object, delete the rest")
            }
            Self::Depth => write!(f, "more than {MAX_DEPTH} levels; nest less deeply"),
            Self::MissingComma => f.write_str("a comma is missing; write `,` here"),
            Self::MissingColon => f.write_str("a colon is missing; write `:` here"),
            Self::MissingValue => {
                f.write_str("the value is missing; a rule is \"SOURCE\": \"TARGET\"")
            }
            Self::BareKey => f.write_str("the key has no quotes; write it between `\"` and `\"`"),
            Self::BareExpression => f.write_str(GITHUB_EXPRESSION),
            Self::BareVariable(name) => write!(
                f,
                "{name} is not quoted; quote it: \"${{{}}}\"",
                name.trim_start_matches('$').trim_matches(['{', '}'])
            ),
            Self::BareWord(None) => {
                f.write_str("a word without quotes; quote it: write it between `\"` and `\"`")
            }
            Self::BareWord(Some(meant)) => write!(
                f,
                "a word without quotes that is none of JSON's; write {meant}, or quote it if a text is meant"
            ),
            Self::Escape(c) => write!(
                f,
                "`\\{}` is no escape; for a backslash write `\\\\`",
                c.escape_debug()
            ),
            Self::Unicode => f.write_str(
                "`\\u` needs four hex digits, and two of it for characters beyond U+FFFF; write the character itself",
            ),
            Self::Control(c) => write!(
                f,
                "a control character in the text; delete it or write `\\u{:04x}`",
                u32::from(*c)
            ),
            Self::Unexpected(c) => match (c, meant_by(*c)) {
                (_, Some(meant)) => write!(
                    f,
                    "U+{:04X} where `{meant}` is meant; write `{meant}`",
                    u32::from(*c)
                ),
                ('\'', _) => f.write_str("a single quote; JSON quotes with `\"`"),
                ('#', _) => f.write_str("`#` begins no comment in JSON; write `//`"),
                // A quote inside a password shows its next character here: that is not repeated.
                (c, _) if c.is_alphanumeric() => f.write_str(
                    "text where a `,` or the end is expected; a `\"` inside a text is written `\\\"`",
                ),
                (c, _) => write!(f, "`{}` is not expected here; delete it", c.escape_debug()),
            },
            Self::NoYaml(words) => write!(
                f,
                "not YAML: {words}; look at quotes, brackets and indentation here and in the line before"
            ),
            Self::Tab => f.write_str("a tab in the indentation; indent with blanks"),
            Self::MissingBlank => f.write_str("no blank behind the colon; put a blank after the colon"),
            Self::MissingTarget => f.write_str(
                "a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
            ),
            Self::QuotedEscape(c) => write!(
                f,
                "`\\{}` is an escape in double quotes; use single quotes",
                c.escape_debug()
            ),
            Self::Comma => f.write_str("a comma behind the line; YAML has none there, delete it"),
            Self::BehindQuotes => f.write_str(
                "text behind the closing quote; put it inside, or delete it",
            ),
            Self::SecondColon => f.write_str("a second `: ` in the line; quote the text that holds it"),
            Self::Reserved(c) => write!(f, "`{c}` begins no text without quotes; quote the text"),
            Self::MarkdownLink => f.write_str(MARKDOWN_LINK),
            Self::Alias => f.write_str(
                "no anchor of this name stands before; write `&NAME` there, or quote the text",
            ),
            Self::Aliases => f.write_str("aliases make more than 16 MiB of the file; use fewer"),
            Self::Merge => f.write_str("`<<` takes an alias of an object, or an array of them"),
            Self::Tag => f.write_str("a tag that no configuration has; delete the `!` and its name, or quote the text"),
            Self::KeyIsNoText => f.write_str("the key is no text; quote it"),
            Self::Documents => {
                f.write_str("a second document; write all into one, without the `---`")
            }
        }
    }
}

impl std::error::Error for SyntaxError {}

/// The ASCII character in whose place keyboards of Chinese and word processors put another one.
pub(crate) fn meant_by(c: char) -> Option<char> {
    Some(match c {
        '：' => ':',
        '，' | '、' => ',',
        '／' => '/',
        '“' | '”' | '„' | '＂' => '"',
        '｛' => '{',
        '｝' => '}',
        '［' | '【' => '[',
        '］' | '】' => ']',
        _ => return None,
    })
}

/// A link in place of a name.
pub(crate) const MARKDOWN_LINK: &str = "a Markdown link; write the text in [ ] alone";

/// What users of GitHub Actions have to know, wherever such an expression is found.
pub(crate) const GITHUB_EXPRESSION: &str = "GitHub does not expand `${{ }}` in files; pass the value as a variable \
     and write ${NAME}";
