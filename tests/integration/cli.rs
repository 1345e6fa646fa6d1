//! The command line as scripts use it: help, exit statuses, the log file, streams that are closed or full, and problems
//! that stop everything before anything is touched. Not here: what is copied (`sync`), runs that are interrupted
//! (`interrupt`: statuses 129, 130 and 143), and README's tables (`documents`).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, FakeRegistry, Fault};

/// A source with two tags of `ns/app`, and an empty target.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
}

impl World {
    fn new() -> Self {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(4);
        source.push("ns/app", "v1", &maker.oci(&[100]));
        source.push("ns/app", "v2", &maker.oci(&[100]));
        Self { source, target }
    }

    /// A run of one good rule.
    fn run(&self) -> Run {
        Run::new().rule(&self.source.name("ns/app"), self.target.name("m/app"))
    }

    #[track_caller]
    fn assert_synced(&self, output: &Output) {
        assert_eq!(output.status, Some(0), "{}", output.stderr);
        check_invariants(&[&self.source], &[&self.target], output);
        assert_in_sync(&self.source, "ns/app", &self.target, "m/app", &["v1", "v2"]);
    }

    /// Nobody was asked for anything, and nothing was written.
    #[track_caller]
    fn assert_untouched(&self, output: &Output) {
        let asked = self.source.connections() + self.target.connections();
        assert_eq!(asked, 0, "a connection was opened");
        assert_eq!(output.stdout, "");
        assert!(output.records.is_empty() && output.written.is_empty());
    }
}

const ALL_WELL: &str = "Finished, 0 sync tasks failed, 0 tasks generate failed\n";

fn help() -> String {
    let output = Run::new().arg("--help").run().expect(0);
    assert_eq!(output.stderr, "");
    output.stdout
}

/// The line of the help about a flag.
fn line_of<'a>(help: &'a str, flag: &str) -> &'a str {
    let mut lines = help.lines();
    let found = lines.find(|line| line.contains(&format!("--{flag} ")));
    found.unwrap_or_else(|| panic!("no --{flag} in:\n{help}"))
}

#[test]
fn help_shows_the_present_defaults() {
    let text = help();
    for (flag, default) in [
        ("config", "./image-syncer.json"),
        ("records", "./records"),
        ("proc", "5"),
        ("retries", "2"),
        ("registry", "DEFAULT_REGISTRY, which is not set"),
        ("namespace", "DEFAULT_NAMESPACE, which is not set"),
    ] {
        let line = line_of(&text, flag);
        assert!(line.ends_with(&format!("[default: {default}]")), "{line}");
    }
    let run = Run::new()
        .env("DEFAULT_REGISTRY", "r.example")
        .env("DEFAULT_NAMESPACE", "");
    let text = run.arg("-h").run().expect(0).stdout;
    assert!(line_of(&text, "registry").ends_with("[default: r.example, from DEFAULT_REGISTRY]"));
    assert!(line_of(&text, "namespace").ends_with("which is not set]"));
}

#[test]
fn what_is_wrong_with_the_command_line_is_said_in_one_line_and_nothing_is_touched() {
    let not_text = || OsString::from_vec(b"--config=a\xff".to_vec());
    let table: [(&[OsString], &[&str]); 13] = [
        (&["--config-file=x".into()], &["--config-file", "--help"]),
        (&["--confg=x".into()], &["--confg", "--config"]),
        (&["--record".into(), "x".into()], &["--record", "--records"]),
        (&["--retires=1".into()], &["--retires", "--retries"]),
        (&["-x".into()], &["-x", "--help"]),
        (&["--config".into()], &["--config", "--help"]),
        (
            &["--proc".into(), "0".into()],
            &["--proc \"0\"", "from 1 to"],
        ),
        (&["-p=many".into()], &["--proc \"many\"", "from 1 to"]),
        (&["--proc=-1".into()], &["--proc \"-1\"", "from 1 to"]),
        (
            &["-r".into(), "x".into()],
            &["--retries \"x\"", "0 for none"],
        ),
        (
            &["--log-level=loud".into()],
            &["--log-level \"loud\"", "debug"],
        ),
        (&[not_text()], &["UTF-8"]),
        (
            &["--os=linux/amd64".into()],
            &["--os \"linux/amd64\"", "linux or windows"],
        ),
    ];
    let world = World::new();
    for (arguments, words) in table {
        let output = world.run().args(arguments.to_vec()).run().expect(2);
        world.assert_untouched(&output);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        for word in words {
            assert!(output.stderr.contains(word), "{word:?}: {}", output.stderr);
        }
    }
}

