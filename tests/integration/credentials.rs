//! Logins that a machine already has: the files and variables of docker and podman, the helpers that they name, and the
//! files and helpers of `auth`. Not here: what is done with a login (`auth`), and the form of the files in all its cases
//! (unit tests).

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, Bearer, FakeRegistry, Fault, Kind, Nth, Options};

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

/// A helper that knows ada's password, and writes into a file what it was asked.
fn knowing(asked: &Path) -> String {
    let answer = json!({"ServerURL": "x", "Username": "ada", "Secret": PASSWORD});
    let asked = asked.display();
    format!("{{ echo \"$1 $(cat)\"; env | grep canary; }} >> {asked}\necho '{answer}'")
}

#[test]
fn helpers_are_asked_once_for_a_registry_and_told_nothing_but_its_name() {
    let named = |registry: &FakeRegistry| {
        [
            json!({"credsStore": "known", "auths": {registry.addr(): {}}}),
            // Its own helper comes before the store, and both before what is written.
            json!({
                "credHelpers": {registry.addr(): "known"},
                "credsStore": "none",
                "auths": {registry.addr(): login(WRONG)},
            }),
        ]
    };
    for number in 0..2 {
        let (source, target) = (closed(), FakeRegistry::new());
        let content = &named(&source)[number];
        for repository in ["c", "d", "e"] {
            source.push(repository, "v1", &Maker::new(2).oci(&[50]));
        }
        let mut run = copy(&source, &target).secret(WRONG, &[]);
        for repository in ["c", "d", "e"] {
            let name = format!("{repository}:v1");
            run = run.rule(&source.name(&name), target.name(repository));
        }
        let asked = run.path("asked");
        let secret = json!({"auths": {"other.example": login(WRONG)}});
        let run = run
            .helper("known", &knowing(&asked))
            .env("DOCKER_AUTH_CONFIG", secret.to_string())
            .file(".docker/config.json", content.to_string());
        let output = assert_copies(&run, &source, &target);
        assert_eq!(
            fs::read_to_string(asked).unwrap(),
            format!("get {}\n", source.addr())
        );
        let told = "the login is that of docker-credential-known, named in cred";
        assert_eq!(times(&output, told), 1, "{}", output.stderr);
    }
}

/// A helper that gives one password when it is asked first, and another one from then on; it counts in a file.
fn renewing(asked: &Path, first: &str, then: &str) -> String {
    let [first, then] = [first, then].map(|word| json!({"Username": "ada", "Secret": word}));
    let asked = asked.display();
    format!(
        "[ -e {asked} ] && login='{then}' || login='{first}'\necho x >> {asked}\necho \"$login\""
    )
}

#[test]
fn a_helper_is_asked_once_more_where_its_login_was_good_and_is_refused() {
    // What the registry thinks of a login at first, and later.
    fn refuses(shown: &str, passwords: &[&str]) -> Act {
        let logins = passwords
            .iter()
            .map(|word| BASE64.encode(format!("ada:{word}")));
        let known = logins.map(|login| format!("Basic {login}"));
        if known.into_iter().any(|login| login == shown) {
            return Act::Delay(Duration::ZERO);
        }
        let challenge = vec![("WWW-Authenticate", "Basic realm=x".to_string())];
        Act::Status(401, challenge, Vec::new())
    }
    for (then, status) in [(PASSWORD, 0), ("canary-old", 1)] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let run = copy(&source, &target);
        let asked = run.path("asked");
        let mut run = run
            .helper("known", &renewing(&asked, "canary-old", then))
            .secret("canary-old", &[&source])
            .secret(PASSWORD, &[&source])
            .env("DOCKER_AUTH_CONFIG", "{\"credsStore\": \"known\"}")
            .args(["--proc=1", "--retries=0"]);
        let mut maker = Maker::new(1);
        for name in ["a", "b", "c"] {
            source.push(name, "v1", &maker.oci(&[50]));
            run = run.rule(&source.name(&format!("{name}:v1")), target.name(name));
        }
        let early = Act::Repeat(|shown| refuses(shown, &["canary-old", PASSWORD]));
        let late = Act::Repeat(|shown| refuses(shown, &[PASSWORD]));
        source.fault(Fault::on_any(early).nth(Nth::UpTo(3)));
        source.fault(Fault::on_any(late).nth(Nth::From(4)));
        let output = run.run().expect(status);
        check_invariants(&[&source], &[&target], &output);
        let times = fs::read_to_string(asked).unwrap().lines().count();
        assert_eq!(times, 2, "{}", output.stderr);
    }
}

