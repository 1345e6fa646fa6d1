//! A JSON text as a tree of values. It is forgiving where users are: comments, trailing commas and CRLF are accepted, and
//! reading goes on behind a mistake. Not here: other formats, and what the values mean.

use std::str::Chars;
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::syntax::SyntaxError;
use super::tree::{MAX_DEPTH, Member, Mistake, Node, Position, Value, advance, is_merge_marker};

/// Whether a text is meant to be JSON: the first that is neither blank nor comment opens an object, or nothing follows at
/// all. What begins with an array is a configuration in no format, and in YAML most likely a link of Markdown.
pub(crate) fn begins(file: &Arc<str>, text: &str) -> bool {
    let mut parser = Parser::new(file, text);
    parser.skip_blank().is_err() || matches!(parser.peek(), None | Some('{'))
}

/// Reads a whole text.
pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Node, Vec<Mistake>> {
    let mut parser = Parser::new(file, text);
    match parser.document() {
        Ok(node) if parser.found.is_empty() => Ok(node),
        Ok(_) => Err(parser.found),
        Err(last) => {
            parser.found.push(last);
            Err(parser.found)
        }
    }
}

/// A recursive descent over the characters. A mistake after which the rest still makes sense goes to `found`; one
/// after which it does not is the `Err` of the method that met it.
struct Parser<'a> {
    file: &'a Arc<str>,
    rest: Chars<'a>,
    line: u32,
    column: u32,
    found: Vec<Mistake>,
}

type Read<T> = Result<T, Mistake>;

impl<'a> Parser<'a> {
    fn new(file: &'a Arc<str>, text: &'a str) -> Self {
        Self {
            file,
            rest: text.chars(),
            line: 1,
            column: 1,
            found: Vec::new(),
        }
    }

    fn document(&mut self) -> Read<Node> {
        self.skip_blank()?;
        let node = match self.peek() {
            None => return Err((self.position(), SyntaxError::Empty)),
            Some(_) => self.value(0)?,
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
                None | Some('\n' | '\r') => return Err((opened, SyntaxError::UnclosedString('"'))),
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

    fn unexpected(&self) -> Mistake {
        let error = match self.peek() {
            None => SyntaxError::End,
            Some(_) if self.at_merge_marker() => SyntaxError::MergeMarker,
            Some(c) => SyntaxError::Unexpected(c),
        };
        (self.position(), error)
    }

    fn at_merge_marker(&self) -> bool {
        is_merge_marker(self.rest.as_str())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::{decode, draw};

    fn read(bytes: &[u8]) -> Result<Node, Vec<Mistake>> {
        let file = "f".into();
        parse(&file, decode(&file, bytes).map_err(|error| vec![error])?)
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
    type Found = (u32, u32, SyntaxError);

    #[test]
    fn mistakes_are_found_where_they_are() {
        use SyntaxError as E;
        let variable = |name: &str| E::BareVariable(name.into());
        let cases: Vec<(&str, Vec<Found>)> = vec![
            ("", vec![(1, 1, E::Empty)]),
            (" \r\n // only this\n", vec![(3, 1, E::Empty)]),
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
            ("{\"a\": \"b\n}", vec![(1, 7, E::UnclosedString('"'))]),
            ("{\"a\": \"b\\", vec![(1, 7, E::UnclosedString('"'))]),
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
