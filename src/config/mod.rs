//! The configuration: what the user wrote, in a file and on the command line, becomes credentials and rules, or the
//! list of everything that is wrong with it, each with its place and a remedy (decisions D2). Not here: the network.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::nearest::nearest;
use crate::oci::PlatformFilter;
use crate::store::Place;

mod auth;
mod body;
mod error;
mod fields;
mod files;
mod json;
mod lines;
#[cfg(test)]
mod refused;
mod rule;
mod schema;
mod side;
mod syntax;
mod tags;
mod tree;
mod variables;
mod yaml;

pub(crate) use auth::parse_bytes;
pub use auth::{AuthEntry, Login};
pub use error::{ConfigError, Problem, ProblemKind, Shape};
pub use rule::{Levels, Rule, RuleError, RuleFault, RuleTarget, Selection};
pub use schema::SCHEMA;
pub use side::SideError;
pub use syntax::SyntaxError;
pub use tags::{Choice, Dropped, FilterError, Pattern, TagFilter};
pub use tree::Position;
pub use variables::Environment;

use body::Body;
use files::Source;
use side::Written;
use tree::{Member, Node, Value};
use variables::{Expanded, Form};

/// Where the configuration is read from if the user names no file.
pub const DEFAULT_PATH: &str = "./image-syncer.json";

/// What stands for a file in the places of the rule that the command line gives.
const COMMAND_LINE: &str = "command line";

/// The name of a file that stands for standard input.
pub const STDIN: &str = "-";

/// What of the command line makes the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions<'a> {
    /// `--config`.
    pub config: Option<&'a Path>,
    /// `--auth`, which counts without `--config`.
    pub auth: Option<&'a Path>,
    /// `--images`, which counts without `--config`.
    pub images: Option<&'a Path>,
    /// `SOURCE TARGET...`: the one rule, instead of the file's.
    pub rule: &'a [String],
    /// `--registry` or `DEFAULT_REGISTRY`.
    pub registry: Option<&'a str>,
    /// `--namespace` or `DEFAULT_NAMESPACE`.
    pub namespace: Option<&'a str>,
    /// `--os` and `--arch`: for all rules that do not choose themselves.
    pub platforms: Option<&'a PlatformFilter>,
    /// `--force`: of all rules.
    pub force: bool,
    /// `--referrers`: of all rules.
    pub referrers: bool,
}

/// What is to be done, and what was wrong without stopping the rest.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Credentials, no two with the same reach.
    pub auth: Vec<AuthEntry>,
    /// The rules that can be carried out, in the order of the file. None has a target that an earlier one has for the
    /// same images.
    pub rules: Vec<Rule>,
    /// The rules that cannot.
    pub failed_rules: Vec<RuleError>,
    /// What the user should know, each with its place.
    pub warnings: Vec<String>,
}

/// Reads the files and the rule of the command line.
///
/// # Errors
/// Everything that makes the files unusable. A rule that is wrong is no error but one of [`Config::failed_rules`].
pub fn load(
    options: &LoadOptions<'_>,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let mut reading = Reading::new(environment);
    let mut sources = Vec::new();
    for (shape, path) in files::chosen(options, &mut reading) {
        let file: Arc<str> = match path.to_str() {
            Some(STDIN) => "standard input".into(),
            _ => path.display().to_string().into(),
        };
        match files::read(path) {
            Ok(content) => sources.push(Source {
                shape,
                file,
                content,
            }),
            Err(error) => {
                let is_missing = error.kind() == io::ErrorKind::NotFound;
                if is_missing && shape == Shape::Config && !options.rule.is_empty() {
                    if options.config.is_some() {
                        reading.warnings.push(format!(
                            "{file}: there is no such file: no credentials are taken from it"
                        ));
                    }
                    continue;
                }
                let what = if is_missing {
                    ProblemKind::Missing(shape)
                } else {
                    ProblemKind::Unreadable(error)
                };
                let position = Position::whole(&file);
                reading.problems.push(Problem::at(&position, what));
            }
        }
    }
    build(sources, options, reading)
}

fn build(
    sources: Vec<Source>,
    options: &LoadOptions<'_>,
    mut reading: Reading<'_>,
) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let mut sections = Sections::default();
    let mut of_rules = None;
    for Source {
        shape,
        file,
        content,
    } in sources
    {
        match tree::parse(&file, &content.bytes) {
            Ok(root) => {
                let more = Sections::of(shape, root, &mut reading);
                if content.readable_by_others && auth::holds_password(&more.auth) {
                    reading.warnings.push(format!(
                        "{file}: the file holds a password and other users can read it; `chmod 600` keeps them out"
                    ));
                }
                sections.auth.extend(more.auth);
                sections.images.extend(more.images);
            }
            Err(mistakes) => {
                let problem = |(position, mistake)| Problem {
                    position,
                    what: match mistake {
                        SyntaxError::Empty => ProblemKind::Empty(shape),
                        mistake => ProblemKind::Syntax(mistake),
                    },
                };
                reading.problems.extend(mistakes.into_iter().map(problem));
            }
        }
        of_rules = Some(file).filter(|_| shape != Shape::Auth);
    }
    config.auth = auth::read(&sections.auth, &mut reading);
    if options.rule.is_empty() {
        expand_rules(&mut sections.images, &mut reading);
        add_rules(&sections.images, options, &mut config, &mut reading);
    } else {
        add_command_line_rule(options, &mut config, &mut reading);
    }
    let Reading {
        mut problems,
        warnings,
        ..
    } = reading;
    config.warnings = warnings;
    if !problems.is_empty() {
        problems.sort_by(|one, other| one.position.cmp(&other.position));
        return Err(ConfigError { problems });
    }
    if config.rules.is_empty() && config.failed_rules.is_empty() {
        if let Some(file) = of_rules {
            config.warnings.push(format!(
                "{file}: the file holds no rules: there is nothing to do"
            ));
        }
    } else if options.rule.is_empty() {
        // A single rule of the command line uses few entries of a file that serves many.
        auth::warn_unused(&config.auth, &config.rules, &mut config.warnings);
    }
    Ok(config)
}

/// What is read with, and what is found meanwhile.
struct Reading<'a> {
    /// Looks up variables.
    environment: Environment<'a>,
    /// What stops the program.
    problems: Vec<Problem>,
    /// What does not.
    warnings: Vec<String>,
}

