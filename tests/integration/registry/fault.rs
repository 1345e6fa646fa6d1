//! Faults of a fake registry: on which request, and what goes wrong. Not here: doing it (`server`).

use std::time::Duration;

use crossbeam_channel::Receiver;

use super::history::{Kind, Request};

/// A rule that makes some requests go wrong. It is matched against requests that the registry lets in: not against
/// those that it answers 401 by itself.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    kind: Option<Kind>,
    repository: Option<String>,
    reference: Option<String>,
    nth: Nth,
    act: Act,
    /// How many requests it has met.
    met: usize,
    /// How many times it acted.
    acted: usize,
}

/// Which of the requests that a rule meets it acts on, counted from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Nth {
    Only(usize),
    UpTo(usize),
    From(usize),
    /// Every so many requests.
    Every(usize),
    Always,
}

impl Nth {
    fn holds(self, number: usize) -> bool {
        match self {
            Self::Only(n) => number == n,
            Self::UpTo(n) => number <= n,
            Self::From(n) => number >= n,
            Self::Every(n) => number.is_multiple_of(n),
            Self::Always => true,
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// This answer, and nothing is done. A 2xx is a lie that the invariants take into account.
    Status(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The request is done, then this status is answered.
    CommitThenStatus(u16),
    /// The request is done, then the connection ends without an answer.
    CommitThenClose(End),
    /// The connection ends without an answer, and nothing is done.
    CutBefore(End),
    /// The connection ends when this many bytes of the request's body have come.
    CutUpload(usize),
    /// The connection ends when this many bytes of the answer's body have gone.
    CutBody(usize, End),
    /// The connection ends when this many bytes of the answer's head have gone.
    CutHead(usize),
    /// This status at once, without reading the request's body, then the connection ends.
    RefuseBody(u16),
    /// The request's body is never read.
    NoRead,
    /// The request's body is read so many bytes at a time, with a pause before each.
    ReadSlowly(usize, Duration),
    /// The answer begins later.
    Delay(Duration),
    /// The request is done when the other end of this channel is dropped.
    Hold(Receiver<()>),
    /// There is never an answer, and the connection stays.
    Stall,
    /// The answer's body stops after this many bytes, and the connection stays.
    StallBody(usize),
    /// The answer's body stops after this many bytes, until the other end of this channel is dropped.
    HoldBody(usize, Receiver<()>),
    /// The answer goes out so many bytes at a time, with a pause between them.
    Drip(usize, Duration),
    /// The answer's head does so, and its body follows at once.
    DripHead(usize, Duration),
    /// One bit of this byte of the answer's body is wrong.
    Flip(usize),
    /// The answer's body lacks so many bytes at its end, and Content-Length agrees.
    Shorten(usize),
    /// The answer's body has so many bytes more at its end, and Content-Length agrees.
    Lengthen(usize),
    SetHeader(&'static str, String),
    RemoveHeader(&'static str),
    /// All upload sessions are gone before the request is done.
    LoseSessions,
    /// All tokens are invalid, this request's too.
    ExpireTokens,
    /// A tag names another manifest before the request is done: repository, tag, digest.
    MoveTag(String, String, String),
    /// A blob or manifest is gone before the request is done: repository, digest.
    Gc(String, String),
    /// The request is sent elsewhere.
    Redirect(u16, String),
    /// These bytes in place of an answer, then the connection ends.
    Raw(Vec<u8>),
    /// What this makes of the login that the request shows: its Authorization, or its form.
    Repeat(fn(&str) -> Act),
}

impl Act {
    /// A status with an empty body.
    pub(crate) fn status(status: u16) -> Self {
        Self::Status(status, Vec::new(), Vec::new())
    }

    /// 429 with a wait in seconds.
    pub(crate) fn throttle(seconds: u32) -> Self {
        let header = ("Retry-After", seconds.to_string());
        Self::Status(429, vec![header], Vec::new())
    }
}

impl Fault {
    /// A fault of every request of this kind.
    pub(crate) fn on(kind: Kind, act: Act) -> Self {
        Self {
            kind: Some(kind),
            ..Self::on_any(act)
        }
    }

    /// A fault of every request.
    pub(crate) fn on_any(act: Act) -> Self {
        Self {
            kind: None,
            repository: None,
            reference: None,
            nth: Nth::Always,
            act,
            met: 0,
            acted: 0,
        }
    }

    /// Only in this repository.
    pub(crate) fn in_repository(mut self, repository: &str) -> Self {
        self.repository = Some(repository.to_string());
        self
    }

    /// Only for this tag, digest or session; of an upload also for the digest in its query.
    pub(crate) fn of(mut self, reference: &str) -> Self {
        self.reference = Some(reference.to_string());
        self
    }

    /// Only these of the requests that would be met.
    pub(crate) fn nth(mut self, nth: Nth) -> Self {
        self.nth = nth;
        self
    }

    pub(crate) fn acted(&self) -> usize {
        self.acted
    }

    /// The act, if the rule acts on this request. Counts it.
    pub(super) fn meet(&mut self, request: &Request) -> Option<Act> {
        let digest = ["digest", "mount"].map(|name| request.head.parameter(name));
        let is_met = self.kind.is_none_or(|kind| kind == request.kind)
            && self
                .repository
                .as_ref()
                .is_none_or(|repository| *repository == request.repository)
            && self.reference.as_ref().is_none_or(|reference| {
                *reference == request.reference || digest.contains(&Some(reference))
            });
        if !is_met {
            return None;
        }
        self.met += 1;
        if !self.nth.holds(self.met) {
            return None;
        }
        self.acted += 1;
        Some(self.act.clone())
    }
}
