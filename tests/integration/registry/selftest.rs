//! The fake registry's own tests: it must refuse what real registries refuse, or tests against it prove nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use image_syncer::oci::manifest::media_type;

use super::raw::{ask, get, post, put_blob, put_manifest, upload};
use super::*;
use crate::image::{Blob, Maker};

#[test]
fn a_manifest_needs_its_parts_in_its_own_repository() {
    let registry = FakeRegistry::new();
    let image = Maker::new(1).oci(&[100]);
    let refused = put_manifest(&registry, "a/b", "v1", &image).expect(400);
    assert!(refused.text().contains("MANIFEST_BLOB_UNKNOWN"));
    assert!(refused.text().contains(&image.blobs[0].digest));
    for blob in &image.blobs {
        upload(&registry, "a/other", blob).expect(201);
    }
    put_manifest(&registry, "a/b", "v1", &image).expect(400);
    for blob in &image.blobs {
        upload(&registry, "a/b", blob).expect(201);
    }
    put_manifest(
        &registry,
        "a/b",
        &format!("sha256:{}", "0".repeat(64)),
        &image,
    )
    .expect(400);
    put_manifest(&registry, "a/b", "v1", &image).expect(201);
    let stored = registry.manifest("a/b", "v1").unwrap();
    assert_eq!(stored.0, image.digest);
    let missing = |entry: &Entry| entry.missing.len();
    let puts: Vec<usize> = registry
        .history()
        .iter()
        .map(missing)
        .filter(|n| *n > 0)
        .collect();
    assert_eq!(puts, [2, 2]);
    assert!(registry.unexpected().is_empty());
}

#[test]
fn an_upload_needs_its_length_type_order_and_digest() {
    let registry = FakeRegistry::new();
    let blob = Maker::new(2).layer(64);
    let uploads = "/v2/a/blobs/uploads/";
    ask(registry.addr(), &format!("POST {uploads}"), None).expect(411);
    let location = post(&registry, uploads).expect(202).location();
    let untyped = format!("PUT {location}&digest={}", blob.digest);
    ask(registry.addr(), &untyped, Some(&blob.bytes)).expect(415);
    put_blob(&registry, &location, &blob.digest, b"else").expect(400);

    let location = post(&registry, uploads).expect(202).location();
    let patch = |location: &str, range: &str, bytes: &[u8]| {
        let head = format!(
            "PATCH {location}\nContent-Type: application/octet-stream\nContent-Range: {range}"
        );
        ask(registry.addr(), &head, Some(bytes))
    };
    patch(&location, "10-19", &blob.bytes[10..20]).expect(416);
    let reply = get(&registry, &location).expect(204);
    assert_eq!(reply.header("range"), Some("0-0"));
    let reply = patch(&reply.location(), "0-9", &blob.bytes[..10]).expect(202);
    assert_eq!(reply.header("range"), Some("0-9"));
    patch(&location, "10-19", &blob.bytes[10..20]).expect(416);
    put_blob(
        &registry,
        &reply.location(),
        &blob.digest,
        &blob.bytes[10..],
    )
    .expect(201);
    assert_eq!(registry.blob("a", &blob.digest).unwrap(), blob.bytes);
}

#[test]
fn a_gullible_registry_takes_anything() {
    let registry = FakeRegistry::start(Options::default().gullible());
    let image = Maker::new(3).oci(&[10]);
    put_manifest(&registry, "a", "v1", &image).expect(201);
    let location = post(&registry, "/v2/a/blobs/uploads/").location();
    put_blob(&registry, &location, &image.blobs[0].digest, b"wrong").expect(201);
    assert_eq!(registry.history()[0].missing.len(), 2);
}

