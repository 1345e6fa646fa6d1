//! Which servers are trusted, and what is shown to them (issue item "TLS"): every way to name an authority or a client
//! certificate, and what is said where one does not fit. Not here: which requests carry a password (`auth`).

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::Maker;
use crate::registry::{Act, Authority, FakeRegistry, Fault, Identity, Kind, Options};

const ADDRESS: &str = "127.0.0.1";

fn behind(identity: &Identity, clients: &[&Authority]) -> FakeRegistry {
    FakeRegistry::start(Options::default().tls(identity.server(clients)))
}

/// A copy to a registry, of which the configuration says this. Small waits: some of the copies fail. The authorities are
/// the system's.
pub(crate) fn copy(source: &FakeRegistry, target: &FakeRegistry, auth: &Value) -> Run {
    let auth = json!({ target.addr(): auth });
    let images = json!({ source.name("a"): target.name("b") });
    Run::new()
        .config(json!({ "auth": auth, "images": images }))
        .args(["--retries=0", "--proc=1"])
        .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
        .env("SSL_CERT_FILE", "")
}

pub(crate) fn source() -> FakeRegistry {
    let source = FakeRegistry::new();
    source.push("a", "v1", &Maker::new(1).oci(&[100]));
    source
}

#[track_caller]
fn assert_copied(run: &Run, source: &FakeRegistry, target: &FakeRegistry) {
    run.run().expect(0);
    assert_in_sync(source, "a", target, "b", &["v1"]);
}

/// The run fails, nothing has come to the registry, and these words are said.
#[track_caller]
fn assert_refused(run: &Run, target: &FakeRegistry, words: &[&str]) -> Output {
    let output = run.run().expect(1);
    for word in words {
        let said = &output.stderr;
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(target.history().is_empty(), "{:#?}", target.history());
    output
}

#[test]
fn an_authority_can_be_named_in_every_way() {
    let (authority, source) = (Authority::new("corp"), source());
    let target = || behind(&authority.sign(&[ADDRESS]), &[]);
    let nothing = json!({});

    let to = target();
    let run = copy(&source, &to, &json!({"ca": "ca.pem"})).file("ca.pem", authority.pem());
    assert_copied(&run, &source, &to);

    let to = target();
    let run = copy(&source, &to, &json!({"ca": "authorities"}));
    fs::create_dir(run.path("authorities")).unwrap();
    let other = Authority::new("other").pem();
    fs::write(run.path("authorities/1.txt"), format!("Others:\n{other}")).unwrap();
    fs::write(run.path("authorities/2.pem"), authority.pem()).unwrap();
    assert_copied(&run, &source, &to);

    let to = target();
    let run = copy(&source, &to, &nothing).file("bundle", format!("{other}{}", authority.pem()));
    let run = run.env("SSL_CERT_FILE", "bundle");
    assert_copied(&run, &source, &to);

    let to = target();
    let run = copy(&source, &to, &nothing).env("SSL_CERT_DIR", "none:folder");
    fs::create_dir(run.path("folder")).unwrap();
    fs::write(run.path("folder/corp.pem"), authority.pem()).unwrap();
    assert_copied(&run, &source, &to);

    let to = target();
    let run = copy(&source, &to, &nothing);
    let folder = run.path(".config/containers/certs.d").join(to.addr());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("corp.crt"), authority.pem()).unwrap();
    assert_copied(&run, &source, &to);

    // As if somebody had named no authority at all.
    let to = target();
    let run = copy(&source, &to, &json!({"insecure": true}));
    assert_copied(&run, &source, &to);
}

#[test]
fn a_certificate_that_does_not_fit_is_told_with_its_remedy() {
    let (authority, source) = (Authority::new("corp"), source());
    let signed = authority.sign(&[ADDRESS]);
    let bare = json!({});
    let with_ca = json!({"ca": "ca.pem"});
    for (identity, auth, words) in [
        (
            &signed,
            &bare,
            ["`ca` in the registry's `auth` entry", "UnknownIssuer"],
        ),
        (
            &authority.sign_expired(&[ADDRESS]),
            &with_ca,
            [
                "if that is right, the registry must be given a new certificate",
                "expired",
            ],
        ),
        (
            &authority.sign(&["other.example", "10.1.2.3"]),
            &with_ca,
            [
                "address the registry by a name that its certificate has",
                "other.example",
            ],
        ),
        (
            &Identity::self_signed(&[ADDRESS], true),
            &with_ca,
            [
                "or the certificate itself, by `ca`",
                "the certificate is not accepted",
            ],
        ),
    ] {
        let to = behind(identity, &[]);
        let run = copy(&source, &to, auth).file("ca.pem", authority.pem());
        assert_refused(&run, &to, &words);
    }
}

