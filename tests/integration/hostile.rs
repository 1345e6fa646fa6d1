//! Registries that mean harm: what they name, what they send, and what they would like to see in our logs
//! (reliability.md section 3, issue "Hostile input"). Each image of theirs fails, and nothing else. Not here: logins, and
//! how much is sent (`security`).

use serde_json::{Value, json};

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Image, Maker, with};
use crate::invariants::check_invariants;
use crate::registry::{Act, Counts, FakeRegistry, Fault, Kind, Nth, Options, sha256};

const USER: &str = "ada";
const PASSWORD: &str = "p:l/a+n t\"ed";

/// A source that wants a password, and an honest target.
struct Pair {
    source: FakeRegistry,
    target: FakeRegistry,
}

impl Pair {
    /// With a sound image at `a:good`.
    fn new() -> Self {
        let source = FakeRegistry::start(Options::default().basic(USER, PASSWORD));
        source.push("a", "good", &Maker::new(90).oci(&[300]));
        let target = FakeRegistry::start(Options::default().at("127.0.0.2"));
        Self { source, target }
    }

    /// The same, and this image at `a:bad`.
    fn holding(image: &Image) -> Self {
        let pair = Self::new();
        pair.source.push("a", "bad", image);
        pair
    }

    /// Copies these tags at trace level, and checks what must hold of any run and of every text that comes of it.
    #[track_caller]
    fn run(&self, tags: &str) -> Output {
        let output = Run::new()
            .env("IMAGE_SYNCER_TIME_SCALE", "0.001")
            .auth(&self.source, USER, PASSWORD)
            .rule(
                &format!("{}{tags}", self.source.name("a")),
                self.target.name("b"),
            )
            .args(["--retries=0", "--proc=2", "--log-level=trace"])
            .run();
        check_invariants(&[&self.source], &[&self.target], &output);
        let mut texts = vec![&output.stdout, &output.stderr];
        texts.extend(&output.records);
        for text in texts {
            let unsafe_character = text.chars().find(|c| is_unsafe(*c));
            assert_eq!(unsafe_character, None, "{text:?}");
        }
        output
    }

    /// Copies `good` and `bad`: only the good one arrives. The other one counts as one image that failed.
    #[track_caller]
    fn fails(&self) -> Output {
        let output = self.run(":bad,good").expect(1);
        let (failed, not_read) = output.finished().expect("no closing line");
        assert_eq!(failed + not_read, 1, "{}", output.stderr);
        assert_in_sync(&self.source, "a", &self.target, "b", &["good"]);
        assert_eq!(self.target.tags("b"), ["good"]);
        output
    }
}

/// What moves a cursor, begins a line or turns the direction of reading.
fn is_unsafe(c: char) -> bool {
    c != '\n' && c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
            && c != '\u{202f}'
}

/// A manifest of the sound image's kind, with these fields in place of its own.
fn manifest_with(fields: Value) -> Image {
    let mut maker = Maker::new(91);
    let (config, layer) = (maker.config("linux/amd64"), maker.layer(20));
    Image::oci_with(&config, &[layer], fields)
}

#[test]
fn tags_that_are_none_are_left_out() {
    let pair = Pair::new();
    let long = "x".repeat(129);
    let tags = json!([
        "good", "../../x", "a/../b", "\u{1b}]0;owned\u{7}", "\u{202e}dab", "two words", "", null, 5, {"a": 1}, "good",
        "-x", ".x", "a:b", "a@b", "x\r\nHost: y", "sha256:0000", "?n=1", "%2e%2e", long,
    ]);
    let body = json!({"name": "a", "tags": tags}).to_string().into_bytes();
    let list = Act::Status(200, Vec::new(), body);
    pair.source.fault(Fault::on(Kind::TagsList, list));
    pair.run("").expect(0);
    assert_eq!(pair.target.tags("b"), ["good"]);
    let strangers = pair.source.history().into_iter().filter(|entry| {
        !matches!(entry.reference.as_str(), "" | "good") && !entry.reference.starts_with("sha256:")
    });
    assert_eq!(strangers.count(), 0);
}

