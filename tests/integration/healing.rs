//! What goes wrong and is put right in the same run: blobs that a target lacks although it said otherwise, writes of
//! which nobody knows whether they were done, sessions that are lost, downloads that break off (decisions D6, D7). And
//! what only `--force` finds.

use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Blob, Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Counts, End, Entry, FakeRegistry, Fault, Habit, Kind, Nth, Options};

/// A source with one image, and a target.
struct Pair {
    source: FakeRegistry,
    target: FakeRegistry,
    image: Image,
}

impl Pair {
    /// An image with one layer of this size.
    fn new(size: usize, habit: Habit) -> Self {
        Self::of(Maker::new(60).oci(&[size]), habit)
    }

    fn of(image: Image, habit: Habit) -> Self {
        let source = FakeRegistry::new();
        source.push("a", "v1", &image);
        let options = Options::default().at("127.0.0.2").habit(habit);
        Self {
            source,
            target: FakeRegistry::start(options),
            image,
        }
    }

    fn layer(&self) -> &Blob {
        &self.image.blobs[1]
    }

    fn run(&self) -> Output {
        let source = format!("{}:v1", self.source.name("a"));
        let output = fast().rule(&source, self.target.name("b")).run();
        check_invariants(&[&self.source], &[&self.target], &output);
        output
    }

    /// Runs to the good end.
    #[track_caller]
    fn sync(&self) -> Output {
        let output = self.run().expect(0);
        assert_in_sync(&self.source, "a", &self.target, "b", &["v1"]);
        output
    }

    /// How many requests of this kind the target had about the layer.
    fn count(&self, kind: Kind) -> usize {
        let is_it = |entry: &&Entry| {
            entry.kind == kind && entry.digest.as_ref() == Some(&self.layer().digest)
        };
        self.target.history().iter().filter(is_it).count()
    }
}

/// A run with one worker, so that what it asks comes in one order, and with short waits.
fn fast() -> Run {
    let run = Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.001");
    run.arg("--proc=1")
}

/// A refusal in the distribution API's form; `detail` is JSON.
fn refusal(status: u16, code: &str, detail: &str) -> Act {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"no","detail":{detail}}}]}}"#);
    Act::Status(status, Vec::new(), body.into_bytes())
}

/// The registries that say "unknown blob" in the five ways there are (registries.md).
const REFUSERS: [Habit; 5] = [
    Habit::DISTRIBUTION_3,
    Habit::GITEA,
    Habit::PULP,
    Habit::FERRO,
    Habit::CUE,
];

#[test]
fn a_blob_that_was_collected_before_the_manifest_is_sent_again() {
    for habit in REFUSERS {
        let pair = Pair::new(300, habit);
        let gone = Act::Gc("b".to_string(), pair.layer().digest.clone());
        let fault = Fault::on(Kind::ManifestPut, gone).nth(Nth::Only(1));
        pair.target.fault(fault);
        pair.sync();
        assert_eq!(pair.target.count(Kind::ManifestPut), 2);
        assert_eq!(pair.count(Kind::UploadPut), 2);
    }
}

#[test]
fn a_child_that_was_collected_before_the_index_is_put_again() {
    for habit in [Habit::DISTRIBUTION_3, Habit::GGCR, Habit::GITEA, Habit::CUE] {
        let index = Maker::new(61).index(&["linux/amd64", "linux/arm64"], 100);
        let pair = Pair::of(index, habit);
        let gone = Act::Gc("b".to_string(), pair.image.children[0].digest.clone());
        let fault = Fault::on(Kind::ManifestPut, gone).of("v1");
        pair.target.fault(fault.nth(Nth::Only(1)));
        pair.sync();
        assert_eq!(pair.target.count(Kind::ManifestPut), 2 + 1 + 2);
    }
}

