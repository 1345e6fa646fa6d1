//! Blobs as they are read: whether one is there, and its bytes from an offset on. Not here: their digests, which the
//! stream checks, and uploads.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use super::body::Floor;
use super::client::Client;
use super::error::{Failure, RequestError};
use super::exchange::{Incoming, Response};
use super::hosts::Ability;
use super::rate::{Rate, piece};
use super::request::{Method, Request};
use super::transport::{Break, Transport};
use crate::oci::{Descriptor, Digest};
use crate::store::{Class, StoreError};

/// What a HEAD of a blob found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is there, with this length if the answer says one.
    Present(Option<u64>),
    /// It is not.
    Absent,
    /// The answer does not tell (protocol.md E38, E71).
    Unknown,
}

/// Asks whether a blob is there.
pub(super) fn head(client: &Client, digest: &Digest) -> Result<Found, RequestError> {
    let path = client.path(&format!("blobs/{digest}"));
    let response = client.send(&mut Request::new(Method::Head, path, client.scope()))?;
    match response.status {
        200..=299 => Ok(Found::Present(response.length())),
        404 => Ok(Found::Absent),
        status if is_passing(status) => Err(response.refuse()),
        _ => Ok(Found::Unknown),
    }
}

/// Whether a blob is there as it should be. Where the answer does not tell, it is not.
pub(super) fn is_there(client: &Client, descriptor: &Descriptor) -> Result<bool, RequestError> {
    Ok(match head(client, &descriptor.digest)? {
        Found::Present(length) => length.is_none_or(|length| length == descriptor.size),
        Found::Absent | Found::Unknown => false,
    })
}

/// Statuses to a question that say nothing about the answer to it: the same question is asked again later. 500 is not
/// one of them, since some targets answer every HEAD by it (H09).
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 499 | 502..=504 | 520..=524)
}

/// The bytes of a blob from `from` on.
pub(super) fn open(
    client: &Client,
    descriptor: &Descriptor,
    from: u64,
) -> Result<Box<dyn Read + Send>, StoreError> {
    if from >= descriptor.size {
        return Ok(Box::new(io::empty()));
    }
    let rate = client.registry.rates.bytes.clone();
    if from > 0 && client.registry.can(Ability::Ranges) {
        let mut response = get(client, descriptor, Some(from))?;
        let all = match response.status {
            206 if is_rest(&response, from, descriptor.size) => {
                let left = descriptor.size - from;
                return Ok(Box::new(BlobReader::new(
                    response.into_reader(),
                    left,
                    rate,
                )));
            }
            // Not what was asked for: then all of it, from the beginning (E41).
            206 => return whole(get(client, descriptor, None)?, descriptor, from, rate),
            416 => {
                response.discard();
                get(client, descriptor, None)?
            }
            _ => response,
        };
        let reader = whole(all, descriptor, from, rate)?;
        // The blob is as long as it should be, so the offset was good.
        client.registry.forgo(Ability::Ranges);
        return Ok(reader);
    }
    whole(get(client, descriptor, None)?, descriptor, from, rate)
}

/// The whole blob is coming; what we have already is read over.
fn whole(
    response: Response,
    descriptor: &Descriptor,
    from: u64,
    rate: Option<Arc<Rate>>,
) -> Result<Box<dyn Read + Send>, StoreError> {
    if response.status != 200 {
        return Err(response.refuse().into());
    }
    if let Some(length) = response
        .length()
        .filter(|&length| length != descriptor.size)
    {
        return Err(response
            .failed(Failure::Size {
                expected: descriptor.size,
                actual: length,
            })
            .into());
    }
    let mut reader = BlobReader::new(response.into_reader(), descriptor.size, rate);
    io::copy(&mut (&mut reader).take(from), &mut io::sink()).map_err(store_error)?;
    Ok(Box::new(reader))
}

fn get(
    client: &Client,
    descriptor: &Descriptor,
    from: Option<u64>,
) -> Result<Response, RequestError> {
    let ask = || {
        let path = client.path(&format!("blobs/{}", descriptor.digest));
        let request = Request::new(Method::Get, path, client.scope());
        client.send(&mut match from {
            Some(from) => request.header("range", format!("bytes={from}-")),
            None => request,
        })
    };
    let response = ask()?;
    // A signed URL that ran out: the registry gives a new one (E44).
    if matches!(response.status, 400 | 401 | 403) && !client.is_own(&response) {
        return ask();
    }
    Ok(response)
}