#[test]
fn descriptors_that_are_none_are_refused_before_anything_is_asked() {
    let hex = "0123456789abcdef".repeat(4);
    let right = format!("sha256:{hex}");
    let digests = [
        "sha256:../../../../etc/passwd".to_string(),
        "sha256:..%2f..%2f".to_string(),
        "../blobs/uploads/".to_string(),
        String::new(),
        "sha256:".to_string(),
        hex.clone(),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("md5:{}", &hex[..32]),
        format!("sha384:{hex}{}", &hex[..32]),
        format!("sha256:{}\u{1b}[2J", &hex[..60]),
        format!("sha256:{}?x", &hex[..62]),
        format!("sha256:{hex}\n"),
    ];
    let digests = digests
        .iter()
        .map(|digest| json!({"digest": digest, "size": 5}));
    let sizes = [
        json!(-1),
        json!(1.5),
        json!("5"),
        json!(null),
        json!(1e30),
        json!([]),
    ];
    let sizes = sizes
        .iter()
        .map(|size| json!({"digest": right, "size": size}));
    for (number, broken) in digests.chain(sizes).enumerate() {
        let descriptor = with(json!({"mediaType": "application/octet-stream"}), broken);
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        let image = match number % 3 {
            0 => manifest_with(json!({"layers": [descriptor]})),
            1 => manifest_with(json!({"config": descriptor})),
            _ => Image::new("application/vnd.oci.image.index.v1+json", &index),
        };
        let pair = Pair::holding(&image);
        pair.fails();
        let asked = pair.source.history();
        let strange = asked.iter().filter(|entry| {
            let path = &entry.target;
            entry.kind == Kind::Other || path.contains("..") || path.contains(&hex[1..])
        });
        assert_eq!(strange.count(), 0, "{descriptor}");
    }
}

#[test]
fn manifests_that_can_be_read_in_two_ways_are_refused() {
    let sound = manifest_with(json!({}));
    let text = String::from_utf8(sound.bytes.to_vec()).expect("no text");
    let (_, fields) = text.split_once('{').expect("no object");
    let before = |field: &str| format!("{{{field},{fields}");
    let entry = sound.descriptor();
    for text in [
        before(&format!("\"manifests\":[{entry}]")),
        before(&format!("\"Manifests\":[{entry}]")),
        before("\"layers\":[]"),
        before("\"Layers\":[]"),
        before("\"LAYERS\":[]"),
        before("\"config\":null"),
        before("\"Config\":{}"),
        before("\"fsLayers\":[]"),
        before("\"mediaType\":\"application/vnd.oci.image.index.v1+json\""),
        format!("{text}{text}"),
        format!("\u{feff}{text}"),
        format!("{text}\0"),
        format!("[{text}]"),
        "[".repeat(100_000),
        before(&format!("\"x\":{}1{}", "[".repeat(200), "]".repeat(200))),
        String::new(),
        "null".to_string(),
    ] {
        let image = Image::from_bytes(&sound.media_type, text.into_bytes()).holding(&sound.blobs);
        Pair::holding(&image).fails();
    }
    // What the answer's header says contradicts the manifest.
    let pair = Pair::holding(&sound);
    let list = "application/vnd.docker.distribution.manifest.list.v2+json".to_string();
    let header = Fault::on(Kind::ManifestGet, Act::SetHeader("Content-Type", list));
    pair.source.fault(header.of("bad"));
    pair.fails();
}

