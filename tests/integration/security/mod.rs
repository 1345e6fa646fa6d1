//! The security matrix: each login that a run can have, against each place that a registry could make it go to. A
//! login goes to its registry, and to the token service that this names; the lures are URLs of the registry's choice,
//! and answers that repeat what was sent, which must not be in any output. One row is one repository, so that one run
//! meets all of them. Beside it the bounds on what is read into memory, and the files that are written.
//!
//! | What must hold | Where it is held |
//! |---|---|
//! | no login at another host, port or scheme: redirects, Location, Link, realm | here; as a table of URLs: `registry/url.rs` |
//! | no login over http, unless the entry says so | here |
//! | no login in log (at trace level), output, record, error | here, and `invariants` after every run of every test |
//! | no login for another registry or repository | `auth`, `credentials`; against an oracle: `registry/credentials.rs` |
//! | no client certificate, no `insecure` for whom a registry names | `certificates` |
//! | no way into this machine or network | `hostile`; by resolved addresses: `registry/url.rs` |
//! | tags, digests, types, sizes, headers and characters that mean harm | `hostile`; in layouts: `layout` |
//! | no more read into memory than a bound | here; helpers: `credentials`; certificates, auth files: `registry` |
//! | redirects and lists that end; answers that are none | `hostile` |
//! | a file of records is private; no link is followed | here; when records are replaced: `records/journal.rs` |
//!
//! Not here: that logins work (`credentials`, `auth`).

mod bounds;
mod files;
mod lures;
mod repeats;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::harness::Run;
use crate::image::{Maker, with};
use crate::registry::{Act, Bearer, FakeRegistry, Fault, Kind, Options};

const PASSWORD: &str = "canary/pass word+\"1\"";
const KEY: &str = include_str!("../../../fixtures/service-account.pem");

/// A login, how a run gets it, and what its registry is.
struct Way {
    name: &'static str,
    /// What the registry wants.
    guard: fn(Options) -> Options,
    /// Gives the run the login of a registry.
    give: fn(Run, &FakeRegistry) -> Given,
}

/// A run, the entry of its registry in `auth`, and what must stay secret.
struct Given {
    run: Run,
    entry: Value,
    secrets: Vec<String>,
}

impl Given {
    fn new(run: Run, entry: Value, secret: &str) -> Self {
        Self {
            run,
            entry,
            secrets: vec![secret.to_string()],
        }
    }
}

fn basic(options: Options) -> Options {
    options.basic("ada", PASSWORD)
}

fn bearer(options: Options) -> Options {
    options.bearer(Bearer::for_user("ada", PASSWORD))
}

fn docker(run: Run, registry: &FakeRegistry, entry: &Value) -> Run {
    run.env(
        "DOCKER_AUTH_CONFIG",
        json!({"auths": {registry.addr(): entry}}).to_string(),
    )
}

/// A key that goes to the registry as it is.
fn json_key() -> String {
    json!({"client_email": "e", "private_key": KEY}).to_string()
}

/// The access token that is got by a key.
const ACCESS: &str = "canary/access+token";

fn give_password(run: Run, _: &FakeRegistry) -> Given {
    let entry = json!({"username": "ada", "password": PASSWORD});
    Given::new(run, entry, PASSWORD)
}

