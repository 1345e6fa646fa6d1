//! The command line: one table of flags, from which parsing, help and suggestions come (decisions D2). Not here: any
//! file, and what the values lead to.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser};
use log::LevelFilter;

use crate::config::{DEFAULT_PATH, SCHEMA, STDIN, parse_bytes};
use crate::nearest::nearest;
use crate::oci::{PlatformError, PlatformFilter};
use crate::output::Format;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print this text and end.
    Print(String),
    /// Copy images.
    Sync(Box<Options>),
}

/// What to copy, and how.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own of the command line"
)]
pub struct Options {
    /// The configuration file, if one is named.
    pub config: Option<PathBuf>,
    /// Whether no logins but those of the configuration are used.
    pub no_default_auth: bool,
    /// The file of credentials, if one is named.
    pub auth: Option<PathBuf>,
    /// The file of rules, if one is named.
    pub images: Option<PathBuf>,
    /// The file that takes the log instead of stderr.
    pub log: Option<PathBuf>,
    /// Everything is read and nothing written.
    pub dry_run: bool,
    /// No progress, and no messages that are neither warnings nor errors.
    pub quiet: bool,
    /// The least important messages to log, if given.
    pub log_level: Option<LevelFilter>,
    /// The registry of empty targets.
    pub registry: Option<String>,
    /// The namespace of empty targets.
    pub namespace: Option<String>,
    /// How many transfers run at once, from 1 to 1024.
    pub workers: usize,
    /// How many requests at once to one registry, from 1 to 1024; `None`: no limit of its own.
    pub max_per_host: Option<usize>,
    /// How many more passes over what failed.
    pub retries: u32,
    /// The file that remembers what was done.
    pub records: PathBuf,
    /// How long a tag of a target is not asked for after it was put or seen there.
    pub trust_records: Option<Duration>,
    /// How long the targets of a blob wait for a slow one among them, in all.
    pub detach_after: Duration,
    /// The part of the blob's time that they wait for it besides, in percent.
    pub detach_share: u8,
    /// A long upload is recorded after so many bytes, at least 1.
    pub checkpoint_bytes: u64,
    /// And after so much time.
    pub checkpoint_time: Duration,
    /// Which platforms of images are wanted; `None`: all.
    pub platforms: Option<PlatformFilter>,
    /// Whether targets get images that they have.
    pub force: bool,
    /// Whether what is about an image goes where it goes.
    pub referrers: bool,
    /// The file that gets the names of all images that are in sync.
    pub output_success_images: Option<PathBuf>,
    /// The file that gets the names of all that failed.
    pub output_failed_images: Option<PathBuf>,
    /// How these are written.
    pub output_images_format: Format,
    /// `SOURCE TARGET...`: one rule in place of those of the file. Empty: the file's.
    pub rule: Vec<String>,
}

/// Reads the arguments that follow the program's name. `env` looks up a variable of the environment.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Command, UsageError> {
    let mut given = HashMap::new();
    let mut rule = Vec::new();
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(UsageError::Syntax)? {
        let flag = match arg {
            Arg::Value(reference) => {
                rule.push(utf8("argument", reference)?);
                continue;
            }
            Arg::Long(long) => find_long(long)?,
            Arg::Short(short) => find_short(short)?,
        };
        match flag.kind {
            Kind::Help => return Ok(Command::Print(help(env)?)),
            Kind::Schema => return Ok(Command::Print(SCHEMA.into())),
            Kind::Version => return Ok(Command::Print(format!("{NAME_AND_VERSION}\n"))),
            Kind::Value { .. } => {
                let value = parser.value().map_err(UsageError::Syntax)?;
                given.insert(flag.long, utf8("argument", value)?);
            }
            Kind::List { .. } => {
                let value = parser.value().map_err(UsageError::Syntax)?;
                let list: &mut String = given.entry(flag.long).or_default();
                list.push_str(&utf8("argument", value)?);
                list.push(',');
            }
            Kind::Switch => {
                let value = parser.optional_value().unwrap_or_else(|| "true".into());
                given.insert(flag.long, utf8("argument", value)?);
            }
        }
    }
    // Scripts pass flags whose variable is empty: that is no value.
    given.retain(|_, value| !value.is_empty());
    options(given, rule, env).map(|options| Command::Sync(Box::new(options)))
}

