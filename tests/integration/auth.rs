//! Signing in: passwords and tokens, which entry is used for what, and tokens that die at any moment of a run. All runs
//! log at the finest level. Not here: who else may see a login (`security`), the choice of entries in all its cases and
//! the parsing of challenges (unit tests).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{
    Act, Bearer, End, Entry, FakeRegistry, Fault, Habit, Kind, Login, Nth, Options,
};

/// A password that no other registry has, with characters that are written in many ways.
fn password() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    format!("canary/pass word+{number}")
}

/// A run with short waits that logs all there is to log.
fn chatty() -> Run {
    Run::new()
        .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
        .args(["--log-level", "trace"])
}

fn closed(bearer: Bearer) -> FakeRegistry {
    FakeRegistry::start(Options::default().bearer(bearer))
}

fn for_ada() -> Bearer {
    Bearer::for_user("ada", &password())
}

/// Two images that share a layer, as `a:v1` and `a:v2`.
fn fill(source: &FakeRegistry) {
    let mut maker = Maker::new(1);
    let shared = maker.layer(90);
    for tag in ["v1", "v2"] {
        let config = maker.config("linux/amd64");
        let layers = [shared.clone(), maker.layer(60)];
        source.push("a", tag, &Image::oci(&config, &layers));
    }
}

/// Copies `a` of the source to `b` of the target, with the login of those that have one.
fn copy(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    let mut run = chatty().rule(&source.name("a"), target.name("b"));
    for registry in [source, target] {
        if let Some(Login { user, password }) = registry.login() {
            run = run.auth(registry, &user, &password);
        }
    }
    run
}

#[track_caller]
fn assert_copies(source: &FakeRegistry, target: &FakeRegistry) -> Output {
    let output = copy(source, target).run().expect(0);
    check_invariants(&[source], &[target], &output);
    assert_in_sync(source, "a", target, "b", &["v1", "v2"]);
    output
}

/// The requests that showed a password.
fn with_password(registry: &FakeRegistry) -> Vec<Entry> {
    let history = registry.history().into_iter();
    let shows = |entry: &Entry| {
        let shown = entry.authorization.as_deref().unwrap_or_default();
        shown.starts_with("Basic ")
    };
    history.filter(shows).collect()
}

#[track_caller]
fn assert_says(output: &Output, words: &[&str]) {
    for word in words {
        assert!(
            output.stderr.contains(word),
            "no {word:?}: {}",
            output.stderr
        );
    }
}

#[test]
fn every_way_to_sign_in_works_on_either_side() {
    let tokens = FakeRegistry::start(Options::default().bearer(for_ada()));
    let ways = [
        Options::default(),
        Options::default().basic("ada", &password()),
        Options::default().bearer(for_ada()),
        Options::default().bearer_of(&tokens),
        Options::default().bearer(for_ada()).habit(Habit::GITEA),
        Options::default()
            .bearer(for_ada())
            .habit(Habit::DISTRIBUTION_2),
    ];
    for way in &ways {
        for is_source in [true, false] {
            let registry = FakeRegistry::start(way.clone());
            let open = FakeRegistry::new();
            let (source, target) = if is_source {
                (&registry, &open)
            } else {
                (&open, &registry)
            };
            fill(source);
            let output = copy(source, target).run().expect(0);
            check_invariants(&[source, &tokens], &[target], &output);
            assert_in_sync(source, "a", target, "b", &["v1", "v2"]);
        }
    }
    assert!(tokens.count(Kind::Token) > 0);
}

#[test]
fn a_public_image_needs_no_login() {
    let source = closed(Bearer::anonymous());
    let target = FakeRegistry::new();
    fill(&source);
    assert_copies(&source, &target);
    assert_eq!(source.count(Kind::Token), 1);
}

#[test]
fn without_a_login_the_text_says_that_no_entry_fits() {
    for options in [
        Options::default().basic("ada", &password()),
        Options::default().bearer(for_ada()),
    ] {
        let source = FakeRegistry::start(options);
        let target = FakeRegistry::new();
        fill(&source);
        let output = chatty()
            .rule(&source.name("a:v1"), target.name("b"))
            .run()
            .expect(1);
        check_invariants(&[&source], &[&target], &output);
        assert_eq!(output.finished(), Some((0, 1)));
        assert_says(&output, &["no `auth` entry fits"]);
    }
}

#[test]
fn a_refusal_after_signing_in_names_the_entry_that_was_used() {
    let (source, target) = (closed(for_ada()), FakeRegistry::new());
    fill(&source);
    source.fault(Fault::on(Kind::ManifestGet, Act::status(403)));
    let output = copy(&source, &target).run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((0, 2)));
    assert_says(&output, &["no permission", &format!("{:?}", source.addr())]);
    assert_eq!(source.count(Kind::ManifestGet), 2, "403 is final");
}