#[test]
fn flags_without_a_value_count_as_not_given() {
    let world = World::new();
    let empty = [
        "--config=",
        "--log=",
        "--log-level=",
        "--namespace=",
        "--registry=",
        "--proc=",
        "--records=",
        "--retries=",
        "--arch=",
        "--os=",
        "--auth=",
        "--images=",
    ];
    let output = world.run().args(empty).run();
    world.assert_synced(&output);
    assert_eq!(
        (output.stdout.as_str(), output.records.len()),
        (ALL_WELL, 6)
    );
}

#[test]
fn every_exit_status_has_its_cause() {
    // All in sync.
    let world = World::new();
    world.assert_synced(&world.run().run());
    // Some images failed.
    let output = world
        .run()
        .rule(&world.source.name("ns/none"), world.target.name("m/none"));
    let output = output.run().expect(1);
    assert_eq!(output.finished(), Some((0, 1)));
    check_invariants(&[&world.source], &[&world.target], &output);
    // Nothing can be done.
    Run::new().arg("--config=none").run().expect(2);
    let output = Run::new().config("{}").arg("--log=none/log").run();
    let output = output.expect(2);
    assert!(
        output.stderr.starts_with("cannot write none/log: ")
            && output.stderr.ends_with("; name another file with --log\n"),
        "{}",
        output.stderr
    );
    // A target on this machine cannot be written.
    let output = no_room(&world).run().expect(3);
    assert!(output.stderr.contains("the run could not go on: "));
    assert!(output.finished().is_some());
}

/// A run into a layout on a disk that is full: a file may have one block of 512 or 1024 bytes.
fn no_room(world: &World) -> Run {
    let image = Maker::new(40).oci(&[5000]);
    world.source.push("ns/large", "v1", &image);
    Run::new()
        .rule(&world.source.name("ns/large"), "oci:layout")
        .in_shell(r#"ulimit -f 1; exec "$@""#)
}

#[test]
fn the_log_goes_into_its_file_and_nothing_is_printed() {
    let world = World::new();
    let run = world.run().args(["--log", "log", "--log-level", "debug"]);
    fs::write(run.path("log"), "x".repeat(1 << 20)).unwrap();
    let output = run.run();
    world.assert_synced(&output);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    let log = &output.written["log"];
    assert!(!log.contains("xx") && log.ends_with(ALL_WELL), "{log}");
    for line in log.lines() {
        let (time, _) = line.split_once(' ').expect("no time");
        assert!(time.ends_with('Z'), "{line}");
    }
    for word in ["INFO copied", "DEBUG PUT"] {
        assert!(log.contains(word), "{word}");
    }
    // Failures stand there too, and what stops everything is printed.
    let output = run.rule("a:b:c", "").run().expect(1);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    assert!(output.written["log"].contains("failed tasks exist"));
    let output = no_room(&world).args(["--log", "log"]).run().expect(3);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.lines().count()),
        ("", 1)
    );
}

#[test]
fn streams_that_are_closed_or_full_change_nothing() {
    for line in [
        r#"exec "$@" >&-"#,
        r#"exec "$@" 2>&-"#,
        r#"exec "$@" <&- >&- 2>&-"#,
        r#"exec "$@" >/dev/full"#,
        r#"exec "$@" >/dev/full 2>&1"#,
        r#"exec "$@" 2>/dev/full --log=/dev/full"#,
    ] {
        let world = World::new();
        let output = world.run().in_shell(line).run();
        assert_eq!(output.status, Some(0), "{line}: {}", output.stderr);
        assert_in_sync(
            &world.source,
            "ns/app",
            &world.target,
            "m/app",
            &["v1", "v2"],
        );
        let failing = world.run().rule("a:b:c", "x").in_shell(line);
        assert_eq!(failing.run().status, Some(1), "{line}");
        let wrong = Run::new().config("{").in_shell(line);
        assert_eq!(wrong.run().status, Some(2), "{line}");
        let help = Run::new().arg("--help").in_shell(line);
        assert_eq!(help.run().status, Some(0), "{line}");
    }
    // A reader that went away, as `head` does.
    let world = World::new();
    let line = r#"{ "$@" 2>&1; echo $? >status; } | true"#;
    let output = world
        .run()
        .in_shell(line)
        .arg("--log-level=trace")
        .run()
        .expect(0);
    assert_eq!(output.written["status"], "0\n");
}

