//! Attempts, passes, pauses and hosts that are down (decisions D7): how often something is tried, when, and what goes
//! on meanwhile. Waits are scaled down; what a registry asks for in Retry-After is not.

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Entry, FakeRegistry, Fault, Kind, Nth, Options};

/// A source with these tags, each an image of its own, and an empty target.
fn registries(tags: &[&str]) -> (FakeRegistry, FakeRegistry) {
    let source = FakeRegistry::new();
    let mut maker = Maker::new(50);
    for tag in tags {
        source.push("a", tag, &maker.oci(&[300]));
    }
    (
        source,
        FakeRegistry::start(Options::default().at("127.0.0.2")),
    )
}

/// A run whose own waits are a thousandth of the real ones.
fn fast() -> Run {
    Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.001")
}

/// Runs, and checks the exit status, the figures of the closing line, and all that must hold of any run.
#[track_caller]
fn run(run: &Run, source: &FakeRegistry, target: &FakeRegistry, figures: (usize, usize)) -> Output {
    let output = run.run().expect(i32::from(figures != (0, 0)));
    assert_eq!(output.finished(), Some(figures));
    check_invariants(&[source], &[target], &output);
    output
}

/// The requests on which a fault acted.
fn faults(registry: &FakeRegistry) -> Vec<Entry> {
    let history = registry.history().into_iter();
    history.filter(|entry| entry.has_fault).collect()
}

#[test]
fn a_task_has_five_attempts_in_a_pass() {
    // Which request fails for ever, whether at the source, under which rule, and the figures in the end.
    let table = [
        (Kind::TagsList, true, "", (0, 1)),
        (Kind::ManifestGet, true, ":v1", (0, 1)),
        (Kind::ManifestHead, false, ":v1", (1, 0)),
        (Kind::ManifestPut, false, ":v1", (1, 0)),
        (Kind::UploadPost, false, ":v1", (1, 0)),
    ];
    for (kind, at_source, tags, figures) in table {
        for (retries, passes) in [("-1", 1), ("0", 1), ("1", 2), ("2", 3)] {
            let (source, target) = registries(&["v1"]);
            let rule = fast().rule(&format!("{}{tags}", source.name("a")), target.name("b"));
            let broken = if at_source { &source } else { &target };
            broken.fault(Fault::on(kind, Act::status(502)));
            let retrying = rule.arg(format!("--retries={retries}"));
            run(&retrying, &source, &target, figures);
            // Of the two blobs each has attempts of its own.
            let tasks = if kind == Kind::UploadPost { 2 } else { 1 };
            let count = faults(broken).len();
            assert_eq!(count, 5 * passes * tasks, "{kind:?}, --retries {retries}");
        }
    }
}

#[test]
fn the_trouble_of_a_host_is_told_once() {
    let tags: Vec<String> = (0..12).map(|number| format!("v{number}")).collect();
    let (source, target) = registries(&tags.iter().map(String::as_str).collect::<Vec<_>>());
    // With good answers between them, but never twenty.
    for nth in [1, 2, 5, 8] {
        target.fault(Fault::on(Kind::UploadPost, Act::status(502)).nth(Nth::Only(nth)));
    }
    let rule = fast().rule(&source.name("a"), target.name("b"));
    let said = run(&rule, &source, &target, (0, 0)).stderr;
    assert_eq!(said.matches(", will be tried again: ").count(), 4, "{said}");
    assert_eq!(said.matches(" WARN ").count(), 1, "{said}");
    assert!(
        said.contains(" answers again: 4 attempts had failed"),
        "{said}"
    );
}

#[test]
fn the_fifth_attempt_is_as_good_as_the_first() {
    for kind in [Kind::TagsList, Kind::ManifestGet] {
        let (source, target) = registries(&["v1"]);
        source.fault(Fault::on(kind, Act::status(503)).nth(Nth::UpTo(4)));
        let rule = fast().rule(&source.name("a"), target.name("b"));
        run(&rule.arg("--retries=0"), &source, &target, (0, 0));
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
    }
}

