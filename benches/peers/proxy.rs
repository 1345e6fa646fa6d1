//! A reverse proxy before a registry: it counts requests and bytes, and can delay the one and limit the other. Heads and
//! bodies pass as they are. Not here: TLS, HTTP/2, pipelining, and what the counts mean.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::measure::pause;

/// How much is moved by one pair of calls to the system: enough that the registry and its client have nearly all of the
/// time.
const CHUNK: usize = 256 << 10;

/// What passed a proxy.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    /// Requests by what they are about.
    pub(crate) kinds: BTreeMap<Kind, u64>,
    /// Bytes in the bodies of answers.
    pub(crate) read: u64,
    /// Bytes in the bodies of requests.
    pub(crate) sent: u64,
    /// Manifests that were put by tag, and accepted.
    pub(crate) tagged: usize,
    /// How long requests were under way, from their first byte to the last of the answer, added up.
    pub(crate) busy: Duration,
}

impl Counts {
    /// How many requests.
    pub(crate) fn requests(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// How many requests of a kind.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// The sum with another proxy's.
    pub(crate) fn add(mut self, other: Self) -> Self {
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.read += other.read;
        self.sent += other.sent;
        self.tagged += other.tagged;
        self.busy += other.busy;
        self
    }
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    HeadManifest,
    GetManifest,
    PutManifest,
    HeadBlob,
    GetBlob,
    Mount,
    PostUpload,
    PatchUpload,
    PutUpload,
    Other,
}

impl Kind {
    fn of(method: &str, path: &str) -> Self {
        let upload = path.contains("/blobs/uploads/");
        match method {
            "HEAD" if path.contains("/manifests/") => Self::HeadManifest,
            "GET" if path.contains("/manifests/") => Self::GetManifest,
            "PUT" if path.contains("/manifests/") => Self::PutManifest,
            "POST" if upload && path.contains("mount=") => Self::Mount,
            "POST" if upload => Self::PostUpload,
            "PATCH" if upload => Self::PatchUpload,
            "PUT" if upload => Self::PutUpload,
            "HEAD" if path.contains("/blobs/") => Self::HeadBlob,
            "GET" if path.contains("/blobs/") && !upload => Self::GetBlob,
            _ => Self::Other,
        }
    }
}

/// A proxy that listens on this machine until the process ends.
pub(crate) struct Proxy {
    /// Where it listens, as a registry's name.
    pub(crate) address: String,
    shared: Arc<Shared>,
}

struct Shared {
    registry: String,
    /// Before every request.
    delay: Duration,
    /// Bytes a second in bodies of requests, of all connections together.
    rate: Option<u32>,
    counts: Mutex<Counts>,
    /// When the bytes that were let through so far are through at that rate.
    through: Mutex<Instant>,
}

impl Proxy {
    /// A proxy before the registry at this address.
    pub(crate) fn start(registry: &str, delay: Duration, rate: Option<u32>) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            registry: registry.to_owned(),
            delay,
            rate,
            counts: Mutex::default(),
            through: Mutex::new(Instant::now()),
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || {
                for client in listener.incoming().flatten() {
                    let shared = Arc::clone(&accepting);
                    // A connection that cannot be served is closed, and its client says so.
                    drop(
                        thread::Builder::new()
                            .name("connection".to_owned())
                            .spawn(move || shared.serve(client)),
                    );
                }
            })?;
        Ok(Self { address, shared })
    }

    /// What passed since the last [`reset`](Self::reset).
    pub(crate) fn counts(&self) -> Counts {
        self.shared.counts().clone()
    }

    /// Counts from zero.
    pub(crate) fn reset(&self) {
        *self.shared.counts() = Counts::default();
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection of a client, and one to the registry for it.
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let registry = TcpStream::connect(&self.registry)?;
        for stream in [&client, &registry] {
            stream.set_nodelay(true)?;
        }
        let mut client = BufReader::with_capacity(CHUNK, client);
        let mut registry = BufReader::with_capacity(CHUNK, registry);
        if !client
            .fill_buf()?
            .first()
            .is_some_and(u8::is_ascii_uppercase)
        {
            // Somebody tries TLS first: the answer is what a registry without it says.
            return client
                .get_mut()
                .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        }
        while let Some(request) = Head::read(&mut client)? {
            let began = Instant::now();
            let (method, path) = request.words();
            let kind = Kind::of(method, path);
            *self.counts().kinds.entry(kind).or_default() += 1;
            if !self.delay.is_zero() {
                pause(self.delay);
            }
            registry.get_mut().write_all(&request.bytes)?;
            // Who expects a 100 sends no body before it, and none at all if the answer is another one.
            let mut answer = None;
            if request.field("expect").is_some() {
                answer = Some(relay_head(&mut registry, &mut client)?);
            }
            if answer.as_ref().is_none_or(Head::is_interim) {
                let body = request.body(Framing::Length(0));
                copy(&mut client, registry.get_mut(), body, &|bytes| {
                    self.counts().sent += bytes;
                    self.keep_rate(bytes);
                })?;
                answer = None;
            }
            let mut answer = match answer {
                Some(answer) => answer,
                None => relay_head(&mut registry, &mut client)?,
            };
            while answer.is_interim() {
                answer = relay_head(&mut registry, &mut client)?;
            }
            if method != "HEAD" && !["204", "304"].contains(&answer.words().1) {
                let body = answer.body(Framing::ToEnd);
                copy(&mut registry, client.get_mut(), body, &|bytes| {
                    self.counts().read += bytes;
                })?;
            }
            let mut counts = self.counts();
            counts.busy += began.elapsed();
            if kind == Kind::PutManifest
                && answer.words().1.starts_with('2')
                && !path.contains("sha256:")
            {
                counts.tagged += 1;
            }
        }
        Ok(())
    }

    /// Waits until these bytes are through at the rate that is set.
    fn keep_rate(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let until = {
            let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
            let takes = Duration::from_secs(bytes) / rate;
            *through = (*through).max(Instant::now()) + takes;
            *through
        };
        pause(until.saturating_duration_since(Instant::now()));
    }
}