#[test]
fn all_problems_of_a_config_are_told_at_once_with_their_places() {
    let world = World::new();
    let text = format!(
        r#"{{
  "auth": {{
    "a.example": {{"username": "u", "pasword": "p"}},
    "b.example": {{"username": 123, "insecure": "yes"}},
    "c.example": {{"username": "u"}},
    "c.example": {{"username": "v"}}
  }},
  "image": {{}},
  "images": {{
    "{}": "{}",
    "${{NAME}}/x": 7
  }}
}}"#,
        world.source.name("ns/app"),
        world.target.name("m/app"),
    );
    let output = Run::new().config(text).run().expect(2);
    world.assert_untouched(&output);
    let places: Vec<&str> = output
        .stderr
        .lines()
        .map(|line| {
            let (place, what) = line.split_once(": ").expect("no place");
            assert!(what.len() > 10, "{line}");
            place
                .strip_prefix("./image-syncer.json:")
                .expect("another file")
        })
        .collect();
    let expected = ["3:36", "4:48", "6:5", "8:3", "11:5", "11:18"];
    assert_eq!(places, expected, "{}", output.stderr);
}

#[test]
fn one_wrong_character_stops_everything_at_its_place() {
    let table = [
        ("", "no rules"),
        ("// only a comment\n", "no rules"),
        ("{\"images\": {\"a:1\" \"b\"}}", "1:18"),
        ("{\"images\": {\n\"a:1\": \"b\"\n\"c:1\": \"d\"}}", "2:11"),
        ("{\"images\": {}}\n{}", "2:1"),
        ("{\"images\": {\"a\": \"b", "1:18"),
        ("<<<<<<< HEAD\n{}", "1:1"),
        ("[\"a\", \"b\"]", "1:1"),
        ("{\"images\": [\"a\", \"b\"]}", "1:12"),
    ];
    for (text, word) in table {
        let output = Run::new().config(text).run().expect(2);
        assert_eq!(output.stdout, "");
        assert!(output.stderr.contains(word), "{text:?}: {}", output.stderr);
    }
}

#[test]
fn wrong_rules_beside_good_ones_fail_alone_and_are_counted() {
    let world = World::new();
    let wrong = [
        "x:y:z",
        "https://a.example/b/c",
        "a.example/B/c",
        "a:1/",
        "a:1,2 3",
        "",
    ];
    let run = wrong.iter().fold(world.run(), |run, source| {
        run.rule(source, world.target.name("m/x"))
    });
    let output = run.run().expect(1);
    check_invariants(&[&world.source], &[&world.target], &output);
    assert_eq!(output.finished(), Some((0, wrong.len())));
    assert_in_sync(
        &world.source,
        "ns/app",
        &world.target,
        "m/app",
        &["v1", "v2"],
    );
    let failed = output
        .stderr
        .lines()
        .filter(|line| line.contains("ERROR failed: ./image-syncer.json:1:"));
    assert_eq!(failed.count(), wrong.len(), "{}", output.stderr);
}

#[test]
fn failures_stand_last_in_the_log() {
    let world = World::new();
    world
        .target
        .fault(Fault::on_any(Act::status(403)).in_repository("m/denied"));
    let run = world.run().rule(
        &world.source.name("ns/app:v1"),
        world.target.name("m/denied"),
    );
    let output = run.run().expect(1);
    let lines: Vec<&str> = output.stderr.lines().collect();
    let [.., failure, summary] = lines[..] else {
        panic!("{}", output.stderr);
    };
    assert!(
        failure.contains("ERROR failed: ") && failure.contains("m/denied:v1"),
        "{failure}"
    );
    assert!(
        summary.contains("2 copied, 0 unchanged, 1 failed"),
        "{summary}"
    );
    assert!(output.stdout.starts_with("failed tasks exist\n"));
}

#[test]
fn one_rule_of_the_command_line_needs_no_file() {
    let world = World::new();
    let images = [world.source.name("ns/app"), world.target.name("m/app")];
    world.assert_synced(&Run::new().args(&images).run());
    // A config file is still read for its credentials, and its rules are left alone.
    let world = World::new();
    let config = json!({"images": {"nowhere.invalid/a": "nowhere.invalid/b"}});
    let images = [world.source.name("ns/app"), world.target.name("m/app")];
    world.assert_synced(&Run::new().config(config).args(&images).run());
}