/// Whether a 206 is exactly the rest that was asked for.
fn is_rest(response: &Response, from: u64, size: u64) -> bool {
    let parse = || {
        let range = response
            .header("content-range")?
            .trim()
            .strip_prefix("bytes ")?;
        let (range, total) = range.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total_fits = total == "*" || total.parse() == Ok(size);
        Some(total_fits && first.parse() == Ok(from) && last.parse() == Ok(size - 1))
    };
    let length_fits = response.length().is_none_or(|length| length == size - from);
    parse() == Some(true) && length_fits
}

/// Gives exactly the bytes that are expected, not faster than the rate: fewer, more and too slowly are errors.
struct BlobReader {
    inner: Incoming,
    rate: Option<Arc<Rate>>,
    expected: u64,
    left: u64,
    floor: Floor,
}

impl BlobReader {
    fn new(inner: Incoming, expected: u64, rate: Option<Arc<Rate>>) -> Self {
        Self {
            inner,
            rate,
            expected,
            left: expected,
            floor: Floor::default(),
        }
    }

    fn wrong_size(&self, actual: u64) -> io::Error {
        self.inner.failed(Failure::Size {
            expected: self.expected,
            actual,
        })
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let buffer = piece(self.rate.as_deref(), self.left, buffer);
        if buffer.is_empty() {
            return Ok(0);
        }
        let started = Instant::now();
        let length = self.inner.read(buffer)?;
        if self.floor.is_missed(started.elapsed(), length) {
            return Err(self
                .inner
                .failed(Failure::Transport(Transport::new(Break::Slow))));
        }
        if length == 0 {
            return Err(self.wrong_size(self.expected - self.left));
        }
        if let Some(rate) = &self.rate
            && rate.take(length).is_err()
        {
            let interrupted = Transport::new(Break::Interrupted);
            return Err(self.inner.failed(Failure::Transport(interrupted)));
        }
        self.left -= length as u64;
        // The end is read as well, for only then the connection can be used again.
        if self.left == 0 && self.inner.read(&mut [0])? > 0 {
            return Err(self.wrong_size(self.expected + 1));
        }
        Ok(length)
    }
}

