//! One request out and one answer in, over ureq. Not here: what follows from the answer.

use std::io::{self, Read};
use std::time::{Duration, Instant, SystemTime};

use percent_encoding::percent_decode_str;
use ureq::http::header::{self, HeaderMap, HeaderValue};
use ureq::{Agent, AsSendBody, BodyReader, SendBody, http};

use super::authorise::Authorization;
use super::body::Outgoing;
use super::client::Client;
use super::error::{Failure, Login, Refusal, RequestError, blot};
use super::hosts::Ability;
use super::network::Proxy;
use super::request::{Body, Method, Request, Target};
use super::transport::{Break, Transport, body_broken, transport};
use super::url::Url;
use crate::logging::sanitise;
use crate::pace::limit;
use crate::secret::Secret;
use crate::store::StoreError;

impl Client {
    /// One request out, one answer in.
    pub(super) fn exchange(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RequestError> {
        let route = &self.registry.route;
        let proxy = route
            .proxy(url)
            .map_err(|error| request.failed(url, Failure::Url(error)))?;

        if let Some(rate) = &self.registry.rates.requests
            && route.is_own(url)
            && rate.take(1).is_err()
        {
            let interrupted = Transport::new(Break::Interrupted);
            return Err(request.failed(url, Failure::Transport(interrupted)));
        }

        let mut head = http::Request::builder()
            .method(request.method.name())
            .uri(url.to_request_string());
        for (name, value) in &request.headers {
            head = head.header(*name, value);
        }
        if let Some(value) = authorization.and_then(Authorization::header) {
            head = head.header(header::AUTHORIZATION, value.expose());
        }
        let length = request.body.length();
        if let Some(length) = length {
            head = head.header(header::CONTENT_LENGTH, length);
        }
        let is_large = |length| length > EXPECT_FROM || length >= self.registry.max_body(false);
        let expects = length.is_some_and(is_large) && self.registry.can(Ability::Expect);
        if expects {
            head = head.header(header::EXPECT, "100-continue");
        }

        let started = Instant::now();
        let answer = match &mut request.body {
            Body::None => run(head, (), &route.agent, proxy, request.is_patient),
            Body::Bytes(bytes) => {
                // A copy of the slice, which is the reader: the request may be sent again.
                let mut rest = *bytes;
                let body = SendBody::from_reader(&mut rest);
                run(head, body, &route.agent, proxy, request.is_patient)
            }
            Body::Stream(stream) => {
                let body = SendBody::from_reader(stream);
                run(head, body, &route.agent, proxy, request.is_patient)
            }
        };
        let waited = request
            .sent()
            .and_then(Outgoing::first_read)
            .map(|first| first - started);
        if expects && waited.is_some_and(|waited| waited >= EXPECT_LIMIT) {
            self.registry.forgo(Ability::Expect);
        }
        let milliseconds = started.elapsed().as_millis();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let broken = transport(error);
                let broken = match proxy {
                    Some(proxy) => broken.through(proxy),
                    None => broken,
                };
                let error = request.failed(url, Failure::Transport(broken));
                log::debug!("{error} {milliseconds}ms");
                return Err(error);
            }
        };

        let (parts, body) = answer.into_parts();
        let (login, secrets) = match authorization {
            Some(authorization) => (authorization.login(), authorization.secrets()),
            None if self.is_signed(request, url) => (Login::Storage, signature(url)),
            None => (Login::Anonymous, Vec::new()),
        };
        let response = Response {
            method: request.method,
            url: url.clone(),
            status: parts.status.as_u16(),
            reason: parts.status.canonical_reason().unwrap_or_default(),
            headers: parts.headers,
            body: body.into_reader(),
            login,
            secrets,
        };
        let bytes = length.filter(|&length| length > 0).or(response.length());
        log::debug!(
            "{} {url} {} {} {milliseconds}ms",
            request.method,
            response.status,
            bytes.unwrap_or(0)
        );
        if log::log_enabled!(log::Level::Trace) {
            trace_headers(&response);
        }
        Ok(response)
    }

    /// Whether a registry has sent us there with rights that stand in the query: to a storage.
    fn is_signed(&self, request: &Request<'_>, url: &Url) -> bool {
        let is_meant = matches!(&request.target, Target::Judged(verdict) if verdict.credentials);
        // Which scheme the registry speaks may not be known yet.
        let own = Url::new(url.origin().scheme(), self.registry.host.authority(), "/");
        !is_meant && own.is_ok_and(|own| own.origin() != url.origin())
    }
}

