//! A request until its answer is final: the scheme is found out, redirects of reads are followed, a login is tried. Not
//! here: the exchanges themselves, and what is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::auth::Scope;
use super::authorise::{Authorization, Round};
use super::credentials::Source;
use super::error::{Failure, RequestError};
use super::exchange::Response;
use super::hosts::{Ability, Registry};
use super::request::{Method, Request, Target};
use super::url::{Purpose, Scheme, Url, Verdict, judge};
use crate::oci::Repository;

/// Sends requests about one repository.
pub(super) struct Client {
    pub(super) registry: Arc<Registry>,
    pub(super) repository: Repository,
    /// What may know the login, most specific first.
    pub(super) sources: Vec<Source>,
    /// Whether anything was written: from then on the repository's tokens are for both, so that there is one (A14).
    writes: AtomicBool,
    /// Whether the repository is not known to lack lists of referrers: others of its host may be another registry's, as
    /// those of a proxy project are (protocol.md E62).
    pub(super) lists_referrers: AtomicBool,
}

impl Client {
    /// Nothing is sent yet.
    pub(super) fn new(
        registry: Arc<Registry>,
        repository: Repository,
        sources: Vec<Source>,
    ) -> Self {
        Self {
            registry,
            repository,
            sources,
            writes: AtomicBool::new(false),
            lists_referrers: AtomicBool::new(true),
        }
    }

    /// Says that the repository is a target.
    pub(super) fn will_write(&self) {
        self.writes.store(true, Ordering::Relaxed);
    }

    /// The path of something in the repository.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// What ordinary requests need to be allowed.
    pub(super) fn scope(&self) -> Scope {
        if self.writes.load(Ordering::Relaxed) {
            Scope::push(&self.repository)
        } else {
            Scope::pull(&self.repository)
        }
    }

    /// Whether an answer came from the registry itself, not from where it led us.
    pub(super) fn is_own(&self, response: &Response) -> bool {
        let own = self.registry.url("/");
        own.is_ok_and(|own| own.origin() == response.url.origin())
    }

    /// Judges a URL that an answer names. One that repeats the login is never shown; nor is it followed where that is in
    /// its host, which others would be asked for.
    pub(super) fn judge(
        &self,
        response: &Response,
        reference: &str,
        purpose: Purpose,
    ) -> Result<Verdict, RequestError> {
        let judged = self.registry.url("/").and_then(|registry| {
            let insecure = self.registry.may_be_plain();
            judge(&registry, insecure, &response.url, reference, purpose)
        });
        let verdict = judged.map_err(|error| response.failed(Failure::Url(error)))?;
        if !response.is_private(&verdict.url.to_string()) {
            return Ok(verdict);
        }
        if response.repeats_login(verdict.url.origin().host()) {
            return Err(response.failed(Failure::Echo));
        }
        Ok(Verdict {
            url: verdict.url.hidden(),
            ..verdict
        })
    }

    /// Judges the location of an upload that an earlier run recorded. Only the registry itself is followed: anybody may
    /// have written the file. `None` also where the registry's scheme is not known, before its first answer.
    pub(super) fn judge_recorded(&self, location: &str) -> Option<Verdict> {
        self.registry.scheme()?;
        let own = self.registry.url("/").ok()?;
        let insecure = self.registry.may_be_plain();
        let verdict = judge(&own, insecure, &own, location, Purpose::Upload).ok()?;
        Some(verdict).filter(|verdict| verdict.credentials)
    }