#[test]
fn a_token_without_the_right_to_push_is_no_permission() {
    let bearer = Bearer {
        denied: vec![("b".to_string(), "push".to_string())],
        ..for_ada()
    };
    let (source, target) = (FakeRegistry::new(), closed(bearer));
    fill(&source);
    let output = copy(&source, &target).run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((2, 0)));
    assert_says(&output, &["no permission", target.addr()]);
    assert_eq!(
        target.count(Kind::ManifestPut) + target.count(Kind::UploadPut),
        0
    );
}

#[test]
fn of_several_entries_the_longest_that_fits_is_used() {
    let target = FakeRegistry::start(Options::default().basic("ada", &password()));
    let source = FakeRegistry::new();
    fill(&source);
    let entry = |user: &str, password: &str| json!({"username": user, "password": password, "insecure": true});
    let ada = target.login().unwrap();
    let (right, wrong) = (
        entry(&ada.user, &ada.password),
        entry("bob", "canary-of-bob"),
    );
    let config = json!({
        "auth": {
            target.addr(): &wrong,
            target.name("team"): &right,
            target.name("team/sub"): &wrong,
            target.name("tea"): &wrong,
        },
        "images": {
            source.name("a:v1"): [
                target.name("team/app"),
                target.name("team/submarine/app"),
                target.name("team/sub/app"),
                target.name("teams/app"),
            ],
        },
    });
    let run = chatty().config(config).secret("canary-of-bob", &[&target]);
    let output = run.run().expect(1);
    // One password for two entries of a registry is refused three times at most.
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((2, 0)));
    let tagged: Vec<String> = target.with_state(|state| {
        let all = state.repositories.iter();
        all.filter(|(_, found)| !found.tags.is_empty())
            .map(|(name, _)| name.clone())
            .collect()
    });
    assert_eq!(tagged, ["team/app", "team/submarine/app"]);
    for entry in with_password(&target) {
        let is_ada = entry.authorization == Some(ada.basic());
        let is_adas = tagged.contains(&entry.repository);
        assert_eq!(is_ada, is_adas, "{} {}", entry.method, entry.target);
    }
    assert_says(&output, &[&target.name("team/sub")]);
}

#[test]
fn dockers_own_logins_are_used_where_the_file_has_none() {
    let registry = || FakeRegistry::start(Options::default().basic("ada", &password()));
    let (source, target) = (registry(), registry());
    fill(&source);
    let login = |password: &str| json!({"auth": BASE64.encode(format!("ada:{password}"))});
    let password = |registry: &FakeRegistry| registry.login().unwrap().password;
    let docker = json!({"auths": {
        source.addr(): login(&password(&source)),
        // The entry of the config file wins.
        target.addr(): login("canary-old"),
    }});
    let run = chatty().file("config.json", docker.to_string());
    let folder = run.path("");
    let run = run
        .env("DOCKER_CONFIG", folder)
        .secret("canary-old", &[])
        .rule(&source.name("a"), target.name("b"))
        .auth(&target, "ada", &password(&target));
    let output = run.run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    assert_in_sync(&source, "a", &target, "b", &["v1", "v2"]);
}

#[test]
fn a_wrong_password_is_shown_three_times_at_most_for_any_number_of_images() {
    for options in [
        Options::default().basic("ada", &password()),
        Options::default().bearer(for_ada()),
    ] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::start(options));
        let image = Maker::new(2).oci(&[20]);
        for number in 0..200 {
            source.push("a", &format!("v{number}"), &image);
        }
        let run = chatty()
            .rule(&source.name("a"), target.name("b"))
            .auth(&target, "ada", "canary-wrong")
            .secret("canary-wrong", &[&target])
            .args(["--proc", "64"]);
        let output = run.run().expect(1);
        check_invariants(&[&source], &[&target], &output);
        assert_eq!(output.finished(), Some((200, 0)));
        let shown = with_password(&target);
        assert!((1..=3).contains(&shown.len()), "{} times", shown.len());
        assert!(target.tags("b").is_empty());
        // All fail for one reason.
        let causes: BTreeSet<&str> = output
            .stderr
            .lines()
            .filter_map(|line| line.split_once("failed: "))
            .filter_map(|(_, text)| text.split_once("refused the password before"))
            .map(|(_, cause)| cause)
            .collect();
        assert_eq!(causes.len(), 1, "{causes:?}");
    }
}