#[test]
fn a_refusal_once_costs_a_look_at_the_named_blobs_and_no_bytes() {
    let pair = Pair::new(300, Habit::DISTRIBUTION_3);
    let digest = format!("\"{}\"", pair.layer().digest);
    let in_object = format!("{{\"digest\":{digest}}}");
    // The refusal, and how many blobs are looked at: the one that is named, or both.
    let table = [
        (400, "MANIFEST_BLOB_UNKNOWN", &*digest, 1),
        (404, "MANIFEST_BLOB_UNKNOWN", &digest, 1),
        (404, "BLOB_UNKNOWN", &digest, 1),
        (400, "MANIFEST_INVALID", &in_object, 1),
        (500, "UNKNOWN", "null", 2),
        (404, "BLOB_UNKNOWN", "null", 2),
        (422, "WHATEVER", "{}", 2),
    ];
    for (status, code, detail, looks) in table {
        let pair = Pair::new(300, Habit::DISTRIBUTION_3);
        let fault = Fault::on(Kind::ManifestPut, refusal(status, code, detail));
        pair.target.fault(fault.nth(Nth::Only(1)));
        pair.sync();
        assert_eq!(pair.target.count(Kind::ManifestPut), 2, "{status} {code}");
        assert_eq!(pair.target.count(Kind::BlobHead), looks, "{status} {code}");
        assert_eq!(pair.target.count(Kind::UploadPut), 2, "{status} {code}");
    }
}

/// The target has the repository, and says of the layer that it is there, whatever is true.
fn lie_about(pair: &Pair) {
    pair.target.push("b", "old", &Maker::new(62).oci(&[10]));
    let length = ("Content-Length", pair.layer().size().to_string());
    let there = Act::Status(200, vec![length], Vec::new());
    pair.target
        .fault(Fault::on(Kind::BlobHead, there).of(&pair.layer().digest));
}

#[test]
fn a_blob_that_the_target_wrongly_says_it_has_is_sent_without_asking() {
    for habit in REFUSERS {
        let pair = Pair::new(300, habit);
        lie_about(&pair);
        pair.sync();
        // The first, the one after another look, and the one after the upload.
        assert_eq!(pair.target.count(Kind::ManifestPut), 3);
        assert_eq!(pair.count(Kind::UploadPut), 1);
    }
}

#[test]
fn blobs_that_are_unknown_and_not_named_are_all_sent_without_asking() {
    for code in ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"] {
        let pair = Pair::new(300, Habit::GGCR);
        lie_about(&pair);
        let fault = Fault::on(Kind::ManifestPut, refusal(404, code, "null"));
        pair.target.fault(fault.nth(Nth::UpTo(2)));
        pair.sync();
        assert_eq!(pair.count(Kind::UploadPut), 1, "{code}");
    }
}

#[test]
fn a_target_that_never_finds_a_blob_is_given_up_after_two_rounds() {
    let pair = Pair::new(300, Habit::DISTRIBUTION_3);
    let digest = format!("\"{}\"", pair.layer().digest);
    let unknown = refusal(400, "MANIFEST_BLOB_UNKNOWN", &digest);
    pair.target.fault(Fault::on(Kind::ManifestPut, unknown));
    let output = pair.run().expect(1);
    assert_eq!(output.finished(), Some((1, 0)));
    assert_eq!(pair.target.count(Kind::ManifestPut), 3);
    assert_eq!(pair.count(Kind::UploadPut), 2);
    let says = "its own index may be broken";
    assert!(output.stderr.contains(says), "{}", output.stderr);
}

#[test]
fn a_mount_that_brought_nothing_is_followed_by_an_upload() {
    let pair = Pair::new(300, Habit::DISTRIBUTION_3);
    let mounted = Fault::on(Kind::UploadPost, Act::status(201));
    pair.target
        .fault(mounted.of(&pair.layer().digest).in_repository("c"));
    let targets = vec![pair.target.name("b"), pair.target.name("c")];
    let output = fast()
        .rule(&format!("{}:v1", pair.source.name("a")), targets)
        .run();
    check_invariants(&[&pair.source], &[&pair.target], &output);
    drop(output.expect(0));
    for repository in ["b", "c"] {
        assert_in_sync(&pair.source, "a", &pair.target, repository, &["v1"]);
    }
    assert!(pair.target.faults_acted() > 0);
}

