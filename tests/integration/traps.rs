//! What the HTTP client does of its own accord, and what peers do to it, stays handled (architecture.md 3.7, stack.md
//! section 1): bodies that end early, stall or creep, refusals in the middle of an upload, dead connections, redirects
//! of writes, bytes that belong to no answer.

use std::thread;
use std::time::Duration;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Blob, Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Bearer, Counts, End, FakeRegistry, Fault, Habit, Kind, Nth, Options};

/// A source with one image of one layer.
fn source(size: usize) -> (FakeRegistry, Blob) {
    let source = FakeRegistry::new();
    let image = Maker::new(70).oci(&[size]);
    source.push("a", "v1", &image);
    (source, image.blobs[1].clone())
}

fn target() -> FakeRegistry {
    FakeRegistry::start(Options::default().at("127.0.0.2"))
}

/// Runs with short waits and short limits: each limit is 0.4 s.
#[track_caller]
fn run(source: &FakeRegistry, target: &FakeRegistry, status: i32) -> Output {
    let output = Run::new()
        .env("IMAGE_SYNCER_TIME_SCALE", "0.001")
        .rule(&source.name("a"), target.name("b"))
        .args(["--proc=1", "--retries=0"])
        .run()
        .expect(status);
    check_invariants(&[source], &[target], &output);
    if status == 0 {
        assert_in_sync(source, "a", target, "b", &["v1"]);
    }
    output
}

/// More than goes in one PUT, and more than the buffers of a connection hold.
const LARGE: usize = (16 << 20) + 5;

#[test]
fn a_source_that_ends_early_never_completes_a_blob() {
    // A client that is given fewer bytes than it announced would ask for more of them for ever.
    for size in [700, LARGE] {
        // Too little progress to go on from.
        let part = (size / 3).min(500_000);
        let cut = |at, end| vec![Act::CutBody(at, end)];
        for acts in [
            cut(0, End::Fin),
            cut(part, End::Fin),
            cut(part, End::Reset),
            // Without a length the end of the connection looks like the end of the blob.
            vec![
                Act::RemoveHeader("content-length"),
                Act::CutBody(part, End::Fin),
            ],
            vec![Act::Shorten(1)],
            vec![Act::Lengthen(1)],
            vec![Act::Flip(size - 1)],
        ] {
            if size == LARGE && !matches!(acts[0], Act::RemoveHeader(_) | Act::Flip(_)) {
                continue;
            }
            let (source, layer) = source(size);
            let target = FakeRegistry::start(Options::default().at("127.0.0.2").gullible());
            for act in &acts {
                source.fault(Fault::on(Kind::BlobGet, act.clone()).of(&layer.digest));
            }
            run(&source, &target, 1);
            assert!(target.blob("b", &layer.digest).is_none(), "{acts:?}");
            assert_eq!(target.count(Kind::ManifestPut), 0, "{acts:?}");
        }
    }
}

#[test]
fn a_peer_that_stalls_is_given_up_and_asked_again() {
    // The layer's size, whether at the source, which request, and how it stalls.
    let table = [
        (700, true, Kind::TagsList, Act::Stall),
        (700, true, Kind::ManifestGet, Act::Stall),
        (700, true, Kind::BlobGet, Act::Stall),
        (700, true, Kind::BlobGet, Act::StallBody(300)),
        (700, true, Kind::TagsList, Act::StallBody(3)),
        (700, false, Kind::TagsList, Act::Stall),
        (700, false, Kind::ManifestHead, Act::Stall),
        (700, false, Kind::UploadPost, Act::Stall),
        (700, false, Kind::UploadPut, Act::Stall),
        (700, false, Kind::ManifestPut, Act::Stall),
        (LARGE, false, Kind::UploadPatch, Act::NoRead),
        (LARGE, false, Kind::UploadPatch, Act::Stall),
    ];
    thread::scope(|scope| {
        for (size, at_source, kind, act) in table {
            scope.spawn(move || {
                let ((source, _), target) = (source(size), target());
                if kind == Kind::ManifestHead {
                    // A tag that the target's list does not have is not asked for.
                    target.push("b", "v1", &Maker::new(71).oci(&[10]));
                }
                let stalls = if at_source { &source } else { &target };
                stalls.fault(Fault::on(kind, act).nth(Nth::Only(1)));
                run(&source, &target, 0);
                assert_eq!(stalls.faults_acted(), 1, "{kind:?}");
            });
        }
    });
}

