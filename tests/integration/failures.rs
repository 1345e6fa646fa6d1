//! Failures that users of the original met and could not read (usage.md 6): each is told once for an image, with the
//! side, the registry, the repository, the login that was used, and what to do. Not here: rules and files that are
//! wrong (`cli`, `golden`, and the unit tests of `config`).

use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Bearer, End, FakeRegistry, Fault, Habit, Kind, Options};

fn hasty() -> Run {
    Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.01")
}

/// A registry with `team/app:v1`.
fn source(options: Options) -> FakeRegistry {
    let registry = FakeRegistry::start(options);
    registry.push("team/app", "v1", &Maker::new(6).oci(&[100, 200, 300]));
    registry
}

/// The one failure of a run, without the time.
#[track_caller]
fn failure(output: &Output) -> String {
    let mut failures = output
        .stderr
        .lines()
        .filter_map(|line| line.split_once("ERROR failed: "));
    let (_, failure) = failures
        .next()
        .unwrap_or_else(|| panic!("no failure:\n{}", output.stderr));
    assert_eq!(failures.next(), None, "told twice");
    failure.to_string()
}

/// Runs what must fail as a whole, and gives the one failure that it tells.
#[track_caller]
fn fails(run: &Run, source: &FakeRegistry, target: &FakeRegistry) -> String {
    let output = run.run().expect(1);
    check_invariants(&[source], &[target], &output);
    failure(&output)
}

#[track_caller]
fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// A run of the one image.
fn copy(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    hasty().rule(&source.name("team/app:v1"), target.name("m/app"))
}

/// A run of all tags.
fn copy_all(source: &FakeRegistry, target: &FakeRegistry) -> Run {
    hasty().rule(&source.name("team/app"), target.name("m/app"))
}

/// An answer of the registry's own words.
fn refusal(status: u16, code: &str, message: &str) -> Act {
    let body = json!({"errors": [{"code": code, "message": message}]});
    Act::Status(status, vec![], body.to_string().into())
}

fn refuses() -> Act {
    refusal(403, "DENIED", "quota exceeded")
}

const PASSWORD: &str = "the-right-password";

#[test]
fn a_wrong_password_is_told_with_the_entry_that_holds_it() {
    for options in [
        Options::default().basic("me", PASSWORD),
        Options::default().bearer(Bearer::for_user("me", PASSWORD)),
    ] {
        let (source, target) = (source(Options::default()), FakeRegistry::start(options));
        let run = copy(&source, &target).auth(&target, "me", "a-wrong-password");
        let text = fails(&run, &source, &target);
        let key = format!("signed in by auth key {:?}; check its ", target.addr());
        assert_words(
            &text,
            &[&source.name("team/app:v1"), &target.name("m/app:v1"), &key],
        );
    }
}

#[test]
fn a_target_that_refuses_one_blob_for_good_is_sent_no_other_of_the_image() {
    // Three layers and a config.
    let (source, target) = (source(Options::default()), FakeRegistry::new());
    target.fault(Fault::on(Kind::UploadPost, refuses()));
    let run = copy(&source, &target).arg("--proc=1");
    fails(&run, &source, &target);
    // One with a mount, and without it since that may have been what was refused.
    assert_eq!(
        (target.count(Kind::UploadPost), source.count(Kind::BlobGet)),
        (2, 0)
    );
}

#[test]
fn of_an_index_that_cannot_arrive_nothing_more_is_begun() {
    let mut maker = Maker::new(6);
    let platforms = ["linux/amd64", "linux/arm64", "linux/s390x"];
    let (index, old) = (maker.index(&platforms, 100), maker.oci(&[10]));
    let read = |child: usize| Some(index.children[child].digest.as_str());
    // (whether the repository is there, which child cannot be read, requests for children, uploads begun): else it is
    // the first upload that is refused, with a mount and without. In a new repository children are not asked for, and
    // all are read before their blobs; in another one each is read as soon as it is known to be lacking.
    for (is_there, unreadable, at_children, uploads) in [
        (false, None, 3, 2),
        (false, read(0), 1, 0),
        (true, read(1), 4, 0),
    ] {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        source.push("team/app", "v1", &index);
        if is_there {
            target.push("m/app", "old", &old);
        }
        match unreadable {
            Some(child) => source.fault(Fault::on(Kind::ManifestGet, refuses()).of(child)),
            None => target.fault(Fault::on(Kind::UploadPost, refuses())),
        }
        fails(&copy(&source, &target).arg("--proc=1"), &source, &target);
        let asked = source.history().into_iter().chain(target.history());
        let is_child = |name: &str| index.children.iter().any(|child| child.digest == name);
        let asked = asked.filter(|entry| is_child(&entry.reference)).count();
        let begun = (
            asked,
            target.count(Kind::UploadPost),
            source.count(Kind::BlobGet),
        );
        assert_eq!(begun, (at_children, uploads, 0), "{unreadable:?}");
    }
}

