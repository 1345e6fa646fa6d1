//! Answers that repeat the login that they are to: in each place where a text of a registry can stand. Not here: other
//! texts that mean harm (`hostile`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, json};

use super::{PASSWORD, WAYS, one_image, run};
use crate::harness::{Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, FakeRegistry, Fault, Kind, Login, Nth, Options};

/// Makes an answer of a login as it was sent.
type Repeat = fn(&str) -> Act;

/// What a registry can say that repeats the login: how it was sent, and what is in it.
pub(super) const ROWS: [(&str, Repeat); 18] = [
    ("error", |shown| {
        let error = json!({"code": "DENIED", "message": plain(shown), "detail": {"you": shown, "sent": plain(shown)}});
        Act::Status(
            403,
            Vec::new(),
            json!({"errors": [error]}).to_string().into_bytes(),
        )
    }),
    ("code", |shown| {
        let error = json!({"code": shown, "message": "", "detail": plain(shown)});
        Act::Status(
            400,
            Vec::new(),
            json!({"errors": [error]}).to_string().into_bytes(),
        )
    }),
    ("text", |shown| {
        Act::Status(
            400,
            Vec::new(),
            format!("{shown}: {}", plain(shown)).into_bytes(),
        )
    }),
    ("page", |shown| {
        let page = format!("<html><title>{shown} {}</title>", plain(shown));
        Act::Status(502, Vec::new(), page.into_bytes())
    }),
    ("description", |shown| {
        let error = json!({"error": plain(shown), "error_description": shown});
        Act::Status(400, Vec::new(), error.to_string().into_bytes())
    }),
    ("any-header", |shown| {
        Act::SetHeader("X-Note", format!("{shown} {}", plain(shown)))
    }),
    ("digest", |shown| {
        Act::SetHeader("Docker-Content-Digest", shown.to_string())
    }),
    ("encoding", |shown| {
        Act::SetHeader("Content-Encoding", value(shown).to_string())
    }),
    ("type", |shown| Act::SetHeader("Content-Type", plain(shown))),
    ("length", |shown| {
        Act::SetHeader("Content-Length", value(shown).to_string())
    }),
    ("wait", |shown| {
        Act::Status(429, vec![("Retry-After", shown.to_string())], Vec::new())
    }),
    ("link", |shown| {
        Act::SetHeader("Link", format!("</v2/{}/x>; rel=next", value(shown)))
    }),
    ("query", |shown| {
        Act::Redirect(302, format!("/v2/good/manifests/v1?{}", value(shown)))
    }),
    ("path", |shown| {
        Act::Redirect(302, format!("/v2/{}/manifests/x", value(shown)))
    }),
    ("encoded-path", |shown| {
        Act::Redirect(
            302,
            format!("/v2/{}/manifests/x", value(shown).replace('=', "%3d")),
        )
    }),
    ("host", |shown| {
        Act::Redirect(302, format!("http://{}/x", value(shown)))
    }),
    ("manifest", |shown| {
        let digest = json!({"digest": shown, "size": plain(shown)});
        let manifest = json!({"schemaVersion": 2, "mediaType": plain(shown), "layers": [digest], "tags": [shown]});
        let media_type = "application/vnd.oci.image.manifest.v1+json".to_string();
        let headers = vec![("Content-Type", media_type)];
        Act::Status(200, headers, manifest.to_string().into_bytes())
    }),
    ("version", |shown| {
        let manifest =
            json!({"schemaVersion": shown, "token": [shown], "access_token": {"a": plain(shown)}});
        Act::Status(200, Vec::new(), manifest.to_string().into_bytes())
    }),
];

fn realm(realm: &str) -> Act {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
    Act::Status(401, vec![("WWW-Authenticate", challenge)], Vec::new())
}

/// What stands in a header behind the word that says what it is.
fn value(shown: &str) -> &str {
    shown.split_once(' ').map_or(shown, |(_, value)| value)
}

/// The password in a header, or the header's value.
fn plain(shown: &str) -> String {
    let decoded = BASE64
        .decode(value(shown))
        .ok()
        .and_then(|pair| String::from_utf8(pair).ok());
    let password = decoded.as_deref().and_then(|pair| pair.split_once(':'));
    password
        .map_or(value(shown), |(_, password)| password)
        .to_string()
}

