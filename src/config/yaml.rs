//! A YAML text as a tree of values, built from the events of a parser. Scalars without quotes stay as they were written;
//! what they mean is said where they are used. Anchors, aliases and merge keys are resolved within bounds. Not here: the
//! grammar (the `saphyr-parser` crate), and in which words a text that is none is refused (`lines.rs`).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::lines;
use super::syntax::SyntaxError;
use super::tree::{MAX_DEPTH, Member, Mistake, Node, Position, Value};

/// Reads a whole text.
pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Node, Vec<Mistake>> {
    let (explicit, added) = lines::with_explicit_keys(text);
    let mut reader = Reader {
        file,
        added,
        parser: Parser::new_from_str(&explicit),
        anchors: HashMap::new(),
        copied: 0,
        torn: Vec::new(),
        found: Vec::new(),
    };
    let root = reader.document();
    let Reader { torn, found, .. } = reader;
    let mut mistakes = found;
    let root = match root {
        Ok(root) => Some(root),
        Err(Stop::Mistake(mistake)) => {
            mistakes.push(mistake);
            None
        }
        Err(Stop::Unclear(mistake)) => {
            // The grammar gives up far from what is wrong, and with the first of it.
            let seen = lines::mistakes(file, text);
            let nothing_seen = seen
                .is_empty()
                .then(|| lines::mistake_at(text, &mistake.0).unwrap_or(mistake));
            mistakes.extend(seen.into_iter().chain(nothing_seen));
            return Err(mistakes);
        }
    };
    if !torn.is_empty() {
        let is_torn = |line| torn.iter().any(|lines| lines.contains(&line));
        let seen = lines::mistakes(file, text);
        mistakes.extend(seen.into_iter().filter(|(at, _)| is_torn(at.line)));
    }
    match root {
        Some(root) if mistakes.is_empty() => Ok(root),
        _ => Err(mistakes),
    }
}

/// Why reading ends.
enum Stop {
    /// This is wrong.
    Mistake(Mistake),
    /// This is wrong, and the line may say more plainly what is.
    Unclear(Mistake),
}

type Read<T> = Result<T, Stop>;