#[test]
fn the_first_request_of_a_run_may_fail() {
    for act in [Act::status(503), Act::CutHead(9), Act::throttle(0)] {
        let (source, target) = registries(&["v1"]);
        for registry in [&source, &target] {
            registry.fault(Fault::on_any(act.clone()).nth(Nth::Only(1)));
        }
        let rule = fast().rule(&source.name("a"), target.name("b"));
        run(&rule.arg("--retries=0"), &source, &target, (0, 0));
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
    }
}

#[test]
fn a_pass_begins_when_everything_ran_once() {
    let (source, target) = registries(&["v1"]);
    let image = Maker::new(51).oci(&[200]);
    source.push("other", "v1", &image);
    source.push("other", "v2", &image);
    // The tag list of one rule and the manifest of another fail through the first pass, the third is well.
    let first_pass = Nth::UpTo(5);
    let lists = Fault::on(Kind::TagsList, Act::status(500)).in_repository("a");
    source.fault(lists.nth(first_pass));
    let manifest = Fault::on(Kind::ManifestGet, Act::status(500)).in_repository("other");
    source.fault(manifest.of("v1").nth(first_pass));
    let rules = fast()
        .rule(&source.name("a"), target.name("b"))
        .rule(&format!("{}:v1", source.name("other")), target.name("c"))
        .rule(&format!("{}:v2", source.name("other")), target.name("c"));
    run(&rules, &source, &target, (0, 0));
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    assert_in_sync(&source, "other", &target, "c", &["v1", "v2"]);
    let healthy = target.history();
    let put = |e: &&Entry| e.kind == Kind::ManifestPut && e.reference == "v2";
    let healthy = healthy.iter().find(put).expect("v2 was not put").ended;
    for kind in [Kind::TagsList, Kind::ManifestGet] {
        let history = source.history();
        let again = |e: &&Entry| e.kind == kind && !e.has_fault && e.reference != "v2";
        let again = history.iter().find(again).expect("never tried again");
        assert!(again.began > healthy, "{kind:?} began before v2 was done");
    }
}

#[test]
fn what_is_permanent_is_tried_once_a_run() {
    let absent = Maker::new(52).layer(40);
    let lacking = Image::oci(
        &Maker::new(53).config("linux/amd64"),
        std::slice::from_ref(&absent),
    );
    let broken = Image::from_bytes(&lacking.media_type, b"{".to_vec());
    // What is at the source, what is refused there, what must be asked for once, and the figures.
    let table = [
        (None, None, Kind::ManifestGet, (0, 1)),
        (Some(&broken), None, Kind::ManifestGet, (0, 1)),
        (
            Some(&lacking),
            Some((Kind::ManifestGet, 403)),
            Kind::ManifestGet,
            (0, 1),
        ),
        (
            Some(&lacking),
            Some((Kind::BlobGet, 403)),
            Kind::BlobGet,
            (1, 0),
        ),
    ];
    for (image, refusal, kind, figures) in table {
        let (source, target) = registries(&["other"]);
        if let Some(image) = image {
            source.push("a", "v1", image);
        }
        if let Some((kind, status)) = refusal {
            let refused = Fault::on(kind, Act::status(status));
            let is_blob = kind == Kind::BlobGet;
            source.fault(refused.of(if is_blob { &absent.digest } else { "v1" }));
        }
        let rule = fast().rule(&format!("{}:v1,other", source.name("a")), target.name("b"));
        run(&rule, &source, &target, figures);
        assert_in_sync(&source, "a", &target, "b", &["other"]);
        let asked = |entry: &&Entry| {
            entry.kind == kind && (entry.reference == "v1" || entry.reference == absent.digest)
        };
        assert_eq!(
            source.history().iter().filter(asked).count(),
            1,
            "{kind:?} {refusal:?}"
        );
    }
}

#[test]
fn a_pass_takes_up_what_is_unfinished_and_nothing_else() {
    let (source, target) = registries(&["v1", "v2"]);
    let reset = Fault::on(Kind::ManifestPut, Act::status(503)).of("v1");
    target.fault(reset.nth(Nth::UpTo(5)));
    let rule = fast().rule(&format!("{}:v1,v2", source.name("a")), target.name("b"));
    run(&rule, &source, &target, (0, 0));
    assert_in_sync(&source, "a", &target, "b", &["v1", "v2"]);
    // The first pass read both; the second asked whether v1 is still the same, and used what it had.
    assert_eq!(source.count(Kind::ManifestGet), 2);
    assert_eq!(source.count(Kind::ManifestHead), 1);
    assert_eq!(source.count(Kind::BlobGet), 4);
    assert_eq!(target.count(Kind::UploadPut), 4);
    let asked = target.history();
    let asked = asked.iter().filter(|e| e.kind == Kind::ManifestHead);
    // v1 twice, beside the looks that the refused PUTs ask for; v2 once.
    assert_eq!(asked.filter(|e| e.reference == "v2").count(), 1);
}