#[test]
fn a_helper_is_asked_once_more_where_a_token_service_refuses_its_login() {
    let (source, target) = (
        filled(Options::default().bearer(Bearer::for_user("ada", PASSWORD))),
        FakeRegistry::new(),
    );
    source.push("b", "v1", &Maker::new(2).oci(&[50]));
    let token = json!({"token": source.issue_token(&["a"])}).to_string();
    let token = Act::Status(200, Vec::new(), token.into_bytes());
    source.fault(Fault::on(Kind::Token, token).nth(Nth::Only(1)));
    let run = copy(&source, &target);
    let asked = run.path("asked");
    let run = run
        .rule(&source.name("b:v1"), target.name("c"))
        .helper("known", &renewing(&asked, "canary-old", PASSWORD))
        .secret("canary-old", &[&source])
        .env("DOCKER_AUTH_CONFIG", "{\"credsStore\": \"known\"}")
        .arg("--proc=1");
    assert_copies(&run, &source, &target);
    assert_in_sync(&source, "b", &target, "c", &["v1"]);
    assert_eq!(fs::read_to_string(asked).unwrap().lines().count(), 2);
}

#[test]
fn a_helper_that_knows_nothing_leaves_the_choice_to_the_next_place() {
    let unknown = "echo 'credentials not found in native keychain'; exit 1";
    let (source, target) = (closed(), FakeRegistry::new());
    let run = copy(&source, &target)
        .helper("unknown", unknown)
        .env("DOCKER_AUTH_CONFIG", "{\"credsStore\": \"unknown\"}");
    assert_fails(
        &run,
        &source,
        &["asked without one", "no `auth` entry fits"],
    );
    let run = run.file(".docker/config.json", auths(&source, &login(PASSWORD)));
    assert_copies(&run, &source, &target);
}

#[test]
fn a_helper_that_fails_fails_its_registry_with_its_words_and_not_its_secrets() {
    let answer = format!("{{\"Username\": \"ada\", \"Secret\": \"{PASSWORD}\"}}");
    for (script, words) in [
        (
            Some(format!("echo '{answer}'; echo no session >&2; exit 3")),
            "exit status: 3: no session",
        ),
        (
            Some(format!("echo '{answer}'; exit 3")),
            "gave no login: exit status: 3",
        ),
        (
            Some("echo the vault is sealed; exit 1".to_string()),
            "exit status: 1: the vault is sealed",
        ),
        (
            Some(format!("echo '{PASSWORD}'")),
            "its answer is not JSON with Username and Secret",
        ),
        (Some("yes".to_string()), "it says more than 1048576 bytes"),
        (None, "there is no such program in PATH"),
    ] {
        let (source, target) = (closed(), FakeRegistry::new());
        // Another place has the login: it is not taken in place of one that was to be had.
        let run = copy(&source, &target)
            .env("DOCKER_AUTH_CONFIG", "{\"credsStore\": \"broken\"}")
            .file(".docker/config.json", auths(&source, &login(PASSWORD)));
        let run = match &script {
            Some(script) => run.helper("broken", script),
            None => run,
        };
        let origin =
            "docker-credential-broken, named in credsStore of DOCKER_AUTH_CONFIG, gave no login: ";
        assert_fails(&run, &source, &[origin, words]);
        assert!(
            target
                .history()
                .iter()
                .all(|entry| entry.kind != Kind::ManifestPut)
        );
    }
}