#[test]
fn a_password_that_was_right_is_shown_to_three_refusals_of_a_repository() {
    // Each request wants a new token.
    let bearer = Bearer {
        requests: Some(1),
        ..for_ada()
    };
    let basic = Options::default().basic("ada", &password());
    let refused = |kind| Fault::on(kind, Act::status(401));
    for (options, fault) in [
        (
            Options::default().bearer(bearer),
            refused(Kind::Token).nth(Nth::Every(2)),
        ),
        (basic, refused(Kind::ManifestPut).in_repository("b")),
    ] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::start(options));
        let mut maker = Maker::new(6);
        for number in 0..12 {
            source.push("a", &format!("v{number}"), &maker.oci(&[20]));
        }
        target.fault(fault);
        let output = copy(&source, &target)
            .args(["--proc=1", "--retries=1"])
            .run()
            .expect(1);
        let refusals = with_password(&target).into_iter();
        let refusals = refusals.filter(|entry| entry.status == 401).count();
        assert_eq!(refusals, 3, "{}", output.stderr);
        assert_says(&output, &["refused the password before", target.addr()]);
    }
}

#[test]
fn tokens_may_die_after_any_number_of_requests() {
    let registries = |requests| {
        let bearer = || Bearer {
            requests,
            ..for_ada()
        };
        let (source, target) = (closed(bearer()), closed(bearer()));
        fill(&source);
        (source, target)
    };
    let (source, target) = registries(None);
    assert_copies(&source, &target);
    let all = source.total().max(target.total());
    assert!(all > 10, "the run is too small to tell anything");
    // One is enough, but for workers who take each other's tokens.
    for (proc, least) in [("1", 1), ("5", 6)] {
        for requests in least..=all {
            let (source, target) = registries(u32::try_from(requests).ok());
            let output = copy(&source, &target)
                .args(["--proc", proc])
                .run()
                .expect(0);
            check_invariants(&[&source], &[&target], &output);
            assert_in_sync(&source, "a", &target, "b", &["v1", "v2"]);
            for registry in [&source, &target] {
                // One for each so many requests, and the first ones of the two scopes.
                let most = registry.total().div_ceil(requests) + 2;
                assert!(proc != "1" || registry.count(Kind::Token) <= most);
            }
        }
    }
}

#[test]
fn a_token_may_die_before_any_request_of_a_kind() {
    let kinds = [
        // The first request of a repository: its token has never been good for anything.
        (Kind::TagsList, true),
        (Kind::ManifestGet, true),
        (Kind::BlobGet, true),
        (Kind::TagsList, false),
        (Kind::UploadPost, false),
        (Kind::UploadPut, false),
        (Kind::ManifestPut, false),
    ];
    for (kind, is_source) in kinds {
        let (source, target) = (closed(for_ada()), closed(for_ada()));
        fill(&source);
        let registry = if is_source { &source } else { &target };
        registry.fault(Fault::on(kind, Act::ExpireTokens).nth(Nth::Only(1)));
        assert_copies(&source, &target);
        assert_eq!(registry.faults_acted(), 1, "{kind:?}");
    }
}

#[test]
fn a_token_that_dies_during_a_large_upload_costs_no_second_sending() {
    for (kind, times_sent) in [(Kind::UploadPatch, 2), (Kind::UploadPut, 1)] {
        let (source, target) = (FakeRegistry::new(), closed(for_ada()));
        let image = Maker::new(3).oci(&[(16 << 20) + 1]);
        source.push("a", "v1", &image);
        let layer = &image.blobs[1];
        // The small blob is put first or last: only the large one's requests are met.
        let fault = Fault::on(kind, Act::ExpireTokens).nth(Nth::Only(1));
        target.fault(match kind {
            Kind::UploadPut => fault.of(&layer.digest),
            _ => fault,
        });
        let output = copy(&source, &target).run().expect(0);
        check_invariants(&[&source], &[&target], &output);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
        let history = target.history();
        let sent = history
            .iter()
            .filter(|entry| entry.kind == Kind::UploadPatch)
            .count();
        assert_eq!(sent, times_sent, "{kind:?}");
    }
}

#[test]
fn an_upload_whose_login_is_renewed_goes_on_in_its_session() {
    for (kind, size) in [(Kind::UploadPut, 60), (Kind::UploadPatch, (16 << 20) + 1)] {
        let (source, target) = (FakeRegistry::new(), closed(for_ada()));
        source.push("a", "v1", &Maker::new(3).oci(&[size]));
        target.fault(Fault::on(kind, Act::ExpireTokens).nth(Nth::Only(1)));
        let output = copy(&source, &target).run().expect(0);
        check_invariants(&[&source], &[&target], &output);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
        let requests = [Kind::UploadPost, Kind::UploadGet].map(|kind| target.count(kind));
        assert_eq!(requests, [2, 0], "{kind:?}");
    }
}