#[test]
fn what_a_registry_repeats_of_a_login_is_said_by_nobody_else() {
    const KINDS: [Kind; 5] = [
        Kind::TagsList,
        Kind::ManifestGet,
        Kind::BlobGet,
        Kind::UploadPost,
        Kind::ManifestPut,
    ];
    for way in &WAYS {
        let registry = FakeRegistry::start((way.guard)(Options::default().at("127.0.0.2")));
        let open = FakeRegistry::new();
        let mut maker = Maker::new(1);
        let mut images = Map::new();
        registry.push("good", "v1", &maker.oci(&[50]));
        for (row, repeat) in ROWS {
            for kind in KINDS {
                let fault = Fault::on(kind, Act::Repeat(repeat)).nth(Nth::Only(1));
                registry.fault(fault.in_repository(row));
            }
            registry.push(row, "v1", &maker.oci(&[50]));
            open.push("a", row, &maker.oci(&[50]));
            images.insert(registry.name(row), open.name(row).into());
            images.insert(open.name(&format!("a:{row}")), registry.name(row).into());
        }
        let says = json!({"insecure": true});
        let output = run(way, &registry, &says, &images).run().expect(1);
        check_invariants(&[], &[&registry, &open], &output);
        let acted = registry.faults_acted();
        assert!(
            acted >= 3 * ROWS.len(),
            "{}: {acted}\n{}",
            way.name,
            output.stderr
        );
    }
}

/// Refused as it stands and in other letters, and asked.
#[test]
fn a_realm_that_repeats_a_login_is_said_by_nobody_else() {
    let realms: [Repeat; 3] = [
        |shown| realm(&format!("http://127.0.0.3:1/{}/x", value(shown))),
        |shown| {
            realm(&format!(
                "http://127.0.0.3:1/{}/x",
                value(shown).replace('=', "%3d")
            ))
        },
        |shown| realm(&format!("http://127.0.0.1:1/{}/x", value(shown))),
    ];
    for (number, way) in WAYS.iter().enumerate() {
        let (registry, open, images) = one_image(way, Options::default());
        let act = Act::Repeat(realms[number % realms.len()]);
        registry.fault(Fault::on(Kind::ManifestGet, act).nth(Nth::Only(1)));
        let says = json!({"insecure": true});
        let output = run(way, &registry, &says, &images).run();
        check_invariants(&[&registry], &[&open], &output);
        assert!(registry.faults_acted() > 0, "{}", way.name);
    }
}

#[test]
fn what_a_token_service_repeats_of_a_login_is_said_by_nobody_else() {
    for way in &WAYS {
        let registry = FakeRegistry::start((way.guard)(Options::default()));
        let open = FakeRegistry::start(Options::default().at("127.0.0.2"));
        let image = Maker::new(1).oci(&[50]);
        let mut images = Map::new();
        for (number, (row, repeat)) in ROWS.into_iter().enumerate() {
            // The first token is given, so that the login is known to be right.
            let fault = Fault::on(Kind::Token, Act::Repeat(repeat));
            registry.fault(fault.nth(Nth::Only(number + 2)));
            registry.push(row, "v1", &image);
            images.insert(format!("{}:v1", registry.name(row)), open.name(row).into());
        }
        let run = run(way, &registry, &json!({"insecure": true}), &images);
        let output = run.run();
        check_invariants(&[&registry], &[&open], &output);
        let acted = registry.faults_acted();
        // One access token is enough for all of them.
        assert!(
            acted <= 1 || acted + 1 >= ROWS.len(),
            "{}: {acted}",
            way.name
        );
    }
}

#[test]
fn locations_that_hold_the_login_are_followed_but_never_shown_or_recorded() {
    let image = Maker::new(92).oci(&[20, (16 << 20) + 1]);
    let login = Login::new("ada", PASSWORD).basic();
    let token = login.trim_start_matches("Basic ");
    for path in [
        token.to_string(),
        token.replace('=', "%3d"),
        PASSWORD.replace([' ', '"'], ""),
    ] {
        let source = FakeRegistry::start(Options::default());
        source.push("a", "v1", &image);
        let target = FakeRegistry::start(Options::default().at("127.0.0.2").basic("ada", PASSWORD));
        // Where it leads to is nowhere, which the log says without saying where that is.
        for kind in [Kind::UploadPost, Kind::UploadPatch] {
            let location = Act::SetHeader("Location", format!("/v2/b/blobs/uploads/{path}"));
            target.fault(Fault::on(kind, location).nth(Nth::Only(1)));
        }
        let output = Run::new()
            .env("IMAGE_SYNCER_TIME_SCALE", "0.001")
            .auth(&target, "ada", PASSWORD)
            .rule(&source.name("a:v1"), target.name("b"))
            .args(["--proc=1"])
            .run()
            .expect(0);
        check_invariants(&[&source], &[&target], &output);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
    }
}
