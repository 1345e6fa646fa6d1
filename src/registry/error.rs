//! What goes wrong between a request and what it was for, and what that means for the run. Not here: ureq's errors,
//! which `transport.rs` reads.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::auth::TokenError;
use super::credentials::CredentialError;
use super::request::Method;
use super::transport::{Break, Transport};
use super::url::UrlError;
use crate::logging::sanitise;
use crate::oci::{Digest, ManifestError};
use crate::store::{Class, StoreError};

/// A request that did not do what it was for.
#[derive(Debug)]
pub(super) struct RequestError {
    pub(super) method: Method,
    /// Without its query, which may hold a signature.
    pub(super) url: String,
    pub(super) failure: Failure,
}

impl RequestError {
    /// What it means for what comes next (protocol.md 6.1).
    pub(super) fn class(&self) -> Class {
        match &self.failure {
            Failure::Transport(broken) => broken.class(),
            Failure::Status(refusal) => refusal.class(self.method),
            // What may have been damaged on the way is asked for again.
            Failure::Digest { .. }
            | Failure::Size { .. }
            | Failure::NotStored { .. }
            | Failure::LoginRenewed
            | Failure::TokensInvalid
            | Failure::OtherMethodNext { .. } => Class::Transient,
            Failure::Credential(error) if error.is_passing() => Class::Transient,
            // Without a length the end of a connection looks like the end of a body (M3).
            Failure::Json(error) if error.is_eof() => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// The status that was answered where one was expected that is better.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.failure {
            Failure::Status(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the connection came about and broke, so that nobody knows what became of the request.
    pub(super) fn is_cut(&self) -> bool {
        matches!(&self.failure, Failure::Transport(broken) if broken.class() == Class::Transient)
    }

    /// Whether the connection was closed before there was an answer.
    pub(super) fn is_closed(&self) -> bool {
        matches!(&self.failure, Failure::Transport(broken) if matches!(broken.kind, Break::Closed))
    }

    /// Whether nothing listens, or what listens does not speak TLS.
    pub(super) fn suggests_plain_http(&self) -> bool {
        matches!(&self.failure, Failure::Transport(broken) if matches!(broken.kind, Break::Refused | Break::NotTls))
    }

    /// As it goes to the engine, with a class other than its own.
    pub(super) fn with_class(self, class: Class) -> StoreError {
        StoreError {
            class,
            ..self.into()
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.method, self.url, self.failure)?;
        match &self.failure {
            Failure::Status(refusal) => refusal.write_remedy(self.method, f),
            _ => Ok(()),
        }
    }
}

impl Error for RequestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.failure {
            Failure::Transport(broken) => broken.cause.as_deref().map(|cause| cause as _),
            Failure::Url(error) => Some(error),
            Failure::Credential(error) => Some(error),
            Failure::Token(error) => Some(error),
            Failure::Manifest(error) => Some(error),
            _ => None,
        }
    }
}

impl From<RequestError> for StoreError {
    fn from(error: RequestError) -> Self {
        let retry_after = error.refusal().and_then(|refusal| refusal.retry_after);
        Self {
            retry_after,
            ..Self::new(error.class(), error)
        }
    }
}

/// What went wrong.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no answer, or not the whole of it.
    Transport(Transport),
    /// The answer says no.
    Status(Box<Refusal>),
    /// A write was answered by a redirect: nothing was stored (H27).
    Redirected {
        /// The status.
        status: u16,
        /// Where it points, without its query.
        location: String,
    },
    /// One redirect after another (protocol.md E6).
    TooManyRedirects,
    /// The registry names a URL that is not followed.
    Url(UrlError),
    /// A page for people where data was asked for (protocol.md E9).
    Html,
    /// The body is not what was stored (protocol.md E3).
    Encoded(String),
    /// A body over its limit in bytes.
    TooLarge(u64),
    /// A header that the answer must have is missing or makes no sense.
    Header(&'static str),
    /// The body is not the JSON that it should be.
    Json(serde_json::Error),
    /// A URL or a manifest that is wrong, and repeats the login that it was asked for with.
    Echo,
    /// The token service gave no token.
    Token(TokenError),
    /// A login that cannot be had or sent.
    Credential(CredentialError),
    /// The login was refused before, so it is not sent again (D7).
    LoginRefused(Login),
    /// The login was no longer good, with the body on its way: it has been renewed for the next attempt (A11).
    LoginRenewed,
    /// The registry calls one new token after another invalid: it may be restarting, or its clock may be wrong (H02).
    TokensInvalid,
    /// The registry does not take an upload by this method and will be sent the next one by the other (E45).
    OtherMethodNext {
        /// The status that said so.
        status: u16,
    },
    /// The body is no manifest that can be copied.
    Manifest(ManifestError),
    /// Schema 1 can only be had by a tag (M22).
    Schema1ByDigest,
    /// A layer of schema 1, whose manifest has no sizes, and whose registry tells none.
    NoSize(Digest),
    /// The target does not take schema 1; its words.
    Schema1Refused(String),
    /// The target does not take a manifest whose foreign layers were left out (M9); its words.
    ForeignWanted(String),
    /// The target does not take an index some of whose children were left out (M15); its words.
    ChildrenWanted(String),
    /// Content under another digest than its own.
    Digest {
        /// What was asked for or sent.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Content of another length than its descriptor's.
    Size {
        /// The descriptor's.
        expected: u64,
        /// What came or was announced.
        actual: u64,
    },
    /// The target made something else of the manifest (R32).
    Changed {
        /// What was put.
        sent: Digest,
        /// What the target says that it stored.
        stored: Digest,
    },
    /// The answer sounds like success, but the content is not there.
    NotStored {
        /// The status.
        status: u16,
    },
    /// The tag may not be moved, and names something else (R20).
    Immutable {
        /// What it names, if it said so.
        names: Option<Digest>,
        /// The registry's words.
        message: String,
    },
    /// A list that does not end (E33).
    EndlessList(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(broken) => broken.fmt(f),
            Self::Status(refusal) => refusal.fmt(f),
            Self::Redirected { status, location } => write!(
                f,
                "{status}: the write is redirected to {location} and nothing was stored: a proxy before the registry \
                 has another scheme or name than the registry is addressed by"
            ),
            Self::TooManyRedirects => f.write_str("one redirect after another"),
            Self::Url(_) => f.write_str("the registry names a URL that is not followed"),
            Self::Html => f.write_str(
                "a web page in place of data: a login page of a proxy, or no registry at this address",
            ),
            Self::Encoded(encoding) => write!(
                f,
                "the answer is encoded as {encoding:?}, which changes the content: a proxy before the registry \
                 compresses what it must pass on unchanged"
            ),
            Self::TooLarge(limit) => write!(f, "an answer of more than {limit} bytes"),
            Self::Header(name) => write!(f, "the answer has no usable {name} header"),
            // Not serde's words, which quote what came: a registry may send our own secrets back to us.
            Self::Json(error) => {
                let what = if error.is_data() { "not what was asked for" } else { "not JSON" };
                let (line, column) = (error.line(), error.column());
                write!(f, "the answer cannot be read: {what} at line {line}, column {column}")
            }
            Self::Echo => f.write_str(
                "the answer cannot be used, and repeats the login that it was sent: no more of it is shown",
            ),
            Self::Token(_) => f.write_str("the token service gave no token"),
            Self::Credential(_) => f.write_str("no login"),
            Self::LoginRefused(login) => write!(
                f,
                "the registry refused the password before ({login}; check its user name, password and rights, and that \
                 the repository exists)"
            ),
            Self::LoginRenewed => f.write_str("the login ran out during the transfer"),
            Self::TokensInvalid => f.write_str(
                "the registry takes the new tokens of its own token service for invalid: their clocks or keys differ",
            ),
            Self::OtherMethodNext { status } => write!(
                f,
                "{status}: this way to upload is not supported, the next attempt takes the other one"
            ),
            Self::Manifest(_) => f.write_str("not a manifest that can be copied"),
            Self::Schema1ByDigest => f.write_str(
                "a manifest of schema 1 can only be copied by its tag: its digest is not that of its bytes",
            ),
            Self::NoSize(digest) => write!(f, "the registry does not tell the size of {digest}"),
            Self::Schema1Refused(message) => {
                write!(f, "the target does not take manifests of schema 1: {message}")
            }
            Self::ForeignWanted(message) => write!(
                f,
                "{message} (its foreign layers were left out: the target must allow them, distribution by \
                 `validation.manifests.urls.allow`)"
            ),
            Self::ChildrenWanted(message) => write!(
                f,
                "{message} (children that are not wanted were left out, and the target wants every child of an index; \
                 leave out `sparse`, and the index is cut)"
            ),
            Self::Digest { expected, actual } => {
                write!(f, "{expected} was asked for, the bytes are {actual}")
            }
            Self::Size { expected, actual } => {
                write!(f, "{expected} bytes were expected, the registry has {actual}")
            }
            Self::Changed { sent, stored } => write!(
                f,
                "the target changed the manifest: {sent} was put, {stored} was stored"
            ),
            Self::NotStored { status } => {
                write!(f, "the answer was {status}, but the content is not there")
            }
            Self::Immutable { names, message } => {
                f.write_str("the tag may not be moved")?;
                if let Some(digest) = names {
                    write!(f, " from {digest}")?;
                }
                write!(f, ": {message}")
            }
            Self::EndlessList(how) => write!(f, "the list does not end: {how}"),
        }
    }
}

/// What a request was sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// No login, or a token got without one.
    Anonymous,
    /// That of this entry, or of this file.
    Entry(String),
    /// None of ours: a storage where the registry has sent us, with rights of its own in the query.
    Storage,
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("no `auth` entry fits"),
            Self::Entry(origin) => write!(f, "signed in by {origin}"),
            Self::Storage => f.write_str("a storage where the registry has sent us"),
        }
    }
}

