//! How much is asked of a host, and when: pauses that it asks for, quotas that it tells, limits that the user sets. Not
//! here: pauses that are too long, and passes (`retries`).

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Run, Running, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, FakeRegistry, Fault, Kind};

/// A registry with some images in `team/app`.
fn source(tags: &[&str]) -> FakeRegistry {
    source_of(40, tags)
}

/// One with images of its own.
fn source_of(seed: u64, tags: &[&str]) -> FakeRegistry {
    let registry = FakeRegistry::new();
    let mut maker = Maker::new(seed);
    for tag in tags {
        registry.push("team/app", tag, &maker.oci(&[100, 200]));
    }
    registry
}

/// A run of these rules, with an `auth` part.
fn run(auth: &Value, rules: &[(&FakeRegistry, &FakeRegistry, &str)]) -> Run {
    let images: serde_json::Map<String, Value> = rules
        .iter()
        .map(|(source, target, repository)| {
            let source = source.name("team/app:v1,v2");
            (source, target.name(repository).into())
        })
        .collect();
    Run::new()
        .config(json!({"auth": auth, "images": images}))
        .within(Duration::from_secs(9))
}

/// Waits until both images are in a repository, then ends a run that would go on for minutes.
#[track_caller]
fn end_when_synced(
    running: Running,
    source: &FakeRegistry,
    target: &FakeRegistry,
    at: &str,
) -> String {
    target.wait_until(|all| {
        let is_tag = |entry: &&crate::registry::Entry| {
            entry.kind == Kind::ManifestPut && entry.repository == at && entry.status == 201
        };
        all.iter().filter(is_tag).count() == 2
    });
    running.signal("TERM");
    let output = running.wait().expect(143);
    check_invariants(&[source], &[target], &output);
    assert_in_sync(source, "team/app", target, at, &["v1", "v2"]);
    output.stderr
}

#[test]
fn an_image_whose_host_pauses_holds_no_worker() {
    let used_up = [("RateLimit-Remaining", "0"), ("RateLimit-Reset", "500")];
    for (acts, words) in [
        (vec![Act::throttle(500)], "429 Too Many Requests"),
        (
            used_up
                .map(|(name, value)| Act::SetHeader(name, value.into()))
                .to_vec(),
            "0 requests are left of its quota",
        ),
    ] {
        let (paused, other) = (source(&["v1", "v2"]), source_of(41, &["v1", "v2"]));
        let target = FakeRegistry::new();
        for act in acts {
            paused.fault(Fault::on_any(act));
        }
        let rules = [(&paused, &target, "m/a"), (&other, &target, "m/b")];
        let running = run(&json!({}), &rules).arg("--proc=1").spawn();
        let log = end_when_synced(running, &other, &target, "m/b");
        assert_eq!(paused.total(), 1, "{log}");
        let told = format!("{} is left alone for 500.0 s: ", paused.addr());
        assert!(
            log.lines()
                .any(|line| line.contains(&told) && line.contains(words)),
            "{log}"
        );
    }
}

#[test]
fn a_quota_that_comes_back_in_hours_is_told_once_and_nothing_waits_for_it() {
    let (source, target) = (source(&["v1", "v2"]), FakeRegistry::new());
    let header = Act::SetHeader("ratelimit-remaining", "0;w=21600".into());
    source.fault(Fault::on_any(header));
    let output = run(&json!({}), &[(&source, &target, "m/app")])
        .run()
        .expect(0);
    check_invariants(&[&source], &[&target], &output);
    let words = "0 requests are left of its quota for the next 21600 s";
    let told = output.stderr.lines().filter(|line| line.contains(words));
    assert_eq!(told.count(), 1, "{}", output.stderr);
}