#[test]
fn a_tag_that_moves_between_passes_moves_for_unfinished_targets_only() {
    let (source, first) = registries(&["v1"]);
    let second = FakeRegistry::start(Options::default().at("127.0.0.3"));
    let old = source.manifest("a", "v1").expect("no image").0;
    let new = Maker::new(54).oci(&[90]);
    source.push_untagged("a", &new);
    second.fault(Fault::on(Kind::ManifestPut, Act::status(502)).nth(Nth::UpTo(5)));
    let moved = Act::MoveTag("a".into(), "v1".into(), new.digest.clone());
    source.fault(Fault::on(Kind::ManifestHead, moved));
    let targets = [first.name("b"), second.name("b")];
    let rule = fast().rule(&format!("{}:v1", source.name("a")), targets.to_vec());
    let output = rule.run().expect(0);
    check_invariants(&[&source], &[&first, &second], &output);
    let digest = |target: &FakeRegistry| target.manifest("b", "v1").map(|(digest, _)| digest);
    assert_eq!(digest(&first), Some(old.clone()));
    assert_eq!(digest(&second), Some(new.digest.clone()));
    let says = format!("moved from {old} to {}", new.digest);
    assert!(output.stderr.contains(&says), "{}", output.stderr);
}

#[test]
fn a_pause_uses_no_attempt_while_the_host_answers_others() {
    let (source, target) = registries(&["v1", "v2", "v3", "v4", "v5", "v6", "v7"]);
    // Each second request is put off: far more than five times in all.
    let busy = Act::Status(429, Vec::new(), Vec::new());
    source.fault(Fault::on_any(busy).nth(Nth::Every(2)));
    let rule = fast().rule(&source.name("a"), target.name("b"));
    run(&rule.arg("--retries=0"), &source, &target, (0, 0));
    assert!(source.faults_acted() > 5);
}

#[test]
fn a_host_that_asks_for_pauses_for_ever_is_given_up() {
    for at_source in [true, false] {
        let (source, target) = registries(&["v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8"]);
        let busy = if at_source { &source } else { &target };
        busy.fault(Fault::on_any(Act::status(429)));
        let rule = fast().rule(
            &format!("{}:v1,v2,v3,v4,v5,v6,v7,v8", source.name("a")),
            target.name("b"),
        );
        let rule = rule.args(["--proc=1", "--retries=0"]);
        let figures = if at_source { (0, 8) } else { (8, 0) };
        let output = run(&rule, &source, &target, figures);
        // All of its images share the ten minutes, and are not given ten minutes each.
        assert!(busy.faults_acted() < 30, "{} requests", busy.faults_acted());
        assert!(output.stderr.contains("429"), "{}", output.stderr);
    }
}

#[test]
fn one_request_that_is_put_off_for_ever_keeps_no_other_from_its_turn() {
    for kind in [Kind::ManifestHead, Kind::UploadPost, Kind::ManifestPut] {
        let (source, target) = registries(&["v1", "v2", "v3"]);
        let (_, manifest) = source.manifest("a", "v1").expect("no image");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).expect("no JSON");
        let layer = manifest["layers"][0]["digest"].as_str().expect("no layer");
        let put_off = Fault::on(kind, Act::status(429));
        let is_upload = kind == Kind::UploadPost;
        target.fault(put_off.of(if is_upload { layer } else { "v1" }));
        let rule = fast().rule(&format!("{}:v1,v2,v3", source.name("a")), target.name("b"));
        let rule = rule.args(["--proc=1", "--retries=0"]);
        run(&rule, &source, &target, (1, 0));
        assert_in_sync(&source, "a", &target, "b", &["v2", "v3"]);
    }
}

