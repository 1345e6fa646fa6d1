//! Requests of the distribution API before they are sent. Not here: sending.

use std::fmt;

use super::auth::Scope;
use super::body::Outgoing;
use super::error::{Failure, RequestError};
use super::url::{Url, Verdict};

/// A request before it is sent.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) scope: Scope,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body<'a>,
    pub(super) is_patient: bool,
    pub(super) is_optional: bool,
    once: bool,
}

impl<'a> Request<'a> {
    /// A request without a body to a path of the registry.
    pub(super) fn new(method: Method, path: String, scope: Scope) -> Self {
        Self::build(method, Target::Path(path), scope)
    }

    /// A request to a URL that an answer named.
    pub(super) fn to(method: Method, verdict: Verdict, scope: Scope) -> Self {
        Self::build(method, Target::Judged(verdict), scope)
    }

    fn build(method: Method, target: Target, scope: Scope) -> Self {
        Self {
            method,
            target,
            scope,
            headers: Vec::new(),
            // Servers and proxies want a length even where there is nothing to send (E2).
            body: if method.is_write() && method != Method::Delete {
                Body::Bytes(&[])
            } else {
                Body::None
            },
            is_patient: false,
            is_optional: false,
            once: false,
        }
    }

    /// Adds a header. Accept and Range are all that a read has: redirects take every header along (M6).
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends these bytes.
    pub(super) fn bytes(mut self, bytes: &'a [u8]) -> Self {
        self.body = Body::Bytes(bytes);
        self
    }

    /// Sends what a reader gives.
    pub(super) fn stream(mut self, stream: Outgoing<'a>) -> Self {
        self.body = Body::Stream(stream);
        self
    }

    /// Waits longer for an answer: the registry has to put something together first (R12).
    pub(super) fn patiently(mut self) -> Self {
        self.is_patient = true;
        self
    }

    /// May be turned down by a 401 that asks for no login, as mounts are by some (E55).
    pub(super) fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    /// Is not repeated by itself: whoever sends it looks first what became of it (N10).
    pub(super) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// What became of the reader.
    pub(super) fn sent(&self) -> Option<&Outgoing<'a>> {
        match &self.body {
            Body::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// An error of this request.
    pub(super) fn failed(&self, url: &Url, failure: Failure) -> RequestError {
        RequestError {
            method: self.method,
            url: url.to_string(),
            failure,
        }
    }

    pub(super) fn is_repeatable(&self) -> bool {
        !self.once && self.body.is_untouched()
    }
}

/// Where a request goes.
pub(super) enum Target {
    Path(String),
    Judged(Verdict),
}

pub(super) enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    Stream(Outgoing<'a>),
}

impl Body<'_> {
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Stream(stream) => Some(stream.left()),
        }
    }

    pub(super) fn is_untouched(&self) -> bool {
        match self {
            Self::None | Self::Bytes(_) => true,
            Self::Stream(stream) => stream.first_read().is_none(),
        }
    }
}

/// The methods of the distribution API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Patch,
    Put,
    Delete,
}

impl Method {
    /// Whether it changes anything at the registry.
    pub(super) fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::Head)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
