//! A small HTTP server for the tests of this folder: it answers each request by a closure and keeps what it saw. Not
//! here: what registries do, which the integration tests' fake plays.

use std::fmt::{self, Write as _};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::credentials::{Credentials, Entry, Given, Proof};
use super::hosts::{Registries, lock};
use super::network::Reach;
use crate::oci::{Algorithm, Descriptor, Digest, Host, Repository};
use crate::secret::Secret;
use crate::store::Target;

type Answer = dyn Fn(&Seen) -> Option<Reply> + Send + Sync;

/// Listens on a loopback port until it is dropped.
pub(super) struct Server {
    pub(super) host: Host,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Box<Answer>,
    log: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    is_over: AtomicBool,
}

impl Server {
    /// `answer` is asked once a request. With `Expect: 100-continue` it is asked before the body too, and `None` then
    /// lets the body come.
    pub(super) fn start(answer: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            log: Mutex::default(),
            connections: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let server = Self {
            host: Host::parse(&address.to_string()).unwrap(),
            shared: shared.clone(),
        };
        thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming() {
                    if shared.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let shared = shared.clone();
                    thread::Builder::new()
                        .spawn(move || shared.serve(stream.unwrap()).ok())
                        .unwrap();
                }
            })
            .unwrap();
        server
    }

    /// A store of a repository here, without a login.
    pub(super) fn store(&self, repository: &str) -> Arc<dyn Target> {
        self.registries(None)
            .store(&self.host, &Repository::parse(repository).unwrap())
    }

    /// All stores here, signed in by a user `u` with this password, if any.
    pub(super) fn registries(&self, password: Option<&str>) -> Registries {
        let proof = |text: &str| Proof::Password("u".into(), Secret::new(text.into()));
        self.registries_by(password.map(|text| Given::Proof(proof(text))))
    }

    /// All stores here, with this login, if any.
    pub(super) fn registries_by(&self, login: Option<Given>) -> Registries {
        let entry = login.map(|login| Entry {
            key: self.host.to_string(),
            host: self.host.clone(),
            path: String::new(),
            login: Some(login),
            insecure: true,
        });
        let credentials = Credentials::new(entry.into_iter().collect(), Vec::new());
        Registries::new(credentials, 2, Reach::default())
    }

    /// The requests so far, as `METHOD target`, without the look whether TLS is spoken.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen()
            .iter()
            .map(|seen| format!("{} {}", seen.method, seen.target))
            .collect()
    }

    /// How many connections carried them.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How often it was looked whether TLS is spoken here.
    pub(super) fn tls_attempts(&self) -> usize {
        lock(&self.shared.log)
            .iter()
            .filter(|seen| seen.method == "TLS")
            .count()
    }

    /// The requests so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.log)
            .iter()
            .filter(|seen| seen.method != "TLS")
            .cloned()
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        TcpStream::connect(self.host.as_str()).ok();
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        let mut is_first = true;
        while let Some(mut seen) = read_head(&mut reader)? {
            if seen.method == "TLS" {
                lock(&self.log).push(seen);
                return writer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
            self.connections
                .fetch_add(usize::from(is_first), Ordering::Relaxed);
            is_first = false;
            if seen.header("expect").is_some() {
                if let Some(reply) = (self.answer)(&seen) {
                    lock(&self.log).push(seen);
                    return reply.write(&mut writer).map(|_| ());
                }
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let length = seen
                .header("content-length")
                .map_or(0, |text| text.parse().unwrap());
            let read = (&mut reader).take(length).read_to_end(&mut seen.body);
            seen.is_complete = seen.body.len() as u64 == length;
            let is_complete = seen.is_complete;
            lock(&self.log).push(seen.clone());
            if read.is_err() || !is_complete {
                return Ok(());
            }
            let reply = (self.answer)(&seen).unwrap_or(Reply::new(404));
            if !reply.write_to(&mut writer, seen.method == "HEAD")? {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Seen>> {
    let mut seen = Seen::default();
    if reader.fill_buf()?.first() == Some(&0x16) {
        seen.method = "TLS".into();
        return Ok(Some(seen));
    }
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    seen.method = words.next().unwrap().into();
    seen.target = words.next().unwrap().into();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok(Some(seen));
        };
        seen.headers
            .push((name.to_ascii_lowercase(), value.trim().into()));
    }
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The whole body has come.
    pub(super) is_complete: bool,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// `METHOD target`, to be matched.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What is answered.
pub(super) struct Reply {
    head: String,
    body: Vec<u8>,
    has_length: bool,
    closes: bool,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            head: format!("HTTP/1.1 {status} X\r\n"),
            body: Vec::new(),
            has_length: false,
            closes: false,
        }
    }

    pub(super) fn status(&self) -> String {
        self.head.lines().next().unwrap_or_default().to_owned()
    }

    /// Closes the connection without a word.
    pub(super) fn nothing() -> Self {
        Self {
            head: String::new(),
            closes: true,
            ..Self::new(0)
        }
    }

    pub(super) fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.has_length |= name == "content-length";
        write!(self.head, "{name}: {value}\r\n").unwrap();
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Says nothing about its length: the end of the connection is the end of the body.
    pub(super) fn without_length(mut self) -> Self {
        self.has_length = true;
        self.close()
    }

    /// Closes the connection after the answer.
    pub(super) fn close(mut self) -> Self {
        self.closes = true;
        self
    }

    fn write(self, stream: &mut TcpStream) -> io::Result<bool> {
        self.write_to(stream, false)
    }

    fn write_to(mut self, stream: &mut TcpStream, is_head: bool) -> io::Result<bool> {
        if self.head.is_empty() {
            return Ok(false);
        }
        if !self.has_length {
            let length = self.body.len();
            self = self.header("content-length", length);
        }
        stream.write_all(format!("{}\r\n", self.head).as_bytes())?;
        if !is_head {
            stream.write_all(&self.body)?;
        }
        Ok(!self.closes)
    }
}

/// A descriptor of these bytes.
pub(super) fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: "application/octet-stream".into(),
        digest: Digest::of(Algorithm::Sha256, bytes),
        size: bytes.len() as u64,
    }
}