/// More than goes in one PUT.
const LARGE: usize = (16 << 20) + 5;

#[test]
fn a_write_without_an_answer_is_looked_for_before_it_is_sent_again() {
    let done = |end| Act::CommitThenClose(end);
    let small = |act, sent, looks| (300, Kind::UploadPut, act, sent, looks);
    let large = |kind, act, sent, looks| (LARGE, kind, act, sent, looks);
    // The layer's size, what goes wrong with which request, how often its bytes are sent, how often it is looked for.
    let table = [
        small(done(End::Fin), 1, 1),
        small(done(End::Reset), 1, 1),
        small(Act::CommitThenStatus(500), 1, 1),
        small(Act::CommitThenStatus(502), 1, 1),
        small(Act::CutBefore(End::Reset), 2, 1),
        small(Act::status(500), 2, 1),
        large(Kind::UploadPut, done(End::Reset), 1, 1),
        large(Kind::UploadPut, Act::CutBefore(End::Fin), 2, 1),
        // The session says that it has all.
        large(Kind::UploadPatch, done(End::Reset), 1, 0),
    ];
    for (size, kind, act, sent, looks) in table {
        let pair = Pair::new(size, Habit::DISTRIBUTION_3);
        let sends_layer = |entry: &&Entry| entry.bytes_in == size;
        let fault = Fault::on(kind, act.clone()).nth(Nth::Only(1));
        pair.target.fault(match kind {
            Kind::UploadPut => fault.of(&pair.layer().digest),
            _ => fault,
        });
        pair.sync();
        let history = pair.target.history();
        let sessions: Vec<_> = history
            .iter()
            .filter(sends_layer)
            .map(|e| &e.session)
            .collect();
        assert_eq!(sessions.len(), sent, "{kind:?} {act:?}");
        assert!(
            sent == 1 || sessions[0] != sessions[1],
            "{kind:?} {act:?}: the same session"
        );
        assert_eq!(pair.count(Kind::BlobHead), looks, "{kind:?} {act:?}");
        assert_eq!(pair.target.faults_acted(), 1);
    }
}

#[test]
fn a_manifest_without_an_answer_is_put_again_or_found() {
    for (act, puts) in [
        (Act::CommitThenClose(End::Fin), 2),
        (Act::CommitThenClose(End::Reset), 2),
        (Act::CutBefore(End::Reset), 2),
        (Act::CommitThenStatus(500), 1),
        (Act::CommitThenStatus(503), 1),
    ] {
        let pair = Pair::new(300, Habit::DISTRIBUTION_3);
        pair.target
            .fault(Fault::on(Kind::ManifestPut, act.clone()).nth(Nth::Only(1)));
        pair.sync();
        assert_eq!(pair.target.count(Kind::ManifestPut), puts, "{act:?}");
        assert_eq!(pair.target.count(Kind::UploadPut), 2, "{act:?}");
    }
}

#[test]
fn a_lost_session_is_followed_by_a_new_one() {
    for (size, kind, habit) in [
        (300, Kind::UploadPut, Habit::DISTRIBUTION_3),
        (300, Kind::UploadPut, Habit::DISTRIBUTION_2),
        (LARGE, Kind::UploadPatch, Habit::GITEA),
        (LARGE, Kind::UploadPut, Habit::DISTRIBUTION_2),
    ] {
        let pair = Pair::new(size, habit);
        let fault = Fault::on(kind, Act::LoseSessions).nth(Nth::Only(1));
        pair.target.fault(match kind {
            Kind::UploadPut => fault.of(&pair.layer().digest),
            _ => fault,
        });
        pair.sync();
        assert_eq!(pair.target.faults_acted(), 1, "{kind:?}");
    }
}

