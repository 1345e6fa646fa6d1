//! What each part of the program may name: the arrows of ARCHITECTURE.md, read from the sources themselves. A new module
//! or a new dependency must be put into the tables here, which is the moment to ask whether it belongs there. Not here:
//! what the parts do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each part of `src`, the modules of this crate that it names, and the crates. `lib` wires all of them.
const PARTS: [(&str, &[&str], &[&str]); 18] = [
    (
        "cli",
        &["config", "nearest", "oci", "output"],
        &["humantime", "lexopt", "log"],
    ),
    (
        "config",
        &["nearest", "oci", "secret", "store"],
        &[
            "humantime",
            "regex_lite",
            "saphyr_parser",
            "semver",
            "serde",
            "serde_json",
        ],
    ),
    (
        "doctor",
        &["config", "oci", "store"],
        &["crossbeam_channel", "humantime"],
    ),
    (
        "engine",
        &["config", "oci", "records", "report", "store"],
        &["crossbeam_channel", "log"],
    ),
    ("layout", &["oci", "store"], &["log", "serde", "serde_json"]),
    ("logging", &[], &["env_logger", "humantime", "log"]),
    ("main", &[], &["image_syncer"]),
    ("nearest", &[], &[]),
    ("pace", &[], &[]),
    (
        "oci",
        &[],
        &["base64", "humantime", "serde", "serde_json", "sha2"],
    ),
    (
        "progress",
        &["engine", "logging", "pace", "report"],
        &["crossbeam_channel", "humantime", "log"],
    ),
    (
        "records",
        &["oci", "store"],
        &["humantime", "log", "serde", "serde_json"],
    ),
    (
        "registry",
        &["logging", "oci", "pace", "secret", "store"],
        &[
            "base64",
            "crossbeam_channel",
            "httpdate",
            "humantime",
            "log",
            "percent_encoding",
            "ring",
            "rustls",
            "serde",
            "serde_json",
            "ureq",
            "webpki_roots",
            "zeroize",
        ],
    ),
    ("output", &["report"], &["serde_json"]),
    ("report", &[], &[]),
    ("secret", &[], &["serde", "zeroize"]),
    ("signal", &["pace"], &["signal_hook"]),
    ("store", &["oci", "secret"], &[]),
];

/// Words that stand in these files only. A path that ends in `/` is a folder.
const WORDS: [(&str, &[&str]); 14] = [
    // The wire.
    (
        "ureq",
        &[
            "registry/connect.rs",
            "registry/exchange.rs",
            "registry/network.rs",
            "registry/transport.rs",
        ],
    ),
    (
        "rustls",
        &[
            "registry/connect.rs",
            "registry/transport.rs",
            "registry/trust.rs",
        ],
    ),
    ("TcpStream", &[]),
    // Whatever can panic on a closed pipe, or tears a line of somebody else.
    ("println", &[]),
    ("eprintln", &[]),
    ("eprint", &[]),
    ("stdout", &["logging.rs", "registry/helper.rs"]),
    // A worker never sleeps: timers are the coordinator's. Who waits for another program's end cannot do without.
    ("sleep", &["registry/helper.rs"]),
    ("spawn", &["progress.rs", "registry/helper.rs", "signal.rs"]),
    ("exit", &["signal.rs"]),
    // No disk but for layouts and records, no environment but what `lib` hands out.
    (
        "fs",
        &[
            "config/",
            "layout/",
            "logging.rs",
            "output.rs",
            "records/compact.rs",
            "records/journal.rs",
            "registry/auth_files.rs",
            "registry/trust.rs",
            "signal.rs",
        ],
    ),
    ("temp_dir", &[]),
    (
        "env",
        &[
            "cli.rs",
            "lib.rs",
            "main.rs",
            "pace.rs",
            "registry/network.rs",
            "registry/trust.rs",
        ],
    ),
    ("unsafe", &[]),
];

/// Parts of the engine that get the time from outside, and send and wait for nothing: what they decide can be tested
/// without a clock or a thread.
const PURE: [&str; 12] = [
    "admission",
    "arena",
    "blobs",
    "children",
    "graph",
    "image",
    "namespaces",
    "parts",
    "places",
    "plan",
    "schedule",
    "task",
];

/// A file of `src`: its path below, and its code without comments and tests.
struct File {
    path: String,
    code: String,
}

impl File {
    /// The part that it belongs to: the first component of its path.
    fn part(&self) -> &str {
        let (part, _) = self.path.split_once(['/', '.']).expect("no file of Rust");
        part
    }