#[test]
fn a_registry_that_wants_a_login_says_that_none_was_used() {
    let guarded = || Options::default().bearer(Bearer::for_user("me", PASSWORD));
    // At the target, at the source, and at a list of tags.
    let (from, to) = (source(Options::default()), FakeRegistry::start(guarded()));
    let text = fails(&copy(&from, &to), &from, &to);
    assert_words(&text, &[&to.name("m/app:v1"), NO_LOGIN]);
    let (from, to) = (source(guarded()), FakeRegistry::new());
    for run in [copy(&from, &to), copy_all(&from, &to)] {
        let text = fails(&run, &from, &to);
        assert_words(
            &text,
            &["401 Unauthorized", &from.name("team/app"), NO_LOGIN],
        );
    }
    // An entry of another path is no login, and is known not to fit from the start.
    let auth = json!({from.name("other"): {"username": "me", "password": PASSWORD}});
    let images = json!({from.name("team/app:v1"): to.name("m/app")});
    let run = hasty().config(json!({"auth": auth, "images": images}));
    let output = run.run().expect(1);
    check_invariants(&[&from], &[&to], &output);
    assert_words(&failure(&output), &[NO_LOGIN]);
    let warning = output
        .stderr
        .lines()
        .find(|line| line.contains(" WARN ") && line.contains("other"));
    assert!(warning.is_some(), "{}", output.stderr);
}

const NO_LOGIN: &str = "no `auth` entry fits; add one";

#[test]
fn a_right_that_is_missing_is_told_with_the_login_and_the_doubt_about_the_project() {
    let mut bearer = Bearer::for_user("me", PASSWORD);
    bearer.denied = vec![("m/app".into(), "push".into())];
    let target = FakeRegistry::start(Options::default().bearer(bearer));
    let source = source(Options::default());
    let text = fails(
        &copy(&source, &target).auth(&target, "me", PASSWORD),
        &source,
        &target,
    );
    let key = format!("no permission; signed in by auth key {:?}", target.addr());
    assert_words(
        &text,
        &[
            &target.name("m/app"),
            &key,
            "the repository and its project exist",
        ],
    );
    // Harbor's answer where there is no such project.
    let target = FakeRegistry::new();
    target.fault(Fault::on(
        Kind::UploadPost,
        refusal(404, "NAME_UNKNOWN", "project m not found"),
    ));
    let text = fails(&copy(&source, &target), &source, &target);
    assert_words(
        &text,
        &["project m not found", "may have to be created first"],
    );
}

#[test]
fn a_password_of_any_characters_is_sent_as_it_is_written() {
    let password = r#"p$HOME$$"\é %41+/="#;
    for options in [
        Options::default().basic("robot$ci", password),
        Options::default().bearer(Bearer::for_user("robot$ci", password)),
    ] {
        let (source, target) = (source(options), FakeRegistry::new());
        let run = copy(&source, &target).auth(&source, "robot$ci", password);
        let output = run.run().expect(0);
        check_invariants(&[&source], &[&target], &output);
        assert_in_sync(&source, "team/app", &target, "m/app", &["v1"]);
    }
}

#[test]
fn a_pull_limit_of_hours_is_told_and_ends_the_run_at_once() {
    let (source, target) = (source(Options::default()), FakeRegistry::new());
    source.push("team/app", "v2", &Maker::new(9).oci(&[10]));
    let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "your pull rate limit"}]});
    let wait = vec![("Retry-After", "3600".to_string())];
    let limit = Act::Status(429, wait, body.to_string().into());
    source.fault(Fault::on(Kind::ManifestGet, limit));
    let run = copy_all(&source, &target).args(["--proc", "1"]);
    let output = run.run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((0, 2)));
    assert_words(
        &output.stderr,
        &["your pull rate limit", "it asks for a pause of 3600 s"],
    );
    // Not again in the passes that follow: the hour is not over.
    assert_eq!(source.count(Kind::ManifestGet), 1);
}

