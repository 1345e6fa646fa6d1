//! The configuration: what the user wrote, in a file and on the command line, becomes credentials and rules, or the
//! list of everything that is wrong with it, each with its place and a remedy (decisions D2). Not here: the network.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use crate::nearest::nearest;

mod auth;
mod error;
mod rule;
mod side;
mod syntax;
mod tree;

pub use auth::AuthEntry;
pub use error::{ConfigError, Problem, ProblemKind};
pub use rule::{Rule, RuleError, RuleFault, RuleTarget, Selection};
pub use side::SideError;
pub use syntax::SyntaxError;
pub use tree::Position;

use rule::Defaults;
use side::Written;
use tree::{Member, Node, Value};

/// Where the configuration is read from if the user names no file.
pub const DEFAULT_PATH: &str = "./image-syncer.json";

/// What of the command line makes the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions<'a> {
    /// `--config`.
    pub config: Option<&'a Path>,
    /// `SOURCE TARGET...`: the one rule, instead of the file's.
    pub images: &'a [String],
    /// `--registry` or `DEFAULT_REGISTRY`.
    pub registry: Option<&'a str>,
    /// `--namespace` or `DEFAULT_NAMESPACE`.
    pub namespace: Option<&'a str>,
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

/// Reads the configuration file and the rule of the command line.
///
/// # Errors
/// Everything that makes the file unusable. A rule that is wrong is no error but one of [`Config::failed_rules`].
pub fn load(options: &LoadOptions<'_>) -> Result<Config, ConfigError> {
    let path = options.config.unwrap_or(Path::new(DEFAULT_PATH));
    let file: Arc<str> = path.display().to_string().into();
    let from_command_line = !options.images.is_empty();
    let content = match read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !from_command_line {
                return Err(ConfigError::whole(&file, ProblemKind::Missing));
            }
            let mut config = Config::default();
            if options.config.is_some() {
                let warning =
                    format!("{file}: there is no such file: no credentials are taken from it");
                config.warnings.push(warning);
            }
            add_command_line_rule(options, &mut config);
            return Ok(config);
        }
        Err(error) => return Err(ConfigError::whole(&file, ProblemKind::Unreadable(error))),
    };
    let mut config = parse(&file, &content.bytes, options)?;
    let holds_password = config
        .auth
        .iter()
        .any(|entry| entry.password.is_some() || entry.token.is_some());
    if content.readable_by_others && holds_password {
        config.warnings.push(format!(
            "{file}: the file holds a password and other users can read it; `chmod 600` keeps them out"
        ));
    }
    Ok(config)
}

struct Content {
    bytes: Vec<u8>,
    readable_by_others: bool,
}

/// Reads the file once, since it may be a pipe.
fn read(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Content {
        bytes,
        readable_by_others: readable_by_others(&file)?,
    })
}

#[cfg(unix)]
fn readable_by_others(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = file.metadata()?;
    Ok(metadata.is_file() && metadata.mode() & 0o044 != 0)
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as for unix")]
fn readable_by_others(_: &File) -> io::Result<bool> {
    Ok(false)
}

fn parse(file: &Arc<str>, bytes: &[u8], options: &LoadOptions<'_>) -> Result<Config, ConfigError> {
    let root = tree::parse(file, bytes).map_err(|errors| ConfigError {
        problems: errors
            .into_iter()
            .map(|(position, error)| Problem {
                position,
                what: ProblemKind::Syntax(error),
            })
            .collect(),
    })?;
    let mut config = Config::default();
    let mut problems = Vec::new();
    let sections = Sections::of(root, &mut problems, &mut config.warnings);
    refuse_variables(&sections.auth, &mut problems);
    config.auth = auth::read(&sections.auth, &mut problems, &mut config.warnings);
    if options.images.is_empty() {
        refuse_variables(&sections.images, &mut problems);
        add_rules(&sections.images, options, &mut config, &mut problems);
    } else {
        add_command_line_rule(options, &mut config);
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| (problem.position.line, problem.position.column));
        return Err(ConfigError { problems });
    }
    if config.rules.is_empty() && config.failed_rules.is_empty() {
        config.warnings.push(format!(
            "{file}: the file holds no rules: there is nothing to do"
        ));
    } else if options.images.is_empty() {
        // A single rule of the command line uses few entries of a file that serves many.
        auth::warn_unused(&config.auth, &config.rules, &mut config.warnings);
    }
    Ok(config)
}

/// The parts of a file. A part that is there twice is one part.
#[derive(Default)]
struct Sections {
    auth: Vec<Member>,
    images: Vec<Member>,
}