fn options(
    mut given: HashMap<&'static str, String>,
    rule: Vec<String>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Options, UsageError> {
    let config = given.get("config").map(PathBuf::from);
    for flag in &FLAGS {
        if let (Kind::Value { default, .. }, false) = (&flag.kind, given.contains_key(flag.long))
            && let Some(value) = default.present(env)?
        {
            given.insert(flag.long, value);
        }
    }
    let is_stdin = |file: &&str| given.get(file).is_some_and(|name| name == STDIN);
    let files = ["config", "auth", "images"].into_iter();
    if files.filter(is_stdin).count() > 1 {
        return Err(UsageError::StdinTwice);
    }
    let mut take = |long| given.remove(long);
    Ok(Options {
        config,
        no_default_auth: switch("no-default-auth", take("no-default-auth"))?,
        auth: take("auth").map(PathBuf::from),
        images: take("images").map(PathBuf::from),
        log: take("log").map(PathBuf::from),
        dry_run: switch("dry-run", take("dry-run"))?,
        quiet: switch("quiet", take("quiet"))?,
        log_level: take("log-level").map(log_level).transpose()?,
        registry: take("registry"),
        namespace: take("namespace"),
        workers: count("proc", "transfers", take("proc").unwrap_or_default())?,
        max_per_host: take("max-per-host")
            .map(|text| count("max-per-host", "requests", text))
            .transpose()?,
        retries: retries(take("retries").unwrap_or_default())?,
        records: take("records").unwrap_or_default().into(),
        trust_records: take("trust-records")
            .map(|text| duration("trust-records", text))
            .transpose()?,
        detach_after: duration("detach-after", take("detach-after").unwrap_or_default())?,
        detach_share: percent(take("detach-share").unwrap_or_default())?,
        checkpoint_bytes: bytes(take("checkpoint-bytes").unwrap_or_default())?,
        checkpoint_time: duration(
            "checkpoint-time",
            take("checkpoint-time").unwrap_or_default(),
        )?,
        platforms: PlatformFilter::of_lists(
            &take("os").unwrap_or_default(),
            &take("arch").unwrap_or_default(),
        )
        .map_err(UsageError::Platform)?,
        force: switch("force", take("force"))?,
        referrers: switch("referrers", take("referrers"))?,
        output_success_images: take("output-success-images").map(PathBuf::from),
        output_failed_images: take("output-failed-images").map(PathBuf::from),
        output_images_format: images_format(take("output-images-format").unwrap_or_default())?,
        rule,
    })
}

fn find_long(long: &str) -> Result<&'static Flag, UsageError> {
    FLAGS.iter().find(|flag| flag.long == long).ok_or_else(|| {
        let known = FLAGS.iter().map(|flag| flag.long);
        UsageError::UnknownFlag {
            flag: format!("--{long}"),
            nearest: nearest(long, known),
        }
    })
}

fn find_short(short: char) -> Result<&'static Flag, UsageError> {
    let found = FLAGS.iter().find(|flag| flag.short == Some(short));
    found.ok_or_else(|| UsageError::UnknownFlag {
        flag: format!("-{short}"),
        nearest: None,
    })
}

/// What a flag's value means, or `what` is wrong with it and to be given instead.
fn read<T>(
    flag: &'static str,
    text: String,
    value: impl FnOnce(&str) -> Option<T>,
    what: impl fmt::Display,
) -> Result<T, UsageError> {
    let what = what.to_string();
    value(&text).ok_or(UsageError::Value { flag, text, what })
}

fn count(flag: &'static str, of: &str, text: String) -> Result<usize, UsageError> {
    let what = format!("is no number of {of}; give one from 1 to {MAX_WORKERS}");
    let is_allowed = |number: &usize| (1..=MAX_WORKERS).contains(number);
    let number = |text: &str| text.parse().ok().filter(is_allowed);
    read(flag, text, number, what)
}

/// A negative number means none, as it always has.
fn retries(text: String) -> Result<u32, UsageError> {
    let what = "is no number of passes; give one such as 2, or 0 for none";
    let number = |text: &str| text.parse::<i64>().ok()?.max(0).try_into().ok();
    read("retries", text, number, what)
}