impl<'a> Reading<'a> {
    fn new(environment: Environment<'a>) -> Self {
        Self {
            environment,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Replaces the variables of a name, and tells whether that could be done.
    fn expand(&mut self, text: &mut String, form: Form, position: &Position) -> bool {
        match variables::in_name(text, form, self.environment) {
            Ok(Expanded {
                text: expanded,
                empty,
            }) => {
                let warn = |name| format!("{position}: the variable {name} is set but empty");
                self.warnings.extend(empty.into_iter().map(warn));
                *text = expanded.into_owned();
                true
            }
            Err(kinds) => {
                let problem = |what| Problem::at(position, what);
                self.problems.extend(kinds.into_iter().map(problem));
                false
            }
        }
    }
}

/// The parts of a configuration. A part that is there twice is one part.
#[derive(Default)]
struct Sections {
    auth: Vec<Member>,
    images: Vec<Member>,
}

impl Sections {
    fn of(shape: Shape, root: Node, reading: &mut Reading<'_>) -> Self {
        let problems = &mut reading.problems;
        let mut sections = Self::default();
        let Value::Object(members) = root.value else {
            problems.push(Problem::kind(&root, "the file", shape.expected()));
            return sections;
        };
        match shape {
            Shape::Config => sections.take_parts(members, reading),
            Shape::Auth => sections.auth = unnested(shape, members, problems),
            Shape::Images => sections.images = unnested(shape, members, problems),
        }
        sections
    }

    fn take_parts(&mut self, members: Vec<Member>, reading: &mut Reading<'_>) {
        for member in members {
            let key = member.key.to_ascii_lowercase();
            let (section, part) = match key.as_str() {
                "auth" => (&mut self.auth, Shape::Auth),
                "images" => (&mut self.images, Shape::Images),
                _ => {
                    if let Some(meant) = nearest(&key, ["auth", "images"]) {
                        let key = member.key;
                        let what = ProblemKind::Misspelt { key, meant };
                        reading.problems.push(Problem::at(&member.position, what));
                    } else if !["_", "$", "x-", "//"]
                        .iter()
                        .any(|mark| key.starts_with(mark))
                    {
                        reading.warnings.push(format!(
                            "{}: the key {:?} is ignored: a file holds `auth` and `images`",
                            member.position, member.key
                        ));
                    }
                    continue;
                }
            };
            match member.value.value {
                Value::Object(members) => section.extend(members),
                Value::Null => {}
                _ => {
                    let problem = Problem::kind(&member.value, part.name(), part.expected());
                    reading.problems.push(problem);
                }
            }
        }
    }
}

/// The members without whole parts of a configuration, which are problems here: neither a registry nor a source has
/// such a name and an object behind it.
fn unnested(shape: Shape, members: Vec<Member>, problems: &mut Vec<Problem>) -> Vec<Member> {
    let part_of = |member: &Member| {
        let is_object = matches!(member.value.value, Value::Object(_));
        let mut parts = [Shape::Auth, Shape::Images].into_iter();
        parts.find(|part| is_object && member.key.eq_ignore_ascii_case(part.name()))
    };
    let mut others = Vec::new();
    for member in members {
        match part_of(&member) {
            Some(part) => {
                let what = ProblemKind::Nested { part, shape };
                problems.push(Problem::at(&member.position, what));
            }
            None => others.push(member),
        }
    }
    others
}

/// Replaces the variables in sources and targets.
fn expand_rules(rules: &mut [Member], reading: &mut Reading<'_>) {
    for rule in rules {
        reading.expand(&mut rule.key, Form::Braces, &rule.position);
        for node in targets_mut(&mut rule.value) {
            if let Value::String(text) | Value::Word(text) = &mut node.value {
                reading.expand(text, Form::Any, &node.position);
            }
        }
    }
}

/// The targets of a rule: a text, several, or those that an object names.
fn targets_mut(node: &mut Node) -> Vec<&mut Node> {
    if !matches!(node.value, Value::Array(_) | Value::Object(_)) {
        return vec![node];
    }
    match &mut node.value {
        Value::Array(nodes) => nodes.iter_mut().collect(),
        Value::Object(members) => {
            let to = members
                .iter_mut()
                .filter(|member| member.key.eq_ignore_ascii_case("to"));
            to.flat_map(|member| targets_mut(&mut member.value))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn add_rules(
    members: &[Member],
    options: &LoadOptions<'_>,
    config: &mut Config,
    reading: &mut Reading<'_>,
) {
    let mut seen = Seen::default();
    for member in members {
        let source = Written {
            text: &member.key,
            position: &member.position,
        };
        if let Some(body) = Body::read(&member.value, &mut reading.problems) {
            add_rule(&source, &body, options, &mut seen, config, reading);
        }
    }
}

fn add_command_line_rule(
    options: &LoadOptions<'_>,
    config: &mut Config,
    reading: &mut Reading<'_>,
) {
    let position = Position::whole(&COMMAND_LINE.into());
    let mut texts = options.rule.to_vec();
    for (index, text) in texts.iter_mut().enumerate() {
        let form = if index == 0 { Form::Braces } else { Form::Any };
        reading.expand(text, form, &position);
    }
    let written = |text| Written {
        text,
        position: &position,
    };
    let mut texts = texts.iter().map(|text| written(text));
    let Some(source) = texts.next() else { return };
    let mut targets: Vec<_> = texts.collect();
    if targets.is_empty() {
        targets.push(written(""));
    }
    add_rule(
        &source,
        &Body::of(targets),
        options,
        &mut Seen::default(),
        config,
        reading,
    );
}

/// The numbers of the rules that bring images from a source to a target.
type Seen = HashMap<(Place, RuleTarget), Vec<usize>>;

fn add_rule(
    source: &Written<'_>,
    body: &Body<'_>,
    options: &LoadOptions<'_>,
    seen: &mut Seen,
    config: &mut Config,
    reading: &mut Reading<'_>,
) {
    let (rule, failed) = rule::validate(source, body, options, &mut reading.warnings);
    config.failed_rules.extend(failed);
    let Some(mut rule) = rule else { return };
    let number = config.rules.len();
    let mut repeated = None;
    for target in std::mem::take(&mut rule.targets) {
        let pair = (rule.source.clone(), target.clone());
        let earlier = seen.entry(pair).or_default();
        let is_same = |number: &&usize| {
            config.rules.get(**number).is_some_and(|other| {
                (&other.selection, other.levels, &other.platforms)
                    == (&rule.selection, rule.levels, &rule.platforms)
            })
        };
        let first = earlier.iter().find(is_same).copied();
        if earlier.contains(&number) {
            repeated = Some("itself".to_owned());
        } else if let Some(first) = first.and_then(|first| config.rules.get_mut(first)) {
            first.force |= rule.force;
            first.referrers |= rule.referrers;
            repeated = Some(format!("the rule at {}", first.position));
        } else {
            earlier.push(number);
            rule.targets.push(target);
        }
    }
    if let Some(first) = repeated {
        reading.warnings.push(format!(
            "{}: the rule repeats a target of {first}: it is copied once, delete one",
            rule.position
        ));
    }
    if !rule.targets.is_empty() {
        config.rules.push(rule);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::secret::Secret;
    use crate::store::{Connection, Limits};

    fn environment(name: &str) -> Option<std::ffi::OsString> {
        match name {
            "HOST" => Some("a.io".into()),
            "NS" => Some("ns".into()),
            "WORD" => Some("hunter2".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        parse_as(&[(Shape::Config, text)])
    }

    pub(super) fn parse_as(files: &[(Shape, &str)]) -> Result<Config, ConfigError> {
        let source = |(shape, text): &(Shape, &str)| Source {
            shape: *shape,
            file: if *shape == Shape::Auth { "a" } else { "f" }.into(),
            content: files::Content {
                bytes: text.as_bytes().to_vec(),
                readable_by_others: false,
            },
        };
        let sources = files.iter().map(source).collect();
        build(sources, &LoadOptions::default(), Reading::new(&environment))
    }

    #[track_caller]
    fn accept(text: &str) -> Config {
        parse(text).unwrap()
    }

    #[track_caller]
    fn refuse(text: &str, expected: &[&str]) {
        let error = parse(text).unwrap_err();
        let lines: Vec<_> = error.to_string().lines().map(String::from).collect();
        assert_eq!(lines, expected, "{text}");
    }

    /// Rules, one a line, with their places.
    fn rules(config: &Config) -> Vec<String> {
        let draw = |rule: &Rule| {
            let targets: Vec<_> = rule
                .targets
                .iter()
                .map(|target| target.place.to_string())
                .collect();
            format!("{} {} {}", rule.position, rule.source, targets.join(" "))
        };
        config.rules.iter().map(draw).collect()
    }

    #[test]
    fn the_documented_example_is_accepted_with_its_comments() {
        let config = accept(
            r#"// The credentials, by registry.
{
    "auth": {
        // One entry for a whole registry,
        "quay.io": {
            "username": "robot",
            "password": "word"
        },
        "registry.example:5000": {
            "username": "",
            "password": null,
            "insecure": true // speaks http
        },
        /* and one for a namespace of it. */
        "quay.io/coreos": { "username": 100012345678, "password": 007e }
    },
    "images": {
        // All tags, one tag, one tag under another name, several tags.
        "quay.io/coreos/kube-rbac-proxy": "registry.example:5000/ns/proxy",
        "quay.io/ruby:2.0": "registry.example:5000/ns/ruby",
        "nginx:1.27": "registry.example:5000/ns/web:stable",
        "alpine:3.19,3.20": "registry.example:5000/ns/alpine",
        "busybox": ["registry.example:5000/ns/busybox", "quay.io/ns/busybox"],
    },
}
"#
            .replace("007e", "7e0")
            .as_str(),
        );
        assert_eq!(config.failed_rules, []);
        assert_eq!(
            rules(&config),
            [
                "f:19:9 quay.io/coreos/kube-rbac-proxy registry.example:5000/ns/proxy",
                "f:20:9 quay.io/ruby registry.example:5000/ns/ruby",
                "f:21:9 docker.io/library/nginx registry.example:5000/ns/web",
                "f:22:9 docker.io/library/alpine registry.example:5000/ns/alpine",
                "f:23:9 docker.io/library/busybox registry.example:5000/ns/busybox quay.io/ns/busybox",
            ]
        );
        let auth: Vec<_> = config
            .auth
            .iter()
            .map(|entry| {
                let login = login(entry);
                (
                    entry.host.as_str(),
                    entry.path.as_str(),
                    login,
                    entry.insecure,
                )
            })
            .collect();
        assert_eq!(
            auth,
            [
                ("quay.io", "", "robot word".into(), false),
                ("registry.example:5000", "", "None".into(), true),
                ("quay.io", "coreos", "100012345678 7e0".into(), false),
            ]
        );
        assert_eq!(
            config.warnings,
            [
                "f:9:9: auth key \"registry.example:5000\" has no username or no password: registry.example:5000 is \
              asked without credentials of this file"
            ]
        );
    }

    fn login(entry: &AuthEntry) -> String {
        match &entry.login {
            Some(Login::Password(username, password)) => {
                format!("{username} {}", password.expose())
            }
            Some(Login::Token(token)) => token.expose().into(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn names_of_fields_have_no_case_and_parts_may_be_repeated() {
        let config = accept(
            "\u{feff}{\"AUTH\": {\"a.io\": {\"UserName\": \"u\", \"Password\": \"p\", \"INSECURE\": true}},\r\n\
             \"Images\": {\"a.io/b\": \"c.io/d\"},\r\n\"images\": {\"a.io/e\": \"c.io/f\"}, \"auth\": null}",
        );
        assert_eq!(config.warnings, [""; 0]);
        assert_eq!(login(&config.auth[0]), "u p");
        assert!(config.auth[0].insecure);
        assert_eq!(
            rules(&config),
            ["f:2:12 a.io/b c.io/d", "f:3:12 a.io/e c.io/f"]
        );
    }

    #[test]
    fn a_file_without_rules_is_a_warning_and_one_without_text_an_error() {
        for text in [
            "{}",
            "{\"images\": null}",
            "{\"images\": {}, \"auth\": {\"a.io\": null}}",
        ] {
            let config = accept(text);
            assert_eq!(
                config.warnings,
                ["f: the file holds no rules: there is nothing to do"]
            );
        }
        for text in ["", " \n", "// nothing\n/* at all */"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains("the file is empty and holds no rules; write "),
                "{error}"
            );
        }
    }

    #[test]
    fn unknown_keys_are_warned_of_but_for_those_meant_as_notes() {
        let config = accept(
            "{\"images\": {\"a\": \"b\"}, \"historyRecord\": {\"x\": \"${Y}\"}, \"proc\": 5,\n\
             \"_old\": 1, \"$schema\": 1, \"X-note\": 1, \"// b\": 1}",
        );
        assert_eq!(
            config.warnings,
            [
                "f:1:24: the key \"historyRecord\" is ignored: a file holds `auth` and `images`",
                "f:1:56: the key \"proc\" is ignored: a file holds `auth` and `images`",
            ]
        );
    }

    #[test]
    fn what_makes_a_file_unusable_is_named_all_at_once() {
        refuse(
            "{\"auths\": {}, \"image\": {},\n\"auth\": [], \"images\": [\"a\"]}",
            &[
                "f:1:2: the key \"auths\" looks like `auth`; write \"auth\"",
                "f:1:15: the key \"image\" looks like `images`; write \"images\"",
                "f:2:9: auth is an array; write an object such as {\"REGISTRY\": {\"username\": \"NAME\", \
                 \"password\": \"WORD\"}}",
                "f:2:23: images is an array; write an object such as {\"SOURCE\": \"TARGET\"}",
            ],
        );
        refuse(
            "{\"auth\": {\"a.io\": \"u:p\", \"b.io\": {\"user\": \"u\", \"username\\\"\": \"u\", \"pasword\": \"p\"},\n\
             \"c.io\": {\"insecure\": \"true\", \"username\": true, \"password\": []},\n\
             \"d.io\": {\"username\": \"a\", \"Username\": \"a\"}}}",
            &[
                "f:1:19: an auth entry is a text; write an object such as {\"username\": \"NAME\", \"password\": \
                 \"WORD\"}",
                "f:1:35: an auth entry has no field \"user\"; it has \"username\", \"password\", \"password_file\", \
                 \"token\", \"token_file\", \"helper\", \"insecure\", \"ca\", \"cert\", \"key\", \"plain_http\", \"proxy\", \
                 \"concurrency\", \"requests_per_second\" and \"bandwidth\"",
                "f:1:48: an auth entry has no field \"username\\\"\"; write \"username\"",
                "f:1:67: an auth entry has no field \"pasword\"; write \"password\"",
                "f:2:22: insecure is a text; write true or false without quotes",
                "f:2:42: username is a boolean; write a text in quotes",
                "f:2:60: password is an array; write a text in quotes",
                "f:3:27: \"username\" is there already at f:3:10; delete one",
            ],
        );
        refuse(
            "{\"auth\": {\"a.io\": {\"concurrency\": 0, \"requests_per_second\": -1, \"bandwidth\": \"10 miles\"},\n\
             \"b.io\": {\"concurrency\": 1.5, \"requests_per_second\": 0.0001, \"bandwidth\": 0.5},\n\
             \"c.io\": {\"concurrency\": \"4\", \"requests_per_second\": true, \"bandwidth\": \"99999999999GB\"},\n\
             \"d.io\": {\"bandwidth\": [1], \"bandwith\": 1},\n\
             \"e.io/a\": {\"insecure\": true, \"bandwidth\": 1, \"concurrency\": 1}}}",
            &[
                &format!("f:1:35: concurrency is \"0\"; {AT_ONCE}"),
                &format!("f:1:61: requests_per_second is \"-1\"; {A_SECOND}"),
                &format!("f:1:78: bandwidth is \"10 miles\"; {BYTES}"),
                &format!("f:2:25: concurrency is \"1.5\"; {AT_ONCE}"),
                &format!("f:2:53: requests_per_second is \"0.0001\"; {A_SECOND}"),
                &format!("f:2:74: bandwidth is \"0.5\"; {BYTES}"),
                &format!("f:3:25: concurrency is \"4\"; {AT_ONCE}"),
                &format!("f:3:53: requests_per_second is a boolean; {A_SECOND}"),
                &format!("f:3:72: bandwidth is \"99999999999GB\"; {BYTES}"),
                &format!("f:4:23: bandwidth is an array; {BYTES}"),
                "f:4:28: an auth entry has no field \"bandwith\"; write \"bandwidth\"",
                "f:5:30: \"bandwidth\" is for a whole registry; write it in the entry \"e.io\"",
            ],
        );
        refuse(
            "{\"images\": {\"a\": 1, \"b\": {\"c\": \"d\"}, \"e\": [\"f\", [\"g\"]], \"h\": true}}",
            &[
                "f:1:18: a target is a number; write a text or an array of texts: \"SOURCE\": \"TARGET\"",
                "f:1:27: a rule has no field \"c\"; it has \"to\", \"tags\", \"platforms\", \"sparse\", \"force\" and \"referrers\"",
                "f:1:49: a target is an array; write a text or an array of texts: \"SOURCE\": \"TARGET\"",
                "f:1:62: a target is a boolean; write a text or an array of texts: \"SOURCE\": \"TARGET\"",
            ],
        );
        refuse(
            "{\"images\": {\"a\": \"b\"\n\"c\": $D\n\"e\": \"f\"}",
            &[
                "f:1:1: no end of what begins here; close it with `}`",
                "f:1:21: a comma is missing; write `,` here",
                "f:2:6: $D is not quoted; quote it: \"${D}\"",
                "f:2:8: a comma is missing; write `,` here",
            ],
        );
    }

    #[test]
    fn how_a_registry_is_reached() {
        for (fields, ca, cert, key, plain_http, proxy) in [
            ("", "", "", "", false, ""),
            ("\"ca\": \"\", \"cert\": null", "", "", "", false, ""),
            ("\"CA\": \"ca.pem\"", "/etc/sync/ca.pem", "", "", false, ""),
            ("\"ca\": \"/srv/ca\"", "/srv/ca", "", "", false, ""),
            (
                "\"cert\": \"../c.pem\", \"key\": \"k\", \"plain_http\": true",
                "",
                "/etc/sync/../c.pem",
                "/etc/sync/k",
                true,
                "",
            ),
            ("\"proxy\": \"http://p:1\"", "", "", "", false, "http://p:1"),
        ] {
            let text = format!("{{\"auth\": {{\"a.io\": {{{fields}}}}}}}");
            let source = Source {
                shape: Shape::Config,
                file: "/etc/sync/f.json".into(),
                content: files::Content {
                    bytes: text.into_bytes(),
                    readable_by_others: false,
                },
            };
            let config = build(
                vec![source],
                &LoadOptions::default(),
                Reading::new(&environment),
            )
            .unwrap();
            let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
            let expected = Connection {
                ca: path(ca),
                cert: path(cert),
                key: path(key),
                plain_http,
                proxy: (!proxy.is_empty()).then(|| Secret::new(proxy.into())),
            };
            assert_eq!(config.auth[0].connection, expected, "{fields}");
        }
        let fields = "\"ca\": 1, \"plain_http\": \"yes\"";
        refuse(
            &format!(
                "{{\"auth\": {{\"a.io\": {{{fields}}}, \"b.io/c\": {{\"proxy\": \"none\"}}}}}}"
            ),
            &[
                "f:1:26: ca is a number; write a text in quotes",
                "f:1:43: plain_http is a text; write true or false without quotes",
                "f:1:62: \"proxy\" is for a whole registry; write it in the entry \"b.io\"",
            ],
        );
    }

    const AT_ONCE: &str = "write a whole number of requests at once, such as 4";
    const A_SECOND: &str = "write a number from 0.001 up, such as 10 or 0.5";
    const HELPER: &str = "write what follows \"docker-credential-\" in the name of the program, such as \"ecr-login\"";
    const BYTES: &str =
        "write bytes a second: a whole number or a text such as \"10MB\" or \"10MiB\"";

    #[test]
    fn an_entry_has_one_login_that_can_be_had() {
        refuse(
            "{\"auth\": {\"a.io\": {\"username\": \"u\", \"password\": \"p\", \"token\": \"t\"},\n\
             \"b.io\": {\"Token\": \"t\", \"helper\": \"h\", \"password\": null},\n\
             \"c.io\": {\"username\": \"u\", \"helper\": \"h\"},\n\
             \"d.io\": {\"password_file\": \"no/such\", \"token\": [7]},\n\
             \"e.io\": {\"token_file\": \"/\"},\n\
             \"f.io\": {\"helper\": \"../x\"}, \"g.io\": {\"helper\": \"docker-credential-x\"}}}",
            &[
                "f:1:54: \"token\" is a second login beside \"password\" at f:1:37; delete one",
                "f:2:24: \"helper\" is a second login beside \"token\" at f:2:10; delete one",
                "f:3:10: \"username\" does not go with \"helper\" at f:3:27; delete it, or write \"password\" in place of \
                 \"helper\"",
                "f:4:10: \"password_file\" names no/such, which cannot be read: No such file or directory (os error 2); \
                 name a file that holds nothing but the password (a relative path begins at the folder of this file)",
                "f:4:47: token is an array; write a text in quotes",
                "f:5:10: \"token_file\" names /, which cannot be read: it is not a file; name a file that holds nothing \
                 but the token (a relative path begins at the folder of this file)",
                &format!("f:6:20: helper is \"../x\"; {HELPER}"),
                &format!("f:6:48: helper is \"docker-credential-x\"; {HELPER}"),
            ],
        );
    }

    #[test]
    fn limits_of_a_registry() {
        let millis = |millis| Some(Duration::from_millis(millis));
        for (fields, concurrency, interval, bandwidth) in [
            ("", None, None, None),
            (
                "\"concurrency\": 4, \"bandwidth\": null",
                Some(4),
                None,
                None,
            ),
            ("\"requests_per_second\": 0.5", None, millis(2000), None),
            ("\"Requests_Per_Second\": 8", None, millis(125), None),
            ("\"bandwidth\": 1234", None, None, Some(1234)),
            ("\"bandwidth\": \"1234\"", None, None, Some(1234)),
            ("\"bandwidth\": \"10MB\"", None, None, Some(10_000_000)),
            ("\"bandwidth\": \" 10 mib \"", None, None, Some(10 << 20)),
            ("\"bandwidth\": \"3kB\"", None, None, Some(3000)),
            ("\"bandwidth\": \"2GiB\"", None, None, Some(2 << 30)),
        ] {
            let config = accept(&format!(
                "{{\"images\": {{\"a.io/b/c:1\": \"d.io/e\"}}, \"auth\": {{\"a.io\": {{{fields}}}}}}}"
            ));
            let limits = Limits {
                concurrency,
                interval,
                bandwidth,
            };
            assert_eq!(config.auth[0].limits, limits, "{fields}");
            // Limits alone are no login that was begun and not ended.
            assert_eq!(config.warnings, [""; 0], "{fields}");
        }
    }

    #[test]
    fn secrets_are_not_repeated_in_errors() {
        for text in [
            "{\"auth\": {\"a.io\": {\"password\": hunter2}}}",
            "{\"auth\": {\"a.io\": {\"password\": \"hunter2\"hunter2\"}}}",
            "{\"auth\": {\"a.io\": {\"password\": \"hunter2}}}",
            "{\"auth\": {\"a.io\": {\"password\": [\"hunter2\"]}}}",
            "{\"auth\": {\"a.io\": \"hunter2\"}}",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let config = accept(
            "{\"auth\": {\"https://u:hunter2@a.io\": {}, \"b.io\": {\"password\": \"hunter2\"}}}",
        );
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn keys_of_registries() {
        for (key, host, path) in [
            ("quay.io", "quay.io", ""),
            (" quay.io/ ", "quay.io", ""),
            ("Quay.IO:443/a/b/", "quay.io", "a/b"),
            ("localhost:5000", "localhost:5000", ""),
            ("harbor", "harbor", ""),
            ("https://index.docker.io/v1/", "docker.io", ""),
            ("registry.hub.docker.com", "docker.io", ""),
            ("docker.io/nginx", "docker.io", "nginx"),
            ("https://quay.io/v2/", "quay.io", ""),
            ("quay.io/v1", "quay.io", "v1"),
        ] {
            let config = accept(&format!("{{\"auth\": {{\"{key}\": {{}}}}}}"));
            let entry = &config.auth[0];
            assert_eq!(
                (entry.host.as_str(), entry.path.as_str()),
                (host, path),
                "{key}"
            );
            assert_eq!(entry.key, key.trim());
        }
    }

    #[test]
    fn keys_that_cannot_match_or_do_not_are_warned_of() {
        let config = accept(
            "{\"images\": {\"registry.example/a/b:1\": \"docker.io/u/app\"}, \"auth\": {\n\
             \"registry.example\": {}, \"registry.example/a/b\": {}, \"index.docker.io/u\": {},\n\
             \"$NS x\": {},\n\
             \"u:p@a.io\": {},\n\
             \"a.io/b:1\": {},\n\
             \"http://registry.example/a\": {},\n\
             \"egistry.example\": {},\n\
             \"registry.example/x\": {},\n\
             \"registry.example/a/bc\": {},\n\
             \"gcr.io\": {}\n}}",
        );
        let ignored = "can never match and is ignored";
        let remedy = "write REGISTRY or REGISTRY/NAMESPACE";
        let unused = "matches no source and no target of any rule";
        assert_eq!(
            config.warnings,
            [
                format!(
                    "f:3:1: auth key \"$NS x\" {ignored}: its variables make no such name; {remedy}"
                ),
                "f:4:1: an auth key with a user name can never match and is ignored; write REGISTRY or \
                 REGISTRY/NAMESPACE, and the user as `username`"
                    .into(),
                format!(
                    "f:5:1: auth key \"a.io/b:1\" {ignored}: \"b:1\" holds ':' (U+003A), which no repository name \
                     has; {remedy}"
                ),
                "f:6:1: auth key \"http://registry.example/a\" does not make registry.example speak http: add \
                 \"insecure\": true"
                    .into(),
                format!("f:7:1: auth key \"egistry.example\" {unused}; is registry.example meant?"),
                format!(
                    "f:8:1: auth key \"registry.example/x\" {unused}; rules name registry.example, but not under \"x\""
                ),
                format!(
                    "f:9:1: auth key \"registry.example/a/bc\" {unused}; rules name registry.example, but not under \
                     \"a/bc\""
                ),
                format!("f:10:1: auth key \"gcr.io\" {unused}"),
            ]
        );
    }

    #[test]
    fn one_registry_has_one_entry() {
        let config = accept(
            "{\"auth\": {\"docker.io\": {\"username\": \"u\", \"password\": \"p\"},\n\
             \"registry.hub.docker.com\": {\"username\": \"u\", \"password\": \"p\"}}}",
        );
        assert_eq!(config.auth.len(), 1);
        assert_eq!(
            config.warnings[0],
            "f:2:1: auth key \"registry.hub.docker.com\" says the same again as \"docker.io\" at f:1:11; delete one"
        );
        for other in [
            "\"username\": \"u\", \"password\": \"q\"",
            "\"username\": \"v\", \"password\": \"p\"",
            "\"username\": \"u\", \"password\": \"p\", \"insecure\": true",
            "\"token\": \"p\"",
            "\"helper\": \"h\"",
            "\"username\": \"u\", \"password\": \"p\", \"concurrency\": 4",
            "",
        ] {
            refuse(
                &format!(
                    "{{\"auth\": {{\"docker.io\": {{\"username\": \"u\", \"password\": \"p\"}},\n\
                     \"index.docker.io\": {{{other}}}}}}}"
                ),
                &[
                    "f:2:1: auth key \"index.docker.io\" means the same as \"docker.io\" at f:1:11 and says something \
                   else; delete one",
                ],
            );
        }
    }

    #[test]
    fn a_repeated_rule_is_done_once_and_a_repeated_source_for_each_target() {
        let config = accept(
            "{\"images\": {\"nginx:1\": \"a.io/x\",\n\
             \"nginx:1\": \"b.io/x\",\n\
             \"docker.io/library/nginx:1\": [\"a.io/x:1\", \"c.io/x\"],\n\
             \"nginx:1\": \"b.io/x\",\n\
             \"nginx:2\": [\"a.io/x\", \"a.io/x\"],\n\
             \"nginx\": \"a.io/x\"}}",
        );
        assert_eq!(
            rules(&config),
            [
                "f:1:13 docker.io/library/nginx a.io/x",
                "f:2:1 docker.io/library/nginx b.io/x",
                "f:3:1 docker.io/library/nginx c.io/x",
                "f:5:1 docker.io/library/nginx a.io/x",
                "f:6:1 docker.io/library/nginx a.io/x",
            ]
        );
        assert_eq!(
            config.warnings,
            [
                "f:3:1: the rule repeats a target of the rule at f:1:13: it is copied once, delete one",
                "f:4:1: the rule repeats a target of the rule at f:2:1: it is copied once, delete one",
                "f:5:1: the rule repeats a target of itself: it is copied once, delete one",
            ]
        );
        let config = accept(
            "{\"images\": {\"nginx:1\": \"a.io/x\", \"nginx:1\": {\"to\": \"a.io/x\", \"force\": true, \"referrers\": true}}}",
        );
        let [rule] = config.rules.as_slice() else {
            panic!("{:?}", config.rules);
        };
        assert!(rule.force && rule.referrers, "{rule:?}");
    }

    #[test]
    fn a_rule_may_be_an_object() {
        let config = accept(
            "{\"images\": {\"a\": {\"to\": \"b.io/a\"}, \"c:1\": {\"To\": [\"b.io/c\", \"d.io/c:2\"]}}}",
        );
        assert_eq!(
            rules(&config),
            [
                "f:1:13 docker.io/library/a b.io/a",
                "f:1:36 docker.io/library/c b.io/c d.io/c",
            ]
        );
        // Without a target it is the default one, which stands where the object begins.
        let config = accept("{\"images\": {\"a\": {}}}");
        assert_eq!(config.failed_rules[0].position.to_string(), "f:1:18");
        refuse(
            "{\"images\": {\"a\": {\"too\": \"b.io/a\", \"to\": 1, \"TO\": null, \"target\": []}}}",
            &[
                "f:1:19: a rule has no field \"too\"; write \"to\"",
                "f:1:42: a target is a number; write a text or an array of texts: \"SOURCE\": \"TARGET\"",
                "f:1:45: \"to\" is there already at f:1:36; delete one",
                "f:1:57: a rule has no field \"target\"; it has \"to\", \"tags\", \"platforms\", \"sparse\", \"force\" and \"referrers\"",
            ],
        );
    }

    #[test]
    fn the_fields_of_a_rule_in_yaml_say_the_same_in_json() {
        let yaml = accept(
            "images:\n  a:\n    to: b.io/a\n    force: yes\n    sparse: off\n    platforms: linux/amd64\n    \
             tags: {allow: [true, yes, 1.10, 2020, '3', v1*], deny: false, latest: 5, newer_than: 30d, min: }\n",
        );
        let fields = yaml.rules[0].members(false);
        let json = accept(&format!(
            "{{\"images\": {{\"a\": {{\"to\": \"b.io/a\", {fields}}}}}}}"
        ));
        assert_eq!(json.rules[0].selection, yaml.rules[0].selection, "{fields}");
        assert_eq!(json.rules[0].platforms, yaml.rules[0].platforms, "{fields}");
        assert_eq!(json.rules[0].force, yaml.rules[0].force, "{fields}");
    }

    #[test]
    fn a_rule_chooses_tags() {
        let filter = |tags: &str| {
            let config = accept(&format!(
                "{{\"images\": {{\"a\": {{\"to\": \"b.io/a\", \"tags\": {tags}}}}}}}"
            ));
            assert_eq!(
                (&*config.failed_rules, &*config.warnings),
                (&[][..], &[][..])
            );
            let Selection::Listed(filter) = config.rules[0].selection.clone() else {
                panic!("{:?}", config.rules[0]);
            };
            let texts = |patterns: &[Pattern]| {
                let texts: Vec<_> = patterns.iter().map(Pattern::as_str).collect();
                texts.join(" ")
            };
            let ranges: Vec<_> = filter.semver.iter().map(ToString::to_string).collect();
            format!(
                "{} | {} | {} | {:?} | {:?} | {:?} | {}",
                texts(&filter.allow),
                ranges.join(" "),
                texts(&filter.deny),
                filter.latest,
                filter.min,
                filter.newer_than.map(|time| time.as_secs()),
                filter.by_created
            )
        };
        for (written, expected) in [
            ("{}", " |  |  | None | None | None | false"),
            ("null", " |  |  | None | None | None | false"),
            (
                "{\"allow\": [\"v*\", \"/^1/\"], \"DENY\": \"*-rc*\", \"latest\": 5, \"min\": 0}",
                "v* /^1/ |  | *-rc* | Some(5) | Some(0) | None | false",
            ),
            (
                "{\"newer_than\": \"1h 30m\", \"latest\": 1, \"latest_by\": \"created\"}",
                " |  |  | Some(1) | None | Some(5400) | true",
            ),
            (
                "{\"newer_than\": null, \"latest_by\": \"version\"}",
                " |  |  | None | None | None | false",
            ),
            // A number is the text that was written.
            (
                "{\"allow\": 1.10, \"semver\": [1.2, \">=2, <3\"], \"deny\": []}",
                "1.10 | ^1.2 >=2, <3 |  | None | None | None | false",
            ),
            (
                "{\"allow\": null, \"semver\": null, \"deny\": null, \"latest\": null, \"min\": null}",
                " |  |  | None | None | None | false",
            ),
        ] {
            assert_eq!(filter(written), expected, "{written}");
        }
    }

    #[test]
    fn a_wrong_choice_of_tags_fails_its_rule_or_the_file() {
        for (source, tags, expected) in [
            (
                "a",
                "{\"allow\": [\"v1\", \"^v2\"]}",
                "tags: pattern \"^v2\" holds '^', which no tag has; a regular expression is written /REGEX/",
            ),
            (
                "a",
                "{\"deny\": \"/x\"}",
                "tags: regular expression \"/x\" does not end with /; write /REGEX/",
            ),
            (
                "a",
                "{\"deny\": [\"\"]}",
                "tags: a pattern is empty; delete it, or write * for any tag",
            ),
            (
                "a",
                "{\"allow\": []}",
                "tags: \"allow\" is empty, so no tag could be chosen; delete it",
            ),
            (
                "a",
                "{\"semver\": []}",
                "tags: \"semver\" is empty, so no tag could be chosen; delete it",
            ),
            (
                "a",
                "{\"newer_than\": \"30 moons\"}",
                "tags: \"newer_than\" is \"30 moons\": unknown time unit \"moons\", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations); write a time such as \"30d\" or \"12h\"",
            ),
            (
                "a:1",
                "{}",
                "the source names its tags and \"tags\" chooses among all; drop what stands behind the repository, or \"tags\"",
            ),
            (
                "a:/x/",
                "{\"latest\": 1}",
                "the source names its tags and \"tags\" chooses among all; drop what stands behind the repository, or \"tags\"",
            ),
        ] {
            let config = accept(&format!(
                "{{\"images\": {{\"{source}\": {{\"to\": \"b.io/a\", \"tags\": {tags}}}, \"c\": \"b.io/c\"}}}}"
            ));
            assert_eq!(config.failed_rules[0].what.to_string(), expected, "{tags}");
            assert_eq!(config.rules.len(), 1, "{tags}");
        }
        let config = accept(
            "{\"images\": {\"a\": {\"to\": [\"b.io/a:1\", \"b.io/b\"], \"tags\":\n {\"semver\": [\"1\", \">1 <2\"]}}}}",
        );
        let failed = config.failed_rules[0].to_string();
        let begin =
            "f:2:19: rule \"a: b.io/a:1, b.io/b\": tags: \">1 <2\" is no range of versions: ";
        assert!(failed.starts_with(begin), "{failed}");
        assert!(
            failed.ends_with("; write one such as \">=1.2, <2\""),
            "{failed}"
        );
        let config =
            accept("{\"images\": {\"a\": {\"to\": [\"b.io/a:1\", \"b.io/b\"], \"tags\": {}}}}");
        assert_eq!(config.failed_rules[0].what, RuleFault::OneForMany);
        assert_eq!(rules(&config), ["f:1:13 docker.io/library/a b.io/b"]);
        refuse(
            "{\"images\": {\"a\": {\"tags\": [\"v1\"]}, \"b\": {\"tags\": {\"allow\": {}, \"deny\": [true],\n\
             \"latest\": 0, \"min\": -1, \"semver\": [[]], \"newest\": 5, \"lates\": 1}},\n\
             \"c\": {\"tags\": {\"latest\": \"5\", \"min\": 1.5, \"Min\": 1}},\n\
             \"d\": {\"tags\": {\"newer_than\": 30, \"latest_by\": \"age\"}}, \"e\": {\"tags\": {\"latest_by\": true}}}}",
            &[
                "f:1:27: tags is an array; write an object such as {\"allow\": [\"v1.*\"], \"latest\": 5}",
                "f:1:60: allow is an object; write a text or an array of texts",
                "f:1:73: deny is a boolean; write a text or an array of texts",
                "f:2:11: latest is \"0\"; write a whole number from 1 up, such as 5",
                "f:2:21: min is \"-1\"; write a whole number from 0 up, such as 1",
                "f:2:36: semver is an array; write a text or an array of texts",
                "f:2:41: `tags` has no field \"newest\"; it has \"allow\", \"semver\", \"deny\", \"newer_than\", \"latest\", \"latest_by\" and \"min\"",
                "f:2:54: `tags` has no field \"lates\"; write \"latest\"",
                "f:3:26: latest is a text; write a whole number, such as 5",
                "f:3:38: min is \"1.5\"; write a whole number from 0 up, such as 1",
                "f:3:43: \"min\" is there already at f:3:31; delete one",
                "f:4:30: newer_than is a number; write a time such as \"30d\" or \"12h\"",
                "f:4:47: latest_by is \"age\"; write \"created\" or \"version\"",
                "f:4:84: latest_by is a boolean; write \"created\" or \"version\"",
            ],
        );
    }

    #[test]
    fn a_wrong_rule_does_not_stop_the_others() {
        let config = accept(
            "{\"images\": {\"a\": \"b.io/a\", \"c：1\": \"b.io/c\",\n\"d\": \"\", \"e:1\": [\"b.io/e\", null, \"\"],\n\
             \"f\": []}}",
        );
        assert_eq!(
            rules(&config),
            [
                "f:1:13 docker.io/library/a b.io/a",
                "f:2:10 docker.io/library/e b.io/e"
            ]
        );
        let failed: Vec<_> = config
            .failed_rules
            .iter()
            .map(|error| format!("{} {}", error.position, error.rule))
            .collect();
        assert_eq!(
            failed,
            [
                "f:1:28 c：1: b.io/c",
                "f:2:6 d: ",
                "f:2:28 e:1: ",
                "f:2:34 e:1: ",
                "f:3:6 f: "
            ]
        );
    }

    #[test]
    fn credentials_and_rules_may_stand_in_files_of_their_own() {
        let auth = "quay.io:\n  username: robot\n  password: 007\nREG.example: {insecure: yes}\n";
        let images = "{\"quay.io/a/b:1\": [\"reg.example/a/b\", \"reg.example/c\"]}";
        let config = parse_as(&[(Shape::Auth, auth), (Shape::Images, images)]).unwrap();
        assert_eq!(config.warnings, [""; 0]);
        assert_eq!(
            rules(&config),
            ["f:1:2 quay.io/a/b reg.example/a/b reg.example/c"]
        );
        assert_eq!(login(&config.auth[0]), "robot 007");
        assert!(config.auth[1].insecure);
        assert_eq!(config.auth[1].position.to_string(), "a:4:1");
        // The problems of both are told at once.
        let error = parse_as(&[(Shape::Auth, "a.io: {user: x}\n"), (Shape::Images, "- b\n")]);
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error.lines().map(|line| &line[..6]).collect::<Vec<_>>(),
            ["a:1:8:", "f:1:1:"]
        );
    }

    #[test]
    fn variables_are_replaced_where_they_are_meant() {
        let config = accept(
            "auth:\n  ${HOST}/$NS: {username: $oauthtoken, password: '${WORD}'}\n  b.io: {username: a$NS, password: $WORD}\n\
             images:\n  ${HOST}/${NS}/a:1: [$HOST/b, '${HOST}/c']\n",
        );
        assert_eq!(
            config.warnings,
            [
                "f:3:3: auth key \"b.io\" matches no source and no target of any rule; is a.io meant?"
            ]
        );
        assert_eq!(rules(&config), ["f:5:3 a.io/ns/a a.io/b a.io/c"]);
        let logins: Vec<_> = config
            .auth
            .iter()
            .map(|entry| {
                let login = login(entry);
                format!("{}/{}: {login}", entry.host, entry.path)
            })
            .collect();
        assert_eq!(
            logins,
            ["a.io/ns: $oauthtoken hunter2", "b.io/: a$NS hunter2"]
        );
        let config = accept("auth: {a.io: {token: '${WORD}'}}\nimages: {a.io/a:1: b.io/b}\n");
        assert_eq!(login(&config.auth[0]), "hunter2");
    }

    #[test]
    fn variables_that_are_empty_or_not_replaced_are_warned_of() {
        let config = accept(
            "auth:\n  a.io: {username: x, password: $EMPTY}\n  a.io/b: {username: 'x${NS}', password: '${WORD}x'}\n\
             images:\n  a.io/b/c:1: a.io/ns${EMPTY}\n",
        );
        assert_eq!(
            config.warnings,
            [
                "f:2:3: auth key \"a.io\": EMPTY set but empty: a.io is asked without credentials of this file",
                "f:3:3: auth key \"a.io/b\": `${` inside a longer text is kept as it is; a user name or password is \
                 replaced only if it is ${NAME} as a whole",
                "f:5:15: the variable EMPTY is set but empty",
            ]
        );
    }

    #[test]
    fn variables_that_are_not_set_stop_everything_each_at_its_place() {
        refuse(
            "{\"auth\": {\"${R}/$N\": {}, \"a.io\": {\"username\": \"${U}\", \"password\": \"${{ secrets.P }}\"}},\n\
             \"images\": {\"a:${T}\": [\"b\", \"c/$N\", \"${X:-y}\"]}}",
            &[
                "f:1:11: the variable R is not set; set it, or write the value itself",
                "f:1:11: the variable N is not set; set it, or write the value itself",
                "f:1:47: the variable U is not set; set it, or write the value itself",
                "f:1:67: GitHub does not expand `${{ }}` in files; pass the value as a variable and write ${NAME}",
                "f:2:12: the variable T is not set; set it, or write the value itself",
                "f:2:28: the variable N is not set; set it, or write the value itself",
                "f:2:36: `${` without the name of a variable and `}`; write ${NAME}",
            ],
        );
    }

    #[test]
    fn the_value_of_a_variable_is_never_shown() {
        for text in [
            "{\"auth\": {\"$WORD x\": {}}}",
            "{\"auth\": {\"a.io\": {\"username\": \"$WORD\"}}}",
            "{\"auth\": {\"a.io\": {\"username\": \"$WORD\", \"password\": \"$WORD\"}, \"a.io/\": {}}}",
        ] {
            let shown = match parse(text) {
                Ok(config) => config.warnings.join("\n"),
                Err(error) => error.to_string(),
            };
            assert!(!shown.is_empty() && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn the_name_of_a_file_says_only_whether_braces_may_be_yaml() {
        for (name, text, good) in [
            (
                "f.yaml",
                "// c\n{\"images\": {\"a:1\": \"b.io/a\",},}",
                true,
            ),
            ("f.yml", "{images: {a:1: b.io/a}}", true),
            ("f.json", "images:\n  a:1: b.io/a\n", true),
            ("f", "images: {\"a:1\": b.io/a}\n", true),
            ("f", "\u{feff}{\"images\": {\"a:1\": \"b.io/a\"}}", true),
            ("f.json", "{images: {a:1: b.io/a}}", false),
            ("f.yaml", "{\"images\": {\"a:1\" \"b.io/a\"}}", false),
        ] {
            let root = tree::parse(&name.into(), text.as_bytes());
            assert_eq!(root.is_ok(), good, "{text}");
        }
    }

    fn load_text(
        name: &str,
        text: Option<&str>,
        images: &[&str],
    ) -> (String, Result<Config, ConfigError>) {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("image-syncer-{name}-{}.json", std::process::id()));
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let images: Vec<_> = images.iter().map(ToString::to_string).collect();
        let options = LoadOptions {
            config: Some(&path),
            rule: &images,
            registry: Some("r.io"),
            namespace: Some("n"),
            ..LoadOptions::default()
        };
        let result = load(&options, &environment);
        if text.is_some() {
            std::fs::remove_file(&path).unwrap();
        }
        (path.display().to_string(), result)
    }

    #[test]
    fn a_missing_file_matters_only_without_a_rule_on_the_command_line() {
        let (path, result) = load_text("missing", None, &[]);
        assert_eq!(
            result.unwrap_err().to_string(),
            format!(
                "{path}: there is no such file; name one with --config FILE, or give one rule as SOURCE TARGET"
            )
        );
        let (path, result) = load_text("missing", None, &["nginx:1", "a.io/x"]);
        let config = result.unwrap();
        assert_eq!(
            rules(&config),
            ["command line docker.io/library/nginx a.io/x"]
        );
        assert_eq!(
            config.warnings,
            [format!(
                "{path}: there is no such file: no credentials are taken from it"
            )]
        );
        let folder = std::env::temp_dir();
        let options = LoadOptions {
            config: Some(&folder),
            ..LoadOptions::default()
        };
        let error = load(&options, &environment);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains(": cannot read the file: ")
        );
    }

    #[test]
    fn a_rule_on_the_command_line_takes_the_place_of_those_in_the_file() {
        let file = "{\"auth\": {\"quay.io\": {}}, \"images\": {\"a\": \"b.io/a\", \"x\": 5}}";
        let (_, result) = load_text("auth-only", Some(file), &["quay.io/a/b"]);
        let config = result.unwrap();
        assert_eq!(rules(&config), ["command line quay.io/a/b r.io/n/b"]);
        assert_eq!(config.auth.len(), 1);
        assert_eq!(config.warnings, [""; 0]);
        let (_, result) = load_text("auth-only-bad", Some(file), &["A", "a.io/x"]);
        assert_eq!(
            result.unwrap().failed_rules[0].to_string(),
            "command line: rule \"A: a.io/x\": source: repository name must be lowercase: \"library/A\""
        );
    }

    #[test]
    fn a_password_that_others_can_read_is_warned_of() {
        use std::os::unix::fs::PermissionsExt as _;

        let path =
            std::env::temp_dir().join(format!("image-syncer-mode-{}.json", std::process::id()));
        let warned = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let options = LoadOptions {
                config: Some(&path),
                ..LoadOptions::default()
            };
            let warnings = load(&options, &environment).unwrap().warnings;
            warnings
                .iter()
                .any(|text| text.contains("other users can read it"))
        };
        let secret = "{\"auth\": {\"a.io\": {\"username\": \"u\", \"password\": \"p\"}}}";
        let seen = [
            warned(secret, 0o644),
            warned(secret, 0o640),
            warned(secret, 0o604),
            warned(secret, 0o600),
            warned("{\"auth\": {\"a.io\": {\"token\": \"t\"}}}", 0o644),
            warned("{\"auth\": {\"a.io\": {\"helper\": \"h\"}}}", 0o644),
            warned(
                "{\"auth\": {\"a.io\": {\"Proxy\": \"http://u:p@proxy\"}}}",
                0o644,
            ),
            warned(
                "{\"auth\": {\"a.io\": {\"proxy\": \"http://proxy\"}}}",
                0o644,
            ),
        ];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen, [true, true, true, false, true, false, true, false]);
    }
}