    /// Sends a request and gives its answer, whatever its status. 401 is given back where signing in did not help.
    ///
    /// # Errors
    /// Where there is no answer, or one that is none: a page for people, encoded content, a write that was redirected.
    pub(super) fn send(&self, request: &mut Request<'_>) -> Result<Response, RequestError> {
        let mut first = self.probe(request)?;
        let (mut url, mut credentials) = match &request.target {
            Target::Path(path) => (self.own_url(request.method, path)?, true),
            Target::Judged(verdict) => (verdict.url.clone(), verdict.credentials),
        };
        for _ in 0..=MAX_REDIRECTS {
            let mut response = if credentials {
                self.ask(request, &url, first.take())?
            } else {
                self.exchange_twice(request, &url, None)?
            };
            if credentials && let Some((left, reset)) = response.quota() {
                self.registry.note_quota(left, reset);
            }
            if !(300..400).contains(&response.status) {
                response.check()?;
                return Ok(response);
            }
            let location = response.required_header("location")?.to_owned();
            let verdict = self.judge(&response, &location, Purpose::Redirect)?;
            if request.method.is_write() {
                // 307 and 308 keep method and body; with another origin or a body that is gone, nothing was written
                // and nothing may pretend that it was (E7, H27, H28).
                let repeats = matches!(response.status, 307 | 308)
                    && verdict.url.origin() == response.url.origin()
                    && request.body.is_untouched();
                if !repeats {
                    return Err(response.failed(Failure::Redirected {
                        status: response.status,
                        location: verdict.url.to_string(),
                    }));
                }
            }
            response.discard();
            Verdict { url, credentials } = verdict;
        }
        Err(request.failed(&url, Failure::TooManyRedirects))
    }

    /// One request with the registry's login, signing in as often as it makes sense (A10, A11).
    fn ask(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        first: Option<Response>,
    ) -> Result<Response, RequestError> {
        // What the probe got was sent without a login, whatever has been learned of the host meanwhile.
        let (mut round, mut response) = if let Some(response) = first {
            (Round::anonymous(request), response)
        } else {
            let round = self.first_round(request, url)?;
            let response = self.exchange_in(request, url, round.authorization.as_ref())?;
            (round, response)
        };
        for _ in 0..MAX_ROUNDS {
            if response.status == 417
                && request.body.is_untouched()
                && self.registry.can(Ability::Expect)
            {
                self.registry.forgo(Ability::Expect); // N32
            } else if response.status == 401 && request.method != Method::Delete {
                let Some(next) = self.next_round(round, request, &response)? else {
                    return Ok(response);
                };
                round = next;
                if !request.body.is_untouched() {
                    return Err(response.failed(Failure::LoginRenewed));
                }
            } else {
                return Ok(response);
            }
            response.discard();
            response = self.exchange_in(request, url, round.authorization.as_ref())?;
        }
        // A denial leaves nothing to try. This is one token after another that died before it was used, some of them
        // those of other requests (H02).
        if response.status == 401 {
            return Err(response.failed(Failure::TokensInvalid));
        }
        Ok(response)
    }

    /// Finds out the scheme of a registry that may speak plain http: the first request goes without a login, to https,
    /// and to http only where nothing listens or what listens is not TLS (decisions D8). Gives the answer of that
    /// request, and nothing where the scheme is known.
    fn probe(&self, request: &mut Request<'_>) -> Result<Option<Response>, RequestError> {
        let Target::Path(path) = &request.target else {
            return Ok(None);
        };
        if self.registry.scheme().is_some() {
            return Ok(None);
        }
        let _others_wait = self.registry.probe();
        if self.registry.scheme().is_some() {
            return Ok(None);
        }
        let https = self.own_url(request.method, path)?;
        let in_the_clear = |error| request.failed(&https, Failure::Url(error));
        let http =
            Url::new(Scheme::Http, self.registry.host.authority(), path).map_err(in_the_clear)?;
        let (scheme, response) = match self.exchange_twice(request, &https, None) {
            Err(error) if error.suggests_plain_http() => {
                (Scheme::Http, self.exchange_twice(request, &http, None)?)
            }
            result => (Scheme::Https, result?),
        };
        self.registry.settle_scheme(scheme);
        Ok(Some(response))
    }

    /// Asks for `/v2/` without a login.
    pub(super) fn ping(&self) -> Result<Response, RequestError> {
        let mut request = Request::new(Method::Get, "/v2/".to_owned(), self.scope());
        let mut response = if let Some(response) = self.probe(&mut request)? {
            response
        } else {
            let url = self.own_url(request.method, "/v2/")?;
            self.exchange_twice(&mut request, &url, None)?
        };
        if response.status < 400 || response.status == 401 {
            response.discard();
        }
        Ok(response)
    }