#[test]
fn a_certificate_that_is_named_itself_is_trusted_for_its_names() {
    let source = source();
    let leaf = Authority::new("corp").sign(&[ADDRESS]);
    for identity in [
        Identity::self_signed(&[ADDRESS], true),
        Identity::self_signed(&[ADDRESS], false),
        leaf,
    ] {
        let to = behind(&identity, &[]);
        let run =
            copy(&source, &to, &json!({"ca": "own.pem"})).file("own.pem", identity.cert_pem());
        assert_copied(&run, &source, &to);

        let to = behind(&identity, &[]);
        let run = copy(&source, &to, &json!({})).file("own.pem", identity.cert_pem());
        assert_copied(&run.env("SSL_CERT_FILE", "own.pem"), &source, &to);
    }
    for claims_authority in [true, false] {
        let identity = Identity::self_signed(&["other.example"], claims_authority);
        let to = behind(&identity, &[]);
        let run =
            copy(&source, &to, &json!({"ca": "own.pem"})).file("own.pem", identity.cert_pem());
        assert_refused(&run, &to, &["a name that its certificate has"]);
    }
    // Another one of the same name is not the one that was named.
    let (one, other) = (
        Identity::self_signed(&[ADDRESS], true),
        Identity::self_signed(&[ADDRESS], true),
    );
    let to = behind(&one, &[]);
    let run = copy(&source, &to, &json!({"ca": "own.pem"})).file("own.pem", other.cert_pem());
    assert_refused(&run, &to, &["the certificate is not accepted"]);
}

#[test]
fn a_client_certificate_is_shown_where_one_is_wanted() {
    let (authority, clients, source) =
        (Authority::new("corp"), Authority::new("clients"), source());
    let me = clients.sign(&["me"]);
    let target = || behind(&authority.sign(&[ADDRESS]), &[&clients]);
    let with = |to: &FakeRegistry, auth: &Value| {
        copy(&source, to, auth)
            .file("ca.pem", authority.pem())
            .file("me.pem", me.cert_pem())
            .file("me.key", me.key_pem())
            .file("both.pem", me.key_pem() + &me.cert_pem())
            .file("stranger.pem", Authority::new("x").sign(&["me"]).both())
    };
    for auth in [
        json!({"ca": "ca.pem", "cert": "me.pem", "key": "me.key"}),
        json!({"ca": "ca.pem", "cert": "both.pem"}),
        json!({"insecure": true, "cert": "both.pem"}),
    ] {
        let to = target();
        assert_copied(&with(&to, &auth), &source, &to);
    }

    let to = target();
    let run = with(&to, &json!({}));
    let folder = run.path(".config/containers/certs.d").join(to.addr());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    fs::write(folder.join("client.cert"), me.cert_pem()).unwrap();
    fs::write(folder.join("client.key"), me.key_pem()).unwrap();
    assert_copied(&run, &source, &to);

    for auth in [
        json!({"ca": "ca.pem"}),
        json!({"ca": "ca.pem", "cert": "stranger.pem"}),
    ] {
        let to = target();
        let words = [
            "wants a client certificate that it knows",
            "`cert` and `key`",
        ];
        assert_refused(&with(&to, &auth), &to, &words);
    }
}