struct Reader<'a> {
    file: &'a Arc<str>,
    /// The lines that the text has not, see `lines::with_explicit_keys`.
    added: lines::Added,
    parser: Parser<'a, StrInput<'a>>,
    /// What an alias may stand for, with its depth.
    anchors: HashMap<usize, (Node, usize)>,
    /// How much aliases have added, see [`MAX_COPIED`].
    copied: usize,
    /// The lines of each text without quotes that has more than one, or is all there is: most likely rules that lack
    /// their colon.
    torn: Vec<RangeInclusive<u32>>,
    /// Mistakes after which the rest still makes sense.
    found: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Read<Node> {
        let empty = |reader: &Self| {
            let start = Position {
                file: Arc::clone(reader.file),
                line: 1,
                column: 1,
            };
            Err(Stop::Mistake((start, SyntaxError::Empty)))
        };
        let root = loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (Event::StreamEnd, _) => return empty(self),
                (event, span) => break self.node(event, span, 0)?.0,
            }
        };
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentStart(_), span) => {
                    let error = SyntaxError::Documents;
                    return Err(Stop::Mistake((self.position(span.start), error)));
                }
                _ => {}
            }
        }
        match root.value {
            Value::Null => return empty(self),
            Value::Word(_) => self.torn.push(root.position.line..=root.position.line),
            _ => {}
        }
        Ok(root)
    }

    /// The value that begins with this event, and how many levels it has.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Read<(Node, usize)> {
        let position = self.position(span.start);
        if let Event::Alias(anchor) = event {
            return self.copy(anchor, position, depth);
        }
        let is_branch = matches!(event, Event::MappingStart(..) | Event::SequenceStart(..));
        if is_branch && depth == MAX_DEPTH {
            return Err(Stop::Mistake((position, SyntaxError::Depth)));
        }
        let (value, levels, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (self.scalar(text, style, tag.as_deref(), span), 0, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.expect_no_tag(tag.as_deref(), &position);
                let (value, levels) = self.array(depth + 1)?;
                (value, levels, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.expect_no_tag(tag.as_deref(), &position);
                let (value, levels) = self.object(depth + 1)?;
                (value, levels, anchor)
            }
            _ => return Err(Stop::Mistake((position, SyntaxError::End))),
        };
        let node = Node { position, value };
        if anchor > 0 {
            self.weigh(&node)?;
            self.anchors.insert(anchor, (node.clone(), levels));
        }
        Ok((node, levels))
    }

    fn array(&mut self, depth: usize) -> Read<(Value, usize)> {
        let mut nodes = Vec::new();
        let mut levels = 0;
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok((Value::Array(nodes), levels + 1));
            }
            let (node, below) = self.node(event, span, depth)?;
            levels = levels.max(below);
            nodes.push(node);
        }
    }

    fn object(&mut self, depth: usize) -> Read<(Value, usize)> {
        // Merged members stand where `<<` does, and count only where the object itself has no such key.
        let mut members: Vec<(Member, bool)> = Vec::new();
        let mut levels = 0;
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let position = self.position(span.start);
            let key = self.key(event, span, &position)?;
            let (event, span) = self.next()?;
            let (value, below) = self.node(event, span, depth)?;
            levels = levels.max(below);
            if is_merge {
                let merged = merged(value)?;
                members.extend(merged.into_iter().map(|member| (member, true)));
            } else {
                let member = Member {
                    key,
                    position,
                    value,
                };
                members.push((member, false));
            }
        }
        let own = members.iter().filter(|(_, is_merged)| !is_merged);
        let mut keys: HashSet<String> = own.map(|(member, _)| member.key.clone()).collect();
        members.retain(|(member, is_merged)| !is_merged || keys.insert(member.key.clone()));
        let members = members.into_iter().map(|(member, _)| member).collect();
        Ok((Value::Object(members), levels + 1))
    }

    fn key(&mut self, event: Event<'a>, span: Span, position: &Position) -> Read<String> {
        if let Event::Scalar(text, style, anchor, tag) = event {
            let text = text.into_owned();
            self.scalar(text.clone().into(), style, tag.as_deref(), span);
            if anchor > 0 {
                let value = Value::String(text.clone());
                let position = position.clone();
                self.anchors.insert(anchor, (Node { position, value }, 0));
            }
            return Ok(text);
        }
        let aliased = match event {
            Event::Alias(_) => self.node(event, span, 0)?.0.value,
            _ => Value::Null,
        };
        match aliased {
            Value::String(text) | Value::Word(text) => Ok(text),
            _ => Err(Stop::Unclear((position.clone(), SyntaxError::KeyIsNoText))),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'a, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Value {
        let is_text = tag.is_some_and(|tag| {
            tag.suffix == "!" || tag.is_yaml_core_schema() && tag.suffix == "str"
        });
        if let Some(tag) = tag
            && !is_text
            && !tag.is_yaml_core_schema()
        {
            self.found
                .push((self.position(span.start), SyntaxError::Tag));
        }
        if style != ScalarStyle::Plain || is_text {
            return Value::String(text.into_owned());
        }
        let (first, last) = (self.position(span.start).line, self.position(span.end).line);
        if first < last {
            self.torn.push(first..=last);
        }
        match &*text {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            _ => Value::Word(text.into_owned()),
        }
    }

    fn expect_no_tag(&mut self, tag: Option<&Tag>, position: &Position) {
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema()) {
            self.found.push((position.clone(), SyntaxError::Tag));
        }
    }

    /// The value that an alias stands for. It keeps the place where it is written.
    fn copy(&mut self, anchor: usize, position: Position, depth: usize) -> Read<(Node, usize)> {
        // An anchor around its own alias is not there yet.
        let Some((node, levels)) = self.anchors.remove(&anchor) else {
            return Err(Stop::Mistake((position, SyntaxError::Alias)));
        };
        if depth + levels > MAX_DEPTH {
            return Err(Stop::Mistake((position, SyntaxError::Depth)));
        }
        self.weigh(&node)
            .map_err(|_| Stop::Mistake((position, SyntaxError::Aliases)))?;
        self.anchors.insert(anchor, (node.clone(), levels));
        Ok((node, levels))
    }

    /// Counts a value that is about to be copied.
    fn weigh(&mut self, node: &Node) -> Read<()> {
        self.copied = self.copied.saturating_add(weight(node));
        if self.copied > MAX_COPIED {
            let error = SyntaxError::Aliases;
            return Err(Stop::Mistake((node.position.clone(), error)));
        }
        Ok(())
    }

    fn next(&mut self) -> Read<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let position = self.position(*error.marker());
                let error = SyntaxError::NoYaml(error.info().into());
                Err(Stop::Unclear((position, error)))
            }
            None => {
                let error = SyntaxError::End;
                Err(Stop::Mistake((Position::whole(self.file), error)))
            }
        }
    }

    fn position(&self, marker: Marker) -> Position {
        let (line, column) = self.added.place(marker.line(), marker.col() + 1);
        Position {
            file: Arc::clone(self.file),
            line,
            column,
        }
    }
}