#[test]
fn what_creeps_is_given_up_and_what_is_slow_is_not() {
    let every = Duration::from_millis(40);
    // A byte now and then is an answer to every single read, and no end in sight; ten times the floor is slow.
    let table = [
        (Kind::BlobGet, Act::Drip(1, every), 2),
        (Kind::ManifestGet, Act::DripHead(1, every), 2),
        (Kind::BlobGet, Act::Drip(400, every), 1),
    ];
    thread::scope(|scope| {
        for (kind, act, requests) in table {
            scope.spawn(move || {
                let ((source, layer), target) = (source(9000), target());
                let slow = Fault::on(kind, act.clone()).nth(Nth::Only(1));
                source.fault(match kind {
                    Kind::BlobGet => slow.of(&layer.digest),
                    _ => slow,
                });
                run(&source, &target, 0);
                let asked = source.history().into_iter().filter(|entry| {
                    entry.kind == kind && (kind != Kind::BlobGet || entry.reference == layer.digest)
                });
                assert_eq!(asked.count(), requests, "{act:?}");
            });
        }
    });
}

#[test]
fn an_early_refusal_of_a_large_upload_is_read() {
    for (status, says) in [
        (413, "limits the size of a request"),
        (403, "no permission"),
    ] {
        let ((source, layer), target) = (source(2 << 20), target());
        let refused = Fault::on(Kind::UploadPut, Act::RefuseBody(status)).of(&layer.digest);
        target.fault(refused);
        target.fault(Fault::on(Kind::UploadPatch, Act::RefuseBody(status)));
        let output = run(&source, &target, 1);
        assert!(
            output.stderr.contains(&status.to_string()),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains(says), "{}", output.stderr);
        // Not a byte was sent that was not asked for.
        let sent = target.history().iter().map(|entry| entry.bytes_in).max();
        assert!(sent < Some(1 << 20), "{sent:?}");
    }
}

#[test]
fn an_early_refusal_of_a_small_upload_ends() {
    for status in [401, 413] {
        let ((source, layer), target) = (source(300 << 10), target());
        let refused = Fault::on(Kind::UploadPut, Act::RefuseBody(status)).of(&layer.digest);
        target.fault(refused);
        target.fault(Fault::on(Kind::UploadPatch, Act::RefuseBody(status)));
        run(&source, &target, 1);
        assert!(target.faults_acted() <= 10, "{}", target.faults_acted());
    }
}

#[test]
fn a_token_that_dies_before_an_upload_is_renewed_whether_the_body_was_begun_or_not() {
    for size in [700, 2 << 20] {
        for requests in 2..7 {
            let (source, _) = source(size);
            let bearer = Bearer {
                requests: Some(requests),
                ..Bearer::for_user("ada", "a-planted-password")
            };
            let options = Options::default().at("127.0.0.2").bearer(bearer);
            // Refuses at once, and closes the connection under the body.
            let target = FakeRegistry::start(options.habit(Habit::DISTRIBUTION_2));
            let output = Run::new()
                .env("IMAGE_SYNCER_TIME_SCALE", "0.001")
                .auth(&target, "ada", "a-planted-password")
                .rule(&source.name("a"), target.name("b"))
                .args(["--proc=1", "--retries=0", "--log-level=trace"])
                .run()
                .expect(0);
            check_invariants(&[&source], &[&target], &output);
            assert_in_sync(&source, "a", &target, "b", &["v1"]);
        }
    }
}

#[test]
fn workers_that_meet_a_host_together_all_sign_in() {
    for round in 0..10 {
        let basic = Options::default().basic("ada", "a-planted-password");
        let (source, target) = (FakeRegistry::start(basic), target());
        for number in 0..8 {
            let image = Image::oci(&Maker::new(73 + number).config("linux/amd64"), &[]);
            source.push("a", &format!("v{number}"), &image);
        }
        let output = Run::new()
            .auth(&source, "ada", "a-planted-password")
            .rule(
                &format!("{}:v0,v1,v2,v3,v4,v5,v6,v7", source.name("a")),
                target.name("b"),
            )
            .args(["--proc=8", "--retries=0"])
            .run()
            .expect(0);
        check_invariants(&[&source], &[&target], &output);
        assert_eq!(target.tags("b").len(), 8, "round {round}");
    }
}

#[test]
fn a_host_that_does_not_know_expect_is_sent_none_again() {
    let (source, target) = (FakeRegistry::new(), target());
    source.push("a", "v1", &Maker::new(71).oci(&[2 << 20, 3 << 20]));
    let unknown = Act::RefuseBody(417);
    target.fault(Fault::on(Kind::UploadPut, unknown).nth(Nth::Only(1)));
    run(&source, &target, 0);
    let expects = target.history().into_iter().filter(|entry| {
        entry
            .head
            .to_ascii_lowercase()
            .contains("expect: 100-continue")
    });
    assert_eq!(expects.count(), 1);
}

#[test]
fn connections_are_used_again_as_every_body_is_read_to_its_end() {
    let ((source, _), target) = (source(700), target());
    for number in 0..6 {
        let image = Maker::new(80 + number).oci(&[40 << 10]);
        source.push("a", &format!("v{number}"), &image);
    }
    // Errors have bodies too.
    let busy = Act::Status(503, Vec::new(), vec![b'x'; 20 << 10]);
    source.fault(Fault::on(Kind::ManifestGet, busy.clone()).nth(Nth::Only(2)));
    target.fault(Fault::on(Kind::UploadPost, busy).nth(Nth::Only(2)));
    run(&source, &target, 0);
    // The first finds out that there is no TLS, the second serves all.
    assert_eq!((source.connections(), target.connections()), (2, 2));
}