/// The values of a query that are long enough to open doors, as they are written and as they are meant.
fn signature(url: &Url) -> Vec<Secret> {
    let query = url.query().unwrap_or_default();
    let values = query.split('&').filter_map(|part| part.split_once('='));
    let written = values
        .map(|(_, value)| value)
        .filter(|value| value.len() >= MIN_SIGNATURE);
    let both = |value: &str| {
        let meant = percent_decode_str(value).decode_utf8_lossy().into_owned();
        [value.to_owned(), meant].map(Secret::new)
    };
    written.flat_map(both).collect()
}

/// An answer. Its connection is kept only if the body is read to its end.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) url: Url,
    method: Method,
    reason: &'static str,
    headers: HeaderMap,
    body: BodyReader<'static>,
    login: Login,
    /// What must not be repeated to anybody if the answer repeats it to us.
    secrets: Vec<Secret>,
}

impl Response {
    /// A header that can be read as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// All headers of a name, as bytes.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers
            .get_all(name)
            .into_iter()
            .map(HeaderValue::as_bytes)
    }

    /// A header without which the answer is of no use.
    pub(super) fn required_header(&self, name: &'static str) -> Result<&str, RequestError> {
        self.header(name)
            .ok_or_else(|| self.failed(Failure::Header(name)))
    }

    /// The Content-Length.
    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The whole body. More than `limit` bytes are an error, not a cut (S10).
    pub(super) fn bytes(&mut self, limit: u64) -> Result<Vec<u8>, RequestError> {
        if self.length().is_some_and(|length| length > limit) {
            return Err(self.failed(Failure::TooLarge(limit)));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.body).take(limit + 1).read_to_end(&mut bytes);
        if let Err(error) = read {
            return Err(self.failed(Failure::Transport(body_broken(error))));
        }
        if bytes.len() as u64 > limit {
            return Err(self.failed(Failure::TooLarge(limit)));
        }
        Ok(bytes)
    }

    /// The body as it comes. Its errors hold a [`StoreError`].
    pub(super) fn into_reader(self) -> Incoming {
        Incoming {
            method: self.method,
            url: self.url,
            body: self.body,
        }
    }

    /// Reads what is left of a small body, so that the connection can be used again.
    pub(super) fn discard(&mut self) {
        let rest = (&mut self.body).take(MAX_ERROR);
        // Where this fails the connection is closed, and that is all there is to it.
        io::copy(&mut { rest }, &mut io::sink()).ok();
    }

    /// Whether a text of the other side holds the login that it was sent, in capitals or not: hosts have none.
    pub(super) fn repeats_login(&self, text: &str) -> bool {
        let text = percent_decode_str(text).decode_utf8_lossy().to_lowercase();
        let secrets: Vec<String> = self.secrets().iter().map(|s| s.to_lowercase()).collect();
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        blot(text.clone(), &secrets) != text
    }

    /// Whether a text of the other side must not be shown. Who was asked by a URL that held a login may repeat that one,
    /// whatever was sent this time.
    pub(super) fn is_private(&self, text: &str) -> bool {
        self.url.is_hidden() || self.repeats_login(text)
    }

    /// A text of the other side that can be shown.
    fn shown(&self, text: String) -> String {
        if self.url.is_hidden() {
            return "***".into();
        }
        sanitise(&blot(text, &self.secrets())).into_owned()
    }

    /// An error about this answer. What would say more than it may is not said.
    pub(super) fn failed(&self, failure: Failure) -> RequestError {
        let failure = match failure {
            Failure::Url(error) if self.is_private(&error.to_string()) => Failure::Echo,
            Failure::Manifest(error) if self.is_private(&error.to_string()) => Failure::Echo,
            failure => failure,
        };
        RequestError {
            method: self.method,
            url: self.url.to_string(),
            failure,
        }
    }

    /// The answer as an error, with the registry's words. A body that cannot be read takes nothing from the status.
    pub(super) fn refuse(mut self) -> RequestError {
        let mut body = Vec::new();
        (&mut self.body).take(MAX_ERROR).read_to_end(&mut body).ok();
        let mut refusal = Refusal {
            status: self.status,
            reason: self.reason,
            code: None,
            message: String::new(),
            named: Vec::new(),
            retry_after: self.retry_after(),
            login: self.login.clone(),
        };
        refusal.read_body(&body, &self.secrets());
        if self.url.is_hidden() {
            refusal.code = None;
            refusal.message = String::new();
        }
        self.failed(Failure::Status(Box::new(refusal)))
    }

    fn secrets(&self) -> Vec<&str> {
        self.secrets.iter().map(Secret::expose).collect()
    }

    /// How long the other side wants to be left alone: seconds, or a date, which is taken relative to the answer's own
    /// date, so that two clocks need not agree (H17). What makes no sense is no wish.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.header("retry-after")?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let then = httpdate::parse_http_date(text).ok()?;
        Some(then.duration_since(self.time()).unwrap_or_default())
    }

    /// How many requests are left, and how long until there are more (R4). Docker Hub says only how long its window is,
    /// and nothing takes longer than that.
    pub(super) fn quota(&self) -> Option<(u64, Duration)> {
        let mut parts = self.header("ratelimit-remaining")?.split(';');
        let left = parts.next()?.trim().parse().ok()?;
        let reset = match self.header("ratelimit-reset") {
            Some(text) => text,
            None => parts.find_map(|part| part.trim().strip_prefix("w="))?,
        };
        let seconds = reset.trim().parse().ok()?;
        // Of so many seconds it can only be the time itself, as GitLab has it (R1).
        let now = if seconds < SINCE_1970 {
            Duration::ZERO
        } else {
            let since = self.time().duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap_or_default()
        };
        let wait = Duration::from_secs(seconds).saturating_sub(now);
        Some((left, wait.min(Duration::from_secs(SINCE_1970))))
    }

    /// The time by the clock of the other side.
    fn time(&self) -> SystemTime {
        self.date().unwrap_or_else(SystemTime::now)
    }

    /// The same, where the answer tells it.
    pub(super) fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.header("date")?).ok()
    }

    /// Refuses answers that only look like one (E3, E9), and reads the rest of those that carry nothing.
    pub(super) fn check(&mut self) -> Result<(), RequestError> {
        if self.method.is_write() {
            if self.status < 400 {
                self.discard();
            }
            return Ok(());
        }
        if !(200..300).contains(&self.status) {
            return Ok(());
        }
        let content_type = self.header("content-type").unwrap_or_default();
        if content_type
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("text/html")
        {
            return Err(self.failed(Failure::Html));
        }
        match self.header("content-encoding") {
            None | Some("" | "identity") => Ok(()),
            Some(encoding) => Err(self.failed(Failure::Encoded(self.shown(encoding.to_owned())))),
        }
    }
}

