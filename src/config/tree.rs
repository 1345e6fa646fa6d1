//! A JSON text as a tree of values that know their places. It is forgiving where users are: comments, trailing
//! commas, CRLF and a byte order mark are accepted, duplicate keys are kept, and several mistakes are found at once.
//! Not here: what the values mean.

use std::fmt;
use std::str::Chars;
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::syntax::SyntaxError;

/// A place in a file, as messages show it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
pub(crate) struct Node {
    /// Its first character.
    pub(crate) position: Position,
    /// The value.
    pub(crate) value: Value,
}

/// What a file can hold.
pub(crate) enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it was written, so that `007` of a later format and `1.10` keep their digits.
    Number(String),
    /// A text, escapes resolved.
    String(String),
    /// A list.
    Array(Vec<Node>),
    /// Keys and values in the order of the file. A key may be there twice.
    Object(Vec<Member>),
}

impl Node {
    /// The same on one line. Comments are lost.
    pub(crate) fn to_json(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(text) => text.clone(),
            Value::String(text) => quoted(text),
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
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a text",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// One key of an object with its value.
pub(crate) struct Member {
    /// The key, escapes resolved.
    pub(crate) key: String,
    /// Where the key begins.
    pub(crate) position: Position,
    /// What it stands for.
    pub(crate) value: Node,
}

/// Reads a whole file, or says everything that is wrong with it. What the file holds is not quoted in errors, since it
/// may be a password, but for variables' names and single characters.
pub(crate) fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<Node, Vec<(Position, SyntaxError)>> {
    let text = decode(file, bytes).map_err(|error| vec![error])?;
    let mut parser = Parser {
        file,
        rest: text.chars(),
        line: 1,
        column: 1,
        found: Vec::new(),
    };
    match parser.document() {
        Ok(node) if parser.found.is_empty() => Ok(node),
        Ok(_) => Err(parser.found),
        Err(last) => {
            parser.found.push(last);
            Err(parser.found)
        }
    }
}

fn decode<'a>(file: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, (Position, SyntaxError)> {
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

fn advance(c: char, line: &mut u32, column: &mut u32) {
    if c == '\n' {
        *line = line.saturating_add(1);
        *column = 1;
    } else {
        *column = column.saturating_add(1);
    }
}

/// A recursive descent over the characters. A mistake after which the rest still makes sense goes to `found`; one
/// after which it does not is the `Err` of the method that met it.
struct Parser<'a> {
    file: &'a Arc<str>,
    rest: Chars<'a>,
    line: u32,
    column: u32,
    found: Vec<(Position, SyntaxError)>,
}

type Read<T> = Result<T, (Position, SyntaxError)>;

impl Parser<'_> {
    fn document(&mut self) -> Read<Node> {
        self.skip_blank()?;
        let node = match self.peek() {
            Some('{' | '[') => self.value(0)?,
            None => return Err((self.position(), SyntaxError::Empty)),
            Some(_) if self.at_merge_marker() => return Err(self.unexpected()),
            Some(_) => return Err((self.position(), SyntaxError::NotJson)),
        };
        self.skip_blank()?;
        match self.peek() {
            None => Ok(node),
            Some(_) if self.at_merge_marker() => Err(self.unexpected()),
            Some(_) => Err((self.position(), SyntaxError::Trailing)),
        }
    }

    fn value(&mut self, depth: usize) -> Read<Node> {
        let position = self.position();
        let value = match self.peek() {
            Some('{' | '[') if depth == MAX_DEPTH => return Err((position, SyntaxError::Depth)),
            Some('{') => self.object(&position, depth + 1)?,
            Some('[') => self.array(&position, depth + 1)?,
            Some('"') => Value::String(self.string()?),
            Some(c) if begins_word(c) => self.scalar(),
            _ => return Err(self.unexpected()),
        };
        Ok(Node { position, value })
    }

    fn object(&mut self, opened: &Position, depth: usize) -> Read<Value> {
        let mut members = Vec::new();
        self.bump();
        self.skip_blank()?;
        let mut more = self.peek() != Some('}');
        while more {
            self.require_more(opened, '}')?;
            members.push(self.member(depth)?);
            more = self.separator(opened, '}')?;
        }
        self.bump();
        Ok(Value::Object(members))
    }