#[test]
fn who_a_registry_names_is_verified_and_sees_no_client_certificate() {
    let (authority, clients) = (Authority::new("corp"), Authority::new("clients"));
    let image = Maker::new(1).oci(&[100]);
    // Of the storage: who has signed its certificate, and whether it wants one of us.
    let strangers = Authority::new("strangers");
    for (signer, wants, status, words) in [
        (&authority, &[] as &[_], 0, "copied"),
        (&strangers, &[], 1, "`ca` in the registry's `auth` entry"),
        (&authority, &[&clients], 1, "wants a client certificate"),
    ] {
        let registry = behind(&authority.sign(&[ADDRESS]), &[&clients]);
        registry.push("a", "v1", &image);
        let identity = signer.sign(&["127.0.0.2"]);
        let options = Options::default()
            .at("127.0.0.2")
            .tls(identity.server(wants));
        let storage = FakeRegistry::start(options);
        storage.push("a", "v1", &image);
        for blob in &image.blobs {
            let location = format!("https://{}/v2/a/blobs/{}", storage.addr(), blob.digest);
            let away = Act::Redirect(307, location);
            registry.fault(Fault::on(Kind::BlobGet, away).of(&blob.digest));
        }
        let target = FakeRegistry::new();
        let auth = json!({registry.addr(): {"insecure": true, "ca": "ca.pem", "cert": "me.pem"}});
        let images = json!({ registry.name("a"): target.name("b") });
        let said = Run::new()
            .config(json!({ "auth": auth, "images": images }))
            .arg("--retries=0")
            .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
            .file("ca.pem", authority.pem())
            .file("me.pem", clients.sign(&["me"]).both())
            .run()
            .expect(status)
            .stderr;
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
        assert_eq!(storage.history().is_empty(), status == 1, "{said}");
    }
}

#[test]
fn files_that_cannot_be_used_are_told_with_their_place_and_nothing_is_touched() {
    let (source, target) = (source(), FakeRegistry::new());
    let (one, other) = (
        Identity::self_signed(&["one"], false),
        Identity::self_signed(&["other"], false),
    );
    for (auth, problem) in [
        (json!({"ca": "none.pem"}), "none.pem: it cannot be read"),
        (json!({"ca": "note"}), "note: it holds no certificate"),
        (json!({"ca": "empty"}), "empty: it holds no certificate"),
        (
            json!({"key": "one.key"}),
            "one.key: a key alone is of no use",
        ),
        (
            json!({"cert": "one.pem"}),
            "one.pem: it holds no private key",
        ),
        (
            json!({"cert": "one.pem", "key": "note"}),
            "note: it holds no private key",
        ),
        (
            json!({"cert": "one.pem", "key": "other.key"}),
            "one.pem: the certificate and its key cannot be used",
        ),
        (
            json!({"proxy": "gopher://u:hunter2@p"}),
            "`proxy` of 127.0.0.1",
        ),
    ] {
        let run = copy(&source, &target, &auth)
            .file("note", "not one")
            .file("one.pem", one.cert_pem())
            .file("one.key", one.key_pem())
            .file("other.key", other.key_pem());
        fs::create_dir(run.path("empty")).unwrap();
        let said = run.run().expect(2).stderr;
        let place = format!("image-syncer.json:1:10: auth key \"{}\"", target.addr());
        assert!(said.contains(&place) && said.contains(problem), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(source.history().is_empty() && target.history().is_empty());
}

#[test]
fn a_folder_of_certs_d_that_cannot_be_used_is_told_and_the_run_goes_on() {
    let (source, target) = (source(), FakeRegistry::new());
    let run = copy(&source, &target, &json!({}));
    let folder = run.path(".config/containers/certs.d").join(target.addr());
    fs::create_dir_all(&folder).unwrap();
    let me = Identity::self_signed(&["me"], false);
    fs::write(folder.join("client.cert"), me.cert_pem()).unwrap();
    let said = run.run().expect(0).stderr;
    assert!(said.contains("client.key: it cannot be read"), "{said}");
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
}

#[test]
fn a_registry_of_plain_http_is_not_asked_for_tls() {
    let (source, plain) = (source(), FakeRegistry::new());
    assert_copied(
        &copy(&source, &plain, &json!({"plain_http": true})),
        &source,
        &plain,
    );
    assert_eq!(plain.connections(), 1);
    let open = FakeRegistry::new();
    assert_copied(
        &copy(&source, &open, &json!({"insecure": true})),
        &source,
        &open,
    );
    assert_eq!(open.connections(), 2);
}
