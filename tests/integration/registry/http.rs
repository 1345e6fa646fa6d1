//! One HTTP/1.1 connection of the fake registry, by hand: request heads and bodies in, answers out.
//! Not here: what a request means.
//!
//! The last byte of each request stays unread in the socket until the answer is out. A socket that is dropped with an
//! unread byte sends a reset, one that has been read to the end sends a FIN: so either end of a connection can be had
//! at any moment, with std alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// The request target as it came.
    pub(crate) target: String,
    /// The target's path, not decoded: nothing in a valid registry path needs encoding (protocol.md E20).
    pub(crate) path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    /// The whole head as text, for looking for secrets.
    pub(crate) text: String,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let bad = |what: String| io::Error::new(ErrorKind::InvalidData, what);
        request
            .parse(bytes)
            .map_err(|error| bad(error.to_string()))?;
        let target = request.path.unwrap_or_default().to_string();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(Self {
            method: request.method.unwrap_or_default().to_string(),
            path: path.to_string(),
            query: parse_query(query),
            headers: request
                .headers
                .iter()
                .map(|header| {
                    let value = String::from_utf8_lossy(header.value).into_owned();
                    (header.name.to_ascii_lowercase(), value)
                })
                .collect(),
            text: String::from_utf8_lossy(bytes).into_owned(),
            target,
        })
    }

    /// The first header of this lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The elements of all headers of this lower-case name, each a list with commas.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(known, _)| known == name);
        of_name
            .flat_map(|(_, value)| value.split(',').map(str::trim))
            .collect()
    }

    /// All values of a parameter of the query, decoded.
    pub(crate) fn parameters<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.query.iter().filter(move |(known, _)| known == name);
        of_name.map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The announced length of the body.
    pub(crate) fn length(&self) -> Option<usize> {
        self.header("content-length")?.trim().parse().ok()
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    pub(crate) fn has_body(&self) -> bool {
        self.is_chunked() || self.length().is_some_and(|length| length > 0)
    }

    pub(crate) fn expects_continue(&self) -> bool {
        self.header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }
}

