//! URLs that a registry names: of another host, another port, without TLS. What is asked there is asked without the
//! login, or not at all. Not here: which addresses may be asked (`hostile`).

use serde_json::{Map, json};

use super::{WAYS, Way, one_image, run};
use crate::harness::assert_in_sync;
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Authority, FakeProxy, FakeRegistry, Fault, Habit, Kind, Options};

/// What a registry does with one of its repositories, which is named like the row.
pub(super) struct Row {
    pub(super) name: &'static str,
    rule: Rule,
    /// What is asked for, and what becomes of it; `elsewhere` is where it shall lead.
    acts: fn(elsewhere: &str, image: &Image) -> Vec<Fault>,
    /// To whom the lure is followed, without the login.
    followed: Followed,
}

/// How the repository is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A tag of it is copied.
    Source,
    /// A tag of it is copied, and the target has another one.
    Changed,
    /// All its tags are copied.
    All,
    /// It is copied to.
    Target,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Followed {
    Never,
    /// At its own address only.
    Beside,
    Anywhere,
}

fn redirect(kind: Kind, elsewhere: &str, path: &str) -> Fault {
    Fault::on(
        kind,
        Act::Redirect(307, format!("http://{elsewhere}{path}")),
    )
}

fn unauthorized(elsewhere: &str) -> Act {
    let challenge = format!("Bearer realm=\"http://{elsewhere}/token\",service=\"s\"");
    Act::Status(401, vec![("WWW-Authenticate", challenge)], Vec::new())
}

pub(super) const ROWS: [Row; 13] = [
    Row {
        name: "good",
        rule: Rule::Source,
        acts: |_, _| Vec::new(),
        followed: Followed::Never,
    },
    Row {
        name: "head-redirected",
        rule: Rule::Changed,
        acts: |to, _| {
            vec![redirect(
                Kind::ManifestHead,
                to,
                "/v2/head-redirected/manifests/v1",
            )]
        },
        followed: Followed::Anywhere,
    },
    Row {
        name: "manifest-redirected",
        rule: Rule::Source,
        acts: |to, _| {
            vec![redirect(
                Kind::ManifestGet,
                to,
                "/v2/manifest-redirected/manifests/v1",
            )]
        },
        followed: Followed::Anywhere,
    },
    Row {
        name: "blob-redirected",
        rule: Rule::Source,
        acts: |to, image| {
            let away = |digest: &String| {
                let path = format!("/v2/blob-redirected/blobs/{digest}");
                redirect(Kind::BlobGet, to, &path).of(digest)
            };
            image.blobs.iter().map(|blob| away(&blob.digest)).collect()
        },
        followed: Followed::Anywhere,
    },
    Row {
        name: "tags-redirected",
        rule: Rule::All,
        acts: |to, _| {
            vec![redirect(
                Kind::TagsList,
                to,
                "/v2/tags-redirected/tags/list",
            )]
        },
        followed: Followed::Anywhere,
    },
    Row {
        name: "tags-continued",
        rule: Rule::All,
        acts: |to, _| {
            let link = format!("<http://{to}/v2/tags-continued/tags/list?last=x>; rel=\"next\"");
            vec![Fault::on(Kind::TagsList, Act::SetHeader("Link", link))]
        },
        followed: Followed::Never,
    },
    Row {
        name: "referrers-redirected",
        rule: Rule::Source,
        acts: |to, image| {
            let path = format!("/v2/referrers-redirected/referrers/{}", image.digest);
            vec![redirect(Kind::Referrers, to, &path)]
        },
        followed: Followed::Anywhere,
    },
    Row {
        name: "referrers-continued",
        rule: Rule::Source,
        acts: |to, image| {
            let path = format!("/v2/referrers-continued/referrers/{}?page=2", image.digest);
            let link = format!("<http://{to}{path}>; rel=\"next\"");
            vec![Fault::on(Kind::Referrers, Act::SetHeader("Link", link))]
        },
        followed: Followed::Never,
    },
    Row {
        name: "challenged",
        rule: Rule::Source,
        acts: |to, _| vec![Fault::on(Kind::ManifestGet, unauthorized(to))],
        followed: Followed::Never,
    },
    Row {
        name: "challenged-elsewhere",
        rule: Rule::Source,
        acts: |to, _| {
            vec![redirect(
                Kind::ManifestGet,
                to,
                "/v2/challenged-elsewhere/manifests/v1",
            )]
        },
        followed: Followed::Anywhere,
    },
    Row {
        name: "upload-elsewhere",
        rule: Rule::Target,
        acts: |to, _| {
            let location = format!("http://{to}/v2/upload-elsewhere/blobs/uploads/x");
            vec![Fault::on(
                Kind::UploadPost,
                Act::SetHeader("Location", location),
            )]
        },
        followed: Followed::Beside,
    },
    Row {
        name: "post-redirected",
        rule: Rule::Target,
        acts: |to, _| {
            vec![redirect(
                Kind::UploadPost,
                to,
                "/v2/post-redirected/blobs/uploads/",
            )]
        },
        followed: Followed::Never,
    },
    Row {
        name: "put-redirected",
        rule: Rule::Target,
        acts: |to, _| {
            vec![redirect(
                Kind::ManifestPut,
                to,
                "/v2/put-redirected/manifests/v1",
            )]
        },
        followed: Followed::Never,
    },
];