impl Sections {
    fn of(root: Node, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) -> Self {
        let mut sections = Self::default();
        let Value::Object(members) = root.value else {
            let expected = "an object such as {\"images\": {\"SOURCE\": \"TARGET\"}}";
            problems.push(Problem::kind(&root, "the file", expected));
            return sections;
        };
        for member in members {
            let key = member.key.to_ascii_lowercase();
            let (section, name, expected) = match key.as_str() {
                "auth" => (
                    &mut sections.auth,
                    "auth",
                    "an object such as {\"REGISTRY\": {\"username\": \"NAME\", \"password\": \"WORD\"}}",
                ),
                "images" => (
                    &mut sections.images,
                    "images",
                    "an object such as {\"SOURCE\": \"TARGET\"}",
                ),
                _ => {
                    if let Some(meant) = nearest(&key, ["auth", "images"]) {
                        problems.push(Problem {
                            position: member.position,
                            what: ProblemKind::Misspelt {
                                key: member.key,
                                meant,
                            },
                        });
                    } else if !["_", "$", "x-", "//"]
                        .iter()
                        .any(|mark| key.starts_with(mark))
                    {
                        warnings.push(format!(
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
                _ => problems.push(Problem::kind(&member.value, name, expected)),
            }
        }
        sections
    }
}

/// `${NAME}` would be taken for the text itself, so it is refused wherever it would be used.
fn refuse_variables(members: &[Member], problems: &mut Vec<Problem>) {
    for member in members {
        refuse_variable(&member.key, &member.position, problems);
        refuse_variables_in(&member.value, problems);
    }
}

fn refuse_variables_in(node: &Node, problems: &mut Vec<Problem>) {
    match &node.value {
        Value::String(text) => refuse_variable(text, &node.position, problems),
        Value::Array(nodes) => {
            for node in nodes {
                refuse_variables_in(node, problems);
            }
        }
        Value::Object(members) => refuse_variables(members, problems),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn refuse_variable(text: &str, position: &Position, problems: &mut Vec<Problem>) {
    let what = if text.contains("${{") {
        ProblemKind::GithubExpression
    } else if text.contains("${") {
        ProblemKind::Variable
    } else {
        return;
    };
    problems.push(Problem {
        position: position.clone(),
        what,
    });
}

fn add_rules(
    members: &[Member],
    options: &LoadOptions<'_>,
    config: &mut Config,
    problems: &mut Vec<Problem>,
) {
    let mut seen = Seen::default();
    for member in members {
        let source = Written {
            text: &member.key,
            position: &member.position,
        };
        match read_targets(&member.value) {
            Ok(targets) => add_rule(&source, &targets, options, &mut seen, config),
            Err(problem) => problems.push(problem),
        }
    }
}

fn add_command_line_rule(options: &LoadOptions<'_>, config: &mut Config) {
    let position = Position::whole(&"command line".into());
    let written = |text| Written {
        text,
        position: &position,
    };
    let mut texts = options.images.iter().map(|text| written(text));
    let Some(source) = texts.next() else { return };
    let mut targets: Vec<_> = texts.collect();
    if targets.is_empty() {
        targets.push(written(""));
    }
    add_rule(&source, &targets, options, &mut Seen::default(), config);
}

/// The targets of one rule: a text, several, or nothing for the default.
fn read_targets(node: &Node) -> Result<Vec<Written<'_>>, Problem> {
    let default = Written {
        text: "",
        position: &node.position,
    };
    let nodes = match &node.value {
        Value::Array(nodes) if nodes.is_empty() => return Ok(vec![default]),
        Value::Array(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    nodes
        .iter()
        .map(|node| {
            let text = match &node.value {
                Value::String(text) => text,
                Value::Null => "",
                _ => {
                    let expected = "a text or an array of texts: \"SOURCE\": \"TARGET\"";
                    return Err(Problem::kind(node, "a target", expected));
                }
            };
            Ok(Written {
                text,
                position: &node.position,
            })
        })
        .collect()
}

/// Which images already go to which target, and where that was written.
type Seen = HashMap<(crate::store::Place, Selection, RuleTarget), Position>;

fn add_rule(
    source: &Written<'_>,
    targets: &[Written<'_>],
    options: &LoadOptions<'_>,
    seen: &mut Seen,
    config: &mut Config,
) {
    let defaults = Defaults {
        registry: options.registry,
        namespace: options.namespace,
    };
    let (rule, failed) = rule::validate(source, targets, &defaults, &mut config.warnings);
    config.failed_rules.extend(failed);
    let Some(mut rule) = rule else { return };
    let mut repeated = None;
    rule.targets.retain(|target| {
        let task = (rule.source.clone(), rule.selection.clone(), target.clone());
        if let Some(first) = seen.get(&task) {
            repeated = Some(first.clone());
            return false;
        }
        seen.insert(task, rule.position.clone());
        true
    });
    if let Some(first) = repeated {
        let place = if first == rule.position {
            "itself".into()
        } else {
            format!("the rule at {first}")
        };
        config.warnings.push(format!(
            "{}: the rule repeats a target of {place}: it is copied once, delete one",
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

    const DEFAULTS: LoadOptions<'_> = LoadOptions {
        config: None,
        images: &[],
        registry: None,
        namespace: None,
    };

    #[track_caller]
    fn accept(text: &str) -> Config {
        parse(&"f".into(), text.as_bytes(), &DEFAULTS).unwrap()
    }

    #[track_caller]
    fn refuse(text: &str, expected: &[&str]) {
        let error = parse(&"f".into(), text.as_bytes(), &DEFAULTS).unwrap_err();
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
                let password = entry
                    .password
                    .as_ref()
                    .map(|word| word.expose().to_string());
                (
                    entry.host.as_str(),
                    entry.path.as_str(),
                    entry.username.clone(),
                    password,
                    entry.insecure,
                )
            })
            .collect();
        let text = |text: &str| Some(text.to_string());
        assert_eq!(
            auth,
            [
                ("quay.io", "", text("robot"), text("word"), false),
                ("registry.example:5000", "", None, None, true),
                (
                    "quay.io",
                    "coreos",
                    text("100012345678"),
                    text("7e0"),
                    false
                ),
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

    #[test]
    fn names_of_fields_have_no_case_and_parts_may_be_repeated() {
        let config = accept(
            "\u{feff}{\"AUTH\": {\"a.io\": {\"UserName\": \"u\", \"Password\": \"p\", \"INSECURE\": true}},\r\n\
             \"Images\": {\"a.io/b\": \"c.io/d\"},\r\n\"images\": {\"a.io/e\": \"c.io/f\"}, \"auth\": null}",
        );
        assert_eq!(config.warnings, [""; 0]);
        assert_eq!(config.auth[0].username.as_deref(), Some("u"));
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
            let error = parse(&"f".into(), text.as_bytes(), &DEFAULTS)
                .unwrap_err()
                .to_string();
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
            "[{\"src\": \"a\", \"dest\": \"b\"}]",
            &[
                "f:1:1: the file is an array; write an object such as {\"images\": {\"SOURCE\": \"TARGET\"}}",
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
                "f:1:26: a target is an object; write a text or an array of texts: \"SOURCE\": \"TARGET\"",
                "f:1:49: a target is an array; write a text or an array of texts: \"SOURCE\": \"TARGET\"",
                "f:1:62: a target is a boolean; write a text or an array of texts: \"SOURCE\": \"TARGET\"",
            ],
        );
        let variable = "variables are not supported yet; write the value itself in place of ${..}";
        let expression = "GitHub does not expand `${{ }}` in files; let a step of the workflow write the value into the file";
        refuse(
            "{\"auth\": {\"${R}\": {\"username\": \"a${U}\", \"password\": \"${{ secrets.P }}\"}},\n\
             \"images\": {\"a:${T}\": [\"b\", \"c/${N}\"]}}",
            &[
                &format!("f:1:11: {variable}"),
                &format!("f:1:32: {variable}"),
                &format!("f:1:53: {expression}"),
                &format!("f:2:12: {variable}"),
                &format!("f:2:28: {variable}"),
            ],
        );
        refuse(
            "{\"images\": {\"a\": \"b\"\n\"c\": $D\n\"e\": \"f\"}",
            &[
                "f:1:21: a comma is missing; write `,` here",
                "f:2:6: $D is not quoted, and variables are not supported yet; quote it and let another program, such \
                 as envsubst, fill it in",
                "f:2:8: a comma is missing; write `,` here",
                "f:1:1: no end of what begins here; close it with `}`",
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
            let config = parse(&"/etc/sync/f.json".into(), text.as_bytes(), &DEFAULTS).unwrap();
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
             \"d.io\": {\"password_file\": \"no/such\", \"token\": 7},\n\
             \"e.io\": {\"token_file\": \"/\"},\n\
             \"f.io\": {\"helper\": \"../x\"}, \"g.io\": {\"helper\": \"docker-credential-x\"}}}",
            &[
                "f:1:54: \"token\" is a second login beside \"password\" at f:1:37; delete one",
                "f:2:24: \"helper\" is a second login beside \"token\" at f:2:10; delete one",
                "f:3:10: \"username\" does not go with \"helper\" at f:3:27; delete it, or write \"password\" in place of \
                 \"helper\"",
                "f:4:10: \"password_file\" names no/such, which cannot be read: No such file or directory (os error 2); \
                 name a file that holds nothing but the password (a relative path begins at the folder of this file)",
                "f:4:47: token is a number; write a text in quotes",
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
            let error = parse(&"f".into(), text.as_bytes(), &DEFAULTS).unwrap_err();
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
             \"$REG\": {},\n\
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
                    "f:3:1: auth key \"$REG\" {ignored}: \"$REG\" is no registry: a host is made of letters, digits, \
                     `-` and dots; {remedy}"
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
        let result = load(&LoadOptions {
            config: Some(&path),
            images: &images,
            registry: Some("r.io"),
            namespace: Some("n"),
        });
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
        let error = load(&LoadOptions {
            config: Some(&std::env::temp_dir()),
            ..DEFAULTS
        });
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

    #[cfg(unix)]
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
                ..DEFAULTS
            };
            let warnings = load(&options).unwrap().warnings;
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
        ];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen, [true, true, true, false, true, false]);
    }
}
