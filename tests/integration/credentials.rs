//! Logins that a machine already has: the files and variables of docker and podman. Not here: what is done with a login
//! (`auth`), and the form of the files in all its cases (unit tests).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{FakeRegistry, Options};

const PASSWORD: &str = "canary/of ada";
const WRONG: &str = "canary-wrong";

/// A registry that wants a password, with an image as `a:v1`.
fn closed() -> FakeRegistry {
    filled(Options::default().basic("ada", PASSWORD))
}

fn filled(options: Options) -> FakeRegistry {
    let registry = FakeRegistry::start(options);
    registry.push("a", "v1", &Maker::new(1).oci(&[50]));
    registry
}

/// The content of docker's file, with one entry.
fn auths(registry: &FakeRegistry, entry: &Value) -> String {
    json!({"auths": {registry.addr(): entry}}).to_string()
}

fn login(password: &str) -> Value {
    json!({"auth": BASE64.encode(format!("ada:{password}"))})
}

/// Copies the source's `a:v1` to the target, knowing nothing but what the machine has.
fn copy(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    Run::new()
        .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
        .rule(&source.name("a:v1"), target.name("b"))
}

#[track_caller]
fn assert_copies(run: &Run, source: &FakeRegistry, target: &FakeRegistry) -> Output {
    let output = run.run().expect(0);
    check_invariants(&[source], &[target], &output);
    assert_in_sync(source, "a", target, "b", &["v1"]);
    output
}

#[track_caller]
fn assert_fails(run: &Run, source: &FakeRegistry, words: &[&str]) {
    let output = run.run().expect(1);
    check_invariants(&[source], &[], &output);
    for word in words {
        let said = &output.stderr;
        assert!(said.contains(word), "no {word:?}: {said}");
    }
}

/// How often the log says a text.
fn times(output: &Output, text: &str) -> usize {
    output.stderr.matches(text).count()
}

/// The places of logins as files in the folder of a run, the most specific first, and the variables that lead there.
const PLACES: [(&str, &str, &str); 4] = [
    ("named.json", "REGISTRY_AUTH_FILE", "named.json"),
    ("run/containers/auth.json", "XDG_RUNTIME_DIR", "run"),
    ("config/containers/auth.json", "XDG_CONFIG_HOME", "config"),
    ("docker/config.json", "DOCKER_CONFIG", "docker"),
];

#[test]
fn the_first_place_that_has_a_login_counts_and_is_told_once() {
    for (first, (from, ..)) in PLACES.iter().enumerate() {
        let (source, target) = (closed(), FakeRegistry::new());
        source.push("c", "v1", &Maker::new(2).oci(&[50]));
        let mut run = copy(&source, &target).rule(&source.name("c:v1"), target.name("c"));
        for (number, (file, variable, folder)) in PLACES.iter().enumerate() {
            let content = match number {
                number if number < first => {
                    json!({"auths": {"other.example": login(WRONG)}}).to_string()
                }
                number if number == first => auths(&source, &login(PASSWORD)),
                _ => auths(&source, &login(WRONG)),
            };
            let folder = run.path(folder);
            run = run.file(file, content).env(variable, folder);
        }
        let run = run.secret(WRONG, &[]);
        let output = assert_copies(&run, &source, &target);
        let from = run.path(from);
        let told = format!(
            "INFO {}: the login is that of {}, key {:?}",
            source.addr(),
            from.display(),
            source.addr()
        );
        assert_eq!(times(&output, &told), 1, "{told}: {}", output.stderr);
        assert_eq!(times(&output, "the login is that of"), 1);
    }
}

#[test]
fn a_variable_holds_logins_and_files_below_home_do() {
    for (file, variable) in [
        ("", "DOCKER_AUTH_CONFIG"),
        (".config/containers/auth.json", "UNUSED"),
        (".docker/config.json", "UNUSED"),
    ] {
        let (source, target) = (closed(), FakeRegistry::new());
        let content = auths(&source, &login(PASSWORD));
        let run = copy(&source, &target);
        let run = if file.is_empty() {
            run.env(variable, content)
        } else {
            run.file(file, content)
        };
        let output = assert_copies(&run, &source, &target);
        let from = if file.is_empty() { variable } else { file };
        assert_eq!(times(&output, &format!("{from}, key")), 1, "{from}");

        let run = run.arg("--no-default-auth");
        let words = [
            "there is no login, it is asked without one",
            "no `auth` entry fits",
        ];
        assert_fails(&run, &source, &words);
    }
}

#[test]
fn a_place_that_cannot_be_used_is_warned_of_and_no_reason_to_fail() {
    let source = filled(Options::default());
    let target = FakeRegistry::new();
    let run = copy(&source, &target)
        .env("REGISTRY_AUTH_FILE", "nowhere.json")
        .env("DOCKER_AUTH_CONFIG", format!("{{\"auths\": \"{WRONG}\"}}"))
        .secret(WRONG, &[]);
    let output = assert_copies(&run, &source, &target);
    for warning in [
        "WARN nowhere.json is not used: it cannot be read: No such file or directory",
        "WARN DOCKER_AUTH_CONFIG is not used: `auths` is not an object",
    ] {
        assert_eq!(times(&output, warning), 1, "{warning}: {}", output.stderr);
    }
}