#[test]
fn a_helper_that_does_not_end_is_ended() {
    // One that says nothing, and one that has said all.
    for script in ["exec sleep 600", "exec >&- 2>&-; exec sleep 600"] {
        let (source, target) = (closed(), FakeRegistry::new());
        let run = copy(&source, &target);
        let process = run.path("process");
        let script = format!("echo $$ > {}\n{script}", process.display());
        let run = run
            .helper("slow", &script)
            .env("DOCKER_AUTH_CONFIG", "{\"credsStore\": \"slow\"}");
        assert_fails(&run, &source, &["it did not end within 30 s"]);
        let process = fs::read_to_string(process).unwrap();
        assert!(!Path::new("/proc").join(process.trim()).exists());
    }
}

/// Copies with an entry of `auth` for the source.
fn copy_by(source: &FakeRegistry, target: &FakeRegistry, entry: &Value) -> Run {
    let config = json!({
        "auth": {source.addr(): entry},
        "images": {source.name("a:v1"): target.name("b")},
    });
    copy(source, target).config(config)
}

#[test]
fn an_entry_may_name_a_file_or_a_helper() {
    let entries = [
        json!({"username": "ada", "Password_File": "secrets/ada", "insecure": true}),
        json!({"helper": "known"}),
    ];
    for entry in &entries {
        let (source, target) = (closed(), FakeRegistry::new());
        let run = copy_by(&source, &target, entry);
        let asked = run.path("asked");
        let run = run
            .file("secrets/ada", format!("{PASSWORD}\r\n"))
            .helper("known", &knowing(&asked));
        let output = assert_copies(&run, &source, &target);
        assert_eq!(times(&output, &format!("auth key {:?}", source.addr())), 1);
    }
}

#[test]
fn a_token_is_sent_to_the_registry_as_it_is() {
    let source = filled(Options::default().bearer(Bearer::for_user("ada", PASSWORD)));
    let token = source.issue_token(&["a"]);
    let entries = [
        json!({"token": token}),
        json!({"token_file": "secrets/token"}),
    ];
    for entry in &entries {
        let target = FakeRegistry::new();
        source.forget();
        let run = copy_by(&source, &target, entry);
        let run = run.file("secrets/token", format!(" {token}\n"));
        assert_copies(&run, &source, &target);
        assert_eq!(source.count(Kind::Token), 0);
    }
    // Podman's and docker's files may hold one as well, or one for the token service.
    let entries = [
        json!({"registrytoken": token}),
        json!({"identitytoken": PASSWORD}),
    ];
    for (entry, token_requests) in entries.iter().zip([0, 1]) {
        let target = FakeRegistry::new();
        source.forget();
        let run = copy(&source, &target).env("DOCKER_AUTH_CONFIG", auths(&source, entry));
        assert_copies(&run, &source, &target);
        assert_eq!(source.count(Kind::Token), token_requests);
    }
}

#[test]
fn a_service_account_copies_by_an_access_token() {
    let access = "canary/access+token";
    let pem = include_str!("../../fixtures/service-account.pem");
    let google = FakeRegistry::new();
    let answer = json!({"access_token": access, "expires_in": 3599});
    let answer = Act::Status(200, Vec::new(), answer.to_string().into_bytes());
    google.fault(Fault::on(Kind::Token, answer));
    let token_uri = format!("http://{}/token", google.addr());
    let key = json!({"client_email": "e", "private_key": pem, "token_uri": token_uri}).to_string();
    let by_token = || Options::default().basic("oauth2accesstoken", access);
    for (is_source, password) in [(true, key.clone()), (false, BASE64.encode(&key))] {
        let (own, open) = (filled(by_token()), filled(Options::default()));
        let (source, target) = if is_source {
            (&own, &open)
        } else {
            (&open, &own)
        };
        google.forget();
        let config = json!({
            "auth": {own.addr(): {"username": "_oauth2_", "password": password}},
            "images": {source.name("a:v1"): target.name("b"), source.name("a"): target.name("c")},
        });
        let run = copy(source, target)
            .config(config)
            .secret(pem.lines().nth(1).unwrap(), &[]);
        let output = run.run().expect(0);
        check_invariants(&[source, &google], &[target], &output);
        assert_in_sync(source, "a", target, "b", &["v1"]);
        // One, whatever is done with it.
        let methods = google.history().into_iter().map(|entry| entry.method);
        assert_eq!(methods.collect::<Vec<_>>(), ["POST"]);
    }
}