#[test]
fn an_index_bomb_costs_one_request_for_each_manifest() {
    let mut maker = Maker::new(92);
    let mut image = maker.oci(&[10]);
    for _ in 0..10 {
        let entries = vec![image.descriptor(); 3000];
        let fields = json!({ "manifests": entries });
        let index = Image::index_with("application/vnd.oci.image.index.v1+json", [&image], fields);
        image = index;
    }
    let pair = Pair::holding(&image);
    pair.run(":bad").expect(0);
    assert_in_sync_once(&pair, &image);
    assert_eq!(pair.source.count(Kind::ManifestGet), 11);
    assert_eq!(pair.target.count(Kind::ManifestPut), 11);
}

/// The tag is there, and its manifests are each where the one above says (`assert_in_sync` would look 3000^10 times).
fn assert_in_sync_once(pair: &Pair, image: &Image) {
    let mut found = pair.target.manifest("b", "bad").expect("no tag").0;
    let mut image = image;
    loop {
        assert_eq!(found, image.digest);
        let Some(child) = image.children.first() else {
            return;
        };
        found = pair
            .target
            .manifest("b", &child.digest)
            .expect("no child")
            .0;
        image = child;
    }
}

#[test]
fn indexes_are_followed_sixteen_deep_and_no_deeper() {
    for (depth, arrives) in [(16, true), (17, false)] {
        let mut image = Maker::new(93).oci(&[10]);
        for _ in 0..depth {
            image = Image::index(&[(&image, None)]);
        }
        let pair = Pair::holding(&image);
        if arrives {
            pair.run(":bad").expect(0);
            assert_in_sync(&pair.source, "a", &pair.target, "b", &["bad"]);
        } else {
            let output = pair.fails();
            assert!(output.stderr.contains("16 deep"), "{}", output.stderr);
        }
    }
}

#[test]
fn redirects_lead_to_no_place_that_the_registry_has_no_business_at() {
    let elsewhere = FakeRegistry::start(Options::default().at("127.0.0.3"));
    let beside = elsewhere.addr().to_string();
    let image = Maker::new(94).oci(&[50]);
    for location in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "javascript:alert(1)",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/x",
        "http://0.0.0.0:80/x",
        "http://224.0.0.1/x",
        "http://2852039166/latest/",
        "http://0xa9fea9fe/",
        "http://[::ffff:169.254.169.254]/",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:0/x",
        "http://[::1/%zz",
        &format!("http://{USER}@{beside}/x"),
        &format!("http://{USER}:x@{beside}/x"),
        "http://\u{202e}/x",
        "",
        &"x".repeat(20_000),
    ] {
        for kind in [Kind::ManifestGet, Kind::BlobGet] {
            let pair = Pair::holding(&image);
            let away = Act::Redirect(307, location.to_string());
            let blob = &image.blobs[1].digest;
            let of = if kind == Kind::BlobGet { blob } else { "bad" };
            pair.source.fault(Fault::on(kind, away).of(of));
            pair.fails();
        }
    }
    assert_eq!(elsewhere.counts(), Counts::new());
}

#[test]
fn a_redirect_without_end_is_followed_five_times() {
    let image = Maker::new(95).oci(&[50]);
    let blob = &image.blobs[1].digest;
    let table = [
        (Kind::ManifestGet, "bad", "/v2/a/manifests/bad".to_string()),
        (Kind::BlobGet, blob, format!("/v2/a/blobs/{blob}")),
    ];
    for (kind, of, to) in table {
        let pair = Pair::holding(&image);
        pair.source
            .fault(Fault::on(kind, Act::Redirect(302, to)).of(of));
        let output = pair.fails();
        assert_eq!(pair.source.faults_acted(), 6, "{}", output.stderr);
    }
}

