//! The fake registry as a server: its threads, and the way of one request through authorisation, faults, the
//! registry itself, and the history. Not here: what the answers are (`pull`, `push`, `auth`).

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::auth::{Guard, TokenServer};
use super::fault::{Act, End, Fault};
use super::habit::Habit;
use super::history::{Entry, History, Kind, Request, next_moment};
use super::http::{Answer, Body, Connection};
use super::pull;
use super::push::Writing;
use super::state::State;

/// Everything that the threads of one registry share.
pub(super) struct Shared {
    pub(super) addr: String,
    pub(super) habit: Habit,
    pub(super) is_gullible: bool,
    /// It serves the blobs of another registry to those that show no credentials.
    pub(super) is_storage: bool,
    pub(super) guard: Guard,
    pub(super) token_server: Option<Arc<TokenServer>>,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) history: History,
    pub(super) faults: Mutex<Vec<Fault>>,
    /// Where blobs are redirected to.
    pub(super) storage: Mutex<Option<String>>,
    /// What should never have been asked.
    pub(super) unexpected: Mutex<Vec<String>>,
    pub(super) connections: Connections,
    pub(super) stop: Stop,
}

/// The open connections, and how many there have been.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<BTreeMap<u64, TcpStream>>,
    pub(super) accepted: AtomicU64,
    pub(super) peak: AtomicUsize,
    requests: AtomicU64,
}

/// Tells all threads to end.
#[derive(Default)]
pub(super) struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(super) fn set(&self) {
        *lock(&self.is_set) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *lock(&self.is_set)
    }

    /// Lets time pass, but no longer than the registry lives.
    fn pause(&self, time: Duration) {
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.is_set), time, |is_set| !*is_set);
        drop(waited);
    }
}

/// A test that panics while it holds a lock has failed already.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread that nobody waits for.
pub(super) fn spawn(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().spawn(work).expect("no thread");
}

/// Accepts connections until the registry stops.
pub(super) fn listen(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut threads = Vec::new();
    for stream in listener.incoming() {
        if shared.stop.is_set() {
            break;
        }
        let Ok(stream) = stream else { continue };
        let number = shared.connections.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        if number > MAX_CONNECTIONS {
            shared.blame("too many connections");
            break;
        }
        let shared = Arc::clone(shared);
        let name = format!("{} #{number}", shared.addr);
        let serve = move || shared.serve(stream, number);
        if let Ok(thread) = thread::Builder::new().name(name).spawn(serve) {
            threads.push(thread);
        }
    }
    for stream in lock(&shared.connections.open).values() {
        // It may have ended by itself.
        drop(stream.shutdown(Shutdown::Both));
    }
    for thread in threads {
        if thread.join().is_err() {
            shared.blame("a thread of the fake registry panicked");
        }
    }
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Keep,
    /// End it so that the peer reads the answer.
    Close,
    /// End it at this very byte.
    Cut,
    Reset,
}

impl From<End> for After {
    fn from(end: End) -> Self {
        match end {
            End::Fin => Self::Cut,
            End::Reset => Self::Reset,
        }
    }
}

impl Shared {
    /// Remembers something that fails the test.
    pub(super) fn blame(&self, what: &str) {
        lock(&self.unexpected).push(format!("{}: {what}", self.addr));
    }