#[test]
fn many_workers_open_a_connection_each_and_no_more() {
    let ((source, _), target) = (source(700), target());
    let redirected = source.redirect_blobs("127.0.0.3");
    for number in 0..30 {
        let image = Maker::new(80 + number).oci(&[200, 300]);
        source.push("a", &format!("v{number}"), &image);
    }
    let workers = 4;
    let output = Run::new()
        .rule(&source.name("a"), target.name("b"))
        .arg(format!("--proc={workers}"))
        .run()
        .expect(0);
    check_invariants(&[&source, &redirected], &[&target], &output);
    for registry in [&source, &target, &redirected] {
        assert!(
            registry.connections() <= workers + 1,
            "{}",
            registry.connections()
        );
    }
}

#[test]
fn a_connection_that_is_closed_after_each_answer_fails_nothing() {
    for habit in [Habit::DISTRIBUTION_3, Habit::PULP] {
        let (source, _) = source(700);
        let target = FakeRegistry::start(Options::default().at("127.0.0.2").habit(habit.clone()));
        let says_so = !habit.keeps_connections;
        for registry in [&source, &target] {
            // Without a word, so that the next request meets a dead connection.
            let closed = Act::CutBody(usize::MAX, End::Fin);
            if !says_so {
                registry.fault(Fault::on_any(closed));
            }
        }
        run(&source, &target, 0);
        assert_eq!(target.count(Kind::ManifestPut), 1);
    }
}

#[test]
fn a_write_that_is_redirected_is_not_taken_for_stored() {
    let kinds = [
        (700, Kind::UploadPost),
        (700, Kind::UploadPut),
        (LARGE, Kind::UploadPatch),
        (700, Kind::ManifestPut),
    ];
    for (size, kind) in kinds {
        for status in [301, 302, 303, 307, 308] {
            if size == LARGE && status != 303 {
                continue;
            }
            let elsewhere = FakeRegistry::start(Options::default().at("127.0.0.3"));
            // A page that answers 200 to everything that a client makes of the redirect.
            elsewhere.fault(Fault::on_any(Act::status(200)));
            let ((source, _), target) = (source(size), target());
            let to = format!("http://{}/login?next=secret", elsewhere.addr());
            target.fault(Fault::on(kind, Act::Redirect(status, to)));
            let output = run(&source, &target, 1);
            assert_eq!(output.finished(), Some((1, 0)), "{kind:?} {status}");
            assert_eq!(elsewhere.counts(), Counts::new(), "{kind:?} {status}");
            let says = format!("redirected to http://{}/login", elsewhere.addr());
            assert!(output.stderr.contains(&says), "{}", output.stderr);
            assert!(!output.stderr.contains("next=secret"), "{}", output.stderr);
            assert!(target.tags("b").is_empty());
        }
    }
}

#[test]
fn a_write_that_is_redirected_on_the_same_host_is_repeated_as_it_was() {
    let ((source, _), target) = (source(700), target());
    let to = "/v2/b/manifests/v1".to_string();
    target.fault(Fault::on(Kind::ManifestPut, Act::Redirect(307, to)).nth(Nth::Only(1)));
    run(&source, &target, 0);
    assert_eq!(target.count(Kind::ManifestPut), 2);
}

#[test]
fn bytes_after_an_answer_are_part_of_no_other() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let ((source, _), target) = (source(700), target());
    // An answer that is longer than it says, and looks like two.
    let twice = format!("no{answer}").into_bytes();
    let length = vec![("Content-Length", "2".to_string())];
    for status in [404, 503] {
        let act = Act::Status(status, length.clone(), twice.clone());
        let on = if status == 404 {
            Kind::TagsList
        } else {
            Kind::UploadPost
        };
        target.fault(Fault::on(on, act).nth(Nth::Only(1)));
    }
    let act = Act::Status(503, length, twice);
    source.fault(Fault::on_any(act).nth(Nth::Every(2)));
    run(&source, &target, 0);
    assert!(source.faults_acted() > 1);
    assert_eq!(target.faults_acted(), 2);
}

#[test]
fn hints_before_an_answer_are_read_over() {
    let (source, target) = (FakeRegistry::new(), target());
    let image = Image::oci(&Maker::new(72).config("linux/amd64"), &[]);
    source.push("a", "v1", &image);
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(3);
    let head = format!(
        "{hints}HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        image.media_type,
        image.bytes.len()
    );
    let bytes = [head.as_bytes(), &image.bytes].concat();
    source.fault(Fault::on(Kind::ManifestGet, Act::Raw(bytes)));
    run(&source, &target, 0);
}