/// An answer that says no.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    /// The registry's own code, such as `NAME_UNKNOWN`.
    pub(super) code: Option<String>,
    /// Its words, fit for a terminal.
    pub(super) message: String,
    /// The digests that the body names.
    pub(super) named: Vec<Digest>,
    pub(super) retry_after: Option<Duration>,
    pub(super) login: Login,
}

impl Refusal {
    /// Reads the body of an error as leniently as registries write them (protocol.md E69, E70). `secrets` are blotted
    /// out: some servers echo the request.
    pub(super) fn read_body(&mut self, body: &[u8], secrets: &[&str]) {
        let text = String::from_utf8_lossy(body);
        let (code, message) = match serde_json::from_slice::<Value>(body) {
            Ok(value) => envelope(&value),
            Err(_) if text.trim_start().starts_with('<') => (None, page(&text)),
            Err(_) => (None, text.trim().to_owned()),
        };
        let clean = |text: String| {
            let text = blot(text, secrets);
            sanitise(&text.chars().take(MAX_MESSAGE).collect::<String>()).into()
        };
        self.code = code.map(clean);
        self.message = clean(message);
        self.named = named_digests(&text);
    }

    /// Whether the code is this one.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the code says, in so many words, that a blob is not there.
    pub(super) fn says_blob_unknown(&self) -> bool {
        ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"]
            .iter()
            .any(|code| self.has_code(code))
    }