/// The error inside an error of [`Incoming`].
fn store_error(error: io::Error) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(error) => error,
        Err(error) => StoreError::new(Class::Transient, error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Reply, Seen, Server, descriptor};
    use super::*;
    use crate::oci::Repository;

    const CONTENT: &[u8] = b"0123456789";

    fn read(
        from: u64,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> (Result<Vec<u8>, StoreError>, Vec<String>) {
        let server = Server::start(move |seen| Some(answer(seen)));
        let mut bytes = Vec::new();
        let result = server
            .store("a/b")
            .blob(&descriptor(CONTENT), from)
            .and_then(|mut reader| reader.read_to_end(&mut bytes).map_err(store_error));
        (result.map(|_| bytes), server.requests())
    }

    fn whole_answer() -> Reply {
        Reply::new(200).body(CONTENT)
    }

    #[test]
    fn a_blob_is_read_from_any_offset_whatever_the_registry_makes_of_range() {
        let rest = |seen: &Seen| match seen.header("range") {
            Some("bytes=4-") => Reply::new(206)
                .header("content-range", "bytes 4-9/10")
                .body(&CONTENT[4..]),
            _ => whole_answer(),
        };
        assert_eq!(read(0, rest).0.unwrap(), CONTENT);
        assert_eq!(read(4, rest).0.unwrap(), &CONTENT[4..]);
        // Nothing left: nothing asked.
        let (bytes, requests) = read(10, rest);
        assert_eq!((bytes.unwrap().len(), requests.len()), (0, 0));
        // gitea and ferro send all of it.
        assert_eq!(read(4, |_| whole_answer()).0.unwrap(), &CONTENT[4..]);
        // ggcr takes closed ranges only; d2's 416 ends before its length.
        let refusing = |seen: &Seen| match seen.header("range") {
            Some(_) => Reply::new(416)
                .header("content-length", 99)
                .body("short")
                .close(),
            None => whole_answer(),
        };
        assert_eq!(read(4, refusing).0.unwrap(), &CONTENT[4..]);
    }

    #[test]
    fn a_host_that_serves_no_ranges_is_asked_for_one_once() {
        for (refusal, first) in [(200, 1), (416, 2)] {
            let server = Server::start(move |seen| {
                Some(match seen.header("range") {
                    Some(_) if refusal == 416 => Reply::new(416),
                    _ => whole_answer(),
                })
            });
            let registries = server.registries(None);
            for (repository, requests) in [("a/b", first), ("a/b", 1), ("c", 1)] {
                let before = server.requests().len();
                let repository = Repository::parse(repository).unwrap();
                let mut rest = Vec::new();
                let store = registries.store(&server.host, &repository);
                let mut reader = store.blob(&descriptor(CONTENT), 4).unwrap();
                reader.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, &CONTENT[4..]);
                assert_eq!(server.requests().len() - before, requests, "{refusal}");
            }
            let seen = server.seen();
            let ranged = seen.iter().filter(|seen| seen.header("range").is_some());
            assert_eq!(ranged.count(), 1, "{refusal}");
        }
    }

    #[test]
    fn what_says_nothing_about_ranges_changes_nothing() {
        // A wrong range, and a blob that is shorter here than its descriptor says.
        for (status, content_range, body) in [
            (206, "bytes 5-9/10", &CONTENT[5..]),
            (416, "bytes */3", &CONTENT[..3]),
        ] {
            let server = Server::start(move |seen| {
                Some(match seen.header("range") {
                    Some(_) => Reply::new(status).header("content-range", content_range),
                    None => Reply::new(200).body(body),
                })
            });
            let store = server.store("a/b");
            for _ in 0..2 {
                store.blob(&descriptor(CONTENT), 4).err();
            }
            let seen = server.seen();
            let ranged = seen.iter().filter(|seen| seen.header("range").is_some());
            assert_eq!(ranged.count(), 2, "{status}");
        }
    }

    #[test]
    fn a_range_that_was_not_asked_for_is_not_taken() {
        for (range, body) in [
            ("bytes 5-9/10", &CONTENT[5..]),
            ("bytes 4-8/10", &CONTENT[4..9]),
            ("bytes 4-9/11", &CONTENT[4..]),
            ("bytes 4-9", &CONTENT[4..]),
            ("bytes 4-9/10", &CONTENT[5..]),
        ] {
            let answer = move |seen: &Seen| match seen.header("range") {
                Some(_) => Reply::new(206).header("content-range", range).body(body),
                None => whole_answer(),
            };
            let (bytes, requests) = read(4, answer);
            assert_eq!(bytes.unwrap(), &CONTENT[4..], "{range}");
            assert_eq!(requests.len(), 2, "{range}");
        }
    }

    #[test]
    fn a_body_of_another_length_is_an_error() {
        let short = |_: &Seen| {
            Reply::new(200)
                .header("content-length", 10)
                .body("0123")
                .close()
        };
        let error = read(0, short).0.unwrap_err();
        assert_eq!(error.class, Class::Transient, "{error}");
        // Without a length only our own count sees it (M3, N23).
        for body in ["0123", "0123456789X"] {
            let answer = move |_: &Seen| Reply::new(200).without_length().body(body).close();
            let error = read(0, answer).0.unwrap_err();
            assert!(
                error.to_string().contains("10 bytes were expected"),
                "{error}"
            );
        }
        let announced = read(0, |_| Reply::new(200).body("0123456789X"))
            .0
            .unwrap_err();
        assert!(announced.to_string().contains("has 11"), "{announced}");
    }

    #[test]
    fn encoded_content_is_refused() {
        let error = read(0, |_| whole_answer().header("content-encoding", "gzip"))
            .0
            .unwrap_err();
        assert_eq!(error.class, Class::Permanent);
    }

    #[test]
    fn a_signed_url_that_ran_out_is_renewed_once() {
        let storage = Server::start(|seen| {
            Some(match seen.target.as_str() {
                "/good?sig=2" => whole_answer(),
                _ => Reply::new(403),
            })
        });
        let target = storage.host.clone();
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let (bytes, requests) = read(0, move |_| {
            let nth = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let place = ["old?sig=1", "good?sig=2"][nth];
            Reply::new(307).header("location", format!("http://{target}/{place}"))
        });
        assert_eq!(bytes.unwrap(), CONTENT);
        assert_eq!(requests.len(), 2);
    }
}
