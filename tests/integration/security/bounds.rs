//! Bounds on what is read into memory: of a registry's answers and of the user's files. What is more is an error that
//! says so, never a text that is cut, and little of it is told. Not here: helpers (`credentials`), certificates
//! (`registry/trust.rs`), layouts (`layout`), waits (`retries`).

use serde_json::json;

use crate::harness::{Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, Authority, Bearer, FakeRegistry, Fault, Habit, Kind, Options};

const MIB: usize = 1 << 20;

#[test]
fn no_answer_is_read_beyond_its_bound() {
    let of = |size: usize| vec![b' '; size];
    let whole = |size| Act::Status(200, Vec::new(), of(size));
    let refusal = |text: &[u8]| Act::Status(403, Vec::new(), [text, &of(10 * MIB)].concat());
    let raw = |text: String| Act::Raw(format!("HTTP/1.1 200 OK\r\n{text}\r\n").into_bytes());
    let table = [
        (
            Kind::ManifestGet,
            whole(8 * MIB + 1),
            "more than 8388608 bytes",
        ),
        (
            Kind::ManifestGet,
            Act::Lengthen(9 * MIB),
            "more than 8388608 bytes",
        ),
        (
            Kind::TagsList,
            whole(16 * MIB + 1),
            "more than 16777216 bytes",
        ),
        (
            Kind::Catalog,
            whole(16 * MIB + 1),
            "more than 16777216 bytes",
        ),
        (Kind::Token, whole((64 << 10) + 1), "more than 65536 bytes"),
        (
            Kind::Referrers,
            whole(8 * MIB + 1),
            "more than 8388608 bytes",
        ),
        // Of an error as much is read as can be shown.
        (Kind::ManifestGet, refusal(b"no"), "403 Forbidden: no"),
        (
            Kind::ManifestGet,
            refusal(b"<html>"),
            "403 Forbidden: (a web page)",
        ),
        (Kind::Token, refusal(b"no"), "403 Forbidden: no"),
        (
            Kind::ManifestGet,
            Act::SetHeader("Content-Length", u64::MAX.to_string()),
            "more than 8388608 bytes",
        ),
        (Kind::ManifestGet, raw("X: y\r\n".repeat(200)), "failed: "),
        (
            Kind::ManifestGet,
            raw(format!("X: {}\r\n", "y".repeat(MIB))),
            "failed: ",
        ),
        (
            Kind::ManifestGet,
            raw("HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000)),
            "failed: ",
        ),
    ];
    for (kind, act, says) in table {
        let options = Options::default().habit(Habit::ZOT);
        let source = FakeRegistry::start(options.bearer(Bearer::for_user("ada", "pw")));
        let target = FakeRegistry::new();
        source.push("a/b", "v1", &Maker::new(1).oci(&[50]));
        source.fault(Fault::on(kind, act));
        let name = source.name(if kind == Kind::Catalog { "a/*" } else { "a/b" });
        let output = Run::new()
            .env("IMAGE_SYNCER_TIME_SCALE", "0.001")
            .auth(&source, "ada", "pw")
            .rule(&name, target.name("b"))
            .args(["--retries=0", "--referrers"])
            .run()
            .expect(1);
        check_invariants(&[&source], &[&target], &output);
        let said = &output.stderr;
        assert!(said.contains(says), "{kind:?}: no {says:?}: {said:.4000}");
        assert!(said.len() < 40_000, "{kind:?}: {} bytes", said.len());
    }
}

#[test]
fn no_file_of_the_user_is_read_beyond_its_bound() {
    let source = FakeRegistry::start(Options::default().basic("ada", "pw"));
    let target = FakeRegistry::new();
    source.push("a", "v1", &Maker::new(1).oci(&[50]));
    let images = json!({ source.name("a:v1"): target.name("b") });
    let config = |entry| json!({"auth": {source.addr(): entry}, "images": images}).to_string();
    let login = json!({"username": "ada", "password": "pw"});
    let by_file = json!({"username": "ada", "password_file": "file"});
    let by_docker = json!({"auths": {source.addr(): login}}).to_string();
    let with_ca = json!({"username": "ada", "password": "pw", "ca": "file"});
    let not_read = "cannot read the file: it is larger than 16 MiB";
    // What of the command line and the environment leads to the file, the config beside it, what the file holds, how
    // long it may be, how a run ends if it is longer, and what is said then.
    for (place, beside, text, bound, status, says) in [
        (
            "--config=file",
            String::new(),
            config(login.clone()),
            16 * MIB,
            2,
            not_read,
        ),
        (
            "--config=-",
            String::new(),
            config(login.clone()),
            16 * MIB,
            2,
            not_read,
        ),
        (
            "",
            config(by_file),
            "pw".to_string(),
            MIB,
            1,
            "file too large; write the login",
        ),
        (
            "REGISTRY_AUTH_FILE",
            config(json!({})),
            by_docker,
            MIB,
            1,
            "file is not used: it cannot be",
        ),
        (
            "",
            config(with_ca),
            Authority::new("x").pem(),
            16 * MIB,
            2,
            "file: it cannot be read: file too large",
        ),
    ] {
        for size in [text.len(), bound + 1] {
            let file = format!("{text}{}", "\n".repeat(size - text.len()));
            let run = Run::new()
                .arg("--retries=0")
                .env("IMAGE_SYNCER_TIME_SCALE", "0.001");
            let run = match place {
                "" => run,
                "--config=-" => run.arg(place).stdin(file.clone()),
                option if option.starts_with("--") => run.arg(option),
                variable => run.env(variable, "file"),
            };
            let output = run.config(&beside).file("file", file).run();
            let status = if size > bound { status } else { 0 };
            assert_eq!(output.status, Some(status), "{place}: {}", output.stderr);
            assert_eq!(
                output.stderr.contains(says),
                size > bound,
                "{place}: {}",
                output.stderr
            );
        }
    }
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
}

#[test]
fn a_list_of_anything_costs_little_more_memory_than_its_bytes() {
    // Two million numbers in 4 MiB, or half a million lists.
    for entry in ["1,", "[[{}]],"] {
        let entries = entry.repeat(4 * MIB / entry.len());
        let page = format!("{{\"tags\":[{entries}\"v1\"]}}").into_bytes();
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        source.push("a", "v1", &Maker::new(1).oci(&[50]));
        source.fault(Fault::on(
            Kind::TagsList,
            Act::Status(200, Vec::new(), page),
        ));
        let run = Run::new().rule(&source.name("a"), target.name("b"));
        let run = run.arg("--proc=1").env("MALLOC_ARENA_MAX", "1");
        // In KiB.
        run.in_shell("ulimit -v 80000; exec \"$@\"").run().expect(0);
        assert_eq!(target.tags("b"), ["v1"]);
    }
}