fn duration(flag: &'static str, text: String) -> Result<Duration, UsageError> {
    let what = "is no time; give one such as 12h, 30m or 10s";
    let time = |text: &str| humantime::parse_duration(text).ok();
    read(flag, text, time, what)
}

fn percent(text: String) -> Result<u8, UsageError> {
    let what = "is no part; give one from 0% to 100%";
    let percent = |text: &str| text.strip_suffix('%').unwrap_or(text).parse().ok();
    let part = |text: &str| percent(text).filter(|percent| *percent <= 100);
    read("detach-share", text, part, what)
}

fn bytes(text: String) -> Result<u64, UsageError> {
    let what = "is no number of bytes; give one such as 64MiB or 10MB";
    let number = |text: &str| parse_bytes(text).filter(|bytes| *bytes > 0);
    read("checkpoint-bytes", text, number, what)
}

fn images_format(text: String) -> Result<Format, UsageError> {
    let format = |text: &str| match text {
        "yaml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    };
    let what = "is no format; give yaml or json";
    read("output-images-format", text, format, what)
}

fn switch(flag: &'static str, text: Option<String>) -> Result<bool, UsageError> {
    let Some(text) = text else { return Ok(false) };
    let what = format!("is neither true nor false; give --{flag} alone");
    read(flag, text, |text| text.parse().ok(), what)
}

fn log_level(text: String) -> Result<LevelFilter, UsageError> {
    let what = "is no level; give error, warn, info, debug or trace";
    let is_allowed = |level: &LevelFilter| *level != LevelFilter::Off;
    let level = |text: &str| text.parse().ok().filter(is_allowed);
    read("log-level", text, level, what)
}

fn utf8(what: &'static str, text: OsString) -> Result<String, UsageError> {
    text.into_string().map_err(|text| UsageError::NotUtf8 {
        what,
        text: text.to_string_lossy().into_owned(),
    })
}

fn help(env: &dyn Fn(&str) -> Option<OsString>) -> Result<String, UsageError> {
    let mut rows = Vec::new();
    for flag in &FLAGS {
        let (value, default) = match &flag.kind {
            Kind::Help | Kind::Schema | Kind::Version | Kind::Switch => {
                (String::new(), String::new())
            }
            Kind::List { name } => (format!(" {name}"), String::new()),
            Kind::Value { name, default } => (format!(" {name}"), default.describe(env)?),
        };
        let short = match flag.short {
            Some(short) => format!("-{short},"),
            None => String::new(),
        };
        rows.push((
            format!("{short:3} --{}{value}", flag.long),
            format!("{}{default}", flag.help),
        ));
    }
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    let rows: Vec<_> = rows
        .iter()
        .map(|(left, right)| format!("  {left:width$}  {right}"))
        .collect();
    Ok(format!(
        "{NAME_AND_VERSION}\n\n{USAGE}\n\nOptions:\n{}\n",
        rows.join("\n")
    ))
}

/// Why the command line cannot be followed, and what to write instead.
#[derive(Debug)]
pub enum UsageError {
    /// A value is missing, or one is given to a flag that takes none.
    Syntax(lexopt::Error),
    /// No such flag.
    UnknownFlag {
        /// As written.
        flag: String,
        /// The flag that it looks like.
        nearest: Option<&'static str>,
    },
    /// Standard input as more than one of the files.
    StdinTwice,
    /// An argument or variable that is no text.
    NotUtf8 {
        /// `argument`, or the variable's name.
        what: &'static str,
        /// Its text as far as it is one.
        text: String,
    },
    /// A flag with a value that it cannot have.
    Value {
        /// Its name.
        flag: &'static str,
        /// As written.
        text: String,
        /// What is wrong with it, and what to give instead.
        what: String,
    },
    /// `--os` or `--arch` with something else than platforms.
    Platform(PlatformError),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "{error}; --help shows all options"),
            Self::UnknownFlag {
                flag,
                nearest: Some(nearest),
            } => write!(f, "unknown option {flag}; is --{nearest} meant?"),
            Self::UnknownFlag {
                flag,
                nearest: None,
            } => write!(f, "unknown option {flag}; --help shows all options"),
            Self::StdinTwice => f.write_str(
                "standard input (`-`) can be one file only; write the other into a file",
            ),
            Self::NotUtf8 { what, text } => {
                write!(f, "{what} {text:?} is not UTF-8; write it in UTF-8")
            }
            Self::Value { flag, text, what } => write!(f, "--{flag} {text:?} {what}"),
            Self::Platform(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UsageError {}

/// One flag: all that parsing, help and suggestions know of it.
struct Flag {
    long: &'static str,
    short: Option<char>,
    kind: Kind,
    help: &'static str,
}

impl Flag {
    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
}

enum Kind {
    Help,
    Schema,
    Version,
    Value {
        /// What help calls it.
        name: &'static str,
        default: DefaultValue,
    },
    /// May be given several times, each time with a list.
    List {
        /// What help calls it.
        name: &'static str,
    },
    /// On if it is given, but for `--flag=false`.
    Switch,
}

/// What counts if a flag is not given.
enum DefaultValue {
    None,
    Text(&'static str),
    Variable(&'static str),
}

impl DefaultValue {
    fn present(
        &self,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Option<String>, UsageError> {
        match *self {
            Self::None => Ok(None),
            Self::Text(text) => Ok(Some(text.into())),
            Self::Variable(name) => match env(name) {
                Some(value) if !value.is_empty() => utf8(name, value).map(Some),
                _ => Ok(None),
            },
        }
    }

    fn describe(&self, env: &dyn Fn(&str) -> Option<OsString>) -> Result<String, UsageError> {
        let present = self.present(env)?;
        Ok(match (self, present) {
            (Self::None, _) => String::new(),
            (Self::Text(text), _) => format!(" [default: {text}]"),
            (Self::Variable(name), Some(value)) => format!(" [default: {value}, from {name}]"),
            (Self::Variable(name), None) => format!(" [default: {name}, which is not set]"),
        })
    }
}

const FLAGS: [Flag; 29] = [
    value(
        "config",
        "FILE",
        DefaultValue::Text(DEFAULT_PATH),
        "the credentials and the rules; - is standard input",
    ),
    value(
        "auth",
        "FILE",
        DefaultValue::None,
        "the credentials alone, in place of --config",
    ),
    value(
        "images",
        "FILE",
        DefaultValue::None,
        "the rules alone, in place of --config",
    ),
    flag(
        "no-default-auth",
        Kind::Switch,
        "use no logins of docker and podman, only those of the configuration",
    ),
    value(
        "log",
        "FILE",
        DefaultValue::None,
        "write the log into this file, not to stderr",
    ),
    value(
        "log-level",
        "LEVEL",
        DefaultValue::None,
        "error, warn, info, debug or trace [default: info, or RUST_LOG]",
    ),
    flag(
        "dry-run",
        Kind::Switch,
        "write nothing, and tell for each rule what a run would do",
    ),
    flag(
        "quiet",
        Kind::Switch,
        "no progress, and of the log only warnings and errors",
    ),
    value(
        "namespace",
        "NAMESPACE",
        DefaultValue::Variable("DEFAULT_NAMESPACE"),
        "the namespace of empty targets",
    ),
    value(
        "registry",
        "REGISTRY",
        DefaultValue::Variable("DEFAULT_REGISTRY"),
        "the registry of empty targets",
    ),
    value(
        "proc",
        "N",
        DefaultValue::Text("5"),
        "how many transfers run at once",
    )
    .short('p'),
    value(
        "max-per-host",
        "N",
        DefaultValue::None,
        "how many requests at once to one registry",
    ),
    value(
        "records",
        "FILE",
        DefaultValue::Text("./records"),
        "remember here what was copied",
    ),
    value(
        "retries",
        "N",
        DefaultValue::Text("2"),
        "how many more passes over what failed",
    )
    .short('r'),
    value(
        "trust-records",
        "DURATION",
        DefaultValue::None,
        "do not ask targets for tags that the records saw within this time, such as 12h",
    ),
    value(
        "detach-after",
        "DURATION",
        DefaultValue::Text("1s"),
        "how long the targets of a blob wait for a slow one among them",
    ),
    value(
        "detach-share",
        "PERCENT",
        DefaultValue::Text("25%"),
        "and for what part of the time; past both it goes on alone",
    ),
    value(
        "checkpoint-bytes",
        "SIZE",
        DefaultValue::Text("64MiB"),
        "record where a long upload is for the next run, each so many bytes",
    ),
    value(
        "checkpoint-time",
        "DURATION",
        DefaultValue::Text("10s"),
        "and each so much time",
    ),
    list(
        "os",
        "OS",
        "only platforms of this system, such as linux or windows:10.0.17763",
    ),
    list(
        "arch",
        "ARCH",
        "only platforms of this architecture, such as amd64 or arm64:v8",
    ),
    flag(
        "force",
        Kind::Switch,
        "put what targets have already, and ask for every blob",
    ),
    flag(
        "referrers",
        Kind::Switch,
        "copy signatures, attestations and SBOMs with their images",
    ),
    value(
        "output-success-images",
        "FILE",
        DefaultValue::None,
        "write the images that are in sync into this file",
    ),
    value(
        "output-failed-images",
        "FILE",
        DefaultValue::None,
        "write what failed into this file, as rules for another run",
    ),
    value(
        "output-images-format",
        "FORMAT",
        DefaultValue::Text("yaml"),
        "yaml or json, of these files",
    ),
    flag(
        "config-schema",
        Kind::Schema,
        "print the JSON Schema of the files, for editors",
    ),
    flag("help", Kind::Help, "print this help").short('h'),
    flag("version", Kind::Version, "print the version"),
];

const fn value(
    long: &'static str,
    name: &'static str,
    default: DefaultValue,
    help: &'static str,
) -> Flag {
    flag(long, Kind::Value { name, default }, help)
}

const fn list(long: &'static str, name: &'static str, help: &'static str) -> Flag {
    flag(long, Kind::List { name }, help)
}

const fn flag(long: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        kind,
        help,
    }
}

const MAX_WORKERS: usize = 1024;

const NAME_AND_VERSION: &str = concat!("image-syncer ", env!("CARGO_PKG_VERSION"));

const USAGE: &str = "\
Copies container images from registries to registries by a file of rules.

Usage: image-syncer [OPTIONS] [SOURCE TARGET...]

SOURCE TARGET... is one rule, in place of those of the file. SOURCE alone goes to the default registry and
namespace.";

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<OsString> {
        match name {
            "DEFAULT_REGISTRY" => Some("env.example".into()),
            "DEFAULT_NAMESPACE" => Some(String::new().into()),
            _ => None,
        }
    }

    fn run(args: &[&str]) -> Result<Command, UsageError> {
        parse(args.iter().map(OsString::from), &env)
    }

    #[track_caller]
    fn options_of(args: &[&str]) -> Options {
        match run(args) {
            Ok(Command::Sync(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    fn defaults() -> Options {
        Options {
            config: None,
            no_default_auth: false,
            log: None,
            dry_run: false,
            quiet: false,
            log_level: None,
            registry: Some("env.example".into()),
            namespace: None,
            workers: 5,
            max_per_host: None,
            retries: 2,
            records: "./records".into(),
            trust_records: None,
            detach_after: Duration::from_secs(1),
            detach_share: 25,
            checkpoint_bytes: 64 << 20,
            checkpoint_time: Duration::from_secs(10),
            platforms: None,
            force: false,
            referrers: false,
            output_success_images: None,
            output_failed_images: None,
            output_images_format: Format::Yaml,
            rule: Vec::new(),
            auth: None,
            images: None,
        }
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        assert_eq!(options_of(&[]), defaults());
    }

    #[test]
    fn every_flag_arrives_with_equals_sign_and_with_blank() {
        let expected = Options {
            config: Some("c.json".into()),
            no_default_auth: true,
            log: Some("l".into()),
            dry_run: true,
            quiet: true,
            log_level: Some(LevelFilter::Debug),
            registry: Some("r.example".into()),
            namespace: Some("n".into()),
            workers: 7,
            max_per_host: Some(3),
            retries: 9,
            records: "rec".into(),
            trust_records: Some(Duration::from_mins(90)),
            detach_after: Duration::from_millis(500),
            detach_share: 100,
            checkpoint_bytes: 10_000_000,
            checkpoint_time: Duration::ZERO,
            platforms: PlatformFilter::of_lists("linux", "amd64,arm64:v8,arm").unwrap(),
            force: true,
            referrers: true,
            output_success_images: Some("s".into()),
            output_failed_images: Some("f".into()),
            output_images_format: Format::Json,
            rule: vec!["a:1".into(), "b".into(), "c".into()],
            auth: Some("a.yaml".into()),
            images: Some("i.yml".into()),
        };
        let joined = [
            "--config=c.json",
            "--no-default-auth",
            "--auth=a.yaml",
            "--images=i.yml",
            "--log=l",
            "--dry-run",
            "--quiet",
            "a:1",
            "--log-level=debug",
            "--registry=r.example",
            "--namespace=n",
            "b",
            "--proc=7",
            "--max-per-host=3",
            "--retries=9",
            "--records=rec",
            "--trust-records=1h 30m",
            "--detach-after=500ms",
            "--detach-share=100",
            "--checkpoint-bytes=10MB",
            "--checkpoint-time=0s",
            "--os=linux",
            "--arch=amd64,arm64:v8",
            "--force",
            "--referrers",
            "--arch=arm",
            "--output-success-images=s",
            "--output-failed-images=f",
            "--output-images-format=json",
            "c",
        ];
        assert_eq!(options_of(&joined), expected);
        let apart: Vec<&str> = joined.iter().flat_map(|arg| arg.split('=')).collect();
        assert_eq!(options_of(&apart), expected);
    }

    #[test]
    fn short_flags() {
        for args in [
            ["-p", "3", "-r", "4"].as_slice(),
            &["-p3", "-r4"],
            &["-p=3", "-r=4"],
        ] {
            let options = options_of(args);
            assert_eq!((options.workers, options.retries), (3, 4), "{args:?}");
        }
    }

    #[test]
    fn an_empty_value_is_no_value() {
        let args = [
            "--config=",
            "--no-default-auth=",
            "--log=",
            "--quiet=",
            "--dry-run=",
            "--log-level=",
            "--registry=",
            "--namespace",
            "",
            "--proc=",
            "--max-per-host=",
            "--records=",
            "--retries=",
            "--trust-records=",
            "--detach-after=",
            "--detach-share=",
            "--checkpoint-bytes=",
            "--checkpoint-time=",
            "--auth=",
            "--images=",
            "--arch=",
            "--os",
            "",
            "--force=",
            "--output-success-images=",
            "--output-failed-images=",
            "--output-images-format=",
        ];
        assert_eq!(options_of(&args), defaults());
    }

    #[test]
    fn the_last_of_two_wins_and_two_dashes_end_the_flags() {
        let options = options_of(&["-p", "3", "--proc=4", "--", "--help", "t"]);
        assert_eq!(options.workers, 4);
        assert_eq!(options.rule, ["--help", "t"]);
    }

    #[test]
    fn a_switch_is_on_where_it_is_given_and_not_false() {
        for (args, quiet) in [
            (["--quiet"].as_slice(), true),
            (&["--quiet=true"], true),
            (&["--quiet=false"], false),
            (&["--quiet", "--quiet=false"], false),
        ] {
            assert_eq!(options_of(args).quiet, quiet, "{args:?}");
        }
    }

    #[test]
    fn numbers() {
        for (args, retries) in [
            (["--retries=0"].as_slice(), 0),
            (&["--retries", "-1"], 0),
            (&["--retries=-99999999999"], 0),
            (&["--retries=4294967295"], u32::MAX),
        ] {
            assert_eq!(options_of(args).retries, retries, "{args:?}");
        }
        assert_eq!(options_of(&["--proc=1024"]).workers, 1024);
        assert_eq!(options_of(&["--proc=1"]).workers, 1);
    }

    #[test]
    fn wrong_command_lines_say_what_to_write() {
        for (args, message) in [
            (
                ["--proc=0"].as_slice(),
                "--proc \"0\" is no number of transfers; give one from 1 to 1024",
            ),
            (
                &["-p", "1025"],
                "--proc \"1025\" is no number of transfers; give one from 1 to 1024",
            ),
            (
                &["--max-per-host=0"],
                "--max-per-host \"0\" is no number of requests; give one from 1 to 1024",
            ),
            (
                &["-r", "two"],
                "--retries \"two\" is no number of passes; give one such as 2, or 0 for none",
            ),
            (
                &["-r=4294967296"],
                "--retries \"4294967296\" is no number of passes; give one such as 2, or 0 for none",
            ),
            (
                &["--quiet=yes"],
                "--quiet \"yes\" is neither true nor false; give --quiet alone",
            ),
            (
                &["--log-level=off"],
                "--log-level \"off\" is no level; give error, warn, info, debug or trace",
            ),
            (
                &["--log-level=loud"],
                "--log-level \"loud\" is no level; give error, warn, info, debug or trace",
            ),
            (
                &["--trust-records=12"],
                "--trust-records \"12\" is no time; give one such as 12h, 30m or 10s",
            ),
            (
                &["--detach-after=-1s"],
                "--detach-after \"-1s\" is no time; give one such as 12h, 30m or 10s",
            ),
            (
                &["--detach-share=101%"],
                "--detach-share \"101%\" is no part; give one from 0% to 100%",
            ),
            (
                &["--detach-share=0.25"],
                "--detach-share \"0.25\" is no part; give one from 0% to 100%",
            ),
            (
                &["--checkpoint-bytes=0"],
                "--checkpoint-bytes \"0\" is no number of bytes; give one such as 64MiB or 10MB",
            ),
            (
                &["--checkpoint-time=10"],
                "--checkpoint-time \"10\" is no time; give one such as 12h, 30m or 10s",
            ),
            (
                &["--no-default-auth=on"],
                "--no-default-auth \"on\" is neither true nor false; give --no-default-auth alone",
            ),
            (
                &["--config"],
                "missing argument for option '--config'; --help shows all options",
            ),
            (
                &["--recods=x"],
                "unknown option --recods; is --records meant?",
            ),
            (
                &["--timeout=300"],
                "unknown option --timeout; --help shows all options",
            ),
            (
                &["--days", "3"],
                "unknown option --days; --help shows all options",
            ),
            (&["-x"], "unknown option -x; --help shows all options"),
            (
                &["--arch", "linux/amd64"],
                "--arch \"linux/amd64\" is no platform; write one such as amd64 or arm64:v8",
            ),
            (
                &["--auth=-", "--images=-"],
                "standard input (`-`) can be one file only; write the other into a file",
            ),
            (
                &["--config", "-", "--images", "-"],
                "standard input (`-`) can be one file only; write the other into a file",
            ),
            (
                &["--output-images-format=xml"],
                "--output-images-format \"xml\" is no format; give yaml or json",
            ),
        ] {
            assert_eq!(run(args).unwrap_err().to_string(), message, "{args:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;

        let bytes = || OsString::from_vec(b"a\xffb".to_vec());
        let error = parse([bytes()], &|_| None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "argument \"a\u{fffd}b\" is not UTF-8; write it in UTF-8"
        );
        let error = parse([], &|_| Some(bytes())).unwrap_err().to_string();
        assert!(
            error.starts_with("DEFAULT_NAMESPACE \"a\u{fffd}b\""),
            "{error}"
        );
        // What is given hides what is not text.
        assert!(
            parse(["--registry=r".into(), "--namespace=n".into()], &|_| Some(
                bytes()
            ))
            .is_ok()
        );
    }

    #[test]
    fn help_shows_every_flag_of_this_version_and_present_defaults() {
        let Ok(Command::Print(text)) = run(&["-p", "x", "-h", "--nonsense"]) else {
            panic!("no help");
        };
        for flag in &FLAGS {
            let shown = text
                .split_whitespace()
                .any(|word| word == format!("--{}", flag.long));
            assert!(shown, "{}", flag.long);
        }
        assert!(
            text.contains("[default: env.example, from DEFAULT_REGISTRY]"),
            "{text}"
        );
        assert!(
            text.contains("[default: DEFAULT_NAMESPACE, which is not set]"),
            "{text}"
        );
        assert!(text.contains("  -p, --proc N "), "{text}");
        assert!(text.contains("[default: ./image-syncer.json]"), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 120),
            "{text}"
        );
    }

    #[test]
    fn the_schema_is_asked_for() {
        let command = run(&["--proc=1", "--config-schema", "--nonsense"]);
        assert_eq!(command.unwrap(), Command::Print(SCHEMA.into()));
    }

    #[test]
    fn version() {
        assert_eq!(
            run(&["--version"]).unwrap(),
            Command::Print(format!("image-syncer {}\n", env!("CARGO_PKG_VERSION")))
        );
    }
}
