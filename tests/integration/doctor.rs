//! `--doctor`: what is said of registries, repositories and layouts before a run, and that nothing is left at them. Not
//! here: what the same things do to a run.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::{Output, Run};
use crate::image::Maker;
use crate::registry::{
    Act, Authority, Bearer, FakeProxy, FakeRegistry, Fault, Habit, Kind, Nth, Options,
};

/// A doctor's run with these rules, one request at a time.
fn doctor(auth: &Value, images: &Value) -> Run {
    Run::new()
        .config(json!({"auth": auth, "images": images}))
        .args(["--doctor", "--proc=1"])
        .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
}

fn source() -> FakeRegistry {
    let source = FakeRegistry::new();
    source.push("a", "v1", &Maker::new(1).oci(&[100]));
    source
}

/// Asserts that these lines stand in the report, and that the registries hold what they held.
#[track_caller]
fn assert_says(output: &Output, lines: &[&str]) {
    for line in lines {
        let said = &output.stdout;
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    assert!(output.records.is_empty() && output.written.is_empty());
}

/// Asserts that nothing but reads, uploads and their cancelling has come here, and that no upload is open.
#[track_caller]
fn assert_untouched(registry: &FakeRegistry) {
    let history = registry.history();
    let is_left = |kind| history.iter().filter(|entry| entry.kind == kind).count();
    for kind in [Kind::ManifestPut, Kind::UploadPatch, Kind::UploadPut] {
        assert_eq!(is_left(kind), 0, "{history:#?}");
    }
    let opened = history
        .iter()
        .filter(|entry| entry.kind == Kind::UploadPost && entry.status == 202);
    for opened in opened {
        let cancelled = history
            .iter()
            .filter(|entry| entry.kind == Kind::UploadDelete && entry.session == opened.session);
        assert_eq!(cancelled.count(), 1, "{history:#?}");
    }
    registry.with_state(|state| assert!(state.sessions.is_empty(), "{:?}", state.sessions));
}

#[test]
fn a_report_has_each_registry_once_and_costs_few_requests() {
    let source = FakeRegistry::start(Options::default().bearer(Bearer::anonymous()));
    let image = Maker::new(1).oci(&[100]);
    for (repository, tag) in [("a", "v1"), ("a", "v2"), ("b", "old")] {
        source.push(repository, tag, &image);
    }
    let habit = Habit {
        cancel_wants_delete: false,
        ..Habit::ZOT
    };
    let options = Options::default()
        .habit(habit)
        .bearer(Bearer::for_user("robot", "hunter2"));
    let target = FakeRegistry::start(options);
    let auth =
        json!({target.addr(): {"username": "robot", "password": "hunter2", "insecure": true}});
    let images = json!({
        source.name("a") + ":v1,v2": [target.name("m/a"), target.name("n/a")],
        source.name("b"): target.name("m/b"),
    });
    let output = doctor(&auth, &images)
        .secret("hunter2", &[&target])
        .run()
        .expect(0);
    let report = output.stdout.replace(source.addr(), "SOURCE");
    let expected = "SOURCE
  ok    its address is 127.0.0.1
  note  it is spoken to by plain http: whoever is between reads all, the login too
  note  it does not tell the time
  ok    there is no login, it is asked without one
  ok    it tells of no quota
  note  it does not list the referrers of an image, as far as SOURCE/a shows: tags stand in for the list
  ok    a can be read: v1 is there
  ok    b can be read: old is there
TARGET
  ok    its address is 127.0.0.1
  note  it is spoken to by plain http: whoever is between reads all, the login too
  note  it does not tell the time
  ok    the login is that of auth key \"TARGET\"
  ok    it tells of no quota
  ok    it opens uploads for parts of any size; whether it takes them is not known until a run
  ok    it answers a mount of a blob that is nowhere by an upload, as it should; whether it mounts is not known until a run
  ok    it lists the referrers of an image
  ok    m/a can be written
  ok    n/a can be written
  ok    m/b can be written
Nothing bad was found
";
    assert_eq!(report.replace(target.addr(), "TARGET"), expected);
    assert_says(&output, &[]);

    // The first request of each, which is answered by a challenge, is not counted here.
    let counts = |registry: &FakeRegistry| {
        let mut counts = registry.counts();
        counts.remove(&Kind::Token);
        counts.into_iter().collect::<Vec<_>>()
    };
    let reads = [
        (Kind::TagsList, 1),
        (Kind::ManifestHead, 2),
        (Kind::Referrers, 1),
    ];
    assert_eq!(counts(&source), reads);
    let writes = [
        (Kind::Referrers, 1),
        (Kind::UploadPost, 3),
        (Kind::UploadDelete, 3),
    ];
    assert_eq!(counts(&target), writes);
    for registry in [&source, &target] {
        let pings = registry.history().into_iter();
        assert_eq!(pings.filter(|entry| entry.kind == Kind::Ping).count(), 1);
    }
    assert_untouched(&target);
}

#[test]
fn what_a_run_would_fail_by_is_told_with_its_remedy() {
    let denied = |right: &str| Bearer {
        denied: vec![("a".to_owned(), right.to_owned())],
        ..Bearer::for_user("u", "hunter2")
    };
    let wrong_password = json!({"username": "u", "password": "wrong-one", "insecure": true});
    let right_password = json!({"username": "u", "password": "hunter2", "insecure": true});
    let rights = "check its password and its rights, and that the repository and its project exist";
    for (options, auth, lines) in [
        (
            Options::default().basic("u", "hunter2"),
            &wrong_password,
            vec![
                "bad   a cannot be read: GET",
                "bad   b cannot be written: POST",
                rights,
            ],
        ),
        (
            Options::default().basic("u", "hunter2"),
            &json!({"insecure": true}),
            vec!["bad   a cannot be read", "no `auth` entry fits; add one"],
        ),
        (
            Options::default().bearer(Bearer::for_user("u", "hunter2")),
            &wrong_password,
            vec![
                "bad   a cannot be read",
                "bad   b cannot be written",
                rights,
            ],
        ),
        (
            Options::default().bearer(denied("pull")),
            &right_password,
            vec!["bad   a cannot be read", "ok    b can be written", rights],
        ),
        (
            Options::default().bearer(denied("push")),
            &right_password,
            vec![
                "ok    a can be read",
                "bad   a cannot be written",
                "ok    b can be written",
                rights,
            ],
        ),
    ] {
        let registry = FakeRegistry::start(options);
        registry.push("a", "v1", &Maker::new(1).oci(&[100]));
        let images = json!({
            registry.name("a") + ":v1": registry.name("b"),
            registry.name("b") + ":v1": registry.name("a"),
        });
        let output = doctor(&json!({registry.addr(): auth}), &images)
            .secret("hunter2", &[&registry])
            .secret("wrong-one", &[&registry])
            .run()
            .expect(1);
        assert_says(&output, &lines);
        for text in [&output.stdout, &output.stderr] {
            assert!(
                !text.contains("hunter2") && !text.contains("wrong-one"),
                "{text}"
            );
        }
        let with_login = registry.history().into_iter().filter(|entry| {
            let basic = entry.authorization.as_ref();
            entry.status == 401 && basic.is_some_and(|text| text.starts_with("Basic "))
        });
        assert!(with_login.count() <= 3, "{:#?}", registry.history());
    }
}

/// A copy to a target with this habit, at which something is always so: what is said, and what the exit status is.
#[track_caller]
fn assert_told(habit: Habit, faults: impl IntoIterator<Item = Fault>, status: i32, lines: &[&str]) {
    let can_cancel = habit.cancel_status == 204;
    let (source, target) = (
        source(),
        FakeRegistry::start(Options::default().habit(habit)),
    );
    for fault in faults {
        target.fault(fault);
    }
    let images = json!({ source.name("a"): target.name("b") });
    let output = doctor(&json!({}), &images).run().expect(status);
    assert_says(&output, lines);
    if can_cancel {
        assert_untouched(&target);
    }
}

fn header(kind: Kind, name: &'static str, value: &str) -> Fault {
    Fault::on(kind, Act::SetHeader(name, value.to_owned()))
}

#[test]
fn what_a_registry_can_do_is_told_as_far_as_it_shows() {
    let plain = || Habit::DISTRIBUTION_3;
    let no_mount = "it answers a mount of a blob that is nowhere by 404 and no upload: a run asks for one more";
    let lines = [no_mount, "ok    b can be written"];
    assert_told(Habit::CUE, [], 0, &lines);
    let line = "note  it does not let uploads be cancelled: the empty ones that were opened, 1,";
    assert_told(Habit::GHCR, [], 0, &[line]);
    let fault = header(Kind::UploadPost, "OCI-Chunk-Min-Length", "1048576");
    let line = "it opens uploads for parts of at least 1048576 bytes";
    assert_told(plain(), [fault], 0, &[line]);
    let fault = Fault::on(Kind::Referrers, Act::status(500));
    let line = "note  whether it lists the referrers of an image is not known until a run: GET";
    assert_told(plain(), [fault], 0, &[line]);

    let remaining = "RateLimit-Remaining";
    let fault = header(Kind::UploadPost, remaining, "76;w=21600");
    let line = "ok    its quota has 76 requests left; there are more within 5h 59m";
    assert_told(plain(), [fault], 0, &[line]);
    let fault = header(Kind::UploadPost, remaining, "0;w=21600");
    let line = "bad   its quota is used up, until there is more within 5h 59m";
    assert_told(plain(), [fault], 1, &[line, ": wait, or sign in"]);
}

#[test]
fn a_clock_that_is_wrong_is_told() {
    let (now, hour) = (SystemTime::now(), Duration::from_hours(1));
    let bad = "bad   its clock is ";
    for (time, status, lines) in [
        (now, 0, ["ok    its clock is ", "Nothing bad was found"]),
        (
            now + hour,
            1,
            [bad, " ahead of this machine's: set the one that is wrong"],
        ),
        (
            now - hour,
            1,
            [bad, " behind this machine's: set the one that is wrong"],
        ),
    ] {
        let fault = header(Kind::Ping, "Date", &httpdate::fmt_http_date(time));
        assert_told(Habit::DISTRIBUTION_3, [fault], status, &lines);
    }
}

#[test]
fn a_target_that_refuses_is_told() {
    let cannot = "bad   b cannot be written: POST";
    for (kind, status, lines) in [
        (Kind::UploadPost, 403, [cannot, "403 Forbidden"]),
        (
            Kind::UploadPost,
            404,
            [cannot, "may have to be created first"],
        ),
        (
            Kind::Ping,
            502,
            ["bad   nothing can be asked of it: GET", "502 Bad Gateway"],
        ),
    ] {
        let fault = Fault::on(kind, Act::status(status));
        assert_told(Habit::DISTRIBUTION_3, [fault], 1, &lines);
    }
}

#[test]
fn certificates_are_told_with_who_signed_them_and_until_when() {
    let authority = Authority::new("Corp CA");
    let good = authority.sign(&["127.0.0.1"]);
    let (old, other) = (
        authority.sign_expired(&["127.0.0.1"]),
        authority.sign(&["other.example"]),
    );
    let trusted = json!({"ca": "ca.pem"});
    let insecure = json!({"insecure": true});
    for (identity, auth, status, lines) in [
        (
            &good,
            &trusted,
            0,
            [
                "ok    its certificate is signed by \"Corp CA\" and runs out in ",
                " days\n",
            ],
        ),
        (
            &old,
            &insecure,
            0,
            [
                "note  its certificate is signed by \"Corp CA\" and ran out ",
                "since it is `insecure`",
            ],
        ),
        (
            &old,
            &trusted,
            1,
            [
                "bad   nothing can be asked of it: GET",
                "the local clock says",
            ],
        ),
        (
            &other,
            &trusted,
            1,
            [
                "bad   nothing can be asked of it: GET",
                "a name that its certificate has",
            ],
        ),
        (
            &good,
            &json!({}),
            1,
            [
                "bad   nothing can be asked of it: GET",
                "by `ca` in the registry's `auth` entry",
            ],
        ),
    ] {
        let source = source();
        let target = FakeRegistry::start(Options::default().tls(identity.server(&[])));
        let images = json!({ source.name("a"): target.name("b") });
        let output = doctor(&json!({target.addr(): auth}), &images)
            .file("ca.pem", authority.pem())
            .run()
            .expect(status);
        assert_says(&output, &lines);
        // What cannot be reached is asked for nothing else, and costs the others nothing.
        assert_says(&output, &["ok    a can be read: v1 is there"]);
        assert_eq!(target.history().is_empty(), status == 1);
    }
}

#[test]
fn a_proxy_is_told_in_place_of_addresses() {
    let (source, name) = (source(), "registry.example:5000");
    let target = FakeRegistry::start(Options::default().named(name));
    let proxy = FakeProxy::new(&[(name, target.socket())], Some("u:hunter2"));
    let auth = json!({ name: {"plain_http": true} });
    let output = doctor(&auth, &json!({ source.name("a"): target.name("b") }))
        .env("HTTP_PROXY", format!("http://u:hunter2@{}", proxy.addr()))
        .secret("hunter2", &[])
        .run()
        .expect(0);
    let line = format!(
        "ok    it is reached through the proxy http://{} (HTTP_PROXY)",
        proxy.addr()
    );
    assert_says(&output, &[&line, "ok    b can be written"]);
    assert!(!format!("{}{}", output.stdout, output.stderr).contains("hunter2"));
}

#[test]
fn a_registry_that_cannot_be_reached_is_told_once() {
    let source = source();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let down = port.local_addr().unwrap().to_string();
    drop(port);
    let images = json!({
        source.name("a"): [format!("{down}/b"), format!("{down}/c"), "registry.invalid/d"],
        format!("{down}/team/*"): "registry.invalid/e",
    });
    let output = doctor(&json!({}), &images).run().expect(1);
    let refused = format!("GET http://{down}/v2/: no connection: Connection refused");
    let lost = "GET https://registry.invalid/v2/: no address for registry.invalid";
    let remedy = "bad   it cannot be reached; check its name and port";
    assert_says(&output, &["ok    a can be read", &refused, lost, "2 bad: "]);
    assert_eq!(
        output.stdout.matches(remedy).count(),
        2,
        "{}",
        output.stdout
    );
}

#[test]
fn a_namespace_is_looked_at_by_the_list_of_its_registry() {
    let source = source();
    source.push("team/x", "v1", &Maker::new(1).oci(&[100]));
    source.push("team/y", "v1", &Maker::new(1).oci(&[100]));
    let mute = FakeRegistry::start(Options::default().habit(Habit::GHCR));
    let target = FakeRegistry::new();
    let images = json!({
        source.name("team/*"): target.name("m"),
        source.name("team/**"): target.name("n"),
        source.name("none/*"): target.name("m"),
        mute.name("team/*"): target.name("m"),
    });
    let output = doctor(&json!({}), &images).run().expect(1);
    let not_told = format!(
        "bad   {} does not list its repositories (404 Not Found)",
        mute.addr()
    );
    assert_says(
        &output,
        &[
            "ok    it lists its repositories, 2 of them in team\n",
            "bad   it lists its repositories, and none is in none\n",
            &not_told,
            "ok    team/x can be read",
            "ok    team/y can be read",
            "ok    m/x can be written",
            "ok    n/y can be written",
            "2 bad: ",
        ],
    );
    assert_eq!(
        (source.count(Kind::Catalog), mute.count(Kind::Catalog)),
        (1, 1)
    );
    assert_untouched(&target);
}

#[test]
fn what_is_not_at_a_source_is_told_unless_another_rule_may_bring_it() {
    let (source, target) = (source(), FakeRegistry::new());
    source.push("empty", "v1", &Maker::new(1).oci(&[100]));
    source.with_state(|state| state.repositories.get_mut("empty").unwrap().tags.clear());
    let images = json!({
        source.name("a") + ":v9": target.name("m"),
        source.name("gone"): target.name("m"),
        source.name("empty"): target.name("n"),
        // Brought by the first two.
        target.name("m") + ":v9": target.name("o"),
        source.name("a") + ":v1:v2": target.name("p"),
    });
    let output = doctor(&json!({}), &images).run().expect(1);
    assert_says(
        &output,
        &[
            "rules\n  bad   ./image-syncer.json:1:",
            "two colons",
            "bad   a has no v9, or does not let it be seen: check its name, and the login",
            "bad   gone is not there, or may not be seen: check its name, and the login",
            "bad   empty has no tags",
            "note  m has no v9",
            "it is a target too, so a rule may bring it",
            "4 bad: ",
        ],
    );
    assert_untouched(&target);
}

#[test]
fn layouts_are_looked_at_without_being_made() {
    let source = source();
    let run = doctor(
        &json!({}),
        &json!({
            source.name("a"): ["oci:new/deep/one", "oci:foreign", "oci:file/below"],
            "oci:none": source.name("x"),
            "oci:new/deep/one": source.name("y"),
        }),
    );
    let run = run.file("foreign/note", "x").file("file", "x");
    let output = run.run().expect(1);
    let path = |name| format!("oci:{}\n", run.path(name).display());
    let folder = run.path("new");
    assert_says(
        &output,
        &[
            &(path("new/deep/one")
                + "  note  it is not there, or may not be seen: check its name, and the login; it is a target too, so a \
                   rule may bring it\n  ok    it can be written\n"),
            &(path("foreign") + "  bad   it cannot be written: "),
            "is no OCI layout",
            &(path("file/below") + "  bad   it cannot be written: cannot "),
            &(path("none") + "  bad   it is not there, or may not be seen"),
            "3 bad: ",
        ],
    );
    assert!(!folder.exists());

    // One that is there.
    let (source_name, folder) = (source.name("a"), "oci:here");
    let run = Run::new().args([&*source_name, folder]);
    run.run().expect(0);
    let before = fs::read_dir(run.path("here")).unwrap().count();
    let again = doctor(
        &json!({}),
        &json!({
            format!("oci:{}", run.path("here").display()): source.name("z"),
            source_name: format!("oci:{}", run.path("here").display()),
        }),
    );
    let output = again.run().expect(0);
    let lines = "  ok    it can be read: v1 is there\n  ok    it can be written\n";
    assert_says(&output, &[lines]);
    assert_eq!(fs::read_dir(run.path("here")).unwrap().count(), before);
}

#[test]
fn hundreds_of_repositories_are_asked_a_few_at_once_and_told_in_the_order_of_the_rules() {
    let (source, target) = (source(), FakeRegistry::new());
    let names: Vec<String> = (0..300)
        .map(|number| format!("m/{:03}", (number * 7) % 300))
        .collect();
    let targets: Vec<String> = names.iter().map(|name| target.name(name)).collect();
    let images = json!({ source.name("a"): targets });
    let auth = json!({ target.addr(): {"concurrency": 3} });
    let output = doctor(&auth, &images).arg("--proc=64").run().expect(0);
    let told: Vec<&str> = output
        .stdout
        .lines()
        .filter_map(|line| {
            line.strip_prefix("  ok    ")?
                .strip_suffix(" can be written")
        })
        .collect();
    assert_eq!(told, names);
    assert!(target.peak_connections() <= 3);
    assert_eq!(target.count(Kind::Ping), 1);
    assert_untouched(&target);
}

#[test]
fn a_registry_that_asks_for_a_pause_is_left_alone() {
    let (source, target) = (source(), FakeRegistry::new());
    let throttle = Fault::on(Kind::UploadPost, Act::throttle(3600)).nth(Nth::Only(2));
    target.fault(throttle);
    let names = ["b", "c", "d", "e"].map(|name| target.name(name));
    let output = doctor(&json!({}), &json!({ source.name("a"): names }))
        .run()
        .expect(1);
    assert_says(
        &output,
        &[
            "ok    b can be written",
            "bad   c cannot be written: POST",
            "a pause of 3600 s is asked for",
            "note  d was not asked for any more",
            "note  e was not asked for any more",
        ],
    );
    assert_eq!(target.count(Kind::UploadPost), 2);
    assert_eq!(target.count(Kind::Referrers), 0);
    assert_untouched(&target);
}

#[test]
fn the_report_goes_where_results_go_and_a_signal_ends_it() {
    let (source, target) = (source(), FakeRegistry::new());
    let images = json!({ source.name("a"): target.name("b") });
    let quiet = doctor(&json!({}), &images).args(["--quiet", "--records=r"]);
    let output = quiet.run().expect(0);
    assert_says(&output, &["b can be written"]);
    assert_eq!(output.stderr, "");
    let output = doctor(&json!({}), &images).arg("--log=log").run().expect(0);
    assert_eq!((&*output.stdout, &*output.stderr), ("", ""));
    assert!(output.written["log"].contains("  ok    b can be written\n"));

    target.fault(Fault::on(Kind::UploadPost, Act::Stall));
    let running = doctor(&json!({}), &images).spawn();
    target.wait_until(|history| {
        history
            .iter()
            .filter(|e| e.kind == Kind::UploadPost)
            .count()
            == 3
    });
    running.signal("TERM");
    let output = running.wait().expect(143);
    assert_eq!(output.stdout, "");
}

#[test]
fn each_login_is_told_with_whom_it_is_for() {
    let registry = FakeRegistry::start(Options::default().basic("u", "hunter2"));
    let login = json!({"username": "u", "password": "hunter2"});
    let auth = json!({
        registry.addr(): {"insecure": true, "username": "u", "password": "hunter2"},
        registry.name("team"): login,
    });
    let targets = ["a", "team/b", "c"].map(|name| registry.name(name));
    let output = doctor(&auth, &json!({ source().name("x"): targets }))
        .run()
        .expect(1);
    let (name, addr) = (|name| registry.name(name), registry.addr());
    let first = format!(
        "ok    the login is that of auth key {addr:?} (for {} and 1 more)",
        name("a")
    );
    let team = name("team");
    let second = format!(
        "ok    the login is that of auth key {team:?} (for {})",
        name("team/b")
    );
    assert_says(&output, &[&first, &second]);
}