#[test]
fn tags_that_cannot_be_listed_have_one_text_for_each_cause() {
    let page = |status| {
        let head = vec![("Content-Type", "text/html".to_string())];
        Act::Status(status, head, b"<html>Please log in</html>".to_vec())
    };
    for (act, words) in [
        (Act::status(403), NO_LOGIN),
        (page(200), "a web page in place of data"),
        (
            Act::status(404),
            "there is no such repository, or no permission to see it",
        ),
    ] {
        let (source, target) = (source(Options::default()), FakeRegistry::new());
        source.fault(Fault::on(Kind::TagsList, act));
        let text = fails(&copy_all(&source, &target), &source, &target);
        assert_words(
            &text,
            &["image-syncer.json:1:", &source.name("team/app"), words],
        );
    }
}

#[test]
fn a_registry_of_plain_http_is_told_from_one_that_is_not_there() {
    // No loopback name, so that http has to be asked for.
    let (from, target) = (
        source(Options::default().at("0.0.0.0")),
        FakeRegistry::new(),
    );
    let text = fails(&copy(&from, &target), &from, &target);
    assert_words(
        &text,
        &[from.addr(), "does not speak https", "`insecure: true`"],
    );
    let auth = json!({from.addr(): {"insecure": true}});
    let images = json!({from.name("team/app:v1"): target.name("m/app")});
    let output = hasty()
        .config(json!({"auth": auth, "images": images}))
        .run()
        .expect(0);
    check_invariants(&[&from], &[&target], &output);

    let source = source(Options::default());
    let gone = FakeRegistry::new();
    let run = copy(&source, &gone);
    let address = gone.addr().to_string();
    drop(gone);
    let output = run.run().expect(1);
    assert_words(&failure(&output), &[&address, "Connection refused"]);
}

#[test]
fn a_manifest_that_the_target_does_not_take_is_told_in_its_words() {
    let takes_all = Options::default().habit(Habit::DISTRIBUTION_2_SCHEMA1);
    let (source, target) = (source(Options::default()), FakeRegistry::start(takes_all));
    let index = Maker::new(7).index(&["linux/amd64", "unknown/unknown"], 10);
    let old = Image::schema1_signed("team/app", "v1", &[Maker::new(3).docker_layer(50)]);
    for (image, code, words) in [
        (&index, "MANIFEST_INVALID", "fail to parse 'manifest.json'"),
        (
            &old,
            "MANIFEST_INVALID",
            "the target does not take manifests of schema 1",
        ),
    ] {
        source.push("team/app", "v1", image);
        target.clear_faults();
        let refuses = refusal(400, code, "fail to parse 'manifest.json'");
        target.fault(Fault::on(Kind::ManifestPut, refuses).of("v1"));
        let text = fails(&copy(&source, &target), &source, &target);
        assert_words(&text, &[&target.name("m/app:v1"), code, words]);
    }
    // Where the target takes schema 1, it is copied as it is.
    target.clear_faults();
    let output = copy(&source, &target).run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    assert_in_sync(&source, "team/app", &target, "m/app", &["v1"]);
}

#[test]
fn a_layer_that_cannot_be_had_or_sent_ends_in_words_and_holds_nobody_up() {
    for (at_target, kind, act, words) in [
        (false, Kind::BlobGet, Act::status(502), "502 Bad Gateway"),
        (
            false,
            Kind::BlobGet,
            Act::CutBody(50, End::Fin),
            "/blobs/sha256:",
        ),
        (
            true,
            Kind::UploadPut,
            Act::status(413),
            "limits the size of a request",
        ),
    ] {
        let (source, target) = (source(Options::default()), FakeRegistry::new());
        let other = Maker::new(8).oci(&[90]);
        source.push("team/other", "v1", &other);
        let registry = if at_target { &target } else { &source };
        let repository = if at_target { "m/app" } else { "team/app" };
        registry.fault(Fault::on(kind, act).in_repository(repository));
        let run = copy(&source, &target).rule(&source.name("team/other"), target.name("m/other"));
        let text = fails(&run, &source, &target);
        assert_words(
            &text,
            &[&source.name("team/app:v1"), &target.name("m/app:v1"), words],
        );
        assert_in_sync(&source, "team/other", &target, "m/other", &["v1"]);
    }
}