#[test]
fn mounts_answer_as_each_habit_does() {
    let blob = Maker::new(4).layer(20);
    // From a repository that has it, from one that has not, from one that is not there, from itself, from nowhere.
    let table = [
        (Habit::DISTRIBUTION_3, [201, 202, 202, 202, 202]),
        (Habit::GGCR, [202, 202, 202, 202, 202]),
        (Habit::GITEA, [201, 202, 202, 202, 201]),
        (Habit::PULP, [201, 404, 401, 404, 202]),
        (Habit::CUE, [201, 404, 404, 404, 202]),
        (Habit::NO_SELF_MOUNT, [201, 202, 202, 202, 202]),
    ];
    for (habit, expected) in table {
        let name = habit.name;
        let sees_itself = habit.self_mounts;
        let registry = FakeRegistry::start(Options::default().habit(habit));
        upload(&registry, "has", &blob).expect(201);
        upload(&registry, "lacks", &Blob::empty()).expect(201);
        let mount = |to: &str, from: &str| {
            let path = format!("/v2/{to}/blobs/uploads/?mount={}{from}", blob.digest);
            post(&registry, &path).status
        };
        let got = [
            mount("t1", "&from=has"),
            mount("t2", "&from=lacks"),
            mount("t3", "&from=nowhere"),
            mount("t4", "&from=t4"),
            mount("t5", ""),
        ];
        assert_eq!(got, expected, "{name}");
        let itself = if sees_itself { 201 } else { 202 };
        assert_eq!(mount("has", "&from=has"), itself, "{name}");
        assert_eq!(registry.blob("t1", &blob.digest).is_some(), got[0] == 201);
    }
}

#[test]
fn tag_lists_come_in_pages() {
    let image = Maker::new(5).oci(&[]);
    let table = [
        (Habit::DISTRIBUTION_2, 3, None),
        (
            Habit::DISTRIBUTION_3,
            2,
            Some("</v2/a/tags/list?last=v2&n=2>; rel=\"next\""),
        ),
        (Habit::GGCR, 2, None),
    ];
    for (habit, count, link) in table {
        let registry = FakeRegistry::start(Options::default().habit(habit));
        for tag in ["v1", "v2", "v3"] {
            registry.push("a", tag, &image);
        }
        let reply = get(&registry, "/v2/a/tags/list?n=2").expect(200);
        let list: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(list["tags"].as_array().unwrap().len(), count);
        assert_eq!(reply.header("link"), link);
        get(&registry, "/v2/none/tags/list").expect(404);
    }
    let registry = FakeRegistry::new();
    registry.push("a", "v1", &image);
    get(&registry, "/v2/a/tags/list?n=x").expect(400);
    let rest = get(&registry, "/v2/a/tags/list?n=2&last=v1").expect(200);
    assert_eq!(rest.text(), r#"{"name":"a","tags":[]}"#);
}

#[test]
fn accept_decides_what_a_manifest_is() {
    let registry = FakeRegistry::new();
    for (tag, image) in Maker::new(6).corpus() {
        registry.push("a", tag, &image);
    }
    let fetch = |tag: &str, accept: &str| {
        let head = format!("GET /v2/a/manifests/{tag}\nAccept: {accept}");
        ask(registry.addr(), &head, None)
    };
    fetch("oci", media_type::DOCKER_IMAGE).expect(404);
    let child = fetch("docker-list", media_type::DOCKER_IMAGE).expect(200);
    assert_eq!(child.header("content-type"), Some(media_type::DOCKER_IMAGE));
    let all = media_type::ALL.join(", ");
    let list = fetch("docker-list", &all).expect(200);
    let digest = registry.manifest("a", "docker-list").unwrap().0;
    assert_eq!(list.header("docker-content-digest"), Some(&*digest));
    assert_eq!(sha256(&list.body), digest);
}

#[test]
fn ranges_are_answered_as_each_habit_does() {
    let blob = Maker::new(7).layer(100);
    for (habit, middle, end) in [
        (Habit::DISTRIBUTION_3, 206, 416),
        (Habit::GGCR, 416, 416),
        (Habit::GITEA, 200, 200),
        (Habit::CUE, 206, 206),
    ] {
        let registry = FakeRegistry::start(Options::default().habit(habit));
        upload(&registry, "a", &blob).expect(201);
        let fetch = |range: &str| {
            let head = format!("GET /v2/a/blobs/{}\nRange: bytes={range}", blob.digest);
            ask(registry.addr(), &head, None)
        };
        let reply = fetch("40-").expect(middle);
        if middle == 206 {
            assert_eq!(reply.body, blob.bytes[40..]);
            assert_eq!(reply.header("content-range"), Some("bytes 40-99/100"));
        }
        fetch("100-").expect(end);
    }
}

#[test]
fn tokens_carry_rights_and_run_out() {
    let bearer = Bearer {
        requests: Some(2),
        denied: vec![("closed".to_string(), "push".to_string())],
        ..Bearer::for_user("ada", "secret")
    };
    let registry = FakeRegistry::start(Options::default().bearer(bearer));
    registry.push("a", "v1", &Maker::new(8).oci(&[]));
    let challenge = get(&registry, "/v2/a/tags/list").expect(401);
    let challenge = challenge.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("scope=\"repository:a:pull\""),
        "{challenge}"
    );
    assert!(challenge.contains(&format!("realm=\"http://{}/token\"", registry.addr())));

    get(&registry, "/token?scope=repository:a:pull").expect(401);
    let token = |scope: &str| {
        let basic = Login::new("ada", "secret").basic();
        let head = format!("GET /token?service=x&scope={scope}\nAuthorization: {basic}");
        let reply = ask(registry.addr(), &head, None).expect(200);
        let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        answer["token"].as_str().unwrap().to_string()
    };
    let with_token = |head: &str, token: &str| {
        let head = format!("{head}\nAuthorization: Bearer {token}");
        ask(registry.addr(), &head, Some(b""))
    };
    let pull = token("repository:a:pull");
    let refused = with_token("POST /v2/a/blobs/uploads/", &pull).expect(401);
    assert!(refused.head.contains("insufficient_scope"));
    with_token("GET /v2/a/tags/list", &pull).expect(200);
    with_token("GET /v2/a/tags/list", &pull).expect(200);
    let refused = with_token("GET /v2/a/tags/list", &pull).expect(401);
    assert!(refused.head.contains("invalid_token"));

    let push = token("repository:a:pull,push");
    with_token("POST /v2/a/blobs/uploads/?mount=x&from=b", &push).expect(401);
    with_token("POST /v2/a/blobs/uploads/", &push).expect(202);
    let push = token("repository:closed:pull,push");
    with_token("POST /v2/closed/blobs/uploads/", &push).expect(401);
}