    fn words(&self) -> BTreeSet<&str> {
        self.code.split(|c: char| !is_word(c)).collect()
    }

    /// What paths begin with: `log` for `log::warn`, `crate::oci` for `crate::oci::Digest`.
    fn roots(&self) -> BTreeSet<String> {
        let mut roots = BTreeSet::new();
        for (at, _) in self.code.match_indices("::") {
            let (before, after) = (&self.code[..at], &self.code[at + 2..]);
            let root = before
                .rsplit(|c: char| !is_word(c))
                .next()
                .unwrap_or_default();
            let before = &before[..before.len() - root.len()];
            // A later component of a path, or the text of a message.
            if before.ends_with("::") || before.ends_with('"') {
                continue;
            }
            let next = after
                .split(|c: char| !is_word(c))
                .next()
                .unwrap_or_default();
            roots.insert(match root {
                "crate" => format!("crate::{next}"),
                _ => root.to_string(),
            });
        }
        roots
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_string();
            // What only tests are built with, and what is no code.
            let for_tests = [
                "/tests.rs",
                "/testing.rs",
                "/simulation.rs",
                "/scale.rs",
                "/refused.rs",
            ];
            if for_tests.iter().any(|only| name.ends_with(only))
                || path.extension() != Some("rs".as_ref())
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default();
            let lines = code
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default());
            let code = lines.collect::<Vec<_>>().join("\n");
            files.push(File { path: name, code });
        }
    }
    assert!(files.len() > 30, "not all of src was found");
    files
}

/// The crates that the program is built with, as code names them.
fn dependencies() -> BTreeSet<String> {
    let manifest = include_str!("../../Cargo.toml");
    let (_, rest) = manifest.split_once("[dependencies]").unwrap();
    let (list, _) = rest.split_once("\n[").unwrap();
    let names = list.lines().filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.replace('-', "_")).collect()
}

#[test]
fn every_part_names_what_lies_below_it_and_nothing_else() {
    let mut dependencies = dependencies();
    dependencies.insert("image_syncer".to_string());
    assert!(dependencies.len() > 10);
    let parts: BTreeMap<&str, (&[&str], &[&str])> = PARTS
        .into_iter()
        .map(|(part, modules, crates)| (part, (modules, crates)))
        .collect();
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.part() != "lib") {
        let Some((modules, crates)) = parts.get(file.part()) else {
            wrong.push(format!("{}: not in the table", file.path));
            continue;
        };
        for root in file.roots() {
            let is_allowed = match root.strip_prefix("crate::") {
                Some(module) => module == file.part() || modules.contains(&module),
                None => !dependencies.contains(&root) || crates.contains(&root.as_str()),
            };
            if !is_allowed {
                wrong.push(format!("{} names {root}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_arrow_of_the_table_leads_back() {
    // Taken away from below, one part after the other, until none is left.
    let mut left: BTreeMap<&str, &[&str]> = PARTS
        .into_iter()
        .map(|(part, modules, _)| (part, modules))
        .collect();
    while !left.is_empty() {
        let stands_on_nothing =
            |modules: &&[&str]| !modules.iter().any(|module| left.contains_key(module));
        let lowest = left.iter().find(|(_, modules)| stands_on_nothing(modules));
        let (&lowest, _) = lowest.unwrap_or_else(|| panic!("a circle among {:?}", left.keys()));
        left.remove(lowest);
    }
}

#[test]
fn words_stand_where_they_belong() {
    let mut wrong = Vec::new();
    for file in files() {
        let words = file.words();
        for (word, places) in WORDS {
            let belongs = places.iter().any(|place| match place.strip_suffix('/') {
                Some(_) => file.path.starts_with(place),
                None => file.path == *place,
            });
            if words.contains(word) && !belongs {
                wrong.push(format!("{} says {word}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_the_engine_decides_needs_no_clock_and_no_thread() {
    let files = files();
    for module in PURE {
        let path = format!("engine/{module}.rs");
        let file = files.iter().find(|file| file.path == path);
        let words = file.unwrap_or_else(|| panic!("no {path}")).words();
        for word in [
            "Instant",
            "SystemTime",
            "crossbeam_channel",
            "thread",
            "Mutex",
            "Journal",
        ] {
            assert!(!words.contains(word), "{path} says {word}");
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in files() {
        let text = fs::read_to_string(root.join(&file.path)).unwrap();
        assert!(text.starts_with("//! "), "{}", file.path);
    }
}