#[test]
fn no_request_comes_before_the_time_that_retry_after_names() {
    let now = SystemTime::now();
    let date = |time| httpdate::fmt_http_date(time);
    let day = Duration::from_hours(24);
    let second = Duration::from_secs(1);
    // Status and headers of the answer, and the wait that they mean.
    let table = [
        (429, vec![("Retry-After", "1".to_string())]),
        (503, vec![("Retry-After", "1".to_string())]),
        // The other clock is a day late: what counts is what lies between its own two times.
        (
            429,
            vec![
                ("Date", date(now - day)),
                ("Retry-After", date(now - day + second)),
            ],
        ),
        // Or a day early.
        (
            503,
            vec![
                ("Date", date(now + day)),
                ("Retry-After", date(now + day + second)),
            ],
        ),
        (502, vec![("Retry-After", "1".to_string())]),
    ];
    // All at once: each waits a second.
    std::thread::scope(|scope| {
        for (status, headers) in table {
            scope.spawn(move || {
                let (source, target) = registries(&["v1"]);
                let act = Act::Status(status, headers.clone(), Vec::new());
                source.fault(Fault::on(Kind::BlobGet, act).nth(Nth::Only(1)));
                let rule = Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.01");
                let rule = rule
                    .rule(&source.name("a"), target.name("b"))
                    .arg("--retries=0");
                let began = Instant::now();
                run(&rule, &source, &target, (0, 0));
                // It cannot have been in sync any earlier.
                assert!(began.elapsed() >= second, "{status} {headers:?}");
            });
        }
    });
}

#[test]
fn a_retry_after_without_sense_is_no_wish() {
    let past = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH);
    for value in [
        "soon",
        "-1",
        "1e18",
        "1.5",
        "",
        "99999999999999999999999",
        &past,
    ] {
        let (source, target) = registries(&["v1"]);
        let headers = vec![("Retry-After", value.to_string())];
        let act = Act::Status(429, headers, Vec::new());
        source.fault(Fault::on(Kind::ManifestGet, act).nth(Nth::Only(1)));
        let rule = fast().rule(&source.name("a"), target.name("b"));
        run(&rule.arg("--retries=0"), &source, &target, (0, 0));
    }
}

#[test]
fn a_wait_of_more_than_ten_minutes_fails_the_hosts_images_in_this_pass() {
    for status in [429, 503, 502] {
        for seconds in ["601", "86400", "18446744073709551615"] {
            let (source, target) = registries(&["v1", "v2"]);
            let other = FakeRegistry::start(Options::default().at("127.0.0.3"));
            let headers = vec![("Retry-After", seconds.to_string())];
            let act = Act::Status(status, headers, Vec::new());
            target.fault(Fault::on_any(act).nth(Nth::Only(1)));
            let targets = vec![target.name("b"), other.name("b")];
            let rule = Run::new().env("IMAGE_SYNCER_TIME_SCALE", "1");
            let rule = rule.rule(&format!("{}:v1,v2", source.name("a")), targets);
            let rule = rule.args(["--retries=0", "--proc=1"]);
            let output = rule.run().expect(1);
            check_invariants(&[&source], &[&target, &other], &output);
            assert_eq!(output.finished(), Some((2, 0)));
            assert_in_sync(&source, "a", &other, "b", &["v1", "v2"]);
            assert_eq!(target.total(), 1, "{status}, {seconds} s");
            let says = format!("a pause of {seconds} s");
            assert!(output.stderr.contains(&says), "{}", output.stderr);
        }
    }
}

#[test]
fn a_host_that_asked_for_too_much_is_not_asked_before_its_time_in_later_passes_either() {
    let (source, target) = registries(&["v1", "v2", "v3"]);
    target.fault(Fault::on_any(Act::throttle(3600)));
    let rule = fast().rule(&format!("{}:v1,v2,v3", source.name("a")), target.name("b"));
    run(
        &rule.args(["--retries=2", "--proc=1"]),
        &source,
        &target,
        (3, 0),
    );
    assert_eq!(target.total(), 1);
}