#[test]
fn storage_hosts_take_no_credentials() {
    let registry = FakeRegistry::new();
    let storage = registry.redirect_blobs("127.0.0.2");
    let image = Maker::new(9).oci(&[50]);
    registry.push("a", "v1", &image);
    let blob = &image.blobs[1];
    let reply = get(&registry, &format!("/v2/a/blobs/{}", blob.digest)).expect(307);
    let location = reply.header("location").unwrap();
    let path = location.strip_prefix(&format!("http://{}", storage.addr()));
    let path = path.expect("not at the storage host");
    assert_eq!(get(&storage, path).expect(200).body, *blob.bytes);
    assert!(storage.unexpected().is_empty());
    let shown = format!("GET {path}\nAuthorization: Basic x");
    ask(storage.addr(), &shown, None).expect(400);
    assert_eq!(storage.unexpected().len(), 1);
}

#[test]
fn requests_that_no_sync_makes_are_remembered() {
    let registry = FakeRegistry::new();
    ask(registry.addr(), "DELETE /v2/a/manifests/v1", None).expect(404);
    get(&registry, "/v2/_nothing").expect(404);
    assert_eq!(registry.unexpected().len(), 2);
}

#[test]
fn faults_act_on_the_requests_that_they_are_for() {
    let registry = FakeRegistry::new();
    let image = Maker::new(10).oci(&[1000]);
    registry.push("a", "v1", &image);
    let blob = &image.blobs[1];
    let path = format!("/v2/a/blobs/{}", blob.digest);
    let on_blob = |act| Fault::on(Kind::BlobGet, act);
    let with_fault = |fault: Fault| {
        registry.clear_faults();
        registry.fault(fault);
        let reply = get(&registry, &path);
        assert_eq!(registry.faults_acted(), 1);
        reply
    };
    registry.fault(on_blob(Act::status(503)).nth(Nth::Only(2)));
    let statuses = [(); 3].map(|()| get(&registry, &path).status);
    assert_eq!(statuses, [200, 503, 200]);

    let reply = with_fault(on_blob(Act::throttle(7))).expect(429);
    assert_eq!(reply.header("retry-after"), Some("7"));
    let reply = with_fault(on_blob(Act::CutBody(300, End::Fin))).expect(200);
    assert_eq!((reply.body.len(), reply.is_whole), (300, true));
    let reply = with_fault(on_blob(Act::CutBody(300, End::Reset)));
    assert!(!reply.is_whole);
    let reply = with_fault(on_blob(Act::CutBefore(End::Reset)));
    assert_eq!((reply.status, reply.is_whole), (0, false));
    let reply = with_fault(on_blob(Act::CutHead(20)));
    assert_eq!((reply.status, reply.body.len()), (0, 20));
    let reply = with_fault(on_blob(Act::Flip(500))).expect(200);
    assert_eq!(reply.body.len(), 1000);
    assert_ne!(reply.body, *blob.bytes);
    let reply = with_fault(on_blob(Act::Shorten(1)));
    assert_eq!(reply.header("content-length"), Some("999"));
    let reply = with_fault(on_blob(Act::Lengthen(1)));
    assert_eq!(reply.header("content-length"), Some("1001"));
    let reply = with_fault(on_blob(Act::RemoveHeader("content-length")));
    assert_eq!(reply.header("content-length"), None);
    let slow = Duration::from_millis(1);
    let reply = with_fault(on_blob(Act::Drip(400, slow))).expect(200);
    assert_eq!(reply.body, *blob.bytes);
    let reply = with_fault(on_blob(Act::Gc("a".to_string(), blob.digest.clone())));
    reply.expect(404);
}