/// The body of an answer as it comes.
pub(super) struct Incoming {
    method: Method,
    url: Url,
    body: BodyReader<'static>,
}

impl Incoming {
    /// An error about this body, as its reader gives it.
    pub(super) fn failed(&self, failure: Failure) -> io::Error {
        io::Error::other(StoreError::from(RequestError {
            method: self.method,
            url: self.url.to_string(),
            failure,
        }))
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body
            .read(buffer)
            .map_err(|error| self.failed(Failure::Transport(body_broken(error))))
    }
}

/// Hands a request to ureq.
fn run(
    head: http::request::Builder,
    body: impl AsSendBody,
    agent: &Agent,
    proxy: Option<&Proxy>,
    is_patient: bool,
) -> Result<http::Response<ureq::Body>, ureq::Error> {
    let request = head.body(body)?;
    if proxy.is_none() && !is_patient {
        return agent.run(request);
    }
    let mut settings = agent
        .configure_request(request)
        .proxy(proxy.map(|proxy| proxy.settings.clone()));
    if is_patient {
        settings = settings
            .timeout_recv_response(Some(limit(LONG_LIMIT)))
            .timeout_per_read(Some(limit(LONG_LIMIT)));
    }
    agent.run(settings.build())
}

/// Headers of an answer for the log, without those that open doors.
fn trace_headers(response: &Response) {
    for (name, value) in &response.headers {
        let value = match name.as_str() {
            // Upload sessions, signed storage URLs and pages carry their rights in the query.
            "set-cookie" | "location" | "link" | "content-location" => "***".into(),
            _ => response.shown(String::from_utf8_lossy(value.as_bytes()).into_owned()),
        };
        log::trace!("{} {}: {name}: {value}", response.method, response.url);
    }
}

/// Bodies of errors, and of tokens, in bytes.
pub(super) const MAX_ERROR: u64 = 64 << 10;
/// Above this, or where it is as large as a limit allows, a body waits to be asked for, so that a refusal comes before
/// it.
const EXPECT_FROM: u64 = 1 << 20;
/// Shorter values of a query say what is meant by it: names of parameters, dates, kinds of keys.
const MIN_SIGNATURE: usize = 20;
/// How long ureq waits for `100 Continue`; a body that begins later than that was not asked for.
const EXPECT_LIMIT: Duration = Duration::from_secs(1);
/// No wait is so long: from here on a number of seconds is a time.
const SINCE_1970: u64 = 1_000_000_000;
const LONG_LIMIT: Duration = Duration::from_mins(5);