#[test]
fn one_refresh_serves_all_workers() {
    let run = |expires: bool| {
        let (source, target) = (FakeRegistry::new(), closed(for_ada()));
        let mut maker = Maker::new(4);
        for number in 0..60 {
            source.push("a", &format!("v{number}"), &maker.oci(&[30]));
        }
        if expires {
            target.fault(Fault::on(Kind::UploadPut, Act::ExpireTokens).nth(Nth::Only(40)));
        }
        let output = copy(&source, &target)
            .args(["--proc", "64"])
            .run()
            .expect(0);
        check_invariants(&[&source], &[&target], &output);
        assert_eq!(target.tags("b").len(), 60);
        target.count(Kind::Token)
    };
    assert_eq!(run(true), run(false) + 1);
}

/// One backend of many, say, that was set up wrongly.
#[test]
fn one_challenge_that_names_a_wrong_token_service_is_not_kept() {
    let elsewhere = FakeRegistry::new();
    let nowhere = "http://127.0.0.1:1/token".to_owned();
    let wrong = format!("http://{}/token", elsewhere.addr());
    for (realm, lost) in [(nowhere, 0), (wrong, 1)] {
        for options in [Options::default(), Options::default().bearer(for_ada())] {
            let (source, target) = (FakeRegistry::new(), FakeRegistry::start(options));
            let mut maker = Maker::new(5);
            for number in 0..15 {
                source.push("a", &format!("v{number}"), &maker.oci(&[20]));
            }
            let challenge = ("WWW-Authenticate", format!("Bearer realm=\"{realm}\""));
            let act = Act::Status(401, vec![challenge], Vec::new());
            target.fault(Fault::on(Kind::ManifestPut, act).nth(Nth::Only(2)));
            let output = copy(&source, &target)
                .args(["--proc=1", "--retries=0"])
                .run();
            check_invariants(&[&source], &[&target], &output);
            assert_eq!(output.finished(), Some((lost, 0)), "{realm}");
            assert_eq!(target.faults_acted(), 1);
        }
    }
}

#[test]
fn what_a_token_says_of_its_life_is_no_reason_to_fail() {
    for expires_in in [0, -1, 1, 59, i64::MAX, i64::MIN] {
        let bearer = || Bearer {
            expires_in,
            ..for_ada()
        };
        let (source, target) = (closed(bearer()), closed(bearer()));
        fill(&source);
        assert_copies(&source, &target);
        // The specification's least is a minute: no new one for each request.
        assert!(target.count(Kind::Token) <= 2, "{expires_in}");
    }
}

#[test]
fn a_token_service_that_stumbles_is_asked_again_and_one_that_gives_none_is_reported() {
    let answer = |body: &str| Act::Status(200, Vec::new(), body.as_bytes().to_vec());
    let table = [
        (Act::status(500), true),
        (Act::status(503), true),
        (Act::throttle(0), true),
        (Act::CutBefore(End::Reset), true),
        (answer(""), false),
        (answer("<html>sign in</html>"), false),
        (answer("{\"expires_in\": 300}"), false),
        (answer("{\"token\": \"a\\r\\nb\"}"), false),
        (
            answer(&format!("{{\"token\": \"{}\"}}", "x".repeat(65 << 10))),
            false,
        ),
    ];
    for (number, (act, heals)) in table.into_iter().enumerate() {
        let (source, target) = (FakeRegistry::new(), closed(for_ada()));
        fill(&source);
        let nth = if heals { Nth::Only(1) } else { Nth::Always };
        target.fault(Fault::on(Kind::Token, act).nth(nth));
        if heals {
            assert_copies(&source, &target);
        } else {
            let output = copy(&source, &target).run().expect(1);
            check_invariants(&[&source], &[&target], &output);
            assert_eq!(output.finished(), Some((2, 0)), "row {number}");
            assert_says(&output, &["/token: "]);
        }
    }
}

#[test]
fn a_question_that_a_target_does_not_answer_is_no_reason_not_to_copy() {
    for status in [400, 401, 403, 405, 500] {
        let (source, target) = (FakeRegistry::new(), closed(for_ada()));
        fill(&source);
        for kind in [Kind::ManifestHead, Kind::BlobHead] {
            target.fault(Fault::on(kind, Act::status(status)));
        }
        let run = copy(&source, &target).rule(&source.name("a:v1"), target.name("c:x"));
        let output = run.run().expect(0);
        check_invariants(&[&source], &[&target], &output);
        assert_in_sync(&source, "a", &target, "b", &["v1", "v2"]);
        assert!(target.faults_acted() > 0, "{status}");
    }
}
