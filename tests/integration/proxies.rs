//! Requests through proxies: by the environment and by the entry of a registry, and what is said where a proxy refuses.
//! Not here: which of them is chosen for which host, which is a table beside the function.

use std::net::TcpListener;

use serde_json::json;

use crate::certificates::{copy, source};
use crate::harness::{Run, assert_in_sync};
use crate::registry::{Authority, FakeProxy, FakeRegistry, Front, Options};

/// What only the proxy finds.
const NAME: &str = "registry.example:5000";

#[track_caller]
fn assert_copied(run: &Run, source: &FakeRegistry, target: &FakeRegistry, proxy: &FakeProxy) {
    let said = run.run().expect(0).stderr;
    assert_in_sync(source, "a", target, "b", &["v1"]);
    let asked = proxy.asked();
    // One connection serves all requests, and this machine is reached without the proxy.
    assert_eq!(asked, [target.addr()], "{said}");
    for secret in ["hunter 2", "hunter%202", "dTpodW50ZXIgMg=="] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[test]
fn what_the_environment_names_is_used_for_its_scheme() {
    let source = source();
    let plain = json!({"plain_http": true});
    let target = || FakeRegistry::start(Options::default().named(NAME));

    let to = target();
    let proxy = FakeProxy::new(&[(NAME, to.socket())], None);
    let run = copy(&source, &to, &plain)
        .env("HTTP_PROXY", proxy.addr())
        .env("HTTPS_PROXY", "http://nobody.invalid:1")
        .env("NO_PROXY", "other.example,10.0.0.0/8");
    assert_copied(&run, &source, &to, &proxy);

    let to = target();
    let proxy = FakeProxy::new(&[(NAME, to.socket())], Some("u:hunter 2"));
    let url = format!("http://u:hunter%202@{}", proxy.addr());
    let run = copy(&source, &to, &plain).env("all_proxy", url);
    assert_copied(&run, &source, &to, &proxy);

    let to = target();
    let proxy = FakeProxy::new(&[(NAME, to.socket())], None);
    let run = copy(&source, &to, &plain).env("ALL_PROXY", format!("socks5://{}", proxy.addr()));
    assert_copied(&run, &source, &to, &proxy);
}

#[test]
fn a_registry_on_this_machine_is_reached_without_the_proxy() {
    let source = source();
    for variable in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
        let target = FakeRegistry::new();
        copy(&source, &target, &json!({"insecure": true}))
            .env(variable, "http://nobody.invalid:1")
            .run()
            .expect(0);
        assert_in_sync(&source, "a", &target, "b", &["v1"]);
    }
}

#[test]
fn tls_goes_through_a_proxy_to_the_registry_itself() {
    let (source, authority) = (source(), Authority::new("corp"));
    let identity = authority.sign(&["registry.example"]);
    let to = FakeRegistry::start(Options::default().named(NAME).tls(identity.server(&[])));
    let proxy = FakeProxy::new(&[(NAME, to.socket())], None);
    let run = copy(&source, &to, &json!({"ca": "ca.pem"}))
        .file("ca.pem", authority.pem())
        .env("HTTPS_PROXY", format!("http://{}", proxy.addr()));
    assert_copied(&run, &source, &to, &proxy);
}