    fn own_url(&self, method: Method, path: &str) -> Result<Url, RequestError> {
        self.registry.url(path).map_err(|error| RequestError {
            method,
            url: path.to_owned(),
            failure: Failure::Url(error),
        })
    }

    /// One exchange, and a second one at once where the connection died before there was an answer: a kept connection
    /// may be closed by the server in the moment that we take it (N30). Not where the request is not to be repeated.
    pub(super) fn exchange_twice(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RequestError> {
        match self.exchange(request, url, authorization) {
            Err(error) if error.is_closed() && request.is_repeatable() => {
                self.exchange(request, url, authorization)
            }
            result => result,
        }
    }
}

const MAX_REDIRECTS: usize = 5;
/// A request without a login, one with a stale token, one with a fresh one, one with a wider one.
const MAX_ROUNDS: usize = 4;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::super::credentials::{Credentials, Entry, Given, Proof};
    use super::super::hosts::Registries;
    use super::super::network::Reach;
    use super::super::testing::{Reply, Seen, Server, descriptor};
    use super::*;
    use crate::oci::{Host, Reference, Tag};
    use crate::secret::Secret;
    use crate::store::{Class, StoreError, Target};

    const CONTENT: &[u8] = b"0123456789";

    fn tag() -> Reference {
        Reference::Tag(Tag::parse("v1").unwrap())
    }

    fn read(store: &dyn Target) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let mut reader = store.blob(&descriptor(CONTENT), 0)?;
        reader.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    #[test]
    fn a_redirect_of_a_read_is_followed_without_the_login() {
        let storage = Server::start(|_| Some(Reply::new(200).body(CONTENT)));
        let to = format!("http://{}/s?sig=a%2Fb", storage.host);
        let registry = Server::start(move |seen| {
            Some(match seen.header("authorization") {
                None => Reply::new(401).header("www-authenticate", "Basic"),
                Some(_) => Reply::new(307).header("location", &to),
            })
        });
        let store = registry
            .registries(Some("p"))
            .store(&registry.host, &Repository::parse("a/b").unwrap());
        assert_eq!(read(&*store).unwrap(), CONTENT);
        let seen = &storage.seen()[0];
        assert_eq!(seen.line(), "GET /s?sig=a%2Fb");
        assert_eq!(seen.header("authorization"), None);
        assert!(
            seen.header("user-agent")
                .unwrap()
                .starts_with("image-syncer/")
        );
    }

    #[test]
    fn redirects_end() {
        let server = Server::start(|seen| {
            Some(Reply::new(302).header("location", format!("{}x", seen.target)))
        });
        let error = read(&*server.store("a/b")).err().unwrap();
        assert!(
            error.to_string().contains("one redirect after another"),
            "{error}"
        );
        assert_eq!(server.requests().len(), 6);
        let lost = Server::start(|_| Some(Reply::new(302)));
        assert!(
            read(&*lost.store("a/b"))
                .err()
                .unwrap()
                .to_string()
                .contains("location")
        );
    }

    #[test]
    fn a_write_is_repeated_at_the_same_server_only() {
        let other = Server::start(|_| Some(Reply::new(202).header("location", "/x")));
        let away = format!("http://{}/x", other.host);
        for (status, location, stored) in [
            (307, "/moved", true),
            (308, "/moved", true),
            (301, "/moved", false),
            (307, away.as_str(), false),
        ] {
            let location = location.to_owned();
            let server = Server::start(move |seen| {
                Some(match seen.target.as_str() {
                    "/moved" => Reply::new(201),
                    _ => Reply::new(status).header("location", &location),
                })
            });
            let image = crate::oci::Manifest::parse(
                br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
                None,
                descriptor(CONTENT).digest,
            );
            let result = server.store("a/b").put_manifest(&tag(), &image.unwrap());
            assert_eq!(result.is_ok(), stored, "{status}");
            assert!(server.seen().iter().all(|seen| !seen.body.is_empty()));
        }
        assert!(other.seen().is_empty());
    }