#[test]
fn links_and_realms_of_other_hosts_are_not_followed() {
    let elsewhere = FakeRegistry::start(Options::default().at("127.0.0.3"));
    for host in [elsewhere.addr(), "169.254.169.254", "evil.invalid"] {
        let link = format!("<http://{host}/v2/a/tags/list?last=x>; rel=\"next\"");
        let realm = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
        let challenge = Act::Status(401, vec![("WWW-Authenticate", realm)], Vec::new());
        for act in [Act::SetHeader("Link", link.clone()), challenge] {
            let pair = Pair::new();
            pair.source.fault(Fault::on(Kind::TagsList, act));
            let output = pair.run("").expect(1);
            assert_eq!(output.finished(), Some((0, 1)), "{}", output.stderr);
        }
    }
    assert_eq!(elsewhere.counts(), Counts::new());
}

/// What a terminal would obey, as far as it can stand in a header and in a body.
const ESCAPES: &str = "\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{202e}\u{2028}\u{8}";
const IN_HEADER: &str = "\u{9b}2J\u{202e}\u{2028}x";

#[test]
fn no_text_of_a_registry_can_move_a_terminal() {
    let error = json!({"errors": [
        {"code": ESCAPES, "message": ESCAPES, "detail": {"a": ESCAPES, ESCAPES: 1}},
    ]});
    let errors = [
        error.to_string().into_bytes(),
        ESCAPES.as_bytes().to_vec(),
        json!({"error": ESCAPES, "details": ESCAPES})
            .to_string()
            .into_bytes(),
        [b"\xff\xfe\x1b[2J", ESCAPES.as_bytes()].concat(),
    ];
    let header = |name| Act::SetHeader(name, IN_HEADER.to_string());
    let mut acts: Vec<Act> = errors.map(|body| Act::Status(400, Vec::new(), body)).into();
    acts.extend([
        header("Content-Type"),
        header("Content-Encoding"),
        header("Docker-Content-Digest"),
        header("Content-Length"),
        header("Set-Cookie"),
        header("X-Note"),
        Act::Redirect(307, IN_HEADER.to_string()),
        Act::Status(
            401,
            vec![("WWW-Authenticate", format!("Bearer realm=\"{IN_HEADER}\""))],
            Vec::new(),
        ),
        Act::Status(
            429,
            vec![("Retry-After", IN_HEADER.to_string())],
            Vec::new(),
        ),
        Act::Status(200, Vec::new(), ESCAPES.as_bytes().to_vec()),
        Act::Raw(format!("HTTP/1.1 500 {ESCAPES}\r\n\r\n").into_bytes()),
        Act::Raw(format!("HTTP/1.1 200 OK\r\nX: \u{1b}[2J\r\n\r\n{ESCAPES}").into_bytes()),
    ]);
    for act in acts {
        for at_source in [true, false] {
            let pair = Pair::new();
            let registry = if at_source {
                &pair.source
            } else {
                &pair.target
            };
            registry.fault(Fault::on_any(act.clone()).nth(Nth::Every(3)));
            // `run` looks at all that was printed.
            pair.run("");
        }
    }
    for fields in [
        json!({"mediaType": ESCAPES}),
        json!({"layers": [{"mediaType": ESCAPES, "digest": ESCAPES, "size": 5}]}),
        json!({"config": {"mediaType": ESCAPES, "digest": sha256(b"x"), "size": 1}, "layers": []}),
        json!({"artifactType": ESCAPES, "annotations": {ESCAPES: ESCAPES}, "layers": ESCAPES}),
    ] {
        Pair::holding(&manifest_with(fields)).fails();
    }
}