#[test]
fn no_registry_has_more_requests_at_once_than_the_user_lets_it_have() {
    let tags: Vec<String> = (1..=5).map(|number| format!("v{number}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    for (limit, concurrency, flag) in [(2, 9, "2"), (3, 3, "5"), (1, 1, "")] {
        let (source, target) = (source(&tags), FakeRegistry::new());
        for registry in [&source, &target] {
            let slow = Act::Delay(Duration::from_millis(5));
            registry.fault(Fault::on_any(slow));
        }
        let bound = json!({"concurrency": concurrency});
        let auth = json!({source.addr(): bound, target.addr(): bound});
        let images = json!({source.name("team/app"): target.name("m/app")});
        let output = Run::new()
            .config(json!({"auth": auth, "images": images}))
            .args(["--proc=8", &format!("--max-per-host={flag}")])
            .run()
            .expect(0);
        check_invariants(&[&source], &[&target], &output);
        for registry in [&source, &target] {
            // Idle connections are used again; one more asked whether TLS is spoken.
            let peak = registry.peak_connections();
            assert!(peak <= limit + 1, "{limit}: {peak}");
        }
    }
}

#[test]
fn without_a_limit_one_registry_has_as_many_requests_as_there_are_workers() {
    let tags = ["v1", "v2", "v3"];
    let (source, target) = (source(&tags), FakeRegistry::new());
    source.fault(Fault::on(Kind::BlobGet, Act::Stall));
    let images = json!({source.name("team/app"): target.name("m/app")});
    let running = Run::new()
        .config(json!({"images": images}))
        .arg("--proc=8")
        .spawn();
    source.wait_until(|all| {
        all.iter()
            .filter(|entry| entry.kind == Kind::BlobGet)
            .count()
            == 8
    });
    drop(running);
}

#[test]
fn a_narrow_registry_holds_up_nobody_and_ends_at_once_with_the_run() {
    let source = source(&["v1", "v2"]);
    let (narrow, other) = (FakeRegistry::new(), FakeRegistry::new());
    let auth = json!({narrow.addr(): {"bandwidth": 1}});
    let targets = [narrow.name("m/app"), other.name("m/app")];
    let images = json!({source.name("team/app:v1,v2"): targets});
    let running = Run::new()
        .config(json!({"auth": auth, "images": images}))
        .within(Duration::from_secs(9))
        .spawn();
    // It joins no group: what it gets is read once more.
    source.wait_until(|all| {
        let reads = all.iter().filter(|entry| entry.kind == Kind::BlobGet);
        let blobs: BTreeSet<_> = reads.clone().map(|entry| &entry.reference).collect();
        blobs.len() < reads.count()
    });
    end_when_synced(running, &source, &other, "m/app");
    assert_eq!(narrow.count(Kind::ManifestPut), 0);
}

#[test]
fn a_source_that_is_narrow_or_seldom_asked_holds_one_worker_and_ends_at_once_with_the_run() {
    for bound in [
        json!({"bandwidth": 1, "concurrency": 1}),
        json!({"requests_per_second": 0.001}),
    ] {
        let (slow, other) = (source(&["v1", "v2"]), source_of(41, &["v1", "v2"]));
        let target = FakeRegistry::new();
        let auth = json!({slow.addr(): bound});
        let rules = [(&slow, &target, "m/a"), (&other, &target, "m/b")];
        let running = run(&auth, &rules).arg("--proc=2").spawn();
        end_when_synced(running, &other, &target, "m/b");
        assert_eq!(target.tags("m/a"), [""; 0], "{bound}");
    }
}

#[test]
fn wide_limits_change_nothing() {
    let (source, target) = (source(&["v1", "v2"]), FakeRegistry::new());
    let wide = json!({"bandwidth": "1GiB", "requests_per_second": 100_000, "concurrency": 99});
    let auth = json!({source.addr(): wide, target.addr(): wide});
    let output = run(&auth, &[(&source, &target, "m/app")]).run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    assert_in_sync(&source, "team/app", &target, "m/app", &["v1", "v2"]);
}