    #[test]
    fn a_connection_that_dies_at_once_is_tried_a_second_time() {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |seen| {
            let is_first = seen.method == "POST" && asked.fetch_add(1, Ordering::Relaxed) == 0;
            Some(if is_first {
                Reply::nothing()
            } else {
                Reply::new(202).header("location", "/u")
            })
        });
        server
            .store("a/b")
            .begin(
                &descriptor(CONTENT),
                &crate::store::Hint {
                    prior: crate::store::Prior::Distrusted,
                    ..crate::store::Hint::default()
                },
            )
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(server.requests().len(), 2);
    }

    #[test]
    fn a_dead_server_is_transient_and_a_missing_one_unreachable() {
        let server = Server::start(|_| Some(Reply::nothing()));
        let error = server.store("a/b").head(&tag()).unwrap_err();
        assert_eq!(error.class, Class::Transient, "{error}");

        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let host = Host::parse(&closed.to_string()).unwrap();
        let error = Registries::new(Credentials::default(), 1, Reach::default())
            .store(&host, &Repository::parse("a").unwrap())
            .head(&tag())
            .unwrap_err();
        assert_eq!(error.class, Class::Unreachable, "{error}");
        assert!(
            error
                .to_string()
                .contains("no connection: Connection refused"),
            "{error}"
        );
    }

    #[test]
    fn waits_are_seconds_or_dates_by_the_answers_own_clock() {
        for (wait, date, expected) in [
            ("7", "", Some(7)),
            ("0", "", Some(0)),
            ("1000000000000000000", "", Some(1_000_000_000_000_000_000)),
            (
                "Sun, 06 Nov 1994 08:49:44 GMT",
                "Sun, 06 Nov 1994 08:49:37 GMT",
                Some(7),
            ),
            (
                "Sun, 06 Nov 1994 08:49:30 GMT",
                "Sun, 06 Nov 1994 08:49:37 GMT",
                Some(0),
            ),
            ("-1", "", None),
            ("abc", "", None),
            ("", "", None),
        ] {
            let server = Server::start(move |_| {
                Some(
                    Reply::new(429)
                        .header("retry-after", wait)
                        .header("date", date),
                )
            });
            let error = server.store("a/b").head(&tag()).unwrap_err();
            assert_eq!(error.class, Class::Throttled);
            assert_eq!(
                error.retry_after.map(|wait| wait.as_secs()),
                expected,
                "{wait}"
            );
        }
    }

    #[test]
    fn errors_are_shown_without_what_they_echo() {
        let server = Server::start(|seen| {
            let echo = seen.header("authorization").unwrap_or_default();
            Some(match echo {
                "" => Reply::new(401).header("www-authenticate", "Basic"),
                _ => Reply::new(400).body(format!("bad {echo}, hunter2 \u{1b}[2J")),
            })
        });
        let store = server
            .registries(Some("hunter2"))
            .store(&server.host, &Repository::parse("a/b").unwrap());
        let error = store.manifest(&tag()).unwrap_err().to_string();
        assert!(error.contains("bad Basic ***, ***"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn a_url_that_holds_the_login_is_followed_in_silence_but_never_looked_up() {
        const LOGIN: &str = "dTpodW50ZXIy"; // u:hunter2
        for (location, says) in [
            ("/x/dTpodW50ZXIy", "GET ***: 404 Not Found"),
            ("http://dTpodW50ZXIy/x", "repeats the login"),
            ("http://127.0.0.2:1/dTpodW50ZXIy", "GET ***: no connection"),
        ] {
            let server = Server::start(move |seen| {
                Some(match (seen.target.as_str(), seen.header("authorization")) {
                    // What it repeats here need not be what it was sent with this request.
                    ("/x/dTpodW50ZXIy", _) => Reply::new(404).body("no token-of-before"),
                    (_, None) => Reply::new(401).header("www-authenticate", "Basic"),
                    _ => Reply::new(307).header("location", location),
                })
            });
            let store = server
                .registries(Some("hunter2"))
                .store(&server.host, &Repository::parse("a/b").unwrap());
            let error = store.manifest(&tag()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            for secret in [LOGIN, &LOGIN.to_lowercase(), "token-of-before"] {
                assert!(!error.contains(secret), "{error}");
            }
        }
    }

    #[test]
    fn a_storage_that_repeats_the_signature_of_a_url_is_not_quoted() {
        let storage = Server::start(|seen| {
            let said = format!(
                "{{\"message\": \"SignatureDoesNotMatch: {}\"}}",
                seen.target
            );
            Some(Reply::new(403).body(said))
        });
        let to = format!(
            "http://{}/s?kind=v4&sig=a%2F0123456789abcdefgh",
            storage.host
        );
        let registry = Server::start(move |_| Some(Reply::new(307).header("location", to.clone())));
        let error = read(&*registry.store("a/b")).err().unwrap().to_string();
        let said = "SignatureDoesNotMatch: /s?kind=v4&sig=***";
        assert!(error.contains(said), "{error}");
        // Nor is a login missing that would never go there.
        assert!(error.contains("no login is for that"), "{error}");
    }

    #[test]
    fn connections_are_used_again_after_each_kind_of_answer() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let server = Server::start(move |seen: &Seen| {
            counter.fetch_add(1, Ordering::Relaxed);
            Some(match seen.target.as_str() {
                "/v2/a/b/manifests/v1" => Reply::new(404).body("no such thing"),
                target if target.contains("/tags/") => Reply::new(400).body("no n"),
                _ => Reply::new(200).body(CONTENT),
            })
        });
        let store = server.store("a/b");
        for _ in 0..3 {
            store.manifest(&tag()).unwrap_err();
            store.tags().unwrap_err();
            read(&*store).unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 12);
        assert_eq!(server.connections(), 1);
    }

    /// Accepts connections until the port is asked for by plain http, and says how many came before.
    fn silent_port() -> (Host, thread::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = Host::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let thread = thread::Builder::new().spawn(move || {
            for (nth, stream) in listener.incoming().enumerate() {
                let mut first = [0];
                if stream.unwrap().read(&mut first).unwrap() == 1 && first != [0x16] {
                    return nth;
                }
            }
            0
        });
        (host, thread.unwrap())
    }

    #[test]
    fn plain_http_is_for_those_that_do_not_speak_tls_and_the_first_request_has_no_login() {
        // TLS that breaks off is no reason: somebody between may have done it (S05).
        let (host, thread) = silent_port();
        let entry = Entry {
            key: host.to_string(),
            host: host.clone(),
            path: String::new(),
            login: Some(Given::Proof(Proof::Password(
                "u".into(),
                Secret::new("p".into()),
            ))),
            insecure: true,
        };
        let credentials = Credentials::new(vec![entry], Vec::new());
        let registries = Registries::new(credentials, 1, Reach::default());
        let store = registries.store(&host, &Repository::parse("a").unwrap());
        let error = store.head(&tag()).unwrap_err();
        assert_eq!(error.class, Class::Transient, "{error}");
        std::net::TcpStream::connect(host.as_str())
            .unwrap()
            .write_all(b"G")
            .unwrap();
        assert_eq!(thread.join().unwrap(), 2);

        // What answers in the clear is: found out once, and without the login.
        let server = Server::start(|_| Some(Reply::new(404)));
        let registries = server.registries(Some("p"));
        for name in ["a", "b"] {
            registries
                .store(&server.host, &Repository::parse(name).unwrap())
                .head(&tag())
                .unwrap();
        }
        assert_eq!(server.tls_attempts(), 1);
        assert!(
            server
                .seen()
                .iter()
                .all(|seen| seen.header("authorization").is_none())
        );
    }
}