    fn array(&mut self, opened: &Position, depth: usize) -> Read<Value> {
        let mut nodes = Vec::new();
        self.bump();
        self.skip_blank()?;
        let mut more = self.peek() != Some(']');
        while more {
            self.require_more(opened, ']')?;
            nodes.push(self.value(depth)?);
            more = self.separator(opened, ']')?;
        }
        self.bump();
        Ok(Value::Array(nodes))
    }

    fn member(&mut self, depth: usize) -> Read<Member> {
        let position = self.position();
        let key = match self.peek() {
            Some('"') => self.string()?,
            Some(c) if begins_word(c) => {
                let word = self.word(|c| c == ':');
                self.found.push((position.clone(), SyntaxError::BareKey));
                word
            }
            _ => return Err(self.unexpected()),
        };
        let end = self.position();
        self.skip_blank()?;
        match self.peek() {
            Some(':') => {
                self.bump();
                self.skip_blank()?;
            }
            Some('"' | '{' | '[') => self.found.push((end.clone(), SyntaxError::MissingColon)),
            Some(',' | '}') => {}
            _ => return Err(self.unexpected()),
        }
        let value = if let Some(',' | '}') = self.peek() {
            self.found.push((end.clone(), SyntaxError::MissingValue));
            Node {
                position: end,
                value: Value::Null,
            }
        } else {
            self.value(depth)?
        };
        Ok(Member {
            key,
            position,
            value,
        })
    }

    /// Goes over the comma behind an item; whether another item follows. The closing bracket is left for the caller.
    fn separator(&mut self, opened: &Position, close: char) -> Read<bool> {
        let end = self.position();
        self.skip_blank()?;
        match self.peek() {
            Some(',') => {
                self.bump();
                self.skip_blank()?;
                Ok(self.peek() != Some(close))
            }
            Some(c) if c == close => Ok(false),
            // Words are left out: what follows a quote that was meant to be part of a text looks like one.
            Some('"' | '{' | '[') => {
                self.found.push((end, SyntaxError::MissingComma));
                Ok(true)
            }
            _ => {
                self.require_more(opened, close)?;
                Err(self.unexpected())
            }
        }
    }

    fn require_more(&self, opened: &Position, close: char) -> Read<()> {
        match self.peek() {
            Some(_) => Ok(()),
            None => Err((opened.clone(), SyntaxError::Unclosed(close))),
        }
    }

    fn string(&mut self) -> Read<String> {
        let opened = self.position();
        let mut text = String::new();
        self.bump();
        loop {
            let position = self.position();
            match self.bump() {
                None | Some('\n' | '\r') => return Err((opened, SyntaxError::UnclosedString)),
                Some('"') => return Ok(text),
                Some('\\') => match self.escape() {
                    Ok(c) => text.push(c),
                    Err(error) => self.found.push((position, error)),
                },
                Some(c) if c.is_control() && c != '\t' => {
                    self.found.push((position, SyntaxError::Control(c)));
                }
                Some(c) => text.push(c),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char, SyntaxError> {
        let escaped = match self.peek() {
            // The end of the line or the file: the string is unclosed, and its loop will say so.
            None | Some('\n' | '\r') => return Ok('\\'),
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                self.bump();
                return self.unicode_escape();
            }
            Some(c) => {
                self.bump();
                return Err(SyntaxError::Escape(c));
            }
        };
        self.bump();
        Ok(escaped)
    }

    fn unicode_escape(&mut self) -> Result<char, SyntaxError> {
        let mut units = vec![self.hex()?];
        // A character beyond U+FFFF is written as two escapes.
        if units.iter().all(|unit| (0xd800..0xdc00).contains(unit)) && self.at("\\u") {
            self.bump();
            self.bump();
            units.push(self.hex()?);
        }
        match char::decode_utf16(units).next() {
            Some(Ok(c)) => Ok(c),
            _ => Err(SyntaxError::Unicode),
        }
    }

    fn hex(&mut self) -> Result<u16, SyntaxError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let digit = digit.and_then(|digit| u16::try_from(digit).ok());
            unit = unit << 4 | digit.ok_or(SyntaxError::Unicode)?;
            self.bump();
        }
        Ok(unit)
    }