/// What `<<` takes: an object, or several.
fn merged(value: Node) -> Read<Vec<Member>> {
    let nodes = match value.value {
        Value::Array(nodes) => nodes,
        _ => vec![value],
    };
    let mut members = Vec::new();
    for node in nodes {
        let Value::Object(more) = node.value else {
            return Err(Stop::Mistake((node.position, SyntaxError::Merge)));
        };
        members.extend(more);
    }
    Ok(members)
}

/// About how many bytes a value takes.
fn weight(node: &Node) -> usize {
    size_of::<Node>()
        + match &node.value {
            Value::Null | Value::Bool(_) => 0,
            Value::Number(text) | Value::String(text) | Value::Word(text) => text.len(),
            Value::Array(nodes) => nodes.iter().map(weight).sum(),
            Value::Object(members) => members
                .iter()
                .map(|member| size_of::<Member>() + member.key.len() + weight(&member.value))
                .sum(),
        }
}

/// How many bytes anchors and aliases may add to a file: much more than any configuration has, and little for the
/// machine, so that a few lines cannot become gigabytes.
const MAX_COPIED: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::draw;

    #[track_caller]
    fn good(text: &str, expected: &str) {
        match parse(&"f".into(), text) {
            Ok(root) => assert_eq!(draw(&root), expected, "{text}"),
            Err(mistakes) => panic!("{text}: {mistakes:?}"),
        }
    }

    /// Line, column and what is wrong there.
    type Found = (u32, u32, SyntaxError);

    #[track_caller]
    fn bad(text: &str, expected: &[Found]) {
        let Err(mistakes) = parse(&"f".into(), text) else {
            panic!("{text} is accepted");
        };
        let mistakes: Vec<_> = mistakes
            .into_iter()
            .map(|(at, error)| (at.line, at.column, error))
            .collect();
        assert_eq!(mistakes, expected, "{text}");
    }

    #[test]
    fn values_know_their_places_and_words_stay_as_written() {
        for (text, expected) in [
            ("a: b", "{a@1:1=b@1:4}@1:1"),
            (
                "a: 1.10\nb: 2020\nc: yes\nd: 007\ne: 1e3\n",
                "{a@1:1=1.10@1:4 b@2:1=2020@2:4 c@3:1=yes@3:4 d@4:1=007@4:4 e@5:1=1e3@5:4}@1:1",
            ),
            (
                "a:\nb: ~\nc: null\nd: \"\"\n",
                "{a@1:1=null@1:2 b@2:1=null@2:4 c@3:1=null@3:4 d@4:1=\"\"@4:4}@1:1",
            ),
            (
                "r/a:1: r/b:1\n\"c:2\": 'it''s'\n",
                "{r/a:1@1:1=r/b:1@1:8 c:2@2:1=\"it's\"@2:8}@1:1",
            ),
            (
                "a: [b, 'c']\nd:\n- e\n- f\n",
                "{a@1:1=[b@1:5 \"c\"@1:8]@1:4 d@2:1=[e@3:3 f@4:3]@3:3}@1:1",
            ),
            ("---\r\n# c\r\nä: ö # c\r\n ", "{ä@3:1=ö@3:4}@3:1"),
            ("%YAML 1.2\n---\na: b\n...\n", "{a@3:1=b@3:4}@3:1"),
            ("a: b\na: c\n", "{a@1:1=b@1:4 a@2:1=c@2:4}@1:1"),
            (
                "a: |\n  x\n  y\nb: \"x\n  y\"\n",
                "{a@1:1=\"x\\ny\\n\"@2:3 b@4:1=\"x y\"@4:4}@1:1",
            ),
            ("{a: b, \"c\":d}", "{a@1:2=b@1:5 c@1:8=d@1:12}@1:1"),
            (
                "a: !!str 1\nb: !!int 2\nc: ! ~\n",
                "{a@1:1=\"1\"@1:4 b@2:1=2@2:4 c@3:1=\"~\"@3:4}@1:1",
            ),
            ("? a\n: b\n", "{a@1:3=b@2:3}@1:1"),
            ("# c\n- a\n", "[a@2:3]@2:1"),
            ("'text'", "\"text\"@1:1"),
        ] {
            good(text, expected);
        }
    }

    #[test]
    fn aliases_stand_for_what_is_anchored() {
        good(
            "a: &x b\nc: *x\n*x : d\n",
            "{a@1:1=b@1:4 c@2:1=b@1:4 b@3:1=d@3:6}@1:1",
        );
        good("&k a: b\nc: *k\n", "{a@1:1=b@1:7 c@2:1=\"a\"@1:1}@1:1");
        // What the object has itself counts, then what is merged first; both of two own keys stay.
        good(
            "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  b: 5\n  <<: [*x, *y]\n  b: 6\n",
            "{x@1:1={a@1:8=1@1:11 b@1:14=2@1:17}@1:4 y@2:1={b@2:8=3@2:11 c@2:14=4@2:17}@2:4 \
             z@3:1={b@4:3=5@4:6 a@1:8=1@1:11 c@2:14=4@2:17 b@6:3=6@6:6}@4:3}@1:1",
        );
        // In quotes it is a key as others are.
        good("\"<<\": b\n", "{<<@1:1=b@1:7}@1:1");
    }

    #[test]
    fn aliases_are_bounded() {
        use SyntaxError as E;
        let level = |level: u32, times| {
            let below = format!("*a{}", level.wrapping_sub(1));
            let below = if level == 0 { "x".into() } else { below };
            format!("a{level}: &a{level} [{}]\n", vec![below; times].join(", "))
        };
        let bomb: Vec<_> = (0..30).map(|number| level(number, 10)).collect();
        let Err(mistakes) = parse(&"f".into(), &bomb.concat()) else {
            panic!("accepted");
        };
        assert_eq!(mistakes.len(), 1);
        assert_eq!(mistakes[0].1, E::Aliases);
        assert!((4..8).contains(&mistakes[0].0.line), "{}", mistakes[0].0);
        let long = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(1 << 20),
            vec!["*a"; 20].join(", ")
        );
        bad(&long, &[(2, 61, E::Aliases)]);
        // One level more with each line.
        let ladder: Vec<_> = (0..200).map(|number| level(number, 1)).collect();
        bad(&ladder.concat(), &[(128, 14, E::Depth)]);
        bad("a: &a [*a]\n", &[(1, 8, E::Alias)]);
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&"f".into(), &nested(MAX_DEPTH)).is_ok());
        bad(&nested(MAX_DEPTH + 1), &[(1, 129, SyntaxError::Depth)]);
        assert!(parse(&"f".into(), &nested(10_000)).is_err());
        let steps: Vec<_> = (0..200)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect();
        bad(&steps.concat(), &[(129, 129, SyntaxError::Depth)]);
    }

    #[test]
    fn a_key_may_be_longer_than_yaml_allows() {
        let tags: Vec<_> = (0..2000).map(|tag| format!("v{tag}")).collect();
        let key = format!("r/a:{}", tags.join(","));
        let length = key.chars().count();
        for (text, expected) in [
            (
                format!("a: b\n{key}: c\nd: e\n"),
                format!(
                    "{{a@1:1=b@1:4 {key}@2:1=c@2:{} d@3:1=e@3:4}}@1:1",
                    length + 3
                ),
            ),
            (
                format!("{key}: c # d\r\nd: e\r\n"),
                format!("{{{key}@1:1=c@1:{} d@2:1=e@2:4}}@1:1", length + 3),
            ),
            (
                format!("'{key}': c"),
                format!("{{{key}@1:1=c@1:{}}}@1:1", length + 5),
            ),
            (
                format!("x:\n  \"{key}\":\n    - c\n  y: z\n"),
                format!("{{x@1:1={{{key}@2:3=[c@3:7]@3:5 y@4:3=z@4:6}}@2:3}}@1:1"),
            ),
            (
                format!("{{\"{key}\": c}}"),
                format!("{{{key}@1:2=c@1:{}}}@1:1", length + 6),
            ),
        ] {
            good(&text, &expected);
        }
        bad(
            &format!("{key}: c\n{key}: 'd\n"),
            &[(
                2,
                u32::try_from(length + 3).unwrap(),
                SyntaxError::UnclosedString('\''),
            )],
        );
    }

    #[test]
    fn lines_that_are_no_rules_say_what_is_missing() {
        use SyntaxError as E;
        let cases: [(&str, &[Found]); 23] = [
            ("", &[(1, 1, E::Empty)]),
            ("# only this\n", &[(1, 1, E::Empty)]),
            ("---\n", &[(1, 1, E::Empty)]),
            ("null\n", &[(1, 1, E::Empty)]),
            ("a: b\n---\nc: d\n", &[(2, 1, E::Documents)]),
            ("a: b\n---\n", &[(2, 1, E::Documents)]),
            // Rules without a target.
            (
                "r/a:1\nr/b:2\n",
                &[(1, 1, E::MissingTarget), (2, 1, E::MissingTarget)],
            ),
            ("r/a: x\nr/b:2\nr/c: z\n", &[(2, 1, E::MissingTarget)]),
            ("r/a: x\nr/c: z\nr/b:2\n", &[(3, 1, E::MissingTarget)]),
            (
                "images:\n  r/a:1\n  r/b:2 # c\n",
                &[(2, 3, E::MissingTarget), (3, 3, E::MissingTarget)],
            ),
            (
                "images:\n  r/a:1 x\n  r/b:2: y\n",
                &[(2, 3, E::MissingTarget)],
            ),
            ("\"r/a:1\"\n\"r/b\": x\n", &[(1, 8, E::MissingTarget)]),
            ("a: b\n\n# c\n\nd e\n\nf: g\n", &[(5, 1, E::MissingTarget)]),
            ("r/a:1", &[(1, 1, E::MissingTarget)]),
            // The blank behind the colon.
            (
                "\"a\":\"b\"\n\"c\":\"d\"\n",
                &[(1, 5, E::MissingBlank), (2, 5, E::MissingBlank)],
            ),
            (
                "a:1:\"b\"\nc:1:\"d\"\n",
                &[(1, 5, E::MissingBlank), (2, 5, E::MissingBlank)],
            ),
            ("x: y\na:'b'\n", &[(2, 3, E::MissingBlank)]),
            ("'a':b\n", &[(1, 5, E::MissingBlank)]),
            // Colons of another kind, and too many.
            ("a：b\nc: d\n", &[(1, 2, E::Unexpected('：'))]),
            ("\"a\"：\"b\"\n", &[(1, 4, E::Unexpected('：'))]),
            ("a: b: c\n", &[(1, 5, E::SecondColon)]),
            ("a: r/b:\n", &[(1, 7, E::SecondColon)]),
            ("- a: b\n- c: d: e\n", &[(2, 7, E::SecondColon)]),
        ];
        for (text, expected) in cases {
            bad(text, expected);
        }
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        use SyntaxError as E;
        let cases: [(&str, &[Found]); 28] = [
            // Escapes and quotes.
            ("a: \"x/\\d+/\"\n", &[(1, 7, E::QuotedEscape('d'))]),
            (
                "\"a:/\\d{1,2}/\": b\n\"c:/\\w/\": d\n",
                &[(1, 5, E::QuotedEscape('d')), (2, 5, E::QuotedEscape('w'))],
            ),
            ("a: \"b\nc: d\n", &[(1, 4, E::UnclosedString('"'))]),
            ("a: 'b\nc: d\n", &[(1, 4, E::UnclosedString('\''))]),
            ("\"a: b\n", &[(1, 1, E::UnclosedString('"'))]),
            ("a: \"b\" c\n", &[(1, 8, E::BehindQuotes)]),
            ("a: 'b'c\n", &[(1, 7, E::BehindQuotes)]),
            ("\"a\" \"b\"\n", &[(1, 5, E::MissingColon)]),
            ("\"a\": \"b\",\n\"c\": \"d\"\n", &[(1, 9, E::Comma)]),
            (
                "\"a\": \"b\"，\n\"c\": \"d\"\n",
                &[(1, 9, E::Unexpected('，'))],
            ),
            // Tabs.
            ("a:\n\tb: c\n\td: e\n", &[(2, 1, E::Tab), (3, 1, E::Tab)]),
            ("a: b\n  \tc: d\n", &[(2, 3, E::Tab)]),
            // Characters that begin something else.
            ("a: @b\n", &[(1, 4, E::Reserved('@'))]),
            ("a: `b`\n", &[(1, 4, E::Reserved('`'))]),
            ("a: %b\n", &[(1, 4, E::Reserved('%'))]),
            ("a: *b\n", &[(1, 4, E::Alias)]),
            (
                "a: !include b\nc: !x [d]\n",
                &[(1, 4, E::Tag), (2, 4, E::Tag)],
            ),
            ("{a: b}: c\n", &[(1, 1, E::KeyIsNoText)]),
            ("? [a]\n: b\n", &[(1, 3, E::KeyIsNoText)]),
            ("<<: b\n", &[(1, 5, E::Merge)]),
            ("[a](b): c\nd: e\n", &[(1, 1, E::MarkdownLink)]),
            // What git leaves.
            (
                "a: b\n<<<<<<< HEAD\nc: d\n=======\nc: e\n>>>>>>> x\n",
                &[
                    (2, 1, E::MergeMarker),
                    (4, 1, E::MergeMarker),
                    (6, 1, E::MergeMarker),
                ],
            ),
            // Variables in braces without quotes.
            ("{a: ${B}}\n", &[(1, 5, E::BareVariable("${B}".into()))]),
            ("{a: [${{ b }}]}\n", &[(1, 6, E::BareExpression)]),
            // Beside a mistake, what is right is not reported.
            (
                "a: |\n  r/x:1\nb: [c,\n  d]\n\"e\":\n- f\n- g: h\ni j\n",
                &[(8, 1, E::MissingTarget)],
            ),
            // For all others the parser's own words.
            (
                "a:\n   b: c\n  d: e\n",
                &[(
                    3,
                    3,
                    no_yaml("while parsing a block mapping, did not find expected key"),
                )],
            ),
            ("a: b\n}\n", &[(2, 1, E::MissingTarget)]),
            (
                "a: [b\n",
                &[(
                    2,
                    1,
                    no_yaml("while parsing a flow sequence, expected ',' or ']'"),
                )],
            ),
        ];
        for (text, expected) in cases {
            bad(text, expected);
        }
    }

    fn no_yaml(words: &str) -> SyntaxError {
        SyntaxError::NoYaml(words.into())
    }

    #[test]
    fn no_part_of_a_file_and_no_change_of_a_byte_panics() {
        let sample = "%YAML 1.2\n---\r\nauth: &x # c\n  a.b: {username: \"\\u00e4\", insecure: yes}\n  'c''d': !!str |\n    e\n\
            images:\n  <<: *x\n  ? r/a：1\n  : [b, \"c\n    d\", ${X}]\n  - \tf\n...\n";
        let mut refused = 0;
        for end in (0..=sample.len()).filter(|end| sample.is_char_boundary(*end)) {
            refused += usize::from(parse(&"f".into(), &sample[..end]).is_err());
            refused += usize::from(parse(&"f".into(), &sample[end..]).is_err());
        }
        for at in (0..sample.len())
            .filter(|at| sample.is_char_boundary(*at) && sample.is_char_boundary(at + 1))
        {
            for c in [
                '"', '\'', '\\', '{', '}', '[', ',', ':', '-', '#', '&', '*', '|', '\n', '\t', '\0',
            ] {
                let text = [&sample[..at], &sample[at + 1..]].join(&c.to_string());
                refused += usize::from(parse(&"f".into(), &text).is_err());
            }
        }
        assert!(refused > 1000, "{refused}");
    }

    #[test]
    fn a_large_file_takes_linear_time() {
        let rules: Vec<_> = (0..20_000)
            .map(|rule| format!("r/a:{rule}: r/b\n"))
            .collect();
        let Ok(Node {
            value: Value::Object(members),
            ..
        }) = parse(&"f".into(), &rules.concat())
        else {
            panic!("refused");
        };
        assert_eq!(
            members.last().map(|member| member.position.line),
            Some(20_000)
        );
    }
}
