//! Files that are refused as a whole for one mistake, with the exact words. Not here: what `mod.rs` has in files with
//! several mistakes, files that are accepted with a warning (there too), and rules that fail alone (`rule.rs`).

use super::Shape::{self, Auth, Config, Images};
use super::tests::parse_as;

/// What the file is, what is in it, and what is said of it. The file of credentials is called `a`, all others `f`.
type Row = (Shape, &'static str, &'static [&'static str]);

#[track_caller]
fn refuse(rows: &[Row]) {
    for (shape, text, expected) in rows {
        let error = parse_as(&[(*shape, text)]).expect_err(text).to_string();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines, *expected, "{text}");
    }
}

#[test]
fn a_json_text_that_is_none_is_refused() {
    refuse(JSON);
}

#[test]
fn a_yaml_text_that_is_none_is_refused() {
    refuse(YAML);
}

#[test]
fn what_a_file_cannot_hold_is_refused() {
    refuse(CONTENT);
}

const JSON: &[Row] = &[
    (
        Config,
        "{\"images\": {\"a:1\": \"b.io/a\"",
        &["f:1:12: no end of what begins here; close it with `}`"],
    ),
    (
        Config,
        "{\"images\": {\"a:1\" \"b.io/a\"}}",
        &["f:1:18: a colon is missing; write `:` here"],
    ),
    (
        Config,
        "{\"images\": {\"a:1\": \"b.io/a\"\n\"c:1\": \"d.io/c\"}}",
        &["f:1:28: a comma is missing; write `,` here"],
    ),
    (
        Config,
        "{\"images\": {\"a:1\": \"b.io/a}}",
        &["f:1:20: the text has no closing quote on its line; write a `\"` at its end"],
    ),
    (
        Config,
        "{\"images\": {\"a:1\": }}",
        &["f:1:18: the value is missing; a rule is \"SOURCE\": \"TARGET\""],
    ),
    (
        Config,
        "{\"images\": {\"a:1\"}}",
        &["f:1:18: the value is missing; a rule is \"SOURCE\": \"TARGET\""],
    ),
    (
        Config,
        "{\"images\": {a: \"b.io/a\"}}",
        &["f:1:13: the key has no quotes; write it between `\"` and `\"`"],
    ),
    (
        Config,
        "{'images': {}}",
        &["f:1:2: a single quote; JSON quotes with `\"`"],
    ),
    (
        Config,
        "{\"images\": {\"a:1\": b.io/a}}",
        &["f:1:20: a word without quotes; quote it: write it between `\"` and `\"`"],
    ),
    (
        Config,
        "{\"images\": {\"a:1\": $TARGET}}",
        &["f:1:20: $TARGET is not quoted; quote it: \"${TARGET}\""],
    ),
    (
        Config,
        "{\"auth\": {\"a.io\": {\"password\": ${{ secrets.P }}}}}",
        &[
            "f:1:32: GitHub does not expand `${{ }}` in files; pass the value as a variable and write ${NAME}",
        ],
    ),
    (
        Config,
        "{\"auth\": {\"a.io\": {\"insecure\": yes}}}",
        &[
            "f:1:32: a word without quotes that is none of JSON's; write true, or quote it if a text is \
         meant",
        ],
    ),
    (
        Config,
        "{\"images\": {\"a:/\\d+/\": \"b.io/a\"}}",
        &["f:1:17: `\\d` is no escape; for a backslash write `\\\\`"],
    ),
    (
        Config,
        "{\"images\": {\"a:1\"： \"b.io/a\"}}",
        &["f:1:18: U+FF1A where `:` is meant; write `:`"],
    ),
    (
        Config,
        "{\"images\": {}} {}",
        &["f:1:16: text behind the end; a file is one JSON object, delete the rest"],
    ),
    (
        Config,
        "{\"images\": {}}}",
        &["f:1:15: text behind the end; a file is one JSON object, delete the rest"],
    ),
    (
        Config,
        "{\"images\": {\"a\": \"b.io/a\"}, /* note }",
        &["f:1:29: the comment has no end; close it with `*/`"],
    ),
    (
        Config,
        "{\n# note\n\"images\": {}}",
        &["f:2:1: `#` begins no comment in JSON; write `//`"],
    ),
    (
        Config,
        "<<<<<<< HEAD\n{\"images\": {}}\n",
        &["f:1:1: a conflict marker of git; finish the merge and delete the line"],
    ),
    (
        Config,
        "{\"images\": {\n<<<<<<< HEAD\n\"a\": \"b.io/a\"\n=======\n",
        &["f:2:1: a conflict marker of git; finish the merge and delete the line"],
    ),
    (
        Config,
        "{\"images\": {\"a\": \"b\\u00\"}}",
        &[
            "f:1:20: `\\u` needs four hex digits, and two of it for characters beyond U+FFFF; write the \
         character itself",
        ],
    ),
    (
        Config,
        "{\"images\": {,}}",
        &["f:1:13: `,` is not expected here; delete it"],
    ),
];

const YAML: &[Row] = &[
    (
        Images,
        "a:1\nb:1\n",
        &[
            "f:1:1: a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
            "f:2:1: a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
        ],
    ),
    (
        Images,
        "a:1: b.io/a\nc:1\nd:1: e.io/d\n",
        &[
            "f:2:1: a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
        ],
    ),
    (
        Images,
        "a:1 b.io/a\n",
        &[
            "f:1:1: a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
        ],
    ),
    (
        Images,
        "\"a:1\":\"b.io/a\"\n",
        &["f:1:7: no blank behind the colon; put a blank after the colon"],
    ),
    (
        Images,
        "a:1:\"b.io/a\"\n",
        &["f:1:5: no blank behind the colon; put a blank after the colon"],
    ),
    (
        Images,
        "a:1: \"b.io/a\",\nc:1: \"d.io/c\"\n",
        &["f:1:14: a comma behind the line; YAML has none there, delete it"],
    ),
    (
        Images,
        "\"a:/\\d+/\": b.io/a\n",
        &["f:1:5: `\\d` is an escape in double quotes; use single quotes"],
    ),
    (
        Images,
        "a:1: \"b.io/a\n",
        &["f:1:6: the text has no closing quote on its line; write a `\"` at its end"],
    ),
    (
        Images,
        "a:1: 'b.io/a\n",
        &["f:1:6: the text has no closing quote on its line; write a `'` at its end"],
    ),
    (
        Images,
        "a:1: \"b.io/a\" b\n",
        &["f:1:15: text behind the closing quote; put it inside, or delete it"],
    ),
    (
        Images,
        "a:1: b.io/a: 2\n",
        &["f:1:12: a second `: ` in the line; quote the text that holds it"],
    ),
    (
        Images,
        "a:1：b.io/a\nc: d.io/c\n",
        &["f:1:4: U+FF1A where `:` is meant; write `:`"],
    ),
    (
        Images,
        "\"a:1\" \"b.io/a\"\n",
        &["f:1:7: a colon is missing; write `:` here"],
    ),
    (
        Images,
        "[a](https://a): b.io/a\nc: d.io/c\n",
        &["f:1:1: a Markdown link; write the text in [ ] alone"],
    ),
    (
        Images,
        "a:1: @b.io/a\n",
        &["f:1:6: `@` begins no text without quotes; quote the text"],
    ),
    (
        Images,
        "a:1: *b\n",
        &["f:1:6: no anchor of this name stands before; write `&NAME` there, or quote the text"],
    ),
    (
        Images,
        "a:1: !b b.io/a\n",
        &["f:1:6: a tag that no configuration has; delete the `!` and its name, or quote the text"],
    ),
    (
        Images,
        "<<: b\n",
        &["f:1:5: `<<` takes an alias of an object, or an array of them"],
    ),
    (
        Images,
        "[a]: b.io/a\nc: d.io/c\n",
        &["f:1:1: the key is no text; quote it"],
    ),
    (
        Images,
        "a:1: b.io/a\n---\nc:1: d.io/c\n",
        &["f:2:1: a second document; write all into one, without the `---`"],
    ),
    (
        Images,
        "a:1: b.io/a\n}\n",
        &[
            "f:2:1: a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
        ],
    ),
    (
        Config,
        "images:\n\ta: b.io/a\n",
        &["f:2:1: a tab in the indentation; indent with blanks"],
    ),
    (
        Config,
        "images:\n  a: b.io/a\n c: d.io/c\n",
        &[
            "f:3:2: not YAML: while parsing a block mapping, did not find expected key; look at quotes, \
         brackets and indentation here and in the line before",
        ],
    ),
    (
        Config,
        "images:\n  a:1\n  b:1\n",
        &[
            "f:2:3: a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
            "f:3:3: a line without `: `; a rule is SOURCE: TARGET, and a text of several lines needs quotes",
        ],
    ),
    (
        Config,
        "images: {a: [b.io/a}\n",
        &[
            "f:1:20: not YAML: while parsing a flow sequence, expected ',' or ']'; look at quotes, \
         brackets and indentation here and in the line before",
        ],
    ),
    (
        Config,
        "auth: {a.io: {password: ${P}}}\n",
        &["f:1:25: ${P} is not quoted; quote it: \"${P}\""],
    ),
    (
        Config,
        "auth:\n  a.io:\n    password: ${{ secrets.P }}\n",
        &[
            "f:3:15: GitHub does not expand `${{ }}` in files; pass the value as a variable and write ${NAME}",
        ],
    ),
    (
        Config,
        "<<<<<<< HEAD\nimages:\n=======\nauth:\n",
        &[
            "f:1:1: a conflict marker of git; finish the merge and delete the line",
            "f:3:1: a conflict marker of git; finish the merge and delete the line",
        ],
    ),
    (
        Config,
        "a: &a [*a]\n",
        &["f:1:8: no anchor of this name stands before; write `&NAME` there, or quote the text"],
    ),
];

const CONTENT: &[Row] = &[
    (
        Config,
        "",
        &[
            "f:1:1: the file is empty and holds no rules; write an object such as {\"images\": \
         {\"SOURCE\": \"TARGET\"}}, or look why nothing was written into it",
        ],
    ),
    (
        Images,
        "# nothing\n",
        &[
            "f:1:1: the file is empty and holds no rules; write an object such as {\"SOURCE\": \
         \"TARGET\"}, or look why nothing was written into it",
        ],
    ),
    (
        Auth,
        "// nothing\n",
        &[
            "a:2:1: the file is empty and holds no credentials; write an object such as {\"REGISTRY\": \
         {\"username\": \"NAME\", \"password\": \"WORD\"}}, or look why nothing was written into it",
        ],
    ),
    (
        Config,
        "null\n",
        &[
            "f:1:1: the file is empty and holds no rules; write an object such as {\"images\": \
         {\"SOURCE\": \"TARGET\"}}, or look why nothing was written into it",
        ],
    ),
    (
        Config,
        "\"images\"\n",
        &[
            "f:1:1: the file is a text; write an object such as {\"images\": {\"SOURCE\": \"TARGET\"}}",
        ],
    ),
    (
        Config,
        "[{\"src\": \"a\", \"dest\": \"b\"}]",
        &[
            "f:1:1: the file is an array; write an object such as {\"images\": {\"SOURCE\": \"TARGET\"}}",
        ],
    ),
    (
        Config,
        "images:\n  - src: a\n    dest: b\n",
        &["f:2:3: images is an array; write an object such as {\"SOURCE\": \"TARGET\"}"],
    ),
    (
        Config,
        "images: a\n",
        &["f:1:9: images is a text; write an object such as {\"SOURCE\": \"TARGET\"}"],
    ),
    (
        Images,
        "{\"images\": {\"a\": \"b.io/a\"}}",
        &[
            "f:1:2: `images` in a file of --images; write what `images` holds without it, or name the file \
         with --config",
        ],
    ),
    (
        Auth,
        "auth:\n  a.io: {username: u}\n",
        &[
            "a:1:1: `auth` in a file of --auth; write what `auth` holds without it, or name the file with \
         --config",
        ],
    ),
    (
        Images,
        "auth:\n  a.io: {username: u}\nimages:\n  a: b.io/a\n",
        &[
            "f:1:1: `auth` in a file of --images; write what `auth` holds without it, or name the file \
         with --config",
            "f:3:1: `images` in a file of --images; write what `images` holds without it, or name the file \
         with --config",
        ],
    ),
    (
        Auth,
        "a.io: {insecure: 'yes'}\n",
        &["a:1:18: insecure is a text; write true or false without quotes"],
    ),
    (
        Auth,
        "a.io: {insecure: maybe}\n",
        &["a:1:18: insecure is a text; write true or false without quotes"],
    ),
    (
        Auth,
        "docker.io: {username: u, password: p}\nindex.docker.io: {username: u, password: q}\n",
        &[
            "a:2:1: auth key \"index.docker.io\" means the same as \"docker.io\" at a:1:1 and says \
         something else; delete one",
        ],
    ),
];