    /// A number, `true`, `false`, `null`, or a word that lacks its quotes and is taken for a text.
    fn scalar(&mut self) -> Value {
        let position = self.position();
        let word = self.word(|_| false);
        match word.as_str() {
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            number
                if number.starts_with(|c: char| c == '-' || c.is_ascii_digit())
                    && serde_json::from_str::<IgnoredAny>(number).is_ok() =>
            {
                Value::Number(word)
            }
            _ => {
                self.found.push((position, SyntaxError::bare(&word)));
                Value::String(word)
            }
        }
    }

    /// Takes what has no quotes, up to a blank, a bracket, a comma, a quote or a comment. `${NAME}` stays whole.
    fn word(&mut self, ends: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        if self.at("${") {
            let close = if self.at("${{") { "}}" } else { "}" };
            while !self.at(close) && self.peek().is_some_and(|c| c != '\n') {
                word.extend(self.bump());
            }
            if self.at(close) {
                for _ in close.chars() {
                    word.extend(self.bump());
                }
            }
        }
        while let Some(c) = self.peek() {
            let end =
                c.is_whitespace() || matches!(c, ',' | '{' | '}' | '[' | ']' | '"') || ends(c);
            if end || self.at("//") || self.at("/*") {
                break;
            }
            word.extend(self.bump());
        }
        word
    }

    fn skip_blank(&mut self) -> Read<()> {
        loop {
            if self.at("//") {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.bump();
                }
            } else if self.at("/*") {
                let opened = self.position();
                self.bump();
                self.bump();
                while !self.at("*/") {
                    if self.bump().is_none() {
                        return Err((opened, SyntaxError::UnclosedComment));
                    }
                }
                self.bump();
                self.bump();
            } else if self.peek().is_some_and(char::is_whitespace) {
                self.bump();
            } else {
                return Ok(());
            }
        }
    }

    fn unexpected(&self) -> (Position, SyntaxError) {
        let error = match self.peek() {
            None => SyntaxError::End,
            Some(_) if self.at_merge_marker() => SyntaxError::MergeMarker,
            Some(c) => SyntaxError::Unexpected(c),
        };
        (self.position(), error)
    }

    fn at_merge_marker(&self) -> bool {
        ["<<<<<<<", "=======", ">>>>>>>", "|||||||"]
            .iter()
            .any(|marker| self.at(marker))
    }

    fn at(&self, text: &str) -> bool {
        self.rest.as_str().starts_with(text)
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        advance(c, &mut self.line, &mut self.column);
        Some(c)
    }

    fn position(&self) -> Position {
        Position {
            file: Arc::clone(self.file),
            line: self.line,
            column: self.column,
        }
    }
}

fn begins_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '$' | '-' | '_' | '.' | '+')
}