#[test]
fn a_proxy_that_speaks_tls_is_verified_whatever_the_registry_is() {
    let (source, authority) = (source(), Authority::new("corp"));
    let identity = authority.sign(&["127.0.0.1"]);
    for (auth, status) in [
        (json!({"plain_http": true, "ca": "ca.pem"}), 0),
        (json!({"insecure": true, "ca": "ca.pem"}), 0),
        (json!({"insecure": true}), 1),
    ] {
        let to = FakeRegistry::start(Options::default().named(NAME));
        let proxy = FakeProxy::new(&[(NAME, to.socket())], Some("u:hunter2"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = Front::start(listener, proxy.addr().into(), identity.server(&[]));
        let url = format!("https://u:hunter2@{}", front.addr());
        let said = copy(&source, &to, &auth)
            .file("ca.pem", authority.pem())
            .env("ALL_PROXY", url)
            .run()
            .expect(status)
            .stderr;
        assert_eq!(proxy.asked().is_empty(), status == 1, "{said}");
        let is_refused = said.contains("the certificate is not accepted");
        assert_eq!(is_refused, status == 1, "{said}");
    }
}

#[test]
fn the_entry_of_a_registry_outweighs_the_environment() {
    let source = source();
    let to = FakeRegistry::start(Options::default().named(NAME));
    let proxy = FakeProxy::new(&[(NAME, to.socket())], Some("u:hunter 2"));
    let url = format!("http://u:hunter%202@{}", proxy.addr());
    let run = copy(&source, &to, &json!({"plain_http": true, "proxy": url}))
        .env("HTTP_PROXY", "http://nobody.invalid:1")
        .env("NO_PROXY", "*");
    assert_copied(&run, &source, &to, &proxy);

    // Without the proxy nobody knows the name.
    let (to, proxy) = (
        FakeRegistry::start(Options::default().named("registry.invalid:5000")),
        FakeProxy::refusing(500),
    );
    let said = copy(&source, &to, &json!({"plain_http": true, "proxy": "None"}))
        .env("HTTP_PROXY", format!("http://{}", proxy.addr()))
        .run()
        .expect(1)
        .stderr;
    assert!(said.contains("no address for registry.invalid"), "{said}");
    assert!(proxy.asked().is_empty());
}

#[test]
fn a_proxy_that_refuses_is_named_with_the_remedy_and_without_its_login() {
    let source = source();
    let to = FakeRegistry::start(Options::default().named(NAME));
    let wants_other = FakeProxy::new(&[], Some("u:other"));
    let cases = [
        (&wants_other, 1, ["it wants a login", "407"]),
        (
            &FakeProxy::refusing(403),
            1,
            ["it must allow CONNECT to this host and port", "403"],
        ),
        (
            &FakeProxy::refusing(502),
            5,
            ["no connection through the proxy", "502"],
        ),
        // It may take more the next time.
        (
            &FakeProxy::refusing(429),
            5,
            ["no connection through the proxy", "429"],
        ),
    ];
    for (proxy, attempts, words) in cases {
        let said = copy(&source, &to, &json!({"plain_http": true}))
            .env("HTTP_PROXY", format!("http://u:hunter2@{}", proxy.addr()))
            .run()
            .expect(1)
            .stderr;
        let shown = format!("http://{} (HTTP_PROXY)", proxy.addr());
        for word in words.into_iter().chain([shown.as_str()]) {
            assert!(said.contains(word), "{word:?} is not in:\n{said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
        // For the list of the tags, and then for the only tag.
        assert_eq!(proxy.asked(), vec![NAME; 2 * attempts]);
    }
    for proxy in ["http://127.0.0.1:1", "http://nobody.invalid:1"] {
        let said = copy(&source, &to, &json!({"plain_http": true}))
            .env("HTTP_PROXY", proxy)
            .run()
            .expect(1)
            .stderr;
        let words = format!("no connection through the proxy {proxy} (HTTP_PROXY)");
        assert!(said.contains(&words), "{said}");
    }
    assert!(to.history().is_empty());
}

#[test]
fn a_variable_that_names_no_proxy_stops_the_run_before_it_begins() {
    let (source, target) = (source(), FakeRegistry::new());
    for url in [
        "gopher://u:hunter2@p",
        "http://u:hunter2@",
        "http://u:hunter2@p:x",
        "socks4://u:hunter2@p",
    ] {
        let run = copy(&source, &target, &json!({})).env("https_proxy", url);
        let said = run.run().expect(2).stderr;
        assert!(
            said.contains("https_proxy is not the URL of a proxy; write http://HOST:PORT"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(source.history().is_empty());
}