#[test]
fn answers_that_are_none_are_no_success() {
    let raw = |text: &str| Act::Raw(text.as_bytes().to_vec());
    let html = vec![("Content-Type", "text/html; charset=utf-8".to_string())];
    let gzip = vec![("Content-Encoding", "gzip".to_string())];
    let image = Maker::new(97).oci(&[50]);
    // The answer, and what is said of it.
    let table = [
        (raw("HTTP/1.1 999 Sure\r\nContent-Length: 0\r\n\r\n"), "999"),
        (raw("HTTP/1.1 2000 OK\r\n\r\n"), "not HTTP"),
        (raw("hello\r\n\r\n"), "not HTTP"),
        (raw("\u{16}\u{3}\u{1}\0\u{5}hello"), "not HTTP"),
        (Act::status(204), "204"),
        (Act::status(206), "206"),
        (
            Act::Status(200, html.clone(), b"<html>log in</html>".to_vec()),
            "web page",
        ),
        (Act::Status(200, gzip.clone(), b"\x1f\x8b".to_vec()), "gzip"),
    ];
    for (act, says) in table {
        for kind in [Kind::ManifestGet, Kind::BlobGet] {
            let pair = Pair::holding(&image);
            let blob = &image.blobs[1].digest;
            let of = if kind == Kind::BlobGet { blob } else { "bad" };
            pair.source.fault(Fault::on(kind, act.clone()).of(of));
            let output = pair.fails();
            assert!(
                output.stderr.contains(says),
                "{kind:?}: no {says}: {}",
                output.stderr
            );
        }
    }
    // A list of tags, which nothing else speaks for.
    for headers in [html, gzip] {
        let pair = Pair::new();
        let act = Act::Status(200, headers, b"<html>".to_vec());
        pair.source.fault(Fault::on(Kind::TagsList, act));
        let output = pair.run("").expect(1);
        assert_eq!(output.finished(), Some((0, 1)), "{}", output.stderr);
    }
}

#[test]
fn hostile_records_are_hints_that_come_to_nothing() {
    let elsewhere = FakeRegistry::start(Options::default().at("127.0.0.3"));
    let pair = Pair::new();
    let (at, other) = (pair.target.name("b"), elsewhere.name("b"));
    let image = pair.source.manifest("a", "good").expect("no image").0;
    let (manifest, layer) = pair.source.manifest("a", "good").expect("no image");
    let document: Value = serde_json::from_slice(&layer.bytes).expect("no JSON");
    let layer = document["layers"][0]["digest"].as_str().expect("no layer");
    let lines = [
        json!({"v": 1, "kind": "blob", "at": at, "digest": layer, "size": 300}),
        json!({"v": 1, "kind": "blob", "at": pair.target.name("elsewhere"), "digest": layer, "size": 300}),
        json!({"v": 1, "kind": "blob", "at": "../../etc", "digest": "sha256:../x", "size": -1}),
        json!({"v": 1, "kind": "image", "at": at, "tag": "good", "digest": image, "from": at, "time": ESCAPES}),
        json!({"v": 1, "kind": "image", "at": at, "tag": ESCAPES, "digest": manifest, "from": ESCAPES, "time": ""}),
        json!({"v": 1, "kind": "upload", "at": at, "digest": layer, "location": format!("http://{other}/x"),
            "offset": 299, "hash": "sha2-0.11:AAAA", "time": ""}),
        json!({"v": 1, "kind": "upload", "at": at, "digest": layer, "location": "file:///etc/passwd",
            "offset": u64::MAX, "hash": ESCAPES, "time": ""}),
        json!({"v": 99, "kind": ESCAPES}),
        json!({"kind": {}}),
    ];
    let lines = lines.map(|line| format!("{line}\n")).concat();
    let records = format!("{lines}{ESCAPES}\n\0\0\0{{\"v\":1,\"kind\":\"blob\"");
    let output = Run::new()
        .env("IMAGE_SYNCER_TIME_SCALE", "0.001")
        .file("records", records)
        .auth(&pair.source, USER, PASSWORD)
        .rule(&format!("{}:good", pair.source.name("a")), at)
        .arg("--log-level=trace")
        .run()
        .expect(0);
    check_invariants(&[&pair.source, &elsewhere], &[&pair.target], &output);
    assert_in_sync(&pair.source, "a", &pair.target, "b", &["good"]);
    assert!(!output.stderr.chars().any(is_unsafe), "{:?}", output.stderr);
    assert_eq!(elsewhere.counts(), Counts::new());
}