const WAYS: [Way; 12] = [
    Way {
        name: "password",
        guard: basic,
        give: give_password,
    },
    Way {
        name: "password for a token service",
        guard: bearer,
        give: give_password,
    },
    Way {
        name: "password in a variable",
        guard: basic,
        give: |run, _| {
            let run = run.env("PASSWORD_OF_ADA", PASSWORD);
            let entry = json!({"username": "ada", "password": "${PASSWORD_OF_ADA}"});
            Given::new(run, entry, PASSWORD)
        },
    },
    Way {
        name: "password in a file",
        guard: basic,
        give: |run, _| {
            let run = run.file("password", PASSWORD);
            let entry = json!({"username": "ada", "password_file": "password"});
            Given::new(run, entry, PASSWORD)
        },
    },
    Way {
        name: "password of docker",
        guard: basic,
        give: |run, registry| {
            let auth = BASE64.encode(format!("ada:{PASSWORD}"));
            let run = docker(run, registry, &json!({"auth": auth}));
            Given::new(run, json!({}), &auth)
        },
    },
    Way {
        name: "password of a helper",
        guard: bearer,
        give: |run, _| {
            let answer = json!({"Username": "ada", "Secret": PASSWORD});
            let run = run.helper("known", &format!("echo '{answer}'"));
            Given::new(run, json!({"helper": "known"}), PASSWORD)
        },
    },
    Way {
        name: "token",
        guard: bearer,
        give: |run, registry| {
            let token = registry.issue_token(&repositories());
            Given::new(run, json!({"token": token}), &token)
        },
    },
    Way {
        name: "token in a file",
        guard: bearer,
        give: |run, registry| {
            let token = registry.issue_token(&repositories());
            let run = run.file("token", &token);
            Given::new(run, json!({"token_file": "token"}), &token)
        },
    },
    Way {
        name: "token of podman",
        guard: bearer,
        give: |run, registry| {
            let token = registry.issue_token(&repositories());
            let run = docker(run, registry, &json!({"registrytoken": token}));
            Given::new(run, json!({}), &token)
        },
    },
    Way {
        name: "identity token",
        guard: bearer,
        give: |run, registry| {
            let run = docker(run, registry, &json!({"identitytoken": PASSWORD}));
            Given::new(run, json!({}), PASSWORD)
        },
    },
    Way {
        name: "key of a service account",
        guard: |options| options.basic("_json_key", &json_key()),
        give: |run, _| {
            let entry = json!({"username": "_json_key", "password": BASE64.encode(json_key())});
            Given::new(run, entry, KEY.lines().nth(1).expect("no key"))
        },
    },
    Way {
        name: "access token of a service account",
        guard: |options| options.basic("oauth2accesstoken", ACCESS),
        give: |run, registry| {
            let token = json!({"access_token": ACCESS, "expires_in": 3599}).to_string();
            registry.fault(Fault::on(
                Kind::Token,
                Act::Status(200, Vec::new(), token.into_bytes()),
            ));
            let token_uri = format!("http://{}/token", registry.addr());
            let key = json!({"client_email": "e", "private_key": KEY, "token_uri": token_uri});
            let entry = json!({"username": "_oauth2_", "password": key.to_string()});
            Given::new(run, entry, KEY.lines().nth(1).expect("no key"))
        },
    },
];

/// The names of all repositories.
fn repositories() -> Vec<&'static str> {
    let lures = lures::ROWS.iter().map(|row| row.name);
    lures.chain(repeats::ROWS.map(|(name, _)| name)).collect()
}

/// A run that knows the login of a registry, whose entry also says this, and tells and writes all that it can.
fn run(way: &Way, registry: &FakeRegistry, says: &Value, images: &Map<String, Value>) -> Run {
    let run = Run::new()
        .env("IMAGE_SYNCER_TIME_SCALE", "0.001")
        .args(["--retries=0", "--proc=1", "--log-level=trace"])
        .args(["--output-success-images=good", "--output-failed-images=bad"]);
    let Given {
        run,
        entry,
        secrets,
    } = (way.give)(run, registry);
    let entry = with(entry, says.clone());
    let config = json!({"auth": {registry.addr(): entry}, "images": images});
    let secrets = secrets.iter();
    secrets.fold(run.config(config), |run, secret| {
        run.secret(secret, &[registry])
    })
}

/// A registry of one way with an image as `good:v1`, an open one to copy it to, and the rule that does.
fn one_image(way: &Way, options: Options) -> (FakeRegistry, FakeRegistry, Map<String, Value>) {
    let registry = FakeRegistry::start((way.guard)(options));
    registry.push("good", "v1", &Maker::new(1).oci(&[50]));
    let open = FakeRegistry::start(Options::default().at("127.0.0.2"));
    let rule = (registry.name("good:v1"), open.name("good").into());
    let images = Map::from_iter([rule]);
    (registry, open, images)
}
