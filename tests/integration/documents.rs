//! What the documents say is so: README's tables are those of the program, the Chinese README has the same, and the
//! arrows of ARCHITECTURE.md are the `use` lines of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use image_syncer::report::ExitStatus;

use crate::harness::Run;

/// A file of the repository.
fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const READMES: [&str; 2] = ["README.md", "README-zh_CN.md"];

/// The first two cells of the rows of all tables.
fn rows(document: &str) -> Vec<(String, String)> {
    let cells = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
    };
    read(document).lines().filter_map(cells).collect()
}

#[test]
fn readme_has_the_options_of_the_help_and_their_defaults() {
    let help = Run::new().arg("--help").run().expect(0).stdout;
    let mut expected = BTreeMap::new();
    let (_, table) = help.split_once("Options:").expect("no options in the help");
    for line in table
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
    {
        let (names, meaning) = line
            .trim()
            .split_once("  ")
            .expect("a line without meaning");
        let default = meaning
            .split_once("[default: ")
            .and_then(|(_, rest)| rest.split([',', ']']).next())
            .map(ToOwned::to_owned);
        expected.insert(names.to_owned(), default);
    }
    assert!(expected.len() > 8, "{help}");
    for document in READMES {
        let mut found = BTreeMap::new();
        for (first, second) in rows(document) {
            if first.starts_with("`-") {
                let default = second.trim_matches(['`', '$']);
                let default = (!default.is_empty()).then(|| default.to_owned());
                found.insert(first.replace('`', ""), default);
            }
        }
        assert_eq!(found, expected, "{document}");
    }
}

#[test]
fn readme_has_the_exit_statuses_of_the_program() {
    let interrupted = [1, 2, 15].map(ExitStatus::Interrupted);
    let others = [
        ExitStatus::InSync,
        ExitStatus::Failed,
        ExitStatus::Usage,
        ExitStatus::Broken,
    ];
    let expected: Vec<String> = others
        .into_iter()
        .chain(interrupted)
        .map(|status| status.code().to_string())
        .collect();
    for document in READMES {
        let found: Vec<String> = rows(document)
            .into_iter()
            .map(|(first, _)| first)
            .filter(|first| first.starts_with(|letter: char| letter.is_ascii_digit()))
            .flat_map(|first| first.split(", ").map(ToOwned::to_owned).collect::<Vec<_>>())
            .collect();
        assert_eq!(found, expected, "{document}");
    }
}

#[test]
fn both_readmes_have_the_same_commands_and_tables() {
    let shape = |document: &str| {
        let text = read(document);
        let mut is_code = false;
        let mut shape = Vec::new();
        for line in text.lines() {
            if line.starts_with("```") {
                is_code = !is_code;
                shape.push(line.to_owned());
            } else if line.starts_with("<!--") || is_code && !line.trim_start().starts_with("//") {
                shape.push(line.to_owned());
            } else if line.starts_with('|') {
                shape.push(format!("| {}", line.matches(" |").count()));
            } else if line.starts_with('#') {
                shape.push(line.chars().take_while(|letter| *letter == '#').collect());
            }
        }
        shape
    };
    assert_eq!(shape("README-zh_CN.md"), shape("README.md"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in [
        "README.md",
        "README-zh_CN.md",
        "FAQs.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
    ] {
        let text = read(document);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let there = read(if file.is_empty() { document } else { file });
            let mut anchors = there
                .lines()
                .filter_map(|line| line.strip_prefix('#'))
                .map(|title| anchor(title.trim_start_matches('#')));
            assert!(
                section.is_empty() || anchors.any(|anchor| anchor == section),
                "{document}: {link}"
            );
        }
    }
}

/// A heading as the forges make an anchor of it.
fn anchor(title: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    let kept: String = title.trim().chars().filter(kept).collect();
    kept.to_lowercase().replace(' ', "-")
}

/// Which modules a module may use. What is not named here is `lib`, which knows all.
const ARROWS: [(&str, &[&str]); 16] = [
    ("oci", &[]),
    ("secret", &[]),
    ("nearest", &[]),
    ("pace", &[]),
    ("logging", &[]),
    ("output", &["report"]),
    ("report", &[]),
    ("signal", &["pace"]),
    ("progress", &["engine", "logging", "pace", "report"]),
    ("store", &["oci", "secret"]),
    ("records", &["oci", "store"]),
    ("config", &["nearest", "oci", "secret", "store"]),
    ("cli", &["config", "nearest", "oci", "output"]),
    ("engine", &["config", "oci", "records", "report", "store"]),
    ("layout", &["oci", "store"]),
    ("registry", &["logging", "oci", "pace", "secret", "store"]),
];

#[test]
fn no_module_looks_up() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = BTreeSet::new();
    for (module, allowed) in ARROWS {
        let mut files = vec![source.join(format!("{module}.rs"))];
        if let Ok(folder) = fs::read_dir(source.join(module)) {
            files.extend(folder.map(|entry| entry.expect("no entry").path()));
        }
        files.retain(|file| file.is_file());
        assert!(!files.is_empty(), "there is no module {module}");
        for file in files {
            seen.insert(file.clone());
            let text = fs::read_to_string(&file).expect("cannot read a source file");
            let code = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default();
            for used in code.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric()).collect();
                assert!(
                    used == module || allowed.contains(&used.as_str()),
                    "{} uses {used}",
                    file.display()
                );
            }
        }
    }
    let all = fs::read_dir(&source).expect("no source");
    let unseen: Vec<String> = all
        .map(|entry| entry.expect("no entry").path())
        .filter(|path| path.is_file() && !seen.contains(path))
        .map(|path| path.file_name().unwrap_or_default().display().to_string())
        .filter(|name| name != "lib.rs" && name != "main.rs")
        .collect();
    assert_eq!(unseen, Vec::<String>::new(), "modules without a row");
}