/// How deep objects and arrays may nest (decisions D8).
pub(crate) const MAX_DEPTH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Node, Vec<(Position, SyntaxError)>> {
        parse(&"f".into(), bytes)
    }

    /// A text for a tree: each value with its place, in one line.
    fn draw(node: &Node) -> String {
        let at = |position: &Position| format!("{}:{}", position.line, position.column);
        let value = match &node.value {
            Value::Null => "null".into(),
            Value::Bool(value) => value.to_string(),
            Value::Number(text) => format!("#{text}"),
            Value::String(text) => format!("{text:?}"),
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

    #[test]
    fn values_know_their_places() {
        for (text, expected) in [
            ("{}", "{}@1:1"),
            (" [ ]", "[]@1:2"),
            ("[null,true,false]", "[null@1:2 true@1:7 false@1:12]@1:1"),
            ("[1.10, -0e+5,12]", "[#1.10@1:2 #-0e+5@1:8 #12@1:14]@1:1"),
            ("{\"a\":\"b\"}", "{a@1:2=\"b\"@1:6}@1:1"),
            // Duplicate keys stay, in order.
            ("{\"a\":1,\"a\":2}", "{a@1:2=#1@1:6 a@1:8=#2@1:12}@1:1"),
            // Lines end with LF or CRLF, columns count characters.
            (
                "{\r\n  \"ä\": [\r\n  \"b\"]}\r\n",
                "{ä@2:3=[\"b\"@3:3]@2:8}@1:1",
            ),
            // Comments, also in place of a blank and right behind a word, and trailing commas.
            ("// c\n{/*\n*/\"a\"/**/:1//x\n,}//", "{a@3:3=#1@3:11}@2:1"),
            ("[1,/* , */]", "[#1@1:2]@1:1"),
            // A slash in a text begins no comment.
            ("[\"https://a/*b*/\"]", "[\"https://a/*b*/\"@1:2]@1:1"),
            ("\u{feff}{}", "{}@1:1"),
            (
                "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\ud83d\\ude00\"]",
                "[\"\\\"\\\\/\\u{8}\\u{c}\\n\\r\\tä😀\"@1:2]@1:1",
            ),
            ("[\"a\tb\"]", "[\"a\\tb\"@1:2]@1:1"),
        ] {
            match read(text.as_bytes()) {
                Ok(node) => assert_eq!(draw(&node), expected, "{text}"),
                Err(errors) => panic!("{text}: {errors:?}"),
            }
        }
    }

    /// Line, column and what is wrong there.
    type Mistake = (u32, u32, SyntaxError);

    #[test]
    fn mistakes_are_found_where_they_are() {
        use SyntaxError as E;
        let variable = |name: &str| E::BareVariable(name.into());
        let cases: Vec<(&str, Vec<Mistake>)> = vec![
            ("", vec![(1, 1, E::Empty)]),
            (" \r\n // only this\n", vec![(3, 1, E::Empty)]),
            ("auth:\n  a: b\n", vec![(1, 1, E::NotJson)]),
            ("# c\nauth: {}", vec![(1, 1, E::NotJson)]),
            ("null", vec![(1, 1, E::NotJson)]),
            ("\"a\"", vec![(1, 1, E::NotJson)]),
            ("<<<<<<< HEAD\n{}", vec![(1, 1, E::MergeMarker)]),
            (
                "{\n\"a\":1,\n<<<<<<< HEAD\n\"b\":2}",
                vec![(3, 1, E::MergeMarker)],
            ),
            ("{\"a\":1\n=======\n}", vec![(2, 1, E::MergeMarker)]),
            ("{}\n>>>>>>> x", vec![(2, 1, E::MergeMarker)]),
            ("{} {}", vec![(1, 4, E::Trailing)]),
            ("{}}", vec![(1, 3, E::Trailing)]),
            ("{ /* x }", vec![(1, 3, E::UnclosedComment)]),
            ("{\"a\": \"b\n}", vec![(1, 7, E::UnclosedString)]),
            ("{\"a\": \"b\\", vec![(1, 7, E::UnclosedString)]),
            ("{\"a\": [\"b\"", vec![(1, 7, E::Unclosed(']'))]),
            ("{\"a\": {", vec![(1, 7, E::Unclosed('}'))]),
            ("{\"a\": 1,", vec![(1, 1, E::Unclosed('}'))]),
            ("{\"a\":", vec![(1, 6, E::End)]),
            ("{\"a\"", vec![(1, 5, E::End)]),
            // The missing sign is reported where it belongs, and reading goes on.
            (
                "{\"a\": 1\n\"b\": 2\n\"c\": 3}",
                vec![(1, 8, E::MissingComma), (2, 7, E::MissingComma)],
            ),
            ("[\"a\" \"b\"]", vec![(1, 5, E::MissingComma)]),
            (
                "{\"a\" \"b\", \"c\" {}}",
                vec![(1, 5, E::MissingColon), (1, 14, E::MissingColon)],
            ),
            (
                "{\"a:1\", \"b\":, \"c\":}",
                vec![
                    (1, 7, E::MissingValue),
                    (1, 12, E::MissingValue),
                    (1, 18, E::MissingValue),
                ],
            ),
            (
                "{a: 1, $B: 2}",
                vec![(1, 2, E::BareKey), (1, 8, E::BareKey)],
            ),
            (
                "{\"a\": $NAME, \"b\": ${NAME}}",
                vec![(1, 7, variable("$NAME")), (1, 19, variable("${NAME}"))],
            ),
            (
                "{\"a\": ${{ secrets.A }}, \"b\": x}",
                vec![(1, 7, E::BareExpression), (1, 30, E::BareWord(None))],
            ),
            (
                "[yes, False, None]",
                vec![
                    (1, 2, E::BareWord(Some("true"))),
                    (1, 7, E::BareWord(Some("false"))),
                    (1, 14, E::BareWord(Some("null"))),
                ],
            ),
            (
                "[007, 1.2.3, -, .5, 1e]",
                vec![
                    (1, 2, E::BareWord(None)),
                    (1, 7, E::BareWord(None)),
                    (1, 14, E::BareWord(None)),
                    (1, 17, E::BareWord(None)),
                    (1, 21, E::BareWord(None)),
                ],
            ),
            (
                "[\"a\\d\", \"\\u12\", \"\\ud800x\", \"\\ud800\\u0041\"]",
                vec![
                    (1, 4, E::Escape('d')),
                    (1, 10, E::Unicode),
                    (1, 18, E::Unicode),
                    (1, 29, E::Unicode),
                ],
            ),
            ("[\"a\u{1}\"]", vec![(1, 4, E::Control('\u{1}'))]),
            ("{\"a\"：\"b\"}", vec![(1, 5, E::Unexpected('：'))]),
            ("{'a': 1}", vec![(1, 2, E::Unexpected('\''))]),
            ("{\"a\": \"b\"c\"}", vec![(1, 10, E::Unexpected('c'))]),
            ("[1,,2]", vec![(1, 4, E::Unexpected(','))]),
            ("[,]", vec![(1, 2, E::Unexpected(','))]),
            ("{\"a\": 1]", vec![(1, 8, E::Unexpected(']'))]),
            ("{\n# c\n}", vec![(2, 1, E::Unexpected('#'))]),
        ];
        for (text, expected) in cases {
            let Err(errors) = read(text.as_bytes()) else {
                panic!("{text} is accepted");
            };
            let errors: Vec<_> = errors
                .into_iter()
                .map(|(at, error)| (at.line, at.column, error))
                .collect();
            assert_eq!(errors, expected, "{text}");
        }
    }

    #[test]
    fn other_encodings_are_named() {
        let errors = |bytes: &[u8]| match read(bytes) {
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

    #[test]
    fn depth_is_limited() {
        let nested = |depth| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(read(nested(MAX_DEPTH).as_bytes()).is_ok());
        let Err(errors) = read(nested(10_000).as_bytes()) else {
            panic!("accepted");
        };
        assert_eq!(errors.len(), 1);
        assert_eq!(
            (errors[0].0.column, &errors[0].1),
            (129, &SyntaxError::Depth)
        );
    }

    #[test]
    fn no_part_of_a_file_and_no_change_of_a_byte_panics() {
        let sample = "\u{feff}{ // c\r\n\"auth\": {\"a.b\": {\"username\": \"\\u00e4\\ud83d\\ude00\", \"insecure\": true}},\n\
            /* c */ \"images\": {\"a/b:1\": [\"c：d\", null, -1.5e3, $X, ${{ y }}, ${z},],}}\n<<<<<<<";
        let mut accepted = 0;
        for end in 0..=sample.len() {
            accepted += usize::from(read(&sample.as_bytes()[..end]).is_ok());
            accepted += usize::from(read(&sample.as_bytes()[end..]).is_ok());
        }
        for at in 0..sample.len() {
            for byte in [
                b'"', b'\\', b'{', b'}', b'[', b',', b':', b'/', b'*', b'$', b'\n', 0, 0xff,
            ] {
                let mut bytes = sample.as_bytes().to_vec();
                bytes[at] = byte;
                accepted += usize::from(read(&bytes).is_ok());
            }
        }
        // The sample has mistakes of every kind, so hardly any variant of it is a file.
        assert!(accepted < 5, "{accepted}");
    }

    #[test]
    fn a_long_line_takes_linear_time() {
        let line = ["[", &"\"a\", ".repeat(200_000), "]"].concat();
        let Ok(Node {
            value: Value::Array(nodes),
            ..
        }) = read(line.as_bytes())
        else {
            panic!("refused");
        };
        assert_eq!(
            nodes.last().map(|node| node.position.column),
            Some(2 + 5 * 199_999)
        );
    }
}