/// A request's body, or as much of it as came before the connection broke.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_complete: bool,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Arc<Vec<u8>>,
    /// Close the connection afterwards.
    pub(crate) closes: bool,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Arc::default(),
            closes: false,
        }
    }

    /// An error as the distribution specification wants it (protocol.md E69).
    pub(crate) fn error(status: u16, code: &str, detail: impl Into<Value>) -> Self {
        Self::errors(status, code, [detail.into()])
    }

    /// The same with one entry a detail.
    pub(crate) fn errors(
        status: u16,
        code: &str,
        details: impl IntoIterator<Item = Value>,
    ) -> Self {
        let entry =
            |detail| json!({"code": code, "message": code.to_lowercase(), "detail": detail});
        let errors: Vec<Value> = details.into_iter().map(entry).collect();
        Self::json(status, &json!({ "errors": errors }))
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::new(status)
            .header("Content-Type", "application/json")
            .body(Arc::new(body.to_string().into_bytes()))
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Arc<Vec<u8>>) -> Self {
        self.body = body;
        self
    }

    /// Puts a header in place of all of its name.
    pub(crate) fn set_header(&mut self, name: &str, value: impl Into<String>) {
        self.remove_header(name);
        self.headers.push((name.to_string(), value.into()));
    }

    pub(crate) fn remove_header(&mut self, name: &str) {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    /// By any case of its name.
    pub(crate) fn has_header(&self, name: &str) -> bool {
        let mut names = self.headers.iter().map(|(known, _)| known);
        names.any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Adds the Content-Length of the body as it is now; edits of the body that come later leave it wrong.
    pub(crate) fn seal(&mut self) {
        if self.status != 204 && !self.has_header("content-length") {
            self.set_header("Content-Length", self.body.len().to_string());
        }
    }

    pub(crate) fn head(&self) -> String {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers: String = headers.collect();
        let close = if self.closes {
            "Connection: close\r\n"
        } else {
            ""
        };
        format!("HTTP/1.1 {} Answer\r\n{headers}{close}\r\n", self.status)
    }
}

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    /// The last byte of the request read last is still in the socket.
    holds_back: bool,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(READ_LIMIT))?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            holds_back: false,
        })
    }

    /// The next request's head; `None` where the peer has no more requests.
    pub(crate) fn read_head(&mut self) -> io::Result<Option<Head>> {
        self.take_last_byte()?;
        let mut head = Vec::new();
        let mut window = [0; 4096];
        while head.len() <= MAX_HEAD {
            let seen = self.stream.peek(&mut window)?;
            if seen == 0 {
                return if head.is_empty() {
                    Ok(None)
                } else {
                    Err(ErrorKind::UnexpectedEof.into())
                };
            }
            let before = head.len();
            head.extend_from_slice(&window[..seen]);
            if !head[0].is_ascii_uppercase() {
                return Err(io::Error::new(ErrorKind::InvalidData, "no HTTP"));
            }
            let Some(end) = find(&head, b"\r\n\r\n") else {
                self.stream.read_exact(&mut window[..seen])?;
                continue;
            };
            self.stream.read_exact(&mut window[..end - before - 1])?;
            self.holds_back = true;
            return Head::parse(&head[..end]).map(Some);
        }
        Err(io::Error::new(ErrorKind::InvalidData, "endless head"))
    }

    /// The body that belongs to a head. Says 100 Continue first where the head waits for it.
    pub(crate) fn read_body(&mut self, head: &Head) -> Body {
        if head.has_body() && head.expects_continue() && self.say_continue().is_err() {
            return Body::default();
        }
        self.read_unasked_body(head)
    }

    /// The same, so many bytes at a time with a pause before each, where the length is announced.
    pub(crate) fn read_body_by(&mut self, head: &Head, size: usize, pause: impl Fn()) -> Body {
        let mut body = Body::default();
        let mut missing = head.length().unwrap_or_default();
        let continues = !head.expects_continue() || self.say_continue().is_ok();
        let mut is_open = continues && self.take_last_byte().is_ok();
        while is_open && missing > size {
            pause();
            is_open = self.read_some(size, &mut body.bytes).is_ok();
            missing -= size;
        }
        body.is_complete =
            is_open && missing > 0 && self.read_held_back(missing, &mut body.bytes).is_ok();
        body
    }

    /// The same without a 100 Continue: a client that waits for one sends its body some time later.
    pub(crate) fn read_unasked_body(&mut self, head: &Head) -> Body {
        let mut bytes = Vec::new();
        let outcome = self.read_body_into(head, &mut bytes);
        Body {
            bytes,
            is_complete: outcome.is_ok(),
        }
    }

    fn say_continue(&mut self) -> io::Result<()> {
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    }

    fn read_body_into(&mut self, head: &Head, bytes: &mut Vec<u8>) -> io::Result<()> {
        if !head.has_body() {
            return Ok(());
        }
        if !head.is_chunked() {
            return self.read_held_back(head.length().unwrap_or_default(), bytes);
        }
        self.take_last_byte()?;
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                self.read_some(1, &mut line)?;
            }
            let size = String::from_utf8_lossy(&line);
            let size = size.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if size == 0 {
                // Trailers do not occur: what follows is the empty line.
                return self.read_held_back(2, &mut line);
            }
            self.read_some(size, bytes)?;
            self.read_some(2, &mut line)?;
        }
    }

    /// The first `count` bytes of a body, or a little less: its last byte stays in the socket.
    pub(crate) fn read_part(&mut self, head: &Head, count: usize) -> Body {
        let mut body = Body::default();
        let wanted = count.min(head.length().unwrap_or_default().saturating_sub(1));
        let continues = !head.expects_continue() || self.say_continue().is_ok();
        if continues && self.take_last_byte().is_ok() {
            // A connection that breaks here breaks a little earlier than planned.
            drop(self.read_some(wanted, &mut body.bytes));
            // What is unread must have come, or there is nothing to reset.
            drop(self.stream.peek(&mut [0]));
        }
        body
    }

    /// Reads `count` (at least one) bytes, and leaves the last of them in the socket.
    fn read_held_back(&mut self, count: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.take_last_byte()?;
        self.read_some(count - 1, bytes)?;
        let mut last = [0];
        if self.stream.peek(&mut last)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.push(last[0]);
        self.holds_back = true;
        Ok(())
    }

    fn read_some(&self, count: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let read = (&self.stream).take(count as u64).read_to_end(bytes)?;
        if read == count {
            Ok(())
        } else {
            Err(ErrorKind::UnexpectedEof.into())
        }
    }

    fn take_last_byte(&mut self) -> io::Result<()> {
        if self.holds_back {
            self.stream.read_exact(&mut [0])?;
            self.holds_back = false;
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes an answer's head and, but for HEAD requests, its body.
    pub(crate) fn write_answer(&mut self, answer: &Answer, to_head: bool) -> io::Result<()> {
        let mut bytes = answer.head().into_bytes();
        // Small answers go in one packet.
        if !to_head && answer.body.len() <= 16 * 1024 {
            bytes.extend_from_slice(&answer.body);
            return self.write(&bytes);
        }
        self.write(&bytes)?;
        if to_head {
            Ok(())
        } else {
            self.write(&answer.body)
        }
    }

    /// Ends the connection so that the peer reads all that was written: nothing of what it sent stays unread, up to
    /// what registries have been seen to take after a refusal (registries.md, "What follows" 7).
    pub(crate) fn close(mut self) {
        // All of this is for the peer's good: where it is gone already there is nothing to do.
        drop(self.take_last_byte());
        drop(self.stream.shutdown(Shutdown::Write));
        drop(self.stream.set_read_timeout(Some(LINGER)));
        drop(io::copy(&mut (&self.stream).take(4 << 20), &mut io::sink()));
    }

    /// Ends the connection with a FIN at this very byte.
    pub(crate) fn cut(mut self) {
        drop(self.take_last_byte());
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        drop(self.stream);
    }

    /// Waits until the peer has closed the connection or the registry stops, reading nothing else.
    pub(crate) fn wait_for_end(&mut self) {
        if self.take_last_byte().is_ok() && self.stream.set_read_timeout(None).is_ok() {
            drop(io::copy(&mut &self.stream, &mut io::sink()));
        }
    }
}

/// `k=v&k=v`, percent-decoded.
pub(crate) fn parse_query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The place just after the first `needle`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let at = bytes
        .windows(needle.len())
        .position(|window| window == needle)?;
    Some(at + needle.len())
}

const MAX_HEAD: usize = 64 * 1024;
const READ_LIMIT: Duration = Duration::from_secs(10);
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long a peer may be silent after the last answer.
const LINGER: Duration = Duration::from_secs(1);