#[test]
fn a_digest_that_is_wrong_once_is_sent_again() {
    let pair = Pair::new(300, Habit::DISTRIBUTION_3);
    let fault = Fault::on(Kind::UploadPut, refusal(400, "DIGEST_INVALID", "null"));
    pair.target
        .fault(fault.of(&pair.layer().digest).nth(Nth::Only(1)));
    pair.sync();
    assert_eq!(pair.count(Kind::UploadPut), 2);
}

#[test]
fn locations_of_every_form_lead_to_the_session() {
    let host = Pair::new(1, Habit::GITEA).target.addr().to_string();
    let port = |addr: &str| addr.rsplit_once(':').map(|(_, port)| port.to_string());
    assert!(port(&host).is_some());
    // {host} is the target's; the first session is upload-1.
    for location in [
        "/v2/b/blobs/uploads/upload-1",
        "/v2/b/blobs/uploads/upload-1?a=b%2Fc+d&_=%3d",
        "upload-1?x=1",
        "./upload-1",
        "../uploads/upload-1",
        "//{host}/v2/b/blobs/uploads/upload-1",
        "http://{host}/v2/b/blobs/uploads/upload-1?x=/../y",
        "HTTP://{host}/v2/b/blobs/uploads/upload-1",
    ] {
        let pair = Pair::new(300, Habit::GITEA);
        let location = location.replace("{host}", pair.target.addr());
        let set = Act::SetHeader("Location", location.clone());
        pair.target
            .fault(Fault::on(Kind::UploadPost, set).nth(Nth::Only(1)));
        pair.sync();
        let history = pair.target.history();
        let put = history.iter().find(|entry| entry.kind == Kind::UploadPut);
        let target = &put.expect("no upload").target;
        let query = location.split_once('?').map_or("", |(_, query)| query);
        let expected = format!("/v2/b/blobs/uploads/upload-1?{query}");
        assert!(target.starts_with(&expected), "{location}: {target}");
    }
}

#[test]
fn a_location_that_leads_nowhere_fails_the_image_in_clear_words() {
    let elsewhere = FakeRegistry::start(Options::default().at("127.0.0.3"));
    let other = format!("http://{}/v2/b/blobs/uploads/upload-1", elsewhere.addr());
    for (act, says) in [
        (Act::RemoveHeader("location"), "location"),
        (Act::SetHeader("Location", other), "127.0.0.3"),
        (Act::SetHeader("Location", "ftp://x/y".to_string()), "ftp"),
    ] {
        let pair = Pair::new(300, Habit::DISTRIBUTION_3);
        pair.target.fault(Fault::on(Kind::UploadPost, act));
        let output = pair.run().expect(1);
        assert!(output.stderr.contains(says), "{}", output.stderr);
        assert_eq!(pair.target.count(Kind::UploadPut), 0);
    }
    assert_eq!(elsewhere.counts(), Counts::new());
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let size = 3 << 20;
    // How often the layer's bytes leave the source beyond what was cut off, by what its registry does with a Range.
    for (habit, again) in [
        (Habit::DISTRIBUTION_3, 1 << 20),
        (Habit::DISTRIBUTION_2, 1 << 20),
        (Habit::GITEA, size),
        (Habit::GGCR, size),
    ] {
        for end in [End::Fin, End::Reset] {
            let pair = Pair::new(size, Habit::DISTRIBUTION_3);
            let source = FakeRegistry::start(Options::default().habit(habit.clone()));
            source.push("a", "v1", &pair.image);
            let cut = Act::CutBody(2 << 20, end);
            let layer = Fault::on(Kind::BlobGet, cut).of(&pair.layer().digest);
            source.fault(layer.nth(Nth::Only(1)));
            let pair = Pair { source, ..pair };
            pair.sync();
            let history = pair.source.history();
            let sent = history
                .iter()
                .filter(|e| e.reference == pair.layer().digest);
            let sent: usize = sent.filter(|e| e.status < 300).map(|e| e.bytes_out).sum();
            // A reset takes what the other side has not read yet with it.
            assert!(
                sent <= (2 << 20) + size && sent >= (2 << 20) + again,
                "{}",
                habit.name
            );
            let uploads = pair.target.history();
            let uploads = uploads.iter().filter(|entry| entry.bytes_in > 1000);
            let uploads: Vec<usize> = uploads.map(|entry| entry.bytes_in).collect();
            assert_eq!(uploads, [size], "{}", habit.name);
        }
    }
}

