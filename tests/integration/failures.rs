//! Failures that users of the original met and could not read (usage.md 6): each is told once for an image, with the
//! side, the registry, the repository, the login that was used, and what to do. Not here: rules and files that are
//! wrong (`cli`, `golden`, and the unit tests of `config`).

use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Bearer, FakeRegistry, Fault, Habit, Kind, Options};

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
    let (_, failure) = failures.next().unwrap_or_else(|| panic!("no failure:\n{}", output.stderr));
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

#[test]
fn dump() {
    let plain = || source(Options::default());
    let to = |s: &FakeRegistry, t: &FakeRegistry| hasty().rule(&s.name("team/app:v1"), t.name("m/app"));
    {
        let (s, t) = (plain(), FakeRegistry::start(Options::default().basic("me", "right-password")));
        eprintln!("A {}", fails(&to(&s, &t).auth(&t, "me", "wrong-password"), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::start(Options::default().basic("me", "right-password")));
        eprintln!("B {}", fails(&to(&s, &t), &s, &t));
    }
    {
        let mut b = Bearer::for_user("me", "right-password");
        b.denied = vec![("m/app".into(), "push".into())];
        let (s, t) = (plain(), FakeRegistry::start(Options::default().bearer(b)));
        eprintln!("C {}", fails(&to(&s, &t).auth(&t, "me", "right-password"), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::start(Options::default().bearer(Bearer::for_user("me", "right-password"))));
        eprintln!("D {}", fails(&to(&s, &t).auth(&t, "me", "wrong-password"), &s, &t));
    }
    {
        let (s, t) = (source(Options::default().bearer(Bearer::for_user("me", "right-password"))), FakeRegistry::new());
        eprintln!("E {}", fails(&to(&s, &t), &s, &t));
        eprintln!("E2 {}", fails(&hasty().rule(&s.name("team/app"), t.name("m/app")), &s, &t));
        let other = json!({"auth": {s.name("other"): {"username": "me", "password": "right-password"}}, "images": {s.name("team/app:v1"): t.name("m/app")}});
        eprintln!("E3 {}", fails(&hasty().config(other), &s, &t));
    }
    for (name, kind) in [("F", Kind::Other), ("G", Kind::Ping)][..0].iter().copied() {
        let (s, t) = (plain(), FakeRegistry::new());
        s.fault(Fault::on(kind, Act::throttle(100)));
        eprintln!("{name} {}", fails(&hasty().rule(&s.name("team/app"), t.name("m/app")), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}"#;
        s.fault(Fault::on(Kind::ManifestGet, Act::Status(429, vec![], body.to_vec())));
        eprintln!("H {}", fails(&to(&s, &t), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        s.push("team/app", "v1", &Maker::new(7).index(&["linux/amd64", "unknown/unknown"], 10));
        let body = br#"{"errors":[{"code":"MANIFEST_INVALID","message":"manifest invalid","detail":"fail to parse 'manifest.json'"}]}"#;
        t.fault(Fault::on(Kind::ManifestPut, Act::Status(400, vec![], body.to_vec())).of("v1"));
        eprintln!("I {}", fails(&to(&s, &t), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        let page = b"<html>Please log in</html>".to_vec();
        s.fault(Fault::on(Kind::TagsList, Act::Status(200, vec![("Content-Type", "text/html".into())], page.clone())));
        eprintln!("J {}", fails(&hasty().rule(&s.name("team/app"), t.name("m/app")), &s, &t));
        s.clear_faults();
        s.fault(Fault::on(Kind::TagsList, Act::status(403)));
        eprintln!("K {}", fails(&hasty().rule(&s.name("team/app"), t.name("m/app")), &s, &t));
        eprintln!("L {}", fails(&hasty().rule(&s.name("team/none"), t.name("m/app")), &s, &t));
        s.clear_faults();
        s.fault(Fault::on(Kind::TagsList, Act::Status(404, vec![("Content-Type", "text/html".into())], page)));
        eprintln!("M {}", fails(&hasty().rule(&s.name("team/app"), t.name("m/app")), &s, &t));
    }
    {
        let (s, t) = (source(Options::default().at("0.0.0.0")), FakeRegistry::new());
        eprintln!("N {}", fails(&to(&s, &t), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        let name = t.name("m/app");
        drop(t);
        let output = hasty().rule(&s.name("team/app:v1"), name).run().expect(1);
        eprintln!("O {}", failure(&output));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        s.push("team/app", "v1", &Image::schema1_signed("team/app", "v1", &[Maker::new(3).docker_layer(50)]));
        t.fault(Fault::on(Kind::ManifestPut, Act::Status(400, vec![], br#"{"errors":[{"code":"MANIFEST_INVALID","message":"schema 1 not supported"}]}"#.to_vec())));
        eprintln!("P {}", fails(&to(&s, &t), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        t.fault(Fault::on(Kind::UploadPost, Act::Status(404, vec![], br#"{"errors":[{"code":"NAME_UNKNOWN","message":"project m not found"}]}"#.to_vec())));
        eprintln!("Q {}", fails(&to(&s, &t), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        t.fault(Fault::on(Kind::UploadPut, Act::status(413)));
        eprintln!("R {}", fails(&to(&s, &t), &s, &t));
    }
    {
        let (s, t) = (plain(), FakeRegistry::new());
        s.fault(Fault::on(Kind::BlobGet, Act::status(502)));
        eprintln!("S {}", fails(&to(&s, &t), &s, &t));
    }
    let _ = (Habit::GGCR, assert_in_sync as usize, assert_words as usize);
}