#[test]
fn an_upload_can_be_done_without_an_answer() {
    let registry = FakeRegistry::new();
    let blob = Maker::new(11).layer(100);
    registry.fault(Fault::on(Kind::UploadPut, Act::CommitThenClose(End::Reset)));
    let reply = upload(&registry, "a", &blob);
    assert_eq!((reply.status, reply.is_whole), (0, false));
    assert!(registry.blob("a", &blob.digest).is_some());
}

#[test]
fn a_cut_upload_lives_on_where_real_ones_do() {
    for (habit, status) in [(Habit::DISTRIBUTION_3, 204), (Habit::DISTRIBUTION_2, 404)] {
        let registry = FakeRegistry::start(Options::default().habit(habit));
        let location = post(&registry, "/v2/a/blobs/uploads/").location();
        registry.fault(Fault::on(Kind::UploadPatch, Act::CutUpload(50)));
        let head = format!("PATCH {location}\nContent-Type: application/octet-stream");
        let reply = ask(registry.addr(), &head, Some(&[7; 100]));
        assert_eq!((reply.status, reply.is_whole), (0, false));
        let reply = get(&registry, &location).expect(status);
        let range = (status == 204).then_some("0-49");
        assert_eq!(reply.header("range"), range);
    }
}

#[test]
fn a_client_that_tries_tls_is_refused_at_once() {
    let registry = FakeRegistry::new();
    let mut stream = TcpStream::connect(registry.addr()).unwrap();
    stream.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn a_stalled_registry_stops_when_it_is_dropped() {
    let registry = FakeRegistry::new();
    registry.fault(Fault::on_any(Act::Stall));
    let mut stream = TcpStream::connect(registry.addr()).unwrap();
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    registry.wait_until(|history| history.len() == 1);
    drop(registry);
    assert_eq!(stream.read(&mut [0]).unwrap_or_default(), 0);
}

#[test]
fn connections_are_kept_and_a_body_is_continued() {
    let registry = FakeRegistry::new();
    let mut stream = TcpStream::connect(registry.addr()).unwrap();
    let mut converse = |request: &str, expected: &str| {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    };
    converse(
        "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/1.1 200 Answer\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    );
    let put =
        "PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    converse(put, "HTTP/1.1 100 Continue\r\n\r\n");
    converse("{}", "HTTP/1.1 400");
    assert_eq!(registry.connections(), 1);
}

#[test]
fn a_body_that_waits_for_leave_can_be_refused() {
    let registry = FakeRegistry::new();
    registry.fault(Fault::on(Kind::ManifestPut, Act::RefuseBody(413)));
    let mut stream = TcpStream::connect(registry.addr()).unwrap();
    let put =
        "PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(put.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn schema_1_has_the_digest_of_its_payload() {
    let layer = Maker::new(13).docker_layer(30);
    let image = Image::schema1_signed("a", "v1", &[layer]);
    assert_ne!(image.digest, sha256(&image.bytes));
    let registry = FakeRegistry::start(Options::default().habit(Habit::DISTRIBUTION_2_SCHEMA1));
    registry.push("a", "v1", &image);
    let accept = media_type::SCHEMA1_SIGNED;
    let head = format!("HEAD /v2/a/manifests/v1\nAccept: {accept}");
    let reply = ask(registry.addr(), &head, None).expect(200);
    assert_eq!(reply.header("docker-content-digest"), Some(&*image.digest));
    put_manifest(&registry, "a", "v2", &image).expect(201);
    assert_eq!(registry.manifest("a", "v2").unwrap().0, image.digest);
}