    fn serve(&self, stream: TcpStream, number: u64) {
        if let Ok(copy) = stream.try_clone() {
            let mut open = lock(&self.connections.open);
            open.insert(number, copy);
            self.connections
                .peak
                .fetch_max(open.len(), Ordering::SeqCst);
        }
        // The copy is a second handle of the socket, which would keep it from closing.
        let forget = || lock(&self.connections.open).remove(&number);
        let Ok(mut connection) = Connection::new(stream) else {
            drop(forget());
            return;
        };
        let after = loop {
            if self.stop.is_set() {
                break After::Cut;
            }
            let head = match connection.read_head() {
                Ok(Some(head)) => head,
                // A client that tries TLS first is told at once that there is none, as Go's server does.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    drop(connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
                    break After::Close;
                }
                Ok(None) | Err(_) => break After::Cut,
            };
            if self.connections.requests.fetch_add(1, Ordering::SeqCst) > MAX_REQUESTS {
                self.blame("too many requests");
                break After::Reset;
            }
            let request = Request::new(head);
            let mut entry = Entry::new(&request);
            self.history.note(&entry);
            let after = self.converse(&mut connection, &request, &mut entry);
            if entry.ended == 0 {
                entry.ended = next_moment();
            }
            self.history.note(&entry);
            match after {
                Ok(After::Keep) => {}
                Ok(after) => break after,
                Err(_) => break After::Cut,
            }
        };
        drop(forget());
        match after {
            After::Keep | After::Cut => connection.cut(),
            After::Close => connection.close(),
            After::Reset => connection.reset(),
        }
    }

    /// Takes one request to its answer.
    fn converse(
        &self,
        connection: &mut Connection,
        request: &Request,
        entry: &mut Entry,
    ) -> io::Result<After> {
        if let Some(mut refusal) = self.refuse(request) {
            entry.is_challenged = true;
            if request.head.has_body() {
                if self.habit.refuses_early {
                    refusal.closes = true;
                } else {
                    entry.bytes_in = connection.read_unasked_body(&request.head).bytes.len();
                }
            }
            return self.reply(connection, request, entry, refusal, &[]);
        }
        let acts: Vec<Act> = lock(&self.faults)
            .iter_mut()
            .filter_map(|fault| fault.meet(request))
            .collect();
        entry.has_fault = !acts.is_empty();

        if let Some(after) = self.spoil_body(connection, request, entry, &acts)? {
            return Ok(after);
        }
        let pace = acts.iter().find_map(|act| match act {
            Act::ReadSlowly(size, every) => Some((*size, *every)),
            _ => None,
        });
        let body = match pace {
            Some((size, every)) => {
                connection.read_body_by(&request.head, size, || self.stop.pause(every))
            }
            None => connection.read_body(&request.head),
        };
        entry.bytes_in = body.bytes.len();
        if request.kind == Kind::Token {
            entry.form = String::from_utf8_lossy(&body.bytes).into_owned();
        }
        let repeat = |act| match act {
            Act::Repeat(make) => make(entry.authorization.as_ref().unwrap_or(&entry.form)),
            act => act,
        };
        let acts: Vec<Act> = acts.into_iter().map(repeat).collect();
        if let Some(refusal) = self.disturb(request, &acts) {
            entry.is_challenged = true;
            return self.reply(connection, request, entry, refusal, &[]);
        }
        if let Some(after) = self.replace_answer(connection, request, entry, &acts)? {
            return Ok(after);
        }
        let Some(answer) = self.answer(request, body, entry) else {
            return Ok(After::Cut);
        };
        for act in &acts {
            match act {
                Act::CommitThenClose(end) => {
                    entry.status = answer.status;
                    return Ok((*end).into());
                }
                Act::CommitThenStatus(status) => {
                    let answer = Answer::error(*status, "UNKNOWN", "committed all the same");
                    return self.reply(connection, request, entry, answer, &[]);
                }
                _ => {}
            }
        }
        self.reply(connection, request, entry, answer, &acts)
    }

    /// The faults that do not let a request's body come in. `None` where there are none.
    fn spoil_body(
        &self,
        connection: &mut Connection,
        request: &Request,
        entry: &mut Entry,
        acts: &[Act],
    ) -> io::Result<Option<After>> {
        for act in acts {
            match act {
                Act::RefuseBody(status) => {
                    let answer = Answer::error(*status, "UNKNOWN", "refused");
                    self.reply(connection, request, entry, answer, &[])?;
                    // A body on its way would be reset anyway; one that waits for leave is not.
                    return Ok(Some(if request.head.expects_continue() {
                        After::Close
                    } else {
                        After::Reset
                    }));
                }
                Act::NoRead => {
                    self.stop.pause(FOREVER);
                    return Ok(Some(After::Reset));
                }
                Act::CutUpload(at) => {
                    let body = connection.read_part(&request.head, *at);
                    entry.bytes_in = body.bytes.len();
                    // Nobody is there for an answer.
                    drop(self.answer(request, body, entry));
                    return Ok(Some(After::Reset));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The faults that answer, or do not, in the registry's place. `None` where there are none.
    fn replace_answer(
        &self,
        connection: &mut Connection,
        request: &Request,
        entry: &mut Entry,
        acts: &[Act],
    ) -> io::Result<Option<After>> {
        for act in acts {
            let answer = match act {
                Act::Delay(time) => {
                    self.stop.pause(*time);
                    continue;
                }
                Act::Hold(until) => {
                    assert!(until.recv().is_err(), "nothing goes through it");
                    continue;
                }
                Act::Stall => {
                    connection.wait_for_end();
                    return Ok(Some(After::Cut));
                }
                Act::CutBefore(end) => return Ok(Some((*end).into())),
                Act::Raw(bytes) => {
                    connection.write(bytes)?;
                    return Ok(Some(After::Close));
                }
                Act::Redirect(status, to) => Answer::new(*status).header("Location", to),
                Act::Status(status, headers, body) => {
                    if let (200..300, Some(digest)) = (*status, &entry.digest) {
                        let part = (request.repository.clone(), digest.clone());
                        lock(&self.state).doubtful.insert(part);
                    }
                    let answer = Answer::new(*status).body(Arc::new(body.clone()));
                    let headers = headers.iter();
                    headers.fold(answer, |answer, (name, value)| answer.header(name, value))
                }
                _ => continue,
            };
            return self
                .reply(connection, request, entry, answer, &[])
                .map(Some);
        }
        Ok(None)
    }

    fn refuse(&self, request: &Request) -> Option<Answer> {
        if self.is_storage {
            // Storage refuses requests with a second kind of authorisation (E43).
            let authorization = request.head.header("authorization")?;
            self.blame(&format!("storage was sent {authorization}"));
            return Some(Answer::new(400));
        }
        if request.kind == Kind::Token {
            return None;
        }
        self.guard.refuse(request, &self.habit)
    }

    /// Does what faults do to the state before a request. An answer where the request is not let in any more.
    fn disturb(&self, request: &Request, acts: &[Act]) -> Option<Answer> {
        let mut state = lock(&self.state);
        for act in acts {
            match act {
                Act::LoseSessions => state.sessions.clear(),
                Act::MoveTag(repository, tag, digest) => state.put_tag(repository, tag, digest),
                Act::Gc(repository, digest) => state.remove(repository, digest),
                Act::ExpireTokens => {
                    if let Guard::Bearer(server) = &self.guard {
                        server.expire_all();
                        return self.refuse(request);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// What the registry itself answers; `None` where the body broke off.
    fn answer(&self, request: &Request, body: Body, entry: &mut Entry) -> Option<Answer> {
        let mut state = lock(&self.state);
        let mut writing = Writing {
            habit: &self.habit,
            is_gullible: self.is_gullible,
            addr: &self.addr,
            state: &mut state,
        };
        match request.kind {
            Kind::Ping => Some(Answer::json(200, &serde_json::json!({}))),
            Kind::Token => match &self.token_server {
                Some(server) => Some(server.give(request, &body, &self.habit)),
                None => Some(self.unexpected(request)),
            },
            Kind::Catalog => Some(pull::catalog(&self.habit, &self.addr, &state, request)),
            Kind::TagsList => Some(pull::tags(&self.habit, &self.addr, &state, request)),
            Kind::Referrers => Some(pull::referrers(&self.habit, &state, request)),
            Kind::ManifestHead | Kind::ManifestGet => {
                let answer = pull::manifest(&self.habit, &state, request);
                let mut headers = answer.headers.iter();
                let digest = headers.find(|(name, _)| name == "Docker-Content-Digest");
                if let Some((_, digest)) = digest {
                    entry.digest = Some(digest.clone());
                }
                Some(answer)
            }
            Kind::ManifestPut => writing.manifest(request, body, entry),
            Kind::BlobHead | Kind::BlobGet => {
                let storage = lock(&self.storage).clone();
                let has_blob = state
                    .blob(&request.repository, &request.reference)
                    .is_some();
                match storage.filter(|_| has_blob) {
                    Some(storage) => {
                        let path = &request.head.path;
                        let location = format!("http://{storage}/storage{path}?X-Signature=abc");
                        Some(Answer::new(307).header("Location", location))
                    }
                    None => Some(pull::blob(&self.habit, &state, request)),
                }
            }
            Kind::UploadPost
            | Kind::UploadPatch
            | Kind::UploadPut
            | Kind::UploadGet
            | Kind::UploadDelete => writing.upload(request, &body, entry),
            Kind::Other => Some(self.unexpected(request)),
        }
    }

    fn unexpected(&self, request: &Request) -> Answer {
        let head = &request.head;
        self.blame(&format!("unexpected {} {}", head.method, head.target));
        Answer::error(404, "UNSUPPORTED", serde_json::Value::Null)
    }

    /// Writes an answer as faults want it. It is in the history before the peer can have read it.
    fn reply(
        &self,
        connection: &mut Connection,
        request: &Request,
        entry: &mut Entry,
        mut answer: Answer,
        acts: &[Act],
    ) -> io::Result<After> {
        answer.closes |=
            !self.habit.keeps_connections || request.head.header("connection") == Some("close");
        edit_body(&mut answer, acts);
        answer.seal();
        let mut end = None;
        let mut stalls = false;
        let (mut cut_head, mut head_pace) = (None, None);
        let (mut pace, mut hold) = (None, None);
        for act in acts {
            match act {
                Act::SetHeader(name, value) => answer.set_header(name, value),
                Act::RemoveHeader(name) => answer.remove_header(name),
                Act::CutHead(at) => cut_head = Some(*at),
                Act::DripHead(bytes, every) => head_pace = Some((*bytes, *every)),
                Act::CutBody(at, how) => {
                    truncate(&mut answer, *at);
                    end = Some((*how).into());
                }
                Act::StallBody(at) => {
                    truncate(&mut answer, *at);
                    stalls = true;
                }
                Act::HoldBody(at, until) => hold = Some((*at, until)),
                Act::Drip(bytes, every) => pace = Some((*bytes, *every)),
                _ => {}
            }
        }
        let is_ended_by_close = !answer.has_header("content-length") && answer.status != 204;
        answer.closes |= is_ended_by_close;

        entry.status = answer.status;
        entry.bytes_out = if request.is_head() {
            0
        } else {
            answer.body.len()
        };
        entry.ended = next_moment();
        self.history.note(entry);

        if let Some(at) = cut_head {
            entry.bytes_out = 0;
            let head = answer.head();
            connection.write(&head.as_bytes()[..at.min(head.len())])?;
            return Ok(After::Cut);
        }
        if let Some(pace) = head_pace {
            self.drip(connection, answer.head().as_bytes(), pace)?;
            connection.write(&answer.body)?;
        } else if let Some((at, hold)) = hold {
            connection.write(answer.head().as_bytes())?;
            let (begin, rest) = answer.body.split_at(at.min(answer.body.len()));
            connection.write(begin)?;
            assert!(hold.recv().is_err(), "nothing goes through it");
            connection.write(rest)?;
        } else if let Some(pace) = pace.filter(|_| !request.is_head()) {
            connection.write(answer.head().as_bytes())?;
            self.drip(connection, &answer.body, pace)?;
        } else {
            connection.write_answer(&answer, request.is_head())?;
        }
        if stalls {
            connection.wait_for_end();
            return Ok(After::Cut);
        }
        Ok(end.unwrap_or(if answer.closes {
            After::Close
        } else {
            After::Keep
        }))
    }

    /// Writes so many bytes at a time, with a pause after each, as long as the registry lives.
    fn drip(
        &self,
        connection: &mut Connection,
        bytes: &[u8],
        (size, every): (usize, Duration),
    ) -> io::Result<()> {
        for part in bytes.chunks(size) {
            if self.stop.is_set() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            connection.write(part)?;
            self.stop.pause(every);
        }
        Ok(())
    }
}

/// Changes of a body that its Content-Length follows.
fn edit_body(answer: &mut Answer, acts: &[Act]) {
    for act in acts {
        let body = &mut answer.body;
        match act {
            Act::Flip(at) if !body.is_empty() => {
                let at = at % body.len();
                Arc::make_mut(body)[at] ^= 1;
            }
            Act::Shorten(bytes) => {
                let length = body.len().saturating_sub(*bytes);
                Arc::make_mut(body).truncate(length);
            }
            Act::Lengthen(bytes) => {
                let length = body.len() + bytes;
                Arc::make_mut(body).resize(length, 0);
            }
            _ => {}
        }
    }
}

fn truncate(answer: &mut Answer, at: usize) {
    Arc::make_mut(&mut answer.body).truncate(at);
}

const MAX_CONNECTIONS: u64 = 4096;
const MAX_REQUESTS: u64 = 200_000;
/// Longer than any test.
const FOREVER: Duration = Duration::from_mins(10);