#[test]
fn a_long_wait_that_is_nearly_over_in_the_next_pass_is_waited_for() {
    let (source, target) = registries(&["v1"]);
    // A second is more than ten scaled minutes, and less when the other host has been waited for as long as that.
    target.fault(Fault::on_any(Act::throttle(1)).nth(Nth::Only(1)));
    let other = FakeRegistry::start(Options::default().at("127.0.0.3"));
    other.fault(Fault::on_any(Act::status(429)));
    let rule = fast()
        .rule(&format!("{}:v1", source.name("a")), target.name("b"))
        .rule(&format!("{}:v1", other.name("a")), other.name("b"));
    let output = rule.arg("--retries=1").run().expect(1);
    assert_eq!(output.finished(), Some((1, 0)));
    check_invariants(&[&source], &[&target, &other], &output);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
}

#[test]
fn a_pause_of_one_host_does_not_keep_others_waiting() {
    let (source, paused) = registries(&["v1", "v2"]);
    let other = FakeRegistry::start(Options::default().at("127.0.0.3"));
    paused.fault(Fault::on_any(Act::throttle(1)).nth(Nth::Only(1)));
    let rule = Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.01");
    let rule = rule
        .rule(&source.name("a"), paused.name("b"))
        .rule(&format!("{}:v1,v2", source.name("a")), other.name("c"));
    let output = rule.arg("--proc=2").run().expect(0);
    check_invariants(&[&source], &[&paused, &other], &output);
    // Everything at the other host is done before the paused one is asked again.
    let again = paused.history()[1].began;
    let last = other.history().iter().map(|entry| entry.ended).max();
    assert!(last.expect("nothing was sent") < again);
}

/// An address at which nothing listens, and nobody will by chance.
fn closed_port(address: &str) -> String {
    let listener = TcpListener::bind((address, 0)).expect("no port");
    listener.local_addr().expect("no address").to_string()
}

#[test]
fn a_host_that_cannot_be_reached_ten_times_is_down_for_the_pass() {
    let source = FakeRegistry::new();
    let tags: Vec<String> = (0..40).map(|number| format!("v{number}")).collect();
    let image = Maker::new(55).oci(&[10]);
    for tag in &tags {
        source.push("a", tag, &image);
    }
    let closed = closed_port("127.0.0.9");
    let target = FakeRegistry::start(Options::default().at("127.0.0.2"));
    let rule = fast()
        .rule(
            &format!("{}:{}", source.name("a"), tags.join(",")),
            vec![format!("{closed}/b"), target.name("b")],
        )
        .args(["--proc=2", "--retries=2", "--log-level=debug"]);
    let output = rule.run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((40, 0)));
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    assert_in_sync(&source, "a", &target, "b", &tags);

    let passes: Vec<&str> = output.stderr.split("over what failed").collect();
    let attempts = |text: &str| {
        // Every attempt is one with https and one without.
        let attempt = format!("DEBUG HEAD http://{closed}");
        text.matches(&attempt).count()
    };
    let attempts: Vec<usize> = passes.iter().map(|text| attempts(text)).collect();
    // One more may have been under way; then one probe a pass.
    assert!((10..=11).contains(&attempts[0]), "{attempts:?}");
    assert_eq!(attempts[1..], [1, 1], "{}", output.stderr);
    assert!(
        output
            .stderr
            .contains("not tried: it still cannot be reached: HEAD http")
    );
}

#[test]
fn a_host_that_comes_up_late_is_served() {
    let (source, target) = registries(&["v1"]);
    let closed = closed_port("127.0.0.9");
    // The end of the first pass is seen by what the other rule does in the second.
    source.fault(Fault::on(Kind::ManifestGet, Act::status(502)).of("absent"));
    let rule = fast()
        .rule(&format!("{}:v1", source.name("a")), format!("{closed}/b"))
        .rule(&format!("{}:absent", source.name("a")), target.name("c"))
        .arg("--retries=100000");
    let running = rule.spawn();
    let attempts = |history: &[Entry]| {
        history
            .iter()
            .filter(|entry| entry.reference == "absent")
            .count()
    };
    source.wait_until(|history| attempts(history) > 6);
    let late = FakeRegistry::start(Options::default().at(&closed));
    late.wait_until(|history| {
        history
            .iter()
            .any(|e| e.kind == Kind::ManifestPut && e.status == 201)
    });
    source.clear_faults();
    let output = running.wait().expect(1);
    assert_eq!(output.finished(), Some((0, 1)));
    check_invariants(&[&source], &[&target, &late], &output);
    assert_in_sync(&source, "a", &late, "b", &["v1"]);
}