#[test]
fn a_signed_url_that_ran_out_is_asked_for_again() {
    for status in [400, 403] {
        let pair = Pair::new(300, Habit::DISTRIBUTION_3);
        let storage = pair.source.redirect_blobs("127.0.0.4");
        storage.fault(Fault::on_any(Act::status(status)).nth(Nth::Only(1)));
        let output = pair.sync();
        check_invariants(&[&pair.source, &storage], &[&pair.target], &output);
        assert_eq!(storage.faults_acted(), 1);
    }
}

#[test]
fn a_target_that_was_wiped_is_filled_again() {
    let pair = Pair::new(300, Habit::DISTRIBUTION_3);
    let source = format!("{}:v1", pair.source.name("a"));
    let run = fast().rule(&source, pair.target.name("b"));
    drop(run.run().expect(0));
    for wipes_blobs_only in [false, true] {
        pair.target.with_state(|state| {
            let found = state.repositories.get_mut("b").expect("nothing was copied");
            found.tags.clear();
            found.blobs.clear();
            if !wipes_blobs_only {
                found.manifests.clear();
            }
        });
        drop(run.run().expect(0));
        assert_in_sync(&pair.source, "a", &pair.target, "b", &["v1"]);
    }
}

#[test]
fn force_puts_what_is_there_and_asks_for_every_blob() {
    let image = Maker::new(63).index(&["linux/amd64", "linux/arm64"], 100);
    let pair = Pair::of(image, Habit::DISTRIBUTION_3);
    let (source, target) = (pair.source.name("a:v1"), pair.target.name("b"));
    let run = fast().rule(&source, target.as_str());
    run.run().expect(0);
    // A blob is gone, and the tag does not tell.
    let blob = &pair.image.children[1].blobs[2].digest;
    pair.target.remove("b", blob);
    pair.target.forget();
    run.run().expect(0);
    assert_eq!(pair.target.total(), 1);
    pair.source.forget();
    pair.target.forget();
    let run = run.args(["--force", "--proc=1"]);
    let output = run.run().expect(0);
    assert_in_sync(&pair.source, "a", &pair.target, "b", &["v1"]);
    let summary = "1 copied, 0 unchanged, 0 failed; blobs: 1 sent, 0 mounted, 4 already there";
    assert!(output.stderr.contains(summary), "{}", output.stderr);
    // Three manifests, and five blobs that are each asked for once.
    let counts = pair.target.counts();
    let count = |kind| counts.get(&kind).copied().unwrap_or_default();
    assert_eq!(
        (count(Kind::ManifestPut), count(Kind::ManifestHead)),
        (3, 0)
    );
    assert_eq!((count(Kind::BlobHead), count(Kind::UploadPut)), (5, 1));
    assert_eq!(
        (pair.source.count(Kind::BlobGet), pair.source.total()),
        (1, 4)
    );
    // One rule alone may ask for it.
    let run = fast().rule(&source, json!({"to": target, "force": true}));
    let output = run.run().expect(0);
    check_invariants(&[&pair.source], &[&pair.target], &output);
    assert!(
        output.stderr.contains("1 copied, 0 unchanged"),
        "{}",
        output.stderr
    );
}