/// A run of one way through all rows.
fn check(way: &Way, is_beside: bool, authority: Option<&Authority>) {
    let options = (way.guard)(Options::default().habit(Habit::ZOT));
    let registry = FakeRegistry::start(match authority {
        Some(authority) => options.tls(authority.sign(&["127.0.0.1"]).server(&[])),
        None => options,
    });
    let address = if is_beside { "127.0.0.1" } else { "127.0.0.3" };
    let elsewhere = FakeRegistry::start(Options::default().at(address).habit(Habit::ZOT));
    let open = FakeRegistry::start(Options::default().at("127.0.0.2"));
    let mut maker = Maker::new(1);
    let mut images = Map::new();
    // A realm beside a registry that may be spoken to in the clear is as good as the registry.
    let is_meant = |row: &&Row| !(row.name == "challenged" && is_beside && authority.is_none());
    for row in ROWS.iter().filter(is_meant) {
        let image = maker.oci(&[50]);
        for fault in (row.acts)(elsewhere.addr(), &image) {
            registry.fault(fault.in_repository(row.name));
        }
        if row.rule != Rule::Target {
            registry.push(row.name, "v1", &image);
            elsewhere.push(row.name, "v1", &image);
        }
        let (own, of_open) = (registry.name(row.name), open.name(row.name));
        match row.rule {
            Rule::Source => images.insert(format!("{own}:v1"), of_open.into()),
            Rule::Changed => {
                open.push(row.name, "v1", &maker.oci(&[50]));
                images.insert(format!("{own}:v1"), of_open.into())
            }
            Rule::All => images.insert(own, of_open.into()),
            Rule::Target => {
                open.push(row.name, "v1", &image);
                images.insert(format!("{of_open}:v1"), own.into())
            }
        };
    }
    let refusal = unauthorized(elsewhere.addr());
    elsewhere.fault(Fault::on(Kind::ManifestGet, refusal).in_repository("challenged-elsewhere"));

    let says = match authority {
        Some(_) => json!({"ca": "ca.pem"}),
        None => json!({"insecure": true}),
    };
    let run = run(way, &registry, &says, &images)
        .arg("--referrers")
        .file("ca.pem", authority.map(Authority::pem).unwrap_or_default());
    let output = run.run().expect(1);
    let case = format!(
        "{}, beside: {is_beside}, TLS: {}",
        way.name,
        authority.is_some()
    );
    check_invariants(&[], &[&registry, &open, &elsewhere], &output);
    assert_in_sync(&registry, "good", &open, "good", &["v1"]);
    let there = elsewhere.history();
    for row in &ROWS {
        let is_followed = there.iter().any(|entry| entry.repository == row.name);
        let may_be = match row.followed {
            _ if authority.is_some() => false,
            Followed::Never => false,
            Followed::Beside => is_beside,
            Followed::Anywhere => true,
        };
        assert_eq!(
            is_followed, may_be,
            "{case}: {}\n{}",
            row.name, output.stderr
        );
    }
    for entry in there {
        assert_eq!(entry.authorization, None, "{case}: {}", entry.target);
        assert_eq!(entry.form, "", "{case}: {}", entry.target);
    }
}

#[test]
fn no_login_is_sent_to_another_host() {
    for way in &WAYS {
        check(way, false, None);
    }
}

#[test]
fn no_login_is_sent_to_another_port() {
    for way in &WAYS {
        check(way, true, None);
    }
}

#[test]
fn nothing_is_sent_from_https_to_http() {
    let authority = Authority::new("corp");
    for (number, way) in WAYS.iter().enumerate() {
        check(way, number % 2 == 0, Some(&authority));
    }
}

#[test]
fn no_login_is_sent_on_by_a_token_service() {
    for way in &WAYS {
        let (registry, open, images) = one_image(way, Options::default());
        let elsewhere = FakeRegistry::new();
        registry.fault(redirect(Kind::Token, elsewhere.addr(), "/token"));
        let output = run(way, &registry, &json!({"insecure": true}), &images).run();
        check_invariants(&[&registry, &elsewhere], &[&open], &output);
        let is_asked = registry.faults_acted() > 0;
        assert_eq!(output.status, Some(i32::from(is_asked)), "{}", way.name);
        assert!(elsewhere.history().is_empty(), "{}", way.name);
    }
}

#[test]
fn no_login_is_sent_in_the_clear_unless_the_entry_says_so() {
    const NAME: &str = "registry.example:5000";
    for way in &WAYS {
        let (registry, open, images) = one_image(way, Options::default().named(NAME));
        let proxy = FakeProxy::new(&[(NAME, registry.socket())], Some("u:hunter 2"));
        for (says, status) in [(json!({}), 1), (json!({"plain_http": true}), 0)] {
            // The proxy's own login is for nobody else.
            let run = run(way, &registry, &says, &images)
                .arg("--referrers")
                .env("ALL_PROXY", format!("http://u:hunter%202@{}", proxy.addr()))
                .secret("hunter 2", &[])
                .secret("u:hunter 2", &[]);
            let output = run.run().expect(status);
            check_invariants(&[&registry], &[&open], &output);
            assert_eq!(registry.history().is_empty(), status == 1, "{}", way.name);
            assert!(!proxy.asked().is_empty());
        }
    }
}
