//! Requests written out by hand, one a connection: what the tests of the harness itself ask with, so that no code of
//! the program under test stands between them and the fake registry.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::FakeRegistry;
use crate::image::{Blob, Image};

/// What came back on a connection that was used once.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The connection ended as it should.
    pub(crate) is_whole: bool,
}

impl Reply {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}{body}", self.head);
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The path and query of the Location.
    pub(crate) fn location(&self) -> String {
        let location = self.header("location").expect("no location");
        let path = location.find("/v2/").expect("no path");
        location[path..].to_string()
    }
}

/// Sends one request with the headers of `head` (its first line included) and a body.
pub(crate) fn ask(addr: &str, head: &str, body: Option<&[u8]>) -> Reply {
    let mut stream = TcpStream::connect(addr).unwrap();
    let length = body.map_or(String::new(), |b| {
        format!("Content-Length: {}\r\n", b.len())
    });
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let headers = headers.lines().flat_map(|header| [header, "\r\n"]);
    let headers: String = headers.collect();
    let request =
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    // A server that answers early may not read this.
    drop(stream.write_all(body.unwrap_or_default()));
    let mut bytes = Vec::new();
    let is_whole = stream.read_to_end(&mut bytes).is_ok();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = bytes.split_at(end.map_or(0, |end| end + 4));
    let head = String::from_utf8_lossy(head).into_owned();
    Reply {
        status: head
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or_default(),
        body: body.to_vec(),
        head,
        is_whole,
    }
}

pub(crate) fn get(registry: &FakeRegistry, path: &str) -> Reply {
    ask(registry.addr(), &format!("GET {path}"), None)
}

pub(crate) fn post(registry: &FakeRegistry, path: &str) -> Reply {
    ask(registry.addr(), &format!("POST {path}"), Some(b""))
}

pub(crate) fn put_blob(
    registry: &FakeRegistry,
    location: &str,
    digest: &str,
    bytes: &[u8],
) -> Reply {
    let separator = if location.contains('?') { '&' } else { '?' };
    let head =
        format!("PUT {location}{separator}digest={digest}\nContent-Type: application/octet-stream");
    ask(registry.addr(), &head, Some(bytes))
}

pub(crate) fn put_manifest(
    registry: &FakeRegistry,
    repository: &str,
    reference: &str,
    image: &Image,
) -> Reply {
    let head = format!(
        "PUT /v2/{repository}/manifests/{reference}\nContent-Type: {}",
        image.media_type
    );
    ask(registry.addr(), &head, Some(&image.bytes))
}

pub(crate) fn upload(registry: &FakeRegistry, repository: &str, blob: &Blob) -> Reply {
    let location = post(registry, &format!("/v2/{repository}/blobs/uploads/"))
        .expect(202)
        .location();
    put_blob(registry, &location, &blob.digest, &blob.bytes)
}