    fn class(&self, method: Method) -> Class {
        match self.status {
            // A repository or project that must be created first (R19).
            404 if method == Method::Post => Class::Permanent,
            404 => Class::NotFound,
            429 => Class::Throttled,
            503 if self.retry_after.is_some() => Class::Throttled,
            409 if method.is_write() => Class::Transient,
            408 | 425 | 499 | 500 | 502..=504 | 520..=524 => Class::Transient,
            _ => Class::Permanent,
        }
    }

    fn write_remedy(&self, method: Method, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            401 | 403 => {
                let advice = match &self.login {
                    Login::Anonymous => "add one, or check that the repository exists",
                    Login::Entry(_) => {
                        "check its password and its rights, and that the repository and its project exist"
                    }
                    Login::Storage => {
                        "no login is for that: it may be closed to this network, or the clocks differ"
                    }
                };
                write!(f, " (missing, or no permission; {}; {advice})", self.login)
            }
            404 if method == Method::Post || self.has_code("NAME_UNKNOWN") && method.is_write() => {
                f.write_str(" (the repository or its project may have to be created first)")
            }
            // What was brought was looked for, and brought again, before this is told to anybody (R13).
            400 | 404 if self.has_code("MANIFEST_BLOB_UNKNOWN") => f.write_str(
                " (the target does not find what was brought there twice: its own index may be broken)",
            ),
            413 => f.write_str(" (the registry or a proxy before it limits the size of a request)"),
            429 => match self.retry_after {
                Some(wait) => write!(
                    f,
                    " (a pause of {} s is asked for; {})",
                    wait.as_secs(),
                    self.login
                ),
                None => write!(f, " ({})", self.login),
            },
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        if let Some(code) = &self.code {
            write!(f, ": {code}")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// Blots out what must not be repeated to anybody, as it is and as JSON quotes it.
pub(super) fn blot(mut text: String, secrets: &[&str]) -> String {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let quoted = Value::from(*secret).to_string();
        text = text.replace(secret, "***");
        text = text.replace(quoted.trim_matches('"'), "***");
    }
    text
}

/// What a page for people says in its title: nginx tells there that it wants a client certificate.
fn page(text: &str) -> String {
    let title = text
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"));
    match title {
        Some((title, _)) => format!("(a web page: {})", title.trim()),
        None => "(a web page)".into(),
    }
}

/// Code and message of an error in any of the shapes seen (protocol.md E69).
fn envelope(value: &Value) -> (Option<String>, String) {
    let error = value
        .get("errors")
        .and_then(|errors| errors.get(0))
        .unwrap_or(value);
    let text = |key| error.get(key).and_then(Value::as_str).map(str::to_owned);
    let code = text("code");
    let message = ["message", "details", "error_description", "error"]
        .into_iter()
        .find_map(text)
        .unwrap_or_default();
    let detail = match error.get("detail") {
        Some(Value::String(detail)) => detail.clone(),
        Some(detail @ (Value::Object(_) | Value::Array(_))) => detail.to_string(),
        _ => String::new(),
    };
    let message = match (message.is_empty(), detail.is_empty()) {
        (_, true) => message,
        (true, _) => detail,
        _ => format!("{message}: {detail}"),
    };
    (code, message)
}

/// Every digest in a text, each once.
fn named_digests(text: &str) -> Vec<Digest> {
    let mut found = Vec::new();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != ':');
    let digest = |word: &str| Digest::parse(word.get(word.find("sha")?..)?).ok();
    for digest in words.filter_map(digest) {
        if !found.contains(&digest) {
            found.push(digest);
        }
    }
    found
}

/// No more of a registry's words is shown, in characters.
const MAX_MESSAGE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let mut refusal = Refusal {
            status,
            reason: "",
            code: None,
            message: String::new(),
            named: Vec::new(),
            retry_after: None,
            login: Login::Anonymous,
        };
        refusal.read_body(body.as_bytes(), &["hunter2", ""]);
        refusal
    }

    #[test]
    fn error_bodies_are_read_in_every_shape() {
        for (body, code, message) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no","detail":null}]}"#,
                Some("DENIED"),
                "no",
            ),
            (
                r#"{"errors":[{"code":"X","message":"m","detail":{"a":1}}]}"#,
                Some("X"),
                r#"m: {"a":1}"#,
            ),
            (
                r#"{"errors":[{"status":404,"message":"gone"}]}"#,
                None,
                "gone",
            ),
            (
                r#"{"errors":null,"message":"slow down"}"#,
                None,
                "slow down",
            ),
            (
                r#"{"details":"invalid repository name"}"#,
                None,
                "invalid repository name",
            ),
            (
                r#"{"error":"invalid_grant","error_description":"who?"}"#,
                None,
                "who?",
            ),
            ("<html><h1>502</h1>", None, "(a web page)"),
            (
                "<html>\r\n<head><title>400 No required SSL certificate was sent</title></head>",
                None,
                "(a web page: 400 No required SSL certificate was sent)",
            ),
            ("plain text\n", None, "plain text"),
            ("", None, ""),
            (
                r#"{"message":"your hunter2 is wrong"}"#,
                None,
                "your *** is wrong",
            ),
        ] {
            let refusal = refusal(400, body);
            assert_eq!(
                (refusal.code.as_deref(), refusal.message.as_str()),
                (code, message),
                "{body}"
            );
        }
        assert_eq!(refusal(500, &"x".repeat(9999)).message.len(), MAX_MESSAGE);
        assert!(!refusal(500, "a\u{1b}]0;b\u{7}").message.contains('\u{1b}'));
    }

    #[test]
    fn digests_are_found_wherever_the_detail_has_them() {
        let a = Digest::of(crate::oci::Algorithm::Sha256, b"a");
        let b = Digest::of(crate::oci::Algorithm::Sha512, b"b");
        let body = format!(
            r#"{{"errors":[{{"code":"MANIFEST_BLOB_UNKNOWN","detail":{{"digest":"{a}"}}}},{{"detail":"blob:{a} {b}, {a}"}}]}}"#
        );
        assert_eq!(refusal(400, &body).named, [a, b]);
    }

    #[test]
    fn statuses_have_classes() {
        use Class::{NotFound, Permanent, Throttled, Transient, Unreachable};
        for (status, method, class) in [
            (404, Method::Get, NotFound),
            (404, Method::Post, Permanent),
            (401, Method::Get, Permanent),
            (403, Method::Put, Permanent),
            (413, Method::Put, Permanent),
            (409, Method::Put, Transient),
            (409, Method::Get, Permanent),
            (429, Method::Head, Throttled),
            (408, Method::Get, Transient),
            (500, Method::Put, Transient),
            (501, Method::Put, Permanent),
            (503, Method::Get, Transient),
            (522, Method::Get, Transient),
            (999, Method::Get, Permanent),
        ] {
            assert_eq!(
                refusal(status, "").class(method),
                class,
                "{method} {status}"
            );
        }
        let mut busy = refusal(503, "");
        busy.retry_after = Some(Duration::ZERO);
        assert_eq!(busy.class(Method::Get), Throttled);
        assert_eq!(Transport::new(Break::Refused).class(), Unreachable);
    }

    #[test]
    fn a_refusal_says_what_may_help() {
        let gone = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"not known"}]}"#;
        for (method, status, body, retry_after, text) in [
            (
                Method::Post,
                404,
                gone,
                None,
                "POST https://r.io/v2/p/x: 404: NAME_UNKNOWN: not known \
                 (the repository or its project may have to be created first)",
            ),
            (
                Method::Get,
                429,
                "slow down",
                Some(3600),
                "GET https://r.io/v2/p/x: 429: slow down (a pause of 3600 s is asked for; no `auth` entry fits)",
            ),
            (
                Method::Get,
                429,
                "",
                None,
                "GET https://r.io/v2/p/x: 429 (no `auth` entry fits)",
            ),
        ] {
            let mut refusal = refusal(status, body);
            refusal.retry_after = retry_after.map(Duration::from_secs);
            let error = RequestError {
                method,
                url: "https://r.io/v2/p/x".into(),
                failure: Failure::Status(Box::new(refusal)),
            };
            assert_eq!(error.to_string(), text);
        }
    }
}