/// The first line and the fields of a request or an answer.
struct Head {
    bytes: Vec<u8>,
    text: String,
}

impl Head {
    /// The next one of a connection; `None` where it ends before one.
    fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            let line = stream.read_until(b'\n', &mut bytes)?;
            if line == 0 {
                return Ok(None);
            }
            if line <= 2 && bytes.len() > 2 {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Ok(Some(Self { bytes, text }));
            }
        }
    }

    /// The first two words: method and path, or version and status.
    fn words(&self) -> (&str, &str) {
        let mut words = self.text.split_whitespace();
        (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        )
    }

    fn is_interim(&self) -> bool {
        self.words().1.starts_with('1')
    }

    /// The value of a field, its name in lower case.
    fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// How the body ends; `unsaid` where the head does not say.
    fn body(&self, unsaid: Framing) -> Framing {
        if self.field("transfer-encoding").is_some() {
            return Framing::Size(0);
        }
        let length = self.field("content-length");
        length
            .and_then(|length| length.parse().ok())
            .map_or(unsaid, Framing::Length)
    }
}

/// Passes the next head of the registry on to its client.
fn relay_head(
    registry: &mut BufReader<TcpStream>,
    client: &mut BufReader<TcpStream>,
) -> io::Result<Head> {
    let head = Head::read(registry)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    client.get_mut().write_all(&head.bytes)?;
    Ok(head)
}

/// Where in a body the next byte is (RFC 9112, section 6).
#[derive(Clone, Copy)]
enum Framing {
    /// So many bytes are left, and it ends.
    Length(u64),
    /// It ends with the connection.
    ToEnd,
    /// In the line that gives a chunk's size; what it gave so far.
    Size(u64),
    /// The same, in an extension of the size.
    Extension(u64),
    /// In a chunk, or in the line end after it: so many bytes are left.
    Chunk(u64),
    /// In the trailer; how long its line is so far.
    Trailer(u64),
}

impl Framing {
    /// Goes on over `bytes`. Gives how many of them belong to the body, and how many are content.
    fn advance(&mut self, bytes: &[u8]) -> (usize, u64) {
        let mut content = 0;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && let Some(&byte) = rest.first()
            && !self.is_done()
        {
            let all = rest.len() as u64;
            let taken = match *self {
                Self::Length(left) => {
                    let taken = left.min(all);
                    content += taken;
                    *self = Self::Length(left - taken);
                    taken
                }
                Self::ToEnd => {
                    content += all;
                    all
                }
                Self::Chunk(left) => {
                    let taken = left.min(all);
                    content += taken.min(left.saturating_sub(2)); // two are the end of the line
                    *self = match left - taken {
                        0 => Self::Size(0),
                        left => Self::Chunk(left),
                    };
                    taken
                }
                Self::Size(size) | Self::Extension(size) if byte == b'\n' => {
                    *self = match size {
                        0 => Self::Trailer(0),
                        size => Self::Chunk(size + 2),
                    };
                    1
                }
                Self::Size(size) => {
                    *self = match char::from(byte).to_digit(16) {
                        Some(digit) => Self::Size(size * 16 + u64::from(digit)),
                        None => Self::Extension(size),
                    };
                    1
                }
                Self::Extension(_) => 1,
                Self::Trailer(length) => {
                    *self = match byte {
                        b'\n' if length <= 1 => Self::Length(0),
                        b'\n' => Self::Trailer(0),
                        _ => Self::Trailer(length + 1),
                    };
                    1
                }
            };
            at += usize::try_from(taken).unwrap_or(usize::MAX);
        }
        (at, content)
    }

    fn is_done(self) -> bool {
        matches!(self, Self::Length(0))
    }
}

/// Copies a body as it is; `passed` is told of each part of its content.
fn copy(
    from: &mut BufReader<TcpStream>,
    to: &mut TcpStream,
    mut body: Framing,
    passed: &dyn Fn(u64),
) -> io::Result<()> {
    while !body.is_done() {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return match body {
                Framing::ToEnd => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let (taken, content) = body.advance(bytes);
        to.write_all(bytes.get(..taken).unwrap_or_default())?;
        from.consume(taken);
        passed(content);
    }
    Ok(())
}
